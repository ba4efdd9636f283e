package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	weir "github.com/inferweir/weir"
)

// Attempt is what the context of Run carries.
type Attempt struct {
	// Job is what runs. It must not be changed.
	Job *Job
	// Account begins as the job's. Run sets it before its answer's body gives its EOF,
	// or before it returns an error, and not later: it is the job's next one, also where
	// the attempt fails. At most 64 KiB; a larger one is logged and not kept.
	Account []byte
}

type attemptKey struct{}

// AttemptFrom returns what Run runs, and whether ctx is that of a Run.
func AttemptFrom(ctx context.Context) (*Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	return a, ok
}

// NotNow is an error of Run that says that there is no room for the job: it waits again,
// and the attempt does not count.
type NotNow struct {
	// After is when it may be claimed again: 1s for 0, at most an hour.
	After time.Duration
	// Err is why, for the log.
	Err error
}

// Error gives the text for the log.
func (e *NotNow) Error() string {
	text := fmt.Sprintf("job: not now, but in %v", e.After)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Err.
func (e *NotNow) Unwrap() error { return e.Err }

// ErrStopped is in the cause of an attempt's context when it is broken off and its job
// goes on: the instance stops, or has lost the lease. What it did is not counted.
var ErrStopped = errors.New("job: the attempt is broken off")

// Why the context of an attempt ends.
var (
	errLost      = fmt.Errorf("%w: another instance has the job's lease", ErrStopped)
	errCancelled = errors.New("job: the job is cancelled")
	errClosing   = fmt.Errorf("%w: the instance stops", ErrStopped)
	errExpired   = errors.New("job: the job's time is over")
	errDone      = errors.New("job: the attempt has ended")
)

// attempt is one run of a job at this instance, from its claim until the store has what
// came of it.
type attempt struct {
	job    *Job
	given  *Attempt
	lease  Lease
	ctx    context.Context
	cancel context.CancelCauseFunc
	expire context.CancelFunc
	// lost is closed once somebody else has the lease, whatever ended ctx first.
	lost          context.Context
	lose          context.CancelFunc
	bytes, events atomic.Int64
	output        output
}

func (s *Jobs) newAttempt(j *Job) *attempt {
	a := &attempt{job: j, given: &Attempt{Job: j, Account: j.Account}, lease: Lease{ID: j.ID, Fence: j.Fence}}
	ctx := context.WithValue(s.hard, attemptKey{}, a.given)
	ctx, a.expire = context.WithTimeoutCause(ctx, j.Expires.Sub(s.now()), errExpired)
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.lost, a.lose = context.WithCancel(context.Background())
	a.output.acked = make(chan struct{}, 1)
	return a
}

// stop ends the attempt for a reason; the first one counts, except that a lost lease is
// always heard of.
func (a *attempt) stop(why error) {
	a.cancel(why)
	if why == errLost || why == errDone {
		a.lose()
	}
	if why == errDone {
		a.expire()
	}
}

func (a *attempt) isLost() bool { return a.lost.Err() != nil }

func (a *attempt) last() bool { return a.job.Attempt >= a.job.MaxAttempts }

func (a *attempt) progress() Progress {
	return Progress{Bytes: a.bytes.Load(), Events: a.events.Load()}
}

// verdict is what an attempt gave: an answer, or an error.
type verdict struct {
	// status is the answer's, 0 where there is none that is whole. result is nil where it
	// need not be kept.
	status int
	result *Result
	// after is how long the answer asks to wait.
	after time.Duration
	err   error
}

// attend runs a claimed job to the end of its attempt, and has the store know.
func (s *Jobs) attend(a *attempt) {
	var v verdict
	if a.ctx.Err() == nil {
		v = s.try(a)
	}
	if v.result != nil {
		s.drain(a)
	}
	s.conclude(a, v)
}

// try runs the job. What panics in it is the attempt's failure.
func (s *Jobs) try(a *attempt) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("job: the attempt panicked", "job", a.job.ID, "route", a.job.Route, "panic", fmt.Sprint(p), "stack", stack())
			v = verdict{err: &weir.Problem{Status: http.StatusInternalServerError, Detail: "Running the request failed.", Err: fmt.Errorf("panic: %v", p)}}
		}
	}()
	r, err := a.request()
	if err != nil {
		return verdict{err: err}
	}
	resp, err := s.o.Run(a.ctx, r)
	switch {
	case err != nil:
		return verdict{err: err}
	case resp == nil:
		return verdict{err: errors.New("job: Options.Run returned neither an answer nor an error")}
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is given up
	return s.read(a, resp)
}

// request makes the stored request anew.
func (a *attempt) request() (*http.Request, error) {
	kept := a.job.Request
	u, err := url.ParseRequestURI(kept.URI)
	if err != nil {
		return nil, &weir.Problem{Status: http.StatusBadRequest, Detail: "The request's URI cannot be read.", Err: err}
	}
	r, err := http.NewRequestWithContext(a.ctx, kept.Method, "/", bytes.NewReader(kept.Body))
	if err != nil {
		return nil, &weir.Problem{Status: http.StatusBadRequest, Detail: "The request's method cannot be used.", Err: err}
	}
	r.URL = &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}
	r.RequestURI = kept.URI
	r.Host = kept.Host
	r.Header = stored(kept).Header
	if kept.ID != "" {
		r.Header.Set("X-Request-Id", kept.ID)
	}
	return r, nil
}
