package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/upstream"
)

// The values of respond_async.
const (
	asyncAllowed = "allowed"
	asyncAlways  = "always"
)

// The fields with which a client says what it wants of a job.
const (
	idempotencyField = "Idempotency-Key"
	webhookField     = "X-Webhook-Url"
)

// defers reports whether requests of the route may become jobs.
func (r *route) defers() bool {
	return r.config.RespondAsync == asyncAllowed || r.config.RespondAsync == asyncAlways
}

// deferral is what the client of a request that is answered later says of that.
type deferral struct {
	job.Preferences
	submission job.Submission // without its account
}

// deferIfWanted finds out whether the request is to be answered later: its client
// prefers that and the route allows it, or the route wants it so. The fields that are
// about that are taken out of it: they make it no other request.
func (x *exchange) deferIfWanted() error {
	if x.gateway.data.jobs == nil || !x.chosen.defers() || x.r.Method == http.MethodHead || x.r.Method == http.MethodOptions {
		return nil
	}
	d := deferral{Preferences: job.ParsePrefer(x.r.Header)}
	d.Wait = min(d.Wait, longestWait)
	always := x.chosen.config.RespondAsync == asyncAlways
	switch {
	case !always && !d.Async:
		return nil
	case !x.needsOwnKey():
	case always:
		return problem(http.StatusBadRequest, "This path answers later, and what waits carries no credentials: want the request without credentials for the upstream (Authorization, X-Api-Key, Cookie, keys in the query and the like).")
	default:
		// A preference may be left unheeded (RFC 7240, section 2): a request that
		// needs its own credentials is answered at once.
		return nil
	}
	if n := len(x.r.Header[webhookField]); n > 1 {
		return problem(http.StatusBadRequest, "%s: comes %d times: want one.", webhookField, n)
	}
	webhook := strings.TrimSpace(x.r.Header.Get(webhookField))
	delete(x.r.Header, "Prefer")
	delete(x.r.Header, webhookField)
	var err error
	if d.submission, err = x.submission(webhook); err != nil {
		return err
	}
	x.deferred = &d
	return nil
}

// replay answers with the job that the caller has under the request's idempotency key, if
// there is one: what is in the cache now does not matter to it.
func (x *exchange) replay() (answered bool, err error) {
	j, err := x.earlier()
	if j == nil || err != nil {
		return false, err
	}
	x.w.Header()["Idempotent-Replayed"] = []string{"true"}
	return true, x.accepted(j)
}

// earlier is the job that the caller has under the request's idempotency key, nil where
// there is none.
func (x *exchange) earlier() (*job.Job, error) {
	if x.deferred == nil || x.deferred.submission.IdempotencyKey == "" {
		return nil, nil
	}
	s := x.deferred.submission
	j, err := x.gateway.data.jobs.Find(x.r.Context(), s.Caller, s.IdempotencyKey, s.Request)
	switch {
	case errors.Is(err, job.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, x.notKept(err)
	}
	return j, nil
}

// needsOwnKey reports whether the upstream gets credentials of the caller's with the
// request, in a field or in the query.
func (x *exchange) needsOwnKey() bool {
	for name := range x.r.Header {
		if job.IsCredential(name) && len(x.chosen.upstream.fields[name]) == 0 {
			return true
		}
	}
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return true // nobody knows what is in it
	}
	for name := range query {
		if job.IsCredentialParameter(name) {
			return true
		}
	}
	return false
}

// handIn makes a job of the request. With its answer the job is on disk.
func (x *exchange) handIn() error {
	x.watch()
	sub := x.deferred.submission
	if !x.reserved { // a hit's price would be
		if err := x.reserveHit(); err != nil { // 429, 503
			return err
		}
	}
	sub.Account = x.reservedAccount().encode()
	j, created, err := x.gateway.data.jobs.Submit(x.r.Context(), sub)
	if err != nil {
		return x.notKept(err)
	}
	if created {
		x.reserved = false // the job settles it
	} else {
		x.giveBack()
		x.w.Header()["Idempotent-Replayed"] = []string{"true"}
	}
	return x.accepted(j)
}

// submission is the request in the form in which it waits.
func (x *exchange) submission(webhook string) (job.Submission, error) {
	s := job.Submission{Caller: x.caller.ID, Plan: x.caller.Plan, Route: x.chosen.name, Webhook: webhook}
	keys := x.r.Header[idempotencyField]
	if len(keys) > 0 {
		s.IdempotencyKey = strings.Trim(strings.TrimSpace(keys[0]), `"`)
	}
	switch {
	case len(s.IdempotencyKey) > mostIdempotencyKey || len(keys) > 1 || len(keys) == 1 && s.IdempotencyKey == "":
		return s, problem(http.StatusBadRequest, "%s: want one value of 1 to %d bytes.", idempotencyField, mostIdempotencyKey)
	case s.Webhook != "":
		if err := x.gateway.data.jobs.CheckWebhook(s.Webhook); err != nil {
			return s, problem(http.StatusBadRequest, "%s: %v", webhookField, err)
		}
	}
	h := x.r.Header.Clone()
	upstream.RemoveHopByHop(h)
	for _, name := range append(credentials(), "Proxy-Authorization", "X-Request-Id",
		"X-Request-Timeout", "X-Stainless-Timeout", "X-Stainless-Read-Timeout", "Expect", "Content-Length",
		"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range") {
		delete(h, name)
	}
	s.Request = job.Request{Method: x.r.Method, URI: x.r.URL.RequestURI(), Host: x.r.Host, Header: h, Body: x.body, ID: x.id}
	return s, nil
}

// mostIdempotencyKey is long enough for everything that is used as one.
const mostIdempotencyKey = 255

// notKept is the refusal of a job that could not be kept.
func (x *exchange) notKept(err error) error {
	if x.r.Context().Err() != nil {
		return err
	}
	switch {
	case errors.Is(err, job.ErrConflict):
		return problem(http.StatusUnprocessableEntity, "%s: came before with another request: want a new one for each request.", idempotencyField)
	case errors.Is(err, job.ErrFull):
		return &weir.Problem{
			Status: http.StatusServiceUnavailable, Type: weir.TypeReducedCapacity, RetryAfter: 30 * time.Second, Err: err,
			Detail: "Too many jobs wait already. Try again when some of them have ended.",
		}
	}
	return x.gateway.databaseAway(err)
}

// databaseAway is the refusal of what cannot be done without the database.
func (g *Gateway) databaseAway(err error) error {
	p := &weir.Problem{
		Status: http.StatusServiceUnavailable, Type: weir.TypeReducedCapacity, RetryAfter: 5 * time.Second, Err: err,
		Detail: "Jobs cannot be kept now: their database does not answer. Try again in 5 seconds.",
	}
	if !errors.Is(err, database.ErrAway) {
		g.Logger().Error("a job could not be kept", "error", err.Error())
	}
	return p
}

// accepted answers that the job waits, or, if it ends while the client is ready to
// wait, as the direct call would have.
func (x *exchange) accepted(j *job.Job) error {
	x.jobID = j.ID
	jobs, h := x.gateway.data.jobs, x.w.Header()
	if wait := x.deferred.Wait; wait > 0 {
		if j = x.awaitJob(j, wait); j.State.Ended() {
			h["Preference-Applied"] = []string{fmt.Sprintf("wait=%d", int(wait/time.Second))}
			return jobs.ServeResult(x.w, x.asReached(), j)
		}
	}
	if x.deferred.Async {
		h["Preference-Applied"] = []string{"respond-async"}
	}
	jobs.ServeAccepted(x.w, x.r, j)
	return nil
}

// awaitJob waits for the end of a job, as long as its client is ready to, this gateway does
// not stop, and not too many wait already. It returns the job as it is then.
func (x *exchange) awaitJob(j *job.Job, wait time.Duration) *job.Job {
	d := x.gateway.data
	if !d.waiters.enter(x.caller.ID) {
		return j
	}
	defer d.waiters.leave(x.caller.ID)
	ctx, stop := context.WithTimeout(x.r.Context(), wait)
	defer stop()
	defer context.AfterFunc(d.draining, stop)()
	if ended, err := d.jobs.Await(ctx, j); ended != nil && (err == nil || ctx.Err() != nil) {
		return ended
	}
	return j
}

// waiters counts clients that wait for their jobs.
type waiters struct {
	mu       sync.Mutex
	all      int
	byCaller map[string]int
}

// The most that wait at once: of all, and of one caller. Who comes then is not waited
// for: 202 at once.
const (
	mostWaiters       = 1000
	mostCallerWaiters = 100
)

func (w *waiters) enter(caller string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= mostWaiters || w.byCaller[caller] >= mostCallerWaiters {
		return false
	}
	if w.byCaller == nil {
		w.byCaller = map[string]int{}
	}
	w.all++
	w.byCaller[caller]++
	return true
}

func (w *waiters) leave(caller string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.byCaller[caller]--; w.byCaller[caller] == 0 {
		delete(w.byCaller, caller)
	}
}

// isHandedIn reports whether the request was taken as a job, which speaks for itself.
func (x *exchange) isHandedIn() bool { return x.run == nil && x.jobID != "" }

// longestWait is how long a client is kept waiting for its job, whatever it prefers.
const longestWait = 10 * time.Minute
