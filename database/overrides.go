package database

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The bounds of overrides.
const (
	// MaxOverride is how many bytes the document of an override may have.
	MaxOverride = 64 << 10
	// MaxOverrides is how many there may be.
	MaxOverrides = 10_000
	// MaxChanges is how many changes are remembered; older ones are forgotten.
	MaxChanges = 10_000
)

// What an override can be found to be.
var (
	// ErrNoOverride says that there is no override of that kind and name.
	ErrNoOverride = errors.New("database: there is no such override")
	// ErrOverrideChanged says that an override is not what Replace was told that it is.
	ErrOverrideChanged = errors.New("database: the override was changed meanwhile")
)

// Overrides keep changes of the live configuration: small JSON documents, each under a
// kind, such as "plan", and a name. Every change counts up a version and is remembered
// with who made it.
type Overrides struct{ db *DB }

// Override is one change that is in force.
type Override struct {
	Kind, Name string
	// Doc is JSON.
	Doc []byte
	// Changed is when, and By by whom, it was last set, also to what it was.
	Changed time.Time
	By      string
}

// Change is one step of the history.
type Change struct {
	// Version is what it made of the version.
	Version    int64
	Kind, Name string
	// Before and After are nil where there was, or is, no override.
	Before, After []byte
	Changed       time.Time
	By            string
}

// Set makes doc the override of a kind and name. by is who does it. What is the same
// already is no change, and has no new version; who said so, and when, is kept.
func (o *Overrides) Set(ctx context.Context, kind, name string, doc []byte, by string) error {
	if err := checkOverride(kind, name, doc); err != nil {
		return err
	}
	return o.change(ctx, Change{Kind: kind, Name: name, After: doc, By: by}, nil)
}

// Delete takes an override back. The error is ErrNoOverride where there is none.
func (o *Overrides) Delete(ctx context.Context, kind, name, by string) error {
	return o.change(ctx, Change{Kind: kind, Name: name, By: by}, nil)
}

// Replace makes next the override of its kind and name, or takes it back where its Doc
// is nil, as long as was, of which only Changed counts, is what All last returned: the
// zero value where there was none. Otherwise the error is ErrOverrideChanged.
func (o *Overrides) Replace(ctx context.Context, was, next Override) error {
	if next.Doc != nil {
		if err := checkOverride(next.Kind, next.Name, next.Doc); err != nil {
			return err
		}
	}
	return o.change(ctx, Change{Kind: next.Kind, Name: next.Name, After: next.Doc, By: next.By}, &was)
}

func checkOverride(kind, name string, doc []byte) error {
	switch {
	case len(doc) > MaxOverride:
		return fmt.Errorf("database: override %s %q: %d bytes: want at most %d", kind, name, len(doc), MaxOverride)
	case !json.Valid(doc):
		return fmt.Errorf("database: override %s %q: want a JSON document", kind, name)
	}
	return nil
}

// change makes c, whose After is nil to delete. was is what there has to be, nil for
// anything.
func (o *Overrides) change(ctx context.Context, c Change, was *Override) error {
	for _, s := range []string{c.Kind, c.Name, c.By} {
		if s == "" || len(s) > maxName {
			return fmt.Errorf("database: override %.40q %.40q by %.40q: want names of 1 to %d bytes", c.Kind, c.Name, c.By, maxName)
		}
	}
	c.Changed = o.db.Now()
	return o.db.write(ctx, func(q querier) error { return applyChange(ctx, q, c, was) })
}

func applyChange(ctx context.Context, q querier, c Change, was *Override) error {
	// First of all, so that changes wait for each other here.
	if _, err := q.ExecContext(ctx, "UPDATE weir_overrides_version SET version = version + 1 WHERE id = 1"); err != nil {
		return err
	}
	if err := q.QueryRowContext(ctx, "SELECT version FROM weir_overrides_version WHERE id = 1").Scan(&c.Version); err != nil {
		return err
	}
	var changed int64 // 0 where there is none
	err := q.QueryRowContext(ctx, "SELECT doc, changed FROM weir_overrides WHERE kind = $1 AND name = $2", c.Kind, c.Name).Scan(&c.Before, &changed)
	missing := errors.Is(err, sql.ErrNoRows)
	switch {
	case err != nil && !missing:
		return err
	case was != nil && keyMicros(was.Changed) != changed:
		return fmt.Errorf("%w: %s %q", ErrOverrideChanged, c.Kind, c.Name)
	case missing && c.After == nil:
		return fmt.Errorf("%w: %s %q", ErrNoOverride, c.Kind, c.Name)
	case !missing && c.After != nil && bytes.Equal(c.Before, c.After):
		if err := writeOverride(ctx, q, c, missing); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, "UPDATE weir_overrides_version SET version = version - 1 WHERE id = 1")
		return err
	}
	if err := writeOverride(ctx, q, c, missing); err != nil {
		return err
	}
	if _, err := q.ExecContext(ctx, `INSERT INTO weir_overrides_audit (version, kind, name, doc_before, doc_after, changed, changed_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, c.Version, c.Kind, c.Name, c.Before, c.After, c.Changed.UnixMicro(), c.By); err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, "DELETE FROM weir_overrides_audit WHERE version <= $1", c.Version-MaxChanges)
	return err
}

// writeOverride changes the row of an override; missing says that there is none yet.
func writeOverride(ctx context.Context, q querier, c Change, missing bool) error {
	if c.After == nil {
		_, err := q.ExecContext(ctx, "DELETE FROM weir_overrides WHERE kind = $1 AND name = $2", c.Kind, c.Name)
		return err
	}
	if !missing {
		_, err := q.ExecContext(ctx, "UPDATE weir_overrides SET doc = $1, changed = $2, changed_by = $3 WHERE kind = $4 AND name = $5",
			c.After, c.Changed.UnixMicro(), c.By, c.Kind, c.Name)
		return err
	}
	var n int64
	if err := q.QueryRowContext(ctx, "SELECT count(*) FROM weir_overrides").Scan(&n); err != nil {
		return err
	}
	if n >= MaxOverrides {
		return fmt.Errorf("database: override %s %q: there are %d already: delete some first", c.Kind, c.Name, n)
	}
	_, err := q.ExecContext(ctx, "INSERT INTO weir_overrides (kind, name, doc, changed, changed_by) VALUES ($1, $2, $3, $4, $5)",
		c.Kind, c.Name, c.After, c.Changed.UnixMicro(), c.By)
	return err
}

// Version counts the changes. It is the same as that of All until something changes.
func (o *Overrides) Version(ctx context.Context) (int64, error) {
	var version int64
	err := o.db.look(ctx, func(q querier) error {
		return q.QueryRowContext(ctx, "SELECT version FROM weir_overrides_version WHERE id = 1").Scan(&version)
	})
	return version, err
}

// All returns what is in force, by kind and name, and the version that it is of.
func (o *Overrides) All(ctx context.Context) ([]Override, int64, error) {
	var all []Override
	var version int64
	err := o.db.look(ctx, func(q querier) error {
		all, version = nil, 0
		// The version is read with the rows: between two statements it could change.
		rows, err := q.QueryContext(ctx, `SELECT v.version, o.kind, o.name, o.doc, o.changed, o.changed_by
			FROM weir_overrides_version v LEFT JOIN weir_overrides o ON 1 = 1
			WHERE v.id = 1 ORDER BY o.kind, o.name LIMIT $1`, MaxOverrides)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var kind, name, by sql.NullString
			var changed sql.NullInt64
			var doc []byte
			if err := rows.Scan(&version, &kind, &name, &doc, &changed, &by); err != nil {
				return err
			}
			if kind.Valid {
				all = append(all, Override{Kind: kind.String, Name: name.String, Doc: doc, Changed: time.UnixMicro(changed.Int64).UTC(), By: by.String})
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, err
	}
	return all, version, nil
}

// History returns the last changes, the newest first: at most n, and all that are
// remembered where n is 0.
func (o *Overrides) History(ctx context.Context, n int) ([]Change, error) {
	if n <= 0 || n > MaxChanges {
		n = MaxChanges
	}
	var all []Change
	err := o.db.read(ctx, func(q querier) error {
		all = nil
		rows, err := q.QueryContext(ctx, `SELECT version, kind, name, doc_before, doc_after, changed, changed_by
			FROM weir_overrides_audit ORDER BY version DESC LIMIT $1`, n)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var c Change
			var changed int64
			if err := rows.Scan(&c.Version, &c.Kind, &c.Name, &c.Before, &c.After, &changed, &c.By); err != nil {
				return err
			}
			c.Changed = time.UnixMicro(changed).UTC()
			all = append(all, c)
		}
		return rows.Err()
	})
	return all, err
}
