package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/telemetry"
)

// lookUp answers from the cache, which costs nothing but where hits are charged.
func (x *exchange) lookUp() (answered bool, err error) {
	if x.chosen.cache == nil {
		return false, nil
	}
	begin := time.Now()
	err = x.find(begin)
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if _, refused := errors.AsType[*weir.Problem](err); refused {
		x.refusedFor = telemetry.RefusedRequest // only-if-cached
	}
	if err != nil || x.look.Entry == nil {
		return false, err
	}
	if x.look.Refresh {
		x.refresh()
	}
	x.serveStored()
	return true, nil
}

// find looks for the answer in the cache of the request's route: x.look has it.
func (x *exchange) find(now time.Time) (err error) {
	request := cache.Request{
		HTTP:    x.r,
		Body:    x.body,
		Caller:  x.caller,
		Model:   x.chosen.upstream.dialect.Canonical(x.call.Model),
		Form:    x.call.Form(),
		Samples: x.samples(),
	}
	look := x.chosen.cache.LookUp
	if x.explains {
		look = x.chosen.cache.Preview
	}
	x.look, err = look(x.r.Context(), request, now)
	if x.look.Entry == nil && x.convert() {
		return nil
	}
	return err
}

// samples reports whether the same request may rightly have another answer each
// time, and the route keeps only those that have not.
func (x *exchange) samples() bool {
	c := x.chosen.config.Cache
	if c.Mode == cacheHTTP {
		return false
	}
	// What can be read in two ways is two requests.
	return x.call.Endpoint != "" && x.call.Err != nil || c.Only != "all" && !x.call.Deterministic
}

// convert makes the answer of one to the same request in another form: a stream of
// one that came whole, and the other way round, where that loses nothing.
func (x *exchange) convert() bool {
	for _, form := range x.call.OtherForms() {
		e := x.look.Alternative(x.r.Context(), form)
		if e == nil || e.Status != http.StatusOK || len(e.Header["Content-Encoding"]) > 0 {
			continue
		}
		if body, kind, ok := x.call.Convert(form, e.Header.Get("Content-Type"), e.Body); ok {
			x.look.Convert(e, kind, body, x.call.Stream)
			return true
		}
	}
	return false
}

// serveStored sends what the cache has.
func (x *exchange) serveStored() {
	x.stored, x.served = x.look.Entry, true
	x.peek()
	if x.stored == nil && x.reserved {
		x.along = &along{exchange: x}
	}
	err := x.look.Serve(x.w, x.r)
	if x.along != nil {
		x.along.end(cmp.Or(err, io.EOF))
	}
	if err != nil {
		x.err = err
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
}

// join waits for an identical request that is running, and answers with its
// answer, which costs nothing but where hits are charged. Otherwise others may wait for
// this one, unless it may be broken off: they have more time.
func (x *exchange) join() (answered bool, err error) {
	begin := time.Now()
	if x.waits.whole > 0 {
		answered, err = x.look.Follow(x.r.Context())
	} else {
		answered, err = x.look.Join(x.r.Context())
	}
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if answered && err == nil {
		x.serveStored()
	}
	x.awaited = err != nil && x.r.Context().Err() != nil && x.look.Called()
	if refusal, ok := errors.AsType[*admission.Refusal](err); ok {
		err = x.refusedToo(refusal.Reason)
	}
	return answered, err
}

// refusedToo is the refusal of a request that waited for another one, which was
// refused: it has an appointment of its own.
func (x *exchange) refusedToo(reason admission.Reason) error {
	x.wants = x.want(x.r.Header)
	return x.refused(x.chosen.upstream.queue.Refuse(*x.wants, reason))
}

// refresh makes a stale answer anew in the background, at the expense of whoever
// was given it: a refresh that his quota does not allow is left to another.
func (x *exchange) refresh() {
	if !x.setup.bodies.take(int64(cap(x.body))) {
		return // the body would be kept for longer than its request
	}
	look := x.look.Refreshing()
	if look == nil {
		x.setup.bodies.release(x.body)
		return
	}
	y := &exchange{
		gateway: x.gateway, setup: x.setup, id: x.id, started: time.Now(), refreshing: true,
		chosen: x.chosen, caller: x.caller, plan: x.plan, exempt: x.exempt,
		body: x.body, bodyRead: true, look: look,
	}
	y.r = look.Request().Clone(look.Context(x.r.Context()))
	y.r.Body = http.NoBody
	y.trace = x.gateway.otlp.Start(y.r, y.started)
	y.w = &response{ResponseWriter: nobody{http.Header{}}, exchange: y}
	y.read(x.chosen)
	y.setup.users.Add(1) // x has it, so it is not over
	go func() {          // Refreshing counts it, and the cache waits for it
		defer look.Leave()
		defer func() {
			// What it breaks off with is nobody's: the stale answer stays. All else
			// was logged on its way here.
			_ = recover()
		}()
		if !look.Needed() {
			y.setup.bodies.release(y.body)
			y.gateway.leave(y.setup)
			return
		}
		x.gateway.serve(y, y.fetch)
	}()
}

// nobody takes an answer that has no client.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) WriteHeader(int)             {}
func (n nobody) Write(p []byte) (int, error) { return len(p), nil }

// noteStore tells of a store that does not answer, not for each request.
func (x *exchange) noteStore() {
	if x.look == nil || x.look.Err == nil {
		return
	}
	x.gateway.answers.failed(x.look.Err)
}

// judgement is what the answer says of itself, now that it is at its end: a 2xx is
// whole, says no error, and the model ended it by itself.
func (x *exchange) judgement() cache.Judgement {
	o := x.answer.Outcome()
	good := x.w.status/100 != 2 || o.Complete && o.Stopped && !o.Unmarked && o.Err == ""
	j := cache.Judgement{Complete: good, Version: o.Version}
	if o.Known {
		j.Tokens = sum(o.Usage.Input, o.Usage.Output)
	}
	return j
}

// told gives the followers of a request that broke off the error for them. Those
// who read a stream along have been told in it, as its client was.
func (x *exchange) told(err error) error {
	p := brokeOff(x.chosen.upstream.name, err)
	if isCut(err) {
		return fmt.Errorf("%w: %w", cache.ErrTold, p)
	}
	return p
}
