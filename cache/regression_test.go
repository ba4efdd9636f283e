package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

// watched is a client whose answer can be looked at while it comes.
type watched struct {
	mu     sync.Mutex // guards all below
	header http.Header
	sent   http.Header // as it was when it was sent
	status int
	body   strings.Builder
	broken any // what the handler panicked with
}

func (w *watched) Header() http.Header { return w.header }
func (w *watched) Flush()              {}

func (w *watched) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *watched) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body.Write(p)
}

// is says what has come so far.
func (w *watched) is(t *testing.T, who string, status int, body string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != status || w.body.String() != body || w.broken != nil {
		t.Errorf("%s: %d %q, panic %v; want %d %q; %v", who, w.status, w.body.String(), w.broken, status, body, w.sent)
	}
}

// says is a field of what has come.
func (w *watched) says(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.sent[http.CanonicalHeaderKey(name)], "; ")
}

// begin sends r and returns once everything waits: for the origin or for time.
func begin(h http.Handler, r *http.Request) *watched {
	w := &watched{header: http.Header{}}
	go func() {
		defer func() {
			p := recover()
			w.mu.Lock()
			w.broken = p
			w.mu.Unlock()
		}()
		h.ServeHTTP(w, r)
	}()
	synctest.Wait()
	return w
}

// by makes r the request of a caller.
func by(r *http.Request, id string) *http.Request {
	return r.WithContext(weir.WithCaller(r.Context(), weir.Caller{ID: id, Plan: "pro"}))
}

// wants compares a whole answer.
func wants(t *testing.T, what string, resp *http.Response, status int, body string) {
	t.Helper()
	if got := text(resp); resp.StatusCode != status || got != body {
		t.Errorf("%s: got %d %q, want %d %q; %v", what, resp.StatusCode, got, status, body, resp.Header)
	}
}

// wantsField compares one field; want "" is absent.
func wantsField(t *testing.T, what string, resp *http.Response, name, want string) {
	t.Helper()
	if got := strings.Join(resp.Header[http.CanonicalHeaderKey(name)], "; "); got != want {
		t.Errorf("%s: %s: got %q, want %q", what, name, got, want)
	}
}

func TestAChangeReachesEverybodysStoredAnswer(t *testing.T) {
	for _, share := range []cache.Share{cache.ShareCaller, cache.SharePlan, cache.ShareAll} {
		for _, vary := range []string{"", "X-Language"} {
			t.Run(fmt.Sprintf("%s, Vary: %s", share, vary), func(t *testing.T) {
				var version atomic.Int64
				h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: share}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut {
						version.Add(1)
						return
					}
					w.Header().Set("Cache-Control", "public, max-age=60")
					if vary != "" {
						w.Header().Set("Vary", vary)
					}
					_, _ = fmt.Fprint(w, "version ", version.Load())
				}))
				readers := []func() *http.Request{
					func() *http.Request { return by(request("GET", "/doc", ""), "key:a") },
					func() *http.Request { return by(request("GET", "/doc", "", "X-Language", "de"), "key:a") },
					func() *http.Request { return by(request("GET", "/doc", "", "Cookie", "csrf=1"), "key:a") },
					func() *http.Request { return by(request("GET", "/doc", "", "Authorization", "Bearer b"), "key:b") },
				}
				for i, get := range readers {
					wants(t, fmt.Sprint("reader ", i, " at first"), ask(h, get()), 200, "version 0")
				}
				ask(h, by(request("PUT", "/doc", "{}", "Cookie", "csrf=2"), "key:c"))
				for i, get := range readers {
					wants(t, fmt.Sprint("reader ", i, " after the change"), ask(h, get()), 200, "version 1")
				}
				for i, get := range readers {
					resp := ask(h, get())
					if !strings.HasPrefix(resp.Header.Get("Cache-Status"), "weir; hit") {
						t.Errorf("reader %d: the new version is not kept: %s", i, resp.Header.Get("Cache-Status"))
					}
				}
			})
		}
	}
}

func TestAGetWithABodyGoesPastTheHTTPCache(t *testing.T) {
	o := &origin{answer: func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = fmt.Fprintf(w, "%s: ", b)
	}}
	h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}).Middleware(o)
	for i, body := range []string{`{"q":"a"}`, `{"q":"b"}`, `{"q":"a"}`} {
		resp := ask(h, request("GET", "/_search", body))
		wantsField(t, body, resp, "Cache-Status", "weir; fwd=bypass")
		wants(t, body, resp, 200, fmt.Sprintf("%s: answer %d", body, i+1))
	}
	wants(t, "without a body", ask(h, request("GET", "/_search", "")), 200, ": answer 4")
	wants(t, "a body after it", ask(h, request("GET", "/_search", "{}")), 200, "{}: answer 5")
}

// nginx looks at X-Accel-Expires before all else, and gives what it keeps to all.
func TestACacheInFrontIsToldNoMoreThanWhatIsLeft(t *testing.T) {
	for _, c := range []struct {
		name             string
		options          cache.Options
		control          string
		miss, hit, later string // X-Accel-Expires; later is three seconds after
	}{
		{"inference keeps it longer than the upstream allows", cache.Options{Share: cache.ShareAll}, "max-age=10", "", "10", "7"},
		{"inference keeps it less long", cache.Options{Share: cache.ShareAll}, "max-age=600", "", "60", "57"},
		{"inference, not to be kept in front", cache.Options{Share: cache.ShareAll}, "max-age=0, must-revalidate", "", "0", "0"},
		{"inference, not for shared caches", cache.Options{Share: cache.ShareAll}, "s-maxage=0", "", "0", "0"},
		{"inference, the caller's own", cache.Options{}, "max-age=600", "", "", ""},
		{"inference, a plan's own", cache.Options{Share: cache.SharePlan}, "max-age=600", "", "", ""},
		{"http", cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}, "max-age=10", "1000", "10", "7"},
		{"http, another lifetime for shared caches", cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}, "max-age=10, s-maxage=5", "1000", "5", "2"},
	} {
		virtual(t, c.name, func(t *testing.T) {
			o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", c.control)
				w.Header().Set("X-Accel-Expires", "1000")
			}}
			h := newCache(t, c.options).Middleware(o)
			wantsField(t, "the first", ask(h, request("GET", "/", "")), "X-Accel-Expires", c.miss)
			wantsField(t, "a hit", ask(h, request("GET", "/", "")), "X-Accel-Expires", c.hit)
			time.Sleep(3 * time.Second)
			wantsField(t, "a hit three seconds later", ask(h, request("GET", "/", "")), "X-Accel-Expires", c.later)
			if got := o.calls.Load(); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
		})
	}
}

// What is to be asked about each time does not make those who ask queue: all of
// them have their answer when the calls that have begun are answered.
func TestThoseWhoMustAskEachTimeDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		var gate atomic.Pointer[chan struct{}]
		o.answer = func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-*gate.Load():
			case <-r.Context().Done():
			}
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Etag", `"a"`)
			if r.Header.Get("If-None-Match") == `"a"` {
				w.WriteHeader(http.StatusNotModified)
			}
		}
		h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}).Middleware(o)
		for wave := range 4 {
			closed := make(chan struct{})
			gate.Store(&closed)
			before := o.calls.Load()
			var all []*watched
			for range 20 {
				all = append(all, begin(h, request("GET", "/x", "")))
			}
			first := o.calls.Load() - before
			close(closed)
			synctest.Wait()
			for i, w := range all {
				if w.says("Etag") != `"a"` {
					t.Errorf("wave %d: caller %d has no answer: %d", wave, i, w.status)
				}
			}
			// What is there to be asked about is known from the second on.
			if later := o.calls.Load() - before - first; wave > 0 && later > 0 {
				t.Errorf("wave %d: %d calls began at once, and %d after they were answered: got %d calls one after the other, want 0", wave, first, later, later)
			}
		}
	})
}

// localLeases are those of a few instances in one process.
type localLeases struct {
	mu      sync.Mutex // guards both
	leading map[cache.Key]chan struct{}
	alone   map[cache.Key]bool
}

func (l *localLeases) Lead(_ context.Context, k cache.Key) (func(bool), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alone[k] {
		return nil, cache.ErrNotShared
	}
	if l.leading[k] != nil {
		return nil, nil
	}
	done := make(chan struct{})
	l.leading[k] = done
	return once(func(shareable bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.leading, k)
		l.alone[k] = !shareable
		close(done)
	}), nil
}

// once lets f be called once.
func once(f func(bool)) func(bool) {
	var o sync.Once
	return func(v bool) { o.Do(func() { f(v) }) }
}

func (l *localLeases) Await(ctx context.Context, k cache.Key) error {
	l.mu.Lock()
	done := l.leading[k]
	l.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestInstancesDoNotQueueForWhatIsNotKept(t *testing.T) {
	const instances, takes = 6, time.Second
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		for _, c := range []struct {
			name   string
			answer func(w http.ResponseWriter)
			calls  int64 // in the first wave and in the second
			most   time.Duration
		}{
			{"a 500", func(w http.ResponseWriter) { w.WriteHeader(500) }, 2 * instances, 2 * takes},
			{"an error under 200", func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"error":"x"}`)
			}, 2 * instances, 2 * takes},
			{"what is for nobody else", func(w http.ResponseWriter) { w.Header().Set("Cache-Control", "no-store") }, 2 * instances, 2 * takes},
			{"what is kept", func(w http.ResponseWriter) { w.Header().Set("Cache-Control", "max-age=60") }, 1, takes},
		} {
			virtual(t, fmt.Sprint(mode, ": ", c.name), func(t *testing.T) {
				leases := &localLeases{leading: map[cache.Key]chan struct{}{}, alone: map[cache.Key]bool{}}
				o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(takes)
					c.answer(w)
				}}
				store := cache.NewMemoryStore(cache.MemoryOptions{})
				for wave, most := range []time.Duration{c.most, takes} {
					began := time.Now()
					var wg sync.WaitGroup
					for range instances {
						h := newCache(t, cache.Options{Mode: mode, Share: cache.ShareAll, Store: store, Leases: leases}).Middleware(o)
						wg.Go(func() { _ = ask(h, request("GET", "/", "")) })
					}
					wg.Wait()
					if took := time.Since(began); took > most {
						t.Errorf("wave %d took %v for %d instances, want at most %v", wave, took, instances, most)
					}
				}
				if got := o.calls.Load(); got != c.calls {
					t.Errorf("%d calls, want %d", got, c.calls)
				}
			})
		}
	}
}

func TestMiddlewareStreamsToFollowersWhileItRuns(t *testing.T) {
	const first, second = "data: 1\n\n", "data: 2\n\n"
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		virtual(t, string(mode), func(t *testing.T) {
			more := make(chan struct{})
			var calls atomic.Int64
			h := newCache(t, cache.Options{
				Mode: mode, Share: cache.ShareAll,
				Terminal: func(e *cache.Entry) bool { return strings.HasSuffix(string(e.Body), second) },
			}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, first)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-more:
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, second)
			}))
			leader := begin(h, request("GET", "/", ""))
			followers := []*watched{begin(h, request("GET", "/", "")), begin(h, request("GET", "/", ""))}
			leader.is(t, "the leader, while it runs", 200, first)
			for _, f := range followers {
				f.is(t, "a follower, while it runs", 200, first)
			}
			close(more)
			synctest.Wait()
			leader.is(t, "the leader", 200, first+second)
			for _, f := range followers {
				f.is(t, "a follower", 200, first+second)
				if got := f.says("Cache-Status"); !strings.HasSuffix(got, "; collapsed") {
					t.Errorf("a follower: Cache-Status %q", got)
				}
			}
			wants(t, "later", ask(h, request("GET", "/", "")), 200, first+second)
			if got := calls.Load(); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
		})
	}
}

// What one credential is refused says nothing about another.
func TestARefusalOfOneIsNobodyElses(t *testing.T) {
	for _, share := range []cache.Share{cache.ShareAll, cache.SharePlan} {
		for _, c := range []struct {
			status int
			want   int
			calls  int64
		}{{400, 200, 2}, {401, 200, 2}, {403, 200, 2}, {407, 200, 2}, {429, 200, 2}, {500, 500, 1}} {
			virtual(t, fmt.Sprint(share, " ", c.status), func(t *testing.T) {
				release := make(chan struct{})
				var calls atomic.Int64
				h := newCache(t, cache.Options{Share: share}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls.Add(1)
					select {
					case <-release:
					case <-r.Context().Done():
					}
					if r.Header.Get("Authorization") == "Bearer bad" {
						w.WriteHeader(c.status)
						return
					}
					_, _ = io.WriteString(w, "good")
				}))
				leader := begin(h, by(request("POST", "/", "{}", "Authorization", "Bearer bad"), "key:a"))
				follower := begin(h, by(request("POST", "/", "{}", "Authorization", "Bearer good"), "key:b"))
				if got := calls.Load(); got != 1 {
					t.Fatalf("%d calls, want 1: nobody follows", got)
				}
				close(release)
				synctest.Wait()
				leader.is(t, "the leader", c.status, "")
				body := ""
				if c.want == 200 {
					body = "good"
				}
				follower.is(t, "the follower", c.want, body)
				if got := calls.Load(); got != c.calls {
					t.Errorf("%d calls, want %d", got, c.calls)
				}
			})
		}
	}
}
