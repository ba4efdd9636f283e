package ratelimit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// settle corrects the count of "k".
func settle(t testing.TB, l *Leases, cost int64, p *Policy) Decision {
	t.Helper()
	takes := []Take{{Policy: p, Key: "k", Cost: cost}}
	if err := l.Settle(context.Background(), takes, time.Now()); err != nil {
		t.Fatal(err)
	}
	return takes[0].Decision
}

func TestLeasesSettle(t *testing.T) {
	t.Run("what is given back serves the next take, without a call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			drain(t, l, "k", p)
			calls := shared.grants
			if d := settle(t, l, -2, p); d.Remaining != 2 {
				t.Errorf("%+v, want 2 left", d)
			}
			if n, _ := drain(t, l, "k", p); n != 2 || shared.grants != calls {
				t.Errorf("admitted %d after 2 were given back, with %d calls", n, shared.grants-calls)
			}
		})
	})
	t.Run("what is charged later is taken from what is held, then from the store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			takeCost(t, l, "k", 1, p)
			settle(t, l, 3, p)
			if got := shared.used("pk"); got != 10*time.Millisecond {
				t.Errorf("the store knows of %v at once", got)
			}
			time.Sleep(flushAfter)
			synctest.Wait()
			if got := shared.used("pk"); got != 30*time.Millisecond {
				t.Errorf("the store knows of %v after the flush, want 30ms", got)
			}
		})
	})
}

func TestLeasesSettleInTheStore(t *testing.T) {
	t.Run("large corrections arrive at once, also of what was never leased", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			if allowed, _ := takeCost(t, l, "k", 60, p); !allowed || shared.strict != 1 {
				t.Fatal("a cost above what a lease can hold is a strict take")
			}
			if d := settle(t, l, -50, p); d.Remaining != 90 {
				t.Errorf("%+v, want 90 left", d)
			}
			settle(t, l, 20, p)
			if got := shared.used("pk"); got != 300*time.Millisecond || shared.strict != 1 {
				t.Errorf("the store knows of %v, want 300ms", got)
			}
			settle(t, l, -1<<63, p)
			settle(t, l, 1<<63-1, p)
			if _, takes := takeCost(t, l, "k", 60, p); takes[0].Decision.Allowed || takes[0].Decision.RetryAfter <= 0 {
				t.Errorf("after the largest charge: %+v", takes[0].Decision)
			}
		})
	})
	t.Run("strict policies are settled as ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, p := open(t, newCentre()), ready(t, Policy{Name: "p", Quota: 10, Window: time.Second})
			takeCost(t, l, "k", 6, p)
			settle(t, l, -4, p)
			if _, takes := takeCost(t, l, "k", 0, p); takes[0].Decision.Remaining != 8 {
				t.Errorf("%+v, want 8 left", takes[0].Decision)
			}
		})
	})
}

func TestLeasesSettleInTheEnd(t *testing.T) {
	t.Run("Close settles the rest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			l, p := open(t, shared), ready(t, tenth("p"))
			takeCost(t, l, "k", 1, p)
			settle(t, l, 3, p)
			if err := l.Close(t.Context()); err != nil || shared.used("pk") != 40*time.Millisecond {
				t.Errorf("%v, the store knows of %v", err, shared.used("pk"))
			}
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestLeasesSettleThroughFailures(t *testing.T) {
	t.Run("when nobody knows whether it arrived, charges are repeated and the rest is not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			shared := newCentre()
			seen := make(chan error, 10)
			l, err := NewLeases(LeaseOptions{Shared: shared, Observe: func(err error) { seen <- err }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close(context.Background()) }()
			p := ready(t, tenth("p"))
			for _, c := range []struct {
				cost int64
				want time.Duration
			}{{3, 630 * time.Millisecond}, {-3, 600 * time.Millisecond}} {
				shared.set("pk", 600*time.Millisecond+2*flushAfter)
				shared.leave(true)
				settle(t, l, c.cost, p)
				time.Sleep(flushAfter)
				synctest.Wait()
				if err := <-seen; !errors.Is(err, errAway) {
					t.Error(err)
				}
				shared.leave(false)
				time.Sleep(flushAfter)
				synctest.Wait()
				if got := shared.used("pk"); got != c.want {
					t.Errorf("%+d: the store knows of %v, want %v", c.cost, got, c.want)
				}
			}
		})
	})
}
