package sim_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/internal/sim"
)

// seeds are those of all measurements: what is claimed must hold for each.
var seeds = []uint64{1, 2, 3}

// scrape is how old the engine's metrics get where they are read.
const scrape = time.Second

func weir() sim.Policy { return sim.Weir(admission.Options{}, 0) }

func metrics() sim.Policy { return sim.Weir(admission.Options{}, scrape) }

// results runs a scenario under policies for each seed, and returns them by the
// policy's name, a seed after the other.
func results(t *testing.T, make func(seed uint64) sim.Scenario, policies ...sim.Policy) map[string][]sim.Result {
	t.Helper()
	capacity, err := sim.Capacity(make(seeds[0]))
	if err != nil {
		t.Fatal(err)
	}
	var scenarios []sim.Scenario
	for _, seed := range seeds {
		s := make(seed)
		s.Capacity = capacity
		scenarios = append(scenarios, s)
	}
	all, err := sim.Compare(scenarios, policies, runtime.GOMAXPROCS(0))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string][]sim.Result{}
	for _, r := range all {
		by[r.Policy] = append(by[r.Policy], r)
	}
	return by
}

// mean is the mean of a figure over the seeds.
func mean(results []sim.Result, figure func(sim.Result) float64) float64 {
	sum := 0.0
	for _, r := range results {
		sum += figure(r)
	}
	return sum / float64(len(results))
}

// figures that are asserted.
func firstGood(r sim.Result) float64 { return r.Groups[0].Good }
func completed(r sim.Result) float64 { return r.Completed }
func good(r sim.Result) float64      { return r.Good }

func atLeast(t *testing.T, results []sim.Result, what string, figure func(sim.Result) float64, want float64) {
	t.Helper()
	if got := mean(results, figure); got < want {
		t.Errorf("%s, %s: %s: %.3f, want %.3f or more (seeds: %s)", results[0].Scenario, results[0].Policy, what, got, want, each(results, figure))
	}
}

func below(t *testing.T, results []sim.Result, what string, figure func(sim.Result) float64, limit float64) {
	t.Helper()
	if got := mean(results, figure); got >= limit {
		t.Errorf("%s, %s: %s: %.3f, want less than %.3f (seeds: %s)", results[0].Scenario, results[0].Policy, what, got, limit, each(results, figure))
	}
}

func each(results []sim.Result, figure func(sim.Result) float64) string {
	var s []string
	for _, r := range results {
		s = append(s, fmt.Sprintf("%.3f", figure(r)))
	}
	return strings.Join(s, ", ")
}

func TestAbuser(t *testing.T) {
	for _, load := range []float64{2, 5, 10} {
		t.Run(fmt.Sprintf("at %gx leaves the normal callers inside their service level", load), func(t *testing.T) {
			t.Parallel()
			r := results(t, func(seed uint64) sim.Scenario { return sim.Abuser(load, seed) }, weir(), metrics())
			atLeast(t, r[weir().Name], "normal in SLO", firstGood, 0.85)
			atLeast(t, r[metrics().Name], "normal in SLO", firstGood, 0.97)
			for _, policy := range r {
				atLeast(t, policy, "completed", completed, 0.95)
			}
		})
	}

	t.Run("at 0.7x costs next to nothing beside no gateway", func(t *testing.T) {
		t.Parallel()
		none := sim.NoGateway(true)
		r := results(t, func(seed uint64) sim.Scenario { return sim.Abuser(0.7, seed) }, none, weir(), metrics())
		alone := mean(r[none.Name], firstGood)
		atLeast(t, r[none.Name], "normal in SLO", firstGood, 0.99)
		atLeast(t, r[weir().Name], "normal in SLO", firstGood, alone-0.015)
		atLeast(t, r[metrics().Name], "normal in SLO", firstGood, alone-0.005)
	})
}

func TestEveryone(t *testing.T) {
	for load, inSLO := range map[float64]float64{2: 0.8, 10: 0.7} {
		t.Run(fmt.Sprintf("over capacity at %gx: the engine's work counts", load), func(t *testing.T) {
			t.Parallel()
			r := results(t, func(seed uint64) sim.Scenario { return sim.Everyone(load, seed) }, weir(), metrics())
			for _, policy := range r {
				atLeast(t, policy, "completed", completed, 0.95)
				atLeast(t, policy, "in SLO", good, inSLO)
			}
		})
	}
}

func TestRecovery(t *testing.T) {
	for _, make := range []func(uint64) sim.Scenario{sim.Surge, sim.SlowEngine} {
		t.Run(make(1).Name+": all is well within five seconds", func(t *testing.T) {
			t.Parallel()
			for _, policy := range results(t, make, weir(), metrics()) {
				for i, r := range policy {
					if r.Recovery < 0 || r.Recovery > 5*time.Second {
						t.Errorf("%s, %s, seed %d: recovery after %v, want at most 5s", r.Scenario, r.Policy, seeds[i], r.Recovery)
					}
				}
			}
		})
	}
}

func TestFairness(t *testing.T) {
	t.Run("callers that want too much get work by weight, whatever their requests look like", func(t *testing.T) {
		t.Parallel()
		for _, policy := range results(t, sim.Weighted, weir(), metrics()) {
			atLeast(t, policy, "Jain's index", func(r sim.Result) float64 { return r.Jain }, 0.97)
			atLeast(t, policy, "completed", completed, 0.95)
		}
	})

	t.Run("a class above that wants everything does not starve those below", func(t *testing.T) {
		t.Parallel()
		for _, policy := range results(t, sim.Classes, weir(), metrics()) {
			for i, least := range []float64{0.6, 0.04, 0.04} {
				name := policy[0].Groups[i].Name
				atLeast(t, policy, name+" completed", func(r sim.Result) float64 { return r.Groups[i].Completed }, least)
			}
		}
	})
}

func TestWrongEstimates(t *testing.T) {
	for _, factor := range []float64{4, 0.25} {
		t.Run(fmt.Sprintf("lengths of answers estimated as %g of what they are", factor), func(t *testing.T) {
			t.Parallel()
			r := results(t, func(seed uint64) sim.Scenario {
				s := sim.Abuser(10, seed)
				for i := range s.Callers {
					s.Callers[i].GuessOutput = factor
				}
				return s
			}, weir(), metrics())
			for _, policy := range r {
				atLeast(t, policy, "normal in SLO", firstGood, 0.85)
			}
		})
	}
}

func TestAppointments(t *testing.T) {
	// by runs everyone at twice the capacity, with or without tickets: for longer than
	// the minute after which the last ones come back.
	by := func(t *testing.T, tickets bool, policies ...sim.Policy) map[string][]sim.Result {
		return results(t, func(seed uint64) sim.Scenario {
			s := sim.Everyone(2, seed)
			s.Length, s.Callers[0].Tickets = 150*time.Second, tickets
			return s
		}, policies...)
	}
	kept := func(r sim.Result) float64 { return r.Kept }
	calls := func(r sim.Result) float64 { return r.Attempts }

	t.Run("who comes back when told to, with the ticket, is served", func(t *testing.T) {
		t.Parallel()
		for _, policy := range by(t, true, weir(), metrics()) {
			atLeast(t, policy, "of those who came back, served", kept, 0.6)
			below(t, policy, "calls for each answer", calls, 3)
			atLeast(t, policy, "completed", completed, 0.95)
		}
	})

	t.Run("who comes back when told to, without it, is served more often than by chance", func(t *testing.T) {
		t.Parallel()
		chance := sim.Gradient2()
		r := by(t, false, weir(), metrics(), chance)
		for _, policy := range []sim.Policy{weir(), metrics()} {
			atLeast(t, r[policy.Name], "of those who came back, served", kept, mean(r[chance.Name], kept)+0.05)
			below(t, r[policy.Name], "calls for each answer", calls, 3.5)
		}
		atLeast(t, r[chance.Name], "calls for each answer", calls, 5)
	})
}

// The alternatives must be as bad as it is said of them, or a model in which
// nothing can go wrong would show the same figures for everything.
func TestAlternatives(t *testing.T) {
	none, cancel, fixed, turns, gradient := sim.NoGateway(false), sim.NoGateway(true), sim.Fixed(64), sim.RoundRobin(64), sim.Gradient2()

	t.Run("one abuser is enough for all of them", func(t *testing.T) {
		t.Parallel()
		r := results(t, func(seed uint64) sim.Scenario { return sim.Abuser(10, seed) }, none, cancel, fixed, turns, gradient)
		for _, policy := range []sim.Policy{none, cancel, fixed} {
			below(t, r[policy.Name], "normal in SLO", firstGood, 0.05)
			below(t, r[policy.Name], "completed", completed, 0.7)
		}
		below(t, r[turns.Name], "normal in SLO", firstGood, 0.85)
		below(t, r[gradient.Name], "normal in SLO", firstGood, 0.3)
		atLeast(t, r[none.Name], "work for callers that had left", func(r sim.Result) float64 { return r.ForNobody }, 0.2)
	})

	t.Run("a crowd leaves each with less than Weir", func(t *testing.T) {
		t.Parallel()
		r := results(t, func(seed uint64) sim.Scenario { return sim.Everyone(2, seed) }, none, cancel, fixed, turns, gradient)
		for _, policy := range []sim.Policy{none, cancel, fixed, turns} {
			below(t, r[policy.Name], "in SLO", good, 0.05)
		}
		below(t, r[gradient.Name], "in SLO", good, 0.78)
		below(t, r[gradient.Name], "completed", completed, 0.85)
	})

	t.Run("without a gateway the crowd's mark stays", func(t *testing.T) {
		t.Parallel()
		r := results(t, sim.Surge, none, cancel, fixed)
		for _, policy := range r {
			for _, one := range policy {
				if one.Recovery < 30*time.Second {
					t.Errorf("%s, %s: recovery after %v, want more than 30s", one.Scenario, one.Policy, one.Recovery)
				}
			}
		}
	})

	t.Run("turns by request are not shares of work", func(t *testing.T) {
		t.Parallel()
		r := results(t, sim.Weighted, turns, gradient)
		for _, policy := range r {
			below(t, policy, "Jain's index", func(r sim.Result) float64 { return r.Jain }, 0.9)
		}
	})
}

func TestDeterminism(t *testing.T) {
	t.Run("the same seed gives the same result to the last bit, another one another", func(t *testing.T) {
		t.Parallel()
		run := func(seed uint64, policy sim.Policy) string {
			s := sim.Abuser(2, seed)
			s.Length = 20 * time.Second
			r, err := sim.Run(s, policy)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		for _, policy := range []sim.Policy{sim.NoGateway(false), sim.Gradient2(), sim.RoundRobin(64), weir(), metrics()} {
			first, second, other := run(7, policy), run(7, policy), run(8, policy)
			if first != second {
				t.Errorf("%s: two runs of one seed:\n%s\n%s", policy.Name, first, second)
			}
			if first == other {
				t.Errorf("%s: two seeds, one result:\n%s", policy.Name, first)
			}
		}
	})
}

func TestValidate(t *testing.T) {
	change := func(f func(s *sim.Scenario)) sim.Scenario {
		s := sim.Abuser(2, 1)
		f(&s)
		return s
	}
	for _, test := range []struct {
		name, want string
		scenario   sim.Scenario
	}{
		{"nobody who calls", "no callers", change(func(s *sim.Scenario) { s.Callers = nil })},
		{"no load", "load 0", change(func(s *sim.Scenario) { s.Callers[0].Load = 0 })},
		{"a load without end", "load 1001", change(func(s *sim.Scenario) { s.Callers[0].Load = 1001 })},
		{"too many callers", "count 100001", change(func(s *sim.Scenario) { s.Callers[0].Count = 100_001 })},
		{"requests too large for the engine", "prompts of 10000", change(func(s *sim.Scenario) { s.Callers[1].Input.Mean = 10_000 })},
		{"a maximum too large for the engine", "prompts up to 80000", change(func(s *sim.Scenario) { s.Callers[1].Input.Max, s.Callers[1].Output.Max = 80_000, 1 })},
		{"a spread beyond reason", "spreads of 0.6 and 4", change(func(s *sim.Scenario) { s.Callers[1].Output.Spread = 4 })},
	} {
		t.Run("refuses "+test.name, func(t *testing.T) {
			if _, err := sim.Run(test.scenario, sim.NoGateway(true)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error about %q", err, test.want)
			}
			if _, err := sim.Capacity(test.scenario); err == nil {
				t.Error("Capacity took it")
			}
		})
	}
}

func TestTable(t *testing.T) {
	t.Run("has a block for each scenario and a line for each policy", func(t *testing.T) {
		var text strings.Builder
		err := sim.Table(&text, []sim.Result{
			{Scenario: "one", Policy: "a", Groups: []sim.Group{{Name: "normal", Good: 0.987, P95: 1234567 * time.Microsecond}}, Completed: 1.02, Good: 0.5, Jain: 0.99, Recovery: -1, Attempts: 2.5},
			{Scenario: "one", Policy: "longer", Groups: []sim.Group{{Name: "normal"}}, ForNobody: 0.4, Recovery: sim.Never},
			{Scenario: "two", Policy: "a", Groups: []sim.Group{{Name: "everyone"}}, Recovery: 1500 * time.Millisecond},
		})
		want := `one       normal in SLO  p95 TTFT  completed  in SLO  for nobody  Jain   recovery  calls each
  a       98.7 %         1.23 s    102 %      50 %    0 %         0.990  -         2.5
  longer  0.0 %          -         0 %        0 %     40 %        0.000  never     0.0

two  everyone in SLO  p95 TTFT  completed  in SLO  for nobody  Jain   recovery  calls each
  a  0.0 %            -         0 %        0 %     0 %         0.000  1.5 s     0.0
`
		if err != nil || text.String() != want {
			t.Errorf("%v\n%s\nwant\n%s", err, text.String(), want)
		}
	})
}
