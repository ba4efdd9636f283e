package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// exchange is one attempt at one target, until its answer is read or given up.
type exchange struct {
	request *request
	pool    *Pool
	target  *target
	seat    Seat // nil: none
	pass    pass
	cost    int64 // in thousandths
	attempt int
	reason  string
	budget  *budget // what paid for it; nil: nothing needed to

	ctx       context.Context
	cancel    context.CancelCauseFunc
	watch     *time.Timer // cancels when the next byte is late
	owner     bool        // the request lasts as long as this exchange
	socket    bool        // counts in target.sockets
	connected atomic.Bool
	written   atomic.Bool // something of the request may have been written
	streaming atomic.Bool // the first byte of the body has come
	started   time.Time
	firstByte time.Duration
	status    int
	pause     time.Duration // that a 429 or 503 asked for
	retried   bool
	ending    sync.Once
	ended     atomic.Bool
}

// reply is what an exchange brought: an answer or an error.
type reply struct {
	exchange *exchange
	resp     *http.Response
	err      error
}

// The causes with which an exchange is cancelled.
var (
	errFirstByte    = errors.New("no first byte in time")
	errBetweenBytes = errors.New("no further byte in time")
	errTotal        = errors.New("not complete in time")
	errClosed       = errors.New("given up")
	errSlower       = errors.New("another attempt was faster")
	errLeft         = errors.New("the client left")
	errBroken       = errors.New("the target broke the socket off")
	errEnded        = errors.New("both sides have ended")
	errPoolClosed   = errors.New("the pool was closed")
)

// Errors of an attempt beside those of its transport.
var (
	errUnasked = errors.New("the target switched protocols unasked")
	errSockets = errors.New("the target has as many sockets as it may")
	errBody    = errors.New("the request's body cannot be had")
)

// What is read of an answer that is not passed on, so that its connection can be
// used again, and for how long.
const (
	maxDrain = 64 << 10
	drainFor = 250 * time.Millisecond
)

// begin starts an exchange with t, unless t is not open any more.
func (r *request) begin(t *target, now time.Time) (*exchange, bool) {
	pass, ok := t.health.begin(now)
	if !ok {
		return nil, false
	}
	cost := r.Cost
	if cost <= 0 {
		cost = 1
	}
	r.tried = append(r.tried, t.index)
	x := &exchange{request: r, pool: r.pool, target: t, pass: pass, cost: int64(min(cost, mostCost) * milli), attempt: len(r.tried), started: now}
	t.inFlight.Add(1)
	t.load.Add(x.cost)
	x.ctx, x.cancel = context.WithCancelCause(context.WithValue(r.ctx, exchangeKey{}, x))
	x.watch = time.AfterFunc(x.pool.options.Timeouts.FirstByte, func() {
		if x.streaming.Load() {
			x.cancel(errBetweenBytes)
			return
		}
		x.cancel(errFirstByte)
	})
	return x, true
}

// carry sends the request and waits for the head of its answer. It does not end
// the exchange.
func (x *exchange) carry() reply {
	out, err := x.outgoing()
	if err != nil {
		return reply{exchange: x, err: err}
	}
	return x.roundTrip(out)
}

func (x *exchange) roundTrip(out *http.Request) (got reply) {
	got.exchange = x
	defer func() {
		if p := recover(); p != nil {
			got.resp, got.err = nil, fmt.Errorf("the transport panicked: %v\n%s", p, debug.Stack())
		}
	}()
	resp, err := x.target.transport.RoundTrip(out)
	now := time.Now()
	if err == nil && resp.StatusCode < 500 || context.Cause(x.ctx) == errFirstByte {
		x.target.latency.observe(now.Sub(x.started), now)
	}
	if err != nil {
		got.err = err
		return got
	}
	resp.Request = out
	x.status, x.firstByte = resp.StatusCode, now.Sub(x.started)
	if resp.StatusCode == http.StatusSwitchingProtocols && !(x.request.upgrade && switchesToWebSocket(resp.Header)) {
		_ = resp.Body.Close()
		got.err = errUnasked
		return got
	}
	x.heed(resp)
	if resp.StatusCode < http.StatusInternalServerError {
		x.target.health.alive(x.pass)
	}
	RemoveHopByHop(resp.Header)
	resp.Body = &body{ReadCloser: resp.Body, exchange: x}
	got.resp = resp
	return got
}

// outgoing is the request of this attempt.
func (x *exchange) outgoing() (*http.Request, error) {
	ctx, r := x.ctx, x.request
	if _, traced := x.target.transport.(*http.Transport); traced {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GetConn: func(string) { // also when it begins again on another connection
				x.connected.Store(false)
				x.written.Store(false)
			},
			GotConn:          func(httptrace.GotConnInfo) { x.connected.Store(true) },
			WroteHeaderField: func(string, []string) { x.written.Store(true) },
		})
	} else { // it does not tell
		x.connected.Store(true)
		x.written.Store(true)
	}
	if r.upgrade {
		x.socket = true
		if x.target.sockets.Add(1) > int64(x.pool.options.MaxConnections) {
			return nil, errSockets
		}
	}
	out := outgoing(ctx, r.in, x.target.base)
	if out.Body != nil {
		var err error
		if out.Body, err = r.body.next(); err != nil {
			return nil, fmt.Errorf("%w: %w", errBody, err)
		}
	}
	x.pool.setFields(out.Header)
	if r.upgrade {
		out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{websocket}
	}
	if r.Sending != nil {
		r.Sending(x.attempt, out)
	}
	return out, nil
}

// heed does what the answer's head asks for.
func (x *exchange) heed(resp *http.Response) {
	if closed := x.pool.options.Closed; closed != nil {
		x.pause = closed(resp)
		if d := min(x.pause, maxClosed); d > 0 {
			x.target.health.closeUntil(time.Now().Add(d))
		}
	}
	if x.pause <= 0 && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		x.pause = retryAfter(resp.Header)
	}
}

// retryAfter reads the wait that Retry-After asks for in seconds. Longer waits
// than an exchange can last, and dates, are more than anybody here waits for.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if value == "" {
		return 0
	}
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return time.Hour
	}
	return time.Duration(seconds) * time.Second
}

// own hands the exchange to who reads its answer. It then ends with ctx, too: an
// answer that is never read nor closed, because its reader panicked, keeps no seat.
func (x *exchange) own(b *body) {
	x.owner = true
	if x.status == http.StatusSwitchingProtocols {
		return // Upgrade waits for both ends itself
	}
	b.unwatch = context.AfterFunc(x.ctx, func() {
		_ = b.ReadCloser.Close() // what writes it may wait for a reader
		_ = x.fail(context.Cause(x.ctx))
	})
}

// end frees what the exchange holds and reports it, once: when it returns that is
// done, whoever does it.
func (x *exchange) end(result string, err error) {
	x.ending.Do(func() { x.free(result, err) })
}

func (x *exchange) free(result string, err error) {
	x.ended.Store(true)
	now := time.Now()
	x.watch.Stop()
	o := x.outcome(result)
	x.cancel(errClosed)
	x.target.inFlight.Add(-1)
	x.target.load.Add(-x.cost)
	x.target.health.end(x.pass, o, now)
	if x.budget != nil {
		x.budget.give()
	}
	if x.socket {
		x.target.sockets.Add(-1)
	}
	if x.owner {
		x.request.release()
	}
	e := Event{
		Target: x.target.name, Index: x.target.index,
		Result: result, Status: x.status,
		Attempt: x.attempt, Reason: x.reason, Retried: x.retried,
		FirstByte: x.firstByte, Total: now.Sub(x.started), Err: err,
	}
	if x.seat != nil {
		x.seat.End(e)
	}
	if observe := x.pool.options.Observe; observe != nil {
		observe(e)
	}
}

// outcome is what the exchange says about its target.
func (x *exchange) outcome(result string) outcome {
	switch result {
	case ResultConnect, ResultCut:
		return bad
	case ResultTimeout:
		if x.streaming.Load() && errors.Is(context.Cause(x.ctx), errTotal) {
			return neutral // it sent all the time: there was much to say
		}
		return bad
	}
	switch x.status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return bad
	case http.StatusServiceUnavailable:
		if x.pause > 0 {
			return neutral // it works, and says when there is room
		}
		return bad
	}
	if result == ResultOK && x.status < 400 {
		return good
	}
	return neutral
}

// fail ends the exchange with err and says what the client may know of it.
func (x *exchange) fail(err error) error {
	result, p := x.explain(err)
	x.end(result, err)
	if p != nil {
		return p
	}
	if caller := x.request.caller.Err(); caller != nil && !errors.Is(err, caller) {
		return fmt.Errorf("upstream %s: %w: %w", x.pool.options.Name, caller, err)
	}
	return fmt.Errorf("upstream %s: %w", x.pool.options.Name, err)
}

// outOfTime reports whether cause is one of the exchange's own limits: a client that
// leaves after that, or because of it, is not why it ended.
func outOfTime(cause error) bool {
	return errors.Is(cause, errFirstByte) || errors.Is(cause, errBetweenBytes) || errors.Is(cause, errTotal)
}

// explain finds out why err happened. No problem is due where this side gave the
// exchange up.
func (x *exchange) explain(err error) (result string, p *weir.Problem) {
	name, limit := x.pool.options.Name, x.pool.options.Timeouts
	timeout := func(format string, args ...any) *weir.Problem {
		return &weir.Problem{Status: http.StatusGatewayTimeout, Detail: fmt.Sprintf(format, args...), Err: err}
	}
	var netErr net.Error
	switch cause := context.Cause(x.ctx); {
	case cause == errSlower, cause == errClosed, cause == errLeft, cause == errPoolClosed, x.request.caller.Err() != nil && !outOfTime(cause):
		return ResultCancelled, nil
	case errors.Is(err, errSockets):
		return ResultBusy, &weir.Problem{
			Status:     http.StatusServiceUnavailable,
			Type:       weir.TypeReducedCapacity,
			Detail:     fmt.Sprintf("Upstream %q has as many sockets open as it may.", name),
			RetryAfter: time.Second,
			Err:        err,
		}
	case errors.Is(cause, errFirstByte) && !x.connected.Load():
		return ResultBusy, &weir.Problem{
			Status:     http.StatusServiceUnavailable,
			Type:       weir.TypeReducedCapacity,
			Detail:     fmt.Sprintf("All connections to upstream %q were busy for %v.", name, limit.FirstByte),
			RetryAfter: time.Second,
			Err:        err,
		}
	case errors.Is(cause, errFirstByte):
		return ResultTimeout, timeout("Upstream %q sent no answer within %v.", name, limit.FirstByte)
	case errors.Is(cause, errBetweenBytes):
		return ResultTimeout, timeout("Upstream %q sent nothing for %v.", name, limit.BetweenBytes)
	case errors.Is(cause, errTotal):
		return ResultTimeout, timeout("Upstream %q took more than %v.", name, limit.Total)
	case errors.Is(err, errBody):
		return ResultRequest, badBody(err)
	case x.request.body.err() != nil:
		return ResultRequest, badBody(x.request.body.err())
	case !x.connected.Load() && errors.As(err, &netErr) && netErr.Timeout():
		return ResultTimeout, timeout("Upstream %q accepted no connection within %v.", name, limit.Connect)
	case !x.connected.Load():
		return ResultConnect, &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q cannot be reached.", name), Err: err}
	}
	if bad := x.request.body.measure(); bad != nil {
		return ResultRequest, badBody(bad)
	}
	return ResultCut, &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q broke off.", name), Err: err}
}

// badBody is what is said of a request whose body could not be read.
func badBody(err error) *weir.Problem {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &weir.Problem{
			Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("The request's body is longer than %d bytes.", tooLarge.Limit), Err: err,
		}
	}
	if errors.Is(err, errLength) {
		return &weir.Problem{Status: http.StatusBadRequest, Detail: "The request's body is not as long as its Content-Length says.", Err: err}
	}
	return &weir.Problem{Status: http.StatusBadRequest, Detail: "The request's body could not be read to its end.", Err: err}
}

// dismiss ends an exchange whose request is sent again, and returns what it
// brought, for the case that it is not after all: the error, or the answer if little
// is left of it.
func (g reply) dismiss() (*http.Response, error) {
	x := g.exchange
	x.retried = true
	if g.err != nil {
		return nil, x.fail(g.err)
	}
	stop := time.AfterFunc(drainFor, func() { x.cancel(errClosed) })
	defer stop.Stop()
	left, err := io.ReadAll(io.LimitReader(g.resp.Body, maxDrain+1))
	_ = g.resp.Body.Close()
	if err != nil || len(left) > maxDrain {
		return nil, &weir.Problem{
			Status: http.StatusBadGateway,
			Detail: fmt.Sprintf("Upstream %q answered %d, and no other target could be asked.", x.pool.options.Name, x.status),
			Err:    err,
		}
	}
	g.resp.Body = io.NopCloser(bytes.NewReader(left))
	return g.resp, nil
}

// drop ends an exchange beside which another one was better.
func (g reply) drop() {
	g.exchange.retried = true
	if g.err != nil {
		_ = g.exchange.fail(g.err)
		return
	}
	_ = g.resp.Body.Close()
}

// body is the body of an answer, under the exchange's watch.
type body struct {
	io.ReadCloser
	exchange *exchange
	unwatch  func() bool // stops what own has started, if it has
}

func (b *body) stopWatching() {
	if b.unwatch != nil {
		b.unwatch()
	}
}

// Read implements io.Reader. The watch runs only while it waits for the target:
// the time that a slow client takes between two reads is not the target's.
func (b *body) Read(p []byte) (int, error) {
	x := b.exchange
	if x.streaming.Load() && !x.ended.Load() {
		x.watch.Reset(x.pool.options.Timeouts.BetweenBytes)
	}
	n, err := b.ReadCloser.Read(p)
	if n > 0 || err != nil {
		x.streaming.Store(true)
		x.watch.Stop()
	}
	switch {
	case err == io.EOF:
		b.stopWatching()
		x.end(ResultOK, nil)
	case err != nil:
		b.stopWatching()
		err = x.fail(err)
	}
	return n, err
}

// Close gives the answer up if it was not read to its end.
func (b *body) Close() error {
	x := b.exchange
	b.stopWatching()
	x.cancel(errClosed) // before Close, which may wait for what still writes
	err := b.ReadCloser.Close()
	if cause := context.Cause(x.ctx); cause != errClosed { // it was over before
		_ = x.fail(cause)
		return err
	}
	x.end(ResultCancelled, nil)
	return err
}
