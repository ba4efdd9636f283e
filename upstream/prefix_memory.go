package upstream

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

const (
	// prefixMost is how many blocks are remembered: 128 MiB of different prompts, in 3
	// MiB of memory for each pool that balances by prefix.
	prefixMost = 1 << 17
	// prefixHolders is how many targets are remembered for one block, the latest. A
	// block with which everybody's prompts begin is soon in every cache.
	prefixHolders = 6
	// prefixWays is how many blocks share a set.
	prefixWays = 8
)

// prefixMemory remembers which targets each block was sent to. Like the cache of a
// processor it is divided into sets: a block is in the one that its hash says, in
// place of the block there that was not used for the longest time. That forgets nearly
// what a list of all blocks in the order of their use would, and needs no list: what a
// prompt's 16 blocks cost is reading 16 places in memory, all at once. It is not safe
// for concurrent use.
type prefixMemory struct {
	sets []prefixSet
	// secret spreads hashes over the sets in a way that nobody can foresee, so that
	// nobody can fill a set on purpose (Dietzfelbinger and others, A Reliable Randomized
	// Algorithm for the Closest-Pair Problem, 1997).
	secret uint64
	shift  int
	now    uint32 // counts prompts; may wrap
	// busy is, during a search, the load of each target that may be chosen for a unit
	// of its weight: +Inf where it is too busy, absent where it may not be chosen.
	busy []float64
}

// prefixSet is laid out so that a search reads one line of the processor's cache.
type prefixSet struct {
	keys [prefixWays]uint64
	used [prefixWays]uint32 // prefixMemory.now at the time
	// held are numbers of targets, plus 1, the latest first; 0: none.
	held [prefixWays][prefixHolders]uint16
}

// absent is the load of a target that may not be chosen.
const absent = -1

// newPrefixMemory remembers most blocks, a power of two and at least prefixWays.
func newPrefixMemory(targets, most int) *prefixMemory {
	m := &prefixMemory{
		sets:   make([]prefixSet, most/prefixWays),
		secret: rand.Uint64() | 1,
		busy:   make([]float64, targets),
	}
	m.shift = 64 - bits.TrailingZeros(uint(len(m.sets)))
	for i := range m.busy {
		m.busy[i] = absent
	}
	return m
}

// places are where the blocks of a prefix are remembered: the way in their sets, or
// -1 for those that are not.
type places [prefixBlocks]int8

func (m *prefixMemory) set(key uint64) *prefixSet { return &m.sets[key*m.secret>>m.shift] }

// find looks the blocks of a prefix up.
func (m *prefixMemory) find(prefix Prefix) (at places) {
	for i, key := range prefix {
		at[i] = -1
		for way, k := range &m.set(key).keys {
			if k == key {
				at[i] = int8(way)
				break
			}
		}
	}
	return at
}

// holder is the target that holds the most blocks of a prefix, of those whose load by
// busy is finite; of several that hold as much, the least busy. It is -1 where there
// is none; then known tells whether one of targets, too busy as it is, holds a block.
func (m *prefixMemory) holder(prefix Prefix, at *places, targets []int, busy func(int) float64) (best int, known bool) {
	for _, i := range targets {
		m.busy[i] = busy(i)
	}
	best = -1
	for i := len(prefix) - 1; i >= 0 && best < 0; i-- {
		if at[i] < 0 {
			continue
		}
		least := math.Inf(1)
		for _, h := range m.set(prefix[i]).held[at[i]] {
			if h == 0 {
				break
			}
			load := m.busy[h-1]
			if load == absent {
				continue
			}
			known = true
			if load < least {
				best, least = int(h-1), load
			}
		}
	}
	for _, i := range targets {
		m.busy[i] = absent
	}
	return best, known
}

// sent notes that target was sent a prefix whose blocks were found at these places.
func (m *prefixMemory) sent(prefix Prefix, at *places, target int) {
	if target >= math.MaxUint16 {
		return
	}
	m.now++
	for i, key := range prefix {
		s, way := m.set(key), at[i]
		if way < 0 || s.keys[way] != key { // or its place was taken by a block before it
			way = s.oldest(m.now)
			s.keys[way], s.held[way] = key, [prefixHolders]uint16{}
		}
		s.used[way] = m.now
		hold(&s.held[way], uint16(target+1))
	}
}

// oldest is the way that was not used for the longest time.
func (s *prefixSet) oldest(now uint32) (way int8) {
	age := uint32(0)
	for i, used := range &s.used {
		if now-used > age {
			way, age = int8(i), now-used
		}
	}
	return way
}

// hold puts a target first.
func hold(held *[prefixHolders]uint16, target uint16) {
	before := target
	for i, h := range held {
		held[i] = before
		if h == target || h == 0 {
			return
		}
		before = h
	}
}
