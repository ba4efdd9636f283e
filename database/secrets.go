package database

import (
	"context"
	"crypto/rand"
	"fmt"
)

// maxName is how long the name of a secret, and each name of an override, may be.
const maxName = 256

// Secret returns 32 random bytes that all instances with this database share. They are
// made when somebody asks for a name first. The error wraps ErrAway when the database
// cannot be asked.
func (db *DB) Secret(ctx context.Context, name string) ([]byte, error) {
	if name == "" || len(name) > maxName {
		return nil, fmt.Errorf("database: secret %.40q: want a name of 1 to %d bytes", name, maxName)
	}
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, err
	}
	var secret []byte
	err := db.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, "INSERT INTO weir_secrets (name, secret, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
			name, fresh, db.Now().UnixMicro()); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, "SELECT secret FROM weir_secrets WHERE name = $1", name).Scan(&secret)
	})
	if err != nil {
		return nil, err
	}
	if len(secret) != len(fresh) {
		return nil, fmt.Errorf("database: secret %q has %d bytes: want %d", name, len(secret), len(fresh))
	}
	return secret, nil
}
