package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
	"github.com/inferweir/weir/upstream"
)

// builtinTarget is the target that stands for the models that ship with Weir.
const builtinTarget = "builtin:"

// setup is a configuration made ready to serve. It does not change: a request
// keeps the one that it started with. What it has in common with the one before it
// lives on from setup to setup: see held.
type setup struct {
	users   atomic.Int64 // requests, and being the present one
	holds   []*held
	config  *config.Config
	callers *auth.Authenticator
	calling *held // callers
	// callerFields are the request fields that name a caller.
	callerFields []string
	plans        map[string][]policy
	shares       map[string]share      // of the queues, by plan
	overrides    map[string]override   // by caller
	prices       map[string]*priceList // of models, by dialect
	upstreams    map[string]*upstreamSetup
	routes       []*route
	counts       ratelimit.Store
	bodies       *bodies
	mostBody     int64 // what all bodies together may take
	moved        moved
	// answerTimeout is how long a client may take for its request and answer
	// together: longer than any upstream may.
	answerTimeout time.Duration
	plain         *dialect.Dialect // for what is said where no route is known
}

// upstreamSetup is an upstream as one setup has it.
type upstreamSetup struct {
	*upstreamWorks
	dialect *dialect.Dialect
	bases   []string // the paths before the request's, each once; at least one
	config  config.Upstream
	fields  http.Header // that replace the callers'
}

// upstreamWorks is what of an upstream lives on from setup to setup, as long as nothing
// changes that it cannot take.
type upstreamWorks struct {
	*held
	name    string
	made    config.Upstream // what it was made of: see lasting
	pool    *upstream.Pool
	queue   *admission.Queue // nil where pool is
	counts  *queueCounts
	batcher *upstream.Batcher[*dialect.Call] // nil: calls go alone
	batches *batchCounts

	jobsPlaced atomic.Int64 // that have a place, or had one and are not over
	jobsPaused atomic.Int64 // until when none is claimed, in Unix nanoseconds
}

// path is a request's path as the first target gets it: that is what it means.
func (u *upstreamSetup) path(p string) string { return u.bases[0] + p }

// manages reports whether a request with the path would change one of the model
// servers itself.
func (u *upstreamSetup) manages(path string) bool {
	return slices.ContainsFunc(u.bases, func(base string) bool {
		return u.dialect.Read(dialect.Request{Path: base + path}).Manages
	})
}

type route struct {
	name     string
	path     string // without the * of a prefix
	prefix   bool
	methods  []string // empty: all
	model    pattern
	upstream *upstreamSetup
	policies []policy
	cache    *cache.Cache // nil: off
	caching  *heldCache   // nil where cache is
	// lifetimes are those of the cache.
	lifetimes cache.Lifetimes
	reads     bool // what requests ask for
	manages   bool // its path names calls that change the model server itself
	config    config.Route
}

// pattern is a text, or with a * at its end the beginning of one. The empty
// pattern fits all.
type pattern string

func (p pattern) fits(s string) bool {
	if start, isPrefix := strings.CutSuffix(string(p), "*"); isPrefix {
		return strings.HasPrefix(s, start)
	}
	return p == "" || string(p) == s
}

// buildCallers makes what finds out who is calling, or takes it over: with the keys of
// the tokens' issuer, and the tokens that were found valid.
func (g *Gateway) buildCallers(s, was *setup) error {
	c := s.config
	s.callerFields = callerFieldsOf(c.Callers)
	if was.callers != nil && sameCallers(c.Callers, was.config.Callers) {
		s.callers, s.calling = was.callers, was.calling
		s.holds = append(s.holds, s.calling)
		return nil
	}
	keys := make([]auth.Key, len(c.Callers.Keys))
	for i, k := range c.Callers.Keys {
		keys[i] = auth.Key{Caller: k.Caller, Key: k.Key, Plan: k.Plan}
	}
	var jwt *auth.JWT
	if j := c.Callers.JWT; j != nil {
		jwt = &auth.JWT{Issuer: j.Issuer, Audience: j.Audience, JWKSURL: j.JWKSURL, CallerClaim: j.CallerClaim, PlanClaim: j.PlanClaim}
	}
	var stored func([32]byte) (auth.Key, error)
	if g.data.db != nil {
		stored = g.data.db.Keys().Find
	}
	a, err := auth.New(auth.Options{
		After:          was.callers,
		Stored:         stored,
		JWT:            jwt,
		Allow:          c.Callers.Allow,
		Deny:           c.Callers.Deny,
		Identify:       c.Callers.Identify,
		Require:        c.Callers.Require,
		TrustedProxies: c.Callers.TrustedProxies,
		Header:         c.Callers.Header,
		PrefixV4:       c.Callers.IPPrefix.V4,
		PrefixV6:       c.Callers.IPPrefix.V6,
		Keys:           keys,
	})
	if err != nil {
		return fmt.Errorf("callers: %w", err)
	}
	s.callers = a
	s.calling = &held{close: func() { _ = a.Close() }} // which is always nil
	s.holds = append(s.holds, s.calling)
	return nil
}

// sameCallers reports whether callers are found in the same way. What else they have in
// place of their plan is the plans'.
func sameCallers(a, b config.Callers) bool {
	a.Overrides, b.Overrides = nil, nil
	return reflect.DeepEqual(a, b)
}

// route is the one of a name, nil if there is none.
func (s *setup) route(name string) *route {
	for _, r := range s.routes {
		if r.name == name {
			return r
		}
	}
	return nil
}

// largestBody is what the routes to an upstream allow.
func (s *setup) largestBody(name string) int64 {
	most := int64(0)
	for _, r := range s.config.Routes {
		if r.Upstream == name {
			most = max(most, int64(r.MaxBody))
		}
	}
	return most
}

// targetChanged says in the log that a target is left out, or back.
func (g *Gateway) targetChanged(name string) func(upstream.TargetEvent) {
	return func(e upstream.TargetEvent) {
		log := g.Logger().With("upstream", name, "target", e.Target)
		g.noteTarget(name, e)
		switch e.What {
		case upstream.TargetOpened:
			log.Warn("a target is left out: too many requests in a row failed")
		case upstream.TargetEjected:
			log.Warn("a target is left out: its probes fail")
		case upstream.TargetClosed:
			log.Info("a target is back: a request succeeded")
		case upstream.TargetReturned:
			log.Info("a target's probes succeed again")
		}
	}
}

// poolOptions are those of the pool behind u's queue.
func (us *upstreamSetup) poolOptions(o Options) (upstream.Options, error) {
	u := us.config
	options := upstream.Options{
		Name:            us.name,
		Balance:         u.Balance,
		SetHeaders:      u.SetHeaders,
		MaxConnections:  u.Connections.Max,
		IdleConnections: orNone(u.Connections.Idle),
		IdleTimeout:     u.Connections.IdleTimeout,
		Timeouts: upstream.Timeouts{
			Connect:      u.Timeouts.Connect,
			FirstByte:    u.Timeouts.FirstByte,
			BetweenBytes: u.Timeouts.BetweenBytes,
			Total:        u.Timeouts.Total,
		},
		Retry:    upstream.Retry{Attempts: u.Retry.Attempts, Budget: orNone(u.Retry.Budget), Post: u.Retry.Post},
		Breaker:  upstream.Breaker{Failures: orNone(u.Breaker.Failures), OpenFor: u.Breaker.OpenFor},
		Closed:   closedFor(us.dialect, u.SetHeaders),
		Changed:  us.queue.Wake,
		OnEngine: engineState(us.queue),
	}
	if h := u.Hedge; h != nil {
		options.Hedge = upstream.Hedge{After: h.After.Duration, Quantile: h.After.Quantile, Budget: h.Budget, Post: h.Post}
	}
	if p := u.Probe; p != nil {
		options.Probe = upstream.Probe{Path: p.Path, Interval: p.Interval, Timeout: p.Timeout}
	}
	if e := u.Engine; e != nil {
		options.Engine = upstream.Engine{Path: e.Metrics, Kind: e.Kind}
	}
	for _, t := range u.Targets {
		target := upstream.Target{URL: t.URL, Weight: t.Weight}
		if t.URL == builtinTarget {
			if o.Models == nil {
				return upstream.Options{}, fmt.Errorf("target %q: this program has no built-in models", t.URL)
			}
			target.Transport = upstream.Handler(o.Models)
		}
		options.Targets = append(options.Targets, target)
	}
	return options, nil
}

func newDialect(name string) (*dialect.Dialect, error) {
	switch name {
	case "", "plain":
		return dialect.Plain(), nil
	case "openai":
		return dialect.OpenAI(), nil
	case "anthropic":
		return dialect.Anthropic(), nil
	case "ollama":
		return dialect.Ollama(), nil
	case "kserve":
		return dialect.KServe(), nil
	case "tfserving":
		return dialect.TFServing(), nil
	}
	return nil, fmt.Errorf("dialect: %q: want plain, openai, anthropic, ollama, kserve or tfserving", name)
}

// orNone gives -1 for 0: a configuration says what it means, an option's zero is
// its default.
func orNone[N int | float64 | time.Duration](n N) N {
	if n == 0 {
		return -1
	}
	return n
}

// result gives an upstream's result in the words of the metrics.
func result(r string) string {
	switch r {
	case upstream.ResultConnect, upstream.ResultCut:
		return telemetry.ResultError
	case upstream.ResultRequest:
		return upstream.ResultCancelled
	}
	return r
}

func (s *setup) needsModel() bool {
	for _, policies := range s.plans {
		if byModel(policies) {
			return true
		}
	}
	for _, o := range s.overrides {
		for _, policies := range o.policies {
			if byModel(policies) {
				return true
			}
		}
	}
	return slices.ContainsFunc(s.routes, func(r *route) bool { return r.model != "" || byModel(r.policies) })
}

// byModel reports whether what a policy counts depends on the model.
func byModel(policies []policy) bool {
	return slices.ContainsFunc(policies, func(p policy) bool { return p.by == "model" || p.Unit == nanoUSD })
}

// labels are the closed sets that label values come from.
func labels(configs ...*config.Config) telemetry.Labels {
	l := telemetry.Labels{Policies: map[string][]string{}}
	for _, c := range configs {
		for name, plan := range c.Plans {
			l.Policies["plan:"+name] = append(l.Policies["plan:"+name], policyNames(withBudget(plan.Policies, plan))...)
			for _, o := range c.Callers.Overrides {
				l.Policies["plan:"+name] = append(l.Policies["plan:"+name], policyNames(o.Policies)...)
			}
		}
		for name := range c.Upstreams {
			l.Upstreams = append(l.Upstreams, name)
		}
		for _, r := range c.Routes {
			l.Routes = append(l.Routes, r.Name)
			l.Policies["route:"+r.Name] = append(l.Policies["route:"+r.Name], policyNames(r.Policies)...)
			l.Models = append(l.Models, r.Match.Model)
		}
		l.Models = slices.AppendSeq(l.Models, maps.Keys(c.Prices))
	}
	return l
}
