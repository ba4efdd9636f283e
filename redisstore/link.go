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
)

// link is the connection to Redis, and what is known of it. Counts have one, and
// every cache has one of its own.
type link struct {
	address  Address
	deadline time.Duration
	most     int64 // failures in a row open the breaker
	near     int64 // bytes of answers that each connection keeps on this side; 0 for none
	reads    bool  // what it is for goes on, in part, on a server without memory
	ctx      context.Context

	client   atomic.Pointer[rueidis.Client]
	closed   atomic.Bool
	open     atomic.Bool  // the breaker
	failures atomic.Int64 // in a row
	stale    atomic.Bool  // the client leads to the wrong server
	inFlight chan struct{}
	first    chan struct{} // closed after the first attempt to connect
	tripped  chan struct{} // the breaker opened
	retired  sync.WaitGroup
	built    time.Time // when the client was made; for the goroutine that keeps the link alone
}

// init makes a link to where the options say. ctx ends with what it is for: then
// nothing is dialed any more.
func (l *link) init(ctx context.Context, o *Options, a Address) {
	l.ctx, l.address, l.deadline, l.most = ctx, a, o.Deadline, int64(o.BreakerFailures)
	if a.Kind == Cluster {
		// One master that is away makes a part of all calls fail, and a few in a row
		// happen by chance: the others must not lose theirs by that.
		l.most *= clusterPatience
	}
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
func (l *link) ready() error {
	switch {
	case l.closed.Load():
		return ErrClosed
	case l.open.Load():
		return ErrAway
	}
	return nil
}

type reply[T any] struct {
	value T
	err   error
}

// send is attempt, and counts failures for the breaker.
func send[T any](ctx context.Context, l *link, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	value, err := attempt(ctx, l, f)
	if !errors.Is(err, ErrAway) {
		l.record(err)
	}
	return value, err
}

// attempt is ask, after the first attempt to connect: a first connection that takes
// long is an outage, too.
func attempt[T any](ctx context.Context, l *link, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	select {
	case <-l.first:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	return ask(ctx, l, f)
}

// ask lets f use the client and returns what it said, or when ctx ends. f has a
// goroutine of its own because not all waits in the client end with the context:
// one for somebody else's dialing does not.
func ask[T any](ctx context.Context, l *link, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	var r reply[T]
	client := l.client.Load()
	if client == nil {
		return r.value, ErrAway
	}
	select {
	case l.inFlight <- struct{}{}:
	case <-ctx.Done():
		return r.value, ctx.Err()
	}
	done := make(chan reply[T], 1)
	go func() {
		defer func() { <-l.inFlight }()
		value, err := f(ctx, *client)
		done <- reply[T]{value, err}
	}()
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	return r.value, r.err
}

// record counts failures for the breaker.
func (l *link) record(err error) {
	kind := failureOf(err)
	if kind == Memory && l.reads {
		kind = None
	}
	switch kind {
	case None, Script: // the server is there
		l.failures.Store(0)
		return
	case ReadOnly:
		// Nothing will succeed on this server: no need to try it again.
		l.stale.Store(true)
	case Topology:
		l.stale.Store(true)
		if l.failures.Add(1) < l.most {
			return
		}
	default:
		if l.failures.Add(1) < l.most {
			return
		}
	}
	l.trip()
}

func (l *link) trip() {
	if l.open.CompareAndSwap(false, true) {
		select {
		case l.tripped <- struct{}{}:
		default:
		}
	}
}

// restore returns when probe says that Redis answers again, and the breaker is
// closed, or when the link's time is over. tried is told of every probe.
func (l *link) restore(probe func() error, tried func(began time.Time, err error)) {
	wait := firstRetry
	for probes := 1; ; probes++ {
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
		began := time.Now()
		var err error
		switch old := began.Sub(l.built) >= rebuildEvery; {
		case l.client.Load() == nil, old && l.stale.Load(), old && probes%patience == 0:
			err = l.connect()
		}
		if err == nil {
			err = probe()
		}
		if err == nil {
			l.failures.Store(0)
			l.stale.Store(false)
			l.open.Store(false)
		}
		tried(began, err)
		if err == nil {
			return
		}
	}
}

// ping makes the connection, if there is none, and finds out whether anybody
// answers there: of a cluster, one of some nodes.
func (l *link) ping() error {
	err := l.pingOnce()
	for tries := 1; err != nil && l.address.Kind == Cluster && tries < clusterPatience; tries++ {
		err = l.pingOnce() // at some other node
	}
	return err
}

func (l *link) pingOnce() error {
	timeout := connectTimeout
	if l.address.Kind == Cluster {
		timeout /= clusterPatience
	}
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	_, err := ask(ctx, l, func(ctx context.Context, c rueidis.Client) (struct{}, error) {
		return struct{}{}, c.Do(ctx, c.B().Ping().Build()).Error()
	})
	return err
}

// ofOneKey reports whether an error says something of the key that was asked for,
// because it holds something else or its master of a cluster is away, and nothing of
// the others.
func (l *link) ofOneKey(err error) bool {
	kind := failureOf(err)
	return kind == Script || l.address.Kind == Cluster && (kind == Timeout || kind == Connection || kind == Topology)
}

// connect makes a client and puts it in place of the one before.
func (l *link) connect() error {
	l.built = time.Now()
	client, err := rueidis.NewClient(l.clientOption())
	if err != nil {
		if client != nil {
			client.Close()
		}
		return err
	}
	l.stale.Store(false)
	if old := l.client.Swap(&client); old != nil {
		l.retired.Go((*old).Close) // waits for its calls
	}
	return nil
}

func (l *link) clientOption() rueidis.ClientOption {
	a := l.address
	o := rueidis.ClientOption{
		InitAddress: slices.Clone(a.Hosts), Username: a.User, Password: a.Password, SelectDB: a.DB,
		ClientName: "weir",
		Dialer:     net.Dialer{Timeout: connectTimeout, KeepAlive: time.Second},
		DialCtxFn:  l.dial,
		// One connection, so that a caller does not wait for a second one.
		PipelineMultiplex: -1,
		// Otherwise a lone call that runs out of time closes the connection.
		AlwaysPipelining:   true,
		ConnWriteTimeout:   connectTimeout,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
		DisableCache: l.near == 0, CacheSizeEachConn: int(l.near),
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

// dial connects, unless the link is closed meanwhile.
func (l *link) dial(ctx context.Context, address string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if t != nil {
		return (&tls.Dialer{NetDialer: d, Config: t}).DialContext(ctx, "tcp", address)
	}
	return d.DialContext(ctx, "tcp", address)
}
