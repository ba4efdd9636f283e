package ratelimit

import (
	"math/bits"
	"time"

	"github.com/inferweir/weir"
)

// Windows are measured in microseconds, which shared stores have, too: then the
// products below fit into 128 bits here, and into pairs of doubles there.

// firstMonday is 1970-01-05, from which windows of whole weeks are counted.
const firstMonday = 4 * 24 * time.Hour

// windowEnd is the end of the aligned window that now is in.
func (g *gauge) windowEnd(now int64) int64 {
	if g.kind == fixed && (g.window == Month || g.window == Year) {
		t := time.Unix(0, now).UTC()
		if g.window == Year {
			return time.Date(t.Year()+1, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
		}
		return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	}
	length, start := int64(g.window), int64(0)
	if g.window%(7*24*time.Hour) == 0 {
		start = int64(firstMonday)
	}
	past := (now - start) % length
	if past < 0 {
		past += length
	}
	return now - past + length
}

// roll brings s up to now: what was the present window may be the one before, or
// forgotten. It never goes back: to a clock that does, the later window is the
// present one, so that two clocks that alternate do not begin a new window each
// time.
func (g *gauge) roll(s State, now int64) State {
	length := int64(g.window)
	s.Used, s.Before = min(max(s.Used, 0), maxUsed), min(max(s.Before, 0), maxUsed)
	switch {
	case g.kind == fixed && s.At <= now:
		return State{At: g.windowEnd(now)}
	case g.kind == fixed:
		return s
	case s.At <= now:
		return State{At: g.windowEnd(now) + length}
	case s.At-length <= now:
		return State{At: g.windowEnd(now) + length, Before: s.Used}
	}
	return s
}

func (g *gauge) decideWindow(s State, cost, now int64) (State, Decision) {
	s = g.roll(s, now)
	d := Decision{Allowed: true}
	switch {
	case cost > g.burst:
		d = Decision{RetryAfter: weir.Never}
	case g.estimate(s, now) > g.burst-cost:
		d = Decision{RetryAfter: g.waitFor(s, g.burst-cost, now)}
	default:
		s.Used += cost
	}
	if d.Remaining = max(g.burst-g.estimate(s, now), 0); d.Remaining < g.burst {
		d.Reset = g.waitFor(s, g.burst-d.Remaining-1, now)
	}
	switch {
	case g.kind == sliding && s.Used == 0 && s.Before > 0:
		d.Full = time.Duration(s.At - int64(g.window) - now)
	case s.Used > 0:
		d.Full = time.Duration(s.At - now)
	}
	return s, d
}

func (g *gauge) settleWindow(s State, cost, taken, now int64) State {
	s = g.roll(s, now)
	if cost >= 0 {
		// The bound keeps sums of it from overflowing, and shared stores exact.
		s.Used = min(s.Used+min(cost, maxUsed), maxUsed)
		return s
	}
	if taken == 0 {
		taken = now
	}
	cost = max(cost, -maxUsed)
	of := g.windowEnd(taken)
	switch {
	case g.kind == fixed && of >= s.At, g.kind == sliding && of+int64(g.window) >= s.At:
		s.Used = max(s.Used+cost, 0)
	case g.kind == sliding && of+2*int64(g.window) >= s.At:
		s.Before = max(s.Before+cost, 0)
	}
	return s
}

// maxUsed bounds what Settle can charge to a window.
const maxUsed = 4 * maxInteger

// estimate is what was used in the last window.
func (g *gauge) estimate(s State, now int64) int64 {
	if g.kind == fixed {
		return s.Used
	}
	return s.Used + ceilPart(s.Before, g.inside(s, now), g.micros())
}

func (g *gauge) micros() int64 { return int64(g.window / time.Microsecond) }

// inside is how much of the window before is still inside the last window.
func (g *gauge) inside(s State, now int64) int64 {
	return min(s.At/1000-g.micros()-floorMicros(now), g.micros())
}

// waitFor is the time until the estimate is at most level, if nothing is used
// meanwhile. level is from 0 to the quota.
func (g *gauge) waitFor(s State, level, now int64) time.Duration {
	if g.kind == fixed {
		if s.Used <= level {
			return 0
		}
		return time.Duration(s.At - now)
	}
	end := s.At/1000 - g.micros()
	left := level - s.Used // for the window before
	of := s.Before
	if left < 0 { // not before the next window, where what is used now is before
		end, left, of = end+g.micros(), level, s.Used
	}
	if left >= of && end == s.At/1000-g.micros() {
		return 0
	}
	at := end - floorPart(left, of, g.micros())
	return max(time.Duration(at*1000-now), 0)
}

func floorMicros(ns int64) int64 { return ns / 1000 }

// ceilPart is n*part/whole, rounded up. part is at most whole.
func ceilPart(n, part, whole int64) int64 {
	if n <= 0 || part <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(n), uint64(part))
	low, carry := bits.Add64(low, uint64(whole-1), 0)
	q, _ := bits.Div64(high+carry, low, uint64(whole))
	return int64(q)
}

// floorPart is length*part/of, rounded down. part is less than of.
func floorPart(part, of, length int64) int64 {
	high, low := bits.Mul64(uint64(part), uint64(length))
	q, _ := bits.Div64(high, low, uint64(of))
	return int64(q)
}
