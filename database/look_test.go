package database

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferweir/weir/storetest"
)

// opened is what Open says, and closes what it opens.
func opened(t *testing.T, databaseURL string) error {
	t.Helper()
	db, err := Open(t.Context(), Options{URL: databaseURL, Pool: Pool{Size: 2}})
	if err == nil {
		closeTest(t, db)
	}
	return err
}

func execTest(t *testing.T, databaseURL, statement string) {
	t.Helper()
	db := openTest(t, Options{URL: databaseURL, Pool: Pool{Size: 2}})
	if err := db.write(t.Context(), func(q querier) error {
		_, err := q.ExecContext(context.Background(), statement)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLookSaysWhatOpenWouldRefuse(t *testing.T) {
	const newer = "INSERT INTO weir_migrations (version, name, checksum, applied) VALUES (9000, 'later', 'x', 0)"
	both(t, func(t *testing.T, fresh func() string) {
		t.Run("nothing of one without tables, in which it makes none", func(t *testing.T) {
			u := fresh()
			if err := Look(t.Context(), u); err != nil {
				t.Error(err)
			}
			if path, ok := strings.CutPrefix(u, "sqlite:"); ok {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s was made", path)
				}
			}
		})
		t.Run("nothing of one that is in use", func(t *testing.T) {
			u := fresh()
			openTest(t, Options{URL: u, Pool: Pool{Size: 2}})
			if err := Look(t.Context(), u); err != nil {
				t.Error(err)
			}
		})
		t.Run("tables of a newer program, with both versions", func(t *testing.T) {
			u := fresh()
			execTest(t, u, newer)
			looked, open := Look(t.Context(), u), opened(t, u)
			if !errors.Is(looked, ErrSchema) || open == nil || looked.Error() != open.Error() || !strings.Contains(looked.Error(), "is at version 9000 (later)") {
				t.Errorf("to look says %v, to open it %v", looked, open)
			}
		})
	})
	t.Run("a file that is no database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "text")
		if err := os.WriteFile(path, []byte(strings.Repeat("This is no database.\n", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Look(t.Context(), "sqlite:"+path); err == nil || !strings.Contains(err.Error(), "is not an SQLite database") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAPostgreSQLSaysInOneLineWhyItRefuses(t *testing.T) {
	s := storetest.Postgres(t)
	change := func(t *testing.T, f func(u *url.URL)) string {
		t.Helper()
		u, err := url.Parse(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		f(u)
		return u.String()
	}
	t.Run("that a user may not make tables, and what to do", func(t *testing.T) {
		u := change(t, func(*url.URL) {})
		s.Exec(u, "CREATE USER ro")
		s.Exec(u, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		u = strings.Replace(u, "weir@", "ro@", 1)
		name := u[strings.LastIndexByte(u, '/')+1 : strings.IndexByte(u, '?')]
		const does = `: want ALTER DATABASE "NAME" OWNER TO "ro", or GRANT CREATE ON SCHEMA public TO "ro" and the same owner for all tables`
		for what, c := range map[string]struct {
			err  error
			want string
		}{
			"to open it": {opened(t, u), "ERROR: permission denied for schema public (SQLSTATE 42501)"},
			"to look":    {Look(t.Context(), u), "no permission to create in its schema"},
		} {
			want := strings.ReplaceAll(`database: the user "ro" may not make or use tables in the database "NAME": `+c.want+does, "NAME", name)
			if !errors.Is(c.err, ErrSchema) || c.err.Error() != want {
				t.Errorf("%s: got %v\nwant %s", what, c.err, want)
			}
		}
	})
	t.Run("that there is no such database, however often it was tried", func(t *testing.T) {
		u := change(t, func(u *url.URL) { u.Path, u.RawQuery = "/missing", "sslmode=prefer" })
		host, port, _ := strings.Cut(s.Addr(), ":")
		want := `database: ` + host + ":" + port + `: user "weir", database "missing": FATAL: database "missing" does not exist (SQLSTATE 3D000)`
		_, _, asked := Connections(t.Context(), u)
		for what, err := range map[string]error{"to open it": opened(t, u), "to look": Look(t.Context(), u), "to ask": asked} {
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %v\nwant %s", what, err, want)
			}
		}
	})
}
