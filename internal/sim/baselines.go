package sim

import (
	"fmt"
	"time"
)

// Policy is a way to let requests through to the engine.
type Policy struct {
	// Name is what the report calls it.
	Name string

	open     func(w *world) (gate, error)
	forsaken bool
}

// NoGateway lets all through at once. Without cancel the engine does not learn
// that a client has left and works on for nobody.
func NoGateway(cancel bool) Policy {
	name := "no gateway, no cancel"
	if cancel {
		name = "no gateway, cancel"
	}
	return Policy{Name: name, forsaken: !cancel, open: func(w *world) (gate, error) { return direct{w}, nil }}
}

type direct struct{ w *world }

func (d direct) submit(a *attempt)   { d.w.send(a) }
func (direct) leave(*attempt)        {}
func (direct) token(*attempt, Event) {}

// Fixed lets limit requests through at once; the others wait in the order of
// their arrival for as long as their clients like.
func Fixed(limit int) Policy {
	return Policy{Name: fmt.Sprintf("fixed %d, FIFO", limit), open: func(w *world) (gate, error) {
		return &turns{w: w, limit: limit, one: true}, nil
	}}
}

// RoundRobin lets limit requests through at once; the others wait for as long as
// their clients like, and the callers take turns.
func RoundRobin(limit int) Policy {
	return Policy{Name: fmt.Sprintf("fixed %d, round robin", limit), open: func(w *world) (gate, error) {
		return &turns{w: w, limit: limit}, nil
	}}
}

// turns is a fixed number of places and a line for each client, or one for all.
type turns struct {
	w       *world
	limit   int
	one     bool
	running int
	lines   map[*client]*waitLine
	ring    []*waitLine // those with somebody in it, in turn
}

type waitLine struct{ waiting []*attempt }

func (t *turns) submit(a *attempt) {
	c := a.req.client
	if t.one {
		c = nil
	}
	if t.lines == nil {
		t.lines = map[*client]*waitLine{}
	}
	l := t.lines[c]
	if l == nil {
		l = &waitLine{}
		t.lines[c] = l
	}
	if len(l.waiting) == 0 {
		t.ring = append(t.ring, l)
	}
	l.waiting = append(l.waiting, a)
	t.dispatch()
}

func (t *turns) dispatch() {
	for t.running < t.limit && len(t.ring) > 0 {
		l := t.ring[0]
		t.ring = t.ring[1:]
		var a *attempt
		for len(l.waiting) > 0 && a == nil {
			if head := l.waiting[0]; !head.left {
				a = head
			}
			l.waiting = l.waiting[1:]
		}
		if len(l.waiting) > 0 {
			t.ring = append(t.ring, l)
		}
		if a != nil {
			t.running++
			t.w.send(a)
		}
	}
}

func (t *turns) leave(a *attempt) {
	if a.state == sent {
		t.running--
		t.dispatch()
	}
}

func (t *turns) token(_ *attempt, e Event) {
	if e.Finished {
		t.running--
		t.dispatch()
	}
}

// Gradient2 is the adaptive limit of Netflix's concurrency-limits with the
// defaults of its Gradient2Limit (initial and least limit 20, most 200, tolerance
// 1.5, window 600, smoothing 0.2) behind its WindowedLimit (windows of a second,
// more than ten answers): it takes the time of a whole answer for the sign of
// queueing. What does not fit is refused at once.
func Gradient2() Policy {
	return Policy{Name: "Gradient2, no queue", open: func(w *world) (gate, error) {
		return &gradient2{w: w, limit: 20, until: time.Second}, nil
	}}
}

type gradient2 struct {
	w       *world
	limit   float64
	running int
	long    expAvg

	until time.Duration // end of the window
	sum   time.Duration
	count int
	most  int           // requests at once in the window
	least time.Duration // answer in the window
}

// expAvg is an average over about 600 samples, of all of them for the first ten.
type expAvg struct {
	value, sum float64
	count      int
}

func (e *expAvg) add(sample float64) float64 {
	const warm, window = 10, 600
	if e.count < warm {
		e.count++
		e.sum += sample
		e.value = e.sum / float64(e.count)
	} else {
		e.value += 2.0 / (window + 1) * (sample - e.value)
	}
	return e.value
}

func (g *gradient2) submit(a *attempt) {
	if g.running >= int(g.limit) {
		g.w.refuse(a, 0, "")
		return
	}
	g.running++
	g.w.send(a)
}

func (g *gradient2) leave(a *attempt) {
	if a.state == sent {
		g.running-- // and no sample: the library's onIgnore
	}
}

func (g *gradient2) token(a *attempt, e Event) {
	if !e.Finished {
		return
	}
	took := g.w.now - a.sent
	g.most = max(g.most, g.running)
	g.running--
	if g.count == 0 || took < g.least {
		g.least = took
	}
	g.sum += took
	g.count++
	if g.w.now > g.until && g.count > 10 {
		g.update(float64(g.sum)/float64(g.count), g.most)
		g.until = g.w.now + min(max(2*g.least, time.Second), time.Second)
		g.sum, g.count, g.most = 0, 0, 0
	}
}

func (g *gradient2) update(short float64, running int) {
	const (
		tolerance, smoothing, queue = 1.5, 0.2, 4
		least, most                 = 20, 200
	)
	long := g.long.add(short)
	if long/short > 2 {
		g.long.value *= 0.95
	}
	if float64(running) < g.limit/2 {
		return
	}
	gradient := max(0.5, min(1, tolerance*long/short))
	next := g.limit*(1-smoothing) + smoothing*(g.limit*gradient+queue)
	g.limit = max(least, min(most, next))
}
