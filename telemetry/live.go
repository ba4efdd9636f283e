package telemetry

import (
	"sync"
	"time"
)

// The bounds of a Live. What is beyond is counted under Other, or in the totals alone.
const (
	maxLiveRoutes    = 500
	maxLiveUpstreams = 200
	maxLiveCallers   = 1000
	maxLiveKeys      = 200
	maxLiveCells     = 320 << 10 // 2.5 MiB
	// maxLiveName is how much of a caller's ID is remembered, in bytes, and of the path
	// of a key.
	maxLiveName = 256
)

// Live knows what happened in the last minute, and what the cache saved since the start:
// what dashboards show. For anything longer there is Prometheus. It is safe for
// concurrent use; a request holds its lock for less than a microsecond.
//
// Its memory is bounded, whatever happens: at most 500 routes and 200 upstreams are known
// by name, 1000 callers, and 200 keys of the cache, in less than 20 MiB. Where so many
// different latencies come in a minute that there is no room for all of them (2.5 MiB), the
// quantiles of a route or upstream are of fewer seconds; counts are exact all the same.
type Live struct {
	now     func() time.Time
	started time.Time

	mu        sync.Mutex // guards all below
	pool      cellPool
	total     liveRoute // of all requests, those to no route among them
	routes    map[string]*liveRoute
	upstreams map[string]*liveUpstream
	callers   liveCallers
	keys      liveKeys
	series    liveSeries
}

// NewLive returns a Live that begins now. now is the clock; nil means time.Now.
func NewLive(now func() time.Time) *Live {
	if now == nil {
		now = time.Now
	}
	l := &Live{now: now, started: now(), routes: map[string]*liveRoute{}, upstreams: map[string]*liveUpstream{}}
	l.pool.left = maxLiveCells
	l.callers = newLiveCallers()
	l.keys.by = map[string]int{}
	return l
}

// stepAt is the number of the step of a moment, from 0: whole seconds since the start.
func (l *Live) stepAt(now time.Time) uint32 {
	return uint32(max(now.Sub(l.started), 0) / time.Second)
}

// liveRoute is what is known of one route.
type liveRoute struct {
	inFlight           int64
	counts             steps[LiveCounts]
	latency, firstByte histogram
	policies           tally
}

// liveUpstream is what is known of one upstream.
type liveUpstream struct {
	latency, firstByte, wait histogram
	results, refused         tally
}

// LiveCounts are sums over a window.
type LiveCounts struct {
	// Requests are all that have ended, Errors those of them with a status of 500 and
	// above, whoever said so, but for those that are refused: below, and with the
	// request itself for a reason.
	Requests, Errors int64
	// Refused are those that a policy refused, Shed those that the queue did, also because
	// the process ends. Unauthorized are those that were not let in: 401, 403, and 429 for
	// too many keys that are not valid. Uncounted are those that were refused because the
	// shared store was away.
	Refused, Shed, Unauthorized, Uncounted int64
	// Lookups are the requests for which the cache was asked, Hits those of them that no
	// model ran for: fresh and stale answers, those that the upstream confirmed, and those
	// of flights that were joined.
	Lookups, Hits int64
	// Saved is the time that the model did not need for the hits, SavedTokens the tokens.
	Saved       time.Duration
	SavedTokens int64
	// InputTokens, CachedTokens and OutputTokens are those of model calls, in the
	// background as well.
	InputTokens, CachedTokens, OutputTokens int64
	// Queue, Upstream and Cache are the time that requests spent there which a model or
	// the cache has answered.
	Queue, Upstream, Cache time.Duration
}

// add adds what a request did; in the background only its tokens count.
func (c *LiveCounts) add(e *Entry, hit, background bool) {
	c.InputTokens += e.Usage.Input
	c.CachedTokens += e.Usage.Cached
	c.OutputTokens += e.Usage.Output
	if background {
		return
	}
	c.Requests++
	switch e.refused() {
	case RefusedQuota:
		c.Refused++
	case RefusedQueue, RefusedStopping:
		c.Shed++
	case RefusedKey, RefusedDenied, RefusedAttempts:
		c.Unauthorized++
	case RefusedStore:
		c.Uncounted++
	}
	if e.failed() {
		c.Errors++
	}
	if e.CacheResult != "" && e.CacheResult != ResultBypass {
		c.Lookups++
	}
	if hit {
		c.Hits++
	}
	c.Saved += e.Saved
	c.SavedTokens += e.SavedTokens
	if !e.answered() {
		return
	}
	c.Queue += e.QueueTime
	c.Upstream += e.UpstreamTime
	c.Cache += e.CacheTime
}

// sub takes o off.
func (c *LiveCounts) sub(o *LiveCounts) {
	c.Requests -= o.Requests
	c.Errors -= o.Errors
	c.Refused -= o.Refused
	c.Shed -= o.Shed
	c.Unauthorized -= o.Unauthorized
	c.Uncounted -= o.Uncounted
	c.Lookups -= o.Lookups
	c.Hits -= o.Hits
	c.Saved -= o.Saved
	c.SavedTokens -= o.SavedTokens
	c.InputTokens -= o.InputTokens
	c.CachedTokens -= o.CachedTokens
	c.OutputTokens -= o.OutputTokens
	c.Queue -= o.Queue
	c.Upstream -= o.Upstream
	c.Cache -= o.Cache
}

// isHit reports whether no model ran for an answer.
func isHit(result string) bool {
	switch result {
	case ResultHit, ResultStale, ResultRevalidated, ResultSemantic, ResultCollapsed:
		return true
	}
	return false
}

// Start counts a request as in flight, on a route or on none (""), until Observe is told
// of its end.
func (l *Live) Start(route string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total.inFlight++
	if route != "" {
		l.routeLocked(route).inFlight++
	}
}

// Observe counts a request that is answered, and was told of by Start. background says
// that e is no request of anybody's, but work for one that was answered before, or will
// be: a refresh of a stale answer, an attempt of a job. Only its tokens count, and it has
// no Start.
func (l *Live) Observe(e *Entry, background bool) {
	step := l.stepAt(l.now())
	hit := isHit(e.CacheResult)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollLocked(step)
	step = l.series.step // the clock may have gone back, or another one been faster
	l.observeRouteLocked(&l.total, e, hit, background)
	if e.Route != "" {
		r := l.routeLocked(e.Route)
		if other := l.routes[Other]; r.inFlight == 0 && other != nil && !background {
			// It was Other when it began.
			other.inFlight--
			r.inFlight++
		}
		l.observeRouteLocked(r, e, hit, background)
	}
	l.callers.observe(e, hit, background, step, &l.pool)
	if background {
		return
	}
	l.series.observe(e, hit)
	if e.CacheKey != "" && hit && e.Saved > 0 {
		l.keys.observe(e, l.started.Add(time.Duration(step)*time.Second))
	}
}

func (l *Live) observeRouteLocked(r *liveRoute, e *Entry, hit, background bool) {
	step := l.series.step
	r.counts.roll(step, (*LiveCounts).sub).add(e, hit, background)
	r.counts.sum.add(e, hit, background)
	if background {
		return
	}
	r.inFlight--
	if e.Policy != "" {
		r.policies.add(tallied{e.PolicyScope, e.Policy}, 0, step, &l.pool)
	}
	if e.Shadow != "" {
		r.policies.add(tallied{e.ShadowScope, e.Shadow}, 1, step, &l.pool)
	}
	if !e.answered() {
		return
	}
	r.latency.add(e.Duration, step, &l.pool)
	if e.FirstByte > 0 {
		r.firstByte.add(e.FirstByte, step, &l.pool)
	}
}

// Call counts a call to an upstream that has ended, with its result. Of complete answers,
// ResultOK, the latency counts.
func (l *Live) Call(upstream, result string, firstByte, total time.Duration) {
	step := l.stepAt(l.now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollLocked(step)
	step = l.series.step
	u := l.upstreamLocked(upstream)
	u.results.add(tallied{name: result}, 0, step, &l.pool)
	if result == ResultOK {
		u.latency.add(total, step, &l.pool)
		u.firstByte.add(firstByte, step, &l.pool)
	}
}

// Queued counts what an upstream's queue decided: it gave a place after a wait, or
// refused one for a reason.
func (l *Live) Queued(upstream, reason string, wait time.Duration) {
	step := l.stepAt(l.now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollLocked(step)
	step = l.series.step
	u := l.upstreamLocked(upstream)
	if reason != "" {
		u.refused.add(tallied{name: reason}, 0, step, &l.pool)
		return
	}
	u.wait.add(wait, step, &l.pool)
}

// Sample tells how many requests wait in all queues now, and how many run at upstreams.
// Call it once a second: the series show it, and what is over is forgotten.
func (l *Live) Sample(waiting, running int) {
	step := l.stepAt(l.now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollLocked(step)
	l.series.now.waiting, l.series.now.running = waiting, running
	l.pruneLocked(step)
}

// pruneLocked makes room for others where there are as many routes or upstreams as may
// be: a configuration that was reloaded may have other ones.
func (l *Live) pruneLocked(step uint32) {
	if len(l.routes) >= maxLiveRoutes {
		for name, r := range l.routes {
			if r.roll(step, &l.pool); r.inFlight == 0 && r.counts.sum == (LiveCounts{}) {
				release(&l.pool, r.windows())
				delete(l.routes, name)
			}
		}
	}
	if len(l.upstreams) >= maxLiveUpstreams {
		for name, u := range l.upstreams {
			if u.roll(step, &l.pool); u.isIdle() {
				release(&l.pool, u.windows())
				delete(l.upstreams, name)
			}
		}
	}
}

// rollLocked moves on to a step.
func (l *Live) rollLocked(step uint32) {
	if int32(step-l.series.step) <= 0 {
		return
	}
	l.series.roll(step)
	if l.pool.short != 0 && l.pool.short < step { // those who rest may have cells to spare
		l.pool.short = 0
		for _, r := range l.routes {
			r.roll(step, &l.pool)
		}
		for _, u := range l.upstreams {
			u.roll(step, &l.pool)
		}
		l.callers.roll(step, &l.pool)
	}
}

func (r *liveRoute) windows() []*window {
	return []*window{&r.latency.window, &r.firstByte.window, &r.policies.window}
}

func (r *liveRoute) roll(step uint32, pool *cellPool) {
	r.counts.roll(step, (*LiveCounts).sub)
	for _, w := range r.windows() {
		w.roll(step, pool)
	}
}

func (u *liveUpstream) windows() []*window {
	return []*window{&u.latency.window, &u.firstByte.window, &u.wait.window, &u.results.window, &u.refused.window}
}

func (u *liveUpstream) roll(step uint32, pool *cellPool) {
	for _, w := range u.windows() {
		w.roll(step, pool)
	}
}

// isIdle reports whether the window has nothing of it.
func (u *liveUpstream) isIdle() bool {
	for _, w := range u.windows() {
		if w.first != w.next {
			return false
		}
	}
	return true
}

// routeLocked is what is known of a route, or of Other where there are as many as may be.
func (l *Live) routeLocked(name string) *liveRoute { return known(l.routes, name, maxLiveRoutes) }

// upstreamLocked is what is known of an upstream, or of Other, likewise.
func (l *Live) upstreamLocked(name string) *liveUpstream {
	return known(l.upstreams, name, maxLiveUpstreams)
}

// known is what m has of a name. A new name is Other where there are most already.
func known[T any](m map[string]*T, name string, most int) *T {
	if v := m[name]; v != nil {
		return v
	}
	if len(m) >= most {
		name = Other
		if v := m[name]; v != nil {
			return v
		}
	}
	v := new(T)
	m[name] = v
	return v
}
