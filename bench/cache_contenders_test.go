//go:build unix

package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/maypok86/otter/v2"

	"github.com/inferweir/weir/cache"
)

// What the caches below are asked for: answers of 2 KiB that are good for an hour.
const (
	entryCount = 100_000
	entrySize  = 2 << 10
	entryTTL   = time.Hour
)

// hashKey is the key of what has this number: like all keys, it looks random.
func hashKey(number uint64) cache.Key {
	var text [8]byte
	binary.BigEndian.PutUint64(text[:], number)
	return sha256.Sum256(text[:])
}

func entryKeys(n int) []cache.Key {
	keys := make([]cache.Key, n)
	for i := range keys {
		keys[i] = hashKey(uint64(i))
	}
	return keys
}

// jsonBody is JSON of 2 KiB: Weir keeps nothing that is called so and is none.
func jsonBody() []byte {
	const head, tail = `{"text":"`, `"}`
	return []byte(head + strings.Repeat("x", entrySize-len(head)-len(tail)) + tail)
}

// newEntry has body for its body, which entries may share: nobody writes to it.
func newEntry(body []byte, took time.Duration) *cache.Entry {
	now := time.Now()
	return &cache.Entry{
		Status:  http.StatusOK,
		Header:  http.Header{"Content-Type": {"application/json"}},
		Body:    body,
		ETag:    `"tag"`,
		Made:    now,
		Expires: now.Add(entryTTL),
		Until:   now.Add(entryTTL),
		Took:    took,
	}
}

// newEntries are n entries of one body.
func newEntries(n int) []*cache.Entry {
	body := bytes.Repeat([]byte("x"), entrySize)
	entries := make([]*cache.Entry, n)
	for i := range entries {
		entries[i] = newEntry(body, 500*time.Millisecond)
	}
	return entries
}

// A cacheContender is a cache of entries that is bounded by their bytes, as
// Entry.Size counts them.
type cacheContender struct {
	name string
	open func(tb testing.TB, budget int64) shelf
}

// shelf is an open cache. Keys are pointers because ristretto takes slices of
// bytes, and a slice of a copy would be an allocation that is none of its own.
type shelf struct {
	get func(*cache.Key) bool
	put func(*cache.Key, *cache.Entry)
	// settle waits until all that was put has its place or was refused one: some
	// put things behind the caller's back.
	settle func()
}

// boundedCaches all find an entry by its key and then look at the clock, but
// lru-bytes, which knows no time.
func boundedCaches() []cacheContender {
	return []cacheContender{
		{"weir", weirShelf}, {"otter", otterShelf}, {"ristretto", ristrettoShelf}, {"theine", theineShelf}, {"lru-bytes", lruShelf},
	}
}

func weirShelf(tb testing.TB, budget int64) shelf { return storeShelf(tb, newMemoryStore(budget)) }

func storeShelf(tb testing.TB, store cache.Store) shelf {
	ctx := context.Background()
	return shelf{
		get: func(key *cache.Key) bool {
			e, err := store.Get(ctx, *key, time.Now())
			return e != nil && err == nil
		},
		put: func(key *cache.Key, e *cache.Entry) {
			if err := store.Put(ctx, *key, e, time.Now()); err != nil {
				tb.Error(err)
			}
		},
		settle: func() {},
	}
}

func newMemoryStore(budget int64) *cache.MemoryStore {
	return cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: budget})
}

func otterShelf(tb testing.TB, budget int64) shelf {
	c := newOtter(tb, &otter.Options[cache.Key, *cache.Entry]{
		MaximumWeight:    uint64(budget),
		Weigher:          func(_ cache.Key, e *cache.Entry) uint32 { return uint32(e.Size()) },
		ExpiryCalculator: otter.ExpiryWriting[cache.Key, *cache.Entry](entryTTL),
	})
	return shelf{
		get: func(key *cache.Key) bool {
			_, ok := c.GetIfPresent(*key)
			return ok
		},
		put:    func(key *cache.Key, e *cache.Entry) { c.Set(*key, e) },
		settle: c.CleanUp,
	}
}

func newOtter[K comparable, V any](tb testing.TB, o *otter.Options[K, V]) *otter.Cache[K, V] {
	c, err := otter.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.StopAllGoroutines() })
	return c
}

// ristrettoShelf is spared the hashing of keys, which are hashes already. It has
// counters as its documentation says: ten times as many as entries fit in.
func ristrettoShelf(tb testing.TB, budget int64) shelf {
	const smallest = 2 << 10 // of all entries here
	c, err := ristretto.NewCache(&ristretto.Config[[]byte, *cache.Entry]{
		NumCounters: 10 * budget / smallest, MaxCost: budget, BufferItems: 64, IgnoreInternalCost: true,
		KeyToHash: func(key []byte) (uint64, uint64) {
			return binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:])
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return shelf{
		get: func(key *cache.Key) bool {
			_, ok := c.Get(key[:])
			return ok
		},
		put:    func(key *cache.Key, e *cache.Entry) { c.SetWithTTL(key[:], e, e.Size(), entryTTL) },
		settle: c.Wait,
	}
}

func theineShelf(tb testing.TB, budget int64) shelf {
	c, err := theine.NewBuilder[cache.Key, *cache.Entry](budget).Build()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return shelf{
		get: func(key *cache.Key) bool {
			_, ok := c.Get(*key)
			return ok
		},
		put:    func(key *cache.Key, e *cache.Entry) { c.SetWithTTL(*key, e, e.Size(), entryTTL) },
		settle: c.Wait,
	}
}

// lruShelf gives up what was not used for longest, golang-lru's list under a mutex.
func lruShelf(tb testing.TB, budget int64) shelf {
	const most = 1 << 30 // entries: only bytes count here
	var bytes int64
	list, err := simplelru.NewLRU(most, func(_ cache.Key, e *cache.Entry) { bytes -= e.Size() })
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex // guards list and bytes
	return shelf{
		get: func(key *cache.Key) bool {
			mu.Lock()
			defer mu.Unlock()
			_, ok := list.Get(*key)
			return ok
		},
		put: func(key *cache.Key, e *cache.Entry) {
			mu.Lock()
			defer mu.Unlock()
			list.Remove(*key)
			list.Add(*key, e)
			for bytes += e.Size(); bytes > budget; {
				list.RemoveOldest()
			}
		},
		settle: func() {},
	}
}
