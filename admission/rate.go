package admission

import (
	"math"
	"time"
)

// rate is how fast the targets work.
type rate struct {
	served float64   // since the last tick
	began  time.Time // since when something waits; zero: nothing does
	busy   time.Duration

	perSecond float64 // cost, while there was always something to do; 0: not known
	did       float64 // what it is the mean of, and of how long
	lasted    float64
	dense     float64       // cost a second, of one request with tokens; 0: there was none
	plain     float64       // seconds of a request without tokens; 0: there was none
	faded     time.Time     // when fastest was last made shorter
	fastest   [64]float64   // seconds of the fastest request lately, by the power of two of its cost; 0: not known
	usual     time.Duration // of a request

	expected, used float64 // cost of the requests that ended lately, as estimated and as it was
}

// learnt is how much of what is known of estimates counts after another request.
const learnt = 0.98

// learn takes in what a request has cost, beside what was expected of it.
func (r *rate) learn(used, expected float64) {
	r.expected = learnt*r.expected + expected
	r.used = learnt*r.used + used
}

func (r *rate) waits(now time.Time) { r.began = now }

func (r *rate) empty(now time.Time) {
	r.busy += now.Sub(r.began)
	r.began = time.Time{}
}

// saturated is the share of a second in which something must have waited for its
// work to say what the targets can do.
const saturated = 0.5

// tick learns from the time since the last one. While there is not enough to do,
// what is done says nothing, unless it is more than was thought to be possible.
// Where requests are long nothing ends for seconds, which count as the others do.
func (r *rate) tick(since time.Duration, now time.Time) {
	r.fade(now)
	if !r.began.IsZero() {
		r.busy += now.Sub(r.began)
		r.began = now
	}
	if since > longestStep { // the process was stopped, or had nothing to do
		r.served, r.busy = 0, 0
		return
	}
	did, full := r.served, float64(r.busy) >= saturated*float64(since)
	r.served, r.busy = 0, 0
	if !full && did <= r.perSecond*since.Seconds() {
		return
	}
	if !full && r.perSecond == 0 {
		return
	}
	// Over at least five seconds, and over several requests.
	keep := 1 - 1/max(rateSteps, ratePeriods*r.usual.Seconds())
	r.did = keep*r.did + did
	r.lasted = keep*r.lasted + since.Seconds()
	r.perSecond = r.did / r.lasted
}

const (
	// rateSteps is the seconds over which the rate is taken, ratePeriods the same as
	// times of a usual request.
	rateSteps   = 5
	ratePeriods = 3
)

// took takes in how long a request was at its target.
func (r *rate) took(d time.Duration, it *Item) {
	if r.usual == 0 {
		r.usual = d
	}
	r.usual += (d - r.usual) / 8
	if f := &r.fastest[costClass(it.request.cost())]; *f == 0 || d.Seconds() < *f {
		*f = d.Seconds()
	} else {
		*f += (d.Seconds() - *f) / 16
	}
	switch {
	case !it.request.hasTokens():
		if r.plain == 0 {
			r.plain = d.Seconds()
		}
		r.plain += (d.Seconds() - r.plain) / 16
	case d > 0:
		dense := it.cost / d.Seconds()
		if r.dense == 0 {
			r.dense = dense
		}
		r.dense += (dense - r.dense) / 64
	}
}

// price is what q is expected to cost in the unit of the work that is done. Where there
// are requests with tokens that is tokens, for all: one without has as many as they
// have in the time that it takes.
func (r *rate) price(q *Request) float64 {
	if q.hasTokens() || r.dense == 0 || r.plain == 0 {
		return q.cost()
	}
	return max(r.plain*r.dense, 1)
}

// done is the part of a request of a cost that is over after d, at most: by the
// fastest of its kind, or by the usual one where none is known.
func (r *rate) done(d time.Duration, cost float64) float64 {
	whole := r.fastest[costClass(cost)]
	if whole <= 0 {
		whole = r.usual.Seconds()
	}
	if whole <= 0 {
		return 1
	}
	return min(d.Seconds()/whole, 1)
}

// fade makes the fastest times shorter as time passes. They are for refusing, and
// who is refused is not measured: where they are too long, they must get shorter by
// themselves.
func (r *rate) fade(now time.Time) {
	if since := now.Sub(r.faded); !r.faded.IsZero() && since > 0 {
		by := math.Pow(fading, since.Seconds())
		for i := range r.fastest {
			r.fastest[i] *= by
		}
	}
	r.faded = now
}

// fading is what a second leaves of them.
const fading = 0.98

// takes is the least time that q will take, as far as is known. It is for refusing
// what cannot be in time, so it must not be too long.
func (r *rate) takes(q *Request, now time.Time) time.Duration {
	if now.Sub(r.faded) >= controlEvery {
		r.fade(now)
	}
	return seconds(r.fastest[costClass(q.cost())])
}

// wait is how long an expected cost takes with a portion of the targets' work.
// Estimates are often wrong, and then all in the same way.
func (r *rate) wait(cost, portion float64) (time.Duration, bool) {
	if r.perSecond <= 0 || portion <= 0 {
		return 0, false
	}
	if r.expected > 0 {
		cost *= r.used / r.expected
	}
	return seconds(cost / (portion * r.perSecond)), true
}

// seconds is a duration, bounded.
func seconds(s float64) time.Duration { return time.Duration(min(s, 1e9) * float64(time.Second)) }

// costClass is the power of two of cost. What one cost takes says nothing of another:
// a model has a first step, and a start that is cold.
func costClass(cost float64) int { return min(max(math.Ilogb(max(cost, 1)), 0), 63) }
