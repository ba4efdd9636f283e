//go:build unix

package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
)

// The trace that the caches below are compared on. It is synthetic: nobody's
// traffic, but what can be said of most. README.md repeats these parameters.
const (
	traceLength  = 300_000
	traceWarm    = traceLength / 5 // requests that are not counted
	traceOneShot = 0.30            // of all requests ask for what nobody asked before or will again
	traceZipf    = 1.01            // exponent of the popularity of the others
	traceSeed    = 20_261_122
)

// traceKind is a kind of request. Sizes and times of its answers are log-normal.
type traceKind struct {
	share         float64 // of all requests
	keys          int     // different requests, beside those that come once
	size, largest float64 // bytes of the body: the median, and the most
	sizeSpread    float64 // standard deviation of the logarithm
	took          float64 // seconds: the median
	tookSpread    float64
}

// traceKinds: embeddings are small and cheap, chat answers are small and take
// seconds, images are large and take longer still.
func traceKinds() []traceKind {
	return []traceKind{
		{share: 0.55, keys: 100_000, size: 8 << 10, largest: 64 << 10, sizeSpread: 0.6, took: 0.03, tookSpread: 0.5},
		{share: 0.40, keys: 50_000, size: 3 << 10, largest: 64 << 10, sizeSpread: 0.8, took: 4, tookSpread: 0.8},
		{share: 0.05, keys: 2_000, size: 1 << 20, largest: 8 << 20, sizeSpread: 0.5, took: 8, tookSpread: 0.3},
	}
}

// traceRequest is one request and the answer that a model would give.
type traceRequest struct {
	key   cache.Key
	entry *cache.Entry
}

// trace makes the same requests each time. If shift is above 0, each so many
// requests what is popular changes: the most popular tenth of each kind is replaced
// by what was never asked for.
func trace(shift int) []traceRequest {
	random := rand.New(rand.NewPCG(traceSeed, 0))
	kinds := traceKinds()
	var zipfs []*rand.Zipf
	for _, k := range kinds {
		zipfs = append(zipfs, rand.NewZipf(random, traceZipf, 1, uint64(k.keys-1)))
	}
	known := map[uint64]traceRequest{}
	bodies := make([]byte, 8<<20)
	requests := make([]traceRequest, traceLength)
	for i := range requests {
		kind := pick(kinds, random.Float64())
		k := kinds[kind]
		rank := zipfs[kind].Uint64()
		number := uint64(kind)<<40 | rank
		if shift > 0 && rank < uint64(k.keys/10) {
			number |= uint64(i/shift) << 48
		}
		if random.Float64() < traceOneShot {
			number = 1<<63 | uint64(i)
		}
		r, found := known[number]
		if !found {
			r = k.request(number, bodies)
			known[number] = r
		}
		requests[i] = r
	}
	return requests
}

func pick(kinds []traceKind, at float64) int {
	for i, k := range kinds[:len(kinds)-1] {
		if at -= k.share; at < 0 {
			return i
		}
	}
	return len(kinds) - 1
}

// request is that of a number, with a size and a time that depend on it alone.
func (k traceKind) request(number uint64, bodies []byte) traceRequest {
	random := rand.New(rand.NewPCG(traceSeed, number))
	logNormal := func(median, spread float64) float64 { return median * math.Exp(spread*random.NormFloat64()) }
	size := int(min(logNormal(k.size, k.sizeSpread), k.largest))
	took := time.Duration(logNormal(k.took, k.tookSpread) * float64(time.Second))
	return traceRequest{hashKey(number), newEntry(bodies[:size:size], took)}
}

// saving is what a cache was good for.
type saving struct {
	requests, hits  int
	bytes, hitBytes int64
	took, saved     time.Duration
}

// replay asks a cache for everything, and puts in what it has not. What it was put
// has settled before the next request: requests for a model are not so close that
// a cache is late.
func replay(s shelf, requests []traceRequest) saving {
	var total saving
	for i := range requests {
		r := &requests[i]
		hit := s.get(&r.key)
		if !hit {
			s.put(&r.key, r.entry)
			s.settle()
		}
		if i < traceWarm {
			continue
		}
		total.add(r.entry, hit)
	}
	return total
}

func (t *saving) add(e *cache.Entry, hit bool) {
	size := int64(len(e.Body))
	t.requests++
	t.bytes += size
	t.took += e.Took
	if hit {
		t.hits++
		t.hitBytes += size
		t.saved += e.Took
	}
}

// percents are the shares of requests, of bytes, and of the models' time that the
// cache answered instead.
func (t saving) percents() (hits, bytes, saved float64) {
	return 100 * float64(t.hits) / float64(t.requests), 100 * float64(t.hitBytes) / float64(t.bytes),
		100 * t.saved.Seconds() / t.took.Seconds()
}

// BenchmarkCacheTrace replays the trace on caches of 32 MiB and 128 MiB. An
// operation is one request. The contender "unbounded" forgets nothing: more cannot
// be found.
func BenchmarkCacheTrace(b *testing.B) {
	const mib = 1 << 20
	for _, c := range []struct {
		name   string
		budget int64
		shift  int
	}{
		{"budget=32MiB", 32 * mib, 0}, {"budget=128MiB", 128 * mib, 0},
		{"budget=32MiB,shifting", 32 * mib, traceLength / 10}, {"budget=128MiB,shifting", 128 * mib, traceLength / 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			requests := trace(c.shift)
			for _, cached := range append(boundedCaches(), cacheContender{"unbounded", unboundedShelf}) {
				b.Run(cached.name, func(b *testing.B) { replayAll(b, cached, c.budget, requests) })
			}
		})
	}
}

func replayAll(b *testing.B, c cacheContender, budget int64, requests []traceRequest) {
	var total saving
	before := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		total = replay(c.open(b, budget), requests)
	}
	b.StopTimer()
	each := float64(b.N * len(requests))
	b.ReportMetric(float64(cpuTime(b)-before)/each, "cpu-ns/op")
	b.ReportMetric(float64(b.Elapsed())/each, "ns/op")
	hits, bytes, saved := total.percents()
	b.ReportMetric(hits, "hit-%")
	b.ReportMetric(bytes, "byte-hit-%")
	b.ReportMetric(saved, "saved-%")
}

func unboundedShelf(testing.TB, int64) shelf {
	all := map[cache.Key]bool{}
	return shelf{
		get:    func(key *cache.Key) bool { return all[*key] },
		put:    func(key *cache.Key, _ *cache.Entry) { all[*key] = true },
		settle: func() {},
	}
}

// What README.md says of the trace.
func TestTrace(t *testing.T) {
	for _, shift := range []int{0, traceLength / 10} {
		t.Run(fmt.Sprintf("shift=%d", shift), func(t *testing.T) {
			requests := trace(shift)
			t.Run("is the same each time", func(t *testing.T) {
				for i, again := range trace(shift) {
					r := requests[i]
					if r.key != again.key || r.entry.Took != again.entry.Took || len(r.entry.Body) != len(again.entry.Body) {
						t.Fatalf("request %d differs", i)
					}
				}
			})
			t.Run("asks for 30 % just once on purpose, and not for everything", func(t *testing.T) {
				times := map[cache.Key]int{}
				for _, r := range requests {
					times[r.key]++
				}
				once := 0
				for _, n := range times {
					if n == 1 {
						once++
					}
				}
				if share := float64(once) / traceLength; share < traceOneShot || share > 0.6 {
					t.Errorf("%.3f of the requests come once, want from %.2f to 0.6", share, traceOneShot)
				}
			})
			t.Run("has answers of the sizes and times that it says", func(t *testing.T) {
				var bytes int64
				var took time.Duration
				for _, r := range requests {
					bytes += int64(len(r.entry.Body))
					took += r.entry.Took
				}
				// The mean of a log-normal is its median times exp(spread²/2).
				var wantBytes, wantTook float64
				for _, k := range traceKinds() {
					wantBytes += k.share * k.size * math.Exp(k.sizeSpread*k.sizeSpread/2)
					wantTook += k.share * k.took * math.Exp(k.tookSpread*k.tookSpread/2)
				}
				// A few popular requests have a large part, and sizes of their own.
				for what, ratio := range map[string]float64{
					"bytes": float64(bytes) / traceLength / wantBytes, "seconds": took.Seconds() / traceLength / wantTook,
				} {
					if ratio < 0.6 || ratio > 1.6 {
						t.Errorf("the mean of all %s is %.2f times what the parameters say", what, ratio)
					}
				}
			})
		})
	}
}
