package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// PolicyLook is what a policy would say to a request now. Amounts are in its Unit.
type PolicyLook struct {
	// Scope is plan:NAME or route:NAME, Policy the policy's short form.
	Scope  string `json:"scope"`
	Name   string `json:"name"`
	Policy string `json:"policy"`
	Unit   string `json:"unit"`
	// By is what it counts by, Key whose count that makes: a hash for a header.
	By  string `json:"by"`
	Key string `json:"key"`
	// Cost is what would be taken, of Remaining, of at most Burst.
	Cost      int64 `json:"cost"`
	Remaining int64 `json:"remaining"`
	Burst     int64 `json:"burst"`
	// ResetS is in how many seconds there is more, 0 where nothing is used.
	ResetS float64 `json:"reset_s"`
	// Allowed is its answer. RetryAfterS is when the same request would be allowed, where
	// it is not: nil is never.
	Allowed     bool     `json:"allowed"`
	RetryAfterS *float64 `json:"retry_after_s,omitempty"`
	// Shadow says that it refuses nobody.
	Shadow bool `json:"shadow,omitempty"`
	// Decided is local or open where the shared store does not answer.
	Decided string `json:"decided,omitempty"`
}

// reserve explains what the policies would say to the takes that fill makes.
func (e *explainer) reserve(fill func(*ratelimit.Take)) error {
	x := e.x
	if e.unlimited() {
		return nil
	}
	x.listTakes(fill)
	return e.take(x.takes)
}

// unlimited reports whether no policy applies, and says so.
func (e *explainer) unlimited() bool {
	x := e.x
	d := Decision{Step: "policies", Outcome: "none", Reason: "Neither the plan nor the route has policies."}
	switch {
	case x.exempt:
		d.Outcome, d.Reason = "exempt", "callers.allow lists the caller: no policy counts it."
	case len(x.setup.policiesOf(x.caller.ID, x.plan))+len(x.chosen.policies) > 0:
		return false
	}
	e.say(d)
	return true
}

// take explains what the store says to takes, of which nothing is taken.
func (e *explainer) take(takes []ratelimit.Take) error {
	x := e.x
	allowed, err := ratelimit.Preview(x.r.Context(), x.setup.counts, takes, x.started)
	if err != nil {
		if x.r.Context().Err() != nil {
			return x.r.Context().Err()
		}
		p := ratelimit.Unavailable(err)
		reason := "The shared store does not answer, and on_failure: closed admits nothing uncounted. " + p.Detail
		e.say(Decision{Step: "policies", Outcome: "unavailable", Reason: reason, Details: map[string]any{"error": err.Error(), "decided": storeClosed}})
		return p
	}
	looks := e.looks(takes)
	d := Decision{Step: "policies", Outcome: "allowed", Details: map[string]any{"policies": looks}}
	away := withoutStore(looks)
	d.Reason = tightest(looks) + shadows(looks) + away
	if allowed {
		e.say(d)
		return nil
	}
	p := refusal(takes)
	if p == nil {
		p = &weir.Problem{Status: http.StatusTooManyRequests, Detail: "The store of quotas refused without a reason."}
	}
	d.Outcome, d.Reason = "denied", p.Detail+rounded(p.RetryAfter)+away
	e.say(d)
	return p
}

// rounded says of a short wait how long it is, where a client is told of whole seconds.
func rounded(wait time.Duration) string {
	wait = wait.Round(time.Millisecond)
	if wait <= 0 || wait > 10*time.Second || wait%time.Second == 0 {
		return ""
	}
	return " There is room in " + short(wait) + ": Retry-After is in whole seconds, rounded up, and at least 1 second."
}

// peek shows what is left of the policies for an answer that takes nothing.
func (e *explainer) peek(why string) {
	x := e.x
	if e.unlimited() {
		return
	}
	x.listTakes(func(*ratelimit.Take) {})
	d := Decision{Step: "policies", Outcome: "not asked", Reason: why}
	if _, err := ratelimit.Preview(x.r.Context(), x.setup.counts, x.takes, x.started); err == nil {
		d.Details = map[string]any{"policies": e.looks(x.takes)}
	}
	e.say(d)
}

// looks are takes that were decided, the tightest first.
func (e *explainer) looks(takes []ratelimit.Take) []PolicyLook {
	x := e.x
	bys := map[*ratelimit.Policy]string{}
	for _, policies := range [][]policy{x.setup.policiesOf(x.caller.ID, x.plan), x.chosen.policies} {
		for _, p := range policies {
			bys[p.Policy] = p.by
		}
	}
	all := make([]PolicyLook, len(takes))
	for i := range takes {
		t := &takes[i]
		l := PolicyLook{
			Scope: t.Policy.Scope, Name: t.Policy.Name, Policy: t.Policy.String(), Unit: cmp.Or(t.Policy.Unit, ratelimit.Requests),
			By: bys[t.Policy], Key: t.Key, Cost: t.Cost, Remaining: t.Decision.Remaining, Burst: t.Burst(),
			ResetS: seconds(t.Decision.Reset), Allowed: t.Decision.Allowed || t.Cost == 0, Shadow: t.Policy.Shadow,
		}
		switch {
		case t.Policy.Concurrent > 0:
			l.Unit = "slots"
		case t.Policy.Unit == nanoUSD:
			l.Policy = perWindow(t.Policy)
		}
		switch t.Mode {
		case ratelimit.Local:
			l.Decided = storeLocal
		case ratelimit.Open:
			l.Decided, l.Allowed = storeOpen, true
		}
		if !l.Allowed && t.Decision.RetryAfter != weir.Never {
			after := seconds(t.Decision.RetryAfter)
			l.RetryAfterS = &after
		}
		all[i] = l
	}
	slices.SortStableFunc(all, func(a, b PolicyLook) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(b.wait(), a.wait()), cmp.Compare(a.left(), b.left()))
	})
	return all
}

// order puts those that refuse first, and then those that only would.
func (l PolicyLook) order() int {
	switch {
	case l.Allowed:
		return 2
	case l.Shadow:
		return 1
	}
	return 0
}

// wait is for how long it refuses, in seconds.
func (l PolicyLook) wait() float64 {
	switch {
	case l.Allowed:
		return 0
	case l.RetryAfterS == nil:
		return (100 * 365 * 24 * time.Hour).Seconds()
	}
	return *l.RetryAfterS
}

// left is the part of the burst that would be left.
func (l PolicyLook) left() float64 { return float64(l.Remaining-l.Cost) / float64(max(l.Burst, 1)) }

// tightest says in a sentence what is left where least is, of the policies that decide.
func tightest(looks []PolicyLook) string {
	deciding := slices.DeleteFunc(slices.Clone(looks), func(l PolicyLook) bool { return l.Shadow || l.Decided == storeOpen })
	if len(deciding) == 0 {
		return "No policy has a say."
	}
	l := deciding[0]
	what := fmt.Sprintf("There is room in %q", l.Name)
	if n := len(deciding); n > 1 {
		what = fmt.Sprintf("All %d policies have room; the tightest is %q", n, l.Name)
	}
	return fmt.Sprintf("%s, %s: %s.", what, l.Policy, l.leaves())
}

// shadows says of the policies in shadow how many there are, and which would refuse.
func shadows(looks []PolicyLook) string {
	n, refusing := 0, ""
	for _, l := range looks {
		if !l.Shadow {
			continue
		}
		if n++; !l.Allowed && refusing == "" {
			refusing = l.Name
		}
	}
	switch {
	case n == 0:
		return ""
	case refusing != "" && n == 1:
		return fmt.Sprintf(" %q would refuse it, but is in shadow.", refusing)
	case refusing != "":
		return fmt.Sprintf(" %q would refuse it, but is in shadow, as %d of the policies are.", refusing, n)
	case n == 1:
		return " One in shadow has room."
	}
	return fmt.Sprintf(" %d in shadow have room.", n)
}

// withoutStore says what was done in the place of the shared store, "" where it has
// answered.
func withoutStore(looks []PolicyLook) string {
	for _, l := range looks {
		switch l.Decided {
		case storeLocal:
			return " The shared store does not answer: by on_failure: local, this instance has decided with its own share of each quota."
		case storeOpen:
			return " The shared store does not answer: by on_failure: open, requests go on uncounted."
		}
	}
	return ""
}

// leaves says what is left before the request, and what it costs.
func (l PolicyLook) leaves() string {
	if l.Unit == nanoUSD {
		return fmt.Sprintf("%s are left, and it may cost %s", dollars(max(l.Remaining, 0)), dollars(l.Cost))
	}
	unit := strings.ReplaceAll(l.Unit, "_", " ")
	return fmt.Sprintf("%d of %d %s are left, and it costs %d", l.Remaining, l.Burst, unit, l.Cost)
}
