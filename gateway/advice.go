package gateway

import (
	"net/http"
	"time"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
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
			if wait := ratelimit.RetryAfter(resp.Header, now); wait > 0 {
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
	for _, name := range credentials() {
		if len(out[name]) > 0 && len(set[name]) == 0 {
			return true
		}
	}
	return false
}

// credentials are the fields that identify somebody to an upstream.
func credentials() []string {
	return []string{"Authorization", "X-Api-Key", "Api-Key", "Cookie"}
}
