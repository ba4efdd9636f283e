package gateway

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/telemetry"
)

// ask sends the request upstream.
func (x *exchange) ask() (*http.Response, error) {
	out := x.r.WithContext(x.r.Context())
	if x.keyed || x.call.Endpoint != "" {
		out.Header = x.r.Header.Clone() // the request's own are still needed
	}
	body := x.body
	if x.call.Endpoint != "" {
		body = x.call.Body()
		out.Header["Accept-Encoding"] = []string{"identity"} // or the answer could not be read
		if !bytes.Equal(body, x.body) {                      // quick where it is the same
			dropDigests(out.Header)
		}
	}
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if x.keyed {
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

// dropDigests removes the fields that describe the bytes of a body that is changed.
func dropDigests(h http.Header) {
	for _, name := range []string{"Content-Md5", "Digest", "Content-Digest", "Repr-Digest"} {
		delete(h, name)
	}
}

// relay passes the answer on as it comes, and keeps a copy for those who ask the
// same.
func (x *exchange) relay(resp *http.Response) {
	x.theirs = x.chosen.upstream.dialect.Limits(resp.Header, time.Now())
	delete(resp.Header, "X-Request-Id")
	x.relaying = true
	if x.call.Endpoint != "" && x.r.Method != http.MethodHead {
		x.answer = x.call.Answer(resp.StatusCode, resp.Header)
		if x.answer.Resizes() {
			resp.ContentLength = -1
		}
		resp.Body = x.answer.Body(resp.Body)
	}
	var ahead int64
	if x.keyed && x.r.Method != http.MethodHead {
		ask := cache.Ask{Key: x.key, Flight: x.flight, Wishes: x.wishes, Now: x.started, Complete: x.storable}
		ask.Stream = x.answer != nil && x.answer.Streams()
		recording := x.chosen.cache.Record(x.r.Context(), ask, resp)
		x.cacheStatus = recording.CacheStatus(x.wishes)
		ahead = recording.ReadAhead()
		resp.Body = recording.Body(resp.Body, func(err error) error { return brokeOff(x.chosen.upstream.name, err) })
	}
	resp.Body = &toldBody{resp.Body, x}
	x.readsAhead = ahead > 0
	if err := x.chosen.upstream.pool.Relay(x.w, resp, ahead); err != nil {
		x.err = err
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
	x.dropTrailers()
}

// dropTrailers removes the trailers that describe one exchange of ours with the
// upstream, as their fields are.
func (x *exchange) dropTrailers() {
	h := x.w.Header()
	for name := range h {
		trailer, ok := strings.CutPrefix(name, http.TrailerPrefix)
		if ok && (trailer == "X-Request-Id" || len(x.takes) > 0 && dialect.IsLimitField(trailer)) {
			delete(h, name)
		}
	}
}

// toldBody ends cleanly where its last bytes told the client of the error: a
// connection that breaks could take them with it.
type toldBody struct {
	io.ReadCloser
	exchange *exchange
}

// Read implements io.Reader.
func (b *toldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if cut, ok := errors.AsType[*dialect.CutError](err); ok {
		b.exchange.err, err = cut, io.EOF
	}
	return n, err
}

// storable reports whether the answer, now that it is at its end, may be given to
// others later: a 2xx is whole, says no error, and the model ended it by itself.
func (x *exchange) storable() bool {
	if x.answer == nil || x.w.status/100 != 2 {
		return true
	}
	o := x.answer.Outcome()
	return o.Complete && o.Stopped && o.Err == ""
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
	d, path := x.form()
	d.Refuse(x.w, dialect.Refusal{Problem: p, Path: path, RequestID: x.id})
}

// finish settles and counts the request, and writes its line of the log.
func (x *exchange) finish() {
	var used amounts
	if x.called || x.reserved { // a free answer from the cache is not read for what it used
		used = x.spent()
	}
	x.learn(used)
	x.settle(used)
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
		Shadow:       x.shadow,
		Store:        x.storeMode,
		UserAgent:    x.r.UserAgent(),
	}
	if x.called {
		e.Upstream, e.Target = x.chosen.upstream.name, x.target
	}
	x.addUsage(&e, used)
	if x.caller.Addr.IsValid() {
		e.Client = x.caller.Addr.String()
	}
	if x.err != nil {
		e.Error = x.err.Error()
	}
	x.gateway.log.Log(e)
}

// addUsage says and counts what the model did: the same as is charged for it.
func (x *exchange) addUsage(e *telemetry.Entry, used amounts) {
	if x.call != nil {
		e.Model = x.call.Model
	}
	var o dialect.Outcome
	if x.answer != nil {
		o = x.answer.Outcome()
		e.Model = cmp.Or(o.Model, e.Model)
		e.Usage, e.UsageEstimated, e.Finish, e.Error = o.Usage, o.Estimated, o.Finish, o.Err
	}
	if !o.Known && x.called && used.input > 0 {
		o.Known, e.Usage, e.UsageEstimated = true, weir.Usage{Input: used.input}, true
	}
	if o.Known {
		x.gateway.metrics.Tokens(e.Route, e.Model, e.Usage)
	}
}
