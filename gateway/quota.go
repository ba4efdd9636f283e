package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
)

// reserve takes from all policies of the caller's plan and of the route, or from
// none.
func (x *exchange) reserve() error {
	if x.reserved {
		return nil
	}
	x.listTakes(1)
	allowed, err := x.setup.counts.Take(x.r.Context(), x.takes, time.Now())
	if err != nil {
		x.takes = nil
		x.uncounted = true
		return ratelimit.Unavailable(err)
	}
	for i := range x.takes {
		t := &x.takes[i]
		decision := telemetry.ResultAllowed
		if !t.Decision.Allowed {
			decision = telemetry.ResultDenied
		}
		x.gateway.metrics.Decision(t.Policy.Scope, t.Policy.Name, decision)
	}
	if allowed {
		x.reserved = true
		return nil
	}
	p := ratelimit.Refusal(x.takes)
	if p == nil {
		return errors.New("the store of quotas refused without a reason")
	}
	x.policy = p.Violated[0]
	return p
}

// peek looks at the policies, for the fields of an answer that takes nothing.
func (x *exchange) peek() {
	if x.reserved {
		return
	}
	x.listTakes(0)
	if _, err := x.setup.counts.Take(x.r.Context(), x.takes, time.Now()); err != nil {
		x.takes = nil
	}
}

// giveBack returns what was reserved for an answer that never came.
func (x *exchange) giveBack() {
	if !x.reserved {
		return
	}
	for i := range x.takes {
		x.takes[i].Cost = -x.takes[i].Cost
	}
	if err := x.setup.counts.Settle(context.WithoutCancel(x.r.Context()), x.takes, time.Now()); err != nil {
		x.gateway.Logger().Warn("a quota could not be given back", "request_id", x.id, "error", err.Error())
	}
	x.reserved = false
}

func (x *exchange) listTakes(cost int64) {
	plan := x.setup.plans[x.plan]
	x.takes = make([]ratelimit.Take, 0, len(plan)+len(x.chosen.policies))
	for _, policies := range [][]policy{plan, x.chosen.policies} {
		for _, p := range policies {
			x.takes = append(x.takes, ratelimit.Take{Policy: p.Policy, Key: x.countedBy(p.by), Cost: cost})
		}
	}
}

// countedBy gives the value that a policy counts by.
func (x *exchange) countedBy(by string) string {
	switch by {
	case "caller":
		return x.caller.ID
	case "ip":
		return x.caller.Net.String()
	case "plan":
		return x.plan
	case "route":
		return x.chosen.name
	case "model":
		return x.chosen.upstream.dialect.Canonical(x.call.Model)
	case "global":
		return ""
	}
	return strings.Join(x.r.Header[strings.TrimPrefix(by, "header:")], ",")
}

// limits are what is left of the caller's quotas, and of the upstream's where that
// is less: the tightest of each unit.
func (x *exchange) limits() []dialect.Limit {
	tightest := x.theirs
	for i := range x.takes {
		t := &x.takes[i]
		unit := t.Policy.Unit
		if unit == "" {
			unit = ratelimit.Requests
		}
		own := dialect.Limit{Unit: unit, Quota: t.Burst(), Remaining: t.Decision.Remaining, Full: t.Decision.Full}
		tightest = dialect.Tightest([]dialect.Limit{own}, tightest)
	}
	return tightest
}

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
