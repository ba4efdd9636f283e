package gateway_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Users of a slow answer that is nobody else's do not wait for each other: but for
// the one whose answer shows that it is, none of them is answered before all are at
// the origin, so that all of them take as long as one.
func TestWhatCannotBeSharedRunsInParallel(t *testing.T) {
	t.Parallel()
	for _, s := range []site{
		{mode: "inference", share: "caller"}, {mode: "inference", share: "all"}, {mode: "http", share: "caller"}, {mode: "http", share: "all"},
		{store: "memory+redis", mode: "inference", share: "all"}, {store: "memory+redis", mode: "http", share: "all"},
	} {
		t.Run(fmt.Sprint(s.store, " ", s.mode, " ", s.share), func(t *testing.T) {
			t.Parallel()
			const n = 20
			q := &queue{arrived: make(chan *gate, n)}
			w := s.start(t, q)
			users := func(i int) answer { return inMode(w, i, s.mode) }
			one := func(int) answer { return inMode(w, 0, s.mode) }
			ask := func(ask func(int) answer) <-chan []answer {
				done := make(chan []answer, 1)
				go func() { done <- atOnce(n, ask) }()
				return done
			}
			done, first := ask(users), n
			if s.share == "all" {
				after(t, "the first at the origin", q.arrived).open()
				first--
			}
			q.release(t, first)
			for i, a := range after(t, "the answers", done) {
				if want := fmt.Sprint("for u", i); !a.is(200, want) {
					t.Errorf("%v, want %s", a, want)
				}
			}
			if s.share == "caller" { // his first shows what it is
				done := ask(one)
				after(t, "one of the same caller", q.arrived).open()
				q.release(t, n-1)
				after(t, "the answers", done)
			}
			done = ask(one) // and from then on the same user's do not wait for each other, either
			q.release(t, n)
			for _, a := range after(t, "the answers", done) {
				if !a.is(200, "for u0") {
					t.Errorf("%v", a)
				}
			}
		})
	}
}

// inMode asks for the same as every other user does.
func inMode(w *instance, user int, mode string) answer {
	if mode == "http" {
		return w.as(user, "GET", "/", "")
	}
	return w.as(user, "POST", "/", "{}")
}

// queue is an origin that answers nobody before the test lets it.
type queue struct{ arrived chan *gate }

func (q *queue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = taken(r)
	g := newGate()
	q.arrived <- g
	if g.wait(r) {
		w.Header().Set("Cache-Control", "no-store")
		say(w, "for "+r.UserAgent())
	}
}

// release lets n go that are here at the same time.
func (q *queue) release(t *testing.T, n int) {
	t.Helper()
	var all []*gate
	defer func() {
		for _, g := range all {
			g.open()
		}
	}()
	for range n {
		select {
		case g := <-q.arrived:
			all = append(all, g)
		case <-time.After(eventually):
			t.Fatalf("only %d of %d are at the origin: the others wait for them", len(all), n)
		}
	}
}
