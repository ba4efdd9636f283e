package gateway

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/upstream"
)

// codec joins calls and splits answers by the dialect.
type codec struct{}

// Join implements upstream.Codec.
func (codec) Join(calls []*dialect.Call) ([]byte, error) { return dialect.Join(calls) }

// Split implements upstream.Codec.
func (codec) Split(answer []byte, calls []*dialect.Call) ([][]byte, error) {
	return calls[0].Split(answer, calls)
}

// newBatcher makes what joins calls to u's pool, nil where the file does not ask for
// it. largest is how long the body of one may be.
func (u *upstreamSetup) newBatcher(largest int64) *upstream.Batcher[*dialect.Call] {
	b := u.config.Batch
	if b == nil {
		return nil
	}
	o := upstream.BatchOptions{MaxItems: b.MaxSize, MaxDelay: b.MaxDelay, MaxBytes: largest, Resize: u.queue.SetBatchSize, Pool: u.pool, Observe: u.batches.observe}
	if slo := u.config.SLO; slo != nil {
		o.Goal = slo.TTFT
	}
	return upstream.NewBatcher(o, codec{})
}

// batchKey is what the request has in common with those that may go upstream in one
// call with it: "" where it goes alone. The call has the fields of one of them, so
// all that may matter to the upstream must agree, credentials above all.
func (x *exchange) batchKey(out http.Header) string {
	if x.chosen.upstream.batcher == nil || x.call.Endpoint == "" || len(x.r.Header["Idempotency-Key"]) > 0 || len(x.r.Header["Range"]) > 0 {
		return ""
	}
	body, ok := x.call.BatchKey(nil)
	if !ok {
		return ""
	}
	k := cache.NewKeyHash()
	k.Add(x.chosen.name)
	k.Add(x.r.Method)
	k.Add(x.r.Host)
	k.Add(x.r.URL.EscapedPath())
	k.Add(x.r.URL.RawQuery)
	k.AddFields(out)
	for _, name := range credentials() {
		if len(x.chosen.upstream.fields[name]) == 0 { // or it is replaced
			k.Add(strings.Join(out[name], "\n"))
		}
	}
	k.AddBytes(body)
	return k.Sum().String()
}

// exchangeWith sends out to the target of slot, or as a part of the call that shares
// its place.
func (x *exchange) exchangeWith(ctx context.Context, slot *admission.Slot, out *http.Request) (*http.Response, error) {
	u := x.chosen.upstream
	call := upstream.Call{Seat: x.seat(slot), Seats: seats{x}, Prefix: x.wants.Prefix, Stream: x.call.Stream, Sending: x.sending()}
	x.sentAt = cmp.Or(x.sentAt, time.Now())
	if u.batcher == nil || x.wants.Batch == "" {
		return u.pool.Send(ctx, out, call)
	}
	return u.batcher.Do(ctx, upstream.Member[*dialect.Call]{
		Place:   slot,
		Key:     x.wants.Batch,
		Items:   x.call.Items,
		Content: x.call,
		Request: out,
		Call:    call,
	})
}
