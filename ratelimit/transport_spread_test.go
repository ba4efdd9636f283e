package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// inBubble is a server without a network, which counts its refusals.
type inBubble struct {
	http.Handler
	refused atomic.Int64
}

func (s *inBubble) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(5 * time.Millisecond)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code == 429 {
		s.refused.Add(1)
	}
	time.Sleep(5 * time.Millisecond)
	return w.Result(), nil
}

// fixedWindow refuses more than n in a window and tells nothing but Retry-After,
// in whole seconds.
func fixedWindow(n int, window time.Duration) http.Handler {
	var mu sync.Mutex
	var end time.Time
	used := 0
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); !now.Before(end) {
			end, used = now.Add(window), 0
		}
		if used++; used > n {
			w.Header().Set("Retry-After", fmt.Sprint(int((time.Until(end)+time.Second-1)/time.Second)))
			w.WriteHeader(429)
		}
	})
}

// naive obeys Retry-After, each request for itself.
type naive struct{ base http.RoundTripper }

func (n naive) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		resp, err := n.base.RoundTrip(r)
		if err != nil || resp.StatusCode != 429 {
			return resp, err
		}
		wait, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
		if err != nil {
			return nil, err
		}
		time.Sleep(wait)
	}
}

func TestTransportSpreadsTheReopening(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(t *testing.T) http.Handler
		most   int64
		within time.Duration
	}{
		{"on a bucket of 10 a second that describes itself", func(t *testing.T) http.Handler {
			l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{policy(t, "10/second")}})
			return l.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		}, 5, 15 * time.Second},
		{"on a window of 10 a second that only says Retry-After", func(*testing.T) http.Handler {
			return fixedWindow(10, time.Second)
		}, 20, 25 * time.Second},
		{"on a window of 3 a second that only says Retry-After", func(*testing.T) http.Handler {
			return fixedWindow(3, time.Second)
		}, 35, 59 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(t *testing.T, wrap func(http.RoundTripper) http.RoundTripper) (refused int64, took time.Duration) {
				synctest.Test(t, func(t *testing.T) {
					s := &inBubble{Handler: test.server(t)}
					tr := wrap(s)
					for { // until the server is closed
						resp, err := s.RoundTrip(get(t))
						if err != nil {
							t.Fatal(err)
						}
						if resp.StatusCode == 429 {
							break
						}
					}
					s.refused.Store(0)
					start := time.Now()
					var wg sync.WaitGroup
					for i := range 100 {
						wg.Go(func() {
							if got := status(t, tr, get(t)); got != 200 {
								t.Errorf("status %d", got)
							}
						})
						if i == 0 { // it finds the server closed, the others know
							time.Sleep(20 * time.Millisecond)
						}
					}
					wg.Wait()
					refused, took = s.refused.Load(), time.Since(start)
				})
				return refused, took
			}
			alone, aloneTook := run(t, func(base http.RoundTripper) http.RoundTripper { return naive{base} })
			got, took := run(t, func(base http.RoundTripper) http.RoundTripper {
				return transport(t, ratelimit.TransportOptions{Base: base, Attempts: 10})
			})
			t.Logf("100 requests: %d refused in %v; each for itself: %d refused in %v", got, took, alone, aloneTook)
			if got > test.most || took > test.within || got > alone/4 {
				t.Errorf("%d refused in %v, want at most %d in %v", got, took, test.most, test.within)
			}
		})
	}
}

func TestTransportLeavesTheQueueInOrder(t *testing.T) {
	t.Run("who is cancelled returns at once and makes room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(503, "Retry-After: 10", `RateLimit-Policy: "a";q=1;w=2`, `RateLimit: "a";r=0;t=2`))
			tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1})
			_ = status(t, tr, get(t))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					r := get(t)
					if i == 0 {
						r = r.WithContext(ctx)
					}
					resp, err := tr.RoundTrip(r)
					if err == nil {
						_ = resp.Body.Close()
					}
					if canceled := errors.Is(err, context.Canceled); canceled != (i == 0) || canceled && time.Since(s.start) != 4*time.Second {
						t.Errorf("request %d: %v at %v", i, err, time.Since(s.start))
					}
				})
				synctest.Wait()
			}
			time.Sleep(4 * time.Second)
			cancel()
			wg.Wait()
			second := time.Second
			if want := []time.Duration{0, 10 * second, 12 * second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("all return at once when the wait becomes too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 10"), answer(429, "Retry-After: 3600"))
			tr := transport(t, ratelimit.TransportOptions{Base: s})
			var refused, problems atomic.Int64
			ask := func() {
				resp, err := tr.RoundTrip(get(t))
				if p, ok := errors.AsType[*weir.Problem](err); ok && p.RetryAfter == time.Hour {
					problems.Add(1)
				} else if err == nil && resp.StatusCode == 429 {
					refused.Add(1)
				}
				if at := time.Since(s.start); at != 10*time.Second {
					t.Errorf("returned at %v", at)
				}
			}
			var wg sync.WaitGroup
			wg.Go(ask)
			synctest.Wait()
			for range 20 {
				wg.Go(ask)
			}
			wg.Wait()
			if refused.Load() != 1 || problems.Load() != 20 || len(s.sent) != 2 {
				t.Errorf("%d refused, %d not sent, sent at %v", refused.Load(), problems.Load(), s.sent)
			}
		})
	})
	t.Run("keeps the refusal for the case that the wait becomes too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 10"), answer(429, "Retry-After: 3600"))
			slow := roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := s.RoundTrip(r)
				time.Sleep(time.Millisecond) // until both are under way
				if resp.Header.Get("Retry-After") == "3600" {
					time.Sleep(time.Second)
				}
				return resp, err
			})
			tr := transport(t, ratelimit.TransportOptions{Base: slow})
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					resp, err := tr.RoundTrip(get(t))
					if err != nil {
						t.Error(err)
						return
					}
					text, err := io.ReadAll(resp.Body)
					if resp.StatusCode != 429 || string(text) != "answer 429" || err != nil || time.Since(s.start) != 1001*time.Millisecond {
						t.Errorf("%d %q %v at %v", resp.StatusCode, text, err, time.Since(s.start))
					}
				})
			}
			wg.Wait()
		})
	})
}

func TestTransportOverANetwork(t *testing.T) {
	defer goleak.VerifyNone(t)
	l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{{Quota: 10, Window: 200 * time.Millisecond}}})
	var served, refused, connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			served.Add(1)
			_, _ = w.Write(text)
		})).ServeHTTP(w, r)
		if w.Header().Get("Retry-After") != "" {
			refused.Add(1)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	tr := transport(t, ratelimit.TransportOptions{Base: &http.Transport{MaxConnsPerHost: 8, MaxIdleConnsPerHost: 8}, Attempts: 5})
	client := &http.Client{Transport: tr}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			question := fmt.Sprint("question ", i)
			resp, err := client.Post(server.URL, "text/plain", strings.NewReader(question))
			if err != nil {
				t.Error(err)
				return
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || string(text) != question {
				t.Errorf("%s %q %v", resp.Status, text, err)
			}
		})
	}
	wg.Wait()
	if served.Load() != 30 || connections.Load() > 8 {
		t.Errorf("%d served on %d connections, want 30 on at most 8", served.Load(), connections.Load())
	}
	t.Logf("30 requests: %d refused, %d connections", refused.Load(), connections.Load())
}

// TestTransportNeverLosesAnybody runs many requests, some of which give up, on
// servers that say what they like: each returns, in the time that it has.
func TestTransportNeverLosesAnybody(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			dice := rand.New(rand.NewPCG(seed, 1))
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return dice.IntN(n)
			}
			tr := transport(t, ratelimit.TransportOptions{
				MaxWait: 20 * time.Second, Policies: []ratelimit.Policy{policy(t, "20/second"), policy(t, "300/minute")},
				Cost: func(*http.Request) int64 { return int64(roll(3)) },
				Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					time.Sleep(time.Duration(roll(100)) * time.Millisecond)
					switch roll(8) {
					case 0:
						return answer(429, fmt.Sprint("Retry-After-Ms: ", roll(3000))), nil
					case 1:
						return answer(429), nil
					case 2:
						return nil, errors.New("broken")
					case 3:
						return answer(200), nil
					}
					return answer(200, fmt.Sprintf(`RateLimit: "a";r=%d;t=%d, "b";r=%d;t=1;x-unit="tokens"`, roll(20), roll(4), roll(9))), nil
				}),
			})
			start := time.Now()
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					time.Sleep(time.Duration(roll(5000)) * time.Millisecond)
					begin := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(roll(60))*time.Second)
					defer cancel()
					resp, err := tr.RoundTrip(get(t).WithContext(ctx))
					if err == nil {
						_ = resp.Body.Close()
					}
					if took := time.Since(begin); took > 20*time.Second+3*100*time.Millisecond {
						t.Errorf("seed %d: took %v", seed, took)
					}
				})
			}
			wg.Wait()
			// And nobody's turn is lost: after a pause the next is sent.
			time.Sleep(time.Minute)
			if _, err := tr.RoundTrip(get(t)); err != nil && err.Error() != "broken" {
				t.Errorf("seed %d: %v after %v", seed, err, time.Since(start))
			}
		})
	}
}

func FuzzTransportFields(f *testing.F) {
	f.Add(429, "7", "", `"a";r=0;t=5`, `"a";q=9;w=9`, "", "")
	f.Add(200, "", "300.5", `limit=10, remaining=0, reset=4`, "100;w=60", "0", "6m0s")
	f.Add(503, "Sat, 01 Jan 2000 00:00:20 GMT", "NaN", `a;r=0, (b c);r=1`, `"b";q=0;w=0;qu=x`, "3", "2000-01-01T00:00:08Z")
	f.Fuzz(func(t *testing.T, code int, after, ms, state, policy, left, reset string) {
		synctest.Test(t, func(t *testing.T) {
			first := answer(code)
			for name, v := range map[string]string{
				"Retry-After": after, "Retry-After-Ms": ms, "Ratelimit": state, "Ratelimit-Policy": policy,
				"X-Ratelimit-Remaining": left, "X-Ratelimit-Reset": reset,
			} {
				first.Header.Set(name, v)
			}
			s := newScript(first)
			tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1, MaxWait: 100 * time.Hour})
			for range 3 {
				_ = status(t, tr, get(t))
			}
			if took := s.sent[2]; took > 2*24*time.Hour {
				t.Errorf("waited %v", took)
			}
		})
	})
}
