package upstream

import (
	"sync"
	"sync/atomic"
)

// balancer chooses among targets. It is safe for concurrent use.
type balancer interface {
	choose(targets []*target) *target
}

// leastBusy takes the target with the fewest requests in flight for its weight,
// and goes round among those that are equal.
type leastBusy struct{ turn atomic.Uint64 }

func (b *leastBusy) choose(targets []*target) *target {
	start := int((b.turn.Add(1) - 1) % uint64(len(targets)))
	best := targets[start]
	for i := range targets {
		t := targets[(start+i)%len(targets)]
		if t.inFlight.Load()*best.weight < best.inFlight.Load()*t.weight {
			best = t
		}
	}
	return best
}

// roundRobin takes each target in turn by weight, spread evenly: a weight of 2
// beside 1 gives a b a, not a a b. It is the smooth weighted round-robin of nginx
// (2012): each target gains its weight, and the richest pays for all.
type roundRobin struct {
	mu      sync.Mutex
	credits []int64 // guarded by mu
}

func newRoundRobin(targets []*target) *roundRobin {
	return &roundRobin{credits: make([]int64, len(targets))}
}

func (b *roundRobin) choose(targets []*target) *target {
	b.mu.Lock()
	defer b.mu.Unlock()
	best, total := 0, int64(0)
	for i, t := range targets {
		b.credits[i] += t.weight
		total += t.weight
		if b.credits[i] > b.credits[best] {
			best = i
		}
	}
	b.credits[best] -= total
	return targets[best]
}
