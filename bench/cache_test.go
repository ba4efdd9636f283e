//go:build unix

package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

// Entries of the caches below: 10,000 answers of 2 KiB.
const (
	entryCount = 10_000
	entrySize  = 2 << 10
	entryTTL   = time.Hour
)

func entryKeys() []cache.Key {
	keys := make([]cache.Key, entryCount)
	for i := range keys {
		var number [8]byte
		binary.BigEndian.PutUint64(number[:], uint64(i))
		keys[i] = sha256.Sum256(number[:])
	}
	return keys
}

func newEntry() *cache.Entry {
	now := time.Now()
	return &cache.Entry{
		Status:  http.StatusOK,
		Header:  http.Header{"Content-Type": {"application/json"}},
		Body:    bytes.Repeat([]byte("x"), entrySize),
		ETag:    `"tag"`,
		Made:    now,
		Expires: now.Add(entryTTL),
		Took:    500 * time.Millisecond,
	}
}

// shelf is a full cache: get reports whether key's entry was there.
type shelf struct {
	name string
	fill func(tb testing.TB, keys []cache.Key) (get func(cache.Key) bool)
}

func shelves() []shelf {
	return []shelf{{"weir", weirShelf}, {"golang-lru-expirable", expirableShelf}, {"golang-lru-no-ttl", lruShelf}, {"otter", otterShelf}}
}

func weirShelf(tb testing.TB, keys []cache.Key) func(cache.Key) bool {
	ctx := context.Background()
	store := cache.NewMemoryStore(0)
	for _, key := range keys {
		if err := store.Put(ctx, key, newEntry(), time.Now()); err != nil {
			tb.Fatal(err)
		}
	}
	return func(key cache.Key) bool {
		e, err := store.Get(ctx, key, time.Now())
		return e != nil && err == nil
	}
}

func expirableShelf(_ testing.TB, keys []cache.Key) func(cache.Key) bool {
	// Without a time to live: one above 0 starts a goroutine that nothing can
	// stop. Get looks at the clock either way.
	c := expirable.NewLRU[cache.Key, *cache.Entry](entryCount, nil, 0)
	for _, key := range keys {
		c.Add(key, newEntry())
	}
	return func(key cache.Key) bool {
		_, ok := c.Get(key)
		return ok
	}
}

func lruShelf(tb testing.TB, keys []cache.Key) func(cache.Key) bool {
	c, err := lru.New[cache.Key, *cache.Entry](entryCount)
	if err != nil {
		tb.Fatal(err)
	}
	for _, key := range keys {
		c.Add(key, newEntry())
	}
	return func(key cache.Key) bool {
		_, ok := c.Get(key)
		return ok
	}
}

func otterShelf(tb testing.TB, keys []cache.Key) func(cache.Key) bool {
	c := newOtter[cache.Key, *cache.Entry](tb)
	for _, key := range keys {
		c.Set(key, newEntry())
	}
	return func(key cache.Key) bool {
		_, ok := c.GetIfPresent(key)
		return ok
	}
}

func newOtter[K comparable, V any](tb testing.TB) *otter.Cache[K, V] {
	c, err := otter.New(&otter.Options[K, V]{
		MaximumSize:      2 * entryCount,
		ExpiryCalculator: otter.ExpiryWriting[K, V](entryTTL),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.StopAllGoroutines() })
	return c
}

// BenchmarkCacheHit finds one of 10,000 entries of 2 KiB, or the same one each
// time. What is found is not copied or read, by nobody.
func BenchmarkCacheHit(b *testing.B) {
	for _, c := range []struct {
		name string
		keys int
	}{{"keys=10k", entryCount}, {"keys=hot", 1}} {
		b.Run(c.name, func(b *testing.B) {
			keys := entryKeys()[:c.keys]
			choices := order(len(keys))
			for _, s := range shelves() {
				get := s.fill(b, keys)
				b.Run(s.name, func(b *testing.B) {
					measure(b, func(n int) {
						for i := range n {
							if !get(keys[choices[i%streamLength]]) {
								b.Fatal("not found")
							}
						}
					})
				})
			}
		})
	}
}

// BenchmarkMemoHit calls a memoized function for one of 1,000 known results.
// golang-lru has no calls that load; its plain look-up is the floor.
func BenchmarkMemoHit(b *testing.B) {
	keys := callerKeys(1000)
	used := fresh(keys)
	ctx := context.Background()
	length := func(_ context.Context, s string) (int, error) { return len(s), nil }

	memo := cache.Memo(length, cache.MemoOptions{TTL: entryTTL, MaxEntries: len(keys)})
	o := newOtter[string, int](b)
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

// completion is a chat request of exactly size bytes.
func completion(size int) []byte {
	const head, tail = `{"model":"llama-3.1-8b","temperature":0,"max_tokens":256,"messages":[{"role":"user","content":"`, `"}]}`
	text := strings.Repeat("What does a weir do to a river? ", size/32+1)
	return []byte(head + text[:size-len(head)-len(tail)] + tail)
}

// BenchmarkCacheKey makes the key of a chat request: "weir" is what a gateway
// does, which takes in who asks, the request's fields, and the body in canonical
// form; "weir-keyhash" hashes the body as it is; "sha256" is the hash alone.
func BenchmarkCacheKey(b *testing.B) {
	c, err := cache.New(cache.Options{TTL: entryTTL})
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{200, 10_000} {
		body := completion(size)
		r, err := http.NewRequest(http.MethodPost, "http://gateway.test/v1/chat/completions", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header = http.Header{
			"Content-Type": {"application/json"}, "Authorization": {"Bearer sk-0123456789abcdef"},
			"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"client/1.0"}, "X-Stainless-Lang": {"python"},
		}
		for _, m := range []struct {
			name string
			key  func() (cache.Key, error)
		}{
			{"weir", func() (cache.Key, error) { return c.Key(r, body, weir.Caller{ID: "key:alice"}) }},
			{"weir-keyhash", func() (cache.Key, error) {
				k := cache.NewKeyHash()
				k.AddBytes(body)
				return k.Sum(), nil
			}},
			{"sha256", func() (cache.Key, error) { return sha256.Sum256(body), nil }},
		} {
			b.Run(fmt.Sprintf("body=%dB/%s", size, m.name), func(b *testing.B) {
				b.SetBytes(int64(size))
				measure(b, func(n int) {
					for range n {
						if _, err := m.key(); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}

func TestShelves(t *testing.T) {
	keys := entryKeys()
	for _, s := range shelves() {
		t.Run(s.name+" finds what was put in and nothing else", func(t *testing.T) {
			get := s.fill(t, keys)
			for i, key := range keys {
				if !get(key) {
					t.Fatalf("entry %d was not found", i)
				}
			}
			if get(cache.Key{}) {
				t.Error("found an entry that was never put in")
			}
		})
	}
}

func TestCompletionHasItsSize(t *testing.T) {
	for _, size := range []int{200, 10_000} {
		if got := len(completion(size)); got != size {
			t.Errorf("completion(%d) has %d bytes", size, got)
		}
	}
}
