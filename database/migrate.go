package database

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// ErrSchema is wrapped by the errors that say that the tables are not those of this
// program, and that waiting does not help.
var ErrSchema = errors.New("database: wrong tables")

// migration is one step of the tables, for ever the same once it was released.
type migration struct {
	version  int64
	name     string
	text     string
	checksum string
}

// loadMigrations reads the steps, NNNN_NAME.sql, in the order of their versions.
func loadMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []migration
	for _, file := range names {
		number, name, ok := strings.Cut(strings.TrimSuffix(file, ".sql"), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil || version <= 0 || len(number) != 4 {
			return nil, fmt.Errorf("database: migration %q: want a name like 0001_base.sql", file)
		}
		if len(all) > 0 && all[len(all)-1].version == version {
			return nil, fmt.Errorf("database: migrations %q and %q have the same number", all[len(all)-1].name, name)
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{version: version, name: name, text: string(text), checksum: hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// forSQLite is the text of a migration as SQLite takes it.
func (m migration) forSQLite() string { return byteaType().ReplaceAllString(m.text, "BLOB") }

func byteaType() *regexp.Regexp { return regexp.MustCompile(`\bBYTEA\b`) }

// migrator is a connection that steps are made on. The two databases differ in how a
// transaction begins that only one instance is in, and in the text of the steps.
type migrator interface {
	querier
	begin(ctx context.Context) error
	end(ctx context.Context, commit bool) error
	apply(ctx context.Context, m migration) error
}

const migrationsTable = `CREATE TABLE IF NOT EXISTS weir_migrations (
	version  BIGINT PRIMARY KEY,
	name     TEXT NOT NULL,
	checksum TEXT NOT NULL,
	applied  BIGINT NOT NULL
)`

// migrate makes the steps that are missing, each in a transaction of its own, in which
// it looks first whether another instance has made it meanwhile.
func migrate(ctx context.Context, c migrator, all []migration) error {
	for {
		more, err := migrateOne(ctx, c, all)
		if err != nil || !more {
			return err
		}
	}
}

// migrateOne makes the first missing step and says whether there may be more.
func migrateOne(ctx context.Context, c migrator, all []migration) (more bool, err error) {
	if err := c.begin(ctx); err != nil {
		return false, err
	}
	commit := false
	defer func() {
		if e := c.end(context.WithoutCancel(ctx), commit); err == nil {
			err = e
		}
	}()
	if _, err := c.ExecContext(ctx, migrationsTable); err != nil {
		return false, err
	}
	applied, err := readApplied(ctx, c)
	if err != nil {
		return false, err
	}
	next, err := nextStep(applied, all)
	if err != nil {
		return false, err
	}
	commit = true
	if next == nil {
		return false, nil
	}
	if err := c.apply(ctx, *next); err != nil {
		commit = false
		return false, fmt.Errorf("database: migration %d (%s): %w", next.version, next.name, err)
	}
	_, err = c.ExecContext(ctx, "INSERT INTO weir_migrations (version, name, checksum, applied) VALUES ($1, $2, $3, $4)",
		next.version, next.name, next.checksum, time.Now().UnixMicro())
	commit = err == nil
	return true, err
}

// maxApplied bounds how many rows of weir_migrations are read.
const maxApplied = 10000

func readApplied(ctx context.Context, q querier) ([]migration, error) {
	rows, err := q.QueryContext(ctx, "SELECT version, name, checksum FROM weir_migrations ORDER BY version LIMIT $1", maxApplied)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var applied []migration
	for rows.Next() {
		var m migration
		if err := rows.Scan(&m.version, &m.name, &m.checksum); err != nil {
			return nil, err
		}
		applied = append(applied, m)
	}
	return applied, rows.Err()
}

// nextStep is the first of all that is not applied, nil if none is missing.
func nextStep(applied, all []migration) (*migration, error) {
	known := map[int64]migration{}
	for _, m := range all {
		known[m.version] = m
	}
	for _, a := range slices.Backward(applied) {
		m, ok := known[a.version]
		switch {
		case !ok && len(all) > 0 && a.version > all[len(all)-1].version:
			newest := all[len(all)-1]
			return nil, fmt.Errorf("%w: the database is at version %d (%s), and this program knows versions up to %d (%s): run a newer Weir, or restore the backup from before the upgrade",
				ErrSchema, a.version, a.name, newest.version, newest.name)
		case !ok:
			return nil, fmt.Errorf("%w: the database has version %d (%s), which this program does not have", ErrSchema, a.version, a.name)
		case m.checksum != a.checksum:
			return nil, fmt.Errorf("%w: version %d (%s) was made by another text than this program's: checksum %.12s…, want %.12s…",
				ErrSchema, a.version, a.name, a.checksum, m.checksum)
		}
		delete(known, a.version)
	}
	for i, m := range all {
		if _, missing := known[m.version]; missing {
			return &all[i], nil
		}
	}
	return nil, nil
}
