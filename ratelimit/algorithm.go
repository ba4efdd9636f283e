package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/bits"
	"time"

	"github.com/inferweir/weir"
)

// State is what a store keeps of one count: three integers, of which the zero
// value is a count never used. What has passed At may be forgotten.
type State struct {
	// At is the time from which on the count is as if never used, in nanoseconds
	// since the Unix epoch: when the bucket is full again, when the fixed window
	// ends, when the window after the present sliding one ends.
	At int64
	// Used is what was used in the window that At belongs to, or the slots that
	// are held. A bucket does not need it.
	Used int64
	// Before is what was used in the window before. Only sliding windows need it.
	Before int64
}

// Decide says what p does with a take of cost at now, in nanoseconds since the
// Unix epoch, of a count in state s, and in which state it is then: the old one,
// brought up to now, where the take is denied. It is what every store computes.
// p comes from Prepare.
//
// A cost above the burst is denied before anything is multiplied: costs come from
// clients.
func (p *Policy) Decide(s State, cost, now int64) (State, Decision) {
	var d Decision
	p.ready.decide(&s, cost, now, &d)
	return s, d
}

// decide is Decide in place: to pass states and decisions around costs more than to
// make them.
func (g *gauge) decide(s *State, cost, now int64, d *Decision) {
	cost = max(cost, 0)
	switch g.kind {
	case bucket:
		s.At = int64(g.decideBucket(time.Duration(s.At), time.Duration(now), cost, d))
		s.Used, s.Before = 0, 0
	case slots:
		*s, *d = g.decideSlots(*s, cost)
	default:
		*s, *d = g.decideWindow(*s, cost, now)
	}
}

// Settle corrects a count by cost: a negative one gives units back, never above
// the burst, and to the window only in which they were taken; a positive one is
// charged even where it exceeds what is left. taken is when the units were taken,
// by the clock of now; 0 means now. Of slots a negative cost frees one.
func (p *Policy) Settle(s State, cost, taken, now int64) State {
	g := p.ready
	switch g.kind {
	case bucket:
		return State{At: int64(g.settle(time.Duration(s.At), time.Duration(now), cost))}
	case slots:
		if s.Used = max(s.Used, 0); cost < 0 && s.Used > 0 {
			s.Used-- // whatever the cost: it is one slot
		}
		return s
	}
	return g.settleWindow(s, cost, taken, now)
}

// WindowEnd is when the aligned window of now ends, for algorithms that have
// windows; both are in nanoseconds since the Unix epoch. For slots, which have
// none, it is now.
func (p *Policy) WindowEnd(now int64) int64 {
	if p.ready.kind == slots {
		return now
	}
	return p.ready.windowEnd(now)
}

// Interval is the time in which one unit comes back, rounded up to a whole
// nanosecond, so that the policy is never exceeded. The rate is lower than asked
// for by at most a nanosecond a unit (0.002 % at a million a minute), and the
// burst is exact.
func (p *Policy) Interval() time.Duration { return p.ready.interval }

// SlotRetry is the advice to who found all slots held: nobody knows when a
// running request ends.
const SlotRetry = time.Second

type kind uint8

const (
	bucket kind = iota
	sliding
	fixed
	slots
)

// gauge is what a store needs of a policy at every take, worked out once.
type gauge struct {
	id       uint64 // of scope, name, unit and the length of windows; not of the quota, so that an edited policy keeps its counts
	kind     kind
	scale    uint8 // the exponent of the most that can be used, for comparing debts
	shadow   bool
	burst    int64         // units
	interval time.Duration // in which one unit comes back
	capacity time.Duration // burst * interval
	perNano  float64       // 1 / interval
	window   time.Duration
	text     string // the item of the RateLimit-Policy field
}

func newGauge(p *Policy) *gauge {
	h := sha256.New()
	for _, part := range []string{p.Scope, p.Name, p.unit()} {
		// The length in front keeps ("a", "bc") and ("ab", "c") apart.
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		_, _ = io.WriteString(h, part)
	}
	g := &gauge{
		id:     binary.BigEndian.Uint64(h.Sum(nil)),
		burst:  p.burst(),
		window: p.Window,
		shadow: p.Shadow,
		text:   policyItem(p),
	}
	switch {
	case p.Concurrent > 0:
		g.kind = slots
	case p.Algorithm == SlidingWindow:
		g.kind = sliding
	case p.Algorithm == FixedWindow:
		g.kind = fixed
	}
	if g.kind != slots {
		g.interval = p.interval()
		g.capacity = time.Duration(g.burst) * g.interval
		g.perNano = 1 / float64(g.interval)
	}
	// As a bucket and as windows, and in windows of two lengths, a policy has counts
	// that mean different things: what was used today says nothing of this minute.
	g.id += uint64(g.kind)
	if g.kind == sliding || g.kind == fixed {
		g.id += uint64(g.window) * 0x9e3779b97f4a7c15
	}
	g.scale = uint8(bits.Len64(uint64(g.burst)))
	if g.kind == bucket {
		g.scale = uint8(bits.Len64(uint64(g.capacity)))
	}
	return g
}

// decideBucket is the generic cell rate algorithm. full is the time at which the
// bucket is full again, now the time of the take; both count from the same
// start. It returns the new full, which is the old one when the take is denied.
func (g *gauge) decideBucket(full, now time.Duration, cost int64, d *Decision) time.Duration {
	full = min(max(full, now), now+maxDebt) // the bound is for states that no take has left
	d.Allowed, d.RetryAfter = false, weir.Never
	if cost <= g.burst {
		next := full + time.Duration(cost)*g.interval
		if d.RetryAfter = next - now - g.capacity; d.RetryAfter <= 0 {
			d.Allowed, d.RetryAfter, full = true, 0, next
		}
	}
	d.Full = full - now
	d.Remaining, d.Reset = 0, 0
	free := g.capacity - d.Full
	if free < 0 { // charged beyond the burst by Settle
		d.Reset = g.interval - free
		return full
	}
	n := g.units(free)
	if d.Remaining = n; n < g.burst {
		d.Reset = time.Duration(n+1)*g.interval - free
	}
	return full
}

// units is free/interval. A division would cost more than all else in a decision;
// the product of doubles is off by less than one, as the quotient is below 2^50.
func (g *gauge) units(free time.Duration) int64 {
	n := int64(float64(free) * g.perNano)
	switch rest := free - time.Duration(n)*g.interval; {
	case rest < 0:
		n--
	case rest >= g.interval:
		n++
	}
	return n
}

// settle moves full by cost units: back, but not before now, or on, however far.
func (g *gauge) settle(full, now time.Duration, cost int64) time.Duration {
	most := int64(maxDebt / g.interval)
	cost = min(max(cost, -most), most)
	full = min(max(full, now), now+maxDebt)
	return min(max(full+time.Duration(cost)*g.interval, now), now+maxDebt)
}

// idle reports whether s is as good as never used.
func (g *gauge) idle(s State, now int64) bool {
	return s.At <= now || g.kind != bucket && s.Used == 0 && s.Before == 0
}

func (g *gauge) decideSlots(s State, cost int64) (State, Decision) {
	d := Decision{Allowed: true}
	s.Used = max(s.Used, 0)
	if cost > 0 {
		if s.Used < g.burst {
			s.Used++
		} else {
			d = Decision{RetryAfter: SlotRetry}
		}
	}
	if d.Remaining = max(g.burst-s.Used, 0); s.Used > 0 {
		d.Reset, d.Full = SlotRetry, SlotRetry
	}
	return s, d
}
