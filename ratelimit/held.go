package ratelimit

import "sync"

// held are the slots of concurrent policies: for each count the requests that
// hold one. There are never more than requests that run.
type held struct {
	shards [heldShards]heldShard
}

// heldShards keeps callers with different keys from waiting for one lock.
const heldShards = 64

type heldShard struct {
	mu sync.Mutex
	by map[slotKey]map[string]struct{} // guarded by mu; of each count the IDs
}

// slotKey names a count in full: a collision would take somebody's slot away.
type slotKey struct {
	policy uint64
	key    string
}

func (h *held) shard(hash uint64) *heldShard { return &h.shards[hash%heldShards] }

func (h *held) len() int {
	n := 0
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		for _, ids := range s.by {
			n += len(ids)
		}
		s.mu.Unlock()
	}
	return n
}

// hold gives id a slot. The caller holds s.mu.
func (s *heldShard) hold(k slotKey, id string) {
	if s.by == nil {
		s.by = map[slotKey]map[string]struct{}{}
	}
	ids := s.by[k]
	if ids == nil {
		ids = map[string]struct{}{}
		s.by[k] = ids
	}
	ids[id] = struct{}{}
}

// free takes id's slot back, if it holds one. The caller holds s.mu.
func (s *heldShard) free(k slotKey, id string) {
	ids := s.by[k]
	if delete(ids, id); len(ids) == 0 {
		delete(s.by, k)
	}
}
