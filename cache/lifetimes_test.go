package cache_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
)

// keeping is a cache behind its middleware, and what a request to it is answered with.
func keeping(t *testing.T, o cache.Options, h http.HandlerFunc) (*cache.Cache, func(path string) string) {
	t.Helper()
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	server := c.Middleware(h)
	return c, func(path string) string {
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		return rec.Header().Get("Cache-Status")
	}
}

func TestLifetimesHoldForWhatIsStored(t *testing.T) {
	set := func(t *testing.T, c *cache.Cache, l cache.Lifetimes) {
		t.Helper()
		if err := c.SetLifetimes(l); err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, got, prefix string) {
		t.Helper()
		if !strings.HasPrefix(got, "weir; "+prefix) {
			t.Errorf("got %q, want %q", got, prefix)
		}
	}
	ok := func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }
	t.Run("a shorter one at once, a longer one from the next answer on", func(t *testing.T) {
		c, ask := keeping(t, cache.Options{TTL: time.Hour, Share: cache.ShareAll}, ok)
		want(t, ask("/a"), "fwd=miss; stored")
		want(t, ask("/a"), "hit; ttl=3599")
		set(t, c, cache.Lifetimes{TTL: time.Minute})
		want(t, ask("/a"), "hit; ttl=59")
		set(t, c, cache.Lifetimes{TTL: 24 * time.Hour})
		want(t, ask("/a"), "hit; ttl=3599")
		want(t, ask("/b"), "fwd=miss; stored")
		want(t, ask("/b"), "hit; ttl=86399")
	})
	t.Run("stale answers are given for as long as it says now", func(t *testing.T) {
		c, ask := keeping(t, cache.Options{TTL: time.Hour, StaleWhileRevalidate: time.Hour, Share: cache.ShareAll}, ok)
		want(t, ask("/a"), "fwd=miss; stored")
		set(t, c, cache.Lifetimes{TTL: time.Nanosecond, StaleWhileRevalidate: time.Hour})
		want(t, ask("/a"), "hit; ttl=-1")
		set(t, c, cache.Lifetimes{TTL: time.Nanosecond})
		want(t, ask("/a"), "fwd=miss")
	})
	t.Run("an answer that came old is fresh for as long as before", func(t *testing.T) {
		c, ask := keeping(t, cache.Options{TTL: time.Minute, Share: cache.ShareAll}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Age", "3600")
			ok(w, r)
		})
		want(t, ask("/a"), "fwd=miss; stored")
		want(t, ask("/a"), "hit; ttl=59")
		set(t, c, cache.Lifetimes{TTL: 30 * time.Second})
		want(t, ask("/a"), "hit; ttl=29")
	})
	t.Run("404 goes by its own", func(t *testing.T) {
		c, ask := keeping(t, cache.Options{TTL: time.Hour, NegativeTTL: time.Minute, Share: cache.ShareAll}, http.NotFound)
		want(t, ask("/a"), "fwd=miss; stored")
		want(t, ask("/a"), "hit; ttl=59")
		set(t, c, cache.Lifetimes{TTL: time.Hour, NegativeTTL: -1})
		want(t, ask("/a"), "fwd=miss")
	})
	t.Run("mistakes change nothing", func(t *testing.T) {
		c, ask := keeping(t, cache.Options{TTL: time.Hour, Share: cache.ShareAll}, ok)
		for _, l := range []cache.Lifetimes{{}, {TTL: -1}, {TTL: time.Second, StaleIfError: -1}, {TTL: time.Second, StaleWhileRevalidate: -1}} {
			if err := c.SetLifetimes(l); err == nil {
				t.Errorf("%+v is taken", l)
			}
		}
		want(t, ask("/a"), "fwd=miss; stored")
		want(t, ask("/a"), "hit; ttl=3599")
	})
	t.Run("mode http needs none", func(t *testing.T) {
		c, _ := keeping(t, cache.Options{Mode: cache.ModeHTTP}, ok)
		set(t, c, cache.Lifetimes{StaleIfError: time.Hour})
	})
}
