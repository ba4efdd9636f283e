package loadtest_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestRateWanted checks that a load is measured by the rate that was wanted until it ended:
// a number of requests ends a ramp before it is fast.
func TestRateWanted(t *testing.T) {
	ramp := loadtest.Stage{From: 10, To: 100, For: 2 * time.Second}
	for name, c := range map[string]struct {
		stages   []loadtest.Stage
		requests int64
		want     string
	}{
		"a ramp":                       {[]loadtest.Stage{ramp}, 0, "110   55/s (wanted 55/s)"},
		"a ramp that ends early":       {[]loadtest.Stage{ramp}, 60, "60   42.1/s (wanted 42.1/s)"},
		"a ramp before a longer stage": {append(rate(10, time.Second), rate(100, 10*time.Second)...), 110, "110   55/s (wanted 55/s)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := virtually(t, t.Context(), loadtest.Options{Stages: c.stages, Requests: c.requests}, &server{answer: after(ms)})
				var text bytes.Buffer
				if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), c.want) || len(r.Warnings) != 0 {
					t.Errorf("%v, warnings %q, want none and %q\n%s", err, r.Warnings, c.want, &text)
				}
			})
		})
	}
	t.Run("a generator that is too slow", func(t *testing.T) {
		for name, r := range map[string]*loadtest.Report{
			"of the whole":       {Rate: 40, DurationS: 3},
			"until it ended":     {Rate: 30, DurationS: 1.5},
			"of more stages too": {Rate: 40, DurationS: 3, Stages: []loadtest.StageReport{{From: 10, To: 100, ForS: 2}, {From: 100, To: 100, ForS: 10}}},
		} {
			r.Loop, r.Arrivals, r.OK, r.TargetRate = "open", loadtest.Constant, 1, 55
			if r.Stages == nil {
				r.Stages = []loadtest.StageReport{{From: 10, To: 100, ForS: 2}}
			}
			if all := strings.Join(r.Warn(), "\n"); !strings.Contains(all, "the generator was the bottleneck") {
				t.Errorf("%s: warnings %q", name, all)
			}
		}
	})
}
