package upstream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/upstream"
)

// arrives takes the next of c, and fails the test where there is none.
func arrives[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("it never happened")
		panic("unreachable")
	}
}

func TestAPoolKnowsHowItsTargetsAre(t *testing.T) {
	t.Run("ejects the one whose probes fail and takes it back", func(t *testing.T) {
		var sick atomic.Bool
		sick.Store(true)
		one := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/health" && sick.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		other := backend(t, func(http.ResponseWriter, *http.Request) {})
		events, changed := make(chan upstream.TargetEvent, 100), make(chan bool, 100)
		p, err := upstream.New(upstream.Options{
			Targets:  []upstream.Target{{URL: one + "/v1"}, {URL: other}, {URL: "here", Transport: upstream.Handler(http.NotFoundHandler())}},
			Probe:    upstream.Probe{Path: "/health", Interval: 10 * time.Millisecond, Timeout: 10 * time.Second},
			OnTarget: func(e upstream.TargetEvent) { events <- e },
			Changed:  func() { changed <- true },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if got, want := arrives(t, events), (upstream.TargetEvent{Target: one + "/v1", What: upstream.TargetEjected}); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		now := time.Now()
		breaker, ejected := p.State(0, now)
		if open := []bool{p.Open(0, now), p.Open(1, now), p.Open(2, now)}; !slices.Equal(open, []bool{false, true, true}) || breaker != "closed" || !ejected {
			t.Errorf("open %v, the first %s, ejected %v", open, breaker, ejected)
		}
		sick.Store(false)
		if got, want := arrives(t, events), (upstream.TargetEvent{Target: one + "/v1", What: upstream.TargetReturned}); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		arrives(t, changed)
		if breaker, ejected := p.State(0, time.Now()); breaker != "closed" || ejected {
			t.Errorf("it is back, and %s, ejected %v", breaker, ejected)
		}
	})
	t.Run("answers 503 at once where all are ejected", func(t *testing.T) {
		var asked atomic.Int64
		sick := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" {
				asked.Add(1)
			}
			w.WriteHeader(http.StatusInternalServerError)
		})
		events := make(chan upstream.TargetEvent, 100)
		p, err := upstream.New(upstream.Options{
			Name: "llm", Targets: []upstream.Target{{URL: sick}, {URL: sick}},
			Probe:    upstream.Probe{Path: "/health", Interval: 10 * time.Millisecond},
			OnTarget: func(e upstream.TargetEvent) { events <- e },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		arrives(t, events)
		arrives(t, events)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" || asked.Load() != 0 || p.Closed() != 2 {
			t.Errorf("got %d, Retry-After %q, %d requests sent, %d closed", w.Code, w.Header().Get("Retry-After"), asked.Load(), p.Closed())
		}
	})
	t.Run("reads its engines' metrics, and counts where it cannot", func(t *testing.T) {
		type reading struct {
			target  int
			running int
		}
		states := make(chan reading, 1000)
		engine := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/metrics" {
				_, _ = io.WriteString(w, "vllm:num_requests_running{engine=\"0\"} 3\n")
			}
		})
		none := backend(t, http.NotFound)
		p, err := upstream.New(upstream.Options{
			Targets:  []upstream.Target{{URL: none}, {URL: engine + "/v1"}},
			Engine:   upstream.Engine{Kind: "vllm", Interval: 10 * time.Millisecond},
			OnEngine: func(target int, e upstream.EngineState) { states <- reading{target, e.Running} },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for range 3 {
			if got, want := arrives(t, states), (reading{1, 3}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		// A reading that a busy machine kept for a second is a failure of the first
		// target, too: so there is a moment in which only the other fails.
		alone := false
		for until := time.Now().Add(time.Minute); !alone && time.Now().Before(until); {
			one, other := p.EngineFailures(1), p.EngineFailures(0)
			for p.EngineFailures(0) < other+2 && time.Now().Before(until) {
				select {
				case <-states: // a moment
				case <-time.After(time.Second):
				}
			}
			alone = p.EngineFailures(0) >= other+2 && p.EngineFailures(1) == one
		}
		if !alone || p.EngineFailures(2) != 0 || p.EngineFailures(-1) != 0 {
			t.Errorf("%d failures where all are, %d where none are", p.EngineFailures(0), p.EngineFailures(1))
		}
	})
	t.Run("closes a breaker by its trial", func(t *testing.T) {
		var sick atomic.Bool
		sick.Store(true)
		target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
			if sick.Load() {
				w.WriteHeader(http.StatusBadGateway)
			}
		})
		events := make(chan upstream.TargetEvent, 100)
		p, err := upstream.New(upstream.Options{
			Targets: []upstream.Target{{URL: target}}, Breaker: upstream.Breaker{Failures: 3, OpenFor: 50 * time.Millisecond},
			OnTarget: func(e upstream.TargetEvent) { events <- e },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ask := func() int {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest("POST", "/x", nil))
			return w.Code
		}
		for range 3 {
			if got := ask(); got != http.StatusBadGateway {
				t.Fatalf("got %d, want the target's own 502", got)
			}
		}
		if got, want := arrives(t, events), (upstream.TargetEvent{Target: target, What: upstream.TargetOpened}); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		sick.Store(false)
		<-time.After(time.Until(p.OpensAt(time.Now())))
		if got := ask(); got != http.StatusOK {
			t.Errorf("the trial got %d, want 200", got)
		}
		if got, want := arrives(t, events), (upstream.TargetEvent{Target: target, What: upstream.TargetClosed}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("knows nothing of a target that it has not", func(t *testing.T) {
		p, err := upstream.New(upstream.Options{Targets: []upstream.Target{{URL: "http://127.0.0.1:1"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for _, i := range []int{-1, 1} {
			if breaker, ejected := p.State(i, time.Now()); breaker != "" || ejected {
				t.Errorf("target %d: %s, %v", i, breaker, ejected)
			}
		}
	})
}
