package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/telemetry"
)

// The words of a route's cache.mode.
const (
	cacheOff  = "off"
	cacheHTTP = "http"
)

// nearBytes is how much of what is in Redis each connection to it keeps on this
// side, where there is no store in memory in front.
const nearBytes = 64 << 20

// answers is where the caches of all routes keep what they keep.
type answers struct {
	store  cache.Store
	tiers  *cache.Tiers
	purges *cache.Purges
	memory *cache.MemoryStore     // nil if no tier
	dir    *cache.DirStore        // nil if no tier
	redis  *redisstore.CacheStore // nil if no tier
	leases cache.Leases           // nil: instances do not know of each other

	log      *slog.Logger
	failures atomic.Uint64
	told     atomic.Int64 // when a failure was logged last, in Unix nanoseconds
}

// newAnswers opens the tiers. Who only checks a configuration opens none but memory.
func newAnswers(c *config.Config, o Options, redis *redisstore.Store, log *slog.Logger) (*answers, error) {
	a := &answers{log: log}
	var purges cache.PurgeOptions
	var stores []cache.Store
	for i, tier := range c.Cache.Tiers {
		switch {
		case tier == "memory":
			a.memory = cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: int64(c.Cache.Memory.MaxBytes), CallerShare: c.Cache.CallerShare})
			stores, purges.Stores = append(stores, a.memory), append(purges.Stores, a.memory)
		case o.Check:
		case tier == "dir":
			dir, err := cache.OpenDir(cache.DirOptions{Path: c.Cache.Dir.Path, MaxBytes: int64(c.Cache.Dir.MaxBytes), CallerShare: c.Cache.CallerShare})
			if err != nil {
				return nil, errors.Join(fmt.Errorf("cache.dir: %w", err), a.close())
			}
			a.dir = dir
			stores, purges.Stores, purges.Path = append(stores, dir), append(purges.Stores, dir), filepath.Join(c.Cache.Dir.Path, "purges")
		case tier == "redis":
			options := redisstore.CacheOptions{MaxEntry: largestEntry(c)}
			if i == 0 {
				options.Near, stores = nearBytes, append(stores, nothing{})
			}
			a.redis = redis.Cache(options)
			a.leases, purges.Log = a.redis, a.redis
			stores = append(stores, a.redis)
		}
	}
	purges.Observe = a.observePurges
	var err error
	if a.purges, err = cache.NewPurges(purges); err != nil {
		return nil, errors.Join(fmt.Errorf("cache: %w", err), a.close())
	}
	a.tiers = cache.NewTiers(a.purges, stores...)
	a.tiers.Observe = a.failed
	a.store = a.tiers
	if len(stores) == 1 {
		a.store = stores[0]
	}
	return a, nil
}

// nothing is the first tier where answers are kept in Redis alone: nobody waits
// for what is written to the tiers behind the first.
type nothing struct{}

func (nothing) Get(context.Context, cache.Key, time.Time) (*cache.Entry, error) { return nil, nil }
func (nothing) Put(context.Context, cache.Key, *cache.Entry, time.Time) error   { return nil }
func (nothing) Delete(context.Context, cache.Key) error                         { return nil }

func largestEntry(c *config.Config) int64 {
	most := int64(1)
	for _, r := range c.Routes {
		most = max(most, int64(r.Cache.MaxEntry))
	}
	return most
}

// failed counts what a store did not do, and tells of it at most once a minute: a
// Redis that is away is told of by itself.
func (a *answers) failed(err error) {
	a.failures.Add(1)
	if errors.Is(err, redisstore.ErrAway) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return
	}
	if last := a.told.Load(); time.Since(time.Unix(0, last)) > time.Minute && a.told.CompareAndSwap(last, time.Now().UnixNano()) {
		a.log.Warn("a store of the cache failed; requests go on without it", "error", err.Error())
	}
}

// observePurges tells of purges that other instances were not told, and of the end of
// that.
func (a *answers) observePurges(err error) {
	if errors.Is(err, cache.ErrPurgesShared) {
		a.log.Info(err.Error())
		return
	}
	a.failures.Add(1)
	a.log.Warn(err.Error())
}

// close writes what waits to be written, and closes what newAnswers opened.
func (a *answers) close() error {
	var errs []error
	if a.tiers != nil {
		errs = append(errs, a.tiers.Close())
	}
	if a.purges != nil {
		errs = append(errs, a.purges.Close())
	}
	if a.dir != nil {
		errs = append(errs, a.dir.Close())
	}
	if a.redis != nil {
		a.redis.Close()
	}
	return errors.Join(errs...)
}

// export makes the metrics of the stores.
func (a *answers) export(m *telemetry.Metrics) error {
	errs := []error{m.CounterFunc("weir_cache_store_failures_total", "Look-ups and writes that a store of the cache did not do.",
		func() float64 { return float64(a.failures.Load()) })}
	if a.tiers != nil {
		errs = append(errs,
			m.GaugeFunc("weir_cache_writes_queued", "Answers that wait to be written to the tiers behind the first.", func() float64 { return float64(a.tiers.Stats().Queued) }),
			m.CounterFunc("weir_cache_writes_dropped_total", "Answers that are not in the tiers behind the first, because too many waited.",
				func() float64 { return float64(a.tiers.Stats().Dropped) }))
	}
	for tier, stats := range map[string]func() cache.Stats{"memory": statsOf(a.memory), "dir": statsOf(a.dir)} {
		if stats == nil {
			continue
		}
		errs = append(errs,
			m.GaugeFunc("weir_cache_bytes", "Bytes that cached answers take, by tier.", func() float64 { return float64(stats().Bytes) }, "tier", tier),
			m.GaugeFunc("weir_cache_entries", "Cached answers, by tier.", func() float64 { return float64(stats().Entries) }, "tier", tier),
			m.CounterFunc("weir_cache_evictions_total", "Fresh answers that made room for others, by tier.", func() float64 { return float64(stats().Evictions) }, "tier", tier))
	}
	return errors.Join(errs...)
}

// statsOf is the Stats method of s, or nil.
func statsOf[S interface {
	comparable
	Stats() cache.Stats
}](s S) func() cache.Stats {
	var none S
	if s == none {
		return nil
	}
	return s.Stats
}

// Purge forgets stored answers: of a kind, key, tag, path, caller or all, those with
// the value; see cache.Label. It returns how many were deleted here; there may be
// more of them that nobody is given any more. An error says that other instances
// may still have them.
func (g *Gateway) Purge(ctx context.Context, kind, value string) (removed int, err error) {
	label := cache.LabelAll
	if kind != "all" {
		label = cache.Label(kind, value)
	}
	removed, err = g.answers.purges.Purge(ctx, label)
	g.notePurge(kind, value, removed, err)
	return removed, err
}

// cacheOptions are those of a route's cache.
func (s *setup) cacheOptions(c config.Route, a *answers) cache.Options {
	return cache.Options{
		Mode:                 cache.Mode(c.Cache.Mode),
		Store:                a.store,
		Purges:               a.purges,
		Leases:               a.leases,
		Scope:                c.Name,
		Generation:           s.generation(c),
		TTL:                  s.moved.ttl(c),
		NegativeTTL:          orNone(s.config.Cache.NegativeTTL),
		StaleWhileRevalidate: c.Cache.StaleWhileRevalidate,
		StaleIfError:         c.Cache.StaleIfError,
		Share:                cache.Share(c.Cache.Share),
		CallerFields:         s.callerFields,
		Ignore:               c.Cache.Ignore,
		Forms:                dialect.FormPointers(),
		Tags:                 c.Cache.Tags,
		Replay:               cache.Replay(c.Cache.Replay),
		MaxEntry:             int64(c.Cache.MaxEntry),
		Depth:                s.config.Limits.JSONDepth,
		NoCoalesce:           !c.Cache.Coalesce,
	}
}

// callerFieldsOf are the request fields that name a caller: whose answer it is, the
// route says.
func callerFieldsOf(c config.Callers) []string {
	if len(c.TrustedProxies) == 0 || !slices.Contains(c.Identify, "header") {
		return nil
	}
	return []string{http.CanonicalHeaderKey(c.Header)}
}

// asks reports whether a request field is part of what is asked for: whether answers may
// depend on it, whoever asks.
func (s *setup) asks(field string) bool {
	return cache.Keyed(field) && !slices.Contains(s.callerFields, field)
}

// generation stands for which model servers there are behind a route, what they are
// told, and which of their answers are the same: where that is changed, no answer
// from before is found.
func (s *setup) generation(c config.Route) string {
	name := c.Upstream
	u := s.config.Upstreams[name]
	k := cache.NewKeyHash()
	k.Add(name)
	k.Add(u.Dialect)
	targets := make([]string, len(u.Targets))
	for i, t := range u.Targets {
		targets[i] = t.URL
	}
	slices.Sort(targets)
	k.Add(fmt.Sprintf("%q", targets))
	fields := make([]string, 0, len(u.SetHeaders))
	for name, value := range u.SetHeaders {
		fields = append(fields, fmt.Sprintf("%q: %q", name, value))
	}
	slices.Sort(fields)
	// Its hash alone: they may hold a key.
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", fields))
	k.Add(hex.EncodeToString(sum[:]))
	if c.Cache.Share != string(cache.ShareCaller) {
		k.Add(strings.Join(s.callerFields, "")) // which is in no key then
	}
	settings := c.Cache
	settings.Coalesce, settings.Replay, settings.MaxEntry, settings.ChargeHits = false, "", 0, false // how, not what
	settings.TTL, settings.Auto, settings.StaleWhileRevalidate, settings.StaleIfError = 0, nil, 0, 0 // for how long, not what
	k.Add(fmt.Sprintf("%+v", settings))
	return k.Sum().String()
}
