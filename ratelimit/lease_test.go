package ratelimit

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
)

func ready(t testing.TB, p Policy) *Policy {
	t.Helper()
	prepared, err := p.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

// tenth is 100 a second with a burst of 100, of which leases may exceed 10: a
// slack of 100 ms.
func tenth(name string) Policy {
	return Policy{Name: name, Quota: 100, Window: time.Second, MaxExcess: 0.1}
}

func open(t testing.TB, shared Granter) *Leases {
	t.Helper()
	l, err := NewLeases(LeaseOptions{Shared: shared})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

func takeCost(t testing.TB, s Store, key string, cost int64, policies ...*Policy) (bool, []Take) {
	t.Helper()
	takes := make([]Take, len(policies))
	for i, p := range policies {
		takes[i] = Take{Policy: p, Key: key, Cost: cost}
	}
	allowed, err := s.Take(context.Background(), takes, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return allowed, takes
}

// drain takes until it is denied.
func drain(t testing.TB, s Store, key string, p *Policy) (n int, last Decision) {
	t.Helper()
	for {
		allowed, takes := takeCost(t, s, key, 1, p)
		if !allowed {
			return n, takes[0].Decision
		}
		if n++; n > 100_000 {
			t.Fatal("it never denies")
		}
	}
}

// lendCase is one call of Lend for a count of 100 a second with a burst of 100:
// an interval of 10 ms, a capacity of 1 s, and a slack of 100 ms.
type lendCase struct {
	name   string
	before Account
	ask    Grant
	want   Grant
	after  Account
}

const lendNow = 1_800_000_000_000_000_000

func lendCases() []lendCase {
	const now = lendNow
	ms := func(n int64) int64 { return n * int64(time.Millisecond) }
	return []lendCase{
		{
			"an unused count gives one part in eight of the burst", Account{},
			Grant{Cost: 1, Want: 50}, Grant{Units: 12, Eligible: -990 * time.Millisecond, Valid: 100 * time.Millisecond, Full: 120 * time.Millisecond},
			Account{At: now + ms(120), Lent: now + ms(120)},
		},
		{
			"no more than there is a use for", Account{},
			Grant{Cost: 2, Want: 3}, Grant{Units: 3, Eligible: -990 * time.Millisecond, Valid: 100 * time.Millisecond, Full: 30 * time.Millisecond},
			Account{At: now + ms(30), Lent: now + ms(30)},
		},
		{
			"a full count gives ahead of time", Account{At: now + ms(1000), Lent: now + ms(950)},
			Grant{Cost: 1, Want: 50}, Grant{Units: 5, Eligible: 10 * time.Millisecond, Valid: 1050 * time.Millisecond, Full: 1050 * time.Millisecond},
			Account{At: now + ms(1050), Lent: now + ms(1000)},
		},
		{
			"two slacks ahead nothing is given", Account{At: now + ms(1195), Lent: now + ms(1100)},
			Grant{Cost: 1, Want: 50}, Grant{Units: 0, Eligible: 205 * time.Millisecond, Valid: 1200 * time.Millisecond, Full: 1195 * time.Millisecond},
			Account{At: now + ms(1195), Lent: now + ms(1100)},
		},
		{
			"nothing is given that runs out before it is eligible", Account{At: now + ms(1110), Lent: now},
			Grant{Cost: 1, Want: 50}, Grant{Units: 0, Eligible: 120 * time.Millisecond, Valid: 100 * time.Millisecond, Full: 1110 * time.Millisecond},
			Account{At: now + ms(1110), Lent: now},
		},
		{
			"units given back come before the grant", Account{At: now + ms(900)},
			Grant{Owed: -50, Cost: 1, Want: 1}, Grant{Units: 1, Eligible: -590 * time.Millisecond, Valid: 100 * time.Millisecond, Full: 410 * time.Millisecond},
			Account{At: now + ms(410), Lent: now + ms(10)},
		},
		{
			"what is lent is not given back", Account{At: now + ms(900), Lent: now + ms(700)},
			Grant{Owed: -50}, Grant{Eligible: -290 * time.Millisecond, Valid: 800 * time.Millisecond, Full: 700 * time.Millisecond},
			Account{At: now + ms(700), Lent: now + ms(700)},
		},
		{
			"what a strict store gave back of it is undone", Account{At: now + ms(100), Lent: now + ms(700)},
			Grant{}, Grant{Eligible: -290 * time.Millisecond, Valid: 800 * time.Millisecond, Full: 700 * time.Millisecond},
			Account{At: now + ms(700), Lent: now + ms(700)},
		},
		{
			"a cost above the burst is nothing", Account{},
			Grant{Cost: 101, Want: 200}, Grant{Eligible: -990 * time.Millisecond, Valid: 100 * time.Millisecond},
			Account{At: now, Lent: now},
		},
	}
}

func TestLend(t *testing.T) {
	p := ready(t, tenth("p"))
	for _, c := range lendCases() {
		t.Run(c.name, func(t *testing.T) {
			got := c.ask
			got.Policy = p
			after := p.Lend(c.before, &got, lendNow)
			want := c.want
			want.Policy, want.Owed, want.Cost, want.Want = p, c.ask.Owed, c.ask.Cost, c.ask.Want
			if got != want {
				t.Errorf("grant\n got %+v\nwant %+v", got, want)
			}
			if after != c.after {
				t.Errorf("account\n got %+v\nwant %+v", after, c.after)
			}
		})
	}
}

func TestCheckGrants(t *testing.T) {
	p := ready(t, tenth("p"))
	t.Run("refuses what cannot be granted", func(t *testing.T) {
		strict := ready(t, Policy{Name: "p", Quota: 5, Window: time.Minute})
		small := ready(t, Policy{Name: "p", Quota: 5, Window: time.Minute, MaxExcess: 0.1})
		for _, grants := range [][]Grant{{{}}, {{Policy: &Policy{}}}, {{Policy: strict}}, {{Policy: small}}, make([]Grant, MaxGrants+1)} {
			if err := CheckGrants(grants); err == nil {
				t.Errorf("%d grants, %+v: no error", len(grants), grants[0])
			}
		}
		if err := CheckGrants([]Grant{{Policy: p}}); err != nil {
			t.Error(err)
		}
	})
}

func TestLeasesDecideLocally(t *testing.T) {
	t.Run("a take that is denied costs no call, and its advice is exact", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			n, d := drain(t, l, "k", p)
			if n != 100 {
				t.Fatalf("admitted %d at once, want the burst of 100", n)
			}
			for range 50 {
				calls := shared.grants
				for range 10 {
					if allowed, takes := takeCost(t, l, "k", 1, p); allowed || takes[0].Decision != d {
						t.Fatalf("the same moment: %t %+v, before %+v", allowed, takes[0].Decision, d)
					}
				}
				if shared.grants != calls {
					t.Fatalf("%d calls for takes that were denied", shared.grants-calls)
				}
				if d.RetryAfter != 10*time.Millisecond || d.Remaining != 0 {
					t.Fatalf("%+v, want to wait 10ms", d)
				}
				time.Sleep(d.RetryAfter - time.Nanosecond)
				if allowed, _ := takeCost(t, l, "k", 1, p); allowed {
					t.Fatal("allowed a nanosecond before")
				}
				time.Sleep(time.Nanosecond)
				if allowed, _ := takeCost(t, l, "k", 1, p); !allowed {
					t.Fatal("denied after waiting as told")
				}
				_, takes := takeCost(t, l, "k", 1, p)
				d = takes[0].Decision
			}
		})
	})
}

func TestLeasesAdviseOneAlone(t *testing.T) {
	t.Run("a client alone that waits as told is admitted, however far the store is", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const travel = 20 * time.Millisecond
			shared := newCentre()
			shared.travel = func() time.Duration { return travel }
			l := open(t, shared)
			for _, p := range []*Policy{ready(t, tenth("p")), ready(t, Policy{Name: "q", Quota: 60, Window: time.Minute, Burst: 3, MaxExcess: 0.05})} {
				for round := range 40 {
					cost := 1 + int64(round%3)
					start := time.Now()
					allowed, takes := takeCost(t, l, p.Name, cost, p)
					took, wait := time.Since(start), takes[0].Decision.RetryAfter
					if took > 2*travel {
						t.Fatalf("a take took %v: more than one call", took)
					}
					if allowed {
						continue
					}
					// A strict take, at the moment that the answer came, would know this.
					if exact := shared.used(p.Name+p.Name) - time.Duration(p.Burst)*p.Interval(); wait > exact+time.Duration(cost)*p.Interval()+2*travel {
						t.Fatalf("told to wait %v, want at most the travel more than %v", wait, exact)
					}
					time.Sleep(wait)
					if allowed, takes := takeCost(t, l, p.Name, cost, p); !allowed {
						t.Fatalf("%v: waited %v for %d as told, and then %+v", p, wait, cost, takes[0].Decision)
					}
				}
			}
		})
	})
}

func TestLeasesLookAndRefuse(t *testing.T) {
	t.Run("a cost above the burst is never allowed", func(t *testing.T) {
		l, p := open(t, newCentre()), ready(t, tenth("p"))
		for _, cost := range []int64{101, 1 << 40, 1<<63 - 1} {
			if _, takes := takeCost(t, l, "k", cost, p); takes[0].Decision.RetryAfter != weir.Never {
				t.Errorf("cost %d: %+v", cost, takes[0].Decision)
			}
		}
	})
	t.Run("a look takes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			for range 10 {
				if _, takes := takeCost(t, l, "k", 0, p); takes[0].Decision != (Decision{Allowed: true, Remaining: 100}) {
					t.Fatalf("%+v", takes[0].Decision)
				}
			}
			takeCost(t, l, "k", 1, p)
			want := Decision{Allowed: true, Remaining: 99, Reset: 10 * time.Millisecond, Full: 10 * time.Millisecond}
			for range 10 {
				if _, takes := takeCost(t, l, "k", 0, p); takes[0].Decision != want {
					t.Fatalf("%+v", takes[0].Decision)
				}
			}
			if shared.grants != 2 {
				t.Errorf("%d calls, want one for the first look and one for the take", shared.grants)
			}
		})
	})
	t.Run("allocates nothing while units are held", func(t *testing.T) {
		l, clock := fast(t)
		p := ready(t, Policy{Name: "p", Quota: 1_000_000, Window: time.Second, MaxExcess: 0.5})
		q := ready(t, Policy{Name: "q", Quota: 1_000_000, Window: time.Second, MaxExcess: 0.5})
		takes := []Take{{Policy: p, Key: "k", Cost: 1}, {Policy: q, Key: "k", Cost: 1}}
		for n := 1; n <= 2; n++ {
			for range 100_000 { // until the rate is known
				*clock = clock.Add(10 * time.Microsecond)
				if _, err := l.Take(t.Context(), takes[:n], *clock); err != nil {
					t.Fatal(err)
				}
			}
			least := 1.0 // of a few runs, for one may need a grant
			for range 5 {
				least = min(least, testing.AllocsPerRun(100, func() { _, _ = l.Take(t.Context(), takes[:n], *clock) }))
			}
			if least != 0 {
				t.Errorf("%d takes: %v allocations", n, least)
			}
		}
	})
}

// fast are leases from a store that is near, by a clock that the test moves.
func fast(t testing.TB) (*Leases, *time.Time) {
	clock := time.Now()
	shared := newCentre()
	shared.now = func() int64 { return clock.UnixNano() }
	l, err := NewLeases(LeaseOptions{Shared: shared, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l, &clock
}

func TestLeasesTakeAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCentre()
		l := open(t, shared)
		leased, other := ready(t, tenth("leased")), ready(t, Policy{Name: "other", Quota: 10, Window: time.Second, MaxExcess: 0.2})
		strict := ready(t, Policy{Name: "strict", Quota: 3, Window: time.Hour})
		take := func(keys ...string) (bool, []Take) {
			takes := []Take{{Policy: leased, Key: keys[0], Cost: 1}, {Policy: other, Key: keys[1], Cost: 1}, {Policy: strict, Key: keys[2], Cost: 1}}
			allowed, err := l.Take(t.Context(), takes, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if allowed != Allowed(takes) {
				t.Fatalf("Take returned %t, but its decisions say %t", allowed, !allowed)
			}
			return allowed, takes
		}
		for n := range 3 {
			if allowed, takes := take("a", "b", "c"); !allowed || takes[2].Decision.Remaining != int64(2-n) {
				t.Fatalf("take %d: %+v", n, takes)
			}
		}
		t.Log("a strict policy that denies leaves the leased ones as they were")
		for range 200 {
			if allowed, takes := take("a", "b", "c"); allowed || takes[0].Decision.Remaining != 97 || !takes[1].Decision.Allowed || takes[2].Decision.RetryAfter <= 0 {
				t.Fatalf("%t %+v", allowed, takes)
			}
		}
		t.Log("a leased policy that denies asks nobody")
		for range 7 {
			take("a", "b", "d")
		}
		for range 10 {
			takeCost(t, l, "b", 1, other)
		}
		calls := shared.strict + shared.grants
		allowed, takes := take("a", "b", "new")
		if allowed || takes[1].Decision.RetryAfter <= 0 || takes[2].Mode != Unasked || !takes[2].Decision.Allowed {
			t.Fatalf("%t %+v", allowed, takes)
		}
		if n := shared.strict + shared.grants - calls; n != 0 {
			t.Errorf("%d calls for a take that is denied here", n)
		}
		t.Log("and takes that are used again are asked again")
		time.Sleep(time.Second)
		if allowed, err := l.Take(t.Context(), takes, time.Now()); !allowed || err != nil || takes[2].Mode != Shared {
			t.Errorf("%t %v %+v", allowed, err, takes)
		}
	})
}

func TestLeasesInShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, newCentre())
		shadow := tenth("shadow")
		shadow.Shadow = true
		p, q := ready(t, shadow), ready(t, Policy{Name: "q", Quota: 1000, Window: time.Second, MaxExcess: 0.1})
		denied := 0
		for n := range 500 {
			allowed, takes := takeCost(t, l, "k", 1, p, q)
			if !allowed || !takes[1].Decision.Allowed {
				t.Fatalf("take %d was kept from the other policy: %+v", n, takes)
			}
			if !takes[0].Decision.Allowed {
				denied++
			}
		}
		if denied != 400 {
			t.Errorf("the shadow denies %d of 500, want 400", denied)
		}
	})
}

func TestLeasesWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newCentre()
		l, p := open(t, shared), ready(t, tenth("p"))
		for range 3 {
			takeCost(t, l, "k", 1, p)
			time.Sleep(10 * time.Millisecond)
		}
		shard := &l.shards[l.shardOf(p.ready.id, "k")]
		held := int(shard.leases[slotKey{p.ready.id, "k"}].unused(l.clock()))
		if held == 0 {
			t.Fatal("nothing is held")
		}
		shared.leave(true)
		admitted := 0
		var failed error
		for failed == nil {
			var allowed bool
			if allowed, failed = l.Take(t.Context(), []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now()); allowed {
				admitted++
			}
		}
		if !errors.Is(failed, errAway) || admitted != held {
			t.Errorf("admitted %d of the %d that were held, then %v", admitted, held, failed)
		}
		shared.leave(false)
		if allowed, _ := takeCost(t, l, "k", 1, p); !allowed {
			t.Error("denied when the store is back")
		}
	})
}

func TestLeasesShareCalls(t *testing.T) {
	t.Run("callers that need the same grant make one call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			shared.travel = func() time.Duration { return 10 * time.Millisecond }
			l, p := open(t, shared), ready(t, Policy{Name: "p", Quota: 1000, Window: time.Second, MaxExcess: 0.1})
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if allowed, _ := takeCost(t, l, "k", 1, p); !allowed {
						t.Error("denied")
					}
				})
			}
			wg.Wait()
			if shared.grants > 2 {
				t.Errorf("%d calls for 100 callers, want one for the first and one for the others", shared.grants)
			}
		})
	})
	t.Run("a caller that leaves does not end the call of the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			shared.travel = func() time.Duration { return 10 * time.Millisecond }
			l, p := open(t, shared), ready(t, tenth("p"))
			leaves, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = l.Take(leaves, []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now()) })
			synctest.Wait()
			wg.Go(func() {
				if allowed, _ := takeCost(t, l, "k", 1, p); !allowed {
					t.Error("denied")
				}
			})
			synctest.Wait()
			cancel()
			follows, giveUp := context.WithTimeout(t.Context(), time.Millisecond)
			defer giveUp()
			if _, err := l.Take(follows, []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a follower that gives up: %v", err)
			}
			wg.Wait()
		})
	})
}

func TestLeasesOfAStoreThatPanics(t *testing.T) {
	t.Run("a store that panics leaves nobody waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			shared.travel = func() time.Duration { return 10 * time.Millisecond }
			shared.away = func() bool { panic("a bug") }
			l, p := open(t, shared), ready(t, tenth("p"))
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic was lost")
					}
				}()
				_, _ = l.Take(t.Context(), []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now())
			})
			synctest.Wait()
			if _, err := l.Take(t.Context(), []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now()); !errors.Is(err, errLeaseCall) {
				t.Errorf("the follower got %v", err)
			}
			wg.Wait()
		})
	})
}

func TestLeasesAreBounded(t *testing.T) {
	const keys = 1 << 10
	shared := newCentre()
	l, err := NewLeases(LeaseOptions{Shared: shared, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	p := ready(t, tenth("p"))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			takeCost(t, l, strconv.Itoa(i), 1, p)
			clear(shared.accounts)
			takeCost(t, l, "hot", 1, p)
		}
	}
	flood(0, 2*keys)
	before := heap()
	flood(2*keys, 20*keys)
	if after := heap(); after > before+(256<<10) {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].leases)
	}
	if n > keys || l.Evicted() < 18*keys {
		t.Errorf("%d counts are held, and %d had to go; want at most %d", n, l.Evicted(), keys)
	}
	if shard := &l.shards[l.shardOf(p.ready.id, "hot")]; shard.leases[slotKey{p.ready.id, "hot"}] == nil {
		t.Error("the count that is used most had to go")
	}
}

func BenchmarkLeases(b *testing.B) {
	l, clock := fast(b)
	p := ready(b, Policy{Name: "p", Quota: 10_000_000, Window: time.Second, MaxExcess: 0.5})
	takes := []Take{{Policy: p, Key: "ip:192.0.2.1", Cost: 1}}
	b.ReportAllocs()
	for b.Loop() {
		*clock = clock.Add(time.Microsecond)
		if _, err := l.Take(b.Context(), takes, *clock); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(l.Calls())/float64(b.N), "calls/op")
}
