package loadtest_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestLoadsThatAreNotTheSame checks that what one load has and the other has not decides
// nothing, and is said.
func TestLoadsThatAreNotTheSame(t *testing.T) {
	report := func(change func(*loadtest.Report)) *loadtest.Report {
		r := &loadtest.Report{
			OK: 1000, Goodput: 100, LatencyMS: loadtest.Quantiles{P50: 10, P95: 20, P99: 30}, Samples: map[string]int64{"latency": 10_000},
			Loop: "open", TargetRate: 100, Stages: []loadtest.StageReport{{From: 100, To: 100, ForS: 10}},
		}
		change(r)
		return r
	}
	level := func(r *loadtest.Report) {
		r.Goodput, r.SLO = 50, []loadtest.ObjectiveReport{{Objective: "p95<15ms"}}
	}
	for name, c := range map[string]struct {
		old, now func(*loadtest.Report)
		want     string
		goodput  bool
	}{
		"a service level in one":  {func(*loadtest.Report) {}, level, "service level: was none, is p95<15ms", false},
		"the same in both":        {level, level, "", true},
		"another hold":            {func(*loadtest.Report) {}, func(r *loadtest.Report) { r.Stages[0].ForS = 30 }, "", true},
		"a ramp of the same mean": {func(*loadtest.Report) {}, func(r *loadtest.Report) { r.Stages[0] = loadtest.StageReport{From: 50, To: 150, ForS: 10} }, "course of the rate: was 100:100, is 50:150:10s", true},
		"a warm-up":               {func(*loadtest.Report) {}, func(r *loadtest.Report) { r.WarmupS = 2 }, "warm-up: was 0 s, is 2 s", true},
	} {
		t.Run(name, func(t *testing.T) {
			compared := loadtest.Compare(report(c.old), report(c.now))
			if got := strings.Join(compared.Unlike, "; "); got != c.want {
				t.Errorf("unlike: %q, want %q", got, c.want)
			}
			goodput := slices.ContainsFunc(compared.Changes, func(change loadtest.Change) bool { return change.Name == "goodput" })
			if slower := compared.Slower(0.1); goodput != c.goodput || len(slower) != 0 {
				t.Errorf("goodput is compared: %v, slower %v; want %v and nothing", goodput, slower, c.goodput)
			}
		})
	}
}

// TestReportsThatNoLoadHas checks that a baseline is one.
func TestReportsThatNoLoadHas(t *testing.T) {
	const good = `"target":"http://a/","sent":5,"ok":5`
	for text, want := range map[string]string{
		`{` + good + `,"latency_ms":{"p50":1e308}}`: "latency_ms: 1e+308",
		`{` + good + `,"latency_ms":{"p50":-1}}`:    "latency_ms: -1",
		`{` + good + `,"errors":{"429":-5}}`:        "errors: 429: -5",
		`{` + good + `,"goodput":-1}`:               "goodput: -1",
		`{"target":"http://a/","sent":-5}`:          "sent: -5",
	} {
		if _, err := loadtest.Parse("old.json", []byte(text)); err == nil || err.Error() != "old.json: "+want+": want a report as weir load --json wrote it" {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := loadtest.Parse("old.json", []byte(`{`+good+`}`)); err != nil {
		t.Error(err)
	}
}

// TestTooFew checks that nothing is said of a percentile that fewer than ten values of
// either load lie beyond.
func TestTooFew(t *testing.T) {
	report := func(factor float64, latencies, tokens, gaps int64) *loadtest.Report {
		q := loadtest.Quantiles{P50: 10 * factor, P95: 20 * factor, P99: 30 * factor}
		r := &loadtest.Report{OK: 100_000, LatencyMS: q, TTFTMS: q, ITLMS: q, Samples: map[string]int64{"latency": latencies, "ttft": tokens, "itl": gaps}}
		r.Histogram = []loadtest.Bucket{{From: 1, To: 2, Count: 5}} // Samples is more exact
		return r
	}
	earlier := func(r *loadtest.Report, counted, ok int64) *loadtest.Report {
		r.Samples, r.Histogram, r.OK = nil, []loadtest.Bucket{{From: 1, To: 2, Count: counted}}, ok
		return r
	}
	many := report(1, 1e6, 1e6, 1e6)
	const names = "p50 p95 p99 ttft-p50 ttft-p95 itl-p50"
	for _, c := range []struct {
		name     string
		old, now *loadtest.Report
		want     string // the verdicts on names
		slower   int
	}{
		{"a percentile of many", many, report(2, 1e6, 1e6, 1e6), "worse worse worse worse worse worse", 6},
		{"the p99 of 300 is of three of them", many, report(2, 300, 300, 300), "worse worse too-few worse worse worse", 5},
		{"either load may have too few", report(1, 300, 300, 300), report(2, 1e6, 1e6, 1e6), "worse worse too-few worse worse worse", 5},
		{"faster by few is nothing either", many, report(0.5, 300, 300, 300), "better better too-few better better better", 0},
		{"and neither is the same", many, report(1, 300, 300, 300), "same same too-few same same same", 0},
		{"ten are enough", many, report(2, 1000, 200, 20), "worse worse worse worse worse worse", 6},
		{"nine are not", many, report(2, 999, 199, 19), "worse worse too-few worse too-few too-few", 3},
		{"nine beyond the median are not", many, report(2, 19, 19, 1e6), "too-few too-few too-few too-few too-few worse", 1},
		{"a report of an earlier version has its histogram", many, earlier(report(2, 0, 0, 0), 300, 300), "worse worse too-few worse worse worse", 5},
		{"or else as many as were answered", many, earlier(report(2, 0, 0, 0), 0, 199), "worse too-few too-few worse too-few worse", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			compared := loadtest.Compare(c.old, c.now)
			verdicts := map[string]string{}
			for _, change := range compared.Changes {
				verdicts[strings.ReplaceAll(change.Name, " ", "-")] = strings.ReplaceAll(change.Verdict, " ", "-")
			}
			var got []string
			for name := range strings.FieldsSeq(names) {
				got = append(got, verdicts[name])
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("%s: %s, want %s", names, got, c.want)
			}
			if slower := compared.Slower(0.1); len(slower) != c.slower {
				t.Errorf("%d are worse by more than 10 %%: %v; want %d", len(slower), slower, c.slower)
			}
			const note = "too few: fewer than 10 of what one of the loads measured"
			few := strings.Contains(c.want, "too-few")
			var text, page bytes.Buffer
			if err := compared.WriteText(&text); err != nil || strings.Contains(text.String(), note) != few {
				t.Errorf("%v: the comparison says %q: %t, want %t\n%s", err, note, !few, few, &text)
			}
			checkWidth(t, text.String())
			if err := c.now.WriteHTML(&page, c.old); err != nil || strings.Contains(page.String(), note) != few {
				t.Errorf("%v: the page says %q: %t, want %t", err, note, !few, few)
			}
		})
	}
}

// TestComparisonOfUnlikeLoads checks what is said of figures that have no counterpart.
func TestComparisonOfUnlikeLoads(t *testing.T) {
	t.Run("loops of another kind have no rate and clients in common", func(t *testing.T) {
		open, closed := &loadtest.Report{Loop: "open", Arrivals: "constant", TargetRate: 10}, &loadtest.Report{Loop: "closed", Concurrency: 4}
		if got := fmt.Sprintf("%q", loadtest.Compare(open, closed).Unlike); got != `["loop: was open, is closed"]` {
			t.Errorf("unlike: %s, want the loop", got)
		}
	})
	t.Run("what comes from nothing has no share", func(t *testing.T) {
		a, b := &loadtest.Report{OK: 100}, &loadtest.Report{OK: 100, Goodput: 12.5}
		want := "goodput 0 /s to 12.5 /s, from none (better)"
		for _, change := range loadtest.Compare(a, b).Changes {
			if got := change.String(); change.Name == "goodput" && got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	})
}

// TestMatrixNotes checks that a matrix says what must be known to read its figures, and
// nothing else.
func TestMatrixNotes(t *testing.T) {
	run := func(name string, rate, cpu float64, samples int64, p50 float64) loadtest.MatrixRun {
		return loadtest.MatrixRun{Name: name, Turn: 1, CPUMicros: cpu, Report: &loadtest.Report{
			Loop: "closed", Concurrency: 1, Rate: rate, OKPerS: rate, OK: samples, LatencyMS: loadtest.Quantiles{P50: p50, P95: 2 * p50, P99: 3 * p50},
			Samples: map[string]int64{"latency": samples},
		}}
	}
	const (
		idle = "CPU µs: %s had fewer than 50 requests a second."
		few  = "too few: fewer than 10 of what"
	)
	for _, c := range []struct {
		name string
		runs []loadtest.MatrixRun
		want []string
	}{
		{"fast runs need no note", []loadtest.MatrixRun{run("a", 50, 400, 1e6, 10), run("b", 900, 400, 1e6, 10)}, nil},
		{"slow ones are told", []loadtest.MatrixRun{run("a", 49.9, 400, 1e6, 10), run("b", 900, 400, 1e6, 10), run("c", 2, 800, 1e6, 10)}, []string{fmt.Sprintf(idle, "2 of 3 runs")}},
		{"one is", []loadtest.MatrixRun{run("a", 10, 400, 1e6, 10)}, []string{fmt.Sprintf(idle, "1 of 1 run")}},
		{"where no CPU time is known, nothing is said of it", []loadtest.MatrixRun{run("a", 10, 0, 1e6, 10)}, nil},
		{"too few answers are told", []loadtest.MatrixRun{run("a", 100, 400, 1e6, 10), run("b", 100, 400, 50, 20)}, []string{few}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &loadtest.Matrix{Name: "plan.yaml", Runs: c.runs}
			var text, page bytes.Buffer
			if err := m.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			checkWidth(t, text.String())
			if err := m.WriteHTML(&page); err != nil {
				t.Fatal(err)
			}
			for what, got := range map[string]string{"text": strings.Join(strings.Fields(text.String()), " "), "page": page.String()} {
				if n := strings.Count(got, "CPU µs: ") + strings.Count(got, few); n != len(c.want) {
					t.Errorf("the %s has %d notes, want %d:\n%s", what, n, len(c.want), got)
				}
				for _, want := range c.want {
					if !strings.Contains(got, want) {
						t.Errorf("the %s has no %q:\n%s", what, want, got)
					}
				}
			}
		})
	}
}
