package ratelimit

import (
	"context"
	"fmt"
	"math"
	"time"
)

// A Grant asks the store that instances share for units of one count in advance.
type Grant struct {
	// Policy says how much there is. It comes from Policy.Prepare, is a
	// TokenBucket, and has a MaxExcess.
	Policy *Policy
	// Key is whose count it is.
	Key string
	// Owed is settled first: what was charged since (positive) or given back.
	Owed int64
	// Cost is how many units are needed now: fewer are of no use. 0 asks for
	// none: it only settles, and looks.
	Cost int64
	// Want is how many there is a use for in all.
	Want int64

	// The store fills in the rest. All times count from when it decided.

	// Units is how many were granted: none, or at least Cost.
	Units int64
	// Eligible is when the first may be used; it can have passed. Each that
	// follows may be used an Interval later.
	Eligible time.Duration
	// Valid is until when the first may be used. Each that follows may be used an
	// Interval longer.
	Valid time.Duration
	// Full is when nothing is used any more, if nothing else is granted.
	Full time.Duration
}

// MaxGrants is how many grants one call of a Granter may have, and MaxUnits how
// many units one grant: times an interval's nanoseconds they stay exact in a double.
const (
	MaxGrants = 64
	MaxUnits  = 1 << 23
)

// A Granter is a Store that can grant units in advance.
type Granter interface {
	Store
	// Grant fills in each grant, by Policy.Lend. A count that stands several times
	// is granted from in turn. An error says that it is not known what was
	// granted: nothing of it may then be used, and what was owed may have been
	// settled or not. Like Take, a store with a clock of its own goes by that.
	Grant(ctx context.Context, grants []Grant, now time.Time) error
}

// CheckGrants reports what makes grants unfit for a Granter.
func CheckGrants(grants []Grant) error {
	if len(grants) > MaxGrants {
		return fmt.Errorf("ratelimit: %d grants in one call: want at most %d", len(grants), MaxGrants)
	}
	for i := range grants {
		switch p := grants[i].Policy; {
		case p == nil || p.ready == nil:
			return fmt.Errorf("ratelimit: grants[%d]: the policy is not prepared: call Policy.Prepare first", i)
		case p.Slack() < p.ready.interval:
			return fmt.Errorf("ratelimit: grants[%d]: the policy has no lease of a unit or more", i)
		}
	}
	return nil
}

// Account is what a Granter keeps of a count, in nanoseconds since the Unix epoch.
// What has passed may be forgotten.
type Account struct {
	// At is that of State: strict takes and grants have it in common.
	At int64
	// Lent is how far the units that were granted in advance reach, were they
	// laid end to end from when they were granted: each is valid until MaxExcess
	// of a Window after its own place. It is never past At.
	Lent int64
}

// Slack is how long after its place in the count a unit that was granted in
// advance can still be used: MaxExcess of the Window. In that time MaxExcess of
// the Quota comes back. 0 for a policy without leases.
func (p *Policy) Slack() time.Duration {
	if p.ready == nil || p.ready.kind != bucket {
		return 0
	}
	return time.Duration(p.MaxExcess * float64(p.Window))
}

// Lend decides a grant at now, in nanoseconds since the Unix epoch, and returns
// the account after it. It is what every Granter computes.
//
// # The bound
//
// Write T for the interval, C for the capacity (burst times T) and S for the
// slack. A unit that is granted has two places of length T: one on the line of At,
// which says from when it may be used, namely when a strict take would be allowed
// it, place + T - C; and one on the line of Lent, which says until when: place + S.
// Let D be the debt of an exact token bucket that sees only what is really
// admitted, when it is admitted (and what is given back, when that reaches the
// store), and O what is granted, not used, and still valid, in time. Then at any
// time t, where past means max(., t):
//
//	(1) Lent <= At, and T*O <= past(Lent) - t + S
//	(2) D + T*O <= past(At) - t + S
//	(3) every point of the line of At beyond t+C is covered by a unit that is
//	    granted and not yet eligible
//	(4) so D <= C + S: in any time w at most burst + w/T + S/T is admitted, net of
//	    what is given back in it, and S/T is at most MaxExcess*Quota.
//
// (1): the places on the line of Lent are disjoint, for it never goes back; valid
// units have theirs behind t-S. (2) holds at the start. A grant adds the same to
// both sides, a strict take too. A use moves a unit from O to D. As time passes
// both sides shrink alike, until D or past(At)-t is 0: then (1) says it. Units given
// back lower both sides alike, until D is 0, where (1) says it again: this is why
// At does not go back behind Lent. A unit that its instance takes back for its
// next request goes from D to O. (3): strict takes end at t+C, so only grants reach
// further. (4): as long as At is up to t+C, (2) says it. Beyond, by (3) there are
// units in O that are worth At - (t+C), none of which has run out, because Lend
// grants none that would run out before it is eligible; subtract them from (2). What
// is charged after the fact only moves At on, and D not.
//
// No clock is compared with another: an instance counts Valid from before it
// asked, and Eligible from after it was answered. It may ask as often as it
// likes, die, or be late: what is not used is lost to it and comes back with time.
// What it cannot see is a stop between its own check and the use, and a suspended
// machine, whose monotonic clock stands still: then what this one instance held can
// come on top, once. Nor does it allow for clocks that drift: one that is slower by
// a part of d uses a unit up to d*Valid after it ran out.
func (p *Policy) Lend(a Account, ask *Grant, now int64) Account {
	g, slack := p.ready, p.Slack()
	most := now + int64(maxDebt) // for accounts that nothing here has left
	lent := min(max(a.Lent, now), most)
	// In a count that an instance without leases gave back to, At may be behind
	// Lent: that is undone.
	at := min(max(a.At, lent), most)
	if ask.Owed != 0 {
		at = max(int64(g.settle(time.Duration(at), time.Duration(now), ask.Owed)), lent)
	}
	ask.Units, ask.Valid = 0, time.Duration(lent-now)+slack
	ask.Eligible = time.Duration(at-now) + g.interval - g.capacity
	if ask.Cost > 0 && ask.Cost <= min(g.burst, MaxUnits) {
		ask.Units = g.grant(ask, slack)
	}
	at += ask.Units * int64(g.interval)
	lent += ask.Units * int64(g.interval)
	ask.Full = time.Duration(at - now)
	return Account{At: at, Lent: lent}
}

// What an instance is granted beyond its cost: of the units that are free now one
// part in freeShare, so that the others find some too; where fewer are free than
// one part in nearShare of the burst, one part in aheadShare of those that come
// back in the next aheadSlacks slacks.
//
// The latter makes the instances take turns: as the end of the line moves away
// from now each is granted less, until what N of them hold is about what comes
// back in the time, so they share alike without knowing of each other.
const (
	freeShare   = 8
	nearShare   = 32
	aheadShare  = 4
	aheadSlacks = 2
)

// grant is how many units are granted, none of which runs out before it is
// eligible. The first tells for all: the others are one interval later in both.
//
// How many more than the cost is no matter of the bound: it is computed in
// doubles, step by step as the scripts of other stores do.
func (g *gauge) grant(ask *Grant, slack time.Duration) int64 {
	if ask.Eligible > ask.Valid {
		return 0
	}
	eligible, interval := double(ask.Eligible), double(g.interval)
	free := math.Floor((interval - eligible) / interval)
	room := math.Floor((float64(aheadSlacks*double(slack)) + interval - eligible) / interval)
	cost := float64(ask.Cost)
	if cost > room {
		return 0
	}
	more := math.Floor(free / freeShare)
	if free < max(cost, math.Floor(float64(g.burst)/nearShare)) {
		more = math.Floor(room / aheadShare)
	}
	return int64(min(max(cost, min(float64(min(ask.Want, MaxUnits)), more)), room))
}

// double is d as a script knows it that counts in seconds and nanoseconds.
func double(d time.Duration) float64 {
	seconds := d / time.Second
	if d < 0 && d%time.Second != 0 {
		seconds--
	}
	// The conversion keeps the product from being fused with the sum.
	return float64(float64(seconds)*float64(time.Second)) + float64(d-seconds*time.Second)
}
