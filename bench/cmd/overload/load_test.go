package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// tiny is a load of about a hundred requests in half a second, sent to a server that
// answers with h. Where the machine sent them late it has another try.
func tiny(t *testing.T, h http.HandlerFunc) (l line, r *runner) {
	t.Helper()
	for range 50 {
		if l, r = tinyOnce(t, h); r.late < 40*time.Millisecond {
			break
		}
	}
	return l, r
}

func tinyOnce(t *testing.T, h http.HandlerFunc) (line, *runner) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	p := plan{speed: 100, length: 500 * time.Millisecond, seed: 1}
	c := sim.Normal(1)
	c.Count, c.Retries = 2, 2
	c.Input.Mean, c.Output.Mean = 20, 5
	r := newRunner(sim.Scenario{Name: "tiny", Capacity: 6000, Callers: []sim.Caller{c}}, p, server.URL)
	if err := r.run(t.Context(), func() (sample, error) { return sample{}, nil }); err != nil {
		t.Fatal(err)
	}
	return r.summarize(), r
}

// few is how many of some hundred attempts may be made after the end of the time that
// is measured, or be of requests from before it.
const few = 10

func about(a, b int) bool { return a-b < few && b-a < few }

func TestLoad(t *testing.T) {
	t.Run("answers in time are good, and all of the work", func(t *testing.T) {
		l, r := tiny(t, func(w http.ResponseWriter, in *http.Request) {
			if name := in.Header.Get("X-User-ID"); name != "normal-1" && name != "normal-2" {
				t.Errorf("caller %q", name)
			}
			text, err := io.ReadAll(in.Body)
			if err != nil {
				t.Error(err)
			}
			_, rest, _ := strings.Cut(string(text), `"fake_tokens":`)
			n := 0
			_, _ = fmt.Sscanf(rest, "%d", &n)
			_, _ = fmt.Fprint(w, strings.Repeat("data: {\"content\":\" the\"}\n\n", n)+"data: [DONE]\n\n")
		})
		if l.requests < 50 || l.requests > 200 || l.requests != len(r.requests) || !about(l.attempts, l.requests) || l.failures != 0 || l.refused != 0 {
			t.Errorf("%+v", l)
		}
		if !(l.good > 0) || !(l.completed > 0) || l.p95 <= 0 {
			t.Errorf("%+v", l)
		}
	})
	t.Run("a refused request comes back twice, when it is told to", func(t *testing.T) {
		l, _ := tiny(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After-Ms", "10")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		if l.good != 0 || l.completed != 0 || l.refused == 0 || l.attempts <= 2*l.requests || l.attempts > 3*l.requests+few || l.failures != 0 {
			t.Errorf("%+v", l)
		}
	})
	t.Run("a stream that is cut is neither good nor complete", func(t *testing.T) {
		l, _ := tiny(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, "data: {\"content\":\" the\"}\n\n")
		})
		if l.completed != 0 || !about(l.failures, l.requests) || !about(l.attempts, l.requests) {
			t.Errorf("%+v", l)
		}
	})
	t.Run("who gets no word in time leaves, and comes back", func(t *testing.T) {
		l, _ := tiny(t, func(_ http.ResponseWriter, in *http.Request) {
			// Without reading the body a server does not notice that its client leaves.
			_, _ = io.Copy(io.Discard, in.Body)
			<-in.Context().Done()
		})
		if l.good != 0 || l.failures != 0 || l.attempts <= l.requests {
			t.Errorf("%+v", l)
		}
	})
}

func TestDecisions(t *testing.T) {
	log := `{"msg":"request","status":503,"duration_ms":5,"queue_ms":4.5}
not JSON
{"msg":"request","status":429,"duration_ms":5}
{"msg":"request","status":503,"duration_ms":0.25}
`
	if got := decisions(strings.NewReader(log)); !slices.Equal(got, []time.Duration{500 * time.Microsecond, 250 * time.Microsecond}) {
		t.Error(got)
	}
}

func TestQuantile(t *testing.T) {
	all := []time.Duration{5, 1, 4, 2, 3}
	if got := []time.Duration{quantile(all, 0), quantile(all, 0.5), quantile(all, 0.99), quantile(all, 1), quantile(nil, 0.5)}; !slices.Equal(got, []time.Duration{1, 3, 5, 5, 0}) {
		t.Error(got)
	}
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		field, value string
		want         time.Duration
	}{
		{"Retry-After-Ms", "1500", 1500 * time.Millisecond}, {"Retry-After", "2", 2 * time.Second},
		{"Retry-After", "Sun, 22 Nov 2026 12:00:00 GMT", 0}, {"Retry-After", "-1", 0}, {"X-Other", "1", 0},
	} {
		if got := advice(http.Header{c.field: {c.value}}); got != c.want {
			t.Errorf("%s: %s: %v, want %v", c.field, c.value, got, c.want)
		}
	}
}
