package database

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/inferweir/weir/storetest"
)

// steps are n migrations, each of which fails if it is made twice.
func steps(n int) fstest.MapFS {
	files := fstest.MapFS{}
	for i := range n {
		files[fmt.Sprintf("%04d_step%d.sql", i+1, i+1)] = &fstest.MapFile{Data: fmt.Appendf(nil,
			"-- Two statements, a comment; and bytes.\nCREATE TABLE t%d (id BIGINT PRIMARY KEY, b BYTEA);\nINSERT INTO t%d (id, b) VALUES (1, NULL);\n", i+1, i+1)}
	}
	return files
}

func (db *DB) applied(t *testing.T) []string {
	t.Helper()
	var all []string
	ctx := context.Background()
	if err := db.read(ctx, func(q querier) error {
		applied, err := readApplied(ctx, q)
		all = nil
		for _, m := range applied {
			all = append(all, fmt.Sprintf("%d %s", m.version, m.name))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMigrations(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		t.Run("makes each step once when ten instances start at once", func(t *testing.T) {
			// The tables of the package itself come with the last of them.
			files := steps(20)
			u := url()
			dbs := make([]*bareDB, 10)
			errs := make([]error, len(dbs))
			var wg sync.WaitGroup
			for i := range dbs {
				wg.Go(func() { dbs[i], errs[i] = openBare(t, u, files) })
			}
			wg.Wait()
			for i, err := range errs {
				if err != nil {
					t.Fatalf("instance %d: %v", i, err)
				}
			}
			if got := dbs[9].applied(t); len(got) != 20 || got[19] != "20 step20" {
				t.Errorf("made %q", got)
			}
			if n := countRows(t, dbs[0].DB, "SELECT count(*) FROM t20"); n != 1 {
				t.Errorf("the last step was made %d times", n)
			}
		})
		t.Run("makes the steps that are new, and keeps what is there", func(t *testing.T) {
			u := url()
			for _, n := range []int{2, 2, 5} {
				db, err := openBare(t, u, steps(n))
				if err != nil {
					t.Fatal(err)
				}
				if got := len(db.applied(t)); got != n {
					t.Errorf("%d steps are made, want %d", got, n)
				}
			}
		})
		t.Run("undoes a step that fails, and says which and why", func(t *testing.T) {
			u := url()
			files := steps(2)
			files["0003_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE good (id BIGINT); CREATE TABLE t1 (id BIGINT);")}
			_, err := openBare(t, u, files)
			if err == nil || !strings.Contains(err.Error(), "migration 3 (bad)") || !strings.Contains(err.Error(), "already exists") {
				t.Fatalf("got %v", err)
			}
			db, err := openBare(t, u, steps(2))
			if err != nil {
				t.Fatal(err)
			}
			makeTable(t, db.DB, "CREATE TABLE good (id BIGINT)") // which is not there
		})
		t.Run("refuses tables of a newer program and names both versions", func(t *testing.T) {
			u := url()
			if _, err := openBare(t, u, steps(4)); err != nil {
				t.Fatal(err)
			}
			_, err := openBare(t, u, steps(3))
			if !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "at version 4 (step4)") || !strings.Contains(err.Error(), "up to 3 (step3)") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("refuses a step whose text has changed", func(t *testing.T) {
			u := url()
			if _, err := openBare(t, u, steps(2)); err != nil {
				t.Fatal(err)
			}
			files := steps(3)
			files["0002_step2.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE other (id BIGINT);")}
			if _, err := openBare(t, u, files); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "version 2 (step2) was made by another text") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("makes the tables of this program, twice the same", func(t *testing.T) {
			u := url()
			first := openTest(t, Options{URL: u})
			want := first.applied(t)
			if got := openTest(t, Options{URL: u}).applied(t); len(want) == 0 || want[0] != "1 base" || strings.Join(got, ",") != strings.Join(want, ",") {
				t.Errorf("got %q, then %q", want, got)
			}
		})
	})
}

// bareDB is a DB without what lives there by itself, on tables that a test chooses.
type bareDB struct{ *DB }

func openBare(t *testing.T, url string, files fstest.MapFS) (*bareDB, error) {
	migrations, err := loadMigrations(files)
	if err != nil {
		return nil, err
	}
	o := Options{URL: url, Pool: Pool{Size: 2}}.withDefaults()
	db := &DB{observe: o.Observe, log: o.Log}
	ctx := context.Background()
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		db.engine, err = openSQLite(ctx, path, o, migrations)
	} else {
		db.postgres, err = openPostgres(ctx, o, migrations)
		db.engine = db.postgres
	}
	if err != nil {
		return nil, err
	}
	db.ctx, db.cancel = context.WithCancel(ctx)
	t.Cleanup(func() { closeTest(t, db) })
	return &bareDB{db}, nil
}

func TestLoadMigrations(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"refuses a file without a number", "base.sql", `migration "base.sql": want a name like 0001_base.sql`},
		{"refuses a short number", "1_base.sql", `migration "1_base.sql": want a name like 0001_base.sql`},
		{"refuses a number twice", "0001_other.sql", `have the same number`},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := steps(1)
			files[c.file] = &fstest.MapFile{Data: []byte("SELECT 1;")}
			if _, err := loadMigrations(files); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestConnections(t *testing.T) {
	s := storetest.Postgres(t)
	t.Run("tells what the server allows and keeps back", func(t *testing.T) {
		if most, reserved, err := Connections(t.Context(), s.URL()); most != 300 || reserved != 3 || err != nil {
			t.Errorf("got %d, %d, %v", most, reserved, err)
		}
	})
	t.Run("refuses what is no PostgreSQL", func(t *testing.T) {
		if _, _, err := Connections(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "a")); err == nil || errors.Is(err, ErrAway) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("does not take a server that refuses us for one that is away", func(t *testing.T) {
		for what, change := range map[string]func(u *url.URL){
			"a user":     func(u *url.URL) { u.User = url.User("nobody_of_that_name") },
			"a database": func(u *url.URL) { u.Path = "/no_such_database" },
			"TLS":        func(u *url.URL) { u.RawQuery = "sslmode=require" },
		} {
			u, err := url.Parse(s.URL())
			if err != nil {
				t.Fatal(err)
			}
			change(u)
			_, _, err = Connections(t.Context(), u.String())
			db, opened := Open(t.Context(), Options{URL: u.String()})
			if opened == nil {
				closeTest(t, db)
			}
			if err == nil || opened == nil || errors.Is(err, ErrAway) {
				t.Errorf("%s: %v, and to open it %v: want an error that is none of ErrAway", what, err, opened)
			}
		}
	})
	t.Run("says that a server is away", func(t *testing.T) {
		url := s.URL()
		s.Stop()
		if _, _, err := Connections(t.Context(), url); !errors.Is(err, ErrAway) {
			t.Errorf("got %v", err)
		}
	})
}
