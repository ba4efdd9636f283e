package cache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// MemoOptions bound what a memoized function remembers.
type MemoOptions struct {
	// TTL is how long a result is used. 0 means until it is evicted.
	TTL time.Duration
	// MaxEntries is how many results are kept; the one that was used longest
	// ago makes room. 0 means 1,000.
	MaxEntries int
}

// Memo wraps a function that is slow and gives the same result for the same key.
// The function that it returns is safe for concurrent use.
//
// Calls with the same key that overlap run f once and share its result. f runs
// with a context of its own, with the values of the first caller's: it ends when
// all callers have given up, not when one of them does. A caller whose context
// ends gets that context's error at once. Errors are shared but not kept. If f
// panics, its callers get an error that holds the stack.
//
// Results are shared between callers: treat what they refer to as read-only.
func Memo[K comparable, V any](f func(context.Context, K) (V, error), o MemoOptions) func(context.Context, K) (V, error) {
	if o.MaxEntries <= 0 {
		o.MaxEntries = 1000
	}
	m := &memo[K, V]{f: f, options: o, results: map[K]*list.Element{}}
	return m.call
}

type memo[K comparable, V any] struct {
	f       func(context.Context, K) (V, error)
	options MemoOptions
	flights flights[K, V]

	mu      sync.Mutex // guards results and recent
	results map[K]*list.Element
	recent  list.List // of *result[K, V], the last used first
}

type result[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time
}

func (m *memo[K, V]) call(ctx context.Context, key K) (V, error) {
	if key != key { // NaN: no map finds it again, or lets go of it
		return m.f(ctx, key)
	}
	if v, ok := m.get(key); ok {
		return v, nil
	}
	flight, leader := m.flights.join(ctx, key)
	defer flight.leave()
	if leader {
		// The leader may give up as well as any other caller, so f runs apart
		// from it. The goroutine ends with f, whose context its callers own.
		go m.run(flight)
	}
	return flight.wait(ctx)
}

func (m *memo[K, V]) run(flight *flight[K, V]) {
	var value V
	err := errors.New("cache: the memoized function ended its goroutine")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cache: the memoized function panicked: %v\n%s", p, debug.Stack())
		}
		flight.finish(value, err)
	}()
	// A flight that ended between this caller's look and its joining has left
	// its result.
	if v, ok := m.get(flight.key); ok {
		value, err = v, nil
		return
	}
	if value, err = m.f(flight.ctx, flight.key); err == nil {
		m.put(flight.key, value)
	}
}

func (m *memo[K, V]) get(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.results[key]
	if e == nil {
		return value, false
	}
	r := e.Value.(*result[K, V])
	if m.options.TTL > 0 && !time.Now().Before(r.expires) {
		m.removeLocked(e)
		return value, false
	}
	m.recent.MoveToFront(e)
	return r.value, true
}

func (m *memo[K, V]) put(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.results[key]; e != nil {
		m.removeLocked(e)
	}
	for len(m.results) >= m.options.MaxEntries {
		m.removeLocked(m.recent.Back())
	}
	m.results[key] = m.recent.PushFront(&result[K, V]{key: key, value: value, expires: time.Now().Add(m.options.TTL)})
}

func (m *memo[K, V]) removeLocked(e *list.Element) {
	delete(m.results, e.Value.(*result[K, V]).key)
	m.recent.Remove(e)
}
