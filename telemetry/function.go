package telemetry

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxFunctions bounds the metrics that are read from functions.
const maxFunctions = 4096

// function is a metric whose value is read at scrape time. What it reads can
// be exchanged without a gap in the series.
type function struct {
	collector prometheus.Collector
	read      atomic.Pointer[func() float64]
}

// value is NaN where the function panics: one broken gauge must not hide all
// other metrics from the people who look for the fault.
func (f *function) value() (v float64) {
	defer func() {
		if recover() != nil {
			v = math.NaN()
		}
	}()
	return (*f.read.Load())()
}

// GaugeFunc adds a gauge whose value f gives at each scrape: f must be quick
// and may be called concurrently; if it panics the value is NaN. The labels are pairs of a name and a value.
// Metrics of one name need the same help and the same label names.
//
//	m.GaugeFunc("weir_upstream_requests_in_flight", "…", pool.Busy, "upstream", "llm")
//
// The same name with the same labels again exchanges f, which is what a reload
// needs; a nil f takes the series away. The error says what does not fit, and
// then nothing has changed.
func (m *Metrics) GaugeFunc(name, help string, f func() float64, labels ...string) error {
	if isCounter(name) {
		return fmt.Errorf("telemetry: gauge %q: a name that ends in _total is a counter's", name)
	}
	return m.function(name, help, f, labels)
}

// CounterFunc is GaugeFunc for a value that only grows. The name must end in
// "_total".
func (m *Metrics) CounterFunc(name, help string, f func() float64, labels ...string) error {
	if !isCounter(name) {
		return fmt.Errorf("telemetry: counter %q: the name must end in _total", name)
	}
	return m.function(name, help, f, labels)
}

func isCounter(name string) bool { return strings.HasSuffix(name, "_total") }

// function adds, exchanges or removes one; its kind follows from the name.
func (m *Metrics) function(name, help string, read func() float64, pairs []string) error {
	labels, err := labelMap(pairs)
	if err != nil {
		return fmt.Errorf("telemetry: metric %q: %w", name, err)
	}
	key := functionKey(name, labels)
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.funcs[key]
	switch {
	case read == nil && old == nil:
		return nil
	case read == nil:
		m.registry.Unregister(old.collector)
		delete(m.funcs, key)
		return nil
	case old != nil:
		old.read.Store(&read)
		return nil
	case len(m.funcs) >= maxFunctions:
		return fmt.Errorf("telemetry: metric %q: there are %d functions already, want at most that", name, maxFunctions)
	}
	f := &function{}
	f.read.Store(&read)
	if isCounter(name) {
		f.collector = prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, f.value)
	} else {
		f.collector = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f.value)
	}
	if err := m.registry.Register(f.collector); err != nil {
		return fmt.Errorf("telemetry: metric %q: %w", name, err)
	}
	m.funcs[key] = f
	return nil
}

func labelMap(pairs []string) (prometheus.Labels, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("labels %q: want pairs of a name and a value", pairs)
	}
	labels := make(prometheus.Labels, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		if _, ok := labels[pairs[i]]; ok {
			return nil, fmt.Errorf("label %q: is there twice, want each name once", pairs[i])
		}
		labels[pairs[i]] = clean(pairs[i+1])
	}
	return labels, nil
}

// functionKey is the same for the same labels in any order.
func functionKey(name string, labels prometheus.Labels) string {
	b := []byte(name)
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		b = strconv.AppendQuote(b, label)
		b = strconv.AppendQuote(b, labels[label])
	}
	return string(b)
}
