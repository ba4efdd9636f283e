package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/internal/jsonscan"
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

	candidates []*route
	chosen     *route // nil until known
	counted    bool   // as in flight
	caller     weir.Caller
	plan       string
	body       []byte
	bodyRead   bool // to its end
	model      string

	takes     []ratelimit.Take // filled when the policies have been asked
	reserved  bool             // and have given
	uncounted bool             // the store did not answer

	key         cache.Key
	keyed       bool // key is one
	wishes      cache.Wishes
	flight      *cache.Flight
	cacheStatus string
	cacheResult string

	called   bool   // the upstream
	relaying bool   // its answer
	target   string // that answered
	policy   string // that refused
	err      error  // for the log
}

func newExchange(g *Gateway, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{gateway: g, setup: g.setup, r: r, id: telemetry.RequestID(r.Header), started: time.Now()}
	x.w = &response{ResponseWriter: w, exchange: x}
	// A client that takes nothing holds neither an upstream nor memory for ever.
	// Not every writer has deadlines; the server's has.
	_ = http.NewResponseController(w).SetWriteDeadline(x.started.Add(g.setup.answerTimeout))
	return x
}

// match finds the routes whose path and method fit.
func (x *exchange) match() error {
	if err := checkRequest(x.r, x.setup.config.Limits); err != nil {
		return err
	}
	var allowed []string
	for _, rt := range x.setup.routes {
		if path := x.r.URL.Path; path != rt.path && (!rt.prefix || !strings.HasPrefix(path, rt.path)) {
			continue
		}
		if len(rt.methods) > 0 && !slices.Contains(rt.methods, x.r.Method) {
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

// authenticate finds out who is calling, and removes from the request what the
// client may not say and what is not for the upstream.
func (x *exchange) authenticate() error {
	// First of all: a client must not be able to have a field removed after
	// something was decided by it.
	upstream.RemoveHopByHop(x.r.Header)
	x.r.Header["X-Request-Id"] = []string{x.id}
	caller, err := x.setup.callers.Identify(x.r.Header, x.r.RemoteAddr)
	if err != nil {
		return err
	}
	for name := range x.r.Header {
		// Many servers take X_User for X-User. As nginx does, pass neither on.
		if strings.Contains(name, "_") {
			delete(x.r.Header, name)
		}
	}
	x.caller, x.plan = caller, caller.Plan
	if _, ok := x.setup.plans[x.plan]; !ok || x.plan == "" {
		x.plan = defaultPlan
	}
	x.caller.Plan = x.plan
	return nil
}

// defaultPlan is the plan of a caller without one.
const defaultPlan = "default"

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
	var unreadable error
	if x.setup.model != nil && len(x.body) > 0 {
		var room [1]jsonscan.Value
		found, err := x.setup.model.Find(room[:0], x.body, x.setup.config.Limits.JSONDepth)
		if unreadable = err; err == nil {
			x.model, _ = found[0].Text()
		}
	}
	for _, rt := range x.candidates {
		// What is not read here may be read upstream, and be another model there.
		if unreadable != nil && (rt.model != "" || byModel(rt.policies) || byModel(x.setup.plans[x.plan])) {
			p := problem(http.StatusBadRequest, "The body's model cannot be told: want JSON that can be read in one way only: %v.", unreadable)
			p.Err = unreadable
			return p
		}
		if !rt.model.fits(x.model) {
			continue
		}
		x.chosen, x.counted = rt, true
		x.gateway.metrics.RequestStarted(rt.name)
		if n := int64(len(x.body)); n > int64(rt.config.MaxBody) {
			return bodyTooLarge(int64(rt.config.MaxBody))
		}
		return nil
	}
	return &weir.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("No route serves the model %.100q on this path.", x.model)}
}

// lookUp answers from the cache, which costs nothing.
func (x *exchange) lookUp() (answered bool, err error) {
	c := x.chosen.cache
	if c == nil {
		return false, nil
	}
	begin := time.Now()
	x.wishes = cache.ReadWishes(x.r.Header)
	x.key, err = c.Key(x.r, x.body, x.caller)
	if err != nil || x.wishes.NoStore || x.samples() {
		x.setCache(cache.StatusBypass, telemetry.ResultBypass)
		if x.wishes.OnlyIfCached {
			return false, cache.ErrOnlyIfCached()
		}
		return false, nil
	}
	x.keyed = true
	x.setCache(cache.StatusMiss, telemetry.ResultMiss)
	entry, err := c.Get(x.r.Context(), x.key, x.wishes, begin)
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if err != nil {
		x.gateway.Logger().Warn("the cache did not answer", "request_id", x.id, "error", err.Error())
	}
	if entry == nil {
		if x.wishes.OnlyIfCached {
			return false, cache.ErrOnlyIfCached()
		}
		return false, nil
	}
	x.setCache(cache.HitStatus(entry, begin), telemetry.ResultHit)
	x.peek()
	cache.ServeHit(x.w, x.r, entry, begin)
	return true, nil
}

// samples reports whether the same request may rightly have another answer each
// time, and the route keeps only those that have not. Of an API whose form is not
// known it is told by a temperature above 0 without a seed.
func (x *exchange) samples() bool {
	if x.chosen.config.Cache.Only == "all" {
		return false
	}
	var room [2]jsonscan.Value
	found, err := x.setup.sampling.Find(room[:0], x.body, x.setup.config.Limits.JSONDepth)
	if err != nil {
		// What is no JSON has no temperature; what only some read as JSON may.
		return bytes.HasPrefix(bytes.TrimLeft(x.body, "\ufeff \t\r\n"), []byte("{"))
	}
	temperature, isNumber := found[0].Float()
	switch {
	case found[0].Kind() <= jsonscan.Null, isNumber && temperature == 0, found[1].Kind() == jsonscan.Number:
		return false
	}
	return true // a text, too: lenient servers take "0.7" for 0.7
}

func (x *exchange) setCache(status, result string) { x.cacheStatus, x.cacheResult = status, result }

// join waits for an identical request that is running, and answers with its
// answer, which costs nothing. Otherwise others may wait for this one.
func (x *exchange) join() (answered bool, err error) {
	// A HEAD has no body to keep, or to wait for.
	if !x.keyed || x.r.Method == http.MethodHead {
		return false, nil
	}
	flight := x.chosen.cache.Join(x.r.Context(), x.key, x.wishes, time.Now())
	if flight.Leads() {
		x.flight = flight
		return false, nil
	}
	defer flight.Leave()
	begin := time.Now()
	entry, err := flight.Wait(x.r.Context())
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if entry == nil { // an error, or an answer that is not for us
		return false, err
	}
	x.setCache(cache.StatusCollapsed, telemetry.ResultCollapsed)
	x.peek()
	cache.ServeCollapsed(x.w, x.r, entry)
	return true, nil
}

// reserve takes from all policies of the caller's plan and of the route, or from
// none.
func (x *exchange) reserve() error {
	if x.reserved {
		return nil
	}
	x.listTakes(1)
	allowed, err := x.setup.counts.Take(x.r.Context(), x.takes, time.Now())
	if err != nil {
		x.takes = nil
		x.uncounted = true
		return ratelimit.Unavailable(err)
	}
	for i := range x.takes {
		t := &x.takes[i]
		decision := telemetry.ResultAllowed
		if !t.Decision.Allowed {
			decision = telemetry.ResultDenied
		}
		x.gateway.metrics.Decision(t.Policy.Scope, t.Policy.Name, decision)
	}
	if allowed {
		x.reserved = true
		return nil
	}
	p := ratelimit.Refusal(x.takes)
	if p == nil {
		return errors.New("the store of quotas refused without a reason")
	}
	x.policy = p.Violated[0]
	return p
}

// peek looks at the policies, for the fields of an answer that takes nothing.
func (x *exchange) peek() {
	if x.reserved {
		return
	}
	x.listTakes(0)
	if _, err := x.setup.counts.Take(x.r.Context(), x.takes, time.Now()); err != nil {
		x.takes = nil
	}
}

// giveBack returns what was reserved for an answer that never came.
func (x *exchange) giveBack() {
	if !x.reserved {
		return
	}
	for i := range x.takes {
		x.takes[i].Cost = -x.takes[i].Cost
	}
	if err := x.setup.counts.Settle(context.WithoutCancel(x.r.Context()), x.takes, time.Now()); err != nil {
		x.gateway.Logger().Warn("a quota could not be given back", "request_id", x.id, "error", err.Error())
	}
	x.reserved = false
}

func (x *exchange) listTakes(cost int64) {
	plan := x.setup.plans[x.plan]
	x.takes = make([]ratelimit.Take, 0, len(plan)+len(x.chosen.policies))
	for _, policies := range [][]policy{plan, x.chosen.policies} {
		for _, p := range policies {
			x.takes = append(x.takes, ratelimit.Take{Policy: p.Policy, Key: x.countedBy(p.by), Cost: cost})
		}
	}
}

// countedBy gives the value that a policy counts by.
func (x *exchange) countedBy(by string) string {
	switch by {
	case "caller":
		return x.caller.ID
	case "ip":
		return x.caller.Net.String()
	case "plan":
		return x.plan
	case "route":
		return x.chosen.name
	case "model":
		return x.model
	case "global":
		return ""
	}
	return strings.Join(x.r.Header[strings.TrimPrefix(by, "header:")], ",")
}

// call sends the request upstream.
func (x *exchange) call() (*http.Response, error) {
	out := x.r.WithContext(x.r.Context())
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(x.body)), int64(len(x.body))
	if x.keyed {
		out.Header = out.Header.Clone()
		cache.StripConditions(out.Header)
	}
	begin := time.Now()
	x.called = true
	resp, err := x.chosen.upstream.pool.Do(x.flight.Context(x.r.Context()), out)
	x.timings.Add(telemetry.PhaseUpstream, time.Since(begin))
	if err != nil {
		if p, ok := errors.AsType[*weir.Problem](err); ok {
			x.flight.Fail(p)
		}
		return nil, err
	}
	if u := resp.Request.URL; u != nil {
		x.target = u.Scheme + "://" + u.Host
	}
	return resp, nil
}

// relay passes the answer on as it comes, and keeps a copy for those who ask the
// same.
func (x *exchange) relay(resp *http.Response) {
	if len(x.takes) > 0 {
		dropLimitFields(resp.Header) // the upstream's are about our account, not the caller's
	}
	delete(resp.Header, "X-Request-Id")
	x.relaying = true
	var ahead int64
	if x.keyed && x.r.Method != http.MethodHead {
		ask := cache.Ask{Key: x.key, Flight: x.flight, Wishes: x.wishes, Now: x.started}
		recording := x.chosen.cache.Record(x.r.Context(), ask, resp)
		x.cacheStatus = recording.CacheStatus(x.wishes)
		ahead = recording.ReadAhead()
		resp.Body = recording.Body(resp.Body, func(err error) error { return brokeOff(x.chosen.upstream.name, err) })
	}
	if err := x.chosen.upstream.pool.Relay(x.w, resp, ahead); err != nil {
		x.err = err
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
}

// brokeOff is what the followers of a request get whose answer broke off.
func brokeOff(name string, err error) error {
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		return p
	}
	return &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q broke off.", name), Err: err}
}

// fail ends a request that a step could not go on with.
func (x *exchange) fail(err error) {
	x.err = err
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		x.giveBack() // what brought no answer costs nothing
		x.refuse(p)
		return
	}
	if ctx := x.r.Context(); ctx.Err() != nil {
		if p := weir.Ended(ctx); p != nil {
			x.giveBack()
			x.refuse(p)
			return
		}
		x.w.status = statusClientLeft
		panic(http.ErrAbortHandler)
	}
	x.refuse(&weir.Problem{Err: err})
}

// refuse writes every refusal.
func (x *exchange) refuse(p *weir.Problem) {
	if x.w.status != 0 {
		// Something of an answer is out: all that is left is to break it off.
		panic(http.ErrAbortHandler)
	}
	if x.counted && !x.uncounted && x.takes == nil {
		x.peek() // every answer of a limited route says what is left
	}
	if !x.bodyRead {
		refuseUnread(x.w.ResponseWriter, x.r)
	}
	p.ServeHTTP(x.w, x.r)
}

// finish counts the request and writes its line of the log.
func (x *exchange) finish() {
	x.setup.bodies.release(x.body)
	took := time.Since(x.started)
	status := x.w.status
	if status == 0 {
		status = http.StatusOK // what the server sends for a handler that wrote nothing
	}
	m, name := x.gateway.metrics, ""
	if x.chosen != nil {
		name = x.chosen.name
	}
	if !x.counted {
		m.RequestStarted(name)
	}
	m.RequestDone(name, x.r.Method, status, took)
	if x.cacheResult != "" {
		m.Cache(name, x.cacheResult)
	}
	e := telemetry.Entry{
		Time:         x.started,
		RequestID:    x.id,
		Caller:       x.caller.ID,
		Plan:         x.plan,
		Route:        name,
		Method:       x.r.Method,
		Path:         x.r.URL.Path,
		Proto:        x.r.Proto,
		Status:       status,
		BytesIn:      int64(len(x.body)),
		BytesOut:     x.w.sent,
		Duration:     took,
		FirstByte:    x.w.firstByte,
		QueueTime:    x.timings.Get(telemetry.PhaseQueue),
		UpstreamTime: x.timings.Get(telemetry.PhaseUpstream),
		CacheTime:    x.timings.Get(telemetry.PhaseCache),
		Cache:        x.cacheStatus,
		Policy:       x.policy,
		UserAgent:    x.r.UserAgent(),
	}
	if x.called {
		e.Upstream, e.Target = x.chosen.upstream.name, x.target
	}
	if x.caller.Addr.IsValid() {
		e.Client = x.caller.Addr.String()
	}
	if x.err != nil {
		e.Error = x.err.Error()
	}
	x.gateway.log.Log(e)
}
