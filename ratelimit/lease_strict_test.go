package ratelimit

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// hotAndDaily are 60 a minute with leases, and 5 a day without.
func hotAndDaily(t testing.TB) (hot, daily *Policy) {
	return ready(t, Policy{Name: "hot", Quota: 60, Window: time.Minute, MaxExcess: 0.1}),
		ready(t, Policy{Name: "daily", Quota: 5, Window: 24 * time.Hour})
}

// advised makes a call of two takes, which the lease of the first must deny without
// asking anybody, and gives the advice.
func advised(t *testing.T, l *Leases, shared *centre, hot, daily Take) time.Duration {
	t.Helper()
	calls := shared.strict + shared.grants
	takes := []Take{hot, daily}
	allowed, err := l.Take(t.Context(), takes, time.Now())
	if err != nil || allowed || takes[0].Decision.Allowed || !takes[1].Decision.Allowed || takes[1].Mode != Unasked || shared.strict+shared.grants != calls {
		t.Fatalf("%t %v %+v with %d calls, want it denied by the lease alone", allowed, err, takes, shared.strict+shared.grants-calls)
	}
	p := Refusal(takes)
	if p == nil || p.RetryAfter != takes[0].Decision.RetryAfter {
		t.Fatalf("%v for %+v", p, takes)
	}
	return p.RetryAfter
}

func TestLeasesKnowOfStrictDenials(t *testing.T) {
	const day = 24 * time.Hour
	t.Run("a lease that denies advises to wait for the strict policy too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l := open(t, shared)
			hot, daily := hotAndDaily(t)
			for n := range 6 {
				if allowed, takes := takeCost(t, l, "k", 1, hot, daily); allowed != (n < 5) {
					t.Fatalf("take %d: %+v", n, takes)
				}
			}
			for _, later := range []time.Duration{0, time.Hour} {
				time.Sleep(later)
				drain(t, l, "k", hot)
				one := Take{Policy: hot, Key: "k", Cost: 1}
				if got, want := advised(t, l, shared, one, Take{Policy: daily, Key: "k", Cost: 1}), day/5-later; got != want {
					t.Errorf("after %v: told to wait %v, want %v", later, got, want)
				}
				if got := advised(t, l, shared, one, Take{Policy: daily, Key: "other", Cost: 1}); got > time.Second {
					t.Errorf("after %v: another caller is told to wait %v, want that of the lease", later, got)
				}
			}
			time.Sleep(day/5 - time.Hour)
			if allowed, takes := takeCost(t, l, "k", 1, hot, daily); !allowed {
				t.Errorf("waited as told, and then %+v", takes)
			}
		})
	})
}

func TestLeasesForgetStrictDenials(t *testing.T) {
	const day = 24 * time.Hour
	t.Run("it forgets when the strict policy has room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l := open(t, shared)
			hot, daily := hotAndDaily(t)
			for range 6 {
				takeCost(t, l, "k", 1, hot, daily)
			}
			settle(t, l, -3, daily)
			for _, want := range []time.Duration{day / 5, time.Second} {
				drain(t, l, "k", hot)
				if got := advised(t, l, shared, Take{Policy: hot, Key: "k", Cost: 1}, Take{Policy: daily, Key: "k", Cost: 1}); got != want {
					t.Errorf("told to wait %v, want %v", got, want)
				}
				time.Sleep(time.Minute)
				if allowed, takes := takeCost(t, l, "k", 1, hot, daily); !allowed {
					t.Errorf("what was remembered denies: %+v", takes)
				}
			}
		})
	})
	t.Run("it says nothing of smaller costs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l := open(t, shared)
			hot, daily := hotAndDaily(t)
			take := []Take{{Policy: hot, Key: "k", Cost: 1}, {Policy: daily, Key: "k", Cost: 4}}
			for n := range 2 {
				if allowed, err := l.Take(t.Context(), take, time.Now()); allowed != (n == 0) || err != nil {
					t.Fatalf("%t %v %+v", allowed, err, take)
				}
			}
			drain(t, l, "k", hot)
			for cost, want := range map[int64]time.Duration{1: time.Second, 3: time.Second, 4: 3 * day / 5, 5: 3 * day / 5} {
				if got := advised(t, l, shared, Take{Policy: hot, Key: "k", Cost: 1}, Take{Policy: daily, Key: "k", Cost: cost}); got != want {
					t.Errorf("a cost of %d is told to wait %v, want %v", cost, got, want)
				}
			}
		})
	})
}

// decider decides all strict takes alike.
type decider struct {
	*centre
	decision Decision
}

func (d decider) Take(_ context.Context, takes []Take, _ time.Time) (bool, error) {
	for i := range takes {
		takes[i].Decision = d.decision
	}
	return Allowed(takes), nil
}

func TestLeasesDoNotRememberWhatIsNoWait(t *testing.T) {
	for _, test := range []struct {
		name   string
		policy Policy
		wait   time.Duration
		want   time.Duration
	}{
		{"an hour is a wait", Policy{Quota: 5, Window: time.Hour}, time.Hour, time.Hour},
		{"less than that of the lease is none", Policy{Quota: 5, Window: time.Hour}, time.Millisecond, time.Second},
		{"never is none", Policy{Quota: 5, Window: time.Hour}, -1, time.Second},
		{"a slot comes free at any time", Policy{Concurrent: 5}, time.Hour, time.Second},
		{"a shadow has no say", Policy{Quota: 5, Window: time.Hour, Shadow: true}, time.Hour, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := newCentre()
				l := open(t, decider{shared, Decision{RetryAfter: test.wait}})
				hot, _ := hotAndDaily(t)
				takes := []Take{{Policy: hot, Key: "k", Cost: 1}, {Policy: ready(t, test.policy), Key: "k", ID: "1", Cost: 1}}
				if _, err := l.Take(t.Context(), takes, time.Now()); err != nil {
					t.Fatal(err)
				}
				drain(t, l, "k", hot)
				if got := advised(t, l, shared, takes[0], takes[1]); got != test.want {
					t.Errorf("told to wait %v, want %v", got, test.want)
				}
			})
		})
	}
}
