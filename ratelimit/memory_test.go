package ratelimit_test

import (
	"context"
	"runtime"
	"strconv"
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

func TestMemoryStoreUnderAKeyFlood(t *testing.T) {
	ctx, now := context.Background(), time.Now()
	minute := prepare(t, ratelimit.Policy{Name: "minute", Quota: 10, Window: time.Minute})
	// The flood's policy has a window that is 1,440 times as long, so its debts
	// are larger in time and yet smaller in what they are worth.
	day := prepare(t, ratelimit.Policy{Name: "day", Quota: 10, Window: 24 * time.Hour})
	store := ratelimit.NewMemoryStore(1 << 14)
	victim := []ratelimit.Take{{Policy: minute, Key: "victim", Cost: 1}}
	for {
		allowed, err := store.Take(ctx, victim, now)
		if err != nil {
			t.Fatal(err)
		}
		if !allowed {
			break
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	flood := make([]ratelimit.Take, 1)
	for i := range 1_000_000 {
		flood[0] = ratelimit.Take{Policy: day, Key: strconv.Itoa(i), Cost: 1}
		if _, err := store.Take(ctx, flood, now); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if allowed, _ := store.Take(ctx, victim, now); allowed {
				t.Fatalf("the blocked caller was admitted after %d other keys", i)
			}
		}
	}
	if after := heap(); after > before+(64<<10) {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if store.Evicted() < 900_000 {
		t.Errorf("a million keys in a table of 16,384 evicted only %d", store.Evicted())
	}
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
	if n := store.Evicted(); n != 0 {
		t.Errorf("%d callers in debt were evicted while nine tenths of the table were free", n)
	}
}

func TestMemoryStoreTakesWithoutAllocating(t *testing.T) {
	ctx, now := context.Background(), time.Now()
	store := ratelimit.NewMemoryStore(1 << 14)
	a := prepare(t, ratelimit.Policy{Name: "a", Quota: 1000, Window: time.Minute})
	b := prepare(t, ratelimit.Policy{Name: "b", Quota: 1000, Window: time.Hour})
	for _, takes := range [][]ratelimit.Take{
		{{Policy: a, Key: "k", Cost: 1}},
		{{Policy: a, Key: "k", Cost: 1}, {Policy: b, Key: "k", Cost: 1}, {Policy: b, Key: "l", Cost: 1}},
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
