package loadtest_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
	"pgregory.net/rapid"
)

const ms = time.Millisecond

// near tells whether two times differ by what rounding to nanoseconds makes.
func near(a, b time.Duration) bool { return (a - b).Abs() <= 2 }

func TestConstantArrivals(t *testing.T) {
	for _, c := range []struct {
		name   string
		stages []loadtest.Stage
		want   []time.Duration
	}{
		{"a rate sends at equal distances, the first at once", []loadtest.Stage{{10, 10, 500 * ms}},
			[]time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}},
		{"a rate below one a second sends once", []loadtest.Stage{{0.5, 0.5, 2 * time.Second}}, []time.Duration{0}},
		// The integral of 0 to 8 in 2 s is 2t²: it is n at the root of n/2.
		{"a ramp from nothing sends at the roots", []loadtest.Stage{{0, 8, 2 * time.Second}},
			[]time.Duration{0, 707106781, 1000 * ms, 1224744871, 1414213562, 1581138830, 1732050807, 1870828693}},
		{"a ramp to nothing is the same backwards", []loadtest.Stage{{4, 0, 2 * time.Second}},
			[]time.Duration{0, 267949192, 585786437, 1000 * ms}},
		{"steps go on where the one before was over", []loadtest.Stage{{4, 4, 500 * ms}, {2, 2, time.Second}},
			[]time.Duration{0, 250 * ms, 500 * ms, 1000 * ms}},
		{"a step without requests is a break", []loadtest.Stage{{2, 2, time.Second}, {0, 0, time.Second}, {2, 2, time.Second}},
			[]time.Duration{0, 500 * ms, 2000 * ms, 2500 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := slices.Collect(loadtest.Arrivals(c.stages, 0))
			if !slices.EqualFunc(got, c.want, near) {
				t.Errorf("arrivals = %v, want %v", got, c.want)
			}
		})
	}
}

// TestPoissonArrivals checks what makes arrivals random ones: as many as the rate
// says, give or take the root of their number, and distances whose mean and standard
// deviation are the same.
func TestPoissonArrivals(t *testing.T) {
	stages := []loadtest.Stage{{200, 200, 200 * time.Second}}
	got := slices.Collect(loadtest.Arrivals(stages, 7))
	if n := float64(len(got)); math.Abs(n-40_000) > 4*200 {
		t.Errorf("%g arrivals, want 40000 give or take 800", n)
	}
	var sum, squares float64
	for i := 1; i < len(got); i++ {
		d := (got[i] - got[i-1]).Seconds()
		sum += d
		squares += d * d
	}
	n := float64(len(got) - 1)
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	if math.Abs(mean-0.005) > 0.0002 || math.Abs(deviation-mean) > 0.0003 {
		t.Errorf("distances have the mean %g and the standard deviation %g, want 0.005 for both", mean, deviation)
	}
	if again := slices.Collect(loadtest.Arrivals(stages, 7)); !slices.Equal(got, again) {
		t.Error("the same seed gives other arrivals")
	}
	if other := slices.Collect(loadtest.Arrivals(stages, 8)); slices.Equal(got, other) {
		t.Error("another seed gives the same arrivals")
	}
}

// TestArrivalsProperty checks any stages: arrivals never go back, none is outside of
// the stages, and their number is the integral of the rate.
func TestArrivalsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stages []loadtest.Stage
		var long time.Duration
		integral := 0.0
		for range rapid.IntRange(1, 5).Draw(t, "stages") {
			s := loadtest.Stage{
				From: rapid.Float64Range(0, 300).Draw(t, "from"), To: rapid.Float64Range(0, 300).Draw(t, "to"),
				For: time.Duration(rapid.Int64Range(1, int64(5*time.Second)).Draw(t, "for")),
			}
			stages = append(stages, s)
			long += s.For
			integral += (s.From + s.To) / 2 * s.For.Seconds()
		}
		n, last := 0, time.Duration(0)
		for at := range loadtest.Arrivals(stages, 0) {
			if at < last || at > long {
				t.Fatalf("arrival %d is at %v, after one at %v, in %v", n, at, last, long)
			}
			n, last = n+1, at
		}
		if want := math.Ceil(integral); math.Abs(float64(n)-want) > 1 {
			t.Fatalf("%d arrivals, want %g", n, want)
		}
	})
}
