package admission

import (
	"math"
	"time"
)

// limiter is the limits of one target. They follow what the target shows of itself:
// of streams the wait for the first token beyond what the prompt explains, the gaps
// between tokens and the stalls (not the time to the end, which is the length of
// the answer); of plain calls the latency of each kind against that kind's own; what
// it refuses and fails; and what its metrics say, where there are any.
//
// Once a second (tick) the worst of the signals decides. Too slow: the limits that
// were in use are cut. Well, and something waited: they grow. Not in use: they stay.
// Limits are of the whole target, of which seats, tokens and prefill give this
// instance's part. Nothing here allocates, but for a kind's first call; everything
// is bounded.
type limiter struct {
	slo   SLO
	fixed bool
	parts float64 // instances that share the target
	most  float64 // Limits.Max
	seat  bound
	token bound

	last    time.Time // of tick
	now     int       // seats taken here
	nowTok  float64   // tokens held here
	waited  bool      // something waited for room since the last tick
	hold    int       // steps without growth
	pause   int       // steps without cuts
	pausing int       // how long the last pause was
	cutAt   time.Time // the last cut
	cuts    [3]point  // the last cuts of a series, the newest last
	series  int       // cuts since something grew or was well
	second  point     // the second cut of the series

	refused, failed, served int     // answers since the last tick
	ends                    int     // the same, and what says nothing of the target
	usual                   float64 // share of failures
	streams                 streams
	plain                   plain
	engineView              engineView
	engineSeats             float64 // that the engine says it has; 0: not known
	refusals                refusals
	silence                 silence
}

// bound is one limit.
type bound struct {
	limit     float64
	low, high float64
	// good is what was well lately: +Inf until something was not.
	good float64
	// safe is the limit before it rushed; 0: it did not.
	safe float64
	// peak is the most that was taken here since the last tick, other what others
	// take of the target.
	peak, other float64
	// largest is the largest thing that was put into it lately.
	largest float64
	// much is what was taken when that was last too much, top the same where it was
	// about as much the time before: 0 not known.
	much, top float64
	// slack is how much more than the limit may be taken yet after a cut.
	slack float64
}

// signal is what one step knows.
type signal struct {
	over    float64 // above 1: too slow
	memory  bool    // what is over is the cache, not only the speed
	work    float64 // per second, in tokens or in seconds of work at low load
	heard   bool    // the target answered something
	events  float64 // that work is counted from
	plain   float64 // the same work of plain calls, where it is of streams
	calls   float64 // that it is counted from
	refused bool    // more is refused than usual
	stall   bool    // what is over is stalls
	quiet   bool    // nothing was heard at all
	longer  bool    // calls take longer than at low load, if only by a little
	flat    bool    // more at once does not bring more work
	trim    bool    // and fewer would not bring less
	steep   bool    // fewer would bring less, and make nothing faster
	easy    bool    // far from the aim
	paced   bool    // it is of streams, and held against a service level
}

// point is what was seen before a cut.
type point struct{ over, work, plain, seats, tokens float64 }

// newLimiter makes the limits of one target. Min equal to Max fixes the seats and
// leaves tokens and prefill open, unless an engine tells the size of its cache.
func newLimiter(l Limits, slo SLO, now time.Time) *limiter {
	low := float64(max(l.Min, 1))
	high := float64(l.Max)
	if l.Max <= 0 {
		high = DefaultMaxConcurrency
	}
	high = max(high, low)
	c := &limiter{
		slo:   slo,
		fixed: low == high,
		parts: 1,
		most:  high,
		seat:  bound{limit: min(high, max(low, startSeats)), low: low, high: high, good: math.Inf(1)},
		token: bound{limit: startTokens, low: leastTokens, high: math.Inf(1), good: math.Inf(1)},
		last:  now,
	}
	if c.fixed {
		c.token.limit = math.Inf(1)
	}
	return c
}

// share says how many instances use the target: the limits here are one part of as
// many.
func (l *limiter) share(n int) { l.parts = float64(max(n, 1)) }

// seats is how many requests may run here at once, at least 1.
func (l *limiter) seats() float64 {
	if l.fixed {
		return max(l.seat.limit/l.parts, 1)
	}
	return max((l.seat.now()-l.seat.other)/l.parts, l.seat.low/l.parts, 1)
}

// tokens is how many tokens of prompts and answers may be held here at once: +Inf
// where that is not limited.
func (l *limiter) tokens() float64 {
	return max(l.token.now()-l.token.other, 0) / l.parts
}

// prefill is how many tokens of prompts without a first token may be here at once,
// so that the last of them still comes in time. +Inf where limits are fixed, where
// prompts are too short to matter, and where many answers come in one piece, which
// says nothing of when their prompts were read.
func (l *limiter) prefill() float64 {
	if l.fixed {
		return math.Inf(1)
	}
	aim := noAimPrefill
	if l.slo.TTFT > 0 {
		aim = ttftShare * l.slo.TTFT.Seconds()
	}
	return l.streams.prefill(aim) / l.parts
}

// use says what is taken here now.
func (l *limiter) use(seats int, tokens int64) {
	held := max(float64(tokens), 0)
	l.token.largest = max(l.token.largest, held-l.nowTok)
	l.now, l.nowTok = max(seats, 0), held
	l.seat.peak = max(l.seat.peak, float64(l.now))
	l.token.peak = max(l.token.peak, held)
}

// blocked says that something had to wait for room here.
func (l *limiter) blocked() { l.waited = true }

// firstToken is called for each first token, took after its request was sent; input
// is the length of the prompt in tokens.
func (l *limiter) firstToken(took time.Duration, input int64, now time.Time) {
	l.streams.first(took, input, now)
}

// gap is called for each later piece of a stream: d after the one before, with that
// many tokens.
func (l *limiter) gap(d time.Duration, tokens int64) { l.streams.gap(d, tokens) }

// ended is called for each request that is over. tokens are those of the answer, as
// far as they were seen, and cost what it was expected to cost. What is the fault of
// the caller, or was given up by it, says nothing of the target.
func (l *limiter) ended(kind string, took time.Duration, r Result, tokens int64, cost float64, streamed bool) {
	if l.now > 0 {
		each := l.nowTok / float64(l.now)
		l.seat.drain(l.parts)
		l.token.drain(each * l.parts)
		l.nowTok -= each
		l.now--
	}
	l.ends++
	switch r {
	case Overloaded:
		l.refused++
	case Failed:
		l.failed++
	case OK:
		l.served++
		l.streams.answered(streamed)
		if !streamed && !l.streams.whole(took, tokens, cost, l.slo) {
			l.plain.add(kind, took)
		}
	}
}

// tick moves the limits. It is due once a second; sooner it does nothing.
func (l *limiter) tick(now time.Time) {
	since := now.Sub(l.last)
	if l.last.IsZero() {
		since = stepEvery
	}
	if since < 0 { // the clock was set back
		l.last, l.cutAt = now, now
		l.engineView.n = 0
		return
	}
	if since < stepEvery-stepSlack {
		return
	}
	l.last = now
	if !l.fixed {
		l.act(l.measure(min(since, longestStep), now))
	}
	l.next()
}

// next begins a step.
func (l *limiter) next() {
	l.waited = false
	l.refused, l.failed, l.served, l.ends = 0, 0, 0, 0
	l.seat.next(float64(l.now))
	l.token.next(l.nowTok)
	l.streams.next()
	l.plain.next()
}

// measure reads the signals of one step.
func (l *limiter) measure(since time.Duration, now time.Time) signal {
	l.others(now)
	seats := l.seat.inUse(l.parts)
	full := l.waited && l.seat.used(growFrom, l.parts)
	share, paused := l.streams.voice(l.seat.peak)
	few := share < fewStreams // they are not what the target does
	s := signal{heard: l.streams.heard() || l.served > 0}
	s.quiet = l.ends == 0 && (few || !l.streams.heard())
	s.over, s.refused = l.hard()
	if !few {
		s.over = max(s.over, l.streams.over(l.slo, l.cutAt, now))
	}
	s.easy = s.over < calm && l.streams.known(l.slo)
	stall := l.streams.stalled()
	if stall > stallLimit && !few && (share >= mostStreams || paused >= stalledLeast) {
		s.over, s.memory, s.stall = max(s.over, 1+stallWeight*stall), true, true
	}
	if over, memory := l.engineView.over(now); over > 1 {
		s.over, s.memory = max(s.over, over), s.memory || memory
	}
	s.work, s.events = l.streams.step(since), l.streams.all.tokens
	if l.slo.TTFT <= 0 && l.slo.TPOT <= 0 && !few {
		over, flat := l.streams.power(seats)
		s.over, s.flat = max(s.over, over), flat
	}
	p := l.plain.measure(l.slo, since, load{
		seats: seats,
		full:  full,
		quiet: !l.waited && !l.seat.used(growFrom, l.parts),
		calls: l.served,
		blind: l.silence.risen > 0,
		above: l.seat.limit > l.silence.first,
	})
	s.over = max(s.over, p.over)
	s.easy = s.easy && s.over < calm && p.easy
	s.plain, s.calls = p.work, float64(l.served)
	s.longer = p.longer
	streams := s.events >= 1 && !few
	s.paced = streams && (l.slo.TTFT > 0 || l.slo.TPOT > 0)
	if !streams {
		s.work, s.flat, s.trim = p.work, p.flat, p.trim
		s.steep = p.steep && l.refused == 0
		s.events = float64(l.served)
		s.heard = p.heard // a window may end in a step without answers
	}
	return s
}

// hard is what the target's own refusals and failures mean: the more of them, the
// more.
func (l *limiter) hard() (over float64, refusals bool) {
	all := float64(l.refused + l.failed + l.served)
	if all == 0 {
		return 0, false
	}
	failed := float64(l.failed) / all
	usual := l.usual
	l.usual += (failed - usual) / usualSteps
	refused := l.refusals.excess(float64(l.refused), all)
	if refused < refusedShare && failed < failureShare+usual {
		return 0, false
	}
	return min(hard, softest+2*(refused+max(failed-usual, 0))), refused >= refusedShare
}

// act moves the limits by what was seen.
func (l *limiter) act(s signal) {
	l.seat.remember(s.over <= 1, l.parts)
	l.token.remember(s.over <= 1, l.parts)
	if l.pause > 0 {
		l.pause--
	}
	l.refusals.see(float64(l.refused), float64(l.served), l.seat.limit)
	switch {
	case !s.quiet:
		l.silence.hear(float64(l.served)*l.parts, s)
	case l.seat.peak < 1:
		l.silence.steps = 0
	default:
		l.silence.steps++
	}
	if s.over <= 1 {
		l.series = 0
		if s.easy {
			l.pausing = 0
		}
	}
	pressed := l.seat.used(cutFrom, l.parts) || l.token.used(cutFrom, l.parts)
	switch {
	case s.steep && s.over > 1 && !s.memory:
		// It is slow whatever the limit is, and works for as many as it gets.
		if l.hold--; l.waited && l.hold < 0 {
			l.grow(s, false)
		}
	case s.over > 1 && pressed && s.paced && (l.seat.drains(l.parts) || l.token.drains(l.parts)):
		l.hold = holdSteps // the last cut has not done its work yet
	case s.over > 1 && pressed:
		if l.pause == 0 && !l.undo(s) {
			l.cut(s)
		}
	case s.trim && pressed && l.hold <= 0:
		l.seat.cut(trimBy, l.parts)
		l.hold = 1
	case s.over <= 1 && l.waited && l.hold <= 0 && s.heard && !s.flat:
		l.grow(s, s.easy)
	case s.over <= 1 && s.quiet && pressed && l.hold <= 0 && !s.flat:
		l.rise()
	default:
		l.hold--
	}
}

// cut makes the limits smaller that were in use. The size of an engine's cache is
// known: that limit is cut only where the cache itself proves too small.
func (l *limiter) cut(s signal) {
	copy(l.cuts[:], l.cuts[1:])
	l.cuts[2] = point{over: s.over, work: s.work, plain: s.plain, seats: l.seat.limit, tokens: l.token.limit}
	if l.series++; l.series == 2 {
		l.second = l.cuts[2]
	}
	l.seat.cut(s.over, l.parts)
	if s.memory || math.IsInf(l.token.high, 1) {
		if s.paced && l.series == 1 {
			l.token.mark(l.parts)
		}
		l.token.cut(s.over, l.parts)
	}
	if s.paced {
		l.seat.slack = max(l.seat.inUse(l.parts)-l.seat.limit, 0)
		l.token.slack = max(l.token.inUse(l.parts)-l.token.limit, 0)
	}
	l.hold, l.cutAt = holdSteps, l.last
}

// undo takes the last two cuts back if they made nothing better and cost work. The
// first of a series is not judged: what was before it was still the time before.
func (l *limiter) undo(s signal) bool {
	before := l.cuts[1]
	if l.pausing > 0 {
		before = l.cuts[0] // it was like this then already
	}
	switch {
	case s.refused:
		limit, vain := l.refusals.blame(l.seat.limit)
		if !vain {
			return false
		}
		l.seat.limit = min(max(l.seat.limit, limit), l.seat.high)
		l.series = 0
		return true
	case s.stall && l.series >= 3 && l.second.vain(s):
		before = l.second
	}
	if l.series < 3 || !before.vain(s) {
		return false
	}
	l.seat.limit = min(max(l.seat.limit, before.seats), l.seat.high)
	l.token.limit = min(max(l.token.limit, before.tokens), l.token.high)
	l.series = 0
	l.pausing = min(max(2*l.pausing, pauseSteps), longestPause)
	l.pause = l.pausing
	return true
}

// vain reports whether what was cut since then made nothing better and cost work.
func (p point) vain(s signal) bool {
	lost := func(now, before, events float64) bool {
		return now < (1-max(lossy, 1/math.Sqrt(max(events, 1))))*before
	}
	return s.over >= (1-improvement)*p.over && (lost(s.work, p.work, s.events) || s.stall && lost(s.plain, p.plain, s.calls))
}

// grow makes the limits larger that were in use.
func (l *limiter) grow(s signal, easy bool) {
	l.series = 0
	by := 1.0
	if s.paced {
		by = min(1+urge*max(calmest-s.over, 0), mostUrge)
	}
	if l.seat.filled(l.parts) {
		l.seat.grow(by*max(1, seatStep*math.Sqrt(l.seat.limit)), easy)
	}
	if l.token.filled(l.parts) {
		l.token.grow(by*l.token.limit*max(tokenStep, seatStep/math.Sqrt(l.seat.limit)), easy)
	}
}

// inUse is the most that was taken of the target, by all, as far as is known.
func (b *bound) inUse(parts float64) float64 { return b.peak*parts + b.other }

// used reports whether that was this share of the limit. Half a seat is none.
func (b *bound) used(share, parts float64) bool {
	return b.inUse(parts) >= share*math.Floor(b.limit)
}

// filled reports whether there was no room for more: what is as large as the
// largest may not have fitted into the rest, however much that is.
func (b *bound) filled(parts float64) bool {
	return b.inUse(parts)+b.largest*parts >= growFrom*math.Floor(b.limit)
}

// now is the limit and the slack of a cut.
func (b *bound) now() float64 { return min(b.limit+b.slack, max(b.high, b.limit)) }

// drain takes off the slack what an end of that size leaves for nobody.
func (b *bound) drain(size float64) { b.slack = max(b.slack-drainRate*size, 0) }

// drains reports whether more runs than the limit allows.
func (b *bound) drains(parts float64) bool {
	return b.inUse(parts) > math.Ceil(b.limit*(1+drainSlack))
}

// mark keeps what is in use as too much.
func (b *bound) mark(parts float64) {
	before := b.much
	b.much, b.top = min(b.limit, b.inUse(parts)), 0
	if math.Abs(b.much-before) < sameTop*before {
		b.top = b.much
	}
}

func (b *bound) cut(over, parts float64) {
	if !b.used(cutFrom, parts) {
		return
	}
	use := b.inUse(parts)
	if b.safe > 0 {
		b.good, b.safe = b.safe, 0
	} else if math.IsInf(b.good, 1) {
		b.good = b.limit
	}
	cut := max(use/over, deepest*min(b.limit, use))
	b.limit = max(min(b.limit, cut), min(b.low, b.high))
}

func (b *bound) grow(step float64, easy bool) {
	if b.top > 0 {
		near := math.Abs(b.limit-b.top) / (nearTop * b.top)
		step *= min(max(near, slowTop), 1)
	}
	next := b.limit + step
	b.slack = max(b.slack-step, 0)
	b.safe = 0
	quick := b.limit * rush
	if !math.IsInf(b.good, 1) {
		quick = min(b.limit*rushBack, goodShare*b.good)
	}
	if easy && quick > next {
		b.safe, next = b.limit, quick
	}
	b.limit = min(max(b.limit, next), b.high)
}

// remember keeps what was well, and slowly forgets it.
func (b *bound) remember(well bool, parts float64) {
	switch {
	case math.IsInf(b.good, 1):
	case b.limit >= b.good:
		if well && b.filled(parts) {
			b.good = b.limit
		}
	default:
		b.good -= (b.good - b.limit) / goodSteps
	}
}

func (b *bound) next(now float64) {
	b.peak = now
	b.largest *= largestFade
}
