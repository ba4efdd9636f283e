package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// own are answers that are for one user, by the path that gives them: the fields
// that say so.
func own() map[string]http.Header {
	return map[string]http.Header{
		"/private":         {"Cache-Control": {"private, max-age=60"}},
		"/no-store":        {"Cache-Control": {"no-store"}},
		"/set-cookie":      {"Cache-Control": {"max-age=60"}, "Set-Cookie": {"session=1"}},
		"/authorization":   {"Cache-Control": {"max-age=60"}},
		"/vary":            {"Cache-Control": {"max-age=60"}, "Vary": {"X-User"}},
		"/vary-star":       {"Cache-Control": {"max-age=60"}, "Vary": {"Accept, *"}},
		"/vary-user-agent": {"Cache-Control": {"max-age=60"}, "Vary": {"User-Agent"}},
		"/must-not-reuse":  {"Cache-Control": {"no-cache"}},
	}
}

const public = "/public" // is for everybody

// stamped answers with the name of who asked, late enough that all others have
// asked by then.
func stamped(w http.ResponseWriter, r *http.Request) {
	_ = taken(r)
	select {
	case <-time.After(150 * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=60")
	for name, values := range own()[r.URL.Path] {
		w.Header()[name] = values
	}
	_, _ = io.WriteString(w, "for "+r.UserAgent())
}

// asked is a request of one of the users for an answer of stamped.
func asked(w *instance, user int, path, mode string) answer {
	var header []string
	switch path {
	case "/authorization":
		header = []string{"Authorization", fmt.Sprint("Bearer ", user)}
	case "/vary":
		header = []string{"X-User", fmt.Sprint("u", user)}
	}
	if mode == "http" {
		return w.as(user, "GET", path, "", header...)
	}
	return w.as(user, "POST", path, `{"x":1}`, header...)
}

// Twenty who ask at once, and one who comes late, get each his own answer, whatever
// keeps it and whoever shares.
func TestTwentyUsersGetTheirOwnAnswers(t *testing.T) {
	t.Parallel()
	for _, store := range every() {
		for _, s := range []site{
			{store: store, mode: "inference", share: "caller"},
			{store: store, mode: "inference", share: "plan"},
			{store: store, mode: "inference", share: "all"},
			{store: store, mode: "http", share: "caller"},
			{store: store, mode: "http", share: "all"},
		} {
			t.Run(strings.Join([]string{store, s.mode, s.share}, " "), func(t *testing.T) {
				t.Parallel()
				everybodyGetsTheirOwn(t, s)
			})
		}
	}
}

func everybodyGetsTheirOwn(t *testing.T, s site) {
	shared := &counted{h: stamped}
	w := s.start(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == public {
			shared.ServeHTTP(rw, r)
			return
		}
		stamped(rw, r)
	}))
	paths := []string{public}
	for path := range own() {
		if path == "/authorization" && s.mode == "inference" && s.share != "caller" {
			continue // that the route shares whatever credentials are sent is what this says
		}
		paths = append(paths, path)
	}
	const late = users - 1
	all := atOnce(len(paths)*late, func(i int) answer { return asked(w, i%late, paths[i/late], s.mode) })
	all = append(all, atOnce(len(paths), func(i int) answer { return asked(w, late, paths[i], s.mode) })...)
	wrong := map[string]int{}
	for i, a := range all {
		user, path := i%late, ""
		if i < len(paths)*late {
			path = paths[i/late]
		} else {
			user, path = late, paths[i-len(paths)*late]
		}
		mine := a.is(200, fmt.Sprint("for u", user))
		if path == public && s.share != "caller" {
			mine = a.err == nil && a.status == 200
		}
		if !mine {
			wrong[path]++
			t.Logf("u%d asked for %s: %v", user, path, a)
		}
	}
	for path, n := range wrong {
		t.Errorf("%s: %d of %d got what is not theirs", path, n, users)
	}
	// Without this all of it would hold for a cache that does nothing.
	want := int64(1)
	if s.share == "caller" {
		want = users
	}
	if got := shared.calls.Load(); got != want {
		t.Errorf("%d calls for what is shared with %s, want %d", got, s.share, want)
	}
}

// What is one caller's own is not for whoever shares his address, and a field that
// is not in the key does not make an answer another's.
func TestOneCallersDevicesShare(t *testing.T) {
	t.Parallel()
	c := &counted{}
	w := site{}.start(t, c)
	first := w.as(1, "POST", "/", `{"x":1}`)
	again := w.sendCtx(t.Context(), "POST", "/", `{ "x" : 1 }`, "X-Api-Key", "weir_u1", "User-Agent", "another device")
	other := w.as(2, "POST", "/", `{"x":1}`)
	nobody := w.send("POST", "/", `{"x":1}`)
	if !again.is(200, first.body) || !again.hit() || c.calls.Load() != 3 || other.body == first.body || nobody.body == first.body || nobody.body == other.body {
		t.Errorf("%d calls: %v, %v, %v, %v", c.calls.Load(), first, again, other, nobody)
	}
}

// A field that the origin says is for one user alone is for no follower, either,
// and no later hit has it (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
func TestFieldsThatAreForOneUserAlone(t *testing.T) {
	t.Parallel()
	for _, directive := range []string{`private="X-Secret"`, `no-cache="X-Secret"`, `private="x-other, x-secret"`} {
		for _, store := range every() {
			t.Run(directive+" "+store, func(t *testing.T) {
				t.Parallel()
				const n = 5
				release := newGate()
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					if release.wait(r) {
						w.Header().Set("Cache-Control", "max-age=60, "+directive)
						w.Header().Set("X-Secret", r.UserAgent())
						_, _ = io.WriteString(w, "for all")
					}
				}}
				w := site{store: store, mode: "http", share: "all"}.start(t, c)
				done := make(chan []answer)
				go func() { done <- atOnce(n, func(i int) answer { return w.as(i, "GET", "/", "") }) }()
				w.serves(n)
				release.open()
				all := append(after(t, "the answers", done), w.as(n, "GET", "/", ""))
				for i, a := range all {
					if secret := a.header.Get("X-Secret"); !a.is(200, "for all") || secret != "" && secret != fmt.Sprint("u", i) {
						t.Errorf("u%d got the secret of %s: %v", i, secret, a)
					}
				}
			})
		}
	}
}
