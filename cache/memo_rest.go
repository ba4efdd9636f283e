package cache

import (
	"sync"
	"time"
)

const (
	// memoRest is how long a function rests for a key after it failed.
	memoRest = time.Second
	// memoMostRests bounds the keys for which it rests.
	memoMostRests = 4096
)

// memoRests are the keys for which a function has just failed. The zero value has
// none.
type memoRests[K comparable] struct {
	mu    sync.Mutex // guards until
	until map[K]time.Time
}

// has reports whether key rests at now.
func (r *memoRests[K]) has(key K, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[key]
	if ok && !now.Before(until) {
		delete(r.until, key)
		return false
	}
	return ok
}

// add begins the rest of key at now. Where too many rest one of the others gives
// way.
func (r *memoRests[K]) add(key K, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[K]time.Time{}
	}
	if _, there := r.until[key]; !there && len(r.until) >= memoMostRests {
		for other := range r.until {
			delete(r.until, other)
			break
		}
	}
	r.until[key] = now.Add(memoRest)
}
