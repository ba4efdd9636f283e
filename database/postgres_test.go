package database

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/inferweir/weir/storetest"
)

func TestPostgres(t *testing.T) {
	s := storetest.Postgres(t)
	url := s.URL()
	db := openTest(t, Options{URL: url, Pool: Pool{Size: 3, Overflow: 3}})
	makeTable(t, db, "CREATE TABLE n (n BIGINT PRIMARY KEY)")
	makeTable(t, db, "CREATE TABLE a (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)")
	exec := func(ctx context.Context, q querier, statement string) error {
		_, err := q.ExecContext(ctx, statement)
		return err
	}

	t.Run("refuses a user, a database and a password that are wrong, and shows no password", func(t *testing.T) {
		for _, wrong := range []string{
			strings.Replace(url, "weir@", "nobody:secret@", 1),
			strings.Replace(url, "/test1", "/missing", 1),
		} {
			db, err := Open(t.Context(), Options{URL: wrong})
			if err == nil {
				closeTest(t, db)
				t.Errorf("%s opens", wrong)
			} else if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "does not exist") {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("has at most as many connections as the pool has, under a load too", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := db.read(t.Context(), func(q querier) error { return exec(t.Context(), q, "SELECT pg_sleep(0.02)") }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n := countRows(t, db, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'weir'")
		if stats := db.Stats(); n > 6 || n < 4 || stats.Max != 6 || stats.InUse != 0 {
			t.Errorf("there are %d connections; %+v", n, stats)
		}
	})
	t.Run("runs a transaction again that ends in a deadlock", func(t *testing.T) {
		if err := db.write(t.Context(), func(q querier) error {
			return exec(t.Context(), q, "INSERT INTO a (id, v) VALUES (1, 0), (2, 0)")
		}); err != nil {
			t.Fatal(err)
		}
		both := make(chan struct{}, 2)
		var wg sync.WaitGroup
		tries := [2]int{}
		for i, order := range [][2]string{{"1", "2"}, {"2", "1"}} {
			wg.Go(func() {
				if err := db.write(t.Context(), func(q querier) error {
					tries[i]++
					if err := exec(t.Context(), q, "UPDATE a SET v = v + 1 WHERE id = "+order[0]); err != nil {
						return err
					}
					if tries[i] == 1 {
						both <- struct{}{}
						storetest.Eventually(t, 30*time.Second, "both have one row", func() bool { return len(both) == 2 })
					}
					return exec(t.Context(), q, "UPDATE a SET v = v + 1 WHERE id = "+order[1])
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if v := countRows(t, db, "SELECT sum(v) FROM a"); v != 4 || tries[0]+tries[1] < 3 {
			t.Errorf("the rows sum to %d after %v tries", v, tries)
		}
	})
	t.Run("says that a commit undid everything after a failed statement that was passed over", func(t *testing.T) {
		err := db.write(t.Context(), func(q querier) error {
			_ = exec(t.Context(), q, "INSERT INTO n (n) VALUES (77)")
			_ = exec(t.Context(), q, "INSERT INTO n (n) VALUES (77)")
			return nil
		})
		if err == nil || errors.Is(err, ErrAway) || countRows(t, db, "SELECT count(*) FROM n WHERE n = 77") != 0 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stops a statement whose context ends, and is healthy", func(t *testing.T) {
		for name, run := range map[string]func(context.Context, func(querier) error) error{"read": db.read, "write": db.write} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := run(ctx, func(q querier) error { return exec(ctx, q, "SELECT pg_sleep(120)") })
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrAway) || time.Since(start) > 30*time.Second || !db.Healthy() {
				t.Errorf("%s: got %v after %v, healthy %v", name, err, time.Since(start), db.Healthy())
			}
		}
		storetest.Eventually(t, 30*time.Second, "the server has stopped both", func() bool {
			return countRows(t, db, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(120)%' AND pid <> pg_backend_pid()") == 0
		})
	})
	t.Run("says that the outcome is unknown when the connection is lost during the commit", func(t *testing.T) {
		// A deferred check that waits for a lock, as a slow disk would.
		for _, statement := range []string{
			"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_lock(1); RETURN NULL; END$$",
			"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON n DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
		} {
			s.Exec(url, statement)
		}
		lock, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lock.Close(context.Background()) }()
		if _, err := lock.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- insertN(context.Background(), db, 99) }()
		storetest.Eventually(t, 30*time.Second, "the commit waits", func() bool {
			return countRows(t, db, "SELECT count(*) FROM pg_stat_activity WHERE lower(query) = 'commit' AND wait_event_type = 'Lock'") == 1
		})
		s.Exec(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE lower(query) = 'commit' AND wait_event_type = 'Lock'")
		if err := <-result; !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrAway) {
			t.Errorf("got %v", err)
		}
		s.Exec(url, "DROP TRIGGER slow ON n")
	})
	t.Run("says that it is overloaded when no connection becomes free", func(t *testing.T) {
		small := openTest(t, Options{URL: s.URL(), Pool: Pool{Size: 1}})
		began, done := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = small.read(t.Context(), func(querier) error { close(began); <-done; return nil })
		})
		<-began
		err := small.Ping(t.Context())
		close(done)
		wg.Wait()
		if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "none of 1 connections became free within 5s") || !small.Healthy() {
			t.Errorf("got %v, healthy %v", err, small.Healthy())
		}
	})
	t.Run("knows the server's clock", func(t *testing.T) {
		var micros int64
		if err := db.read(t.Context(), func(q querier) error {
			return q.QueryRowContext(t.Context(), "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&micros)
		}); err != nil {
			t.Fatal(err)
		}
		if d := db.Now().Sub(time.UnixMicro(micros)); d > 2*time.Second || d < -2*time.Second {
			t.Errorf("it is %v off", d)
		}
		ahead := &DB{postgres: &postgres{health: newHealth(db.log)}}
		ahead.postgres.health.skew.Store(int64(time.Hour))
		if d := time.Until(ahead.Now()); d < 59*time.Minute {
			t.Errorf("a clock that is an hour ahead is %v ahead", d)
		}
	})
}
