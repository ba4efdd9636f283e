//go:build unix

package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
)

// emptyDir deletes all that a directory holds, as rm -rf DIR/* does.
func emptyDir(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s has %d names, %v", dir, len(names), err)
	}
	for _, name := range names {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
}

func wantInUse(t *testing.T, dir string) {
	t.Helper()
	s, err := cache.OpenDir(cache.DirOptions{Path: dir})
	if want := "cache: directory " + dir + " is in use by another process: give each its own"; err == nil || err.Error() != want {
		t.Errorf("got %v, %v\nwant %s", s, err, want)
	}
}

// operations are those that a DirStore has of a Store, each on the entry of "a".
func operations(s *cache.DirStore, now time.Time) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"Put":    func() error { return s.Put(ctx, key("a"), dirEntry("", 10, now.Add(time.Hour)), now) },
		"Get":    func() error { _, err := s.Get(ctx, key("a"), now); return err },
		"Delete": func() error { return s.Delete(ctx, key("a")) },
		"Sweep":  func() error { _, err := s.Sweep(ctx, func(*cache.Meta) bool { return true }); return err },
	}
}

func TestDirStoreMakesItsLockAgain(t *testing.T) {
	now := time.Now()
	t.Run("at whichever operation comes first", func(t *testing.T) {
		for _, name := range []string{"Put", "Get", "Delete", "Sweep"} {
			dir := filepath.Join(t.TempDir(), "cache")
			s := openDir(t, cache.DirOptions{Path: dir})
			<-s.Scanned()
			dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
			emptyDir(t, dir)
			if err := operations(s, now)[name](); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			wantInUse(t, dir)
		}
	})
	t.Run("where the directory is gone with it", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "cache")
		s := openDir(t, cache.DirOptions{Path: dir})
		<-s.Scanned() // which looks too, and makes the directory while it is being deleted
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
		if !dirHas(t, s, "a", now) {
			t.Error("what was put is not there")
		}
		wantInUse(t, dir)
	})
	t.Run("in the place of one that another had for a while", func(t *testing.T) {
		dir := t.TempDir()
		s := openDir(t, cache.DirOptions{Path: dir})
		<-s.Scanned()
		emptyDir(t, dir)
		if err := openDir(t, cache.DirOptions{Path: dir}).Close(); err != nil {
			t.Fatal(err)
		}
		dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
		wantInUse(t, dir)
	})
	t.Run("once, however many look at the same time", func(t *testing.T) {
		dir := t.TempDir()
		s := openDir(t, cache.DirOptions{Path: dir})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 100 {
					if j == 30 || j == 60 { // eight times in all: it is given up after ten
						_ = os.Remove(filepath.Join(dir, "weir-cache.lock")) // where there is one again
					}
					k := key(strconv.Itoa(100*i + j))
					if err := s.Put(context.Background(), k, dirEntry("", 10, now.Add(time.Hour)), now); err != nil {
						t.Error(err)
					}
					if e, err := s.Get(context.Background(), k, now); e == nil || err != nil {
						t.Errorf("%d of %d: %+v, %v", j, i, e, err)
					}
				}
			})
		}
		wg.Wait()
		dirHas(t, s, "0", now)
		wantInUse(t, dir)
	})
}

func TestDirStoreLeavesItsDirectoryToWhoTookIt(t *testing.T) {
	now := time.Now()
	for _, first := range []string{"Put", "Get", "Delete", "Sweep"} {
		t.Run("found by "+first, func(t *testing.T) {
			dir := t.TempDir()
			s := openDir(t, cache.DirOptions{Path: dir})
			<-s.Scanned()
			dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
			emptyDir(t, dir)
			second := openDir(t, cache.DirOptions{Path: dir})
			dirPut(t, second, "a", dirEntry("", 20, now.Add(time.Hour)), now)
			want := "cache: directory " + dir + ": another process has taken it since weir-cache.lock in it was deleted: give each its own, and start this one again"
			if err := operations(s, now)[first](); err == nil || err.Error() != want {
				t.Errorf("got %v\nwant %s", err, want)
			}
			if e, err := second.Get(context.Background(), key("a"), now); err != nil || e == nil || len(e.Body) != 20 {
				t.Errorf("the other's entry: %+v, %v", e, err)
			}
			if err := second.Close(); err != nil {
				t.Error(err)
			}
			// It does not know what the other has written, and so not how much is there.
			for name, do := range operations(s, now) {
				if err := do(); err == nil || err.Error() != want {
					t.Errorf("%s once the other is gone: got %v\nwant %s", name, err, want)
				}
			}
		})
	}
}

func TestCheckDirSaysWhatOpenDirWillSay(t *testing.T) {
	top := t.TempDir()
	at := func(name string) string { return filepath.Join(top, name) }
	for _, dir := range []string{"good", "full", "locked", "directory/weir-cache.lock", "closed"} {
		if err := os.MkdirAll(at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"file": 0o600, "full/weir-cache.lock": 0o600, "locked/weir-cache.lock": 0o400} {
		if err := os.WriteFile(at(name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "good", "dangling": "nowhere"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(at("closed"), 0o500); err != nil {
		t.Fatal(err)
	}
	f := func(name, path, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, before := os.Stat(at(path))
			got := ""
			if err := cache.CheckDir(at(path)); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if _, after := os.Stat(at(path)); (before == nil) != (after == nil) {
				t.Error("it was made")
			}
			s, err := cache.OpenDir(cache.DirOptions{Path: at(path)})
			if (err == nil) != (want == "") {
				t.Errorf("OpenDir: %v", err)
			}
			if err == nil {
				_ = s.Close()
			}
		})
	}
	f("a directory", "good", "")
	f("one with a lock file", "full", "")
	f("a link to one", "link", "")
	f("one to be made", "new/a/b", "")
	f("a file", "file", "is not a directory")
	f("below a file", "file/a/b", "cannot be made: "+at("file")+" is not a directory")
	f("a link to nothing", "dangling", at("dangling")+": is a link to what is not there")
	f("below a link to nothing", "dangling/a", "cannot be made: "+at("dangling")+": is a link to what is not there")
	f("a directory in the place of the lock file", "directory", at("directory/weir-cache.lock")+" is a directory")
	denied := func(what string) string {
		if os.Geteuid() == 0 { // who may write everywhere
			return ""
		}
		return what + ": permission denied"
	}
	f("a lock file of somebody else", "locked", denied(at("locked/weir-cache.lock")))
	f("in a directory that is not for writing", "closed/a/b", denied("cannot be made: "+at("closed")))
	f("a directory that is not for writing", "closed", denied(at("closed")))
}
