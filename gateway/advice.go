package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir/dialect"
)

// closedFor tells from an answer for how long its target admits nothing more. ours
// are the fields that every request to it has from the configuration.
func closedFor(d *dialect.Dialect, ours map[string]string) func(*http.Response) time.Duration {
	set := http.Header{}
	for name, value := range ours {
		set.Set(name, value)
	}
	return func(resp *http.Response) time.Duration {
		now := time.Now()
		full := resp.StatusCode == http.StatusServiceUnavailable
		// What is said to somebody's own key concerns nobody else.
		shared := !hasOwnKey(resp.Request.Header, set)
		if full || shared && resp.StatusCode == http.StatusTooManyRequests {
			if wait := retryAfter(resp.Header, now); wait > 0 {
				return wait
			}
		}
		if !shared {
			return 0
		}
		return d.Exhausted(resp.Header, now)
	}
}

// hasOwnKey reports whether a request that goes out has a credential of its
// caller's.
func hasOwnKey(out, set http.Header) bool {
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key", "Cookie"} {
		if len(out[name]) > 0 && len(set[name]) == 0 {
			return true
		}
	}
	return false
}

// retryAfter reads when a server wants to be asked again: Retry-After-Ms before
// Retry-After, as the clients of model APIs do. 0 says nothing.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 && ms < maxAdvice.Seconds()*1000 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	text := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(text, 64); err == nil && s > 0 && s < maxAdvice.Seconds() {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now), maxAdvice)
	}
	return 0
}

// maxAdvice is the longest wait that is taken seriously.
const maxAdvice = 366 * 24 * time.Hour
