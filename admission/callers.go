package admission

import (
	"math"
	"math/bits"
	"time"
)

// caller is one caller within one class.
type caller struct {
	key    callerKey
	weight float64

	counter float64 // the virtual counter: cost so far by weight
	// Requests that wait, oldest first.
	first, last *Item
	returned    *Item // the last of those in front, who come back; nil: none
	queued      int
	cost        float64 // of those that wait
	running     int     // requests that a target works on, which true-ups may still move

	nextSlot time.Time // of the next appointment

	at     int // in the heap of its class; -1: nothing waits
	bucket int // of the lengths of its class; -1: nothing waits
	prev   *caller
	next   *caller // in the bucket, or among the idle
	idle   bool
	since  time.Time // when it went idle
}

type callerKey struct {
	class Class
	id    string
}

// push puts it at the end of the line, or in front, behind others who come back.
func (c *caller) push(it *Item) {
	c.queued++
	c.cost += it.cost
	before := c.last
	if it.returns {
		before, c.returned = c.returned, it
	}
	it.prev, it.next = before, c.first
	if before != nil {
		it.next, before.next = before.next, it
	} else {
		c.first = it
	}
	if it.next != nil {
		it.next.prev = it
	} else {
		c.last = it
	}
}

func (c *caller) remove(it *Item) {
	if c.returned == it {
		c.returned = it.prev
	}
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		c.first = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		c.last = it.prev
	}
	it.prev, it.next = nil, nil
	c.queued--
	c.cost -= it.cost
	if c.queued == 0 {
		c.cost = 0 // and not what rounding left
	}
}

// line is the backlogged callers of a class: a heap by counter, and lists by the
// length of what waits.
type line struct {
	heap    []place
	weight  float64 // of all in it
	queued  int
	floor   float64 // the counter of who went last: nobody who comes back is below
	credit  float64 // cost that higher classes owe it
	arrived time.Time

	buckets [64]*caller // by the power of two of the length
	filled  uint64      // bit i: buckets[i] has a caller
}

// enter makes c one of those with work. Who comes back from idleness starts where
// the others are: time in which he asked for nothing is not saved up.
func (l *line) enter(c *caller) {
	c.counter = max(c.counter, l.least())
	c.at = len(l.heap)
	l.heap = append(l.heap, place{c.counter, c})
	l.weight += c.weight
	l.up(c.at)
}

// least is the counter from which who was idle starts.
func (l *line) least() float64 {
	if len(l.heap) > 0 {
		return l.heap[0].counter
	}
	return l.floor
}

// next is the item of l that goes first.
func (l *line) next(now time.Time) *Item {
	c := l.heap[0].caller
	it := c.first
	age := now.Sub(it.arrived)
	if c.key.class != Batch && !it.returns && float64(age) > newestFirst*float64(it.expires.Sub(it.arrived)) {
		return c.last
	}
	return it
}

func (l *line) leave(c *caller) {
	i, n := c.at, len(l.heap)-1
	last := l.heap[n]
	l.heap[n] = place{}
	l.heap = l.heap[:n]
	c.at = -1
	if i < n {
		l.heap[i] = last
		l.fix(i)
	}
	l.weight -= c.weight
	if n == 0 {
		l.weight, l.credit = 0, 0
	}
}

// place is one in the heap, with its caller's counter: with many callers each look
// at one is a cache miss.
type place struct {
	counter float64
	caller  *caller
}

// moved is called when c's counter has changed.
func (l *line) moved(c *caller) {
	l.heap[c.at].counter = c.counter
	l.fix(c.at)
}

func (l *line) fix(i int) {
	l.up(l.down(i))
}

// arity makes the heap flat.
const arity = 4

func (l *line) up(i int) {
	it := l.heap[i]
	for i > 0 {
		parent := (i - 1) / arity
		if l.heap[parent].counter <= it.counter {
			break
		}
		l.put(i, l.heap[parent])
		i = parent
	}
	l.put(i, it)
}

// down tells where it has come to.
func (l *line) down(i int) int {
	it := l.heap[i]
	for {
		least, counter := i, it.counter
		for child := i*arity + 1; child <= i*arity+arity && child < len(l.heap); child++ {
			if l.heap[child].counter < counter {
				least, counter = child, l.heap[child].counter
			}
		}
		if least == i {
			l.put(i, it)
			return i
		}
		l.put(i, l.heap[least])
		i = least
	}
}

func (l *line) put(i int, it place) {
	l.heap[i] = it
	it.caller.at = i
}

// length is how many places c takes of the queue for its weight. It is places that a
// full queue lacks: by cost, one long prompt would be more than a flood of short ones.
func (c *caller) length() float64 { return float64(c.queued) / c.weight }

// lengthUnit makes lengths whole that are parts of one, of callers with much weight.
const lengthUnit = 1 << 10

// sort puts c where the length of its line belongs.
func (l *line) sort(c *caller) {
	b := -1
	if c.queued > 0 {
		b = bits.Len64(uint64(min(c.length()*lengthUnit, math.MaxInt64/2)))
		b = min(b, len(l.buckets)-1)
	}
	if b == c.bucket {
		return
	}
	if c.bucket >= 0 {
		if c.prev != nil {
			c.prev.next = c.next
		} else {
			l.buckets[c.bucket] = c.next
		}
		if c.next != nil {
			c.next.prev = c.prev
		}
		if l.buckets[c.bucket] == nil {
			l.filled &^= 1 << c.bucket
		}
		c.prev, c.next = nil, nil
	}
	if c.bucket = b; b < 0 {
		return
	}
	c.next = l.buckets[b]
	if c.next != nil {
		c.next.prev = c
	}
	l.buckets[b] = c
	l.filled |= 1 << b
}

// mostLooked is how many callers with lines of about one length are compared.
const mostLooked = 64

// longest is the caller with the most requests waiting for its weight: exactly where
// no more than mostLooked have about as much, else one of those.
func (l *line) longest() *caller {
	if l.filled == 0 {
		return nil
	}
	var longest *caller
	n := 0
	for c := l.buckets[bits.Len64(l.filled)-1]; c != nil && n < mostLooked; c = c.next {
		if longest == nil || c.length() > longest.length() {
			longest = c
		}
		n++
	}
	return longest
}

// callers are all that are known: those with work, and, bounded, idle ones that
// are still in debt or have an appointment.
type callers struct {
	by    map[callerKey]*caller
	first *caller // idle ones, who went idle first
	last  *caller
	idle  int
	max   int
}

// maxIdle is how many callers without work are remembered.
const maxIdle = 1 << 16

// idleFor is for how long one is: longer than the longest appointment.
const idleFor = 2 * time.Minute

func newCallers() callers { return callers{by: map[callerKey]*caller{}, max: maxIdle} }

// The weights that are told apart: what is beyond them would spoil the sums.
const (
	leastWeight = 1e-6
	mostWeight  = 1e6
)

// get returns the caller of r, new if need be.
func (cs *callers) get(r *Request) *caller {
	key := callerKey{r.Class, r.Caller}
	c := cs.by[key]
	if c == nil {
		c = &caller{key: key, at: -1, bucket: -1}
		cs.by[key] = c
	}
	if c.idle {
		cs.wake(c)
	}
	if c.queued == 0 {
		c.weight = weightOf(r) // while it waits, sums hold the old one
	}
	return c
}

// weightOf is the weight of r's caller, within what can be told apart.
func weightOf(r *Request) float64 {
	if r.Weight <= 0 {
		return 1
	}
	return min(max(r.Weight, leastWeight), mostWeight)
}

// rest is called when c has neither work nor requests that run.
func (cs *callers) rest(c *caller, now time.Time) {
	if c.idle || c.queued > 0 || c.running > 0 {
		return
	}
	c.idle, c.since = true, now
	c.prev, c.next = cs.last, nil
	if cs.last != nil {
		cs.last.next = c
	} else {
		cs.first = c
	}
	cs.last = c
	cs.idle++
	if cs.idle > cs.max {
		cs.forget(cs.first)
	}
}

func (cs *callers) wake(c *caller) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		cs.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		cs.last = c.prev
	}
	c.prev, c.next, c.idle = nil, nil, false
	cs.idle--
}

func (cs *callers) forget(c *caller) {
	cs.wake(c)
	delete(cs.by, c.key)
}

// sweep forgets, of those who went idle first, a few that owe nothing any more.
func (cs *callers) sweep(lines *[classes]line, now time.Time) {
	for range 1024 {
		c := cs.first
		if c == nil {
			return
		}
		clear := c.counter <= lines[c.key.class].floor && !c.nextSlot.After(now)
		if age := now.Sub(c.since); !clear && age < idleFor && age >= -controlEvery { // else the clock was set back
			return
		}
		cs.forget(c)
	}
}
