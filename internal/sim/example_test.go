package sim_test

import (
	"fmt"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/internal/sim"
)

// An engine with half the cache, and callers that are content with three seconds:
// does one caller with five times the load that it can take still ruin it for all?
func ExampleRun() {
	s := sim.Abuser(5, 1)
	s.Engine.KVTokens = 40_000
	s.SLO = admission.SLO{TTFT: 3 * time.Second, TPOT: 100 * time.Millisecond}
	for _, p := range []sim.Policy{sim.NoGateway(true), sim.Weir(admission.Options{}, time.Second)} {
		r, err := sim.Run(s, p)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: nine of ten inside: %t\n", p.Name, r.Groups[0].Good >= 0.9)
	}
	// Output:
	// no gateway, cancel: nine of ten inside: false
	// Weir, engine metrics: nine of ten inside: true
}
