package telemetry_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

func labels() telemetry.Labels {
	return telemetry.Labels{
		Routes:    []string{"chat"},
		Upstreams: []string{"llm"},
		Policies:  map[string][]string{"pro": {"daily"}},
	}
}

func scrape(m *telemetry.Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// counted returns the series of Weir that are not 0, buckets aside.
func counted(m *telemetry.Metrics) string {
	var b strings.Builder
	for line := range strings.Lines(scrape(m)) {
		if strings.HasPrefix(line, "weir_") && !strings.HasPrefix(line, "weir_build_info") &&
			!strings.Contains(line, "_bucket{") && !strings.HasSuffix(line, " 0\n") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestMetricsCount(t *testing.T) {
	f := func(name string, events func(*telemetry.Metrics), want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			m := telemetry.NewMetrics("v1", labels())
			events(m)
			wanted := ""
			for _, line := range want {
				wanted += line + "\n"
			}
			if got := counted(m); got != wanted {
				t.Errorf("series =\n%swant\n%s", got, wanted)
			}
		})
	}
	f("counts nothing at first", func(*telemetry.Metrics) {})
	f("counts a request in flight", func(m *telemetry.Metrics) { m.RequestStarted("chat") },
		`weir_gateway_requests_in_flight{route="chat"} 1`)
	f("counts requests that are done", func(m *telemetry.Metrics) {
		for _, status := range []int{200, 200, 429} {
			m.RequestStarted("chat")
			m.RequestDone("chat", "POST", status, 250*time.Millisecond)
		}
	}, `weir_gateway_request_duration_seconds_sum{route="chat"} 0.75`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 3`,
		`weir_gateway_requests_total{method="POST",route="chat",status="200"} 2`,
		`weir_gateway_requests_total{method="POST",route="chat",status="429"} 1`)
	f("counts tokens by route and model", func(m *telemetry.Metrics) {
		m.Tokens("chat", "llama", weir.Usage{Input: 10, Cached: 4, Output: 3})
		m.Tokens("chat", "llama", weir.Usage{Input: 1, Output: 2})
		m.Tokens("nowhere", "", weir.Usage{Input: -5, Output: 7})
	}, `weir_gateway_tokens_total{kind="cached",model="llama",route="chat"} 4`,
		`weir_gateway_tokens_total{kind="input",model="llama",route="chat"} 11`,
		`weir_gateway_tokens_total{kind="output",model="",route="other"} 7`,
		`weir_gateway_tokens_total{kind="output",model="llama",route="chat"} 5`)
	f("counts strange methods, statuses and routes as other", func(m *telemetry.Metrics) {
		for _, status := range []int{-1, 0, 99, 600, 1 << 30} {
			m.RequestStarted("nowhere")
			m.RequestDone("nowhere", "BREW", status, -time.Second)
		}
	}, `weir_gateway_request_duration_seconds_count{route="other"} 5`,
		`weir_gateway_requests_total{method="other",route="other",status="other"} 5`)
	f("counts decisions", func(m *telemetry.Metrics) {
		m.Decision("pro", "daily", telemetry.ResultAllowed)
		m.Decision("pro", "daily", telemetry.ResultAllowed)
		m.Decision("pro", "daily", telemetry.ResultDenied)
		m.Decision("pro", "daily", telemetry.ResultShadow)
		m.Decision("pro", "nightly", telemetry.ResultDenied)
		m.Decision("gold", "daily", "perhaps")
	}, `weir_ratelimit_decisions_total{policy="daily",result="allowed",scope="pro"} 2`,
		`weir_ratelimit_decisions_total{policy="daily",result="denied",scope="pro"} 1`,
		`weir_ratelimit_decisions_total{policy="daily",result="shadow",scope="pro"} 1`,
		`weir_ratelimit_decisions_total{policy="other",result="denied",scope="pro"} 1`,
		`weir_ratelimit_decisions_total{policy="other",result="other",scope="other"} 1`)
	f("counts cache results", func(m *telemetry.Metrics) {
		for i, result := range []string{"hit", "stale", "revalidated", "semantic", "collapsed", "miss", "bypass", "strange"} {
			for range i + 1 {
				m.Cache("chat", result)
			}
		}
	}, `weir_cache_requests_total{result="bypass",route="chat"} 7`,
		`weir_cache_requests_total{result="collapsed",route="chat"} 5`,
		`weir_cache_requests_total{result="hit",route="chat"} 1`,
		`weir_cache_requests_total{result="miss",route="chat"} 6`,
		`weir_cache_requests_total{result="other",route="chat"} 8`,
		`weir_cache_requests_total{result="revalidated",route="chat"} 3`,
		`weir_cache_requests_total{result="semantic",route="chat"} 4`,
		`weir_cache_requests_total{result="stale",route="chat"} 2`)
	f("counts upstream results", func(m *telemetry.Metrics) {
		for i, result := range []string{"ok", "error", "timeout", "cancelled", "busy", "open", "strange"} {
			for range i + 1 {
				m.Upstream("llm", result, 0, 0)
			}
		}
	}, `weir_upstream_requests_total{result="busy",upstream="llm"} 5`,
		`weir_upstream_requests_total{result="cancelled",upstream="llm"} 4`,
		`weir_upstream_requests_total{result="error",upstream="llm"} 2`,
		`weir_upstream_requests_total{result="ok",upstream="llm"} 1`,
		`weir_upstream_requests_total{result="open",upstream="llm"} 6`,
		`weir_upstream_requests_total{result="other",upstream="llm"} 7`,
		`weir_upstream_requests_total{result="timeout",upstream="llm"} 3`)
	f("observes only the times that there are", func(m *telemetry.Metrics) {
		m.Upstream("llm", telemetry.ResultOK, 2*time.Second, 8*time.Second)
		m.Upstream("llm", telemetry.ResultTimeout, 0, 4*time.Second)
		m.Upstream("elsewhere", telemetry.ResultBusy, -1, -1)
	}, `weir_upstream_duration_seconds_sum{upstream="llm"} 12`,
		`weir_upstream_duration_seconds_count{upstream="llm"} 2`,
		`weir_upstream_first_byte_seconds_sum{upstream="llm"} 2`,
		`weir_upstream_first_byte_seconds_count{upstream="llm"} 1`,
		`weir_upstream_requests_total{result="busy",upstream="other"} 1`,
		`weir_upstream_requests_total{result="ok",upstream="llm"} 1`,
		`weir_upstream_requests_total{result="timeout",upstream="llm"} 1`)
	f("keeps counts and takes new names on a reload", func(m *telemetry.Metrics) {
		m.RequestStarted("chat")
		m.Cache("chat", telemetry.ResultHit)
		m.Extend(telemetry.Labels{Routes: []string{"embed", "chat", "bad\xff"}})
		m.Cache("chat", telemetry.ResultHit)
		m.Cache("embed", telemetry.ResultHit)
		m.RequestDone("chat", "GET", 200, 0)
	}, `weir_cache_requests_total{result="hit",route="chat"} 2`,
		`weir_cache_requests_total{result="hit",route="embed"} 1`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 1`,
		`weir_gateway_requests_total{method="GET",route="chat",status="200"} 1`)
}

func TestMetricsSeriesAreBounded(t *testing.T) {
	// one of each event, with the labels that n chooses
	events := func(m *telemetry.Metrics, n int) {
		name := fmt.Sprintf("name-%d", n)
		m.RequestStarted(name)
		m.RequestDone(name, name, 1000+n, time.Second)
		m.Decision(name, name, name)
		m.Decision("pro", name, name)
		m.Cache(name, name)
		m.Upstream(name, name, time.Second, time.Second)
	}
	seriesOf := func(m *telemetry.Metrics) (n int) {
		for line := range strings.Lines(scrape(m)) {
			if strings.HasPrefix(line, "weir_") {
				n++
			}
		}
		return n
	}
	t.Run("10,000 unknown names make no series", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		events(m, 0)
		before := seriesOf(m)
		for n := range 10_000 {
			events(m, n)
		}
		if after := seriesOf(m); after != before || before == 0 {
			t.Errorf("%d series after the flood, want %d", after, before)
		}
	})
	t.Run("takes at most 4,096 names of a label over all reloads", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", telemetry.Labels{})
		for reload := range 5 {
			l := telemetry.Labels{Policies: map[string][]string{}}
			for n := range 1000 {
				name := fmt.Sprintf("%d-%d", reload, n)
				l.Policies[name] = []string{name}
			}
			m.Extend(l)
		}
		got := strings.Count(scrape(m), `weir_ratelimit_decisions_total{`)
		if want := 4 * 4096; got != want {
			t.Errorf("%d series of decisions, want %d", got, want)
		}
	})
}

func TestMetricsModelsAreBounded(t *testing.T) {
	m := telemetry.NewMetrics("v1", labels())
	for i := range 1000 {
		m.Tokens("chat", fmt.Sprint("model-", i), weir.Usage{Output: 1})
	}
	m.Tokens("chat", strings.Repeat("x", 1000), weir.Usage{Output: 1})
	got := counted(m)
	if n := strings.Count(got, "\n"); n != 101 {
		t.Errorf("%d series, want 100 models and other", n)
	}
	if want := `{kind="output",model="other",route="chat"} 901`; !strings.Contains(got, want) {
		t.Errorf("series =\n%s\nwant %s", got, want)
	}
}

func TestExpectedModelsHaveSeriesWhateverElseIsAsked(t *testing.T) {
	l := labels()
	l.Models = []string{"ours"}
	m := telemetry.NewMetrics("v1", l)
	for i := range 1000 {
		m.Tokens("chat", fmt.Sprint("model-", i), weir.Usage{Output: 1})
	}
	m.Tokens("chat", "ours", weir.Usage{Output: 7})
	l.Models = []string{"theirs"}
	m.Extend(l)
	m.Tokens("chat", "theirs", weir.Usage{Output: 8})
	m.Retain(l)
	m.Tokens("chat", "gone", weir.Usage{Output: 9})
	got := counted(m)
	for _, want := range []string{
		`{kind="output",model="ours",route="chat"} 7`, `{kind="output",model="theirs",route="chat"} 8`, `{kind="output",model="other",route="chat"} 909`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("series =\n%s\nwant %s", got, want)
		}
	}
}

func TestMetricsFunctions(t *testing.T) {
	value := func(v float64) func() float64 { return func() float64 { return v } }
	f := func(name string, add func(*telemetry.Metrics) error, wantErr string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			m := telemetry.NewMetrics("v1", labels())
			err := add(m)
			if got := fmt.Sprint(err); got != wantErr && !(wantErr == "" && err == nil) {
				t.Errorf("error = %v, want %s", err, wantErr)
			}
			wanted := ""
			for _, line := range want {
				wanted += line + "\n"
			}
			if got := counted(m); got != wanted {
				t.Errorf("series =\n%swant\n%s", got, wanted)
			}
		})
	}
	f("reads a gauge at scrape time", func(m *telemetry.Metrics) error {
		return m.GaugeFunc("weir_cache_bytes", "Bytes.", value(1024))
	}, "", `weir_cache_bytes 1024`)
	f("reads a counter", func(m *telemetry.Metrics) error {
		return m.CounterFunc("weir_cache_evictions_total", "Evictions.", value(7))
	}, "", `weir_cache_evictions_total 7`)
	f("takes labels as pairs", func(m *telemetry.Metrics) error {
		const name, help = "weir_upstream_requests_in_flight", "Calls in flight."
		if err := m.GaugeFunc(name, help, value(1), "upstream", "a"); err != nil {
			return err
		}
		return m.GaugeFunc(name, help, value(2), "upstream", "b\xff")
	}, "", `weir_upstream_requests_in_flight{upstream="a"} 1`, `weir_upstream_requests_in_flight{upstream="b`+"\ufffd"+`"} 2`)
	f("exchanges the function of the same labels in any order", func(m *telemetry.Metrics) error {
		if err := m.GaugeFunc("weir_x", "X.", value(1), "a", "1", "b", "2"); err != nil {
			return err
		}
		return m.GaugeFunc("weir_x", "X.", value(2), "b", "2", "a", "1")
	}, "", `weir_x{a="1",b="2"} 2`)
	f("takes a series away, twice without harm, and adds it again", func(m *telemetry.Metrics) error {
		for _, read := range []func() float64{value(1), nil, nil, value(3)} {
			if err := m.GaugeFunc("weir_x", "X.", read, "a", "1"); err != nil {
				return err
			}
		}
		return m.GaugeFunc("weir_y", "Y.", nil)
	}, "", `weir_x{a="1"} 3`)
	f("refuses a counter without _total", func(m *telemetry.Metrics) error {
		return m.CounterFunc("weir_x", "X.", value(1))
	}, `telemetry: counter "weir_x": the name must end in _total`)
	f("refuses a gauge with _total", func(m *telemetry.Metrics) error {
		return m.GaugeFunc("weir_x_total", "X.", value(1))
	}, `telemetry: gauge "weir_x_total": a name that ends in _total is a counter's`)
	f("refuses half a pair", func(m *telemetry.Metrics) error {
		return m.GaugeFunc("weir_x", "X.", value(1), "upstream")
	}, `telemetry: metric "weir_x": labels ["upstream"]: want pairs of a name and a value`)
	f("refuses the same label twice", func(m *telemetry.Metrics) error {
		return m.GaugeFunc("weir_x", "X.", value(1), "a", "1", "a", "2")
	}, `telemetry: metric "weir_x": label "a": is there twice, want each name once`)
	t.Run("refuses what the client library refuses, and goes on", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		for _, name := range []string{"", "weir_gateway_requests_in_flight", "go_goroutines", "weir_\xff"} {
			err := m.GaugeFunc(name, "Again.", value(1))
			if prefix := fmt.Sprintf("telemetry: metric %q: ", name); err == nil || !strings.HasPrefix(err.Error(), prefix) {
				t.Errorf("error = %v, want one that begins with %s", err, prefix)
			}
		}
		if got := counted(m); got != "" {
			t.Errorf("series = %s, want none", got)
		}
	})
	t.Run("takes at most 4,096 functions", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		var err error
		n := 0
		for ; err == nil && n < 5000; n++ {
			err = m.GaugeFunc("weir_x", "X.", value(1), "n", fmt.Sprint(n))
		}
		if want := `telemetry: metric "weir_x": there are 4096 functions already, want at most that`; n != 4097 || fmt.Sprint(err) != want {
			t.Errorf("error %v after %d, want %s after 4097", err, n, want)
		}
	})
	t.Run("a function that panics is not a number, and the others are told", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		if err := m.GaugeFunc("weir_x", "X.", func() float64 { panic("gone") }); err != nil {
			t.Fatal(err)
		}
		m.RequestStarted("chat")
		if got, want := counted(m), `weir_gateway_requests_in_flight{route="chat"} 1`+"\nweir_x NaN\n"; got != want {
			t.Errorf("series = %s, want %s", got, want)
		}
	})
}

func TestMetricsHandler(t *testing.T) {
	m := telemetry.NewMetrics("v1.2.3", labels())
	m.RequestStarted("chat")
	m.RequestDone("chat", "GET", 200, time.Second)
	f := func(name, accept, wantType, wantLine string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			r := httptest.NewRequest("GET", "/metrics", nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			m.Handler().ServeHTTP(w, r)
			if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, wantType) {
				t.Errorf("Content-Type = %q, want %s", got, wantType)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control = %q, want no-store", got)
			}
			if !strings.Contains("\n"+w.Body.String(), "\n"+wantLine+"\n") {
				t.Errorf("no line %s in\n%s", wantLine, w.Body)
			}
		})
	}
	f("tells what runs", "", "text/plain", `weir_build_info{go="`+runtime.Version()+`",revision="unknown",version="v1.2.3"} 1`)
	f("has the Go runtime's metrics", "", "text/plain", "# TYPE go_goroutines gauge")
	f("has the process's metrics", "", "text/plain", "# TYPE process_cpu_seconds_total counter")
	f("speaks OpenMetrics to who asks", "application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF")
	f("has buckets up to ten minutes", "", "text/plain", `weir_gateway_request_duration_seconds_bucket{route="chat",le="600"} 1`)

	t.Run("compresses on request", func(t *testing.T) {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, r)
		zr, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(zr)
		if err != nil || !strings.Contains(string(text), "weir_build_info{") {
			t.Errorf("%v in %q, want metrics", err, text)
		}
	})
	t.Run("names metrics as Prometheus wants them", func(t *testing.T) {
		problems, err := promlint.New(strings.NewReader(scrape(m))).Lint()
		if err != nil || len(problems) != 0 {
			t.Errorf("%v, %v", problems, err)
		}
	})
	t.Run("names the version of the binary if it is told none", func(t *testing.T) {
		if text := scrape(telemetry.NewMetrics("", labels())); strings.Contains(text, `version=""`) || !strings.Contains(text, "weir_build_info{") {
			t.Error("weir_build_info without a version")
		}
	})
}

func TestMetricsConcurrency(t *testing.T) {
	t.Run("counts while others scrape and reload", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for n := range 1000 {
					m.RequestStarted("chat")
					m.RequestDone("chat", "GET", 200+n%10, time.Millisecond)
				}
			})
		}
		wg.Go(func() {
			for n := range 20 {
				m.Extend(telemetry.Labels{Routes: []string{fmt.Sprint(n)}})
				_ = scrape(m)
			}
		})
		wg.Wait()
		want := `weir_gateway_request_duration_seconds_count{route="chat"} 4000` + "\n"
		for n := range 10 {
			want += fmt.Sprintf(`weir_gateway_requests_total{method="GET",route="chat",status="%d"} 400`+"\n", 200+n)
		}
		// The sum is floating point: it depends on the order of the additions.
		got := regexp.MustCompile(`(?m)^.*_sum\{.*\n`).ReplaceAllString(counted(m), "")
		if got != want {
			t.Errorf("series =\n%swant\n%s", got, want)
		}
	})
	t.Run("counting allocates nothing", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		got := testing.AllocsPerRun(100, func() {
			m.RequestStarted("chat")
			m.RequestDone("chat", "POST", 200, time.Second)
			m.Decision("pro", "daily", telemetry.ResultAllowed)
			m.Cache("chat", telemetry.ResultMiss)
			m.Upstream("llm", telemetry.ResultOK, time.Second, time.Second)
		})
		if got != 0 {
			t.Errorf("%v allocations, want 0", got)
		}
	})
}
