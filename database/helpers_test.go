package database

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openTest opens a database and closes it at the end.
func openTest(t *testing.T, o Options) *DB {
	t.Helper()
	db, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTest(t, db) })
	return db
}

func closeTest(t *testing.T, db *DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := db.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// both runs f with a maker of empty databases of each kind.
func both(t *testing.T, f func(t *testing.T, url func() string)) {
	t.Run("SQLite", func(t *testing.T) {
		f(t, func() string { return "sqlite:" + filepath.Join(t.TempDir(), "weir.db") })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		s := storetest.Postgres(t)
		f(t, s.URL)
	})
}
