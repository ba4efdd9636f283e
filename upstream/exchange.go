package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// exchange is one request at one target, until its answer is read or given up.
type exchange struct {
	pool      *Pool
	target    *target
	ctx       context.Context
	cancel    context.CancelCauseFunc
	stopTotal context.CancelFunc
	watch     *time.Timer // cancels when the next byte is late
	connected atomic.Bool
	streaming atomic.Bool // the first byte of the body has come
	started   time.Time
	firstByte time.Duration
	status    int
	ended     atomic.Bool
}

// The causes with which an exchange is cancelled.
var (
	errFirstByte    = errors.New("no first byte in time")
	errBetweenBytes = errors.New("no further byte in time")
	errTotal        = errors.New("not complete in time")
	errClosed       = errors.New("given up")
)

func (x *exchange) start(ctx context.Context) {
	t := x.pool.options.Timeouts
	timed, stopTotal := context.WithTimeoutCause(ctx, t.Total, errTotal)
	x.stopTotal = stopTotal
	x.ctx, x.cancel = context.WithCancelCause(timed)
	x.watch = time.AfterFunc(t.FirstByte, func() {
		if x.streaming.Load() {
			x.cancel(errBetweenBytes)
			return
		}
		x.cancel(errFirstByte)
	})
}

// end frees what the exchange holds and reports it, once.
func (x *exchange) end(result string, err error) {
	if !x.ended.CompareAndSwap(false, true) {
		return
	}
	x.watch.Stop()
	x.cancel(errClosed)
	x.stopTotal()
	x.target.inFlight.Add(-1)
	if observe := x.pool.options.Observe; observe != nil {
		observe(Event{
			Target:    x.target.name,
			Result:    result,
			Status:    x.status,
			FirstByte: x.firstByte,
			Total:     time.Since(x.started),
			Err:       err,
		})
	}
}

// fail ends the exchange with err and says what the client may know of it.
func (x *exchange) fail(caller context.Context, err error) error {
	result, p := x.explain(caller, err)
	x.end(result, err)
	if p == nil {
		return fmt.Errorf("upstream %s: %w", x.pool.options.Name, err)
	}
	return p
}

// explain finds out why err happened. No problem is due where the caller's own
// context ended.
func (x *exchange) explain(caller context.Context, err error) (result string, p *weir.Problem) {
	name, limit := x.pool.options.Name, x.pool.options.Timeouts
	timeout := func(format string, args ...any) *weir.Problem {
		return &weir.Problem{Status: http.StatusGatewayTimeout, Detail: fmt.Sprintf(format, args...), Err: err}
	}
	var netErr net.Error
	switch cause := context.Cause(x.ctx); {
	case caller.Err() != nil:
		return "cancelled", nil
	case errors.Is(cause, errFirstByte) && !x.connected.Load():
		return "busy", &weir.Problem{
			Status:     http.StatusServiceUnavailable,
			Type:       weir.TypeReducedCapacity,
			Detail:     fmt.Sprintf("All connections to upstream %q were busy for %v.", name, limit.FirstByte),
			RetryAfter: time.Second,
			Err:        err,
		}
	case errors.Is(cause, errFirstByte):
		return "timeout", timeout("Upstream %q sent no answer within %v.", name, limit.FirstByte)
	case errors.Is(cause, errBetweenBytes):
		return "timeout", timeout("Upstream %q sent nothing for %v.", name, limit.BetweenBytes)
	case errors.Is(cause, errTotal):
		return "timeout", timeout("Upstream %q took more than %v.", name, limit.Total)
	case !x.connected.Load() && errors.As(err, &netErr) && netErr.Timeout():
		return "timeout", timeout("Upstream %q accepted no connection within %v.", name, limit.Connect)
	case !x.connected.Load():
		return "connect", &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q cannot be reached.", name), Err: err}
	}
	return "cut", &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q broke off.", name), Err: err}
}

// body is the body of an answer, under the exchange's watch.
type body struct {
	io.ReadCloser
	exchange *exchange
	caller   context.Context
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
		x.end("ok", nil)
	case err != nil:
		err = x.fail(b.caller, err)
	}
	return n, err
}

// Close gives the answer up if it was not read to its end.
func (b *body) Close() error {
	x := b.exchange
	x.cancel(errClosed) // before Close, which may wait for what still writes
	err := b.ReadCloser.Close()
	x.end("cancelled", nil)
	return err
}
