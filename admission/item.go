package admission

import "time"

// Item is a request on its way through a Scheduler. Make it with NewItem.
type Item struct {
	request Request
	state   state
	caller  *caller
	arrived time.Time
	expires time.Time
	stuck   time.Time // since when it is next and fits nowhere
	returns bool      // it has waited before: a ticket that is due, or a failed attempt
	untried bool      // it takes no target that has failed it
	cost    float64   // expected

	prev, next *Item // in its caller's line
	tick       int64 // of the wheel, in which it expires
	sooner     *Item // in the same tick
	later      *Item

	target     int
	refusal    *Refusal
	dispatched time.Time
	group      *group
	charged    float64 // to its caller
	served     float64 // counted as work done
	held       int64   // tokens of its target's cache
	prefill    int64   // of its prompt, until the first token
	produced   int64   // tokens
	streamed   bool
	last       time.Time // when the last token came
	settled    bool
	socket     bool // its connection became one

	ready chan struct{} // of a Queue: closed when it is decided
}

type state uint8

const (
	fresh state = iota
	waiting
	running
	ended
)

// NewItem makes an item of r.
func NewItem(r Request) *Item {
	return &Item{request: r, target: -1, returns: len(r.Tried) > 0}
}

// Request is what the item was made of.
func (it *Item) Request() *Request { return &it.request }

// Target is the index of the one that works on it, or did: -1 while it waits and
// where it was refused.
func (it *Item) Target() int { return it.target }

// Refusal says why it was refused: nil where it was not.
func (it *Item) Refusal() *Refusal { return it.refusal }

// Waited is how long it waited before it was given to a target.
func (it *Item) Waited() time.Duration {
	if it.dispatched.IsZero() {
		return 0
	}
	return it.dispatched.Sub(it.arrived)
}

// Shared is a number that those have in common that share one place and are to be
// sent as one call: 0 where it is alone.
func (it *Item) Shared() uint64 {
	if it.group == nil {
		return 0
	}
	return it.group.id
}

func (it *Item) queued() bool {
	return it.caller.queued > 0 && (it.prev != nil || it.next != nil || it.caller.first == it)
}

// wheel finds the items whose time is over: a ring of lists, one for each ten
// milliseconds of the next forty seconds. What expires later goes round again.
type wheel struct {
	slots [1 << 12]*Item
	began bool
	base  time.Time // where ticks are counted from: a wall clock may be set
	at    int64     // the tick that was last looked at, and may have to be once more
}

const wheelStep = 10 * time.Millisecond

// tick is the number of t's, from 1.
func (w *wheel) tick(t time.Time) int64 { return 1 + max(int64(t.Sub(w.base)/wheelStep), 0) }

func (w *wheel) add(it *Item, now time.Time) {
	if !w.began {
		w.began, w.base = true, now
	}
	it.tick = max(w.tick(it.expires), w.at) // never in one that is done with
	slot := &w.slots[it.tick%int64(len(w.slots))]
	it.later = *slot
	if *slot != nil {
		(*slot).sooner = it
	}
	*slot = it
}

func (w *wheel) remove(it *Item) {
	if it.tick == 0 {
		return
	}
	if it.sooner != nil {
		it.sooner.later = it.later
	} else {
		w.slots[it.tick%int64(len(w.slots))] = it.later
	}
	if it.later != nil {
		it.later.sooner = it.sooner
	}
	it.sooner, it.later, it.tick = nil, nil, 0
}

// due removes the items whose time is over, and calls f with each. f may not add
// to the wheel, nor take another item out of it.
func (w *wheel) due(now time.Time, f func(*Item)) {
	if !w.began {
		return
	}
	last := w.tick(now)
	for at := max(w.at, last-int64(len(w.slots))+1); at <= last; at++ {
		for it := w.slots[at%int64(len(w.slots))]; it != nil; {
			later := it.later
			if !it.expires.After(now) {
				f(it)
			}
			it = later
		}
	}
	w.at = max(w.at, last)
}

// turnBack is for a clock that was set back: everyone waits for as long as before.
func (w *wheel) turnBack(by time.Duration) {
	w.base = w.base.Add(-by)
	for _, it := range w.slots {
		for ; it != nil; it = it.later {
			it.arrived, it.expires = it.arrived.Add(-by), it.expires.Add(-by)
			if !it.stuck.IsZero() {
				it.stuck = it.stuck.Add(-by)
			}
		}
	}
}

// clock notices a clock that was set back, and sets what waits for it back as well.
func (s *Scheduler) clock(now time.Time) {
	by := s.latest.Sub(now)
	if s.latest.IsZero() || by <= controlEvery {
		if by < 0 || s.latest.IsZero() {
			s.latest = now
		}
		return
	}
	s.latest = now
	s.controlled = s.controlled.Add(-by)
	s.expiry.turnBack(by)
	for i := range s.lines {
		if l := &s.lines[i]; !l.arrived.IsZero() {
			l.arrived = l.arrived.Add(-by)
		}
	}
	if !s.rate.began.IsZero() {
		s.rate.began = s.rate.began.Add(-by)
	}
}
