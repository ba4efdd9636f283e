package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/cache"
)

const (
	// maxLabels is how many labels the log lists. With more it purges everything, and
	// begins anew.
	maxLabels = 10_000
	// maxKnown bounds the numbers of purges: a script counts exactly up to 2^53.
	maxKnown = 1 << 52
	// followEvery is how often the log is looked at without a message: one may be
	// lost, and FLUSHALL sends none. It is also the longest wait after a failure.
	followEvery = time.Second
	// While purges follow each other the log is not read for a time that is followShare
	// times as long as reading it took, within these bounds: it may be long.
	leastPause, mostPause = 2 * time.Millisecond, 50 * time.Millisecond
	followShare           = 8
)

// follows are the calls of Follow.
type follows struct {
	mu  sync.Mutex
	all map[chan<- struct{}]struct{} // guarded by mu
}

// add returns what is poked when the log may have changed. leave ends that.
func (f *follows) add() (changed <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[chan<- struct{}]struct{}{}
	}
	c := make(chan struct{}, 1)
	f.all[c] = struct{}{}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.all, c)
	}
}

func (f *follows) notify() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.all {
		poke(c)
	}
}

// purgesKey is where the log is, and purgesChannel where its changes are told.
func (c *CacheStore) purgesKey() string     { return c.store.options.Prefix + ":{purges}" }
func (c *CacheStore) purgesChannel() string { return c.store.options.Prefix + ":cache-purges" }

// Append implements cache.PurgeLog. Where Redis has lost the log, or a part of it, and
// where the log is full, the purge is of everything.
func (c *CacheStore) Append(ctx context.Context, labels []string, known uint64) (seq uint64, err error) {
	switch {
	case len(labels) > maxLabels:
		return 0, fmt.Errorf("redisstore: cache: purge: %d labels: want at most %d", len(labels), maxLabels)
	case known > maxKnown:
		return 0, fmt.Errorf("redisstore: cache: purge: known number %d: want at most %d", known, uint64(maxKnown))
	}
	began := time.Now()
	args := make([]string, 0, 5+len(labels))
	args = append(args, strconv.FormatUint(known, 10), strconv.FormatUint(c.newest.Load(), 10),
		strconv.Itoa(maxLabels), c.purgesChannel(), rand.Text())
	n, err := c.append(ctx, append(args, labels...))
	c.observe(ctx, OpCachePurge, began, err)
	if err != nil {
		return 0, fmt.Errorf("redisstore: cache: purge: %w", err)
	}
	raise(&c.newest, uint64(n))
	return uint64(n), nil
}

// append runs the script. A server that is full has to take a purge all the same: what
// fills it may be what is purged, and the log has its own bound. Servers before Redis 7
// can not be told so.
func (c *CacheStore) append(ctx context.Context, args []string) (int64, error) {
	keys := []string{c.purgesKey()}
	n, err := c.run(ctx, c.scripts.purge, keys, args...)
	if failureOf(err) != Memory {
		return n, err
	}
	n, again := c.run(ctx, c.scripts.purgeFull, keys, args...)
	if failureOf(again) == Script {
		return 0, err
	}
	return n, again
}

// raise makes v at least to.
func raise(v *atomic.Uint64, to uint64) {
	for before := v.Load(); before < to; before = v.Load() {
		if v.CompareAndSwap(before, to) {
			return
		}
	}
}

// logState is the log as it was read.
type logState struct {
	cache.PurgeState
	log string // which log: another one has lost what was in the one before
}

// Follow implements cache.PurgeLog. A change is reported when its message comes, within
// some milliseconds, else within a second. A log that was lost is reported as an empty
// one. An instance that does not reach Redis reports nothing until it does again.
func (c *CacheStore) Follow(ctx context.Context, changed func(cache.PurgeState)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	poked, leave := c.follows.add()
	defer leave()
	f := following{changed: changed}
	retry := firstRetry
	for ctx.Err() == nil {
		if err := f.look(ctx, c); err != nil {
			rest(ctx, firstRetry, nil)
			rest(ctx, retry-firstRetry, poked) // a probe says that Redis is back
			retry = min(2*retry, followEvery)
			continue
		}
		retry = firstRetry
		// After the reading, not before it: the first of some purges does not wait.
		pause := pauseAfter(f.took)
		rest(ctx, pause, nil)
		rest(ctx, followEvery-pause, poked)
	}
}

// rest waits, until it is woken or ctx ends.
func rest(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// pauseAfter is for how long the log is not read again after a reading that took so
// long.
func pauseAfter(took time.Duration) time.Duration {
	return min(max(followShare*took, leastPause), mostPause)
}

// following is one call of Follow.
type following struct {
	changed  func(cache.PurgeState)
	reported bool
	took     time.Duration // the last reading
	heard    int64         // how often messages had begun to arrive before the last report
	last     logState
}

// look reads the log, and reports it where it has changed, and where messages arrive
// again.
func (f *following) look(ctx context.Context, c *CacheStore) error {
	// Both before the log is read: what comes after is a reason to read it again.
	heard, newest := c.heard.Load(), c.newest.Load()
	began := time.Now()
	next, err := c.readLog(ctx, &f.last, !f.reported || heard != f.heard)
	f.took = time.Since(began)
	if err != nil || next == nil || ctx.Err() != nil {
		return err
	}
	if now := c.newest.Load(); now != newest && next.Seq < now {
		c.follows.notify() // not one that lacks what was appended here meanwhile
		return nil
	}
	if f.last.log != "" && next.log != f.last.log && next.Seq > 0 {
		f.changed(cache.PurgeState{}) // it was lost, and is as long again
	}
	f.changed(next.PurgeState)
	c.newest.Store(next.Seq)
	f.reported, f.heard, f.last = true, heard, *next
	return nil
}

// readLog reads the log, or returns nil where it is as it was last and nobody asks for
// it in any case.
func (c *CacheStore) readLog(ctx context.Context, last *logState, anyway bool) (*logState, error) {
	if err := c.link.ready(); err != nil {
		return nil, err
	}
	began := time.Now()
	// Nobody waits for this: a log of thousands of labels has more time than a call.
	inner, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	next, err := attempt(inner, &c.link, func(ctx context.Context, r rueidis.Client) (*logState, error) {
		key := c.purgesKey()
		if !anyway {
			now, err := r.Do(ctx, r.B().Hmget().Key(key).Field("=seq", "=log").Build()).ToArray()
			if err != nil {
				return nil, err
			}
			if len(now) == 2 && textOf(now[0]) == seqText(last.Seq) && textOf(now[1]) == last.log {
				return nil, nil
			}
		}
		fields, err := r.Do(ctx, r.B().Hgetall().Key(key).Build()).AsStrMap()
		if err != nil {
			return nil, err
		}
		return parseLog(fields)
	})
	if err != nil || next != nil {
		c.observe(ctx, OpCachePurge, began, err)
	}
	return next, err
}

// textOf is "" for what is not there.
func textOf(m rueidis.RedisMessage) string {
	text, err := m.ToString()
	if err != nil {
		return ""
	}
	return text
}

// seqText is a number as the log has it: an empty log has none.
func seqText(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func parseLog(fields map[string]string) (*logState, error) {
	s := logState{log: fields["=log"]}
	if len(fields) == 0 {
		return &s, nil
	}
	var errs [3]error
	s.Seq, errs[0] = strconv.ParseUint(fields["=seq"], 10, 64)
	s.Floor, errs[1] = strconv.ParseUint(fields["=floor"], 10, 64)
	s.Labels = make(map[string]uint64, len(fields))
	for field, number := range fields {
		label, ok := strings.CutPrefix(field, ":")
		if !ok {
			continue
		}
		if s.Labels[label], errs[2] = strconv.ParseUint(number, 10, 64); errs[2] != nil {
			break
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("redisstore: the log of purges: %w", err)
	}
	return &s, nil
}
