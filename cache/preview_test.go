package cache_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

func TestPreviewLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := cache.NewMemoryStore(cache.MemoryOptions{}), cache.NewMemoryStore(cache.MemoryOptions{})
		purges, err := cache.NewPurges(cache.PurgeOptions{Stores: []cache.Sweeper{near, far}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = purges.Close() })
		tiers := cache.NewTiers(purges, near, far)
		t.Cleanup(func() { _ = tiers.Close() })
		c := newCache(t, cache.Options{Store: tiers, Purges: purges})
		h := c.Middleware(&origin{})
		ask(h, request(http.MethodPost, "/a", `{"x":1}`))
		if err := tiers.Wait(t.Context(), keyOf(t, c, "/a")); err != nil {
			t.Fatal(err)
		}
		if err := near.Delete(t.Context(), keyOf(t, c, "/a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)

		l := preview(t, c, "/a")
		if l.Entry == nil || l.Result() != "hit" || l.Entry.Age(time.Now()).Round(time.Second) != 20*time.Second || l.Running() || l.Forwarded() != "" {
			t.Errorf("a preview of what is stored is a %s, %v old, forwarded for %q, running %t", l.Result(), l.Entry.Age(time.Now()), l.Forwarded(), l.Running())
		}
		if n := near.Stats().Entries; n != 0 {
			t.Errorf("a preview filled the first tier: it has %d entries", n)
		}
		r := request(http.MethodPost, "/a", "")
		w := httptest.NewRecorder()
		if l.ServeHead(w, r); w.Code != http.StatusOK || w.Body.Len() > 0 {
			t.Errorf("its head is %d with %q", w.Code, w.Body)
		}

		time.Sleep(time.Minute)
		if l := preview(t, c, "/a"); l.Entry != nil || l.Result() != "miss" || l.Forwarded() != "miss" {
			t.Errorf("a preview of what has expired is a %s", l.Result())
		}
		if l := preview(t, c, "/b"); l.Entry != nil || l.Forwarded() != "miss" {
			t.Errorf("a preview of what is not stored is a %s", l.Result())
		}
	})
}

func TestPreviewSeesTheSameRequestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Options{StaleIfError: time.Hour})
		h := c.Middleware(&origin{answer: func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) }})
		go ask(h, request(http.MethodPost, "/a", `{"x":1}`))
		synctest.Wait()
		if !preview(t, c, "/a").Running() {
			t.Error("a request that runs is not seen")
		}
		if preview(t, c, "/b").Running() {
			t.Error("another request is taken for the one that runs")
		}
		time.Sleep(2 * time.Second)
		if preview(t, c, "/a").Running() {
			t.Error("a request that has ended is taken for one that runs")
		}
		time.Sleep(2 * time.Minute)
		l := preview(t, c, "/a")
		if e, left := l.Stale(); e == nil || l.Forwarded() != "stale" || left < 57*time.Minute || left > 59*time.Minute {
			t.Errorf("a stale answer: %v for %v, forwarded for %q", e, left, l.Forwarded())
		}
	})
}

func TestPreviewTellsTheClientsWishes(t *testing.T) {
	c := newCache(t, cache.Options{})
	for value, want := range map[string]cache.Wishes{
		"no-store":       {NoStore: true, MaxAge: -1},
		"no-cache":       {NoCache: true, MaxAge: -1},
		"only-if-cached": {OnlyIfCached: true, MaxAge: -1},
		"max-age=5":      {MaxAge: 5 * time.Second},
	} {
		l, err := c.Preview(t.Context(), previewed("/a", "Cache-Control", value), time.Now())
		if got := l.Wishes(); got != want {
			t.Errorf("%s: %+v, want %+v", value, got, want)
		}
		if (err != nil) != want.OnlyIfCached {
			t.Errorf("%s: error %v", value, err)
		}
	}
}

// previewed is a request of the caller that requests without auth have.
func previewed(path string, header ...string) cache.Request {
	return cache.Request{HTTP: request(http.MethodPost, path, `{"x":1}`, header...), Body: []byte(`{"x":1}`), Caller: weir.Caller{ID: "ip:192.0.2.1", Anonymous: true}}
}

func preview(t *testing.T, c *cache.Cache, path string) *cache.Lookup {
	t.Helper()
	l, err := c.Preview(t.Context(), previewed(path), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func keyOf(t *testing.T, c *cache.Cache, path string) cache.Key {
	t.Helper()
	return preview(t, c, path).Key()
}
