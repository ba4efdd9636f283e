package loadtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"
)

// The kinds of errors. An answer that refuses has its status as a kind, 429 or 503;
// others are 4xx and 5xx.
const (
	// kindRedirect is an answer that says to ask elsewhere: who was asked has done
	// nothing of the work.
	kindRedirect = "redirect"

	kindConnect = "connect"  // no connection
	kindTimeout = "timeout"  // no whole answer in time
	kindCut     = "cut"      // the connection, or a stream, ended before the answer did
	kindBody    = "body"     // an answer that is not what was asked for
	kindUnsent  = "unsent"   // it was due, and too many had no answer
	kindMaking  = "template" // it was due, and no request came of its templates
)

// errBudget ends a load.
var errBudget = errors.New("too many errors")

// outcome is what became of one request.
type outcome struct {
	kind    string // of the error; "" is an answer below 400
	detail  string // what an error says, for people
	status  int    // 0: no answer
	began   time.Time
	ended   time.Time
	latency time.Duration // from when it was due
	header  http.Header   // of an answer
	bytes   int64

	// Of a stream.
	first     time.Duration // to the first token, from when it was due
	last      time.Time     // when the last piece came
	firstAt   time.Time
	pieces    int64           // with text
	tokens    int64           // as the server says, else the pieces
	gaps      []time.Duration // between pieces
	spokeOf   bool            // tokens is what the server says
	discarded bool            // the load was over
}

// meanGap is the mean time of a token after the first.
func (a *outcome) meanGap() time.Duration {
	if a.tokens < 2 {
		return 0
	}
	return a.last.Sub(a.firstAt) / time.Duration(a.tokens-1)
}

// fire sends one request, reads its answer and records both.
func (r *run) fire(ctx context.Context, s *shot) {
	a := &outcome{}
	d := &draw{seq: s.seq, caller: r.mix.name(s.caller), random: rand.New(rand.NewPCG(s.seed, uint64(s.seq)))}
	timed, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	w := &wire{cancel: cancel}
	request, err := r.request.make(httptrace.WithClientTrace(timed, w.trace()), d, s.caller)
	if err != nil {
		r.recorder.unsent(s, kindMaking, err.Error())
		return
	}
	a.began = time.Now()
	w.guard(request)
	r.exchange(request, s, a)
	r.judgeWire(w, a)
	a.ended = time.Now()
	a.latency = a.ended.Sub(s.due)
	a.discarded = a.kind != "" && a.kind != kindRedirect && a.status < http.StatusBadRequest && ctx.Err() != nil
	r.recorder.record(s, a)
}

// exchange sends a request and reads the answer to its end.
func (r *run) exchange(request *http.Request, s *shot, a *outcome) {
	resp, err := r.transport.RoundTrip(request)
	if err != nil {
		a.kind, a.detail = kindOf(err), err.Error()
		return
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	streamed := r.o.Stream && a.status < http.StatusMultipleChoices
	switch kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case streamed && kind == "text/event-stream":
		err = a.readStream(resp.Body, s)
	default:
		a.bytes, err = io.Copy(io.Discard, resp.Body)
		if streamed && err == nil {
			a.kind = kindBody
			a.detail = fmt.Sprintf("an answer of the type %q is no event stream: does the body have \"stream\": true?", kind)
		}
	}
	switch {
	case err != nil:
		if a.kind = kindOf(err); a.kind == kindConnect {
			a.kind = kindCut
		}
		a.detail = err.Error()
	case a.status >= http.StatusBadRequest:
		a.kind = kindOfStatus(a.status)
		a.detail = strconv.Itoa(a.status) + " " + http.StatusText(a.status)
	case isRedirect(a.status):
		a.kind = kindRedirect
		a.detail = fmt.Sprintf("%d %s, %s", a.status, http.StatusText(a.status), whereTo(request.URL, a.header.Get("Location")))
	}
}

// judgeWire says what only the connections of a request tell.
func (r *run) judgeWire(w *wire, a *outcome) {
	switch {
	case w.again.Load():
		a.kind, a.detail = kindCut, "the connection ended, or the server refused the request, before there was an answer"
	case a.kind == kindCut || a.kind == kindTimeout:
		if r.o.Transport == nil && a.status == 0 && !w.connected.Load() {
			a.kind = kindConnect
		}
	}
}

// isRedirect tells whether an answer says to ask elsewhere. 304 does not: it answers a
// request that has a condition.
func isRedirect(status int) bool {
	return status >= http.StatusMultipleChoices && status < http.StatusBadRequest && status != http.StatusNotModified
}

// whereTo says where a redirect of a request leads, without what may be a secret: a user,
// and the query, which signed links have their signature in.
func whereTo(asked *url.URL, location string) string {
	if location == "" {
		return "without a place to go to"
	}
	to, err := asked.Parse(location)
	if err != nil {
		return "to what is no URL"
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	query := ""
	if to.RawQuery != "" {
		to.RawQuery, query = "", "?…"
	}
	return "to " + to.String() + query + ", which is not followed"
}

func kindOfStatus(status int) string {
	switch {
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return strconv.Itoa(status)
	case status >= http.StatusInternalServerError:
		return "5xx"
	}
	return "4xx"
}

// kindOf sorts the errors of a connection.
func kindOf(err error) string {
	op, isOp := errors.AsType[*net.OpError](err)
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	_, isName := errors.AsType[*net.DNSError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errStream):
		return kindBody
	case isOp && op.Op == "dial", isTLS, isRecord, isName:
		return kindConnect
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return kindTimeout
	}
	return kindCut
}
