package admission_test

import (
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
)

// set changes how a world works.
func (w *world) set(o admission.Settings) {
	w.t.Helper()
	if o.Weights == nil {
		o.Weights = []int{1}
	}
	if err := w.Set(o, w.now); err != nil {
		w.t.Fatal(err)
	}
}

func TestSettings(t *testing.T) {
	fixed := func(n int) admission.Limits { return admission.Limits{Min: n, Max: n} }
	t.Run("more places go to who waits, before Set returns", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("a1 a2 a3 a4")
		w.want("a1")
		w.set(admission.Settings{Limits: fixed(3)})
		w.want("a2, a3")
	})
	t.Run("fewer places are kept by what runs, and given to nobody else", func(t *testing.T) {
		w := newWorld(t, places(3))
		w.ask("a1 a2 a3 a4")
		w.want("a1, a2, a3")
		w.set(admission.Settings{Limits: fixed(1)})
		w.done(admission.OK)
		w.done(admission.OK)
		w.want("")
		w.done(admission.OK)
		w.want("a4")
	})
	t.Run("who waits stays when the queue gets shorter, and waits for as long as it was told", func(t *testing.T) {
		o := places(1)
		o.MaxWait, o.MaxQueue = 10*time.Second, 5
		w := newWorld(t, o)
		w.ask("a1 b1 c1 d1")
		w.want("a1")
		w.set(admission.Settings{Limits: fixed(1), MaxQueue: 3, MaxWait: time.Second})
		w.ask("e1")
		if got := w.saw(); !strings.HasSuffix(got, " queue_full") {
			t.Errorf("beyond the queue: %q", got)
		}
		w.pass(2 * time.Second)
		w.want("")
		w.pass(9 * time.Second)
		if got := w.saw(); strings.Count(got, " expired") != 3 {
			t.Errorf("after the wait that they were told: %q", got)
		}
	})
	t.Run("work goes by the new weights", func(t *testing.T) {
		o := places(40)
		o.Targets = []admission.Target{{}, {}}
		w := newWorld(t, o)
		w.set(admission.Settings{Limits: fixed(40), Weights: []int{1, 3}})
		w.ask(strings.Repeat("a1 ", 40))
		if s := w.Stats(); s.Targets[0].Running != 10 || s.Targets[1].Running != 30 {
			t.Errorf("%+v run", s.Targets)
		}
	})
	t.Run("a limit that was learnt stays within the new bounds", func(t *testing.T) {
		w := newWorld(t, admission.Options{Limits: admission.Limits{Min: 1, Max: 64}})
		before := w.Stats().Targets[0].Limit
		f := func(l admission.Limits, want float64, tokens bool) {
			t.Helper()
			w.set(admission.Settings{Limits: l})
			got := w.Stats().Targets[0]
			if got.Limit != want || (got.TokenLimit < 1e18) != tokens {
				t.Errorf("%+v: the limit is %v, and %v tokens, want %v", l, got.Limit, got.TokenLimit, want)
			}
		}
		f(admission.Limits{Min: 1, Max: 128}, before, true)
		f(admission.Limits{Min: 1, Max: 2}, 2, true)
		f(admission.Limits{Min: 1, Max: 64}, 2, true)
		f(admission.Limits{Min: 30, Max: 64}, 30, true)
		f(fixed(9), 9, false)
		f(admission.Limits{Min: 1, Max: 64}, 9, true)
	})
	t.Run("what the engine says bounds the new limits, too", func(t *testing.T) {
		w := newWorld(t, admission.Options{Limits: admission.Limits{Min: 1, Max: 64}})
		w.Engine(0, admission.EngineState{MaxSeqs: 12}, w.now)
		w.set(admission.Settings{Limits: admission.Limits{Min: 20, Max: 256}})
		if got := w.Stats().Targets[0].Limit; got > 20 {
			t.Errorf("the limit is %v", got)
		}
	})
	t.Run("mistakes change nothing", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("a1 a2")
		w.want("a1")
		for _, o := range []admission.Settings{
			{Limits: admission.Limits{Min: 5, Max: 2}, Weights: []int{1}},
			{Limits: fixed(9), Weights: []int{1, 1}},
			{Limits: fixed(9)},
		} {
			if err := w.Set(o, w.now); err == nil {
				t.Errorf("%+v is taken", o)
			}
		}
		w.want("")
	})
}

func TestAQueueThatIsSetWakesWhoWaits(t *testing.T) {
	q := newQueue(t, places(1))
	acquire(t, q, "a1")
	waits := q.Enter(named("a2"))
	if err := q.Set(admission.Settings{Limits: admission.Limits{Min: 2, Max: 2}, Weights: []int{1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-waits.Ready():
	default:
		t.Error("it waits still")
	}
}
