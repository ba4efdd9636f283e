package ratelimit

import (
	"context"
	"math/bits"
	"time"
)

// strictWait is what the shared store last said of a count without leases that
// denied a call which a lease had a part in: until when it has no room for cost
// units. It only lengthens the advice of a lease that denies the next such call, in
// which that count is not asked. It is one for each lease: where others share the
// lease but not the count they replace it, and the advice is shorter again.
type strictWait struct {
	policy *Policy // nil where nothing is known; not its id, so that new numbers forget it
	key    string
	cost   int64
	until  int64 // by the clock of the leases
}

// concerns says that t has to wait, too: it takes from the same count, and no less.
func (w *strictWait) concerns(t *Take) bool {
	return w.policy == t.Policy && w.key == t.Key && max(t.Cost, 0) >= w.cost
}

// takeStrict takes from the shared store what leases do not decide. What they
// gave is put back where it denies.
func (c *leaseTakes) takeStrict(ctx context.Context, now time.Time) (bool, error) {
	strict := make([]Take, 0, bits.OnesCount32(c.strict))
	for set := c.strict; set != 0; set &= set - 1 {
		strict = append(strict, c.takes[bits.TrailingZeros32(set)])
	}
	allowed, err := c.options.Shared.Take(ctx, strict, now)
	if err == nil {
		n := 0
		for set := c.strict; set != 0; set &= set - 1 {
			c.takes[bits.TrailingZeros32(set)] = strict[n]
			n++
		}
	}
	after := c.clock()
	c.lock()
	defer c.unlock()
	if err == nil {
		c.learn(strict, after)
	}
	if err == nil && allowed {
		return true, nil
	}
	for i := range c.takes {
		// What shadow denied was not used.
		if c.strict&(1<<i) == 0 && c.takes[i].Decision.Allowed {
			c.back(i)
		}
	}
	return false, err
}

// learn notes what the shared store said to the strict takes of the call, which was
// known at now. The caller holds the lock.
func (c *leaseTakes) learn(strict []Take, now int64) {
	var told strictWait
	longest := time.Duration(0)
	for i := range strict {
		t := &strict[i]
		g, d := t.Policy.ready, &t.Decision
		// Nobody knows when a slot comes free, and what can never be is no wait.
		if !d.Allowed && !g.shadow && g.kind != slots && d.RetryAfter > longest {
			longest = d.RetryAfter
			told = strictWait{policy: t.Policy, key: t.Key, cost: max(t.Cost, 0), until: now + int64(longest)}
		}
	}
	for i := range c.takes {
		if c.strict&(1<<i) != 0 {
			continue
		}
		w := &c.leases[i].strict
		switch {
		case told.policy != nil:
			*w = told
		case w.policy != nil && Allowed(strict):
			for j := range strict {
				if w.concerns(&strict[j]) { // it had room after all
					*w = strictWait{}
					break
				}
			}
		}
	}
}

// advise lengthens the advice of the leases that denied by what they know of the
// takes that the shared store would have to decide. The caller holds the lock.
func (c *leaseTakes) advise(denied uint32) {
	for set := denied; set != 0; set &= set - 1 {
		i := bits.TrailingZeros32(set)
		w, d := &c.leases[i].strict, &c.takes[i].Decision
		for others := c.strict; others != 0; others &= others - 1 {
			if w.concerns(&c.takes[bits.TrailingZeros32(others)]) {
				d.RetryAfter = max(d.RetryAfter, time.Duration(w.until-c.now))
			}
		}
	}
}

// unasked marks the takes that nobody decided.
func (c *leaseTakes) unasked() {
	for set := c.strict | c.asking; set != 0; set &= set - 1 {
		t := &c.takes[bits.TrailingZeros32(set)]
		t.Decision, t.Mode = Decision{Allowed: true, Remaining: t.Policy.ready.burst}, Unasked
	}
}
