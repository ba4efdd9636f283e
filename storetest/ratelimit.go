// Package storetest holds the suites that every store must pass, so that a
// store in memory and one elsewhere behave alike. Each suite takes a function
// that opens a new, empty store.
package storetest

import (
	"context"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// RateLimit tests a ratelimit.Store. open makes an empty store with room for at
// least 10,000 counts; what it needs to close, it registers with t.Cleanup.
func RateLimit(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s ratelimit.Store)
	}{
		{"admits the burst at once, then one every window over quota", burstThenRate},
		{"tells exactly when a refused take is allowed", exactRetryAfter},
		{"refuses a cost above the burst for ever", costAboveBurst},
		{"ignores costs that would overflow or credit", hostileCosts},
		{"looks without taking at a cost of zero", peek},
		{"takes from all policies or from none", allOrNothing},
		{"counts a policy that stands twice in one call twice", samePolicyTwice},
		{"keeps keys, scopes, names and units apart", keepsCountsApart},
		{"gives back what was not used, never above the burst", refunds},
		{"charges beyond the burst and waits for it", chargesLater},
		{"keeps the debt when the policy is changed", changedPolicyKeepsDebt},
		{"pays for a clock that jumps back only once", clockSkew},
		{"refuses takes it cannot count", refusesBadTakes},
		{"admits exactly the burst to concurrent callers", concurrentOnePolicy},
		{"admits exactly the smallest burst of several policies", concurrentSeveralPolicies},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
	t.Run("agrees with an exact model", func(t *testing.T) { agreesWithModel(t, open) })
}

// start is a time far from any store's own start: stores must take time as told.
func start() time.Time { return time.Now().Add(time.Hour) }

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

func allOrNothing(t *testing.T, s ratelimit.Store) {
	large := prepare(t, ratelimit.Policy{Name: "large", Quota: 100, Window: 100 * time.Second})
	small := prepare(t, ratelimit.Policy{Name: "small", Quota: 1, Window: 10 * time.Second})
	now := start()
	if allowed, _ := take(t, s, now, 1, large, small); !allowed {
		t.Fatal("the first take was denied")
	}
	for range 50 {
		for _, order := range [][]*ratelimit.Policy{{large, small}, {small, large}} {
			allowed, takes := take(t, s, now, 1, order...)
			if allowed {
				t.Fatal("took from a policy that is used up")
			}
			for _, tk := range takes {
				if tk.Policy == large {
					want(t, tk.Decision, ratelimit.Decision{Allowed: true, Remaining: 99, Reset: time.Second})
				} else {
					want(t, tk.Decision, ratelimit.Decision{Reset: 10 * time.Second, RetryAfter: 10 * time.Second})
				}
			}
		}
	}
	want(t, takeOne(t, s, now, 0, large), ratelimit.Decision{Allowed: true, Remaining: 99, Reset: time.Second})
}

func samePolicyTwice(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 3, Window: 3 * time.Second}), start()
	if allowed, _ := take(t, s, now, 1, p, p); !allowed {
		t.Fatal("two units of three were denied")
	}
	if allowed, _ := take(t, s, now, 1, p, p); allowed {
		t.Fatal("took two units where one was left")
	}
	want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Allowed: true, Reset: time.Second})
}

// Pairs whose parts give the same text when they are put together carelessly.
func keepsCountsApart(t *testing.T, s ratelimit.Store) {
	now, n := start(), 0
	for _, scope := range []string{"plan:a", "plan:a_b", "plan:ab", ""} {
		for _, name := range []string{"b_c", "c", "_c", "bc"} {
			for _, unit := range []string{"requests", "tokens"} {
				p := prepare(t, ratelimit.Policy{Scope: scope, Name: name, Unit: unit, Quota: 1, Window: time.Hour})
				for _, key := range []string{"", "x", "a", "a\x00", "c", "b_c", "ip:1", "key:ip:1"} {
					takes := []ratelimit.Take{{Policy: p, Key: key, Cost: 1}}
					if allowed, err := s.Take(context.Background(), takes, now); err != nil || !allowed {
						t.Fatalf("scope %q name %q unit %q key %q shares a count with another: allowed %t, error %v", scope, name, unit, key, allowed, err)
					}
					n++
				}
			}
		}
	}
	if n != 4*4*2*8 {
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

func changedPolicyKeepsDebt(t *testing.T, s ratelimit.Store) {
	before := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 100 * time.Second})
	after := prepare(t, ratelimit.Policy{Name: "p", Quota: 5, Window: 50 * time.Second})
	now := start()
	takeOne(t, s, now, 10, before)
	want(t, takeOne(t, s, now, 1, after), ratelimit.Decision{Reset: 60 * time.Second, RetryAfter: 60 * time.Second})
	for range 3 { // back and forth gives nothing back
		takeOne(t, s, now, 0, before)
		takeOne(t, s, now, 0, after)
	}
	if takeOne(t, s, now, 1, before).Allowed {
		t.Fatal("a change of policy gave units back")
	}
}

// Two nodes whose clocks differ alternate: what is admitted in t is at most
// burst + rate*(t+skew).
func clockSkew(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second, Burst: 50})
	now, admitted := start(), 0
	for i := range 2000 {
		at := now.Add(time.Duration(i) * 5 * time.Millisecond)
		if i%2 == 1 {
			at = at.Add(-5 * time.Second)
		}
		if takeOne(t, s, at, 1, p).Allowed {
			admitted++
		}
	}
	if most := 50 + 10*(10+5); admitted > most || admitted < 100 {
		t.Fatalf("admitted %d in 10 s with a skew of 5 s, want 100 to %d", admitted, most)
	}
}

func refusesBadTakes(t *testing.T, s ratelimit.Store) {
	p, ctx := prepare(t, ratelimit.Policy{Name: "p", Quota: 1, Window: time.Second}), context.Background()
	many := make([]ratelimit.Take, ratelimit.MaxTakes+1)
	for i := range many {
		many[i] = ratelimit.Take{Policy: p, Key: fmt.Sprint(i), Cost: 1}
	}
	for name, takes := range map[string][]ratelimit.Take{
		"too many":     many,
		"not prepared": {{Policy: &ratelimit.Policy{Quota: 1, Window: time.Second}, Cost: 1}},
		"no policy":    {{Cost: 1}},
	} {
		if allowed, err := s.Take(ctx, takes, start()); err == nil || allowed {
			t.Errorf("%s: Take: allowed %t, error %v", name, allowed, err)
		}
		if err := s.Settle(ctx, takes, start()); err == nil {
			t.Errorf("%s: Settle: no error", name)
		}
	}
	if allowed, err := s.Take(ctx, many[:ratelimit.MaxTakes], start()); err != nil || !allowed {
		t.Errorf("the most takes of one call: allowed %t, error %v", allowed, err)
	}
	if allowed, err := s.Take(ctx, nil, start()); err != nil || !allowed {
		t.Errorf("no takes: allowed %t, error %v", allowed, err)
	}
}

// race runs n takes of the policies at once, in changing order, and returns how
// many were admitted.
func race(t *testing.T, s ratelimit.Store, n int, policies ...*ratelimit.Policy) int64 {
	t.Helper()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	now, begin := start(), make(chan struct{})
	for i := range n {
		takes := make([]ratelimit.Take, len(policies))
		for j := range policies {
			takes[j] = ratelimit.Take{Policy: policies[(i+j)%len(policies)], Key: "k", Cost: 1}
		}
		wg.Go(func() {
			<-begin
			allowed, err := s.Take(context.Background(), takes, now)
			if err != nil {
				t.Error(err)
			}
			if allowed {
				admitted.Add(1)
			}
		})
	}
	close(begin)
	wg.Wait()
	return admitted.Load()
}

func concurrentOnePolicy(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 100, Window: time.Hour})
	if got := race(t, s, 200, p); got != 100 {
		t.Fatalf("admitted %d of 200 concurrent callers, want exactly 100", got)
	}
}

func concurrentSeveralPolicies(t *testing.T, s ratelimit.Store) {
	a := prepare(t, ratelimit.Policy{Name: "a", Quota: 100, Window: time.Hour})
	b := prepare(t, ratelimit.Policy{Name: "b", Quota: 70, Window: time.Hour})
	c := prepare(t, ratelimit.Policy{Name: "c", Quota: 90, Window: time.Hour})
	if got := race(t, s, 300, a, b, c); got != 70 {
		t.Fatalf("admitted %d of 300 concurrent callers, want exactly 70", got)
	}
	now := start()
	for p, left := range map[*ratelimit.Policy]int64{a: 30, b: 0, c: 20} {
		if d := takeOne(t, s, now, 0, p); d.Remaining != left {
			t.Errorf("policy %s: %d remain, want %d", p.Name, d.Remaining, left)
		}
	}
}

// model is a token bucket in exact fractions: level units at time at.
type model struct {
	level *big.Rat
	at    time.Duration
}

func (m *model) advance(at time.Duration, p ratelimit.Policy, burst int64) {
	gained := big.NewRat(int64(at-m.at), 1)
	gained.Mul(gained, big.NewRat(p.Quota, int64(p.Window)))
	m.level.Add(m.level, gained)
	if full := big.NewRat(burst, 1); m.level.Cmp(full) > 0 {
		m.level.Set(full)
	}
	m.at = at
}

// agreesWithModel runs random takes, refunds and charges beside the model. A
// store may round against the caller, by at most a nanosecond a unit taken; it
// may never admit what the model does not.
func agreesWithModel(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	store := open(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		p := ratelimit.Policy{
			Name:   fmt.Sprint("run-", run),
			Quota:  rapid.Int64Range(1, 1_000_000).Draw(rt, "quota"),
			Window: time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(25*time.Hour)).Draw(rt, "window")),
			Burst:  rapid.Int64Range(0, 2000).Draw(rt, "burst"),
		}
		burst := p.Burst
		if burst == 0 {
			burst = p.Quota
		}
		prepared, begin := prepare(t, p), start()
		exact := &model{level: big.NewRat(burst, 1)}
		slack := new(big.Rat) // what rounding may have cost the caller so far
		var at time.Duration
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			at += time.Duration(rapid.Int64Range(0, int64(p.Window)/3).Draw(rt, "pause"))
			exact.advance(at, p, burst)
			cost := rapid.Int64Range(1, burst+1).Draw(rt, "cost")
			if rapid.IntRange(0, 9).Draw(rt, "kind") == 0 {
				settle(t, store, begin.Add(at), -cost, prepared)
				exact.level.Add(exact.level, big.NewRat(cost, 1))
				exact.advance(at, p, burst)
				slack.Add(slack, nanoseconds(cost, p))
				continue
			}
			fits := exact.level.Cmp(big.NewRat(cost, 1)) >= 0
			d := takeOne(t, store, begin.Add(at), cost, prepared)
			if d.Allowed && !fits {
				rt.Fatalf("admitted %d, the model has %s", cost, exact.level.FloatString(3))
			}
			slack.Add(slack, nanoseconds(cost, p))
			if !d.Allowed && fits {
				need := new(big.Rat).Add(big.NewRat(cost, 1), slack)
				if exact.level.Cmp(need) > 0 && cost <= burst {
					rt.Fatalf("denied %d, the model has %s: more than rounding explains", cost, exact.level.FloatString(3))
				}
			}
			if d.Allowed {
				exact.level.Sub(exact.level, big.NewRat(cost, 1))
			}
		}
	})
}

// nanoseconds is what the policy gives in cost+burst nanoseconds: the bound on
// rounding for one take.
func nanoseconds(cost int64, p ratelimit.Policy) *big.Rat {
	r := big.NewRat(cost+max(p.Burst, 1)+1, 1)
	return r.Mul(r, big.NewRat(p.Quota, int64(p.Window)))
}
