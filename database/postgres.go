package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// Limits of what a call of PostgreSQL may take. A server that does not answer at all is
// found out sooner, by its watcher.
const (
	connectTimeout = 2 * time.Second
	// poolWait is how long a call waits for a connection while all are busy.
	poolWait = 5 * time.Second
	// callLimit ends a call whose own context allows more, for example one that waits
	// for a lock that another program does not give back.
	callLimit = 30 * time.Second
	// commitLimit is how long a commit may take; its outcome is unknown then.
	commitLimit = 5 * time.Second
	// overflowIdle is how long a connection beyond the pool's size is kept without work.
	overflowIdle = time.Minute
	// maxTries is how often a transaction is run that collides with others, or whose
	// connection breaks before its commit.
	maxTries = 10
)

// postgres is a server: a pool of connections that work, one of the watcher's, and one
// that is kept back for looks at what has changed.
type postgres struct {
	work    lane
	looks   lane
	size    int // connections of all
	dialer  *dialer
	health  *health
	watcher *watcher
	commits atomic.Int64
	closed  atomic.Bool
}

// lane is a pool of connections.
type lane struct {
	pool *pgxpool.Pool
	sql  *sql.DB // over pool
}

func openLane(ctx context.Context, config *pgxpool.Config) (lane, error) {
	// The pool connects in the background, and ctx is only of the opening.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return lane{}, fmt.Errorf("database: %w", err)
	}
	return lane{pool, stdlib.OpenDBFromPool(pool)}, nil
}

// openPostgres connects if the server is there, and starts the watcher that does it
// later if not.
func openPostgres(ctx context.Context, o Options, migrations []migration) (*postgres, error) {
	config, err := poolConfig(o)
	if err != nil {
		return nil, err
	}
	d := newDialer()
	config.ConnConfig.DialFunc = d.dial
	p := &postgres{dialer: d, health: newHealth(o.Log), size: int(config.MaxConns) + otherConns}
	p.watcher = newWatcher(p, config.ConnConfig.Copy(), migrations)
	if err := p.watcher.first(ctx); err != nil {
		d.close()
		return nil, err
	}
	one := config.Copy()
	one.MaxConns, one.MinConns = 1, 0
	if p.looks, err = openLane(ctx, one); err != nil {
		d.close()
		return nil, err
	}
	if p.work, err = openLane(ctx, config); err != nil {
		p.looks.pool.Close()
		d.close()
		return nil, err
	}
	p.watcher.start()
	return p, nil
}

// otherConns are the connections beside those that work: the watcher's and that of looks.
const otherConns = 2

// poolConfig makes the pool's settings of ours, less otherConns. There is no state in a session and no prepared statement, so that it works
// behind PgBouncer in transaction mode too.
func poolConfig(o Options) (*pgxpool.Config, error) {
	if u, err := url.Parse(o.URL); err == nil {
		for key := range u.Query() {
			if strings.HasPrefix(key, "pool_") {
				return nil, fmt.Errorf("database: %s in the URL: the pool is set under database.pool", key)
			}
		}
	}
	c, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // the driver leaves out the password
	}
	if c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if _, named := c.ConnConfig.RuntimeParams["application_name"]; !named {
		c.ConnConfig.RuntimeParams["application_name"] = "weir"
	}
	if c.ConnConfig.ConnectTimeout <= 0 || c.ConnConfig.ConnectTimeout > connectTimeout {
		c.ConnConfig.ConnectTimeout = connectTimeout
	}
	c.MaxConns = int32(max(1, o.Pool.Size+o.Pool.Overflow-otherConns))
	c.MinConns = int32(min(max(0, o.Pool.Size-otherConns), int(c.MaxConns)))
	c.MaxConnIdleTime = overflowIdle
	c.HealthCheckPeriod = overflowIdle / 4
	c.MaxConnLifetime = o.Pool.MaxLifetime - o.Pool.MaxLifetime/10
	c.MaxConnLifetimeJitter = o.Pool.MaxLifetime / 5
	c.PingTimeout = time.Second
	c.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		return o.Pool.PrePing && p.IdleDuration > time.Second
	}
	return c, nil
}

// read runs f on a connection, again if that was broken and the server is not.
func (p *postgres) read(ctx context.Context, f func(querier) error) error {
	return p.try(ctx, p.work, func(ctx context.Context, conn *sql.Conn) error { return f(bound{conn, ctx}) })
}

// look is read on a connection of its own.
func (p *postgres) look(ctx context.Context, f func(querier) error) error {
	return p.try(ctx, p.looks, func(ctx context.Context, conn *sql.Conn) error { return f(bound{conn, ctx}) })
}

// write runs f in a transaction, again if it collided with another, or if its
// connection broke before the commit.
func (p *postgres) write(ctx context.Context, f func(querier) error) error {
	return p.try(ctx, p.work, func(ctx context.Context, conn *sql.Conn) error { return p.transaction(ctx, conn, f) })
}

// try calls once until it does not fail for a reason that another try may not have.
func (p *postgres) try(ctx context.Context, on lane, once func(context.Context, *sql.Conn) error) error {
	broke := 0 // how many connections
	for try := 1; ; try++ {
		err := p.call(ctx, on, once)
		switch {
		case err == nil:
			p.health.alive.Store(time.Now().UnixNano())
			return nil
		case ctx.Err() != nil, errors.Is(err, ErrAway), try == maxTries:
			return err
		case collided(err):
			if err := pause(ctx, try); err != nil {
				return err
			}
			continue
		}
		var broken *brokenError
		if !errors.As(err, &broken) {
			return err
		}
		if broke++; broke == 2 || isReadOnly(err) {
			on.pool.Reset() // the idle ones are likely to be broken too, or a standby's
		}
		if away := p.health.awaitCheck(ctx); away != nil {
			return away
		}
		if broke >= 4 {
			return fmt.Errorf("%w: %w", ErrAway, broken.error)
		}
	}
}

// pause waits a random time before the next try, longer the more there were.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(time.Duration(rand.Int64N(int64(min(try, 8)) * int64(10*time.Millisecond))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// brokenError is why a connection was lost.
type brokenError struct{ error }

// Unwrap returns the cause.
func (e *brokenError) Unwrap() error { return e.error }

// call takes a connection and calls f with a context that ends with the caller's, with
// the session, and after callLimit.
func (p *postgres) call(ctx context.Context, on lane, f func(context.Context, *sql.Conn) error) error {
	if p.closed.Load() {
		return fmt.Errorf("%w: it is closed", ErrAway)
	}
	session, away := p.health.current()
	if away != nil {
		return away
	}
	limited, cancelLimit := context.WithTimeoutCause(ctx, callLimit, fmt.Errorf("database: the call took longer than %v", callLimit))
	defer cancelLimit()
	inner, cancel := context.WithCancelCause(limited)
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(context.Cause(session)) })()

	conn, err := on.connection(inner)
	if err != nil {
		return p.explain(ctx, inner, err)
	}
	defer func() { _ = conn.Close() }()
	if err = f(inner, conn); err != nil && inner.Err() == nil && isBroken(conn, err) {
		err = &brokenError{err}
	}
	return p.explain(ctx, inner, err)
}

// explain says why a call failed: the session's end and the limit come before what the
// driver says about a context that ended.
func (p *postgres) explain(ctx, inner context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrAway):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("database: %w", ctx.Err())
	case inner.Err() != nil:
		return context.Cause(inner)
	}
	return err
}

// connection waits for one of the pool.
func (l lane) connection(ctx context.Context) (*sql.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, poolWait)
	defer cancel()
	conn, err := l.sql.Conn(wait)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() == nil && wait.Err() != nil:
		return nil, fmt.Errorf("%w: it is overloaded: none of %d connections became free within %v", ErrAway, l.pool.Config().MaxConns, poolWait)
	}
	return nil, &brokenError{err}
}

// transaction runs f between BEGIN and COMMIT. The commit does not end with the caller's
// context, so that its outcome is known whenever the server is there.
func (p *postgres) transaction(ctx context.Context, conn *sql.Conn, f func(querier) error) error {
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := f(bound{conn, ctx}); err != nil {
		rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		// The pool does not take back a connection that is still in a transaction.
		_, _ = conn.ExecContext(rollback, "ROLLBACK")
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.commit(ctx, conn)
}

func (p *postgres) commit(ctx context.Context, conn *sql.Conn) error {
	session, away := p.health.current()
	if away != nil {
		return away
	}
	limited, cancelLimit := context.WithTimeout(context.WithoutCancel(ctx), commitLimit)
	defer cancelLimit()
	inner, cancel := context.WithCancelCause(limited)
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(context.Cause(session)) })()

	var tag string
	err := conn.Raw(func(dc any) error {
		t, err := dc.(*stdlib.Conn).Conn().Exec(inner, "COMMIT")
		tag = t.String()
		return err
	})
	var refused *pgconn.PgError
	switch {
	case err == nil && tag == "ROLLBACK":
		// f went on after a statement that had failed.
		return errors.New("database: the transaction was undone: one of its statements had failed")
	case err == nil:
		p.commits.Add(1)
		return nil
	case errors.As(err, &refused) && !isDown(refused.Code):
		return err
	}
	if cause := context.Cause(inner); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: the connection was lost during the commit: %w", ErrUnknown, err)
}

// collided says whether a transaction was ended for another's sake.
func collided(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// isDown says whether a code of the server means that it, or the connection, ends.
func isDown(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P") || code == "53300"
}

// isReadOnly says whether a server is, or has become, one that cannot be written.
func isReadOnly(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "25006"
}

// isBroken says whether err left a connection unusable.
func isBroken(conn *sql.Conn, err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) && isDown(e.Code) || isReadOnly(err) {
		return true
	}
	closed := false
	if raw := conn.Raw(func(dc any) error {
		closed = dc.(*stdlib.Conn).Conn().IsClosed()
		return nil
	}); raw != nil {
		return true
	}
	return closed
}

func (p *postgres) stats() Stats {
	s, other := p.work.pool.Stat(), p.looks.pool.Stat()
	_, away := p.health.current()
	return Stats{
		Open: int(s.TotalConns() + other.TotalConns()), InUse: int(s.AcquiredConns() + other.AcquiredConns()),
		Idle: int(s.IdleConns() + other.IdleConns()), Max: p.size,
		Commits: p.commits.Load(), Healthy: away == nil && !p.closed.Load(),
	}
}

// close waits for the calls that run until ctx ends, and then breaks them off.
func (p *postgres) close(ctx context.Context) error {
	p.closed.Store(true)
	closed := make(chan struct{})
	go func() {
		p.work.pool.Close()
		p.looks.pool.Close()
		close(closed)
	}()
	var err error
	select {
	case <-closed:
	case <-ctx.Done():
		err = fmt.Errorf("database: calls were broken off: %w", ctx.Err())
	}
	p.watcher.stop()
	p.dialer.close()
	<-closed
	return errors.Join(err, p.work.sql.Close(), p.looks.sql.Close())
}

// dialer makes the connections and knows them, so that all can be cut: those of calls,
// and those on which the driver asks the server to stop a statement.
type dialer struct {
	net    net.Dialer
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*tracked]struct{} // at most the pool's size and one cancellation for each
}

func newDialer() *dialer {
	d := &dialer{net: net.Dialer{KeepAlive: 15 * time.Second}, conns: map[*tracked]struct{}{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// tracked is a connection that leaves its dialer when it is closed.
type tracked struct {
	net.Conn
	dialer *dialer
}

// Close closes the connection.
func (t *tracked) Close() error {
	t.dialer.mu.Lock()
	delete(t.dialer.conns, t)
	t.dialer.mu.Unlock()
	return t.Conn.Close()
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	c, err := d.net.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	t := &tracked{Conn: c, dialer: d}
	d.mu.Lock()
	d.conns[t] = struct{}{}
	d.mu.Unlock()
	if d.ctx.Err() != nil {
		_ = t.Close()
		return nil, net.ErrClosed
	}
	return t, nil
}

// cut closes every connection: what is in progress on them fails.
func (d *dialer) cut() {
	d.mu.Lock()
	all := make([]*tracked, 0, len(d.conns))
	for t := range d.conns {
		all = append(all, t)
	}
	d.mu.Unlock()
	for _, t := range all {
		_ = t.Close()
	}
}

// close cuts, and makes no more connections.
func (d *dialer) close() {
	d.cancel()
	d.cut()
}
