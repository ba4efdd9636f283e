package ratelimit_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/storetest"
)

func TestMemoryStore(t *testing.T) {
	storetest.RateLimit(t, func(*testing.T) ratelimit.Store { return ratelimit.NewMemoryStore(1 << 14) })
}

func prepare(t testing.TB, p ratelimit.Policy) *ratelimit.Policy {
	t.Helper()
	prepared, err := p.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

func TestMemoryStoreForgetsNobodyWhileThereIsRoom(t *testing.T) {
	const keys = 10_000 // of 16,384
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 1, Window: time.Hour}), time.Now()
	store := ratelimit.NewMemoryStore(1 << 14)
	forgotten := 0
	for round := range 2 {
		for i := range keys {
			takes := []ratelimit.Take{{Policy: p, Key: strconv.Itoa(i), Cost: 1}}
			allowed, err := store.Take(context.Background(), takes, now)
			if err != nil {
				t.Fatal(err)
			}
			if round == 1 && allowed {
				forgotten++
			}
		}
	}
	if forgotten > keys/100 {
		t.Errorf("%d of %d callers were forgotten in a table that is 61%% full", forgotten, keys)
	}
}

func TestMemoryStoreUsesExpiredSlotsAgain(t *testing.T) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second}), time.Now()
	store := ratelimit.NewMemoryStore(1024)
	for i := range 100_000 {
		now = now.Add(time.Millisecond) // a slot is in debt for 100 ms: 100 at a time
		takes := []ratelimit.Take{{Policy: p, Key: strconv.Itoa(i), Cost: 1}}
		if allowed, err := store.Take(context.Background(), takes, now); err != nil || !allowed {
			t.Fatal(allowed, err)
		}
	}
	// A key has its place in one group, and groups are chosen by a hash with a seed of
	// its own: now and then all of one group's are in debt. Were expired slots not
	// used again, nearly every take would evict.
	if n := store.Evicted(); n > 10 {
		t.Errorf("%d callers in debt were evicted while nine tenths of the table were free", n)
	}
}

func TestMemoryStoreTakesWithoutAllocating(t *testing.T) {
	ctx, now := context.Background(), time.Now()
	store := ratelimit.NewMemoryStore(1 << 14)
	a := prepare(t, ratelimit.Policy{Name: "a", Quota: 1000, Window: time.Minute})
	b := prepare(t, ratelimit.Policy{Name: "b", Quota: 1000, Window: time.Hour})
	c := prepare(t, ratelimit.Policy{Name: "c", Quota: 1000, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	d := prepare(t, ratelimit.Policy{Name: "d", Quota: 1000, Window: ratelimit.Month, Algorithm: ratelimit.FixedWindow})
	e := prepare(t, ratelimit.Policy{Name: "e", Concurrent: 10})
	for _, takes := range [][]ratelimit.Take{
		{{Policy: a, Key: "k", Cost: 1}},
		{{Policy: a, Key: "k", Cost: 1}, {Policy: b, Key: "k", Cost: 1}, {Policy: b, Key: "l", Cost: 1}},
		{{Policy: c, Key: "k", Cost: 1}},
		{{Policy: a, Key: "k", Cost: 1}, {Policy: c, Key: "k", Cost: 1}, {Policy: d, Key: "k", Cost: 1}, {Policy: e, Key: "k", ID: "x", Cost: 1}},
	} {
		if n := testing.AllocsPerRun(100, func() { _, _ = store.Take(ctx, takes, now) }); n != 0 {
			t.Errorf("%d takes: %v allocations, want none", len(takes), n)
		}
	}
}

func TestMemoryStoreEvictsOnlyForWhatStays(t *testing.T) {
	ctx, now := context.Background(), time.Now()
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Hour})
	q := prepare(t, ratelimit.Policy{Name: "q", Quota: 1, Window: time.Hour})
	full := func() *ratelimit.MemoryStore {
		s := ratelimit.NewMemoryStore(16)
		for i := range 1000 {
			if _, err := s.Take(ctx, []ratelimit.Take{{Policy: p, Key: strconv.Itoa(i), Cost: 10}}, now); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	t.Run("not for units given back to who owes none", func(t *testing.T) {
		s := full()
		before := s.Evicted()
		for i := range 100 {
			if err := s.Settle(ctx, []ratelimit.Take{{Policy: p, Key: "r" + strconv.Itoa(i), Cost: -1}}, now); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Evicted() - before; n != 0 {
			t.Errorf("%d blocked callers were forgotten", n)
		}
	})
	t.Run("not for takes that another policy refuses", func(t *testing.T) {
		s := full()
		if allowed, err := s.Take(ctx, []ratelimit.Take{{Policy: q, Key: "v", Cost: 1}}, now); !allowed || err != nil {
			t.Fatal(allowed, err)
		}
		before := s.Evicted()
		for i := range 100 {
			allowed, err := s.Take(ctx, []ratelimit.Take{{Policy: p, Key: "n" + strconv.Itoa(i), Cost: 1}, {Policy: q, Key: "v", Cost: 2}}, now)
			if allowed || err != nil {
				t.Fatal(allowed, err)
			}
		}
		if n := s.Evicted() - before; n != 0 {
			t.Errorf("%d evictions were counted for calls that took nothing", n)
		}
	})
}

func TestFullIsWhenNothingIsUsed(t *testing.T) {
	ctx := context.Background()
	for _, p := range []ratelimit.Policy{
		{Name: "a", Quota: 10, Window: time.Minute},
		{Name: "b", Quota: 7, Window: time.Second, Burst: 3},
		{Name: "c", Quota: 200000, Window: time.Minute, Unit: "tokens"},
		{Name: "d", Quota: 1, Window: 24 * time.Hour},
		{Name: "e", Quota: 7, Window: time.Minute, Algorithm: ratelimit.SlidingWindow},
		{Name: "f", Quota: 10, Window: time.Hour, Algorithm: ratelimit.FixedWindow},
		{Name: "g", Quota: 10, Window: ratelimit.Month, Algorithm: ratelimit.FixedWindow},
	} {
		policy := prepare(t, p)
		store := ratelimit.NewMemoryStore(64)
		takes := []ratelimit.Take{{Policy: policy, Key: "k"}}
		peek := func(at time.Time) *ratelimit.Take {
			t.Helper()
			takes[0].Cost = 0
			if _, err := store.Take(ctx, takes, at); err != nil {
				t.Fatal(err)
			}
			return &takes[0]
		}
		now := time.Now()
		if full := peek(now).Decision.Full; full != 0 {
			t.Errorf("%v: full in %v when nothing is used, want 0", p, full)
		}
		for _, cost := range []int64{1, takes[0].Burst() / 2, 2 * takes[0].Burst()} { // the last puts it into debt
			takes[0].Cost = cost
			if err := store.Settle(ctx, takes, now); err != nil {
				t.Fatal(err)
			}
			full := peek(now).Decision.Full
			if left := peek(now.Add(full)).Decision; left.Remaining != takes[0].Burst() || left.Reset != 0 {
				t.Errorf("%v: after %d, full in %v: %+v then, want all of it", p, cost, full, left)
			}
			if left := peek(now.Add(full - 1)).Decision; full > 0 && left.Remaining == takes[0].Burst() {
				t.Errorf("%v: after %d, full in %v, and a nanosecond before it is, too", p, cost, full)
			}
		}
	}
}

// reference is a store as simple as can be: one map, one call at a time.
type reference struct {
	states map[string]ratelimit.State
	slots  map[string]map[string]bool
}

func referenceKey(t *ratelimit.Take) string {
	return fmt.Sprintf("%q %q %q %q %q", t.Policy.Scope, t.Policy.Name, t.Policy.Unit, t.Policy.Algorithm, t.Key)
}

// take returns whether all were taken, and what each take is to be told.
func (r *reference) take(takes []ratelimit.Take, now int64) (bool, []ratelimit.Decision) {
	states, slots := map[string]ratelimit.State{}, map[string]map[string]bool{}
	decisions, allowed := make([]ratelimit.Decision, len(takes)), true
	for i := range takes {
		t, k := &takes[i], referenceKey(&takes[i])
		if _, begun := states[k]; !begun {
			states[k], slots[k] = r.states[k], map[string]bool{}
			for id := range r.slots[k] {
				slots[k][id] = true
			}
		}
		cost := t.Cost
		if t.Policy.Concurrent > 0 {
			states[k] = ratelimit.State{Used: int64(len(slots[k]))}
			if slots[k][t.ID] {
				cost = 0
			}
		}
		var next ratelimit.State
		if next, decisions[i] = t.Policy.Decide(states[k], cost, now); !decisions[i].Allowed {
			allowed = allowed && t.Policy.Shadow
			continue
		}
		switch {
		case t.Cost <= 0:
		case t.Policy.Concurrent > 0:
			slots[k][t.ID] = true
		default:
			states[k] = next
		}
	}
	if allowed {
		for k := range states {
			r.states[k], r.slots[k] = states[k], slots[k]
		}
		return true, decisions
	}
	for i := range takes { // nothing was taken, so all that was left is left
		k, was := referenceKey(&takes[i]), decisions[i]
		s := r.states[k]
		if takes[i].Policy.Concurrent > 0 {
			s = ratelimit.State{Used: int64(len(r.slots[k]))}
		}
		_, decisions[i] = takes[i].Policy.Decide(s, 0, now)
		decisions[i].Allowed, decisions[i].RetryAfter = was.Allowed, was.RetryAfter
	}
	return false, decisions
}

func (r *reference) settle(t *ratelimit.Take, now int64) {
	k := referenceKey(t)
	if t.Policy.Concurrent == 0 {
		r.states[k] = t.Policy.Settle(r.states[k], t.Cost, t.Taken, now)
	} else if t.Cost < 0 {
		delete(r.slots[k], t.ID)
	}
}

// shared are policies some of which share a count: a changed quota, a shadow.
func shared(t testing.TB) []*ratelimit.Policy {
	t.Helper()
	var policies []*ratelimit.Policy
	for _, algorithm := range []string{ratelimit.TokenBucket, ratelimit.SlidingWindow, ratelimit.FixedWindow} {
		for _, quota := range []int64{6, 9} {
			for _, shadow := range []bool{false, true} {
				policies = append(policies, prepare(t, ratelimit.Policy{Name: "p", Quota: quota, Window: time.Minute, Algorithm: algorithm, Shadow: shadow}))
			}
		}
	}
	for _, n := range []int64{2, 3} {
		for _, shadow := range []bool{false, true} {
			policies = append(policies, prepare(t, ratelimit.Policy{Name: "slots", Concurrent: n, Shadow: shadow}))
		}
	}
	return policies
}

// TestMemoryStoreAnswersAsOneMapWould runs random calls of several takes, with the
// same count in one call more than once, beside a store as simple as can be.
func TestMemoryStoreAnswersAsOneMapWould(t *testing.T) {
	random, ctx, policies := rand.New(rand.NewPCG(3, 4)), context.Background(), shared(t)
	store, plain := ratelimit.NewMemoryStore(1<<12), &reference{map[string]ratelimit.State{}, map[string]map[string]bool{}}
	now := time.Now().Round(0)
	var old []ratelimit.Take
	for round := range 50_000 {
		now = now.Add(time.Duration(random.Int64N(int64(8 * time.Second))))
		takes := make([]ratelimit.Take, 1+random.IntN(4))
		for i := range takes {
			takes[i] = ratelimit.Take{Policy: policies[random.IntN(len(policies))], Key: strconv.Itoa(random.IntN(2)), ID: strconv.Itoa(random.IntN(5)), Cost: max(random.Int64N(8)-2, -1)}
		}
		wantAllowed, want := plain.take(takes, now.UnixNano())
		allowed, err := store.Take(ctx, takes, now)
		if err != nil || allowed != wantAllowed || allowed != ratelimit.Allowed(takes) {
			t.Fatalf("round %d: allowed %t, %v, want %t", round, allowed, err, wantAllowed)
		}
		for i := range takes {
			if takes[i].Decision != want[i] {
				t.Fatalf("round %d, allowed %t, take %d of %v, cost %d:\n got %+v\nwant %+v", round, allowed, i, takes[i].Policy, takes[i].Cost, takes[i].Decision, want[i])
			}
			if allowed && takes[i].Decision.Allowed {
				old = append(old, takes[i])
			}
		}
		for len(old) > 0 && random.IntN(3) > 0 {
			at := random.IntN(len(old))
			tk := old[at]
			old[at], old = old[len(old)-1], old[:len(old)-1]
			if tk.Cost = random.Int64N(9) - 6; tk.Policy.Concurrent > 0 {
				tk.Cost = -1
			}
			plain.settle(&tk, now.UnixNano())
			if err := store.Settle(ctx, []ratelimit.Take{tk}, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	held := 0
	for _, ids := range plain.slots {
		held += len(ids)
	}
	if store.Held() != held || store.Evicted() != 0 {
		t.Errorf("%d slots are held, want %d; %d counts were evicted, want none", store.Held(), held, store.Evicted())
	}
}

func TestMemoryStoreHoldsNothingWhenAllAreDone(t *testing.T) {
	store, policies, now := ratelimit.NewMemoryStore(1<<10), shared(t), time.Now()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(5, uint64(worker)))
			var old []ratelimit.Take
			for i := range 2000 {
				id := fmt.Sprint(worker, " ", i)
				takes := make([]ratelimit.Take, 1+random.IntN(5))
				for j := range takes {
					takes[j] = ratelimit.Take{Policy: policies[random.IntN(len(policies))], Key: strconv.Itoa(random.IntN(20)), ID: id, Cost: random.Int64N(2)}
				}
				allowed, err := store.Take(context.Background(), takes, now.Add(time.Duration(i)*time.Second))
				if err != nil {
					t.Error(err)
				}
				if allowed {
					old = append(old, takes...)
				}
				for n := len(old); n > 0 && (n > 10 || i == 1999); n = len(old) {
					tk := old[n-1]
					old, tk.Cost = old[:n-1], -1
					if err := store.Settle(context.Background(), []ratelimit.Take{tk}, now); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := store.Held(); n != 0 {
		t.Errorf("%d slots are held when all requests are done", n)
	}
}

func TestMemoryStoreOutlivesAnyClock(t *testing.T) {
	ctx := context.Background()
	for _, p := range append(shared(t), extremes(t)...) {
		store := ratelimit.NewMemoryStore(0)
		for _, now := range []time.Time{{}, time.Unix(0, 0), time.Unix(0, math.MaxInt64), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Now()} {
			takes := []ratelimit.Take{{Policy: p, Key: "k", ID: "x", Cost: 1}}
			if _, err := store.Take(ctx, takes, now); err != nil {
				t.Fatal(err)
			}
			d := takes[0].Decision
			if d.Remaining < 0 || d.Remaining > max(p.Burst, p.Concurrent) || d.Reset < 0 || d.Full < d.Reset || d.RetryAfter < 0 {
				t.Errorf("%v at %v: %+v", p, now, d)
			}
			if err := store.Settle(ctx, takes, now); err != nil {
				t.Fatal(err)
			}
		}
	}
}
