package admission

import (
	"math"
	"slices"
	"time"
)

// streams is what the target's streams show.
type streams struct {
	firsts      [firstKept]firstSample // a ring
	nth         int                    // first tokens seen
	heardFirsts int                    // of them since the last tick
	sorted      [firstKept]float64     // scratch

	rates   histogram // seconds of the wait for each token of a prompt
	read    int       // prompts since the last tick that are in it
	betaNow float64   // 0: not known
	pieces  float64   // share of answers in one piece
	floors  histogram // seconds of the wait beyond the prompt
	floor   float64   // what all wait for, 0: not known

	flow  [gapSteps]flow // the step that runs first
	trend trend          // of the power over the seats
	steps int            // in which something streamed, ever, up to gapSteps
	all   total          // of all steps, fading
}

// firstSample is one first token.
type firstSample struct {
	took     float64
	input    float64
	sent, at time.Time
}

// flow is what streamed in one step, in seconds and tokens.
type flow struct {
	total
	stalled float64
	events  int
	// present is for how long requests were heard, in seconds, and paused for how long
	// those of them that stalled: each heardWithin at most.
	present, paused float64
	// spent is how long answers in one piece took, allowed how long they may take.
	spent, allowed float64
}

// total is what is added up over steps.
type total struct {
	seconds      float64
	time, tokens float64 // of what came after first tokens
	cost         float64 // of what was read and made
	// firsts is how long first tokens took, waits the part beyond what is normal.
	firsts, waits float64
}

func (s *streams) first(took time.Duration, input int64, now time.Time) {
	f := firstSample{took: max(took.Seconds(), 0), input: max(float64(input), 0), sent: now.Add(-took), at: now}
	s.firsts[s.nth%firstKept] = f
	s.nth++
	s.heardFirsts++
	s.flow[0].tokens++
	s.flow[0].cost += inputWeight*f.input + outputWeight
	s.flow[0].firsts += f.took
	s.flow[0].present += min(f.took, heardWithin)
	beyond := max(f.took-s.betaNow*f.input, 0)
	s.floors.add(bucket(beyond, baseScale))
	if s.floor > 0 {
		s.flow[0].waits += max(beyond-s.floor, 0)
	}
	if input >= betaFrom {
		s.rates.add(bucket(f.took/f.input, betaScale))
		s.read++
	}
}

func (s *streams) gap(d time.Duration, tokens int64) {
	if d < 0 || tokens < 0 {
		return
	}
	f, took, n := &s.flow[0], d.Seconds(), float64(tokens)
	f.time += took
	f.tokens += n
	f.cost += outputWeight * n
	f.events++
	f.present += min(took, heardWithin)
	// A piece of many tokens may take as long as they take.
	if last := &s.flow[1]; took-n*last.mean() > stallAfter {
		f.stalled += took
		f.paused += min(took, heardWithin)
	}
}

// answered counts the answers that came in one piece among all.
func (s *streams) answered(streamed bool) {
	piece := 1.0
	if streamed {
		piece = 0
	}
	s.pieces += (piece - s.pieces) / piecesMean
}

// whole counts an answer in one piece whose length in tokens is known, or is
// expected from its cost where there is an aim for each token. It reports whether
// it was one.
func (s *streams) whole(took time.Duration, tokens int64, cost float64, slo SLO) bool {
	n := float64(tokens)
	if n <= 0 && slo.TPOT > 0 && cost > 1 {
		n = cost / outputWeight
	}
	if n <= 0 {
		return false
	}
	f := &s.flow[0]
	f.present += took.Seconds()
	f.events++
	f.tokens += n
	f.cost += max(cost, outputWeight*n)
	if slo.TTFT > 0 && slo.TPOT > 0 {
		f.spent += took.Seconds()
		f.allowed += ttftShare*slo.TTFT.Seconds() + gapShare*slo.TPOT.Seconds()*n
	} else {
		f.time += took.Seconds()
	}
	return true
}

// next begins a step.
func (s *streams) next() {
	if s.flow[0].events > 0 && s.steps < gapSteps {
		s.steps++
	}
	copy(s.flow[1:], s.flow[:])
	s.flow[0] = flow{}
	if s.heardFirsts > 0 {
		s.heardFirsts = 0
		if s.floors.n >= betaLeast {
			s.floor = s.floors.quantile(betaRank, baseScale)
		}
		s.floors.fade(math.Exp2(-1 / betaHalf))
	}
	if s.read > 0 {
		s.read = 0
		if s.rates.n >= betaLeast {
			s.betaNow = s.rates.quantile(betaRank, betaScale)
		}
		s.rates.fade(math.Exp2(-1 / betaHalf))
	}
}

// prefill is how many tokens of prompts are read within d.
func (s *streams) prefill(d float64) float64 {
	switch {
	case s.pieces > wholeShare:
		return math.Inf(1)
	case s.betaNow > 0:
		return d / s.betaNow
	case s.nth < firstKnown:
		return startPrefill
	}
	return math.Inf(1)
}

func (s *streams) heard() bool { return s.heardFirsts > 0 || s.flow[0].events > 0 }

// step ends a step of that many seconds, and tells the work that was done in each.
func (s *streams) step(since time.Duration) float64 {
	f, a := &s.flow[0], &s.all
	a.seconds = streamFade*a.seconds + since.Seconds()
	a.time = streamFade*a.time + f.time
	a.tokens = streamFade*a.tokens + f.tokens
	a.cost = streamFade*a.cost + f.cost
	a.firsts = streamFade*a.firsts + f.firsts
	a.waits = streamFade*a.waits + f.waits
	return a.cost / a.seconds
}

// over compares the wait for first tokens and the gaps with the service level.
// What was sent before since was acted upon. The gaps are those of the last step, but
// not above those of the steps before: a burst of prompts stops all streams for a
// second, and makes no answer late as a whole.
func (s *streams) over(slo SLO, since, now time.Time) float64 {
	if !s.heard() {
		return 0
	}
	var over float64
	if slo.TTFT > 0 {
		over = s.wait(since, now) / (ttftShare * slo.TTFT.Seconds())
	}
	f := s.recent()
	if slo.TPOT > 0 && s.steps >= gapSteps && (f.tokens >= gapEnough || s.flow[gapSteps-1].events > 0) {
		over = max(over, min(f.mean(), s.all.mean())/(gapShare*slo.TPOT.Seconds()))
	}
	if f.allowed > 0 {
		over = max(over, f.spent/f.allowed)
	}
	return over
}

// voice is how much what streams show says of all the requests at the target: the
// share of them that streams, and how many of those stalled.
func (s *streams) voice(running float64) (share, paused float64) {
	var present float64
	for _, f := range s.flow {
		present += f.present
		paused += f.paused
	}
	steps := float64(min(s.steps+1, gapSteps))
	return min(present/(steps*max(running, 1)), 1), paused / steps
}

// known reports whether what streams has done so for long enough to say how slow it is.
func (s *streams) known(slo SLO) bool {
	return s.steps >= gapSteps || s.flow[0].events == 0 || slo.TPOT <= 0
}

// wait is how long first tokens take beyond what their prompts explain: all but a
// tenth of them less than that. Those that were sent before since do not count.
func (s *streams) wait(since, now time.Time) float64 {
	n := 0
	for i := s.nth - 1; i >= 0 && i >= s.nth-firstKept; i-- {
		f := s.firsts[i%firstKept]
		age := now.Sub(f.at)
		if age > firstLongest || age > firstWindow && n >= firstEnough {
			break
		}
		if !f.sent.After(since) {
			continue
		}
		s.sorted[n] = max(f.took-s.betaNow*f.input, 0)
		n++
	}
	if n < firstLeast {
		return 0
	}
	slices.Sort(s.sorted[:n])
	return s.sorted[min(int(firstRank*float64(n)), n-1)]
}

// recent is the last step, with those before where it is too little.
func (s *streams) recent() flow {
	f := s.flow[0]
	for _, g := range s.flow[1:] {
		if f.tokens >= gapEnough {
			break
		}
		f.time += g.time
		f.stalled += g.stalled
		f.tokens += g.tokens
		f.spent += g.spent
		f.allowed += g.allowed
	}
	return f
}

// mean is the seconds for each token that came after the first.
func (f *total) mean() float64 {
	if f.tokens <= 0 {
		return 0
	}
	return f.time / f.tokens
}

// stalled is the share of the time of streams that went by in stalls.
func (s *streams) stalled() float64 {
	if f := s.recent(); f.time > 0 && s.heard() {
		return f.stalled / f.time
	}
	return 0
}

// power is for targets without a service level: tokens a second, to powerOf,
// divided by the time that callers wait for each, should be as large as it can be
// (Kleinrock, Power and deterministic rules of thumb, 1979). The wait for the first token is
// part of that time, else a queue inside the target would not be seen; and because
// it is seen late, as late as it is long, it may only be so large a part. over is
// above 1 where fewer seats would be better, flat says that more would not.
func (s *streams) power(seats float64) (over float64, flat bool) {
	a := &s.all
	if all := a.time + a.firsts; all > 0 {
		over = a.waits / (waitShare * all)
	}
	took := a.time + a.waits
	if s.flow[0].tokens < gapEnough || took <= 0 || seats < 1 {
		return over, false
	}
	s.trend.add(math.Log(seats), powerOf*math.Log(a.cost/a.seconds)-math.Log(took/a.tokens))
	slope, err, known := s.trend.slope()
	switch {
	case !known:
		return over, false
	case slope+err < 0:
		return max(over, 1+min(powerFast*-slope, powerMost)), true
	}
	return over, slope-err < 0
}
