package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// makeTable makes a table for a test.
func makeTable(t *testing.T, db *DB, statement string) {
	t.Helper()
	ctx := context.Background()
	var err error
	storetest.Eventually(t, time.Minute, "the database is there", func() bool {
		err = db.write(ctx, func(q querier) error {
			_, err := q.ExecContext(ctx, statement)
			return err
		})
		return !errors.Is(err, ErrAway) || errors.Is(err, ErrUnknown)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// countRows is the one number that a query gives.
func countRows(t *testing.T, db *DB, query string, args ...any) int64 {
	t.Helper()
	ctx := context.Background()
	var n int64
	if err := db.read(ctx, func(q querier) error { return q.QueryRowContext(ctx, query, args...).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

func insertN(ctx context.Context, db *DB, n int64) error {
	return db.write(ctx, func(q querier) error {
		_, err := q.ExecContext(ctx, "INSERT INTO n (n) VALUES ($1)", n)
		return err
	})
}

func TestReadWrite(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url(), Pool: Pool{Size: 4}})
		ctx := context.Background()
		makeTable(t, db, "CREATE TABLE n (n BIGINT PRIMARY KEY)")

		t.Run("gives arguments by their numbers, in any order and more than once", func(t *testing.T) {
			var a, b, c string
			if err := db.read(ctx, func(q querier) error {
				return q.QueryRowContext(ctx, "SELECT CAST($2 AS TEXT), CAST($1 AS TEXT), CAST($2 AS TEXT)", "one", "two").Scan(&a, &b, &c)
			}); err != nil || a != "two" || b != "one" || c != "two" {
				t.Errorf("got %q %q %q, %v", a, b, c, err)
			}
		})
		t.Run("undoes a write whose function fails, and returns its error", func(t *testing.T) {
			want := errors.New("no")
			err := db.write(ctx, func(q querier) error {
				if _, err := q.ExecContext(ctx, "INSERT INTO n (n) VALUES (1000000)"); err != nil {
					return err
				}
				return want
			})
			if err != want {
				t.Errorf("got %v, want %v as it is", err, want)
			}
			if n := countRows(t, db, "SELECT count(*) FROM n"); n != 0 {
				t.Errorf("there are %d rows", n)
			}
		})
		t.Run("says what a constraint refuses, and stays healthy", func(t *testing.T) {
			if err := insertN(ctx, db, -1); err != nil {
				t.Fatal(err)
			}
			if err := insertN(ctx, db, -1); err == nil || errors.Is(err, ErrAway) || !db.Healthy() {
				t.Errorf("got %v, healthy %v", err, db.Healthy())
			}
		})
		t.Run("writes a thousand at once, failing ones among them, and no other is harmed", func(t *testing.T) {
			before := db.Stats().Commits
			var wg sync.WaitGroup
			errs := make([]error, 1000)
			for i := range errs {
				n := int64(i)
				if i%10 == 3 {
					n = -1 // is there already
				}
				wg.Go(func() { errs[i] = insertN(ctx, db, n) })
			}
			wg.Wait()
			for i, err := range errs {
				if (err != nil) != (i%10 == 3) || errors.Is(err, ErrAway) {
					t.Errorf("%d: %v", i, err)
				}
			}
			if n := countRows(t, db, "SELECT count(*) FROM n WHERE n >= 0"); n != 900 {
				t.Errorf("there are %d rows, want 900", n)
			}
			if commits := db.Stats().Commits - before; !db.isPostgres() && commits > 500 {
				t.Errorf("%d commits: want far fewer than writes", commits)
			}
		})
		t.Run("goes on with the panic of a write where it was called", func(t *testing.T) {
			defer func() {
				if p := recover(); fmt.Sprint(p) != "oh" {
					t.Errorf("got %v", p)
				}
				if err := insertN(ctx, db, 5000); err != nil {
					t.Error(err)
				}
			}()
			_ = db.write(ctx, func(querier) error { panic("oh") })
		})
		t.Run("refuses a context that has ended", func(t *testing.T) {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			ran := false
			f := func(querier) error { ran = true; return nil }
			if w, r := db.write(ended, f), db.read(ended, f); !errors.Is(w, context.Canceled) || !errors.Is(r, context.Canceled) || ran || !db.Healthy() {
				t.Errorf("write %v, read %v, ran %v, healthy %v", w, r, ran, db.Healthy())
			}
		})
	})
}

func TestPostgresServer(t *testing.T) {
	s := storetest.Postgres(t)
	if a, b := s.URL(), s.URL(); a == b {
		t.Errorf("two databases are one: %s", a)
	}
}

func TestObserve(t *testing.T) {
	var mu sync.Mutex
	seen := map[Event]int{}
	db := &DB{log: slog.New(slog.DiscardHandler), observe: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Took < 0 || e.Took > time.Minute {
			t.Errorf("it took %v", e.Took)
		}
		e.Took = 0
		seen[e]++
	}}
	engine, err := openSQLite(t.Context(), filepath.Join(t.TempDir(), "weir.db"), Options{Log: db.log}.withDefaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	db.engine = engine
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	nothing := func(querier) error { return nil }
	failing := func(querier) error { return errors.New("no") }
	lost := func(querier) error { return ErrUnknown }
	_, _, _, _ = db.read(t.Context(), nothing), db.write(t.Context(), nothing), db.write(t.Context(), failing), db.write(t.Context(), lost)
	_ = db.read(ended, nothing)
	if err := engine.close(t.Context()); err != nil {
		t.Error(err)
	}
	_ = db.write(t.Context(), nothing)
	want := map[Event]int{
		{Op: OpRead, Result: ResultOK}: 1, {Op: OpWrite, Result: ResultOK}: 1, {Op: OpWrite, Result: ResultError}: 1,
		{Op: OpWrite, Result: ResultUnknown}: 1, {Op: OpRead, Result: ResultCancelled}: 1, {Op: OpWrite, Result: ResultAway}: 1,
	}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("got %v\nwant %v", seen, want)
	}
}

func TestTasks(t *testing.T) {
	db := openWriter(t, filepath.Join(t.TempDir(), "weir.db"))
	runs := make(chan struct{}, 1000)
	var after []string
	db.every(time.Millisecond, func(context.Context) {
		select {
		case runs <- struct{}{}:
		default:
		}
	})
	first := make(chan struct{})
	db.every(time.Hour, func(ctx context.Context) {
		close(first)
		<-ctx.Done()
		after = append(after, "task")
	})
	db.atClose(func(ctx context.Context) error {
		after = append(after, "closer")
		return insertN(ctx, db, 2)
	})
	db.startTasks()
	<-first
	for range 3 {
		<-runs
	}
	if err := db.Close(t.Context()); err != nil {
		t.Errorf("a closer can still write: %v", err)
	}
	if want := []string{"task", "closer"}; !reflect.DeepEqual(after, want) {
		t.Errorf("ended in the order %q, want %q", after, want)
	}
}
