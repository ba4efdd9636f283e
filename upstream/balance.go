package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// balancer chooses among targets. It is safe for concurrent use.
type balancer interface {
	// choose prefers targets that are open at now: others said that they admit
	// nothing. Where all are closed it chooses as if all were open.
	choose(targets []*target, now time.Time) *target
}

// open reports whether t has not said that it admits nothing now.
func (t *target) open(now time.Time) bool { return now.UnixNano() >= t.closedUntil.Load() }

func allClosed(targets []*target, now time.Time) bool {
	for _, t := range targets {
		if t.open(now) {
			return false
		}
	}
	return true
}

// leastBusy takes the target with the fewest requests in flight for its weight,
// and goes round among those that are equal.
type leastBusy struct{ turn atomic.Uint64 }

func (b *leastBusy) choose(targets []*target, now time.Time) *target {
	start := int((b.turn.Add(1) - 1) % uint64(len(targets)))
	all := allClosed(targets, now)
	var best *target
	for i := range targets {
		t := targets[(start+i)%len(targets)]
		if !all && !t.open(now) {
			continue
		}
		if best == nil || t.inFlight.Load()*best.weight < best.inFlight.Load()*t.weight {
			best = t
		}
	}
	if best == nil { // the last one closed in this moment
		return targets[start]
	}
	return best
}

// roundRobin takes each target in turn by weight, spread evenly: a weight of 2
// beside 1 gives a b a, not a a b. It is the smooth weighted round-robin of nginx
// (2012): each target gains its weight, and the richest pays for all. A target that
// is closed neither gains nor pays.
type roundRobin struct {
	mu      sync.Mutex
	credits []int64 // guarded by mu
}

func newRoundRobin(targets []*target) *roundRobin {
	return &roundRobin{credits: make([]int64, len(targets))}
}

func (b *roundRobin) choose(targets []*target, now time.Time) *target {
	all := allClosed(targets, now)
	b.mu.Lock()
	defer b.mu.Unlock()
	best, total := -1, int64(0)
	for i, t := range targets {
		if !all && !t.open(now) {
			continue
		}
		b.credits[i] += t.weight
		total += t.weight
		if best < 0 || b.credits[i] > b.credits[best] {
			best = i
		}
	}
	if best < 0 { // the last one closed in this moment
		best = 0
	}
	b.credits[best] -= total
	return targets[best]
}
