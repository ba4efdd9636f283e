package cache

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Join looks whether the same request is running, here or, with Leases, elsewhere.
// If so it waits until that has an answer that may be shared, and reports true:
// Serve sends it. An error is the failure that the other request ended with.
//
// Otherwise this request makes the call, with Context, and others may wait for it:
// it hands its answer to Replace and Record, or says Fail. A request goes alone if
// the options or its client's wishes say so, or because the last answer under its
// key could not be shared: waiting for one that cannot be shared either would only
// make requests queue up.
func (l *Lookup) Join(ctx context.Context) (answered bool, err error) {
	if !l.joins() {
		return false, nil
	}
	l.flight, l.leads = l.cache.flights.join(ctx, l.flightKey())
	if !l.leads {
		return l.wait(ctx)
	}
	// The leader's client may leave long before its handler returns.
	l.stop = context.AfterFunc(ctx, l.depart)
	if l.Err != nil {
		return false, nil // the store has cost enough time
	}
	// Another flight may have ended between the look-up and now: its answer is
	// in the store before its flight is gone.
	return l.lookAgain() || l.joinElsewhere(), nil
}

// Follow is Join for a request that others cannot wait for, because its own time may
// be over before its answer is there: it waits for one that is running here, and
// otherwise goes alone.
func (l *Lookup) Follow(ctx context.Context) (answered bool, err error) {
	if !l.joins() {
		return false, nil
	}
	if l.flight = l.cache.flights.follow(l.flightKey()); l.flight == nil {
		return false, nil
	}
	return l.wait(ctx)
}

// joins reports whether the request may have another one's answer.
func (l *Lookup) joins() bool {
	return l.Keyed() && !l.cache.options.NoCoalesce && !l.wishes.noCache && !l.partial && l.wishes.maxAge != 0 &&
		l.request.HTTP.Method != http.MethodHead && !l.cache.alone.has(l.flightKey(), l.now)
}

// wait is what a follower does.
func (l *Lookup) wait(ctx context.Context) (answered bool, err error) {
	o, err := l.flight.wait(ctx)
	if err == nil && !l.suits(o) {
		o = outcome{}
	}
	if err == nil && o.live != nil {
		if l.live = o.live.reader(); l.live == nil {
			o = outcome{}
		}
	}
	if err == nil && o.entry == nil && l.live == nil { // it is not for all
		l.depart()
		l.flight = nil
		return false, nil
	}
	l.collapsed = true
	l.Entry, l.now = o.entry, time.Now()
	if o.failed != 0 {
		l.why, l.upstream, l.detail = fwdStale, o.failed, staleIfError
	}
	return err == nil, err
}

// suits reports whether what another request brought is what this one's client
// wants.
func (l *Lookup) suits(o outcome) bool {
	e := o.entry
	if o.live != nil {
		e = o.live.head
	}
	if e == nil || e.Made.IsZero() || e.Status >= http.StatusInternalServerError {
		return true
	}
	now := time.Now()
	if l.cache.options.Mode == ModeHTTP && o.failed == 0 {
		return httpReuse(l.request.HTTP.Header, e, now) != reuseRevalidate
	}
	return l.wishes.maxAge < 0 || e.Age(now) <= l.wishes.maxAge
}

// lookAgain looks once more, for the leader of a flight. What it finds is
// everybody's who waits, if it is fresh, and they are alike in what it varies by.
func (l *Lookup) lookAgain() bool {
	now := time.Now()
	f := l.search(l.flight.ctx, now)
	if f.fresh == nil {
		return false
	}
	var names []string
	if f.marker != nil {
		names = f.marker.Vary
	}
	o := outcome{}
	if f.fresh.Fresh(now) && l.alike(names) {
		o.entry = f.fresh
	}
	l.take(f)
	l.now = now
	l.finish(o, nil)
	return true
}

// maxLeases is how often a request tries to make a call that other instances make,
// too, before it makes it whatever they do.
const maxLeases = 3

// joinElsewhere waits for an instance that makes the same call, and reports whether
// that brought an answer. It goes on after the client of this request has left, for
// as long as others wait.
func (l *Lookup) joinElsewhere() (answered bool) {
	leases := l.cache.options.Leases
	if leases == nil {
		return false
	}
	ctx := l.flight.ctx
	for range maxLeases {
		release, err := leases.Lead(ctx, l.flightKey())
		switch {
		case errors.Is(err, ErrNotShared):
			l.cache.alone.add(l.flightKey(), time.Now().Add(aloneFor))
			l.finish(outcome{}, nil)
			return false
		case err != nil: // the store is away: each instance makes its own call
			return false
		case release != nil:
			l.release = release
			// Its answer may have come between the look-up and now.
			return l.lookAgain()
		}
		if leases.Await(ctx, l.flightKey()) != nil {
			return false
		}
		if l.lookAgain() {
			l.collapsed = true
			return true
		}
	}
	return false
}

// Context is the context of the call: it has the values of ctx, and ends when all
// who wait for its answer have left. Without others it is ctx.
func (l *Lookup) Context(ctx context.Context) context.Context {
	if l == nil || l.flight == nil {
		return ctx
	}
	return l.flight.ctx
}

// Fail gives err to every follower: the call was made and brought no answer, and
// making it again for each of them would not help.
func (l *Lookup) Fail(err error) {
	if l != nil {
		l.finish(outcome{}, err)
	}
}

func (l *Lookup) finish(o outcome, err error) {
	if l.leads {
		l.flight.finish(o, err)
	}
}

// apart sends every follower on its own way, and those to come.
func (l *Lookup) apart() {
	if !l.leads {
		return
	}
	l.alone = true
	l.cache.alone.add(l.flightKey(), time.Now().Add(aloneFor))
	l.finish(outcome{}, nil)
}

// Leave ends the request's part. Followers go alone if it has brought them nothing.
func (l *Lookup) Leave() {
	if l == nil {
		return
	}
	if l.live != nil {
		l.live.close()
	}
	if l.flight != nil {
		if l.stop != nil {
			l.stop()
		}
		l.gone = l.flight.ctx.Err() != nil
		l.finish(outcome{}, nil)
		l.depart()
	}
	if l.release != nil {
		l.end(l.release)
		l.release = nil
	}
}

// end gives up the lease. Other instances look for the answer then, so it must have
// arrived in the store that they share. Where the call was made and brought nothing
// that is kept, they do not wait for each other: the next one's would be as little
// use to them.
func (l *Lookup) end(release func(bool)) {
	fit := l.stored || l.Entry != nil || !l.sent || l.gone
	behind, ok := l.cache.options.Store.(interface {
		Wait(ctx context.Context, key Key) error
	})
	if !ok || !l.stored {
		release(fit)
		return
	}
	// The client of this request need not wait for that.
	waits := l.cache.tasks.run(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.cache.ctx), arrivesIn)
		defer cancel()
		for _, key := range []Key{l.base, l.Key()} {
			_ = behind.Wait(ctx, key) // those who find nothing make the call themselves
		}
		release(fit)
	})
	if !waits {
		release(fit)
	}
}

// arrivesIn is how long a lease is kept for an answer to arrive in the store.
const arrivesIn = 5 * time.Second

func (l *Lookup) depart() { l.left.Do(l.flight.leave) }

// flightKey is the key by which requests wait for each other. Before anything is
// known of an answer, that is everything it could vary by. A request that came
// after a purge, or after something was changed, does not wait for one from before
// it.
func (l *Lookup) flightKey() Key {
	key := l.key
	if l.cache.options.Mode == ModeHTTP {
		key = l.flightKeyHTTP(l.key, l.marker != nil || l.stale != nil)
	}
	return l.afterPurges(key)
}

func (l *Lookup) afterPurges(key Key) Key {
	if l.epoch == 0 && l.changed.IsZero() {
		return key
	}
	return key.inForm("after purge " + strconv.FormatUint(l.epoch, 10) + " and change " + strconv.FormatInt(l.changed.UnixNano(), 10))
}
