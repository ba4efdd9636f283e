package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestFailuresAreToldOnceAMinute(t *testing.T) {
	var log bytes.Buffer
	f := failures{log: slog.New(slog.NewTextHandler(&log, nil))}
	start := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for second := range 150 {
		f.failed("traces", errors.New("Post \"http://127.0.0.1:4318/v1/traces?key=secret\": refused"), start.Add(time.Duration(second)*time.Second))
	}
	f.failed("metrics", errors.New("refused"), start.Add(150*time.Second))
	if n := strings.Count(log.String(), "does not take what it is sent"); n != 3 || strings.Contains(log.String(), "secret") {
		t.Errorf("told %d times, want 3 and no secret:\n%s", n, log.String())
	}
	if traces, metrics := f.traces.Load(), f.metrics.Load(); traces != 150 || metrics != 1 {
		t.Errorf("counted %d of traces and %d of metrics, want 150 and 1", traces, metrics)
	}
}
