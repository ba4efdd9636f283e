package weir

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Types of problems that have a registered meaning. A Problem without a type is
// "about:blank": its status says it all (RFC 9457, section 4.2.1).
const (
	// TypeQuotaExceeded goes with 429: the caller used up a quota.
	TypeQuotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	// TypeReducedCapacity goes with 503: the service has less room than usual.
	TypeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// longWait is the wait beyond which clients should not retry by themselves:
// most SDKs ignore a longer Retry-After and come back at once.
const longWait = 60 * time.Second

// mostJitter is how far apart clients are sent that were refused together: a tenth of a
// month would be days lost.
const mostJitter = time.Minute

// Problem is a refusal or a failure: what the client may see, and, in Err, what
// only the log may. It is an error, and a handler that writes itself as
// application/problem+json (RFC 9457).
type Problem struct {
	// Status is the HTTP status. 0 means 500.
	Status int
	// Type is a URI that names the kind of problem; "" means about:blank.
	Type string
	// Title is the same for every problem of a type; "" means the status text.
	Title string
	// Detail says what happened this time, and what to do, to the client.
	Detail string
	// RetryAfter is the exact time until the same request can succeed. 0 gives
	// no advice, Never says that waiting does not help.
	RetryAfter time.Duration
	// Violated names the policies that refused the request.
	Violated []string
	// Unit is what the first of them counts, for example "requests" or "tokens";
	// "" where no policy refused. Some APIs name it in their errors.
	Unit string
	// Header holds further fields of the answer, such as Allow.
	Header http.Header
	// Err is the cause, for the log. It is never sent to the client.
	Err error
}

// Error gives the text for the log: it includes Err.
func (p *Problem) Error() string {
	s := strconv.Itoa(p.status()) + " " + p.title()
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Err != nil {
		s += ": " + p.Err.Error()
	}
	return s
}

// Unwrap returns Err.
func (p *Problem) Unwrap() error { return p.Err }

func (p *Problem) status() int {
	if p.Status == 0 {
		return http.StatusInternalServerError
	}
	return p.Status
}

func (p *Problem) title() string {
	if p.Title == "" {
		return http.StatusText(p.status())
	}
	return p.Title
}

// SetHeader sets the fields of the answer that do not depend on the form of its
// body: Header, and what tells a client when to come back. Retry-After is the
// wait in whole seconds, rounded up, so that who obeys it is never early, and
// at least 1, because clients take 0 as "at once". Retry-After-Ms is the exact
// wait plus up to a tenth and at most a minute, within a minute where the wait is, so that clients refused together do not return
// together. X-Should-Retry: false stops SDKs where coming back cannot help soon.
func (p *Problem) SetHeader(h http.Header) {
	for name, values := range p.Header {
		h[name] = values
	}
	switch {
	case p.RetryAfter == Never:
		h["X-Should-Retry"] = []string{"false"}
	case p.RetryAfter > 0:
		h["Retry-After"] = []string{strconv.FormatInt(ceilSeconds(p.RetryAfter), 10)}
		jittered := p.RetryAfter + time.Duration(rand.Int64N(int64(min(p.RetryAfter/10, mostJitter))+1))
		if p.RetryAfter <= longWait {
			jittered = min(jittered, longWait) // or SDKs would ignore it and come back at once
		}
		h["Retry-After-Ms"] = []string{strconv.FormatInt(int64((jittered+time.Millisecond-1)/time.Millisecond), 10)}
		if p.RetryAfter > longWait {
			h["X-Should-Retry"] = []string{"false"}
		}
	}
}

// ServeHTTP writes p as application/problem+json. The request is not looked at
// and may be nil.
func (p *Problem) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body := struct {
		Type       string   `json:"type"`
		Title      string   `json:"title"`
		Status     int      `json:"status"`
		Detail     string   `json:"detail,omitempty"`
		Violated   []string `json:"violated-policies,omitempty"`
		RetryAfter int64    `json:"retry_after,omitempty"`
	}{Type: p.Type, Title: p.title(), Status: p.status(), Detail: p.Detail, Violated: p.Violated}
	if body.Type == "" {
		body.Type = "about:blank"
	}
	if p.RetryAfter > 0 {
		body.RetryAfter = ceilSeconds(p.RetryAfter)
	}
	text, err := json.Marshal(body)
	if err != nil { // strings and integers only: cannot happen
		text = fmt.Appendf(nil, `{"type":"about:blank","title":%q,"status":%d}`, http.StatusText(body.Status), body.Status)
	}
	text = append(text, '\n')
	h := w.Header()
	p.SetHeader(h)
	h["Content-Type"] = []string{"application/problem+json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	// A refusal is about this caller and this moment: no cache may reuse it.
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(body.Status)
	_, _ = w.Write(text) // a client that has left needs no answer
}

// Ended is what to answer when ctx ended before there was an answer: 504 where its
// time ran out. It is nil where the client left. Then nobody is there to be told,
// or somebody who closed only half of the connection: end it with
// panic(http.ErrAbortHandler), because a handler that writes nothing sends an
// empty 200.
func Ended(ctx context.Context) *Problem {
	if err := context.Cause(ctx); errors.Is(err, context.DeadlineExceeded) {
		return &Problem{Status: http.StatusGatewayTimeout, Detail: "The request's time ran out before there was an answer.", Err: err}
	}
	return nil
}

func ceilSeconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}
