package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

func changeCases() []rateLimitCase {
	return []rateLimitCase{
		{"keeps the debt of a bucket", changedBucket},
		{"gives nothing back when quota or burst go down and up again", changedQuota},
		{"keeps the debt of a bucket when its window is changed", changedRate},
		{"counts windows of another length apart", changedWindow},
		{"counts anew when the algorithm is another", changedAlgorithm},
	}
}

func hostileCases() []rateLimitCase {
	return []rateLimitCase{
		{"costs that would overflow or credit change nothing", hostileCostsOfWindows},
		{"quotas that would overflow when multiplied by a window", hostileProducts},
		{"charges that would overflow block, and can be given back", hostileCharges},
		{"two clocks that differ get the quota once", clockSkew},
		{"two clocks on both sides of an edge do not open a second window", clocksAroundEdge},
		{"a clock that is behind counts the window before in full, and no more", clockBehind},
		{"a slot is held, whatever the clock says", clocksAndSlots},
	}
}

func changedBucket(t *testing.T, s ratelimit.Store) {
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

// Limiters are known that fill up again when a limit goes from 11 to 10, and
// that give 5 back when one goes from 10 to 5 and to 10 again.
func changedQuota(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, algorithm := range algorithms() {
		quota := func(n int64) *ratelimit.Policy {
			return prepare(t, ratelimit.Policy{Name: "p", Quota: n, Window: time.Hour / 10 * time.Duration(n), Algorithm: algorithm})
		}
		if algorithm != ratelimit.TokenBucket { // which keeps time, and so has the rate of 10 above
			quota = func(n int64) *ratelimit.Policy {
				return prepare(t, ratelimit.Policy{Name: "p", Quota: n, Window: time.Hour, Algorithm: algorithm})
			}
		}
		taken(t, s, now, 11, quota(11))
		for _, n := range []int64{11, 10, 5, 10, 1, 11} {
			for range 2 {
				remaining(t, s, now, quota(n), 0)
			}
			if takeOne(t, s, now, 1, quota(n)).Allowed {
				t.Fatalf("%s: a change to %d gave units back", algorithm, n)
			}
		}
		if algorithm != ratelimit.TokenBucket {
			remaining(t, s, now, quota(20), 9)
			remaining(t, s, now, quota(11), 0)
		}
	}
}

// obeys fails unless a unit is denied now and admitted when that says.
func obeys(t testing.TB, s ratelimit.Store, now time.Time, p *ratelimit.Policy) {
	t.Helper()
	d := takeOne(t, s, now, 1, p)
	if d.Allowed || d.RetryAfter <= 0 {
		t.Fatalf("%s, %v: want it denied for a while: %+v", p.Algorithm, p, d)
	}
	if then := takeOne(t, s, now.Add(d.RetryAfter), 1, p); !then.Allowed {
		t.Fatalf("%s, %v: denied after the advised %v: %+v", p.Algorithm, p, d.RetryAfter, then)
	}
}

func changedRate(t *testing.T, s ratelimit.Store) {
	now := edge(24 * time.Hour).Add(5*time.Hour + 3*time.Second)
	long := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 24 * time.Hour})
	short := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute})
	taken(t, s, now, 10, long)
	for range 3 {
		remaining(t, s, now, short, 0)
		remaining(t, s, now, long, 0)
	}
	if takeOne(t, s, now, 1, long).Allowed {
		t.Fatal("a shorter window for a moment gave units back")
	}
	wait := takeOne(t, s, now, 1, short).RetryAfter
	if takeOne(t, s, now.Add(wait-time.Microsecond), 1, short).Allowed {
		t.Fatalf("admitted before the advised %v", wait)
	}
	obeys(t, s, now, short)
}

// What was used today does not keep anybody out of the next minutes for a day, and
// is not forgotten either.
func changedWindow(t *testing.T, s ratelimit.Store) {
	now := edge(24 * time.Hour).Add(5*time.Hour + 3*time.Second)
	for _, algorithm := range algorithms()[1:] {
		day := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 24 * time.Hour, Algorithm: algorithm})
		minute := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Minute, Algorithm: algorithm})
		taken(t, s, now, 10, day)
		taken(t, s, now, 10, minute)
		obeys(t, s, now, minute)
		if d := takeOne(t, s, now, 1, minute); d.RetryAfter > 2*time.Minute {
			t.Fatalf("%s: to wait for %v in a window of a minute", algorithm, d.RetryAfter)
		}
		if takeOne(t, s, now.Add(time.Minute), 1, day).Allowed {
			t.Fatalf("%s: a shorter window for a while gave units back", algorithm)
		}
	}
}

func changedAlgorithm(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, algorithm := range algorithms() {
		p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Hour, Algorithm: algorithm})
		remaining(t, s, now, p, 10)
		taken(t, s, now, 10, p)
	}
}

func hostileCostsOfWindows(t *testing.T, s ratelimit.Store) {
	now := edge(24 * time.Hour).Add(time.Hour)
	for _, algorithm := range algorithms()[1:] {
		for _, p := range []*ratelimit.Policy{
			prepare(t, ratelimit.Policy{Name: "day", Quota: 1, Window: 24 * time.Hour, Algorithm: algorithm}),
			prepare(t, ratelimit.Policy{Name: "hour", Quota: 10, Window: time.Hour, Algorithm: algorithm}),
		} {
			taken(t, s, now, p.Quota, p)
			before := takeOne(t, s, now, 0, p)
			for _, cost := range []int64{106_751, 106_752, 26_000_000, 1 << 40, 1<<63 - 1} {
				if d := takeOne(t, s, now, cost, p); d.Allowed || d.RetryAfter != weir.Never {
					t.Fatalf("%s, %v: cost %d: %+v", algorithm, p, cost, d)
				}
			}
			for _, cost := range []int64{-1, -1_000_000, -1 << 63} {
				takeOne(t, s, now, cost, p)
			}
			want(t, takeOne(t, s, now, 0, p), before)
			if takeOne(t, s, now, 1, p).Allowed {
				t.Fatalf("%s, %v: hostile costs opened it", algorithm, p)
			}
		}
	}
}

// 200,000 times a day in nanoseconds overflows 64 bits, and so does 3,000,000
// times an hour: limiters are known whose second window then admits everything.
func hostileProducts(t *testing.T, s ratelimit.Store) {
	for _, c := range []struct {
		quota  int64
		window time.Duration
	}{{200_000, 24 * time.Hour}, {3_000_000, time.Hour}, {999_999_999_999_999, 366 * 24 * time.Hour}, {1_000_000, time.Millisecond}} {
		p := prepare(t, ratelimit.Policy{Name: fmt.Sprint(c), Quota: c.quota, Window: c.window, Algorithm: ratelimit.SlidingWindow})
		begin := edge(c.window)
		taken(t, s, begin.Add(-time.Microsecond), c.quota, p)
		if d := takeOne(t, s, begin, 1, p); d.Allowed || d.Remaining != 0 {
			t.Fatalf("%v: the second window begins open: %+v", p, d)
		}
		remaining(t, s, begin.Add(c.window/2), p, c.quota/2)
		taken(t, s, begin.Add(c.window/2), c.quota/2, p)
		if d := takeOne(t, s, begin.Add(c.window/2), 1+c.quota%2, p); d.Allowed {
			t.Fatalf("%v: admitted more than half in half of the second window: %+v", p, d)
		}
	}
}

func hostileCharges(t *testing.T, s ratelimit.Store) {
	now := edge(time.Hour)
	for _, algorithm := range algorithms() {
		p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Hour, Algorithm: algorithm})
		for range 4 {
			settle(t, s, now, 1<<63-1, p)
			if d := takeOne(t, s, now, 1, p); d.Allowed || d.RetryAfter <= 0 || d.Remaining != 0 {
				t.Fatalf("%s: after the largest charge: %+v", algorithm, d)
			}
		}
		for range 2 { // one may leave a part of a unit
			settle(t, s, now, -1<<63, p)
		}
		want(t, takeOne(t, s, now, 0, p), ratelimit.Decision{Allowed: true, Remaining: 10})
	}
}

// Two nodes whose clocks differ alternate: what is admitted in t is at most
// burst + rate*(t+skew), where limiters are known that admit everything.
func clockSkew(t *testing.T, s ratelimit.Store) {
	const skew = 5 * time.Second
	for _, p := range []*ratelimit.Policy{
		prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second, Burst: 50}),
		prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second, Algorithm: ratelimit.SlidingWindow}),
		prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: time.Second, Algorithm: ratelimit.FixedWindow}),
	} {
		now, admitted := edge(time.Second), 0
		for i := range 1000 {
			at := now.Add(time.Duration(i) * 10 * time.Millisecond)
			if i%2 == 1 {
				at = at.Add(-skew)
			}
			if takeOne(t, s, at, 1, p).Allowed {
				admitted++
			}
		}
		if most := int(p.Burst) + 10*(10+5); admitted > most || admitted < 80 {
			t.Errorf("%s: admitted %d in 10 s with a skew of %v, want 80 to %d", p.Algorithm, admitted, skew, most)
		}
	}
}

func clocksAroundEdge(t *testing.T, s ratelimit.Store) {
	begin := edge(time.Minute)
	behind, ahead := begin.Add(-time.Second), begin.Add(4*time.Second)
	for _, c := range []struct {
		algorithm string
		most      int
	}{{ratelimit.TokenBucket, 3}, {ratelimit.SlidingWindow, 3}, {ratelimit.FixedWindow, 6}} {
		for name, clocks := range map[string][2]time.Time{"behind first": {behind, ahead}, "ahead first": {ahead, behind}} {
			p := prepare(t, ratelimit.Policy{Name: name, Quota: 3, Window: time.Minute, Algorithm: c.algorithm})
			admitted, most := 0, c.most
			for round := range 40 {
				// Each clock has its turn to be refused before the other goes on.
				if takeOne(t, s, clocks[round/4%2], 1, p).Allowed {
					admitted++
				}
			}
			if name == "ahead first" {
				most = 3 // the later window is the only one
			}
			if admitted != most {
				t.Errorf("%s, %s: admitted %d of a quota of 3, want %d", c.algorithm, name, admitted, most)
			}
		}
	}
}

func clockBehind(t *testing.T, s ratelimit.Store) {
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 10, Window: 2 * time.Second, Algorithm: ratelimit.SlidingWindow})
	begin := edge(2 * time.Second)
	taken(t, s, begin.Add(-time.Second), 4, p)
	taken(t, s, begin, 1, p)
	remaining(t, s, begin.Add(time.Second), p, 7)
	for _, behind := range []time.Duration{-time.Microsecond, -time.Second, -5 * time.Second} {
		remaining(t, s, begin.Add(behind), p, 5)
	}
}

func clocksAndSlots(t *testing.T, s ratelimit.Store) {
	p, now := prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1}), start()
	holds(t, s, now, p, "a", 0)
	for _, skew := range []time.Duration{-5 * time.Second, 5 * time.Second, 0} {
		waits(t, s, now.Add(skew), p, "b")
		holds(t, s, now.Add(skew), p, "a", 0)
	}
	free(t, s, now.Add(-5*time.Second), p, "a")
	holds(t, s, now, p, "b", 0)
}
