package telemetry

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// buckets go from a hit in the cache to the longest generation, in seconds.
func buckets() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
}

// tokenBuckets go from a small model on a large machine to one that nobody waits for.
func tokenBuckets() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}
}

// vectors are the metrics with labels.
type vectors struct {
	requests, decisions, cache, calls    *prometheus.CounterVec
	tokens, savedSeconds, savedTokens    *prometheus.CounterVec
	errors, refusals, answers            *prometheus.CounterVec
	inFlight                             *prometheus.GaugeVec
	duration, clientFirst, tokenGap      *prometheus.HistogramVec // of routes
	firstByte, callsDuration, queueWaits *prometheus.HistogramVec // of upstreams
}

func newVectors() vectors {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return vectors{
		requests: counter("weir_gateway_requests_total",
			"Answered requests.", "route", "method", "status"),
		duration: newHistogram("weir_gateway_request_duration_seconds",
			"Time from receiving a request to the last byte of its answer.", "route", buckets()),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_gateway_requests_in_flight",
			Help: "Requests that are received and not yet answered in full."}, []string{"route"}),
		errors: counter("weir_gateway_errors_total",
			"Requests that ended with a status of 500 or above, but for those that were refused because of the queue, the shared store or the request itself.", "route"),
		refusals: counter("weir_gateway_refusals_total",
			"Requests that neither a model nor the cache has answered, and why.", "route", "reason"),
		answers: counter("weir_upstream_answers_total",
			"Answers of an upstream by the class of their status, every retry and hedge on its own.", "upstream", "class"),
		decisions: counter("weir_ratelimit_decisions_total",
			"What each policy said, once for each request that it judged.", "scope", "policy", "result"),
		cache: counter("weir_cache_requests_total",
			"What the cache did, once for each request of a caching route.", "route", "result"),
		calls: counter("weir_upstream_requests_total",
			"Calls to an upstream, every retry and hedge on its own.", "upstream", "result"),
		tokens: counter("weir_gateway_tokens_total",
			"Tokens that model calls used. Of the input, cached is the part that the model server had in its prefix cache.",
			"route", "model", "kind"),
		savedSeconds: counter("weir_cache_saved_seconds_total",
			"Time of models that answers from the cache, and of flights that were joined, did not cost.", "route"),
		savedTokens: counter("weir_cache_saved_tokens_total",
			"Tokens that answers from the cache, and of flights that were joined, did not cost.", "route"),
		clientFirst: newHistogram("weir_gateway_first_byte_seconds",
			"Time from receiving a request to the head of its answer, of those below 400.", "route", buckets()),
		tokenGap: newHistogram("weir_gateway_output_token_seconds",
			"Mean time between two output tokens of a stream, once for each stream.", "route", tokenBuckets()),
		firstByte: newHistogram("weir_upstream_first_byte_seconds",
			"Time from sending a call until the header of its answer.", "upstream", buckets()),
		callsDuration: newHistogram("weir_upstream_duration_seconds",
			"Time from sending a call until the last byte of its answer.", "upstream", buckets()),
		queueWaits: newHistogram("weir_admission_wait_duration_seconds",
			"How long each attempt of a request, and each hedge, waited for the place that it got.", "upstream", buckets()),
	}
}

// newHistogram has buckets for servers that know no others, and native ones, each a tenth
// wider than the one before, for those that do: 100 of them at most, of which the
// narrowest are joined where there would be more.
func newHistogram(name, help, label string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{label})
}

func (v *vectors) all() []prometheus.Collector {
	return []prometheus.Collector{
		v.requests, v.errors, v.refusals, v.answers, v.duration, v.clientFirst, v.tokenGap, v.inFlight, v.decisions, v.cache, v.savedSeconds, v.savedTokens,
		v.calls, v.tokens, v.firstByte, v.callsDuration, v.queueWaits,
	}
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

	firstByte, tokenGap       prometheus.Observer
	savedSeconds, savedTokens prometheus.Counter
	errors                    prometheus.Counter
	refusals                  [refusalCount]prometheus.Counter // by refusalIndex

	cache struct {
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

		firstByte:    v.clientFirst.WithLabelValues(name),
		tokenGap:     v.tokenGap.WithLabelValues(name),
		savedSeconds: v.savedSeconds.WithLabelValues(name),
		savedTokens:  v.savedTokens.WithLabelValues(name),
		errors:       v.errors.WithLabelValues(name),
	}
	for i, reason := range refusals() {
		r.refusals[i] = v.refusals.WithLabelValues(name, reason)
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

// counted returns the counter for a method and a status, nil where there is none yet.
func (r *routeSeries) counted(method, status int) prometheus.Counter {
	if table := r.methods[method].Load(); table != nil {
		if c := table[status].Load(); c != nil {
			return *c
		}
	}
	return nil
}

// requests returns the counter of r for a method and a status. One that is not there is
// made under the lock: of a route that is gone by now nothing is made, and it counts as
// "other".
func (m *Metrics) requests(r *routeSeries, method, status int) prometheus.Counter {
	if c := r.counted(method, status); c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if all := m.series.Load(); all.routes[r.name] != r {
		r = all.routes[Other]
	}
	if c := r.counted(method, status); c != nil {
		return c
	}
	table := r.methods[method].Load()
	if table == nil {
		table = new(statusTable)
		r.methods[method].Store(table)
	}
	c := m.vecs.requests.WithLabelValues(r.name, methodLabel(method), statusLabel(status))
	table[status].Store(&c)
	return c
}

// upstreamSeries are the metrics of one upstream.
type upstreamSeries struct {
	ok, failed, timeout, cancelled, busy, open, other prometheus.Counter
	answers                                           [classCount]prometheus.Counter // from 1xx

	firstByte, duration, waits prometheus.Observer
}

// classCount is how many classes of statuses there are.
const classCount = 5

func newUpstreamSeries(v *vectors, name string) *upstreamSeries {
	u := &upstreamSeries{
		ok:        v.calls.WithLabelValues(name, ResultOK),
		failed:    v.calls.WithLabelValues(name, ResultError),
		timeout:   v.calls.WithLabelValues(name, ResultTimeout),
		cancelled: v.calls.WithLabelValues(name, ResultCancelled),
		busy:      v.calls.WithLabelValues(name, ResultBusy),
		open:      v.calls.WithLabelValues(name, ResultOpen),
		other:     v.calls.WithLabelValues(name, Other),
		firstByte: v.firstByte.WithLabelValues(name),
		duration:  v.callsDuration.WithLabelValues(name),
		waits:     v.queueWaits.WithLabelValues(name),
	}
	for i, class := range classes() {
		u.answers[i] = v.answers.WithLabelValues(name, class)
	}
	return u
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
