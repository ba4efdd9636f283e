package database

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/inferweir/weir/storetest"
)

func TestSQLiteURL(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("this is no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, url, want string }{
		{"no path", "sqlite:", `"sqlite:" names no file: want sqlite:PATH`},
		{"a database in memory", "sqlite::memory:", "forgets acknowledged jobs at the first restart"},
		{"another in memory", "sqlite:file:a?mode=memory", "forgets acknowledged jobs"},
		{"a URI of SQLite", "sqlite:file:weir.db", "want a plain path without settings"},
		{"settings", "sqlite:weir.db?_pragma=synchronous(0)", "want a plain path without settings"},
		{"a host", "sqlite://weir.db", "there is no host"},
		{"a directory", "sqlite:" + dir, "is a directory: want a file"},
		{"a directory that is not there", "sqlite:" + filepath.Join(dir, "no", "weir.db"), "no does not exist: make it first"},
		{"a file below a file", "sqlite:" + filepath.Join(junk, "weir.db"), "not a directory"},
		{"a file that is no database", "sqlite:" + junk, "is not an SQLite database"},
		{"a device", "sqlite:/dev/null", "is not a regular file"},
		{"another database", "mysql://u:secret@h/d", `"mysql:…": want sqlite:PATH or postgres://`},
		{"nothing", "", `"": want sqlite:PATH or postgres://`},
		{"a URL of PostgreSQL that is none", "postgres://u:secret@h:port/d", "cannot parse"},
		{"the driver's own pool", "postgres://h/d?pool_max_conns=4", "pool_max_conns in the URL: the pool is set under database.pool"},
	} {
		t.Run("refuses "+c.name, func(t *testing.T) {
			db, err := Open(context.Background(), Options{URL: c.url})
			if err == nil {
				closeTest(t, db)
				t.Fatal("it opens")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestSQLiteFile(t *testing.T) {
	t.Run("is its owner's alone, with the files beside it", func(t *testing.T) {
		dir := t.TempDir()
		db := openTest(t, Options{URL: "sqlite:" + filepath.Join(dir, "a #%20 b.db")})
		makeTable(t, db, "CREATE TABLE n (n BIGINT PRIMARY KEY)")
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 3 {
			t.Fatalf("got %v, %v", entries, err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || info.Mode().Perm() != 0o600 || !strings.HasPrefix(e.Name(), "a #%20 b.db") {
				t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
			}
		}
	})
	t.Run("is synced at every commit, and has a write-ahead log and foreign keys", func(t *testing.T) {
		db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
		for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "5000"} {
			for name, run := range map[string]func(context.Context, func(querier) error) error{"read": db.read, "write": db.write} {
				var got string
				if err := run(t.Context(), func(q querier) error { return q.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got) }); err != nil || got != want {
					t.Errorf("%s on a connection to %s is %q, want %q; %v", pragma, name, got, want, err)
				}
			}
		}
	})
	t.Run("is not changed by reads", func(t *testing.T) {
		db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
		err := db.read(t.Context(), func(q querier) error {
			_, err := q.ExecContext(t.Context(), "CREATE TABLE n (n BIGINT)")
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "readonly") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stops a read whose context ends", func(t *testing.T) {
		db := openWriter(t, filepath.Join(t.TempDir(), "weir.db"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := db.read(ctx, func(q querier) error {
			var n int64
			return q.QueryRowContext(ctx, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000000000) SELECT count(*) FROM c").Scan(&n)
		})
		if !errors.Is(err, context.DeadlineExceeded) || !db.Healthy() {
			t.Errorf("got %v, healthy %v", err, db.Healthy())
		}
	})
	t.Run("is one file again when it is closed", func(t *testing.T) {
		dir := t.TempDir()
		db, err := Open(t.Context(), Options{URL: "sqlite:" + filepath.Join(dir, "weir.db")})
		if err != nil {
			t.Fatal(err)
		}
		closeTest(t, db)
		closeTest(t, db)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("got %v, %v", entries, err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("a read of a closed database: %v", err)
		}
		if _, err := db.Secret(t.Context(), "a"); !errors.Is(err, ErrAway) || db.Healthy() {
			t.Errorf("a write to a closed database: %v, healthy %v", err, db.Healthy())
		}
	})
}

// TestReadOnlyFile runs itself as a user who is not root, whom modes do not stop.
func TestReadOnlyFile(t *testing.T) {
	if url := os.Getenv("WEIR_TEST_READ_ONLY"); url != "" {
		_, err := Open(context.Background(), Options{URL: url})
		if err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("got %v", err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "weir-read-only-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "weir.db")
	program := filepath.Join(dir, "test")
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.WriteFile(program, self, 0o755), os.WriteFile(file, nil, 0o444), os.Chmod(dir, 0o555)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	for _, c := range []struct{ name, url string }{
		{"says that a file cannot be written", "sqlite:" + file},
		{"says that no file can be made", "sqlite:" + filepath.Join(dir, "other.db")},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(program, "-test.run", "^TestReadOnlyFile$")
			cmd.Env = append(os.Environ(), "WEIR_TEST_READ_ONLY="+c.url)
			cmd.Dir = dir
			if os.Getuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// openWriter opens a file with a table n in which nothing is written by itself.
func openWriter(t *testing.T, path string) *DB {
	t.Helper()
	db, err := openBare(t, "sqlite:"+path, fstest.MapFS{"0001_n.sql": {Data: []byte("CREATE TABLE n (n BIGINT PRIMARY KEY)")}})
	if err != nil {
		t.Fatal(err)
	}
	return db.DB
}

// lockedSQLite is a database whose writer waits until release is called.
func lockedSQLite(t *testing.T) (db *DB, release func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weir.db")
	db = openWriter(t, path)
	other, err := sql.Open("sqlite", sqliteDSN(path, false))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	released := false
	release = func() {
		if !released {
			released = true
			_, err := conn.ExecContext(context.Background(), "ROLLBACK")
			if err := errors.Join(err, conn.Close(), other.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(release)
	return db, release
}

func TestWriter(t *testing.T) {
	t.Run("waits for another process, and reads meanwhile", func(t *testing.T) {
		db, release := lockedSQLite(t)
		first := make(chan error, 1)
		go func() { first <- insertN(context.Background(), db, 1) }()
		if n := countRows(t, db, "SELECT count(*) FROM n"); n != 0 {
			t.Errorf("there are %d rows", n)
		}
		release()
		if err := <-first; err != nil {
			t.Error(err)
		}
		if n := countRows(t, db, "SELECT count(*) FROM n"); n != 1 {
			t.Errorf("there are %d rows", n)
		}
	})
	t.Run("drops a write whose context ends while it waits in line", func(t *testing.T) {
		db := openWriter(t, filepath.Join(t.TempDir(), "weir.db"))
		begun, goOn := make(chan struct{}), make(chan struct{})
		first := make(chan error, 1)
		go func() {
			first <- db.write(context.Background(), func(querier) error { close(begun); <-goOn; return nil })
		}()
		<-begun
		ctx, cancel := context.WithCancel(t.Context())
		second := make(chan error, 1)
		go func() { second <- insertN(ctx, db, 2) }()
		storetest.Eventually(t, 30*time.Second, "the second waits", func() bool { return db.Stats().Waiting == 1 })
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(goOn)
		if err := errors.Join(<-first, insertN(t.Context(), db, 3)); err != nil {
			t.Error(err)
		}
		if n, dropped := countRows(t, db, "SELECT count(*) FROM n"), countRows(t, db, "SELECT count(*) FROM n WHERE n = 2"); n != 1 || dropped != 0 {
			t.Errorf("there are %d rows, %d of the one that was dropped", n, dropped)
		}
	})
	t.Run("tells the truth to whose context ends while it writes", func(t *testing.T) {
		db := openWriter(t, filepath.Join(t.TempDir(), "weir.db"))
		ctx, cancel := context.WithCancel(t.Context())
		if err := db.write(ctx, func(q querier) error {
			cancel()
			_, err := q.ExecContext(ctx, "INSERT INTO n (n) VALUES (1)")
			return err
		}); err != nil {
			t.Errorf("got %v", err)
		}
		if n := countRows(t, db, "SELECT count(*) FROM n"); n != 1 {
			t.Errorf("there are %d rows", n)
		}
	})
	t.Run("refuses what is too much to wait, and writes the rest", func(t *testing.T) {
		db := openWriter(t, filepath.Join(t.TempDir(), "weir.db"))
		begun, goOn := make(chan struct{}), make(chan struct{})
		first := make(chan error, 1)
		var run atomic.Int64
		go func() {
			first <- db.write(context.Background(), func(querier) error { close(begun); <-goOn; return nil })
		}()
		<-begun
		errs := make(chan error, maxLine+100)
		for range cap(errs) {
			go func() {
				errs <- db.write(context.Background(), func(querier) error { run.Add(1); return nil })
			}()
		}
		for range 100 {
			if err := <-errs; !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "overloaded: 4096 writes wait") {
				t.Errorf("got %v", err)
			}
		}
		before := db.Stats().Commits
		close(goOn)
		if err := <-first; err != nil {
			t.Error(err)
		}
		for range maxLine {
			if err := <-errs; err != nil {
				t.Errorf("one that waited: %v", err)
			}
		}
		// The one that was begun, and sixteen full batches.
		if n, commits := run.Load(), db.Stats().Commits-before; n != maxLine || commits != 1+maxLine/maxBatch {
			t.Errorf("%d were run, with %d commits", n, commits)
		}
	})
	t.Run("writes what waits when it is closed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "weir.db")
		db := openWriter(t, path)
		begun, goOn := make(chan struct{}), make(chan struct{})
		errs := make(chan error, 11)
		go func() {
			errs <- db.write(context.Background(), func(querier) error { close(begun); <-goOn; return nil })
		}()
		<-begun
		for i := range int64(10) {
			go func() { errs <- insertN(context.Background(), db, i) }()
		}
		storetest.Eventually(t, 30*time.Second, "ten wait", func() bool { return db.Stats().Waiting == 10 })
		go close(goOn)
		closeTest(t, db)
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		again := openWriter(t, path)
		if n := countRows(t, again, "SELECT count(*) FROM n"); n != 10 {
			t.Errorf("there are %d rows", n)
		}
	})
	t.Run("is unhealthy while the disk is full, and healthy when it is not", func(t *testing.T) {
		var log lines
		db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db"), Log: slog.New(slog.NewTextHandler(&log, nil))})
		makeTable(t, db, "CREATE TABLE b (b BYTEA)")
		limit := func(pages string) {
			if err := db.write(t.Context(), func(q querier) error {
				var n int64
				return q.QueryRowContext(t.Context(), "PRAGMA max_page_count="+pages).Scan(&n)
			}); err != nil {
				t.Error(err)
			}
		}
		limit("1") // no more than there are
		err := db.write(t.Context(), func(q querier) error {
			_, err := q.ExecContext(t.Context(), "INSERT INTO b (b) VALUES ($1)", make([]byte, 1<<20))
			return err
		})
		if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("got %v", err)
		}
		limit("1000000")
		if err := db.write(t.Context(), func(q querier) error {
			_, err := q.ExecContext(t.Context(), "INSERT INTO b (b) VALUES ($1)", make([]byte, 1<<20))
			return err
		}); err != nil {
			t.Error(err)
		}
		storetest.Eventually(t, 30*time.Second, "it is healthy", db.Healthy)
		if away, back := log.count("the database cannot be written"), log.count("the database can be written again"); away != 1 || back != 1 {
			t.Errorf("logged %d times that it is away and %d times that it is back", away, back)
		}
	})
}

func TestSQLiteFileThatIsGone(t *testing.T) {
	for _, c := range []struct {
		name, want string
		gone       func(path string) error
	}{
		{"removed", "the file was removed while it was open", os.Remove},
		{"replaced", "the file was replaced by another one", func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "weir.db")
			var log lines
			db := openTest(t, Options{URL: "sqlite:" + path, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err := c.gone(path); err != nil {
				t.Fatal(err)
			}
			_, _, err := db.Keys().Create(t.Context(), NewKey{Caller: "a"})
			if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("a write: %v: want %s", err, c.want)
			}
			if err := db.Ping(t.Context()); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("a read: %v: want %s", err, c.want)
			}
			if db.Healthy() || log.count("the database cannot be written") != 1 {
				t.Errorf("healthy %v, the log: %s", db.Healthy(), log.b.String())
			}
			if info, err := os.Stat(path); c.name == "removed" && !errors.Is(err, os.ErrNotExist) || err == nil && info.Size() > 0 {
				t.Errorf("the file is there: %v, %v", info, err)
			}
		})
	}
	t.Run("is noticed by itself, and used again when it is back", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "weir.db")
		db := openTest(t, Options{URL: "sqlite:" + path})
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, 30*time.Second, "it is away", func() bool { return !db.Healthy() })
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, 30*time.Second, "it is back", db.Healthy)
		if _, _, err := db.Keys().Create(t.Context(), NewKey{Caller: "a"}); err != nil {
			t.Error(err)
		}
	})
}
