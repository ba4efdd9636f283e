package loadtest_test

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestPlainChangesOfFewValues checks that a change which even few values tell apart is
// no matter of chance, and fails a load that may not be slower.
func TestPlainChangesOfFewValues(t *testing.T) {
	report := func(ms float64, low, high float64) *loadtest.Report {
		return &loadtest.Report{OK: 15, Samples: map[string]int64{"latency": 15}, LatencyMS: loadtest.Quantiles{P50: ms, P95: ms, P99: ms},
			Confidence: map[string]loadtest.Range{"p50": {Low: low, High: high}}}
	}
	for _, c := range []struct {
		name     string
		old, now *loadtest.Report
		want     string // of the p50; nothing is known of the ranges of the others
		slower   int
	}{
		{"three seconds in place of a millisecond", report(1, 0.9, 1.1), report(3000, 2990, 3010), loadtest.Worse, 1},
		{"and the other way round", report(3000, 2990, 3010), report(1, 0.9, 1.1), loadtest.Better, 0},
		{"ranges that overlap", report(1, 0.9, 1.3), report(1.5, 1.2, 1.8), loadtest.TooFew, 0},
		{"nearly the same", report(1, 0.99, 1.01), report(1.02, 1.015, 1.03), loadtest.TooFew, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			compared := loadtest.Compare(c.old, c.now)
			got := map[string]string{}
			for _, change := range compared.Changes {
				got[change.Name] = change.Verdict
			}
			want := map[string]string{"p50": c.want, "p95": loadtest.TooFew, "p99": loadtest.TooFew, "errors": loadtest.Same}
			if !maps.Equal(got, want) || len(compared.Slower(0.1)) != c.slower {
				t.Errorf("%v, %d slower; want %v, %d", got, len(compared.Slower(0.1)), want, c.slower)
			}
		})
	}
}

// TestBudgetOfAShareThatIsNoBinaryFraction checks that as much as is allowed is not too
// much: 7 of 1,000 are 0.7 %.
func TestBudgetOfAShareThatIsNoBinaryFraction(t *testing.T) {
	for failing, want := range map[int]bool{7: false, 8: true} {
		synctest.Test(t, func(t *testing.T) {
			percent := 0.7
			allowed := percent / 100
			s := &server{answer: func(n int, _ *http.Request) (*http.Response, error) {
				if n >= 1000-failing {
					return reply(http.StatusBadGateway, ""), nil
				}
				return reply(http.StatusOK, "x"), nil
			}}
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(1000, time.Second), MaxErrors: &allowed}, s)
			if r.Sent != 1000 || r.OverBudget != want {
				t.Errorf("%d of %d failed, and 0.7 %% of 1000 are allowed: over the budget: %t, want %t", failing, r.Sent, r.OverBudget, want)
			}
		})
	}
}

// TestHostileAnswers bounds what a server can put into a report.
func TestHostileAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streaming(role(0), chunk(0, "ab"), chunk(30*ms, "cd"),
			frame{0, fmt.Sprintf("data: {\"choices\":[],\"usage\":{\"completion_tokens\":%d}}\n\n", math.MaxInt64)}, frame{0, doneFrame})
		answer := s.answer
		s.answer = func(n int, r *http.Request) (*http.Response, error) {
			resp, err := answer(n, r)
			resp.Header.Set("Server-Timing", strings.Repeat("x", 100_000)+";dur=1")
			return resp, err
		}
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(10, time.Second), Stream: true, Body: `{"stream": true}`}, s)
		if r.Tokens != 20 || r.TokensFrom != loadtest.FromPieces {
			t.Errorf("%d tokens from %s, want 20 pieces: no stream has that many tokens", r.Tokens, r.TokensFrom)
		}
		if names := slices.Collect(maps.Keys(r.ServerTiming)); len(names) != 1 || len(names[0]) > 50 {
			t.Errorf("%d names of timings, the first with %d bytes, want one of at most 40 characters", len(names), len(names[0]))
		}
	})
}

// TestColumnsStayApart checks that large numbers do not run into each other.
func TestColumnsStayApart(t *testing.T) {
	r := &loadtest.Report{OK: 43_200_000, Sent: 47_520_000, Callers: []loadtest.CallerReport{
		{Name: "alice", Sent: 43_200_000, OK: 43_199_000, Refused: 1000, P50MS: 1_234_567, P95MS: 1_234_568},
		{Name: "bob", Sent: 4_320_000, OK: 4_320_000},
	}}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	m := &loadtest.Matrix{Name: "plan.yaml", Runs: []loadtest.MatrixRun{{Name: "a", Turn: 1, CPUMicros: 99_999, RSSBytes: 99_999 << 20, Report: &loadtest.Report{
		Rate: 120_000, OKPerS: 119_000, OK: 1, LatencyMS: loadtest.Quantiles{P50: 60_000, P95: 1_234_567, P99: 1_234_568}}}}}
	if err := m.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" 43,200,000 43,199,000 ", " 4,320,000 4,320,000 ", " 120,000 119,000 60,000 1,234,567 1,234,568 "} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), want) {
			t.Errorf("%q is not apart:\n%s", want, &text)
		}
	}
}

// TestLongestClosedLoop checks the bound of a closed loop, however long it is said to be.
func TestLongestClosedLoop(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24*time.Hour - time.Second: "",
		24 * time.Hour:             "--duration: 24h0m1s with ramps and warm-up: want at most 24h",
		25 * time.Hour:             "--duration: 25h: want at most 24h",
		math.MaxInt64:              "--duration: 2562047h47m16.854775807s: want at most 24h",
	} {
		_, err := loadtest.New(loadtest.Options{URL: "http://h/", Concurrency: 1, Warmup: time.Second, Duration: d})
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
			t.Errorf("%s: %s, want %q", d, got, want)
		}
	}
}
