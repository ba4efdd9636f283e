package cache_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

func TestRFC5861(t *testing.T) {
	const swr, sie = "Cache-Control: max-age=60, stale-while-revalidate=30", "Cache-Control: max-age=60, stale-if-error=30"
	// refreshed gets one stale answer, and tells whether it was given at once.
	refreshed := func(t *testing.T, o cache.Options, said string, past time.Duration, want bool, request ...string) {
		t.Helper()
		g := newRigWith(t, o, said, tag)
		g.get()
		time.Sleep(time.Minute + past)
		g.lines, g.took = list(said, `ETag: "b"`), time.Second
		got := g.get(request...)
		if !want {
			g.want(got, 200, "answer 2", 2)
			return
		}
		g.gives(got, 200, "answer 1")
		g.says(got, "Age", strconv.Itoa(int((time.Minute+past)/time.Second)))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		g.want(g.get(), 200, "answer 2", 2)
	}
	const s = time.Second
	virtual(t, "RFC 5861, 3 gives what is stale while it asks", func(t *testing.T) { refreshed(t, cache.Options{}, swr, 29*s, true) })
	virtual(t, "RFC 5861, 3 does not give it longer than the origin says", func(t *testing.T) { refreshed(t, cache.Options{}, swr, 30*s, false) })
	virtual(t, "RFC 5861, 3 does not give it longer than the origin says, whatever the operator says", func(t *testing.T) {
		refreshed(t, cache.Options{StaleWhileRevalidate: time.Hour}, swr, 30*s, false)
	})
	virtual(t, "RFC 5861, 3 gives it for as long as the operator says where the origin does not", func(t *testing.T) {
		refreshed(t, cache.Options{StaleWhileRevalidate: time.Hour}, fresh, 59*time.Minute, true)
	})
	virtual(t, "RFC 5861, 3 does not give it where nobody says so", func(t *testing.T) { refreshed(t, cache.Options{}, fresh, s, false) })
	for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"} {
		virtual(t, "RFC 5861, 3 does not give it with "+forbids, func(t *testing.T) {
			refreshed(t, cache.Options{StaleWhileRevalidate: time.Hour}, swr+", "+forbids, s, false)
		})
	}
	for _, request := range []string{"Cache-Control: no-cache", "Cache-Control: max-age=3600", "Cache-Control: min-fresh=1", "Pragma: no-cache"} {
		virtual(t, "RFC 5861, 3 does not give it to a client that says "+request, func(t *testing.T) { refreshed(t, cache.Options{}, swr, s, false, request) })
	}
	virtual(t, "RFC 5861, 3 asks once for all who come meanwhile", func(t *testing.T) {
		g := newRig(t, swr, tag)
		g.get()
		time.Sleep(61 * s)
		g.took = s
		for range 20 {
			g.gives(g.get(), 200, "answer 1")
		}
		time.Sleep(2 * s)
		synctest.Wait()
		g.want(g.get(), 200, "answer 1", 2) // 304: it is still good
	})
	virtual(t, "RFC 5861, 3 asks again where that failed, and gives no failure", func(t *testing.T) {
		g := newRig(t, swr, tag)
		g.get()
		time.Sleep(61 * s)
		g.status, g.lines = 503, nil
		g.gives(g.get(), 200, "answer 1")
		synctest.Wait()
		g.gives(g.get(), 200, "answer 1")
		time.Sleep(30 * s)
		if got := g.get(); got.status != 503 {
			t.Errorf("got %d when it was too old", got.status)
		}
	})
	// failing gets an answer while the origin fails with status.
	failing := func(t *testing.T, o cache.Options, said string, past time.Duration, status int, want bool) {
		t.Helper()
		g := newRigWith(t, o, said, tag)
		g.get()
		time.Sleep(time.Minute + past)
		g.handle = func(w http.ResponseWriter, _ *http.Request) {
			say(w, "Retry-After: 7", "X-Failure: 1")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "failure")
		}
		got := g.get()
		if !want {
			g.want(got, status, "failure", 2)
			return
		}
		g.want(got, 200, "answer 1", 2)
		g.says(got, "Age", strconv.Itoa(int((time.Minute+past)/time.Second)))
		g.says(got, "X-Failure", "")
		g.says(got, "Retry-After", "")
	}
	for _, status := range []int{500, 502, 503, 504} {
		name := strconv.Itoa(status)
		virtual(t, "RFC 5861, 4 gives what is stale where the origin fails with "+name, func(t *testing.T) { failing(t, cache.Options{}, sie, 29*s, status, true) })
		virtual(t, "RFC 5861, 4 does not give it longer than the origin says for "+name, func(t *testing.T) {
			failing(t, cache.Options{StaleIfError: time.Hour}, sie, 30*s, status, false)
		})
		virtual(t, "RFC 5861, 4 gives it for as long as the operator says where the origin does not for "+name, func(t *testing.T) {
			failing(t, cache.Options{StaleIfError: time.Hour}, fresh, 59*time.Minute, status, true)
		})
		virtual(t, "RFC 5861, 4 does not give it where nobody says so for "+name, func(t *testing.T) { failing(t, cache.Options{}, fresh, s, status, false) })
	}
	for _, status := range []int{400, 403, 404, 410, 429, 501} {
		virtual(t, "RFC 5861, 4 does not give it in place of "+strconv.Itoa(status), func(t *testing.T) { failing(t, cache.Options{}, sie, s, status, false) })
	}
}

func TestRFC9211(t *testing.T) {
	status := func(g *rig, want string, got reply) {
		g.t.Helper()
		g.says(got, "Cache-Status", want)
	}
	virtual(t, "RFC 9211 tells hits and misses apart", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		status(g, "weir; fwd=uri-miss; stored", g.get())
		status(g, "weir; hit; ttl=10", g.get())
		time.Sleep(4 * time.Second)
		status(g, "weir; hit; ttl=6", g.get())
		status(g, "weir; hit; ttl=6", g.send("HEAD", "/", ""))
		status(g, "weir; hit; ttl=6", g.get(`If-None-Match: "a"`))
		status(g, "weir; hit; ttl=6", g.get("Range: bytes=0-1"))
		time.Sleep(9 * time.Second)
		status(g, "weir; hit; ttl=-3", g.get(tolerates))
		status(g, "weir; fwd=stale; fwd-status=304", g.get())
		status(g, "weir; hit; ttl=10", g.get())
	})
	virtual(t, "RFC 9211 says what became of a stale answer", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10, stale-if-error=100", tag)
		g.get()
		time.Sleep(11 * time.Second)
		lines := g.lines
		g.lines, g.status = nil, 503
		if got := g.get().header.Get("Cache-Status"); !strings.HasPrefix(got, "weir; fwd=stale; fwd-status=503") {
			t.Errorf("a failure: got %q", got)
		}
		g.lines, g.status = append(lines[:1:1], `ETag: "b"`), 200
		if got := g.get().header.Get("Cache-Status"); !strings.HasPrefix(got, "weir; fwd=stale") || !strings.HasSuffix(got, "; stored") {
			t.Errorf("another answer: got %q", got)
		}
	})
	virtual(t, "RFC 9211 says which answer is missing", func(t *testing.T) {
		g := newRig(t, fresh, "Vary: X-A")
		status(g, "weir; fwd=uri-miss; stored", g.get("X-A: 1"))
		status(g, "weir; fwd=vary-miss; stored", g.get("X-A: 2"))
		status(g, "weir; hit; ttl=60", g.get("X-A: 1"))
	})
	virtual(t, "RFC 9211 says why a request went past what is stored", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		status(g, "weir; fwd=request; fwd-status=200; stored", g.get("Cache-Control: no-cache"))
		status(g, "weir; fwd=bypass", g.get("Cache-Control: no-store"))
		status(g, "weir; fwd=method", g.send("OPTIONS", "/", ""))
		status(g, "weir; fwd=method", g.send("POST", "/", ""))
	})
	virtual(t, "RFC 9211 says that an answer is not stored", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-store")
		status(g, "weir; fwd=uri-miss", g.get())
	})
	virtual(t, "RFC 9211 says who was waiting", func(t *testing.T) {
		g := newRig(t, fresh)
		g.took = time.Second
		collapsed := 0
		for _, got := range atOnce(g, 5) {
			if strings.HasSuffix(got.header.Get("Cache-Status"), "; collapsed") {
				collapsed++
			}
		}
		if collapsed != 4 {
			t.Errorf("%d collapsed, want 4", collapsed)
		}
	})
	virtual(t, "RFC 9211 keeps what caches nearer to the origin said", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-store", "Cache-Status: origin; hit")
		if got := strings.Join(g.get().header["Cache-Status"], ", "); got != "origin; hit, weir; fwd=uri-miss" {
			t.Errorf("got %q", got)
		}
	})
	virtual(t, "RFC 9211 says that only-if-cached has nothing", func(t *testing.T) {
		g := newRig(t, fresh)
		got := g.get("Cache-Control: only-if-cached")
		if v := got.header.Get("Cache-Status"); !strings.HasPrefix(v, "weir") || strings.Contains(v, "hit") || strings.Contains(v, "stored") {
			t.Errorf("got %q", v)
		}
	})
}
