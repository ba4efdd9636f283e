package redisstore

import (
	"sync"
	"sync/atomic"
)

// gate lets calls through until it is shut.
type gate struct {
	mu     sync.Mutex // guards inside against shut
	closed atomic.Bool
	inside sync.WaitGroup
}

// enter reports whether a call may begin; one that may leaves when it ends.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed.Load() {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// shut lets nobody enter any more, and waits for those inside.
func (g *gate) shut() {
	g.mu.Lock()
	g.closed.Store(true)
	g.mu.Unlock()
	g.inside.Wait()
}
