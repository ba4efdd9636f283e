package database

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// found is how long an outage may take to be found out: two seconds, and what a machine
// that others use too takes longer.
const found = 3 * time.Second

func TestAway(t *testing.T) {
	s := storetest.Postgres(t)
	var log lines
	open := func(t *testing.T) *DB {
		db := openTest(t, Options{URL: s.URL(), Pool: Pool{Size: 3, Overflow: 2, PrePing: true}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		makeTable(t, db, "CREATE TABLE n (n BIGINT PRIMARY KEY)")
		return db
	}
	healthy := func(t *testing.T, db *DB) {
		storetest.Eventually(t, 60*time.Second, "the database is healthy", db.Healthy)
	}
	atOnce := func(t *testing.T, db *DB) {
		t.Helper()
		watch := storetest.Stopwatch()
		for i := range int64(1000) {
			if err := insertN(t.Context(), db, 1e6+i); !errors.Is(err, ErrAway) || errors.Is(err, ErrUnknown) {
				t.Fatalf("got %v, want ErrAway", err)
			}
		}
		if took := watch(); took > time.Second {
			t.Errorf("a thousand calls of a server that is known to be away take %v", took)
		}
	}

	t.Run("fails at once while the server is killed, and goes on when it is back", func(t *testing.T) {
		db := open(t)
		gone, back := log.count("the database is away"), log.count("the database answers")
		s.Stop()
		watch := storetest.Stopwatch()
		if err := db.Ping(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("got %v, want ErrAway", err)
		}
		if took := watch(); took > found {
			t.Errorf("it took %v to find out", took)
		}
		if db.Healthy() {
			t.Error("it is healthy")
		}
		atOnce(t, db)
		s.Start()
		healthy(t, db)
		if err := insertN(t.Context(), db, 1); err != nil {
			t.Errorf("when it is back: %v", err)
		}
		if g, b := log.count("the database is away")-gone, log.count("the database answers")-back; g != 1 || b != 1 {
			t.Errorf("logged %d times that it is away and %d times that it is back", g, b)
		}
	})
	t.Run("finds out that a paused server does not answer, with calls that wait and without", func(t *testing.T) {
		db := open(t)
		s.Pause()
		defer s.Resume()
		watch := storetest.Stopwatch()
		var wg sync.WaitGroup
		for i := range int64(20) { // more than there are connections
			wg.Go(func() {
				if err := insertN(t.Context(), db, i); !errors.Is(err, ErrAway) {
					t.Errorf("got %v, want ErrAway", err)
				}
			})
		}
		wg.Wait()
		if took := watch(); took > found {
			t.Errorf("it took %v to find out", took)
		}
		atOnce(t, db)
		s.Resume()
		healthy(t, db)
		if err := insertN(t.Context(), db, 100); err != nil {
			t.Errorf("when it is back: %v", err)
		}
	})
	t.Run("closes while the server is paused", func(t *testing.T) {
		db, err := Open(t.Context(), Options{URL: s.URL()})
		if err != nil {
			t.Fatal(err)
		}
		s.Pause()
		defer s.Resume()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		watch := storetest.Stopwatch()
		_ = db.Close(ctx) // what is only in memory cannot be written
		if took := watch(); took > 5*time.Second {
			t.Errorf("closing took %v", took)
		}
	})
	t.Run("opens while the server is away, and makes the tables when it comes", func(t *testing.T) {
		url := s.URL()
		s.Stop()
		db := openTest(t, Options{URL: url})
		if db.Healthy() {
			t.Error("it is healthy")
		}
		if _, err := db.Secret(t.Context(), "a"); !errors.Is(err, ErrAway) {
			t.Errorf("got %v, want ErrAway", err)
		}
		s.Start()
		healthy(t, db)
		if _, err := db.Secret(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("does not mind that an administrator ends its connections", func(t *testing.T) {
		url := s.URL()
		db := openTest(t, Options{URL: url, Pool: Pool{Size: 4}})
		makeTable(t, db, "CREATE TABLE n (n BIGINT PRIMARY KEY)")
		for i := range int64(5) {
			s.Exec(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'weir' AND datname = current_database()")
			if err := insertN(t.Context(), db, i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
	t.Run("loses no write that it has confirmed, and makes none twice, when the server is killed under load", func(t *testing.T) {
		killUnderLoad(t, s, open(t))
	})
}

func killUnderLoad(t *testing.T, s *storetest.PostgresServer, db *DB) {
	var next, confirmed, unknown atomic.Int64
	var mu sync.Mutex
	done := map[int64]bool{} // confirmed, or may have been written
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1)
				err := insertN(t.Context(), db, n)
				switch {
				case err == nil:
					confirmed.Add(1)
					mu.Lock()
					done[n] = true
					mu.Unlock()
				case errors.Is(err, ErrUnknown):
					unknown.Add(1)
					mu.Lock()
					done[n] = false
					mu.Unlock()
				case !errors.Is(err, ErrAway):
					t.Errorf("%d: %v", n, err)
				default:
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	for range 3 {
		before := confirmed.Load()
		storetest.Eventually(t, 30*time.Second, "a hundred writes are made", func() bool { return confirmed.Load() > before+100 })
		s.Stop()
		s.Start()
	}
	storetest.Eventually(t, 60*time.Second, "the database is healthy", db.Healthy)
	stop()
	wg.Wait()
	kept := map[int64]bool{}
	if err := db.read(t.Context(), func(q querier) error {
		rows, err := q.QueryContext(t.Context(), "SELECT n FROM n")
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var n int64
			if err := rows.Scan(&n); err != nil {
				return err
			}
			kept[n] = true
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	for n, sure := range done {
		if sure && !kept[n] {
			t.Errorf("%d was confirmed and is lost", n)
		}
	}
	for n := range kept {
		if _, known := done[n]; !known {
			t.Errorf("%d was said not to be written, and is", n)
		}
	}
	t.Logf("%d confirmed, %d unknown, %d kept", confirmed.Load(), unknown.Load(), len(kept))
}
