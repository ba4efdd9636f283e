// Package database keeps what Weir must not lose: jobs, keys, the usage ledger and
// changes of the live configuration, in a file (SQLite) or on a server (PostgreSQL).
//
// Nothing of it is on the path of a request that runs now: keys are read into memory,
// usage is written in batches, and while the database is away everything else goes on.
// A server that does not answer is found out within two seconds; from then on each
// call fails at once, with an error that wraps ErrAway, until it answers again.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

// The errors that say what became of a call; others are those of the statement itself.
var (
	// ErrAway is wrapped by every error that says that the database cannot be asked now:
	// nothing was written, and the same call can succeed later.
	ErrAway = errors.New("database: away")
	// ErrUnknown says that the connection was lost while the transaction was committed:
	// it may have been written or not. It wraps ErrAway, since the same call can be made
	// again later; what is called again must be such that twice is the same as once.
	ErrUnknown = fmt.Errorf("%w: whether the change was written is unknown", ErrAway)
)

// Options are what Open needs.
type Options struct {
	// URL is sqlite:PATH, the path relative to the working directory, or
	// postgres://USER:PASSWORD@HOST:PORT/DATABASE with the parameters of libpq.
	URL  string
	Pool Pool
	// Serves says that whoever opens the database is an instance that serves requests: it
	// is counted by Instances.
	Serves bool
	// Log is told when the database goes away and comes back, and of what it makes wait.
	// nil: nobody is told.
	Log *slog.Logger
	// Observe is told of each read and write; it must not block. nil: nobody is told.
	Observe func(Event)
}

// Pool says how many connections there may be. The zero value is ten that are kept,
// and none beyond them.
type Pool struct {
	// Size is how many connections are kept, for SQLite how many read at a time.
	// Default 10.
	Size int
	// Overflow is how many more a PostgreSQL gets under load; they are closed after a
	// minute without work. SQLite has none. The zero value is none.
	Overflow int
	// PrePing asks a connection of PostgreSQL that was idle for more than a second
	// whether it lives, before it is used.
	PrePing bool
	// MaxLifetime is how old a connection to PostgreSQL gets, give or take a tenth: then
	// it is replaced, which moves the load to a new server behind the same name. The
	// zero value keeps it for ever.
	MaxLifetime time.Duration
}

// Operations and outcomes of an Event.
const (
	OpRead  = "read"
	OpWrite = "write"

	ResultOK        = "ok"
	ResultAway      = "away"      // the database could not be asked
	ResultUnknown   = "unknown"   // the connection was lost during a commit
	ResultCancelled = "cancelled" // the caller's context ended
	ResultError     = "error"     // the statement failed, or what called it
)

// Event is one read or write, for metrics.
type Event struct {
	// Op is OpRead or OpWrite, Result one of the constants.
	Op, Result string
	// Took is how long the caller waited, in line too.
	Took time.Duration
}

// Stats are gauges of the moment, for metrics.
type Stats struct {
	// Open connections are InUse or Idle. Max is how many there may be.
	Open, InUse, Idle, Max int
	// Waiting is how many writes wait in the line of SQLite; 0 with PostgreSQL.
	Waiting int
	// Commits counts the transactions that were committed: with SQLite fewer than
	// writes, because what waits is committed together.
	Commits int64
	// Healthy is false while the database is away.
	Healthy bool
}

// querier is how statements are run, with $1, $2 and so on in the text of both
// databases. The context of the read or write that it was given for holds for all its
// statements, whatever they are given.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// engine is one of the two databases.
type engine interface {
	read(ctx context.Context, f func(querier) error) error
	// look is read on a connection that is kept back for it.
	look(ctx context.Context, f func(querier) error) error
	write(ctx context.Context, f func(querier) error) error
	stats() Stats
	close(ctx context.Context) error
}

// DB is a database that is open. Its methods may be called concurrently.
type DB struct {
	engine   engine
	postgres *postgres // the engine, if it is that one
	observe  func(Event)
	log      *slog.Logger

	instances *instances // nil where nobody serves
	overrides *Overrides
	keys      *Keys
	usage     *Usage
	jobs      job.Store

	ctx     context.Context // of the goroutines
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	tasks   []task
	closers []func(ctx context.Context) error

	closeOnce sync.Once
	closeErr  error
}

// task is what every registered.
type task struct {
	period time.Duration
	run    func(ctx context.Context)
}

// Open opens a database and brings its tables up to this program's version. A URL that
// is none, a file that cannot be used, a server that refuses the user, and tables that
// a newer program made are errors. A PostgreSQL that is away is not: the DB connects,
// and brings up the tables, when it comes back.
func Open(ctx context.Context, o Options) (*DB, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	return open(ctx, o, files)
}

func open(ctx context.Context, o Options, files fs.FS) (*DB, error) {
	o = o.withDefaults()
	migrations, err := loadMigrations(files)
	if err != nil {
		return nil, err
	}
	db := &DB{observe: o.Observe, log: o.Log}
	switch scheme, rest, _ := strings.Cut(o.URL, ":"); scheme {
	case "sqlite":
		if db.engine, err = openSQLite(ctx, rest, o, migrations); err != nil {
			return nil, err
		}
	case "postgres", "postgresql":
		if db.postgres, err = openPostgres(ctx, o, migrations); err != nil {
			return nil, err
		}
		db.engine = db.postgres
	default:
		return nil, fmt.Errorf("database: %q: want sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE", redact(o.URL))
	}
	db.start(o.Serves)
	return db, nil
}

// redact leaves of a URL what may be shown: what comes before a password could.
func redact(url string) string {
	if scheme, _, ok := strings.Cut(url, ":"); ok {
		return scheme + ":…"
	}
	return url
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Pool.Size <= 0 {
		o.Pool.Size = 10
	}
	o.Pool.Size = min(o.Pool.Size, maxPool)
	o.Pool.Overflow = min(max(o.Pool.Overflow, 0), maxPool)
	if o.Pool.MaxLifetime <= 0 {
		o.Pool.MaxLifetime = forEver
	}
	return o
}

const (
	// maxPool bounds each number of a pool.
	maxPool = 10000
	// forEver is longer than a process lives.
	forEver = 100 * 365 * 24 * time.Hour
)

// start makes what lives on the database, and then the goroutines that it registered.
func (db *DB) start(serves bool) {
	db.ctx, db.cancel = context.WithCancel(context.Background())
	db.overrides = &Overrides{db: db}
	db.keys = newKeys(db)
	db.usage = newUsage(db)
	db.jobs = newJobs(db)
	if serves {
		db.instances = newInstances(db)
	}
	db.startTasks()
}

func (db *DB) startTasks() {
	for _, t := range db.tasks {
		db.wg.Go(func() { t.loop(db.ctx) })
	}
}

func (t task) loop(ctx context.Context) {
	ticker := time.NewTicker(t.period)
	defer ticker.Stop()
	for ctx.Err() == nil {
		t.run(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// every registers f to be called when the database is open, and then every d, in a
// goroutine of its own that Close stops, by the end of ctx, and waits for. It is for
// newKeys and its like: later calls have no effect.
func (db *DB) every(d time.Duration, f func(ctx context.Context)) {
	db.tasks = append(db.tasks, task{period: d, run: f})
}

// atClose registers f to be called by Close after what every started has ended and
// while the database can still be asked. Like every it is for newKeys and its like.
func (db *DB) atClose(f func(ctx context.Context) error) {
	db.closers = append(db.closers, f)
}

// Close stops what the DB does by itself, writes down what is only in memory (usage,
// when keys were used) and closes the connections. When ctx ends before that, what
// could not be written is lost, and the error says so. Later calls of other methods
// fail with ErrAway. Close may be called more than once.
func (db *DB) Close(ctx context.Context) error {
	db.closeOnce.Do(func() {
		db.cancel()
		db.wg.Wait()
		var errs []error
		for _, f := range db.closers {
			errs = append(errs, f(ctx))
		}
		errs = append(errs, db.engine.close(ctx))
		db.closeErr = errors.Join(errs...)
	})
	return db.closeErr
}

// read runs f with what reads, outside of a transaction. An error of f is returned as
// it is. f may run more than once: it only assigns.
func (db *DB) read(ctx context.Context, f func(querier) error) error {
	return db.observed(ctx, db.engine.read, f)
}

// look is read for what finds out whether something has changed that must come into
// force soon: it has a connection that no load takes away from it. f must be short.
func (db *DB) look(ctx context.Context, f func(querier) error) error {
	return db.observed(ctx, db.engine.look, f)
}

func (db *DB) observed(ctx context.Context, read func(context.Context, func(querier) error) error, f func(querier) error) error {
	start := time.Now()
	err := read(ctx, f)
	db.observe(Event{Op: OpRead, Result: result(ctx, err), Took: time.Since(start)})
	return err
}

// write runs f in a transaction, which is on disk when write returns nil. An error of f
// undoes what f did, and is returned as it is. f may run more than once: it assigns,
// and has no other effects. It must not call write, which would wait for itself.
//
// A context that ends before f has begun drops the write. Later, on SQLite it has no
// effect any more; on PostgreSQL it stops f's statements, but not the commit.
func (db *DB) write(ctx context.Context, f func(querier) error) error {
	start := time.Now()
	err := db.engine.write(ctx, f)
	db.observe(Event{Op: OpWrite, Result: result(ctx, err), Took: time.Since(start)})
	return err
}

func result(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return ResultOK
	case errors.Is(err, ErrUnknown):
		return ResultUnknown
	case errors.Is(err, ErrAway):
		return ResultAway
	case ctx.Err() != nil:
		return ResultCancelled
	}
	return ResultError
}

// isPostgres says whether the database is PostgreSQL, for what only that can do.
func (db *DB) isPostgres() bool { return db.postgres != nil }

// Healthy says whether the database answered when it was last asked. It does no I/O.
func (db *DB) Healthy() bool { return db.engine.stats().Healthy }

// Stats returns the gauges of the moment. It does no I/O.
func (db *DB) Stats() Stats { return db.engine.stats() }

// Ping asks the database whether it can be read. The error wraps ErrAway if not.
func (db *DB) Ping(ctx context.Context) error {
	return db.read(ctx, func(q querier) error {
		var one int64
		return q.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	})
}

// Now is the time by the clock of the database, which all instances share, as far as it
// is known: this machine's, corrected by the difference that was measured last, to
// half of the time that an answer takes. With SQLite it is this machine's.
func (db *DB) Now() time.Time {
	if db.postgres == nil {
		return time.Now()
	}
	return time.Now().Add(db.postgres.health.offset())
}

// Overrides are the changes of the live configuration.
func (db *DB) Overrides() *Overrides { return db.overrides }

// Keys are the keys of callers.
func (db *DB) Keys() *Keys { return db.keys }

// Usage is the ledger of who used what.
func (db *DB) Usage() *Usage { return db.usage }

// Jobs are the requests that run later.
func (db *DB) Jobs() job.Store { return db.jobs }
