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

// memoInstance is one of several instances that memoize one function, in memory and
// in one Redis.
type memoInstance struct {
	embed  func(context.Context, string) ([]float32, error)
	tiers  *cache.Tiers
	purges *cache.Purges
}

// newMemoInstance makes one. Each run of its function is sent to ran.
func newMemoInstance(t *testing.T, url string, ran chan<- string) *memoInstance {
	t.Helper()
	store := openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{})
	purges, err := cache.NewPurges(cache.PurgeOptions{Log: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = purges.Close() })
	tiers := cache.NewTiers(purges, cache.NewMemoryStore(cache.MemoryOptions{}), store)
	t.Cleanup(func() { _ = tiers.Close() })
	embed := cache.Memo(func(_ context.Context, text string) ([]float32, error) {
		ran <- text
		return []float32{float32(len(text)), 0.5}, nil
	}, cache.MemoOptions{Store: tiers, Name: "embed-v1", TTL: time.Hour, Tags: []string{"embeddings"}, Purges: purges})
	return &memoInstance{embed, tiers, purges}
}

func TestMemoOnRedisIsSharedByInstances(t *testing.T) {
	url := storetest.Redis(t).URL()
	ran := make(chan string, 100)
	wants := func(what string, i *memoInstance, text string, runs ...string) {
		t.Helper()
		got, err := i.embed(t.Context(), text)
		if want := []float32{float32(len(text)), 0.5}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
		}
		var ranFor []string
		for len(ran) > 0 {
			ranFor = append(ranFor, <-ran)
		}
		if !slices.Equal(ranFor, runs) {
			t.Errorf("%s: ran for %q, want %q", what, ranFor, runs)
		}
	}

	first := newMemoInstance(t, url, ran)
	wants("the first time", first, "weir", "weir")
	wants("the second time", first, "weir")
	if err := first.tiers.Close(); err != nil { // writes what is on its way to Redis
		t.Fatal(err)
	}

	second, third := newMemoInstance(t, url, ran), newMemoInstance(t, url, ran)
	wants("in another instance", second, "weir")
	wants("in another instance, from its memory", second, "weir")
	wants("in a third one", third, "weir")
	wants("another key", second, "gate", "gate")

	if _, err := second.purges.Purge(t.Context(), cache.Label("tag", "embeddings")); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, soon, "the third instance knows of the purge", func() bool {
		return third.purges.Epoch() >= second.purges.Epoch()
	})
	wants("what another instance purged", third, "weir", "weir")
}
