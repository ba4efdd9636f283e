// Package storetest holds the suites that every store must pass, so that a
// store in memory and one elsewhere behave alike. Each suite takes a function
// that opens a new, empty store.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// RateLimit tests a ratelimit.Store. open makes an empty store with room for at
// least 10,000 counts, which goes by the now of its calls; what it needs to
// close, it registers with t.Cleanup. The times of the suite are from an hour
// after it begins to the year 2100. With -short it tries a fifth of the random
// traces.
func RateLimit(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, group := range []struct {
		name  string
		cases []rateLimitCase
	}{
		{"token bucket", bucketCases()},
		{"sliding window", slidingCases()},
		{"fixed window", fixedCases()},
		{"concurrent", slotCases()},
		{"shadow", shadowCases()},
		{"several policies", mixedCases()},
		{"changed policy", changeCases()},
		{"hostile", hostileCases()},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
			}
		})
	}
	t.Run("random traces", func(t *testing.T) { traces(t, open) })
}

// rateLimitCase is one test of a suite; s is empty.
type rateLimitCase struct {
	name string
	run  func(t *testing.T, s ratelimit.Store)
}

func bucketCases() []rateLimitCase {
	return []rateLimitCase{
		{"admits the burst at once, then one every window over quota", burstThenRate},
		{"tells exactly when a refused take is allowed", exactRetryAfter},
		{"refuses a cost above the burst for ever", costAboveBurst},
		{"ignores costs that would overflow or credit", hostileCosts},
		{"looks without taking at a cost of zero", peek},
		{"keeps keys, scopes, names and units apart", keepsCountsApart},
		{"gives back what was not used, never above the burst", refunds},
		{"charges beyond the burst and waits for it", chargesLater},
		{"spends, waits and gives back as boulder's vectors say", boulder},
		{"does not move the time at which a count is full by telling it", steadyReset},
	}
}

// start is a time far from any store's own start: stores must take time as told.
// It has no monotonic reading, so that it is the same time to every store.
func start() time.Time { return time.Now().Round(0).Add(time.Hour) }

// edge is the next time after start at which aligned windows of the length begin.
func edge(window time.Duration) time.Time {
	now := start()
	return now.Add(window - time.Duration(now.UnixNano())%window).UTC()
}

func prepare(t testing.TB, p ratelimit.Policy) *ratelimit.Policy {
	t.Helper()
	prepared, err := p.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

// take takes cost from each policy for key "k" and returns the takes.
func take(t testing.TB, s ratelimit.Store, now time.Time, cost int64, policies ...*ratelimit.Policy) (bool, []ratelimit.Take) {
	t.Helper()
	takes := make([]ratelimit.Take, len(policies))
	for i, p := range policies {
		takes[i] = ratelimit.Take{Policy: p, Key: "k", Cost: cost}
	}
	allowed, err := s.Take(context.Background(), takes, now)
	if err != nil {
		t.Fatal(err)
	}
	if allowed != ratelimit.Allowed(takes) {
		t.Fatalf("Take returned %t, but its decisions say %t", allowed, !allowed)
	}
	return allowed, takes
}

// takeOne is take with one policy and its decision.
func takeOne(t testing.TB, s ratelimit.Store, now time.Time, cost int64, p *ratelimit.Policy) ratelimit.Decision {
	t.Helper()
	_, takes := take(t, s, now, cost, p)
	return takes[0].Decision
}

func want(t testing.TB, got, want ratelimit.Decision) {
	t.Helper()
	if got.Full < got.Reset {
		t.Fatalf("full after %v, but more already after %v", got.Full, got.Reset)
	}
	if got.Full = want.Full; got != want {
		t.Fatalf("decision\n got %+v\nwant %+v", got, want)
	}
}

func settle(t testing.TB, s ratelimit.Store, now time.Time, cost int64, p *ratelimit.Policy) {
	t.Helper()
	if err := s.Settle(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", Cost: cost}}, now); err != nil {
		t.Fatal(err)
	}
}

// The vectors of throttled's rate_test.go (limit 5, one a second).
func burstThenRate(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 1, Window: time.Second, Burst: 5}), start()
	for n := range int64(5) {
		want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Allowed: true, Remaining: 4 - n, Reset: time.Second})
	}
	want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Reset: time.Second, RetryAfter: time.Second})
	now = now.Add(3 * time.Second)
	want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Allowed: true, Remaining: 2, Reset: time.Second})
	want(t, takeOne(t, s, now, 5, p), ratelimit.Decision{Remaining: 2, Reset: time.Second, RetryAfter: 3 * time.Second})
	now = now.Add(time.Hour)
	want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 5})
	want(t, takeOne(t, s, now, 5, p), ratelimit.Decision{Allowed: true, Reset: time.Second})
}

func exactRetryAfter(t *testing.T, s ratelimit.Store) {
	for _, p := range []*ratelimit.Policy{
		prepare(t, ratelimit.Policy{Name: "even", Quota: 5, Window: time.Minute}),
		prepare(t, ratelimit.Policy{Name: "odd", Quota: 7, Window: time.Minute}),
		prepare(t, ratelimit.Policy{Name: "short", Quota: 3, Window: 100 * time.Millisecond}),
		prepare(t, ratelimit.Policy{Name: "day", Quota: 1, Window: 24 * time.Hour}),
	} {
		now := start()
		for takeOne(t, s, now, 1, p).Allowed {
			now = now.Add(time.Millisecond)
		}
		begin := now.Add(takeOne(t, s, now, 1, p).RetryAfter)
		for range 20 {
			wait := takeOne(t, s, now, 1, p).RetryAfter
			if wait <= 0 {
				t.Fatalf("%s: denied with RetryAfter %v", p.Name, wait)
			}
			if d := takeOne(t, s, now.Add(wait-1), 1, p); d.Allowed {
				t.Fatalf("%s: allowed a nanosecond before RetryAfter %v", p.Name, wait)
			}
			now = now.Add(wait)
			if d := takeOne(t, s, now, 1, p); !d.Allowed {
				t.Fatalf("%s: denied after waiting RetryAfter %v: %+v", p.Name, wait, d)
			}
		}
		// An interval that is no whole number of nanoseconds is rounded up: what is
		// lost in rounding down is not much, but it is more than the quota.
		if took := now.Sub(begin); took*time.Duration(p.Quota) < 19*p.Window {
			t.Fatalf("%s: gave 19 units in %v, want %v", p.Name, took, 19*p.Window/time.Duration(p.Quota))
		}
	}
}

func costAboveBurst(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 10 * time.Second}), start()
	want(t, takeOne(t, s, now, 11, p), ratelimit.Decision{Remaining: 10, RetryAfter: weir.Never})
	want(t, takeOne(t, s, now, 10, p), ratelimit.Decision{Allowed: true, Reset: time.Second})
}

// Costs come from clients. 106,752 days and 26 million hours in nanoseconds
// overflow 64 bits: limiters are known that such a cost switches off.
func hostileCosts(t *testing.T, s ratelimit.Store) {
	day := prepare(t, ratelimit.Policy{Name: "day", Quota: 1, Window: 24 * time.Hour})
	hour := prepare(t, ratelimit.Policy{Name: "hour", Quota: 10, Window: time.Hour})
	now := start()
	for _, p := range []*ratelimit.Policy{day, hour} {
		for takeOne(t, s, now, 1, p).Allowed {
			continue
		}
		before := takeOne(t, s, now, 0, p)
		for _, cost := range []int64{106_751, 106_752, 26_000_000, 1 << 40, 1<<63 - 1} {
			if d := takeOne(t, s, now, cost, p); d.Allowed || d.RetryAfter != weir.Never {
				t.Fatalf("%s: cost %d: %+v", p.Name, cost, d)
			}
		}
		for _, cost := range []int64{-1, -1_000_000, -1 << 63} {
			takeOne(t, s, now, cost, p)
		}
		want(t, takeOne(t, s, now, 0, p), before)
	}
}

func peek(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 5, Window: time.Minute}), start()
	for range 10 {
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 5})
	}
	takeOne(t, s, now, 1, p)
	for range 10 {
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 4, Reset: 12 * time.Second})
	}
}

// Parts that give the same text when they are put together carelessly. Limiters are
// known where who uses up one such count uses up the other.
func keepsCountsApart(t *testing.T, s ratelimit.Store) {
	now, n := edge(time.Hour), 0
	for _, algorithm := range algorithms() {
		for _, scope := range []string{"plan:a", "plan:a_b", "plan:ab", ""} {
			for _, name := range []string{"b_c", "c", "_c", "bc"} {
				for _, unit := range []string{"requests", "tokens"} {
					p := prepare(t, ratelimit.Policy{Scope: scope, Name: name, Unit: unit, Quota: 1, Window: time.Hour, Algorithm: algorithm})
					for _, key := range []string{"", "x", "a", "a\x00", "c", "b_c", "ip:1", "key:ip:1"} {
						takes := []ratelimit.Take{{Policy: p, Key: key, Cost: 1}}
						if allowed, err := s.Take(context.Background(), takes, now); err != nil || !allowed {
							t.Fatalf("%s, scope %q name %q unit %q key %q shares a count with another: allowed %t, error %v", algorithm, scope, name, unit, key, allowed, err)
						}
						n++
					}
				}
			}
		}
	}
	if n != 3*4*4*2*8 {
		t.Fatalf("tried %d", n)
	}
}

func refunds(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 10 * time.Second}), start()
	takeOne(t, s, now, 6, p)
	settle(t, s, now, -4, p)
	want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 8, Reset: time.Second})
	for _, cost := range []int64{-2, -1_000_000, -1 << 63} {
		settle(t, s, now, cost, p)
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 10})
	}
	want(t, takeOne(t, s, now, 10, p), ratelimit.Decision{Allowed: true, Reset: time.Second})
	if takeOne(t, s, now, 1, p).Allowed {
		t.Fatal("a refund above the burst was kept")
	}
}

func chargesLater(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 10 * time.Second}), start()
	takeOne(t, s, now, 4, p)
	settle(t, s, now, 9, p)
	want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Reset: 4 * time.Second, RetryAfter: 4 * time.Second})
	if takeOne(t, s, now, 0, p).Allowed {
		t.Fatal("a look at an overdrawn count was allowed")
	}
	want(t, takeOne(t, s, now.Add(4*time.Second), 1, p), ratelimit.Decision{Allowed: true, Reset: time.Second})
	settle(t, s, now, 1<<63-1, p)
	if d := takeOne(t, s, now, 1, p); d.Allowed || d.RetryAfter <= 0 {
		t.Fatalf("after the largest charge: %+v", d)
	}
}

// The scripts of boulder's gcra_test.go (burst 10, one a second). A step waits, then
// takes, or gives back where the cost is negative.
func boulder(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 1, Window: time.Second, Burst: 10}), start()
	for i, step := range []struct {
		wait    time.Duration
		cost    int64
		allowed bool
		left    int64
		retry   time.Duration
		full    time.Duration
	}{
		{0, 1, true, 9, 0, time.Second},
		{0, 9, true, 0, 0, 10 * time.Second},
		{0, 1, false, 0, time.Second, 10 * time.Second},
		{time.Second, 1, true, 0, 0, 10 * time.Second},
		{0, 1, false, 0, time.Second, 10 * time.Second},
		{2 * time.Second, 2, true, 0, 0, 10 * time.Second},
		{0, 1, false, 0, time.Second, 10 * time.Second},
		{10 * time.Second, 10, true, 0, 0, 10 * time.Second},
		{0, -1, true, 1, 0, 9 * time.Second},
		{0, -10, true, 10, 0, 0}, // never above the burst
		{0, -1, true, 10, 0, 0},
		{0, 10, true, 0, 0, 10 * time.Second},
		{15 * time.Second, 0, true, 10, 0, 0},
		{0, 7, true, 3, 0, 7 * time.Second},
		{0, 4, false, 3, time.Second, 7 * time.Second},
		{500 * time.Millisecond, 4, false, 3, 500 * time.Millisecond, 6500 * time.Millisecond},
		{500 * time.Millisecond, 4, true, 0, 0, 10 * time.Second},
	} {
		now = now.Add(step.wait)
		if step.cost < 0 {
			settle(t, s, now, step.cost, p)
		}
		d := takeOne(t, s, now, max(step.cost, 0), p)
		if d.Allowed != step.allowed || d.Remaining != step.left || d.RetryAfter != step.retry || d.Full != step.full {
			t.Fatalf("step %d: %+v, want %+v", i, d, step)
		}
	}
}

// A client that is told twice when its quota is there again must be told the same
// time: limiters are known that work it out anew from a rounded expiry, and wobble.
func steadyReset(t *testing.T, s ratelimit.Store) {
	now := start()
	for _, p := range []*ratelimit.Policy{
		prepare(t, ratelimit.Policy{Name: "b", Quota: 7, Window: time.Minute}),
		prepare(t, ratelimit.Policy{Name: "f", Quota: 7, Window: time.Hour, Algorithm: ratelimit.FixedWindow}),
		prepare(t, ratelimit.Policy{Name: "s", Quota: 7, Window: time.Hour, Algorithm: ratelimit.SlidingWindow}),
	} {
		at := now.Add(takeOne(t, s, now, 3, p).Full)
		for _, later := range []time.Duration{time.Microsecond, 1234567 * time.Nanosecond, time.Second, 3*time.Second + 789*time.Microsecond} {
			if again := now.Add(later).Add(takeOne(t, s, now.Add(later), 0, p).Full); !again.Equal(at) {
				t.Fatalf("%s: full at %v, and %v later at %v", p.Name, at, later, again)
			}
		}
	}
}
