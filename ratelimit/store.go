package ratelimit

import (
	"context"
	"fmt"
	"time"

	"github.com/inferweir/weir"
)

// MaxTakes is how many takes one call of a store may have: one a policy.
const MaxTakes = 32

// A Take asks a store for units of one count: that of Policy for Key.
type Take struct {
	// Policy says how much there is. It comes from Policy.Prepare.
	Policy *Policy
	// Key is whose count it is: the value of what the policy counts by.
	Key string
	// Cost is how many units. 0 looks without taking; less counts as 0.
	Cost int64
	// Decision is filled in by the store.
	Decision Decision
}

// Burst is how many units t's policy admits at once: all that Decision.Remaining
// can be.
func (t *Take) Burst() int64 { return t.Policy.ready.burst }

// Full is the time until nothing of the burst is used any more, as Decision found
// it: 0 when nothing is. Decision.Reset is the time until there is one unit more.
func (t *Take) Full() time.Duration {
	used := t.Policy.ready.burst - t.Decision.Remaining
	if used <= 0 {
		return 0
	}
	return time.Duration(used-1)*t.Policy.ready.interval + t.Decision.Reset
}

// A Decision is what one policy says to one take.
type Decision struct {
	// Allowed says that this policy had the room. The units are taken only if
	// all takes of the call were allowed.
	Allowed bool
	// Remaining is how many units could be taken at once now, after the call.
	Remaining int64
	// Reset is the time until Remaining grows. 0 means that it is at the burst.
	Reset time.Duration
	// RetryAfter is the time until the same take can be allowed: 0 when it is,
	// weir.Never when the cost is above the burst.
	RetryAfter time.Duration
}

// A Store keeps the counts. Its methods are safe for concurrent use. An error
// says that the store could not answer; it never means "denied".
type Store interface {
	// Take takes the cost of all takes, or of none if one of them is not
	// allowed, and fills in every Decision. It reports whether it took.
	Take(ctx context.Context, takes []Take, now time.Time) (bool, error)
	// Settle corrects counts after the fact by the Cost of each take: a
	// negative one gives units back, never above the burst; a positive one is
	// charged even where it exceeds what is left.
	Settle(ctx context.Context, takes []Take, now time.Time) error
}

// check reports what makes takes unfit for a store.
func check(takes []Take) error {
	if len(takes) > MaxTakes {
		return fmt.Errorf("ratelimit: %d takes in one call: want at most %d", len(takes), MaxTakes)
	}
	for i := range takes {
		if p := takes[i].Policy; p == nil || p.ready == nil {
			return fmt.Errorf("ratelimit: takes[%d]: the policy is not prepared: call Policy.Prepare first", i)
		}
	}
	return nil
}

// Allowed reports whether all takes were allowed.
func Allowed(takes []Take) bool {
	for i := range takes {
		if !takes[i].Decision.Allowed {
			return false
		}
	}
	return true
}

// decide is the generic cell rate algorithm. full is the time at which the
// bucket is full again, now the time of the take; both count from the same
// start. It returns the new full, which is the old one when the take is denied.
//
// A cost above the burst is refused before anything is multiplied: costs come
// from clients.
func (g *gauge) decide(full, now time.Duration, cost int64) (time.Duration, Decision) {
	full, cost = max(full, now), max(cost, 0)
	if cost > g.burst {
		return full, g.state(full, now, Decision{RetryAfter: weir.Never})
	}
	next := full + time.Duration(cost)*g.interval
	if wait := next - now - g.capacity; wait > 0 {
		return full, g.state(full, now, Decision{RetryAfter: wait})
	}
	return next, g.state(next, now, Decision{Allowed: true})
}

// state adds what is left to d.
func (g *gauge) state(full, now time.Duration, d Decision) Decision {
	free := now + g.capacity - max(full, now)
	if free < 0 { // charged beyond the burst by Settle
		d.Reset = g.interval - free
		return d
	}
	d.Remaining = int64(free / g.interval)
	if d.Remaining < g.burst {
		d.Reset = g.interval - free%g.interval
	}
	return d
}

// settle moves full by cost units: back, but not before now, or on, however far.
func (g *gauge) settle(full, now time.Duration, cost int64) time.Duration {
	most := int64(maxDebt / g.interval)
	cost = min(max(cost, -most), most)
	return min(max(max(full, now)+time.Duration(cost)*g.interval, now), now+maxDebt)
}
