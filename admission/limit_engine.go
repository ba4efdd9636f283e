package admission

import (
	"math"
	"time"
)

// engineView is what the last scrapes said.
type engineView struct {
	scrapes [engineKept]scrape // the newest first
	n       int
	cache   float64 // in tokens, 0: not known
}

// scrape is one of them, beside what was held here at the time.
type scrape struct {
	at             time.Time
	running, wait  float64
	used           float64
	others, tokens float64 // of the target's, seats and tokens that are not ours
}

// engine takes in what the target says of itself. The size of its cache becomes
// the limit of tokens at once.
func (l *limiter) engine(e EngineState, now time.Time) {
	if e.KVTokens > 0 {
		size := float64(e.KVTokens)
		if v := &l.engineView; size != v.cache {
			v.cache = size
			l.token.limit, l.token.high = cacheShare*size, cacheShare*size
			l.token.low = min(leastTokens, l.token.high)
			if !l.fixed { // as many as there is room for, where all are like at the start
				l.seat.limit = min(max(l.seat.limit, startSeats/startTokens*l.token.high), l.seat.high)
			}
		}
	}
	if e.MaxSeqs > 0 {
		l.engineSeats = float64(e.MaxSeqs)
	}
	if e.MaxSeqs > 0 && !l.fixed {
		l.seat.high = max(min(l.most, float64(e.MaxSeqs)), 1)
		l.seat.limit = min(l.seat.limit, l.seat.high)
	}
	at := e.At
	if at.IsZero() || at.After(now) {
		at = now
	}
	used := e.KVUsed
	if math.IsNaN(used) {
		used = 0
	}
	v := &l.engineView
	if v.n > 0 && !at.After(v.scrapes[0].at) || now.Sub(at) > engineStale {
		return
	}
	s := scrape{at: at, running: max(float64(e.Running), 0), wait: max(float64(e.Waiting), 0), used: min(max(used, 0), 1)}
	s.others = s.running + s.wait - l.seat.peak
	s.tokens = s.used*v.cache - l.token.peak
	copy(v.scrapes[1:], v.scrapes[:])
	v.scrapes[0] = s
	v.n = min(v.n+1, engineKept)
}

// others takes what others use of the target off what may be used here: what they
// used at least, in all of the last scrapes. Of that the other instances' own parts
// do not count.
func (l *limiter) others(now time.Time) {
	seats, tokens := math.Inf(1), math.Inf(1)
	v := &l.engineView
	for _, s := range v.fresh(now) {
		seats, tokens = min(seats, s.others), min(tokens, s.tokens)
	}
	if len(v.fresh(now)) < 2 {
		seats, tokens = 0, 0
	}
	siblings := (l.parts - 1) / l.parts
	l.seat.other = min(max(seats-siblings*l.seat.limit, 0), l.seat.limit)
	l.token.other = 0
	if !math.IsInf(l.token.limit, 1) {
		l.token.other = min(max(tokens-siblings*l.token.limit, 0), l.token.limit)
	}
}

// fresh is the scrapes that are not stale.
func (v *engineView) fresh(now time.Time) []scrape {
	n := 0
	for n < v.n && now.Sub(v.scrapes[n].at) <= engineStale {
		n++
	}
	return v.scrapes[:n]
}

// over is above 1 where requests stand in a queue inside the target, or its cache
// is nearly full; memory says that it is the cache.
func (v *engineView) over(now time.Time) (over float64, memory bool) {
	fresh := v.fresh(now)
	if len(fresh) < 2 {
		return 0, false
	}
	wait, used := math.Inf(1), math.Inf(1)
	for _, s := range fresh {
		wait, used = min(wait, s.wait/max(s.running, 1)), min(used, s.used)
	}
	if wait > queueTolerated {
		over = min(1+wait, queueMost)
	}
	if used > cacheFull && used/cacheFull > over {
		return used / cacheFull, true
	}
	return over, used > cacheFull
}
