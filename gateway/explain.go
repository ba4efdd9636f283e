package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/telemetry"
)

// Explanation is what a gateway would do with a request now, and why.
type Explanation struct {
	// Decisions are the steps of the request's way, as far as it would go, in order. The
	// last one is the answer.
	Decisions []Decision `json:"decisions"`
	// Status is what the client would get if the upstream answers well. It is 0 for the
	// paths of jobs and blobs, whose answers are not looked up.
	Status int `json:"status,omitempty"`
	// Would ends the sentence "The request would".
	Would string `json:"would"`
	// Caller, Plan, Route and Upstream are "" where the request would not get so far.
	Caller   string `json:"caller,omitempty"`
	Plan     string `json:"plan,omitempty"`
	Route    string `json:"route,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	// Cost is what is expected of the request in each unit: requests, input_tokens,
	// output_tokens, bytes and nanousd, without those that are 0. A hit costs nothing.
	Cost map[string]int64 `json:"cost,omitempty"`
}

// Decision is one step.
type Decision struct {
	// Step is route, caller, plan, body, model, cache, policies, job, queue, upstream or
	// answer.
	Step string `json:"step"`
	// Outcome is what was decided, in a word or a few, or the name that was found.
	Outcome string `json:"outcome"`
	// Reason is why, in sentences.
	Reason string `json:"reason"`
	// Details are values, by the step. None is a secret: of credentials there are only
	// the names of their fields.
	Details map[string]any `json:"details,omitempty"`
}

// Explain tells what would become of r now. It takes the request's way with the functions
// that serve requests, but nothing is counted, sent, stored or logged, and no job is made.
// Two things may be asked of others: the quotas of a shared store, and the keys of a
// token's issuer.
//
// The error is config.Mistakes where r is no request, or that of ctx.
func (g *Gateway) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	s := g.enter()
	defer g.leave(s)
	in, err := r.request(ctx, s.config.Listen)
	if err != nil {
		return Explanation{}, err
	}
	x := &exchange{gateway: g, setup: s, r: in, id: telemetry.RequestID(in.Header), started: time.Now(), explains: true}
	x.w = &response{ResponseWriter: nobody{http.Header{}}, exchange: x}
	x.waits = timeoutsOf(in.Header) // which end nothing here
	defer func() { x.setup.bodies.release(x.body) }()
	e := &explainer{x: x, came: in.Header.Clone()}
	if err := e.walk(); err != nil {
		if err := e.refused(err); err != nil {
			return Explanation{}, err
		}
	}
	e.sum()
	return e.told, nil
}

// lookedUp finds the keys of the database without noting that they are used; nil where
// there is none.
func (g *Gateway) lookedUp() func([32]byte) (auth.Key, error) {
	if g.data.db == nil {
		return nil
	}
	return g.data.db.Keys().Look
}

// explainer takes an exchange its way and writes down what is decided.
type explainer struct {
	x     *exchange
	came  http.Header // the request's, as its client sent it
	told  Explanation
	known bool // what the request costs
	free  bool // it costs nothing
}

// walk is route for an exchange that explains.
func (e *explainer) walk() error {
	x := e.x
	if x.own() != nil {
		return e.own()
	}
	if err := e.match(); err != nil {
		return err
	}
	if err := e.authenticate(); err != nil {
		return err
	}
	if err := e.readBody(); err != nil {
		return err
	}
	if err := e.choose(); err != nil {
		return err
	}
	if x.upgrades {
		return e.tunnel()
	}
	if err := e.deferral(); err != nil {
		return err
	}
	if answered, err := e.replay(); answered || err != nil {
		return err
	}
	if x.chosen.config.Cache.ChargeHits {
		if err := e.reserve(x.fillHit); err != nil {
			return err
		}
	}
	if answered, err := e.lookUp(); answered || err != nil {
		return err
	}
	if x.deferred != nil {
		return e.handIn()
	}
	if e.join() {
		return nil
	}
	return e.fetch()
}

// say writes a decision down.
func (e *explainer) say(d Decision) { e.told.Decisions = append(e.told.Decisions, d) }

// answer is the last decision. why may be "".
func (e *explainer) answer(status int, would, why string) {
	e.told.Status, e.told.Would = status, would
	outcome := "by Weir itself"
	if status != 0 {
		outcome = statusText(status)
	}
	if why == "" {
		why = "The request would " + would + "."
	}
	e.say(Decision{Step: "answer", Outcome: outcome, Reason: why})
}

// statusText is a status with its name, if it has one.
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("%d %s", status, text)
	}
	return fmt.Sprint(status)
}

// refused makes the answer of a refusal. An error that is none is returned: nothing is
// known then.
func (e *explainer) refused(err error) error {
	p, ok := errors.AsType[*weir.Problem](err)
	if !ok {
		return err
	}
	status := e.statusOf(p)
	e.told.Status, e.told.Would = status, fmt.Sprintf("be refused with %d", status)
	details := map[string]any{}
	switch {
	case p.RetryAfter > 0:
		details["retry_after_s"] = seconds(p.RetryAfter)
	case p.RetryAfter == weir.Never:
		details["retry_after_s"] = "never"
	}
	if len(p.Violated) > 0 {
		details["violated"] = p.Violated
	}
	e.say(Decision{Step: "answer", Outcome: statusText(status), Reason: p.Detail, Details: details})
	return nil
}

// statusOf is the status with which the request's dialect says p.
func (e *explainer) statusOf(p *weir.Problem) int {
	d, path := e.x.form()
	w := &onlyStatus{header: http.Header{}}
	d.Refuse(w, dialect.Refusal{Problem: p, Path: path, RequestID: e.x.id})
	return w.status
}

// onlyStatus is told of an answer's status, and keeps nothing else.
type onlyStatus struct {
	header http.Header
	status int
}

func (w *onlyStatus) Header() http.Header         { return w.header }
func (w *onlyStatus) Write(p []byte) (int, error) { return len(p), nil }
func (w *onlyStatus) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusSwitchingProtocols {
		w.status = status
	}
}

// sum fills in what is known at the end.
func (e *explainer) sum() {
	x := e.x
	e.told.Caller, e.told.Plan = x.caller.ID, x.plan
	if e.told.Route == "" {
		return
	}
	e.told.Upstream = x.chosen.upstream.name
	if e.known && !e.free {
		e.told.Cost = costs(x.estimate())
	}
}

// costs are what a request is expected to use, by unit.
func costs(known, guessed amounts) map[string]int64 {
	c := map[string]int64{"requests": 1}
	for _, unit := range []string{"input_tokens", "output_tokens", "bytes", nanoUSD} {
		if n := sum(known.of(unit), guessed.of(unit)); n > 0 {
			c[unit] = n
		}
	}
	return c
}

// seconds is d in seconds, to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
