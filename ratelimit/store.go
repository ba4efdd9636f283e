package ratelimit

import (
	"context"
	"fmt"
	"time"
)

// MaxTakes is how many takes one call of a store may have: one a policy.
const MaxTakes = 32

// A Take asks a store for units of one count: that of Policy for Key.
type Take struct {
	// Policy says how much there is. It comes from Policy.Prepare.
	Policy *Policy
	// Key is whose count it is: the value of what the policy counts by.
	Key string
	// ID names the request that holds a slot of a concurrent policy, which needs
	// it. It must be used once, by one request, on all instances, so it can not be
	// what a client says: who repeats an ID shares its slot, or loses it.
	ID string
	// Cost is how many units. 0 looks without taking; less counts as 0. Of a
	// concurrent policy any cost is one slot.
	Cost int64
	// Decision is filled in by the store.
	Decision Decision
	// Taken is when the store decided, by its clock, in nanoseconds since the
	// Unix epoch. Settle needs it to give units back to the window that they
	// were taken from.
	Taken int64
	// Mode says who decided. Settle needs it to correct the same count.
	Mode Mode
}

// Mode says who decided a take.
type Mode uint8

const (
	// Shared is the store itself, as it should be.
	Shared Mode = iota
	// Local is this instance alone: the shared store was away.
	Local
	// Open is nobody: the shared store was away, and the take was let through.
	// There is no Decision.
	Open
)

// Burst is how many units t's policy admits at once: all that Decision.Remaining
// can be.
func (t *Take) Burst() int64 { return t.Policy.ready.burst }

// A Decision is what one policy says to one take.
type Decision struct {
	// Allowed says that this policy had the room. The units are taken only if
	// all takes of the call were allowed.
	Allowed bool
	// Remaining is how many units could be taken at once now, after the call.
	Remaining int64
	// Reset is the time until Remaining grows. 0 means that it is at the burst.
	Reset time.Duration
	// Full is the time until nothing is used any more. 0 means that nothing is.
	Full time.Duration
	// RetryAfter is the time until the same take can be allowed: 0 when it is,
	// weir.Never when the cost is above the burst. Where a concurrent policy
	// denied, it is SlotRetry: nobody knows when a running request ends.
	RetryAfter time.Duration
}

// A Store keeps the counts. Its methods are safe for concurrent use. An error
// says that the store could not answer; it never means "denied".
type Store interface {
	// Take takes the cost of all takes, or of none if one of them is not
	// allowed, and fills in every Decision. It reports whether it took. A policy
	// in shadow has no say in that, and gives nothing where it would deny.
	// A store with a clock of its own, as all that are shared have, goes by that
	// and not by now.
	Take(ctx context.Context, takes []Take, now time.Time) (bool, error)
	// Settle corrects counts after the fact by the Cost of each take: a
	// negative one gives units back, never above the burst; a positive one is
	// charged even where it exceeds what is left. For a concurrent policy a
	// negative one frees the slot of the ID, if it is held: twice is once.
	Settle(ctx context.Context, takes []Take, now time.Time) error
}

// Check reports what makes takes unfit for a store: too many of them, a policy
// that is not prepared, a slot without an ID.
func Check(takes []Take) error {
	if len(takes) > MaxTakes {
		return fmt.Errorf("ratelimit: %d takes in one call: want at most %d", len(takes), MaxTakes)
	}
	for i := range takes {
		switch p := takes[i].Policy; {
		case p == nil || p.ready == nil:
			return fmt.Errorf("ratelimit: takes[%d]: the policy is not prepared: call Policy.Prepare first", i)
		case p.ready.kind == slots && takes[i].ID == "" && takes[i].Cost != 0:
			return fmt.Errorf("ratelimit: takes[%d]: a concurrent policy needs an ID, which names who holds the slot", i)
		}
	}
	return nil
}

// Allowed reports whether all takes were allowed that have a say: those of
// policies in shadow have none, and what was let through had no decision.
func Allowed(takes []Take) bool {
	for i := range takes {
		if t := &takes[i]; !t.Decision.Allowed && !t.Policy.ready.shadow && t.Mode != Open {
			return false
		}
	}
	return true
}
