package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Hedge says when a request that waits is sent to a second target as well (Dean,
// Barroso, The Tail at Scale, 2013). The first good answer wins, and the other
// attempt is cancelled at once. Only requests are hedged that may be repeated at any
// time, as Retry says, that are no streams, and whose body can be had twice.
type Hedge struct {
	// After is how long an answer's head is waited for before. 0: hedging is off,
	// unless Quantile is set.
	After time.Duration
	// Quantile takes instead the time in which this part of the recent heads came, for
	// example 0.95. As long as fewer than 20 have come After holds, or nothing is
	// hedged. 0 means After alone.
	Quantile float64
	// Budget is how many of the requests in flight may be hedged, as a share, but one
	// may always. Default 0.05.
	Budget float64
	// Post says that POST and PATCH may be hedged like GET.
	Post bool
}

func (h Hedge) check() error {
	switch {
	case h.After < 0:
		return fmt.Errorf("upstream: hedge: after: %v: want a duration, for example 500ms", h.After)
	case !(h.Quantile >= 0 && h.Quantile < 1):
		return fmt.Errorf("upstream: hedge: quantile: %v: want a part of the answers below 1, for example 0.95", h.Quantile)
	case !(h.Budget >= 0 && h.Budget <= 1):
		return fmt.Errorf("upstream: hedge: budget: %v: want a share from 0 to 1, for example 0.05", h.Budget)
	}
	return nil
}

// hedgeable reports whether the request may be at two targets at once.
func (r *request) hedgeable() bool {
	o := r.pool.options.Hedge
	return (o.After > 0 || o.Quantile > 0) && len(r.pool.targets) > 1 &&
		!r.Stream && !r.upgrade && r.safe(o.Post) && r.body.rewinds()
}

// hedgeAfter is when an attempt that begins now is hedged, 0 for never.
func (r *request) hedgeAfter() time.Duration {
	o := r.pool.options.Hedge
	if o.Quantile > 0 {
		if d, ok := r.pool.heads.quantile(o.Quantile); ok {
			return max(d, time.Millisecond)
		}
	}
	return o.After
}

// race carries first, and a second exchange if first takes longer than after. The
// reply is the first good one, or else an answer, or else the last error; the other
// exchange has then ended or is about to.
func (r *request) race(first *exchange, after time.Duration) reply {
	replies := make(chan reply, 2) // room for both: no sender waits
	carry := func(x *exchange) {
		out, err := x.outgoing() // here: once Send has returned nobody reads the caller's request
		if err != nil {
			replies <- reply{exchange: x, err: err}
			return
		}
		go func() { replies <- x.roundTrip(out) }()
	}
	carry(first)
	timer := time.NewTimer(after)
	defer timer.Stop()
	var second *exchange
	select {
	case got := <-replies:
		return got
	case <-timer.C:
		if second = r.second(); second == nil {
			return <-replies
		}
		carry(second)
	}
	got := <-replies
	if got.good() {
		r.lose(replies, other(got, first, second))
		return got
	}
	last := <-replies
	if last.err != nil && got.err == nil {
		got, last = last, got
	}
	got.drop()
	return last
}

func other(got reply, first, second *exchange) *exchange {
	if got.exchange == first {
		return second
	}
	return first
}

// good reports whether nobody needs to ask again.
func (g reply) good() bool {
	return g.err == nil && g.resp.StatusCode < 500 && g.resp.StatusCode != http.StatusTooManyRequests
}

// lose cancels x and ends it when its reply is there, which is soon. Close waits
// for that.
func (r *request) lose(replies <-chan reply, x *exchange) {
	x.cancel(errSlower)
	end := func() {
		slower := <-replies
		slower.drop()
	}
	if !r.pool.enter() {
		end()
		return
	}
	go func() {
		defer r.pool.leave()
		end()
	}()
}

// second is the exchange of a hedge, nil where there is no room for one.
func (r *request) second() *exchange {
	if r.ctx.Err() != nil || !r.pool.hedges.take(r.pool.requests.Load()) {
		return nil
	}
	x, err := r.place(how{elsewhere: true}, false)
	if err != nil {
		r.pool.hedges.give()
		return nil
	}
	x.reason, x.budget = ReasonHedge, &r.pool.hedges
	return x
}

const (
	// windowOfHeads is how many of the last heads the learned quantile is of, and
	// fewestHeads how many it wants.
	windowOfHeads = 256
	fewestHeads   = 20
	// relearn is after how many heads it is found out anew.
	relearn = 16
)

// latencies keeps how long the last answers' heads took, and a quantile of them. It
// is safe for concurrent use.
type latencies struct {
	mu     sync.Mutex
	window [windowOfHeads]time.Duration // guarded by mu, as all below
	n      int                          // ever added
	learnt time.Duration
	at     int // n when learnt was found out
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window[l.n%windowOfHeads] = d
	l.n++
}

// quantile is the time in which the part q of the heads came. It is not ok while
// too few have come.
func (l *latencies) quantile(q float64) (d time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n < fewestHeads {
		return 0, false
	}
	if l.at == 0 || l.n-l.at >= relearn {
		sorted := l.window
		part := sorted[:min(l.n, windowOfHeads)]
		slices.Sort(part)
		l.learnt, l.at = part[int(q*float64(len(part)))], l.n
	}
	return l.learnt, true
}
