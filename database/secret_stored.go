package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNoSecret says that a database keeps no secret of a name.
var ErrNoSecret = errors.New("database: there is no such secret")

// StoredSecret reads what Secret has made, without a DB: it makes neither a file, nor tables,
// nor a secret. Where there is none yet the error is ErrNoSecret, as it is where nobody has
// made tables; a PostgreSQL that does not answer within two seconds is ErrAway.
func StoredSecret(ctx context.Context, databaseURL, name string) ([]byte, error) {
	const query = "SELECT secret FROM weir_secrets WHERE name = $1"
	var secret []byte
	var err error
	if file, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		secret, err = readFileSecret(ctx, file, query, name)
	} else {
		secret, err = readServerSecret(ctx, databaseURL, query, name)
	}
	undefined, isServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, pgx.ErrNoRows), isServer && undefined.Code == "42P01",
		err != nil && strings.Contains(err.Error(), "no such table"):
		return nil, fmt.Errorf("%w: %q", ErrNoSecret, name)
	case err != nil:
		return nil, err
	}
	return secret, nil
}

func readFileSecret(ctx context.Context, file, query, name string) (secret []byte, err error) {
	path, err := sqlitePath(file)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("database: %s: is not a regular file", path)
	}
	db, err := openToRead(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.QueryRowContext(ctx, query, name).Scan(&secret); err != nil {
		return nil, fmt.Errorf("database: %s: %w", path, err)
	}
	return secret, nil
}

func readServerSecret(ctx context.Context, databaseURL, query, name string) (secret []byte, err error) {
	config, err := poolConfig(Options{URL: databaseURL}.withDefaults())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if err := conn.QueryRow(ctx, query, name).Scan(&secret); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return secret, nil
}
