package telemetry

import (
	"math"
	"math/bits"
	"time"
)

// windowSteps is how many steps of a second the figures are of: the one that runs, and
// those before it.
const windowSteps = 60

// A histogram's buckets: below base microseconds one for each, above base for each
// doubling. A bucket is at most a twentieth as wide as what is in it, and the harmonic
// mean of its bounds, which stands for it, is off by 2.5 % at most. (HdrHistogram has the
// same buckets, with a power of two for base.) All above half an hour is in the last one.
const (
	base       = 20
	doublings  = 27
	allBuckets = base + base*doublings
)

// bucketOf is the bucket of a duration.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0)) / uint64(time.Microsecond)
	if us < base {
		return int(us)
	}
	k := bits.Len64(us/base) - 1
	if k >= doublings {
		return allBuckets - 1
	}
	return base*k + int(us>>k) // us>>k is from base to 2*base-1
}

// durationOf is the duration that stands for a bucket.
func durationOf(bucket int) time.Duration {
	if bucket < base {
		return time.Duration(bucket)*time.Microsecond + time.Microsecond/2
	}
	k := bucket/base - 1
	from := float64(bucket-base*k) * float64(uint64(1)<<k)
	to := from + float64(uint64(1)<<k)
	return time.Duration(2 * from * to / (from + to) * float64(time.Microsecond))
}

// LiveLatency are quantiles of N durations, by the nearest rank, each at most 2.5 % off
// (below 20 µs: half a microsecond). All are 0 of none.
type LiveLatency struct {
	N                  int64
	P50, P95, P99, Max time.Duration
}

// quantiles reads a histogram of n durations.
func quantiles(sums []uint32, n int64) LiveLatency {
	l := LiveLatency{N: n}
	if n == 0 {
		return l
	}
	last := len(sums) - 1
	for sums[last] == 0 {
		last--
	}
	l.Max = durationOf(last)
	seen, i := int64(0), -1
	at := func(q float64) time.Duration {
		for rank := int64(math.Ceil(q * float64(l.N))); seen < rank; {
			i++
			seen += int64(sums[i])
		}
		return durationOf(i)
	}
	l.P50, l.P95, l.P99 = at(0.50), at(0.95), at(0.99)
	return l
}

// cell is how often something was counted in one step.
type cell struct {
	step    uint32
	slot, n uint16
}

// cellPool bounds the cells of all windows together.
type cellPool struct {
	left  int
	short uint32 // the step in which there were too few last
}

// firstCells is how many cells a window may always have.
const firstCells = 16

// window counts in slots, for windowSteps steps: a sum for each slot, and of each step
// only what was counted in it. Its zero value counts nothing: see newWindow.
type window struct {
	sums []uint32
	n    int64    // the sum of sums
	at   []uint32 // by slot, the number of its newest cell
	// cells is a ring: those with the numbers from first until next are in use.
	cells       []cell
	first, next uint32
}

func newWindow(slots int) window {
	return window{sums: make([]uint32, slots), at: make([]uint32, slots)}
}

// add counts one more in a slot. Where there is no room for another cell, the oldest
// step is given up before its time.
func (w *window) add(slot int, step uint32, pool *cellPool) {
	w.roll(step, pool)
	w.sums[slot]++
	w.n++
	if at := w.at[slot]; at-w.first < w.next-w.first {
		c := &w.cells[at&w.mask()]
		if c.step == step && int(c.slot) == slot && c.n < math.MaxUint16 {
			c.n++
			return
		}
	}
	if int(w.next-w.first) == len(w.cells) && !w.grow(step, pool) {
		w.forget()
	}
	w.cells[w.next&w.mask()] = cell{step, uint16(slot), 1}
	w.at[slot] = w.next
	w.next++
}

func (w *window) mask() uint32 { return uint32(len(w.cells) - 1) }

// roll forgets what is older than the window.
func (w *window) roll(step uint32, pool *cellPool) {
	for w.first != w.next && step-w.cells[w.first&w.mask()].step >= windowSteps {
		w.forget()
	}
	if n := int(w.next - w.first); len(w.cells) > firstCells && n < len(w.cells)/8 {
		w.resize(max(firstCells, len(w.cells)/4), pool)
	}
}

// forget takes the oldest cell away.
func (w *window) forget() {
	c := w.cells[w.first&w.mask()]
	w.sums[c.slot] -= uint32(c.n)
	w.n -= int64(c.n)
	w.first++
}

// grow makes room for more cells, and reports whether it may.
func (w *window) grow(step uint32, pool *cellPool) bool {
	n := max(firstCells, 2*len(w.cells))
	if n > firstCells && pool.left < n-len(w.cells) {
		pool.short = step
		return false
	}
	w.resize(n, pool)
	return true
}

// resize makes a ring of n cells, a power of two, for all that are in use.
func (w *window) resize(n int, pool *cellPool) {
	cells := make([]cell, n)
	for i := w.first; i != w.next; i++ {
		cells[i&uint32(n-1)] = w.cells[i&w.mask()]
	}
	if len(w.cells) > firstCells {
		pool.left += len(w.cells) - firstCells
	}
	pool.left -= n - firstCells
	w.cells = cells
}

// release gives the room of windows back that are not used any more.
func release(pool *cellPool, windows []*window) {
	for _, w := range windows {
		clear(w.sums)
		w.n, w.first = 0, w.next
		if len(w.cells) > firstCells {
			w.resize(firstCells, pool)
		}
	}
}

// histogram is a window of durations. The zero value has no buckets until the first.
type histogram struct{ window }

func (h *histogram) add(d time.Duration, step uint32, pool *cellPool) {
	if h.sums == nil {
		h.window = newWindow(allBuckets)
	}
	h.window.add(bucketOf(d), step, pool)
}

func (h *histogram) read(step uint32, pool *cellPool) LiveLatency {
	h.roll(step, pool)
	return quantiles(h.sums, h.n)
}

// maxTallied is how many names a tally has beside "other".
const maxTallied = 8

// tally counts by name what happens of 2 kinds. The zero value is ready.
type tally struct {
	names []tallied
	window
}

// tallied names what is counted.
type tallied struct{ scope, name string }

// add counts one of a kind, 0 or 1. A name that comes when there is no room for it takes
// the place of one of which the window has nothing, else it is counted as "other".
func (t *tally) add(n tallied, kind int, step uint32, pool *cellPool) {
	if t.sums == nil {
		t.window = newWindow(2 * (maxTallied + 1))
	}
	t.roll(step, pool)
	t.window.add(2*t.place(n)+kind, step, pool)
}

func (t *tally) place(n tallied) int {
	for i, known := range t.names {
		if known == n {
			return i
		}
	}
	if len(t.names) < maxTallied {
		t.names = append(t.names, n)
		return len(t.names) - 1
	}
	for i := range t.names {
		if t.sums[2*i] == 0 && t.sums[2*i+1] == 0 {
			t.names[i] = n
			return i
		}
	}
	return maxTallied
}

// LiveCount is how often something was counted under a name: what is refused, by policy,
// has the policy's plan or route for Scope. Shadow counts refusals that were none, of
// policies in shadow mode.
type LiveCount struct {
	Scope, Name string
	N, Shadow   int64
}

// read returns the names of which the window has something, in the order in which they
// came.
func (t *tally) read(step uint32, pool *cellPool) []LiveCount {
	t.roll(step, pool)
	var list []LiveCount
	for i := 0; 2*i < len(t.sums); i++ {
		if t.sums[2*i] == 0 && t.sums[2*i+1] == 0 {
			continue
		}
		n := tallied{name: Other}
		if i < len(t.names) {
			n = t.names[i]
		}
		list = append(list, LiveCount{n.scope, n.name, int64(t.sums[2*i]), int64(t.sums[2*i+1])})
	}
	return list
}

// steps are counts for each step of the window, and their sum. sub takes a step that is
// too old off a sum.
type steps[C any] struct {
	step uint32
	sum  C
	each [windowSteps]C
}

// roll moves on to a step, and returns its counts.
func (s *steps[C]) roll(step uint32, sub func(sum, old *C)) *C {
	if gap := step - s.step; gap >= windowSteps {
		*s = steps[C]{step: step}
	} else {
		var none C
		for ; s.step != step; s.step++ {
			oldest := &s.each[(s.step+1)%windowSteps]
			sub(&s.sum, oldest)
			*oldest = none
		}
	}
	return &s.each[step%windowSteps]
}
