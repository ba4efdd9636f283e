package cache

import (
	"context"
	"fmt"
	"time"
)

// DefaultMaxBytes bounds a memory store unless told: 256 MiB.
const DefaultMaxBytes = 256 << 20

// MemoryOptions say how much a memory store may hold. The zero value is a store
// of 256 MiB of which each caller may keep a quarter when others need room.
type MemoryOptions struct {
	// MaxBytes bounds the entries, overhead included. 0 means DefaultMaxBytes.
	MaxBytes int64
	// CallerShare is the part of MaxBytes that one caller's entries may keep when
	// others need room, from 0 to 1. 0 means DefaultCallerShare; with 1 callers have
	// no shares. Entries of no Owner have none either. What is not from 0 to 1
	// counts as the nearest of them.
	CallerShare float64
}

// MemoryStore keeps entries in memory up to a number of bytes. When it is full it
// gives up expired entries first, then those that save least: a small answer that
// took the model long stays before a large one that was cheap. No caller can push
// out those of others while he has more than his share. It is a Sweeper.
type MemoryStore struct {
	budget *budget
}

// NewMemoryStore makes an empty store.
func NewMemoryStore(o MemoryOptions) *MemoryStore {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	return &MemoryStore{budget: newBudget(o.MaxBytes, o.CallerShare)}
}

// Stats are sizes and counts of a store.
type Stats struct {
	// Entries are those that can be had, Bytes what is counted against the bound.
	Entries int
	Bytes   int64
	// Evictions counts entries that were given up while they were still useful.
	Evictions uint64
}

// Stats reads the store's sizes.
func (s *MemoryStore) Stats() Stats { return s.budget.stats() }

// Get implements Store.
func (s *MemoryStore) Get(_ context.Context, key Key, now time.Time) (*Entry, error) {
	it := s.budget.find(key)
	switch {
	case it == nil:
		return nil, nil
	case !it.useful(now):
		s.budget.drop(it)
		return nil, nil
	}
	s.budget.use(it)
	return it.entry, nil
}

// Put implements Store. An entry that is larger than the whole store is refused,
// and one that is larger than its caller's share where others use the rest; the
// store is then as it was.
func (s *MemoryStore) Put(_ context.Context, key Key, e *Entry, now time.Time) error {
	it := newItem(key, e, e.Size())
	it.entry = e
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	victims, err := b.reserveLocked(it, e.Owner, true, now)
	b.freedLocked(victims...)
	if err != nil {
		return err
	}
	b.attachLocked(it)
	return nil
}

// Delete implements Store.
func (s *MemoryStore) Delete(_ context.Context, key Key) error {
	if it := s.budget.find(key); it != nil {
		s.budget.drop(it)
	}
	return nil
}

// Sweep implements Sweeper. It asks gone without holding a lock.
func (s *MemoryStore) Sweep(ctx context.Context, gone func(*Meta) bool) (int, error) {
	n := 0
	for i := range s.budget.shards {
		if err := ctx.Err(); err != nil {
			return n, fmt.Errorf("cache: sweep: %w", err)
		}
		for _, it := range s.budget.shards[i].snapshot() {
			if gone(&it.entry.Meta) && s.budget.drop(it) {
				n++
			}
		}
	}
	return n, nil
}
