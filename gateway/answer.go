package gateway

import (
	"bytes"
	"cmp"
	"context"
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
	"github.com/inferweir/weir/upstream"
)

// fetch gets the answer from the upstream and passes it on.
func (x *exchange) fetch() error {
	if err := x.reserve(); err != nil { // 429, 503
		return err
	}
	resp, err := x.ask() // 502, 503, 504
	if err != nil {
		return err
	}
	if resp == nil { // what is stored is as good, or better than nothing
		x.serveStored()
		return nil
	}
	x.relay(resp)
	return nil
}

// ask sends the request upstream. Without an answer and without an error, the one
// that is stored is to be given.
func (x *exchange) ask() (*http.Response, error) {
	for {
		resp, err := x.send()
		switch x.look.Replace(x.look.Context(x.r.Context()), resp, err) {
		case cache.AskAgain:
			continue
		case cache.Replaced:
			if err != nil {
				x.err = err
				x.giveBack() // what brought no answer costs nothing
			}
			return nil, nil
		}
		if p, ok := errors.AsType[*weir.Problem](err); ok && !x.wasImpatient(p) {
			x.look.Fail(p)
		}
		return resp, err
	}
}

// outgoing is the request as it goes to the upstream.
func (x *exchange) outgoing() *http.Request {
	out := x.r.WithContext(x.r.Context())
	if x.look.Keyed() || x.call.Endpoint != "" || x.offloads() {
		out.Header = x.r.Header.Clone() // the request's own are still needed
	}
	if x.offloads() {
		out.Header["Accept-Encoding"] = []string{"identity"} // or what is kept could not be read later
	}
	body := x.body
	if x.call.Endpoint != "" {
		body = x.call.Body()
		out.Header["Accept-Encoding"] = []string{"identity"} // or the answer could not be read
		if !bytes.Equal(body, x.body) {                      // quick where it is the same
			dropDigests(out.Header)
		}
	}
	out.ContentLength = int64(len(body))
	// Again where a connection turns out to be closed before any of it was written.
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body = io.NopCloser(bytes.NewReader(body))
	x.look.Prepare(out.Header)
	return out
}

func (x *exchange) send() (*http.Response, error) {
	out := x.outgoing()
	ctx := x.look.Context(x.r.Context())
	slot, err := x.admit(ctx, out.Header) // 503
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	x.look.Asks(begin) // its place is not a part of what the model takes
	x.called = true
	if x.r.ProtoAtLeast(1, 1) && !x.inBackground() {
		hints := &interim{w: x.w}
		defer hints.end()
		ctx = hints.watch(ctx)
	}
	resp, err := x.exchangeWith(ctx, slot, out)
	x.timings.Add(telemetry.PhaseUpstream, time.Since(begin))
	if err != nil {
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
	delete(resp.Header, ticketField) // another queue's
	if x.failEarly(resp) {
		return
	}
	x.relaying = true
	x.changed(resp)
	if x.waits.whole > 0 {
		resp.Body = timedBody{resp.Body, x.r.Context()}
	}
	x.meter(resp)
	if x.call.Endpoint != "" && x.r.Method != http.MethodHead {
		x.answer = x.call.Answer(resp.StatusCode, resp.Header)
		if x.answer.Resizes() {
			resp.ContentLength = -1
		}
		resp.Body = x.answer.Body(resp.Body)
	}
	var ahead upstream.Ahead
	if x.look != nil {
		keep := cache.Keep{Failed: x.told}
		if x.answer != nil {
			keep.Stream, keep.Judge = x.answer.Streams(), x.judgement
		}
		recording := x.look.Record(x.r.Context(), resp, keep)
		ahead = upstream.Ahead{Bytes: recording.ReadAhead(), Wanted: recording.ReadAlong}
		resp.Body = recording.Body(resp.Body)
	}
	resp.Body = &toldBody{resp.Body, x}
	x.readsAhead = ahead.Bytes > 0
	if done, err := x.offload(resp); done {
		if err != nil {
			x.fail(err)
		}
		return
	}
	if err := x.chosen.upstream.pool.Relay(x.w, resp, ahead); err != nil {
		x.err = err
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
	x.dropTrailers()
}

// changed tells the caches of the other routes to the same path what an unsafe
// request has changed: each has its own methods, and the answers to GET may be in
// another one's than POST takes.
func (x *exchange) changed(resp *http.Response) {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, "QUERY":
		return
	}
	for _, rt := range x.setup.routes {
		if rt == x.chosen || rt.cache == nil || rt.config.Cache.Mode != cacheHTTP || rt.upstream != x.chosen.upstream {
			continue // its own has been told
		}
		if err := rt.cache.Changed(x.r.Context(), x.r, resp.StatusCode, resp.Header); err != nil {
			x.gateway.answers.failed(err)
		}
	}
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

// timedBody tells of it where its client's own time is over, and does not just break
// off.
type timedBody struct {
	io.ReadCloser
	ctx context.Context // the client's
}

// Read implements io.Reader.
func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if told := weir.Ended(b.ctx); told != nil {
			err = told
		}
	}
	return n, err
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
	if isCut(err) {
		b.exchange.err, err = err, io.EOF
	}
	return n, err
}

// isCut reports whether err ended a stream that has told its reader of it.
func isCut(err error) bool {
	_, ok := errors.AsType[*dialect.CutError](err)
	return ok
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
		if !x.relaying {
			x.giveBack() // what brought no answer costs nothing
		}
		x.refuse(p)
		return
	}
	if ctx := x.r.Context(); ctx.Err() != nil {
		if p := weir.Ended(ctx); p != nil {
			if !x.relaying {
				x.giveBack()
			}
			x.refuse(p)
			return
		}
		x.w.status = statusClientLeft
		if x.run != nil {
			x.failRun(err)
			return
		}
		panic(http.ErrAbortHandler)
	}
	x.refuse(&weir.Problem{Err: err})
}

// refuse writes every refusal.
func (x *exchange) refuse(p *weir.Problem) {
	x.noteRefusal(p)
	if x.run != nil && x.w.status == 0 {
		x.failRun(p)
		return
	}
	if x.early && x.w.sentOnlyComments() {
		x.tellEarly(p)
		return
	}
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
	defer x.gateway.leave(x.setup)
	var used amounts
	if x.isBrokenOff() {
		x.unobtained = true
	}
	if x.called || x.reserved { // a free answer from the cache is not read for what it used
		used = x.spent()
	}
	x.learn(used)
	x.settle(used)
	x.settlePlace()
	x.record(used)
	if x.run != nil {
		x.endRun(used)
	}
	if x.stop != nil {
		x.stop()
	}
	x.noteStore()
	took := time.Since(x.started)
	status := x.w.status
	switch {
	case status != 0:
	case x.run != nil:
		status = x.run.status()
	default:
		status = http.StatusOK // what the server sends for a handler that wrote nothing
	}
	x.setup.bodies.release(x.body)
	x.tell(status, took, used)
}

// entry is the request's line of the log, without what the model did.
func (x *exchange) entry(status int, took time.Duration) telemetry.Entry {
	e := telemetry.Entry{
		Time:         x.started,
		RequestID:    x.id,
		Caller:       x.caller.ID,
		Plan:         x.plan,
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
		Refresh:      x.refreshing,
		Policy:       x.policy,
		Shadow:       x.shadow,
		Store:        x.storeMode,
		Shed:         x.shedFor,
		Job:          x.jobID,
		Client:       x.clientAddr(),
		UserAgent:    x.r.UserAgent(),
		Refused:      x.refusedFor,
		Own:          !x.called && !x.served,
	}
	if x.chosen != nil {
		e.Route = x.chosen.name
	}
	if x.called {
		e.Upstream, e.Target = x.chosen.upstream.name, x.target
	}
	return e
}

// addUsage says what the model did: the same as is charged for it.
func (x *exchange) addUsage(e *telemetry.Entry, used amounts) {
	if x.call != nil {
		e.Model = x.call.Model
	}
	var o dialect.Outcome
	if x.answer != nil {
		o = x.answer.Outcome()
		e.Model = cmp.Or(o.Model, e.Model)
		e.Finish, e.Error = o.Finish, telemetry.Brief(o.Err)
	}
	switch {
	case o.Known:
		e.Usage, e.UsageEstimated = o.Usage, o.Estimated
	case x.called && used.input > 0:
		e.Usage, e.UsageEstimated = weir.Usage{Input: used.input}, true
	}
}
