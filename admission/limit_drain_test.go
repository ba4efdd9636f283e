package admission

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestCutsDrainSlowly(t *testing.T) {
	l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
	second := 0
	slow := func() {
		l.use(16, 16_000)
		for range 200 {
			l.gap(200*time.Millisecond, 1)
		}
		l.blocked()
		second++
		l.tick(after(float64(second)))
	}
	for range 4 {
		slow()
	}
	cut := l.seat.limit
	if cut >= 15 || cut < 12 {
		t.Fatalf("limit after a cut of 16: %.1f, want 12 to 15", cut)
	}

	t.Run("a second cut waits until the first has done its work", func(t *testing.T) {
		slow()
		if l.seat.limit != cut {
			t.Errorf("limit %.2f, was %.2f", l.seat.limit, cut)
		}
	})
	t.Run("half of what ends is given out again, until no more runs than the limit", func(t *testing.T) {
		var got []float64
		for range 8 {
			got = append(got, l.seats())
			l.ended("", time.Second, OK, 10, 10, true)
		}
		want := []float64{16, 15.5, 15, 14.5, 14}
		if !slices.Equal(got[:len(want)], want) {
			t.Errorf("seats %v, want %v at first", got, want)
		}
		if last := got[len(got)-1]; math.Abs(last-cut) > 1e-9 {
			t.Errorf("seats %.2f at last, want the limit of %.2f", last, cut)
		}
	})
}

func TestTokensGrowSlowlyTowardsWhatWasTooMuchTwice(t *testing.T) {
	grown := func(b bound, limit float64) float64 {
		b.limit = limit
		b.grow(10, false)
		return b.limit - limit
	}
	b := bound{limit: 1000, low: 1, high: math.Inf(1), good: math.Inf(1), peak: 1000}
	b.mark(1)
	if got := grown(b, 999); got != 10 {
		t.Errorf("after once: grows by %v, want 10", got)
	}
	b.peak = 900
	b.mark(1)
	for _, c := range []struct{ limit, want float64 }{{500, 10}, {765, 5}, {900, 0.5}, {1035, 5}, {1300, 10}} {
		if got := grown(b, c.limit); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("at %v, with 900 too much twice: grows by %v, want %v", c.limit, got, c.want)
		}
	}
	b.peak = 400
	b.mark(1)
	if got := grown(b, 400); got != 10 {
		t.Errorf("once 400 was too much: grows by %v, want 10, because 900 was something else", got)
	}
}
