package sim_test

import (
	"testing"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

func TestCapacity(t *testing.T) {
	capacity := func(t *testing.T, change func(s *sim.Scenario)) float64 {
		t.Helper()
		s := sim.Abuser(10, 1)
		change(&s)
		c, err := sim.Capacity(s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := capacity(t, func(*sim.Scenario) {})
	for _, test := range []struct {
		name      string
		change    func(s *sim.Scenario)
		low, high float64 // of what it was
	}{
		{"does not depend on how much is asked for", func(s *sim.Scenario) { s.Callers[1].Load = 3 }, 0.999, 1.001},
		{"hardly depends on the seed", func(s *sim.Scenario) { s.Seed = 2 }, 0.95, 1.05},
		{"is half where all takes twice as long", func(s *sim.Scenario) {
			s.Engine = sim.EngineOptions{
				Step: 18 * time.Millisecond, PerSeq: 240 * time.Microsecond,
				PerPrompt: 180 * time.Microsecond, PerKV: 160 * time.Microsecond,
			}
		}, 0.47, 0.53},
		{"is less where the cache has room for fewer", func(s *sim.Scenario) { s.Engine.KVTokens = 20_000 }, 0.4, 0.8},
		{"is more of short requests, of which more fit", func(s *sim.Scenario) { s.Callers = s.Callers[:1] }, 1.1, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := capacity(t, test.change) / base; got < test.low || got > test.high {
				t.Errorf("%.4f of %.0f, want %.3f to %.3f", got, base, test.low, test.high)
			}
		})
	}
}
