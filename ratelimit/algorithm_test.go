package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// latest is the year 2116, to which the sums of clock readings and debts are safe.
const latest = math.MaxInt64 / 2

// extremes are policies at the bounds of what can be counted, and usual ones.
func extremes(t testing.TB) []*ratelimit.Policy {
	t.Helper()
	const day = 24 * time.Hour
	policies := []*ratelimit.Policy{
		prepare(t, ratelimit.Policy{Name: "slot", Concurrent: 1}),
		prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 999_999_999_999_999}),
		prepare(t, ratelimit.Policy{Name: "burst", Quota: 1, Window: time.Second, Burst: 5}),
		prepare(t, ratelimit.Policy{Name: "long debt", Quota: 1, Window: 366 * day, Burst: 72}),
		prepare(t, ratelimit.Policy{Name: "odd", Quota: 7, Window: time.Second + 1}),
	}
	for _, algorithm := range []string{ratelimit.TokenBucket, ratelimit.SlidingWindow, ratelimit.FixedWindow} {
		for _, p := range []ratelimit.Policy{
			{Quota: 5, Window: time.Minute},
			{Quota: 1, Window: 24 * time.Hour},
			{Quota: 200_000, Window: day},
			{Quota: 3_000_000, Window: time.Hour},
			{Quota: 7_000_000, Window: time.Minute},
			{Quota: 1_000_000, Window: time.Millisecond},
			{Quota: 3, Window: time.Millisecond + 7*time.Microsecond},
			{Quota: 999_999_999_999_999, Window: 366 * day},
			{Quota: 1, Window: 366 * day},
			{Quota: 100, Window: 14 * day},
			{Quota: 100, Window: ratelimit.Month},
			{Quota: 100, Window: ratelimit.Year},
		} {
			p.Algorithm = algorithm
			policies = append(policies, prepare(t, p))
		}
	}
	return policies
}

// checkCount is everything that is to hold of a count in any state, those included
// that no store ever leaves: what it says is within its bounds, what is taken is
// what is missing then, and its advice is true.
func checkCount(p *ratelimit.Policy, s ratelimit.State, cost, taken, now int64) error {
	next, d := p.Decide(s, cost, now)
	_, before := p.Decide(s, 0, now)
	again, then := p.Decide(next, 0, now)
	units, burst := max(cost, 0), max(p.Burst, p.Concurrent)
	if p.Concurrent > 0 {
		units = min(units, 1)
	}
	left := before.Remaining
	if d.Allowed {
		left -= units
	}
	switch {
	case d.Remaining < 0 || d.Remaining > burst || d.Reset < 0 || d.Full < d.Reset:
		return fmt.Errorf("out of bounds: %+v", d)
	case units > burst != (d.RetryAfter == weir.Never) || d.Allowed != (d.RetryAfter == 0) || d.RetryAfter < weir.Never:
		return fmt.Errorf("denied without a reason, or advice without need: %+v", d)
	case d.Remaining != left || then.Remaining != left:
		return fmt.Errorf("%d remain, %d when asked again, want %d: %+v", d.Remaining, then.Remaining, left, d)
	case again != next:
		return fmt.Errorf("a look changes %+v to %+v", next, again)
	case units > 0 && units <= burst && d.Allowed != (before.Remaining >= units):
		return fmt.Errorf("%d remain, a cost of %d is answered %+v", before.Remaining, cost, d)
	case next.Used < 0 || next.Before < 0 && p.Concurrent == 0:
		return fmt.Errorf("counts less than nothing: %+v", next)
	}
	if err := checkAdvice(p, next, d, cost, now); err != nil {
		return err
	}
	return checkSettle(p, s, cost, taken, now)
}

// checkAdvice waits as d says: for more, for all, and for the same take.
func checkAdvice(p *ratelimit.Policy, s ratelimit.State, d ratelimit.Decision, cost, now int64) error {
	// Where a window had another length, before its policy was changed, nobody
	// knows exactly; and what a clock of the far future wrote is off the scale.
	aligned := p.Algorithm == ratelimit.TokenBucket || p.WindowEnd(max(s.At-1, 0)) == s.At
	if p.Concurrent > 0 || !aligned || now > latest-int64(max(d.Full, d.RetryAfter, d.Reset)) {
		return nil
	}
	if d.Reset > 0 {
		if _, then := p.Decide(s, 0, now+int64(d.Reset)); then.Remaining <= d.Remaining {
			return fmt.Errorf("there is no more after Reset: %+v, then %+v", d, then)
		}
	}
	if _, then := p.Decide(s, 0, now+int64(d.Full)); then.Remaining != p.Burst || then.Reset != 0 || then.Full != 0 {
		return fmt.Errorf("something is used after Full: %+v, then %+v", d, then)
	}
	if d.RetryAfter > 0 {
		if _, then := p.Decide(s, cost, now+int64(d.RetryAfter)); !then.Allowed {
			return fmt.Errorf("denied after RetryAfter: %+v, then %+v", d, then)
		}
		if _, then := p.Decide(s, cost, now+int64(d.RetryAfter)-1); then.Allowed {
			return fmt.Errorf("allowed a nanosecond before RetryAfter: %+v, then %+v", d, then)
		}
	}
	return nil
}

func checkSettle(p *ratelimit.Policy, s ratelimit.State, cost, taken, now int64) error {
	settled := p.Settle(s, cost, taken, now)
	_, before := p.Decide(s, 0, now)
	_, after := p.Decide(settled, 0, now)
	switch {
	case settled.Used < 0 || settled.Before < 0 && p.Concurrent == 0 || after.Remaining < 0 || after.Remaining > max(p.Burst, p.Concurrent):
		return fmt.Errorf("a correction by %d gives %+v, %+v", cost, settled, after)
	case cost > 0 && after.Remaining > before.Remaining, cost <= 0 && after.Remaining < before.Remaining:
		return fmt.Errorf("a correction by %d: from %d to %d", cost, before.Remaining, after.Remaining)
	}
	return nil
}

// FuzzDecideAndSettle needs no more than its seeds to run all policies.
func FuzzDecideAndSettle(f *testing.F) {
	policies := extremes(f)
	now := time.Date(2026, 11, 22, 6, 30, 0, 123_456_789, time.UTC).UnixNano()
	for i := range policies {
		f.Add(uint(i), int64(0), int64(0), int64(0), int64(1), now, now)
		f.Add(uint(i), now+int64(time.Minute), int64(5), int64(3), int64(2), now, now)
		f.Add(uint(i), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(0), now)
		f.Add(uint(i), int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64), int64(0), int64(0))
		f.Add(uint(i), int64(math.MaxInt64), int64(math.MinInt64), int64(-1), int64(1), int64(0), int64(latest))
	}
	f.Fuzz(func(t *testing.T, i uint, at, used, before, cost, taken, now int64) {
		p, s := policies[i%uint(len(policies))], ratelimit.State{At: at, Used: used, Before: before}
		if now < 0 || now > latest || taken < 0 || taken > latest {
			return // no clock
		}
		if err := checkCount(p, s, cost, taken, now); err != nil {
			t.Fatalf("%s, %v: state %+v, cost %d, taken %d, now %d:\n%v", p.Algorithm, p, s, cost, taken, now, err)
		}
	})
}

func TestDecideAndSettleOnAnyState(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	policies := extremes(t)
	rounds := 300_000
	if testing.Short() {
		rounds = 30_000
	}
	for range rounds {
		p := policies[random.IntN(len(policies))]
		now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).UnixNano() + random.Int64N(int64(ratelimit.Year))
		window := max(int64(p.Window), int64(time.Second))
		s := ratelimit.State{Used: amount(random, p), Before: amount(random, p)}
		switch random.IntN(4) {
		case 0:
			s.At = now + random.Int64N(3*window) - window/2
		case 1:
			s.At = p.WindowEnd(now)
		case 2:
			s.At = p.WindowEnd(p.WindowEnd(now))
		case 3:
			s.At = int64(random.Uint64())
		}
		cost, taken := amount(random, p), max(now-random.Int64N(3*window), 0)
		if random.IntN(3) == 0 {
			cost = -cost
		}
		if err := checkCount(p, s, cost, taken, now); err != nil {
			t.Fatalf("%s, %v: state %+v, cost %d, taken %d, now %d:\n%v", p.Algorithm, p, s, cost, taken, now, err)
		}
	}
}

// amount is of units: none, some, about all, too many, or anything.
func amount(random *rand.Rand, p *ratelimit.Policy) int64 {
	burst := max(p.Burst, p.Concurrent)
	switch random.IntN(6) {
	case 0:
		return 0
	case 1:
		return 1
	case 2:
		return burst - 1 + random.Int64N(3)
	case 3:
		return int64(random.Uint64())
	}
	return random.Int64N(burst + 1)
}

// Where a rate is no whole number of nanoseconds a unit, limiters are known that
// give more than it, or grant nine and report six.
func TestIntervalIsRoundedAgainstTheCaller(t *testing.T) {
	for _, p := range extremes(t) {
		if p.Concurrent > 0 {
			continue
		}
		if all := p.Interval() * time.Duration(p.Quota); all < p.Window || all >= p.Window+time.Duration(p.Quota) {
			t.Errorf("%v: %d intervals of %v are %v: want the window, or up to a nanosecond a unit more", p, p.Quota, p.Interval(), all)
		}
	}
	p := prepare(t, ratelimit.Policy{Quota: 7_000_000, Window: time.Minute, Burst: 1})
	admitted, state := int64(0), ratelimit.State{}
	const ns = int64(10 * time.Millisecond)
	for now := int64(0); now < ns; now += 10 {
		var d ratelimit.Decision
		if state, d = p.Decide(state, 1, now); d.Allowed {
			admitted++
		}
	}
	if most := 1 + ns*7_000_000/int64(time.Minute); admitted > most || admitted < most*99/100 {
		t.Errorf("admitted %d in 10 ms at 7,000,000 a minute, want %d or up to 1%% less", admitted, most)
	}
}

// Services are known that answer an error with their zero value, and that is
// "allowed".
func TestWhatNobodyDecidedIsDenied(t *testing.T) {
	takes := []ratelimit.Take{{Policy: prepare(t, ratelimit.Policy{Quota: 1, Window: time.Second})}}
	if ratelimit.Allowed(takes) {
		t.Error("the zero Decision allows")
	}
	failed := errors.New("away")
	l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{policy(t, "5/minute")}, Store: failingStore{failed}})
	if takes, err := l.Take(context.Background(), "k", 1); err == nil || takes != nil || !errors.Is(err, failed) {
		t.Errorf("a store that is away: %v, %v, want a refusal", takes, err)
	}
}

// failingStore answers nothing but its error.
type failingStore struct{ err error }

func (s failingStore) Take(context.Context, []ratelimit.Take, time.Time) (bool, error) {
	return true, s.err
}

func (s failingStore) Settle(context.Context, []ratelimit.Take, time.Time) error { return s.err }

func TestLimiterGivesNothingBackForWhatShadowDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, store := context.Background(), ratelimit.NewMemoryStore(0)
		for _, algorithm := range []string{ratelimit.TokenBucket, ratelimit.SlidingWindow, ratelimit.FixedWindow} {
			p := ratelimit.Policy{Name: "p", Quota: 10, Window: time.Hour, Algorithm: algorithm, Shadow: true}
			l := limiter(t, ratelimit.Options{Store: store, Policies: []ratelimit.Policy{p}})
			if _, err := l.Take(ctx, "k", 8); err != nil {
				t.Fatal(err)
			}
			denied, err := l.Take(ctx, "k", 5)
			if err != nil || denied[0].Decision.Allowed {
				t.Fatalf("%s: %+v, %v, want it denied in shadow", algorithm, denied, err)
			}
			if err := l.Settle(ctx, denied, 1); err != nil {
				t.Fatal(err)
			}
			look, err := l.Take(ctx, "k", 0)
			if err != nil || look[0].Decision.Remaining != 2 {
				t.Errorf("%s: %d remain, %v, want 2: the denied take took nothing", algorithm, look[0].Decision.Remaining, err)
			}
		}
	})
}
