package telemetry_test

import (
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/telemetry"
)

func TestTimingsHeader(t *testing.T) {
	f := func(name string, queue, upstream, cache time.Duration, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var tm telemetry.Timings
			tm.Add(telemetry.PhaseQueue, queue)
			tm.Add(telemetry.PhaseUpstream, upstream)
			tm.Add(telemetry.PhaseCache, cache)
			if got := tm.Header(); got != want {
				t.Errorf("Header() = %q, want %q", got, want)
			}
		})
	}
	f("has all three phases of a request that used none", 0, 0, 0, "queue;dur=0.0, upstream;dur=0.0, cache;dur=0.0")
	f("shows tenths from a millisecond up", time.Millisecond, 12345*time.Microsecond, 61*time.Second,
		"queue;dur=1.0, upstream;dur=12.3, cache;dur=61000.0")
	f("shows microseconds below", 100*time.Microsecond, 120*time.Microsecond, 23*time.Microsecond,
		"queue;dur=0.1, upstream;dur=0.12, cache;dur=0.023")
	f("rounds half up", 499*time.Nanosecond, 500*time.Nanosecond, 12350*time.Microsecond,
		"queue;dur=0.0, upstream;dur=0.001, cache;dur=12.4")
	f("rounds up to a whole millisecond", 999499*time.Nanosecond, 999500*time.Nanosecond, 1049999*time.Nanosecond,
		"queue;dur=0.999, upstream;dur=1.0, cache;dur=1.0")
	f("ignores negative durations", -time.Second, -1, 0, "queue;dur=0.0, upstream;dur=0.0, cache;dur=0.0")
	f("writes the longest duration", 1<<63-1, 0, 0, "queue;dur=9223372036854.8, upstream;dur=0.0, cache;dur=0.0")
}

func TestTimings(t *testing.T) {
	t.Run("adds up what several goroutines measure", func(t *testing.T) {
		var tm telemetry.Timings
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 100 {
					tm.Add(telemetry.PhaseUpstream, time.Millisecond)
				}
			})
		}
		wg.Wait()
		if got := tm.Get(telemetry.PhaseUpstream); got != time.Second {
			t.Errorf("upstream = %v, want 1s", got)
		}
	})
	t.Run("ignores phases that do not exist", func(t *testing.T) {
		var tm telemetry.Timings
		for _, p := range []telemetry.Phase{-1, 3, 1 << 30} {
			tm.Add(p, time.Second)
			if got := tm.Get(p); got != 0 {
				t.Errorf("Get(%d) = %v, want 0", p, got)
			}
		}
		if got, want := tm.Header(), "queue;dur=0.0, upstream;dur=0.0, cache;dur=0.0"; got != want {
			t.Errorf("Header() = %q, want %q", got, want)
		}
	})
}
