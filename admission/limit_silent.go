package admission

import "math"

// silence is what is known of a target of which nothing was heard lately.
type silence struct {
	steps int     // in which something ran, and nothing ended and no token came
	from  float64 // the limit before it grew in this silence, 0: it did not
	bound float64 // that it may grow to in this silence
	first float64 // the limit before it ever did
	risen float64 // the limit that it grew to last, 0: it never did
	since float64 // answers since then
	slow  bool    // what was heard last was not well below the aim
}

// hear takes in a step in which something was heard.
func (q *silence) hear(served float64, s signal) {
	q.steps, q.from = 0, 0
	q.since += served
	q.slow = !s.easy || s.longer
}

// rise grows limits that are full though nothing is heard: calls that take a minute
// say nothing for a minute, and who waits for room would wait in vain. The first time
// it grows until something is heard; later only when as many calls as it grew to were
// answered, and well. What was well when something was not is the end of it.
func (l *limiter) rise() {
	q := &l.silence
	aim := l.slo.TTFT
	switch {
	case !l.waited || l.hold > 0 || q.slow:
		return
	case aim > 0 && float64(q.steps)*stepEvery.Seconds() > aim.Seconds():
		return // whatever runs there is late already
	case q.from == 0 && q.since < q.risen:
		return
	}
	tokens := l.token.peak > 0
	if tokens && l.streams.pieces <= wholeShare {
		return // a stream is heard from its first token on, unless that is late
	}
	if q.from == 0 {
		q.from, q.since = l.seat.limit, 0
		q.bound = math.Inf(1)
		if q.risen == 0 {
			q.first = q.from
		}
		if tokens || q.risen > 0 {
			q.bound = mostSilent * q.from
		}
	}
	if l.seat.limit >= q.bound {
		return
	}
	if l.seat.filled(l.parts) {
		l.seat.rise()
	}
	if tokens && l.token.filled(l.parts) {
		l.token.rise()
	}
	q.risen = l.seat.limit
}

// rise is a step of growth in silence.
func (b *bound) rise() {
	if b.safe == 0 {
		b.safe = b.limit
	}
	next := min(silentRise*b.limit, max(b.good, b.limit), b.high)
	b.slack = max(b.slack-(next-b.limit), 0)
	b.limit = next
}
