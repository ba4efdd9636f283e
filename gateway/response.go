package gateway

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
)

// response is the http.ResponseWriter of an exchange. Whoever writes the answer,
// it sets the fields that every answer has.
type response struct {
	http.ResponseWriter
	exchange  *exchange
	status    int // 0: nothing is written yet
	sent      int64
	firstByte time.Duration
	comments  int64 // bytes sent while it waited
}

// sentOnlyComments reports whether nothing of the answer itself is out.
func (w *response) sentOnlyComments() bool { return w.sent == w.comments }

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.exchange.early && status >= 200 {
		return // it is out
	}
	if status >= 200 && w.status == 0 {
		w.status = status
		w.firstByte = time.Since(w.exchange.started)
		w.exchange.setFields(w.Header())
		if framedOtherwise(w.exchange.r) {
			w.Header()["Connection"] = []string{"close"}
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Hijack implements http.Hijacker: what follows is a socket, whose answer has the
// fields of every answer.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, in, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.exchange.unwatch()
		if w.exchange.place != nil {
			w.exchange.place.Switched()
		}
		delete(w.Header(), ticketField) // another queue's
		w.status, w.firstByte = http.StatusSwitchingProtocols, time.Since(w.exchange.started)
		w.exchange.setFields(w.Header())
	}
	return conn, in, err
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if along := w.exchange.along; along != nil {
		along.hear(p)
	}
	if w.exchange.reserved && w.ends(p) {
		// With these bytes the client knows that it can come again: it should find
		// its slot free, and what it did not use given back.
		w.sent += int64(len(p))
		w.exchange.settle(w.exchange.spent())
		w.sent -= int64(len(p))
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// ends reports whether p is the last of the answer, as far as its length or the
// terminal event of its stream tells.
func (w *response) ends(p []byte) bool {
	x := w.exchange
	if x.along != nil && x.along.answer != nil {
		return x.along.answer.Ended()
	}
	if x.answer != nil && (x.readsAhead || !x.answer.Ended()) {
		return false // what it used is not known yet
	}
	if length := w.Header()["Content-Length"]; len(length) == 1 {
		n, err := strconv.ParseInt(length[0], 10, 64)
		return err == nil && w.sent+int64(len(p)) == n
	}
	return x.answer != nil
}

// framedOtherwise reports whether a proxy in front may see this request end
// elsewhere: in HTTP/1.0 with Transfer-Encoding, or with that and a Content-Length.
// net/http takes one of the two and does not tell, so every request that could
// have had both is its connection's last (RFC 9112, section 6.3).
func framedOtherwise(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// setFields sets the fields of every answer. What an upstream said stands behind
// what is said here, where a field is a list.
func (x *exchange) setFields(h http.Header) {
	h["X-Request-Id"] = []string{x.id}
	h["Server-Timing"] = append([]string{x.timings.Header()}, h["Server-Timing"]...)
	if x.storeMode != "" {
		h["Weir-Store"] = []string{x.storeMode}
	}
	if len(x.takes) > 0 {
		// The upstream's own are about our account, not the caller's: they are
		// merged with what is ours, or left out.
		d, path := x.form()
		var limits []dialect.Limit
		if d.Name() != x.setup.plain.Name() { // which has no fields for them
			limits = x.limits()
		}
		d.SetLimits(h, path, limits, time.Now())
		ratelimit.SetFields(h, x.takes)
	}
	if x.chosen == nil {
		return
	}
	if x.chosen.config.LegacyHeaders {
		ratelimit.SetLegacyFields(h, withoutMoney(x.takes))
	}
	switch {
	case x.look != nil:
		x.look.SetFields(h, x.relaying)
	case x.chosen.cache != nil: // refused before it was asked
		h["Cache-Status"] = []string{"weir; fwd=bypass"}
	}
}
