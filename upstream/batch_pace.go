package upstream

import (
	"net/http"
	"time"
)

// The constants of pace: those of BentoML's and Clipper's batching (Crankshaw et
// al., Clipper, NSDI 2017, section 4.3).
const (
	fitCalls = 50  // calls that the duration is estimated from
	cutTo    = 0.9 // of the size, after a call that took too long
)

// pace finds out how many items a call may have to meet its goal. It counts items,
// not requests, because a request may have many.
type pace struct {
	goal  time.Duration
	most  int
	size  int       // items that a call may have, at least 1
	cut   time.Time // when the size was last made smaller
	calls [fitCalls]timing
	n     int // calls that were ever timed
}

type timing struct{ items, seconds float64 }

// took learns from a call that began then. The size grows by one with each full call
// that meets the goal, and falls by a tenth with one that misses it. It does not
// fall because of a call that would have been the same with a smaller size; nor of
// one that had begun before it last fell: that was said already.
func (p *pace) took(e BatchEvent, began time.Time) {
	answered := e.Status == http.StatusOK
	if answered {
		p.calls[p.n%fitCalls] = timing{float64(e.Items), e.Took.Seconds()}
		p.n++
	}
	switch {
	case e.Items > p.most: // it would have been sent with any size
	case e.Took > p.goal:
		if smaller := max(int(cutTo*float64(p.size)), 1); e.Items > smaller && !began.Before(p.cut) {
			p.size, p.cut = smaller, began.Add(e.Took)
		}
	case answered && e.Items >= p.size:
		p.size = min(p.size+1, p.most)
	}
}

// fit is the line seconds = each*items + fixed through the last calls, by least
// squares. Neither is negative: more items never take less time.
func (p *pace) fit() (each, fixed float64) {
	calls := p.calls[:min(p.n, fitCalls)]
	if len(calls) == 0 {
		return 0, 0
	}
	var items, took float64
	for _, c := range calls {
		items += c.items
		took += c.seconds
	}
	n := float64(len(calls))
	items, took = items/n, took/n
	var xx, xy float64
	for _, c := range calls {
		xx += (c.items - items) * (c.items - items)
		xy += (c.items - items) * (c.seconds - took)
	}
	if xx > 0 {
		each = max(xy/xx, 0)
		fixed = took - each*items
	}
	if xx == 0 || fixed < 0 { // all of one size, or a line below nothing
		return took / items, 0
	}
	return each, fixed
}

// delay is how long a call with so many items may wait for more.
func (p *pace) delay(items int, most time.Duration) time.Duration {
	if p.goal <= 0 {
		return most
	}
	each, fixed := p.fit()
	left := p.goal.Seconds() - (each*float64(items) + fixed)
	return max(min(most, time.Duration(left*float64(time.Second))), 0)
}
