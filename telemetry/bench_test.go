package telemetry_test

import (
	"io"
	"log/slog"
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
	l := telemetry.NewAccessLog(io.Discard, slog.LevelInfo)
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
