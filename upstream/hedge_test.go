package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// after answers with status when d has passed, unless its client leaves before.
func after(d time.Duration, status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			says(status)(w, r)
		case <-r.Context().Done():
		}
	}
}

// replayable is a request whose body can be had again.
func replayable(t *testing.T, method, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://weir/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAHedgeIsAskedWhenTheFirstIsSlow(t *testing.T) {
	second := time.Second
	for _, c := range []struct {
		name    string
		a, b    http.HandlerFunc
		options upstream.Options
		method  string
		stream  bool
		asked   string
		status  int
		took    time.Duration
		results []string // at the end of each exchange, a's and b's
	}{
		{"the hedge is faster", hangs, says(200), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 200, second, []string{"a cancelled", "b ok"}},
		{"the first is faster all the same", after(2*second, 200), hangs, upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 200, 2 * second, []string{"a ok", "b cancelled"}},
		{"the first is not slow", after(second/2, 200), hangs, upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"a", 200, second / 2, []string{"a ok"}},
		{"a 404 is an answer", hangs, says(404), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 404, second, []string{"a cancelled", "b ok"}},
		{"what the hedge cannot do the first may", after(2*second, 200), says(500), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 200, 2 * second, []string{"a ok", "b cancelled"}},
		{"what the first cannot do the hedge may", after(2*second, 503), after(2*second, 200), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 200, 3 * second, []string{"a cancelled", "b ok"}},
		{"where both fail an answer is better than an error, and there is no third", func(http.ResponseWriter, *http.Request) {
			time.Sleep(2 * second)
			panic("down")
		}, says(500), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 500, 2 * second, []string{"a cut", "b ok"}},
		{"a failure before that is repeated", says(502), says(200), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", false,
			"ab", 200, 0, []string{"a ok", "b ok"}},
		{"a POST is not hedged", after(2*second, 200), says(200), upstream.Options{Hedge: upstream.Hedge{After: second}}, "POST", false,
			"a", 200, 2 * second, []string{"a ok"}},
		{"nor where it may only be repeated", after(2*second, 200), says(200), upstream.Options{Hedge: upstream.Hedge{After: second}, Retry: upstream.Retry{Post: true}}, "POST", false,
			"a", 200, 2 * second, []string{"a ok"}},
		{"unless it may", hangs, says(200), upstream.Options{Hedge: upstream.Hedge{After: second, Post: true}}, "POST", false,
			"ab", 200, second, []string{"a cancelled", "b ok"}},
		{"a stream is not hedged", after(2*second, 200), says(200), upstream.Options{Hedge: upstream.Hedge{After: second}}, "GET", true,
			"a", 200, 2 * second, []string{"a ok"}},
		{"hedging is off unless set", after(2*second, 200), says(200), upstream.Options{}, "GET", false,
			"a", 200, 2 * second, []string{"a ok"}},
		{"one attempt may still be hedged", hangs, says(200), upstream.Options{Hedge: upstream.Hedge{After: second}, Retry: upstream.Retry{Attempts: 1}}, "GET", false,
			"ab", 200, second, []string{"a cancelled", "b ok"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var order asked
				c.options.Targets = []upstream.Target{order.handled("a", c.a), order.handled("b", c.b)}
				pool := newPool(t, c.options)
				s := &seats{places: []int{1}}
				begin := time.Now()
				status, _, err := whole(pool, replayable(t, c.method, "body"), upstream.Call{Seat: s.at(0), Seats: s, Stream: c.stream})
				took := time.Since(begin)
				synctest.Wait() // the slower one ends at once
				if order.String() != c.asked || status != c.status || took != c.took {
					t.Errorf("asked %s, got %d after %v, %v: want %s, %d, %v", order.String(), status, took, err, c.asked, c.status, c.took)
				}
				var results []string
				for _, e := range s.events {
					results = append(results, e.Target+" "+e.Result)
				}
				slices.Sort(results)
				if !slices.Equal(results, c.results) || pool.InFlight() != 0 {
					t.Errorf("the exchanges ended %v, %d have not: want %v", results, pool.InFlight(), c.results)
				}
				s.check(t, len(c.results))
			})
		})
	}
}

func TestAHedgeHasARequestOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies [2]string
		reads := func(i int, h http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				bodies[i] = r.Header.Get("X-Mine") + string(b)
				h(w, r)
			}
		}
		var order asked
		pool := newPool(t, upstream.Options{
			Hedge: upstream.Hedge{After: time.Second}, SetHeaders: map[string]string{"X-Mine": "1"},
			Targets: []upstream.Target{order.handled("a", reads(0, hangs)), order.handled("b", reads(1, says(200)))},
		})
		s := &seats{places: []int{1}}
		r := replayable(t, "PUT", "whole")
		resp, err := pool.Send(r.Context(), r, upstream.Call{Seat: s.at(0), Seats: s})
		if err != nil {
			t.Fatal(err)
		}
		if at := upstream.SeatOf(resp); upstream.Attempts(resp) != 2 || at.Target() != 1 || !slices.Equal(s.asked, []string{"[0] false"}) {
			t.Errorf("%d attempts, the answer from %d, asked for seats %v", upstream.Attempts(resp), at.Target(), s.asked)
		}
		_ = resp.Body.Close()
		synctest.Wait()
		if bodies != [2]string{"1whole", "1whole"} {
			t.Errorf("sent %q", bodies)
		}
		e := s.events
		slices.SortFunc(e, func(a, b upstream.Event) int { return a.Attempt - b.Attempt })
		if e[0].Attempt != 1 || !e[0].Retried || e[0].Reason != "" || e[1].Attempt != 2 || e[1].Retried || e[1].Reason != upstream.ReasonHedge {
			t.Errorf("%+v", e)
		}
		// A body that can be had only once is not hedged.
		once := httptest.NewRequestWithContext(t.Context(), "PUT", "/", io.NopCloser(strings.NewReader("once")))
		once.ContentLength = 4
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _, _ = whole(pool, once.WithContext(ctx), upstream.Call{Seat: s.at(0)})
		if order.String() != "aba" {
			t.Errorf("asked %s", order.String())
		}
	})
}

func TestWithoutRoomThereIsNoHedge(t *testing.T) {
	for name, c := range map[string]struct {
		seats *seats
		ended int
	}{
		"no seat":               {&seats{err: errors.New("full")}, 1},
		"only the same target":  {&seats{places: []int{0}}, 2},
		"a target that is gone": {&seats{places: []int{7, 7, 7}}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var order asked
				pool := newPool(t, upstream.Options{Hedge: upstream.Hedge{After: time.Second},
					Targets: []upstream.Target{order.handled("a", after(3*time.Second, 200)), order.handled("b", says(200))}})
				status, _, err := whole(pool, replayable(t, "GET", ""), upstream.Call{Seat: c.seats.at(0), Seats: c.seats})
				if status != 200 || order.String() != "a" {
					t.Errorf("asked %s, %d %v", order.String(), status, err)
				}
				c.seats.check(t, c.ended)
			})
		})
	}
}

func TestHedgesHaveABudget(t *testing.T) {
	for _, c := range []struct{ requests, want int }{{1, 1}, {10, 1}, {100, 5}} {
		t.Run(fmt.Sprintf("%d in flight", c.requests), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var order asked
				pool := newPool(t, upstream.Options{Hedge: upstream.Hedge{After: time.Second},
					Targets: []upstream.Target{order.handled("a", after(9*time.Second, 200)), order.handled("b", after(2*time.Second, 200))}})
				for range 2 { // what was used is given back
					var wg sync.WaitGroup
					for range c.requests {
						wg.Go(func() {
							if status, _, err := whole(pool, replayable(t, "GET", ""), upstream.Call{Seat: (&seats{}).at(0)}); status != 200 {
								t.Errorf("%d %v", status, err)
							}
						})
					}
					wg.Wait()
				}
				if n := strings.Count(order.String(), "b"); n != 2*c.want {
					t.Errorf("%d hedges in two rounds, want %d in each", n, c.want)
				}
			})
		})
	}
}

func TestAHedgeLearnsWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order asked
		var takes atomic.Int64
		pool := newPool(t, upstream.Options{Hedge: upstream.Hedge{Quantile: 0.9}, Targets: []upstream.Target{
			order.handled("a", func(w http.ResponseWriter, r *http.Request) { after(time.Duration(takes.Load()), 200)(w, r) }),
			order.handled("b", says(200)),
		}})
		ask := func(d time.Duration, stream bool) (took time.Duration) {
			takes.Store(int64(d))
			begin := time.Now()
			_, _, _ = whole(pool, replayable(t, "GET", ""), upstream.Call{Seat: (&seats{}).at(0), Stream: stream})
			return time.Since(begin)
		}
		for i := range 19 {
			ask(time.Duration(i+1)*10*time.Millisecond, false)
			ask(time.Hour/100, true) // streams teach nothing
		}
		if took := ask(200*time.Millisecond, false); took != 200*time.Millisecond || strings.Contains(order.String(), "b") {
			t.Errorf("hedged before 20 heads were seen, after %v", took)
		}
		// 90 % of 10, 20 … 200 ms came before 190 ms.
		if took := ask(time.Second, false); took != 190*time.Millisecond || strings.Count(order.String(), "b") != 1 {
			t.Errorf("hedged after %v, want 190ms", took)
		}
		// What is learnt follows: only the last 256 heads count.
		for range 300 {
			ask(5*time.Millisecond, false)
		}
		if took := ask(time.Second, false); took != 5*time.Millisecond {
			t.Errorf("hedged after %v, want 5ms", took)
		}
	})
	t.Run("and takes what it was told until then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var order asked
			pool := newPool(t, upstream.Options{Hedge: upstream.Hedge{Quantile: 0.95, After: time.Second},
				Targets: []upstream.Target{order.handled("a", hangs), order.handled("b", says(200))}})
			begin := time.Now()
			_, _, _ = whole(pool, replayable(t, "GET", ""), upstream.Call{Seat: (&seats{}).at(0)})
			if took := time.Since(begin); took != time.Second {
				t.Errorf("hedged after %v", took)
			}
		})
	})
}

// Attempts that end in every order leak nothing: no seat, no body, no goroutine.
func TestHedgesAtRandomLeakNothing(t *testing.T) {
	random := func(w http.ResponseWriter, r *http.Request) {
		if rand.N(4) == 0 {
			panic(http.ErrAbortHandler)
		}
		status := []int{200, 200, 404, 500, 503}[rand.N(5)]
		after(rand.N(3*time.Millisecond), status)(w, r)
	}
	targets := make([]upstream.Target, 3)
	for i := range targets {
		targets[i].URL = backend(t, random)
	}
	var exchanges atomic.Int64
	pool := newPool(t, upstream.Options{
		Targets: targets, Hedge: upstream.Hedge{After: time.Millisecond, Budget: 1}, Retry: upstream.Retry{Attempts: 4, Budget: 1},
		Observe: func(upstream.Event) { exchanges.Add(1) },
	})
	s := &counted{targets: len(targets)}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond+rand.N(20*time.Millisecond))
				first, _ := s.Seat(ctx, nil, true)
				r := replayable(t, "PUT", "body").WithContext(ctx)
				if resp, err := pool.Send(ctx, r, upstream.Call{Seat: first, Seats: s}); err == nil {
					if rand.N(2) == 0 {
						_, _ = io.Copy(io.Discard, resp.Body)
					}
					_ = resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	pool.Close() // waits for those that lost
	if given, ended := s.given.Load(), s.ended.Load(); given != ended || s.twice.Load() != 0 || pool.InFlight() != 0 {
		t.Errorf("%d seats given, %d ended, %d of them more than once; %d in flight", given, ended, s.twice.Load(), pool.InFlight())
	}
	if n, unused := exchanges.Load(), s.unused.Load(); n != s.ended.Load()-unused {
		t.Errorf("%d exchanges were observed, and %d seats ended, %d of them unused", n, s.ended.Load(), unused)
	}
	t.Logf("%d exchanges for 800 requests", exchanges.Load())
}

// counted hands out seats at random targets, and counts them.
type counted struct {
	targets                     int
	given, ended, twice, unused atomic.Int64
}

func (s *counted) Seat(_ context.Context, tried []int, _ bool) (upstream.Seat, error) {
	if rand.N(10) == 0 && tried != nil {
		return nil, errors.New("full")
	}
	s.given.Add(1)
	return &countedSeat{seats: s, target: rand.N(s.targets)}, nil
}

type countedSeat struct {
	seats  *counted
	target int
	over   atomic.Bool
}

func (s *countedSeat) Target() int { return s.target }

func (s *countedSeat) End(e upstream.Event) {
	if s.over.Swap(true) {
		s.seats.twice.Add(1)
		return
	}
	if e.Result == upstream.ResultUnused {
		s.seats.unused.Add(1)
	}
	s.seats.ended.Add(1)
}
