package gateway

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/telemetry"
)

// cacheSnapshot is what the stores keep, and what saved most.
func (s *setup) cacheSnapshot(a *answers, f telemetry.LiveSnapshot) CacheSnapshot {
	c := CacheSnapshot{Tiers: []TierSnapshot{}, Keys: make([]KeySnapshot, len(f.Keys))}
	for _, r := range s.routes {
		c.On = c.On || r.cache != nil
	}
	for _, tier := range s.config.Cache.Tiers {
		switch {
		case tier == "memory" && a.memory != nil:
			c.Tiers = append(c.Tiers, tierOf(tier, a.memory.Stats(), int64(s.config.Cache.Memory.MaxBytes)))
		case tier == "dir" && a.dir != nil:
			c.Tiers = append(c.Tiers, tierOf(tier, a.dir.Stats(), int64(s.config.Cache.Dir.MaxBytes)))
		case tier == "redis" && a.redis != nil:
			c.Tiers = append(c.Tiers, TierSnapshot{Name: tier, Shared: true})
		}
	}
	for i, k := range f.Keys {
		c.Keys[i] = KeySnapshot{
			Key: k.Key, Route: k.Route, Path: k.Path, Model: k.Model, Hits: k.Hits,
			Saved: Saved{Seconds: k.Saved.Seconds(), Tokens: k.Tokens}, LastHit: k.LastHit,
		}
	}
	return c
}

func tierOf(name string, s cache.Stats, most int64) TierSnapshot {
	return TierSnapshot{Name: name, Entries: int64(s.Entries), Bytes: s.Bytes, MaxBytes: most, Evictions: int64(s.Evictions)}
}

// upstreamSnapshots are those of the configuration, by name.
func (s *setup) upstreamSnapshots(f telemetry.LiveSnapshot) []UpstreamSnapshot {
	list := make([]UpstreamSnapshot, 0, len(s.upstreams))
	for _, name := range slices.Sorted(maps.Keys(s.upstreams)) {
		if u := s.upstreams[name]; u.queue != nil {
			list = append(list, u.snapshot(f.Upstreams[name], f))
		}
	}
	return list
}

func (u *upstreamSetup) snapshot(l telemetry.LiveUpstream, f telemetry.LiveSnapshot) UpstreamSnapshot {
	s := UpstreamSnapshot{
		Name: u.name, Dialect: u.dialect.Name(),
		Calls: countsOf(l.Calls), Latency: latencyOf(l.Latency), First: latencyOf(l.FirstByte),
		Waiting: map[string]int{}, MaxQueue: u.config.Queue.Max, WaitMS: latencyOf(l.Wait), Refused: countsOf(l.Refused),
	}
	var calls int64
	for _, n := range s.Calls {
		calls += n
	}
	s.Rate = rate(calls, f.Window)
	q := u.queue.Stats()
	for class, n := range q.Waiting {
		s.Waiting[admission.Class(class).String()] = n
	}
	s.Targets = make([]TargetSnapshot, u.pool.Targets())
	for i := range s.Targets {
		t := &s.Targets[i]
		*t = u.targetState(i, f.At)
		if i < len(q.Targets) {
			t.Running, t.Limit = q.Targets[i].Running, finite(q.Targets[i].Limit)
		}
		if i < len(u.config.Targets) {
			t.Weight = max(u.config.Targets[i].Weight, 1)
		}
		s.Running += t.Running
		s.Limit += math.Floor(t.Limit)
	}
	return s
}

// targetState is whether a target is given work, and why not.
func (u *upstreamSetup) targetState(i int, now time.Time) TargetSnapshot {
	t := TargetSnapshot{URL: u.pool.URL(i), State: "open"}
	if u.pool.Open(i, now) {
		return t
	}
	breaker, ejected := u.pool.State(i, now)
	switch {
	case ejected:
		t.State = "probes"
	case breaker == "closed":
		t.State = "paused"
	default:
		t.State = "breaker"
	}
	if at := u.pool.OpensAtOf(i, now); at.After(now) {
		t.Until = at
	}
	return t
}

// finite is f, or 0 where JSON has no number for it.
func finite(f float64) float64 {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return 0
	}
	return f
}

func countsOf(counts []telemetry.LiveCount) map[string]int64 {
	m := make(map[string]int64, len(counts))
	for _, c := range counts {
		m[c.Name] += c.N
	}
	return m
}

// jobsSnapshot is nil where there are no jobs.
func (d *data) jobsSnapshot() *JobsSnapshot {
	if d.jobs == nil {
		return nil
	}
	j := &JobsSnapshot{Waiting: d.counts.lines[0].Load(), Running: d.counts.lines[1].Load(), Ended: map[string]int64{}}
	for state, n := range d.counts.ends {
		j.Ended[string(state)] = int64(n.Load())
	}
	j.Ended[string(job.Completed)] += 0 // also before the first
	return j
}

// snapshot is how the store of the quotas is.
func (n *counts) snapshot() HealthSnapshot {
	if n.redis == nil {
		return HealthSnapshot{Kind: "memory", Healthy: true}
	}
	s := HealthSnapshot{Kind: "redis", Healthy: n.redis.Healthy() && !n.away.Load()}
	for _, failed := range n.failures {
		s.Failures += int64(failed.Load())
	}
	if !s.Healthy {
		cause, _ := n.cause.Load().(string)
		s.Detail = "on_failure: " + n.onFailure + "; " + cmp.Or(cause, "it does not answer")
	}
	return s
}

// snapshot is how the database is, nil without one.
func (d *data) snapshot(c *config.Database) *HealthSnapshot {
	if d.db == nil || c == nil {
		return nil
	}
	kind, _, _ := strings.Cut(c.URL, ":")
	if kind == "postgresql" {
		kind = "postgres"
	}
	s := &HealthSnapshot{Kind: kind, Healthy: d.db.Healthy()}
	for _, op := range []string{database.OpRead, database.OpWrite} {
		for _, result := range []string{database.ResultAway, database.ResultUnknown, database.ResultError} {
			s.Failures += int64(d.counts.calls[op+" "+result].Load())
		}
	}
	if !s.Healthy {
		s.Detail = "keys and limits that were read go on; nothing new is kept until it answers"
	}
	return s
}
