package ratelimit

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// kept is the lease of "k" as the shards have it now.
func kept(l *Leases, p *Policy) *lease {
	shard := &l.shards[l.shardOf(p.ready.id, "k")]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.leases[slotKey{p.ready.id, "k"}]
}

// slower is a tenth of tenth: 10 a second, so an interval of 100 ms.
func slower(name string) Policy {
	return Policy{Name: name, Quota: 10, Window: time.Second, Burst: 10, MaxExcess: 0.5}
}

func TestLeasesOfAPolicyThatChanges(t *testing.T) {
	t.Run("the debt stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, before := open(t, shared), ready(t, tenth("p"))
			drain(t, l, "k", before)
			after := ready(t, slower("p"))
			owed := shared.used("pk")
			want := owed + after.Interval() - time.Second
			if allowed, takes := takeCost(t, l, "k", 1, after); allowed || owed < time.Second || takes[0].Decision.RetryAfter != want {
				t.Errorf("%t %+v, want to wait %v: the debt of %v stays", allowed, takes[0].Decision, want, owed)
			}
		})
	})
	t.Run("what is owed is settled by the numbers that it was taken by", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, before, after := open(t, shared), ready(t, tenth("p")), ready(t, slower("p"))
			takeCost(t, l, "k", 1, before)
			settle(t, l, 3, before)
			takeCost(t, l, "k", 1, after)
			used := shared.used("pk")
			time.Sleep(flushAfter)
			synctest.Wait()
			if got, want := shared.used("pk")-used, 30*time.Millisecond-flushAfter; got != want {
				t.Errorf("the store learned of %v, want %v", got, want)
			}
		})
	})
	t.Run("also where a call with it fails meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, before, after := open(t, shared), ready(t, tenth("p")), ready(t, slower("p"))
			takeCost(t, l, "k", 1, before)
			settle(t, l, 3, before)
			shared.set("pk", 500*time.Millisecond)
			used := shared.used("pk")
			shared.mu.Lock()
			shared.travel = func() time.Duration { return 10 * time.Millisecond }
			shared.mu.Unlock()
			shared.leave(true)
			var wg sync.WaitGroup
			for _, p := range []*Policy{before, after} {
				wg.Go(func() {
					if _, err := l.Take(t.Context(), []Take{{Policy: p, Key: "k", Cost: 1}}, time.Now()); !errors.Is(err, errAway) {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			shared.leave(false)
			time.Sleep(2 * flushAfter)
			synctest.Wait()
			if got, want := shared.used("pk")-used+2*flushAfter+10*time.Millisecond, 30*time.Millisecond; got != want {
				t.Errorf("the store learned of %v, want %v", got, want)
			}
		})
	})
}

func TestLeasesOfAPolicyThatIsReadAgain(t *testing.T) {
	t.Run("what was granted by the same numbers is good, also while it is under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			shared.travel = func() time.Duration { return 10 * time.Millisecond }
			l := open(t, shared)
			var wg sync.WaitGroup
			for range 2 {
				p := ready(t, tenth("p"))
				wg.Go(func() {
					if allowed, takes := takeCost(t, l, "k", 1, p); !allowed {
						t.Errorf("%+v", takes[0])
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			if shared.grants != 2 {
				t.Errorf("%d calls, want one for each", shared.grants)
			}
		})
	})
	t.Run("requests of an old configuration settle and drop nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, before, after := open(t, shared), ready(t, tenth("p")), ready(t, slower("p"))
			shared.set("pk", 500*time.Millisecond)
			takeCost(t, l, "k", 1, before)
			takeCost(t, l, "k", 1, after)
			settle(t, l, -1, after) // it is held here
			held := kept(l, after).unused(l.clock())
			if held == 0 {
				t.Fatal("nothing is held")
			}
			for _, cost := range []int64{3, -4, 5} {
				used := shared.used("pk")
				settle(t, l, cost, before)
				time.Sleep(flushAfter)
				synctest.Wait()
				if got, want := shared.used("pk")-used+flushAfter, time.Duration(cost)*before.Interval(); got != want {
					t.Errorf("%+d: the store learned of %v, want %v", cost, got, want)
				}
				if of := kept(l, after); !of.policy.same(after) || of.unused(l.clock()) != held {
					t.Errorf("%+d: %d units are held by %v, want %d by %v", cost, of.unused(l.clock()), of.policy, held, after)
				}
			}
		})
	})
}

func TestLeasesAskInAFewRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for round := range 2 * leaseRounds {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			c := leaseTakes{Leases: l, takes: []Take{{Policy: p, Key: "k", Cost: 1}}, now: l.clock()}
			c.classify()
			if _, decided := c.try(round == 0); decided {
				t.Fatal("decided without units")
			}
			if err := c.ask(t.Context(), time.Now(), round); err != nil {
				t.Fatal(err)
			}
			want := 0
			if round < leaseRounds {
				want = 1
			}
			if shared.grants != want || (c.strict == 1) != (want == 0) {
				t.Errorf("round %d: %d calls, strict %b, want %d calls, else a strict take", round, shared.grants, c.strict, want)
			}
		}
	})
}
