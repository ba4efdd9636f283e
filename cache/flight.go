package cache

import (
	"context"
	"sync"
	"sync/atomic"
)

// flights are the calls that run, by key. The zero value is ready.
type flights[K comparable, V any] struct {
	mu      sync.Mutex // guards running, and members of every flight
	running map[K]*flight[K, V]
}

// flight is one call that several wait for. The first is its leader and makes
// the call, the others follow. The call's context ends when all have left, so
// one member's departure takes nothing from the others.
type flight[K comparable, V any] struct {
	group   *flights[K, V]
	key     K
	ctx     context.Context
	cancel  context.CancelFunc
	members int
	asked   atomic.Bool   // the call has gone out
	done    chan struct{} // closed when value and err are set
	value   V
	err     error
}

// join adds a member to the flight of key, starting it if there is none. The
// leader must call finish, whatever happens, and every member leave.
func (g *flights[K, V]) join(ctx context.Context, key K) (f *flight[K, V], leader bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.running[key]; f != nil {
		f.members++
		return f, false
	}
	return g.startLocked(ctx, key), true
}

// follow adds a member to the flight of key, or returns nil if there is none.
func (g *flights[K, V]) follow(key K) *flight[K, V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.running[key]
	if f != nil {
		f.members++
	}
	return f
}

// lead starts the flight of key, or returns nil if one is running.
func (g *flights[K, V]) lead(ctx context.Context, key K) *flight[K, V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[key] != nil {
		return nil
	}
	return g.startLocked(ctx, key)
}

func (g *flights[K, V]) startLocked(ctx context.Context, key K) *flight[K, V] {
	f := &flight[K, V]{group: g, key: key, members: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if g.running == nil {
		g.running = map[K]*flight[K, V]{}
	}
	g.running[key] = f
	return f
}

// leave takes a member off. With the last one the call is cancelled, and nobody
// joins it any more.
func (f *flight[K, V]) leave() {
	f.group.mu.Lock()
	f.members--
	last := f.members == 0
	if last {
		f.removeLocked()
	}
	f.group.mu.Unlock()
	if last {
		f.cancel()
	}
}

// offer gives all members a value while the call still runs: who joins before its
// end gets it, too.
func (f *flight[K, V]) offer(value V) {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	f.setLocked(value, nil)
}

// finish ends the call and gives all members their result, unless they have one.
func (f *flight[K, V]) finish(value V, err error) {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	f.removeLocked()
	f.setLocked(value, err)
}

func (f *flight[K, V]) setLocked(value V, err error) {
	select {
	case <-f.done:
	default:
		f.value, f.err = value, err
		close(f.done)
	}
}

func (f *flight[K, V]) removeLocked() {
	if f.group.running[f.key] == f {
		delete(f.group.running, f.key)
	}
}

// wait returns the result, or ctx's error if that ends first.
func (f *flight[K, V]) wait(ctx context.Context) (V, error) {
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
}
