package upstream

import "time"

// DefaultOpenFor is how long a breaker stays open unless told otherwise.
const DefaultOpenFor = 10 * time.Second

// maxOpenings bounds by how much a breaker stays open longer each time that a
// trial fails.
const maxOpenings = 10

// Breaker says when a target that fails is left alone. This is the passive
// ejection of other gateways: what the exchanges themselves show takes a target
// out, without a probe.
type Breaker struct {
	// Failures is how many exchanges in a row fail before the target is sent no
	// more: no connection, no answer in time, an answer cut off, a status of 500 and
	// above. What a caller does, a request that the target refuses as the caller's
	// mistake or a client that leaves, never counts. 0 means no breaker.
	Failures int
	// OpenFor is how long that lasts. Then one request is let through as a trial: its
	// success closes the breaker, its failure opens it again for twice as long, up to
	// ten times OpenFor. Default 10s.
	OpenFor time.Duration
}

// pass is one exchange's part in its target's breaker. The zero pass has none.
type pass struct {
	// opening is the number of times that the breaker had opened before, plus one:
	// what an exchange that began before the last opening finds out is old news.
	opening uint64
	trial   uint64 // its number if it is a trial
}

type breakerState uint8

const (
	breakerClosed breakerState = iota
	breakerOpen
	breakerTrial // half-open, and its one trial is on its way
)

// breaker opens after failures in a row and closes by a trial. It knows no lock
// and no clock.
type breaker struct {
	failures  int
	openFor   time.Duration
	state     breakerState
	inARow    int // failures without a success between, while closed
	openings  uint64
	trials    uint64
	factor    time.Duration // of openFor, for the next opening
	trialFrom time.Time     // when open: from here on it is half-open
}

func newBreaker(b Breaker) breaker {
	if b.OpenFor <= 0 {
		b.OpenFor = DefaultOpenFor
	}
	return breaker{failures: max(b.Failures, 0), openFor: b.OpenFor, factor: 1}
}

func (b *breaker) admits(now time.Time) bool {
	switch b.state {
	case breakerOpen:
		return !now.Before(b.trialFrom)
	case breakerTrial:
		return false
	}
	return true
}

// opensAt is when a trial is due, zero where that is not a matter of time.
func (b *breaker) opensAt() time.Time {
	if b.state == breakerOpen {
		return b.trialFrom
	}
	return time.Time{}
}

// begin hands out the pass of an exchange. A half-open breaker's is its trial if
// the target is open otherwise.
func (b *breaker) begin(open bool) pass {
	switch {
	case b.state == breakerClosed:
		return pass{opening: b.openings + 1}
	case open && b.state == breakerOpen:
		b.state = breakerTrial
		b.trials++
		return pass{opening: b.openings + 1, trial: b.trials}
	}
	return pass{}
}

// alive closes the breaker if p is its trial.
func (b *breaker) alive(p pass) (what string, admits bool) {
	if !b.onTrial(p) {
		return "", false
	}
	b.close()
	return TargetClosed, true
}

// onTrial reports whether p is the trial that decides.
func (b *breaker) onTrial(p pass) bool { return b.state == breakerTrial && p.trial == b.trials }

// end counts how an exchange ended: what happened to the breaker, "" for nothing,
// and whether it may admit more than before.
func (b *breaker) end(p pass, o outcome, now time.Time) (what string, admits bool) {
	if p.opening != b.openings+1 || b.failures == 0 {
		return "", false
	}
	trial := b.onTrial(p)
	switch {
	case trial && o == good:
		b.close()
		return TargetClosed, true
	case trial && o == bad:
		b.open(now)
		return TargetOpened, false
	case trial: // it decided nothing: the next one may
		b.state = breakerOpen
		return "", true
	case b.state != breakerClosed:
		return "", false
	case o == good:
		b.close()
	case o == bad:
		if b.inARow++; b.inARow >= b.failures {
			b.open(now)
			return TargetOpened, false
		}
	}
	return "", false
}

func (b *breaker) close() { b.state, b.inARow, b.factor = breakerClosed, 0, 1 }

func (b *breaker) open(now time.Time) {
	b.state, b.inARow = breakerOpen, 0
	b.openings++
	b.trialFrom = now.Add(b.openFor * b.factor)
	b.factor = min(2*b.factor, maxOpenings)
}

// hurry makes a trial due at now if the breaker is open.
func (b *breaker) hurry(now time.Time) {
	if b.state == breakerOpen && b.trialFrom.After(now) {
		b.trialFrom = now
	}
}

func (b *breaker) name(now time.Time) string {
	switch {
	case b.state == breakerClosed:
		return "closed"
	case b.state == breakerOpen && now.Before(b.trialFrom):
		return "open"
	}
	return "half_open"
}
