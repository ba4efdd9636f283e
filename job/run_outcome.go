package job

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	weir "github.com/inferweir/weir"
)

const (
	firstBackoff  = time.Second
	mostBackoff   = 5 * time.Minute
	mostAsked     = time.Hour // of a Retry-After
	defaultNotNow = time.Second
	// statusClosed is what proxies write down where their client left. An answer with it
	// says that our context ended, not what the upstream thought.
	statusClosed = 499
)

// passes reports whether a request that got this status may fare better later.
func passes(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// outcome is what follows an attempt.
//
// A whole answer ends the job, except one that says that later may be better; so does an
// error that says that it never will be. What happened once the attempt was stopped is
// the fault of the stop, but an answer that came through all the same is kept.
func (s *Jobs) outcome(a *attempt, v verdict, now time.Time) Outcome {
	o := Outcome{Account: a.given.Account, Progress: a.progress()}
	if len(o.Account) > maxAccount {
		s.log.Error("job: an account is too large to be kept", "job", a.job.ID, "bytes", len(o.Account), "most", maxAccount)
		o.Account = nil
	}
	end := func(state State, f *Failure) Outcome {
		o.State, o.Failure, o.Expires = state, f, s.expires(state, now)
		return o
	}
	if v.status != 0 && !passes(v.status) && (a.ctx.Err() == nil || v.status != statusClosed) {
		o.Result = v.result
		return end(Completed, nil)
	}
	if a.ctx.Err() != nil {
		switch context.Cause(a.ctx) {
		case errCancelled:
			return end(Cancelled, nil)
		case errExpired:
			return end(Discarded, &Failure{Status: http.StatusGatewayTimeout, Detail: "The job's time was over before it was done."})
		}
		o.State, o.NotBefore = Available, now
		return o
	}
	var notNow *NotNow
	if errors.As(v.err, &notNow) {
		o.State, o.NotBefore = Available, now.Add(min(wait(notNow.After), mostAsked))
		return o
	}
	f, after, never := failure(v)
	if never || a.last() {
		o.Result = v.result
		return end(Discarded, f)
	}
	o.State, o.Failure = Retryable, f
	o.NotBefore = now.Add(max(backoff(a.job.Attempt), min(after, mostAsked)))
	return o
}

func wait(after time.Duration) time.Duration {
	if after <= 0 {
		return defaultNotNow
	}
	return after
}

// failure puts into words for the caller why an attempt failed. after is the wait that was
// asked for; never is true where trying again cannot help.
func failure(v verdict) (f *Failure, after time.Duration, never bool) {
	var p *weir.Problem
	switch {
	case errors.Is(v.err, errUnkept):
		return &Failure{Status: http.StatusInsufficientStorage, Detail: "The answer is too large to be kept."}, 0, true
	case v.err == nil:
		return &Failure{Status: v.status, Detail: fmt.Sprintf("The answer was %d %s.", v.status, http.StatusText(v.status))}, v.after, false
	case errors.As(v.err, &p):
		f = &Failure{Status: p.Status, Detail: p.Detail}
		if f.Status == 0 {
			f.Status = http.StatusInternalServerError
		}
		if f.Detail == "" {
			f.Detail = http.StatusText(f.Status) + "."
		}
		return f, p.RetryAfter, f.Status >= 400 && !passes(f.Status)
	default:
		return &Failure{Status: http.StatusBadGateway, Detail: "The request could not be run, or its answer broke off."}, 0, false
	}
}

// backoff is the wait after the n-th attempt, n from 1: 1s doubled each time, at most 5
// minutes, a fifth more or less.
func backoff(n int) time.Duration {
	d := mostBackoff
	if n = max(n, 1); n < 10 {
		d = min(d, firstBackoff<<(n-1))
	}
	return jitter(d)
}

// retryAfter reads the field of an answer: seconds or a date. 0 is no advice, or one that
// cannot be read.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(mostAsked/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), mostAsked)
	}
	return 0
}
