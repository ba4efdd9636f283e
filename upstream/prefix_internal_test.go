package upstream

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// prefixOf makes a balancer by prefix with targets of these weights.
func prefixOf(weights ...int64) *prefixBalance {
	return seeded(newPrefixBalance(targetsOf(weights...)), 1).(*prefixBalance)
}

// prompt is the prefix of a prompt: blocks of which the first shared are everybody's.
func prompt(id, blocks, shared int) (p Prefix) {
	for i := range blocks {
		if i < shared {
			p = append(p, mix(uint64(i)+1))
		} else {
			p = append(p, mix(uint64(id)<<32+uint64(i)))
		}
	}
	return p
}

func all(n int) (targets []int) {
	for i := range n {
		targets = append(targets, i)
	}
	return targets
}

// atWork says that each target has this many requests, of a cost of 100, and returns
// their loads.
func atWork(b *prefixBalance, requests ...int64) loads {
	load := make(loads, len(requests))
	for i, n := range requests {
		b.targets[i].inFlight.Store(n)
		load[i] = 100 * float64(n)
	}
	return load
}

// TestColdPromptsDoNotGoWhereTheCacheIsTheSmallest: a router that balanced caches
// sent all that was new to the server with the fewest known prefixes, which was the
// one that was stuck in heavy work (sgl-project/sglang#14305).
func TestColdPromptsDoNotGoWhereTheCacheIsTheSmallest(t *testing.T) {
	b := prefixOf(1, 1, 1, 1)
	for i := range 3000 {
		b.choose([]int{1, 2, 3}, atWork(b, 0, 1, 1, 1), prompt(i, 5, 0))
	}
	count := func(load loads, from int) (counts [4]int) {
		for i := range 4000 {
			counts[b.choose(all(4), load, prompt(from+i, 5, 0))]++
		}
		return counts
	}
	if got := count(atWork(b, 9, 3, 3, 3), 10_000); got[0] != 0 {
		t.Errorf("%v: the busy target with the empty cache got %d", got, got[0])
	}
	for i, n := range count(atWork(b, 3, 3, 3, 3), 20_000) {
		if math.Abs(float64(n-1000)) > 120 {
			t.Errorf("as busy as the others, target %d got %d of 4000, want its share", i, n)
		}
	}
}

// TestAnOverloadedTargetCostsNobodyElseTheirCache: routers that gave affinity up for
// all while one server was overloaded lost the caches of all others, too, when they
// needed them most (sgl-project/sglang#32195).
func TestAnOverloadedTargetCostsNobodyElseTheirCache(t *testing.T) {
	b := prefixOf(1, 1, 1, 1)
	home := map[int]int{}
	for i := range 400 {
		home[i] = b.choose(all(4), atWork(b, 2, 2, 2, 2), prompt(i, 4, 0))
	}
	second := map[int]int{}
	for turn := range 3 {
		for i := range 400 {
			got := b.choose(all(4), atWork(b, 40, 2, 3, 4), prompt(i, 5+turn, 0))
			switch {
			case home[i] != 0 && got != home[i]:
				t.Fatalf("turn %d of conversation %d went to %d, want %d, where it was", turn, i, got, home[i])
			case home[i] == 0 && got == 0:
				t.Fatalf("turn %d of conversation %d went to the overloaded target", turn, i)
			case home[i] == 0 && turn > 0 && got != second[i]:
				t.Fatalf("turn %d of conversation %d went to %d, want %d, where it was since", turn, i, got, second[i])
			}
			second[i] = got
		}
	}
}

// TestGatewaysThatSeeAPartOfTheLoadKeepItEven: of several gateways each knows of its
// own requests only (smg-project/smg#1621).
func TestGatewaysThatSeeAPartOfTheLoadKeepItEven(t *testing.T) {
	const gateways, targets, each = 4, 4, 200
	random := rand.New(rand.NewPCG(9, 9))
	skewed := rand.NewZipf(random, 1.5, 1, 50)
	var sum [targets]int64
	for range gateways {
		b, own := prefixOf(1, 1, 1, 1), make([]int64, targets)
		for range each {
			got := b.choose(all(targets), atWork(b, own...), prompt(int(skewed.Uint64()), 6, 2))
			own[got]++
			sum[got]++
		}
	}
	// Each may be wrong by its bound and, as it is rounded up, by a request.
	const most = boundedLoad*gateways*each/targets + 2*gateways
	if slices.Max(sum[:]) > most {
		t.Errorf("%v: want at most %v at one target", sum, most)
	}
}

func TestGatewaysAgreeWhereAColdPromptGoes(t *testing.T) {
	a, b := newPrefixBalance(targetsOf(1, 2, 1, 1)), newPrefixBalance(targetsOf(1, 2, 1, 1))
	slices.Reverse(b.targets) // its configuration has another order
	b = newPrefixBalance(b.targets)
	for i := range 1000 {
		one, two := a.choose(all(4), nil, prompt(i, 3, 0)), b.choose(all(4), nil, prompt(i, 3, 0))
		if a.targets[one].name != b.targets[two].name {
			t.Fatalf("prompt %d goes to %s and to %s", i, a.targets[one].name, b.targets[two].name)
		}
	}
}

func TestATargetThatIsAddedOrLostMovesNoOtherPrompts(t *testing.T) {
	b, moved := prefixOf(1, 2, 1, 1, 1), 0
	for i := range 2000 {
		key, room := prompt(i, 1, 0)[0], bound{share: 1, cost: 1}
		was, is := b.cold(all(5), nil, key, room), b.cold([]int{0, 1, 3, 4}, nil, key, room)
		if was == 2 {
			moved++
		} else if was != is {
			t.Fatalf("prompt %d moved from %d to %d", i, was, is)
		}
	}
	if math.Abs(float64(moved)-2000/6.0) > 60 {
		t.Errorf("%d of 2000 prompts moved, want about a sixth", moved)
	}
}

func TestColdPromptsGoByWeight(t *testing.T) {
	b := prefixOf(4, 1, 2, 1)
	var got [4]float64
	for i := range 8000 {
		got[b.choose(all(4), nil, prompt(i, 3, 0))]++
	}
	for i, want := range []float64{4000, 1000, 2000, 1000} {
		if math.Abs(got[i]-want) > 160 {
			t.Errorf("%v, want about 4000, 1000, 2000, 1000", got)
		}
	}
}

func TestAConversationStaysWhereItIs(t *testing.T) {
	t.Run("while its target has one request and the others none", func(t *testing.T) {
		for n := 2; n <= 16; n++ {
			b := prefixOf(slices.Repeat([]int64{1}, n)...)
			home := b.choose(all(n), nil, prompt(1, 3, 0))
			requests := make([]int64, n)
			requests[home] = 1
			load := atWork(b, requests...)
			load[home] = 40_000 // a long one
			if got := b.choose(all(n), load, prompt(1, 4, 0)); got != home {
				t.Errorf("of %d: moved from %d to %d", n, home, got)
			}
		}
	})
	t.Run("up to the bound, for its weight", func(t *testing.T) {
		b := prefixOf(3, 1)
		p := prompt(1, 3, 0)
		at := b.memory.find(p)
		b.memory.sent(p, &at, 0)
		// Of 40 requests and one more 3/4 and a quarter, rounded up, are 39.
		if got := b.choose(all(2), atWork(b, 39, 1), p); got != 0 {
			t.Error("moved below the bound")
		}
		if got := b.choose(all(2), atWork(b, 40, 0), prompt(1, 4, 0)); got != 1 {
			t.Error("stayed above the bound")
		}
	})
	t.Run("with the longest part that is known, not with what everybody has", func(t *testing.T) {
		b := prefixOf(1, 1, 1, 1)
		for i := range 4 { // all have the first two blocks
			b.choose([]int{i}, nil, prompt(100+i, 5, 2))
		}
		for i := range 4 {
			if got := b.choose(all(4), atWork(b, 1, 1, 1, 1), prompt(100+i, 7, 2)); got != i {
				t.Errorf("conversation %d went to %d", i, got)
			}
		}
	})
	t.Run("and goes where a part is known when its target is too busy", func(t *testing.T) {
		b := prefixOf(1, 1, 1, 1)
		b.choose([]int{3}, nil, prompt(1, 5, 2))
		b.choose([]int{0}, nil, prompt(2, 5, 2))
		for range 20 {
			if got := b.choose(all(4), atWork(b, 20, 0, 0, 1), prompt(2, 6, 2)); got != 3 {
				t.Fatalf("went to %d, want 3, which has the first two blocks", got)
			}
		}
	})
	t.Run("and comes back when its target has been gone", func(t *testing.T) {
		b := prefixOf(1, 1, 1, 1)
		home := map[int]int{}
		for i := range 200 {
			home[i] = b.choose(all(4), nil, prompt(i, 4, 0))
		}
		for i := range 100 { // the first half goes on without target 0
			if got := b.choose([]int{1, 2, 3}, nil, prompt(i, 4, 0)); got == 0 || home[i] != 0 && got != home[i] {
				t.Fatalf("conversation %d of %d went to %d", i, home[i], got)
			}
		}
		for i := range 200 {
			got := b.choose(all(4), atWork(b, 0, 1, 1, 1), prompt(i, 4, 0))
			if home[i] != 0 && got != home[i] || home[i] == 0 && got != 0 {
				t.Fatalf("conversation %d of %d went to %d", i, home[i], got)
			}
		}
	})
}

func TestAPromptThatEverybodySendsIsSpread(t *testing.T) {
	for _, weights := range [][]int64{{1, 1, 1, 1}, {4, 2, 1, 1}} {
		b := prefixOf(weights...)
		own, total, sum := make([]int64, 4), 0.0, 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		for range 400 {
			got := b.choose(all(4), atWork(b, own...), prompt(1, 16, 16))
			total++
			own[got]++
			if most := math.Ceil(boundedLoad*total*float64(weights[got])/sum) + 1; float64(own[got]) > most {
				t.Fatalf("weights %v: %v, want at most %v at %d", weights, own, most, got)
			}
		}
		t.Logf("weights %v: %v", weights, own)
	}
}

func TestPrefixMemoryKeepsWhatIsUsed(t *testing.T) {
	for _, now := range []uint32{0, math.MaxUint32 - 20_000} { // the count of prompts wraps
		m := newPrefixMemory(4, 1<<12)
		m.secret = 0x9e3779b97f4a7c15
		m.now = now
		hot := prompt(1, 16, 0)
		for i := range 25_000 {
			p := prompt(10+i, 1, 0)
			at := m.find(p)
			m.sent(p, &at, i%4)
			if i%200 == 0 {
				at = m.find(hot)
				if i > 0 && slices.Contains(at[:], -1) {
					t.Fatalf("after %d others the prompt that is used most is forgotten: %v", i, at)
				}
				m.sent(hot, &at, 2)
			}
		}
		kept := 0
		for i := range 25_000 {
			if p := prompt(10+i, 1, 0); m.find(p)[0] >= 0 {
				kept++
				if i < 5_000 {
					t.Fatalf("block %d is still there", i)
				}
			}
		}
		if kept > 1<<12 || kept < 1<<12-16-8 {
			t.Errorf("%d blocks are remembered, want nearly all of %d", kept, 1<<12)
		}
	}
}

func TestHoldersAreTheLatest(t *testing.T) {
	var held [prefixHolders]uint16
	for _, tt := range []struct {
		target uint16
		want   [prefixHolders]uint16
	}{
		{3, [...]uint16{3, 0, 0, 0, 0, 0}},
		{3, [...]uint16{3, 0, 0, 0, 0, 0}},
		{5, [...]uint16{5, 3, 0, 0, 0, 0}},
		{3, [...]uint16{3, 5, 0, 0, 0, 0}},
		{1, [...]uint16{1, 3, 5, 0, 0, 0}},
		{2, [...]uint16{2, 1, 3, 5, 0, 0}},
		{4, [...]uint16{4, 2, 1, 3, 5, 0}},
		{6, [...]uint16{6, 4, 2, 1, 3, 5}},
		{7, [...]uint16{7, 6, 4, 2, 1, 3}},
		{1, [...]uint16{1, 7, 6, 4, 2, 3}},
		{3, [...]uint16{3, 1, 7, 6, 4, 2}},
	} {
		hold(&held, tt.target)
		if held != tt.want {
			t.Fatalf("after %d: %v, want %v", tt.target, held, tt.want)
		}
	}
}

func TestPrefixesThatNobodyMakesDoNoHarm(t *testing.T) {
	b := prefixOf(1, 1, 1)
	b.memory = newPrefixMemory(3, 2*prefixWays)
	b.memory.secret = 1 // all such hashes in one set, smaller than a prompt
	random := rand.New(rand.NewPCG(2, 2))
	var ever [12][3]bool // who was sent which hash
	for range 5_000 {
		p := make(Prefix, random.IntN(40))
		for i := range p {
			p[i] = random.Uint64N(12) // zeros and the same hash twice
		}
		targets := random.Perm(3)[:1+random.IntN(3)]
		got := b.choose(targets, loads{random.Float64(), 0, 1}, p)
		if !slices.Contains(targets, got) {
			t.Fatalf("%v of %v: took %d", p, targets, got)
		}
		for _, key := range p[:min(len(p), prefixBlocks)] {
			ever[key][got] = true
		}
		if used := slices.Compact(slices.Sorted(slices.Values(p))); len(used) == len(p) && len(p) <= prefixWays {
			if at := b.memory.find(p); slices.Contains(at[:len(p)], -1) {
				t.Fatalf("%v was sent, and of it there is only %v", p, at[:len(p)])
			}
		}
		for _, s := range b.memory.sets {
			for way, held := range s.held {
				for _, h := range held {
					if h != 0 && !ever[s.keys[way]][h-1] {
						t.Fatalf("%v: %d is taken for a holder of %d, which it was never sent", p, h-1, s.keys[way])
					}
				}
			}
		}
	}
	for _, busy := range b.memory.busy {
		if busy != absent {
			t.Errorf("loads were left behind: %v", b.memory.busy)
		}
	}
}
