package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
)

// epoch is when every run starts, on the scheduler's clock.
func epoch() time.Time { return time.Unix(1_700_000_000, 0) }

// Weir is this project's admission.Scheduler. It knows of the engine what its
// answers show, or, where metrics is not 0, also what it publishes, as it was at
// most that long ago. o may be zero: the targets and the service level are the
// scenario's.
func Weir(o admission.Options, metrics time.Duration) Policy {
	name := "Weir, black box"
	if metrics > 0 {
		name = "Weir, engine metrics"
	}
	return Policy{Name: name, open: func(w *world) (gate, error) {
		o := o
		o.Targets = []admission.Target{{}}
		o.SLO = w.SLO
		if len(o.Secret) == 0 {
			o.Secret = []byte("the same in every run")
		}
		g := &weirGate{w: w, metrics: metrics, attempts: map[*admission.Item]*attempt{}}
		s, err := admission.NewScheduler(o, g.decided)
		g.scheduler = s
		return g, err
	}}
}

type weirGate struct {
	w         *world
	scheduler *admission.Scheduler
	metrics   time.Duration
	scraped   time.Duration
	attempts  map[*admission.Item]*attempt // that are not over
}

func (g *weirGate) now() time.Time { return epoch().Add(g.w.now) }

func (g *weirGate) submit(a *attempt) {
	r, c := a.req, a.req.client
	a.item = admission.NewItem(admission.Request{
		Caller: c.name, Weight: c.Weight, Class: c.Class, Kind: "chat",
		Input:  int64(max(1, math.Round(float64(r.input)*c.GuessInput))),
		Output: c.guess.tokens(c.GuessOutput),
		Ticket: r.ticket, Digest: digest(r),
	})
	g.attempts[a.item] = a
	g.scheduler.Submit(a.item, g.now())
}

func digest(r *request) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, r.id))
}

func (g *weirGate) decided(it *admission.Item) {
	a := g.attempts[it]
	if a == nil {
		return
	}
	if it.Target() >= 0 {
		g.w.send(a)
		return
	}
	delete(g.attempts, it)
	ticket := ""
	if a.req.client.Tickets {
		ticket = g.scheduler.Ticket(it, digest(a.req))
	}
	g.w.refuse(a, it.Refusal().RetryAfter, ticket)
}

func (g *weirGate) leave(a *attempt) {
	delete(g.attempts, a.item)
	g.scheduler.Cancel(a.item, g.now())
	if a.state == sent {
		g.scheduler.Done(a.item, admission.Left, g.now())
	}
}

func (g *weirGate) token(a *attempt, e Event) {
	now := g.now()
	if e.First {
		g.scheduler.FirstToken(a.item, now)
	} else {
		g.scheduler.Progress(a.item, 1, now)
	}
	if e.Finished {
		delete(g.attempts, a.item)
		g.scheduler.Settle(a.item, weir.Usage{Input: int64(a.req.input), Output: int64(a.req.output)})
		g.scheduler.Done(a.item, admission.OK, now)
	}
}

func (g *weirGate) tick() {
	g.scheduler.Tick(g.now())
	if g.metrics > 0 && g.w.now >= g.scraped+g.metrics {
		g.scraped = g.w.now
		e := g.w.engine
		g.scheduler.Engine(0, admission.EngineState{
			Running: e.Running(), Waiting: e.Waiting(), KVUsed: e.KVUsed(),
			KVTokens: int64(e.KVTokens()), MaxSeqs: e.MaxSeqs(), At: g.now(),
		}, g.now())
	}
}
