package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/telemetry"
	"github.com/inferweir/weir/upstream"
)

// ticketField carries the ticket of a refused request out, and back at its time.
const ticketField = "X-Queue-Ticket"

// seat is a place at a target, for one attempt. own says that the request has its
// caller's own key at the upstream.
type seat struct {
	slot  *admission.Slot
	own   bool
	trace *telemetry.Trace
}

// Target implements upstream.Seat.
func (s seat) Target() int { return s.slot.Target() }

// End implements upstream.Seat.
func (s seat) End(e upstream.Event) {
	result := resultOf(e)
	if s.own && e.Result == upstream.ResultOK && e.Status == http.StatusTooManyRequests {
		result = admission.ClientError // what is said to somebody's own key concerns nobody else
	}
	s.slot.Done(result)
	s.trace.CallEnded(callEnd(e))
}

// resultOf gives the end of an attempt in the queue's words.
func resultOf(e upstream.Event) admission.Result {
	switch e.Result {
	case upstream.ResultOK:
		switch {
		case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
			return admission.Overloaded
		case e.Status >= http.StatusInternalServerError:
			return admission.Failed
		case e.Status >= http.StatusBadRequest:
			return admission.ClientError
		}
		return admission.OK
	case upstream.ResultBusy:
		return admission.Overloaded
	case upstream.ResultCancelled:
		return admission.Left
	case upstream.ResultRequest:
		return admission.ClientError
	case upstream.ResultUnused:
		return admission.Unused
	}
	return admission.Failed
}

// seats are those of a request's further attempts.
type seats struct{ x *exchange }

// Seat implements upstream.Seats.
func (s seats) Seat(ctx context.Context, tried []int, wait bool) (upstream.Seat, error) {
	x := s.x
	r := *x.wants
	r.Tried, r.Batch = tried, "" // what is sent again goes as it is
	if !wait {
		slot, err := x.chosen.upstream.queue.TryAcquire(r)
		if err != nil {
			return nil, err
		}
		return x.seat(slot), nil
	}
	slot, err := x.chosen.upstream.queue.Acquire(ctx, r)
	if refusal, ok := errors.AsType[*admission.Refusal](err); ok {
		return nil, x.problemOf(refusal) // which may be asked when the exchange is over
	}
	if err != nil {
		return nil, err
	}
	return x.seat(slot), nil
}

func (x *exchange) seat(slot *admission.Slot) seat {
	x.attempts.Add(1)
	return seat{slot: slot, own: hasOwnKey(x.r.Header, x.chosen.upstream.fields), trace: x.trace}
}

// admit waits for a place at one of the upstream's targets, for a request that goes
// out with fields.
func (x *exchange) admit(ctx context.Context, fields http.Header) (*admission.Slot, error) {
	if slot := x.held; slot != nil {
		x.held = nil
		return slot, nil
	}
	if x.wants == nil {
		x.wants = x.want(fields)
	}
	begin := time.Now()
	slot := x.chosen.upstream.queue.Enter(*x.wants)
	err := x.await(ctx, slot)
	x.timings.Add(telemetry.PhaseQueue, time.Since(begin))
	if err == nil {
		x.placed()
		x.place = slot
		return slot, nil
	}
	if errors.Is(err, slot.Err()) {
		return nil, x.refused(slot)
	}
	return nil, fmt.Errorf("upstream %s: %w", x.chosen.upstream.name, err)
}

// await waits until it is decided, and tells a client with a stream meanwhile that
// it is waited for.
func (x *exchange) await(ctx context.Context, slot *admission.Slot) error {
	select {
	case <-slot.Ready():
		return slot.Err()
	default:
	}
	var beat <-chan time.Time
	if every := x.chosen.upstream.config.Queue.KeepaliveAfter; every > 0 && x.canWait() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		select {
		case <-slot.Ready():
			return slot.Err()
		case <-ctx.Done():
			slot.Leave()
			return ctx.Err()
		case <-beat:
			if err := x.sayQueued(); err != nil {
				slot.Leave()
				return err
			}
		}
	}
}

// want is what the queue needs to know of the request.
func (x *exchange) want(fields http.Header) *admission.Request {
	share := x.setup.shares[x.plan]
	if x.run != nil {
		share.class = admission.Batch
	}
	r := &admission.Request{
		Caller: x.caller.ID,
		Weight: share.weight,
		Class:  share.class,
		Kind:   x.chosen.name + " " + x.call.Endpoint,
		Items:  x.call.Items,
		Stream: x.call.Stream,
	}
	if x.call.Endpoint != "" && x.call.Estimate.Input > 0 {
		r.Input, r.Output = x.call.Estimate.Input, x.expectedOutput()
	}
	r.Batch = x.batchKey(fields)
	r.WaitUntil, r.Deadline = x.deadlines()
	if x.ticket != "" && len(x.ticket) <= admission.MaxTicket {
		r.Ticket, r.Digest = x.ticket, x.digest()
	}
	if x.chosen.upstream.config.Balance == balancePrefix {
		r.Prefix = upstream.PrefixOf(x.caller.ID+"\x00"+x.call.Model, x.call.Prompt())
	}
	return r
}

// balancePrefix is the balance that needs to know the prompt.
const balancePrefix = "prefix"

// expectedOutput is how many tokens the answer is likely to have: what such answers
// had, and at most what the request allows.
func (x *exchange) expectedOutput() int64 {
	known, _ := x.estimate()
	if !x.call.Generates() {
		return 0
	}
	usual, most := x.gateway.sizes.look(x.sizeKey()).output, known.output
	expected := int64(firstGuess)
	if usual.n > 0 {
		expected = max(int64(usual.mean), 1)
	}
	if most > 0 {
		expected = min(expected, most)
	}
	return expected
}

// digest stands for the request in its ticket.
func (x *exchange) digest() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", x.chosen.name, x.r.Method, x.r.URL.RequestURI())
	h.Write(x.body)
	return [32]byte(h.Sum(nil))
}

// refused is the refusal of the request by the queue.
func (x *exchange) refused(slot *admission.Slot) error {
	refusal, ok := errors.AsType[*admission.Refusal](slot.Err())
	if !ok {
		return slot.Err()
	}
	x.shedFor = string(refusal.Reason)
	p := x.problemOf(refusal)
	if refusal.Booked {
		p.Header = http.Header{ticketField: {slot.Ticket(x.digest())}}
	}
	return p
}

// problemOf says to the client why the queue has no place.
func (x *exchange) problemOf(r *admission.Refusal) *weir.Problem {
	u := x.chosen.upstream
	p := &weir.Problem{
		Status:     u.config.Queue.Status,
		Type:       weir.TypeReducedCapacity,
		RetryAfter: r.RetryAfter,
		Err:        r,
	}
	if p.Status == 0 {
		p.Status = http.StatusServiceUnavailable
	}
	switch r.Reason {
	case admission.NoTarget:
		p.Detail = fmt.Sprintf("No target of upstream %q is available now.", u.name)
	case admission.DeadlineTooClose:
		p.Detail = "The model is too slow for the time that the request allows."
		p.RetryAfter = weir.Never
	case admission.QueueClosed:
		p.Detail = "The gateway is shutting down."
		p.RetryAfter = time.Second
	default:
		p.Detail = fmt.Sprintf("The model is busy: this request would have waited for too long. Try again in %s.", wait(r.RetryAfter))
	}
	if r.RetryAfter > time.Minute && x.chosen.config.RespondAsync != "" && x.chosen.config.RespondAsync != "never" {
		p.Detail += " Or send it with Prefer: respond-async and fetch the answer later."
	}
	return p
}

// wait is d in words, rounded up to the second.
func wait(d time.Duration) string {
	if s := int64((d + time.Second - 1) / time.Second); s != 1 {
		return fmt.Sprintf("%d seconds", s)
	}
	return "1 second"
}

// metered tells the queue when the tokens of a stream come.
type metered struct {
	io.ReadCloser
	slot   *admission.Slot
	first  func() // is called with the first one; may be nil
	lines  bool   // each is an event
	inLine bool   // the last byte was not the end of one
	any    bool
	waited time.Duration // for the target, since the last token
}

// meter has the queue told of the tokens of resp, if it is a stream of a model's. Of
// other streams nobody knows what their pauses mean.
func (x *exchange) meter(resp *http.Response) {
	at, ok := upstream.SeatOf(resp).(seat)
	if !ok {
		return
	}
	x.place = at.slot
	switch {
	case !isStream(resp.Header):
	case x.call.Endpoint == "" || !x.call.Generates():
		at.slot.Streams()
	default:
		resp.Body = &metered{ReadCloser: resp.Body, slot: at.slot, first: x.onFirstToken(), lines: hasType(resp.Header, jsonLines)}
	}
}

// Read implements io.Reader. The time that the client takes between two reads is not
// the target's.
func (m *metered) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := m.ReadCloser.Read(p)
	m.waited += time.Since(began)
	tokens := m.tokens(p[:n])
	if tokens == 0 {
		return n, err
	}
	if !m.any {
		m.any = true
		m.slot.FirstToken()
		if m.first != nil {
			m.first()
		}
		tokens--
	}
	m.slot.Progress(tokens, m.waited)
	m.waited = 0
	return n, err
}

// tokens is how many events with data begin in p: comments are none. Where a token
// has several events, or an event several tokens, that is set right at the end.
func (m *metered) tokens(p []byte) (n int64) {
	for len(p) > 0 {
		if !m.inLine && (m.lines || bytes.HasPrefix(p, []byte("data"))) {
			n++
		}
		end := bytes.IndexByte(p, '\n')
		if m.inLine = end < 0; m.inLine {
			return n
		}
		p = p[end+1:]
	}
	return n
}

// settlePlace sets right what the caller's share of the queue was charged, once it is
// known what the model did.
func (x *exchange) settlePlace() {
	if x.place == nil || x.answer == nil {
		return
	}
	if o := x.answer.Outcome(); o.Known {
		x.place.Settle(o.Usage)
	}
}
