package gateway

import (
	"fmt"
	"net/http"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
)

// virtualAnswers are the caches of all routes in virtual time: the store is the real
// one, the rules are those of cache.Lookup, as far as a log tells what they go by.
type virtualAnswers struct {
	store     cache.Store
	flights   map[cache.Key]*virtualFlight
	alone     map[cache.Key]int64 // until when its answers cannot be shared, in Unix nanoseconds
	resting   map[cache.Key]int64 // until when it is not refreshed
	refreshes map[*route]int
}

// The rules of a cache.Cache.
const (
	aloneFor = time.Minute
	restFor  = time.Second
	maxKeys  = 4096
)

// virtualFlight is a call that others wait for.
type virtualFlight struct {
	leader    *rerun
	followers []*rerun
}

// newVirtualAnswers makes one store as large as all tiers whose size is known.
func newVirtualAnswers(c *config.Config) *virtualAnswers {
	size := int64(0)
	for _, tier := range c.Cache.Tiers {
		switch {
		case tier == "memory":
			size += int64(c.Cache.Memory.MaxBytes)
		case tier == "dir" && c.Cache.Dir != nil:
			size += int64(c.Cache.Dir.MaxBytes)
		default:
			size += 1 << 50 // nobody knows
		}
	}
	return &virtualAnswers{
		store:   cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: size, CallerShare: c.Cache.CallerShare}),
		flights: map[cache.Key]*virtualFlight{}, alone: map[cache.Key]int64{}, resting: map[cache.Key]int64{}, refreshes: map[*route]int{},
	}
}

// remember keeps key in one of the maps until then, of which there are few.
func remember(keys map[cache.Key]int64, key cache.Key, until int64) {
	if _, there := keys[key]; !there && len(keys) >= maxKeys {
		for other := range keys {
			delete(keys, other)
			break
		}
	}
	keys[key] = until
}

// lookUp answers from the store, and reports whether it did.
func (r *rerun) lookUp() bool {
	v, c := r.replayer, r.x.chosen.config.Cache
	if r.x.chosen.cache == nil || r.in.bypassed && !r.in.samples || !mayKeep(r.in.method) {
		return false
	}
	if c.Mode == cacheHTTP {
		return r.lookUpAsLogged()
	}
	if r.in.samples && c.Only != "all" {
		return false
	}
	if r.in.hash == 0 { // whether it samples is not known then, if the line does not say so
		r.assume(assumeNoHash)
		return false
	}
	if r.x.samples() {
		return false
	}
	r.keyed, r.key = true, r.cacheKey()
	if r.in.noCache {
		return false
	}
	e, err := v.answers.store.Get(v.ctx, r.key, v.now)
	switch {
	case err != nil || e == nil:
		return false
	case e.Fresh(v.now):
		r.end(outHit, e.Status)
		return true
	}
	if r.stale = e; v.now.Sub(e.Expires) < c.StaleWhileRevalidate {
		r.refresh()
		r.end(outStale, e.Status)
		return true
	}
	return false
}

// mayKeep reports whether answers to a method can be kept.
func mayKeep(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, "QUERY":
		return true
	}
	return false
}

// lookUpAsLogged is for routes where the fields of answers decide, which are not in the
// log.
func (r *rerun) lookUpAsLogged() bool {
	r.assume(assumeHTTP)
	switch r.in.result {
	case outHit, outStale, outCollapsed:
		r.end(r.in.result, int(r.in.status))
		return true
	}
	return false
}

// cacheKey stands for the request, and for whoever shares its answer.
func (r *rerun) cacheKey() cache.Key {
	k := cache.NewKeyHash()
	k.Add(r.x.chosen.name)
	k.Add(r.x.chosen.config.Cache.Share)
	switch cache.Share(r.x.chosen.config.Cache.Share) {
	case cache.SharePlan:
		k.Add(r.x.plan)
	case cache.ShareAll:
	default:
		k.Add(r.x.caller.ID)
	}
	k.Add(fmt.Sprintf("%x", r.in.hash))
	return k.Sum()
}

// join waits for the same request that is running, and reports whether there is one.
// Else others may wait for this one.
func (r *rerun) join() (follows bool) {
	v := r.replayer
	if !r.keyed || !r.x.chosen.config.Cache.Coalesce || r.in.noCache || r.in.method == http.MethodHead || v.answers.alone[r.key] > v.nanos() {
		return false
	}
	if f := v.answers.flights[r.key]; f != nil {
		f.followers = append(f.followers, r)
		r.flight = f
		r.watch()
		return true
	}
	r.flight, r.leads = &virtualFlight{leader: r}, true
	v.answers.flights[r.key] = r.flight
	return false
}

// land ends the flight that r leads, and returns those who waited for it.
func (r *rerun) land() []*rerun {
	if !r.leads {
		return nil
	}
	r.leads = false
	if r.replayer.answers.flights[r.key] == r.flight {
		delete(r.replayer.answers.flights, r.key)
	}
	followers := r.flight.followers
	r.flight.followers = nil
	for _, f := range followers {
		f.flight = nil
	}
	return followers
}

// apart sends all who wait for r on their own way, and those to come.
func (r *rerun) apart() {
	v := r.replayer
	if !r.leads {
		return
	}
	remember(v.answers.alone, r.key, v.now.Add(aloneFor).UnixNano())
	for _, f := range r.land() {
		f.fetch()
	}
}

// judge says whether the answer may be given to somebody who asks the same now, and to
// somebody who asks later.
func (r *rerun) judge() (shareable, storable bool) {
	c, a := r.x.chosen.config.Cache, &r.answer
	ttl := r.ttl()
	switch {
	case !r.keyed || a.failed || r.in.method == http.MethodHead:
		return true, false
	case a.status == http.StatusPartialContent || a.status == http.StatusNotModified || a.status == http.StatusSwitchingProtocols,
		a.bytes > int64(c.MaxEntry),
		a.apart,
		cache.Share(c.Share) != cache.ShareCaller && a.status/100 == 4 && ttl == 0:
		return false, false
	}
	return true, ttl > 0 && !a.unkept && r.isWhole()
}

// isWhole reports whether the answer, if it is a good one, came to its own end: by what
// exchange.judgement asks for, as far as the log tells. An answer of a model has a reason
// for its end where it is read. Its other choices, and a refusal, are not in the log.
func (r *rerun) isWhole() bool {
	a := &r.answer
	switch {
	case a.status/100 != 2:
		return true
	case a.broken || a.ending == endCut:
		return false
	case a.ending == endNatural:
		return true
	}
	call := r.x.call
	return !call.Generates() || call.MayEndUnsaid()
}

// noteKept says what is assumed of an answer that is kept, or given to those who wait.
func (r *rerun) noteKept(a *answerFacts, kept bool) {
	call := r.x.call
	unsaid := kept && a.ending == endUnsaid && a.status/100 == 2
	if unsaid && (call.MayEndUnsaid() || a.hides && call.Endpoint == "" && (a.streamed || a.output > 0)) {
		r.assume(assumeEnd)
	}
	switch {
	case a.failed || r.in.result == outHit || r.in.result == outStale || r.in.result == outCollapsed:
	case a.unseen:
		r.assume(assumeUnseen)
	case a.unkept && !kept:
		r.assume(assumeShared)
	}
}

// ttl is for how long the answer is fresh.
func (r *rerun) ttl() time.Duration {
	c := r.x.chosen.config.Cache
	switch r.answer.status {
	case http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusMovedPermanently, http.StatusPermanentRedirect:
		return c.TTL
	case http.StatusNotFound, http.StatusGone:
		return max(0, min(r.replayer.setup.config.Cache.NegativeTTL, c.TTL))
	}
	return 0
}

// headSize is about what the fields of an answer take in the store.
const headSize = 200

// store keeps the answer.
func (r *rerun) store() {
	v, c, a := r.replayer, r.x.chosen.config.Cache, &r.answer
	r.noteKept(a, true)
	e := &cache.Entry{
		Status:  a.status,
		Body:    v.bytes(a.bytes + headSize),
		Made:    v.now,
		Expires: v.now.Add(r.ttl()),
		Took:    v.now.Sub(time.Unix(0, r.asked)),
		Meta:    cache.Meta{Owner: r.x.caller.ID},
	}
	e.Until = e.Expires
	if a.status/100 == 2 || a.status/100 == 3 {
		e.Until = e.Expires.Add(max(c.StaleWhileRevalidate, c.StaleIfError))
	}
	r.stored = v.answers.store.Put(v.ctx, r.key, e, v.now) == nil
}

// staleInstead reports whether a stale answer is given in place of one with status.
func (r *rerun) staleInstead(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return false
	}
	c := r.x.chosen.config.Cache
	return r.stale != nil && !r.in.noCache && r.replayer.now.Sub(r.stale.Expires) < c.StaleIfError
}

// refresh makes a stale answer anew in the background, at the expense of whoever was
// given it.
func (r *rerun) refresh() {
	v, rt := r.replayer, r.x.chosen
	if v.answers.resting[r.key] > v.nanos() || v.answers.flights[r.key] != nil || v.answers.refreshes[rt] >= cache.MaxRefreshes {
		return
	}
	x := &exchange{
		gateway: v.gateway, setup: v.setup, started: v.now, refreshing: true, r: r.x.r, chosen: rt,
		caller: r.x.caller, plan: r.x.plan, exempt: r.x.exempt, body: r.x.body, call: r.x.call, readAs: r.x.readAs,
	}
	x.w = &response{ResponseWriter: nobody{http.Header{}}, exchange: x}
	b := &rerun{replayer: v, in: r.in, x: x, keyed: true, key: r.key, background: true, leads: true}
	b.flight = &virtualFlight{leader: b}
	v.answers.flights[r.key] = b.flight
	v.answers.refreshes[rt]++
	b.fetch()
}

// rested ends a refresh.
func (r *rerun) rested() {
	v := r.replayer
	if !r.x.refreshing {
		return
	}
	v.answers.refreshes[r.x.chosen]--
	if r.asked != 0 && !r.stored {
		remember(v.answers.resting, r.key, v.now.Add(restFor).UnixNano())
	}
}
