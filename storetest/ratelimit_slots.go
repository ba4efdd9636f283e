package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

func slotCases() []rateLimitCase {
	return []rateLimitCase{
		{"lets as many run at a time as it says", slotsExactly},
		{"gives one request one slot, however often it asks", slotsByID},
		{"frees a slot once, and only for who holds it", slotsFreedOnce},
		{"counts a request as one, whatever it costs", slotsCostOne},
		{"keeps the slots of callers and policies apart", slotsApart},
		{"looks without an ID and without taking at a cost of zero", slotsPeek},
		{"holds nothing for a request that another policy denies", slotsAllOrNothing},
		{"needs an ID", slotsNeedID},
		{"lets holders run on when the number changes", slotsChanged},
	}
}

// hold asks for a slot of each policy for the request id and the key "k".
func hold(t testing.TB, s ratelimit.Store, now time.Time, id string, policies ...*ratelimit.Policy) (bool, []ratelimit.Take) {
	t.Helper()
	takes := make([]ratelimit.Take, len(policies))
	for i, p := range policies {
		takes[i] = ratelimit.Take{Policy: p, Key: "k", ID: id, Cost: 1}
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

// holds fails unless the request id gets, or has, its slot, and n are left then.
func holds(t testing.TB, s ratelimit.Store, now time.Time, p *ratelimit.Policy, id string, n int64) {
	t.Helper()
	_, takes := hold(t, s, now, id, p)
	want(t, takes[0].Decision, ratelimit.Decision{Allowed: true, Remaining: n, Reset: ratelimit.SlotRetry})
}

// waits fails unless the request id finds all slots held.
func waits(t testing.TB, s ratelimit.Store, now time.Time, p *ratelimit.Policy, id string) {
	t.Helper()
	_, takes := hold(t, s, now, id, p)
	want(t, takes[0].Decision, ratelimit.Decision{Reset: ratelimit.SlotRetry, RetryAfter: ratelimit.SlotRetry})
}

func free(t testing.TB, s ratelimit.Store, now time.Time, p *ratelimit.Policy, id string) {
	t.Helper()
	if err := s.Settle(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: id, Cost: -1}}, now); err != nil {
		t.Fatal(err)
	}
}

func slotsExactly(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 3}), start()
	want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 3})
	holds(t, s, now, p, "a", 2)
	holds(t, s, now, p, "b", 1)
	holds(t, s, now, p, "c", 0)
	for range 3 {
		waits(t, s, now, p, "d")
	}
	free(t, s, now, p, "b")
	holds(t, s, now, p, "d", 0)
	waits(t, s, now, p, "b")
	for _, id := range []string{"a", "c", "d"} {
		free(t, s, now, p, id)
	}
	want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 3})
}

func slotsByID(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2}), start()
	for range 5 {
		holds(t, s, now, p, "a", 1)
	}
	if allowed, _ := hold(t, s, now, "a", p, p); !allowed {
		t.Fatal("who holds a slot was denied it")
	}
	holds(t, s, now, p, "b", 0)
	for range 5 {
		holds(t, s, now, p, "a", 0) // also when all are held
	}
	free(t, s, now, p, "a")
	holds(t, s, now, p, "c", 0)
}

func slotsFreedOnce(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2}), start()
	holds(t, s, now, p, "a", 1)
	holds(t, s, now, p, "b", 0)
	for range 3 {
		free(t, s, now, p, "never held")
	}
	waits(t, s, now, p, "c")
	for range 3 {
		free(t, s, now, p, "a")
	}
	holds(t, s, now, p, "c", 0)
	waits(t, s, now, p, "d")
	free(t, s, now, p, "d") // asked, and got none
	waits(t, s, now, p, "e")
}

func slotsCostOne(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2}), start()
	for i, cost := range []int64{7, 1<<63 - 1} {
		takes := []ratelimit.Take{{Policy: p, Key: "k", ID: fmt.Sprint(i), Cost: cost}}
		if allowed, err := s.Take(context.Background(), takes, now); err != nil || !allowed {
			t.Fatalf("a cost of %d: allowed %t, error %v", cost, allowed, err)
		}
		if err := s.Settle(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: fmt.Sprint(i), Cost: cost}}, now); err != nil {
			t.Fatal(err)
		}
		remaining(t, s, now, p, int64(1-i)) // a charge is nothing to a slot
	}
	for i, cost := range []int64{-7, -1 << 63} {
		takes := []ratelimit.Take{{Policy: p, Key: "k", ID: "x", Cost: cost}}
		if _, err := s.Take(context.Background(), takes, now); err != nil {
			t.Fatal(err)
		}
		remaining(t, s, now, p, int64(i)) // taking less than nothing gives nothing
		takes[0].ID = fmt.Sprint(i)
		if err := s.Settle(context.Background(), takes, now); err != nil {
			t.Fatal(err)
		}
		remaining(t, s, now, p, int64(i+1))
	}
}

func slotsApart(t *testing.T, s ratelimit.Store) {
	now := start()
	for _, scope := range []string{"plan:a", "plan:a_b"} {
		for _, name := range []string{"b_c", "c"} {
			p := prepare(t, ratelimit.Policy{Scope: scope, Name: name, Concurrent: 1})
			for _, key := range []string{"", "x", "x:y", "x\x00"} {
				// The ID, too, may look like a part of the key.
				for _, id := range []string{"y:z", "z"} {
					takes := []ratelimit.Take{{Policy: p, Key: key, ID: id, Cost: 1}}
					allowed, err := s.Take(context.Background(), takes, now)
					if err != nil || allowed != (id == "y:z") {
						t.Fatalf("scope %q name %q key %q ID %q: allowed %t, error %v", scope, name, key, id, allowed, err)
					}
				}
			}
		}
	}
}

func slotsPeek(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2}), start()
	holds(t, s, now, p, "a", 1)
	for range 5 {
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 1, Reset: ratelimit.SlotRetry})
	}
	holds(t, s, now, p, "b", 0)
	want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Reset: ratelimit.SlotRetry})
}

func slotsAllOrNothing(t *testing.T, s ratelimit.Store) {
	now := edge(time.Minute)
	two := prepare(t, ratelimit.Policy{Name: "two", Concurrent: 2})
	for _, algorithm := range algorithms() {
		units := prepare(t, ratelimit.Policy{Name: "units", Quota: 3, Window: time.Hour, Algorithm: algorithm})
		for i, order := range [][]*ratelimit.Policy{{two, units}, {units, two}} {
			if allowed, _ := hold(t, s, now, "a", order...); !allowed {
				t.Fatalf("%s: denied", algorithm)
			}
			holds(t, s, now, two, "b", 0)
			if allowed, _ := hold(t, s, now, "c", order...); allowed {
				t.Fatalf("%s: the third of two runs", algorithm)
			}
			remaining(t, s, now, units, 2-int64(i)) // a denied slot took no unit
			free(t, s, now, two, "a")
			free(t, s, now, two, "b")
		}
		taken(t, s, now, 1, units)
		for _, order := range [][]*ratelimit.Policy{{two, units}, {units, two}} {
			allowed, takes := hold(t, s, now, "d", order...)
			if allowed {
				t.Fatalf("%s: the fourth of three units was admitted", algorithm)
			}
			for _, tk := range takes {
				if tk.Policy == two {
					want(t, tk.Decision, ratelimit.Decision{Allowed: true, Remaining: 2})
				}
			}
			remaining(t, s, now, two, 2) // a denied unit held no slot
		}
	}
}

func slotsNeedID(t *testing.T, s ratelimit.Store) {
	p, q, ctx := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2}), prepare(t, ratelimit.Policy{Name: "q", Quota: 2, Window: time.Hour}), context.Background()
	takes := []ratelimit.Take{{Policy: q, Key: "k", Cost: 1}, {Policy: p, Key: "k", Cost: 1}}
	if allowed, err := s.Take(ctx, takes, start()); err == nil || allowed {
		t.Errorf("Take: allowed %t, error %v", allowed, err)
	}
	takes[1].Cost = -1
	if err := s.Settle(ctx, takes, start()); err == nil {
		t.Error("Settle: no error")
	}
	remaining(t, s, start(), p, 2)
	remaining(t, s, start(), q, 2)
}

func slotsChanged(t *testing.T, s ratelimit.Store) {
	three, one, five := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 3}), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1}), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 5})
	now := start()
	for n, id := range []string{"a", "b", "c"} {
		holds(t, s, now, three, id, int64(2-n))
	}
	waits(t, s, now, one, "d")
	holds(t, s, now, one, "a", 0) // has one
	holds(t, s, now, five, "d", 1)
	holds(t, s, now, five, "e", 0)
	waits(t, s, now, five, "f")
	for _, id := range []string{"a", "b", "c", "d"} {
		free(t, s, now, five, id)
		waits(t, s, now, one, "f")
	}
	free(t, s, now, one, "e")
	holds(t, s, now, one, "f", 0)
}
