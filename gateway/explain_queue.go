package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/upstream"
)

// fetch explains the way of a request that the upstream answers.
func (e *explainer) fetch() error {
	x := e.x
	if x.chosen.config.Cache.ChargeHits {
		if err := e.holdSlots(); err != nil {
			return err
		}
	} else if err := e.reserve(x.fill); err != nil {
		return err
	}
	out := x.outgoing()
	wait, target, err := e.admit(out)
	if err != nil {
		// A stale answer may be better than a refusal.
		if x.look.Replace(x.r.Context(), nil, err) == cache.Replaced {
			e.free = true
			w := &onlyStatus{header: http.Header{}}
			x.look.ServeHead(w, x.r)
			e.answer(w.status, "be answered from the cache", "The stored answer is stale, and given because the upstream takes nothing.")
			return nil
		}
		return err
	}
	e.answerFrom(http.StatusOK, wait, target)
	return nil
}

// tunnel explains the way of a request that becomes a WebSocket.
func (e *explainer) tunnel() error {
	x := e.x
	if err := e.reserve(x.fill); err != nil {
		return err
	}
	wait, target, err := e.admit(x.r)
	if err != nil {
		return err
	}
	e.answerFrom(http.StatusSwitchingProtocols, wait, target)
	return nil
}

// holdSlots is what is left to take for a miss on a route that charges hits.
func (e *explainer) holdSlots() error {
	x := e.x
	var due []ratelimit.Take
	for _, t := range x.takes {
		if t.Policy.Concurrent > 0 {
			x.fill(&t)
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return nil
	}
	return e.take(due)
}

// answerFrom is the answer of the upstream, if that answers well.
func (e *explainer) answerFrom(status int, wait, target string) {
	if target == builtinTarget {
		target = "the built-in models"
	}
	would, why := "be sent to "+target, "If the upstream answers well."
	if wait != "" {
		would = fmt.Sprintf("wait %s, then be sent to %s", wait, target)
	}
	if status == http.StatusSwitchingProtocols {
		why = "If the upstream takes the WebSocket."
	}
	e.answer(status, would, why)
}

// admit explains whether the queue has a place for out, and where. wait is "" where one is
// free.
func (e *explainer) admit(out *http.Request) (wait, target string, err error) {
	x := e.x
	u := x.chosen.upstream
	x.wants = x.want(out.Header)
	p := u.queue.Preview(*x.wants)
	d := Decision{Step: "queue", Outcome: "runs", Reason: "A place is free, and nothing waits before it.", Details: e.places(p)}
	if p.Refusal != nil {
		problem := x.problemOf(p.Refusal)
		d.Outcome, d.Reason = "refused", problem.Detail
		d.Details["reason"] = string(p.Refusal.Reason)
		e.say(d)
		e.say(e.targets(p, out))
		return "", "", problem
	}
	if !p.Runs {
		wait = "for a place"
		d.Outcome, d.Reason = "waits", fmt.Sprintf("All places that it may have are taken, or others wait before it. It may wait for %s.", short(p.Patience))
		if p.Known {
			wait = "about " + short(p.Wait)
			d.Details["estimated_wait_s"] = seconds(p.Wait)
			d.Reason += fmt.Sprintf(" By its caller's share of what the targets get done, it waits about %s.", short(p.Wait))
		}
	}
	e.say(d)
	at := e.targets(p, out)
	e.say(at)
	return wait, at.Outcome, nil
}

// places are the details of the queue.
func (e *explainer) places(p admission.Preview) map[string]any {
	x := e.x
	waiting := map[string]int{}
	for class, n := range p.Waiting {
		waiting[admission.Class(class).String()] = n
	}
	weight := x.wants.Weight
	if weight <= 0 {
		weight = 1
	}
	d := map[string]any{
		"class": x.wants.Class.String(), "weight": weight, "cost": p.Cost, "waiting": waiting,
		"waiting_of_caller": p.Before, "may_wait_s": seconds(max(p.Patience, 0)),
	}
	if x.wants.Batch != "" {
		d["joins_calls"] = true
	}
	return d
}

// targetLook is how a target is now.
type targetLook struct {
	URL string `json:"url"`
	// State is open, breaker, half_open, probes or paused; Until is when that may end, in
	// seconds.
	State   string  `json:"state"`
	UntilS  float64 `json:"until_s,omitempty"`
	Running int     `json:"running"`
	Limit   float64 `json:"limit"`
}

// targets is the decision about where the request goes.
func (e *explainer) targets(p admission.Preview, out *http.Request) Decision {
	x := e.x
	u, now := x.chosen.upstream, x.started
	stats := u.queue.Stats()
	looks, open := make([]targetLook, u.pool.Targets()), 0
	for i := range looks {
		l := targetLook{URL: u.pool.URL(i), State: targetState(u.pool, i, now)}
		if i < len(stats.Targets) {
			l.Running, l.Limit = stats.Targets[i].Running, stats.Targets[i].Limit
		}
		if u.pool.Open(i, now) {
			open++
		} else if at := u.pool.OpensAtOf(i, now); at.After(now) {
			l.UntilS = seconds(at.Sub(now))
		}
		looks[i] = l
	}
	d := Decision{Step: "upstream", Outcome: u.name, Details: map[string]any{"upstream": u.name, "targets": looks, "retry": e.retries()}}
	of := fmt.Sprintf("%d of %d targets", open, len(looks))
	chosen := u.pool.Preview(p.Targets, p.Load, x.wants.Prefix)
	switch {
	case open == 0:
		d.Outcome, d.Reason = "none", "No target is open."
	case p.Refusal != nil || !p.Runs:
		d.Reason = fmt.Sprintf("%s are open; which one it gets shows when a place is free.", upper(of))
	case chosen < 0:
		d.Outcome = "a target of " + u.name
		d.Reason = fmt.Sprintf("%s are open, and balance: %s leaves it to chance which of them it gets.", upper(of), u.config.Balance)
	case len(looks) == 1:
		d.Outcome, d.Reason = u.pool.URL(chosen), "It is the only target, and open."
	default:
		d.Outcome = u.pool.URL(chosen)
		d.Reason = fmt.Sprintf("%s are open, and balance: %s chooses this one.", upper(of), u.config.Balance)
	}
	for name, fields := range e.fields(out) {
		if len(fields) > 0 {
			d.Details[name] = fields
		}
	}
	return d
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// targetState is why target i is open, or not.
func targetState(pool *upstream.Pool, i int, now time.Time) string {
	breaker, ejected := pool.State(i, now)
	switch {
	case ejected:
		return "probes"
	case breaker == "half_open" && pool.Open(i, now):
		return "half_open"
	case breaker != "closed":
		return "breaker"
	case pool.Pauses(i, now):
		return "paused"
	}
	return "open"
}

// retries says when the request would be sent again.
func (e *explainer) retries() map[string]any {
	x := e.x
	c := x.chosen.upstream.config
	when := "after a failed connection, 502, 504, or 429 and 503 with a short pause"
	switch {
	case c.Retry.Attempts <= 1:
		when = "never: retry.attempts is 1"
	case !upstream.Repeatable(x.r.Method, c.Retry.Post):
		when = fmt.Sprintf("only while nothing of it was written: %s is not idempotent, and retry.post is false", x.r.Method)
	}
	return map[string]any{"attempts": c.Retry.Attempts, "when": when}
}

// fields are the names of those that differ between the client's request and the
// upstream's. Values may be secrets.
func (e *explainer) fields(out *http.Request) map[string][]string {
	x := e.x
	sent := x.chosen.upstream.pool.Outgoing(out, 0)
	diff := map[string][]string{}
	add := func(what, name string) { diff[what] = append(diff[what], name) }
	for name, values := range sent {
		name, before := http.CanonicalHeaderKey(name), e.came[http.CanonicalHeaderKey(name)]
		switch {
		case len(values) == 0:
		case len(before) == 0:
			add("adds", name)
		case !slices.Equal(before, values):
			add("replaces", name)
		}
	}
	for name := range e.came {
		if len(sent[name]) == 0 && len(sent[strings.ToLower(name)]) == 0 {
			add("removes", name)
		}
	}
	for _, name := range e.credentials() {
		if len(x.chosen.upstream.fields[name]) == 0 {
			add("passes_credentials", name)
		}
	}
	for _, names := range diff {
		slices.Sort(names)
	}
	return diff
}
