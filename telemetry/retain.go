package telemetry

import "maps"

// Retain takes away all series of label values that are not in l, from the page and from
// what is sent over OTLP, so that what was renamed again and again leaves nothing behind.
// Call it when the requests of the names that are gone are over, each RequestStarted with
// its RequestDone: what is told of a gone name later counts as "other". A name that comes
// back starts at 0. "other" itself stays.
func (m *Metrics) Retain(l Labels) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens.expectOnly(l.Models)
	was := m.series.Load()
	next := was.retain(l)
	if next.size() == was.size() {
		return
	}
	// From here on nobody finds what is gone, and so nobody makes a series of it again.
	m.series.Store(next)
	for name, r := range was.routes {
		if next.routes[name] == nil {
			r.remove(&m.vecs)
		}
	}
	for name := range was.upstreams {
		if next.upstreams[name] == nil {
			m.vecs.removeUpstream(name)
		}
	}
	for scope, policies := range was.scopes {
		for name := range policies {
			if next.scopes[scope][name] == nil {
				m.vecs.removePolicy(scope, name)
			}
		}
	}
	m.tokens.retain(&m.vecs, next)
	// There is room for names now that there may have been none for.
	next = next.clone()
	next.add(&m.vecs, l)
	m.series.Store(next)
}

// retain is s without what is not in l.
func (s *series) retain(l Labels) *series {
	set := func(names []string) map[string]bool {
		all := map[string]bool{Other: true}
		for _, name := range names {
			all[clean(name)] = true
		}
		return all
	}
	policies := map[string]map[string]bool{Other: {Other: true}}
	for scope, names := range l.Policies {
		scope = clean(scope)
		if policies[scope] == nil {
			policies[scope] = map[string]bool{}
		}
		maps.Copy(policies[scope], set(names))
	}
	next := s.clone()
	routes, upstreams := set(l.Routes), set(l.Upstreams)
	maps.DeleteFunc(next.routes, func(name string, _ *routeSeries) bool { return !routes[name] })
	maps.DeleteFunc(next.upstreams, func(name string, _ *upstreamSeries) bool { return !upstreams[name] })
	next.policies = 0
	for scope, of := range next.scopes {
		maps.DeleteFunc(of, func(name string, _ *policySeries) bool { return !policies[scope][name] })
		next.policies += len(of)
	}
	maps.DeleteFunc(next.scopes, func(_ string, of map[string]*policySeries) bool { return len(of) == 0 })
	return next
}

// size is how many label values there are.
func (s *series) size() int { return len(s.routes) + len(s.upstreams) + s.policies }

// remove takes the series of the route away, but those of tokens. Metrics.mu is held, so
// that no other counter of requests is made meanwhile.
func (r *routeSeries) remove(v *vectors) {
	v.inFlight.DeleteLabelValues(r.name)
	v.duration.DeleteLabelValues(r.name)
	v.clientFirst.DeleteLabelValues(r.name)
	v.tokenGap.DeleteLabelValues(r.name)
	v.savedSeconds.DeleteLabelValues(r.name)
	v.savedTokens.DeleteLabelValues(r.name)
	v.errors.DeleteLabelValues(r.name)
	for _, reason := range refusals() {
		v.refusals.DeleteLabelValues(r.name, reason)
	}
	for _, result := range []string{ResultHit, ResultStale, ResultRevalidated, ResultSemantic, ResultCollapsed, ResultMiss, ResultBypass, Other} {
		v.cache.DeleteLabelValues(r.name, result)
	}
	for method := range r.methods {
		table := r.methods[method].Load()
		if table == nil {
			continue
		}
		for status := range table {
			if table[status].Load() != nil {
				v.requests.DeleteLabelValues(r.name, methodLabel(method), statusLabel(status))
			}
		}
	}
}

func (v *vectors) removeUpstream(name string) {
	for _, result := range []string{ResultOK, ResultError, ResultTimeout, ResultCancelled, ResultBusy, ResultOpen, Other} {
		v.calls.DeleteLabelValues(name, result)
	}
	for _, class := range classes() {
		v.answers.DeleteLabelValues(name, class)
	}
	v.firstByte.DeleteLabelValues(name)
	v.callsDuration.DeleteLabelValues(name)
	v.queueWaits.DeleteLabelValues(name)
}

func (v *vectors) removePolicy(scope, name string) {
	for _, result := range []string{ResultAllowed, ResultDenied, ResultShadow, Other} {
		v.decisions.DeleteLabelValues(scope, name, result)
	}
}

// retain takes away what routes used that are not in s, and makes room for other models
// where nothing is left of one.
func (t *tokens) retain(v *vectors, s *series) {
	t.mu.Lock()
	defer t.mu.Unlock()
	models := map[string]bool{}
	for key := range t.series {
		if s.routes[key.route] != nil {
			models[key.model] = t.models[key.model]
			continue
		}
		for _, kind := range []string{"input", "cached", "output"} {
			v.tokens.DeleteLabelValues(key.route, key.model, kind)
		}
		delete(t.series, key)
	}
	maps.DeleteFunc(models, func(_ string, counts bool) bool { return !counts })
	t.models = models
}

// classes are the classes of statuses, in the order of their counters.
func classes() [classCount]string {
	return [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}
}
