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

// TestTailsOfFewValues checks that a percentile whose range has no end is no plain change:
// the p99 of 15 answers is the slowest of them, which chance decides.
func TestTailsOfFewValues(t *testing.T) {
	load := func(n int64, took func(int) time.Duration) (r *loadtest.Report) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: func(n int, r *http.Request) (*http.Response, error) { return after(took(n))(n, r) }}
			r = virtually(t, t.Context(), loadtest.Options{Stages: rate(10, 20*time.Second), Requests: n}, s)
		})
		return r
	}
	alike := func(int) time.Duration { return 10 * ms }
	slow := func(d time.Duration, is func(int) bool) func(int) time.Duration {
		return func(n int) time.Duration {
			if is(n) {
				return d
			}
			return 10 * ms
		}
	}
	sixth := slow(3*time.Second, func(n int) bool { return n%6 == 5 })
	last := func(n int) bool { return n >= 13 }
	for _, c := range []struct {
		name     string
		old, now *loadtest.Report
		p95, p99 string
		slower   int
	}{
		{"two of 15 are slower", load(15, slow(30*ms, last)), load(15, slow(60*ms, last)), loadtest.TooFew, loadtest.TooFew, 0},
		{"and faster", load(15, slow(60*ms, last)), load(15, slow(30*ms, last)), loadtest.TooFew, loadtest.TooFew, 0},
		{"one of six of 150 is slow", load(150, alike), load(150, sixth), loadtest.Worse, loadtest.TooFew, 1},
		{"and was slow", load(150, sixth), load(150, alike), loadtest.Better, loadtest.TooFew, 0},
		{"a single answer says nothing", load(1, alike), load(1, func(int) time.Duration { return time.Second }), loadtest.TooFew, loadtest.TooFew, 0},
	} {
		got := map[string]string{}
		compared := loadtest.Compare(c.old, c.now)
		for _, change := range compared.Changes {
			got[change.Name] = change.Verdict
		}
		if slower := compared.Slower(0.1); got["p95"] != c.p95 || got["p99"] != c.p99 || len(slower) != c.slower {
			t.Errorf("%s: p95 %s, p99 %s, slower %v; want %s, %s and %d", c.name, got["p95"], got["p99"], slower, c.p95, c.p99, c.slower)
		}
	}
}

// TestSlowerByAShareThatIsNoBinaryFraction checks that as much slower as is allowed is not
// too slow: 13.7 % are not above 13.7 %.
func TestSlowerByAShareThatIsNoBinaryFraction(t *testing.T) {
	for allowed, want := range map[float64]int{13.6: 1, 13.7: 0} {
		c := &loadtest.Comparison{Changes: []loadtest.Change{{Name: "p50", Unit: "ms", Old: 10, New: 11.37, Percent: 13.7, Verdict: loadtest.Worse}}}
		if slower := c.Slower(allowed / 100); len(slower) != want {
			t.Errorf("13.7 %% slower where %g %% is allowed: %v, want %d", allowed, slower, want)
		}
	}
}

// TestFastestStream checks that a stream which is done in no time is no slow one, however
// many tokens it is said to have.
func TestFastestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := streaming(role(0), chunk(0, "ab"), chunk(time.Nanosecond, "cd"), usageFrame(1<<30), frame{0, doneFrame})
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(10, time.Second), Stream: true, Body: `{"stream": true}`}, s)
		if r.Tokens != 10<<30 || r.StreamSpeeds.P50 < 1e6 {
			t.Errorf("%d tokens, %g/s of a stream, want %d and the most that is counted", r.Tokens, r.StreamSpeeds.P50, int64(10<<30))
		}
	})
}

// TestLongLatenciesStayApart checks that the rows of latencies and of changes have a space
// between their columns, whatever is in them.
func TestLongLatenciesStayApart(t *testing.T) {
	hour := loadtest.Quantiles{P50: 3_600_000, P90: 3_600_000, P95: 3_600_000, P99: 3_600_000, P999: 3_600_000, Max: 3_600_000}
	r := &loadtest.Report{Sent: 1, Errors: map[string]int64{"timeout": 1}, LatencyMS: hour}
	c := &loadtest.Comparison{Changes: []loadtest.Change{{Name: "tokens", Unit: "/s", Old: 1e13, New: 2e13, Percent: 100, Verdict: loadtest.Better}}}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(text.String()), " ")
	for _, want := range []string{"latency" + strings.Repeat(" 3,600,000", 6), "tokens 10,000,000,000,000 /s 20,000,000,000,000 /s +100 % better"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not apart:\n%s", want, &text)
		}
	}
}

// TestAdviceToComeBackAtOnce checks that no wait is reported as none.
func TestAdviceToComeBackAtOnce(t *testing.T) {
	for header, want := range map[string]struct {
		max  float64
		text string
	}{
		"0":   {0, "half at once, all at once"},
		"0.2": {0.001, "half within 0.001 s, all within 0.001 s"},
		"1":   {0.001, "half within 0.001 s, all within 0.001 s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: func(int, *http.Request) (*http.Response, error) {
				return reply(http.StatusTooManyRequests, "", "Retry-After-Ms", header), nil
			}}
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 1, Requests: 3}, s)
			var text bytes.Buffer
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(text.String()), " "); r.RetryAfter.MaxS != want.max || r.RetryAfter.P50S != want.max || !strings.Contains(got, want.text) {
				t.Errorf("%s ms: %+v, want %g s and %q in\n%s", header, r.RetryAfter, want.max, want.text, &text)
			}
		})
	}
}
