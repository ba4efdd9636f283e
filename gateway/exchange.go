package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
	"github.com/inferweir/weir/upstream"
)

// exchange is one request on its way.
type exchange struct {
	gateway *Gateway
	setup   *setup
	w       *response
	r       *http.Request
	id      string
	started time.Time
	timings telemetry.Timings
	trace   *telemetry.Trace // nil: it has none
	sentAt  time.Time        // upstream, first
	token   atomic.Int64     // when the first one of a stream came, in nanoseconds after sentAt

	upgrades   bool           // its connection, to a WebSocket
	decides    bool           // on a request that is elsewhere, and is not sent on
	explains   bool           // what would become of it: nothing is done
	fits       *upstreamSetup // of the first route with the path
	candidates []*route
	chosen     *route // nil until known
	counted    bool   // as in flight
	caller     weir.Caller
	keyInField bool // the client sent X-Api-Key
	plan       string
	named      string // the plan that the key or token names
	body       []byte
	bodyRead   bool // to its end
	call       *dialect.Call
	readAs     *upstreamSetup // for whom

	exempt    bool             // from all policies
	takes     []ratelimit.Take // filled when the policies have been asked
	reserved  bool             // and have given
	uncounted bool             // the store did not answer
	storeMode string           // what was done instead
	slot      string           // the ID that holds slots
	expected  *[2]amounts      // what the request will use: known, and guessed

	look       *cache.Lookup // nil: the route has no cache
	stored     *cache.Entry  // the answer, where the cache had it
	along      *along        // a running one that is charged for; nil: it reads none
	awaited    bool          // it left while it waited for a call that was made
	refreshing bool          // a stale answer, in the background
	run        *run          // of a job; nil: a client waits
	jobID      string        // of the job that it is, or became
	deferred   *deferral     // nil: the answer is wanted now
	offloaded  int64         // bytes that went to the blobs

	waits       timeouts           // the client's
	ticket      string             // from an earlier refusal
	stop        context.CancelFunc // of what obeys them; may be nil
	client      *client            // that is watched; may be nil
	wants       *admission.Request // of the queue
	held        *admission.Slot    // a place that is not used yet
	place       *admission.Slot    // that it was given, or of the attempt that answered
	early       bool               // the head was sent while it waited
	failedEarly bool               // and then there was no stream
	shedFor     string             // why the queue refused it

	called     bool            // the upstream
	unobtained bool            // its answer
	relaying   bool            // it
	readsAhead bool            // of what the client has taken
	answer     *dialect.Answer // nil: it is not read
	theirs     []dialect.Limit // what the upstream says is left of its quotas
	target     string          // that answered
	attempts   atomic.Int32    // places at it
	served     bool            // from the cache, or another request's flight
	policy     string          // that refused
	refusedFor string          // one of telemetry's reasons
	shadow     string          // that would have
	scopes     [2]string       // of policy and shadow
	err        error           // for the log
}

func newExchange(g *Gateway, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{gateway: g, setup: g.enter(), r: r, id: telemetry.RequestID(r.Header), started: time.Now()}
	x.w = &response{ResponseWriter: w, exchange: x}
	// A client that takes nothing holds neither an upstream nor memory for ever.
	// Not every writer has deadlines; the server's has.
	_ = http.NewResponseController(w).SetWriteDeadline(x.started.Add(x.setup.answerTimeout))
	x.obeyTimeouts()
	x.trace = g.otlp.Start(r, x.started)
	return x
}

// match finds the routes whose path and method fit.
func (x *exchange) match() error {
	if err := checkRequest(x.r, x.setup.config.Limits); err != nil {
		return err
	}
	var allowed []string
	for _, rt := range x.setup.routes {
		fit := rt.fit(x.r, x.decides)
		if fit == fitsDecisions || fit == fitsPathNot {
			continue
		}
		if x.fits == nil {
			x.fits = rt.upstream
		}
		if fit == fitsMethodNot {
			allowed = append(allowed, rt.methods...)
			continue
		}
		x.candidates = append(x.candidates, rt)
	}
	switch {
	case len(x.candidates) > 0:
		x.chosen = x.candidates[0] // until the body says more
		return nil
	case len(allowed) > 0:
		slices.Sort(allowed)
		allow := strings.Join(slices.Compact(allowed), ", ")
		return &weir.Problem{
			Status: http.StatusMethodNotAllowed,
			Detail: fmt.Sprintf("%s is not a method of this path: want %s.", x.r.Method, allow),
			Header: http.Header{"Allow": {allow}},
		}
	}
	return &weir.Problem{Status: http.StatusNotFound, Detail: "No route has this path."}
}

// fit says whether a request is one of a route's, as far as its head tells.
type fit int

const (
	fitsHead fit = iota
	fitsPathNot
	fitsMethodNot
	fitsDecisions // it serves decisions only
)

func (r *route) fit(req *http.Request, decides bool) fit {
	switch path := req.URL.Path; {
	case r.upstream.pool == nil && !decides:
		return fitsDecisions
	case path != r.path && (!r.prefix || !strings.HasPrefix(path, r.path)):
		return fitsPathNot
	case len(r.methods) > 0 && !slices.Contains(r.methods, req.Method):
		return fitsMethodNot
	}
	return fitsHead
}

// serves reports whether a model is one of the route's.
func (r *route) serves(model string) bool { return r.model.fits(r.upstream.dialect.Canonical(model)) }

// authenticate finds out who is calling, and removes from the request what the
// client may not say and what is not for the upstream.
func (x *exchange) authenticate() error {
	x.upgrades = upstream.IsWebSocket(x.r)
	// First of all: a client must not be able to have a field removed after
	// something was decided by it.
	upstream.RemoveHopByHop(x.r.Header)
	x.r.Header["X-Request-Id"] = []string{x.id}
	x.ticket = x.r.Header.Get(ticketField)
	delete(x.r.Header, ticketField) // which is for this queue alone
	forgetSession(x.r.Header)
	x.keyInField = len(x.r.Header["X-Api-Key"]) > 0
	caller, err := x.identify()
	if err != nil {
		x.caller = caller // as far as it is known, for the log
		return err
	}
	for name := range x.r.Header {
		// Many servers take X_User for X-User. As nginx does, pass neither on.
		if strings.Contains(name, "_") {
			delete(x.r.Header, name)
		}
	}
	x.plan, x.named = x.setup.planOf(caller), caller.Plan
	if _, known := x.setup.plans[caller.Plan]; !known && caller.Plan != "" && caller.Plan != defaultPlan && !x.explains {
		x.gateway.unknownPlans.Add(1) // only a token can name one
	}
	x.caller, x.exempt = caller, x.setup.callers.Exempt(caller)
	x.caller.Plan = x.plan
	return nil
}

// identify finds out who is calling. A network that comes too often with keys
// or tokens that are not valid is refused before one more is looked at.
func (x *exchange) identify() (weir.Caller, error) {
	callers, attempts := x.setup.callers, x.gateway.attempts
	if x.explains {
		callers, attempts = callers.Preview(x.gateway.lookedUp()), attempts.Preview()
	}
	if !x.explains && len(x.r.Header["X-Forwarded-For"]) > 0 {
		defer x.warnOfProxy()
	}
	if !callers.Presents(x.r.Header) {
		return callers.Identify(x.r.Context(), x.r.Header, x.r.RemoteAddr)
	}
	network := callers.Network(x.r.Header, x.r.RemoteAddr) // before the fields that tell it are removed
	if err := attempts.Check(network); err != nil {
		return weir.Caller{}, err
	}
	caller, err := callers.Identify(x.r.Context(), x.r.Header, x.r.RemoteAddr)
	if auth.Failed(err) {
		attempts.Failed(network)
	}
	return caller, err
}

// warnOfProxy says once that there is a proxy in front that is not trusted, so that
// all its clients count as one. What it said of them has been removed.
func (x *exchange) warnOfProxy() {
	if len(x.r.Header["X-Forwarded-For"]) == 0 && x.gateway.warned.CompareAndSwap(false, true) {
		x.gateway.Logger().Warn("a proxy that is not in callers.trusted_proxies sent X-Forwarded-For: its clients count as one", "peer", x.r.RemoteAddr)
	}
}

// readBody reads the whole body: its bytes are part of the cache's key, its
// model may choose the route, and only then the server notices a client that
// leaves.
func (x *exchange) readBody() error {
	most := int64(0)
	for _, rt := range x.candidates {
		most = max(most, int64(rt.config.MaxBody))
	}
	body, err := x.setup.bodies.read(x.w.ResponseWriter, x.r, most, int64(x.setup.config.Limits.BodyMinRate))
	x.body, x.bodyRead = body, err == nil
	return err
}

// choose takes the first candidate that serves the request's model.
func (x *exchange) choose() error {
	for _, rt := range x.candidates {
		x.read(rt)
		// What is not read here may be read upstream, and be another model there.
		if err := x.call.Err; err != nil && x.call.Model == "" && (rt.model != "" || byModel(rt.policies) || byModel(x.setup.policiesOf(x.caller.ID, x.plan))) {
			x.chosen = rt
			p := problem(http.StatusBadRequest, "The body's model cannot be told: want JSON that can be read in one way only: %v.", err)
			p.Err = err
			return p
		}
		if !rt.serves(x.call.Model) {
			continue
		}
		x.begin(rt)
		if n := int64(len(x.body)); n > int64(rt.config.MaxBody) {
			return bodyTooLarge(int64(rt.config.MaxBody))
		}
		if err := x.mayUpgrade(rt); err != nil {
			return err
		}
		return x.mayManage(rt)
	}
	return &weir.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("No route serves the model %.100q on this path.", x.call.Model)}
}

// begin says that the request is rt's.
func (x *exchange) begin(rt *route) {
	x.chosen, x.counted = rt, true
	if !x.explains {
		x.gateway.metrics.RequestStarted(rt.name)
		x.gateway.figures.Start(rt.name)
	}
}

// mayManage refuses a call that would change the model server itself, unless the
// route is for just that.
func (x *exchange) mayManage(rt *route) error {
	if !rt.manages && rt.upstream.manages(x.r.URL.Path) {
		return problem(http.StatusForbidden, "%.200s changes the model server itself, which is open only where a route's path names it.", x.r.URL.Path)
	}
	return nil
}

// read finds out what the request asks for, in the dialect of the route's upstream.
func (x *exchange) read(rt *route) {
	d := rt.upstream.dialect
	switch {
	case x.call != nil && x.readAs == rt.upstream:
		return
	case rt.reads:
		x.call = d.Read(dialect.Request{
			Method: x.r.Method,
			Path:   rt.upstream.path(x.r.URL.Path),
			Query:  x.r.URL.RawQuery,
			Body:   x.body,
			Depth:  x.setup.config.Limits.JSONDepth,
		})
	default:
		x.call = new(dialect.Call)
	}
	x.readAs = rt.upstream
}

// form is the dialect of everything that is said to the client, and the path in it.
func (x *exchange) form() (*dialect.Dialect, string) {
	u := x.fits
	if x.chosen != nil {
		u = x.chosen.upstream
	}
	if u == nil {
		return x.setup.plain, x.r.URL.Path
	}
	return u.dialect, u.path(x.r.URL.Path)
}
