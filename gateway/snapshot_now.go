package gateway

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/inferweir/weir/telemetry"
)

const (
	// snapshotAge is how old a snapshot may be that is given to another one who asks.
	snapshotAge = 250 * time.Millisecond
	// sampleEvery is how often the queues are looked at for the series.
	sampleEvery = time.Second
)

// recentSnapshot is the last snapshot: many viewers cost what one does.
type recentSnapshot struct {
	mu   sync.Mutex
	at   time.Time // guarded by mu, as snapshot
	last Snapshot
}

// Snapshot is what the gateway does now and did in the last minute. It is at most 250 ms
// old, its Config and Auto not at all; it is shared between those who ask, and not to be changed.
func (g *Gateway) Snapshot() Snapshot {
	r := &g.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.at.IsZero() || now.Sub(r.at) > snapshotAge {
		r.at, r.last = now, g.newSnapshot()
	}
	// Who has just reloaded or edited must not be told what was before.
	r.last.Config, r.last.Auto = g.configSnapshot(), g.Auto()
	return r.last
}

func (g *Gateway) newSnapshot() Snapshot {
	f := g.figures.Snapshot()
	setup := g.setup.Load()
	s := Snapshot{
		At: f.At, Started: g.started, Version: g.options.Version, WindowS: f.Window.Seconds(),
		Traffic:   trafficOf(f.Total, f.Window),
		Series:    seriesOf(f),
		Routes:    setup.routeSnapshots(f),
		Callers:   callersOf(f),
		CallersOf: f.CallersOf,
		Cache:     setup.cacheSnapshot(g.answers, f),
		Upstreams: setup.upstreamSnapshots(f),
		Jobs:      g.data.jobsSnapshot(),
		Store:     g.counts.snapshot(),
		Database:  g.data.snapshot(setup.config.Database),
		Events:    g.events.newest(maxSnapshotEvents),
	}
	return s
}

// startSnapshots begins to look at the queues each second.
func (g *Gateway) startSnapshots() {
	g.Note(EventSnapshot{Kind: "start", Text: "The gateway started"})
	if g.options.Check {
		return
	}
	away := false
	g.sampler = every(sampleEvery, func(context.Context) {
		waiting, running := g.setup.Load().load()
		g.figures.Sample(waiting, running)
		away = g.noteDatabase(away)
	})
}

// load is how many requests wait in all queues, and how many have a place.
func (s *setup) load() (waiting, running int) {
	for _, u := range s.upstreams {
		if u.queue == nil {
			continue
		}
		q := u.queue.Stats()
		for _, n := range q.Waiting {
			waiting += n
		}
		for _, t := range q.Targets {
			running += t.Running
		}
	}
	return waiting, running
}

// noteDatabase tells of a database that goes away and comes back.
func (g *Gateway) noteDatabase(wasAway bool) (away bool) {
	if g.data.db == nil {
		return false
	}
	switch away = !g.data.db.Healthy(); {
	case away && !wasAway:
		g.Note(EventSnapshot{Kind: "database", Level: "error", Text: "The database does not answer: keys and limits that were read go on, nothing new is kept"})
	case wasAway && !away:
		g.Note(EventSnapshot{Kind: "database", Text: "The database answers again"})
	}
	return away
}

// ms is d in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / 1e6 }

// rate is n a second.
func rate(n int64, window time.Duration) float64 {
	return math.Round(float64(n)/max(window, time.Second).Seconds()*1000) / 1000
}

func latencyOf(l telemetry.LiveLatency) Latency {
	return Latency{N: l.N, P50: ms(l.P50), P95: ms(l.P95), P99: ms(l.P99), Max: ms(l.Max)}
}

func trafficOf(r telemetry.LiveRoute, window time.Duration) Traffic {
	t := Traffic{
		Rate: rate(r.Requests, window), InFlight: r.InFlight,
		Requests: r.Requests, Errors: r.Errors, Refused: r.Refused, Shed: r.Shed, Unauthorized: r.Unauthorized, Uncounted: r.Uncounted,
		Latency: latencyOf(r.Latency), FirstByte: latencyOf(r.FirstByte),
		Saved:  Saved{Seconds: r.Saved.Seconds(), Tokens: r.SavedTokens},
		Tokens: TokenSums{Input: r.InputTokens, Cached: r.CachedTokens, Output: r.OutputTokens},
	}
	t.HitRatio = hitRatio(r.Hits, r.Lookups)
	return t
}

// hitRatio is nil where no cache was asked.
func hitRatio(hits, lookups int64) *float64 {
	if lookups == 0 {
		return nil
	}
	ratio := float64(hits) / float64(lookups)
	return &ratio
}

func seriesOf(f telemetry.LiveSnapshot) Series {
	n := len(f.Series)
	s := Series{
		StepS: 1, End: f.SeriesEnd,
		Rate: make([]float64, n), Errors: make([]float64, n), Refused: make([]float64, n),
		P50: make([]*float64, n), P95: make([]*float64, n), P99: make([]*float64, n),
		Hits: make([]*float64, n), Saved: make([]float64, n), Waiting: make([]float64, n), Running: make([]float64, n),
	}
	for i, p := range f.Series {
		s.Rate[i], s.Errors[i], s.Refused[i] = float64(p.Requests), float64(p.Errors), float64(p.Refused+p.Shed+p.Unauthorized+p.Uncounted)
		if l := p.Latency; l.N > 0 {
			s.P50[i], s.P95[i], s.P99[i] = new(ms(l.P50)), new(ms(l.P95)), new(ms(l.P99))
		}
		s.Hits[i] = hitRatio(p.Hits, p.Lookups)
		s.Saved[i], s.Waiting[i], s.Running[i] = p.Saved.Seconds(), float64(p.Waiting), float64(p.Running)
	}
	return s
}

// routeSnapshots are those of the configuration, the slowest first, and those that were
// in it when a request of the window began. Where there are too many to know all by name,
// those that are not are one, "other".
func (s *setup) routeSnapshots(f telemetry.LiveSnapshot) []RouteSnapshot {
	list := make([]RouteSnapshot, 0, len(s.routes)+1)
	add := func(name, upstream string, r telemetry.LiveRoute) {
		one := RouteSnapshot{Name: name, Upstream: upstream, Traffic: trafficOf(r, f.Window), Policies: refusalsOf(r.Policies)}
		if n := time.Duration(r.Latency.N); n > 0 {
			one.QueueMS, one.UpstreamMS, one.CacheMS = ms(r.Queue/n), ms(r.Upstream/n), ms(r.Cache/n)
		}
		list = append(list, one)
	}
	others, folded := f.Routes[telemetry.Other]
	for _, rt := range s.routes {
		r, known := f.Routes[rt.name]
		if rt.name == telemetry.Other {
			folded = false
		}
		if known || !folded {
			add(rt.name, rt.upstream.displayName(), r)
		}
	}
	if folded {
		add(telemetry.Other, "", others)
	}
	for name, r := range f.Routes {
		if name != telemetry.Other && s.route(name) == nil && (r.Requests > 0 || r.InFlight > 0) {
			add(name, "", r)
		}
	}
	slices.SortFunc(list, func(a, b RouteSnapshot) int {
		return cmp.Or(cmp.Compare(b.Latency.P95, a.Latency.P95), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// displayName is "" for what only decides, which has no upstream.
func (u *upstreamSetup) displayName() string {
	if u.upstreamWorks == nil {
		return ""
	}
	return u.name
}

func refusalsOf(counts []telemetry.LiveCount) []PolicyRefusals {
	list := make([]PolicyRefusals, len(counts))
	for i, c := range counts {
		list[i] = PolicyRefusals{Policy: c.Name, Refused: c.N, Shadow: c.Shadow}
		if c.Scope != "" {
			list[i].Policy = c.Scope + "/" + c.Name
		}
	}
	slices.SortFunc(list, func(a, b PolicyRefusals) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.Shadow, a.Shadow), cmp.Compare(a.Policy, b.Policy))
	})
	return list
}

func callersOf(f telemetry.LiveSnapshot) []CallerSnapshot {
	list := make([]CallerSnapshot, len(f.Callers))
	for i, c := range f.Callers {
		list[i] = CallerSnapshot{
			Caller: c.Caller, Plan: c.Plan, Requests: c.Requests, Rate: rate(c.Requests, f.Window),
			Hits: c.Hits, Errors: c.Errors, Refused: c.Refused, Shed: c.Shed, BusyMS: ms(c.Busy),
			Tokens:   TokenSums{Input: c.InputTokens, Cached: c.CachedTokens, Output: c.OutputTokens},
			Policies: refusalsOf(c.Policies), LastSeen: c.LastSeen,
		}
	}
	return list
}
