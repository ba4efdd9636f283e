//go:build unix

package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"

	"github.com/inferweir/weir/cache"
)

// roomy is a budget that all entries of the benchmarks below fit in, twice.
const roomy = 1 << 30

// looks is what a benchmark of hits does: so many goroutines look up keys in this
// order, and each fourth time, if told, put the entry there anew.
type looks struct {
	name       string
	choices    []int
	goroutines int
	puts       bool
}

// BenchmarkCacheHit finds one of 100,000 entries of 2 KiB by Zipf's law, or the
// same one each time. What is found is not copied or read, by nobody.
func BenchmarkCacheHit(b *testing.B) {
	keys, entries := entryKeys(entryCount), newEntries(entryCount)
	popular := zipfOrder(entryCount)
	hot := make([]int, streamLength)
	for _, l := range []looks{
		{"get,keys=100k", popular, 1, false},
		{"get,keys=100k,procs=2", popular, 2, false},
		{"get=75,put=25,keys=100k", popular, 1, true},
		{"get=75,put=25,keys=100k,procs=2", popular, 2, true},
		{"get,keys=hot", hot, 1, false},
		{"get,keys=hot,procs=2", hot, 2, false},
	} {
		b.Run(l.name, func(b *testing.B) {
			for _, c := range hitContenders() {
				s := c.open(b, roomy)
				for i := range keys {
					s.put(&keys[i], entries[i])
					if i%1000 == 0 {
						s.settle()
					}
				}
				s.settle()
				b.Run(c.name, func(b *testing.B) { l.run(b, s, keys, entries) })
			}
		})
	}
}

// hitContenders are the caches, and another way to ask Weir's.
func hitContenders() []cacheContender {
	return append(boundedCaches(), cacheContender{"weir-now", weirNowShelf})
}

// weirNowShelf is told the time, as a gateway tells it: read once for a request.
func weirNowShelf(tb testing.TB, budget int64) shelf {
	store, now, ctx := newMemoryStore(budget), time.Now(), context.Background()
	s := storeShelf(tb, store)
	s.get = func(key *cache.Key) bool {
		e, err := store.Get(ctx, *key, now)
		return e != nil && err == nil
	}
	return s
}

// run looks up and puts. A hit that is none fails the benchmark, also where another
// goroutine is just putting the key.
func (l looks) run(b *testing.B, s shelf, keys []cache.Key, entries []*cache.Entry) {
	var missed atomic.Int64
	loop := func(goroutine int, next func() bool) {
		// Each begins elsewhere, so that no two use the same key at a time.
		for i := goroutine * streamLength / 2; next(); i++ {
			at := l.choices[i%streamLength]
			if l.puts && i%4 == 3 {
				s.put(&keys[at], entries[at])
			} else if !s.get(&keys[at]) {
				missed.Add(1)
			}
		}
	}
	if l.goroutines > 1 {
		measureParallel(b, l.goroutines, 1, loop)
	} else {
		measure(b, func(n int) { loop(0, func() bool { n--; return n >= 0 }) })
	}
	if n := missed.Load(); n > 0 {
		b.Fatalf("%d of %d operations found nothing", n, b.N)
	}
}

// zipfOrder is like order, but the things are not equally popular: the k-th of them
// is asked for in proportion to k to the power of -1.01.
func zipfOrder(n int) []int {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(3, 4)), 1.01, 1, uint64(n-1))
	all := make([]int, streamLength)
	for i := range all {
		all[i] = int(zipf.Uint64())
	}
	return all
}

// BenchmarkMemoHit calls a memoized function for one of 1,000 known results.
// golang-lru has no calls that load; its plain look-up is the floor.
func BenchmarkMemoHit(b *testing.B) {
	keys := callerKeys(1000)
	used := fresh(keys)
	ctx := context.Background()
	length := func(_ context.Context, s string) (int, error) { return len(s), nil }

	memo := cache.Memo(length, cache.MemoOptions{TTL: entryTTL, MaxEntries: len(keys)})
	o := newOtter(b, &otter.Options[string, int]{MaximumSize: 2 * len(keys), ExpiryCalculator: otter.ExpiryWriting[string, int](entryTTL)})
	plain, err := lru.New[string, int](len(keys))
	if err != nil {
		b.Fatal(err)
	}
	loader := otter.LoaderFunc[string, int](length)
	for _, key := range keys {
		plain.Add(key, len(key))
	}
	for _, c := range []struct {
		name string
		call func(string) (int, error)
	}{
		{"weir", func(key string) (int, error) { return memo(ctx, key) }},
		{"otter", func(key string) (int, error) { return o.Get(ctx, key, loader) }},
		{"golang-lru-no-ttl", func(key string) (int, error) {
			n, ok := plain.Get(key)
			if !ok {
				return 0, errors.New("not found")
			}
			return n, nil
		}},
	} {
		for _, key := range keys {
			if n, err := c.call(key); n != len(key) || err != nil {
				b.Fatalf("%s: %q: got %d, %v", c.name, key, n, err)
			}
		}
		b.Run("keys=1k/"+c.name, func(b *testing.B) {
			measure(b, func(n int) {
				for i := range n {
					if _, err := c.call(used[i%streamLength]); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func TestCachesFindWhatWasPutInAndNothingElse(t *testing.T) {
	keys, entries := entryKeys(1000), newEntries(1000)
	for _, c := range hitContenders() {
		t.Run(c.name, func(t *testing.T) {
			s := c.open(t, roomy)
			for i := range keys {
				s.put(&keys[i], entries[i])
			}
			s.settle()
			for i := range keys {
				if !s.get(&keys[i]) {
					t.Fatalf("entry %d was not found", i)
				}
			}
			if s.get(&cache.Key{}) {
				t.Error("found an entry that was never put in")
			}
		})
	}
}

func TestCachesKeepTheirBudget(t *testing.T) {
	keys, entries := entryKeys(1000), newEntries(1000)
	for _, c := range boundedCaches() {
		t.Run(c.name, func(t *testing.T) {
			budget := 100 * entries[0].Size()
			s := c.open(t, budget)
			for i := range keys {
				s.put(&keys[i], entries[i])
				s.settle()
			}
			kept := 0
			for i := range keys {
				if s.get(&keys[i]) {
					kept++
				}
			}
			// theine and otter admit a newcomer before they find one to give up for it.
			if kept < 90 || kept > 101 {
				t.Errorf("%d entries of 1000 are kept, want 100 at most and not much less", kept)
			}
		})
	}
}
