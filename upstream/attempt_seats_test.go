package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/inferweir/weir/upstream"
)

// seats hands out seats as a queue would, and counts them.
type seats struct {
	places []int // the targets of the next ones
	err    error // instead, where there are none left

	mu     sync.Mutex
	asked  []string // guarded by mu, as all below
	given  int
	ended  int
	twice  int
	events []upstream.Event
}

func (s *seats) Seat(_ context.Context, tried []int, wait bool) (upstream.Seat, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprint(tried, wait))
	if len(s.places) == 0 {
		return nil, s.err
	}
	at := s.places[0]
	s.places = s.places[1:]
	s.given++
	return &seat{seats: s, target: at}, nil
}

// at is a seat at a target.
func (s *seats) at(target int) upstream.Seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given++
	return &seat{seats: s, target: target}
}

// check fails the test unless every seat was ended once.
func (s *seats) check(t *testing.T, given int) {
	t.Helper()
	s.counts(t, given, given)
}

// counts fails the test unless so many seats were given and ended.
func (s *seats) counts(t *testing.T, given, ended int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given != given || s.ended != ended || s.twice != 0 {
		t.Errorf("%d seats were given, %d ended, %d of them more than once: want %d and %d, each once", s.given, s.ended, s.twice, given, ended)
	}
}

type seat struct {
	seats  *seats
	target int
	over   bool
}

func (s *seat) Target() int { return s.target }

func (s *seat) End(e upstream.Event) {
	s.seats.mu.Lock()
	defer s.seats.mu.Unlock()
	if s.over {
		s.seats.twice++
		return
	}
	s.over = true
	s.seats.ended++
	s.seats.events = append(s.seats.events, e)
}

func TestSeatsOfAttempts(t *testing.T) {
	pool := func(t *testing.T, o upstream.Options, order *asked, handlers ...http.HandlerFunc) *upstream.Pool {
		for i, h := range handlers {
			o.Targets = append(o.Targets, order.handled(string(rune('a'+i)), h))
		}
		return newPool(t, o)
	}
	get := func(t *testing.T) *http.Request { return httptest.NewRequestWithContext(t.Context(), "GET", "/", nil) }
	t.Run("a retry waits for a seat of its own, and each ends once", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{}, &order, says(200), says(502), says(200))
		s := &seats{places: []int{2}}
		r := get(t)
		resp, err := p.Send(r.Context(), r, upstream.Call{Seat: s.at(1), Seats: s})
		if err != nil {
			t.Fatal(err)
		}
		if n, at := upstream.Attempts(resp), upstream.SeatOf(resp); n != 2 || at == nil || at.Target() != 2 {
			t.Errorf("%d attempts, the last at %v", n, at)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		s.check(t, 2)
		if order.String() != "bc" || !slices.Equal(s.asked, []string{"[1] true"}) {
			t.Errorf("asked %s, and for seats %v", order.String(), s.asked)
		}
		for i, want := range []upstream.Event{
			{Target: "b", Index: 1, Result: "ok", Status: 502, Attempt: 1, Retried: true},
			{Target: "c", Index: 2, Result: "ok", Status: 200, Attempt: 2, Reason: "retry"},
		} {
			got := s.events[i]
			got.FirstByte, got.Total = 0, 0
			if got != want {
				t.Errorf("event %d\n got %+v\nwant %+v", i, got, want)
			}
		}
	})
	t.Run("without a seat for a retry the answer is given", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{}, &order, says(502, "X-From", "a"), says(200))
		s := &seats{err: errors.New("full")}
		r := get(t)
		resp, err := p.Send(r.Context(), r, upstream.Call{Seat: s.at(0), Seats: s})
		if code, body := read(t, resp, err); code != 502 || body != "says 502" || resp.Header.Get("X-From") != "a" || upstream.Attempts(resp) != 1 {
			t.Errorf("%d %q %v after %d attempts", code, body, resp.Header, upstream.Attempts(resp))
		}
		s.check(t, 1)
	})
	t.Run("and the error, where there is no answer", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{}, &order, func(http.ResponseWriter, *http.Request) { panic("down") }, says(200))
		s := &seats{err: errors.New("full")}
		if code, detail, _ := whole(p, get(t), upstream.Call{Seat: s.at(0), Seats: s}); code != 502 || detail != `Upstream "llm" broke off.` {
			t.Errorf("%d %s", code, detail)
		}
		s.check(t, 1)
	})
	t.Run("a retry that must go elsewhere does not take the same target's seat", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{}, &order, says(503), says(200))
		s := &seats{places: []int{0}}
		if code, _, _ := whole(p, get(t), upstream.Call{Seat: s.at(0), Seats: s}); code != 503 || order.String() != "a" {
			t.Errorf("%d after %s", code, order.String())
		}
		s.check(t, 2)
		if e := s.events[1]; e.Result != upstream.ResultUnused || e.Target != "a" {
			t.Errorf("the second seat ended with %+v", e)
		}
	})
	t.Run("no seat is waited for where the failure has closed the last target", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{Breaker: upstream.Breaker{Failures: 1}}, &order, says(502))
		s := &seats{places: []int{0}}
		if code, body, _ := whole(p, get(t), upstream.Call{Seat: s.at(0), Seats: s}); code != 502 || body != "says 502" || s.asked != nil {
			t.Errorf("%d %q, and asked for seats %v", code, body, s.asked)
		}
		s.check(t, 1)
	})
	t.Run("a seat at a target that closed meanwhile is given back, and counts as no attempt", func(t *testing.T) {
		var order asked
		down := true
		p := pool(t, upstream.Options{Breaker: upstream.Breaker{Failures: 1}, Retry: upstream.Retry{Attempts: 1}}, &order,
			func(w http.ResponseWriter, r *http.Request) {
				if down {
					says(500)(w, r)
				}
			}, says(200))
		_, _, _ = whole(p, get(t), upstream.Call{})
		for _, c := range []upstream.Call{{}, {Seats: &seats{places: []int{0, 1}}}} {
			s := &seats{}
			c.Seat = s.at(0)
			r := get(t)
			resp, err := p.Send(r.Context(), r, c)
			if code, _ := read(t, resp, err); code != 200 || upstream.Attempts(resp) != 1 {
				t.Errorf("%d after %d attempts", code, upstream.Attempts(resp))
			}
			s.check(t, 1)
			if further, ok := c.Seats.(*seats); ok {
				further.check(t, 2)
			}
		}
		if order.String() != "abb" {
			t.Errorf("asked %s", order.String())
		}
	})
	t.Run("a seat at a target that is not there is given back", func(t *testing.T) {
		var order asked
		p := pool(t, upstream.Options{}, &order, says(200))
		for _, at := range []int{-1, 1} {
			s := &seats{}
			if code, _, err := whole(p, get(t), upstream.Call{Seat: s.at(at)}); code != 200 {
				t.Errorf("%d: %d %v", at, code, err)
			}
			s.check(t, 1)
		}
	})
	t.Run("a panic of a transport ends the seat", func(t *testing.T) {
		s := &seats{}
		p := newPool(t, upstream.Options{Targets: []upstream.Target{{URL: "a", Transport: panics{}}}, Retry: upstream.Retry{Attempts: 1}})
		if code, _, err := whole(p, get(t), upstream.Call{Seat: s.at(0)}); code != 502 || !strings.Contains(err.Error(), "the transport panicked: oops") {
			t.Errorf("%d %v", code, err)
		}
		s.check(t, 1)
	})
	t.Run("an answer that is neither read nor closed ends with its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var order asked
			p := pool(t, upstream.Options{}, &order, func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := io.WriteString(w, "more"); err != nil {
						return
					}
				}
			})
			s := &seats{}
			ctx, cancel := context.WithCancel(t.Context())
			r := get(t)
			if _, err := p.Send(ctx, r, upstream.Call{Seat: s.at(0)}); err != nil {
				t.Fatal(err)
			}
			s.counts(t, 1, 0)
			cancel()
			synctest.Wait()
			s.check(t, 1)
			if e := s.events[0]; e.Result != upstream.ResultCancelled || p.InFlight() != 0 {
				t.Errorf("%+v, and %d in flight", e, p.InFlight())
			}
		})
	})
}

type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic("oops") }
