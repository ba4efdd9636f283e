//go:build unix

package bench

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	golimiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	"github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"

	"github.com/inferweir/weir/ratelimit"
)

// quota is what every contender enforces: count in a window, all of it at once
// if need be.
type quota struct {
	count  int64
	window time.Duration
}

// decide takes one unit for key from every quota and says whether it could. It
// belongs to one goroutine.
type decide func(key string) bool

// A contender is one way to limit callers.
type contender struct {
	name string
	// open makes a store that enforces the quotas, and returns what makes a
	// decide for a goroutine.
	open func(tb testing.TB, quotas []quota) func() decide
}

// contenders read the clock once for each decision, or as often as the library
// itself does. The rows ending in "-now" are given the time, as a gateway that
// reads the clock once a request gives it to everything that it does.
func contenders() []contender {
	return []contender{
		{"weir", weirStore(ratelimit.DefaultKeys, false)},
		{"weir-now", weirStore(ratelimit.DefaultKeys, true)},
		{"weir-limiter", weirLimiter},
		{"xtime-mutexmap", xtime(false)},
		{"xtime-mutexmap-now", xtime(true)},
		{"throttled", throttledGCRA},
		{"ulule", ululeFixedWindow},
		{"go-limiter", goLimiter},
	}
}

// few are those that the groups beside the main one compare.
func few() []contender {
	return slices.DeleteFunc(contenders(), func(c contender) bool {
		return c.name == "weir-limiter" || c.name == "xtime-mutexmap-now"
	})
}

// sized are weir with a table for a million callers, as the gateway has, in place
// of one for 131,072.
func sized() []contender {
	return []contender{
		{"weir-1M", weirStore(1<<20, false)},
		{"weir-1M-now", weirStore(1<<20, true)},
	}
}

// weirStore has a table with room for so many callers, each with a count of every
// quota: a table that is too small forgets callers, and then decides about others
// than it seems to.
func weirStore(callers int, reuseNow bool) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, quotas []quota) func() decide {
		store := ratelimit.NewMemoryStore(callers * len(quotas))
		prepared := prepare(tb, policies(quotas)...)
		return func() decide {
			ctx, now := context.Background(), time.Now()
			takes := make([]ratelimit.Take, len(prepared))
			return func(key string) bool {
				for i, p := range prepared {
					takes[i] = ratelimit.Take{Policy: p, Key: key, Cost: 1}
				}
				at := now
				if !reuseNow {
					at = time.Now()
				}
				allowed, err := store.Take(ctx, takes, at)
				return allowed && err == nil
			}
		}
	}
}

func prepare(tb testing.TB, policies ...ratelimit.Policy) []*ratelimit.Policy {
	tb.Helper()
	prepared := make([]*ratelimit.Policy, len(policies))
	for i, p := range policies {
		var err error
		if prepared[i], err = p.Prepare(); err != nil {
			tb.Fatal(err)
		}
	}
	return prepared
}

func policies(quotas []quota) []ratelimit.Policy {
	names := []string{"first", "second", "third"}
	all := make([]ratelimit.Policy, len(quotas))
	for i, q := range quotas {
		all[i] = ratelimit.Policy{Name: names[i], Quota: q.count, Window: q.window}
	}
	return all
}

// weirLimiter is the same with the convenience of ratelimit.Limiter, which hands
// out the takes and so allocates them.
func weirLimiter(tb testing.TB, quotas []quota) func() decide {
	limiter, err := ratelimit.New(ratelimit.Options{
		Policies: policies(quotas),
		Store:    ratelimit.NewMemoryStore(ratelimit.DefaultKeys * len(quotas)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	return func() decide {
		return func(key string) bool {
			_, err := limiter.Take(ctx, key, 1)
			return err == nil
		}
	}
}

// buckets are x/time limiters in a map: what most programs write by hand. Those
// that clean the map up write more, and pay more.
type buckets struct {
	quotas []quota
	mu     sync.Mutex // guards byKey and, with several quotas, the decision
	byKey  map[string][]*rate.Limiter
}

func xtime(reuseNow bool) func(testing.TB, []quota) func() decide {
	return func(_ testing.TB, quotas []quota) func() decide {
		m := &buckets{quotas: quotas, byKey: map[string][]*rate.Limiter{}}
		return func() decide {
			now := time.Now()
			return func(key string) bool {
				at := now
				if !reuseNow {
					at = time.Now()
				}
				if len(m.quotas) == 1 {
					return m.one(key, at)
				}
				return m.all(key, at)
			}
		}
	}
}

func (m *buckets) findLocked(key string) []*rate.Limiter {
	found := m.byKey[key]
	if found == nil {
		for _, q := range m.quotas {
			found = append(found, rate.NewLimiter(rate.Limit(float64(q.count)/q.window.Seconds()), int(q.count)))
		}
		m.byKey[key] = found
	}
	return found
}

func (m *buckets) one(key string, now time.Time) bool {
	m.mu.Lock()
	bucket := m.findLocked(key)[0]
	m.mu.Unlock()
	return bucket.AllowN(now, 1)
}

// all looks first and takes then, under the map's lock: all or nothing.
func (m *buckets) all(key string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.findLocked(key)
	for _, l := range found {
		if l.TokensAt(now) < 1 {
			return false
		}
	}
	for _, l := range found {
		l.AllowN(now, 1)
	}
	return true
}

// The libraries below know one quota a limiter. Several quotas are several calls
// here, one after the other, and what the first ones took before a later one
// denied is lost to the caller.

func throttledGCRA(tb testing.TB, quotas []quota) func() decide {
	ctx := context.Background()
	limiters := make([]*throttled.GCRARateLimiterCtx, len(quotas))
	for i, q := range quotas {
		store, err := memstore.NewCtx(0)
		if err != nil {
			tb.Fatal(err)
		}
		limiters[i], err = throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
			MaxRate:  throttled.PerDuration(int(q.count), q.window),
			MaxBurst: int(q.count) - 1,
		})
		if err != nil {
			tb.Fatal(err)
		}
		// With its default of 10 attempts, and now and then with 1000, it fails
		// under contention for one key.
		limiters[i].SetMaxCASAttemptsLimit(math.MaxInt)
	}
	return func() decide {
		return func(key string) bool {
			for _, l := range limiters {
				if limited, _, err := l.RateLimitCtx(ctx, key, 1); limited || err != nil {
					return false
				}
			}
			return true
		}
	}
}

func ululeFixedWindow(_ testing.TB, quotas []quota) func() decide {
	ctx := context.Background()
	limiters := make([]*ulule.Limiter, len(quotas))
	for i, q := range quotas {
		limiters[i] = ulule.New(memory.NewStore(), ulule.Rate{Period: q.window, Limit: q.count})
	}
	return func() decide {
		return func(key string) bool {
			for _, l := range limiters {
				if c, err := l.Get(ctx, key); c.Reached || err != nil {
					return false
				}
			}
			return true
		}
	}
}

func goLimiter(tb testing.TB, quotas []quota) func() decide {
	ctx := context.Background()
	stores := make([]golimiter.Store, len(quotas))
	for i, q := range quotas {
		store, err := memorystore.New(&memorystore.Config{Tokens: uint64(q.count), Interval: q.window})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = store.Close(ctx) })
		stores[i] = store
	}
	return func() decide {
		return func(key string) bool {
			for _, s := range stores {
				if _, _, _, ok, err := s.Take(ctx, key); !ok || err != nil {
					return false
				}
			}
			return true
		}
	}
}
