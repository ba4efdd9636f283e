//go:build unix

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// storeKeys is how many entries each store has in the benchmarks below, and
// storeBudget what they all fit in.
const (
	storeKeys   = 32
	storeBudget = 64 << 20
)

// storeSizes are those of the answers: a short one of a chat, a long one or a few
// embeddings, an image.
func storeSizes() []int { return []int{2 << 10, 64 << 10, 1 << 20} }

// A storeContender is one of Weir's own stores.
type storeContender struct {
	name string
	open func(tb testing.TB) cache.Store
	// redis is the server that it asks, or nil.
	redis *storetest.RedisServer
}

func storeContenders(tb testing.TB) []storeContender {
	server := storetest.Redis(tb, "--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru")
	return []storeContender{
		{"memory", func(testing.TB) cache.Store { return newMemoryStore(storeBudget) }, nil},
		{"dir", openDirStore, nil},
		{"redis", func(tb testing.TB) cache.Store {
			return openRedisStore(tb, server, "cache").Cache(redisstore.CacheOptions{})
		}, server},
		{"redis-near", func(tb testing.TB) cache.Store {
			return openRedisStore(tb, server, "near").Cache(redisstore.CacheOptions{Near: storeBudget})
		}, server},
	}
}

func openDirStore(tb testing.TB) cache.Store {
	tb.Helper()
	dir, err := cache.OpenDir(cache.DirOptions{Path: tb.TempDir(), MaxBytes: storeBudget})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := dir.Close(); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// storeOps are what is measured, of what has the number i.
func storeOps() []storeOp {
	return []storeOp{
		{"get", func(ctx context.Context, store cache.Store, key cache.Key, e *cache.Entry, i int) error {
			return checkEntry(ctx, store, key, len(e.Body))
		}},
		{"put", func(ctx context.Context, store cache.Store, key cache.Key, e *cache.Entry, i int) error {
			binary.BigEndian.PutUint64(key[8:], uint64(i)) // one that it has not seen
			return store.Put(ctx, key, e, time.Now())
		}},
		{"replace", func(ctx context.Context, store cache.Store, key cache.Key, e *cache.Entry, i int) error {
			return store.Put(ctx, key, e, time.Now())
		}},
	}
}

type storeOp struct {
	name string
	do   func(ctx context.Context, store cache.Store, key cache.Key, e *cache.Entry, i int) error
}

// BenchmarkCacheStore gets an entry, puts one under a new key, for which another has
// to go if the store is full, or puts one in the place of another: one operation after
// the other. With Redis the CPU time of the server is beside that of this process.
func BenchmarkCacheStore(b *testing.B) {
	contenders := storeContenders(b)
	keys := entryKeys(storeKeys)
	for _, op := range storeOps() {
		for _, size := range storeSizes() {
			e := newEntry(bytes.Repeat([]byte("x"), size), 500*time.Millisecond)
			b.Run(fmt.Sprintf("%s,size=%dKiB", op.name, size>>10), func(b *testing.B) {
				for _, c := range contenders {
					if c.redis != nil {
						c.redis.MustDo("FLUSHDB")
					}
					store := c.open(b)
					fillStore(b, store, keys, e)
					ctx, i := context.Background(), 0
					b.Run(c.name, func(b *testing.B) {
						b.SetBytes(int64(size))
						c.measure(b, func() error {
							i++ // through all runs of this benchmark: keys stay new
							return op.do(ctx, store, keys[i%storeKeys], e, i)
						})
					})
				}
			})
		}
	}
}

// fillStore puts e under each key, and gets it once: a near cache has it then.
func fillStore(tb testing.TB, store cache.Store, keys []cache.Key, e *cache.Entry) {
	tb.Helper()
	for _, key := range keys {
		if err := store.Put(tb.Context(), key, e, time.Now()); err != nil {
			tb.Fatal(err)
		}
		if err := checkEntry(tb.Context(), store, key, len(e.Body)); err != nil {
			tb.Fatal(err)
		}
	}
}

func checkEntry(ctx context.Context, store cache.Store, key cache.Key, size int) error {
	e, err := store.Get(ctx, key, time.Now())
	switch {
	case err != nil:
		return err
	case e == nil:
		return fmt.Errorf("the store has no entry %x", key)
	case len(e.Body) != size:
		return fmt.Errorf("the entry has %d bytes, want %d", len(e.Body), size)
	}
	return nil
}

func (c storeContender) measure(b *testing.B, do func() error) {
	var before redisLoad
	if c.redis != nil {
		before = loadOf(b, c.redis, nil)
	}
	measure(b, func(n int) {
		for range n {
			if err := do(); err != nil {
				b.Fatal(err)
			}
		}
	})
	if c.redis != nil {
		after := loadOf(b, c.redis, nil)
		b.ReportMetric(float64(after.cpu-before.cpu)/float64(b.N), "redis-cpu-ns/op")
	}
}

func TestStoresKeepEntriesWhole(t *testing.T) {
	keys := entryKeys(3)
	for _, c := range storeContenders(t) {
		for _, size := range storeSizes() {
			t.Run(fmt.Sprintf("%s, %d bytes", c.name, size), func(t *testing.T) {
				store := c.open(t)
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
				fillStore(t, store, keys, newEntry(body, time.Second))
				for _, key := range keys {
					e, err := store.Get(t.Context(), key, time.Now())
					if err != nil || e == nil || !bytes.Equal(e.Body, body) {
						t.Fatalf("got %v, %v: want the entry with its body", e != nil, err)
					}
				}
			})
		}
	}
}
