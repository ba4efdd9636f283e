package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/job"
)

// timeouts are how long a client says that it waits.
type timeouts struct {
	// whole is for the whole answer, which is broken off then: X-Request-Timeout.
	whole time.Duration
	// begin is until the answer should begin: who waits in the queue for longer
	// waits in vain. It is what SDKs tell of their own timeouts, and Prefer: wait.
	begin time.Duration
}

// timeoutsOf reads what r says. What cannot be read is as if it were not there: it
// is advice.
func timeoutsOf(h http.Header) timeouts {
	var t timeouts
	t.whole = parseTimeout(h.Get("X-Request-Timeout"))
	t.begin = before(least(parseTimeout(h.Get("X-Stainless-Timeout")), parseTimeout(h.Get("X-Stainless-Read-Timeout"))))
	if len(h["Prefer"]) > 0 {
		t.begin = least(t.begin, job.ParsePrefer(h).Wait)
	}
	return t
}

// before is a little less than d, which a client counts from when it began to send:
// a refusal that comes just after it has given up is no use to it.
func before(d time.Duration) time.Duration { return d - max(min(d/2, 50*time.Millisecond), d/20) }

// longestTimeout is what longer ones are taken for.
const longestTimeout = 24 * time.Hour

// parseTimeout reads a duration such as 2s or 500ms, or a number of seconds; 0
// where there is none that could be meant.
func parseTimeout(s string) time.Duration {
	if s == "" {
		return 0
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if !(f > 0) {
			return 0
		}
		return time.Duration(math.Min(f, longestTimeout.Seconds()) * float64(time.Second))
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0
	}
	return min(d, longestTimeout)
}

// least is the smaller of two durations, of which 0 means none.
func least(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// obeyTimeouts ends the request when its client says that its time is over.
func (x *exchange) obeyTimeouts() {
	x.waits = timeoutsOf(x.r.Header)
	if x.waits.whole > 0 {
		ctx, stop := context.WithDeadline(x.r.Context(), x.started.Add(x.waits.whole))
		x.r, x.stop = x.r.WithContext(ctx), stop
	}
}

// wasImpatient reports whether p is a refusal that others would not get, who wait for
// longer than this client does.
func (x *exchange) wasImpatient(p *weir.Problem) bool {
	r, ok := errors.AsType[*admission.Refusal](p)
	return ok && x.waits != timeouts{} && (r.Reason == admission.Expired || r.Reason == admission.DeadlineTooClose || r.Reason == admission.WaitTooLong)
}

// deadlines are when the answer must have begun, and when it must be there, to be
// of use. The zero time is never.
func (x *exchange) deadlines() (begin, whole time.Time) {
	at := func(d time.Duration) time.Time {
		if d == 0 || x.inBackground() {
			return time.Time{}
		}
		return x.started.Add(d)
	}
	if x.call.Stream {
		return at(x.waits.begin), at(x.waits.whole)
	}
	return time.Time{}, at(least(x.waits.begin, x.waits.whole)) // it begins when it is there
}
