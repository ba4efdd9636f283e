package cache

import (
	"context"
	"sync"
)

// memoFlights hold at most one running call for each key.
type memoFlights[K comparable, V any] struct {
	mu      sync.Mutex // guards running, and members of every flight
	running map[K]*memoFlight[K, V]
}

// memoFlight is one call that several wait for. The first is its leader and makes
// the call, the others follow. The call's context ends when all have left, so
// one member's departure takes nothing from the others.
type memoFlight[K comparable, V any] struct {
	group   *memoFlights[K, V]
	key     K
	ctx     context.Context
	cancel  context.CancelFunc
	members int
	done    chan struct{} // closed when value and err are set
	value   V
	err     error
}

// join adds a member to the flight of key, starting it if there is none. The
// leader must call finish, whatever happens, and every member leave.
func (g *memoFlights[K, V]) join(ctx context.Context, key K) (f *memoFlight[K, V], leader bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.running[key]; f != nil {
		f.members++
		return f, false
	}
	f = &memoFlight[K, V]{group: g, key: key, members: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if g.running == nil {
		g.running = map[K]*memoFlight[K, V]{}
	}
	g.running[key] = f
	return f, true
}

// leave takes a member off. With the last one the call is cancelled, and nobody
// joins it any more.
func (f *memoFlight[K, V]) leave() {
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

// finish gives all members their result. Only the first call counts.
func (f *memoFlight[K, V]) finish(value V, err error) {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	select {
	case <-f.done:
		return
	default:
	}
	f.value, f.err = value, err
	f.removeLocked()
	close(f.done)
}

func (f *memoFlight[K, V]) removeLocked() {
	if f.group.running[f.key] == f {
		delete(f.group.running, f.key)
	}
}

// wait returns the result, or ctx's error if that ends first.
func (f *memoFlight[K, V]) wait(ctx context.Context) (V, error) {
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
}
