package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// MemoOptions say what a memoized function remembers, where, and for how long.
// The zero value keeps 1,000 results in memory.
type MemoOptions struct {
	// TTL is how long a result is used. 0 means until it is evicted.
	TTL time.Duration
	// StaleWhileRevalidate is how much longer it is used while a call in the
	// background gets the next one. 0 is not at all.
	StaleWhileRevalidate time.Duration
	// StaleIfError is how long after TTL it is used when the function fails. 0 is
	// not at all.
	StaleIfError time.Duration

	// Store keeps the results, so that they outlive the process or are shared
	// with other instances. nil keeps them in memory, as they are.
	Store Store
	// Name keeps the results of one function apart from all others in Store. It is
	// required with Store. What changes the results should change it: "embed-v2".
	Name string
	// MaxEntries is how many results are kept without Store; the one that was used
	// longest ago makes room. 0 means 1,000.
	MaxEntries int

	// Tags are what the results can be purged by: "models" for the label
	// "tag:models".
	Tags []string
	// Purges knows what has been purged. nil means nothing.
	Purges *Purges

	// Context ends the calls in the background when it ends, and no others begin
	// then. nil leaves each of them to end by itself.
	Context context.Context
	// Go starts a call in the background. Who has to wait for them when it ends
	// sets it to the Go of a sync.WaitGroup. nil starts a goroutine.
	Go func(func())
	// Observe is told errors that no caller gets: of Store, of calls in the
	// background, and those for which a stale result stood in. It must not block.
	// nil drops them.
	Observe func(error)
}

// memoRefreshes bounds the calls in the background of one memoized function.
const memoRefreshes = 64

// memoForever is what a TTL of 0 is in a store, whose entries all end.
const memoForever = 10 * 365 * 24 * time.Hour

// Memo wraps a function that is slow and gives the same result for the same key.
// The function that it returns is safe for concurrent use.
//
// Calls with the same key that overlap run f once and share its result. f runs
// with a context of its own, with the values of the first caller's: it ends when
// all callers have given up, not when one of them does. A caller whose context
// ends gets that context's error at once. Errors are shared but not kept. If f
// panics, its callers get an error that holds the stack. A caller that comes
// after a purge does not share a call from before it.
//
// A result that is stale and may be used while it is refreshed is given at once.
// One call for the key then runs in the background, with the values of its
// caller's context but not its end: it ends when f returns or with
// MemoOptions.Context, so give f a timeout of its own if it may hang. At most 64
// run at once; beyond that the stale result is given and nothing is refreshed.
// If f fails where a result may be used on errors, the callers get that.
//
// After a failure f rests for a second where a stale result may be given instead:
// neither a refresh nor a caller who would get that result runs it for the key.
// Of the keys that rest 4,096 are remembered at most. A caller for whom there is
// nothing to give runs it always.
//
// In a store a result is JSON, under the SHA-256 of the name and the key's JSON.
// Every caller, also the first, gets what that JSON gives back: unexported fields
// are empty for all. A key that its JSON does not give back equal, because it
// has unexported fields, is a pointer, or is text that is not UTF-8, is an error
// before f runs; a result that JSON cannot hold is one after. A stored result
// that does not fit V any more is as good as none. A store that fails is told to
// Observe, and f runs.
//
// Results in memory are shared between callers: treat what they refer to as
// read-only.
func Memo[K comparable, V any](f func(context.Context, K) (V, error), o MemoOptions) func(context.Context, K) (V, error) {
	if o.MaxEntries <= 0 {
		o.MaxEntries = 1000
	}
	if o.Go == nil {
		o.Go = func(f func()) { go f() }
	}
	if o.Context == nil {
		o.Context = context.Background()
	}
	m := &memo[K, V]{f: f, options: o, refreshes: make(chan struct{}, memoRefreshes)}
	for _, tag := range o.Tags {
		m.labels = append(m.labels, Label("tag", tag))
	}
	switch {
	case o.Store == nil:
		m.results = newMemoMemory[K, V](o.MaxEntries, o.Purges)
	case o.Name == "":
		return func(context.Context, K) (v V, err error) {
			return v, errors.New(`cache: MemoOptions.Name: "": want a name with a Store, for example "embed-v1"`)
		}
	default:
		m.results = &memoStore[K, V]{store: o.Store, name: o.Name, purges: o.Purges}
	}
	return m.call
}

type memo[K comparable, V any] struct {
	f         func(context.Context, K) (V, error)
	options   MemoOptions
	labels    []string
	results   memoResults[K, V]
	flights   flights[memoCall[K], V]
	refreshes chan struct{} // has one for each call in the background
	resting   memoRests[K]
}

// memoCall is what a running call answers: a key, with what was purged before.
type memoCall[K comparable] struct {
	key  K
	asOf *purgeView
}

// memoResult is a value and what becomes of it.
type memoResult[V any] struct {
	Meta
	value          V
	made           time.Time
	expires, until time.Time
	took           time.Duration
}

// memoResults keeps results. Of both methods an error of type *memoMisfit says that
// the caller must not go on.
type memoResults[K comparable, V any] interface {
	// get gives nil if nothing useful is kept, or what is was purged.
	get(ctx context.Context, key K, now time.Time) (*memoResult[V], error)
	// put keeps r unless it was purged while it was made, and gives the value as
	// get will.
	put(ctx context.Context, key K, r *memoResult[V]) (V, error)
}

// memoMisfit is the error of a key or a result that has no JSON.
type memoMisfit struct{ err error }

func (e *memoMisfit) Error() string { return e.err.Error() }
func (e *memoMisfit) Unwrap() error { return e.err }

func isMisfit(err error) bool {
	misfit := (*memoMisfit)(nil)
	return errors.As(err, &misfit)
}

func (m *memo[K, V]) call(ctx context.Context, key K) (V, error) {
	if key != key { // NaN: nothing finds it again, or lets go of it
		return m.f(ctx, key)
	}
	call := memoCall[K]{key, m.options.Purges.asOf()}
	now := time.Now()
	r, err := m.get(ctx, key, now)
	if err != nil {
		var none V
		return none, err
	}
	if r != nil && now.Before(r.expires) {
		return r.value, nil
	}
	if r != nil && now.Before(r.expires.Add(m.options.StaleWhileRevalidate)) {
		if !m.resting.has(key, now) {
			m.refresh(ctx, call)
		}
		return r.value, nil
	}
	if r != nil && now.Before(r.expires.Add(m.options.StaleIfError)) && m.resting.has(key, now) {
		return r.value, nil
	}
	flight, leader := m.flights.join(ctx, call)
	defer flight.leave()
	if leader {
		// The leader may give up as well as any other caller, so f runs apart
		// from it. The goroutine ends with f, whose context its callers own.
		go m.run(flight)
	}
	return flight.wait(ctx)
}

// get gives what is kept of key, and passes on only the errors of a misfit.
func (m *memo[K, V]) get(ctx context.Context, key K, now time.Time) (*memoResult[V], error) {
	r, err := m.results.get(ctx, key, now)
	if err != nil {
		if isMisfit(err) {
			return nil, err
		}
		m.observe(err)
	}
	return r, nil
}

// refresh makes the call in the background, unless it is being made.
func (m *memo[K, V]) refresh(ctx context.Context, call memoCall[K]) {
	if m.options.Context.Err() != nil {
		return
	}
	select {
	case m.refreshes <- struct{}{}:
	default:
		return
	}
	flight, leader := m.flights.join(ctx, call)
	if !leader {
		flight.leave()
		<-m.refreshes
		return
	}
	m.options.Go(func() {
		defer func() { <-m.refreshes }()
		defer flight.leave() // its membership is why the call outlives its caller
		stop := context.AfterFunc(m.options.Context, flight.cancel)
		defer stop()
		m.run(flight)
		if flight.err != nil {
			m.observe(fmt.Errorf("cache: refreshing a result of %s: %w", m.name(), flight.err))
		}
	})
}

// run makes the call of a flight, whatever becomes of it.
func (m *memo[K, V]) run(flight *flight[memoCall[K], V]) {
	var value V
	var last *memoResult[V]
	err := errors.New("cache: the memoized function ended its goroutine")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cache: the memoized function panicked: %v\n%s", p, debug.Stack())
		}
		now := time.Now()
		if err != nil && last != nil && flight.ctx.Err() == nil {
			m.resting.add(flight.key.key, now)
		}
		if err != nil && last != nil && now.Before(last.expires.Add(m.options.StaleIfError)) && flight.ctx.Err() == nil {
			m.observe(fmt.Errorf("cache: a stale result of %s stands in for an error: %w", m.name(), err))
			value, err = last.value, nil
		}
		flight.finish(value, err)
	}()
	// A flight that ended between this caller's look and its joining has left
	// its result.
	start := time.Now()
	found, failed := m.get(flight.ctx, flight.key.key, start)
	if failed != nil {
		err = failed
		return
	}
	if last = found; last != nil && start.Before(last.expires) {
		value, err = last.value, nil
		return
	}
	value, err = m.f(flight.ctx, flight.key.key)
	if err == nil {
		value, err = m.keep(flight, value, start)
	}
}

// keep keeps a value, and gives it as callers get it.
func (m *memo[K, V]) keep(flight *flight[memoCall[K], V], value V, start time.Time) (V, error) {
	now := time.Now()
	ttl := m.options.TTL
	if ttl <= 0 {
		ttl = memoForever
	}
	expires := now.Add(ttl)
	r := &memoResult[V]{
		Meta:    Meta{Labels: m.labels, Epoch: flight.key.asOf.epoch()},
		value:   value,
		made:    now,
		expires: expires,
		until:   expires.Add(max(0, m.options.StaleWhileRevalidate, m.options.StaleIfError)),
		took:    now.Sub(start),
	}
	value, err := m.results.put(flight.ctx, flight.key.key, r)
	if err != nil && !isMisfit(err) {
		m.observe(err)
		err = nil
	}
	return value, err
}

func (m *memo[K, V]) name() string {
	if m.options.Name != "" {
		return m.options.Name
	}
	return "a memoized function"
}

func (m *memo[K, V]) observe(err error) {
	if err != nil && m.options.Observe != nil {
		m.options.Observe(err)
	}
}
