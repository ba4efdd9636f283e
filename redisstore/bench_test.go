package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

func BenchmarkTake(b *testing.B) {
	server := storetest.Redis(b)
	s, err := redisstore.New(redisstore.Options{URL: server.URL(), Deadline: relaxed})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	policies := []*ratelimit.Policy{
		prepare(b, ratelimit.Policy{Name: "bucket", Quota: 1_000_000_000, Window: time.Hour}),
		prepare(b, ratelimit.Policy{Name: "sliding", Quota: 1_000_000_000, Window: time.Hour, Algorithm: ratelimit.SlidingWindow}),
		prepare(b, ratelimit.Policy{Name: "fixed", Quota: 1_000_000_000, Window: time.Hour, Algorithm: ratelimit.FixedWindow}),
	}
	for _, n := range []int{1, 3} {
		one := func(b *testing.B) {
			if _, err := s.Take(context.Background(), takes("k", policies[:n]...), time.Now()); err != nil {
				b.Error(err)
			}
		}
		b.Run(fmt.Sprintf("policies=%d/callers=1", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				one(b)
			}
		})
		b.Run(fmt.Sprintf("policies=%d/callers=50", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(25)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					one(b)
				}
			})
		})
	}
}
