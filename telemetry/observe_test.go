package telemetry_test

import (
	"bufio"
	"io"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

func TestMetricsObserveEntries(t *testing.T) {
	f := func(name string, e telemetry.Entry, inBackground bool, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			m := telemetry.NewMetrics("v1", labels())
			if !inBackground {
				m.RequestStarted(e.Route)
			}
			m.Observe(&e, inBackground)
			wanted := ""
			for _, line := range want {
				wanted += line + "\n"
			}
			if got := counted(m); got != wanted {
				t.Errorf("series =\n%swant\n%s", got, wanted)
			}
		})
	}
	f("all that there is to tell", telemetry.Entry{
		Route: "chat", Method: "POST", Status: 200, Duration: 2 * time.Second, FirstByte: 500 * time.Millisecond,
		Stream: true, Model: "llama", Usage: weir.Usage{Input: 100, Cached: 40, Output: 7}, CacheResult: telemetry.ResultMiss,
	}, false,
		`weir_cache_requests_total{result="miss",route="chat"} 1`,
		`weir_gateway_first_byte_seconds_sum{route="chat"} 0.5`,
		`weir_gateway_first_byte_seconds_count{route="chat"} 1`,
		`weir_gateway_output_token_seconds_sum{route="chat"} 0.25`,
		`weir_gateway_output_token_seconds_count{route="chat"} 1`,
		`weir_gateway_request_duration_seconds_sum{route="chat"} 2`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 1`,
		`weir_gateway_requests_total{method="POST",route="chat",status="200"} 1`,
		`weir_gateway_tokens_total{kind="cached",model="llama",route="chat"} 40`,
		`weir_gateway_tokens_total{kind="input",model="llama",route="chat"} 100`,
		`weir_gateway_tokens_total{kind="output",model="llama",route="chat"} 7`)
	f("what a hit has saved", telemetry.Entry{
		Route: "chat", Method: "POST", Status: 200, Stream: true, CacheResult: telemetry.ResultHit, Saved: 1500 * time.Millisecond, SavedTokens: 77,
	}, false,
		`weir_cache_requests_total{result="hit",route="chat"} 1`,
		`weir_cache_saved_seconds_total{route="chat"} 1.5`,
		`weir_cache_saved_tokens_total{route="chat"} 77`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 1`,
		`weir_gateway_requests_total{method="POST",route="chat",status="200"} 1`)
	f("a refusal, whose first byte says nothing of the model", telemetry.Entry{
		Route: "chat", Method: "POST", Status: 429, Duration: time.Second, FirstByte: time.Second,
	}, false,
		`weir_gateway_request_duration_seconds_sum{route="chat"} 1`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 1`,
		`weir_gateway_requests_total{method="POST",route="chat",status="429"} 1`)
	f("an answer of one token, which has no gap", telemetry.Entry{
		Route: "chat", Method: "POST", Status: 200, Duration: time.Second, FirstByte: time.Second / 2, Stream: true, Usage: weir.Usage{Output: 1},
	}, false,
		`weir_gateway_first_byte_seconds_sum{route="chat"} 0.5`,
		`weir_gateway_first_byte_seconds_count{route="chat"} 1`,
		`weir_gateway_request_duration_seconds_sum{route="chat"} 1`,
		`weir_gateway_request_duration_seconds_count{route="chat"} 1`,
		`weir_gateway_requests_total{method="POST",route="chat",status="200"} 1`,
		`weir_gateway_tokens_total{kind="output",model="",route="chat"} 1`)
	f("in the background the model alone", telemetry.Entry{
		Route: "chat", Method: "POST", Status: 200, Duration: time.Second, FirstByte: time.Second / 2, CacheResult: telemetry.ResultMiss,
		Saved: time.Second, Stream: true, Model: "llama", Usage: weir.Usage{Output: 9},
	}, true, `weir_gateway_tokens_total{kind="output",model="llama",route="chat"} 9`)
}

func TestMetricsAdmitted(t *testing.T) {
	m := telemetry.NewMetrics("v1", labels())
	m.Admitted("llm", 0)
	m.Admitted("llm", 2*time.Second)
	m.Admitted("elsewhere", -time.Second)
	want := `weir_admission_wait_duration_seconds_sum{upstream="llm"} 2` + "\n" +
		`weir_admission_wait_duration_seconds_count{upstream="llm"} 2` + "\n" +
		`weir_admission_wait_duration_seconds_count{upstream="other"} 1` + "\n"
	if got := counted(m); got != want {
		t.Errorf("series =\n%swant\n%s", got, want)
	}
}

// TestAMillionOfEverything has clients that never say the same twice.
func TestAMillionOfEverything(t *testing.T) {
	m := telemetry.NewMetrics("v1", labels())
	e := complete()
	for i := range 1_000_000 {
		n := strconv.Itoa(i)
		e.Caller, e.Client, e.Path, e.Model, e.RequestID, e.Method = "key:"+n, n, "/"+n, n, n, n
		e.UserAgent, e.CacheKey, e.Job, e.Status = n, n, n, i%1000
		if i%2 == 0 {
			e.Route, e.Upstream, e.Policy = n, n, n
		} else {
			e.Route = "chat"
		}
		m.RequestStarted(e.Route)
		m.Observe(&e, false)
	}
	page := scrape(m)
	if len(page) > 1<<20 {
		t.Errorf("the page has %d bytes, want 1 MiB at most", len(page))
	}
	if !strings.Contains(page, `weir_gateway_request_duration_seconds_count{route="chat"} 500000`) ||
		!strings.Contains(page, `weir_gateway_request_duration_seconds_count{route="other"} 500000`) {
		t.Error("the requests were not all counted")
	}
	t.Logf("the page has %d bytes", len(page))
}

// TestNativeHistograms reads the one form of the page that can tell them.
func TestNativeHistograms(t *testing.T) {
	m := telemetry.NewMetrics("v1", labels())
	for i := range 2000 { // from 1 µs to 20 minutes: more buckets than there may be
		d := time.Microsecond << (i % 31)
		m.RequestStarted("chat")
		m.Observe(&telemetry.Entry{
			Route: "chat", Method: "POST", Status: 200, Duration: d + time.Duration(i), FirstByte: d, Stream: true, Usage: weir.Usage{Output: 2},
		}, false)
		m.Upstream("llm", telemetry.ResultOK, d, d)
		m.Admitted("llm", d)
	}
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	in, native := bufio.NewReader(w.Body), []string{}
	for {
		var family dto.MetricFamily
		if err := protodelim.UnmarshalFrom(in, &family); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if family.GetType() != dto.MetricType_HISTOGRAM || !strings.HasPrefix(family.GetName(), "weir_") {
			continue
		}
		native = append(native, family.GetName())
		for _, one := range family.GetMetric() {
			h := one.GetHistogram()
			if h.Schema == nil || len(h.GetBucket()) == 0 {
				t.Errorf("%s has the schema %v and %d classic buckets, want both kinds", family.GetName(), h.Schema, len(h.GetBucket()))
			}
			if n := len(h.GetPositiveDelta()); n > 100 || h.GetSampleCount() > 0 && n < 5 {
				t.Errorf("%s has %d native buckets, want some and 100 at most", family.GetName(), n)
			}
		}
	}
	want := []string{
		"weir_admission_wait_duration_seconds", "weir_gateway_first_byte_seconds", "weir_gateway_output_token_seconds",
		"weir_gateway_request_duration_seconds", "weir_upstream_duration_seconds", "weir_upstream_first_byte_seconds",
	}
	if !slices.Equal(native, want) {
		t.Errorf("native histograms are %q, want %q", native, want)
	}
}

func TestObserveAndLogAllocateNothing(t *testing.T) {
	m := telemetry.NewMetrics("v1", labels())
	l := telemetry.NewAccessLog(io.Discard, telemetry.LogOptions{})
	e := complete()
	e.Target = "http://10.0.0.1:8000" // without a password to take out
	for range 100 {                   // the buffers grow to their size
		l.Log(e)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := testing.AllocsPerRun(50, func() {
		m.RequestStarted(e.Route)
		m.Observe(&e, false)
		l.Log(e)
	})
	if got >= 1 { // a pool that the collector emptied counts for a part of one
		t.Errorf("%v allocations, want none", got)
	}
}
