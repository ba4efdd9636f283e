package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// aging is a site whose answers are fresh for a second, and how long they may be
// used after that, as a route says it and as an origin does.
type aging struct {
	flowing
	control string
}

func agings(key, directive string, seconds int) map[string]aging {
	return map[string]aging{
		"inference": {flowing{site{ttl: "1s", cache: fmt.Sprintf(", %s: %ds", key, seconds)}, "POST", "{}"}, ""},
		"http":      {flowing{site{mode: "http", share: "all"}, "GET", ""}, fmt.Sprintf("max-age=1, %s=%d", directive, seconds)},
		"http, as the route says": {flowing{site{mode: "http", share: "all", cache: fmt.Sprintf(", %s: %ds", key, seconds)}, "GET", ""},
			"max-age=1"},
	}
}

const fresh = 1100 * time.Millisecond // after this nothing is

func TestAStaleAnswerIsGivenAtOnceAndFetchedAgainOnce(t *testing.T) {
	t.Parallel()
	for name, s := range agings("stale_while_revalidate", "stale-while-revalidate", 60) {
		for _, store := range []string{"memory", "dir", "memory+redis"} {
			s := s
			s.store = store
			t.Run(name+" "+store, func(t *testing.T) {
				t.Parallel()
				var calls atomic.Int64
				refresh := newGate()
				w := s.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					n := calls.Add(1)
					if n > 1 && !refresh.wait(r) {
						return
					}
					if s.control != "" {
						w.Header().Set("Cache-Control", s.control)
					}
					_, _ = fmt.Fprintf(w, "answer %d", n)
				}))
				if a := w.send(s.method, "/", s.body); !a.is(200, "answer 1") {
					t.Fatalf("%v", a)
				}
				pass(fresh)
				// The origin does not answer: who waited for it would wait for ever.
				done := make(chan []answer)
				go func() { done <- atOnce(20, func(int) answer { return w.send(s.method, "/", s.body) }) }()
				for _, a := range after(t, "stale answers", done) {
					if !a.is(200, "answer 1") || !a.hit() {
						t.Errorf("%v", a)
					}
				}
				w.until(func() bool { return calls.Load() == 2 })
				refresh.open()
				var next answer
				storetest.Eventually(t, eventually, "another answer", func() bool {
					next = w.send(s.method, "/", s.body)
					return next.body != "answer 1"
				})
				if !next.is(200, "answer 2") {
					t.Errorf("the refreshed answer: %v", next)
				}
				if got := calls.Load(); got != 2 {
					t.Errorf("%d calls, want 2", got)
				}
			})
		}
	}
}

// patient is an origin that can fail in the ways that origins do.
type patient struct {
	ails atomic.Pointer[string]
	n    atomic.Int64
}

func (p *patient) fails(how string) { p.ails.Store(&how) }

func (p *patient) serve(control string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		n := p.n.Add(1)
		switch how := *p.ails.Load(); how {
		case "":
			if control != "" {
				w.Header().Set("Cache-Control", control)
			}
			_, _ = fmt.Fprintf(w, "answer %d", n)
		case "500", "502", "503", "504":
			w.WriteHeader(map[string]int{"500": 500, "502": 502, "503": 503, "504": 504}[how])
			_, _ = fmt.Fprintf(w, `{"error":"%s"}`, how)
		case "is silent":
			<-r.Context().Done()
		case "breaks off":
			panic(http.ErrAbortHandler)
		}
	}
}

// While the upstream fails its last good answer is given, and said to be that;
// for as long as it may be.
func TestTheLastGoodAnswerStandsInForAnError(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup // they wait for the same time
	defer wg.Wait()
	for name, s := range agings("stale_if_error", "stale-if-error", 3) {
		for _, how := range []string{"500", "502", "503", "504", "is silent", "breaks off", "refuses"} {
			p := &patient{}
			p.fails("")
			origin := httptest.NewServer(p.serve(s.control))
			t.Cleanup(origin.Close)
			s.upstream = ", timeouts: {first_byte: 300ms}"
			w, one := s.at(t, origin.URL), s
			wg.Go(func() { one.standsIn(t, w, failing{name, how, p, origin}) })
		}
	}
}

// failing is an origin that is going to fail.
type failing struct {
	name, how string
	patient   *patient
	origin    *httptest.Server
}

func (s aging) standsIn(t *testing.T, w *instance, f failing) {
	if a := w.send(s.method, "/", s.body); !a.is(200, "answer 1") {
		t.Errorf("%s: an upstream that %s: %v", f.name, f.how, a)
		return
	}
	made := time.Now()
	pass(fresh)
	f.patient.fails(f.how)
	if f.how == "refuses" {
		f.origin.Close()
	}
	for range 2 {
		a := w.send(s.method, "/", s.body)
		status := a.header.Get("Cache-Status")
		if !a.is(200, "answer 1") || !strings.Contains(status, "stale") && !strings.Contains(status, "ttl=-") {
			t.Errorf("%s: an upstream that %s: %v", f.name, f.how, a)
		}
	}
	if a := w.send(s.method, "/other", s.body); a.status < 500 {
		t.Errorf("%s: an upstream that %s, and nothing is stored: %v", f.name, f.how, a)
	}
	pass(time.Until(made.Add(4500 * time.Millisecond))) // a second of freshness, three of use
	if a := w.send(s.method, "/", s.body); a.status < 500 || a.hit() {
		t.Errorf("%s: an upstream that %s, after the window: %v", f.name, f.how, a)
	}
}

// An answer that its origin wants validated is not given without (RFC 9111,
// section 4.2.4), whatever the route allows.
func TestMustRevalidateIsNotUsedStale(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.fails("")
	w := site{mode: "http", share: "all", cache: ", stale_if_error: 1h, stale_while_revalidate: 1h"}.start(t, p.serve("max-age=1, must-revalidate"))
	if a := w.send("GET", "/", ""); !a.is(200, "answer 1") {
		t.Fatalf("%v", a)
	}
	pass(fresh)
	p.fails("500")
	if a := w.send("GET", "/", ""); a.status < 500 {
		t.Errorf("%v", a)
	}
	p.fails("")
	if a := w.send("GET", "/", ""); !a.is(200, "answer 3") {
		t.Errorf("%v", a)
	}
}

func TestWhatIsNotThereIsKeptForAWhile(t *testing.T) {
	t.Parallel()
	statuses := map[string]int{"/404": 404, "/410": 410, "/400": 400, "/429": 429, "/500": 500, "/503": 503}
	c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		w.WriteHeader(statuses[r.URL.Path])
		_, _ = fmt.Fprintf(w, `{"detail":"%s"}`, r.URL.Path)
	}}
	for _, store := range every() {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			w := site{store: store, caches: ", negative_ttl: 1s"}.start(t, c)
			for path, status := range statuses {
				for i := range 2 {
					a := w.send("POST", path, "{}")
					if want := i > 0 && (status == 404 || status == 410); a.hit() != want || !a.is(status, fmt.Sprintf(`{"detail":"%s"}`, path)) {
						t.Errorf("%s, %d: %v", path, i, a)
					}
				}
			}
			pass(fresh)
			if a := w.send("POST", "/404", "{}"); a.hit() || a.status != 404 {
				t.Errorf("after its time: %v", a)
			}
		})
	}
	t.Run("0s keeps none", func(t *testing.T) {
		t.Parallel()
		w := site{caches: ", negative_ttl: 0s"}.start(t, c)
		for range 2 {
			if a := w.send("POST", "/404", "{}"); a.hit() {
				t.Errorf("%v", a)
			}
		}
	})
}

func TestWhoHasAnAnswerIsToldThatItIsTheSame(t *testing.T) {
	t.Parallel()
	for mode, ours := range map[string]bool{"inference": true, "http": false} {
		for _, store := range every() {
			t.Run(mode+" "+store, func(t *testing.T) {
				t.Parallel()
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					if r.Header.Get("If-None-Match") != "" {
						t.Errorf("the condition of a client went upstream with its first request")
					}
					storable(w.Header())
					if strings.HasPrefix(r.URL.Path, "/tagged") {
						w.Header().Set("ETag", `"v1"`)
					}
					_, _ = fmt.Fprint(w, "the answer")
				}}
				w := site{store: store, mode: mode, share: "all"}.start(t, c)
				for _, path := range []string{"/tagged", "/untagged"} {
					for _, method := range []string{"GET", "QUERY", "POST"} {
						if mode == "http" && method == "POST" {
							continue // is not kept
						}
						body := map[string]string{"GET": "", "QUERY": "{}", "POST": "{}"}[method]
						w.conditions(method, path, body, ours)
					}
				}
			})
		}
	}
}

// conditions asks with and without the tag of what is stored. ours says that the
// cache makes one where the upstream has none.
func (w *instance) conditions(method, path, body string, ours bool) {
	w.t.Helper()
	ask := func(method, condition string) answer { return w.send(method, path, body, "If-None-Match", condition) }
	f := func(a answer, status int) {
		w.t.Helper()
		want := "the answer"
		if status == 304 || method == "HEAD" {
			want = ""
		}
		if !a.is(status, want) || !a.hit() {
			w.t.Errorf("%s %s: %v, want %d", method, path, a, status)
		}
	}
	if a := w.send(method, path, body); !a.is(200, "the answer") {
		w.t.Errorf("%s %s: %v", method, path, a)
	}
	hit := w.send(method, path, body)
	f(hit, 200)
	tag := hit.header.Get("ETag")
	if path == "/tagged" && tag != `"v1"` || path == "/untagged" && (tag != "") != ours || strings.HasPrefix(tag, "W/") {
		w.t.Errorf("%s %s: ETag %s", method, path, tag)
	}
	if tag == "" {
		return
	}
	same := 304
	if method == "POST" {
		same = 200
	}
	for _, condition := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		f(ask(method, condition), same)
	}
	f(ask(method, `"another"`), 200)
	if a := ask(method, tag); same == 304 && (a.header.Get("ETag") != tag || a.header.Get("Content-Length") != "") {
		w.t.Errorf("%s %s: 304 with %v", method, path, a.header)
	}
	if method == "GET" {
		method = "HEAD"
		f(ask(method, tag), 304)
		f(ask(method, `"another"`), 200)
	}
}

// A stale answer is asked for again on the condition that it changed, and what a
// 304 says of it is from then on said.
func TestAStaleAnswerIsValidated(t *testing.T) {
	t.Parallel()
	for _, store := range every() {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			var calls, validated atomic.Int64
			w := site{store: store, mode: "http", share: "all"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := calls.Add(1)
				w.Header().Set("ETag", `"v1"`)
				w.Header().Set("Cache-Control", "max-age=1")
				w.Header().Set("X-Call", fmt.Sprint(n))
				if r.Header.Get("If-None-Match") == `"v1"` {
					validated.Add(1)
					w.WriteHeader(304)
					return
				}
				_, _ = fmt.Fprint(w, "the answer")
			}))
			for i := range 2 {
				if i > 0 {
					pass(fresh)
				}
				for range 2 {
					if a := w.send("GET", "/", ""); !a.is(200, "the answer") || a.header.Get("X-Call") != fmt.Sprint(i+1) {
						t.Errorf("%v, X-Call %s, want %d", a, a.header.Get("X-Call"), i+1)
					}
				}
			}
			if calls.Load() != 2 || validated.Load() != 1 {
				t.Errorf("%d calls, %d of them to validate", calls.Load(), validated.Load())
			}
		})
	}
}
