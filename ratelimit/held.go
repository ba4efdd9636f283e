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
	mu    sync.Mutex
	by    map[slotKey]map[string]struct{} // guarded by mu; of each count the IDs
	spare []map[string]struct{}           // guarded by mu; empty, for the next
}

// maxSpare is how many empty maps a shard keeps.
const maxSpare = 16

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
		if last := len(s.spare) - 1; last >= 0 {
			ids, s.spare = s.spare[last], s.spare[:last]
		} else {
			ids = map[string]struct{}{}
		}
		s.by[k] = ids
	}
	ids[id] = struct{}{}
}

// free takes id's slot back, if it holds one. The caller holds s.mu.
func (s *heldShard) free(k slotKey, id string) {
	ids := s.by[k]
	if _, holds := ids[id]; !holds {
		return
	}
	if delete(ids, id); len(ids) > 0 {
		return
	}
	delete(s.by, k)
	if len(s.spare) < maxSpare {
		s.spare = append(s.spare, ids)
	}
}
