package ratelimit

import (
	"context"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultKeys is how many counts a memory store has room for unless told.
const DefaultKeys = 1 << 17

// MemoryStore keeps counts in tables of fixed size, never more: 32 bytes for each
// count of a token bucket that it has room for, and, from the first policy with
// windows on, 60 more for those. It needs no clean-up: a bucket that is full
// again, or a window that is over, is the same as one never used, so its slot in
// the table is free. The slots of concurrent policies take memory only while
// they are held.
//
// When more callers are in debt than there is room, the place of the one with
// the least debt, relative to its burst, is reused: a flood of new callers
// displaces other callers of little weight, not the one that is blocked. A
// displaced caller gains at most the debt that it had. Evicted counts these.
//
// Counts are found by a seeded 64-bit hash, so collisions cannot be made from
// outside; that any two of a million callers share one by chance has a
// probability of about 3 in 100 million.
type MemoryStore struct {
	start   time.Time
	epoch   int64 // start, in nanoseconds since the Unix epoch
	seed    maphash.Seed
	buckets table[[1]int64]
	// windows is made when the first policy needs it.
	windows func() *table[[3]int64]
	held    held
	evicted atomic.Uint64
}

// NewMemoryStore makes a store with room for about keys counts (rounded up to a
// power of two). 0 means DefaultKeys.
func NewMemoryStore(keys int) *MemoryStore { return NewMemoryStoreAt(keys, time.Now()) }

// NewMemoryStoreAt is NewMemoryStore with a clock that begins at start: no time that
// the store is told may be before that. It is for simulations.
func NewMemoryStoreAt(keys int, start time.Time) *MemoryStore {
	if keys <= 0 {
		keys = DefaultKeys
	}
	// On average four slots of a full table's groups are used, so few groups
	// overflow before the table does.
	n := max(2, 1<<bits.Len(uint(keys-1))/4)
	return &MemoryStore{
		start:   start,
		epoch:   start.UnixNano(),
		seed:    maphash.MakeSeed(),
		buckets: newTable[[1]int64](n),
		windows: sync.OnceValue(func() *table[[3]int64] {
			t := newTable[[3]int64](n)
			return &t
		}),
	}
}

// Evicted is how many counts of callers in debt had to make room.
func (s *MemoryStore) Evicted() uint64 { return s.evicted.Load() }

// Held is how many slots of concurrent policies are held.
func (s *MemoryStore) Held() int { return s.held.len() }

// Take implements Store. It takes under the locks of all counts at once, so
// that exactly what fits is admitted, whatever runs beside it.
func (s *MemoryStore) Take(_ context.Context, takes []Take, now time.Time) (bool, error) {
	if len(takes) == 1 {
		if t := &takes[0]; t.Policy != nil && t.Policy.ready != nil && t.Policy.ready.kind == bucket {
			return s.takeOne(t, s.unix(now)), nil
		}
	}
	if err := Check(takes); err != nil {
		return false, err
	}
	return s.takeAll(takes, s.unix(now)), nil
}

// takeOne is the way of most requests: one bucket, under one lock.
func (s *MemoryStore) takeOne(t *Take, now int64) bool {
	g := t.Policy.ready
	hash := s.hash(g, t.Key)
	tag, evicted := g.tag(hash), false
	b := s.buckets.group(hash)
	b.mu.Lock()
	own := b.own(tag)
	full := now
	if own != nil {
		full = own.cell[0]
	}
	next := g.decideBucket(time.Duration(full), time.Duration(now), max(t.Cost, 0), &t.Decision)
	switch {
	case int64(next) <= now: // nothing is used
	case own != nil:
		own.tag, own.cell[0] = tag, int64(next)
	default:
		evicted = b.put(tag, [1]int64{int64(next)}, now)
	}
	b.mu.Unlock()
	t.Taken = now
	if evicted {
		s.evicted.Add(1)
	}
	return t.Decision.Allowed || g.shadow
}

// raise sees to it that no more than remaining units are left of g's count.
func (s *MemoryStore) raise(g *gauge, key string, remaining int64, at time.Time) {
	now := s.unix(at)
	hash := s.hash(g, key)
	tag, evicted := g.tag(hash), false
	if g.kind == bucket {
		full := now + int64(g.capacity) - remaining*int64(g.interval)
		b := s.buckets.group(hash)
		b.mu.Lock()
		if full > max(b.find(tag)[0], now) {
			evicted = b.put(tag, [1]int64{full}, now)
		}
		b.mu.Unlock()
	} else {
		b := s.windows().group(hash)
		b.mu.Lock()
		w := b.find(tag)
		if was := g.roll(State{At: w[0], Used: w[1], Before: w[2]}, now); g.estimate(was, now) < g.burst-remaining {
			used := was.Used + g.burst - remaining - g.estimate(was, now)
			evicted = b.put(tag, [3]int64{was.At, used, was.Before}, now)
		}
		b.mu.Unlock()
	}
	if evicted {
		s.evicted.Add(1)
	}
}

// Settle implements Store.
func (s *MemoryStore) Settle(_ context.Context, takes []Take, now time.Time) error {
	if err := Check(takes); err != nil {
		return err
	}
	for i := range takes {
		var room [1]place
		c := call{store: s, takes: takes[i : i+1], now: s.unix(now)}
		c.settle(room[:])
	}
	return nil
}

// unix is now by the store's clock, which starts with the system's and does not
// jump with it.
func (s *MemoryStore) unix(now time.Time) int64 {
	// To the year 2116: then no sum with a debt overflows.
	return min(s.epoch+min(max(0, int64(now.Sub(s.start))), math.MaxInt64/2), math.MaxInt64/2)
}

func (s *MemoryStore) hash(g *gauge, key string) uint64 {
	return g.hash(maphash.String(s.seed, key))
}

// hash is that of g's count for a key with the seeded hash.
func (g *gauge) hash(key uint64) uint64 {
	// The multiplication spreads the policy's part over all bits; the seeded
	// hash of the key keeps the sum unpredictable.
	hi, lo := bits.Mul64(key^g.id, 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// call is one call of a store that holds more than one lock.
type call struct {
	store  *MemoryStore
	takes  []Take
	now    int64
	order  [MaxTakes]uint8  // of counts, each lock once and ascending
	locked int              // of order
	wide   *table[[3]int64] // of windows; nil where no take needs it

	previews bool // it takes nothing, whatever is allowed
}

// place is where one of the counts is, and what the call makes of it.
type place struct {
	hash  uint64
	lock  lockID
	state State           // as it is to be written
	own   *slot[[1]int64] // of a bucket, where it has one
}

// fewTakes is how many most calls have at most. To clear room for the most that a
// call can have would cost them as much as the rest.
const fewTakes = 4

func (s *MemoryStore) takeAll(takes []Take, now int64) bool {
	if len(takes) <= fewTakes {
		var room [fewTakes]place
		c := call{store: s, takes: takes, now: now}
		return c.take(room[:len(takes)])
	}
	var room [MaxTakes]place
	c := call{store: s, takes: takes, now: now}
	return c.take(room[:len(takes)])
}

// take decides all, and only then writes: what is denied leaves no trace.
func (c *call) take(counts []place) bool {
	c.lock(counts)
	allowed := !c.previews
	for i := range c.takes {
		t := &c.takes[i]
		g, cost := t.Policy.ready, t.Cost
		c.state(counts, i)
		if g.kind == slots && c.holds(counts, i) {
			cost = 0
		}
		g.decide(&counts[i].state, cost, c.now, &t.Decision)
		t.Taken = c.now
		allowed = allowed && (t.Decision.Allowed || g.shadow)
	}
	for i := range c.takes {
		t := &c.takes[i]
		switch {
		case !allowed: // what is left, is left over again: say so
			yes, wait := t.Decision.Allowed, t.Decision.RetryAfter
			c.load(i, &counts[i])
			t.Policy.ready.decide(&counts[i].state, 0, c.now, &t.Decision)
			t.Decision.Allowed, t.Decision.RetryAfter = yes, wait
		case t.Decision.Allowed && t.Cost > 0:
			c.write(i, &counts[i])
		}
	}
	c.unlock(counts)
	return allowed
}

func (c *call) settle(counts []place) {
	c.lock(counts)
	t, n := &c.takes[0], &counts[0]
	g := t.Policy.ready
	c.load(0, n)
	switch was := n.state; {
	case t.Cost == 0:
	case g.kind != slots:
		n.state = t.Policy.Settle(was, t.Cost, t.Taken, c.now)
		if !g.idle(was, c.now) || !g.idle(n.state, c.now) {
			c.write(0, n) // a count of nothing may not displace anybody
		}
	case t.Cost < 0:
		c.store.held.shard(n.hash).free(c.slotKey(0), t.ID)
		c.load(0, n)
	}
	g.decide(&n.state, 0, c.now, &t.Decision)
	t.Decision.Allowed, t.Decision.RetryAfter = true, 0
	c.unlock(counts)
}

// state sets the i-th state to the count as the takes before it in this call leave
// it.
func (c *call) state(counts []place, i int) {
	c.load(i, &counts[i])
	for j := i - 1; j >= 0; j-- {
		if counts[j].hash == counts[i].hash && c.takes[j].Policy.ready.id == c.takes[i].Policy.ready.id && c.takes[j].Decision.Allowed {
			counts[i].state = counts[j].state
			return
		}
	}
}

// load sets the i-th state to the count as it is.
func (c *call) load(i int, n *place) {
	g := c.takes[i].Policy.ready
	switch g.kind {
	case bucket:
		n.state.At, n.own = 0, c.store.buckets.group(n.hash).own(g.tag(n.hash))
		if n.own != nil {
			n.state.At = n.own.cell[0]
		}
	case slots:
		n.state.Used = int64(len(c.store.held.shard(n.hash).by[c.slotKey(i)]))
	default:
		w := c.wide.group(n.hash).find(g.tag(n.hash))
		n.state.At, n.state.Used, n.state.Before = w[0], w[1], w[2]
	}
}

func (c *call) write(i int, n *place) {
	g := c.takes[i].Policy.ready
	tag, evicted := g.tag(n.hash), false
	switch {
	case g.kind == slots:
		c.store.held.shard(n.hash).hold(c.slotKey(i), c.takes[i].ID)
	case g.kind != bucket:
		evicted = c.wide.group(n.hash).put(tag, [3]int64{n.state.At, n.state.Used, n.state.Before}, c.now)
	case n.own != nil && n.own.is(tag): // an earlier take of this call may have displaced it
		n.own.tag, n.own.cell[0] = tag, n.state.At
	default:
		evicted = c.store.buckets.group(n.hash).put(tag, [1]int64{n.state.At}, c.now)
	}
	if evicted {
		c.store.evicted.Add(1)
	}
}

// holds reports whether the i-th take has its slot already.
func (c *call) holds(counts []place, i int) bool {
	for j := range i {
		if counts[j].hash == counts[i].hash && c.slotKey(j) == c.slotKey(i) && c.takes[j].ID == c.takes[i].ID && c.takes[j].Decision.Allowed && c.takes[j].Cost > 0 {
			return true
		}
	}
	_, ok := c.store.held.shard(counts[i].hash).by[c.slotKey(i)][c.takes[i].ID]
	return ok
}

func (c *call) slotKey(i int) slotKey {
	return slotKey{policy: c.takes[i].Policy.ready.id, key: c.takes[i].Key}
}

// lockID orders the locks of all tables, so that two calls cannot wait for each
// other: the kind of the table above, the place in it below.
type lockID uint64

const lockKindShift = 56

// lock locks the places of all counts, each once and in ascending order.
func (c *call) lock(counts []place) {
	var key uint64
	for i := range c.takes {
		if i == 0 || c.takes[i].Key != c.takes[i-1].Key { // most policies are by caller
			key = maphash.String(c.store.seed, c.takes[i].Key)
		}
		c.find(i, &counts[i], key)
	}
	for i := range counts {
		id, at := counts[i].lock, c.locked
		for at > 0 && counts[c.order[at-1]].lock > id {
			at--
		}
		if at > 0 && counts[c.order[at-1]].lock == id {
			continue
		}
		copy(c.order[at+1:c.locked+1], c.order[at:c.locked])
		c.order[at] = uint8(i)
		c.locked++
	}
	for _, i := range c.order[:c.locked] {
		c.mutex(counts[i].lock).Lock()
	}
}

func (c *call) unlock(counts []place) {
	for _, i := range c.order[:c.locked] {
		c.mutex(counts[i].lock).Unlock()
	}
}

// find works out where the i-th count is, and has its memory brought near: what is
// far away comes for all of them at once, before a lock waits for each.
func (c *call) find(i int, n *place, key uint64) {
	g := c.takes[i].Policy.ready
	n.hash = g.hash(key)
	switch g.kind {
	case bucket:
		n.lock = lockID(c.store.buckets.index(n.hash))
		c.store.buckets.groups[n.lock].near()
	case slots:
		n.lock = 2<<lockKindShift | lockID(n.hash%heldShards)
	default:
		if c.wide == nil {
			c.wide = c.store.windows()
		}
		at := c.wide.index(n.hash)
		c.wide.groups[at].near()
		n.lock = 1<<lockKindShift | lockID(at)
	}
}

func (c *call) mutex(id lockID) *sync.Mutex {
	at := uint64(id) & (1<<lockKindShift - 1)
	switch id >> lockKindShift {
	case 0:
		return &c.store.buckets.groups[at].mu
	case 1:
		return &c.wide.groups[at].mu
	}
	return &c.store.held.shards[at].mu
}
