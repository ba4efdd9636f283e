package sim

import (
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
)

// Compare runs each policy in each scenario, as many at once as parallel says (at
// least one), and returns the results scenario by scenario. The capacity of a
// scenario that does not state it is measured once, so that all its policies are
// measured against the same.
func Compare(scenarios []Scenario, policies []Policy, parallel int) ([]Result, error) {
	results := make([]Result, len(scenarios)*len(policies))
	scenarios = append([]Scenario(nil), scenarios...)
	err := each(len(scenarios), parallel, func(i int) (err error) {
		if scenarios[i].Capacity <= 0 {
			scenarios[i].Capacity, err = Capacity(scenarios[i])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = each(len(results), parallel, func(i int) (err error) {
		results[i], err = Run(scenarios[i/len(policies)], policies[i%len(policies)])
		return err
	})
	return results, err
}

// each calls f for 0 to n-1, so many at once, and returns the error of the least.
func each(n, parallel int, f func(i int) error) error {
	errs := make([]error, n)
	next := make(chan int)
	var workers sync.WaitGroup
	for range max(1, parallel) {
		workers.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Table writes results as text, one line each, a blank line between scenarios.
// The columns are: the share of the first callers' requests inside the service
// level, and the 95th percentile of their wait for the first token; the work
// completed, done inside the service level, and finished for callers who had
// left, in parts of the capacity; Jain's index over all callers by weight; the
// time to recovery; and the calls for each complete answer.
func Table(out io.Writer, results []Result) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	scenario := ""
	for i, r := range results {
		if r.Scenario != scenario || i == 0 {
			if i > 0 {
				fmt.Fprintln(t)
			}
			scenario = r.Scenario
			first := ""
			if len(r.Groups) > 0 {
				first = r.Groups[0].Name
			}
			fmt.Fprintf(t, "%s\t%s in SLO\tp95 TTFT\tcompleted\tin SLO\tfor nobody\tJain\trecovery\tcalls each\n", scenario, first)
		}
		fmt.Fprint(t, line(r))
	}
	return t.Flush()
}

func line(r Result) string {
	var g Group
	if len(r.Groups) > 0 {
		g = r.Groups[0]
	}
	recovery := fmt.Sprintf("%.1f s", r.Recovery.Seconds())
	switch {
	case r.Recovery < 0:
		recovery = "-"
	case r.Recovery == Never:
		recovery = "never"
	}
	wait := "-"
	if g.P95 > 0 {
		wait = fmt.Sprintf("%.2f s", g.P95.Seconds())
	}
	return fmt.Sprintf("  %s\t%.1f %%\t%s\t%.0f %%\t%.0f %%\t%.0f %%\t%.3f\t%s\t%.1f\n",
		r.Policy, 100*g.Good, wait, 100*r.Completed, 100*r.Good, 100*r.ForNobody, r.Jain, recovery, r.Attempts)
}
