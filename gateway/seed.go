package gateway

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// spending is where it is written down what callers have spent: database.Usage.
type spending interface {
	// Spent is the cost of each caller since the hour that from is in; with others
	// without what this process has added.
	Spent(ctx context.Context, from time.Time, others bool) (map[string]int64, error)
	// Forget says that nobody will ask for others again. It does not wait.
	Forget()
}

// seeds are the budgets that were charged with what the ledger says. They are of
// whoever calls seedBudgets.
type seeds struct {
	scopes map[string]bool
	done   bool        // all that were there at the start
	again  atomic.Bool // there may be others
	said   time.Time   // when the log said last that it did not work
}

// seedBudgets charges each budget with what its callers have spent in the window that
// now, by this machine's clock, is in, as the ledger says: counts in memory begin with
// nothing. What this process has counted itself is left out. Where the counts are in a
// Redis, which keeps them, nothing is charged. A budget is charged once: call it again
// when the configuration has others. It must not be called while it runs.
//
// The ledger knows no plans: what a caller spent is charged to it in every plan with a
// budget. It knows hours: of a window that begins within one, the whole hour counts.
// With an error some budgets are not charged: call it again.
func (g *Gateway) seedBudgets(ctx context.Context, from spending, now time.Time) error {
	if g.counts.memory == nil {
		g.seeds.done = true
		from.Forget()
		return nil
	}
	if g.seeds.scopes == nil {
		g.seeds.scopes = map[string]bool{}
	}
	due := map[time.Time][]*ratelimit.Policy{} // by the beginning of their window
	for _, policies := range g.setup.Load().plans {
		for _, p := range policies {
			if p.Unit == nanoUSD && !g.seeds.scopes[p.Scope] {
				start := windowStart(now, p.Window)
				due[start] = append(due[start], p.Policy)
			}
		}
	}
	for start, policies := range due {
		spent, err := from.Spent(ctx, start, !g.seeds.done)
		if err != nil {
			return err
		}
		for _, caller := range slices.Sorted(maps.Keys(spent)) {
			for _, p := range policies {
				take := []ratelimit.Take{{Policy: p, Key: caller, Cost: spent[caller]}}
				if err := g.counts.memory.Settle(ctx, take, now); err != nil {
					return err
				}
			}
		}
		for _, p := range policies {
			g.seeds.scopes[p.Scope] = true
		}
	}
	g.seeds.done = true
	from.Forget()
	return nil
}

// windowStart is the beginning of the window of a budget that now is in: the windows
// are those of ratelimit.FixedWindow.
func windowStart(now time.Time, window time.Duration) time.Time {
	now = now.UTC()
	switch {
	case window == ratelimit.Month:
		return time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	case window == ratelimit.Year:
		return time.Date(now.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
	}
	first := time.Unix(0, 0).UTC()
	if window%(7*24*time.Hour) == 0 {
		first = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC) // a Monday
	}
	return first.Add(now.Sub(first) / window * window)
}
