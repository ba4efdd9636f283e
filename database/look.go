package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// Look says what Open would refuse about a database as it is now: a file that is no
// database or is damaged, tables of another version, a user of PostgreSQL who may not make
// them. It makes and changes nothing; a file that is not there is no error, as Open makes
// it. The error wraps ErrAway where the database cannot be asked now.
func Look(ctx context.Context, databaseURL string) error {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	all, err := loadMigrations(files)
	if err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		return lookAtFile(ctx, name, all)
	}
	return lookAtServer(ctx, databaseURL, all)
}

func lookAtFile(ctx context.Context, name string, all []migration) (err error) {
	path, err := sqlitePath(name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := openToRead(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	explain := (&sqliteDB{path: path}).explain
	var tables int64
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'weir_migrations'").Scan(&tables); err != nil {
		return explain(err)
	}
	if tables == 0 {
		return nil
	}
	applied, err := readApplied(ctx, db)
	if err != nil {
		return explain(err)
	}
	_, err = nextStep(applied, all)
	return err
}

// openToRead opens a file that is there, without the power to write to it.
func openToRead(path string) (*sql.DB, error) {
	// mode=ro could not read beside a log of changes that nobody else has open.
	settings := url.Values{"mode": {"rw"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "query_only(1)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: settings.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

func lookAtServer(ctx context.Context, databaseURL string, all []migration) (err error) {
	config, err := poolConfig(Options{URL: databaseURL}.withDefaults())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	d := newDialer()
	defer d.close()
	config.ConnConfig.DialFunc = d.dial
	db := stdlib.OpenDB(*config.ConnConfig)
	defer func() { err = errors.Join(err, db.Close()) }()
	var there, may bool
	err = db.QueryRowContext(ctx, `SELECT to_regclass('weir_migrations') IS NOT NULL,
		coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)`).Scan(&there, &may)
	switch {
	case isRefused(err):
		return refusedConnection(err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAway, err)
	case !may:
		return mayNot(config.ConnConfig, errors.New("no permission to create in its schema"))
	case !there:
		return nil
	}
	applied, err := readApplied(ctx, db)
	switch {
	case isRefused(err):
		return mayNot(config.ConnConfig, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	_, err = nextStep(applied, all)
	return err
}

// refusedError is an error of a server in our words.
type refusedError struct {
	text string
	error
}

// Error returns our words.
func (e *refusedError) Error() string { return e.text }

// Unwrap returns the server's.
func (e *refusedError) Unwrap() error { return e.error }

// refusedConnection is what a server said that will not have us. The driver tells of all
// that it tried, each on a line, with and without TLS: what the server says comes last.
func refusedConnection(err error) error {
	var connecting *pgconn.ConnectError
	var said *pgconn.PgError
	if !errors.As(err, &connecting) || !errors.As(err, &said) {
		return fmt.Errorf("database: %w", err)
	}
	c := connecting.Config
	return &refusedError{fmt.Sprintf("database: %s:%d: user %q, database %q: %s", c.Host, c.Port, c.User, c.Database, said.Error()), err}
}

// mayNot says that a user may not make or use the tables, and what would be right.
func mayNot(c *pgx.ConnConfig, err error) error {
	user, name := pgx.Identifier{c.User}.Sanitize(), pgx.Identifier{c.Database}.Sanitize()
	text := fmt.Sprintf("database: the user %s may not make or use tables in the database %s: %v: want ALTER DATABASE %[2]s OWNER TO %[1]s, or GRANT CREATE ON SCHEMA public TO %[1]s and the same owner for all tables", user, name, err)
	return &refusedError{text, fmt.Errorf("%w: %w", ErrSchema, err)}
}
