package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// pair is two gateways with one Redis, in front of h.
func pair(t *testing.T, s site, h http.Handler) (a, b *instance) {
	t.Helper()
	origin := httptest.NewServer(h)
	t.Cleanup(origin.Close)
	s.redis = storetest.Redis(t)
	return s.at(t, origin.URL), s.at(t, origin.URL)
}

func shared() map[string]flowing {
	return map[string]flowing{
		"inference": {site{store: "memory+redis"}, "POST", `{"x":1}`},
		"http":      {site{store: "memory+redis", mode: "http", share: "all"}, "GET", ""},
		"redis":     {site{store: "redis"}, "POST", `{"x":1}`},
	}
}

func TestTwoGatewaysAskOnce(t *testing.T) {
	t.Parallel()
	const n = 20
	for name, f := range shared() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := newGate()
			c := &counted{}
			c.h = func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				if release.wait(r) {
					storable(w.Header())
					_, _ = fmt.Fprint(w, "the answer ", c.calls.Load())
				}
			}
			a, b := pair(t, f.site, c)
			done := make(chan []answer)
			go func() {
				done <- atOnce(2*n, func(i int) answer { return []*instance{a, b}[i%2].send(f.method, "/", f.body) })
			}()
			a.serves(n)
			b.serves(n)
			pass(200 * time.Millisecond) // all of them wait by now, or have asked the origin
			release.open()
			for _, got := range after(t, "the answers", done) {
				if !got.is(200, "the answer 1") {
					t.Errorf("%v", got)
				}
			}
			for _, w := range []*instance{a, b} {
				if got := w.send(f.method, "/", f.body); !got.hit() {
					t.Errorf("then %v", got)
				}
			}
			if got := c.calls.Load(); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
		})
	}
}

// Answers that cannot be shared do not make the clients of two gateways queue.
func TestTwoGatewaysDoNotQueueForWhatCannotBeShared(t *testing.T) {
	t.Parallel()
	for name, f := range shared() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 10
			var calls atomic.Int64
			first, all := newGate(), newGate()
			a, b := pair(t, f.site, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				i := calls.Add(1)
				if i == 1 && !first.wait(r) || i > 1 && !all.wait(r) {
					return
				}
				w.Header().Set("Cache-Control", "no-store")
				_, _ = fmt.Fprint(w, "for ", r.UserAgent())
			}))
			done := make(chan []answer)
			go func() {
				done <- atOnce(2*n, func(i int) answer {
					return []*instance{a, b}[i%2].send(f.method, "/", f.body, "User-Agent", fmt.Sprint("u", i))
				})
			}()
			a.serves(n)
			b.serves(n)
			first.open()
			// The head of the first answer sends all others on their own way, wherever
			// they wait: none of them is answered before all are at the origin.
			w := a
			w.until(func() bool { return calls.Load() == 2*n })
			all.open()
			for i, got := range after(t, "the answers", done) {
				if !got.is(200, fmt.Sprint("for u", i)) {
					t.Errorf("%v", got)
				}
			}
		})
	}
}

// A gateway that closes in the middle of a call leaves those who wait for it at
// another with an answer.
func TestAGatewayThatClosesHarmsNoOther(t *testing.T) {
	t.Parallel()
	for name, f := range shared() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls, cancelled atomic.Int64
			c := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				if calls.Add(1) == 1 {
					<-r.Context().Done()
					cancelled.Add(1)
					return
				}
				storable(w.Header())
				_, _ = io.WriteString(w, "the answer")
			})
			a, b := pair(t, f.site, c)
			gone := make(chan answer)
			go func() { gone <- a.send(f.method, "/", f.body) }()
			a.until(func() bool { return calls.Load() == 1 })
			done := make(chan []answer)
			go func() { done <- atOnce(10, func(int) answer { return b.send(f.method, "/", f.body) }) }()
			b.serves(10)
			a.stop()
			waited := took(func() {
				if got := after(t, "the end of the first", gone); got.err == nil && got.status == 200 {
					t.Errorf("%v", got)
				}
				for _, got := range after(t, "the answers of the other", done) {
					if !got.is(200, "the answer") {
						t.Errorf("%v", got)
					}
				}
			})
			if waited > 5*time.Second { // it could give back what it leads
				t.Errorf("they waited %v for a gateway that had been closed", waited)
			}
			// The origin learns of it from its connection, which nobody waits for.
			b.until(func() bool { return cancelled.Load() == 1 })
			if got := calls.Load(); got != 2 {
				t.Errorf("%d calls, want 2", got)
			}
		})
	}
}

// While Redis is away or silent a request costs at most the deadline more, what is
// in memory is found, and all answers are right; when it is back it is used again.
func TestARedisOutageCostsAtMostTheDeadline(t *testing.T) {
	t.Parallel()
	const deadline = time.Second
	for name, outage := range map[string]struct{ begin, end func(*storetest.RedisServer) }{
		"gone":   {(*storetest.RedisServer).Stop, (*storetest.RedisServer).Start},
		"silent": {(*storetest.RedisServer).Pause, (*storetest.RedisServer).Resume},
	} {
		for _, store := range []string{"redis", "memory+redis"} {
			t.Run(name+" "+store, func(t *testing.T) {
				t.Parallel()
				redis := storetest.Redis(t)
				t.Cleanup(redis.Stop) // a paused one ends, too
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					_, _ = fmt.Fprintf(w, "%s %s", r.URL.Path, taken(r))
				}}
				w := site{store: store, ttl: "1h", redis: redis, deadline: deadline.String()}.start(t, c)
				f := func(path string, hit bool) {
					t.Helper()
					var a answer
					if took := took(func() { a = w.send("POST", path, "{}") }); took > deadline+700*time.Millisecond {
						t.Errorf("%s took %v", path, took)
					}
					if a.hit() != hit || !a.is(200, path+" {}") {
						t.Errorf("%v, want hit %v", a, hit)
					}
				}
				// Before the outage a busy machine, too, may take longer than the deadline.
				w.until(func() bool { return w.send("POST", "/old", "{}").hit() })
				outage.begin(redis)
				for i := range 4 {
					f(fmt.Sprint("/new", i), false)
				}
				f("/old", store == "memory+redis")
				if store == "memory+redis" {
					f("/new3", true)
				}
				for _, a := range atOnce(20, func(i int) answer { return w.send("POST", fmt.Sprint("/once", i%2), "{}") }) {
					if a.err != nil || a.status != 200 {
						t.Errorf("%v", a)
					}
				}
				outage.end(redis)
				w.until(func() bool {
					path := fmt.Sprint("/back", c.calls.Load())
					w.send("POST", path, "{}")
					return redis.MustDo("DBSIZE") != "0" && w.send("POST", path, "{}").hit()
				})
			})
		}
	}
}

// A gateway that starts before its Redis is there serves all the same.
func TestACacheWhoseRedisComesLater(t *testing.T) {
	t.Parallel()
	redis := storetest.Redis(t)
	redis.Stop()
	origin := httptest.NewServer(&counted{})
	t.Cleanup(origin.Close)
	w := launch(t, (&site{store: "memory+redis", redis: redis, deadline: "300ms"}).yaml(origin.URL))
	first := w.send("POST", "/", "{}")
	if a := w.send("POST", "/", "{}"); first.status != 200 || !a.hit() || a.body != first.body {
		t.Errorf("%v, then %v", first, a)
	}
	redis.Start()
	w.connected()
	w.until(func() bool {
		w.send("POST", fmt.Sprint("/", time.Now().UnixNano()), "{}")
		return redis.MustDo("DBSIZE") != "0"
	})
}
