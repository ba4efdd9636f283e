package redisstore

import (
	"maps"
	"slices"
	"sync"
)

// slot is a slot of a concurrent policy.
type slot struct{ key, id string }

// held are the slots that this instance holds: at most as many as requests run.
type held struct {
	mu    sync.Mutex
	byKey map[string]map[string]struct{} // the IDs of each key; guarded by mu
	freed int                            // how many were removed; guarded by mu
}

func (h *held) add(s slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byKey == nil {
		h.byKey = map[string]map[string]struct{}{}
	}
	if h.byKey[s.key] == nil {
		h.byKey[s.key] = map[string]struct{}{}
	}
	h.byKey[s.key][s.id] = struct{}{}
}

func (h *held) remove(s slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.freed++
	delete(h.byKey[s.key], s.id)
	if len(h.byKey[s.key]) == 0 {
		delete(h.byKey, s.key)
	}
}

func (h *held) has(s slot) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.byKey[s.key][s.id]
	return ok
}

// of is how many slots of a key are held, and how many of any key have been freed.
func (h *held) of(key string) (own, freed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byKey[key]), h.freed
}

func (h *held) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, ids := range h.byKey {
		n += len(ids)
	}
	return n
}

func (h *held) keys() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.byKey))
}

// ids are those of one key.
func (h *held) ids(key string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.byKey[key]))
}
