package loadtest_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
	"go.uber.org/goleak"
)

// sample is a load that has a bit of everything. In virtual time it is the same each
// time.
func sample(t *testing.T, slower time.Duration) (r *loadtest.Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			if err := waitFor(r, time.Duration(n%40+10)*ms+slower); err != nil {
				return nil, err
			}
			switch {
			case n%50 == 7:
				return reply(http.StatusTooManyRequests, "", "Retry-After", strconv.Itoa(n%3+1)), nil
			case n%100 == 11:
				return reply(http.StatusBadGateway, ""), nil
			case n%2 == 0:
				return reply(http.StatusOK, "12", "Cache-Status", "weir; hit", "Server-Timing", "cache;dur=0.4"), nil
			}
			return reply(http.StatusOK, "12", "Cache-Status", "weir; fwd=miss; stored", "Server-Timing", "queue;dur=1.5, upstream;dur=25"), nil
		}}
		r = virtually(t, t.Context(), loadtest.Options{
			URL: "http://server.test/predict/language?q=<script>alert(1)</script>", Body: "{}", Stages: []loadtest.Stage{{10, 200, 5 * time.Second}, {200, 200, 10 * time.Second}},
			Warmup: time.Second, Callers: []loadtest.Caller{{Name: "alice", Weight: 3}, {Name: "<b>bob</b>", Weight: 1}}, Seed: 5,
			Objectives: []loadtest.Objective{objective(t, "p95<60ms"), objective(t, "p99<40ms")},
		}, s)
	})
	r.Cores = 2
	return r
}

// golden compares a text with the file that has what is right. go test -run NAME
// ./internal/loadtest -update writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the files that texts are compared with")
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// checkWidth fails where a line is wider than a terminal.
func checkWidth(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("a line has %d columns: %s", n, line)
		}
		if line != strings.TrimRight(line, " \n")+"\n" {
			t.Errorf("a line ends in spaces: %q", line)
		}
	}
}

func TestText(t *testing.T) {
	r := sample(t, 0)
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, b.String())
	golden(t, "report.txt", b.String())
	b.Reset()
	if err := loadtest.Compare(r, sample(t, 10*ms)).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, b.String())
	golden(t, "compare.txt", b.String())
}

// TestJSON checks that a report is read as it was written, and has the members that
// programs rely on.
func TestJSON(t *testing.T) {
	r := sample(t, 0)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := loadtest.Parse("a.json", text)
	if err != nil || !reflect.DeepEqual(r, back) {
		t.Errorf("%v: read back %+v\nwant %+v", err, back, r)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"rate": `^168\.33`, "duration_s": `^15$`, "sent": `^2525$`, "ok": `^24\d\d$`, "errors": `^{"429":50,"5xx":26}$`,
		"latency_ms": `^{"p50":[\d.]+,"p90":[\d.]+,"p95":[\d.]+,"p99":[\d.]+,"p999":[\d.]+,"max":[\d.]+}$`, "ttft_ms": `^{}$`, "itl_ms": `^{}$`,
		"loop": `^"open"$`, "slo": `^\[{"objective":"p95\\u003c60ms","value_ms":[\d.]+,"met":true},`, "cache": `"hit":`,
	} {
		if !regexp.MustCompile(want).Match(members[name]) {
			t.Errorf("%s is %s, want %s", name, members[name], want)
		}
	}
	for bad, want := range map[string]string{
		`{"sent": 1, "intervals": [{"at_s": 0}]}`:                                                                        "intervals: 1 of 0 s each",
		`{"sent": 1, "histogram": [{"from_ms": 2, "to_ms": 1, "count": 1}]}`:                                             "histogram[0]: 1 from 2 to 1 ms",
		`{"sent": 1, "histogram": [{"from_ms": 1, "to_ms": 2, "count": 1}, {"from_ms": 0.5, "to_ms": 0.6, "count": 1}]}`: "histogram[1]: 1 from 0.5 to 0.6 ms",
		`{"sent": 1, "percentiles": [{"q": 2, "ms": 1}]}`:                                                                "percentiles[0]: 1 at 2",
	} {
		if _, err := loadtest.Parse("a.json", []byte(bad)); err == nil || !strings.Contains(err.Error(), "a.json: "+want+": want a report") {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
	for _, bad := range []string{"", "[]", "{}", `{"sent": "x"}`} {
		if _, err := loadtest.Parse("a.json", []byte(bad)); err == nil || !strings.Contains(err.Error(), "a.json: ") || !strings.Contains(err.Error(), "want a report that weir load --json wrote") {
			t.Errorf("%q: %v, want what would be right", bad, err)
		}
	}
}

// checkPage checks that a page needs nothing else, runs nothing, and that its plots
// are drawings within their frame which say what they show.
func checkPage(t *testing.T, page string, plots int) {
	t.Helper()
	for _, bad := range []string{"<script", "src=", "@import", "url(", "<link", "<b>bob", "NaN", "Inf", "%!"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	drawings := regexp.MustCompile(`(?s)<svg viewBox="0 0 480.*?</svg>`).FindAllString(page, -1)
	if len(drawings) != plots {
		t.Fatalf("%d plots, want %d", len(drawings), plots)
	}
	titles := map[string]bool{}
	for _, d := range drawings {
		id := regexp.MustCompile(`role="img" aria-labelledby="([^"]+)"><title id="([^"]+)">[^<]+</title>`).FindStringSubmatch(d)
		if id == nil || id[1] != id[2] || titles[id[1]] {
			t.Errorf("a plot has no title of its own: %.200s", d)
			continue
		}
		titles[id[1]] = true
		checkDrawing(t, id[1], d)
	}
	for _, part := range []string{"table", "figure", "details", "main", "dl", "ul", "p"} {
		if open, closed := len(regexp.MustCompile("<"+part+`[ >]`).FindAllString(page, -1)), strings.Count(page, "</"+part+">"); open != closed {
			t.Errorf("%d <%s> and %d </%s>", open, part, closed, part)
		}
	}
}

// checkDrawing reads an SVG as XML and follows its coordinates.
func checkDrawing(t *testing.T, id, text string) {
	t.Helper()
	marks := 0
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s is no XML: %v", id, err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			switch a.Name.Local {
			case "x", "cx", "width":
				checkCoordinate(t, id, a.Value, 480)
			case "y", "cy", "height":
				checkCoordinate(t, id, a.Value, 600)
			case "class":
				if strings.HasPrefix(a.Value, "line") || strings.HasPrefix(a.Value, "bar") || strings.HasPrefix(a.Value, "dot") {
					marks++
				}
			case "d":
				for _, pair := range regexp.MustCompile(`[ML]([-\d.]+) ([-\d.]+)`).FindAllStringSubmatch(a.Value, -1) {
					checkCoordinate(t, id, pair[1], 480)
					checkCoordinate(t, id, pair[2], 600)
				}
			}
		}
	}
	if marks == 0 {
		t.Errorf("%s shows nothing", id)
	}
}

func checkCoordinate(t *testing.T, id, text string, most float64) {
	t.Helper()
	if v, err := strconv.ParseFloat(text, 64); err != nil || v < 0 || v > most {
		t.Errorf("%s: a coordinate is %q, want 0 to %g", id, text, most)
	}
}

func TestHTML(t *testing.T) {
	old, now := sample(t, 0), sample(t, 10*ms)
	page := func(r, old *loadtest.Report) string {
		var b bytes.Buffer
		if err := r.WriteHTML(&b, old); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	t.Run("a report has four plots and all its tables", func(t *testing.T) {
		text := page(now, nil)
		checkPage(t, text, 4)
		for _, want := range []string{
			"Load test of POST http://server.test/predict/language?q=&lt;script&gt;", "Service level p95&lt;60ms", `<span class="bad">59.0 ms, not met</span>`,
			"&lt;b&gt;bob&lt;/b&gt;", "502 Bad Gateway", "Every part of the load, as a table", "When refusals say to come back",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the page has no %q", want)
			}
		}
	})
	t.Run("a comparison draws both", func(t *testing.T) {
		text := page(now, old)
		checkPage(t, text, 4)
		if n := strings.Count(text, `class="line before"`); n < 5+4 { // the lines and their keys
			t.Errorf("%d lines of the report before, want 9", n)
		}
		if !strings.Contains(text, `<td class="bad">worse</td>`) {
			t.Error("the page has no verdict")
		}
	})
	t.Run("a load that one answer came to has plots, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 1, Requests: 1}, &server{answer: after(ms)})
			checkPage(t, page(r, nil), 4)
		})
	})
	t.Run("a load without an answer shows its errors", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 1, Requests: 3}, &server{answer: func(int, *http.Request) (*http.Response, error) {
				return nil, io.EOF
			}})
			text := page(r, nil)
			checkPage(t, text, 1)
			if !strings.Contains(text, "no request was answered without an error") {
				t.Error("the page does not say so")
			}
			checkPage(t, page(r, old), 1)
			checkPage(t, page(old, r), 4)
		})
	})
}

// FuzzParse checks that whatever is read as a report can be compared and drawn.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"sent": 1, "interval_s": 1, "intervals": [{"at_s": 1, "sent": 5, "p50_ms": 3, "max_ms": 4}], "latency_ms": {"p50": 3, "max": 4},
		"histogram": [{"from_ms": 2, "to_ms": 3, "count": 1}], "percentiles": [{"q": 0, "ms": 2}, {"q": 1, "ms": 4}]}`))
	f.Add([]byte(`{"sent": 1, "percentiles": [{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := loadtest.Parse("a.json", text)
		if err != nil {
			return
		}
		m := &loadtest.Matrix{Runs: []loadtest.MatrixRun{{Name: "a", Turn: 1, Report: r}, {Name: "b", Turn: 1, Report: r}}}
		if err := errors.Join(r.WriteHTML(io.Discard, r), r.WriteText(io.Discard), loadtest.Compare(r, r).WriteText(io.Discard), m.WriteHTML(io.Discard), m.WriteText(io.Discard)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLongLoad checks that a day of load makes a report of the same size as a quarter
// of an hour.
func TestLongLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(0.5, 2*time.Hour)}, &server{answer: after(ms)})
		var sent int64
		for _, i := range r.Intervals {
			sent += i.Sent
		}
		if len(r.Intervals) > 900 || len(r.Intervals) < 450 || r.IntervalS != 8 || sent != 3600 || r.Sent != 3600 {
			t.Errorf("%d intervals of %g s with %d of %d requests, want 450 to 900 of 8 s with all 3600", len(r.Intervals), r.IntervalS, sent, r.Sent)
		}
	})
}

func TestCompare(t *testing.T) {
	report := func(p50, wide, goodput float64, errors int64) *loadtest.Report {
		return &loadtest.Report{
			OK: 1000 - errors, Errors: map[string]int64{"5xx": errors}, LatencyMS: loadtest.Quantiles{P50: p50}, Goodput: goodput,
			Confidence: map[string]loadtest.Range{"p50": {Low: p50 - wide, High: p50 + wide}},
		}
	}
	for _, c := range []struct {
		name     string
		old, now *loadtest.Report
		want     []string
		slower   int // changes that are worse by more than 10 %
	}{
		{"nothing", report(20, 1, 100, 0), report(20, 1, 100, 0), []string{"p50 same", "goodput same", "errors same"}, 0},
		{"4 % are not worth a word", report(20, 0.1, 100, 0), report(20.8, 0.1, 96, 0), []string{"p50 same", "goodput same", "errors same"}, 0},
		{"8 % are slower, but not by 10 %", report(20, 0.1, 100, 0), report(21.6, 0.1, 92, 0), []string{"p50 worse", "goodput worse", "errors same"}, 0},
		{"50 % are slower", report(20, 0.1, 100, 0), report(30, 0.1, 50, 0), []string{"p50 worse", "goodput worse", "errors same"}, 2},
		{"50 % of few answers are noise", report(20, 6, 100, 0), report(30, 6, 100, 0), []string{"p50 noise", "goodput same", "errors same"}, 0},
		{"faster", report(20, 0.1, 100, 0), report(10, 0.1, 200, 0), []string{"p50 better", "goodput better", "errors same"}, 0},
		{"a few microseconds are the machine's", report(0.1, 0.001, 100, 0), report(0.14, 0.001, 100, 0), []string{"p50 same", "goodput same", "errors same"}, 0},
		{"half a percent of errors more", report(20, 0.1, 100, 0), report(20, 0.1, 100, 5), []string{"p50 same", "goodput same", "errors worse"}, 1},
		{"fewer errors", report(20, 0.1, 100, 50), report(20, 0.1, 100, 5), []string{"p50 same", "goodput same", "errors better"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			compared := loadtest.Compare(c.old, c.now)
			var got []string
			for _, change := range compared.Changes {
				got = append(got, change.Name+" "+change.Verdict)
			}
			if !reflect.DeepEqual(got, c.want) || len(compared.Unlike) != 0 {
				t.Errorf("%q, unlike %q; want %q", got, compared.Unlike, c.want)
			}
			if slower := compared.Slower(0.1); len(slower) != c.slower {
				t.Errorf("%d are worse by more than 10 %%: %v; want %d", len(slower), slower, c.slower)
			}
		})
	}
	t.Run("what the generator itself may have done is noise", func(t *testing.T) {
		a, b := report(20, 0.1, 100, 0), report(30, 0.1, 100, 0)
		b.LateMS = loadtest.Quantiles{P50: 11}
		if got := loadtest.Compare(a, b).Changes[0].Verdict; got != loadtest.Noise {
			t.Errorf("10 ms more from a generator that is 11 ms late: %s, want %s", got, loadtest.Noise)
		}
	})
	t.Run("another load is not compared in silence", func(t *testing.T) {
		a, b := report(20, 1, 100, 0), report(20, 1, 100, 0)
		a.TargetRate, b.TargetRate, b.Stream = 100, 200, true
		want := []string{"rate wanted: was 100/s, is 200/s", "streams: was false, is true"}
		if got := loadtest.Compare(a, b).Unlike; !reflect.DeepEqual(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("a change has words", func(t *testing.T) {
		want := "p50 20.0 ms to 30.0 ms, +50.0 % (worse)"
		if got := loadtest.Compare(report(20, 0.1, 0, 0), report(30, 0.1, 0, 0)).Changes[0].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestMatrix(t *testing.T) {
	fast, slow := sample(t, 0), sample(t, 30*ms)
	m := &loadtest.Matrix{Name: "plan.yaml", Runs: []loadtest.MatrixRun{
		{Name: "as it is", Turn: 1, CPUMicros: 412.4, RSSBytes: 64 << 20, Report: fast},
		{Name: "no cache & one <processor>", Turn: 1, Set: map[string]any{"routes.0.cache.mode": "off"}, Env: map[string]string{"GOMAXPROCS": "1"}, CPUMicros: 1234, RSSBytes: 2 << 30, Report: slow},
		{Name: "as it is", Turn: 2, Report: fast},
		{Name: "no cache & one <processor>", Turn: 2, Report: fast},
	}}
	var text, page bytes.Buffer
	if err := m.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, text.String())
	golden(t, "matrix.txt", text.String())
	if err := m.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	checkPage(t, page.String(), 3)
	for _, want := range []string{"no cache &amp; one &lt;processor&gt; #1", "routes.0.cache.mode: off, GOMAXPROCS=1", `<td class="bad">`, "the file as it is"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

func TestCacheResult(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{nil, ""},
		{[]string{"weir; hit; ttl=580"}, "hit"},
		{[]string{"weir; fwd=miss; stored"}, "miss"},
		{[]string{"weir; fwd=miss; collapsed"}, "collapsed"},
		{[]string{"weir; fwd=bypass"}, "bypass"},
		{[]string{"origin; hit, weir; fwd=stale"}, "miss"},
		{[]string{"origin; fwd=miss", "weir;hit"}, "hit"},
		{[]string{"weir"}, ""},
		{[]string{`cdn; hit; key="a,b; fwd=miss \", c"`}, "hit"},
	} {
		if got := loadtest.CacheResult(c.fields); got != c.want {
			t.Errorf("%q: %q, want %q", c.fields, got, c.want)
		}
	}
}

func TestSignificant(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", 0.0004: "<0.001", 0.0005: "0.001", 0.016: "0.016", 0.0994: "0.099", 0.0996: "0.10", 0.5: "0.50", 9.994: "9.99", 9.996: "10.0", 99.9: "99.9", 99.96: "100", 999.6: "1000", 1234: "1,234", 1234567: "1,234,567", -12.34: "-12.3",
	} {
		if got := loadtest.Significant(f); got != want {
			t.Errorf("%g: %s, want %s", f, got, want)
		}
	}
}
