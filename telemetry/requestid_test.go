package telemetry_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/inferweir/weir/telemetry"
)

func TestRequestID(t *testing.T) {
	fresh := regexp.MustCompile(`^[A-Z2-7]{26}$`)
	keeps := func(name, id string) {
		t.Helper()
		t.Run("keeps "+name, func(t *testing.T) {
			t.Helper()
			if got := telemetry.RequestID(http.Header{"X-Request-Id": {id}}); got != id {
				t.Errorf("RequestID = %q, want %q", got, id)
			}
		})
	}
	replaces := func(name string, values ...string) {
		t.Helper()
		t.Run("replaces "+name, func(t *testing.T) {
			t.Helper()
			if got := telemetry.RequestID(http.Header{"X-Request-Id": values}); !fresh.MatchString(got) {
				t.Errorf("RequestID = %q, want a fresh one", got)
			}
		})
	}
	keeps("one character", "a")
	keeps("every kind of character", "AZaz09._:-")
	keeps("128 characters", strings.Repeat("x", 128))
	keeps("a UUID", "0190a1b2-7c3d-7e4f-8a9b-0c1d2e3f4a5b")
	replaces("a missing one")
	replaces("an empty one", "")
	replaces("129 characters", strings.Repeat("x", 129))
	replaces("a line break", "a\r\nX-Admin: 1")
	replaces("a space", "a b")
	replaces("letters beyond ASCII", "é")
	replaces("a quote", `a"b`)
	replaces("two that contradict", "a", "b")

	t.Run("makes 10,000 different ones", func(t *testing.T) {
		seen := map[string]bool{}
		for range 10_000 {
			id := telemetry.RequestID(nil)
			if !fresh.MatchString(id) {
				t.Fatalf("RequestID = %q, want 26 characters of base32", id)
			}
			seen[id] = true
		}
		if len(seen) != 10_000 {
			t.Errorf("%d different IDs, want 10000", len(seen))
		}
	})
}
