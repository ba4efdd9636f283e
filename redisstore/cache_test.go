package redisstore_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// openCache makes a cache in a store of its own, as another instance has, and waits
// until it is connected.
func openCache(t testing.TB, o redisstore.Options, c redisstore.CacheOptions) *redisstore.CacheStore {
	t.Helper()
	if o.Deadline == 0 {
		o.Deadline = relaxed
	}
	s, err := redisstore.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	opened := s.Cache(c)
	answers(t, opened)
	return opened
}

// answers waits until c is connected and hears messages.
func answers(t testing.TB, c *redisstore.CacheStore) {
	t.Helper()
	storetest.Eventually(t, soon, "the cache answers", func() bool { return c.Healthy() && c.Listening() })
}

func cacheKey(text string) cache.Key {
	k := cache.NewKeyHash()
	k.Add(text)
	return k.Sum()
}

// answer is an entry that is of use for a minute.
func answer(body []byte) *cache.Entry {
	now := time.Now().Truncate(time.Millisecond).UTC()
	return &cache.Entry{
		Meta:   cache.Meta{Owner: "alice", Labels: []string{cache.Label("route", "chat"), cache.Label("tag", "llama")}, Epoch: 7},
		Status: 200, Header: http.Header{"Content-Type": {"text/event-stream"}, "X-Many": {"a", "b"}}, Body: body, ETag: `"e"`,
		Made: now, Expires: now.Add(30 * time.Second), Until: now.Add(time.Minute), Took: 3 * time.Second,
		Frames: []cache.Frame{{End: len(body) / 2, At: time.Second}, {End: len(body), At: 2 * time.Second}},
	}
}

func noise(n int) []byte {
	body := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(body)
	return body
}

func mustPut(t testing.TB, s cache.Store, key string, e *cache.Entry) {
	t.Helper()
	if err := s.Put(context.Background(), cacheKey(key), e, time.Now()); err != nil {
		t.Fatal(err)
	}
}

func mustGet(t testing.TB, s cache.Store, key string) *cache.Entry {
	t.Helper()
	e, err := s.Get(context.Background(), cacheKey(key), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// has reports whether s has the body under key.
func has(t testing.TB, s cache.Store, key, body string) bool {
	t.Helper()
	e := mustGet(t, s, key)
	return e != nil && string(e.Body) == body
}

func TestCacheSuite(t *testing.T) {
	for _, c := range []struct {
		name    string
		masters int
		near    int64
	}{{"on one server", 1, 0}, {"on one server, with a part on this side", 1, 4 << 20}, {"on a cluster", 3, 0}, {"on a cluster, with a part on this side", 3, 4 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			url, servers := serve(t, c.masters)
			storetest.Cache(t, func(t *testing.T) cache.Store {
				for _, s := range servers {
					s.MustDo("FLUSHALL")
				}
				return openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{Near: c.near})
			})
		})
	}
}

// serve starts one server, or a cluster of several.
func serve(t *testing.T, masters int) (url string, servers []*storetest.RedisServer) {
	t.Helper()
	if masters == 1 {
		server := storetest.Redis(t)
		return server.URL(), []*storetest.RedisServer{server}
	}
	servers = storetest.RedisCluster(t, masters)
	return clusterURL(servers), servers
}

func TestCacheValues(t *testing.T) {
	for _, masters := range []int{1, 3} {
		t.Run("gives back all of an entry, of every length, on "+strconv.Itoa(masters)+" servers", func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, masters)
			for _, near := range []int64{0, 1 << 20} {
				a, b := openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{Near: near}), openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{})
				for _, n := range []int{0, 1, redisstore.PartBytes - 1, redisstore.PartBytes, redisstore.PartBytes + 1, 3*redisstore.PartBytes + 17, redisstore.DefaultMaxEntry} {
					want := answer(noise(n))
					mustPut(t, a, "k", want)
					for _, s := range []cache.Store{a, b} {
						if got := mustGet(t, s, "k"); got == nil || !bytes.Equal(got.Body, want.Body) || !reflect.DeepEqual(got.Meta, want.Meta) ||
							!reflect.DeepEqual(got.Frames, want.Frames) || !got.Until.Equal(want.Until) {
							t.Fatalf("a body of %d bytes did not come back as it was", n)
						}
					}
				}
				if err := a.Delete(context.Background(), cacheKey("k")); err != nil || mustGet(t, a, "k") != nil || mustGet(t, b, "k") != nil {
					t.Fatalf("there after it was deleted, %v", err)
				}
			}
		})
	}
	t.Run("keeps nothing for longer than it is of use, and leaves no parts behind", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		mustPut(t, c, "short", answer(noise(10)))
		mustPut(t, c, "long", answer(noise(1<<20)))
		for _, key := range []string{"short", "long"} {
			if left, err := strconv.Atoi(server.MustDo("PTTL", c.ValueKey(cacheKey(key)))); err != nil || left < 1 || left > 60_000 {
				t.Errorf("%s stays for %d ms, want at most a minute; %v", key, left, err)
			}
		}
		if keys := server.MustDo("KEYS", "*cache:*"); strings.Count(keys, "\n") != 1 {
			t.Errorf("keys:\n%s\nwant two", keys)
		}
		gone := answer(noise(10))
		gone.Until = time.Now().Add(-time.Second)
		mustPut(t, c, "short", gone)
		if mustGet(t, c, "short") != nil || server.MustDo("EXISTS", c.ValueKey(cacheKey("short"))) != "0" {
			t.Error("an entry of no use left the one before it in place")
		}
	})
}

func TestCacheRefusals(t *testing.T) {
	t.Run("refuses what is too long, and does not read it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		small := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{MaxEntry: 1000})
		large := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		if err := small.Put(context.Background(), cacheKey("k"), answer(noise(1001)), time.Now()); err == nil || !strings.Contains(err.Error(), "want at most 1000") {
			t.Errorf("a body of 1001 bytes: %v", err)
		}
		wide := answer(noise(10))
		wide.Header["X-Wide"] = []string{strings.Repeat("x", 100_000)}
		if err := small.Put(context.Background(), cacheKey("k"), wide, time.Now()); err == nil || !strings.Contains(err.Error(), "with its header") {
			t.Errorf("a header of 100 kB: %v", err)
		}
		mustPut(t, large, "k", answer(noise(1<<20)))
		if mustGet(t, small, "k") != nil || mustGet(t, large, "k") == nil {
			t.Error("want the entry only where there is room for it")
		}
	})
	t.Run("takes a value that it can not read for a miss, and deletes it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		name := c.ValueKey(cacheKey("k"))
		mustPut(t, c, "k", answer(noise(600<<10)))
		long := server.MustDo("GET", name)
		mustPut(t, c, "k", answer([]byte("body")))
		short := server.MustDo("GET", name)
		flip := func(s string, at int) string { return s[:at] + string(s[at]^1) + s[at+1:] }
		bad := []string{"x", "wca1", short[:len(short)-1], short + "x", long[:len(long)-1], long + "x", long[:redisstore.PartBytes], flip(long, len(long)-1), strings.Repeat("\xff", 100)}
		for at := range min(len(short), 200) {
			bad = append(bad, flip(short, at))
		}
		for i, value := range bad {
			server.MustDo("SET", name, value, "PX", "60000")
			if e := mustGet(t, c, "k"); e != nil {
				t.Fatalf("value %d of %d bytes is taken for an entry", i, len(value))
			}
			if tooLong := i >= 9 && i < 9+16; server.MustDo("EXISTS", name) != "0" && !tooLong {
				t.Fatalf("value %d of %d bytes stays", i, len(value))
			}
		}
		server.MustDo("DEL", name)
		server.MustDo("LPUSH", name, "x")
		if e := mustGet(t, c, "k"); e != nil || server.MustDo("EXISTS", name) != "0" || !c.Healthy() {
			t.Fatal("a list is not a miss, or stays")
		}
	})
}

func TestCacheMixture(t *testing.T) {
	t.Run("never gives a mixture of two values", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		writer := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		reader := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{Near: 1 << 20})
		bodies := []*cache.Entry{answer(bytes.Repeat([]byte("a"), 1<<20)), answer(bytes.Repeat([]byte("b"), 1<<20))}
		mustPut(t, writer, "k", bodies[0])
		var done atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 30 {
				mustPut(t, writer, "k", bodies[i%2])
			}
			done.Store(true)
		})
		whole := 0
		for !done.Load() || whole == 0 {
			if e := mustGet(t, reader, "k"); e != nil {
				if whole++; !bytes.Equal(e.Body, bodies[0].Body) && !bytes.Equal(e.Body, bodies[1].Body) {
					t.Error("a mixture")
					break
				}
			}
			if done.Load() && whole == 0 {
				mustPut(t, writer, "k", bodies[0]) // the reader deleted the last one
			}
		}
		wg.Wait()
	})
}

// count is how often the server ran a command since CONFIG RESETSTAT.
func count(t testing.TB, server *storetest.RedisServer, command string) int {
	t.Helper()
	n, err := strconv.Atoi(calls(server, command))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCacheNear(t *testing.T) {
	for _, masters := range []int{1, 3} {
		t.Run("asks nobody for what it has on this side, and sees soon what another replaced, on "+strconv.Itoa(masters)+" servers", func(t *testing.T) {
			t.Parallel()
			url, servers := serve(t, masters)
			o := redisstore.Options{URL: url}
			a, b := openCache(t, o, redisstore.CacheOptions{Near: 1 << 20}), openCache(t, o, redisstore.CacheOptions{Near: 1 << 20})
			mustPut(t, a, "k", answer([]byte("one")))
			if !has(t, b, "k", "one") {
				t.Fatal("b does not have what a put")
			}
			for _, s := range servers {
				s.MustDo("CONFIG", "RESETSTAT")
			}
			for range 100 {
				if !has(t, b, "k", "one") {
					t.Fatal("lost")
				}
			}
			for _, s := range servers {
				if n := count(t, s, "getrange"); n != 0 {
					t.Errorf("%d reads for what is on this side", n)
				}
			}
			mustPut(t, a, "k", answer([]byte("two")))
			storetest.Eventually(t, soon, "b sees what a replaced", func() bool { return has(t, b, "k", "two") })
			for i := range 100 { // whoever has written reads what he wrote
				body := strconv.Itoa(i)
				if mustPut(t, b, "k", answer([]byte(body))); !has(t, b, "k", body) {
					t.Fatalf("put %s and got something else", body)
				}
			}
			if err := a.Delete(context.Background(), cacheKey("k")); err != nil {
				t.Fatal(err)
			}
			storetest.Eventually(t, soon, "b sees what a deleted", func() bool { return mustGet(t, b, "k") == nil })
		})
	}
}

func TestCacheNearMisses(t *testing.T) {
	t.Run("does not remember that there is none", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		o := redisstore.Options{URL: server.URL()}
		a, b := openCache(t, o, redisstore.CacheOptions{}), openCache(t, o, redisstore.CacheOptions{Near: 1 << 20})
		for i := range 100 {
			key := strconv.Itoa(i)
			if mustGet(t, b, key) != nil {
				t.Fatal("an empty cache has an entry")
			}
			if mustPut(t, a, key, answer([]byte(key))); !has(t, b, key, key) {
				t.Fatalf("%s is there, and b does not see it", key)
			}
		}
	})
	t.Run("without a part on this side asks every time", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		mustPut(t, c, "k", answer([]byte("one")))
		server.MustDo("CONFIG", "RESETSTAT")
		for range 10 {
			mustGet(t, c, "k")
		}
		if n := count(t, server, "getrange"); n != 10 {
			t.Errorf("%d reads for 10 calls", n)
		}
	})
}
