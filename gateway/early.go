package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// A stream that waits in the queue is answered before there is anything to say:
// clients and proxies give up on a connection that is silent. Its head is that of a
// stream that succeeds; what goes wrong afterwards is told in an event.

// canWait reports whether the client asked for a stream of events, in which
// comments may stand.
func (x *exchange) canWait() bool {
	return x.call.Stream && x.call.Endpoint != "" && x.chosen.upstream.dialect.Events() && !x.inBackground() && x.r.Method == http.MethodPost
}

// sayingTakes is how long a client has to take a comment. It may be given its place
// meanwhile, which nobody uses before it has.
const sayingTakes = time.Second

// errTakesNothing is why a request is given up that has no room for a comment.
var errTakesNothing = errors.New("the client takes nothing")

// sayQueued sends a comment, and before the first the head.
func (x *exchange) sayQueued() error {
	out := http.NewResponseController(x.w)
	_ = out.SetWriteDeadline(time.Now().Add(sayingTakes)) // not every writer has deadlines
	if !x.early {
		h := x.w.Header()
		h["Content-Type"] = []string{"text/event-stream"}
		h["Cache-Control"] = []string{"no-cache"}
		x.w.WriteHeader(http.StatusOK)
		x.early = true
	}
	n, err := io.WriteString(x.w, ": queued\n\n")
	x.w.comments += int64(n)
	if err := errors.Join(err, out.Flush()); err != nil {
		return fmt.Errorf("%w: %w", errTakesNothing, err)
	}
	_ = out.SetWriteDeadline(x.started.Add(x.setup.answerTimeout))
	return nil
}

// tellEarly tells of p in a stream that has begun.
func (x *exchange) tellEarly(p *weir.Problem) {
	_, _ = x.w.Write(x.call.ErrorEvent(p))
	_ = http.NewResponseController(x.w).Flush()
}

// mostTold is how much of an upstream's error is told in an event.
const mostTold = 4 << 10

// failEarly tells of an answer that is not the stream whose head has been sent. It
// reports whether it is one.
func (x *exchange) failEarly(resp *http.Response) bool {
	encoding := resp.Header.Get("Content-Encoding") // which cannot be said any more
	if !x.early || resp.StatusCode == http.StatusOK && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") && (encoding == "" || encoding == "identity") {
		return false
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, mostTold)) // what can be read is told
	_ = resp.Body.Close()
	name := x.chosen.upstream.name
	p := &weir.Problem{Status: resp.StatusCode, Detail: fmt.Sprintf("Upstream %q answered %d: %s", name, resp.StatusCode, text)}
	if resp.StatusCode < http.StatusBadRequest {
		p = &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q answered with %q: want a stream.", name, strings.TrimSpace(resp.Header.Get("Content-Type")+" "+encoding))}
	}
	x.err, x.failedEarly = p, true
	x.tellEarly(p)
	return true
}
