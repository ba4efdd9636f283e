package sim_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// plain is an engine whose steps are easy to reckon with.
func plain() sim.EngineOptions {
	return sim.EngineOptions{
		KVTokens: 100, MaxSeqs: 4, Chunk: 16,
		Step: 10 * time.Millisecond, PerSeq: time.Millisecond, PerPrompt: 100 * time.Microsecond, PerKV: time.Nanosecond,
	}
}

func mustAdd(t *testing.T, e *sim.Engine, sequences ...*sim.Sequence) {
	t.Helper()
	for _, q := range sequences {
		if err := e.Add(q); err != nil {
			t.Fatal(err)
		}
	}
}

// state is all that an engine shows.
type state struct {
	Running, Waiting int
	KV               float64
	Preemptions      int64
}

func stateOf(e *sim.Engine) state {
	return state{e.Running(), e.Waiting(), e.KVUsed(), e.Preemptions()}
}

func TestEngine(t *testing.T) {
	t.Run("computes a prompt in chunks and then a token a step", func(t *testing.T) {
		e := sim.NewEngine(plain())
		q := &sim.Sequence{Input: 20, Output: 2}
		mustAdd(t, e, q)
		want := []struct {
			took   time.Duration
			events []sim.Event
		}{
			{12600 * time.Microsecond, nil},
			{11400 * time.Microsecond, []sim.Event{{Seq: q, Token: 1, First: true}}},
			{11 * time.Millisecond, []sim.Event{{Seq: q, Token: 2, Finished: true}}},
			{0, nil},
		}
		for i, step := range want {
			took := e.Begin().Round(time.Microsecond)
			got := append([]sim.Event(nil), e.End()...)
			if took != step.took || !reflect.DeepEqual(got, step.events) {
				t.Errorf("step %d: took %v with %v, want %v with %v", i, took, got, step.took, step.events)
			}
		}
		if got := stateOf(e); got != (state{}) {
			t.Errorf("at the end: %+v, want nothing left", got)
		}
	})

	t.Run("needs no time for what the prefix cache has, but room", func(t *testing.T) {
		e := sim.NewEngine(plain())
		mustAdd(t, e, &sim.Sequence{Input: 40, Cached: 40, Output: 1})
		if got := e.Begin().Round(time.Microsecond); got != 11100*time.Microsecond {
			t.Errorf("the step took %v, want 11.1ms: one token of the prompt is computed in any case", got)
		}
		if got, want := e.KVUsed(), 0.41; got != want {
			t.Errorf("KV cache used: %v, want %v", got, want)
		}
	})

	t.Run("starts first who came first, as long as there is room", func(t *testing.T) {
		e := sim.NewEngine(plain())
		first, large, small := &sim.Sequence{Input: 10, Output: 2}, &sim.Sequence{Input: 90, Output: 2}, &sim.Sequence{Input: 2, Output: 2}
		mustAdd(t, e, first, large, small)
		e.Begin()
		if got, want := stateOf(e), (state{Running: 1, Waiting: 2, KV: 0.11}); got != want {
			t.Errorf("%+v, want %+v: the small one must not overtake the large one", got, want)
		}
		e.End()
	})

	t.Run("preempts who came last when the cache is full, and computes all of it again", func(t *testing.T) {
		o := plain()
		o.Chunk = 100
		e := sim.NewEngine(o)
		a, b := &sim.Sequence{Input: 45, Output: 20}, &sim.Sequence{Input: 45, Output: 20}
		mustAdd(t, e, a, b)
		finished := map[*sim.Sequence]int{}
		for e.Begin() > 0 {
			if e.KVUsed() > 1 {
				t.Fatalf("KV cache used: %v", e.KVUsed())
			}
			for _, event := range e.End() {
				if event.Finished {
					finished[event.Seq] = event.Token
				}
			}
		}
		if want := map[*sim.Sequence]int{a: 20, b: 20}; !reflect.DeepEqual(finished, want) {
			t.Errorf("finished with %v tokens, want 20 each", finished)
		}
		if got, want := stateOf(e), (state{Preemptions: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		// 45 and 45, and then the 45 of b with the 5 tokens it had.
		if got := e.PromptTokens(); got != 45+45+50 {
			t.Errorf("tokens of prompts: %d, want 140", got)
		}
	})

	t.Run("gives the room of a removed sequence back at once", func(t *testing.T) {
		e := sim.NewEngine(plain())
		a, b, c := &sim.Sequence{Input: 60, Output: 5}, &sim.Sequence{Input: 60, Output: 5}, &sim.Sequence{Input: 8, Output: 5}
		mustAdd(t, e, a, b, c)
		e.Begin()
		e.Remove(b)
		e.Remove(a)
		e.Remove(a)
		if got, want := stateOf(e), (state{Waiting: 1}); got != want {
			t.Errorf("after the removal: %+v, want %+v", got, want)
		}
		if got := e.End(); len(got) != 0 {
			t.Errorf("a removed sequence got %v", got)
		}
		e.Begin()
		if got := e.End(); len(got) != 1 || got[0].Seq != c {
			t.Errorf("then %v, want the first token of the one that is left", got)
		}
	})

	t.Run("forgets many that leave while they wait", func(t *testing.T) {
		e := sim.NewEngine(plain())
		stays := &sim.Sequence{Input: 10, Output: 10}
		mustAdd(t, e, stays)
		e.Begin()
		for range 1000 {
			q := &sim.Sequence{Input: 50, Output: 1}
			mustAdd(t, e, q)
			e.Remove(q)
		}
		last := &sim.Sequence{Input: 1, Output: 1}
		mustAdd(t, e, last)
		if got := e.Waiting(); got != 1 {
			t.Errorf("%d wait, want 1", got)
		}
		e.End()
		e.Begin()
		e.End()
		if last.Produced() != 1 || e.Waiting() != 0 {
			t.Errorf("the one that stayed has %d tokens and %d wait, want 1 and none", last.Produced(), e.Waiting())
		}
	})

	t.Run("is as slow as it is told to be", func(t *testing.T) {
		e := sim.NewEngine(plain())
		e.Slow(3)
		mustAdd(t, e, &sim.Sequence{Input: 10, Output: 3})
		slow := e.Begin().Round(time.Microsecond)
		e.End()
		e.Slow(0)
		normal := e.Begin().Round(time.Microsecond)
		if slow != 36*time.Millisecond || normal != 11*time.Millisecond {
			t.Errorf("steps of %v and %v, want 36ms and 11ms", slow, normal)
		}
	})

	t.Run("refuses what it could never finish", func(t *testing.T) {
		e := sim.NewEngine(plain())
		twice := &sim.Sequence{Input: 1, Output: 1}
		mustAdd(t, e, twice)
		for _, q := range []*sim.Sequence{{Output: 1}, {Input: 1}, {Input: 1, Cached: -1, Output: 1}, {Input: 60, Output: 41}, twice} {
			if err := e.Add(q); err == nil {
				t.Errorf("%+v was taken", *q)
			}
		}
		if got := e.Waiting(); got != 1 {
			t.Errorf("%d wait, want 1", got)
		}
	})
}
