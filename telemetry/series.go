package telemetry

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// buckets go from a hit in the cache to the longest generation, in seconds.
func buckets() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
}

// vectors are the metrics with labels.
type vectors struct {
	requests, decisions, cache, calls  *prometheus.CounterVec
	tokens                             *prometheus.CounterVec
	inFlight                           *prometheus.GaugeVec
	duration, firstByte, callsDuration *prometheus.HistogramVec
}

func newVectors() vectors {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets()}, labels)
	}
	return vectors{
		requests: counter("weir_gateway_requests_total",
			"Answered requests.", "route", "method", "status"),
		duration: histogram("weir_gateway_request_duration_seconds",
			"Time from receiving a request to the last byte of its answer.", "route"),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_gateway_requests_in_flight",
			Help: "Requests that are received and not yet answered in full."}, []string{"route"}),
		decisions: counter("weir_ratelimit_decisions_total",
			"What each policy said, once for each request that it judged.", "scope", "policy", "result"),
		cache: counter("weir_cache_requests_total",
			"What the cache did, once for each request of a caching route.", "route", "result"),
		calls: counter("weir_upstream_requests_total",
			"Calls to an upstream, every retry and hedge on its own.", "upstream", "result"),
		tokens: counter("weir_gateway_tokens_total",
			"Tokens that model calls used. Of the input, cached is the part that the model server had in its prefix cache.",
			"route", "model", "kind"),
		firstByte: histogram("weir_upstream_first_byte_seconds",
			"Time from sending a call until the header of its answer.", "upstream"),
		callsDuration: histogram("weir_upstream_duration_seconds",
			"Time from sending a call until the last byte of its answer.", "upstream"),
	}
}

func (v *vectors) all() []prometheus.Collector {
	return []prometheus.Collector{v.requests, v.duration, v.inFlight, v.decisions, v.cache, v.calls, v.tokens, v.firstByte, v.callsDuration}
}

// series are the resolved metrics of all label values. A stored one is never
// changed, so that counting reads it without a lock.
type series struct {
	routes    map[string]*routeSeries
	upstreams map[string]*upstreamSeries
	scopes    map[string]map[string]*policySeries
	policies  int // in all scopes
}

func newSeries() *series {
	return &series{
		routes:    map[string]*routeSeries{},
		upstreams: map[string]*upstreamSeries{},
		scopes:    map[string]map[string]*policySeries{},
	}
}

func (s *series) clone() *series {
	c := &series{
		routes: maps.Clone(s.routes), upstreams: maps.Clone(s.upstreams),
		scopes: make(map[string]map[string]*policySeries, len(s.scopes)), policies: s.policies,
	}
	for scope, policies := range s.scopes {
		c.scopes[scope] = maps.Clone(policies)
	}
	return c
}

// add resolves the values that are new. Every scope has a policy "other".
func (s *series) add(v *vectors, l Labels) {
	for _, name := range l.Routes {
		name = clean(name)
		if s.routes[name] == nil && len(s.routes) < maxLabels {
			s.routes[name] = newRouteSeries(v, name)
		}
	}
	for _, name := range l.Upstreams {
		name = clean(name)
		if s.upstreams[name] == nil && len(s.upstreams) < maxLabels {
			s.upstreams[name] = newUpstreamSeries(v, name)
		}
	}
	for scope, names := range l.Policies {
		scope = clean(scope)
		if s.scopes[scope] == nil {
			if s.policies >= maxLabels {
				continue
			}
			s.scopes[scope] = map[string]*policySeries{Other: newPolicySeries(v, scope, Other)}
			s.policies++
		}
		for _, name := range names {
			name = clean(name)
			if s.scopes[scope][name] == nil && s.policies < maxLabels {
				s.scopes[scope][name] = newPolicySeries(v, scope, name)
				s.policies++
			}
		}
	}
}

// clean makes a value that the client library accepts.
func clean(value string) string { return strings.ToValidUTF8(value, "\ufffd") }

func (s *series) route(name string) *routeSeries {
	if r, ok := s.routes[name]; ok {
		return r
	}
	return s.routes[Other]
}

func (s *series) upstream(name string) *upstreamSeries {
	if u, ok := s.upstreams[name]; ok {
		return u
	}
	return s.upstreams[Other]
}

func (s *series) policy(scope, name string) *policySeries {
	policies, ok := s.scopes[scope]
	if !ok {
		policies = s.scopes[Other]
	}
	if p, ok := policies[name]; ok {
		return p
	}
	return policies[Other]
}

// routeSeries are the metrics of one route.
type routeSeries struct {
	name     string
	inFlight prometheus.Gauge
	duration prometheus.Observer
	cache    struct {
		hit, stale, revalidated, semantic, collapsed, miss, bypass, other prometheus.Counter
	}
	// methods has a table of counters for each method that was seen, with one
	// place for each status. They fill on demand: all would be 4,509 a route.
	methods [methodCount]atomic.Pointer[statusTable]
}

type statusTable [statusCount]atomic.Pointer[prometheus.Counter]

func newRouteSeries(v *vectors, name string) *routeSeries {
	r := &routeSeries{
		name:     name,
		inFlight: v.inFlight.WithLabelValues(name),
		duration: v.duration.WithLabelValues(name),
	}
	r.cache.hit = v.cache.WithLabelValues(name, ResultHit)
	r.cache.stale = v.cache.WithLabelValues(name, ResultStale)
	r.cache.revalidated = v.cache.WithLabelValues(name, ResultRevalidated)
	r.cache.semantic = v.cache.WithLabelValues(name, ResultSemantic)
	r.cache.collapsed = v.cache.WithLabelValues(name, ResultCollapsed)
	r.cache.miss = v.cache.WithLabelValues(name, ResultMiss)
	r.cache.bypass = v.cache.WithLabelValues(name, ResultBypass)
	r.cache.other = v.cache.WithLabelValues(name, Other)
	return r
}

// requests returns the counter for a method and a status. Two that come first
// at once get the same counter from vec, so it does not matter whose pointer
// stays.
func (r *routeSeries) requests(vec *prometheus.CounterVec, method, status int) prometheus.Counter {
	table := r.methods[method].Load()
	if table == nil {
		r.methods[method].CompareAndSwap(nil, new(statusTable))
		table = r.methods[method].Load()
	}
	if c := table[status].Load(); c != nil {
		return *c
	}
	c := vec.WithLabelValues(r.name, methodLabel(method), statusLabel(status))
	table[status].Store(&c)
	return c
}

// upstreamSeries are the metrics of one upstream.
type upstreamSeries struct {
	ok, failed, timeout, cancelled, busy, open, other prometheus.Counter

	firstByte, duration prometheus.Observer
}

func newUpstreamSeries(v *vectors, name string) *upstreamSeries {
	return &upstreamSeries{
		ok:        v.calls.WithLabelValues(name, ResultOK),
		failed:    v.calls.WithLabelValues(name, ResultError),
		timeout:   v.calls.WithLabelValues(name, ResultTimeout),
		cancelled: v.calls.WithLabelValues(name, ResultCancelled),
		busy:      v.calls.WithLabelValues(name, ResultBusy),
		open:      v.calls.WithLabelValues(name, ResultOpen),
		other:     v.calls.WithLabelValues(name, Other),
		firstByte: v.firstByte.WithLabelValues(name),
		duration:  v.callsDuration.WithLabelValues(name),
	}
}

// policySeries are the decisions of one policy.
type policySeries struct {
	allowed, denied, shadow, other prometheus.Counter
}

func newPolicySeries(v *vectors, scope, name string) *policySeries {
	return &policySeries{
		allowed: v.decisions.WithLabelValues(scope, name, ResultAllowed),
		denied:  v.decisions.WithLabelValues(scope, name, ResultDenied),
		shadow:  v.decisions.WithLabelValues(scope, name, ResultShadow),
		other:   v.decisions.WithLabelValues(scope, name, Other),
	}
}

const (
	methodCount = 9 // the eight known ones, and "other" at 0
	statusCount = 1 + 599 - 100 + 1
)

func methodIndex(method string) int {
	switch method {
	case http.MethodGet:
		return 1
	case http.MethodHead:
		return 2
	case http.MethodPost:
		return 3
	case http.MethodPut:
		return 4
	case http.MethodPatch:
		return 5
	case http.MethodDelete:
		return 6
	case http.MethodOptions:
		return 7
	case "QUERY":
		return 8
	}
	return 0
}

func methodLabel(index int) string {
	return [methodCount]string{Other, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodPatch, http.MethodDelete, http.MethodOptions, "QUERY"}[index]
}

func statusIndex(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status - 99
}

func statusLabel(index int) string {
	if index == 0 {
		return Other
	}
	return strconv.Itoa(index + 99)
}
