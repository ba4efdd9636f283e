//go:build unix

package bench

import (
	"context"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// algorithms are what a policy of package ratelimit can be, each alone and
// together in one call, in a store with room for every caller. All are given the
// time.
func algorithms(quotas []quota) []contender {
	var (
		q       = quotas[0]
		bucket  = ratelimit.Policy{Name: "bucket", Quota: q.count, Window: q.window}
		sliding = ratelimit.Policy{Name: "sliding", Quota: q.count, Window: q.window, Algorithm: ratelimit.SlidingWindow}
		fixed   = ratelimit.Policy{Name: "fixed", Quota: q.count, Window: q.window, Algorithm: ratelimit.FixedWindow}
		slots   = ratelimit.Policy{Name: "slots", Concurrent: 10}
	)
	return []contender{
		{"weir", weirPolicies(bucket)},
		{"weir-sliding", weirPolicies(sliding)},
		{"weir-fixed", weirPolicies(fixed)},
		{"weir-slots", weirPolicies(slots)},
		{"weir-mixed", weirPolicies(bucket, sliding, fixed)},
		{"weir-mixed-slots", weirPolicies(bucket, sliding, fixed, slots)},
	}
}

// weirPolicies decides by policies of any kind in one call, and, where one of them
// holds a slot, frees it in another, as at a request's end.
func weirPolicies(policies ...ratelimit.Policy) func(testing.TB, []quota) func() decide {
	return func(tb testing.TB, _ []quota) func() decide {
		store := ratelimit.NewMemoryStore(ratelimit.DefaultKeys * len(policies))
		prepared := prepare(tb, policies...)
		holds := prepared[len(prepared)-1].Concurrent > 0
		return func() decide {
			ctx, now := context.Background(), time.Now()
			takes := make([]ratelimit.Take, len(prepared))
			return func(key string) bool {
				for i, p := range prepared {
					// One request of a caller runs at a time: its key does as an ID.
					takes[i] = ratelimit.Take{Policy: p, Key: key, ID: key, Cost: 1}
				}
				allowed, err := store.Take(ctx, takes, now)
				if holds && err == nil {
					slot := takes[len(takes)-1:]
					slot[0].Cost = -1
					err = store.Settle(ctx, slot, now)
				}
				return allowed && err == nil
			}
		}
	}
}

// BenchmarkAlgorithms is one decision by each of Weir's algorithms, and by several
// in one call.
func BenchmarkAlgorithms(b *testing.B) {
	for _, c := range []struct {
		name   string
		keys   []string
		quotas []quota
	}{
		{"keys=100k", callerKeys(keyCount), usual()},
		{"keys=hot", callerKeys(1), hot()},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := workload{order: fresh, quotas: c.quotas, given: true}
			w.run(b, c.keys, algorithms(c.quotas))
		})
	}
}

func TestAlgorithmsEnforceTheQuota(t *testing.T) {
	for _, c := range algorithms([]quota{{3, day}}) {
		t.Run(c.name, func(t *testing.T) {
			decide := c.open(t, nil)()
			last := c.name == "weir-slots" // each request frees its slot
			checkAnswers(t, decide, "a", true, true, true, last)
			checkAnswers(t, decide, "b", true, true, true, last)
		})
	}
}

// What the benchmarks with many callers claim: that each of them has something to
// be remembered in every count, and that the table has the room for it.
func TestCallersStayInDebtAndInTheTable(t *testing.T) {
	for name, policies := range map[string][]ratelimit.Policy{
		"one quota":    policies(usual()),
		"three quotas": policies(threeQuotas()),
	} {
		t.Run(name, func(t *testing.T) {
			store := ratelimit.NewMemoryStore(ratelimit.DefaultKeys * len(policies))
			ctx, now := context.Background(), time.Now()
			prepared := prepare(t, policies...)
			takes := make([]ratelimit.Take, len(prepared))
			ask := func(key string, cost int64, at time.Time) {
				for i, p := range prepared {
					takes[i] = ratelimit.Take{Policy: p, Key: key, Cost: cost}
				}
				if allowed, err := store.Take(ctx, takes, at); !allowed || err != nil {
					t.Fatalf("%s: allowed %t, %v", key, allowed, err)
				}
			}
			keys := callerKeys(keyCount)
			for _, key := range keys {
				ask(key, 1, now)
			}
			remembered := 0
			for _, key := range keys {
				ask(key, 0, now.Add(time.Second)) // longer than a run takes to come again
				for i := range takes {
					if takes[i].Decision.Full > 0 {
						remembered++
					}
				}
			}
			if want := len(keys) * len(policies); remembered < want*98/100 {
				t.Errorf("of %d counts %d are remembered, want 98 %%", want, remembered)
			}
		})
	}
}
