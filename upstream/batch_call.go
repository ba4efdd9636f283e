package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/inferweir/weir"
)

// round is one call of several members and what follows from it.
type round[M any] struct {
	b     *Batcher[M]
	seats []*jointSeats
	works bool // a call was answered below 500: what is answered 500 now is an item's fault
}

// part is a call of all members of a round, or of some.
type part[M any] struct {
	members []*waiter[M]
	ctx     context.Context
	cancel  context.CancelFunc
	live    int // members that have not left; guarded by the Batcher
	seat    *joint
	seats   *jointSeats
	again   bool
	got     answered
}

// answered is what a call brought: an answer that was read to its end, or an error.
type answered struct {
	resp *http.Response
	body []byte
	err  error
}

// ask makes one call for members and tells each what it brought, or asks again for
// one half and then the other. from is the seat that a call before leaves to this
// one: nil for the first, which has the members' own. What it returns, if anything,
// was answered 500, and is told or halved by the caller: see halve.
//
// It halves a bounded number of members, so n of them make at most 2n-1 calls, and
// it is never deeper than the logarithm of that.
func (r *round[M]) ask(members []*waiter[M], from *joint) (failed *part[M]) {
	c := r.begin(members, from)
	if c == nil {
		return nil
	}
	defer c.cancel()
	got, began := answered{}, time.Now()
	out, err := r.request(c)
	if err == nil {
		got = r.exchange(c, out)
	}
	var answers [][]byte
	why := err // each is not told what it gets by this call
	halves, doubtful := err != nil, false
	if err == nil && got.err == nil {
		status, several := got.resp.StatusCode, len(c.members) > 1
		r.works = r.works || status < http.StatusInternalServerError
		doubtful = several && status == http.StatusInternalServerError
		if halves = several && divisible(status); several && status == http.StatusOK {
			answers, why = r.split(c, got.body)
			halves = why != nil
		}
	}
	c.got = got
	r.report(c, why, began)
	switch {
	case doubtful:
		return c
	case halves:
		r.halve(c)
	default:
		r.tell(c, answers)
	}
	return nil
}

// begin is the call of those of members who have not left.
func (r *round[M]) begin(members []*waiter[M], from *joint) *part[M] {
	c := &part[M]{again: from != nil}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	var left []*waiter[M]
	r.b.mu.Lock()
	for _, w := range members {
		if w.ctx.Err() != nil {
			r.b.leftLocked(w) // of the call before, which is over
		}
		if w.left.Load() {
			left = append(left, w)
			continue
		}
		w.call = c
		c.members = append(c.members, w)
	}
	c.live = len(c.members)
	r.b.mu.Unlock()
	result := ResultUnused
	if c.again {
		result = ResultCancelled // there was a call that it had a part in
	}
	for _, w := range left {
		gone := &joint{members: []*seated{&w.seated}}
		if c.again {
			gone.extra = from.extra
		}
		gone.release(r.b.event(w, result))
	}
	if len(c.members) == 0 {
		c.cancel()
		return nil
	}
	r.seat(c, from)
	return c
}

// seat finds c's seats: those that its members have now, and would have next.
func (r *round[M]) seat(c *part[M], from *joint) {
	c.seat = &joint{}
	for _, w := range c.members {
		c.seat.members = append(c.seat.members, &w.seated)
	}
	if from != nil {
		c.seat.extra = from.extra
	}
	c.seats = &jointSeats{members: c.seat.members}
	for _, w := range c.members {
		if w.Call.Seats != nil {
			c.seats.of = w.Call.Seats
			break
		}
	}
	r.seats = append(r.seats, c.seats)
}

// settle gives back what c has of seats, but for one.
func (c *part[M]) settle(but *joint) {
	if c.seat != but {
		c.seat.settle()
	}
	c.seats.settle(but)
}

// halve asks for both halves of c's members, at the place where c's answer came from.
//
// One that is answered 500 is halved in its turn as long as some call for these
// members was not: what the server does for the others it would do for all but one.
// Where the other half has failed, too, nothing speaks for the server, and all get
// what they got. To know that, the second half is asked for before a part of the
// first; so the breaker of a target that works never sees many failures in a row
// because of one item.
func (r *round[M]) halve(c *part[M]) {
	at, ok := SeatOf(c.got.resp).(*joint)
	if !ok { // there was no call, or a repeated one without a seat
		at = c.seat
	}
	c.settle(at)
	middle := len(c.members) / 2
	for _, half := range []*part[M]{r.ask(c.members[:middle], at), r.ask(c.members[middle:], at)} {
		switch {
		case half == nil:
		case r.works:
			r.halve(half)
		default:
			r.tell(half, nil)
		}
	}
}

// request is what goes out for c: the first member's, with the items of all.
func (r *round[M]) request(c *part[M]) (*http.Request, error) {
	first := c.members[0].Request
	if len(c.members) == 1 {
		return first, nil
	}
	contents := make([]M, 0, len(c.members))
	for _, w := range c.members {
		contents = append(contents, w.Content)
	}
	body, err := r.b.join(contents)
	if err != nil {
		return nil, err
	}
	out := first.WithContext(c.ctx)
	out.Header = first.Header.Clone()
	for _, name := range append(ofTheWholeBody(), "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range") {
		delete(out.Header, name) // conditions are about what the first one has
	}
	out.ContentLength = int64(len(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body = io.NopCloser(bytes.NewReader(body))
	return out, nil
}

// exchange sends out and reads the answer to its end.
func (r *round[M]) exchange(c *part[M], out *http.Request) (got answered) {
	call := c.members[0].Call
	call.Seat, call.Seats, call.Cost = nil, nil, 0
	if c.seat.members[0].seat != nil {
		call.Seat = c.seat
	}
	if c.seats.of != nil {
		call.Seats = c.seats
	}
	for _, w := range c.members {
		cost := w.Call.Cost
		if cost <= 0 {
			cost = 1
		}
		call.Cost += cost
	}
	got.resp, got.err = r.b.options.Pool.Send(c.ctx, out, call)
	if got.err != nil {
		return got
	}
	most := r.b.options.MaxAnswer
	got.body, got.err = io.ReadAll(io.LimitReader(got.resp.Body, most+1))
	_ = got.resp.Body.Close() // at its end, or too long
	if got.err == nil && int64(len(got.body)) > most {
		got.err = &weir.Problem{
			Status: http.StatusBadGateway,
			Detail: fmt.Sprintf("The answer to %d requests that went to upstream %q as one is longer than %d bytes.", len(c.members), r.b.options.Pool.options.Name, most),
		}
	}
	return got
}

// divisible reports whether an answer may be the fault of one item, so that the
// others are to be asked for again. Of a success it says that it cannot be split.
// What is said of credentials, the path or the load is said to all; nor is a server
// that fails asked to do more. For 500, which many say of a bad item, see halve.
func divisible(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusProxyAuthRequired, http.StatusRequestTimeout,
		http.StatusGone, http.StatusLengthRequired, http.StatusUnsupportedMediaType, http.StatusMisdirectedRequest,
		http.StatusTooEarly, http.StatusUpgradeRequired, http.StatusTooManyRequests,
		http.StatusRequestHeaderFieldsTooLarge, http.StatusUnavailableForLegalReasons:
		return false
	}
	return status < 300 || status >= 400 && status < 500
}

// join is the codec's, with an error for a panic.
func (b *Batcher[M]) join(contents []M) (body []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("joining %d requests panicked: %v\n%s", len(contents), p, debug.Stack())
		}
	}()
	return b.codec.Join(contents)
}

// split is the codec's, with an error for a panic, and for a wrong number.
func (r *round[M]) split(c *part[M], body []byte) (answers [][]byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("splitting the answer to %d requests panicked: %v\n%s", len(c.members), p, debug.Stack())
		}
	}()
	contents := make([]M, 0, len(c.members))
	for _, w := range c.members {
		contents = append(contents, w.Content)
	}
	answers, err = r.b.codec.Split(body, contents)
	if err == nil && len(answers) != len(contents) {
		err = fmt.Errorf("the answer to %d requests was split in %d: want one for each", len(contents), len(answers))
	}
	return answers, err
}

// report tells of c's call. There was none where it could not be joined.
func (r *round[M]) report(c *part[M], why error, began time.Time) {
	e, got := BatchEvent{Members: len(c.members), Took: time.Since(began), Again: c.again, Err: why}, c.got
	for _, w := range c.members {
		e.Items += w.items()
	}
	if !c.again {
		e.Waited = began.Sub(c.members[0].joined)
	}
	if got.resp != nil {
		e.Status = got.resp.StatusCode
	}
	if got.err != nil {
		e.Err = got.err
	}
	r.b.report(e, began, c.ctx.Err() == nil && (got.resp != nil || got.err != nil))
}

// tell gives c's seats back, and each member its own answer: its part, or what all
// get.
func (r *round[M]) tell(c *part[M], answers [][]byte) {
	c.settle(nil)
	got := c.got
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for i, w := range c.members {
		switch {
		case got.err != nil:
			r.b.decideLocked(w, nil, ownError(got.err))
		case answers != nil:
			own := w.own(got.resp, answers[i], true)
			for _, name := range ofTheWholeBody() {
				delete(own.Header, name)
			}
			own.Header["Content-Length"] = []string{strconv.Itoa(len(answers[i]))}
			r.b.decideLocked(w, own, nil)
		default:
			r.b.decideLocked(w, w.own(got.resp, got.body, len(c.members) > 1), nil)
		}
	}
}

// ownError is a copy of what one member may change.
func ownError(err error) error {
	p, ok := err.(*weir.Problem) // one that is wrapped is nobody's to change
	if !ok {
		return err
	}
	own := *p
	own.Header = p.Header.Clone()
	return &own
}

// own is w's answer of a call, with a body of its own. shared says that others get
// one, too.
func (w *waiter[M]) own(resp *http.Response, body []byte, shared bool) *http.Response {
	own := *resp
	own.Header = resp.Header.Clone()
	if own.Header == nil {
		own.Header = http.Header{}
	}
	if shared {
		delete(own.Header, "Set-Cookie")
		if _, ok := own.Header[requestID]; ok {
			delete(own.Header, requestID)
			if id, ok := w.Request.Header[requestID]; ok {
				own.Header[requestID] = id
			}
		}
	}
	own.ContentLength = int64(len(body))
	own.TransferEncoding, own.Trailer = nil, nil
	own.Body = io.NopCloser(bytes.NewReader(body))
	return &own
}

const requestID = "X-Request-Id"

// ofTheWholeBody are the fields that describe the bytes of a body.
func ofTheWholeBody() []string {
	return []string{"Content-Length", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Etag", "Accept-Ranges", "Trailer"}
}
