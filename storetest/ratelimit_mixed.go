package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// algorithms are those that count units in time.
func algorithms() []string {
	return []string{ratelimit.TokenBucket, ratelimit.SlidingWindow, ratelimit.FixedWindow}
}

func mixedCases() []rateLimitCase {
	return []rateLimitCase{
		{"takes from all or from none", allOrNothing},
		{"takes from all kinds or from none, in any order", allOrNothingOfAllKinds},
		{"counts a policy that stands twice in one call twice", samePolicyTwice},
		{"says when it took", saysWhenTaken},
		{"refuses takes it cannot count", refusesBadTakes},
		{"admits exactly the quota to concurrent callers", concurrentOnePolicy},
		{"admits exactly the smallest burst of several to concurrent callers", concurrentSeveralPolicies},
		{"admits exactly what all kinds have to concurrent callers", concurrentAllKinds},
	}
}

func shadowCases() []rateLimitCase {
	return []rateLimitCase{
		{"decides and counts, and never refuses", shadowNeverRefuses},
		{"gives nothing where it would deny, and the others give", shadowDenied},
		{"gives nothing where another policy denies", shadowBesideDenial},
		{"holds no slot where it would deny", shadowSlots},
		{"keeps the count when it becomes a policy with a say", shadowBecomesReal},
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

// kinds are a policy of each kind, of which the i-th has little and the others
// much; i may be none of them.
func kinds(t testing.TB, name string, i int) []*ratelimit.Policy {
	t.Helper()
	var policies []*ratelimit.Policy
	for j, algorithm := range append(algorithms(), "slots") {
		p := ratelimit.Policy{Scope: name, Name: algorithm, Quota: 100, Window: time.Hour, Algorithm: algorithm}
		if j == i {
			p.Quota = 2
		}
		if algorithm == "slots" {
			p = ratelimit.Policy{Scope: name, Name: algorithm, Concurrent: p.Quota}
		}
		policies = append(policies, prepare(t, p))
	}
	return policies
}

// orders are all orders of the policies.
func orders(policies []*ratelimit.Policy) [][]*ratelimit.Policy {
	if len(policies) == 0 {
		return [][]*ratelimit.Policy{nil}
	}
	var all [][]*ratelimit.Policy
	for i := range policies {
		rest := append(append([]*ratelimit.Policy{}, policies[:i]...), policies[i+1:]...)
		for _, order := range orders(rest) {
			all = append(all, append([]*ratelimit.Policy{policies[i]}, order...))
		}
	}
	return all
}

func allOrNothingOfAllKinds(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for little := range 4 {
		policies := kinds(t, fmt.Sprint(little), little)
		for i := range 2 {
			if allowed, _ := hold(t, s, now, fmt.Sprint(i), policies...); !allowed {
				t.Fatalf("%s: take %d of 2 was denied", policies[little].Name, i)
			}
		}
		for _, order := range orders(policies) {
			allowed, takes := hold(t, s, now, "x", order...)
			if allowed {
				t.Fatalf("%s: took from a policy that is used up", policies[little].Name)
			}
			for _, tk := range takes {
				left := int64(98)
				if tk.Policy == policies[little] {
					left = 0
				}
				if d := tk.Decision; d.Remaining != left || d.Allowed != (left > 0) || (d.RetryAfter > 0) != (left == 0) {
					t.Fatalf("%s is used up: %s says %+v", policies[little].Name, tk.Policy.Name, d)
				}
			}
		}
		for i, p := range policies {
			if i != little {
				remaining(t, s, now, p, 98)
			}
		}
	}
}

func samePolicyTwice(t *testing.T, s ratelimit.Store) {
	for _, algorithm := range algorithms() {
		p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 3, Window: time.Hour, Algorithm: algorithm}), edge(time.Hour)
		if allowed, _ := take(t, s, now, 1, p, p); !allowed {
			t.Fatalf("%s: two units of three were denied", algorithm)
		}
		allowed, takes := take(t, s, now, 1, p, p)
		if allowed {
			t.Fatalf("%s: took two units where one was left", algorithm)
		}
		for i, tk := range takes {
			if tk.Decision.Remaining != 1 {
				t.Fatalf("%s: the %d. decision says %d are left, want 1: nothing was taken", algorithm, i+1, tk.Decision.Remaining)
			}
		}
		taken(t, s, now, 1, p)
		remaining(t, s, now, p, 0)
	}
	p, ctx := prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 3}), context.Background()
	pair := func(a, b string) []ratelimit.Take {
		return []ratelimit.Take{{Policy: p, Key: "k", ID: a, Cost: 1}, {Policy: p, Key: "k", ID: b, Cost: 1}}
	}
	for _, c := range []struct {
		a, b    string
		allowed bool
		left    int64
	}{{"a", "b", true, 1}, {"c", "d", false, 1}, {"a", "c", true, 0}, {"d", "d", false, 0}} {
		if allowed, err := s.Take(ctx, pair(c.a, c.b), start()); err != nil || allowed != c.allowed {
			t.Fatalf("slots for %s and %s: allowed %t, error %v", c.a, c.b, allowed, err)
		}
		remaining(t, s, start(), p, c.left)
	}
}

func saysWhenTaken(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour).Add(123_456 * time.Microsecond)
	_, takes := hold(t, s, now, "a", kinds(t, "p", -1)...)
	_, alone := hold(t, s, now, "a", kinds(t, "q", -1)[0])
	for _, tk := range append(takes, alone...) {
		if tk.Taken != now.UnixNano() {
			t.Errorf("%s: taken at %d, want %d", tk.Policy.Name, tk.Taken, now.UnixNano())
		}
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
	now, begin := edge(time.Hour), make(chan struct{})
	for i := range n {
		takes := make([]ratelimit.Take, len(policies))
		for j := range policies {
			takes[j] = ratelimit.Take{Policy: policies[(i+j)%len(policies)], Key: "k", ID: fmt.Sprint(i), Cost: 1}
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
	for _, algorithm := range algorithms() {
		p := prepare(t, ratelimit.Policy{Name: "p", Quota: 100, Window: time.Hour, Algorithm: algorithm})
		if got := race(t, s, 200, p); got != 100 {
			t.Fatalf("%s: admitted %d of 200 concurrent callers, want exactly 100", algorithm, got)
		}
	}
	p := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 100})
	if got := race(t, s, 200, p); got != 100 {
		t.Fatalf("%d of 200 concurrent callers hold a slot, want exactly 100", got)
	}
}

func concurrentSeveralPolicies(t *testing.T, s ratelimit.Store) {
	a := prepare(t, ratelimit.Policy{Name: "a", Quota: 100, Window: time.Hour})
	b := prepare(t, ratelimit.Policy{Name: "b", Quota: 70, Window: time.Hour})
	c := prepare(t, ratelimit.Policy{Name: "c", Quota: 90, Window: time.Hour})
	if got := race(t, s, 300, a, b, c); got != 70 {
		t.Fatalf("admitted %d of 300 concurrent callers, want exactly 70", got)
	}
	now := edge(time.Hour)
	for p, left := range map[*ratelimit.Policy]int64{a: 30, b: 0, c: 20} {
		if d := takeOne(t, s, now, 0, p); d.Remaining != left {
			t.Errorf("policy %s: %d remain, want %d", p.Name, d.Remaining, left)
		}
	}
}

func concurrentAllKinds(t *testing.T, s ratelimit.Store) {
	for little := range 4 {
		policies := kinds(t, fmt.Sprint(little), little)
		if got := race(t, s, 50, policies...); got != 2 {
			t.Fatalf("admitted %d of 50 concurrent callers, want the 2 that %s has", got, policies[little].Name)
		}
		for i, p := range policies {
			if i != little {
				remaining(t, s, edge(time.Hour), p, 98)
			}
		}
	}
}

// shadows are policies of each kind of which n can be used, in shadow.
func shadows(t testing.TB, n int64) []*ratelimit.Policy {
	t.Helper()
	policies := []*ratelimit.Policy{prepare(t, ratelimit.Policy{Scope: "shadow", Name: "slots", Concurrent: n, Shadow: true})}
	for _, algorithm := range algorithms() {
		policies = append(policies, prepare(t, ratelimit.Policy{Scope: "shadow", Name: algorithm, Quota: n, Window: time.Hour, Algorithm: algorithm, Shadow: true}))
	}
	return policies
}

func shadowNeverRefuses(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, p := range shadows(t, 2) {
		for i := range 5 {
			allowed, takes := hold(t, s, now, fmt.Sprint(i), p)
			d := takes[0].Decision
			if !allowed {
				t.Fatalf("%s: take %d was refused by a policy in shadow", p.Name, i)
			}
			if d.Allowed != (i < 2) || d.Remaining != max(1-int64(i), 0) || (d.RetryAfter > 0) != (i >= 2) {
				t.Fatalf("%s: take %d of 2: %+v", p.Name, i, d)
			}
		}
		remaining(t, s, now, p, 0)
	}
}

func shadowDenied(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, p := range shadows(t, 3)[1:] {
		for _, algorithm := range algorithms() {
			other := prepare(t, ratelimit.Policy{Scope: p.Name, Name: "other", Quota: 10, Window: time.Hour, Algorithm: algorithm})
			for _, order := range [][]*ratelimit.Policy{{p, other}, {other, p}} {
				if allowed, takes := take(t, s, now, 4, order...); !allowed {
					t.Fatalf("a policy in shadow kept another from its take: %+v", takes)
				}
			}
			remaining(t, s, now, p, 3)
			remaining(t, s, now, other, 2)
		}
	}
}

func shadowBesideDenial(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, algorithm := range algorithms() {
		p := prepare(t, ratelimit.Policy{Name: "real", Quota: 1, Window: time.Hour, Algorithm: algorithm})
		taken(t, s, now, 1, p)
		for _, shadow := range shadows(t, 3) {
			for _, order := range [][]*ratelimit.Policy{{p, shadow}, {shadow, p}} {
				if allowed, _ := hold(t, s, now, "x", order...); allowed {
					t.Fatalf("%s: admitted beside a policy in shadow", algorithm)
				}
				remaining(t, s, now, shadow, 3)
			}
		}
	}
}

func shadowSlots(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	p := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1, Shadow: true})
	hold(t, s, now, "a", p)
	for range 2 {
		if allowed, takes := hold(t, s, now, "b", p); !allowed || takes[0].Decision.Allowed {
			t.Fatalf("the second of one: allowed %t, %+v", allowed, takes[0].Decision)
		}
	}
	free(t, s, now, p, "b")
	remaining(t, s, now, p, 0)
	free(t, s, now, p, "a")
	remaining(t, s, now, p, 1)
}

func shadowBecomesReal(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, shadow := range shadows(t, 2) {
		of := ratelimit.Policy{Scope: shadow.Scope, Name: shadow.Name, Quota: shadow.Quota, Window: shadow.Window, Algorithm: shadow.Algorithm, Concurrent: shadow.Concurrent}
		hold(t, s, now, "a", shadow)
		hold(t, s, now, "b", shadow)
		if allowed, _ := hold(t, s, now, "c", prepare(t, of)); allowed {
			t.Fatalf("%s: what was used in shadow was forgotten", shadow.Name)
		}
	}
}
