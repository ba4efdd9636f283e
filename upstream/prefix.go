package upstream

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"
)

const (
	// prefixBlock is how many bytes of a prompt one hash stands for: about 256 tokens,
	// of which the blocks that model servers cache, 16 to 64 tokens, are parts.
	prefixBlock = 1 << 10
	// prefixBlocks is how many blocks are told apart. Prompts with the same first 16
	// KiB are one conversation, or nearly so, wherever they differ later.
	prefixBlocks = 16
)

// Prefix is what a prompt begins with: a hash for each of its first blocks of 1 KiB,
// 16 at most. Each hash stands for all before it, too, so that two prompts have the
// first n hashes in common if, and for all purposes only if, they have the first n
// blocks in common.
type Prefix []uint64

// PrefixOf hashes the first blocks of a prompt. What is behind the last whole block
// is left out, unless there is none: then the one hash is of all there is. Nil stands
// for an empty prompt.
//
// Prompts whose salts differ have nothing in common. It holds what separates the
// caches of a model server: its model. And the caller, or whoever may share his
// cache: else anybody could tell by the time of his own answer whether somebody else
// has sent the same prompt.
//
// The hashes are the same in all processes, so that several gateways agree. They
// come from SHA-256: nobody can make a prompt that is taken for somebody else's.
func PrefixOf(salt string, prompt []byte) Prefix {
	if len(prompt) == 0 {
		return nil
	}
	n := min(max(len(prompt)/prefixBlock, 1), prefixBlocks)
	all := make(Prefix, n)
	var input [sha256.Size + prefixBlock]byte
	state := sha256.Sum256([]byte(salt))
	for i := range all {
		size := copy(input[:], state[:])
		size += copy(input[size:], prompt[i*prefixBlock:])
		state = sha256.Sum256(input[:size])
		all[i] = binary.LittleEndian.Uint64(state[:])
	}
	return all
}

// boundedLoad is how many times its fair share of the load a target may have and
// still be given what it has cached (Mirrokni, Thorup and Zadimoghaddam, Consistent
// Hashing with Bounded Loads, 2016).
const boundedLoad = 1.25

// prefixBalance sends a prompt where its beginning was sent before, so that the
// model server finds it in its cache, as long as this target is not much busier than
// the others. Each request is judged by itself, by the targets that hold its own
// prefix: that a third one is overloaded is no reason to give its cache up. Where
// all that hold it are too busy, two choices. A prompt of which nothing is known, or
// only by targets that are gone, goes where a hash of its first block says, and never
// where the cache is the emptiest: several gateways agree about it without a word,
// and an empty cache is no sign of an idle server.
type prefixBalance struct {
	targets []*target
	ids     []uint64 // of targets, by their names: the same in all gateways
	spill   *twoChoices
	mu      sync.Mutex
	memory  *prefixMemory // guarded by mu
}

func newPrefixBalance(targets []*target) *prefixBalance {
	b := &prefixBalance{targets: targets, spill: newTwoChoices(targets), memory: newPrefixMemory(len(targets), prefixMost)}
	for _, t := range targets {
		id := sha256.Sum256([]byte(t.name))
		b.ids = append(b.ids, binary.LittleEndian.Uint64(id[:]))
	}
	return b
}

func (b *prefixBalance) choose(targets []int, outstanding loads, prefix Prefix) int {
	if len(prefix) == 0 {
		return b.spill.choose(targets, outstanding, nil)
	}
	prefix = prefix[:min(len(prefix), prefixBlocks)]
	b.mu.Lock()
	defer b.mu.Unlock()
	chosen, at := b.pickLocked(targets, outstanding, prefix)
	if chosen < 0 {
		chosen = b.spill.choose(targets, outstanding, nil)
	}
	b.memory.sent(prefix, &at, chosen)
	return chosen
}

func (b *prefixBalance) preview(targets []int, outstanding loads, prefix Prefix) int {
	if len(prefix) == 0 {
		return b.spill.preview(targets, outstanding, nil)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	chosen, _ := b.pickLocked(targets, outstanding, prefix[:min(len(prefix), prefixBlocks)])
	if chosen < 0 {
		return b.spill.preview(targets, outstanding, nil)
	}
	return chosen
}

// pickLocked is the target that prefix belongs to, and the places of its blocks: -1
// where those that hold it are too busy.
func (b *prefixBalance) pickLocked(targets []int, outstanding loads, prefix Prefix) (int, places) {
	room := b.bound(targets, outstanding)
	at := b.memory.find(prefix)
	chosen, known := b.memory.holder(prefix, &at, targets, func(i int) float64 {
		if !room.has(outstanding.of(i), b.targets[i].weight.Load()) {
			return math.Inf(1)
		}
		return outstanding.of(i) / float64(b.targets[i].weight.Load())
	})
	if chosen < 0 && !known {
		chosen = b.cold(targets, outstanding, prefix[0], room)
	}
	return chosen, at
}

// bound says how busy a target may be to be given more.
type bound struct {
	share float64 // requests for a unit of weight
	cost  float64 // of one request
}

// bound makes the bound of those targets that may be chosen. One that is gone would
// make all others look too busy if it had a share.
func (b *prefixBalance) bound(targets []int, outstanding loads) bound {
	var load, weight float64
	var requests int64
	for _, i := range targets {
		load += outstanding.of(i)
		requests += b.targets[i].inFlight.Load()
		weight += float64(b.targets[i].weight.Load())
	}
	cost := 1.0
	if requests > 0 && load > 0 {
		cost = load / float64(requests)
	}
	return bound{share: boundedLoad * (load/cost + 1) / weight, cost: cost}
}

// has reports whether a target with this load may be given more. The bound is
// rounded up to whole requests of average cost: where few are at work, a fair share
// is less than one, and a target with a single one would be too busy for the next
// turn of its conversation. One target at least always has room.
func (b bound) has(load float64, weight int64) bool {
	return load <= math.Ceil(b.share*float64(weight))*b.cost
}

// cold takes the target that comes first for key in an order of its own for each
// key (rendezvous hashing, with the weights of Schindelhauer and Schomaker, 2005), of
// those that have room. One that is added or lost changes the place of no keys but
// those that it gets, or had.
func (b *prefixBalance) cold(targets []int, outstanding loads, key uint64, room bound) int {
	best, first := targets[0], math.Inf(1)
	for _, i := range targets {
		if !room.has(outstanding.of(i), b.targets[i].weight.Load()) {
			continue
		}
		// Exponentially distributed with the weight as its rate: the least of several is
		// target i's with a probability of its part of all weights.
		if score := -math.Log(unit(mix(key^b.ids[i]))) / float64(b.targets[i].weight.Load()); score < first {
			best, first = i, score
		}
	}
	return best
}

// unit is a number above 0 and at most 1.
func unit(hash uint64) float64 { return float64(hash>>11+1) / (1 << 53) }

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of x
// changes about half the bits of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
