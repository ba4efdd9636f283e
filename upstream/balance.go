package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// balancer chooses among the targets of one pool. It is safe for concurrent use,
// allocates nothing, and never takes a target that is not among those it is given.
type balancer interface {
	// choose returns one of targets, the numbers of those that may be chosen: at
	// least one. outstanding tells the load of each target of the pool by its
	// number, prefix what the prompt begins with.
	choose(targets []int, outstanding loads, prefix Prefix) int
	// preview is what choose would return now, without counting as sent: -1 where that
	// is left to chance.
	preview(targets []int, outstanding loads, prefix Prefix) int
}

// newBalancer makes the balancer that a configuration calls name; "" is least_busy.
func newBalancer(name string, targets []*target) (balancer, error) {
	switch name {
	case "", "least_busy":
		return &leastBusy{newTurns(targets)}, nil
	case "round_robin":
		return &roundRobin{newTurns(targets)}, nil
	case "two_choices":
		return newTwoChoices(targets), nil
	case "prefix":
		return newPrefixBalance(targets), nil
	}
	return nil, fmt.Errorf("upstream: balance: %q: want least_busy, two_choices, round_robin or prefix", name)
}

// Choose takes one of targets, the numbers of those that may be chosen, in the way
// of Options.Balance. load is the outstanding cost of each target of the pool, by its
// number, in any unit: requests or tokens; a target is as busy as its load divided
// by its weight. prefix, which only "prefix" looks at, is what the prompt begins
// with, nil where that is not known.
//
// A target that is not among targets, because it is full or not open, is never
// chosen, and loses nothing by it: it keeps its place in the turns and the prefixes
// that it was sent. Numbers that no target has are passed over. Without any that
// the pool has, the result is -1.
//
// Whatever it takes counts as sent, for the next turn and as the holder of the prefix;
// loads are for the caller to keep. Its time grows with the number of targets: with 16
// it takes about a microsecond, and it allocates nothing.
func (p *Pool) Choose(targets []int, load []float64, prefix Prefix) int {
	for _, t := range targets {
		if t < 0 || t >= len(p.targets) {
			targets = slices.DeleteFunc(slices.Clone(targets), func(t int) bool { return t < 0 || t >= len(p.targets) })
			break
		}
	}
	if len(targets) == 0 {
		return -1
	}
	return p.balance.choose(targets, load, prefix)
}

// loads are the outstanding costs of a pool's targets by their numbers.
type loads []float64

// of is the load of a target. What is missing, below nothing or no number is 0.
func (l loads) of(target int) float64 {
	if target < len(l) && l[target] > 0 {
		return l[target]
	}
	return 0
}

// turns lets targets take turns by weight, spread evenly: a weight of 2 beside 1
// gives a b a, not a a b. It is the smooth weighted round-robin of nginx (2012): in
// each turn all who take part gain their weight, and the richest pays for all. Who
// takes no part neither gains nor pays.
type turns struct {
	targets []*target
	mu      sync.Mutex
	credits []int64 // guarded by mu
}

func newTurns(targets []*target) *turns {
	return &turns{targets: targets, credits: make([]int64, len(targets))}
}

// next is whose turn it is of those in targets that take part: all but the busier
// than most, in load for a unit of weight.
func (b *turns) next(targets []int, outstanding loads, most float64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.turn(b.credits, targets, outstanding, most)
}

// peek is next without the turn being taken.
func (b *turns) peek(targets []int, outstanding loads, most float64) int {
	b.mu.Lock()
	credits := slices.Clone(b.credits)
	b.mu.Unlock()
	return b.turn(credits, targets, outstanding, most)
}

// turn moves credits by a turn, and returns whose it is.
func (b *turns) turn(credits []int64, targets []int, outstanding loads, most float64) int {
	best, total := -1, int64(0)
	for _, i := range targets {
		weight := b.targets[i].weight.Load()
		if outstanding.of(i) > most*float64(weight) {
			continue
		}
		credits[i] += weight
		total += weight
		if best < 0 || credits[i] > credits[best] {
			best = i
		}
	}
	credits[best] -= total
	return best
}

// roundRobin takes each target in turn, however busy it is.
type roundRobin struct{ *turns }

func (b *roundRobin) choose(targets []int, _ loads, _ Prefix) int {
	return b.next(targets, nil, math.Inf(1))
}

func (b *roundRobin) preview(targets []int, _ loads, _ Prefix) int {
	return b.peek(targets, nil, math.Inf(1))
}

// leastBusy takes the target with the least load for its weight; those that are
// equal take turns.
type leastBusy struct{ *turns }

func (b *leastBusy) choose(targets []int, outstanding loads, _ Prefix) int {
	return b.next(targets, outstanding, b.most(targets, outstanding))
}

func (b *leastBusy) preview(targets []int, outstanding loads, _ Prefix) int {
	return b.peek(targets, outstanding, b.most(targets, outstanding))
}

// most is the load, for a unit of weight, of the least busy.
func (b *leastBusy) most(targets []int, outstanding loads) float64 {
	least := targets[0]
	for _, i := range targets[1:] {
		if busier(b.targets, outstanding, least, i) {
			least = i
		}
	}
	// Rounded up, so that the least busy itself takes part whatever the division lost.
	return math.Nextafter(outstanding.of(least)/float64(b.targets[least].weight.Load()), math.Inf(1))
}

// busier reports whether target i has more load for its weight than target j.
func busier(targets []*target, outstanding loads, i, j int) bool {
	return outstanding.of(i)*float64(targets[j].weight.Load()) > outstanding.of(j)*float64(targets[i].weight.Load())
}

// twoChoices draws two targets at random by weight and takes the less busy of them:
// the longest queue stays nearly as short as with least_busy, and several gateways
// that see the same loads do not all run to the same target (Mitzenmacher, The Power
// of Two Choices in Randomized Load Balancing, 2001). Of two that are equally busy
// it takes the one that was quicker with its first bytes.
type twoChoices struct {
	targets []*target
	random  func() uint64
	now     func() time.Time
}

func newTwoChoices(targets []*target) *twoChoices {
	return &twoChoices{targets: targets, random: rand.Uint64, now: time.Now}
}

func (b *twoChoices) choose(targets []int, outstanding loads, _ Prefix) int {
	if len(targets) == 1 {
		return targets[0]
	}
	one := b.draw(targets, -1)
	two := b.draw(targets, one)
	switch {
	case two < 0 || busier(b.targets, outstanding, two, one):
		return one
	case busier(b.targets, outstanding, one, two):
		return two
	}
	now := b.now()
	if b.targets[two].latency.at(now) < b.targets[one].latency.at(now) {
		return two
	}
	return one
}

func (b *twoChoices) preview(targets []int, _ loads, _ Prefix) int {
	if len(targets) == 1 {
		return targets[0]
	}
	return -1
}

// draw takes one of targets at random by weight, but not target except. It is -1
// where there is no other.
func (b *twoChoices) draw(targets []int, except int) int {
	total := int64(0)
	for _, i := range targets {
		if i != except {
			total += b.targets[i].weight.Load()
		}
	}
	if total == 0 {
		return -1
	}
	// The remainder prefers small numbers by less than one in 2^40.
	rest, last := int64(b.random()%uint64(total)), -1
	for _, i := range targets {
		if i == except {
			continue
		}
		last = i
		if rest -= b.targets[i].weight.Load(); rest < 0 {
			return i
		}
	}
	return last // the weights have just been made smaller
}

// latencyMemory is the time in which a latency that was seen loses all but a third
// of its say.
const latencyMemory = 10 * time.Second

// peakEWMA is a moving average of latencies that believes bad news at once: a peak
// counts in full and wears off, as in Finagle's load balancer of that name. Without
// news it goes towards 0, so that a target which was slow once is tried again.
// The zero value has seen nothing and is the quickest. It is safe for concurrent
// use.
type peakEWMA struct {
	mu    sync.Mutex
	value float64   // nanoseconds; guarded by mu
	seen  time.Time // when value was right; guarded by mu
}

// observe takes in that something took d and ended at now.
func (e *peakEWMA) observe(d time.Duration, now time.Time) {
	took := float64(max(d, 0))
	e.mu.Lock()
	defer e.mu.Unlock()
	if kept := e.keptLocked(now); took < e.value {
		e.value = e.value*kept + took*(1-kept)
	} else {
		e.value = took
	}
	if now.After(e.seen) {
		e.seen = now
	}
}

// at is the average at now, in nanoseconds.
func (e *peakEWMA) at(now time.Time) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.value * e.keptLocked(now)
}

// keptLocked is the part of value that is left at now.
func (e *peakEWMA) keptLocked(now time.Time) float64 {
	if e.value == 0 {
		return 0
	}
	return math.Exp(-float64(max(now.Sub(e.seen), 0)) / float64(latencyMemory))
}
