package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/inferweir/weir/admission"
)

// A client is one caller of a Caller's Count.
type client struct {
	Caller
	kind int // index in Scenario.Callers
	name string
	rate float64 // requests a second

	arrivals, retries *rand.Rand
	guess             guess
}

// guess is how long the caller's answers have been so far: what a gateway goes
// by that has seen nothing else of a request than its prompt.
type guess struct {
	mean float64
	seen bool
}

func (g *guess) learn(tokens int) {
	if !g.seen {
		g.mean, g.seen = float64(tokens), true
		return
	}
	g.mean += 0.05 * (float64(tokens) - g.mean)
}

// firstGuess is the length of an answer of a caller of whom nothing is known.
const firstGuess = 256

func (g *guess) tokens(factor float64) int64 {
	if !g.seen {
		return int64(max(1, firstGuess*factor))
	}
	return int64(max(1, math.Round(g.mean*factor)))
}

// request is what a client wants, in one attempt or several.
type request struct {
	client        *client
	id            uint64
	input, output int
	born          time.Duration
	first, last   time.Duration // of the attempt that got tokens
	tokens        int
	done          bool
	attempts      int
	refused       bool // at least once
	ticket        string
}

// good reports whether the service level holds for r, as far as can be seen: the
// first token came in time, and the others have so far.
func (r *request) good(slo admission.SLO, now time.Duration) bool {
	if r.tokens == 0 || r.first-r.born > slo.TTFT {
		return false
	}
	if r.done {
		return r.tokens == 1 || r.last-r.first <= time.Duration(r.tokens-1)*slo.TPOT
	}
	return now-r.first <= time.Duration(r.tokens+1)*slo.TPOT
}

// attempt is one call of a client: what the policy decides about.
type attempt struct {
	req   *request
	seq   Sequence
	state attemptState
	left  bool          // its client does not wait any more
	sent  time.Duration // to the engine
	last  time.Duration // its last token

	item *admission.Item // Weir's
}

type attemptState uint8

const (
	held attemptState = iota // by the policy
	sent
	over
)

// gate is a policy at work. Each attempt that it is given it hands to world.send
// or world.refuse, once, then or later.
type gate interface {
	submit(a *attempt)
	// leave tells that the client of a held or sent attempt has gone.
	leave(a *attempt)
	// token tells of each token of a sent attempt, the last one marked.
	token(a *attempt, e Event)
}

// ticker is a gate that has work to do as time passes.
type ticker interface{ tick() }

type eventKind uint8

const (
	arrives eventKind = iota
	tries
	loses // patience
	steps
	ticks
	slows
)

type event struct {
	at   time.Duration
	n    uint64 // order among events of one moment
	kind eventKind

	client  *client
	req     *request
	attempt *attempt
	factor  float64
}

// events is a heap: what comes first is in front.
type events []event

func (a *event) before(b *event) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	return a.n < b.n
}

func (e *events) push(x event) {
	q := append(*e, x)
	i := len(q) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !x.before(&q[parent]) {
			break
		}
		q[i] = q[parent]
		i = parent
	}
	q[i] = x
	*e = q
}

func (e *events) pop() event {
	q := *e
	first, last := q[0], q[len(q)-1]
	q[len(q)-1] = event{}
	q = q[:len(q)-1]
	*e = q
	if len(q) == 0 {
		return first
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= len(q) {
			break
		}
		if child+1 < len(q) && q[child+1].before(&q[child]) {
			child++
		}
		if !q[child].before(&last) {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = last
	return first
}

// world is one run: the clock, the engine, the clients, and a policy between.
type world struct {
	Scenario
	now    time.Duration
	end    time.Duration
	queue  events
	pushed uint64

	engine   *Engine
	gate     gate
	forsaken bool // the engine goes on for clients that left
	sent     map[*Sequence]*attempt

	clients  []*client
	requests []*request

	wasted   float64 // cost of complete answers that nobody waited for, in the measured time
	attempts int     // in the measured time
	refusals int
}

// tickEvery is how often a gate's tick is called.
const tickEvery = 10 * time.Millisecond

// drain is for how long a run goes on after the measured time, so that the last
// requests show how they fare.
const drain = 5 * time.Second

func newWorld(s Scenario) *world {
	w := &world{Scenario: s, engine: NewEngine(s.Engine), sent: map[*Sequence]*attempt{}}
	w.end = s.Warm + s.Length
	for kind, c := range s.Callers {
		for i := range c.Count {
			n := uint64(len(w.clients))
			name := c.Name
			if c.Count > 1 {
				name = fmt.Sprintf("%s-%d", c.Name, i+1)
			}
			w.clients = append(w.clients, &client{
				Caller: c, kind: kind, name: name,
				rate:     c.Load / float64(c.Count) * s.Capacity / (c.Input.Mean + 2*c.Output.Mean),
				arrivals: rand.New(rand.NewPCG(s.Seed, 2*n)),
				retries:  rand.New(rand.NewPCG(s.Seed, 2*n+1)),
			})
		}
	}
	for _, c := range w.clients {
		w.nextArrival(c, c.From)
	}
	for _, slow := range s.Slow {
		w.push(event{at: slow.From, kind: slows, factor: slow.Factor})
		w.push(event{at: slow.Until, kind: slows, factor: 1})
	}
	return w
}

func (w *world) push(e event) {
	w.pushed++
	e.n = w.pushed
	w.queue.push(e)
}

func (w *world) nextArrival(c *client, after time.Duration) {
	at := after + time.Duration(c.arrivals.ExpFloat64()/c.rate*float64(time.Second))
	if c.Until > 0 && at >= c.Until {
		return
	}
	w.push(event{at: at, kind: arrives, client: c})
}

// run plays the scenario to its end.
func (w *world) run() error {
	if _, ok := w.gate.(ticker); ok {
		w.push(event{kind: ticks})
	}
	for n := 0; len(w.queue) > 0; n++ {
		if n == maxEvents {
			return fmt.Errorf("sim: scenario %q: more than %d events by %v: want a shorter one or less load", w.Name, maxEvents, w.now)
		}
		e := w.queue.pop()
		if e.at > w.end+drain {
			break
		}
		w.now = e.at
		w.handle(e)
		if took := w.engine.Begin(); took > 0 {
			w.push(event{at: w.now + took, kind: steps})
		}
	}
	return nil
}

func (w *world) handle(e event) {
	switch e.kind {
	case arrives:
		w.arrive(e.client)
	case tries:
		w.try(e.req)
	case loses:
		w.lose(e.attempt)
	case steps:
		for _, t := range w.engine.End() {
			w.token(t)
		}
	case ticks:
		w.gate.(ticker).tick()
		w.push(event{at: w.now + tickEvery, kind: ticks})
	case slows:
		w.engine.Slow(e.factor)
	}
}

func (w *world) arrive(c *client) {
	r := &request{
		client: c, id: uint64(len(w.requests)), born: w.now,
		input: c.Input.draw(c.arrivals), output: c.Output.draw(c.arrivals),
	}
	w.requests = append(w.requests, r)
	w.nextArrival(c, w.now)
	w.try(r)
}

func (w *world) measured() bool { return w.now >= w.Warm && w.now < w.end }

func (w *world) try(r *request) {
	r.attempts++
	if w.measured() {
		w.attempts++
	}
	a := &attempt{req: r, seq: Sequence{Input: r.input, Output: r.output}}
	w.push(event{at: w.now + r.client.Patience, kind: loses, attempt: a})
	w.gate.submit(a)
}

// send gives a to the engine.
func (w *world) send(a *attempt) {
	a.state, a.sent = sent, w.now
	w.sent[&a.seq] = a
	if err := w.engine.Add(&a.seq); err != nil {
		a.state = over // Validate leaves no way to get here
	}
}

// refuse answers a with the advice to come back after that long; 0 is none.
func (w *world) refuse(a *attempt, after time.Duration, ticket string) {
	a.state = over
	if a.left {
		return
	}
	if w.measured() {
		w.refusals++
	}
	a.req.refused, a.req.ticket = true, ticket
	w.again(a.req, after)
}

// longestAdvice is the longest Retry-After that SDKs obey. With a longer one
// goes x-should-retry: false, and they give up.
const longestAdvice = 60 * time.Second

// again lets r come back as an SDK does, if it has retries left.
func (w *world) again(r *request, after time.Duration) {
	c := r.client
	if r.attempts > c.Retries || after > longestAdvice && !c.Deaf {
		return
	}
	wait := after + time.Duration(c.retries.Float64()*0.1*float64(after)) // Retry-After-Ms is spread
	if c.Deaf || after <= 0 {
		backoff := min(500*time.Millisecond<<min(r.attempts-1, 10), 8*time.Second)
		wait = backoff - time.Duration(c.retries.Float64()*0.25*float64(backoff))
	}
	w.push(event{at: w.now + wait, kind: tries, req: r})
}

// lose is the end of a client's patience, if no token has come.
func (w *world) lose(a *attempt) {
	if a.state == over || a.seq.produced > 0 {
		return
	}
	a.left = true
	if !w.forsaken {
		if a.state == sent {
			w.engine.Remove(&a.seq)
			delete(w.sent, &a.seq)
		}
		w.gate.leave(a)
		a.state = over
	}
	w.again(a.req, 0)
}

func (w *world) token(t Event) {
	a := w.sent[t.Seq]
	if a == nil {
		return
	}
	r := a.req
	if !a.left {
		if t.First {
			r.first = w.now
		}
		r.last, r.tokens, r.done = w.now, t.Token, t.Finished
	}
	if t.Finished {
		delete(w.sent, t.Seq)
		a.state = over
		if a.left && w.measured() {
			w.wasted += cost(r.input, r.output)
		}
		r.client.guess.learn(r.output)
	}
	w.gate.token(a, t)
	a.last = w.now
}

// cost is what a request is worth: a generated token twice one of a prompt.
func cost(input, output int) float64 { return float64(input) + 2*float64(output) }
