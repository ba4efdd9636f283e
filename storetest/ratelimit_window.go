package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

func slidingCases() []rateLimitCase {
	return []rateLimitCase{
		{"frees what was used in the window before, bit by bit", slidingVectors},
		{"does not admit a second quota across an edge", slidingEdge},
		{"estimates exactly, and rounds up", slidingEstimate},
		{"tells exactly when a refused take is allowed", slidingRetryAfter},
		{"refuses a cost above the quota for ever", sliding(windowCostAboveQuota)},
		{"waits for what was charged beyond the quota", slidingOverdrawn},
		{"gives back to the window that the units were taken from", slidingRefunds},
		{"gives back nothing above the quota", sliding(windowRefundsAreBounded)},
		{"looks without taking at a cost of zero", sliding(windowPeek)},
	}
}

func fixedCases() []rateLimitCase {
	return []rateLimitCase{
		{"begins windows with those of UTC and of the calendar", fixedAligned},
		{"admits the quota on both sides of an edge", fixedEdge},
		{"refuses a cost above the quota for ever", fixed(windowCostAboveQuota)},
		{"waits for the edge, whatever was charged beyond the quota", fixedOverdrawn},
		{"gives back nothing to a window from the one before", fixedRefunds},
		{"gives back nothing above the quota", fixed(windowRefundsAreBounded)},
		{"looks without taking at a cost of zero", fixed(windowPeek)},
	}
}

// sliding and fixed make a case of one that holds for both.
func sliding(run func(*testing.T, ratelimit.Store, ratelimit.Policy)) func(*testing.T, ratelimit.Store) {
	return func(t *testing.T, s ratelimit.Store) {
		run(t, s, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	}
}

func fixed(run func(*testing.T, ratelimit.Store, ratelimit.Policy)) func(*testing.T, ratelimit.Store) {
	return func(t *testing.T, s ratelimit.Store) {
		run(t, s, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.FixedWindow})
	}
}

// remaining fails unless n units of the policy are left at now.
func remaining(t testing.TB, s ratelimit.Store, now time.Time, p *ratelimit.Policy, n int64) {
	t.Helper()
	if d := takeOne(t, s, now, 0, p); d.Remaining != n {
		t.Fatalf("policy %s: %d remain, want %d", p.Name, d.Remaining, n)
	}
}

// taken takes cost, which must be allowed, and returns the take, to be settled.
func taken(t testing.TB, s ratelimit.Store, now time.Time, cost int64, p *ratelimit.Policy) ratelimit.Take {
	t.Helper()
	allowed, takes := take(t, s, now, cost, p)
	if !allowed {
		t.Fatalf("a cost of %d was denied: %+v", cost, takes[0].Decision)
	}
	return takes[0]
}

// settleTake corrects what was taken by cost.
func settleTake(t testing.TB, s ratelimit.Store, now time.Time, tk ratelimit.Take, cost int64) {
	t.Helper()
	tk.Cost = cost
	if err := s.Settle(context.Background(), []ratelimit.Take{tk}, now); err != nil {
		t.Fatal(err)
	}
}

// The vectors of the sliding counter in limits' test_strategy.py: of three
// used in the window before, one comes back in every third of the present one.
func slidingVectors(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 5, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	begin := edge(time.Minute)
	for n, reset := range []time.Duration{90 * time.Second, 60 * time.Second, 50 * time.Second} {
		want(t, takeOne(t, s, begin.Add(-30*time.Second), 1, p), ratelimit.Decision{Allowed: true, Remaining: 4 - int64(n), Reset: reset})
	}
	for third := range int64(3) {
		at := begin.Add(time.Duration(third) * 20 * time.Second)
		want(t, takeOne(t, s, at, 0, p), ratelimit.Decision{Allowed: true, Remaining: 2 + third, Reset: 20 * time.Second})
		want(t, takeOne(t, s, at.Add(20*time.Second-time.Microsecond), 0, p), ratelimit.Decision{Allowed: true, Remaining: 2 + third, Reset: time.Microsecond})
	}
	want(t, takeOne(t, s, begin.Add(time.Minute), 0, p), ratelimit.Decision{Allowed: true, Remaining: 5})
	want(t, takeOne(t, s, begin.Add(20*time.Second), 4, p), ratelimit.Decision{Remaining: 3, Reset: 20 * time.Second, RetryAfter: 20 * time.Second})
	want(t, takeOne(t, s, begin.Add(20*time.Second), 3, p), ratelimit.Decision{Allowed: true, Reset: 20 * time.Second})
	want(t, takeOne(t, s, begin.Add(20*time.Second), 1, p), ratelimit.Decision{Reset: 20 * time.Second, RetryAfter: 20 * time.Second})
}

// Fixed windows admit twice the quota at once where two of them meet. A sliding
// one admits there what it would admit anywhere.
func slidingEdge(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	begin := edge(time.Minute)
	taken(t, s, begin.Add(-time.Microsecond), 10, p)
	want(t, takeOne(t, s, begin, 1, p), ratelimit.Decision{Reset: 6 * time.Second, RetryAfter: 6 * time.Second})
	want(t, takeOne(t, s, begin.Add(6*time.Second-time.Microsecond), 1, p), ratelimit.Decision{Reset: time.Microsecond, RetryAfter: time.Microsecond})
	for n := range time.Duration(10) {
		at := begin.Add((n + 1) * 6 * time.Second)
		taken(t, s, at, 1, p)
		if takeOne(t, s, at, 1, p).Allowed {
			t.Fatalf("admitted two units %v after an edge, where one had come back", at.Sub(begin))
		}
	}
}

func slidingEstimate(t *testing.T, s ratelimit.Store) {
	const quota, window = 10, int64(time.Minute / time.Microsecond)
	for _, before := range []int64{1, 3, 7, 10} {
		for _, now := range []int64{0, 2} {
			p := prepare(t, ratelimit.Policy{Name: fmt.Sprint(before, now), Quota: quota, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
			begin := edge(time.Minute)
			taken(t, s, begin.Add(-time.Second), before, p)
			settle(t, s, begin, now, p)
			for _, past := range []int64{0, 1, window/7 - 1, window / 7, window/7 + 1, window / 3, window / 2, window - 1} {
				used := now + (before*(window-past)+window-1)/window
				remaining(t, s, begin.Add(time.Duration(past)*time.Microsecond), p, max(quota-used, 0))
			}
		}
	}
}

func slidingRetryAfter(t *testing.T, s ratelimit.Store) {
	for _, c := range []struct {
		quota  int64
		window time.Duration
	}{{5, time.Minute}, {7, time.Minute}, {3, 100 * time.Millisecond}, {1, 24 * time.Hour}, {1000, time.Second}, {999_983, time.Hour}} {
		p := prepare(t, ratelimit.Policy{Name: fmt.Sprint(c), Quota: c.quota, Window: c.window, Algorithm: ratelimit.SlidingWindow})
		cost := max(c.quota/5, 1)
		now := edge(time.Second).Add(123_457 * time.Microsecond)
		for takeOne(t, s, now, cost, p).Allowed {
			now = now.Add(c.window / 100 / time.Microsecond * time.Microsecond)
		}
		for range 20 {
			wait := takeOne(t, s, now, cost, p).RetryAfter
			if wait <= 0 || wait%time.Microsecond != 0 {
				t.Fatalf("%v: denied with RetryAfter %v", p, wait)
			}
			if takeOne(t, s, now.Add(wait-time.Microsecond), cost, p).Allowed {
				t.Fatalf("%v: allowed a microsecond before RetryAfter %v", p, wait)
			}
			now = now.Add(wait)
			taken(t, s, now, cost, p)
			for takeOne(t, s, now, cost, p).Allowed {
				continue
			}
		}
	}
}

// Limiters are known whose windows admit any cost that is above the limit.
func windowCostAboveQuota(t *testing.T, s ratelimit.Store, of ratelimit.Policy) {
	p, now := prepare(t, of), edge(time.Minute)
	want(t, takeOne(t, s, now, 11, p), ratelimit.Decision{Remaining: 10, RetryAfter: weir.Never})
	if d := takeOne(t, s, now, 10, p); !d.Allowed || d.Remaining != 0 {
		t.Fatalf("after a cost above the quota: %+v", d)
	}
	if d := takeOne(t, s, now, 11, p); d.Allowed || d.RetryAfter != weir.Never {
		t.Fatalf("11 of 10 that are used up: %+v", d)
	}
}

func windowRefundsAreBounded(t *testing.T, s ratelimit.Store, of ratelimit.Policy) {
	p, now := prepare(t, of), edge(time.Minute)
	for _, cost := range []int64{-6, -1_000_000, -1 << 63} {
		settleTake(t, s, now, taken(t, s, now, 5, p), cost)
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 10})
	}
	taken(t, s, now, 10, p)
	if takeOne(t, s, now, 1, p).Allowed {
		t.Fatal("a refund above the quota was kept")
	}
}

func windowPeek(t *testing.T, s ratelimit.Store, of ratelimit.Policy) {
	p, now := prepare(t, of), edge(time.Minute)
	for range 10 {
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 10})
	}
	taken(t, s, now, 1, p)
	for range 10 {
		remaining(t, s, now, p, 9)
	}
}

func slidingOverdrawn(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	begin := edge(time.Minute)
	now := begin.Add(10 * time.Second)
	settleTake(t, s, now, taken(t, s, now, 4, p), 9)
	// 13 are 9 when nine thirteenths of their minute are still inside: 41.538461 s.
	wait := 50*time.Second + time.Minute - 41_538_461*time.Microsecond
	want(t, takeOne(t, s, now, 1, p), ratelimit.Decision{Reset: wait, RetryAfter: wait})
	if d := takeOne(t, s, now, 0, p); d.Allowed || d.RetryAfter <= 0 || d.RetryAfter > wait {
		t.Fatalf("a look at an overdrawn count: %+v", d)
	}
	if takeOne(t, s, now.Add(wait-time.Microsecond), 1, p).Allowed {
		t.Fatal("allowed a microsecond early")
	}
	taken(t, s, now.Add(wait), 1, p)
}

func slidingRefunds(t *testing.T, s ratelimit.Store) {
	policy := func(name string) *ratelimit.Policy {
		return prepare(t, ratelimit.Policy{Name: name, Quota: 10, Window: time.Minute, Algorithm: ratelimit.SlidingWindow})
	}
	begin := edge(time.Minute)

	same := policy("in the same window")
	settleTake(t, s, begin.Add(50*time.Second), taken(t, s, begin, 6, same), -4)
	remaining(t, s, begin.Add(50*time.Second), same, 8)

	across := policy("across an edge")
	tk := taken(t, s, begin.Add(-time.Second), 10, across)
	settleTake(t, s, begin, tk, -4)
	remaining(t, s, begin, across, 4)
	taken(t, s, begin, 4, across)
	settleTake(t, s, begin.Add(30*time.Second), tk, -6)
	remaining(t, s, begin.Add(30*time.Second), across, 6) // the four are of the present window
	settleTake(t, s, begin.Add(30*time.Second), tk, -6)
	remaining(t, s, begin.Add(30*time.Second), across, 6)

	gone := policy("two edges later")
	tk = taken(t, s, begin.Add(-time.Second), 10, gone)
	taken(t, s, begin.Add(59*time.Second), 3, gone)
	taken(t, s, begin.Add(time.Minute), 2, gone)
	settleTake(t, s, begin.Add(time.Minute), tk, -10)
	remaining(t, s, begin.Add(time.Minute), gone, 5)
}

func utc(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func fixedAligned(t *testing.T, s ratelimit.Store) {
	const day = 24 * time.Hour
	for i, c := range []struct {
		window     time.Duration
		begin, end string
	}{
		{time.Second, "2093-03-01 12:34:59", "2093-03-01 12:35:00"},
		{time.Minute, "2093-03-01 12:34:00", "2093-03-01 12:35:00"},
		{10 * time.Minute, "2093-03-01 12:30:00", "2093-03-01 12:40:00"},
		{time.Hour, "2093-03-01 23:00:00", "2093-03-02 00:00:00"},
		{day, "2093-03-01 00:00:00", "2093-03-02 00:00:00"},
		{day, "2092-02-29 00:00:00", "2092-03-01 00:00:00"},
		{7 * day, "2093-03-02 00:00:00", "2093-03-09 00:00:00"},
		{7 * day, "2092-12-29 00:00:00", "2093-01-05 00:00:00"},
		{ratelimit.Month, "2093-01-01 00:00:00", "2093-02-01 00:00:00"},
		{ratelimit.Month, "2093-02-01 00:00:00", "2093-03-01 00:00:00"},
		{ratelimit.Month, "2092-02-01 00:00:00", "2092-03-01 00:00:00"},
		{ratelimit.Month, "2093-04-01 00:00:00", "2093-05-01 00:00:00"},
		{ratelimit.Month, "2092-12-01 00:00:00", "2093-01-01 00:00:00"},
		{ratelimit.Year, "2092-01-01 00:00:00", "2093-01-01 00:00:00"},
		{ratelimit.Year, "2093-01-01 00:00:00", "2094-01-01 00:00:00"},
	} {
		p := prepare(t, ratelimit.Policy{Name: fmt.Sprint(i), Quota: 2, Window: c.window, Algorithm: ratelimit.FixedWindow})
		begin, end := utc(t, c.begin), utc(t, c.end)
		if c.window == 7*day && (begin.Weekday() != time.Monday || end.Weekday() != time.Monday) {
			t.Fatalf("%v to %v are no Mondays", begin, end)
		}
		length := end.Sub(begin)
		want(t, takeOne(t, s, begin, 1, p), ratelimit.Decision{Allowed: true, Remaining: 1, Reset: length})
		want(t, takeOne(t, s, end.Add(-time.Microsecond), 1, p), ratelimit.Decision{Allowed: true, Reset: time.Microsecond})
		want(t, takeOne(t, s, begin, 1, p), ratelimit.Decision{Reset: length, RetryAfter: length})
		want(t, takeOne(t, s, end.Add(-time.Microsecond), 1, p), ratelimit.Decision{Reset: time.Microsecond, RetryAfter: time.Microsecond})
		if d := takeOne(t, s, end, 2, p); !d.Allowed {
			t.Fatalf("%v from %v: denied at its end %v: %+v", c.window, begin, end, d)
		}
	}
}

func fixedEdge(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.FixedWindow})
	begin := edge(time.Minute)
	taken(t, s, begin.Add(-time.Microsecond), 10, p)
	want(t, takeOne(t, s, begin.Add(-time.Microsecond), 1, p), ratelimit.Decision{Reset: time.Microsecond, RetryAfter: time.Microsecond})
	taken(t, s, begin, 10, p)
	want(t, takeOne(t, s, begin, 1, p), ratelimit.Decision{Reset: time.Minute, RetryAfter: time.Minute})
}

func fixedOverdrawn(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.FixedWindow})
	begin := edge(time.Minute)
	settleTake(t, s, begin, taken(t, s, begin, 4, p), 1000)
	at := begin.Add(20 * time.Second)
	want(t, takeOne(t, s, at, 0, p), ratelimit.Decision{Reset: 40 * time.Second, RetryAfter: 40 * time.Second})
	taken(t, s, begin.Add(time.Minute), 10, p)
}

func fixedRefunds(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: ratelimit.FixedWindow})
	begin := edge(time.Minute)
	tk := taken(t, s, begin.Add(-time.Second), 10, p)
	settleTake(t, s, begin.Add(-time.Second), tk, -1)
	remaining(t, s, begin.Add(-time.Second), p, 1)
	taken(t, s, begin, 6, p)
	settleTake(t, s, begin.Add(time.Second), tk, -9)
	remaining(t, s, begin.Add(time.Second), p, 4)
	settleTake(t, s, begin.Add(time.Second), tk, 3) // what is charged is charged now
	remaining(t, s, begin.Add(time.Second), p, 1)
}
