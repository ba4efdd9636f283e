package redisstore_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// memoInstance is what one of several instances has: a memoized function, in memory
// and in the Redis of url, and its purges. Each run of the function is sent to ran.
func memoInstance(t *testing.T, url string, ran chan<- string) (func(context.Context, string) ([]float32, error), *cache.Purges) {
	t.Helper()
	store := openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{})
	tiers := cache.NewTiers(nil, cache.NewMemoryStore(cache.MemoryOptions{}), store)
	t.Cleanup(func() { _ = tiers.Close() })
	purges, err := cache.NewPurges(cache.PurgeOptions{Log: store, Stores: []cache.Sweeper{tiers}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(purges.Close)
	embed := cache.Memo(func(_ context.Context, text string) ([]float32, error) {
		ran <- text
		return []float32{float32(len(text)), 0.5}, nil
	}, cache.MemoOptions{Store: tiers, Name: "embed-v1", TTL: time.Hour, Tags: []string{"embeddings"}, Purges: purges})
	return embed, purges
}

func TestMemoOnRedisIsSharedByInstances(t *testing.T) {
	url := storetest.Redis(t).URL()
	ran := make(chan string, 100)
	one, _ := memoInstance(t, url, ran)
	two, purges := memoInstance(t, url, ran)
	wants := func(f func(context.Context, string) ([]float32, error), text string) {
		t.Helper()
		got, err := f(t.Context(), text)
		if want := []float32{float32(len(text)), 0.5}; err != nil || !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	runs := func(what string, want ...string) {
		t.Helper()
		var got []string
		for len(ran) > 0 {
			got = append(got, <-ran)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: ran for %q, want %q", what, got, want)
		}
	}

	wants(one, "weir")
	wants(one, "weir")
	runs("twice in one instance", "weir")
	// The first tier is written at once, Redis behind a queue.
	storetest.Eventually(t, soon, "the result is in Redis", func() bool {
		third, _ := memoInstance(t, url, ran)
		wants(third, "weir")
		shared := len(ran) == 0
		for len(ran) > 0 {
			<-ran
		}
		return shared
	})
	wants(two, "weir")
	runs("in the other instance")
	wants(two, "gate")
	runs("something else", "gate")

	if _, err := purges.Purge(t.Context(), cache.Label("tag", "embeddings")); err != nil {
		t.Fatal(err)
	}
	wants(two, "weir")
	runs("after a purge", "weir")
}
