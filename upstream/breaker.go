package upstream

import "time"

// DefaultOpenFor is how long a breaker stays open unless told otherwise.
const DefaultOpenFor = 10 * time.Second

// maxOpenings bounds by how much a breaker stays open longer each time that a
// trial fails.
const maxOpenings = 10

// trialEvery is how long a trial keeps others from being one, whether it has ended
// or not. A request may take minutes, or be held back by its client: the target that
// is back should not wait for that one. What is not back gets one request a second.
const trialEvery = time.Second

// Breaker says when a target that fails is left alone. This is the passive
// ejection of other gateways: what the exchanges themselves show takes a target
// out, without a probe.
type Breaker struct {
	// Failures is how many exchanges in a row fail before the target is sent no
	// more: no connection, no answer in time, an answer cut off, a status of 500 and
	// above. What a caller does, a request that the target refuses as the caller's
	// mistake or a client that leaves, never counts. 0 means no breaker.
	Failures int
	// OpenFor is how long that lasts. Then one request is let through as a trial, and
	// one more each second until the first of them shows how the target is: the head of
	// an answer below 500 closes the breaker, a failure opens it again for twice as
	// long, up to ten times OpenFor. No trial begins within a second after another, so
	// less than 1s is of use only for the first. Default 10s.
	OpenFor time.Duration
}

// pass is one exchange's part in its target's breaker. The zero pass has none.
type pass struct {
	// opening is the number of times that the breaker had opened before, plus one:
	// what an exchange that began before the last opening finds out is old news.
	opening uint64
	trial   bool
}

// breaker opens after failures in a row and closes by a trial. It knows no lock
// and no clock.
type breaker struct {
	failures  int
	openFor   time.Duration
	isOpen    bool // half-open is open, too
	inARow    int  // failures without a success between, while closed
	openings  uint64
	factor    time.Duration // of openFor, for the next opening
	trialFrom time.Time     // when open: from here on it is half-open
	lastTrial time.Time     // when the last one began, ever
}

func newBreaker(b Breaker) breaker {
	if b.OpenFor <= 0 {
		b.OpenFor = DefaultOpenFor
	}
	return breaker{failures: max(b.Failures, 0), openFor: b.OpenFor, factor: 1}
}

func (b *breaker) admits(now time.Time) bool { return !now.Before(b.opensAt()) }

// opensAt is when the next trial is due, zero where the breaker is closed.
func (b *breaker) opensAt() time.Time {
	if !b.isOpen {
		return time.Time{}
	}
	if next := b.lastTrial.Add(trialEvery); next.After(b.trialFrom) {
		return next
	}
	return b.trialFrom
}

// begin hands out the pass of an exchange. It is a trial where the breaker is
// half-open, and the exchange may begin.
func (b *breaker) begin(may bool, now time.Time) pass {
	switch {
	case !b.isOpen:
		return pass{opening: b.openings + 1}
	case may:
		b.lastTrial = now
		return pass{opening: b.openings + 1, trial: true}
	}
	return pass{}
}

// alive closes the breaker if p is a trial.
func (b *breaker) alive(p pass) (what string, admits bool) {
	if !b.onTrial(p) {
		return "", false
	}
	b.close()
	return TargetClosed, true
}

// onTrial reports whether p is a trial that may still decide.
func (b *breaker) onTrial(p pass) bool { return b.isOpen && p.trial && p.opening == b.openings+1 }

// end counts how an exchange ended: what happened to the breaker, "" for nothing,
// and whether it may admit more than before. A trial that says nothing is followed by
// the next one when that is due.
func (b *breaker) end(p pass, o outcome, now time.Time) (what string, admits bool) {
	trial := b.onTrial(p)
	switch {
	case p.opening != b.openings+1 || b.failures == 0 || b.isOpen && !trial:
	case o == good:
		b.close()
		if trial {
			return TargetClosed, true
		}
	case o == bad:
		if b.inARow++; trial || b.inARow >= b.failures {
			b.open(now)
			return TargetOpened, false
		}
	}
	return "", false
}

func (b *breaker) close() { b.isOpen, b.inARow, b.factor = false, 0, 1 }

func (b *breaker) open(now time.Time) {
	b.isOpen, b.inARow = true, 0
	b.openings++
	b.trialFrom = now.Add(b.openFor * b.factor)
	b.factor = min(2*b.factor, maxOpenings)
}

// hurry makes a trial due at now if the breaker is open, or as soon as one may
// follow the last.
func (b *breaker) hurry(now time.Time) {
	if b.isOpen && b.trialFrom.After(now) {
		b.trialFrom = now
	}
}

func (b *breaker) name(now time.Time) string {
	switch {
	case !b.isOpen:
		return "closed"
	case now.Before(b.trialFrom):
		return "open"
	}
	return "half_open"
}
