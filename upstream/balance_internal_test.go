package upstream

import (
	"math"
	"testing"
	"time"
)

func TestPeakEWMA(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	after := func(tau float64) time.Time { return start.Add(time.Duration(tau * float64(latencyMemory))) }
	type seen struct {
		d  time.Duration
		at time.Time
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name string
		seen []seen
		at   time.Time
		want float64 // milliseconds
	}{
		{"is 0 as long as nothing was seen", nil, start, 0},
		{"is what was seen", []seen{{80 * ms, start}}, start, 80},
		{"wears off", []seen{{80 * ms, start}}, after(1), 80 / math.E},
		{"believes a peak at once", []seen{{10 * ms, start}, {900 * ms, after(0.001)}}, after(0.001), 900},
		{"forgets a peak slowly", []seen{{900 * ms, start}, {10 * ms, after(0.1)}}, after(0.1), 900*math.Exp(-0.1) + 10*(1-math.Exp(-0.1))},
		{"does not weigh what comes at the same moment", []seen{{900 * ms, start}, {10 * ms, start}}, start, 900},
		{"is not confused by a clock that goes back", []seen{{900 * ms, after(1)}, {10 * ms, start}}, start, 900},
		{"takes less than nothing for nothing", []seen{{-5 * ms, start}}, start, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e peakEWMA
			for _, s := range tt.seen {
				e.observe(s.d, s.at)
			}
			if got := e.at(tt.at) / float64(ms); math.Abs(got-tt.want) > 1e-6 {
				t.Errorf("%v ms, want %v", got, tt.want)
			}
		})
	}
}

func TestTwoChoicesTakeTheQuickerOfTwoThatAreEquallyBusy(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	targets := targetsOf(1, 2)
	b := newTwoChoices(targets)
	b.now = func() time.Time { return now }
	expect := func(why string, want int, load ...float64) {
		t.Helper()
		for range 50 {
			if got := b.choose([]int{0, 1}, load, nil); got != want {
				t.Fatalf("%s: took %d", why, got)
			}
		}
	}
	targets[0].latency.observe(200*time.Millisecond, now)
	targets[1].latency.observe(900*time.Millisecond, now)
	expect("both idle", 0, 0, 0)
	expect("both as busy for their weights", 0, 3, 6)
	expect("the quicker one busier", 1, 3.1, 6)
	now = now.Add(latencyMemory)
	targets[0].latency.observe(700*time.Millisecond, now)
	expect("what was slow long ago is tried again", 1, 0, 0)
}
