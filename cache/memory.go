package cache

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"time"
)

// DefaultMaxBytes bounds a memory store unless told: 256 MiB.
const DefaultMaxBytes = 256 << 20

// MemoryStore keeps entries in memory up to a number of bytes. When it is full
// it gives up expired entries first, then those that save least: it evicts by
// frequency times the time that the upstream needed, for each byte (GDSF:
// Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency
// Caching Policy", HP Labs 1998). A small answer that took the model long stays
// before a large one that was cheap.
type MemoryStore struct {
	maxBytes int64

	mu        sync.Mutex // guards all below
	items     map[Key]*item
	byWorth   itemHeap
	byExpiry  itemHeap
	bytes     int64
	inflation float64 // worth of the last eviction: what is kept must have been used since
	evictions uint64
}

type item struct {
	key   Key
	entry *Entry
	size  int64
	uses  float64
	worth float64
	at    [2]int // the index in byWorth and byExpiry
}

// NewMemoryStore makes a store of at most maxBytes, overhead included. 0 means
// DefaultMaxBytes.
func NewMemoryStore(maxBytes int64) *MemoryStore {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBytes
	}
	return &MemoryStore{
		maxBytes: maxBytes,
		items:    map[Key]*item{},
		byWorth:  itemHeap{order: 0, less: func(a, b *item) bool { return a.worth < b.worth }},
		byExpiry: itemHeap{order: 1, less: func(a, b *item) bool { return a.entry.Until.Before(b.entry.Until) }},
	}
}

// Stats are sizes and counts of a memory store.
type Stats struct {
	Entries   int
	Bytes     int64
	Evictions uint64 // of entries that were still fresh
}

// Stats reads the store's sizes.
func (s *MemoryStore) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Entries: len(s.items), Bytes: s.bytes, Evictions: s.evictions}
}

// Get implements Store.
func (s *MemoryStore) Get(_ context.Context, key Key, now time.Time) (*Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[key]
	switch {
	case it == nil:
		return nil, nil
	case !it.entry.Useful(now):
		s.removeLocked(it)
		return nil, nil
	}
	it.uses++
	s.weighLocked(it)
	heap.Fix(&s.byWorth, it.at[0])
	return it.entry, nil
}

// Put implements Store. An entry that is larger than the whole store is refused.
func (s *MemoryStore) Put(_ context.Context, key Key, e *Entry, now time.Time) error {
	it := &item{key: key, entry: e, size: e.Size(), uses: 1}
	if it.size > s.maxBytes {
		return fmt.Errorf("cache: an entry of %d bytes does not fit into a store of %d", it.size, s.maxBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.items[key]; old != nil {
		it.uses = old.uses
		s.removeLocked(old)
	}
	for len(s.byExpiry.items) > 0 && !s.byExpiry.items[0].entry.Useful(now) {
		s.removeLocked(s.byExpiry.items[0])
	}
	for s.bytes+it.size > s.maxBytes {
		least := s.byWorth.items[0]
		s.inflation = least.worth
		s.evictions++
		s.removeLocked(least)
	}
	s.weighLocked(it)
	s.items[key] = it
	heap.Push(&s.byWorth, it)
	heap.Push(&s.byExpiry, it)
	s.bytes += it.size
	return nil
}

// Delete implements Store.
func (s *MemoryStore) Delete(_ context.Context, key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it := s.items[key]; it != nil {
		s.removeLocked(it)
	}
	return nil
}

func (s *MemoryStore) weighLocked(it *item) {
	// An answer that took no measurable time still saves a call.
	cost := max(float64(it.entry.Took)/float64(time.Millisecond), 0.1)
	it.worth = s.inflation + it.uses*cost/float64(it.size)
}

func (s *MemoryStore) removeLocked(it *item) {
	heap.Remove(&s.byWorth, it.at[0])
	heap.Remove(&s.byExpiry, it.at[1])
	delete(s.items, it.key)
	s.bytes -= it.size
}

// itemHeap is a heap.Interface of items that know their place in it.
type itemHeap struct {
	items []*item
	order int // which of item.at is this heap's
	less  func(a, b *item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].at[h.order], h.items[j].at[h.order] = i, j
}

func (h *itemHeap) Push(x any) {
	it := x.(*item)
	it.at[h.order] = len(h.items)
	h.items = append(h.items, it)
}

func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}
