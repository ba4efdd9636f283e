package database

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/storetest"
)

func TestMain(m *testing.M) {
	together.run = m
	goleak.VerifyTestMain(together)
}

// together lasts as long as all tests do, and ends what they share: a test is made to end
// its servers, and starting one takes longer than most tests.
var together = &lasting{}

// shared is a server for tests that neither stop it nor look beyond their own databases.
var shared = sync.OnceValue(func() *storetest.PostgresServer { return storetest.Postgres(together) })

type lasting struct {
	testing.TB // none: what a server calls is below
	run        goleak.TestingM
	ends       []func()
	failed     bool
}

// Run runs the tests, and then ends what they share.
func (l *lasting) Run() int {
	code := l.run.Run()
	for _, end := range slices.Backward(l.ends) {
		end()
	}
	if l.failed && code == 0 {
		return 1
	}
	return code
}

func (l *lasting) Helper()          {}
func (l *lasting) Cleanup(f func()) { l.ends = append(l.ends, f) }

func (l *lasting) Error(args ...any) {
	fmt.Println(args...)
	l.failed = true
}

func (l *lasting) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (l *lasting) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
		f(t, shared().URL)
	})
}
