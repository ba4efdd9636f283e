package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/internal/sim"
)

// scrapeEvery is how old engine metrics are at most when the simulated gateway has them.
const scrapeEvery = time.Second

// simulate prints the simulator's table for the engine and the service level of the
// flags: what each kind of gateway makes of each scenario.
func simulate(o options, out io.Writer) error {
	var scenarios []sim.Scenario
	var names []string
	for _, s := range sim.Standard(o.seed) {
		names = append(names, s.Name)
		if !strings.Contains(s.Name, o.scenario) {
			continue
		}
		s.Engine, s.SLO = o.engine, o.slo
		scenarios = append(scenarios, s)
	}
	if len(scenarios) == 0 {
		return fmt.Errorf("--scenario: %q: want a part of one of these names: %s", o.scenario, strings.Join(names, "; "))
	}
	results, err := sim.Compare(scenarios, []sim.Policy{
		sim.NoGateway(false), sim.NoGateway(true), sim.Fixed(o.fixed), sim.Gradient2(), sim.RoundRobin(o.fixed),
		sim.Weir(admission.Options{}, 0), sim.Weir(admission.Options{}, scrapeEvery),
	}, runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	return sim.Table(out, results)
}
