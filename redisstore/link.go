package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// maxInFlight bounds the calls that wait for the client: below the 1024 that
	// it queues for a connection, so that no call blocks in there.
	maxInFlight = 512
	// connectTimeout is for a connection with its greeting, and for a server that
	// does not read. Callers do not wait so long.
	connectTimeout = time.Second
	// The waits between two attempts to reach Redis while it is away.
	firstRetry, lastRetry = 10 * time.Millisecond, 500 * time.Millisecond
	// rebuildEvery is the least time between two clients.
	rebuildEvery = time.Second
	// patience is how many probes may fail before the client itself is replaced.
	patience = 5
	// clusterPatience is how many times more failures than one server's a cluster
	// may have, and how many of its nodes are asked whether it is there.
	clusterPatience = 4
	// renewers is how many counts are renewed at a time.
	renewers = 8
	// maxRenew bounds the IDs of one renewal.
	maxRenew = 256
)

// link is the connection to Redis, and what is known of it.
type link struct {
	client    atomic.Pointer[rueidis.Client]
	open      atomic.Bool  // the breaker
	failures  atomic.Int64 // in a row
	stale     atomic.Bool  // the client leads to the wrong server
	instances atomic.Int64
	inFlight  chan struct{}
	first     chan struct{} // closed after the first attempt to connect
	tripped   chan struct{} // the breaker opened
	retired   sync.WaitGroup
	// These are the goroutine's of keep alone.
	built  time.Time // when the client was made
	fewer  time.Time // since when fewer instances report than instances says; zero if not
	beaten int64     // how many reported last
}

func (l *link) init() {
	l.inFlight = make(chan struct{}, maxInFlight)
	l.first = make(chan struct{})
	l.tripped = make(chan struct{}, 1)
}

func (l *link) up() bool { return !l.open.Load() && l.client.Load() != nil }

// close ends the calls in flight and keeps new ones from starting.
func (l *link) close() {
	if c := l.client.Load(); c != nil {
		(*c).Close()
	}
	for range maxInFlight {
		l.inFlight <- struct{}{}
	}
	l.retired.Wait()
}

// ready says at once whether to ask Redis at all.
func (s *Store) ready() error {
	switch {
	case s.closed.Load():
		return ErrClosed
	case s.link.open.Load():
		return ErrAway
	}
	return nil
}

// run runs a script once, or never.
func (s *Store) run(ctx context.Context, script *rueidis.Lua, keys, args []string) ([]int64, error) {
	return s.send(ctx, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
		return script.Exec(ctx, c, keys, args).AsIntSlice()
	})
}

type reply struct {
	ints []int64
	err  error
}

// send is ask, after the first attempt to connect, and counts failures for the
// breaker.
func (s *Store) send(ctx context.Context, f func(context.Context, rueidis.Client) ([]int64, error)) ([]int64, error) {
	select {
	case <-s.link.first:
	case <-ctx.Done():
		s.record(ctx.Err()) // a first connection that takes long is an outage, too
		return nil, ctx.Err()
	}
	ints, err := s.ask(ctx, f)
	if !errors.Is(err, ErrAway) {
		s.record(err)
	}
	return ints, err
}

// ask lets f use the client and returns what it said, or when ctx ends. f has a
// goroutine of its own because not all waits in the client end with the context:
// one for somebody else's dialing does not.
func (s *Store) ask(ctx context.Context, f func(context.Context, rueidis.Client) ([]int64, error)) ([]int64, error) {
	client := s.link.client.Load()
	if client == nil {
		return nil, ErrAway
	}
	select {
	case s.link.inFlight <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done := make(chan reply, 1)
	go func() {
		defer func() { <-s.link.inFlight }()
		ints, err := f(ctx, *client)
		done <- reply{ints, err}
	}()
	var r reply
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	return r.ints, r.err
}

// record counts failures for the breaker.
func (s *Store) record(err error) {
	kind := failureOf(err)
	switch kind {
	case None, Script: // the server is there
		s.link.failures.Store(0)
		return
	case ReadOnly:
		// Nothing will succeed on this server: no need to try it again.
		s.link.stale.Store(true)
	case Topology:
		s.link.stale.Store(true)
		if s.link.failures.Add(1) < s.mostFailures() {
			return
		}
	default:
		if s.link.failures.Add(1) < s.mostFailures() {
			return
		}
	}
	s.trip()
}

// mostFailures is how many in a row open the breaker. In a cluster one master that is
// away makes a part of all calls fail, and a few in a row happen by chance: the
// others must not lose theirs by that.
func (s *Store) mostFailures() int64 {
	n := int64(s.options.BreakerFailures)
	if s.address.Kind == Cluster {
		n *= clusterPatience
	}
	return n
}

func (s *Store) trip() {
	if s.link.open.CompareAndSwap(false, true) {
		select {
		case s.link.tripped <- struct{}{}:
		default:
		}
	}
}

// keep connects, renews what this instance holds, and brings the connection back
// when it fails. It is the only goroutine that does.
func (s *Store) keep() {
	began := time.Now()
	err := s.connect()
	if err == nil {
		close(s.link.first)
		err = s.beat(true)
	} else {
		s.link.open.Store(true)
		close(s.link.first)
	}
	s.observe(OpRenew, began, err)
	if err != nil && failureOf(err) != Script {
		s.trip()
	}
	// Soon after a start and after an outage others come, too: to know how many
	// there are, it looks more often then.
	pause := s.lease / 30
	tick := time.After(pause)
	for {
		if s.link.open.Load() {
			s.restore()
			pause = s.lease / 30
			tick = time.After(pause)
		}
		var due <-chan time.Time
		if at := s.freeing.due(); !at.IsZero() {
			due = time.After(time.Until(at))
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.link.tripped:
		case <-s.freeing.wake: // due is another time now
		case <-due:
			s.freeSlots(s.ctx, false)
		case key := <-s.lost:
			s.putBack(key)
		case <-tick:
			s.renew()
			pause = min(2*pause, s.lease/3)
			tick = time.After(pause)
		}
	}
}

// restore returns when Redis answers again, or the store is closed.
func (s *Store) restore() {
	wait, renewed := firstRetry, time.Now()
	for probes := 1; ; probes++ {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
		began := time.Now()
		var err error
		switch old := began.Sub(s.link.built) >= rebuildEvery; {
		case s.link.client.Load() == nil, old && s.link.stale.Load(), old && probes%patience == 0:
			err = s.connect()
		}
		if err == nil {
			err = s.probe()
		}
		if err == nil {
			s.link.failures.Store(0)
			s.link.stale.Store(false)
			s.link.open.Store(false)
			s.freeSlots(s.ctx, true)
			s.renewSlots()
		}
		s.observe(OpRenew, began, err)
		if err == nil {
			return
		}
		// An answer that is too late for a caller is not too late for a slot.
		if time.Since(renewed) >= s.lease/3 {
			renewed = time.Now()
			s.renewSlots()
		}
	}
}

// probe finds out whether Redis can be written to within the deadline. Before
// that it makes the connection, which may take longer. A heartbeat that fails for a
// reason of its own, because its key holds something else or because its master of
// a cluster is away, says nothing of the counts.
func (s *Store) probe() error {
	err := s.ping()
	for tries := 1; err != nil && s.address.Kind == Cluster && tries < clusterPatience; tries++ {
		err = s.ping() // at some other node
	}
	if err != nil {
		return err
	}
	began := time.Now()
	err = s.beat(true)
	switch kind := failureOf(err); {
	case kind == Script, s.address.Kind == Cluster && (kind == Timeout || kind == Connection || kind == Topology):
		s.observe(OpRenew, began, err)
		return nil
	}
	return err
}

func (s *Store) ping() error {
	timeout := connectTimeout
	if s.address.Kind == Cluster {
		timeout /= clusterPatience
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	_, err := s.ask(ctx, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
		return nil, c.Do(ctx, c.B().Ping().Build()).Error()
	})
	return err
}

// beat says that this instance lives. back is after a time without Redis.
func (s *Store) beat(back bool) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Deadline)
	defer cancel()
	args := leaseArgs(s.lease, s.instance)
	n, err := s.send(ctx, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
		n, err := s.scripts.beat.Exec(ctx, c, []string{s.instancesKey()}, args).AsInt64()
		return []int64{n}, err
	})
	if err == nil {
		s.link.count(n[0], back, s.lease)
	}
	return err
}

// count notes how many instances report. Fewer than before are believed after a
// lease: where Redis lost the others, they report again one by one, and
// until they have, each would enforce too large a share.
func (l *link) count(n int64, back bool, lease time.Duration) {
	now := time.Now()
	lost := back && n < l.beaten // and not before: they have stopped
	l.beaten = n
	switch {
	case n < l.instances.Load() && (lost || l.fewer.IsZero()):
		l.fewer = now
	case n >= l.instances.Load(), now.Sub(l.fewer) >= lease:
		l.fewer = time.Time{}
		l.instances.Store(n)
	}
}

func (s *Store) renew() {
	began := time.Now()
	s.observe(OpRenew, began, s.beat(false))
	s.renewSlots() // whatever became of the heartbeat: they are other keys
}

// renewSlots renews all slots that this instance holds, and puts back those that
// Redis lost. After some have had no answer it waits less for the others, so that
// one master of a cluster that is away does not cost the slots of the others their
// time; where nothing answers at all it gives up: there will be another time.
func (s *Store) renewSlots() {
	var wg sync.WaitGroup
	var failed atomic.Int64
	tokens := make(chan struct{}, renewers)
	for _, key := range s.held.keys() {
		tokens <- struct{}{}
		if s.address.Kind != Cluster && failed.Load() >= 4*renewers {
			<-tokens
			break
		}
		patience := connectTimeout
		if failed.Load() >= renewers {
			patience = max(s.options.Deadline, freeWithin)
		}
		wg.Go(func() {
			defer func() { <-tokens }()
			if !s.renewKey(key, patience) {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
}

// putBack renews the slots of a key, and of all that are lost as well, once.
func (s *Store) putBack(key string) {
	keys := map[string]struct{}{key: {}}
	for len(s.lost) > 0 { // nobody else receives
		keys[<-s.lost] = struct{}{}
	}
	for key := range keys {
		s.renewKey(key, connectTimeout)
	}
}

// renewKey reports whether Redis answered.
func (s *Store) renewKey(key string, patience time.Duration) bool {
	for ids := range slices.Chunk(s.held.ids(key), maxRenew) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		args := leaseArgs(s.lease, ids...)
		_, err := s.ask(ctx, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
			return nil, s.scripts.renew.Exec(ctx, c, []string{key}, args).Error()
		})
		cancel()
		for _, id := range ids {
			// What was freed meanwhile has come back: it is freed again. Without an
			// answer the script may yet run, after any of them is freed.
			if one := (slot{key, id}); err != nil || !s.held.has(one) {
				s.freeing.add(one)
			}
		}
		if err != nil {
			s.observe(OpRenew, began, err)
			return false
		}
	}
	return true
}

// connect makes a client and puts it in place of the one before.
func (s *Store) connect() error {
	s.link.built = time.Now()
	client, err := rueidis.NewClient(s.clientOption())
	if err != nil {
		if client != nil {
			client.Close()
		}
		return err
	}
	s.link.stale.Store(false)
	if old := s.link.client.Swap(&client); old != nil {
		s.link.retired.Go((*old).Close) // waits for its calls
	}
	return nil
}

func (s *Store) clientOption() rueidis.ClientOption {
	a := s.address
	o := rueidis.ClientOption{
		InitAddress: slices.Clone(a.Hosts), Username: a.User, Password: a.Password, SelectDB: a.DB,
		ClientName: "weir",
		Dialer:     net.Dialer{Timeout: connectTimeout, KeepAlive: time.Second},
		DialCtxFn:  s.dial,
		// One connection, so that a caller does not wait for a second one.
		PipelineMultiplex: -1,
		// Otherwise a lone call that runs out of time closes the connection.
		AlwaysPipelining:   true,
		ConnWriteTimeout:   connectTimeout,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
		DisableCache: true,
		DisableRetry: true, // a script whose outcome is unknown may have run
	}
	if a.TLS {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	switch a.Kind {
	case Single:
		o.ForceSingleClient = true
	case Cluster:
		o.ClusterOption = rueidis.ClusterOption{ShardsRefreshInterval: 10 * time.Second, MaxMovedRedirections: 3}
	case Sentinel:
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: a.Master, Username: a.SentinelUser, Password: a.SentinelPassword,
			Dialer: o.Dialer, TLSConfig: o.TLSConfig, TopologyRefreshInterval: 5 * time.Second,
		}
	}
	return o
}

// dial connects, unless the store is closed meanwhile.
func (s *Store) dial(ctx context.Context, address string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if t != nil {
		return (&tls.Dialer{NetDialer: d, Config: t}).DialContext(ctx, "tcp", address)
	}
	return d.DialContext(ctx, "tcp", address)
}
