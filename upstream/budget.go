package upstream

import (
	"fmt"
	"sync/atomic"
)

// The defaults of Retry and Hedge.
const (
	DefaultAttempts    = 2
	DefaultRetryBudget = 0.2
	DefaultHedgeBudget = 0.05
)

// How many may run at once however few requests are in flight: a share of nothing
// would forbid what costs nothing.
const (
	leastRetries = 3
	leastHedges  = 1
)

// Retry says when a request that failed is sent again.
//
// Only what the client has seen nothing of is sent again: a request whose answer's
// head has been returned never is. GET, HEAD, OPTIONS, TRACE, PUT, DELETE and QUERY
// are repeated where no connection was made, where it broke before a head came, and
// after 502, 503, 504 and 429; POST and PATCH only where nothing of the request was
// written (RFC 9110, section 9.2.2), unless Post is set. A time-out is repeated at
// another target only: the one that is silent would be asked to do more. So are 429
// and 503, and at the same one if it says that it will have room within a second.
// Other answers, refusals of our own and requests whose client has left are never
// repeated.
type Retry struct {
	// Attempts is how many there are in all, hedges included. 0 means 2; 1 turns
	// retries off.
	Attempts int
	// Budget is how many of the requests in flight may be retries, as a share, but
	// three may always. 0 means 0.2, less than 0 none but those. Without it, a pool that fails would be sent
	// twice as much.
	Budget float64
	// Post says that POST and PATCH may be repeated like GET: a model that only
	// computes does no harm by doing it twice.
	Post bool
}

func (r Retry) check() error {
	switch {
	case r.Attempts < 0:
		return fmt.Errorf("upstream: retry: attempts: %d: want at least 1, which turns retries off", r.Attempts)
	case !(r.Budget >= 0 && r.Budget <= 1):
		return fmt.Errorf("upstream: retry: budget: %v: want a share from 0 to 1, for example 0.2", r.Budget)
	}
	return nil
}

// budget bounds how many of something run at once, as a share of the requests in
// flight.
type budget struct {
	share float64
	least int64
	used  atomic.Int64
}

// take is false where the budget is used up. What is taken is given back.
func (b *budget) take(requests int64) bool {
	limit := max(b.least, int64(b.share*float64(requests)))
	if b.used.Add(1) > limit {
		b.used.Add(-1)
		return false
	}
	return true
}

func (b *budget) give() { b.used.Add(-1) }
