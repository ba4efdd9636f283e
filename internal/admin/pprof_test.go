package admin_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestProfiles(t *testing.T) {
	o := open(t, twoPlans, "secret")
	f := func(name, path string, wantStatus int, wantType, wantText string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := o.ask("GET", path, "", "Authorization", "Bearer secret")
			if w.Code != wantStatus || w.Header().Get("Content-Type") != wantType || !strings.Contains(w.Body.String(), wantText) {
				t.Errorf("%d, %s, %.300q; want %d, %s and %q", w.Code, w.Header().Get("Content-Type"), w.Body, wantStatus, wantType, wantText)
			}
			if got := w.Header().Get("Cache-Control"); wantStatus == 200 && got != "no-store" {
				t.Errorf("Cache-Control = %q, want no-store", got)
			}
		})
	}
	const text, bytes, refused = "text/plain; charset=utf-8", "application/octet-stream", "application/problem+json"
	f("are listed", "/debug/pprof/", 200, "text/html; charset=utf-8", `<a href="goroutine?debug=1">goroutine</a>`)
	f("of goroutines as text", "/debug/pprof/goroutine?debug=1", 200, text, "goroutine profile: total ")
	f("of goroutines in full", "/debug/pprof/goroutine?debug=2", 200, text, "TestProfiles")
	f("of the heap, for the tool", "/debug/pprof/heap?gc=1", 200, bytes, "\x1f\x8b")
	f("of what was allocated", "/debug/pprof/allocs", 200, bytes, "\x1f\x8b")
	f("say how the process was started", "/debug/pprof/cmdline", 200, text, "admin.test")
	f("that are not there", "/debug/pprof/nothing", 404, refused, "no profile")
	f("in a form that is not there", "/debug/pprof/heap?debug=3", 400, refused, "from 0 to 2")
	f("for too long", "/debug/pprof/profile?seconds=61", 400, refused, "from 1 to 60")
	f("for no time", "/debug/pprof/trace?seconds=0", 400, refused, "from 1 to 60")
	f("elsewhere", "/debug/vars", 404, refused, "/debug/pprof/")
}

func TestProfilesAreGuarded(t *testing.T) {
	f := func(name, token string, want int, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if w := open(t, twoPlans, token).ask("GET", "/debug/pprof/heap", "", fields...); w.Code != want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, want)
			}
		})
	}
	f("without the token", "secret", http.StatusUnauthorized)
	f("with another one", "secret", http.StatusUnauthorized, "Authorization", "Bearer other")
	f("from another machine", "", http.StatusForbidden, "Remote", "203.0.113.7:50000")
	f("from another site's page", "", http.StatusForbidden, "Origin", "http://evil.test")
	f("from this machine", "", http.StatusOK)
	t.Run("by method", func(t *testing.T) {
		w := open(t, twoPlans, "").ask("POST", "/debug/pprof/heap", "{}")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%d, Allow %q; want 405 and GET, HEAD", w.Code, w.Header().Get("Allow"))
		}
	})
}

func TestProfilesOverTimeAreTakenOneAtATime(t *testing.T) {
	o := open(t, twoPlans, "")
	for _, path := range []string{"/debug/pprof/trace?seconds=60", "/debug/pprof/profile?seconds=60"} {
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, "GET", path, nil)
		r.Host, r.RemoteAddr = "127.0.0.1:8081", "127.0.0.1:50000"
		first, done := deadlined{httptest.NewRecorder(), make(chan time.Time, 1)}, make(chan struct{})
		go func() {
			defer close(done)
			o.handler.ServeHTTP(first, r)
		}()
		if left := time.Until(<-first.deadline); left < 80*time.Second || left > 90*time.Second {
			t.Errorf("%s: the answer may take %v, want 90 seconds", path, left)
		}
		for _, other := range []string{"/debug/pprof/trace", "/debug/pprof/profile"} {
			if w := o.ask("GET", other, ""); w.Code != http.StatusConflict {
				t.Errorf("%s beside %s: %d, want 409", other, path, w.Code)
			}
		}
		cancel() // the operator has seen enough
		<-done
		body := first.Body.Bytes()
		if zipped, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, _ = io.ReadAll(zipped)
		}
		if first.Code != http.StatusOK || len(body) < 16 {
			t.Errorf("%s: %d and %d bytes, want a profile", path, first.Code, len(body))
		}
	}
}

// deadlined tells of the deadline that its answer is given: the profile begins.
type deadlined struct {
	*httptest.ResponseRecorder
	deadline chan time.Time
}

// SetWriteDeadline is what http.ResponseController looks for.
func (d deadlined) SetWriteDeadline(at time.Time) error {
	d.deadline <- at
	return nil
}
