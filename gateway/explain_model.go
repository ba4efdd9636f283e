package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
)

// readBody explains whether the body is taken.
func (e *explainer) readBody() error {
	x := e.x
	length := x.r.ContentLength
	err := x.readBody()
	most := int64(0)
	for _, rt := range x.candidates {
		most = max(most, int64(rt.config.MaxBody))
	}
	d := Decision{Step: "body", Outcome: "none", Reason: "The request has no body.", Details: map[string]any{"bytes": length, "max": most}}
	switch p, ok := errors.AsType[*weir.Problem](err); {
	case ok:
		d.Outcome, d.Reason = "refused", p.Detail
	case err != nil:
		return err
	case length > 0:
		d.Outcome, d.Reason = "read", fmt.Sprintf("It has %d bytes, and max_body allows %s.", length, config.Size(most))
	}
	e.say(d)
	return err
}

// choose explains what the request asks for, and which route that makes it.
func (e *explainer) choose() error {
	x := e.x
	err := x.choose()
	p, refused := errors.AsType[*weir.Problem](err)
	if err != nil && !refused {
		return err
	}
	if x.counted {
		e.told.Route, e.known = x.chosen.name, true
	}
	first := e.route()
	if e.told.Route == "" {
		first.Outcome, first.Reason = "none", p.Detail
	}
	e.told.Decisions[0] = first
	d := e.model()
	if refused {
		d.Outcome, d.Reason = "refused", p.Detail
	}
	e.say(d)
	return err
}

// model is the decision about what the request asks for.
func (e *explainer) model() Decision {
	x := e.x
	c := x.call
	d := Decision{Step: "model", Outcome: c.Model, Details: map[string]any{"dialect": x.chosen.upstream.dialect.Name()}}
	if c.Model == "" {
		d.Outcome = "none"
	}
	if c.Endpoint == "" {
		d.Reason = "The path is no call that the dialect knows: the request is passed on as it is."
		if !x.chosen.reads {
			d.Reason = "Nothing depends on what the body says, so it is not read: the request is passed on as it is."
		} else if c.Model != "" {
			d.Details["model_from"] = e.modelFrom()
		}
		return d
	}
	known, guessed := x.estimate()
	d.Details["endpoint"], d.Details["stream"] = c.Endpoint, c.Stream
	d.Details["deterministic"] = c.Deterministic
	d.Details["estimate"] = map[string]int64{"input": known.input + guessed.input, "output": known.output + guessed.output}
	var parts []string
	switch from := e.modelFrom(); {
	case c.Model != "":
		d.Details["model_from"] = from
		parts = append(parts, fmt.Sprintf("A call of %s; the %s names the model", c.Endpoint, from))
	default:
		parts = append(parts, fmt.Sprintf("A call of %s that names no model", c.Endpoint))
	}
	if c.Stream {
		parts = append(parts, "the answer is a stream")
	}
	if c.Items > 1 {
		d.Details["items"] = c.Items
	}
	parts = append(parts, e.expectations(known, guessed)...)
	d.Reason = strings.Join(parts, "; ") + "."
	if c.Err != nil {
		d.Details["error"] = c.Err.Error()
		d.Reason += fmt.Sprintf(" The body cannot be read in one way only: %v.", c.Err)
	}
	return d
}

// modelFrom is where the model stands: what names it without the body, or without the
// query, too.
func (e *explainer) modelFrom() string {
	x := e.x
	read := func(query string) string {
		return x.chosen.upstream.dialect.Read(dialect.Request{
			Method: x.r.Method, Path: x.chosen.upstream.path(x.r.URL.Path), Query: query, Depth: x.setup.config.Limits.JSONDepth,
		}).Model
	}
	switch {
	case read("") != "":
		return "path"
	case read(x.r.URL.RawQuery) != "":
		return "query"
	}
	return "body"
}

// expectations say what is thought that the request will use, and why.
func (e *explainer) expectations(known, guessed amounts) []string {
	x := e.x
	c := x.call
	var said []string
	switch {
	case known.input > 0:
		said = append(said, fmt.Sprintf("about %s of input, by its length", tokens(known.input)))
	case guessed.input > 0:
		said = append(said, fmt.Sprintf("about %s of input, as such requests had", tokens(guessed.input)))
	}
	usual := x.gateway.sizes.look(x.sizeKey())
	switch {
	case !c.Generates():
	case known.output > 0:
		said = append(said, fmt.Sprintf("at most %s of output, as it says", tokens(known.output)))
	case usual.output.n > 0:
		said = append(said, fmt.Sprintf("about %s of output, as such answers had", tokens(guessed.output)))
	default:
		said = append(said, fmt.Sprintf("%s of output, a guess until the first such answer has been seen", tokens(guessed.output)))
	}
	switch {
	case c.Err != nil:
	case c.Deterministic && c.Generates():
		said = append(said, "deterministic, because its temperature is 0 or it has a seed, and no tool looks at the world")
	case c.Deterministic:
		said = append(said, "deterministic, because such a call does not sample")
	case c.Generates():
		said = append(said, "not deterministic: it has neither temperature 0 nor a seed, or it has tools")
	}
	return said
}

func tokens(n int64) string {
	if n == 1 {
		return "1 token"
	}
	return fmt.Sprintf("%d tokens", n)
}

// deferral explains whether the request becomes a job.
func (e *explainer) deferral() error {
	x := e.x
	route, prefers := x.chosen, strings.Contains(strings.ToLower(strings.Join(x.r.Header["Prefer"], ",")), "respond-async")
	err := x.deferIfWanted()
	switch p, refused := errors.AsType[*weir.Problem](err); {
	case refused:
		e.say(Decision{Step: "job", Outcome: "refused", Reason: p.Detail})
	case err != nil:
	case x.deferred != nil && route.config.RespondAsync == asyncAlways:
		e.say(Decision{Step: "job", Outcome: "later", Reason: "respond_async is always: the route's requests become jobs."})
	case x.deferred != nil:
		e.say(Decision{Step: "job", Outcome: "later", Reason: "The client prefers respond-async, and the route allows it."})
	case prefers || route.defers():
		e.say(Decision{Step: "job", Outcome: "now", Reason: e.notDeferred(prefers)})
	}
	return err
}

func (e *explainer) notDeferred(prefers bool) string {
	x := e.x
	switch {
	case x.gateway.data.jobs == nil && x.setup.config.Database == nil:
		return "There are no jobs, because they need a database: the request is answered now."
	case x.gateway.data.jobs == nil:
		return "The database is not open here, so jobs cannot be told: the request is answered now."
	case !x.chosen.defers():
		return "respond_async is never: the client's preference is left unheeded."
	case !prefers:
		return "The client does not prefer respond-async: the request is answered now."
	case x.r.Method == http.MethodHead || x.r.Method == http.MethodOptions:
		return fmt.Sprintf("A %s is never a job.", x.r.Method)
	}
	return "The request needs credentials of its own, which no job keeps: it is answered now."
}

// replay explains a request whose idempotency key has a job.
func (e *explainer) replay() (answered bool, err error) {
	x := e.x
	j, err := x.earlier()
	if j == nil || err != nil {
		return false, err
	}
	e.free = true
	e.say(Decision{Step: "job", Outcome: j.ID, Reason: "The caller sent the same request under this idempotency key before: it is answered with that job.", Details: map[string]any{"state": string(j.State)}})
	e.answerJob()
	return true, nil
}

// handIn explains what a request costs that becomes a job.
func (e *explainer) handIn() error {
	x := e.x
	if !x.chosen.config.Cache.ChargeHits {
		if err := e.reserve(x.fillHit); err != nil {
			return err
		}
	}
	e.answerJob()
	return nil
}

func (e *explainer) answerJob() {
	why := "The job is on disk when the client is answered, and waits its turn in the queue as batch work."
	if wait := e.x.deferred.Wait; wait > 0 {
		why += fmt.Sprintf(" The client waits for it for up to %s.", wait)
	}
	e.answer(http.StatusAccepted, "become a job", why)
}
