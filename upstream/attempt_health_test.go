package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

func TestNoOpenTargetIs503AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order asked
		pool := newPool(t, upstream.Options{
			Breaker: upstream.Breaker{Failures: 1, OpenFor: 8 * time.Second}, Retry: upstream.Retry{Attempts: 5},
			Targets: []upstream.Target{order.handled("a", says(500)), order.handled("b", says(500)), order.handled("c", says(503))},
			Closed: func(resp *http.Response) time.Duration {
				if resp.StatusCode == 503 {
					return 3 * time.Second
				}
				return 0
			},
		})
		get := func() (int, string, error) {
			return whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{})
		}
		for range 3 {
			_, _, _ = get()
		}
		time.Sleep(time.Second)
		begin := time.Now()
		s := &seats{}
		for _, c := range []upstream.Call{{}, {Seat: s.at(0)}, {Seat: s.at(1), Seats: &seats{places: []int{0, 1, 2, 0, 1, 2, 0, 1}}}} {
			status, detail, err := whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), c)
			p, _ := errors.AsType[*weir.Problem](err)
			if want := `No target of upstream "llm" is available: 2 of 3 failed too many requests in a row, 1 of 3 asked for a pause.`; status != 503 ||
				detail != want || p.RetryAfter != 2*time.Second || p.Type != weir.TypeReducedCapacity {
				t.Errorf("%d %q after %v", status, detail, p)
			}
		}
		s.check(t, 2)
		if took := time.Since(begin); took != 0 || order.String() != "abc" || pool.InFlight() != 0 {
			t.Errorf("took %v, asked %s, %d in flight", took, order.String(), pool.InFlight())
		}
		if at := pool.OpensAt(time.Now()); !at.Equal(begin.Add(2*time.Second)) || pool.Closed() != 3 || pool.Open(2, time.Now()) || !pool.Open(2, at) {
			t.Errorf("opens at %v, %d closed", at.Sub(begin), pool.Closed())
		}
		if pool.Open(-1, begin) || pool.Open(3, begin) || pool.Targets() != 3 {
			t.Error("a target that is not there is open")
		}
	})
}

func TestWhatTripsABreaker(t *testing.T) {
	// trips sends one request that must leave the target open or not.
	trips := func(name string, want bool, h http.HandlerFunc, do func(pool *upstream.Pool)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var order asked
				pool := newPool(t, upstream.Options{
					Breaker: upstream.Breaker{Failures: 1}, Retry: upstream.Retry{Attempts: 1}, Targets: []upstream.Target{order.handled("a", h)},
					Timeouts: upstream.Timeouts{FirstByte: time.Second, BetweenBytes: time.Second, Total: 5 * time.Second},
				})
				if do == nil {
					do = func(pool *upstream.Pool) {
						_, _, _ = whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{})
					}
				}
				do(pool)
				synctest.Wait()
				if got := !pool.Open(0, time.Now()); got != want {
					t.Errorf("the breaker is open: %t, want %t", got, want)
				}
			})
		})
	}
	for _, status := range []int{200, 302, 400, 401, 404, 408, 413, 422, 429, 501, 505} {
		trips(fmt.Sprint("not ", status), false, says(status), nil)
	}
	for _, status := range []int{500, 502, 503, 504} {
		trips(fmt.Sprint(status), true, says(status), nil)
	}
	trips("not a 503 that says when to come back", false, says(503, "Retry-After", "30"), nil)
	trips("a broken connection", true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil)
	stream := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "x")
			time.Sleep(100 * time.Millisecond)
		}
	}
	trips("an answer that breaks off", true, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	}, nil)
	trips("silence before the head", true, hangs, nil)
	trips("silence within the body", true, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		hangs(w, r)
	}, nil)
	trips("not a stream that is long", false, stream, nil)
	leaves := func(after time.Duration) func(pool *upstream.Pool) {
		return func(pool *upstream.Pool) {
			ctx, cancel := context.WithTimeout(context.Background(), after)
			defer cancel()
			_, _, _ = whole(pool, httptest.NewRequestWithContext(ctx, "GET", "/", nil), upstream.Call{})
		}
	}
	trips("not a client that leaves before the head", false, hangs, leaves(500*time.Millisecond))
	trips("not a client that leaves within the body", false, stream, leaves(500*time.Millisecond))
	trips("not a client that closes a stream", false, stream, func(pool *upstream.Pool) {
		resp, err := pool.Do(context.Background(), httptest.NewRequest("GET", "/", nil))
		if err == nil {
			_, _ = io.ReadFull(resp.Body, make([]byte, 3))
			_ = resp.Body.Close()
		}
	})
	trips("a 500 whose body nobody reads", true, says(500), func(pool *upstream.Pool) {
		resp, err := pool.Do(context.Background(), httptest.NewRequest("GET", "/", nil))
		if err == nil {
			_ = resp.Body.Close()
		}
	})
}

// revived is a pool with one target, whose breaker is half-open now, and which
// works again as h does.
func revived(t *testing.T, h http.HandlerFunc) *upstream.Pool {
	var order asked
	down := true
	pool := newPool(t, upstream.Options{
		Breaker: upstream.Breaker{Failures: 1, OpenFor: time.Second}, Retry: upstream.Retry{Attempts: 1},
		Targets: []upstream.Target{order.handled("a", func(w http.ResponseWriter, r *http.Request) {
			if down {
				w.WriteHeader(500)
				return
			}
			h(w, r)
		})},
	})
	_, _, _ = whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{})
	down = false
	time.Sleep(time.Second)
	return pool
}

func TestATrialClosesTheBreakerWithItsHead(t *testing.T) {
	for _, c := range []struct {
		status int
		want   bool
	}{{200, true}, {302, true}, {404, true}, {429, true}, {500, false}, {503, false}} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := revived(t, func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(c.status)
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
				})
				resp, err := pool.Do(t.Context(), httptest.NewRequest("GET", "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				if open := pool.Open(0, time.Now()); open != c.want {
					t.Errorf("the head is there, and the target is open: %t, want %t", open, c.want)
				}
				_ = resp.Body.Close()
			})
		})
	}
}

func TestASlowTrialKeepsNobodyElseFromATargetThatIsBack(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		t.Run(fmt.Sprintf("its client leaves: %t", leaves), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := revived(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						select {
						case <-time.After(20 * time.Second):
						case <-r.Context().Done():
						}
					}
				})
				get := func(path string) int {
					status, _, _ := whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", path, nil), upstream.Call{})
					return status
				}
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				slow := make(chan int, 1)
				go func() {
					status, _, _ := whole(pool, httptest.NewRequestWithContext(ctx, "GET", "/slow", nil), upstream.Call{})
					slow <- status
				}()
				synctest.Wait()
				begin := time.Now()
				if leaves {
					leave()
					<-slow
				}
				if status := get("/"); status != 503 || !pool.OpensAt(begin).Equal(begin.Add(time.Second)) {
					t.Errorf("beside the trial: %d, and the next is due in %v", status, pool.OpensAt(begin).Sub(begin))
				}
				time.Sleep(time.Second)
				if first, second := get("/"), get("/"); first != 200 || second != 200 {
					t.Errorf("a second later: %d and %d, want 200", first, second)
				}
				if !leaves {
					if status := <-slow; status != 200 || time.Since(begin) != 20*time.Second {
						t.Errorf("the slow one: %d after %v", status, time.Since(begin))
					}
				}
			})
		})
	}
}
