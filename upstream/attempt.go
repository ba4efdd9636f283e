package upstream

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// Seat is a place for one attempt at one target, as a queue hands them out.
type Seat interface {
	// Target is the number of the target.
	Target() int
	// End gives the place back. The pool calls it exactly once for every seat that it
	// was given, when the attempt is over: with the last byte, an error, or because it
	// was given up; with ResultUnused where there was no attempt at all. The call may
	// come from any goroutine, and must not block.
	End(Event)
}

// Seats hands out the seats of a request's further attempts.
type Seats interface {
	// Seat returns a seat, if possible not at one of the tried targets. wait says
	// whether to wait for one, as a retry does; a hedge does not and gets an error at
	// once. Where a retry gets an error the client gets what the attempt before
	// brought.
	Seat(ctx context.Context, tried []int, wait bool) (Seat, error)
}

// Call says what is known about a request beside the request itself. The zero Call
// leaves all to the pool.
type Call struct {
	// Seat is the seat of the first attempt. nil: the pool chooses among the targets
	// that are open, and bounds nothing. Send and Upgrade end it in any case.
	Seat Seat
	// Seats has the seats of further attempts. nil: likewise.
	Seats Seats
	// Prefix is what the target's prefix cache may know already, for Choose.
	Prefix Prefix
	// Stream says that the answer is a stream: it is never hedged.
	Stream bool
	// Sending, if not nil, is called with each attempt's number, from 1, and the request
	// that goes out, whose fields it may change. It must not block.
	Sending func(attempt int, out *http.Request)
	// Cost is what the request weighs beside others where the pool chooses by load.
	// 0 means 1.
	Cost float64
}

// request is one request on its way: its attempts, until one's answer is read.
type request struct {
	Call
	pool     *Pool
	in       *http.Request
	caller   context.Context // ends when the client leaves
	ctx      context.Context // caller, within Timeouts.Total
	cancel   context.CancelCauseFunc
	total    *time.Timer
	body     replay
	upgrade  bool
	tried    []int     // the targets of the attempts
	room     [2][8]int // for tried, and for the targets that are open
	released atomic.Bool
}

// Do is Send with a zero Call.
func (p *Pool) Do(ctx context.Context, in *http.Request) (*http.Response, error) {
	return p.Send(ctx, in, Call{})
}

// Send sends in to one of the targets and returns its answer when the head is
// there. The caller closes the answer's body, at its end or before; the exchange
// with the target ends then, or when ctx does.
//
// in is a request as a server got it. What goes out has its method, path and
// query unchanged after the target's base path, its fields without those that
// concern only one connection, and the X-Forwarded fields. in itself is not
// changed. Where it fails it is sent again as Retry says, as long as its body can
// be had again: it has none, it has a GetBody, or nothing of it was read.
//
// An error is a *weir.Problem with status 502 (no connection, or it broke), 503
// (no target is open, or all connections are busy), 504 (too slow) or 400 and 413
// (the request's own body could not be read), or it wraps the error of ctx, when
// that ended first, or it is that of c.Seats.
func (p *Pool) Send(ctx context.Context, in *http.Request, c Call) (*http.Response, error) {
	return p.newRequest(ctx, in, c).send()
}

// Attempts is how many attempts the request of an answer from Send took so far:
// at least 1, and 0 for any other answer.
func Attempts(resp *http.Response) int {
	if x := exchangeOf(resp); x != nil {
		return len(x.request.tried)
	}
	return 0
}

// SeatOf is the seat of the attempt that brought an answer from Send: after a retry
// or a hedge it is not that of the Call. It is nil where there was none.
func SeatOf(resp *http.Response) Seat {
	if x := exchangeOf(resp); x != nil {
		return x.seat
	}
	return nil
}

type exchangeKey struct{}

func exchangeOf(resp *http.Response) *exchange {
	if resp == nil || resp.Request == nil {
		return nil
	}
	x, _ := resp.Request.Context().Value(exchangeKey{}).(*exchange)
	return x
}

func (p *Pool) newRequest(ctx context.Context, in *http.Request, c Call) *request {
	r := &request{Call: c, pool: p, in: in, caller: ctx, body: replay{in: in}}
	r.tried = r.room[0][:0]
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.total = time.AfterFunc(p.options.Timeouts.Total, func() { r.cancel(errTotal) })
	p.requests.Add(1)
	return r
}

// release frees what the request holds beyond its attempts, once.
func (r *request) release() {
	if !r.released.CompareAndSwap(false, true) {
		return
	}
	r.total.Stop()
	r.cancel(errClosed)
	r.body.close()
	r.pool.requests.Add(-1)
}

// send makes attempts until one brings what the client gets.
func (r *request) send() (*http.Response, error) {
	x, err := r.first()
	if err != nil {
		r.release()
		return nil, err
	}
	for {
		got := r.attempt(x)
		h, ok := r.again(got)
		if !ok {
			return r.deliver(got)
		}
		resp, err := got.dismiss()
		if x = r.next(h); x == nil {
			r.release()
			return resp, err
		}
	}
}

// deliver returns what the client gets. The request lasts as long as its answer.
func (r *request) deliver(got reply) (*http.Response, error) {
	if got.err != nil {
		err := got.exchange.fail(got.err)
		r.release()
		return nil, err
	}
	got.exchange.own(got.resp.Body.(*body))
	return got.resp, nil
}

// first is the exchange of the first attempt.
func (r *request) first() (*exchange, error) {
	now := time.Now()
	if r.Seat == nil {
		return r.choose(r.open(now, nil), now)
	}
	x, ok := r.take(r.Seat, now)
	if ok {
		return x, nil
	}
	return r.place(how{avoid: []int{r.Seat.Target()}}, true)
}

// place takes a seat for a further attempt. A target that opens for one trial may
// have it taken between the choice and the seat: then another is chosen.
func (r *request) place(h how, wait bool) (*exchange, error) {
	for range len(r.pool.targets) + 1 {
		if r.Seats == nil {
			now := time.Now()
			open := r.open(now, slices.Concat(r.tried, h.avoid))
			if len(open) == 0 && !h.elsewhere {
				open = r.open(now, h.avoid)
			}
			return r.choose(open, now)
		}
		seat, err := r.Seats.Seat(r.ctx, slices.Concat(r.tried, h.avoid), wait)
		if err != nil {
			if r.ctx.Err() != nil {
				return nil, r.ended()
			}
			return nil, err
		}
		if h.elsewhere && slices.Contains(r.tried, seat.Target()) {
			r.unused(seat)
			break
		}
		if x, ok := r.take(seat, time.Now()); ok {
			return x, nil
		}
		h.avoid = append(h.avoid, seat.Target())
	}
	return nil, r.pool.unavailable(time.Now())
}

// open are the targets that are open at now, without those of except. They are
// good until the next call.
func (r *request) open(now time.Time, except []int) []int {
	return r.pool.openTargets(r.room[1][:0], now, except)
}

// choose takes one of the open targets, without a seat.
func (r *request) choose(open []int, now time.Time) (*exchange, error) {
	for len(open) > 0 {
		i := r.pool.choose(open, r.Prefix)
		if x, ok := r.begin(r.pool.targets[i], now); ok {
			return x, nil
		}
		open = slices.DeleteFunc(open, func(o int) bool { return o == i })
	}
	return nil, r.pool.unavailable(now)
}

// take makes an exchange of a seat, or gives it back.
func (r *request) take(seat Seat, now time.Time) (*exchange, bool) {
	if i := seat.Target(); i >= 0 && i < len(r.pool.targets) {
		if x, ok := r.begin(r.pool.targets[i], now); ok {
			x.seat = seat
			return x, true
		}
	}
	r.unused(seat)
	return nil, false
}

func (r *request) unused(seat Seat) {
	e := Event{Index: seat.Target(), Result: ResultUnused}
	if e.Index >= 0 && e.Index < len(r.pool.targets) {
		e.Target = r.pool.targets[e.Index].name
	}
	seat.End(e)
}

// ended is the error of a request whose time was over between two attempts.
func (r *request) ended() error {
	if err := r.caller.Err(); err != nil {
		return fmt.Errorf("upstream %s: %w", r.pool.options.Name, err)
	}
	return &weir.Problem{
		Status: http.StatusGatewayTimeout,
		Detail: fmt.Sprintf("Upstream %q took more than %v.", r.pool.options.Name, r.pool.options.Timeouts.Total),
		Err:    context.Cause(r.ctx),
	}
}

// attempt carries x, and a hedge beside it where that is due.
func (r *request) attempt(x *exchange) reply {
	if !r.hedgeable() {
		return x.carry()
	}
	got := reply{}
	if after := r.hedgeAfter(); after > 0 {
		got = r.race(x, after)
	} else {
		got = x.carry()
	}
	if got.good() && r.pool.options.Hedge.Quantile > 0 {
		// Of an attempt that lost against a hedge it is only known that it would have
		// taken at least as long as both.
		r.pool.heads.add(time.Since(x.started))
	}
	return got
}
