package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

func BenchmarkCache(b *testing.B) {
	server := storetest.Redis(b)
	o := redisstore.Options{URL: server.URL()}
	far, near := openCache(b, o, redisstore.CacheOptions{}), openCache(b, o, redisstore.CacheOptions{Near: 16 << 20})
	ctx, small, long := context.Background(), answer(noise(2<<10)), answer(noise(1<<20))
	mustPut(b, far, "small", small)
	mustPut(b, far, "long", long)
	get := func(b *testing.B, c *redisstore.CacheStore, key string) {
		b.Helper()
		b.ReportAllocs()
		k := cacheKey(key)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if e, err := c.Get(ctx, k, time.Now()); err != nil || e == nil {
					b.Error("missed", err)
					return
				}
			}
		})
	}
	b.Run("get 2 KiB", func(b *testing.B) { get(b, far, "small") })
	b.Run("get 2 KiB that is on this side", func(b *testing.B) { get(b, near, "small") })
	b.Run("get 1 MiB", func(b *testing.B) { get(b, far, "long") })
	b.Run("put 2 KiB", func(b *testing.B) {
		for b.Loop() {
			mustPut(b, far, "put", small)
		}
	})
	b.Run("lead and release", func(b *testing.B) {
		for b.Loop() {
			leads(b, far, "lead")(true)
		}
	})
}
