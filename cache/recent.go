package cache

import (
	"sync"
	"time"
)

// recent remembers keys for a while, at most max of them.
type recent struct {
	max int

	mu sync.Mutex // guards by
	by map[Key]time.Time
}

// has reports whether key is remembered at now.
func (r *recent) has(key Key, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.by[key]
	if ok && !now.Before(until) {
		delete(r.by, key)
		return false
	}
	return ok
}

// add remembers key until then. Where it is full it forgets any other one.
func (r *recent) add(key Key, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[Key]time.Time{}
	}
	if _, there := r.by[key]; !there && len(r.by) >= r.max {
		for other := range r.by {
			delete(r.by, other)
			break
		}
	}
	r.by[key] = until
}
