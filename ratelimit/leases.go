package ratelimit

import (
	"context"
	"errors"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultLeases is how many counts Leases hold units of unless told.
const DefaultLeases = 1 << 14

// Unasked is the Mode of a take that nobody decided, because another of its call
// was denied without asking the store. There is no Decision.
const Unasked Mode = Open + 1

// LeaseOptions say where leases come from.
type LeaseOptions struct {
	// Shared is the store that instances share. Required.
	Shared Granter
	// Keys is how many counts units are held of at once. 0 means DefaultLeases.
	Keys int
	// Now is the clock that calls are timed by; it must have a monotonic reading,
	// as time.Now does, which is what nil means. The times given to Take and Settle
	// are by the same clock.
	Now func() time.Time
	// Observe, if not nil, is told of every settling that failed without a caller
	// to tell. It must not block.
	Observe func(error)
}

// Leases are a Store that takes from policies with a MaxExcess without asking the
// shared one each time: it is granted units in advance, at most so many that in
// no stretch of time more than MaxExcess of the Quota is admitted beyond what the
// policy allows, however many instances there are (see Policy.Lend). Policies
// without MaxExcess, costs above MaxExcess*Quota, and policies in which that is
// less than a unit are taken from the shared store as ever, in one call.
//
// A take that is denied here costs no call, and its RetryAfter is exact, as far as
// anybody knows: what others were granted meanwhile is not. Where policies without
// leases stand in the same call they are not asked then, and RetryAfter is a lower
// bound: they may have no room for longer. What the shared store last said of one
// that denied such a call is remembered, and RetryAfter is no shorter than that. An
// error of the shared store is returned only where there is nothing left to decide
// with.
//
// Units given back serve the next take here. What there is no place for, and what
// is charged after the fact, reaches the shared store with the next call, at the
// latest after 50 milliseconds, and at once when it is worth half of what may be in
// excess. When such a call fails nobody knows whether it arrived: then what was
// given back is lost, and what was charged is charged again.
//
// When there is no room for another count, the one of a few that was used
// longest ago makes it; its units are lost, and come back with time.
type Leases struct {
	options LeaseOptions
	start   time.Time
	epoch   int64
	seed    maphash.Seed
	each    int // counts in a shard
	shards  [leaseShards]leaseShard

	mu    sync.Mutex
	queue []*lease // guarded by mu; with something owed

	wake   chan struct{}
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
	calls  atomic.Uint64
	evicts atomic.Uint64
}

// leaseShards is one for each bit of a set of them.
const leaseShards = 64

type leaseShard struct {
	mu     sync.Mutex
	leases map[slotKey]*lease // guarded by mu, with all that they point to
	_      [64 - 16]byte      // a cache line each
}

// NewLeases checks the options and makes Leases. Close ends them.
func NewLeases(o LeaseOptions) (*Leases, error) {
	if o.Shared == nil {
		return nil, errors.New("ratelimit: leases without a shared store")
	}
	if o.Keys <= 0 {
		o.Keys = DefaultLeases
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(error) {}
	}
	now := o.Now()
	l := &Leases{
		options: o,
		start:   now,
		epoch:   now.UnixNano(),
		seed:    maphash.MakeSeed(),
		each:    (o.Keys + leaseShards - 1) / leaseShards,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	for i := range l.shards {
		l.shards[i].leases = map[slotKey]*lease{}
	}
	go l.flushLoop()
	return l, nil
}

// Calls is how many calls of the shared store's Grant were made.
func (l *Leases) Calls() uint64 { return l.calls.Load() }

// Evicted is how many counts had to make room for others.
func (l *Leases) Evicted() uint64 { return l.evicts.Load() }

// clock is the time since the start.
func (l *Leases) clock() int64 { return int64(l.options.Now().Sub(l.start)) }

// leased reports whether t can be decided with a lease.
func leased(t *Take) bool {
	slack := t.Policy.Slack()
	interval := t.Policy.ready.interval
	return slack > 0 && interval <= slack && t.Cost <= min(t.Policy.ready.burst, MaxUnits) && time.Duration(max(t.Cost, 0)) <= slack/interval
}

// leaseRounds is how often one call asks for grants before it takes from the
// shared store instead: the units that it was granted were others' each time.
const leaseRounds = 3

// leaseTakes is one call of Take or Settle.
type leaseTakes struct {
	*Leases
	takes  []Take
	now    int64
	shards uint64 // the set of those that hold the counts
	strict uint32 // the set of takes that the shared store decides
	asking uint32 // the set of takes for which a grant is needed
	at     [MaxTakes]uint8
	leases [MaxTakes]*lease
}

// Take implements Store.
func (l *Leases) Take(ctx context.Context, takes []Take, now time.Time) (bool, error) {
	if err := Check(takes); err != nil {
		return false, err
	}
	c := leaseTakes{Leases: l, takes: takes, now: int64(now.Sub(l.start))}
	if c.classify() == len(takes) {
		return l.options.Shared.Take(ctx, takes, now)
	}
	for round := 0; ; round++ {
		allowed, decided := c.try(round == 0)
		if decided {
			if !allowed || c.strict == 0 {
				return allowed, nil
			}
			return c.takeStrict(ctx, now)
		}
		if err := c.ask(ctx, now, round); err != nil {
			return false, err
		}
	}
}

// ask gets the grants that are needed. After leaseRounds the shared store decides
// what still needs one, so every further round has fewer leases to try.
func (c *leaseTakes) ask(ctx context.Context, now time.Time, round int) error {
	if round >= leaseRounds {
		c.strict |= c.asking
		return nil
	}
	err := c.refill(ctx, now)
	c.now = max(c.now, c.clock())
	return err
}

// classify says which takes the shared store decides, and returns how many. A
// count that stands twice is leased once, so that no sum of costs is more than a
// lease can hold.
func (c *leaseTakes) classify() (strict int) {
	for i := range c.takes {
		t := &c.takes[i]
		if t.Mode == Unasked {
			t.Mode = Shared
		}
		ok := leased(t)
		for j := 0; ok && j < i; j++ {
			ok = c.takes[j].Policy.ready.id != t.Policy.ready.id || c.takes[j].Key != t.Key
		}
		if !ok {
			c.strict |= 1 << i
			strict++
			continue
		}
		c.place(i)
	}
	return strict
}

// place says which shard the i-th take's count is in.
func (c *leaseTakes) place(i int) {
	c.at[i] = c.shardOf(c.takes[i].Policy.ready.id, c.takes[i].Key)
	c.shards |= 1 << c.at[i]
}

func (l *Leases) shardOf(policy uint64, key string) uint8 {
	hash := maphash.String(l.seed, key) ^ policy
	return uint8((hash ^ hash>>32) % leaseShards)
}

// lock locks the shards of all counts, in ascending order.
func (c *leaseTakes) lock() {
	for set := c.shards; set != 0; set &= set - 1 {
		c.Leases.shards[bits.TrailingZeros64(set)].mu.Lock()
	}
}

func (c *leaseTakes) unlock() {
	for set := c.shards; set != 0; set &= set - 1 {
		c.Leases.shards[bits.TrailingZeros64(set)].mu.Unlock()
	}
}

// try takes from all leases or from none. decided is false where a grant is needed
// first.
func (c *leaseTakes) try(first bool) (allowed, decided bool) {
	c.lock()
	defer c.unlock()
	allowed, c.asking = true, 0
	var used, denied uint32
	for i := range c.takes {
		if c.strict&(1<<i) != 0 {
			continue
		}
		t := &c.takes[i]
		l := c.lease(i)
		c.leases[i] = l
		if first {
			l.demand += max(t.Cost, 0)
		}
		v, d := l.decide(max(t.Cost, 0), c.now)
		t.Decision, t.Taken = d, c.epoch+c.now
		switch v {
		case taken:
			used |= 1 << i
		case refused:
			if !t.Policy.ready.shadow {
				allowed = false
				denied |= 1 << i
			}
		case unknown:
			c.asking |= 1 << i
		}
	}
	if allowed && c.asking == 0 {
		return true, true
	}
	for set := used; set != 0; set &= set - 1 {
		c.back(bits.TrailingZeros32(set))
	}
	if !allowed {
		c.advise(denied)
		c.unasked()
	}
	return allowed, !allowed
}

// back puts what the i-th take used back in its place. The caller holds the lock.
func (c *leaseTakes) back(i int) {
	l, t := c.leases[i], &c.takes[i]
	cost := max(t.Cost, 0)
	if rest := cost - l.unuse(cost, c.now); rest > 0 {
		c.owe(l, -rest)
	}
	t.Decision = l.decision(c.now, Decision{Allowed: true})
}

// lease is that of the i-th take. The caller holds the lock.
func (c *leaseTakes) lease(i int) *lease {
	t := &c.takes[i]
	shard := &c.Leases.shards[c.at[i]]
	key := slotKey{policy: t.Policy.ready.id, key: t.Key}
	l := shard.leases[key]
	if l == nil {
		if len(shard.leases) >= c.each {
			shard.evict()
			c.evicts.Add(1)
		}
		l = &lease{key: key, policy: t.Policy, since: c.now}
		shard.leases[key] = l
	}
	if !l.policy.same(t.Policy) {
		c.change(l, t.Policy)
	}
	l.used = c.now
	return l
}

// change makes l a lease of p, which has other numbers: what was granted by the
// old ones is lost, and what is owed by them is settled by them. The policy of the
// latest take is taken for the newest: requests take when they begin, so those of an
// old configuration do so for moments only, and what they settle much later changes
// nothing here. The caller holds the lock.
func (c *leaseTakes) change(l *lease, p *Policy) {
	c.settleApart(l.key, l.policy, l.owed)
	l.policy, l.owed = p, 0
	l.count, l.asked, l.denied, l.valid, l.rate = 0, 0, false, 0, 0
}

// evict forgets the one of a few leases that was used longest ago. What it owes
// is in the queue. The caller holds the lock.
func (s *leaseShard) evict() {
	const few = 8
	var oldest *lease
	n := 0
	for _, l := range s.leases {
		if oldest == nil || oldest.call != nil || l.call == nil && l.used < oldest.used {
			oldest = l
		}
		if n++; n == few {
			break
		}
	}
	delete(s.leases, oldest.key)
}
