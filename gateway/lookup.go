package gateway

import (
	"net/http"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/telemetry"
)

// lookUp answers from the cache, which costs nothing.
func (x *exchange) lookUp() (answered bool, err error) {
	c := x.chosen.cache
	if c == nil {
		return false, nil
	}
	begin := time.Now()
	x.wishes = cache.ReadWishes(x.r.Header)
	x.key, err = c.Key(x.r, x.body, x.caller)
	if err != nil || x.wishes.NoStore || x.samples() {
		x.setCache(cache.StatusBypass, telemetry.ResultBypass)
		if x.wishes.OnlyIfCached {
			return false, cache.ErrOnlyIfCached()
		}
		return false, nil
	}
	x.keyed = true
	x.setCache(cache.StatusMiss, telemetry.ResultMiss)
	entry, err := c.Get(x.r.Context(), x.key, x.wishes, begin)
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if err != nil {
		x.gateway.Logger().Warn("the cache did not answer", "request_id", x.id, "error", err.Error())
	}
	if entry == nil {
		if x.wishes.OnlyIfCached {
			return false, cache.ErrOnlyIfCached()
		}
		return false, nil
	}
	x.setCache(cache.HitStatus(entry, begin), telemetry.ResultHit)
	x.stored = entry
	x.peek()
	cache.ServeHit(x.w, x.r, entry, begin)
	return true, nil
}

// samples reports whether the same request may rightly have another answer each
// time, and the route keeps only those that have not.
func (x *exchange) samples() bool {
	return x.chosen.config.Cache.Only != "all" && !x.call.Deterministic
}

func (x *exchange) setCache(status, result string) { x.cacheStatus, x.cacheResult = status, result }

// join waits for an identical request that is running, and answers with its
// answer, which costs nothing. Otherwise others may wait for this one.
func (x *exchange) join() (answered bool, err error) {
	// A HEAD has no body to keep, or to wait for.
	if !x.keyed || x.r.Method == http.MethodHead {
		return false, nil
	}
	flight := x.chosen.cache.Join(x.r.Context(), x.key, x.wishes, time.Now())
	if flight.Leads() {
		x.flight = flight
		return false, nil
	}
	defer flight.Leave()
	begin := time.Now()
	entry, err := flight.Wait(x.r.Context())
	x.timings.Add(telemetry.PhaseCache, time.Since(begin))
	if entry == nil { // an error, or an answer that is not for us
		return false, err
	}
	x.setCache(cache.StatusCollapsed, telemetry.ResultCollapsed)
	x.stored = entry
	x.peek()
	cache.ServeCollapsed(x.w, x.r, entry)
	return true, nil
}
