package ratelimit

import (
	"context"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// DefaultKeys is how many counts a memory store has room for unless told.
const DefaultKeys = 1 << 17

// MemoryStore keeps counts in one table of fixed size: 32 bytes for each count
// that it has room for, allocated at once, never more. It needs no clean-up: a
// bucket that is full again is the same as one never used, so its slot is free.
//
// When more callers are in debt than there is room, the slot of the one with
// the least debt, relative to its burst, is reused: a flood of new callers
// displaces other callers of little weight, not the one that is blocked. A
// displaced caller gains at most the debt that it had. Evicted counts these.
//
// Counts are found by a seeded 64-bit hash, so collisions cannot be made from
// outside; that any two of a million callers share one by chance has a
// probability of about 3 in 100 million.
type MemoryStore struct {
	start   time.Time
	seed    maphash.Seed
	groups  []group
	evicted atomic.Uint64
}

// slotsPerGroup makes a group two cache lines, with its lock in the first: a
// take touches no other memory.
const slotsPerGroup = 7

type group struct {
	mu    sync.Mutex // guards slots
	_     [16 - unsafe.Sizeof(sync.Mutex{})]byte
	slots [slotsPerGroup]slot
}

// slot is one count. The low six bits of tag are the exponent of the policy's
// capacity, for judging debts; the others are from the hash.
type slot struct {
	tag  uint64
	full time.Duration // since start; not after now: the slot is free
}

const scaleBits = 6

// NewMemoryStore makes a store with room for about keys counts (rounded up to a
// power of two). 0 means DefaultKeys.
func NewMemoryStore(keys int) *MemoryStore {
	if keys <= 0 {
		keys = DefaultKeys
	}
	// On average four slots of a full table's groups are used, so few groups
	// overflow before the table does.
	n := max(2, 1<<bits.Len(uint(keys-1))/4)
	return &MemoryStore{start: time.Now(), seed: maphash.MakeSeed(), groups: make([]group, n)}
}

// Evicted is how many counts of callers in debt had to make room.
func (s *MemoryStore) Evicted() uint64 { return s.evicted.Load() }

// Take implements Store. It takes under the locks of all counts at once, so
// that exactly what fits is admitted, whatever runs beside it.
func (s *MemoryStore) Take(_ context.Context, takes []Take, now time.Time) (bool, error) {
	if err := check(takes); err != nil {
		return false, err
	}
	at := s.since(now)
	if len(takes) == 1 {
		t := &takes[0]
		g := t.Policy.ready
		hash := s.hash(g, t.Key)
		b := s.group(hash)
		b.mu.Lock()
		c := s.takeLocked(b, g.tag(hash), t, at)
		b.mu.Unlock()
		s.count(c)
		return t.Decision.Allowed, nil
	}
	return s.takeAll(takes, at), nil
}

// change remembers what a slot held before a take wrote to it.
type change struct {
	slot    *slot
	was     slot
	evicted bool // was belongs to somebody else, who is in debt
}

func (s *MemoryStore) takeAll(takes []Take, at time.Duration) bool {
	var (
		hashes  [MaxTakes]uint64
		changes [MaxTakes]change
	)
	for i := range takes {
		hashes[i] = s.hash(takes[i].Policy.ready, takes[i].Key)
	}
	locked := s.lock(hashes[:len(takes)])
	defer locked.unlock(s)
	allowed := true
	for i := range takes {
		t := &takes[i]
		changes[i] = s.takeLocked(s.group(hashes[i]), t.Policy.ready.tag(hashes[i]), t, at)
		allowed = allowed && t.Decision.Allowed
	}
	if allowed {
		s.count(changes[:len(takes)]...)
		return true
	}
	for i := len(takes) - 1; i >= 0; i-- {
		if c := changes[i]; c.slot != nil {
			*c.slot = c.was
		}
	}
	// What was put back is left over again: say so.
	for i := range takes {
		if t := &takes[i]; t.Decision.Allowed {
			g := t.Policy.ready
			full := s.group(hashes[i]).find(g.tag(hashes[i]), at)
			t.Decision = g.state(full, at, Decision{Allowed: true})
		}
	}
	return false
}

// Settle implements Store.
func (s *MemoryStore) Settle(_ context.Context, takes []Take, now time.Time) error {
	if err := check(takes); err != nil {
		return err
	}
	at := s.since(now)
	for i := range takes {
		t := &takes[i]
		g := t.Policy.ready
		hash := s.hash(g, t.Key)
		b, tag := s.group(hash), g.tag(hash)
		b.mu.Lock()
		was := b.find(tag, at)
		full := g.settle(was, at, t.Cost)
		t.Decision = g.state(full, at, Decision{Allowed: true})
		if full != was { // nothing to write may not displace anybody
			s.count(s.putLocked(b, tag, full, at))
		}
		b.mu.Unlock()
	}
	return nil
}

// count counts the evictions of changes that stay.
func (s *MemoryStore) count(changes ...change) {
	for i := range changes {
		if changes[i].evicted {
			s.evicted.Add(1)
		}
	}
}

func (s *MemoryStore) since(now time.Time) time.Duration { return max(0, now.Sub(s.start)) }

func (s *MemoryStore) hash(g *gauge, key string) uint64 {
	// The multiplication spreads the policy's part over all bits; the seeded
	// hash of the key keeps the sum unpredictable.
	hi, lo := bits.Mul64(maphash.String(s.seed, key)^g.id, 0x9e3779b97f4a7c15)
	return hi ^ lo
}

func (s *MemoryStore) group(hash uint64) *group {
	return &s.groups[hash&uint64(len(s.groups)-1)]
}

// tag marks a slot as this policy's and key's.
func (g *gauge) tag(hash uint64) uint64 {
	return hash&^(1<<scaleBits-1) | uint64(bits.Len64(uint64(g.capacity)))
}

// takeLocked decides t and writes the new count. The caller holds b.mu.
func (s *MemoryStore) takeLocked(b *group, tag uint64, t *Take, at time.Duration) change {
	was := b.find(tag, at)
	var full time.Duration
	full, t.Decision = t.Policy.ready.decide(was, at, t.Cost)
	if full == was || !t.Decision.Allowed {
		return change{}
	}
	return s.putLocked(b, tag, full, at)
}

// find returns when the tag's bucket is full again; at, if it is full.
func (b *group) find(tag uint64, at time.Duration) time.Duration {
	for i := range b.slots {
		if b.slots[i].tag>>scaleBits == tag>>scaleBits {
			return max(b.slots[i].full, at)
		}
	}
	return at
}

// putLocked writes full into the tag's slot, else into a free one, else into
// the one with the least debt. The caller holds b.mu.
func (s *MemoryStore) putLocked(b *group, tag uint64, full, at time.Duration) change {
	var target *slot
	least := 0.0
	for i := range b.slots {
		c := &b.slots[i]
		// A slot once given to a tag stays the tag's even when it is free: were
		// the tag put into another one, a call whose clock was read a moment
		// earlier could find the old one and count from it.
		if c.tag>>scaleBits == tag>>scaleBits {
			target = c
			break
		}
		if debt := c.debt(at); target == nil || debt < least {
			target, least = c, debt
		}
	}
	c := change{slot: target, was: *target}
	c.evicted = target.full > at && target.tag>>scaleBits != tag>>scaleBits
	*target = slot{tag: tag, full: full}
	return c
}

// debt is the part of the capacity that is used up, to within a factor of two.
func (c *slot) debt(at time.Duration) float64 {
	if c.full <= at {
		return 0
	}
	return float64(c.full-at) / float64(uint64(1)<<(c.tag&(1<<scaleBits-1)))
}

// lockedGroups are the indexes of the groups that one call holds, ascending.
type lockedGroups struct {
	index [MaxTakes]uint64
	n     int
}

// lock locks the groups of the hashes, each once and in ascending order, so
// that two calls cannot wait for each other.
func (s *MemoryStore) lock(hashes []uint64) (l lockedGroups) {
	for _, h := range hashes {
		g := h & uint64(len(s.groups)-1)
		i := l.n
		for i > 0 && l.index[i-1] > g {
			i--
		}
		if i > 0 && l.index[i-1] == g {
			continue
		}
		copy(l.index[i+1:l.n+1], l.index[i:l.n])
		l.index[i] = g
		l.n++
	}
	for _, g := range l.index[:l.n] {
		s.groups[g].mu.Lock()
	}
	return l
}

func (l *lockedGroups) unlock(s *MemoryStore) {
	for _, g := range l.index[:l.n] {
		s.groups[g].mu.Unlock()
	}
}
