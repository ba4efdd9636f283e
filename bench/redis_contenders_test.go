//go:build unix

package bench

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// A redisContender keeps its counts in Redis. open fails the benchmark where a
// decision fails: it must not pass for a refusal.
type redisContender struct {
	contender
	// inside are the commands that its scripts call, and those that travel with
	// another one: nobody waits for them.
	inside []string
}

// redisPatience is how long an answer may take. A busy machine is not a failure.
const redisPatience = 5 * time.Second

// redisContenders all use the one server, with a connection for every goroutine or
// as many as they like.
func redisContenders(server *storetest.RedisServer) []redisContender {
	script := []string{"time", "get", "set", "del"}
	return []redisContender{
		{contender{"weir", weirRedis(server)}, script},
		{contender{"weir-leased", weirLeased(server)}, script},
		{contender{"redis_rate", redisRate(server)}, script},
		// It sends TIME and GET together, and its script calls GET and SETEX.
		{contender{"throttled", throttledRedis(server)}, []string{"get", "setex"}},
	}
}

// openRedisStore waits until the store is connected.
func openRedisStore(tb testing.TB, server *storetest.RedisServer, prefix string) *redisstore.Store {
	tb.Helper()
	store, err := redisstore.New(redisstore.Options{URL: server.URL(), Deadline: redisPatience, Prefix: prefix})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(store.Close)
	storetest.Eventually(tb, redisPatience, "the store is connected", store.Healthy)
	return store
}

func weirRedis(server *storetest.RedisServer) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, quotas []quota) func() decide {
		tb.Helper()
		store := openRedisStore(tb, server, "strict")
		return weirShared(tb, store, prepare(tb, policies(quotas)...))
	}
}

// weirLeased may hold a tenth of the quota in advance.
func weirLeased(server *storetest.RedisServer) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, quotas []quota) func() decide {
		tb.Helper()
		store := openRedisStore(tb, server, "leased")
		leases, err := ratelimit.NewLeases(ratelimit.LeaseOptions{
			Shared:  store,
			Observe: func(err error) { tb.Error(err) },
		})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := leases.Close(context.Background()); err != nil {
				tb.Error(err)
			}
		})
		all := policies(quotas)
		for i := range all {
			all[i].MaxExcess = 0.1
		}
		return weirShared(tb, leases, prepare(tb, all...))
	}
}

func weirShared(tb testing.TB, store ratelimit.Store, prepared []*ratelimit.Policy) func() decide {
	ctx, failed := context.Background(), failOnce(tb)
	return func() decide {
		takes := make([]ratelimit.Take, len(prepared))
		return func(key string) bool {
			for i, p := range prepared {
				takes[i] = ratelimit.Take{Policy: p, Key: key, Cost: 1}
			}
			allowed, err := store.Take(ctx, takes, time.Now())
			return allowed && !failed(err)
		}
	}
}

// failOnce fails tb at the first error, and no more: there may be a million.
func failOnce(tb testing.TB) func(error) bool {
	var failed atomic.Bool
	return func(err error) bool {
		if err != nil && !failed.Swap(true) {
			tb.Error(err)
		}
		return err != nil
	}
}

func goRedis(tb testing.TB, server *storetest.RedisServer) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr(), PoolSize: manyGoroutines, MinIdleConns: manyGoroutines,
		DialTimeout: redisPatience, ReadTimeout: redisPatience, WriteTimeout: redisPatience, PoolTimeout: redisPatience,
	})
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Those below know one quota a call. As in memory, several quotas are several
// calls, up to the first one that refuses.

func redisRate(server *storetest.RedisServer) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, quotas []quota) func() decide {
		ctx, failed := context.Background(), failOnce(tb)
		limiter := redis_rate.NewLimiter(goRedis(tb, server))
		limits, prefixes := make([]redis_rate.Limit, len(quotas)), make([]string, len(quotas))
		for i, q := range quotas {
			limits[i] = redis_rate.Limit{Rate: int(q.count), Burst: int(q.count), Period: q.window}
			prefixes[i] = fmt.Sprintf("%d:", i)
		}
		return func() decide {
			return func(key string) bool {
				for i, limit := range limits {
					result, err := limiter.Allow(ctx, prefixes[i]+key, limit)
					if failed(err) || result.Allowed == 0 {
						return false
					}
				}
				return true
			}
		}
	}
}

func throttledRedis(server *storetest.RedisServer) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, quotas []quota) func() decide {
		ctx, failed := context.Background(), failOnce(tb)
		client := goRedis(tb, server)
		limiters := make([]*throttled.GCRARateLimiterCtx, len(quotas))
		for i, q := range quotas {
			store, err := goredisstore.NewCtx(client, fmt.Sprintf("throttled:%d:", i))
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
			// With its default of 10 it fails under contention for one key.
			limiters[i].SetMaxCASAttemptsLimit(math.MaxInt)
		}
		return func() decide {
			return func(key string) bool {
				for _, l := range limiters {
					limited, _, err := l.RateLimitCtx(ctx, key, 1)
					if failed(err) || limited {
						return false
					}
				}
				return true
			}
		}
	}
}
