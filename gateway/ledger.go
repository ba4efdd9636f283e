package gateway

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/database"
)

// models are the names under which the ledger has been told of models. Clients name
// them, and some servers answer to every name: of those there is no end.
type models struct {
	mu    sync.Mutex
	names map[string]bool // guarded by mu
}

// mostModels is how many names there may be that have no price.
const mostModels = 1000

// name is the model as the ledger has it: database.Others where there are too many.
func (m *models) name(model string, priced bool) string {
	if model == "" || priced {
		return model
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.names[model]:
	case len(m.names) >= mostModels:
		return database.Others
	case m.names == nil:
		m.names = map[string]bool{model: true}
	default:
		m.names[model] = true
	}
	return model
}

// record tells the ledger of the request, once it is over: what it was, and what was
// used for it. There is a row for whoever came to a route and was identified, by the
// hour in which the request ended.
//
// A job is a request when its first attempt ends; further ones, and the refresh of a
// stale answer, are nobody's requests, but what they use is their caller's.
func (x *exchange) record(used amounts) {
	db := x.gateway.Database()
	if db == nil || x.chosen == nil || x.caller.ID == "" || x.isHandedIn() || x.isBrokenOff() {
		return
	}
	refused, failed := x.verdict()
	hit := x.served && !failed
	e := database.Entry{Time: time.Now(), Caller: x.caller.ID, Route: x.chosen.name}
	if !x.served && !x.awaited { // or they are those of the request that the answer was made for
		e.Input, e.Cached, e.Output, e.Cost = used.input, used.cached, used.output, used.money
	}
	switch {
	case refused && !x.inBackground():
		e.Refused = 1
	case failed:
		e.Errors = 1
	case hit && !x.refreshing:
		e.Hits = 1
	}
	// An attempt that found no place is given back, and is the first once more.
	if !x.inBackground() || x.run != nil && x.run.attempt.Job.Attempt == 1 && !refused {
		e.Requests = 1
	}
	// A name that no server knows is none.
	if hit || (x.relaying || x.served) && (x.w.status/100 == 2 || x.offloaded > 0) {
		e.Model = x.ledgerModel()
	}
	if e.UsageCounts != (database.UsageCounts{}) {
		db.Usage().Add(e)
	}
}

// verdict tells whether the request was refused for a quota or for want of room, and
// whether the upstream failed it. It fails those who have waited for the same call as it
// fails the one who made it.
func (x *exchange) verdict() (refused, failed bool) {
	followed := x.look != nil && x.look.Result() == "collapsed"
	if x.stored != nil && !followed {
		return false, false
	}
	p, isProblem := errors.AsType[*weir.Problem](x.err)
	if x.relaying || x.served || x.failedEarly || !isProblem {
		left := x.r.Context().Err() != nil
		return false, x.w.status >= http.StatusInternalServerError || x.look.BrokeOff() || x.relaying && x.err != nil && !left
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true, false
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return false, x.called || followed && x.look.Called() // 504 is said to only-if-cached, too
	}
	return false, false
}

// ledgerModel is the request's model by the name that the request has for it, as prices
// are, and by the one that the answer gives where the request has none.
func (x *exchange) ledgerModel() string {
	d := x.chosen.upstream.dialect
	model := d.Canonical(x.call.Model)
	if model == "" && x.answer != nil {
		model = d.Canonical(x.answer.Outcome().Model)
	}
	priced := false
	if l := x.setup.prices[d.Name()]; l != nil {
		_, priced = l.exact[model]
	}
	return x.gateway.models.name(model, priced)
}
