package redisstore_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// openCacheWithLease is openCache with leases that last so long.
func openCacheWithLease(t *testing.T, o redisstore.Options, lease time.Duration) *redisstore.CacheStore {
	t.Helper()
	if o.Deadline == 0 {
		o.Deadline = relaxed
	}
	s, err := redisstore.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := s.CacheWithLease(redisstore.CacheOptions{}, lease)
	answers(t, c)
	return c
}

// leads asks to lead key, and fails the test if that is answered with an error.
func leads(t testing.TB, c cache.Leases, key string) (release func(bool)) {
	t.Helper()
	release, err := c.Lead(context.Background(), cacheKey(key))
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// waits has c wait for key, and returns when it does.
func waits(t testing.TB, c *redisstore.CacheStore, key string) (ended <-chan error) {
	t.Helper()
	before, done := c.Waiting(), make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 3*soon)
	go func() {
		defer cancel()
		done <- c.Await(ctx, cacheKey(key))
	}()
	storetest.Eventually(t, soon, "a call waits", func() bool { return c.Waiting() > before || len(done) > 0 })
	return done
}

// over waits for the end of a wait.
func over(t testing.TB, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(2 * soon):
		t.Fatal("still waiting")
	}
}

func TestCacheLeases(t *testing.T) {
	for _, masters := range []int{1, 3} {
		t.Run("one instance leads, and the other waits and finds, on "+strconv.Itoa(masters)+" servers", func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, masters)
			a, b := openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{Near: 1 << 20})
			for i := range 20 {
				key := strconv.Itoa(i)
				release := leads(t, a, key)
				if release == nil || leads(t, b, key) != nil || mustGet(t, b, key) != nil {
					t.Fatal("want the first to lead, and nobody else")
				}
				ended := waits(t, b, key)
				mustPut(t, a, key, answer([]byte(key)))
				select {
				case err := <-ended:
					t.Fatalf("the wait was over before the lease: %v", err)
				default:
				}
				release(true)
				release(false) // does nothing
				if over(t, ended); !has(t, b, key, key) {
					t.Fatal("the wait is over, and the entry is not there")
				}
				next := leads(t, b, key)
				if next == nil {
					t.Fatal("nobody can lead after the end")
				}
				next(true)
			}
			if err := b.Await(context.Background(), cacheKey("nobody's")); err != nil {
				t.Errorf("waiting for nobody: %v", err)
			}
		})
	}
}

func TestCacheLeasesOfMany(t *testing.T) {
	t.Run("one of many leads at a time", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		both := [2]*redisstore.CacheStore{}
		for i := range both {
			both[i] = openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		}
		var wg sync.WaitGroup
		var leading, most, led atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				for {
					release, err := both[i%2].Lead(context.Background(), cacheKey("k"))
					if err != nil {
						t.Error(err)
						return
					}
					if release != nil {
						most.Store(max(most.Load(), leading.Add(1)))
						led.Add(1)
						leading.Add(-1)
						release(true)
						return
					}
					if err := both[i%2].Await(context.Background(), cacheKey("k")); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if most.Load() != 1 || led.Load() != 20 {
			t.Errorf("%d led, %d of them at a time", led.Load(), most.Load())
		}
	})
}

func TestCacheLeasesAlone(t *testing.T) {
	t.Run("nobody leads for a minute after an answer that is not shared", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		release := leads(t, a, "k")
		ended := waits(t, b, "k")
		release(false)
		over(t, ended)
		for _, c := range []*redisstore.CacheStore{a, b} {
			if release, err := c.Lead(context.Background(), cacheKey("k")); release != nil || !errors.Is(err, cache.ErrNotShared) {
				t.Errorf("%v, want ErrNotShared", err)
			}
			if err := c.Await(context.Background(), cacheKey("k")); err != nil {
				t.Error(err)
			}
		}
		if left, err := strconv.Atoi(server.MustDo("PTTL", a.LeaseKey(cacheKey("k")))); err != nil || left < 1 || left > 60_000 {
			t.Errorf("for %d ms, want a minute at most; %v", left, err)
		}
	})
}

func TestCacheLeasesOfTheDead(t *testing.T) {
	t.Run("a leader that dies loses its lease, one that lives keeps it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		o := redisstore.Options{URL: server.URL(), Observe: seen.observe}
		lives, dies := openCacheWithLease(t, o, 6*time.Second), openCacheWithLease(t, redisstore.Options{URL: server.URL()}, 6*time.Second)
		waiter := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		kept, lost := leads(t, lives, "kept"), leads(t, dies, "lost")
		if kept == nil || lost == nil {
			t.Fatal("nobody leads")
		}
		ended, other := waits(t, waiter, "lost"), waits(t, waiter, "kept")
		dies.Close()
		over(t, ended)
		if leads(t, waiter, "lost") == nil {
			t.Error("the lease of the dead is still there")
		}
		lost(true) // of no effect
		before := seen.of(redisstore.OpCacheLease, redisstore.None)
		storetest.Eventually(t, 2*soon, "the lease is renewed some times", func() bool {
			return seen.of(redisstore.OpCacheLease, redisstore.None) >= before+3
		})
		if leads(t, waiter, "kept") != nil || leads(t, waiter, "lost") != nil {
			t.Error("a lease was taken from who holds it")
		}
		kept(true)
		over(t, other)
	})
}

func TestCacheLeasesLost(t *testing.T) {
	t.Run("an end that Redis did not hear is told again", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a := openCacheWithLease(t, redisstore.Options{URL: server.URL(), Deadline: 100 * time.Millisecond}, 15*time.Second)
		b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		var release func(bool)
		storetest.Eventually(t, soon, "a leads", func() bool {
			release, _ = a.Lead(context.Background(), cacheKey("k"))
			return release != nil
		})
		for a.Healthy() { // the connection goes, and with it what was sent
			server.MustDo("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			server.Pause()
			for range 50 {
				_, _ = a.Get(context.Background(), cacheKey("k"), time.Now())
			}
			if a.Healthy() {
				server.Resume()
			}
		}
		release(true)
		server.Resume()
		storetest.Eventually(t, soon, "the lease has ended before its time", func() bool {
			return server.MustDo("EXISTS", b.LeaseKey(cacheKey("k"))) == "0"
		})
	})
	t.Run("nobody ends the lease of another, after FLUSHALL", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		first := leads(t, a, "k")
		server.MustDo("FLUSHALL")
		second := leads(t, b, "k")
		if first == nil || second == nil {
			t.Fatal("want both to lead")
		}
		first(true)
		if leads(t, a, "k") != nil {
			t.Error("the second lease ended with the first")
		}
		second(true)
	})
}

func TestCacheLeasesWithoutMessages(t *testing.T) {
	t.Run("a wait ends without messages, and when its context or its cache does", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		server.MustDo("ACL", "SETUSER", "default", "resetchannels")
		server.MustDo("CLIENT", "KILL", "TYPE", "pubsub")
		storetest.Eventually(t, soon, "no messages arrive", func() bool { return !a.Listening() && !b.Listening() })
		release := leads(t, a, "k")
		ended := waits(t, b, "k")
		release(true)
		over(t, ended)

		release = leads(t, a, "k")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.Await(ctx, cacheKey("k")) }()
		storetest.Eventually(t, soon, "a call waits", func() bool { return b.Waiting() == 1 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that of the context", err)
		}
		ended = waits(t, b, "k")
		b.Close()
		if err := <-ended; err == nil || b.Waiting() != 0 {
			t.Errorf("%v after Close, and %d wait", err, b.Waiting())
		}
		release(true)
	})
}

func TestCacheLeasesClosed(t *testing.T) {
	t.Run("Close leaves no lease behind, whatever is on its way", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		for round := range 30 {
			c := s.Cache(redisstore.CacheOptions{})
			answers(t, c)
			held := leads(t, c, "held")
			if held == nil {
				t.Fatalf("round %d: somebody leads", round)
			}
			var wg sync.WaitGroup
			var led atomic.Int64
			enough := make(chan struct{})
			for i := range 4 {
				wg.Go(func() {
					for j := 0; ; j++ {
						release, err := c.Lead(context.Background(), cacheKey(strconv.Itoa(i)))
						if errors.Is(err, redisstore.ErrClosed) {
							return
						}
						if err != nil || release == nil {
							t.Errorf("round %d, %d: lead: %v", round, i, err)
							return
						}
						if led.Add(1) == int64(10+round) {
							close(enough)
						}
						release(true)
					}
				})
			}
			<-enough
			c.Close()
			left := server.MustDo("KEYS", "*:lease")
			wg.Wait()
			held(false)
			if now := server.MustDo("KEYS", "*:lease"); left != "" || now != "" {
				t.Fatalf("round %d: leases are left: %q, then %q", round, left, now)
			}
		}
	})
	t.Run("Close ends a lease of which Redis did not say whether it was given", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a := openCacheWithLease(t, redisstore.Options{URL: server.URL(), Deadline: time.Second}, 15*time.Second)
		leads(t, a, "first")(true) // the server knows the script
		server.Pause()
		if release, err := a.Lead(context.Background(), cacheKey("k")); err == nil {
			release(true)
			t.Fatal("a paused server has given a lease")
		}
		server.Resume()
		storetest.Eventually(t, soon, "it was given", func() bool { return server.MustDo("EXISTS", a.LeaseKey(cacheKey("k"))) == "1" })
		a.Close()
		if server.MustDo("EXISTS", a.LeaseKey(cacheKey("k"))) != "0" {
			t.Error("the lease is still there")
		}
	})
}
