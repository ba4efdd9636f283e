package cache_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

// crowd sends n requests at once, each made by req, and returns what they got
// and how long the slowest took.
func crowd(h http.Handler, n int, req func(i int) *http.Request) ([]string, time.Duration) {
	answers := make([]string, n)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i] = text(ask(h, req(i))) })
	}
	wg.Wait()
	return answers, time.Since(start)
}

func TestMiddlewareCoalesces(t *testing.T) {
	slow := func(header ...string) *origin {
		return &origin{answer: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(700 * time.Millisecond)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			_, _ = io.WriteString(w, "for "+r.Header.Get("X-Request-Id")+": ")
		}}
	}
	same := func(int) *http.Request { return request("POST", "/", `{}`) }
	t.Run("one call for 1,000 identical requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := slow()
			h := newCache(t, cache.Options{}).Middleware(o)
			answers, took := crowd(h, 1000, same)
			if o.calls.Load() != 1 || took != 700*time.Millisecond {
				t.Errorf("%d calls in %v", o.calls.Load(), took)
			}
			for _, a := range answers {
				if a != "for : answer 1" {
					t.Fatalf("got %q", a)
				}
			}
		})
	})
	t.Run("a call each when told not to", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := slow()
			crowd(newCache(t, cache.Options{NoCoalesce: true}).Middleware(o), 20, same)
			if o.calls.Load() != 20 {
				t.Errorf("%d calls", o.calls.Load())
			}
		})
	})
	// What other caches get wrong: they hand one user's answer to the 19 that
	// wait with it, or let the 20 wait for each other in a row.
	for name, header := range map[string][]string{
		"private": {"Cache-Control", "private"}, "no-store": {"Cache-Control", "no-store"},
		"Set-Cookie": {"Set-Cookie", "a=b"}, "Vary": {"Vary", "X-Request-Id"}, "a stream": {"Content-Type", "text/event-stream"},
	} {
		t.Run("nobody gets another's answer: "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := slow(header...)
				h := newCache(t, cache.Options{Share: cache.ShareAll}).Middleware(o)
				for round, most := range []time.Duration{1400 * time.Millisecond, 700 * time.Millisecond} {
					answers, took := crowd(h, 20, func(i int) *http.Request { return request("POST", "/", `{}`, "X-Request-Id", strconv.Itoa(i)) })
					for i, a := range answers {
						if !strings.HasPrefix(a, "for "+strconv.Itoa(i)+": ") {
							t.Errorf("user %d got %q", i, a)
						}
					}
					if took > most {
						t.Errorf("round %d took %v, want at most %v", round, took, most)
					}
				}
			})
		})
	}
	t.Run("callers are apart in flight as in the store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := slow()
			h := newCache(t, cache.Options{}).Middleware(o)
			answers, _ := crowd(h, 20, func(i int) *http.Request {
				return request("POST", "/", `{}`, "Authorization", "Bearer "+strconv.Itoa(i%2), "X-Request-Id", strconv.Itoa(i%2))
			})
			for i, a := range answers {
				if !strings.HasPrefix(a, "for "+strconv.Itoa(i%2)+": ") {
					t.Errorf("holder of credential %d got %q", i%2, a)
				}
			}
			if o.calls.Load() != 2 {
				t.Errorf("%d calls for two callers", o.calls.Load())
			}
		})
	})
	t.Run("an error is shared with those who waited and with nobody else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Second)
				w.WriteHeader(500)
			}}
			h := newCache(t, cache.Options{}).Middleware(o)
			crowd(h, 50, same)
			if o.calls.Load() != 1 {
				t.Errorf("%d calls to an origin that fails", o.calls.Load())
			}
			ask(h, same(0))
			if o.calls.Load() != 2 {
				t.Error("a 500 was served again")
			}
		})
	})
	t.Run("a panic fails those who waited and reaches the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			inner := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				time.Sleep(time.Second)
				panic(http.ErrAbortHandler)
			}))
			var panics atomic.Int64
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					if p := recover(); p != nil {
						panics.Add(1)
					}
				}()
				inner.ServeHTTP(w, r)
			})
			answers, _ := crowd(h, 10, same)
			failed := 0
			for _, a := range answers {
				if strings.Contains(a, `"status":502`) {
					failed++
				}
			}
			if panics.Load() != 1 || failed != 9 {
				t.Errorf("%d panics and %d answers with 502", panics.Load(), failed)
			}
		})
	})
}

func TestMiddlewareWhenClientsLeave(t *testing.T) {
	// The origin writes half, waits, and writes the other half.
	halves := func(cancelled *atomic.Bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first ")
			select {
			case <-time.After(10 * time.Second):
				_, _ = io.WriteString(w, "second")
			case <-r.Context().Done():
				cancelled.Store(true)
				panic(http.ErrAbortHandler)
			}
		})
	}
	send := func(ctx context.Context, h http.Handler, out *string) {
		defer func() { _ = recover() }()
		*out = text(ask(h, request("POST", "/", `{}`).WithContext(ctx)))
	}
	t.Run("the call goes on for the followers of a leader that left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var cancelled atomic.Bool
			h := newCache(t, cache.Options{}).Middleware(halves(&cancelled))
			ctx, leave := context.WithCancel(t.Context())
			var leader, follower, late string
			var wg sync.WaitGroup
			wg.Go(func() { send(ctx, h, &leader) })
			synctest.Wait()
			wg.Go(func() { send(t.Context(), h, &follower) })
			time.Sleep(time.Second)
			leave()
			wg.Wait()
			send(t.Context(), h, &late)
			if follower != "first second" || late != "first second" || cancelled.Load() {
				t.Errorf("follower %q, late %q, cancelled %t", follower, late, cancelled.Load())
			}
		})
	})
	t.Run("the call ends when the last has left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var cancelled atomic.Bool
			c := newCache(t, cache.Options{})
			h := c.Middleware(halves(&cancelled))
			ctx, leave := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			start := time.Now()
			for range 3 {
				var out string
				wg.Go(func() { send(ctx, h, &out) })
			}
			time.Sleep(time.Second)
			leave()
			wg.Wait()
			if !cancelled.Load() || time.Since(start) != time.Second {
				t.Errorf("cancelled %t after %v", cancelled.Load(), time.Since(start))
			}
			var after string
			send(t.Context(), h, &after)
			if after != "first second" {
				t.Errorf("the next request got %q", after)
			}
		})
	})
	t.Run("a follower leaves at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var cancelled atomic.Bool
			h := newCache(t, cache.Options{}).Middleware(halves(&cancelled))
			var leader, follower string
			var wg sync.WaitGroup
			wg.Go(func() { send(t.Context(), h, &leader) })
			synctest.Wait()
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			send(ctx, h, &follower)
			if waited := time.Since(start); waited != time.Second {
				t.Errorf("a follower that left waited %v", waited)
			}
			wg.Wait()
			if leader != "first second" {
				t.Errorf("the leader got %q", leader)
			}
		})
	})
}

func TestMiddlewareDoesNotStoreWhatBrokeOff(t *testing.T) {
	var calls atomic.Int64
	h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		calls.Add(1)
		_, _ = io.WriteString(w, "cut")
	}))
	for range 2 {
		ask(h, request("GET", "/", ""))
	}
	if calls.Load() != 2 {
		t.Error("an answer shorter than its Content-Length was stored")
	}
}

func TestMiddlewareDoesNotStoreWhatAClientThatLeftCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done(): // it obeys, and writes nothing
			case <-time.After(time.Second):
				_, _ = io.WriteString(w, "answer")
			}
		}))
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("the request of the client that left ended with %v", p)
				}
			}()
			ask(h, request("POST", "/", "{}").WithContext(ctx))
		}()
		if resp := ask(h, request("POST", "/", "{}")); text(resp) != "answer" || resp.Header.Get("Cache-Status") != "weir; fwd=miss; stored" {
			t.Errorf("the next one got %v", resp.Header)
		}
	})
}

// stuck is a client that takes nothing.
type stuck struct {
	http.ResponseWriter
	release chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func TestMiddlewareLetsNobodyWaitForAClientThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			for range 10 {
				_, _ = w.Write(make([]byte, 10_000))
			}
		}))
		s := stuck{httptest.NewRecorder(), make(chan struct{})}
		var wg sync.WaitGroup
		wg.Go(func() { h.ServeHTTP(s, request("GET", "/", "")) })
		synctest.Wait()
		begin := time.Now()
		if n := len(text(ask(h, request("GET", "/", "")))); n != 100_000 || time.Since(begin) != time.Second {
			t.Errorf("%d bytes after %v", n, time.Since(begin))
		}
		close(s.release)
		wg.Wait()
	})
}
