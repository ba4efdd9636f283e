package database

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// migrateLimit bounds the bringing up of the tables, which can wait for another
// instance that does it.
const migrateLimit = 10 * time.Minute

// watcher is the goroutine that asks a server whether it is there, on a connection of
// its own, which no load takes away from it. It also brings up the tables.
type watcher struct {
	db         *postgres
	config     *pgx.ConnConfig
	migrations []migration
	conn       *pgx.Conn // nil while there is none
	migrated   bool
	doing      *progress
	told       string // the last reason that was logged while the server was away

	ctx    context.Context
	cancel context.CancelFunc
	gone   chan struct{} // closed when the goroutine has ended
}

func newWatcher(db *postgres, config *pgx.ConnConfig, migrations []migration) *watcher {
	w := &watcher{db: db, config: config, migrations: migrations, doing: newProgress(db.health.log), gone: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// first makes the first check. What waiting does not change is an error.
func (w *watcher) first(ctx context.Context) error {
	done := w.db.health.beginCheck()
	err := w.check(ctx)
	if err != nil && (isRefused(err) || ctx.Err() != nil) {
		w.drop()
		return wordsOf(err)
	}
	if err != nil {
		w.told = err.Error()
		w.db.health.log.Error("the database is away: it is connected to when it comes back", "error", err)
	}
	w.db.health.endCheck(done, err)
	return nil
}

// wordsOf is why a database cannot be opened.
func wordsOf(err error) error {
	if strings.HasPrefix(err.Error(), "database: ") {
		return err
	}
	return refusedConnection(err)
}

// isRefused says whether a server is there and will not have us: the user, the password,
// the database or the tables are wrong.
func isRefused(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) && (strings.HasPrefix(e.Code, "28") || strings.HasPrefix(e.Code, "42") || e.Code == "3D000") {
		return true
	}
	return errors.Is(err, ErrSchema) || refusesTLS(err)
}

// refusesTLS says whether a server that was asked for TLS answered that it has none. The
// driver has no type for that.
func refusesTLS(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server refused TLS connection")
}

func (w *watcher) start() {
	go func() {
		defer close(w.gone)
		w.watch()
	}()
}

// stop ends the goroutine and waits for it.
func (w *watcher) stop() {
	w.cancel()
	<-w.gone
}

func (w *watcher) watch() {
	health := w.db.health
	defer health.close()
	defer w.drop()
	_, away := health.current()
	wait := minRetry
	for {
		if away == nil {
			wait = checkPeriod
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-health.poke:
			timer.Stop()
		}
		done := health.beginCheck()
		err := w.check(w.ctx)
		if w.ctx.Err() != nil {
			return
		}
		if health.endCheck(done, err) {
			// Connections of before are broken, or have never been made.
			if err != nil {
				w.db.dialer.cut()
			}
			w.db.work.pool.Reset()
			w.db.looks.pool.Reset()
		}
		switch {
		case err == nil:
			w.told = ""
		case away == nil:
			wait = minRetry
		default:
			w.tell(err)
			wait = min(2*wait, maxRetry)
		}
		away = err
	}
}

// tell logs what is new about why the server stays away, such as wrong tables.
func (w *watcher) tell(err error) {
	if text := err.Error(); isRefused(err) && text != w.told {
		w.told = text
		w.db.health.log.Error("the database is still away", "error", err)
	}
}

// check asks the server for its time. A connection that is broken says nothing about
// the server: then a new one does. One on which nothing comes back in time does, unless
// other statements had answers meanwhile.
func (w *watcher) check(ctx context.Context) error {
	// Time for each of the hosts that the URL names, when no call waits for the answer.
	limit := connectTimeout * time.Duration(1+len(w.config.Fallbacks))
	if w.conn != nil {
		limit = pingWait
		start := time.Now()
		err := w.ping(ctx)
		if err == nil {
			return nil
		}
		w.drop()
		if time.Since(start) >= pingWait {
			if w.db.health.alive.Load() > start.UnixNano() {
				return nil
			}
			return fmt.Errorf("no answer within %v", pingWait)
		}
	}
	connect, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := pgx.ConnectConfig(connect, w.config)
	if err != nil {
		return err
	}
	w.conn = conn
	if err := w.migrate(ctx); err != nil {
		w.drop()
		return err
	}
	if err := w.ping(ctx); err != nil {
		w.drop()
		return err
	}
	return nil
}

// ping measures how far the server's clock is ahead of ours, at the middle of the time
// that the answer takes.
func (w *watcher) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	start := time.Now()
	var micros int64
	if err := w.conn.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&micros); err != nil {
		return err
	}
	took := time.Since(start)
	w.db.health.skew.Store(int64(time.UnixMicro(micros).Sub(start.Add(took / 2))))
	return nil
}

// migrate brings up the tables, once.
func (w *watcher) migrate(ctx context.Context) error {
	if w.migrated {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, migrateLimit)
	defer cancel()
	db := stdlib.OpenDB(*w.config)
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	err = migrate(ctx, postgresMigrator{bound{conn, ctx}, w.doing}, w.migrations)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" {
		return mayNot(w.config, refused)
	}
	if errors.As(err, &refused) && !isDown(refused.Code) && !collided(err) {
		return &refusedError{ErrSchema.Error() + ": " + strings.TrimPrefix(err.Error(), "database: "), fmt.Errorf("%w: %w", ErrSchema, err)}
	}
	if err != nil {
		return err
	}
	w.migrated = true
	return nil
}

// drop closes the connection, if there is one.
func (w *watcher) drop() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx)
	w.conn = nil
}

// migrationLock is the number of the advisory lock that instances take in turns: "weir"
// in ASCII, twice.
const migrationLock = 0x7765697277656972

// postgresMigrator makes migrations. The lock is the transaction's and not the
// session's, which PgBouncer may give to somebody else.
type postgresMigrator struct {
	bound
	doing *progress
}

func (c postgresMigrator) begin(ctx context.Context) error {
	if _, err := c.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	return c.doing.say("waits for another instance that changes the tables (for the advisory lock that it has)", func() error {
		_, err := c.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock))
		return err
	})
}

func (c postgresMigrator) end(_ context.Context, commit bool) error {
	statement := "ROLLBACK"
	if commit {
		statement = "COMMIT"
	}
	_, err := c.ExecContext(c.ctx, statement)
	return err
}

func (c postgresMigrator) apply(ctx context.Context, m migration) error {
	return c.doing.say(fmt.Sprintf("changes the tables: step %d (%s)", m.version, m.name), func() error {
		return c.conn.Raw(func(dc any) error {
			_, err := dc.(*stdlib.Conn).Conn().PgConn().Exec(ctx, m.text).ReadAll()
			return err
		})
	})
}

// Connections asks a PostgreSQL how many connections it allows, and how many of those
// it keeps back for its administrators: max_connections, and
// superuser_reserved_connections with reserved_connections. The error wraps ErrAway if
// it does not answer within two seconds, and not if it answers that it will not have us:
// the user, the password or the database is wrong, or it has no TLS.
func Connections(ctx context.Context, databaseURL string) (most, reserved int, err error) {
	if !strings.HasPrefix(databaseURL, "postgres") {
		return 0, 0, fmt.Errorf("database: %q: want the URL of a PostgreSQL", redact(databaseURL))
	}
	config, err := poolConfig(Options{URL: databaseURL}.withDefaults())
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	d := newDialer()
	defer d.close()
	config.ConnConfig.DialFunc = d.dial
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if isRefused(err) {
		return 0, 0, refusedConnection(err)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, `SELECT coalesce(sum(setting::int) FILTER (WHERE name = 'max_connections'), 0)::int,
		coalesce(sum(setting::int) FILTER (WHERE name <> 'max_connections'), 0)::int
		FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')`).Scan(&most, &reserved)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return most, reserved, nil
}
