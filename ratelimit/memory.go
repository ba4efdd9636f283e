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
// windows on, 80 more for those. It needs no clean-up: a bucket that is full
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
func NewMemoryStore(keys int) *MemoryStore {
	if keys <= 0 {
		keys = DefaultKeys
	}
	// On average four slots of a full table's groups are used, so few groups
	// overflow before the table does.
	n := max(2, 1<<bits.Len(uint(keys-1))/4)
	now := time.Now()
	return &MemoryStore{
		start:   now,
		epoch:   now.UnixNano(),
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
	c := call{store: s, takes: takes, now: s.unix(now)}
	return c.take(), nil
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

// Settle implements Store.
func (s *MemoryStore) Settle(_ context.Context, takes []Take, now time.Time) error {
	if err := Check(takes); err != nil {
		return err
	}
	for i := range takes {
		c := call{store: s, takes: takes[i : i+1], now: s.unix(now)}
		c.settle()
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
	// The multiplication spreads the policy's part over all bits; the seeded
	// hash of the key keeps the sum unpredictable.
	hi, lo := bits.Mul64(maphash.String(s.seed, key)^g.id, 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// call is one call of a store that holds more than one lock.
type call struct {
	store  *MemoryStore
	takes  []Take
	now    int64
	hashes [MaxTakes]uint64
	states [MaxTakes]State // as they are to be written
	locks  [MaxTakes]lockID
	locked int
}

// take decides all, and only then writes: what is denied leaves no trace.
func (c *call) take() bool {
	c.lock()
	defer c.unlock()
	allowed := true
	for i := range c.takes {
		t := &c.takes[i]
		g, cost := t.Policy.ready, t.Cost
		c.state(i)
		if g.kind == slots && c.holds(i) {
			cost = 0
		}
		g.decide(&c.states[i], cost, c.now, &t.Decision)
		t.Taken = c.now
		allowed = allowed && (t.Decision.Allowed || t.Policy.ready.shadow)
	}
	for i := range c.takes {
		t := &c.takes[i]
		switch {
		case !allowed: // what is left, is left over again: say so
			yes, wait := t.Decision.Allowed, t.Decision.RetryAfter
			c.load(i)
			t.Policy.ready.decide(&c.states[i], 0, c.now, &t.Decision)
			t.Decision.Allowed, t.Decision.RetryAfter = yes, wait
		case t.Decision.Allowed && t.Cost > 0:
			c.write(i)
		}
	}
	return allowed
}

func (c *call) settle() {
	c.lock()
	defer c.unlock()
	t := &c.takes[0]
	g := t.Policy.ready
	c.load(0)
	switch was := c.states[0]; {
	case t.Cost == 0:
	case g.kind != slots:
		c.states[0] = t.Policy.Settle(was, t.Cost, t.Taken, c.now)
		if !g.idle(was, c.now) || !g.idle(c.states[0], c.now) {
			c.write(0) // a count of nothing may not displace anybody
		}
	case t.Cost < 0:
		c.store.held.shard(c.hashes[0]).free(c.slotKey(0), t.ID)
		c.load(0)
	}
	g.decide(&c.states[0], 0, c.now, &t.Decision)
	t.Decision.Allowed, t.Decision.RetryAfter = true, 0
}

// state sets the i-th state to the count as the takes before it in this call leave
// it.
func (c *call) state(i int) {
	for j := i - 1; j >= 0; j-- {
		if c.hashes[j] == c.hashes[i] && c.takes[j].Policy.ready.id == c.takes[i].Policy.ready.id && c.takes[j].Decision.Allowed {
			c.states[i] = c.states[j]
			return
		}
	}
	c.load(i)
}

// load sets the i-th state to the count as it is.
func (c *call) load(i int) {
	g, hash := c.takes[i].Policy.ready, c.hashes[i]
	switch g.kind {
	case bucket:
		c.states[i] = State{At: c.store.buckets.group(hash).find(g.tag(hash))[0]}
	case slots:
		c.states[i] = State{Used: int64(len(c.store.held.shard(hash).by[c.slotKey(i)]))}
	default:
		w := c.store.windows().group(hash).find(g.tag(hash))
		c.states[i] = State{At: w[0], Used: w[1], Before: w[2]}
	}
}

func (c *call) write(i int) {
	g, hash, s := c.takes[i].Policy.ready, c.hashes[i], c.states[i]
	evicted := false
	switch g.kind {
	case bucket:
		evicted = c.store.buckets.group(hash).put(g.tag(hash), [1]int64{s.At}, c.now)
	case slots:
		c.store.held.shard(hash).hold(c.slotKey(i), c.takes[i].ID)
	default:
		evicted = c.store.windows().group(hash).put(g.tag(hash), [3]int64{s.At, s.Used, s.Before}, c.now)
	}
	if evicted {
		c.store.evicted.Add(1)
	}
}

// holds reports whether the i-th take has its slot already.
func (c *call) holds(i int) bool {
	for j := range i {
		if c.hashes[j] == c.hashes[i] && c.slotKey(j) == c.slotKey(i) && c.takes[j].ID == c.takes[i].ID && c.takes[j].Decision.Allowed && c.takes[j].Cost > 0 {
			return true
		}
	}
	_, ok := c.store.held.shard(c.hashes[i]).by[c.slotKey(i)][c.takes[i].ID]
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
func (c *call) lock() {
	for i := range c.takes {
		g := c.takes[i].Policy.ready
		c.hashes[i] = c.store.hash(g, c.takes[i].Key)
		id := c.store.lockID(g, c.hashes[i])
		at := c.locked
		for at > 0 && c.locks[at-1] > id {
			at--
		}
		if at > 0 && c.locks[at-1] == id {
			continue
		}
		copy(c.locks[at+1:c.locked+1], c.locks[at:c.locked])
		c.locks[at] = id
		c.locked++
	}
	for _, id := range c.locks[:c.locked] {
		c.store.mutex(id).Lock()
	}
}

func (c *call) unlock() {
	for _, id := range c.locks[:c.locked] {
		c.store.mutex(id).Unlock()
	}
}

func (s *MemoryStore) lockID(g *gauge, hash uint64) lockID {
	switch g.kind {
	case bucket:
		return lockID(s.buckets.index(hash))
	case slots:
		return 2<<lockKindShift | lockID(hash%heldShards)
	}
	return 1<<lockKindShift | lockID(s.windows().index(hash))
}

func (s *MemoryStore) mutex(id lockID) *sync.Mutex {
	at := uint64(id) & (1<<lockKindShift - 1)
	switch id >> lockKindShift {
	case 0:
		return &s.buckets.groups[at].mu
	case 1:
		return &s.windows().groups[at].mu
	}
	return &s.held.shards[at].mu
}
