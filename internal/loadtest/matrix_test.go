package loadtest_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// table is the part of a text from a line that begins so up to the next empty line.
func table(text, begins string) string {
	lines := strings.Split(text, "\n")
	from := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, begins) })
	if from < 0 {
		return ""
	}
	lines = lines[from:]
	if to := slices.Index(lines, ""); to >= 0 {
		lines = lines[:to]
	}
	return strings.Join(lines, "\n")
}

// TestMatrixWithoutSomeRuns has a table of what is finished, and says what is not.
func TestMatrixWithoutSomeRuns(t *testing.T) {
	fast, slow := sample(t, 0), sample(t, 30*ms)
	m := &loadtest.Matrix{
		Name: "plan.yaml", Base: "as it is",
		Runs: []loadtest.MatrixRun{
			{Name: "no cache", Turn: 1, Set: map[string]any{"routes.0.cache.mode": "off"}, Report: slow},
			{Name: "as it is", Turn: 2, Set: map[string]any{"plans": map[string]any{"a": map[string]any{"policies": []any{"5/minute"}}}, "store": nil}, Report: fast},
			{Name: "no cache", Turn: 2, Set: map[string]any{"routes.0.cache.mode": "off"}, Report: slow},
		},
		Missing: []loadtest.MissingRun{
			{Name: "as it is", Turn: 1, Why: "weir serve ended: no such <file>"},
			{Name: "as it is", Turn: 3, Why: "interrupted"},
			{Name: "no cache", Turn: 3, Why: "interrupted"},
		},
	}
	var text, page bytes.Buffer
	if err := m.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, text.String())
	if got, want := strings.Count(table(text.String(), "   "), "\n"), 3; got != want {
		t.Errorf("a table of %d runs, want %d:\n%s", got, want, &text)
	}
	// In the first turn there is nothing to compare with.
	want := "Beside \"as it is\":\n  no cache #2: p50 +103 % (worse), p95 +62.4 % (worse), errors 0 points (same)"
	if got := table(text.String(), "Beside"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	for _, want := range []string{
		"\n  warning: missing: as it is #1: weir serve ended: no such <file>\n",
		"\n  warning: missing: as it is #3, no cache #3: interrupted\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, &text)
		}
	}
	if err := m.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	checkPage(t, page.String(), 2) // CPU time is not known
	for _, want := range []string{"missing: as it is #1: weir serve ended: no such &lt;file&gt;", ">plans: {&#34;a&#34;:{&#34;policies&#34;:[&#34;5/minute&#34;]}}, store: null<", ">routes.0.cache.mode: off<"} {
		if strings.Count(page.String(), want) != 1 {
			t.Errorf("the page has %q %d times, want once", want, strings.Count(page.String(), want))
		}
	}
}

// TestMatrixCapacity tells what is sent from what is answered well: a server that
// refuses half of what it gets does not do twice as much.
func TestMatrixCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusing := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			if n%2 == 0 {
				return reply(http.StatusServiceUnavailable, ""), nil
			}
			return after(ms)(n, r)
		}}
		slow := &server{answer: after(10 * time.Second)}
		never := &server{answer: func(int, *http.Request) (*http.Response, error) { return reply(http.StatusNotFound, ""), nil }}
		o := loadtest.Options{Stages: rate(100, 10*time.Second)}
		m := &loadtest.Matrix{Name: "plan.yaml"}
		for _, c := range []struct {
			name string
			s    *server
			want float64 // answered well a second
		}{{"refuses half", refusing, 50}, {"takes as long again", slow, 50.025}, {"fails", never, 0}} {
			r := virtually(t, t.Context(), o, c.s)
			if r.Rate != 100 || r.OKPerS != c.want {
				t.Errorf("%s: %g sent and %g answered well a second, want 100 and %g", c.name, r.Rate, r.OKPerS, c.want)
			}
			m.Runs = append(m.Runs, loadtest.MatrixRun{Name: c.name, Turn: 1, Report: r})
		}
		var text, page bytes.Buffer
		if err := m.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		want := "                  sent/s   ok/s p50 ms p95 ms p99 ms errors    hits CPU µs   MiB\n" +
			"refuses half         100     50   1.00   1.00   1.00 50.0 %       –      –     –\n" +
			"takes as long a…     100     50 10,002 10,002 10,002  0.0 %       –      –     –\n" +
			"fails                100      0      –      –      –  100 %       –      –     –"
		if got := table(text.String(), "   "); got != want {
			t.Errorf("\n%s\nwant\n%s", got, want)
		}
		if err := m.WriteHTML(&page); err != nil {
			t.Fatal(err)
		}
		checkPage(t, page.String(), 2)
		if !strings.Contains(page.String(), `id="plot-rate"`) {
			t.Error("the page has no plot of what was answered")
		}
	})
}
