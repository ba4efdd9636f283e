package main

import (
	"bytes"
	"testing"

	"github.com/inferweir/weir/gateway"
)

func TestAnExplanationTellsAShortWaitApartFromRetryAfter(t *testing.T) {
	f := func(name string, told gateway.Explanation, want string) {
		t.Helper()
		var got bytes.Buffer
		if err := printExplanation(&got, told); err != nil || got.String() != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, &got, want)
		}
	}
	const refused = "Request refused: 60 requests per 60 seconds are used up. Try again in 1 second."
	after := 0.003
	f("a refusal", gateway.Explanation{
		Would: "be refused with 429",
		Decisions: []gateway.Decision{
			{Step: "policies", Outcome: "denied", Reason: refused + " There is room in 3ms.", Details: map[string]any{"policies": []gateway.PolicyLook{
				{Scope: "plan:default", Name: "default", Policy: "60 per 1m", By: "caller", Cost: 1, Burst: 60, RetryAfterS: &after},
				{Scope: "plan:default", Name: "budget", Policy: "20 USD per 1d", Unit: "nanousd", By: "caller", Cost: 1e6, Remaining: 5e9, Burst: 20e9, Allowed: true},
			}}},
			{Step: "answer", Outcome: "429 Too Many Requests", Reason: refused, Details: map[string]any{"retry_after_s": after}},
		},
	}, `policies  denied                 `+refused+` There is room in 3ms.
                                   default of plan:default: 60 per 1m by caller, costs 1, 0 of 60 left, allowed in 3ms
                                   budget of plan:default: 20 USD per 1d by caller, may cost 0.001000 USD, 5.000000 of 20.000000 left
answer    429 Too Many Requests  The same request can be answered in 3ms; Retry-After is at least 1 second.

The request would be refused with 429.
`)
}
