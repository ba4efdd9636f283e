package blob_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

// TestStores runs the same on a directory and on S3.
func TestStores(t *testing.T) {
	address, _ := newS3(t)
	for name, at := range map[string]string{"directory": "dir:" + t.TempDir(), "S3": address, "S3 with a prefix": address + "&prefix=weir/"} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := open(t, blob.Options{URL: at, SigningKey: secret, Now: c.now})
			testStore(t, s, c)
		})
	}
}

func testStore(t *testing.T, s *blob.Store, c *clock) {
	ctx := context.Background()
	save := func(t *testing.T, text string) blob.Info {
		t.Helper()
		i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Type: "text/plain; charset=utf-8", Name: "a.txt", Until: c.at.Add(time.Hour)}, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	t.Run("gives back what it was given, and what it is", func(t *testing.T) {
		for _, text := range []string{"", "x", strings.Repeat("0123456789abcdef", 1<<16)} {
			i := save(t, text)
			want := blob.Info{Key: i.Key, Bytes: int64(len(text)), Type: "text/plain; charset=utf-8", Name: "a.txt", Expires: time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)}
			if i != want {
				t.Fatalf("saved %+v, want %+v", i, want)
			}
			got, err := s.Stat(ctx, i.Key)
			if err != nil || got != want {
				t.Fatalf("is %+v, %v, want %+v", got, err, want)
			}
			if got := read(t, s, i.Key); got != text {
				t.Fatalf("read %d bytes, want %d", len(got), len(text))
			}
		}
	})
	t.Run("keeps what has no type or a wrong one as bytes", func(t *testing.T) {
		for _, kind := range []string{"", "text", "text/plain\r\nX: y", "text/plain; =", strings.Repeat("a/", 200)} {
			i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Type: kind, Until: c.at.Add(time.Hour)}, strings.NewReader("x"))
			if err != nil || i.Type != "application/octet-stream" {
				t.Errorf("%q: %+v, %v", kind, i, err)
			}
		}
	})
	t.Run("forgets what is deleted, twice too", func(t *testing.T) {
		i := save(t, "x")
		for range 2 {
			if err := s.Delete(ctx, i.Key); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Stat(ctx, i.Key); err != blob.ErrNotFound {
			t.Errorf("Stat: %v", err)
		}
		if r, err := s.Open(ctx, i.Key); err != blob.ErrNotFound || r != nil {
			t.Errorf("Open: %v, %v", r, err)
		}
	})
	t.Run("has no blob at what is no key", func(t *testing.T) {
		for _, key := range wrongKeys {
			_, err := s.Stat(ctx, key)
			_, openErr := s.Open(ctx, key)
			_, linkErr := s.Link(ctx, blob.Grant{Method: http.MethodGet, Key: key})
			if err != blob.ErrNotFound || openErr != blob.ErrNotFound || linkErr != blob.ErrNotFound || s.Delete(ctx, key) != nil || s.Owns(alice.ID, key) {
				t.Errorf("%q: %v, %v, %v", key, err, openErr, linkErr)
			}
		}
	})
	t.Run("leaves nothing of what broke off, and says whose error it was", func(t *testing.T) {
		broken := errors.New("the model is gone")
		for _, size := range []int{0, 100, 20 << 20} {
			_, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)},
				io.MultiReader(strings.NewReader(strings.Repeat("x", size)), iotest.ErrReader(broken)))
			if err != broken {
				t.Errorf("after %d bytes: %v", size, err)
			}
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := s.Save(ended, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	t.Run("keeps nothing until a time that is past", func(t *testing.T) {
		if i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at}, strings.NewReader("x")); err == nil {
			t.Errorf("%+v", i)
		}
	})
	t.Run("knows its callers' keys", func(t *testing.T) {
		i := save(t, "x")
		if !s.Owns(alice.ID, i.Key) || s.Owns(bob.ID, i.Key) || s.Owns("", i.Key) || strings.Contains(i.Key, "alice") {
			t.Errorf("%s", i.Key)
		}
		if key := s.NewKey(alice.ID, c.at); !strings.HasPrefix(key, "2026112218/") || key == s.NewKey(alice.ID, c.at) {
			t.Errorf("%s", key)
		}
	})
	t.Run("sweeps the hours that have passed, and no other", func(t *testing.T) { testSweep(t, s, c, save) })
}

func testSweep(t *testing.T, s *blob.Store, c *clock, save func(*testing.T, string) blob.Info) {
	ctx := context.Background()
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	c.at = c.at.Add(24 * time.Hour)
	start := c.at
	if _, err := s.Sweep(ctx); err != nil { // what other tests have left
		t.Fatal(err)
	}
	var first []blob.Info
	for range 20 {
		first = append(first, save(t, "x")) // until 19:20, in hour 19
	}
	c.at = start.Add(time.Hour)
	later := save(t, "y") // until 20:20
	c.at = start.Truncate(time.Hour).Add(2*time.Hour - 1)
	if n, err := s.Sweep(ctx); n != 0 || err != nil {
		t.Fatalf("at %s: %d, %v", c.at, n, err)
	}
	if got := read(t, s, first[0].Key); got != "x" {
		t.Fatalf("read %q", got)
	}
	c.at = c.at.Add(1)
	if _, err := s.Stat(ctx, first[0].Key); err != blob.ErrNotFound {
		t.Fatalf("expired and not swept: %v", err)
	}
	var mu sync.Mutex
	total := 0
	var all sync.WaitGroup
	for range 3 { // instances
		all.Go(func() {
			n, err := s.Sweep(ctx)
			mu.Lock()
			defer mu.Unlock()
			if total += n; err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if total < len(first) { // S3 does not say who of two has removed it
		t.Errorf("removed %d, want %d", total, len(first))
	}
	for _, i := range first {
		c.at = start // when it had not expired
		if _, err := s.Stat(ctx, i.Key); err != blob.ErrNotFound {
			t.Errorf("%s: %v", i.Key, err)
		}
	}
	if got := read(t, s, later.Key); got != "y" {
		t.Errorf("read %q", got)
	}
}

var wrongKeys = []string{
	"", ".", "..", "/", "../x", "/etc/passwd", "uploads", "uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa",
	"2026112219/../../aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa", "2026112219//aaaaaaaaaaaaaaaaaaaaaaaaaa",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/", "2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaa.",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/AAAAAAAAAAAAAAAAAAAAAAAAAA",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaa\x00",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaa\\",
	"2026112219/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaaaa",
	"2026112219\\aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaaa",
	"2026112224/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaaa", // no such hour
	"2026023019/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaaa", // no such day
	"2026112217/aaaaaaaaaaaaaaaaaaaaaaaaaa/aaaaaaaaaaaaaaaaaaaaaaaaaa", // an hour that has passed
}

func read(t testing.TB, s *blob.Store, key string) string {
	t.Helper()
	r, err := s.Open(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// filesIn lists the files below a directory.
func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, relErr := filepath.Rel(dir, p)
			names, err = append(names, filepath.ToSlash(rel)), relErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestDirectory(t *testing.T) {
	ctx := context.Background()
	t.Run("has a file for each blob, that nobody else can read", func(t *testing.T) {
		c := newClock()
		var s *blob.Store
		dir := filepath.Join(t.TempDir(), "var", "blobs")
		s = open(t, blob.Options{URL: "dir:" + dir, SigningKey: secret, Now: c.now})
		i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if got := filesIn(t, dir); !slices.Equal(got, []string{i.Key}) {
			t.Errorf("%q", got)
		}
		for _, name := range []string{dir, filepath.Join(dir, i.Key[:10]), filepath.Dir(filepath.Join(dir, i.Key)), filepath.Join(dir, i.Key)} {
			is, err := os.Stat(name)
			if err != nil || is.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v", name, is.Mode(), err)
			}
		}
	})
	t.Run("shows nothing before all of it is there", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		from, to := io.Pipe()
		done := make(chan error)
		go func() {
			_, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, from)
			done <- err
		}()
		if _, err := to.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		if got := filesIn(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], "uploads/") {
			t.Errorf("%q", got)
		}
		_ = to.CloseWithError(io.ErrUnexpectedEOF)
		if err := <-done; err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
		if got := filesIn(t, dir); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	})
	t.Run("is known to another instance, and after a restart", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Type: "image/png", Name: "a.png", Until: c.at.Add(time.Hour)}, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		again := open(t, blob.Options{URL: "dir:" + dir, SigningKey: secret, Now: c.now})
		if got, err := again.Stat(ctx, i.Key); err != nil || got != i || !again.Owns(alice.ID, i.Key) {
			t.Errorf("%+v, %v, want %+v", got, err, i)
		}
	})
	t.Run("sweeps what a crash has left after a day, and nothing of others", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		old, young := "uploads/"+strings.Repeat("a", 26), "uploads/"+strings.Repeat("b", 26)
		others := []string{"2026112217/notes.txt", "README", "uploads/mine"}
		for _, name := range append(others, old, young) {
			p := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			at := c.at.Add(-24 * time.Hour)
			if name == young {
				at = at.Add(time.Second)
			}
			if err := os.Chtimes(p, at, at); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.Sweep(ctx); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		want := append(others, young)
		slices.Sort(want)
		if got := filesIn(t, dir); !slices.Equal(got, want) {
			t.Errorf("there is %q, want %q", got, want)
		}
	})
	t.Run("follows no link out of it", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		outside := t.TempDir()
		if err := os.Symlink(outside, filepath.Join(dir, "2026112219")); err != nil {
			t.Fatal(err)
		}
		_, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, strings.NewReader("x"))
		if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Status != 503 || len(filesIn(t, outside)) != 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("says that a file is damaged, as 503", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range []string{"", "weir", "weirblob\xff\xff{}", "weirblob\x00\x03{]}x", "something else altogether"} {
			if err := os.WriteFile(filepath.Join(dir, i.Key), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := s.Stat(ctx, i.Key)
			if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Status != 503 || p.RetryAfter != 5*time.Second {
				t.Errorf("%q: %v", content, err)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct{ url, want string }{
		{"", "want dir:PATH or s3://BUCKET"},
		{"blobs", "want dir:PATH"},
		{"http://example.com", "want dir:PATH"},
		{"dir:", "as dir:blobs"},
		{"dir:" + file, "not a directory"},
		{"dir:" + file + "/x", "not a directory"},
		{"s3://", "the name of a bucket"},
		{"s3://bucket/folder?region=eu-west-1", "?prefix="},
		{"s3://bucket", "?region=eu-west-1"},
		{"s3://bucket?region=a&region=b", "2 times"},
		{"s3://bucket?region=eu-west-1&colour=red", `unknown query parameter "colour"`},
		{"s3://bucket?region=eu-west-1&prefix=weir", "slash at its end"},
		{"s3://bucket?endpoint=http://192.0.2.1:9000", "want https"},
		{"s3://bucket?endpoint=ftp://192.0.2.1:9000", "the address of a server"},
		{"s3://bucket?endpoint=https://192.0.2.1&use_path_style=perhaps", "want true or false"},
		{"s3://bucket?region=eu-west-1&ssetype=rot13", "want one of"},
	} {
		s, err := blob.Open(context.Background(), blob.Options{URL: at.url, SigningKey: secret})
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), at.want) {
			t.Errorf("%q: %v, want %q", at.url, err, at.want)
		}
	}
	for name, o := range map[string]blob.Options{
		"at least 32":        {SigningKey: secret[:31]},
		"from 1s to 168h":    {SigningKey: secret, SignFor: 8 * 24 * time.Hour},
		"slash at both ends": {SigningKey: secret, Path: "/blobs"},
		"negative":           {SigningKey: secret, MaxUpload: -1},
	} {
		o.URL = "dir:" + t.TempDir()
		if _, err := blob.Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	for _, good := range []string{"http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000", "https://minio.example", "http://minio:9000&disable_https=true"} {
		open(t, blob.Options{URL: "s3://bucket?endpoint=" + good, SigningKey: secret})
	}
}
