package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/inferweir/weir/cache"
)

const (
	// leadFor is how long a lease lasts without being renewed. Each instance renews
	// its own three times as often.
	leadFor = 10 * time.Second
	// aloneFor is how long nobody leads after an answer that could not be shared.
	aloneFor = time.Minute
	// maxLed bounds the leases of an instance, maxWaiting its calls that wait for
	// those of others: more make their calls alone.
	maxLed, maxWaiting = 8192, 16384
	// The waits between two looks at a lease: while messages arrive, and while none do.
	firstLook, lastLook, blindLook = 10 * time.Millisecond, time.Second, 50 * time.Millisecond
	// maxBlips is how many looks in a row may fail before a wait does.
	maxBlips = 3
)

var (
	errManyLed     = fmt.Errorf("redisstore: cache: lead: %d leases are held here already", maxLed)
	errManyWaiting = fmt.Errorf("redisstore: cache: await: %d calls wait here already", maxWaiting)
)

// lease is one that this instance holds, or may hold.
type lease struct {
	token string
	key   cache.Key
}

// leases are what this instance leads and waits for.
type leases struct {
	lasts   time.Duration
	mu      sync.Mutex
	led     map[lease]struct{}                         // guarded by mu
	ended   map[lease]end                              // Redis does not know yet; guarded by mu
	waiting map[cache.Key]map[chan<- struct{}]struct{} // guarded by mu
	waits   int                                        // guarded by mu
}

// end is how a lease ended.
type end struct {
	how  string
	when time.Time
}

func (l *leases) init(lasts time.Duration) {
	l.lasts = lasts
	l.led, l.ended = map[lease]struct{}{}, map[lease]end{}
	l.waiting = map[cache.Key]map[chan<- struct{}]struct{}{}
}

func (l *leases) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.led) >= maxLed
}

func (l *leases) add(one lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.led[one] = struct{}{}
}

// remove reports whether this instance held it until now.
func (l *leases) remove(one lease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.led[one]
	delete(l.led, one)
	return held
}

// later has a lease ended once Redis answers. Of more than maxLed the others run out.
func (l *leases) later(one lease, e end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ended) < maxLed {
		l.ended[one] = e
	}
}

// due are the leases to renew, and those to end, which are forgotten here. Those that
// have run out by themselves are not among them.
func (l *leases) due() (renew []lease, ended map[lease]end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for one := range l.led {
		renew = append(renew, one)
	}
	ended = map[lease]end{}
	for one, e := range l.ended {
		if time.Since(e.when) < l.lasts {
			ended[one] = e
		}
	}
	clear(l.ended)
	return renew, ended
}

// wait registers somebody who is woken when key's lease ends. leave ends that.
func (l *leases) wait(key cache.Key) (wake <-chan struct{}, leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waits >= maxWaiting {
		return nil, nil, errManyWaiting
	}
	c := make(chan struct{}, 1)
	if l.waiting[key] == nil {
		l.waiting[key] = map[chan<- struct{}]struct{}{}
	}
	l.waiting[key][c] = struct{}{}
	l.waits++
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waits--
		if delete(l.waiting[key], c); len(l.waiting[key]) == 0 {
			delete(l.waiting, key)
		}
	}, nil
}

// wake lets those look who wait for key.
func (l *leases) wake(key cache.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.waiting[key] {
		poke(c)
	}
}

// wakeAll lets everybody look: messages were lost.
func (l *leases) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, of := range l.waiting {
		for c := range of {
			poke(c)
		}
	}
}

// poke leaves word in c, which has room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// leaseKey is where a key's lease is, in the slot of its entry.
func (c *CacheStore) leaseKey(key cache.Key) string {
	return c.store.options.Prefix + ":{cache:" + hex.EncodeToString(key[:]) + "}:lease"
}

func (c *CacheStore) leaseChannel() string { return c.store.options.Prefix + ":cache-leases" }

// Lead implements cache.Leases. A lease lasts 10 s without its instance. Close ends it,
// and then Lead fails with ErrClosed.
func (c *CacheStore) Lead(ctx context.Context, key cache.Key) (release func(shareable bool), err error) {
	if !c.leasing.enter() {
		return nil, ErrClosed
	}
	defer c.leasing.leave()
	if c.leases.full() {
		return nil, errManyLed
	}
	began := time.Now()
	one := lease{token: rand.Text(), key: key}
	got, err := c.run(ctx, c.scripts.lead, []string{c.leaseKey(key)}, one.token, milliseconds(c.leases.lasts))
	c.observe(ctx, OpCacheLease, began, err)
	switch {
	case errors.Is(err, ErrAway), errors.Is(err, ErrClosed):
		return nil, err
	case err != nil:
		c.leases.later(one, end{"end", began}) // it may have been given
		return nil, fmt.Errorf("redisstore: cache: lead: %w", err)
	case got < 0:
		return nil, cache.ErrNotShared
	case got == 0:
		return nil, nil
	}
	c.leases.add(one)
	return func(shareable bool) { c.release(one, shareable) }, nil
}

// release ends a lease, unless that has been done.
func (c *CacheStore) release(one lease, shareable bool) {
	if !c.leasing.enter() {
		return // Close ends it
	}
	defer c.leasing.leave()
	if !c.leases.remove(one) {
		return
	}
	how := "end"
	if !shareable {
		how = "alone"
	}
	if c.end(one, how) != nil {
		c.leases.later(one, end{how, time.Now()})
	}
}

// end tells Redis, within the deadline, that a lease has ended.
func (c *CacheStore) end(one lease, how string) error {
	began := time.Now()
	_, err := c.run(context.Background(), c.scripts.lease, []string{c.leaseKey(one.key)},
		one.token, how, milliseconds(aloneFor), c.leaseChannel(), hex.EncodeToString(one.key[:]))
	c.observe(c.ctx, OpCacheLease, began, err)
	return err
}

// Await implements cache.Leases. The end of a lease is told by a message; where that
// is lost, the wait ends a second later at most, or when the lease runs out.
func (c *CacheStore) Await(ctx context.Context, key cache.Key) error {
	wake, leave, err := c.leases.wait(key) // before the first look: no end is missed
	if err != nil {
		return err
	}
	defer leave()
	pause := firstLook
	for blips := 0; ; pause *= 2 {
		began := time.Now()
		left, err := c.run(ctx, c.scripts.wait, []string{c.leaseKey(key)})
		switch {
		case err == nil && left == 0:
			return nil
		case err == nil:
			blips = 0
			pause = min(pause, time.Duration(left+1)*time.Millisecond)
		default:
			c.observe(ctx, OpCacheLease, began, err)
			// One answer that is late does not send all who wait to the upstream.
			if blips++; blips == maxBlips || ctx.Err() != nil || c.link.ready() != nil {
				return fmt.Errorf("redisstore: cache: await: %w", err)
			}
		}
		most := lastLook
		if !c.listening.Load() {
			most = blindLook
		}
		pause = min(pause, most)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		case <-wake:
		case <-time.After(pause):
		}
	}
}

// keepLeases renews the leases of this instance until the cache is closed, and ends
// those of which Redis did not answer when they ended.
func (c *CacheStore) keepLeases() {
	tick := time.NewTicker(c.leases.lasts / 3)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		if !c.leasing.enter() {
			return // Close ends them all
		}
		renew, ended := c.leases.due()
		c.endEach(ended)
		c.renewEach(renew)
		c.leasing.leave()
	}
}

// endEach ends leases, and has those of which Redis does not answer ended later. Those
// that have run out meanwhile are left alone.
func (c *CacheStore) endEach(ended map[lease]end) {
	var some throng
	for one, e := range ended {
		some.run(func() {
			if time.Since(e.when) < c.leases.lasts && c.end(one, e.how) != nil {
				c.leases.later(one, e)
			}
		})
	}
	some.Wait()
}

// renewEach renews leases until the cache is to be closed, which ends them.
func (c *CacheStore) renewEach(renew []lease) {
	var some throng
	for _, one := range renew {
		if c.leasing.closed.Load() {
			break
		}
		some.run(func() { c.renewLease(one) })
	}
	some.Wait()
}

// endLeases ends all leases that are held, or may be, for as long as Redis answers:
// the others run out. Nobody leads, and no release is on its way.
func (c *CacheStore) endLeases() {
	held, ended := c.leases.due()
	for _, one := range held {
		if c.leases.remove(one) {
			ended[one] = end{"end", time.Now()}
		}
	}
	if c.link.ready() == nil {
		c.endEach(ended)
	}
}

// throng is some work of which renewers are done at a time.
type throng struct {
	sync.WaitGroup
	tokens chan struct{}
}

func (t *throng) run(f func()) {
	if t.tokens == nil {
		t.tokens = make(chan struct{}, renewers)
	}
	t.tokens <- struct{}{}
	t.Go(func() {
		defer func() { <-t.tokens }()
		f()
	})
}

// renewLease renews a lease, unless it has run out: somebody else may lead.
func (c *CacheStore) renewLease(one lease) {
	began := time.Now()
	_, err := c.run(c.ctx, c.scripts.lease, []string{c.leaseKey(one.key)}, one.token, "renew", milliseconds(c.leases.lasts))
	c.observe(c.ctx, OpCacheLease, began, err)
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
