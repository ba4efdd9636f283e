package upstream

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// The bounds of what is waited for before the same target is asked again.
const (
	leastBackoff = 25 * time.Millisecond
	mostBackoff  = 250 * time.Millisecond
	mostPause    = time.Second // that a target asked for with 429 or 503
)

// how says in which way a request may be sent again.
type how struct {
	wait      time.Duration // before a target is asked that has been before
	elsewhere bool          // only a target that has not been
	others    bool          // there is one
	avoid     []int         // the targets that are not to be asked
}

// safe reports whether a request may be sent again although its target has it.
func (r *request) safe(post bool) bool { return Repeatable(r.in.Method, post) }

// Repeatable reports whether a request with a method may be sent again although a target
// has it: what is idempotent (RFC 9110, section 9.2.2), and POST and PATCH only where post
// says that they are. Any request may be while no target has it.
func Repeatable(method string, post bool) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete, "QUERY":
		return true
	case http.MethodPost, http.MethodPatch:
		return post
	}
	return false
}

// again decides whether the request is sent once more after got. If so the retry
// is paid for from the budget.
func (r *request) again(got reply) (how, bool) {
	if len(r.tried) >= r.pool.options.Retry.Attempts || r.ctx.Err() != nil || !r.body.ready() {
		return how{}, false
	}
	h, ok := r.repeatable(got)
	if !ok {
		return how{}, false
	}
	now := time.Now()
	h.others = len(r.open(now, r.tried)) > 0
	if !h.others && (h.elsewhere || !got.exchange.target.health.open(now.Add(h.wait))) {
		return how{}, false
	}
	return h, r.pool.retries.take(r.pool.requests.Load())
}

// repeatable says how a request that got got may be sent again, if at all.
func (r *request) repeatable(got reply) (how, bool) {
	x, safe := got.exchange, r.safe(r.pool.options.Retry.Post)
	backoff := leastBackoff + rand.N(mostBackoff-leastBackoff)
	if got.err != nil {
		switch result, _ := x.explain(got.err); result {
		case ResultConnect, ResultCut:
			return how{wait: backoff}, safe || !x.written.Load()
		case ResultTimeout, ResultBusy: // what is cancelled may just have been about to write
			return how{wait: backoff, elsewhere: true}, safe || !x.connected.Load()
		}
		return how{}, false
	}
	switch got.resp.StatusCode {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return how{wait: backoff}, safe
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		// A little later than it said, so that not all who heard it come together.
		return how{wait: x.pause + rand.N(x.pause/10+1), elsewhere: x.pause <= 0 || x.pause > mostPause}, safe
	}
	return how{}, false
}

// next is the exchange of a retry that again has paid for, when its time has come.
// It is nil where no target is to be had, or the request's time is over.
func (r *request) next(h how) *exchange {
	if !h.others && !r.sleep(h.wait) {
		r.pool.retries.give()
		return nil
	}
	before := r.tried
	var except []int
	if h.elsewhere {
		except = before
	}
	var x *exchange
	if len(r.open(time.Now(), except)) > 0 { // or what has just failed was the last, and the seat would be long in coming
		x, _ = r.place(h, true)
	}
	if x == nil {
		r.pool.retries.give()
		return nil
	}
	x.reason, x.budget = ReasonRetry, &r.pool.retries
	if h.others && slices.Contains(before, x.target.index) {
		r.sleep(h.wait) // there was no room at the others; where its time is over the attempt fails at once
	}
	return x
}

// sleep is false where the request's time was over before d had passed.
func (r *request) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}
