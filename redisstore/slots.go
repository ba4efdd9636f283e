package redisstore

import (
	"sync"
)

// slot is a slot of a concurrent policy.
type slot struct{ key, id string }

// held are the slots that this instance holds: at most as many as requests run.
type held struct {
	mu  sync.Mutex
	ids map[slot]struct{} // guarded by mu
}

func (h *held) add(s slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids == nil {
		h.ids = map[slot]struct{}{}
	}
	h.ids[s] = struct{}{}
}

func (h *held) remove(s slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ids, s)
}

func (h *held) has(s slot) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.ids[s]
	return ok
}

func (h *held) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ids)
}

// byKey are the IDs of each key.
func (h *held) byKey() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string][]string)
	for s := range h.ids {
		all[s.key] = append(all[s.key], s.id)
	}
	return all
}
