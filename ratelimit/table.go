package ratelimit

import (
	"sync"
	"sync/atomic"
)

// cell is what a table keeps of one count: when it is free, and what is used.
type cell interface {
	[1]int64 | [3]int64
}

// table is a hash table of fixed size: a count has its place in one group, and
// nowhere else.
type table[C cell] struct {
	groups []group[C]
}

// slotsPerGroup makes a group of buckets two cache lines, with its lock in the
// first: a take touches no other memory.
const slotsPerGroup = 7

type group[C cell] struct {
	mu    sync.Mutex    // guards slots
	read  atomic.Uint64 // never written
	slots [slotsPerGroup]slot[C]
}

// slot is one count. The low six bits of tag are the exponent of the policy's
// capacity, for judging debts; the others are from the hash. The first integer of
// the cell is when the count is free, by the store's clock.
type slot[C cell] struct {
	tag  uint64
	cell C
}

const scaleBits = 6

func newTable[C cell](groups int) table[C] { return table[C]{make([]group[C], groups)} }

func (t *table[C]) index(hash uint64) uint64 { return hash & uint64(len(t.groups)-1) }

func (t *table[C]) group(hash uint64) *group[C] { return &t.groups[t.index(hash)] }

// tag is what a slot of the count is known by.
func (g *gauge) tag(hash uint64) uint64 {
	// The lowest bits chose the group; those above tell its slots apart.
	return hash&^(1<<scaleBits-1) | uint64(g.scale)
}

// near reads from b without waiting for it, so that it is in the cache when it is
// needed.
func (b *group[C]) near() { b.read.Load() }

// is reports whether s is tag's.
func (s *slot[C]) is(tag uint64) bool { return (s.tag^tag)>>scaleBits == 0 }

// own returns the tag's slot, nil where it has none. The caller holds b.mu.
func (b *group[C]) own(tag uint64) *slot[C] {
	for i := range b.slots {
		if b.slots[i].is(tag) {
			return &b.slots[i]
		}
	}
	return nil
}

// find returns the tag's cell, zero where it has none.
func (b *group[C]) find(tag uint64) (none C) {
	if s := b.own(tag); s != nil {
		return s.cell
	}
	return none
}

// put writes into the tag's slot, else into a free one, else into the one with
// the least debt; then it returns true. The caller holds b.mu.
func (b *group[C]) put(tag uint64, value C, now int64) (evicted bool) {
	var target *slot[C]
	least := 0.0
	for i := range b.slots {
		s := &b.slots[i]
		// A slot once given to a tag stays the tag's even when it is free: were
		// the tag put into another one, a call whose clock was read a moment
		// earlier could find the old one and count from it.
		if s.is(tag) {
			s.tag, s.cell = tag, value
			return false
		}
		if debt := s.debt(now); target == nil || debt < least {
			target, least = s, debt
		}
	}
	target.tag, target.cell = tag, value
	return least > 0
}

// debt is the part of the capacity that is used up, to within a factor of two.
func (s *slot[C]) debt(now int64) float64 {
	used := s.cell[0] - now
	if used <= 0 {
		return 0
	}
	if len(s.cell) > 1 {
		used = 0
		for i := 1; i < len(s.cell); i++ {
			used += s.cell[i]
		}
	}
	return float64(used) / float64(uint64(1)<<(s.tag&(1<<scaleBits-1)))
}
