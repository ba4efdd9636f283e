package upstream_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/inferweir/weir/upstream"
)

// balances are the names of all ways to choose.
func balances() []string { return []string{"least_busy", "two_choices", "round_robin", "prefix"} }

// poolOf makes a pool whose targets are never asked anything.
func poolOf(t testing.TB, balance string, weights ...int) *upstream.Pool {
	t.Helper()
	o := upstream.Options{Name: "llm", Balance: balance}
	for i, w := range weights {
		o.Targets = append(o.Targets, upstream.Target{URL: fmt.Sprintf("http://10.0.0.%d:8000", i+1), Weight: w, Transport: http.NewFileTransport(http.Dir("."))})
	}
	p, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// chosen are the targets that n calls of Choose take, as letters.
func chosen(p *upstream.Pool, n int, targets []int, load ...float64) string {
	var b strings.Builder
	for range n {
		b.WriteByte(byte('a' + p.Choose(targets, load, nil)))
	}
	return b.String()
}

func TestChooseNeverTakesATargetThatIsNotAmongThem(t *testing.T) {
	for _, balance := range balances() {
		t.Run(balance, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			p := poolOf(t, balance, 1, 2, 3, 1, 1)
			odd := []float64{0, 1, 2.5, 1e18, -3, math.NaN(), math.Inf(1)}
			for i := range 5000 {
				targets := random.Perm(5)[:1+random.IntN(5)]
				load := make([]float64, random.IntN(6)) // what is missing is 0
				for j := range load {
					load[j] = odd[random.IntN(len(odd))]
				}
				prefix := upstream.PrefixOf("", fmt.Appendf(nil, "%2000d", i%40))[:random.IntN(2)]
				if got := p.Choose(targets, load, prefix); !slices.Contains(targets, got) {
					t.Fatalf("%v with loads %v: took %d", targets, load, got)
				}
			}
			if got := p.Choose([]int{7, 3, -1}, nil, nil); got != 3 {
				t.Errorf("of 7, 3 and -1 it took %d, want 3", got)
			}
			for _, none := range [][]int{nil, {-1, 5}} {
				if got := p.Choose(none, nil, nil); got != -1 {
					t.Errorf("of %v it took %d, want -1", none, got)
				}
			}
		})
	}
}

func TestLeastBusy(t *testing.T) {
	all := []int{0, 1, 2}
	t.Run("takes the least load", func(t *testing.T) {
		if got := chosen(poolOf(t, "least_busy", 1, 1, 1), 3, all, 5, 4, 6); got != "bbb" {
			t.Error(got)
		}
	})
	t.Run("takes the least load for its weight", func(t *testing.T) {
		if got := chosen(poolOf(t, "least_busy", 1, 4, 1), 3, all, 2, 7, 3); got != "bbb" {
			t.Error(got)
		}
	})
	t.Run("goes round among those that are equal", func(t *testing.T) {
		if got := chosen(poolOf(t, "", 1, 1, 1), 6, all, 3, 1, 1); got != "bcbcbc" {
			t.Error(got)
		}
	})
	t.Run("goes round by weight among those that are equal", func(t *testing.T) {
		if got := chosen(poolOf(t, "least_busy", 3, 1, 1), 10, all); got != "abacaabaca" {
			t.Error(got)
		}
	})
	t.Run("takes those as equal whose loads are as their weights, whatever these are", func(t *testing.T) {
		if got := chosen(poolOf(t, "least_busy", 3, 7, 11), 21, all, 0.3, 0.7, 1.1); strings.Count(got, "a") != 3 || strings.Count(got, "b") != 7 {
			t.Error(got)
		}
	})
}

func TestRoundRobin(t *testing.T) {
	t.Run("goes by weight, spread evenly, whatever the load", func(t *testing.T) {
		if got := chosen(poolOf(t, "round_robin", 3, 1, 1), 10, []int{0, 1, 2}, 100, 0, 7); got != "abacaabaca" {
			t.Error(got)
		}
	})
	t.Run("a target that takes no part neither gains nor pays", func(t *testing.T) {
		p := poolOf(t, "round_robin", 1, 1, 1)
		got := chosen(p, 2, []int{0, 1, 2}) + chosen(p, 4, []int{0, 1}) + chosen(p, 4, []int{0, 1, 2})
		if got != "ab"+"abab"+"cabc" {
			t.Error(got)
		}
	})
}

func TestTwoChoices(t *testing.T) {
	count := func(p *upstream.Pool, n int, targets []int, load ...float64) (counts [4]int) {
		for range n {
			counts[p.Choose(targets, load, nil)]++
		}
		return counts
	}
	t.Run("of two takes the less busy for its weight", func(t *testing.T) {
		if got, want := count(poolOf(t, "two_choices", 1, 4, 1), 100, []int{0, 1}, 2, 7, 0), [4]int{0, 100}; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	})
	t.Run("never takes the busiest of all, and the least busy in most cases", func(t *testing.T) {
		// Two of four, drawn alike: a is one of them in half the cases, b without a in a third.
		got := count(poolOf(t, "two_choices", 1, 1, 1, 1), 12_000, []int{0, 1, 2, 3}, 1, 2, 3, 4)
		for i, want := range []int{6000, 4000, 2000, 0} {
			if math.Abs(float64(got[i]-want)) > 300 {
				t.Errorf("%v, want about 6000, 4000, 2000 and none", got)
			}
		}
	})
	t.Run("draws by weight", func(t *testing.T) {
		// a is the first with 3/5 and the second with 2/5 x 3/4; it is the least busy.
		got := count(poolOf(t, "two_choices", 3, 1, 1), 10_000, []int{0, 1, 2}, 0, 1, 2)
		if math.Abs(float64(got[0]-9000)) > 300 {
			t.Errorf("%v, want about 9000 of the first", got)
		}
	})
}

func TestChooseMayBeCalledByManyAtOnce(t *testing.T) {
	for _, balance := range balances() {
		t.Run(balance, func(t *testing.T) {
			p := poolOf(t, balance, 1, 2, 1, 1)
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 500 {
						prefix := upstream.PrefixOf("", fmt.Appendf(nil, "%4000d", (g+i)%50))
						if got := p.Choose([]int{0, 1, 3}, []float64{float64(i), 3, 4, 5}, prefix); got == 2 || got < 0 {
							t.Errorf("took %d", got)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// wide is a pool of n targets with its loads, and different prompts of 16 blocks.
func wide(t testing.TB, balance string, n, prompts int) (*upstream.Pool, []int, []float64, []upstream.Prefix) {
	weights, targets, load := make([]int, n), make([]int, n), make([]float64, n)
	for i := range n {
		weights[i], targets[i], load[i] = 1+i%3, i, float64(1000*(i%5)+4000)
	}
	var different []upstream.Prefix
	for i := range prompts {
		different = append(different, upstream.PrefixOf("", fmt.Appendf(nil, "%d%17000d", i, i)))
	}
	return poolOf(t, balance, weights...), targets, load, different
}

func TestChooseAllocatesNothing(t *testing.T) {
	for _, balance := range balances() {
		p, targets, load, prompts := wide(t, balance, 16, 200)
		i := 0
		if n := testing.AllocsPerRun(1000, func() {
			i++
			p.Choose(targets, load, prompts[i%len(prompts)])
		}); n != 0 {
			t.Errorf("%s: %v allocations", balance, n)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, balance := range balances() {
		b.Run(balance+" of 16", func(b *testing.B) {
			p, targets, load, prompts := wide(b, balance, 16, 1<<13) // all that are remembered
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.Choose(targets, load, prompts[i*31%len(prompts)])
			}
		})
	}
	b.Run("prefix of 16, never seen before", func(b *testing.B) {
		p, targets, load, _ := wide(b, "prefix", 16, 0)
		prefix := make(upstream.Prefix, 16)
		b.ReportAllocs()
		for i := uint64(1); b.Loop(); i++ {
			for j := range prefix {
				prefix[j] = (i<<4 + uint64(j)) * 0x9e3779b97f4a7c15
			}
			p.Choose(targets, load, prefix)
		}
	})
}
