package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// busyTimeout is how long a connection waits for another process that writes, such as
// weir key.
const busyTimeout = 5 * time.Second

// sqliteDB is a file: many connections that read it and one that writes.
type sqliteDB struct {
	path   string
	file   os.FileInfo // of the file that was opened
	reads  *sql.DB
	looks  *sql.DB // of one connection that reads, kept back for looks at what has changed
	writes *sql.DB // of one connection, which the writer has
	writer *writer
	closed atomic.Bool
}

// openSQLite opens the file that the part of a URL after "sqlite:" names.
func openSQLite(ctx context.Context, name string, o Options, migrations []migration) (*sqliteDB, error) {
	path, err := sqlitePath(name)
	if err != nil {
		return nil, err
	}
	if err := prepareFile(path, o); err != nil {
		return nil, err
	}
	s := &sqliteDB{path: path}
	if s.file, err = os.Stat(path); err != nil {
		return nil, fmt.Errorf("database: %s: %w", path, err)
	}
	if s.writes, err = sql.Open("sqlite", sqliteDSN(path, false)); err != nil {
		return nil, s.explain(err)
	}
	s.writes.SetMaxOpenConns(1)
	conn, err := s.prepare(ctx, migrations)
	if err != nil {
		_ = s.writes.Close()
		return nil, s.explain(err)
	}
	if s.reads, err = openReads(path, o.Pool.Size); err == nil {
		s.looks, err = openReads(path, 1)
	}
	if err != nil {
		_ = conn.Close()
		_ = s.writes.Close()
		return nil, s.explain(err)
	}
	s.writer = newWriter(conn, s, o.Log)
	return s, nil
}

// openReads makes a pool of connections that read; it opens none yet.
func openReads(path string, most int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", sqliteDSN(path, true))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	return db, nil
}

// intact says whether the file that is open is still the one at its path. What is
// written to another one is lost when it is closed.
func (s *sqliteDB) intact() error {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s: the file was removed while it was open: restart Weir, with a backup in its place if there is one", ErrAway, s.path)
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrAway, s.path, err)
	case !os.SameFile(info, s.file):
		return fmt.Errorf("%w: %s: the file was replaced by another one while it was open: restart Weir to use that", ErrAway, s.path)
	}
	return nil
}

// sqlitePath is the absolute path of a file by the part of the URL after "sqlite:".
func sqlitePath(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New(`database: "sqlite:" names no file: want sqlite:PATH, for example sqlite:weir.db`)
	case strings.Contains(name, ":memory:"), strings.Contains(name, "mode=memory"):
		return "", fmt.Errorf("database: %q: a database in memory forgets acknowledged jobs at the first restart: want sqlite:PATH", "sqlite:"+name)
	case strings.HasPrefix(name, "file:"), strings.ContainsRune(name, '?'):
		return "", fmt.Errorf("database: %q: want a plain path without settings, for example sqlite:weir.db", "sqlite:"+name)
	case strings.HasPrefix(name, "//") && !strings.HasPrefix(name, "///"):
		return "", fmt.Errorf("database: %q: want sqlite:PATH or sqlite:///ABSOLUTE/PATH: there is no host", "sqlite:"+name)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("database: %q: %w", "sqlite:"+name, err)
	}
	return path, nil
}

// prepareFile makes the file, for its owner alone, if it is not there. SQLite gives the
// files beside it the same mode. What cannot be used is told apart here, because
// SQLite's own error for most of it is "unable to open database file".
func prepareFile(path string, o Options) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("database: %s: the directory %s does not exist: make it first", path, filepath.Dir(path))
		}
		if err != nil {
			return fmt.Errorf("database: %s: cannot be made: %w", path, err)
		}
		return f.Close()
	case err != nil:
		return fmt.Errorf("database: %s: %w", path, err)
	case info.IsDir():
		return fmt.Errorf("database: %s: is a directory: want a file, for example sqlite:%s", path, filepath.Join(path, "weir.db"))
	case !info.Mode().IsRegular():
		return fmt.Errorf("database: %s: is not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("database: %s: cannot be written: %w", path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		o.Log.Warn("others than its owner may open the database file: want mode 0600", "path", path, "mode", info.Mode().Perm().String())
	}
	return f.Close()
}

// sqliteDSN is a path as the driver takes it.
func sqliteDSN(path string, readOnly bool) string {
	settings := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"synchronous(FULL)",
		"foreign_keys(1)",
		"temp_store(MEMORY)",
		// The log of changes keeps this size when a long read made it grow.
		"journal_size_limit(67108864)",
	}}
	// Neither makes the file: an empty one at its path would hide that it is gone.
	settings.Set("mode", "rw")
	if readOnly {
		settings.Set("mode", "ro")
		settings.Add("_pragma", "query_only(1)")
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: settings.Encode()}).String()
}

// prepare takes the connection that writes, sets the mode that the file keeps, and
// brings up the tables.
func (s *sqliteDB) prepare(ctx context.Context, migrations []migration) (*sql.Conn, error) {
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if err := setWAL(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if err := migrate(ctx, sqliteMigrator{conn}, migrations); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// setWAL switches the file to a write-ahead log, with which reads do not wait for
// writes. SQLite does not wait by itself for another process that does the same.
func setWAL(ctx context.Context, conn *sql.Conn) error {
	deadline := time.Now().Add(busyTimeout)
	for {
		var mode string
		err := conn.QueryRowContext(ctx, "PRAGMA journal_mode=WAL").Scan(&mode)
		switch {
		case err == nil && mode == "wal":
			return nil
		case err == nil:
			return fmt.Errorf("its file system cannot have a write-ahead log (SQLite stays in mode %q): want a local disk", mode)
		case sqliteCode(err) != sqlite3.SQLITE_BUSY || time.Now().After(deadline):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// sqliteCode is the primary result code of an error of SQLite, 0 of another error.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// explain names the file in an error of SQLite and says whether the database is away,
// which is what errors of the disk and of locks are.
func (s *sqliteDB) explain(err error) error {
	switch sqliteCode(err) {
	case 0:
		if errors.Is(err, ErrAway) || errors.Is(err, ErrSchema) || !errors.Is(err, sql.ErrConnDone) {
			return err
		}
		return fmt.Errorf("%w: it is closed", ErrAway)
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %s: is not an SQLite database (%v): move it away, or name another file", ErrAway, s.path, err)
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w: %s: is damaged (%v): restore a backup, or save what can be read with sqlite3 %s .recover", ErrAway, s.path, err, s.path)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: %s: the disk is full (%v)", ErrAway, s.path, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("%w: %s: the file or its directory cannot be written (%v)", ErrAway, s.path, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: %s: another process has it locked for over %v (%v)", ErrAway, s.path, busyTimeout, err)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL:
		return fmt.Errorf("%w: %s: %w", ErrAway, s.path, err)
	}
	return err
}

// read runs f on a connection that cannot write.
func (s *sqliteDB) read(ctx context.Context, f func(querier) error) error {
	return s.readOn(ctx, s.reads, f)
}

// look is read on a connection of its own.
func (s *sqliteDB) look(ctx context.Context, f func(querier) error) error {
	return s.readOn(ctx, s.looks, f)
}

func (s *sqliteDB) readOn(ctx context.Context, on *sql.DB, f func(querier) error) error {
	if s.closed.Load() {
		return fmt.Errorf("%w: it is closed", ErrAway)
	}
	if err := s.intact(); err != nil {
		return err
	}
	conn, err := on.Conn(ctx)
	if err != nil {
		return s.explain(err)
	}
	defer func() { _ = conn.Close() }()
	err = f(bound{conn, ctx})
	if ctx.Err() != nil && sqliteCode(err) == sqlite3.SQLITE_INTERRUPT {
		return fmt.Errorf("database: %w", ctx.Err())
	}
	return s.explain(err)
}

// write runs f in the writer's next transaction.
func (s *sqliteDB) write(ctx context.Context, f func(querier) error) error {
	return s.writer.write(ctx, f)
}

func (s *sqliteDB) stats() Stats {
	r, l, w := s.reads.Stats(), s.looks.Stats(), s.writes.Stats()
	return Stats{
		Open: r.OpenConnections + l.OpenConnections + w.OpenConnections, InUse: r.InUse + l.InUse,
		Idle: r.Idle + l.Idle + w.OpenConnections, Max: r.MaxOpenConnections + 2,
		Waiting: len(s.writer.line), Commits: s.writer.commits.Load(), Healthy: s.writer.healthy.Load() && !s.closed.Load(),
	}
}

// close lets the writes that wait be made, as long as ctx allows.
func (s *sqliteDB) close(ctx context.Context) error {
	s.closed.Store(true)
	err := s.writer.close(ctx)
	// Last the one that may write: it takes the log of changes into the file.
	return errors.Join(err, s.reads.Close(), s.looks.Close(), s.writer.conn.Close(), s.writes.Close())
}

// bound is a querier whose statements all have one context.
type bound struct {
	conn *sql.Conn
	ctx  context.Context
}

func (b bound) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	return b.conn.ExecContext(b.ctx, query, args...)
}

func (b bound) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	return b.conn.QueryContext(b.ctx, query, args...)
}

func (b bound) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	return b.conn.QueryRowContext(b.ctx, query, args...)
}

// sqliteMigrator makes migrations on the connection that writes.
type sqliteMigrator struct{ *sql.Conn }

func (c sqliteMigrator) begin(ctx context.Context) error {
	_, err := c.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

func (c sqliteMigrator) end(ctx context.Context, commit bool) error {
	statement := "ROLLBACK"
	if commit {
		statement = "COMMIT"
	}
	_, err := c.ExecContext(ctx, statement)
	return err
}

func (c sqliteMigrator) apply(ctx context.Context, m migration) error {
	_, err := c.ExecContext(ctx, m.forSQLite())
	return err
}
