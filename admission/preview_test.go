package admission_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/admission"
)

// TestPreviewSaysWhatSubmitDoes runs two schedulers through the same requests, of which
// one is asked for previews. They must decide alike: a preview has no effect. And what a
// preview says must be what then becomes of the request.
func TestPreviewSaysWhatSubmitDoes(t *testing.T) {
	outcomes := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		o := admission.Options{
			Limits:   admission.Limits{Min: 2, Max: rapid.IntRange(2, 6).Draw(rt, "places")},
			Targets:  make([]admission.Target, rapid.IntRange(1, 3).Draw(rt, "targets")),
			MaxQueue: rapid.SampledFrom([]int{-1, 1, 3, 6}).Draw(rt, "queue"),
			MaxWait:  rapid.SampledFrom([]time.Duration{200 * time.Millisecond, 5 * time.Second}).Draw(rt, "wait"),
			Secret:   []byte("secret"),
		}
		closed := false
		o.Open = func(i int, _ time.Time) bool { return !closed || i > 0 }
		o.OpensAt = func(now time.Time) time.Time { return now.Add(time.Second) }
		asked, twin := newWorld(t, o), newWorld(t, o)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				d := time.Duration(rapid.IntRange(1, 2000).Draw(rt, "ms")) * time.Millisecond
				asked.pass(d)
				twin.pass(d)
			case 1:
				if len(asked.running) > 0 {
					asked.done(admission.OK)
					twin.done(admission.OK)
				}
			case 2:
				closed = !closed
			default:
				r := drawRequest(rt, asked.now)
				p := asked.Preview(r, asked.now)
				it := asked.submit(r)
				twin.submit(r)
				outcomes[compare(rt, p, it)]++
			}
		}
		if !slices.Equal(asked.log, twin.log) {
			rt.Fatalf("with previews it decided\n%v, without\n%v", asked.log, twin.log)
		}
	})
	for _, want := range []string{"runs", "waits", "queue_full", "deadline", "no_target"} {
		if outcomes[want] == 0 {
			t.Errorf("no request was %q: %v", want, outcomes)
		}
	}
}

func drawRequest(t *rapid.T, now time.Time) admission.Request {
	r := named(rapid.SampledFrom([]string{"a1", "a2", "b1", "c1"}).Draw(t, "name"))
	r.Class = admission.Class(rapid.IntRange(0, 2).Draw(t, "class"))
	r.Weight = rapid.SampledFrom([]float64{0, 1, 4}).Draw(t, "weight")
	r.Items = rapid.IntRange(0, 3).Draw(t, "items")
	if rapid.Bool().Draw(t, "tokens") {
		r.Input, r.Output = rapid.Int64Range(0, 9000).Draw(t, "input"), rapid.Int64Range(0, 900).Draw(t, "output")
	}
	if rapid.IntRange(0, 4).Draw(t, "deadline") == 0 {
		r.Deadline = now.Add(time.Duration(rapid.IntRange(-50, 500).Draw(t, "in ms")) * time.Millisecond)
	}
	return r
}

// compare says what became of it, in a word, and fails where p said something else.
func compare(t *rapid.T, p admission.Preview, it *admission.Item) string {
	refusal := it.Refusal()
	switch {
	case refusal != nil:
		if p.Runs || p.Refusal == nil || p.Refusal.Reason != refusal.Reason || p.Refusal.RetryAfter != refusal.RetryAfter || p.Refusal.Booked != refusal.Booked {
			t.Fatalf("preview %+v with refusal %+v; then it was refused: %+v", p, p.Refusal, refusal)
		}
		return string(refusal.Reason)
	case it.Target() >= 0 && p.Runs:
		if !slices.Contains(p.Targets, it.Target()) {
			t.Fatalf("preview %+v; then it ran at %d", p, it.Target())
		}
		return "runs"
	case it.Target() >= 0:
		// Who waits first has no room for what it needs, and this one is small enough.
		if p.Refusal != nil {
			t.Fatalf("preview %+v; then it ran at %d", p, it.Target())
		}
		return "overtakes"
	}
	if p.Runs || p.Refusal != nil {
		t.Fatalf("preview %+v; then it waited", p)
	}
	return "waits"
}

func TestPreviewTellsTheQueue(t *testing.T) {
	w := newWorld(t, places(2))
	w.ask("a1 a2 a3 b1")
	got := w.Preview(named("a4"), w.now)
	want := admission.Preview{Load: []float64{2}, Patience: 10 * time.Second, Before: 1, Cost: 1}
	want.Waiting[admission.Standard] = 2
	if got.Runs || got.Refusal != nil || got.Before != want.Before || got.Waiting != want.Waiting || got.Patience != want.Patience || got.Cost != want.Cost || !slices.Equal(got.Load, want.Load) {
		t.Errorf("preview %+v, want %+v", got, want)
	}
	t.Run("of a queue that is closed", func(t *testing.T) {
		q := newQueue(t, places(1))
		if got := q.Preview(named("a1")); !got.Runs || !slices.Equal(got.Targets, []int{0}) {
			t.Errorf("preview %+v, want it to run at 0", got)
		}
		q.Close()
		if got := q.Preview(named("a1")); got.Refusal == nil || got.Refusal.Reason != admission.QueueClosed {
			t.Errorf("preview %+v, want it refused: closed", got)
		}
	})
}
