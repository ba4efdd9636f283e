package redisstore

import (
	"context"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/cache"
)

//go:embed lua/cache_part.lua
var cachePartLua string

//go:embed lua/cache_whole.lua
var cacheWholeLua string

//go:embed lua/cache_lead.lua
var cacheLeadLua string

//go:embed lua/cache_lease.lua
var cacheLeaseLua string

//go:embed lua/cache_wait.lua
var cacheWaitLua string

//go:embed lua/purge.lua
var purgeLua string

// allowFull lets a script write to a server that is full, from Redis 7 on. Older ones
// can not read it.
const allowFull = "#!lua flags=allow-oom\n"

// DefaultMaxEntry bounds the body of an entry unless told: 8 MiB.
const DefaultMaxEntry = 8 << 20

// CacheOptions say how much a cache keeps where. The zero value keeps nothing on
// this side, and entries of up to DefaultMaxEntry in Redis.
type CacheOptions struct {
	// Near is how many bytes of entries each connection keeps on this side: Redis
	// tells which of them have changed, and a hit among them asks nobody. On a cluster
	// there is a connection for each master. 0 is none; others need Redis 6 or later.
	Near int64
	// MaxEntry is the longest body of an entry, in bytes; longer ones are refused. 0
	// means DefaultMaxEntry.
	MaxEntry int64
}

// CacheStore keeps entries in Redis, under the prefix and within the deadline of the
// Store that it is of: with Redis away, each of the first calls takes as long as the
// deadline, and then every one fails at once, with ErrAway. It implements
// cache.Store, cache.Leases and cache.PurgeLog, and is safe for concurrent use.
//
// It has connections of its own and a breaker of its own: an answer of some
// megabytes on its way would keep counts waiting for longer than their deadline, and
// a cache that is too slow is no reason to stop counting.
type CacheStore struct {
	store           *Store
	maxEntry, limit int64
	scripts         struct{ part, whole, lead, lease, wait, purge, purgeFull *rueidis.Lua }
	link            link
	leases          leases
	follows         follows

	closing   sync.Once
	leasing   gate          // what gives and ends leases
	listening atomic.Bool   // messages arrive
	heard     atomic.Int64  // how often they began to
	newest    atomic.Uint64 // the number of the newest purge that the log gave or told
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// Cache makes a cache in the store's Redis, and connects by itself. Close ends it, and
// so does the store's Close. On a closed store all calls fail.
func (s *Store) Cache(o CacheOptions) *CacheStore { return s.cacheWithLease(o, leadFor) }

func (s *Store) cacheWithLease(o CacheOptions, lease time.Duration) *CacheStore {
	c := &CacheStore{store: s, maxEntry: o.MaxEntry}
	if c.maxEntry <= 0 {
		c.maxEntry = DefaultMaxEntry
	}
	// The rest of an entry is its header, its labels, and where its events end.
	c.limit = c.maxEntry + c.maxEntry/4 + 64<<10
	c.scripts.part = rueidis.NewLuaScript(cachePartLua)
	c.scripts.whole = rueidis.NewLuaScript(cacheWholeLua)
	c.scripts.lead = rueidis.NewLuaScript(cacheLeadLua)
	c.scripts.lease = rueidis.NewLuaScript(cacheLeaseLua)
	c.scripts.wait = rueidis.NewLuaScript(cacheWaitLua)
	c.scripts.purge = rueidis.NewLuaScript(purgeLua)
	c.scripts.purgeFull = rueidis.NewLuaScript(allowFull + purgeLua)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.link.init(c.ctx, &s.options, s.address)
	c.link.near, c.link.reads = max(0, o.Near), true
	c.leases.init(lease)
	if !s.caches.add(c) {
		c.Close()
		return c
	}
	c.wg.Go(c.keep)
	c.wg.Go(c.listen)
	c.wg.Go(c.keepLeases)
	return c
}

// caches are those of a store, which ends them.
type caches struct {
	mu     sync.Mutex
	all    map[*CacheStore]struct{} // guarded by mu
	closed bool                     // guarded by mu
}

// add reports whether the store is open.
func (a *caches) add(c *CacheStore) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	if a.all == nil {
		a.all = map[*CacheStore]struct{}{}
	}
	a.all[c] = struct{}{}
	return true
}

func (a *caches) remove(c *CacheStore) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, c)
}

// close ends all of them.
func (a *caches) close() {
	a.mu.Lock()
	a.closed = true
	all := a.all
	a.all = nil
	a.mu.Unlock()
	var wg sync.WaitGroup
	for c := range all {
		wg.Go(c.Close)
	}
	wg.Wait()
}

// Close ends the leases that are still held, so that other instances need not wait
// until they run out, then the calls in flight, Follow, and the connections. Nobody
// is given a lease any more as soon as it begins, and what a lease's release is asked
// for later it has done. It lasts some deadlines where Redis does not answer.
func (c *CacheStore) Close() {
	c.closing.Do(func() {
		c.leasing.shut()
		c.endLeases()
		c.link.closed.Store(true)
		c.store.caches.remove(c)
		c.cancel()
		c.wg.Wait()
		c.link.close()
	})
}

// Healthy reports whether Redis answers the cache, as far as is known.
func (c *CacheStore) Healthy() bool { return !c.link.closed.Load() && c.link.up() }

// within asks Redis once, for at most the deadline. A caller who leaves ends it, and
// is no failure of Redis.
func within[T any](ctx context.Context, c *CacheStore, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	if err := c.link.ready(); err != nil {
		var none T
		return none, err
	}
	inner, cancel := context.WithTimeout(ctx, c.link.deadline)
	defer cancel()
	value, err := attempt(inner, &c.link, f)
	if ctx.Err() == nil && !errors.Is(err, ErrAway) {
		c.link.record(err)
	}
	return value, err
}

// run runs a script that answers with a number.
func (c *CacheStore) run(ctx context.Context, script *rueidis.Lua, keys []string, args ...string) (int64, error) {
	return within(ctx, c, func(ctx context.Context, r rueidis.Client) (int64, error) {
		return script.Exec(ctx, r, keys, args).AsInt64()
	})
}

// observe tells how an operation ended, unless its caller ended it.
func (c *CacheStore) observe(ctx context.Context, op Op, began time.Time, err error) {
	if err == nil || ctx.Err() == nil {
		c.store.observe(op, began, err)
	}
}

// keep connects, and brings the connection back when it fails. It is the only
// goroutine that does.
func (c *CacheStore) keep() {
	began := time.Now()
	err := c.link.connect()
	if err != nil {
		c.link.open.Store(true)
	}
	close(c.link.first)
	c.probed(began, err)
	for {
		if c.link.open.Load() {
			c.link.restore(c.probe, c.probed)
		}
		select {
		case <-c.ctx.Done():
			return
		case <-c.link.tripped:
		}
	}
}

// probe finds out whether Redis can be written to within the deadline. A server that
// is full is there: what it has can be read.
func (c *CacheStore) probe() error {
	if err := c.link.ping(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.link.deadline)
	defer cancel()
	_, err := ask(ctx, &c.link, func(ctx context.Context, r rueidis.Client) (struct{}, error) {
		key := c.store.options.Prefix + ":{cache}"
		return struct{}{}, r.Do(ctx, r.B().Set().Key(key).Value("").PxMilliseconds(1000).Build()).Error()
	})
	if failureOf(err) == Memory || c.link.ofOneKey(err) {
		return nil
	}
	return err
}

func (c *CacheStore) probed(began time.Time, err error) {
	c.observe(c.ctx, OpCacheProbe, began, err)
	if err == nil {
		c.follows.notify() // what was purged meanwhile
	}
}

// valueKey is where the entry lies. The tag spreads entries over a cluster, and is no
// count's: theirs begin with = or #. The number is the layout's: instances of two
// versions do not delete each other's entries.
//
//	weir:{cache:9f86d081…}:1
func (c *CacheStore) valueKey(key cache.Key) string {
	return c.store.options.Prefix + ":{cache:" + hex.EncodeToString(key[:]) + "}:1"
}

// Get implements cache.Store. What can not be read is a miss, and is deleted.
func (c *CacheStore) Get(ctx context.Context, key cache.Key, now time.Time) (*cache.Entry, error) {
	began := time.Now()
	e, err := c.get(ctx, key)
	c.observe(ctx, OpCacheGet, began, err)
	switch {
	case err != nil:
		return nil, fmt.Errorf("redisstore: cache: get: %w", err)
	case e == nil || !e.Useful(now):
		return nil, nil
	}
	return e, nil
}

// Put implements cache.Store. An entry that is of no use any more leaves none behind.
func (c *CacheStore) Put(ctx context.Context, key cache.Key, e *cache.Entry, now time.Time) error {
	began := time.Now()
	if n := int64(len(e.Body)); n > c.maxEntry {
		return fmt.Errorf("redisstore: cache: put: a body of %d bytes: want at most %d", n, c.maxEntry)
	}
	if !e.Useful(now) {
		return c.Delete(ctx, key)
	}
	err := c.link.ready()
	if err == nil { // else there is no need to write it down
		var value []byte
		if value, err = encode(e); err != nil {
			return fmt.Errorf("redisstore: cache: put: %w", err)
		}
		if n := int64(len(value)); n > c.limit {
			return fmt.Errorf("redisstore: cache: put: an entry of %d bytes with its header: want at most %d", n, c.limit)
		}
		err = c.put(ctx, c.valueKey(key), value, e.Until.Sub(now))
	}
	c.observe(ctx, OpCachePut, began, err)
	if err != nil {
		return fmt.Errorf("redisstore: cache: put: %w", err)
	}
	return nil
}

// Delete implements cache.Store.
func (c *CacheStore) Delete(ctx context.Context, key cache.Key) error {
	began := time.Now()
	err := c.unlink(ctx, c.valueKey(key))
	c.observe(ctx, OpCacheDelete, began, err)
	if err != nil {
		return fmt.Errorf("redisstore: cache: delete: %w", err)
	}
	return nil
}
