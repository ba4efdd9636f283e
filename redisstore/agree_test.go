package redisstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

func TestAgreesWithMemory(t *testing.T) {
	t.Run("decides in every case as memory does", func(t *testing.T) {
		agrees(t, openWithTime(t, storetest.Redis(t).URL()), true)
	})
	t.Run("decides on a cluster in every case as memory does", func(t *testing.T) {
		servers := storetest.RedisCluster(t, 3)
		agrees(t, openWithTime(t, clusterURL(servers)), false)
	})
}

// agrees runs random calls on s and on memory side by side: every decision must
// be the same to the nanosecond. That the script decides as the program does, the
// store checks itself at every take. Where the clock jumps back or
// policies are edited nothing is settled: Redis forgets a count of nothing at once, and
// memory remembers when its window ends.
func agrees(t *testing.T, s *redisstore.Store, jump bool) {
	memory := ratelimit.NewMemoryStore(1 << 16)
	begin := time.Unix(0, time.Now().Add(24*time.Hour).UnixNano()) // by the calendar alone
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		now, jumps := begin, jump && rapid.Bool().Draw(rt, "jumps")
		var policies []*ratelimit.Policy
		for i := range rapid.IntRange(1, 4).Draw(rt, "policies") {
			if jumps {
				i %= 2 // some are the same policy, edited
			}
			policies = append(policies, drawPolicy(rt, fmt.Sprintf("run-%d-%d", run, i)))
		}
		var taken []ratelimit.Take
		for step := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			if now = now.Add(drawPause(rt, policies, jumps)); now.Before(begin) {
				now = begin // memory knows no time before it was made
			}
			if len(taken) > 0 && rapid.IntRange(0, 3).Draw(rt, "settle") == 0 {
				a := settlements(rt, taken, jumps)
				b := append([]ratelimit.Take(nil), a...)
				if err := s.Settle(context.Background(), a, now); err != nil {
					rt.Fatal(err)
				}
				if err := memory.Settle(context.Background(), b, now); err != nil {
					rt.Fatal(err)
				}
				same(rt, "settle", a, b)
				continue
			}
			some := policies
			if n := len(policies); jumps && n > 2 && rapid.Bool().Draw(rt, "edited") {
				some = policies[2:]
			} else if jumps {
				some = policies[:min(n, 2)]
			}
			a := drawTakes(rt, some, fmt.Sprintf("id-%d-%d", run, step))
			if rapid.Bool().Draw(rt, "edge") {
				a[0].Cost = edge(rt, memory, a[0], now)
			}
			b := append([]ratelimit.Take(nil), a...)
			got, err := s.Take(context.Background(), a, now)
			if err != nil {
				rt.Fatal(err)
			}
			want, err := memory.Take(context.Background(), b, now)
			if err != nil {
				rt.Fatal(err)
			}
			if got != want {
				rt.Fatalf("took %t, memory %t\n%+v\n%+v", got, want, a, b)
			}
			same(rt, "take", a, b)
			if got {
				taken = a
			}
		}
	})
}

// edge is the largest cost that is allowed, or the smallest that is not: where one
// unit in 10^15 decides.
func edge(rt *rapid.T, s ratelimit.Store, t ratelimit.Take, now time.Time) int64 {
	look := []ratelimit.Take{t}
	look[0].Cost = 0
	if _, err := s.Take(context.Background(), look, now); err != nil {
		rt.Fatal(err)
	}
	return look[0].Decision.Remaining + rapid.Int64Range(0, 1).Draw(rt, "beyond")
}

func same(rt *rapid.T, what string, got, want []ratelimit.Take) {
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			rt.Fatalf("%s %d of %+v\n got %+v\nwant %+v", what, i, *got[i].Policy, got[i], want[i])
		}
	}
}

func drawPolicy(rt *rapid.T, name string) *ratelimit.Policy {
	p := ratelimit.Policy{Name: name, Shadow: rapid.IntRange(0, 5).Draw(rt, "shadow") == 0}
	if rapid.IntRange(0, 4).Draw(rt, "concurrent") == 0 {
		p.Concurrent = rapid.Int64Range(1, 4).Draw(rt, "slots")
	} else {
		p.Algorithm = rapid.SampledFrom([]string{ratelimit.TokenBucket, ratelimit.SlidingWindow, ratelimit.FixedWindow}).Draw(rt, "algorithm")
		p.Quota = rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, 1_000_000), rapid.Int64Range(1, 999_999_999_999_999)).Draw(rt, "quota")
		p.Window = rapid.OneOf(
			rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 24 * time.Hour, 7 * 24 * time.Hour, ratelimit.Month, ratelimit.Year}),
			rapid.Custom(func(rt *rapid.T) time.Duration {
				return time.Duration(rapid.Int64Range(1000, 366*24*3600*1e6).Draw(rt, "micros")) * time.Microsecond
			}),
		).Draw(rt, "window")
		p.Quota = min(p.Quota, int64(p.Window))
		if p.Algorithm == ratelimit.TokenBucket {
			p.Burst = rapid.Int64Range(0, 50).Draw(rt, "burst")
		}
	}
	prepared, err := p.Prepare()
	if err != nil {
		rt.Fatal(err)
	}
	return prepared
}

func drawPause(rt *rapid.T, policies []*ratelimit.Policy, jumps bool) time.Duration {
	window := rapid.SampledFrom(policies).Draw(rt, "of").Window
	if window == 0 {
		window = time.Second
	}
	pauses := []*rapid.Generator[int64]{
		rapid.Just(int64(0)),
		rapid.Int64Range(0, int64(time.Second)),
		rapid.Int64Range(0, int64(window)/10),
		rapid.Int64Range(0, 3*int64(window)),
	}
	if jumps { // a clock that is set, and one that was wrong by a day
		pauses = append(pauses, rapid.Int64Range(-int64(time.Second), 0), rapid.Just(-int64(24*time.Hour)), rapid.Just(int64(24*time.Hour)))
	}
	return time.Duration(rapid.OneOf(pauses...).Draw(rt, "pause"))
}

func drawTakes(rt *rapid.T, policies []*ratelimit.Policy, id string) []ratelimit.Take {
	takes := make([]ratelimit.Take, rapid.IntRange(1, 5).Draw(rt, "takes"))
	for i := range takes {
		p := rapid.SampledFrom(policies).Draw(rt, "policy")
		takes[i] = ratelimit.Take{
			Policy: p, ID: id + rapid.SampledFrom([]string{"", "x"}).Draw(rt, "id"),
			Key:  rapid.SampledFrom([]string{"a", "a", "b", "c"}).Draw(rt, "key"),
			Cost: rapid.OneOf(rapid.Int64Range(-1, 3), rapid.Int64Range(0, max(p.Burst, 1)), rapid.Int64Range(0, max(p.Burst, 1)), rapid.Int64()).Draw(rt, "cost"),
		}
	}
	return takes
}

func settlements(rt *rapid.T, taken []ratelimit.Take, look bool) []ratelimit.Take {
	due := append([]ratelimit.Take(nil), taken...)
	for i := range due {
		due[i].Cost = rapid.OneOf(
			rapid.Just(int64(-1)), rapid.Just(-due[i].Cost),
			rapid.Int64Range(-10, 10), rapid.Int64(),
		).Draw(rt, "settlement")
		if look {
			due[i].Cost = 0
		}
	}
	return due
}

// Products of 50 and 45 bits, where one more or less decides: in doubles they
// would be equal.
func TestLargestWindows(t *testing.T) {
	s, draw := openWithTime(t, storetest.Redis(t).URL()), rand.New(rand.NewPCG(1, 2))
	const quota = 999_999_999_999_999
	for i := range 300 {
		window := time.Duration(draw.Int64N(300*24*3600*1e6)+30*24*3600*1e6) * time.Microsecond
		p := prepare(t, ratelimit.Policy{Name: fmt.Sprint(i), Quota: quota, Window: window, Algorithm: ratelimit.SlidingWindow})
		one := func(cost int64, now time.Time) ratelimit.Decision {
			all := takes("k", p)
			all[0].Cost = cost
			if _, err := s.Take(context.Background(), all, now); err != nil {
				t.Fatal(err)
			}
			return all[0].Decision
		}
		now := time.Now()
		one(quota-draw.Int64N(quota/2), now)
		next := time.Unix(0, p.WindowEnd(now.UnixNano())+draw.Int64N(int64(window)))
		left := one(0, next).Remaining
		if d := one(left+1, next); d.Allowed {
			t.Fatalf("%v: allowed one more than the %d that are left", p, left)
		}
		if d := one(left, next); !d.Allowed || d.Remaining != 0 {
			t.Fatalf("%v: %+v for the %d that are left", p, d, left)
		}
	}
}
