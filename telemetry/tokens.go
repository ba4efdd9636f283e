package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferweir/weir"
)

// maxModels bounds the names of models that have series at a time: they come from
// requests and answers, and many servers repeat whatever name they are asked for.
const maxModels = 100

// tokens are the counters of weir_gateway_tokens_total that were used so far.
type tokens struct {
	mu       sync.RWMutex // guards all below
	models   map[string]bool
	expected map[string]bool // of Labels, which are not among models
	series   map[tokenKey]*tokenSeries
}

type tokenKey struct{ route, model string }

type tokenSeries struct{ input, cached, output prometheus.Counter }

// Tokens counts what one model call of the route used. The models of Labels and the
// first hundred others have series of their own, all else is "other": count only calls
// that used something, so that nobody fills the places with names of no model.
func (m *Metrics) Tokens(route, model string, u weir.Usage) {
	s := m.tokens.find(tokenKey{m.series.Load().route(route).name, clean(model)})
	if s == nil {
		s = m.addTokens(route, clean(model))
	}
	s.input.Add(float64(max(u.Input, 0)))
	s.cached.Add(float64(max(u.Cached, 0)))
	s.output.Add(float64(max(u.Output, 0)))
}

// expect adds names of Labels.
func (t *tokens) expect(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if name = clean(name); len(name) <= maxString {
			t.expected[name] = true
		}
	}
}

// expectOnly forgets all names of Labels but these.
func (t *tokens) expectOnly(names []string) {
	t.mu.Lock()
	clear(t.expected)
	t.mu.Unlock()
	t.expect(names)
}

func (t *tokens) find(key tokenKey) *tokenSeries {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.series[key]
}

func (m *Metrics) addTokens(route, model string) *tokenSeries {
	t, vec := &m.tokens, m.vecs.tokens
	t.mu.Lock()
	defer t.mu.Unlock()
	// Under the lock, or it could be a route whose series were just taken away.
	key := tokenKey{m.series.Load().route(route).name, model}
	switch {
	case t.expected[key.model], t.models[key.model]:
	case len(t.models) >= maxModels || len(key.model) > maxString:
		key.model = Other
	default:
		t.models[key.model] = true
	}
	s := t.series[key]
	if s == nil {
		s = &tokenSeries{
			input:  vec.WithLabelValues(key.route, key.model, "input"),
			cached: vec.WithLabelValues(key.route, key.model, "cached"),
			output: vec.WithLabelValues(key.route, key.model, "output"),
		}
		t.series[key] = s
	}
	return s
}
