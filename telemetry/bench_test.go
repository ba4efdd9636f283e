package telemetry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/inferweir/weir/telemetry"
)

func BenchmarkRequestDone(b *testing.B) {
	m := telemetry.NewMetrics("v1", labels())
	b.ReportAllocs()
	for b.Loop() {
		m.RequestStarted("chat")
		m.RequestDone("chat", "POST", 200, 12*time.Millisecond)
	}
}

func BenchmarkAccessLog(b *testing.B) {
	l := telemetry.NewAccessLog(io.Discard, telemetry.LogOptions{})
	e := full()
	b.ReportAllocs()
	for b.Loop() {
		l.Log(e)
	}
	b.ReportMetric(float64(l.Dropped()), "dropped")
}

func BenchmarkTimingsHeader(b *testing.B) {
	var t telemetry.Timings
	t.Add(telemetry.PhaseUpstream, 12*time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		_ = t.Header()
	}
}

func BenchmarkTiming(b *testing.B) {
	h := telemetry.Timing(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		telemetry.Start(r.Context(), "db")()
		w.WriteHeader(http.StatusNoContent)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		clear(w.Header())
		h.ServeHTTP(w, r)
	}
}

func BenchmarkRequestID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = telemetry.RequestID(nil)
	}
}

// BenchmarkMetricsAndLog is what a request costs beside its own work: a full entry
// through the metrics and into the log, whose writer is the fastest.
func BenchmarkMetricsAndLog(b *testing.B) {
	m := telemetry.NewMetrics("v1", labels())
	l := telemetry.NewAccessLog(io.Discard, telemetry.LogOptions{})
	e := complete()
	e.Target = "http://10.0.0.1:8000" // as the gateway has it
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		m.RequestStarted(e.Route)
		m.Observe(&e, false)
		l.Log(e)
		if n%256 == 0 { // or lines would be dropped, which costs less
			if err := l.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(l.Dropped()), "dropped")
}
