package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
	"github.com/inferweir/weir/upstream"
)

// build makes the setup of c, with the values that load has moved. It takes over from
// was all that can go on: what it makes anew nobody uses until swap. With an error, that
// is closed again.
func (g *Gateway) build(c *config.Config, moved moved, was *setup) (*setup, error) {
	s := &setup{
		config:    c,
		moved:     moved,
		upstreams: map[string]*upstreamSetup{},
		counts:    g.counts.store,
		plain:     dialect.Plain(),
		bodies:    was.bodies,
		mostBody:  leastForBodies,
		// For whoever only decides.
		answerTimeout: time.Minute,
	}
	if s.bodies == nil {
		s.bodies = &bodies{}
	}
	errs := []error{g.buildCallers(s, was), s.buildPlans(c.Plans), s.buildShares(c.Plans)}
	for name, u := range c.Upstreams {
		errs = append(errs, g.buildUpstream(s, name, u, was.upstreams[name]))
		s.answerTimeout = max(s.answerTimeout, u.Queue.MaxWait+u.Timeouts.Total+time.Minute)
	}
	for _, r := range c.Routes {
		s.mostBody = max(s.mostBody, 2*int64(r.MaxBody))
		errs = append(errs, s.buildRoute(r, g.answers, was.route(r.Name)))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = s.export(g.metrics, was)
	}
	if err != nil {
		g.holdings.discard(s)
		return nil, err
	}
	needsModel := s.needsModel()
	for _, r := range s.routes {
		// A plain body is read only where something depends on it: it may be long.
		r.reads = needsModel || r.cache != nil || r.upstream.dialect.Name() != s.plain.Name()
	}
	return s, nil
}

// swap puts next in force, for all requests that begin from now on. g.changes is held.
func (g *Gateway) swap(next *setup) {
	was := g.setup.Load()
	next.users.Store(1)
	g.names.Lock()
	g.holdings.hold(next)
	g.metrics.Extend(labels(next.config))
	g.names.Unlock()
	g.counts.configured.Store(int64(next.config.Instances))
	next.bodies.max.Store(next.mostBody)
	for _, u := range next.upstreams {
		u.counts.lately.setLong(time.Duration(autoLong * float64(u.config.Queue.MaxWait)))
	}
	g.setup.Store(next)
	g.settleAutosLocked(next, time.Now())
	if was == nil {
		return
	}
	for name, u := range next.upstreams {
		if before := was.upstreams[name]; before != nil && before.upstreamWorks == u.upstreamWorks && u.pool != nil {
			g.report(u.adjust(before.config))
			if u.batcher != nil {
				u.batcher.SetMaxBytes(next.largestBody(name))
			}
		}
	}
	for _, r := range next.routes {
		if r.cache != nil {
			g.report(r.cache.SetLifetimes(r.lifetimes))
		}
	}
	for name, u := range was.upstreams {
		if next.upstreams[name] == nil {
			g.report(u.export(exporter{g.metrics, true}))
		}
	}
	if l := next.config.Limits.AuthFailures; l != was.config.Limits.AuthFailures {
		g.attempts.allow(l)
	}
	if l := next.config.Telemetry.Log; !reflect.DeepEqual(l, was.config.Telemetry.Log) {
		g.log.Set(logOptions(next.config))
	}
	g.seeds.again.Store(true) // there may be budgets that were not there before
	g.leave(was)
}

// logOptions are those of the log. The level was checked.
func logOptions(c *config.Config) telemetry.LogOptions {
	l := c.Telemetry.Log
	o := telemetry.LogOptions{Sample: orNone(l.Sample), Redact: l.Redact}
	_ = o.Level.UnmarshalText([]byte(l.Level))
	return o
}

// report tells of what should not have failed, and has changed nothing.
func (g *Gateway) report(err error) {
	if err != nil {
		g.Logger().Error("a part of the configuration could not be put in force", "error", err.Error())
	}
}

// buildUpstream makes an upstream. What is behind it goes on from before where nothing
// changed but what it takes while it works.
func (g *Gateway) buildUpstream(s *setup, name string, u config.Upstream, was *upstreamSetup) error {
	d, err := newDialect(u.Dialect)
	if err != nil {
		return fmt.Errorf("upstreams.%s: %w", name, err)
	}
	us := &upstreamSetup{dialect: d, config: u, fields: http.Header{}, bases: basesOf(u.Targets)}
	for name, value := range u.SetHeaders {
		us.fields.Set(name, value)
	}
	made := lasting(u)
	if was != nil && reflect.DeepEqual(was.made, made) {
		us.upstreamWorks = was.upstreamWorks
	} else if us.upstreamWorks, err = g.newWorks(us, name, s.largestBody(name), was); err != nil {
		return fmt.Errorf("upstreams.%s: %w", name, err)
	}
	s.upstreams[name] = us
	s.holds = append(s.holds, us.held)
	return nil
}

// newWorks starts what is behind an upstream. Its counters go on from was.
func (g *Gateway) newWorks(us *upstreamSetup, name string, largestBody int64, was *upstreamSetup) (*upstreamWorks, error) {
	w := &upstreamWorks{name: name, made: lasting(us.config), counts: newQueueCounts(), batches: &batchCounts{}}
	if was != nil {
		w.counts, w.batches = was.counts, was.batches
	}
	us.upstreamWorks = w
	var err error
	if w.queue, err = g.newQueue(us); err != nil {
		return nil, err
	}
	options, err := us.poolOptions(g.options)
	if err == nil {
		options.Observe = g.callEnded(name)
		options.OnTarget = g.targetChanged(name)
		w.pool, err = upstream.New(options)
	}
	if err != nil {
		w.queue.Close()
		return nil, err
	}
	w.batcher = us.newBatcher(largestBody)
	w.held = &held{close: w.stop}
	return w, nil
}

// stop ends what runs for the upstream, and waits.
func (w *upstreamWorks) stop() {
	w.queue.Close()
	if w.batcher != nil {
		w.batcher.Close()
	}
	w.pool.Close()
}

// lasting is u without what can be changed while it works.
func lasting(u config.Upstream) config.Upstream {
	u.Concurrency, u.Queue = config.Concurrency{}, config.Queue{}
	u.Targets = slices.Clone(u.Targets)
	for i := range u.Targets {
		u.Targets[i].Weight = 0
	}
	return u
}

// basesOf are the paths of targets, each once.
func basesOf(targets []config.Target) []string {
	var bases []string
	for _, t := range targets {
		if at, err := url.Parse(t.URL); err == nil && !slices.Contains(bases, strings.TrimSuffix(at.Path, "/")) {
			bases = append(bases, strings.TrimSuffix(at.Path, "/"))
		}
	}
	return bases
}

// adjust has the queue and the pool work as the configuration says now. Who waits goes
// on waiting, or goes now.
func (u *upstreamSetup) adjust(was config.Upstream) error {
	weights := make([]int, len(u.config.Targets))
	same := was.Concurrency == u.config.Concurrency && was.Queue.Max == u.config.Queue.Max && was.Queue.MaxWait == u.config.Queue.MaxWait
	for i, t := range u.config.Targets {
		weights[i] = t.Weight
		same = same && was.Targets[i].Weight == t.Weight
	}
	if same {
		return nil
	}
	return errors.Join(
		u.pool.SetWeights(weights),
		u.queue.Set(admission.Settings{
			Limits:   admission.Limits{Min: u.config.Concurrency.Min, Max: u.config.Concurrency.Max},
			MaxQueue: int(orNone(u.config.Queue.Max)),
			MaxWait:  u.config.Queue.MaxWait,
			Weights:  weights,
		}))
}

// engineFailures is how often the metrics of all targets could not be read.
func (w *upstreamWorks) engineFailures() (n int64) {
	for i := range w.pool.Targets() {
		n += w.pool.EngineFailures(i)
	}
	return n
}

// heldCache is a route's cache, from setup to setup.
type heldCache struct {
	*held
	cache *cache.Cache
	made  cache.Options // what it was made of, without lifetimes and stores
}

func (s *setup) buildRoute(c config.Route, answers *answers, was *route) error {
	path, prefix := strings.CutSuffix(c.Match.Path, "*")
	r := &route{
		name:     c.Name,
		path:     path,
		prefix:   prefix,
		methods:  c.Match.Methods,
		upstream: s.upstreams[c.Upstream],
		config:   c,
	}
	if slices.Contains(r.methods, http.MethodGet) && !slices.Contains(r.methods, http.MethodHead) {
		r.methods = append(slices.Clone(r.methods), http.MethodHead)
	}
	if c.Upstream == "" && s.config.Decide != nil {
		r.upstream = &upstreamSetup{upstreamWorks: &upstreamWorks{}, dialect: s.plain, bases: []string{""}}
	}
	if r.upstream == nil {
		return fmt.Errorf("route %q: upstream %q is not there", c.Name, c.Upstream)
	}
	r.model = pattern(r.upstream.dialect.Canonical(c.Match.Model))
	r.manages = r.upstream.manages(path)
	var err error
	if r.policies, err = prepare("route:"+c.Name, s.moved.apply("route:"+c.Name, c.Policies)); err != nil {
		return err
	}
	if n := s.mostPolicies() + len(r.policies); n > ratelimit.MaxTakes {
		return fmt.Errorf("route %q: %d policies with those of a plan: want at most %d", c.Name, n, ratelimit.MaxTakes)
	}
	if c.Cache.Mode != cacheOff {
		if err := s.buildCache(r, answers, was); err != nil {
			return fmt.Errorf("route %q: %w", c.Name, err)
		}
	}
	s.routes = append(s.routes, r)
	return nil
}

// buildCache makes the cache of a route, or takes over the one that was there: with what
// it knows, and the flights of its requests.
func (s *setup) buildCache(r *route, answers *answers, was *route) error {
	options := s.cacheOptions(r.config, answers)
	r.lifetimes = cache.Lifetimes{
		TTL: options.TTL, NegativeTTL: options.NegativeTTL,
		StaleWhileRevalidate: options.StaleWhileRevalidate, StaleIfError: options.StaleIfError,
	}
	made := options
	made.Store, made.Purges, made.Leases = nil, nil, nil
	made.TTL, made.NegativeTTL, made.StaleWhileRevalidate, made.StaleIfError = 0, 0, 0, 0
	if was != nil && was.caching != nil && reflect.DeepEqual(was.caching.made, made) {
		r.caching = was.caching
	} else {
		c, err := cache.New(options)
		if err != nil {
			return err
		}
		r.caching = &heldCache{held: &held{early: true, close: c.Close}, cache: c, made: made}
	}
	r.cache = r.caching.cache
	s.holds = append(s.holds, r.caching.held)
	return nil
}

// exporter makes metrics, or takes them away.
type exporter struct {
	metrics *telemetry.Metrics
	gone    bool
}

// GaugeFunc is that of telemetry.Metrics.
func (e exporter) GaugeFunc(name, help string, f func() float64, labels ...string) error {
	if e.gone {
		f = nil
	}
	return e.metrics.GaugeFunc(name, help, f, labels...)
}

// CounterFunc is that of telemetry.Metrics.
func (e exporter) CounterFunc(name, help string, f func() float64, labels ...string) error {
	if e.gone {
		f = nil
	}
	return e.metrics.CounterFunc(name, help, f, labels...)
}

// export makes the metrics of what was has not. With an error was has its own again.
func (s *setup) export(m *telemetry.Metrics, was *setup) error {
	var errs []error
	if was.bodies == nil {
		errs = append(errs, m.GaugeFunc("weir_gateway_body_bytes", "Bytes of request bodies in memory.", func() float64 { return float64(s.bodies.held.Load()) }))
	}
	for name, u := range s.upstreams {
		before := was.upstreams[name]
		if before != nil && before.upstreamWorks == u.upstreamWorks {
			continue
		}
		if before != nil && before.batcher != nil && u.batcher == nil {
			errs = append(errs, before.exportBatches(exporter{m, true}))
		}
		errs = append(errs, u.export(exporter{m, false}))
	}
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	for name := range s.upstreams {
		if before := was.upstreams[name]; before != nil {
			errs = append(errs, before.export(exporter{m, false}))
		}
	}
	return err
}

// export makes the metrics of an upstream.
func (u *upstreamSetup) export(m exporter) error {
	if u.pool == nil {
		return nil
	}
	return errors.Join(
		m.GaugeFunc("weir_upstream_requests_in_flight", "Requests at the upstream now.",
			func() float64 { return float64(u.pool.InFlight()) }, "upstream", u.name),
		m.GaugeFunc("weir_upstream_targets_closed", "Targets that may be given nothing now: their breaker is open, their probes fail, or they asked for a pause.",
			func() float64 { return float64(u.pool.Closed()) }, "upstream", u.name),
		m.CounterFunc("weir_upstream_engine_failures_total", "Readings of the targets' engine metrics that failed. It stays 0 where none are configured.",
			func() float64 { return float64(u.engineFailures()) }, "upstream", u.name),
		u.exportQueue(m))
}
