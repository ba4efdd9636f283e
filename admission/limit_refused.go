package admission

import "math"

// refusals is what the target refused. Where it has a limit of its own, fewer at once
// are refused less, and no work is lost. Other refusals come at any load: those of a
// caller's own quota there. When cuts have cost work and made them no fewer, what was
// cut is given back, and as many are usual from then on.
type refusals struct {
	usual  float64             // share of the answers that nothing helps against
	before float64             // the limit before the first cut for them, 0: there was none
	steps  int                 // since then
	idle   int                 // of them since the last cut
	early  tally               // of the first blameSteps
	late   tally               // of those after them
	served [blameSteps]float64 // answers in the last steps
}

// tally is what some steps brought, added up.
type tally struct{ refused, served, seats, steps float64 }

// excess is the share of refusals beyond what is usual and beyond chance.
func (r *refusals) excess(refused, all float64) float64 {
	normal := r.usual * all
	share := refused / all
	if share < r.usual {
		r.usual += (share - r.usual) / usualSteps
	}
	return max(refused-normal-usualNoise*math.Sqrt(normal), 0) / all
}

// see takes in one step with that limit.
func (r *refusals) see(refused, served, seats float64) {
	copy(r.served[1:], r.served[:])
	r.served[0] = served
	if r.before == 0 {
		return
	}
	grown := r.steps > blameSteps && seats*r.early.steps > r.early.seats
	if r.idle++; r.idle > blameOver || grown {
		r.before = 0
		return
	}
	r.steps++
	t := &r.late
	if r.steps <= blameSteps {
		t = &r.early
	}
	t.refused += refused
	t.served += served
	t.seats += seats
	t.steps++
}

// blame is called before each cut for refusals, with the limit: it reports whether
// the cuts before it were in vain, and which limit they began from.
func (r *refusals) blame(limit float64) (before float64, vain bool) {
	r.idle = 0
	if r.before == 0 {
		*r = refusals{usual: r.usual, before: limit, served: r.served}
		return 0, false
	}
	a, b := r.early, r.late
	if b.steps < blameSteps || a.refused == 0 {
		return 0, false
	}
	var served float64
	for _, n := range r.served {
		served += n / blameSteps
	}
	usual := a.served / a.steps
	noise := 1 / math.Sqrt(max(a.served, 1))
	share := func(t tally) float64 { return t.refused / (t.refused + t.served) }
	fewer := b.refused/b.seats < refusedLess*a.refused/a.seats || share(b) < refusedHalf*share(a)
	if fewer || served >= (1-max(refusedCost, noise))*usual {
		return 0, false
	}
	before = r.before
	r.usual = min(max(r.usual, share(a), share(b)), usualMost)
	r.before = 0
	return before, true
}
