package redisstore

import (
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/ratelimit"
)

// NewWithTime makes a store that goes by the caller's clock.
func NewWithTime(o Options) (*Store, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	s.callerTime = true
	s.start()
	return s, nil
}

// NewWithLease makes a store whose slots have a lease of their own.
func NewWithLease(o Options, lease time.Duration) (*Store, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	s.lease = lease
	s.start()
	return s, nil
}

// CountKey is the key of a count.
func CountKey(prefix string, p *ratelimit.Policy, key string) string { return countKey(prefix, p, key) }

// SlotOf is the cluster's slot of a key.
func SlotOf(key string) uint16 { return slotOf(key) }

// FreeLater has a slot freed of which nobody knows whether it is taken.
func (s *Store) FreeLater(key, id string) { s.freeing.add(slot{key, id}) }

// Freeing is how many slots wait to be freed.
func (s *Store) Freeing() int {
	s.freeing.mu.Lock()
	defer s.freeing.mu.Unlock()
	return len(s.freeing.entries)
}

// Reported says whether Redis has ever said how many instances there are.
func (s *Store) Reported() bool { return s.peers.instances.Load() > 0 }

// CacheWithLease makes a cache whose leases last so long.
func (s *Store) CacheWithLease(o CacheOptions, lease time.Duration) *CacheStore {
	return s.cacheWithLease(o, lease)
}

// ValueKey is where the entry of a key lies, and LeaseKey its lease.
func (c *CacheStore) ValueKey(key cache.Key) string { return c.valueKey(key) }
func (c *CacheStore) LeaseKey(key cache.Key) string { return c.leaseKey(key) }

// AsBefore7 makes the server one that can not read what allows a script to write to a
// full one.
func (c *CacheStore) AsBefore7() {
	c.scripts.purgeFull = rueidis.NewLuaScript("#!none flags=allow-oom\n" + purgeLua)
}

// PauseAfter is for how long the log is not read again after a reading.
func PauseAfter(took time.Duration) time.Duration { return pauseAfter(took) }

// Listening says whether messages arrive.
func (c *CacheStore) Listening() bool { return c.listening.Load() }

// Waiting is how many calls of Await wait.
func (c *CacheStore) Waiting() int {
	c.leases.mu.Lock()
	defer c.leases.mu.Unlock()
	return c.leases.waits
}

// PartBytes is the most that is read or written at once, MaxLabels the most labels of
// the log.
const (
	PartBytes = partBytes
	MaxLabels = maxLabels
)
