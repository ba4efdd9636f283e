package telemetry

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Other is the label value of everything that is in no closed set, so that
// nobody outside can make series.
const Other = "other"

// Results of a policy's decision, for Metrics.Decision.
const (
	ResultAllowed = "allowed"
	ResultDenied  = "denied"
	// ResultShadow is a denial by a policy in shadow mode: the request went on.
	ResultShadow = "shadow"
)

// Results of a cache look-up, for Metrics.Cache.
const (
	ResultHit         = "hit"         // fresh, answered from the store, 304 too
	ResultStale       = "stale"       // answered from the store past its lifetime
	ResultRevalidated = "revalidated" // the upstream confirmed the stored answer
	ResultSemantic    = "semantic"    // answered with a near question's answer
	ResultCollapsed   = "collapsed"   // joined another request's flight
	ResultMiss        = "miss"        // went upstream
	ResultBypass      = "bypass"      // the cache was not asked
)

// Results of a call to an upstream, for Metrics.Upstream.
const (
	ResultOK        = "ok"        // an answer came to its end, 4xx and 5xx too
	ResultError     = "error"     // no answer, or one that broke off
	ResultTimeout   = "timeout"   // one of the upstream's timeouts ran out
	ResultCancelled = "cancelled" // the client left
	ResultBusy      = "busy"      // no slot or connection in time
	ResultOpen      = "open"      // the circuit breaker let nothing through
)

// maxLabels bounds the values that each label has at a time; further ones count as
// "other".
const maxLabels = 4096

// Labels are the closed sets that label values come from. Invalid UTF-8 in them
// is replaced.
type Labels struct {
	// Routes and Upstreams are the configured names.
	Routes, Upstreams []string
	// Policies has the names of the policies of each scope, a plan or a route.
	Policies map[string][]string
	// Models are names of models that have series of their own whatever else clients
	// ask for.
	Models []string
}

// Metrics counts what a gateway does. Each has a registry of its own. Its
// methods may be called concurrently, and the counting ones do not allocate
// once a series exists. A label value outside of the closed sets counts as
// "other".
type Metrics struct {
	registry *prometheus.Registry
	vecs     vectors
	series   atomic.Pointer[series]
	tokens   tokens

	mu    sync.Mutex // guards changes of series, new counters of routes, and functions
	funcs map[string]*function
}

// NewMetrics returns metrics for the labels, with the collectors of the Go
// runtime and of the process. The version is told in weir_build_info; "" takes
// the main module's from the binary.
func NewMetrics(version string, l Labels) *Metrics {
	if version == "" {
		version = "unknown"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			version = info.Main.Version
		}
	}
	m := &Metrics{registry: prometheus.NewRegistry(), vecs: newVectors(), funcs: map[string]*function{}}
	m.tokens.models, m.tokens.expected, m.tokens.series = map[string]bool{}, map[string]bool{}, map[tokenKey]*tokenSeries{}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "weir_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": clean(version), "revision": revision(), "go": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.vecs.all()...)
	m.series.Store(newSeries())
	m.Extend(Labels{Routes: []string{Other}, Upstreams: []string{Other}, Policies: map[string][]string{Other: nil}})
	m.Extend(l)
	return m
}

// revision is the commit that the program was made of, with "-dirty" where it was
// changed; "unknown" where it was made without one.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	commit, changed := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && s.Value != "":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "-dirty"
		}
	}
	return clean(commit + changed)
}

// Extend adds label values, for a new configuration: call it before the first
// request sees that configuration. What was counted so far stays, and names
// that are gone keep their series until Retain, because requests that began under
// them still end. Each label holds at most 4096 values; further ones are "other".
func (m *Metrics) Extend(l Labels) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.series.Load().clone()
	next.add(&m.vecs, l)
	m.series.Store(next)
	m.tokens.expect(l.Models)
}

// RequestStarted counts a request of the route as in flight. RequestDone with
// the same route must follow.
func (m *Metrics) RequestStarted(route string) {
	m.series.Load().route(route).inFlight.Inc()
}

// RequestDone counts an answered request: d is the time from receiving it to
// the last byte of its answer. A status outside of 100 to 599 and a method
// that is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS and QUERY
// count as "other".
func (m *Metrics) RequestDone(route, method string, status int, d time.Duration) {
	r := m.series.Load().route(route)
	r.inFlight.Dec()
	r.duration.Observe(max(d, 0).Seconds())
	m.requests(r, methodIndex(method), statusIndex(status)).Inc()
}

// Decision counts what one policy said about one request. The scope is the
// plan or the route that the policy belongs to.
func (m *Metrics) Decision(scope, policy, result string) {
	p := m.series.Load().policy(scope, policy)
	switch result {
	case ResultAllowed:
		p.allowed.Inc()
	case ResultDenied:
		p.denied.Inc()
	case ResultShadow:
		p.shadow.Inc()
	default:
		p.other.Inc()
	}
}

// Cache counts what the cache did for a request of the route.
func (m *Metrics) Cache(route, result string) {
	c := &m.series.Load().route(route).cache
	switch result {
	case ResultHit:
		c.hit.Inc()
	case ResultStale:
		c.stale.Inc()
	case ResultRevalidated:
		c.revalidated.Inc()
	case ResultSemantic:
		c.semantic.Inc()
	case ResultCollapsed:
		c.collapsed.Inc()
	case ResultMiss:
		c.miss.Inc()
	case ResultBypass:
		c.bypass.Inc()
	default:
		c.other.Inc()
	}
}

// Upstream counts one call to an upstream, every retry and hedge on its own.
// firstByte is the time until the answer's header, total until its last byte;
// 0 or less means that it did not come so far, and is not observed.
func (m *Metrics) Upstream(upstream, result string, firstByte, total time.Duration) {
	u := m.series.Load().upstream(upstream)
	if firstByte > 0 {
		u.firstByte.Observe(firstByte.Seconds())
	}
	if total > 0 {
		u.duration.Observe(total.Seconds())
	}
	switch result {
	case ResultOK:
		u.ok.Inc()
	case ResultError:
		u.failed.Inc()
	case ResultTimeout:
		u.timeout.Inc()
	case ResultCancelled:
		u.cancelled.Inc()
	case ResultBusy:
		u.busy.Inc()
	case ResultOpen:
		u.open.Inc()
	default:
		u.other.Inc()
	}
}

// UpstreamAnswer counts the status of an upstream's answer, every retry and hedge on its
// own. One outside of 100 to 599 is none.
func (m *Metrics) UpstreamAnswer(upstream string, status int) {
	if class := status / 100; class >= 1 && class <= classCount {
		m.series.Load().upstream(upstream).answers[class-1].Inc()
	}
}

// Admitted counts a request that got a place at the upstream, and how long it waited for
// it; 0 where there was one.
func (m *Metrics) Admitted(upstream string, wait time.Duration) {
	m.series.Load().upstream(upstream).waits.Observe(max(wait, 0).Seconds())
}

// Handler is /metrics: the Prometheus text format, or OpenMetrics for who asks
// for it, compressed on request, to GET and HEAD only and never cacheable. A
// metric that cannot be collected is missing, and counted in
// promhttp_metric_handler_errors_total, without taking the others with it. At
// most 8 scrapes run at once; further ones get 503.
func (m *Metrics) Handler() http.Handler {
	return readOnly(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		Registry:            m.registry,
		MaxRequestsInFlight: 8,
		EnableOpenMetrics:   true,
	}))
}
