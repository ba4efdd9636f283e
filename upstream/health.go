package upstream

import (
	"sync"
	"time"
)

// outcome is what an exchange says about its target.
type outcome uint8

const (
	// good is an answer that shows that the target works.
	good outcome = iota
	// bad is a failure of the target: no connection, an answer cut off, too slow,
	// or a status of 500 and above.
	bad
	// neutral says nothing about the target: a caller's 4xx, a malformed body, a
	// client that left, a refusal of our own.
	neutral
)

// What can happen to a target: the values of TargetEvent.What.
const (
	// TargetOpened says that the breaker opened: the target failed too often in a
	// row, or failed its trial.
	TargetOpened = "opened"
	// TargetClosed says that the breaker closed: a trial succeeded.
	TargetClosed = "closed"
	// TargetEjected says that too many probes in a row failed.
	TargetEjected = "ejected"
	// TargetReturned says that an ejected target's probes succeed again.
	TargetReturned = "returned"
)

// TargetEvent is a change in what a pool thinks of a target.
type TargetEvent struct {
	// Target is the URL or name of the target.
	Target string
	// What is TargetOpened, TargetClosed, TargetEjected or TargetReturned.
	What string
}

// health says whether a target may be sent requests. Three things decide, each
// for itself: the breaker, which listens to the exchanges (passive ejection, as
// others call it), the probes, and the time that the target itself asked for. It
// is safe for concurrent use and never reads a clock.
type health struct {
	// events is told what happened, admits that the target may be open again by
	// something else than time, where they are not nil. Both are called without the
	// lock, by whoever calls health, and must not block.
	events func(what string)
	admits func()

	mu          sync.Mutex
	breaker     breaker   // guarded by mu
	probes      probes    // guarded by mu
	closedUntil time.Time // guarded by mu: the target asked for it
}

// newHealth returns the health of a target that nothing is known about: open.
func newHealth(b Breaker) health { return health{breaker: newBreaker(b)} }

// open reports whether the target may be sent a request at now.
func (h *health) open(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.openLocked(now)
}

func (h *health) openLocked(now time.Time) bool {
	return !h.probes.ejected && !now.Before(h.closedUntil) && h.breaker.admits(now)
}

// pauses reports whether nothing but its own wish keeps the target closed.
func (h *health) pauses(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.probes.ejected && !h.breaker.isOpen && now.Before(h.closedUntil)
}

// opensAt is when the target may be open again, as far as that is known: for a
// half-open breaker the time of the next trial, for an ejected target that of its
// next probe. It is zero where the target is open now.
func (h *health) opensAt(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.breaker.opensAt()
	if h.probes.ejected { // its return makes a trial due
		at = h.probes.next
	}
	if h.closedUntil.After(at) {
		at = h.closedUntil
	}
	if !at.After(now) {
		return time.Time{}
	}
	return at
}

// closeUntil keeps requests from the target until t, because it asked for that.
// What it asked last counts. The caller bounds t: what a target says may be wrong.
func (h *health) closeUntil(t time.Time) {
	h.mu.Lock()
	sooner := t.Before(h.closedUntil)
	h.closedUntil = t
	h.mu.Unlock()
	h.tell("", sooner)
}

// begin is called before an exchange, and its pass given to end after it, once. It is
// not ok where the target is not open. Who goes on all the same must end the pass
// too; such an exchange decides nothing while the breaker is not closed.
func (h *health) begin(now time.Time) (p pass, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ok = h.openLocked(now)
	return h.breaker.begin(ok, now), ok
}

// alive says that the exchange brings an answer: the head of one below 500 is there.
// A trial may be a stream of minutes, and it has shown what it should: that the target
// works. The pass must still be ended.
func (h *health) alive(p pass) {
	h.mu.Lock()
	what, admits := h.breaker.alive(p)
	h.mu.Unlock()
	h.tell(what, admits)
}

// end tells how the exchange of p ended. The pool calls it once for each begin.
func (h *health) end(p pass, o outcome, now time.Time) {
	h.mu.Lock()
	what, admits := h.breaker.end(p, o, now)
	h.mu.Unlock()
	h.tell(what, admits)
}

func (h *health) tell(what string, admits bool) {
	if what != "" && h.events != nil {
		h.events(what)
	}
	if admits && h.admits != nil {
		h.admits()
	}
}

// probed tells how a probe ended.
func (h *health) probed(ok bool, now time.Time) {
	h.mu.Lock()
	what := h.probes.ended(ok)
	if what == TargetReturned {
		// The target was down and is back: what it did before says nothing any more.
		h.breaker.hurry(now)
	}
	h.mu.Unlock()
	h.tell(what, what == TargetReturned)
}

// nextProbe tells when the next probe is due.
func (h *health) nextProbe(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probes.next = at
}

// state is the breaker's, "closed", "open" or "half_open", and whether the probes
// have ejected the target.
func (h *health) state(now time.Time) (breaker string, ejected bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.breaker.name(now), h.probes.ejected
}
