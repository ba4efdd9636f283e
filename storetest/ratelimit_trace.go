package storetest

import (
	"context"
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// traces runs random takes, and what may happen between them, beside models that
// count exactly.
func traces(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	t.Run("a bucket agrees with an exact model", func(t *testing.T) { agreesWithModel(t, open) })
	for _, algorithm := range algorithms()[1:] {
		t.Run(algorithm+" agrees with an exact model", func(t *testing.T) { windowAgreesWithModel(t, open(t), algorithm) })
	}
	for _, algorithm := range algorithms() {
		t.Run(algorithm+" admits no more than its bound in any stretch of time, on two clocks", func(t *testing.T) {
			staysWithinBound(t, open(t), algorithm)
		})
	}
}

// model is a token bucket in exact fractions: level units at time at.
type model struct {
	level *big.Rat
	at    time.Duration
}

func (m *model) advance(at time.Duration, p ratelimit.Policy, burst int64) {
	gained := big.NewRat(int64(at-m.at), 1)
	gained.Mul(gained, big.NewRat(p.Quota, int64(p.Window)))
	m.level.Add(m.level, gained)
	if full := big.NewRat(burst, 1); m.level.Cmp(full) > 0 {
		m.level.Set(full)
	}
	m.at = at
}

// agreesWithModel runs random takes, refunds and charges beside the model. A
// store may round against the caller, by at most a nanosecond a unit taken; it
// may never admit what the model does not.
func agreesWithModel(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	store := open(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		p := ratelimit.Policy{
			Name:   fmt.Sprint("run-", run),
			Quota:  rapid.Int64Range(1, 1_000_000).Draw(rt, "quota"),
			Window: time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(25*time.Hour)).Draw(rt, "window")),
			Burst:  rapid.Int64Range(0, 2000).Draw(rt, "burst"),
		}
		burst := p.Burst
		if burst == 0 {
			burst = p.Quota
		}
		prepared, begin := prepare(t, p), start()
		exact := &model{level: big.NewRat(burst, 1)}
		slack := new(big.Rat) // what rounding may have cost the caller so far
		var at time.Duration
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			at += time.Duration(rapid.Int64Range(0, int64(p.Window)/3).Draw(rt, "pause"))
			exact.advance(at, p, burst)
			cost := rapid.Int64Range(1, burst+1).Draw(rt, "cost")
			if rapid.IntRange(0, 9).Draw(rt, "kind") == 0 {
				settle(t, store, begin.Add(at), -cost, prepared)
				exact.level.Add(exact.level, big.NewRat(cost, 1))
				exact.advance(at, p, burst)
				slack.Add(slack, nanoseconds(cost, p))
				continue
			}
			fits := exact.level.Cmp(big.NewRat(cost, 1)) >= 0
			d := takeOne(t, store, begin.Add(at), cost, prepared)
			if d.Allowed && !fits {
				rt.Fatalf("admitted %d, the model has %s", cost, exact.level.FloatString(3))
			}
			slack.Add(slack, nanoseconds(cost, p))
			if !d.Allowed && fits {
				need := new(big.Rat).Add(big.NewRat(cost, 1), slack)
				if exact.level.Cmp(need) > 0 && cost <= burst {
					rt.Fatalf("denied %d, the model has %s: more than rounding explains", cost, exact.level.FloatString(3))
				}
			}
			if d.Allowed {
				exact.level.Sub(exact.level, big.NewRat(cost, 1))
			}
		}
	})
}

// nanoseconds is what the policy gives in cost+burst nanoseconds: the bound on
// rounding for one take.
func nanoseconds(cost int64, p ratelimit.Policy) *big.Rat {
	r := big.NewRat(cost+max(p.Burst, 1)+1, 1)
	return r.Mul(r, big.NewRat(p.Quota, int64(p.Window)))
}

// windowModel counts what was used in each aligned window, by its number, beside
// a store.
type windowModel struct {
	store  ratelimit.Store
	policy *ratelimit.Policy
	used   map[int64]int64
	takes  []ratelimit.Take // that were admitted
}

func (m *windowModel) window(at time.Time) int64 { return at.UnixNano() / int64(m.policy.Window) }

// estimate is what the policy counts at now, in exact fractions, rounded up.
func (m *windowModel) estimate(at time.Time) int64 {
	k, length := m.window(at), big.NewInt(int64(m.policy.Window))
	if m.policy.Algorithm == ratelimit.FixedWindow {
		return m.used[k]
	}
	left := big.NewInt((k+1)*int64(m.policy.Window) - at.UnixNano())
	part := left.Mul(left, big.NewInt(m.used[k-1]))
	part.Add(part, length).Sub(part, big.NewInt(1)).Quo(part, length)
	return m.used[k] + part.Int64()
}

// refund gives back what was taken, to the window in which it was, as long as
// that counts.
func (m *windowModel) refund(units int64, takenAt, at time.Time) {
	of, now := m.window(takenAt), m.window(at)
	if of == now || of == now-1 && m.policy.Algorithm == ratelimit.SlidingWindow {
		m.used[of] = max(m.used[of]-units, 0)
	}
}

func drawWindowPolicy(rt *rapid.T, algorithm string, run int) ratelimit.Policy {
	return ratelimit.Policy{
		Name:      fmt.Sprint("run-", run),
		Quota:     rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, 1_000_000)).Draw(rt, "quota"),
		Window:    time.Duration(rapid.Int64Range(1000, int64(25*time.Hour/time.Microsecond)).Draw(rt, "window")) * time.Microsecond,
		Algorithm: algorithm,
	}
}

// drawPause is a time to wait: none, a short or a long one, to the next edge, or
// to just before or after it.
func drawPause(rt *rapid.T, now time.Time, window time.Duration) time.Duration {
	toEdge := window - time.Duration(now.UnixNano())%window
	switch rapid.IntRange(0, 9).Draw(rt, "pause") {
	case 0:
		return toEdge
	case 1:
		return toEdge - time.Microsecond
	case 2:
		return toEdge + time.Microsecond
	case 3, 4:
		return 0
	case 5:
		return time.Duration(rapid.Int64Range(0, int64(3*window/time.Microsecond)).Draw(rt, "long")) * time.Microsecond
	}
	return time.Duration(rapid.Int64Range(0, int64(window/4/time.Microsecond)).Draw(rt, "short")) * time.Microsecond
}

// windowAgreesWithModel demands the very same answers, not only safe ones: what
// is taken when the model has room is admitted, and who sleeps as advised is
// admitted then, and not a microsecond before.
func windowAgreesWithModel(t *testing.T, s ratelimit.Store, algorithm string) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		p, now := prepare(t, drawWindowPolicy(rt, algorithm, run)), edge(time.Second)
		m := &windowModel{store: s, policy: p, used: map[int64]int64{}}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			now = now.Add(drawPause(rt, now, p.Window))
			cost := rapid.Int64Range(0, p.Quota+1).Draw(rt, "cost")
			switch kind := rapid.IntRange(0, 9).Draw(rt, "kind"); {
			case kind == 0:
				settle(t, s, now, cost, p)
				m.used[m.window(now)] += cost
			case kind <= 2 && len(m.takes) > 0:
				tk := m.takes[rapid.IntRange(0, len(m.takes)-1).Draw(rt, "which")]
				settleTake(t, s, now, tk, -cost)
				m.refund(cost, time.Unix(0, tk.Taken), now)
			default:
				if d := m.take(rt, now, cost); !d.Allowed && d.RetryAfter > 0 && kind < 8 {
					if takeOne(t, s, now.Add(d.RetryAfter-time.Microsecond), cost, p).Allowed {
						rt.Fatalf("%d was admitted before the advised %v", cost, d.RetryAfter)
					}
					now = now.Add(d.RetryAfter)
					if d := m.take(rt, now, cost); !d.Allowed {
						rt.Fatalf("%d was denied after the advised wait: %+v", cost, d)
					}
				}
			}
		}
	})
}

// take takes cost and fails unless the answer is the model's.
func (m *windowModel) take(rt *rapid.T, now time.Time, cost int64) ratelimit.Decision {
	takes := []ratelimit.Take{{Policy: m.policy, Key: "k", Cost: cost}}
	allowed, err := m.store.Take(context.Background(), takes, now)
	if err != nil {
		rt.Fatal(err)
	}
	quota := m.policy.Quota
	d, room := takes[0].Decision, quota-m.estimate(now)
	if fits := cost <= room; allowed != fits || d.Allowed != fits {
		rt.Fatalf("a cost of %d with room for %d: allowed %t, %+v", cost, room, allowed, d)
	}
	if d.Allowed {
		m.used[m.window(now)] += cost
		m.takes = append(m.takes, takes[0])
	}
	if left := max(quota-m.estimate(now), 0); d.Remaining != left {
		rt.Fatalf("%d remain after a cost of %d, want %d", d.Remaining, cost, left)
	}
	if never := cost > quota; never != (d.RetryAfter == weir.Never) || d.Allowed != (d.RetryAfter == 0) {
		rt.Fatalf("a cost of %d of a quota of %d: %+v", cost, quota, d)
	}
	return d
}

// admission is a take that was admitted, at the latest time that any clock had
// shown by then.
type admission struct {
	at    time.Time
	units int64
}

// staysWithinBound takes by two clocks that differ by up to five seconds. What is
// admitted is counted by the one ahead: so skew is paid for once.
func staysWithinBound(t *testing.T, s ratelimit.Store, algorithm string) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		policy := drawWindowPolicy(rt, algorithm, run)
		if algorithm == ratelimit.TokenBucket {
			policy.Burst = rapid.Int64Range(0, 100).Draw(rt, "burst")
		}
		p, now := prepare(t, policy), edge(time.Second).Add(5*time.Second)
		skew := time.Duration(rapid.SampledFrom([]int64{0, 0, int64(5 * time.Second), int64(p.Window / 2), int64(p.Window)}).Draw(rt, "skew"))
		skew = min(skew, 5*time.Second).Truncate(time.Microsecond)
		most := rapid.SampledFrom([]int64{1, max(p.Burst/10, 1), p.Burst}).Draw(rt, "largest cost")
		var admitted []admission
		var latest time.Time
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now = now.Add(drawPause(rt, now, p.Window) / time.Duration(rapid.SampledFrom([]int64{1, 100}).Draw(rt, "haste")))
			at := now.Truncate(time.Microsecond)
			if rapid.Bool().Draw(rt, "behind") {
				at = at.Add(-skew)
			}
			cost := rapid.Int64Range(1, most).Draw(rt, "cost")
			if takeOne(t, s, at, cost, p).Allowed {
				if at.After(latest) {
					latest = at
				}
				admitted = append(admitted, admission{latest, cost})
			}
		}
		checkStretches(rt, p, admitted)
		checkWindows(rt, p, admitted)
	})
}

// checkStretches compares what was admitted between any two takes with the
// bound, burst + quota*t/window, in whole numbers of units times nanoseconds.
func checkStretches(rt *rapid.T, p *ratelimit.Policy, admitted []admission) {
	if p.Algorithm == ratelimit.FixedWindow {
		return // twice the quota fits around an edge
	}
	window := big.NewInt(int64(p.Window))
	for i := range admitted {
		units := new(big.Int)
		for _, last := range admitted[i:] {
			units.Add(units, big.NewInt(last.units))
			stretch := last.at.Sub(admitted[i].at)
			most := new(big.Int).Mul(big.NewInt(p.Burst), window)
			most.Add(most, new(big.Int).Mul(big.NewInt(p.Quota), big.NewInt(int64(stretch))))
			if new(big.Int).Mul(units, window).Cmp(most) > 0 {
				rt.Fatalf("admitted %v in %v: more than %d + %d*%v/%v", units, stretch, p.Burst, p.Quota, stretch, p.Window)
			}
		}
	}
}

// checkWindows compares what was admitted in each aligned window with the quota.
func checkWindows(rt *rapid.T, p *ratelimit.Policy, admitted []admission) {
	if p.Algorithm == ratelimit.TokenBucket {
		return
	}
	units := map[int64]int64{}
	for _, a := range admitted {
		k := a.at.UnixNano() / int64(p.Window)
		if units[k] += a.units; units[k] > p.Quota {
			rt.Fatalf("admitted %d of a quota of %d in one window of %v", units[k], p.Quota, p.Window)
		}
	}
}
