package upstream

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/inferweir/weir"
)

// place is one that members share: those who wait for the call, and the call.
type place[M any] struct {
	Place
	id       uint64
	key      string
	waiting  []*waiter[M] // in the order in which they came
	items    int          // of waiting
	bytes    int64        // of waiting
	assigned int          // items that have the place, as far as is known
	sealed   bool         // nobody else is given it
	started  bool         // its call is made: who comes now waits for the end of that
	first    time.Time    // when the first of those who wait came
	due      time.Time
	timer    *time.Timer
}

// waiter is a member on its way through a Batcher.
type waiter[M any] struct {
	Member[M]
	seated
	ctx    context.Context
	joined time.Time // zero: it has not
	place  *place[M]
	call   *part[M] // it is in; guarded by the Batcher, as are all below until ready

	ready   chan struct{} // closed when it is decided
	decided bool
	over    chan struct{} // not nil: it goes alone, and closes this at the end
	resp    *http.Response
	err     error
}

func (w *waiter[M]) items() int { return max(w.Items, 1) }

// size is how long w's body is, or more than a call may have, as if it were unknown.
func (b *Batcher[M]) size(w *waiter[M]) int64 {
	if n := w.Request.ContentLength; n >= 0 && n <= b.maxBytes.Load() {
		return n
	}
	return b.maxBytes.Load() + 1
}

// event is the end of a seat without an exchange of its member's own.
func (b *Batcher[M]) event(w *waiter[M], result string) Event {
	e := Event{Result: result, Err: w.ctx.Err()}
	if w.seat != nil {
		e.Index = w.seat.Target()
	}
	if targets := b.options.Pool.targets; e.Index >= 0 && e.Index < len(targets) {
		e.Target = targets[e.Index].name
	}
	return e
}

// enter has w wait for others at its place. It is false where nothing waits any
// more.
func (b *Batcher[M]) enter(w *waiter[M]) bool {
	assigned, sealed := w.Place.Sharing()
	w.joined = time.Now()
	older, ok := b.put(w, assigned, sealed)
	if older != nil {
		// Nobody else is given that place now: the queue gives out one at a time.
		assigned, _ = older.Sharing()
		b.mu.Lock()
		older.know(assigned, true)
		b.goOrWaitLocked(older, w.joined)
		b.mu.Unlock()
	}
	return ok
}

// put has w wait with the others of its place. older is the place that was the latest
// with its key until then, if w's is a new one.
func (b *Batcher[M]) put(w *waiter[M], assigned int, sealed bool) (older *place[M], ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false
	}
	id := w.Place.Shared()
	p := b.places[id]
	if p == nil {
		p = &place[M]{Place: w.Place, id: id, key: w.Key}
		b.places[id] = p
		b.running.Add(1)
		older = b.latest[w.Key]
		if older == nil || older.id < id {
			b.latest[w.Key] = p
		} else {
			older, p.sealed = nil, true
		}
	}
	if len(p.waiting) == 0 {
		p.first = w.joined
	}
	p.waiting = append(p.waiting, w)
	p.items += w.items()
	p.bytes += b.size(w)
	p.know(assigned, sealed)
	w.place = p
	b.goOrWaitLocked(p, w.joined)
	return older, true
}

// know adds to what is known of p. Members come here in another order than they were
// given the place: the first may know more than the last.
func (p *place[M]) know(assigned int, sealed bool) {
	p.assigned, p.sealed = max(p.assigned, assigned), p.sealed || sealed
}

// goOrWaitLocked makes p's call at once where nobody is to be waited for. Else it
// waits until p is due, which is never later than it was.
func (b *Batcher[M]) goOrWaitLocked(p *place[M], now time.Time) {
	if p.started || len(p.waiting) == 0 {
		return
	}
	all := p.items >= p.assigned
	if p.items >= b.options.MaxItems || p.bytes >= b.maxBytes.Load() || all && (p.sealed || p.items >= b.pace.size) {
		b.startLocked(p)
		return
	}
	delay := b.options.MaxDelay
	if all { // else some are on their way: to go without them would save no time
		delay = b.pace.delay(p.items, delay)
	}
	due := p.first.Add(delay)
	switch {
	case !due.After(now):
		b.startLocked(p)
	case p.timer == nil:
		p.due = due
		p.timer = time.AfterFunc(due.Sub(now), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.startLocked(p)
		})
	case due.Before(p.due):
		p.due = due
		p.timer.Reset(due.Sub(now))
	}
}

// startLocked has p's members called for, unless they are, or all have left.
func (b *Batcher[M]) startLocked(p *place[M]) {
	if p.started || b.places[p.id] != p {
		return
	}
	p.started = true
	b.forgetLocked(p)
	go b.run(p) // Close waits for it: see put
}

// forgetLocked has p take nobody else in.
func (b *Batcher[M]) forgetLocked(p *place[M]) {
	if p.timer != nil {
		p.timer.Stop()
	}
	if b.latest[p.key] == p {
		delete(b.latest, p.key)
	}
}

// leave takes w out, whose context has ended. It is false where w is decided.
func (b *Batcher[M]) leave(w *waiter[M]) bool {
	b.mu.Lock()
	if w.decided {
		b.mu.Unlock()
		return false
	}
	waited := !w.left.Load() && w.call == nil
	c := b.leftLocked(w)
	p := w.place
	if waited {
		b.removeLocked(p, w)
		if len(p.waiting) == 0 && !p.started {
			b.forgetLocked(p)
			delete(b.places, p.id)
			b.running.Done()
		}
	}
	b.mu.Unlock()
	if c != nil {
		c.cancel()
	}
	if waited {
		w.end(b.event(w, ResultUnused))
	}
	return true
}

// leftLocked notes, once, that nobody waits for w any more. It returns the call that
// has lost its last member by that.
func (b *Batcher[M]) leftLocked(w *waiter[M]) *part[M] {
	if !w.left.CompareAndSwap(false, true) || w.call == nil {
		return nil
	}
	if w.call.live--; w.call.live > 0 {
		return nil
	}
	return w.call
}

func (b *Batcher[M]) removeLocked(p *place[M], w *waiter[M]) {
	i := slices.Index(p.waiting, w)
	if i < 0 {
		return
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	p.items -= w.items()
	p.bytes -= b.size(w)
	p.assigned -= w.items()
}

// run makes p's calls, one after the other: usually there is one. Who was given the
// place but came too late for it is in the next.
func (b *Batcher[M]) run(p *place[M]) {
	defer b.running.Done()
	p.Seal()
	for {
		members := b.take(p)
		switch len(members) {
		case 0:
			return
		case 1:
			<-b.hand(members[0])
		default:
			b.callFor(members)
		}
	}
}

// take returns the members of p's next call: those who wait, in their order, as far
// as they go together. Without any p is over.
func (b *Batcher[M]) take(p *place[M]) []*waiter[M] {
	var members, left []*waiter[M]
	items, bytes := 0, int64(0)
	b.mu.Lock()
	for len(p.waiting) > 0 {
		w := p.waiting[0]
		if w.ctx.Err() != nil {
			b.leftLocked(w)
			left = append(left, w)
			b.removeLocked(p, w)
			continue
		}
		items, bytes = items+w.items(), bytes+b.size(w)
		if (items > b.options.MaxItems || bytes > b.maxBytes.Load()) && len(members) > 0 {
			break
		}
		members = append(members, w)
		b.removeLocked(p, w)
	}
	if len(members) == 0 {
		delete(b.places, p.id)
	}
	if len(p.waiting) > 0 {
		p.first = p.waiting[0].joined
	}
	b.mu.Unlock()
	for _, w := range left {
		w.end(b.event(w, ResultUnused))
	}
	return members
}

// hand has w send its own request. What it returns is closed when the answer has
// ended.
func (b *Batcher[M]) hand(w *waiter[M]) <-chan struct{} {
	over := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.left.Load() { // since it was taken
		close(over)
		return over
	}
	w.over = over
	b.decideLocked(w, nil, nil)
	return over
}

func (b *Batcher[M]) decideLocked(w *waiter[M], resp *http.Response, err error) {
	if w.decided || w.left.Load() {
		return
	}
	w.decided, w.resp, w.err = true, resp, err
	close(w.ready)
}

// callFor makes one call for all members. If a hook of ours panics they are told,
// and nobody else is.
func (b *Batcher[M]) callFor(members []*waiter[M]) {
	r := &round[M]{b: b}
	defer func() {
		if p := recover(); p != nil {
			r.abandon(members, fmt.Errorf("a joined call panicked: %v\n%s", p, debug.Stack()))
		}
	}()
	if c := r.ask(members, nil); c != nil {
		r.halve(c)
	}
}

// abandon ends what members have, and tells them that it was not their fault.
func (r *round[M]) abandon(members []*waiter[M], err error) {
	e := r.b.event(members[0], ResultCut)
	e.Err = err
	for _, s := range r.seats {
		s.abandon(e)
	}
	for _, w := range members {
		w.end(e)
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for _, w := range members {
		r.b.decideLocked(w, nil, &weir.Problem{Detail: "Something went wrong here.", Err: err})
	}
}
