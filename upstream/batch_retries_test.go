package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// further hands out seats of another target, and counts.
type further struct {
	mu     sync.Mutex
	desk   *desk
	target int
	tried  [][]int
	err    error
	panics bool
}

func (f *further) Seat(_ context.Context, tried []int, _ bool) (upstream.Seat, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried = append(f.tried, slices.Clone(tried))
	if f.panics {
		panic("no seat")
	}
	if f.err != nil {
		return nil, f.err
	}
	c := f.desk.sit(fmt.Sprintf("further %d", len(f.tried)), 1)
	c.target = f.target
	return c, nil
}

func TestBatchRetries(t *testing.T) {
	fails := func(status int) http.RoundTripper {
		return upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	}
	two := func(t *testing.T, first http.RoundTripper, f func(x *rig, s *further)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			m := &model{began: time.Now()}
			x := newRig(t, upstream.BatchOptions{MaxItems: 4}, upstream.Options{
				Targets: []upstream.Target{{URL: "0", Transport: first}, {URL: "1", Transport: upstream.Handler(m)}},
				Retry:   upstream.Retry{Post: true},
				Breaker: upstream.Breaker{Failures: 2, OpenFor: time.Hour},
			})
			x.model = m
			f(x, &further{desk: x.desk, target: 1})
		})
	}
	send := func(x *rig, s *further, items ...string) (all []<-chan got) {
		for _, item := range items {
			all = append(all, x.send(x.Context(), asks{items: []string{item}, seats: s}))
			synctest.Wait()
		}
		return all
	}
	t.Run("a joined call goes to another target as a whole, with one seat there", func(t *testing.T) {
		two(t, fails(503), func(x *rig, s *further) {
			all := send(x, s, "a", "b", "c", "d")
			x.want(all, predicts("a"), predicts("b"), predicts("c"), predicts("d"))
			x.wantCalls("a b c d")
			x.wantSeats("ok 503", "ok 503", "ok 503", "ok 503", "ok 200")
			if want := [][]int{{0}}; !slices.EqualFunc(s.tried, want, slices.Equal) {
				x.Errorf("asked for seats beside %v, want %v", s.tried, want)
			}
		})
	})
	t.Run("its halves stay where it went, in the same seat", func(t *testing.T) {
		two(t, fails(503), func(x *rig, s *further) {
			x.model.took = func(int) time.Duration { return time.Second }
			all := send(x, s, "a", "bad", "c", "d")
			time.Sleep(3500 * time.Millisecond)
			x.wantSeats("ok 503", "ok 503", "ok 503", "ok 503", "") // one half to go
			x.want(all, predicts("a"), `422 {"error":"bad"}`, predicts("c"), predicts("d"))
			x.wantCalls("a bad c d", "a bad", "a", "bad", "c d")
			x.wantSeats("ok 503", "ok 503", "ok 503", "ok 503", "ok 200")
		})
	})
	t.Run("members who leave meanwhile leave that seat, too", func(t *testing.T) {
		two(t, fails(503), func(x *rig, s *further) {
			x.model.took = func(int) time.Duration { return time.Second }
			ctx, leave := context.WithCancel(x.Context())
			all := send(x, s, "a", "bad")
			for _, item := range []string{"c", "d"} {
				all = append(all, x.send(ctx, asks{items: []string{item}, seats: s}))
				synctest.Wait()
			}
			time.Sleep(1500 * time.Millisecond)
			leave()
			x.want(all[:2], predicts("a"), `422 {"error":"bad"}`)
			x.wantSeats("ok 503", "ok 503", "ok 503", "ok 503", "ok 422")
		})
	})
	t.Run("a seat at a target that is closed by now is given back at once, for one at another", func(t *testing.T) {
		two(t, fails(500), func(x *rig, s *further) {
			for range 2 { // the breaker opens
				x.want(x.ask(one("a")...), "500 ")
			}
			x.desk.forget()
			x.model.took = func(int) time.Duration { return time.Second }
			all := send(x, s, "a", "b", "c", "d")
			x.wantSeats("unused 0", "unused 0", "unused 0", "unused 0", "")
			x.want(all, predicts("a"), predicts("b"), predicts("c"), predicts("d"))
			x.wantSeats("unused 0", "unused 0", "unused 0", "unused 0", "ok 200")
		})
	})
	t.Run("without another seat all get the first answer", func(t *testing.T) {
		two(t, fails(503), func(x *rig, s *further) {
			s.err = errors.New("no room")
			x.want(send(x, s, "a", "b", "c", "d"), slices.Repeat([]string{"503 "}, 4)...)
			x.wantSeats(slices.Repeat([]string{"ok 503"}, 4)...)
		})
	})
	t.Run("nor does it harm if asking for one panics", func(t *testing.T) {
		two(t, fails(503), func(x *rig, s *further) {
			s.panics = true
			x.want(send(x, s, "a", "b", "c", "d"), slices.Repeat([]string{"503 "}, 4)...)
		})
	})
	t.Run("half of a call may have to go elsewhere alone", func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		first := upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if n++; n == 2 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			(&model{}).ServeHTTP(w, r)
		}))
		two(t, first, func(x *rig, s *further) {
			all := send(x, s, "a", "b", "c", "bad")
			x.want(all, predicts("a"), predicts("b"), predicts("c"), `422 {"error":"bad"}`)
			x.wantCalls("a b")
			x.wantSeats("ok 502", "ok 502", "ok 200", "ok 422", "ok 200")
		})
	})
	t.Run("a call without seats is retried without", func(t *testing.T) {
		two(t, fails(503), func(x *rig, _ *further) {
			x.want(x.ask(one("a", "bad", "c", "d")...), predicts("a"), `422 {"error":"bad"}`, predicts("c"), predicts("d"))
			x.wantSeats(slices.Repeat([]string{"ok 503"}, 4)...)
		})
	})
	t.Run("members without any seat are sent all the same", func(t *testing.T) {
		two(t, fails(503), func(x *rig, _ *further) {
			var all []<-chan got
			for _, item := range []string{"a", "bad", "c", "d"} {
				a := asks{items: []string{item}}
				m := x.member(&a)
				m.Call.Seat = nil
				done := make(chan got, 1)
				go func() { done <- gotten(x.batcher.Do(x.Context(), m)) }()
				synctest.Wait()
				all = append(all, done)
			}
			x.want(all, predicts("a"), `422 {"error":"bad"}`, predicts("c"), predicts("d"))
			for _, c := range x.desk.chairs { // nobody has given them back
				c.End(upstream.Event{})
			}
		})
	})
}

func TestBatchHedges(t *testing.T) {
	t.Run("the slower of two attempts gives its seat back, the faster keeps it for the halves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{began: time.Now()}
			slow := upstream.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			x := newRig(t, upstream.BatchOptions{MaxItems: 2}, upstream.Options{
				Targets: []upstream.Target{{URL: "0", Transport: slow}, {URL: "1", Transport: upstream.Handler(m)}},
				Hedge:   upstream.Hedge{After: time.Second, Post: true},
			})
			x.model = m
			s := &further{desk: x.desk, target: 1}
			all := []<-chan got{x.send(x.Context(), asks{items: []string{"bad"}, seats: s})}
			synctest.Wait()
			all = append(all, x.send(x.Context(), asks{items: []string{"b"}, seats: s}))
			x.want(all, `422 {"error":"bad"}`, predicts("b"))
			x.wantCalls("bad b", "bad", "b")
			x.wantSeats("cancelled 0", "cancelled 0", "ok 200")
		})
	})
}

func TestBatchWeighsAllItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var models []*model
		var targets []upstream.Target
		for i := range 2 {
			m := &model{began: time.Now(), took: line(time.Second, 0)}
			models = append(models, m)
			targets = append(targets, upstream.Target{URL: strconv.Itoa(i), Transport: upstream.Handler(m)})
		}
		x := newRig(t, upstream.BatchOptions{MaxItems: 3}, upstream.Options{Targets: targets, Balance: "least_busy"})
		var all sync.WaitGroup
		send := func(key string) {
			a := asks{key: key, items: []string{"a"}}
			m := x.member(&a)
			m.Call.Seat = nil
			all.Go(func() {
				if g := gotten(x.batcher.Do(x.Context(), m)); g.String() != predicts("a") {
					x.Errorf("got %s", g)
				}
				a.seat.End(upstream.Event{})
			})
			synctest.Wait()
		}
		for range 3 { // one call
			send("k")
		}
		for _, key := range []string{"1", "2", "3"} { // and three alone, at the other target
			send(key)
			time.Sleep(upstream.DefaultBatchDelay)
			synctest.Wait()
		}
		calls := [][]string{models[0].asked(), models[1].asked()}
		if len(calls[0]) > len(calls[1]) {
			slices.Reverse(calls)
		}
		if fmt.Sprintf("%q", calls) != `[["a a a"] ["a" "a" "a"]]` {
			x.Errorf("calls %q", calls)
		}
		all.Wait()
	})
}
