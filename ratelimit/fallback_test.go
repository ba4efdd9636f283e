package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// absent is a store that can be away.
type absent struct {
	*ratelimit.MemoryStore
	away    bool
	settled int // takes
}

var errAway = errors.New("away")

func (s *absent) Take(ctx context.Context, takes []ratelimit.Take, now time.Time) (bool, error) {
	if s.away {
		return false, errAway
	}
	return s.MemoryStore.Take(ctx, takes, now)
}

func (s *absent) Settle(ctx context.Context, takes []ratelimit.Take, now time.Time) error {
	if s.away {
		return errAway
	}
	s.settled += len(takes)
	return s.MemoryStore.Settle(ctx, takes, now)
}

func fallback(t *testing.T, s *absent, mode ratelimit.OnFailure, instances int) *ratelimit.Fallback {
	t.Helper()
	f, err := ratelimit.NewFallback(ratelimit.FallbackOptions{Shared: s, OnFailure: mode, Instances: func() int { return instances }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFallback(t *testing.T) {
	ctx, now := context.Background(), time.Now()
	bucket := prepare(t, ratelimit.Policy{Name: "b", Quota: 12, Window: time.Minute})
	take := func(t *testing.T, f *ratelimit.Fallback, p *ratelimit.Policy) (bool, ratelimit.Take, error) {
		t.Helper()
		takes := []ratelimit.Take{{Policy: p, Key: "k", ID: fmt.Sprint(time.Now().UnixNano()), Cost: 1}}
		allowed, err := f.Take(ctx, takes, now)
		return allowed, takes[0], err
	}
	t.Run("asks the shared store while it is there", func(t *testing.T) {
		s := &absent{MemoryStore: ratelimit.NewMemoryStore(0)}
		f := fallback(t, s, "", 4)
		if allowed, tk, err := take(t, f, bucket); !allowed || err != nil || tk.Mode != ratelimit.Shared || tk.Decision.Remaining != 11 {
			t.Errorf("%t %v %+v", allowed, err, tk)
		}
	})
	for _, c := range []struct {
		policy ratelimit.Policy
		want   int // admitted by one of four instances
	}{
		{ratelimit.Policy{Name: "b", Quota: 12, Window: time.Minute}, 3},
		{ratelimit.Policy{Name: "b", Quota: 12, Window: time.Minute, Burst: 40}, 10},
		{ratelimit.Policy{Name: "f", Quota: 12, Window: time.Hour, Algorithm: ratelimit.FixedWindow}, 3},
		{ratelimit.Policy{Name: "s", Quota: 12, Window: time.Hour, Algorithm: ratelimit.SlidingWindow}, 3},
		{ratelimit.Policy{Name: "c", Concurrent: 9}, 2},
		{ratelimit.Policy{Name: "one", Quota: 2, Window: time.Minute}, 1}, // at least one
	} {
		t.Run(fmt.Sprintf("enforces this instance's share of %v alone", c.policy), func(t *testing.T) {
			f := fallback(t, &absent{away: true}, ratelimit.FailLocal, 4)
			p, admitted := prepare(t, c.policy), 0
			for range 50 {
				allowed, tk, err := take(t, f, p)
				if err != nil || tk.Mode != ratelimit.Local {
					t.Fatalf("%v %+v", err, tk)
				}
				if allowed {
					admitted++
				}
			}
			if admitted != c.want {
				t.Errorf("admitted %d, want %d", admitted, c.want)
			}
		})
	}
	t.Run("admits what the policy would admit, however small the share", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailLocal, 4)
		for _, p := range []*ratelimit.Policy{
			prepare(t, ratelimit.Policy{Name: "b", Quota: 1200, Window: time.Minute}),
			prepare(t, ratelimit.Policy{Name: "f", Quota: 1200, Window: time.Minute, Algorithm: ratelimit.FixedWindow}),
		} {
			for i, want := range []bool{true, false} { // the first is owed: a share has 300
				takes := []ratelimit.Take{{Policy: p, Key: "k", Cost: 1000}}
				allowed, err := f.Take(ctx, takes, now)
				if d := takes[0].Decision; allowed != want || err != nil || !allowed && d.RetryAfter <= 0 {
					t.Errorf("%s, take %d: %t %v %+v", p.Name, i, allowed, err, d)
				}
			}
			takes := []ratelimit.Take{{Policy: p, Key: "l", Cost: 1201}}
			if allowed, _ := f.Take(ctx, takes, now); allowed || takes[0].Decision.RetryAfter != weir.Never {
				t.Errorf("%s: a cost above the burst: %+v", p.Name, takes[0].Decision)
			}
		}
	})
	t.Run("does not overflow", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailLocal, 10_000)
		p, admitted := prepare(t, ratelimit.Policy{Name: "y", Quota: 1, Window: ratelimit.Year}), 0
		for range 1000 {
			if allowed, _, _ := take(t, f, p); allowed {
				admitted++
			}
		}
		if admitted != 1 {
			t.Errorf("admitted %d", admitted)
		}
	})
	t.Run("begins with its part of what was left", func(t *testing.T) {
		for _, algorithm := range []string{ratelimit.TokenBucket, ratelimit.FixedWindow, ratelimit.SlidingWindow} {
			s := &absent{MemoryStore: ratelimit.NewMemoryStore(0)}
			f := fallback(t, s, ratelimit.FailLocal, 4)
			p := prepare(t, ratelimit.Policy{Name: "p", Quota: 60, Window: 24 * time.Hour, Algorithm: algorithm})
			for range 33 {
				_, _, _ = take(t, f, p)
			}
			back := []ratelimit.Take{{Policy: p, Key: "k", Cost: -1}} // which leaves 28
			if err := f.Settle(ctx, back, now); err != nil {
				t.Fatal(err)
			}
			s.away = true
			admitted := 0
			for range 20 {
				if allowed, _, _ := take(t, f, p); allowed {
					admitted++
				}
			}
			if admitted != 6 { // a fourth of 27, for a share is never raised
				t.Errorf("%s: admitted %d", algorithm, admitted)
			}
		}
	})
	t.Run("collects no debt in shadow", func(t *testing.T) {
		s := &absent{MemoryStore: ratelimit.NewMemoryStore(0)}
		f := fallback(t, s, ratelimit.FailLocal, 8)
		shadow := prepare(t, ratelimit.Policy{Name: "p", Quota: 60, Window: time.Minute, Shadow: true})
		for i := range 7200 {
			takes := []ratelimit.Take{{Policy: shadow, Key: "k", Cost: 1}}
			if _, err := f.Take(ctx, takes, now.Add(time.Duration(i)*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		s.away = true
		takes := []ratelimit.Take{{Policy: prepare(t, ratelimit.Policy{Name: "p", Quota: 60, Window: time.Minute}), Key: "k", Cost: 1}}
		if allowed, err := f.Take(ctx, takes, now.Add(2*time.Hour)); !allowed || err != nil {
			t.Errorf("%t %v %+v", allowed, err, takes[0].Decision)
		}
	})
	t.Run("admits little more with a store that comes and goes", func(t *testing.T) {
		s := &absent{MemoryStore: ratelimit.NewMemoryStore(0)}
		f := fallback(t, s, ratelimit.FailLocal, 1)
		p, admitted := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second}), 0
		for i := range 60 * 40 { // a minute, 40 a second, every second take without the store
			s.away = i%2 == 1
			takes := []ratelimit.Take{{Policy: p, Key: "k", Cost: 1}}
			if allowed, _ := f.Take(ctx, takes, now.Add(time.Duration(i)*25*time.Millisecond)); allowed {
				admitted++
			}
		}
		if most := 10 + 60*10 + 20; admitted > most {
			t.Errorf("admitted %d, want at most %d", admitted, most)
		}
	})
	t.Run("gives a share back as slowly as it is small", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailLocal, 4)
		var last ratelimit.Take
		for range 4 {
			_, last, _ = take(t, f, bucket)
		}
		if want := 20 * time.Second; last.Decision.RetryAfter != want { // 12 a minute are 3 a minute
			t.Errorf("retry after %v, want %v", last.Decision.RetryAfter, want)
		}
	})
	t.Run("lets everything through, and decides nothing", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailOpen, 4)
		for range 50 {
			allowed, tk, err := take(t, f, bucket)
			if !allowed || err != nil || tk.Mode != ratelimit.Open || tk.Decision != (ratelimit.Decision{}) {
				t.Fatalf("%t %v %+v", allowed, err, tk)
			}
			if ratelimit.Refusal([]ratelimit.Take{tk}) != nil {
				t.Fatal("what is let through counts as refused")
			}
		}
	})
	t.Run("returns the store's error", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailClosed, 4)
		if allowed, _, err := take(t, f, bucket); allowed || !errors.Is(err, errAway) {
			t.Errorf("%t %v", allowed, err)
		}
	})
	t.Run("does not take a caller that left for a store that is away", func(t *testing.T) {
		f := fallback(t, &absent{away: true}, ratelimit.FailOpen, 1)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if allowed, err := f.Take(gone, []ratelimit.Take{{Policy: bucket, Key: "k", Cost: 1}}, now); allowed || err == nil {
			t.Errorf("%t %v", allowed, err)
		}
	})
	t.Run("settles each take where it was decided", func(t *testing.T) {
		s := &absent{MemoryStore: ratelimit.NewMemoryStore(0)}
		f := fallback(t, s, ratelimit.FailLocal, 4)
		_, there, _ := take(t, f, bucket)
		s.away = true
		var local []ratelimit.Take
		for range 3 {
			_, tk, _ := take(t, f, bucket)
			local = append(local, tk)
		}
		s.away = false
		there.Cost = -1
		for i := range local {
			local[i].Cost = -1
		}
		if err := f.Settle(ctx, slices.Concat(local, []ratelimit.Take{there}), now); err != nil {
			t.Fatal(err)
		}
		if s.settled != 1 {
			t.Errorf("%d takes were settled in the shared store, want 1", s.settled)
		}
		s.away = true
		if allowed, tk, _ := take(t, f, bucket); !allowed || tk.Decision.Remaining != 2 {
			t.Errorf("the local share was not given back: %+v", tk.Decision)
		}
	})
	t.Run("refuses modes that it does not know", func(t *testing.T) {
		_, err := ratelimit.NewFallback(ratelimit.FallbackOptions{Shared: &absent{}, OnFailure: "maybe"})
		if err == nil || err.Error() != `on_failure: "maybe": want local, open or closed` {
			t.Error(err)
		}
	})
}
