package gateway

import (
	"testing"
	"time"
)

func TestExplainTellsShortWaitsExactly(t *testing.T) {
	const why = ": Retry-After is in whole seconds, rounded up, and at least 1 second."
	f := func(wait time.Duration, want string) {
		t.Helper()
		if got := rounded(wait); got != want {
			t.Errorf("%v: %q, want %q", wait, got, want)
		}
	}
	f(3*time.Millisecond, " There is room in 3ms"+why)
	f(1200*time.Millisecond, " There is room in 1.2s"+why)
	f(time.Second, "")
	f(time.Second-time.Microsecond, "")
	f(34500*time.Millisecond, "") // half a second does not matter there
	f(0, "")
	f(-1, "") // never
}
