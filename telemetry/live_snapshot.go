package telemetry

import (
	"cmp"
	"slices"
	"time"
)

// How many a LiveSnapshot has.
const (
	maxTopCallers = 100 // by requests, and as many by refusals
	maxTopKeys    = 50
	// together is how many routes, upstreams or callers are read while requests wait.
	together = 32
)

// LiveSnapshot is what happened in the last seconds.
type LiveSnapshot struct {
	// At is the moment, Window how long what it tells of took: less than a minute in the
	// first one, and not less than 59 s later.
	At     time.Time
	Window time.Duration
	// Total are all requests, those to no route among them.
	Total LiveRoute
	// Routes and Upstreams are by name those that had something to do; what was beyond
	// those that can be known by name is Other.
	Routes    map[string]LiveRoute
	Upstreams map[string]LiveUpstream
	// Callers are the 100 with most requests, and the 100 with most refusals, the former
	// first. CallersOf is how many there were: from 1000 on that is an estimate, within
	// 10 % nearly always.
	Callers   []LiveCaller
	CallersOf int
	// Keys are the 50 answers of the cache that saved most since the start.
	Keys []LiveKey
	// Series has a point for each of the last 120 whole seconds since the start, the
	// oldest first; SeriesEnd is the end of the last one.
	Series    []LivePoint
	SeriesEnd time.Time
}

// LiveRoute is what happened on a route.
type LiveRoute struct {
	InFlight int64
	LiveCounts
	// Latency and FirstByte are those of the requests that a model or the cache has
	// answered.
	Latency, FirstByte LiveLatency
	Policies           []LiveCount
}

// LiveUpstream is what happened at an upstream.
type LiveUpstream struct {
	// Calls are those that ended, by result. Latency and FirstByte are of the complete
	// answers among them.
	Calls              []LiveCount
	Latency, FirstByte LiveLatency
	// Wait is how long those waited who got a place. Refused are those who did not, by
	// reason.
	Wait    LiveLatency
	Refused []LiveCount
}

// Snapshot reads everything. Requests wait for parts of it, not for all: what happens
// meanwhile may be in one part and not in another.
func (l *Live) Snapshot() LiveSnapshot {
	now := l.now()
	l.mu.Lock()
	l.rollLocked(l.stepAt(now))
	step := l.series.step
	s := LiveSnapshot{
		At: now, Window: min(now.Sub(l.started), (windowSteps-1)*time.Second+now.Sub(l.started)%time.Second),
		Total:  l.total.read(step, &l.pool),
		Series: l.series.read(), SeriesEnd: l.started.Add(time.Duration(step) * time.Second),
		Keys: slices.Clone(l.keys.keys),
	}
	routes, upstreams := keysOf(l.routes), keysOf(l.upstreams)
	callers := slices.Clone(l.callers.all)
	l.mu.Unlock()

	s.Routes = make(map[string]LiveRoute, len(routes))
	l.each(len(routes), func(i int) {
		if r := l.routes[routes[i]]; r != nil {
			s.Routes[routes[i]] = r.read(l.series.step, &l.pool)
		}
	})
	s.Upstreams = make(map[string]LiveUpstream, len(upstreams))
	l.each(len(upstreams), func(i int) {
		if u := l.upstreams[upstreams[i]]; u != nil {
			s.Upstreams[upstreams[i]] = u.read(l.series.step, &l.pool)
		}
	})
	l.readCallers(&s, callers)
	slices.SortFunc(s.Keys, func(a, b LiveKey) int {
		return cmp.Or(cmp.Compare(b.Saved, a.Saved), cmp.Compare(a.Key, b.Key))
	})
	s.Keys = s.Keys[:min(len(s.Keys), maxTopKeys)]
	return s
}

func keysOf[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	return names
}

// each calls f for the numbers below n, a few at a time with the lock.
func (l *Live) each(n int, f func(i int)) {
	for from := 0; from < n; from += together {
		l.mu.Lock()
		for i := from; i < min(from+together, n); i++ {
			f(i)
		}
		l.mu.Unlock()
	}
}

// readCallers finds those who did most.
func (l *Live) readCallers(s *LiveSnapshot, all []*liveCaller) {
	known := make([]LiveCaller, 0, len(all))
	l.each(len(all), func(i int) {
		if c := all[i].read(l.series.step, l.started); c.Requests > 0 {
			known = append(known, c)
		}
	})
	byRequests := func(a, b LiveCaller) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Caller, b.Caller))
	}
	refusals := func(c *LiveCaller) int64 { return c.Refused + c.Shed }
	slices.SortFunc(known, byRequests)
	n := min(len(known), maxTopCallers)
	s.Callers = slices.Clone(known[:n])
	others := known[n:]
	slices.SortFunc(others, func(a, b LiveCaller) int {
		return cmp.Or(cmp.Compare(refusals(&b), refusals(&a)), byRequests(a, b))
	})
	// The 100 with most refusals are among the first of all by requests, or of these.
	var most []int64
	for i := range known[:n] {
		most = append(most, refusals(&known[i]))
	}
	slices.SortFunc(most, func(a, b int64) int { return cmp.Compare(b, a) })
	for i := range others[:min(len(others), maxTopCallers)] {
		r := refusals(&others[i])
		before, _ := slices.BinarySearchFunc(most, r, func(a, b int64) int { return cmp.Compare(b, a) })
		if r == 0 || before+i >= maxTopCallers {
			break
		}
		s.Callers = append(s.Callers, others[i])
	}
	l.each(len(s.Callers), func(i int) {
		if c := l.callers.by[s.Callers[i].Caller]; c != nil {
			s.Callers[i].Policies = c.policies.read(l.series.step, &l.pool)
		}
	})
	l.mu.Lock()
	s.CallersOf = l.callers.of(len(known), l.series.step)
	l.mu.Unlock()
}

func (r *liveRoute) read(step uint32, pool *cellPool) LiveRoute {
	r.counts.roll(step, (*LiveCounts).sub)
	return LiveRoute{
		InFlight: r.inFlight, LiveCounts: r.counts.sum,
		Latency: r.latency.read(step, pool), FirstByte: r.firstByte.read(step, pool), Policies: r.policies.read(step, pool),
	}
}

func (u *liveUpstream) read(step uint32, pool *cellPool) LiveUpstream {
	return LiveUpstream{
		Calls: u.results.read(step, pool), Latency: u.latency.read(step, pool), FirstByte: u.firstByte.read(step, pool),
		Wait: u.wait.read(step, pool), Refused: u.refused.read(step, pool),
	}
}
