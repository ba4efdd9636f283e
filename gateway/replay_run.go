package gateway

import (
	"container/heap"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/upstream"
)

// replayer runs the requests of a log in virtual time, one after the other.
type replayer struct {
	ctx     context.Context
	gateway *Gateway
	setup   *setup
	require bool            // callers.require
	batches map[string]bool // upstreams with a batch
	log     *accessLog
	facts   facts
	now     time.Time
	timers  timers
	queues  map[*upstreamSetup]*virtualQueue
	answers *virtualAnswers
	jobs    map[string]*exchange // that were accepted, until they are settled; nil: were not
	zeros   []byte
	sums    *tally
}

// newReplayer builds what decides. Nothing of it listens, probes or connects.
func newReplayer(ctx context.Context, c *config.Config, l *accessLog) (*replayer, error) {
	g, err := New(offline(c), Options{Check: true, Models: http.NotFoundHandler()})
	if err != nil {
		return nil, err
	}
	start := time.Unix(0, 0)
	if len(l.requests) > 0 {
		start = time.Unix(0, l.requests[0].at)
	}
	s := *g.setup.Load()
	v := &replayer{
		ctx: ctx, gateway: g, setup: &s, require: c.Callers.Require, log: l, now: start.UTC(),
		batches: map[string]bool{}, queues: map[*upstreamSetup]*virtualQueue{}, answers: newVirtualAnswers(c), jobs: map[string]*exchange{},
	}
	s.counts = &virtualCounts{ratelimit.NewMemoryStoreAt(maxCallers, v.now), v}
	v.facts = newFacts(l)
	v.sums = newTally(v)
	for _, u := range s.upstreams {
		v.batches[u.name] = c.Upstreams[u.name].Batch != nil
		if v.queues[u], err = v.newVirtualQueue(u); err != nil {
			return nil, errors.Join(err, v.close())
		}
	}
	return v, nil
}

// offline is c without what would ask others for something, or need more than the log
// says: who called is known.
func offline(c *config.Config) *config.Config {
	o := *c
	o.Database, o.Blobs = nil, nil
	o.Callers.JWT, o.Callers.Require = nil, false
	o.Upstreams = maps.Clone(c.Upstreams)
	for name, u := range o.Upstreams {
		u.Probe, u.Engine, u.Batch = nil, nil, nil
		o.Upstreams[name] = u
	}
	return &o
}

func (v *replayer) close() error { return v.gateway.Close(context.WithoutCancel(v.ctx)) }

// virtualCounts is a store of quotas by the replayer's time.
type virtualCounts struct {
	*ratelimit.MemoryStore
	replayer *replayer
}

// Take implements ratelimit.Store.
func (c *virtualCounts) Take(ctx context.Context, takes []ratelimit.Take, _ time.Time) (bool, error) {
	return c.MemoryStore.Take(ctx, takes, c.replayer.now)
}

// Settle implements ratelimit.Store.
func (c *virtualCounts) Settle(ctx context.Context, takes []ratelimit.Take, _ time.Time) error {
	return c.MemoryStore.Settle(ctx, takes, c.replayer.now)
}

func (v *replayer) nanos() int64 { return v.now.UnixNano() }

// bytes are n bytes, which nobody reads: they take no memory of their own.
func (v *replayer) bytes(n int64) []byte {
	n = min(n, longestBody)
	if int64(len(v.zeros)) < n {
		v.zeros = make([]byte, n)
	}
	return v.zeros[:n:n]
}

// longestBody bounds what is counted of one body.
const longestBody = 1 << 30

// run replays all requests, and what they have set going.
func (v *replayer) run() error {
	for i := range v.log.requests {
		in := v.log.requests[i]
		for v.timers.isNext(in.at) {
			v.step()
		}
		if i%1024 == 0 && v.ctx.Err() != nil {
			return context.Cause(v.ctx)
		}
		v.now = time.Unix(0, in.at).UTC()
		v.arrive(in)
	}
	for v.timers.Len() > 0 {
		v.step()
	}
	return nil
}

// step lets the next thing happen.
func (v *replayer) step() {
	t := heap.Pop(&v.timers).(timer)
	v.now = time.Unix(0, t.at).UTC()
	t.do()
}

// rerun is a request on its way through the new configuration.
type rerun struct {
	replayer *replayer
	in       *logged
	x        *exchange
	answer   answerFacts // of the upstream, when it is asked

	keyed  bool
	key    cache.Key
	stale  *cache.Entry // what is stored, and has expired
	flight *virtualFlight
	leads  bool
	stored bool

	queue      *virtualQueue
	item       *admission.Item
	asked      int64 // when it wanted a place, in Unix nanoseconds
	began      int64 // when it got one
	background bool  // nobody waits for it
	stays      bool  // for those who wait for the same, though its client has left
	ended      bool
	noted      uint32 // the assumptions that were made, by bit
}

// arrive is a line of the log, at its time.
func (v *replayer) arrive(in *logged) {
	switch {
	case in.refresh || in.isAttempt():
		if in.called {
			v.sums.worked(&v.sums.logged, in.service, in.input, in.output)
		}
		if !in.refresh { // the new configuration refreshes by itself
			v.attempt(in)
		}
		return
	}
	r := &rerun{replayer: v, in: in}
	if in.part {
		r.assume(assumeSampled)
	}
	if in.result == outOther && !in.mayMatch() {
		r.assume(assumeOther)
		r.end(outOther, int(in.status))
		return
	}
	if status := r.start(); status != 0 {
		r.end(outOther, status)
		return
	}
	r.route()
}

// mayMatch reports whether a request that was not served might be by other routes.
func (in *logged) mayMatch() bool {
	return in.caller != "" && (in.status == http.StatusNotFound && in.route == "" || in.status == http.StatusServiceUnavailable)
}

// route is the way of a request from the look-up on, as exchange.route has it.
func (r *rerun) route() {
	if r.x.chosen.config.Cache.ChargeHits {
		if err := r.x.reserveHit(); err != nil {
			r.refuse(err)
			return
		}
	}
	if r.lookUp() {
		return
	}
	if r.in.result == outJob {
		r.handIn()
		return
	}
	if r.join() {
		return
	}
	r.fetch()
}

// refuse ends a request that the policies did not allow.
func (r *rerun) refuse(err error) {
	for _, f := range r.land() { // there are none yet
		f.fetch()
	}
	r.end(outDenied, statusOf(err))
}

// fetch asks for a place at the upstream, for as many as may have one.
func (r *rerun) fetch() {
	v := r.replayer
	if err := r.x.reserve(); err != nil {
		r.refuse(err)
		return
	}
	r.x.wants = r.x.want(r.x.r.Header)
	r.asked = v.nanos()
	r.watch()
	v.queues[r.x.chosen.upstream].enter(r)
}

// watch has a client leave that left.
func (r *rerun) watch() {
	if r.in.result != outLeft || r.background {
		return
	}
	r.replayer.timers.set(max(r.in.at+r.in.took, r.replayer.nanos()), atEnd, r.leave)
}

// leave ends a request whose client does not wait any longer, unless others wait for
// the same.
func (r *rerun) leave() {
	switch {
	case r.ended:
		return
	case r.leads && len(r.flight.followers) > 0:
		if r.stays = true; r.began != 0 && r.in.called { // the log does not say when it would have ended
			r.answer = r.replayer.facts.guess(r)
			r.replayer.timers.set(max(r.began+r.answer.service, r.replayer.nanos()), atEnd, r.complete)
		}
		return
	case r.item == nil && r.flight == nil: // it has no part yet
		return
	case r.item == nil: // it follows
		r.flight.followers = slices.DeleteFunc(r.flight.followers, func(f *rerun) bool { return f == r })
		r.x.settle(r.readAlong(r.flight.leader))
		r.flight = nil
	case r.began == 0:
		r.land()
		r.queue.leave(r)
		r.x.giveBack()
	default:
		r.land()
		r.queue.scheduler.Done(r.item, admission.Left, r.replayer.now)
		r.x.settle(r.spent())
		r.queue.tell()
	}
	r.end(outLeft, statusClientLeft)
}

// shed ends a request that the queue refused, and those that waited for it.
func (r *rerun) shed(reason admission.Reason) {
	status := r.x.chosen.upstream.config.Queue.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	r.x.giveBack()
	r.x.shedFor = string(reason)
	followers := r.land()
	if r.staleInstead(status) {
		for _, f := range followers {
			f.end(outCollapsed, r.stale.Status)
		}
		r.end(outStale, r.stale.Status)
		return
	}
	for _, f := range followers {
		f.x.wants = f.x.want(f.x.r.Header)
		r.queue.refuse(f, reason)
		f.x.shedFor = string(reason)
		f.end(outShed, status)
	}
	r.end(outShed, status)
}

// run begins the call of a request that got its place.
func (r *rerun) run() {
	v := r.replayer
	r.began = v.nanos()
	r.answer = v.facts.of(r)
	a := &r.answer
	s := r.queue.scheduler
	switch {
	case a.status == http.StatusSwitchingProtocols:
		s.Switched(r.item, v.now)
	case !r.in.stream:
	case r.x.call.Endpoint == "" || !r.x.call.Generates():
		s.Streams(r.item)
	default:
		v.timers.set(r.began+min(a.first, a.service), atEnd, r.firstToken)
	}
	if shareable, _ := r.judge(); !shareable && r.leads {
		v.timers.set(r.began+min(a.head, a.service), atEnd, r.apart)
	}
	if r.in.result == outLeft && r.in.called {
		if !r.background && !r.stays {
			return // its client leaves before the end, whenever that is
		}
		r.answer = v.facts.guess(r)
	}
	v.timers.set(r.began+a.service, atEnd, r.complete)
}

// firstToken tells the queue of a stream's.
func (r *rerun) firstToken() {
	if r.ended {
		return
	}
	r.queue.scheduler.FirstToken(r.item, r.replayer.now)
	r.queue.tell()
	if rest := r.answer.output - 1; rest > 0 {
		r.produce(rest, min(rest, mostPieces), r.replayer.nanos())
	}
}

// mostPieces is in how many pieces at most the tokens of a stream come after the first,
// evenly until its end.
const mostPieces = 32

// produce has the rest of a stream's tokens come, in as many pieces, after a time.
func (r *rerun) produce(rest, pieces, after int64) {
	v := r.replayer
	gap := (r.began + r.answer.service - after) / pieces
	v.timers.set(after+gap, atEnd, func() {
		if r.ended {
			return
		}
		r.queue.scheduler.Progress(r.item, rest/pieces, v.now)
		if pieces > 1 {
			r.produce(rest-rest/pieces, pieces-1, v.nanos())
		}
	})
}

// complete is the end of the upstream's answer.
func (r *rerun) complete() {
	if r.ended {
		return
	}
	v, a := r.replayer, &r.answer
	s := r.queue.scheduler
	s.Done(r.item, r.result(), v.now)
	if a.known && r.x.call.Endpoint != "" && !a.failed {
		s.Settle(r.item, weir.Usage{Input: a.input, Cached: a.cached, Output: a.output})
	}
	r.queue.tell()
	switch {
	case r.staleInstead(a.status):
		for _, f := range r.land() {
			f.end(outCollapsed, r.stale.Status)
		}
		if a.failed {
			r.x.giveBack()
		}
		r.x.settle(amounts{requests: 1, bytes: r.in.bytesIn + a.bytes})
		r.end(outStale, r.stale.Status)
		return
	case a.failed:
		r.x.giveBack()
	default:
		if _, storable := r.judge(); storable && r.keyed {
			r.store()
		}
		r.learn()
		r.x.settle(r.spent())
	}
	for _, f := range r.land() {
		f.answer = *a
		f.noteKept(a, false)
		f.end(outCollapsed, a.status)
	}
	r.end(outUpstream, a.status)
}

// result is how the work ended, in the queue's words.
func (r *rerun) result() admission.Result {
	if r.answer.failed {
		return admission.Failed
	}
	return resultOf(upstream.Event{Result: upstream.ResultOK, Status: r.answer.status})
}

// spent is what the request has used: what the log says of it.
func (r *rerun) spent() amounts {
	a := &r.answer
	used := amounts{requests: 1, bytes: sum(r.in.bytesIn, a.bytes), input: a.input, output: a.output, cached: a.cached}
	used.money = r.x.price().of(weir.Usage{Input: a.input, Cached: a.cached, Output: a.output})
	return used
}

// readAlong is what a follower is charged for that leaves before the end: as any client
// that leaves, its prompt, if the model was asked, and what was produced until now.
func (r *rerun) readAlong(leader *rerun) amounts {
	if leader.began == 0 {
		return amounts{}
	}
	used := amounts{requests: 1, bytes: r.in.bytesIn, input: r.in.estimateIn}
	a, passed := &leader.answer, r.replayer.nanos()-leader.began
	if r.in.stream && passed >= a.first && a.service > a.first {
		share := float64(passed-a.first) / float64(a.service-a.first)
		used.bytes = sum(used.bytes, int64(float64(a.bytes)*share))
		used.output = min(1+int64(float64(a.output-1)*share), a.output)
	}
	return used
}

// learn remembers what the request used, for the guesses about the next.
func (r *rerun) learn() {
	a := &r.answer
	if r.x.expected == nil || a.status/100 != 2 || a.broken {
		return
	}
	r.x.gateway.sizes.learn(r.x.sizeKey(), func(s *size) {
		s.bytes.add(a.bytes)
		if a.known {
			s.input.add(a.input)
			s.output.add(a.output)
		}
	})
}

// handIn makes a job of the request: what it is to cost is reserved.
func (r *rerun) handIn() {
	v := r.replayer
	r.assume(assumeJob)
	if !r.x.reserved {
		if err := r.x.reserveHit(); err != nil {
			v.jobs[r.in.job] = nil
			r.refuse(err)
			return
		}
	}
	v.jobs[r.in.job] = r.x
	r.end(outJob, http.StatusAccepted)
}

// attempt is one of a job, which needs a place at its time.
func (v *replayer) attempt(in *logged) {
	x, known := v.jobs[in.job]
	if known && x == nil {
		return // it is none now
	}
	r := &rerun{replayer: v, in: in, background: true}
	if status := r.start(); status != 0 || !in.called {
		return
	}
	r.x.wants = r.x.want(r.x.r.Header)
	r.x.wants.Class = admission.Batch
	if x != nil { // its first attempt settles what was reserved
		r.x.takes, r.x.reserved = x.takes, x.reserved
		x.reserved = false
	}
	r.asked = v.nanos()
	v.queues[r.x.chosen.upstream].enter(r)
}

// end says what became of the request.
func (r *rerun) end(o outcome, status int) {
	v := r.replayer
	r.ended = true
	if r.background {
		r.rested()
	}
	r.settle(o)
	if r.began != 0 {
		v.sums.worked(&v.sums.new, v.nanos()-r.began, r.answer.input, r.answer.output)
	}
	if !r.background {
		v.sums.add(r, o, status)
	}
}

// settle ends what is reserved still: where hits are charged, for an answer that no call
// was made for.
func (r *rerun) settle(o outcome) {
	switch {
	case r.x == nil || o == outJob:
		return // a job's is settled at its end
	case o == outHit || o == outStale:
		if r.x.reserved {
			r.answer = r.replayer.facts.of(r)
		}
	case o == outCollapsed && !r.answer.failed:
	default:
		r.x.giveBack()
		return
	}
	a := &r.answer
	if a.streamed { // it need not say what it used: that is estimated
		a.input = r.in.estimateIn
	}
	r.x.settle(amounts{requests: 1, bytes: sum(r.in.bytesIn, a.bytes), input: a.input, output: a.output})
}
