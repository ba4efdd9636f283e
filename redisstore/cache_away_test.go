package redisstore_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// cacheCalls is every call of a cache that a request waits for.
func cacheCalls(c *redisstore.CacheStore, long *cache.Entry) []func(ctx context.Context) error {
	key := cacheKey("k")
	return []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := c.Get(ctx, key, time.Now()); return err },
		func(ctx context.Context) error { return c.Put(ctx, key, answer([]byte("body")), time.Now()) },
		func(ctx context.Context) error { return c.Put(ctx, key, long, time.Now()) },
		func(ctx context.Context) error { return c.Delete(ctx, key) },
		func(ctx context.Context) error { _, err := c.Lead(ctx, key); return err },
		func(ctx context.Context) error { return c.Await(ctx, key) },
		func(ctx context.Context) error { _, err := c.Append(ctx, []string{"tag:a"}, 0); return err },
	}
}

// cacheOutage calls until the breaker is open, and then checks that nobody waits.
func cacheOutage(t *testing.T, c *redisstore.CacheStore, deadline time.Duration) {
	t.Helper()
	long := answer(noise(1 << 20))
	calls := cacheCalls(c, long)
	for n := 0; c.Healthy(); n++ {
		watch := storetest.Stopwatch()
		err := calls[n%len(calls)](context.Background())
		// Only Await tries again, and it is not long until then.
		if took := watch(); took > 4*deadline+slack {
			t.Fatalf("call %d lasted %v, want at most %v", n%len(calls), took, deadline)
		}
		if err == nil && n > 1000 {
			t.Fatal("calls go on without redis")
		}
	}
	watch := storetest.Stopwatch()
	for range 200 {
		for i, call := range calls {
			if err := call(context.Background()); !c.Healthy() && !errors.Is(err, redisstore.ErrAway) {
				t.Fatalf("call %d with the breaker open: %v, want ErrAway", i, err)
			}
		}
		if c.Healthy() {
			t.Fatal("healthy without redis")
		}
	}
	if took := watch(); took > 2*slack {
		t.Fatalf("%d calls with the breaker open lasted %v", 200*len(calls), took)
	}
}

// works waits until every call succeeds again.
func works(t *testing.T, c *redisstore.CacheStore) {
	t.Helper()
	answers(t, c)
	storetest.Eventually(t, 2*soon, "the cache keeps entries again", func() bool {
		ctx, key := context.Background(), cacheKey("works")
		if c.Put(ctx, key, answer([]byte("body")), time.Now()) != nil {
			return false
		}
		e, err := c.Get(ctx, key, time.Now())
		return err == nil && e != nil && string(e.Body) == "body"
	})
}

// short is the deadline of tests that are about it.
const short = 20 * time.Millisecond

func TestCacheAway(t *testing.T) {
	t.Run("waits for a paused server no longer than the deadline, soon not at all, and comes back", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		c := openCache(t, redisstore.Options{URL: server.URL(), Deadline: short, Observe: seen.observe}, redisstore.CacheOptions{Near: 1 << 20})
		server.Pause()
		cacheOutage(t, c, short)
		timeouts := seen.of(redisstore.OpCacheGet, redisstore.Timeout) + seen.of(redisstore.OpCachePut, redisstore.Timeout)
		if timeouts < 1 || timeouts > 10 {
			t.Errorf("%d reads and writes timed out, want a few", timeouts)
		}
		<-time.After(2 * time.Second)
		server.Resume()
		works(t, c)
	})
}

func TestCacheBack(t *testing.T) {
	t.Run("comes back after the server was killed and started, and after its clients were", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL(), Deadline: relaxed}, redisstore.CacheOptions{Near: 1 << 20})
		mustPut(t, c, "k", answer([]byte("body")))
		server.Stop()
		cacheOutage(t, c, relaxed)
		server.Start()
		works(t, c)
		for range 10 {
			server.MustDo("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			server.MustDo("CLIENT", "KILL", "TYPE", "pubsub")
			works(t, c)
		}
		server.MustDo("SCRIPT", "FLUSH")
		mustPut(t, c, "long", answer(noise(1<<20)))
		for _, call := range cacheCalls(c, answer(noise(1<<20))) {
			server.MustDo("SCRIPT", "FLUSH")
			if err := call(timeout(t)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after SCRIPT FLUSH: %v", err)
			}
		}
		server.MustDo("FLUSHALL")
		storetest.Eventually(t, soon, "all is forgotten", func() bool { return mustGet(t, c, "long") == nil })
	})
}

func TestCacheAwayOtherwise(t *testing.T) {
	t.Run("begins without a server and finds it when it is there", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		server.Stop()
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: short})
		c := s.Cache(redisstore.CacheOptions{})
		watch := storetest.Stopwatch()
		if _, err := c.Get(context.Background(), cacheKey("k"), time.Now()); err == nil || watch() > short+slack {
			t.Fatalf("%v after %v without a server", err, watch())
		}
		server.Start()
		works(t, c)
	})
	t.Run("does not take a caller who leaves for an outage", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		c := openCache(t, redisstore.Options{URL: server.URL(), Observe: seen.observe}, redisstore.CacheOptions{})
		server.Pause()
		for range 3 {
			for i, call := range cacheCalls(c, answer(noise(1<<20))) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
				if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("call %d: %v, want that of the context", i, err)
				}
				cancel()
			}
		}
		if !c.Healthy() {
			t.Error("the breaker is open")
		}
		server.Resume()
		works(t, c)
		if n := seen.of(redisstore.OpCacheGet, redisstore.Timeout); n != 0 {
			t.Errorf("%d reads are said to have timed out", n)
		}
	})
	t.Run("reads from a full server and says that it can not write", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		c := openCache(t, redisstore.Options{URL: server.URL(), Observe: seen.observe}, redisstore.CacheOptions{})
		mustPut(t, c, "k", answer([]byte("body")))
		server.MustDo("CONFIG", "SET", "maxmemory", "1")
		for range 3 * redisstore.DefaultBreakerFailures {
			for _, e := range []*cache.Entry{answer([]byte("new")), answer(noise(1 << 20))} {
				if err := c.Put(context.Background(), cacheKey("new"), e, time.Now()); err == nil {
					t.Error("put into a full server")
				}
			}
		}
		if !has(t, c, "k", "body") || !c.Healthy() || seen.of(redisstore.OpCachePut, redisstore.Memory) == 0 {
			t.Error("a full server does not give what it has")
		}
		server.MustDo("CONFIG", "SET", "maxmemory", "0")
		works(t, c)
	})
}

func TestCacheClosed(t *testing.T) {
	t.Run("fails without its store's counts, and they without it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		c := s.Cache(redisstore.CacheOptions{})
		healthy(t, s)
		works(t, c)
		c.Close()
		c.Close()
		if _, err := c.Get(context.Background(), cacheKey("k"), time.Now()); !errors.Is(err, redisstore.ErrClosed) {
			t.Errorf("a closed cache: %v", err)
		}
		if take(t, s, "k", daily(t, "p", 10)) != true {
			t.Error("no counts")
		}
		s.Close()
		if err := s.Cache(redisstore.CacheOptions{}).Put(context.Background(), cacheKey("k"), answer(nil), time.Now()); !errors.Is(err, redisstore.ErrClosed) {
			t.Errorf("a cache of a closed store: %v", err)
		}
	})
}

// timeout is a context for what may wait.
func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestCacheWrongServer(t *testing.T) {
	t.Run("leaves a server that is a replica now, and comes back when it is a master", func(t *testing.T) {
		t.Parallel()
		server, other := storetest.Redis(t), storetest.Redis(t)
		var seen observed
		c := openCache(t, redisstore.Options{URL: server.URL(), Observe: seen.observe}, redisstore.CacheOptions{})
		server.ReplicaOf(other)
		if err := c.Put(context.Background(), cacheKey("k"), answer(nil), time.Now()); err == nil || c.Healthy() {
			t.Fatalf("put into a replica: %v", err)
		}
		if n := seen.of(redisstore.OpCachePut, redisstore.ReadOnly); n != 1 {
			t.Errorf("%d failures for it, want 1", n)
		}
		server.Promote()
		works(t, c)
	})
	t.Run("follows sentinels to the new master", func(t *testing.T) {
		t.Parallel()
		master, replica := storetest.Redis(t), storetest.Redis(t)
		replica.ReplicaOf(master)
		sentinel := storetest.RedisSentinel(t, master)
		c := openCache(t, redisstore.Options{URL: "redis+sentinel://mymaster@" + sentinel.Addr() + "/0", Deadline: relaxed}, redisstore.CacheOptions{Near: 1 << 20})
		mustPut(t, c, "k", answer([]byte("body")))
		storetest.Eventually(t, soon, "the sentinel knows the replica, and it has the entry", func() bool {
			return sentinel.MustDo("SENTINEL", "REPLICAS", "mymaster") != "" && replica.MustDo("EXISTS", c.ValueKey(cacheKey("k"))) == "1"
		})
		master.Stop()
		storetest.Eventually(t, 3*soon, "entries go to the new master", func() bool {
			return c.Put(context.Background(), cacheKey("new"), answer([]byte("new")), time.Now()) == nil
		})
		works(t, c)
		if replica.MustDo("EXISTS", c.ValueKey(cacheKey("new"))) != "1" || !has(t, c, "k", "body") {
			t.Error("the entries are not at the new master")
		}
	})
	t.Run("of a cluster goes on with the masters that are there", func(t *testing.T) {
		t.Parallel()
		servers := storetest.RedisCluster(t, 3)
		c := openCache(t, redisstore.Options{URL: clusterURL(servers), Deadline: 100 * time.Millisecond}, redisstore.CacheOptions{})
		servers[0].MustDo("CONFIG", "SET", "cluster-require-full-coverage", "no")
		servers[1].MustDo("CONFIG", "SET", "cluster-require-full-coverage", "no")
		servers[2].Pause()
		kept := 0
		for i := range 60 {
			key := strconv.Itoa(i)
			if c.Put(context.Background(), cacheKey(key), answer([]byte(key)), time.Now()) == nil {
				kept++
			}
		}
		servers[2].Resume()
		if kept < 10 || kept > 55 {
			t.Errorf("%d of 60 entries kept with one of three masters away, want about 40", kept)
		}
		works(t, c)
	})
}
