package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/ratelimit"
)

// run is an attempt of a job: an exchange whose client is the job.
type run struct {
	attempt *job.Attempt
	account account
	placed  bool // it has had a place

	header http.Header
	head   chan *http.Response // gets the answer, if there is one
	body   *io.PipeReader
	out    *io.PipeWriter
	done   chan struct{} // closed when nothing more is done for it
	err    error         // why there is no answer, or no whole one; to be read after done
}

// errNoRoute is why a job waits whose route this instance does not have.
var errNoRoute = errors.New("the configuration has no route of this name")

// runJob takes a job's request its way from admission on.
func (g *Gateway) runJob(ctx context.Context, r *http.Request) (*http.Response, error) {
	attempt, ok := job.AttemptFrom(ctx)
	if !ok {
		return nil, errors.New("a request that is no job's")
	}
	x, err := g.newRun(ctx, r, attempt)
	if err != nil {
		return nil, &job.NotNow{After: time.Minute, Err: err}
	}
	if !x.setup.bodies.take(int64(cap(x.body))) {
		x.chosen.upstream.jobsPaused.Store(time.Now().Add(time.Second).UnixNano())
		g.leave(x.setup)
		return nil, &job.NotNow{After: time.Second, Err: errBodies}
	}
	go x.serveRun() // whoever reads the answer waits for it
	select {
	case resp := <-x.run.head:
		return resp, nil
	case <-x.run.done:
	}
	select {
	case resp := <-x.run.head: // it was ended as soon as it had begun
		return resp, nil
	default:
		return nil, x.run.err
	}
}

func (g *Gateway) newRun(ctx context.Context, r *http.Request, attempt *job.Attempt) (*exchange, error) {
	s, j := g.enter(), attempt.Job
	rt := s.route(j.Route)
	if rt == nil || rt.upstream.pool == nil {
		g.leave(s)
		return nil, fmt.Errorf("route %q: %w", j.Route, errNoRoute)
	}
	kept := readAccount(attempt.Account)
	body, out := io.Pipe()
	x := &exchange{
		gateway: g, setup: s, id: j.Request.ID, started: time.Now(), chosen: rt, jobID: j.ID,
		caller: weir.Caller{ID: j.Caller, Plan: j.Plan, Net: kept.Net}, body: j.Request.Body, bodyRead: true,
	}
	x.plan = s.planOf(x.caller)
	x.caller.Plan = x.plan
	x.exempt = s.callers.Exempt(x.caller)
	x.run = &run{
		attempt: attempt, account: kept, header: http.Header{},
		head: make(chan *http.Response, 1), body: body, out: out, done: make(chan struct{}),
	}
	x.r = r.Clone(ctx)
	x.r.Proto, x.r.ProtoMajor, x.r.ProtoMinor = "HTTP/1.1", 1, 1
	x.r.Header["X-Request-Id"] = []string{x.id}
	x.r.Body, x.r.ContentLength = http.NoBody, 0
	x.w = &response{ResponseWriter: x.run, exchange: x}
	x.trace = g.otlp.Start(x.r, x.started)
	x.read(rt)
	if len(attempt.Account) == 0 {
		// It had ended, was settled, and is to run again: what it uses from now on is
		// charged at its next end, to the counts that a direct call would take from.
		x.listTakes(func(*ratelimit.Take) {})
		x.run.account = x.openAccount()
		x.takes = nil
	}
	return x, nil
}

// serveRun is the exchange, to its end.
func (x *exchange) serveRun() {
	run := x.run
	defer func() {
		if run.placed {
			x.chosen.upstream.jobsPlaced.Add(-1)
			x.gateway.data.slotless.remove(x.caller.ID)
		}
		if p := recover(); p != nil && run.err == nil {
			run.err = x.err
		}
		if run.err == nil && x.w.status == 0 {
			run.err = errors.New("nothing was answered")
		}
		close(run.done)
		_ = run.out.CloseWithError(run.err) // nil is the end of the answer
	}()
	x.gateway.serve(x, x.again)
}

// again is the way of a request that was put off, when its time has come: its answer
// may be there by now. It takes its caller's slots when it has its place. Nobody waits
// for its answer, as for that of a direct call: they would wait as long as a job does.
// Nor does it wait for another's, with a place that others could use.
func (x *exchange) again() error {
	if answered, err := x.lookUp(); answered || err != nil {
		return err
	}
	slot, err := x.admit(x.r.Context(), x.r.Header)
	if err != nil {
		return err
	}
	x.held = slot
	defer x.giveUpPlace()
	x.listTakes(func(t *ratelimit.Take) {
		if t.Policy.Concurrent > 0 {
			x.fill(t)
		}
	})
	if err := x.take(x.takes); err != nil { // all but the slots is reserved since it was sent
		return err
	}
	if answered, err := x.lookUp(); answered || err != nil {
		return err
	}
	defer x.look.Leave()
	resp, err := x.ask()
	if err != nil {
		return err
	}
	if resp == nil {
		x.serveStored()
		return nil
	}
	x.relay(resp)
	return nil
}

// failRun remembers why there is no answer.
func (x *exchange) failRun(err error) { x.run.err = x.notNow(err) }

// isBrokenOff reports whether the attempt was broken off and its job goes on, here or
// elsewhere: then it counts for nothing.
func (x *exchange) isBrokenOff() bool {
	return x.run != nil && errors.Is(context.Cause(x.r.Context()), job.ErrStopped)
}

// isPutOff reports whether the attempt was none, because there was no room for it.
func (x *exchange) isPutOff() bool {
	if x.run == nil {
		return false
	}
	_, ok := errors.AsType[*job.NotNow](x.run.err)
	return ok
}

// status is what the direct call would have had, where nothing was answered.
func (r *run) status() int {
	if p, ok := errors.AsType[*weir.Problem](r.err); ok {
		return cmp.Or(p.Status, http.StatusInternalServerError)
	}
	return statusClientLeft // it was stopped
}

// notNow tells what is no failure of the attempt: there was no place for it, or no
// slot. The jobs behind it wait, too; without a slot, those of its caller.
func (x *exchange) notNow(err error) error {
	p, ok := errors.AsType[*weir.Problem](err)
	if !ok {
		return err
	}
	after := max(p.RetryAfter, time.Second)
	pause := time.Now().Add(min(after, longestPause))
	_, refused := errors.AsType[*admission.Refusal](err)
	switch {
	case refused, x.storeMode == storeClosed:
		x.chosen.upstream.jobsPaused.Store(pause.UnixNano())
	case len(p.Violated) > 0:
		// Its next job will be claimed when this is over, or one of its jobs ends.
		x.gateway.data.slotless.add(x.caller.ID, pause)
		after = min(after, time.Second)
		if x.run.placed {
			x.run.placed = false
			x.chosen.upstream.jobsPlaced.Add(-1)
		}
	default:
		return err
	}
	return &job.NotNow{After: after, Err: err}
}

// longestPause is how long no jobs are claimed because there was no room for one.
const longestPause = 10 * time.Second

// Header implements http.ResponseWriter.
func (r *run) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter: the answer begins.
func (r *run) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	resp := &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: r.header.Clone(), Body: runBody{r}, ContentLength: -1,
	}
	if n, err := strconv.ParseInt(r.header.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	r.head <- resp // which is asked for once
}

// Write implements http.ResponseWriter.
func (r *run) Write(p []byte) (int, error) { return r.out.Write(p) }

// runBody is the body of an attempt's answer. At its end the attempt is over.
type runBody struct{ run *run }

// Read implements io.Reader.
func (b runBody) Read(p []byte) (int, error) { return b.run.body.Read(p) }

// Close breaks off what is not read, and waits until nothing more is done for it.
func (b runBody) Close() error {
	err := b.run.body.Close()
	<-b.run.done
	return err
}

// endRun writes down what the attempt has used, before whoever reads its answer
// comes to the end.
func (x *exchange) endRun(used amounts) {
	x.run.account.spend(used)
	x.run.attempt.Account = x.run.account.encode()
}

// giveUpPlace gives back a place that was not used.
func (x *exchange) giveUpPlace() {
	if x.held != nil {
		x.held.Done(admission.Unused)
		x.held = nil
	}
}

// placed is called when the request has its place: another job may wait for one.
func (x *exchange) placed() {
	if x.run == nil || x.run.placed {
		return
	}
	x.run.placed = true
	x.chosen.upstream.jobsPlaced.Add(1)
	x.gateway.data.jobs.Wake()
}

// inBackground reports whether no client waits for the answer.
func (x *exchange) inBackground() bool { return x.refreshing || x.run != nil }
