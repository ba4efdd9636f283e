package gateway

import (
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

// tell tells of the request, now that it is over: the metrics, the figures of the
// snapshot, the log and the trace.
func (x *exchange) tell(status int, took time.Duration, used amounts) {
	e := x.entry(status, took)
	x.addUsage(&e, used)
	x.addCache(&e)
	x.addRequest(&e)
	switch {
	case x.failedEarly: // it has the upstream's own words
		e.Error = telemetry.Brief(x.err.Error())
	case x.err != nil:
		e.Error = x.err.Error()
	}
	g, background := x.gateway, x.inBackground() // what is no request of anybody's
	if !background && !x.counted {
		g.metrics.RequestStarted(e.Route)
		g.figures.Start(e.Route)
	}
	g.metrics.Observe(&e, background)
	g.figures.Observe(&e, background)
	x.endTrace(&e)
	if !x.isPutOff() {
		g.log.Log(e)
	}
}

// addCache says what the cache did, and what that saved.
func (x *exchange) addCache(e *telemetry.Entry) {
	if x.look == nil {
		return
	}
	e.Cache, e.CacheResult = x.look.Status(), x.look.Result()
	if x.look.Keyed() {
		e.CacheKey = x.look.Key().String()
	}
	if x.served {
		e.Saved, e.SavedTokens = x.look.Saved()
	}
}

// addRequest says what was asked for, as far as that was read.
func (x *exchange) addRequest(e *telemetry.Entry) {
	if x.bodyRead {
		e.Request = telemetry.RequestHash(x.r, x.body, x.setup.asks)
	}
	if c := x.call; c != nil && x.chosen != nil && x.chosen.reads {
		e.Stream = c.Stream
		e.Samples = !c.Deterministic || c.Endpoint != "" && c.Err != nil
		e.Estimate = weir.Usage{Input: c.Estimate.Input, Output: c.Estimate.Output}
	}
	e.Attempts = int(x.attempts.Load())
	e.PolicyScope, e.ShadowScope = x.scopes[0], x.scopes[1]
}
