package redisstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/ratelimit"
)

// Defaults of Options.
const (
	// DefaultDeadline is the longest that a call waits.
	DefaultDeadline = 20 * time.Millisecond
	// DefaultPrefix begins every key.
	DefaultPrefix = "weir"
	// DefaultBreakerFailures is how many calls in a row fail before the breaker opens.
	DefaultBreakerFailures = 5
)

// Lease is how long a slot of a concurrent policy stays held, and an instance
// counted, without being renewed: each instance renews its own three times as
// often, so that only the slots of one that died expire.
const Lease = 30 * time.Second

// Options say where Redis is and how long to wait for it.
type Options struct {
	// URL is the address, see ParseURL.
	URL string
	// Deadline is the longest that one call of Take or Settle takes, whatever Redis
	// does. 0 means DefaultDeadline; from 1ms to 10s.
	Deadline time.Duration
	// Prefix begins every key: stores with the same one share their counts. ""
	// means DefaultPrefix. At most 64 printable characters without braces.
	Prefix string
	// BreakerFailures is how many calls in a row may fail before calls fail at
	// once, until Redis answers again. 0 means DefaultBreakerFailures.
	BreakerFailures int
	// Observe, if not nil, is told how every operation ended. It must not block.
	Observe func(Event)
}

// Store implements ratelimit.Store, and ratelimit.Granter for leases. It is safe for concurrent use.
type Store struct {
	options  Options
	address  Address
	instance string
	lease    time.Duration
	// callerTime makes the caller's clock count: for tests of time.
	callerTime bool

	scripts struct{ take, settle, grant, renew, beat *rueidis.Lua }
	held    held
	freeing freeing
	lost    chan string // keys of which Redis has fewer slots than are held here
	link    link
	peers   peers
	caches  caches

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the goroutines that last
	undo   chan []ratelimit.Take
}

// New makes a store. Redis need not be up: the store connects by itself, and until
// then every call fails within the deadline. The only errors are those of the
// options. Close ends it.
func New(o Options) (*Store, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	s.start()
	return s, nil
}

func prepare(o Options) (*Store, error) {
	address, err := ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("redisstore: url: %w", err)
	}
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.BreakerFailures == 0 {
		o.BreakerFailures = DefaultBreakerFailures
	}
	switch {
	case o.Deadline < time.Millisecond || o.Deadline > 10*time.Second:
		return nil, fmt.Errorf("redisstore: deadline: %v: want from 1ms to 10s", o.Deadline)
	case !plain(o.Prefix):
		return nil, fmt.Errorf("redisstore: prefix: %q: want at most %d printable characters without spaces and braces", o.Prefix, maxPart)
	case o.BreakerFailures < 1:
		return nil, fmt.Errorf("redisstore: breaker failures: %d: want at least 1", o.BreakerFailures)
	}
	s := &Store{options: o, address: address, instance: rand.Text(), lease: Lease, undo: make(chan []ratelimit.Take, maxUndo), lost: make(chan string, maxLost)}
	s.scripts.take = rueidis.NewLuaScript(libLua + takeLua)
	s.scripts.settle = rueidis.NewLuaScript(libLua + settleLua)
	s.scripts.grant = rueidis.NewLuaScript(libLua + grantLua)
	s.scripts.renew = rueidis.NewLuaScript(libLua + renewLua)
	s.scripts.beat = rueidis.NewLuaScript(libLua + beatLua)
	s.freeing.wake = make(chan struct{}, 1)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.link.init(s.ctx, &s.options, s.address)
	return s, nil
}

func (s *Store) start() {
	s.wg.Go(s.keep)
	s.wg.Go(s.undoAll)
}

// Close stops renewing and closes the connections; calls fail from then on. Slots
// that are still held run out with their lease.
func (s *Store) Close() {
	if s.link.closed.Swap(true) {
		return
	}
	s.caches.close()
	s.cancel()
	s.wg.Wait()
	if s.link.up() {
		ctx, cancel := context.WithTimeout(context.Background(), s.options.Deadline)
		_, _ = send(ctx, &s.link, func(ctx context.Context, c rueidis.Client) (struct{}, error) { // else its lease ends
			return struct{}{}, c.Do(ctx, c.B().Zrem().Key(s.instancesKey()).Member(s.instance).Build()).Error()
		})
		s.freeSlots(ctx, true)
		cancel()
	}
	s.link.close()
}

// Take implements ratelimit.Store. A caller that leaves does not end the call:
// whether it took would be unknown. It takes the deadline at most.
func (s *Store) Take(ctx context.Context, takes []ratelimit.Take, now time.Time) (bool, error) {
	if err := ratelimit.Check(takes); err != nil {
		return false, err
	}
	if len(takes) == 0 {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	began := time.Now()
	allowed, err := s.take(ctx, takes, now)
	s.observe(OpTake, began, err)
	if err != nil {
		return false, fmt.Errorf("redisstore: take: %w", err)
	}
	return allowed, nil
}

func (s *Store) take(ctx context.Context, takes []ratelimit.Take, now time.Time) (bool, error) {
	if err := s.link.ready(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.Deadline)
	defer cancel()
	c := s.newCall(takes, now)
	allowed, err := c.take(ctx)
	if err == nil && allowed {
		c.hold()
	}
	return allowed, err
}

// Settle implements ratelimit.Store. It tries once; but a slot that Redis did not
// free is freed as soon as it answers.
func (s *Store) Settle(ctx context.Context, takes []ratelimit.Take, now time.Time) error {
	if err := ratelimit.Check(takes); err != nil {
		return err
	}
	if len(takes) == 0 {
		return nil
	}
	began := time.Now()
	c := s.newCall(takes, now)
	c.release()
	err := s.link.ready()
	if err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.options.Deadline)
		defer cancel()
		err = c.settle(ctx)
	} else {
		for _, group := range c.groups {
			c.freeLater(group, -1)
		}
	}
	s.observe(OpSettle, began, err)
	if err != nil {
		return fmt.Errorf("redisstore: settle: %w", err)
	}
	return nil
}

// maxUndo bounds the takes that wait to be given back, after a slot of a cluster
// failed; of more only the slots of concurrent policies are.
const maxUndo = 1024

// maxLost bounds the keys that wait to be put back before they are renewed.
const maxLost = 64

// undoAll gives back what calls took that failed halfway, after their deadline.
func (s *Store) undoAll() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case takes := <-s.undo:
			began := time.Now()
			ctx, cancel := context.WithTimeout(s.ctx, s.options.Deadline)
			c := s.newCall(takes, began)
			err := c.settle(ctx)
			cancel()
			s.observe(OpUndo, began, err)
		}
	}
}

// compare has the slots of a key put back where fewer are there than least, which
// is how many were held here and freed before. What was freed since is not lost.
func (s *Store) compare(key string, there, least int) {
	if _, freed := s.held.of(key); there+freed >= least {
		return
	}
	select {
	case s.lost <- key:
	default: // the next renewal does it
	}
}

func (s *Store) observe(op Op, began time.Time, err error) {
	if s.options.Observe == nil {
		return
	}
	s.options.Observe(Event{Op: op, Took: time.Since(began), Failure: failureOf(err), Err: err})
}

// Healthy reports whether Redis is there, as far as is known.
func (s *Store) Healthy() bool { return !s.link.closed.Load() && s.link.up() }

// Instances is how many stores with this prefix live, with this one, as Redis last
// said; at least 1. A smaller number is believed after it was said for a lease.
func (s *Store) Instances() int { return max(int(s.peers.instances.Load()), 1) }

// Held is how many slots this store holds.
func (s *Store) Held() int { return s.held.len() }

// Address is where the store keeps its counts.
func (s *Store) Address() Address { return s.address }

// instancesKey is where instances report. No count has this key: their tags begin
// with = or #.
func (s *Store) instancesKey() string { return s.options.Prefix + ":{instances}" }
