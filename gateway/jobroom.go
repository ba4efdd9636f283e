package gateway

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

// mostAhead is how many jobs of an upstream are claimed and wait for a place at once.
// More would only take them from other instances.
const mostAhead = 16

// rooms are the routes that may claim jobs now, and how many: those of an upstream
// share its room.
func (g *Gateway) rooms() []job.Room {
	s, now := g.setup.Load(), time.Now()
	type share struct{ routes, running int }
	shares := map[*upstreamSetup]share{}
	for _, rt := range s.routes {
		if of := shares[rt.upstream]; rt.defers() {
			shares[rt.upstream] = share{of.routes + 1, of.running + g.data.jobs.Running(rt.name)}
		}
	}
	waiting := g.data.slotless.list(now)
	var rooms []job.Room
	for _, rt := range s.routes {
		u := rt.upstream
		if !rt.defers() || u.pool == nil || u.jobsPaused.Load() > now.UnixNano() {
			continue
		}
		of := shares[u]
		n := mostAhead + int(u.jobsPlaced.Load()) - of.running
		if n <= 0 {
			continue
		}
		room := job.Room{Route: rt.name, Max: max(n/of.routes, 1), Except: waiting}
		if s.hasSlots(rt) {
			room.PerCaller = 1 // or one caller's would be claimed in vain, one after another
		}
		rooms = append(rooms, room)
	}
	return rooms
}

// hasSlots reports whether some caller's requests on a route hold slots.
func (s *setup) hasSlots(rt *route) bool {
	concurrent := func(p policy) bool { return p.Concurrent > 0 }
	if slices.ContainsFunc(rt.policies, concurrent) {
		return true
	}
	for _, policies := range s.plans {
		if slices.ContainsFunc(policies, concurrent) {
			return true
		}
	}
	for _, o := range s.overrides {
		for _, policies := range o.policies {
			if slices.ContainsFunc(policies, concurrent) {
				return true
			}
		}
	}
	return false
}

// slotless are callers whose jobs found no slot a moment ago, each until a time: their
// jobs are not claimed. One that ends gives its caller a slot.
type slotless struct {
	mu    sync.Mutex
	until map[string]time.Time // at most mostSlotless
}

// mostSlotless is how many callers are remembered; of others jobs are claimed in vain,
// once a second each.
const mostSlotless = 1000

func (s *slotless) add(caller string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	if len(s.until) < mostSlotless {
		s.until[caller] = until
	}
}

func (s *slotless) remove(caller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, caller)
}

func (s *slotless) list(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.until, func(_ string, until time.Time) bool { return !until.After(now) })
	return slices.Sorted(maps.Keys(s.until))
}
