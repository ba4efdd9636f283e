package admission

import (
	"slices"
	"time"

	"github.com/inferweir/weir"
)

// group is items that share one place, because one call serves them all.
type group struct {
	id      uint64
	key     string
	target  int
	items   int
	members int
}

// hold takes a place on a target. Places belong to items, and only what is done
// with an item gives its place back: nothing frees one by the clock, because work
// that still runs would then be counted as gone.
func (s *Scheduler) hold(it *Item, target int, g *group, now time.Time) {
	t, r := s.targets[target], &it.request
	if g == nil && r.Batch != "" && s.options.BatchSize > 1 {
		s.groupIDs++
		g = &group{id: s.groupIDs, key: r.Batch, target: target}
		s.groups[r.Batch] = g
	}
	if g == nil || g.members == 0 {
		t.running++
	}
	if g != nil {
		g.members++
		g.items += r.Items
		it.group = g
		if g.items >= s.options.BatchSize {
			s.seal(g)
		}
	}
	it.target, it.held, it.prefill, it.last = target, r.Input+r.Output, r.Input, now
	t.items++
	t.tokens += it.held
	t.prefill += it.prefill
	if !r.Stream && it.prefill > 0 {
		t.whole = append(t.whole, it)
	}
	s.load[target] += it.cost
	s.running++
	t.use(t.running, t.tokens)
}

// gather gives the new place of g to those who wait and may share it, class by class
// and each caller's in order: they take it from nobody.
func (s *Scheduler) gather(g *group, now time.Time) {
	if g == nil || s.waiting == 0 || g.items >= s.options.BatchSize {
		return
	}
	var found []*Item
	room := s.options.BatchSize - g.items
	for i := range s.lines {
		for _, at := range s.lines[i].heap {
			for it := at.caller.first; it != nil; it = it.next {
				if r := &it.request; r.Batch == g.key && r.Items <= room && it.expires.After(now) && !slices.Contains(r.Tried, g.target) {
					found, room = append(found, it), room-r.Items
				}
			}
		}
	}
	for _, it := range found {
		s.run(it, g.target, g, now)
	}
}

// open is the group that r can share a place with, if there is one.
func (s *Scheduler) open(r *Request) *group {
	if r.Batch == "" {
		return nil
	}
	g := s.groups[r.Batch]
	if g == nil || g.items+r.Items > s.options.BatchSize || slices.Contains(r.Tried, g.target) {
		return nil
	}
	return g
}

// Switched is called when the item's connection becomes a socket: see Slot.Switched.
func (s *Scheduler) Switched(it *Item, now time.Time) {
	if it.state != running || it.socket || it.group != nil {
		return
	}
	it.socket = true
	t := s.targets[it.target]
	t.running--
	t.sockets++
	s.dispatch(now)
}

// Seal ends the time in which others may share its place.
func (s *Scheduler) Seal(it *Item) {
	if it.group != nil {
		s.seal(it.group)
	}
}

func (s *Scheduler) sharing(it *Item) (items int, sealed bool) {
	if it.group == nil {
		return max(it.request.Items, 1), true
	}
	return it.group.items, s.groups[it.group.key] != it.group
}

func (s *Scheduler) seal(g *group) {
	if s.groups[g.key] == g {
		delete(s.groups, g.key)
	}
}

func (s *Scheduler) release(it *Item) {
	t := s.targets[it.target]
	t.items--
	t.tokens -= it.held
	t.prefill -= it.prefill
	s.load[it.target] -= it.cost
	if t.items == 0 {
		s.load[it.target] = 0 // and not what rounding left
	}
	it.held, it.prefill = 0, 0
	s.running--
	g := it.group
	if g != nil {
		g.members--
		g.items -= it.request.Items
		if g.members > 0 {
			return
		}
		s.seal(g)
	}
	if it.socket {
		t.sockets--
		return
	}
	t.running--
}

// prefilled takes the prompts of requests that come whole out of the prefill, once
// as much time is over as they should need for it. Their places stay theirs.
func (t *target) prefilled(now time.Time) {
	each := t.streams.betaNow * t.parts // of the target's time, which all instances share
	t.whole = slices.DeleteFunc(t.whole, func(it *Item) bool {
		over := it.prefill == 0 || now.Sub(it.dispatched) >= seconds(float64(it.prefill)*each)
		if over {
			t.prefill -= it.prefill
			it.prefill = 0
		}
		return over
	})
}

// FirstToken is called when the first token of a streamed answer is there.
func (s *Scheduler) FirstToken(it *Item, now time.Time) {
	if it.state != running || it.streamed {
		return
	}
	t, r := s.targets[it.target], &it.request
	it.streamed, it.last = true, now
	it.produced++
	t.prefill -= it.prefill
	it.prefill = 0
	t.firstToken(max(now.Sub(it.dispatched), 0), r.Input, now)
	if r.hasTokens() {
		s.serve(it, Cost(r.Input, r.Cached, 1))
	}
	s.dispatch(now)
}

// Progress is called when n more tokens have come.
func (s *Scheduler) Progress(it *Item, n int64, now time.Time) {
	s.progress(it, n, max(now.Sub(it.last), 0))
	it.last = now
}

// Streams is called when an answer comes in parts that are no tokens: how long it
// takes tells nothing of its target.
func (s *Scheduler) Streams(it *Item) { it.streamed = true }

// progress is Progress after a gap.
func (s *Scheduler) progress(it *Item, n int64, gap time.Duration) {
	if it.state != running || n <= 0 {
		return
	}
	t := s.targets[it.target]
	t.gap(gap, n)
	it.produced += n
	if !it.request.hasTokens() {
		return // it is measured by the request
	}
	s.serve(it, outputWeight*float64(n))
	if over := min(it.produced-it.request.Output, n); over > 0 {
		// More than was expected: it is charged as it comes, and takes room.
		it.held += over
		t.tokens += over
		s.addCharge(it, outputWeight*float64(over))
	}
}

// Done gives the item's place back, once.
func (s *Scheduler) Done(it *Item, result Result, now time.Time) {
	if it.state != running {
		return
	}
	it.state = ended
	t, c, r := s.targets[it.target], it.caller, &it.request
	took := max(now.Sub(it.dispatched), 0)
	s.release(it)
	switch {
	case it.socket:
	case result != Unused:
		t.ended(r.Kind, took, result, it.produced, r.cost(), it.streamed)
	default:
		t.use(t.running, t.tokens)
	}
	if !it.settled {
		s.reckon(it, result, took)
	}
	if result == OK && !it.socket {
		s.rate.took(took, it)
	}
	c.running--
	s.callers.rest(c, now)
	s.dispatch(now)
}

// reckon counts what was done for an item, of which that is not known exactly.
func (s *Scheduler) reckon(it *Item, result Result, took time.Duration) {
	r := &it.request
	switch {
	case !r.hasTokens() && s.rate.dense > 0 && (result == OK || result == Left):
		// Beside requests with tokens, it counts for as many as they have in its time.
		cost := took.Seconds() * s.rate.dense
		s.addCharge(it, cost-it.charged)
		if result == OK {
			s.serve(it, cost-it.served)
		}
	case result == OK:
		if !it.streamed || !r.hasTokens() {
			s.serve(it, it.cost-it.served)
		}
	case result == Left:
		if !r.hasTokens() {
			return
		}
		made := float64(it.produced)
		if !it.streamed { // nobody saw what was made of it
			made = float64(r.Output) * s.rate.done(took, it.cost)
		}
		s.addCharge(it, Cost(r.Input, r.Cached, 0)+outputWeight*made-it.charged)
	case it.produced == 0:
		s.addCharge(it, -it.charged) // nothing was done for it
	}
}

// Settle sets right, once, what its caller was charged for, after Done or before.
// An item that was not measured in tokens stays as it was.
func (s *Scheduler) Settle(it *Item, used weir.Usage) {
	if it.settled || it.target < 0 || !it.request.hasTokens() || used == (weir.Usage{}) {
		return
	}
	it.settled = true
	cost := Cost(used.Input, used.Cached, used.Output)
	s.rate.learn(cost, it.cost)
	s.serve(it, cost-it.served)
	s.addCharge(it, cost-it.charged)
}

func (s *Scheduler) addCharge(it *Item, cost float64) {
	it.charged += cost
	s.charge(it.caller, cost)
}

// serve counts work that was done.
func (s *Scheduler) serve(it *Item, cost float64) {
	it.served += cost
	s.rate.served += cost
}
