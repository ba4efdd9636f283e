package gateway

import (
	"sync"

	"github.com/inferweir/weir/config"
)

// held is something that setups have in common, one after the other: it is closed after
// the last request of the last setup that has it.
type held struct {
	early bool // it is closed before all that is not, when everything ends
	close func()
	users int // setups; guarded by holdings.mu
}

// holdings closes what no setup has any more.
type holdings struct {
	mu   sync.Mutex
	open map[*held]bool // guarded by mu
	over []*held        // to be closed; guarded by mu
	// setups are those that are in use; guarded by mu.
	setups map[*setup]bool
	ended  func() // called after the last use of a setup, by run

	wake    chan struct{}
	stop    chan struct{}
	stopped sync.Once
	done    sync.WaitGroup
}

// newHoldings has ended called after setups have ended, each time at least once for all
// that have.
func newHoldings(ended func()) *holdings {
	h := &holdings{
		open: map[*held]bool{}, setups: map[*setup]bool{}, ended: ended,
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	h.done.Go(h.run)
	return h
}

// run closes what is over. That may take its time, which no request has.
func (h *holdings) run() {
	for {
		select {
		case <-h.wake:
		case <-h.stop:
			return
		}
		h.mu.Lock()
		over := h.over
		h.over = nil
		h.mu.Unlock()
		for _, one := range over {
			one.close()
		}
		h.ended()
	}
}

// hold keeps open what s has, until drop.
func (h *holdings) hold(s *setup) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setups[s] = true
	for _, one := range s.holds {
		one.users++
		h.open[one] = true
	}
}

// drop lets go of what s has.
func (h *holdings) drop(s *setup) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.setups, s)
	for _, one := range s.holds {
		if one.users--; one.users == 0 && h.open[one] {
			delete(h.open, one)
			h.over = append(h.over, one)
		}
	}
	select {
	case h.wake <- struct{}{}:
	default: // it will look
	}
}

// configs are those of the setups in use.
func (h *holdings) configs() []*config.Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*config.Config, 0, len(h.setups))
	for s := range h.setups {
		all = append(all, s.config)
	}
	return all
}

// forget takes away the series of names that no setup in use has: those of routes,
// upstreams, plans and policies that a reload has taken away or renamed.
func (g *Gateway) forget() {
	g.names.Lock()
	defer g.names.Unlock()
	g.metrics.Retain(labels(g.holdings.configs()...))
}

// discard closes what was made for s, which is not to be used.
func (h *holdings) discard(s *setup) {
	h.mu.Lock()
	var unused []*held
	for _, one := range s.holds {
		if one.users == 0 {
			unused = append(unused, one)
		}
	}
	h.mu.Unlock()
	for _, one := range unused {
		one.close()
	}
}

// close closes everything, whether or not there are requests that still have it.
func (h *holdings) close() {
	h.stopped.Do(func() { close(h.stop) })
	h.done.Wait()
	h.mu.Lock()
	all := h.over
	for one := range h.open {
		all = append(all, one)
	}
	h.open, h.over = map[*held]bool{}, nil
	h.mu.Unlock()
	for _, early := range []bool{true, false} {
		for _, one := range all {
			if one.early == early {
				one.close()
			}
		}
	}
}

// enter counts a request that has s, unless s is over.
func (s *setup) enter() bool {
	for {
		n := s.users.Load()
		if n <= 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// enter gives a request the present setup, which it keeps until leave.
func (g *Gateway) enter() *setup {
	for {
		if s := g.setup.Load(); s.enter() {
			return s
		}
	}
}

// leave ends a request's use of s.
func (g *Gateway) leave(s *setup) {
	if s.users.Add(-1) == 0 {
		g.holdings.drop(s)
	}
}
