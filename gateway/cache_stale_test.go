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
				refreshed := time.Now()
				refresh.open()
				var next answer
				storetest.Eventually(t, eventually, "another answer", func() bool {
					next = w.send(s.method, "/", s.body)
					return next.body != "answer 1"
				})
				// Who comes when that is no longer fresh either makes another.
				got, late := calls.Load(), time.Since(refreshed) > time.Second
				if next.status != 200 || next.body != "answer 2" && !late {
					t.Errorf("the refreshed answer: %v", next)
				}
				if got < 2 || got > 2 && !late {
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
			w, one := s.at(t, "http://127.0.0.1:1"), s // it is told of its origin with each try
			wg.Go(func() { one.standsIn(t, w, name+": an upstream that "+how, how) })
		}
	}
}

// standsIn has an origin fail whose answer is fresh for a second, and of use for three
// more.
func (s aging) standsIn(t *testing.T, w *instance, what, how string) {
	var made time.Time
	var path string
	within(t, 4*time.Second, func(i int) func() {
		p, now := &patient{}, s
		p.fails("")
		origin := httptest.NewServer(p.serve(s.control))
		t.Cleanup(origin.Close)
		w.reloads(now.yaml(origin.URL))
		path = fmt.Sprint("/", i)
		first := w.send(s.method, path, s.body)
		made = time.Now()
		pass(fresh)
		switch p.fails(how); how {
		case "refuses":
			origin.Close()
		case "is silent":
			now.upstream += ", timeouts: {first_byte: 300ms}"
			w.reloads(now.yaml(origin.URL))
		}
		stale := []answer{w.send(s.method, path, s.body), w.send(s.method, path, s.body)}
		other := w.send(s.method, path+"/other", s.body)
		return func() {
			if !first.is(200, "answer 1") || other.status < 500 {
				t.Errorf("%s: before it %v, and where nothing is stored %v", what, first, other)
			}
			for _, a := range stale {
				status := a.header.Get("Cache-Status")
				if !a.is(200, "answer 1") || !strings.Contains(status, "stale") && !strings.Contains(status, "ttl=-") {
					t.Errorf("%s: %v", what, a)
				}
			}
		}
	})
	pass(time.Until(made.Add(4500 * time.Millisecond)))
	if a := w.send(s.method, path, s.body); a.status < 500 || a.hit() {
		t.Errorf("%s: after the window: %v", what, a)
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
			last := ""
			for path, status := range statuses {
				within(t, time.Second, func(i int) func() {
					last = fmt.Sprintf("%s?%d", path, i)
					first, second := w.send("POST", last, "{}"), w.send("POST", last, "{}")
					return func() {
						want := fmt.Sprintf(`{"detail":"%s"}`, path)
						if first.hit() || !first.is(status, want) || second.hit() != (status == 404 || status == 410) || !second.is(status, want) {
							t.Errorf("%s: %v, then %v", path, first, second)
						}
					}
				})
			}
			last = "/404" + last[strings.Index(last, "?"):]
			w.send("POST", last, "{}")
			pass(fresh)
			if a := w.send("POST", last, "{}"); a.hit() || a.status != 404 {
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
			within(t, fresh+time.Second, func(i int) func() {
				calls.Store(0)
				validated.Store(0)
				path := fmt.Sprint("/", i)
				all := []answer{w.send("GET", path, ""), w.send("GET", path, "")}
				pass(fresh)
				all = append(all, w.send("GET", path, ""), w.send("GET", path, ""))
				return func() {
					for n, a := range all {
						if want := fmt.Sprint(n/2 + 1); !a.is(200, "the answer") || a.header.Get("X-Call") != want {
							t.Errorf("%v, X-Call %s, want %s", a, a.header.Get("X-Call"), want)
						}
					}
					if calls.Load() != 2 || validated.Load() != 1 {
						t.Errorf("%d calls, %d of them to validate", calls.Load(), validated.Load())
					}
				}
			})
		})
	}
}
