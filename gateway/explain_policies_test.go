package gateway_test

import (
	"strings"
	"testing"
)

// policyStep is what an explanation says of the policies of a configuration with these
// lines, after one request.
func policyStep(t *testing.T, lines string) (outcome, reason string) {
	t.Helper()
	w := start(t, lines+`
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &counted{})
	w.send("GET", "/", "")
	d := decisionOf((&instance{weir: w}).explains("GET", "/", ""), "policies")
	return d.Outcome, d.Reason
}

func TestExplainCountsPoliciesInShadowApart(t *testing.T) {
	f := func(policies, want string) {
		t.Helper()
		outcome, reason := policyStep(t, "plans: {default: {policies: ["+policies+"]}}")
		same(t, []string{outcome, reason}, []string{"allowed", want})
	}
	const (
		a, b = `{name: a, quota: 5, window: 1h}`, `{name: b, quota: 50, window: 1h}`
		used = `{name: used, quota: 1, window: 1h, shadow: true}`
		room = `{name: room, quota: 9, window: 1h, shadow: true}`
	)
	f(a, `There is room in "a", 5 per 1h: 4 of 5 requests are left, and it costs 1.`)
	f(a+","+b+","+used, `All 2 policies have room; the tightest is "a", 5 per 1h: 4 of 5 requests are left, and it costs 1. "used" would refuse it, but is in shadow.`)
	f(a+","+used+","+room, `There is room in "a", 5 per 1h: 4 of 5 requests are left, and it costs 1. "used" would refuse it, but is in shadow, as 2 of the policies are.`)
	f(a+","+room, `There is room in "a", 5 per 1h: 4 of 5 requests are left, and it costs 1. One in shadow has room.`)
	f(room, `No policy has a say. One in shadow has room.`)
}

func TestExplainSaysWhatIsDoneWithoutTheStore(t *testing.T) {
	f := func(onFailure, outcome, want string) {
		t.Helper()
		got, reason := policyStep(t, `
store: {url: "redis://127.0.0.1:1", on_failure: `+onFailure+`}
plans: {default: {policies: [5/minute]}}`)
		if got != outcome || !strings.Contains(reason, want) {
			t.Errorf("%s: %s: %s; want %s: %s", onFailure, got, reason, outcome, want)
		}
	}
	f("local", "allowed", "The shared store does not answer: by on_failure: local, this instance has decided with its own share of each quota.")
	f("open", "allowed", "The shared store does not answer: by on_failure: open, requests go on uncounted.")
	f("closed", "unavailable", "The shared store does not answer, and on_failure: closed admits nothing uncounted.")
}
