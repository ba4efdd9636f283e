package admission

import (
	"math"
	"slices"
	"strings"
	"time"
)

// plain is what calls without tokens show. The latency of each kind is compared
// with that kind's own at low load, by medians, so that sizes do not matter; kinds
// count by their calls. Beside that the work that gets done is held against the
// seats that do it: where more seats bring no more of it (an elasticity, fitted to
// the last steps in which the target was full), they only make it wait, and the
// limit stops growing or, where it is slow as well, slowly falls to where work
// begins to fall. So the limit finds the knee without probing at a floor, which
// would shed good work (envoy#46532), and also where no low load was ever seen.
type plain struct {
	kinds  map[string]*kind
	order  []*kind // the same, in an order that does not depend on the map's
	ratios float64 // sum of the logarithms, fading
	slow   float64 // sum of what compares with the service level, fading
	weight float64
	trend  trend // of the work over the seats
	point  stretch
	quiet  bool // the last step was one of low load
}

// stretch is steps in which the target was full.
type stretch struct{ steps, calls, seconds, work, seats float64 }

// kind is one response class.
type kind struct {
	name          string
	recent, learn histogram
	age           int     // steps that recent has
	steps         int     // that learn has
	low           bool    // learn is of steps in which nobody waited inside
	base          float64 // median at low load in seconds, 0: not known
	load          float64 // seats in use when it was first learnt
	trusted       bool    // base was seen when nobody waited inside
	idle          bool    // and that was at low load
	young         float64 // until it is: how many calls learn must have
	done          int     // since the last tick
	unused        int     // steps
}

// load is what the limiter knows of the step that plain looks at.
type load struct {
	seats float64
	full  bool // something waited, and the seats were in use
	quiet bool // nothing waited, and they were not
	calls int  // that were answered
	blind bool // the limit grew in silence once
	above bool // and is still above what it was before
}

// plainSignal is what the calls of one step show.
type plainSignal struct {
	over, work        float64
	heard, easy       bool
	flat, trim, steep bool // see signal
	longer            bool // than at low load, if only by a little
}

func (p *plain) add(name string, took time.Duration) {
	k := p.kinds[name]
	if k == nil {
		k = p.open(name)
	}
	k.done++
	b := bucket(took.Seconds(), baseScale)
	k.recent.add(b)
	k.learn.add(b)
}

// open makes room for a kind. The last place is for all that have none.
func (p *plain) open(name string) *kind {
	if len(p.order) >= kindsKept-1 {
		name = ""
		if k := p.kinds[name]; k != nil {
			return k
		}
	}
	if p.kinds == nil {
		p.kinds = map[string]*kind{}
	}
	k := &kind{name: strings.Clone(name), low: p.quiet}
	p.kinds[k.name] = k
	p.order = append(p.order, k)
	return k
}

// next begins a step.
func (p *plain) next() {
	p.order = slices.DeleteFunc(p.order, func(k *kind) bool {
		k.done = 0
		old := k.unused > kindForgotten
		if old {
			delete(p.kinds, k.name)
		}
		return old
	})
}

// measure looks at one step.
func (p *plain) measure(slo SLO, since time.Duration, on load) plainSignal {
	s := plainSignal{easy: true}
	trusted, compared := true, false
	for _, k := range p.order {
		s.work += float64(k.done) * k.base / since.Seconds()
		trusted = trusted && k.trusted
		if k.ready() {
			if !compared {
				p.ratios *= windowFade
				p.slow *= windowFade
				p.weight *= windowFade
			}
			compared = true
			k.compare(slo, p)
		}
	}
	p.follow(since, s.work, on)
	slope, err, known := p.trend.slope()
	ratio := math.Exp(p.ratios / (p.weight + windowDoubt))
	s.flat = on.full && known && slope+err < flatSlope && (ratio > noLoadRatio || !trusted)
	s.steep = on.full && known && slope-err > flatSlope
	for _, k := range p.order {
		k.adapt(on, s.steep)
	}
	p.quiet = on.quiet
	s.easy = ratio/plainRatio < calm
	longer := 1.0
	if p.weight > 0 {
		longer = math.Exp(p.ratios / p.weight)
	}
	s.longer = longer > longerRatio
	s.trim = s.flat && slope+err < idleSlope
	if on.blind && on.above && on.full && !trusted && !known && longer > probeRatio {
		// Nobody knows what is normal. Down to what the limit was before, it moves until
		// the work shows what more is good for.
		s.trim = true
	}
	if p.weight == 0 || !compared {
		// What is old was acted upon. But where all seats were used again and again,
		// and all is well, growth need not wait.
		s.heard = p.weight > 0 && s.easy && float64(on.calls) >= on.seats
		return s
	}
	s.heard = true
	s.over = ratio / plainRatio
	if slo.TTFT > 0 {
		s.over = p.slow / (p.weight + windowDoubt)
	}
	return s
}

// follow adds what was done with how many seats, while all of them were in use.
func (p *plain) follow(since time.Duration, work float64, on load) {
	if !on.full {
		p.point = stretch{}
		return
	}
	t := &p.point
	t.steps++
	t.calls += float64(on.calls)
	t.seconds += since.Seconds()
	t.work += work * since.Seconds()
	t.seats += on.seats
	if t.calls < pointCalls && t.steps < pointSteps {
		p.trend.fade(blankFade)
		return
	}
	if t.work > 0 {
		p.trend.add(math.Log(t.seats/t.steps), math.Log(t.work/t.seconds))
	}
	*t = stretch{}
}

// ready begins a step of the kind, and reports whether it has enough calls to be
// compared.
func (k *kind) ready() bool {
	k.age++
	if k.unused++; k.done > 0 {
		k.unused = 0
	}
	n := k.recent.n
	return n >= windowEnough || n >= windowLeast && k.age >= windowSteps
}

// compare adds what the calls say, and begins anew.
func (k *kind) compare(slo SLO, p *plain) {
	if n := k.recent.n; k.base > 0 {
		ratio := k.recent.quantile(0.5, baseScale) / k.base
		p.ratios += n * math.Log(min(max(ratio, bestRatio), worstRatio))
		if slo.TTFT > 0 {
			aim := k.recent.quantile(plainRank, baseScale) / (plainShare * slo.TTFT.Seconds())
			p.slow += n * min(aim, ratio/plainSlower)
		}
		p.weight += n
	}
	k.recent.reset()
	k.age = 0
}

// adapt learns what is normal, from steps of low load, quiet, or of much that does
// not wait inside, steep. Of others only the first is taken, and what is faster.
// Where the limit grew in silence, it may be above what the target can do, and then
// seats that nobody takes are no low load: what is slower with more inside is not
// normal for that.
func (k *kind) adapt(on load, steep bool) {
	k.steps++
	quiet := on.quiet
	low := quiet || steep
	if low != k.low {
		k.learn.reset()
		k.low, k.steps, k.young = low, 0, baseFirst
		return
	}
	n := k.learn.n
	early := n >= max(k.young, baseFirst) && (k.base == 0 || quiet && !k.idle)
	if n < baseEnough && (k.steps < baseSteps || n < baseLeast) && !early {
		return
	}
	median := k.learn.quantile(0.5, baseScale)
	switch {
	case k.base == 0 || quiet && !k.idle && (!on.blind || median <= k.base || on.seats <= k.load):
		k.base, k.load = median, on.seats
	case low && median >= k.base:
		k.base = min(median, k.base*math.Exp2(float64(k.steps)/baseDouble))
	case low, n >= baseEnough && median < baseNoise*k.base:
		k.base = math.Sqrt(k.base * median)
	}
	if n < baseEnough && early {
		k.young = 2 * n
		return
	}
	k.trusted, k.idle = k.trusted || low, k.idle || quiet
	k.learn.reset()
	k.steps = 0
}
