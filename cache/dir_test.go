package cache_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// fileOf is where a store in dir keeps the entry of k.
func fileOf(dir string, k cache.Key) string {
	name := hex.EncodeToString(k[:])
	return filepath.Join(dir, name[:2], name)
}

// blocks are the bytes of all files of a store in dir, in blocks of 4 KiB, and how
// many of them are not entries.
func blocks(t testing.TB, dir string) (held int64, files, others int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "weir-cache.lock" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		held += (info.Size() + 4095) / 4096 * 4096
		if len(d.Name()) == 64 {
			files++
		} else {
			others++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return held, files, others
}

func dirEntry(owner string, size int, until time.Time) *cache.Entry {
	return &cache.Entry{Meta: cache.Meta{Owner: owner}, Status: 200, Body: bytes.Repeat([]byte{'x'}, size), Until: until, Took: time.Second}
}

func dirPut(t testing.TB, s cache.Store, name string, e *cache.Entry, now time.Time) {
	t.Helper()
	if err := s.Put(context.Background(), key(name), e, now); err != nil {
		t.Fatal(err)
	}
}

func dirHas(t testing.TB, s cache.Store, name string, now time.Time) bool {
	t.Helper()
	e, err := s.Get(context.Background(), key(name), now)
	if err != nil {
		t.Fatal(err)
	}
	return e != nil
}

// reopenDir closes s, does what else there is to do, and opens the directory anew.
func reopenDir(t *testing.T, s *cache.DirStore, o cache.DirOptions, between func()) *cache.DirStore {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	between()
	return openDir(t, o)
}

func TestDirStoreAfterARestart(t *testing.T) {
	now := time.Now()
	fill := func(t *testing.T, o cache.DirOptions, n int) *cache.DirStore {
		t.Helper()
		s := openDir(t, o)
		for i := range n {
			dirPut(t, s, strconv.Itoa(i), dirEntry("", 5000, now.Add(time.Hour)), now)
		}
		return s
	}
	t.Run("gives every entry at once, found again or not yet", func(t *testing.T) {
		o := cache.DirOptions{Path: t.TempDir(), MaxBytes: 16 << 20}
		s := fill(t, o, 300)
		want := s.Stats()
		s = reopenDir(t, s, o, func() {})
		for i := range 300 {
			if !dirHas(t, s, strconv.Itoa(i), now) {
				t.Errorf("entry %d is gone", i)
			}
		}
		<-s.Scanned()
		if got := s.Stats(); got != want || want.Bytes != 300*8192 {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("keeps to a smaller bound, and to shares", func(t *testing.T) {
		o := cache.DirOptions{Path: t.TempDir(), MaxBytes: 16 << 20, CallerShare: 0.5}
		s := fill(t, o, 100)
		for i := range 100 {
			dirPut(t, s, "alice"+strconv.Itoa(i), dirEntry("alice", 5000, now.Add(time.Hour)), now)
		}
		o.MaxBytes = 100 * 8192
		s = reopenDir(t, s, o, func() {})
		<-s.Scanned()
		held, files, _ := blocks(t, o.Path)
		if st := s.Stats(); files != 100 || held != o.MaxBytes || st.Bytes != held || st.Entries != files {
			t.Errorf("%d files with %d bytes, %+v: want 100 with %d", files, held, st, o.MaxBytes)
		}
		for i := range 100 {
			dirPut(t, s, "bob"+strconv.Itoa(i), dirEntry("bob", 5000, now.Add(time.Hour)), now)
		}
		if held, _, _ := blocks(t, o.Path); held > o.MaxBytes {
			t.Errorf("%d bytes, want at most %d", held, o.MaxBytes)
		}
	})
	t.Run("deletes what has expired and what was being written, and nothing else", func(t *testing.T) {
		o := cache.DirOptions{Path: t.TempDir()}
		s := fill(t, o, 3)
		dirPut(t, s, "short", dirEntry("", 10, now.Add(time.Minute)), now.Add(-time.Hour))
		dirPut(t, s, "past", dirEntry("", 10, now.Add(-time.Minute)), now.Add(-time.Hour))
		file := fileOf(o.Path, key("1"))
		foreign := []string{filepath.Join(o.Path, "notes"), filepath.Join(filepath.Dir(file), "notes.part"), file + ".bak", filepath.Join(o.Path, "tmp", "x.part")}
		s = reopenDir(t, s, o, func() {
			if err := os.Mkdir(filepath.Join(o.Path, "tmp"), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range append(foreign, file+".ANOTHERRUN.7.part") {
				if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
		<-s.Scanned()
		for _, name := range foreign {
			if _, err := os.Stat(name); err != nil {
				t.Error(err)
			}
		}
		if _, files, others := blocks(t, o.Path); files != 4 || others != len(foreign) || dirHas(t, s, "past", now) || !dirHas(t, s, "short", now) {
			t.Errorf("%d entries, want 4; %d other files, want %d", files, others, len(foreign))
		}
	})
}

func TestDirStoreIsForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "cache")
	s, now := openDir(t, cache.DirOptions{Path: path}), time.Now()
	dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
	file := fileOf(path, key("a"))
	for name, want := range map[string]fs.FileMode{path: fs.ModeDir | 0o700, filepath.Dir(file): fs.ModeDir | 0o700, file: 0o600, filepath.Join(path, "weir-cache.lock"): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v: want %v", name, info.Mode(), err, want)
		}
	}
}

func TestDirStoreIsOpenedOnce(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, cache.DirOptions{Path: path})
	second, err := cache.OpenDir(cache.DirOptions{Path: path})
	if want := "cache: directory " + path + " is in use by another process: give each its own"; err == nil || err.Error() != want {
		t.Fatalf("got %v, %v\nwant %s", second, err, want)
	}
	s = reopenDir(t, s, cache.DirOptions{Path: path}, func() {})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	_, getErr := s.Get(context.Background(), key("a"), now)
	putErr := s.Put(context.Background(), key("a"), dirEntry("", 1, now.Add(time.Hour)), now)
	_, sweepErr := s.Sweep(context.Background(), func(*cache.Meta) bool { return true })
	for _, err := range []error{getErr, putErr, s.Delete(context.Background(), key("a")), sweepErr} {
		if !errors.Is(err, fs.ErrClosed) || !strings.Contains(err.Error(), path) {
			t.Errorf("of a closed store: %v", err)
		}
	}
	if _, err := cache.OpenDir(cache.DirOptions{}); err == nil || err.Error() != "cache: DirOptions.Path is empty: want a directory" {
		t.Error(err)
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.OpenDir(cache.DirOptions{Path: file}); err == nil || !strings.HasPrefix(err.Error(), "cache: directory "+file+": ") {
		t.Error(err)
	}
}

// damages are what can happen to a file: every byte changed in turn, every shorter
// length, and worse.
func damages(whole, other []byte) map[string][]byte {
	all := map[string][]byte{"another entry's": other, "longer": append(bytes.Clone(whole), 0), "zeros": make([]byte, len(whole))}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1 << (i % 8)
		all["changed at "+strconv.Itoa(i)] = changed
		all["cut at "+strconv.Itoa(i)] = whole[:i]
	}
	return all
}

func TestDirStoreDeletesWhatIsNotWhole(t *testing.T) {
	o, now := cache.DirOptions{Path: t.TempDir()}, time.Now()
	s := openDir(t, o)
	e := dirEntry("key:alice", 100, now.Add(time.Hour))
	e.Frames = []cache.Frame{{End: 50}, {End: 100}}
	dirPut(t, s, "a", e, now)
	dirPut(t, s, "b", e, now)
	file := fileOf(o.Path, key("a"))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(fileOf(o.Path, key("b")))
	if err != nil {
		t.Fatal(err)
	}
	<-s.Scanned()
	for what, b := range damages(whole, other) {
		dirPut(t, s, "a", e, now)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if dirHas(t, s, "a", now) {
			t.Errorf("%s: given", what)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: not deleted: %v", what, err)
		}
	}
	if got, want := s.Stats(), (cache.Stats{Entries: 1, Bytes: 4096}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	outer := t
	t.Run("while it counts files", func(t *testing.T) {
		head := whole[:len(whole)-20]
		s = reopenDir(outer, s, o, func() {
			if err := os.WriteFile(file, head, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		<-s.Scanned()
		if _, files, _ := blocks(t, o.Path); files != 1 || !dirHas(t, s, "b", now) {
			t.Errorf("%d files, want b alone", files)
		}
	})
	t.Run("while it sweeps", func(t *testing.T) {
		if err := os.WriteFile(fileOf(o.Path, key("b")), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := s.Sweep(context.Background(), func(*cache.Meta) bool { return false })
		if _, files, _ := blocks(t, o.Path); n != 0 || err != nil || files != 0 || s.Stats() != (cache.Stats{}) {
			t.Errorf("swept %d, %v: %d files and %+v left", n, err, files, s.Stats())
		}
	})
	t.Run("and takes a file that somebody deleted for a missing entry", func(t *testing.T) {
		dirPut(t, s, "a", e, now)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if dirHas(t, s, "a", now) || s.Stats() != (cache.Stats{}) {
			t.Errorf("%+v", s.Stats())
		}
	})
}

func TestDirStoreTellsOfADirectoryThatItCannotWrite(t *testing.T) {
	o, now := cache.DirOptions{Path: t.TempDir()}, time.Now()
	s := openDir(t, o)
	<-s.Scanned() // which reads directories, and would tell of this one, too
	dir := filepath.Dir(fileOf(o.Path, key("a")))
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // not even root can write into a file
		t.Fatal(err)
	}
	err := s.Put(context.Background(), key("a"), dirEntry("", 10, now.Add(time.Hour)), now)
	if err == nil || !strings.HasPrefix(err.Error(), "cache: write: ") || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if held, _, _ := blocks(t, o.Path); held != 0 || s.Stats() != (cache.Stats{}) {
		t.Errorf("%d bytes, %+v", held, s.Stats())
	}
	dirPut(t, s, "a", dirEntry("", 10, now.Add(time.Hour)), now)
	if !dirHas(t, s, "a", now) {
		t.Error("not taken when it could be")
	}
}

// What is on the disk is what is counted, and within the bound, after each step.
func TestDirStoreKeepsToItsBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := cache.DirOptions{Path: t.TempDir(), MaxBytes: 128 << 10}
		s, now := openDir(t, o), time.Now()
		defer func() { _ = s.Close() }()
		for range 40 {
			name := strconv.Itoa(rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}).Draw(rt, "key"))
			now = now.Add(time.Millisecond)
			switch rapid.SampledFrom([]string{"put", "put", "put", "get", "delete", "restart"}).Draw(rt, "what") {
			case "put":
				e := dirEntry(rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "owner"),
					rapid.SampledFrom([]int{0, 4000, 10_000, 30_000, 60_000, 130 << 10}).Draw(rt, "size"),
					now.Add(rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, time.Hour}).Draw(rt, "ttl")))
				if err := s.Put(context.Background(), key(name), e, now); (err != nil) && !strings.Contains(err.Error(), "does not fit") {
					rt.Fatal(err)
				}
			case "get":
				dirHas(t, s, name, now)
			case "delete":
				if err := s.Delete(context.Background(), key(name)); err != nil {
					rt.Fatal(err)
				}
			case "restart":
				if rapid.SampledFrom([]bool{false, false, true}).Draw(rt, "really") {
					s = reopenDir(t, s, o, func() {})
					<-s.Scanned()
				}
			}
			held, files, others := blocks(t, o.Path)
			if st := s.Stats(); held > o.MaxBytes || others != 0 || st.Bytes != held || st.Entries != files {
				rt.Fatalf("%d bytes in %d files and %d others of at most %d: %+v", held, files, others, o.MaxBytes, st)
			}
		}
	})
}

func TestDirStoreCountsRightUnderLoad(t *testing.T) {
	o, now := cache.DirOptions{Path: t.TempDir(), MaxBytes: 256 << 10}, time.Now()
	s, ctx := openDir(t, o), context.Background()
	var wg sync.WaitGroup
	for i := range 4 {
		random := rand.New(rand.NewPCG(uint64(i), 2))
		wg.Go(func() {
			for range 400 {
				name := strconv.Itoa(random.IntN(40))
				e := dirEntry(strconv.Itoa(random.IntN(3)), random.IntN(20_000), now.Add(time.Duration(random.IntN(50))*time.Millisecond))
				var err error
				switch random.IntN(6) {
				case 0:
					err = s.Delete(ctx, key(name))
				case 1, 2, 3:
					err = s.Put(ctx, key(name), e, now)
				default:
					_, err = s.Get(ctx, key(name), now.Add(time.Duration(random.IntN(20))*time.Millisecond))
				}
				if err != nil && !strings.Contains(err.Error(), "no room") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	held, files, others := blocks(t, o.Path)
	st := s.Stats()
	if st.Bytes != held || st.Entries != files || held > o.MaxBytes || others != 0 || st.Evictions == 0 {
		t.Errorf("%d bytes in %d files and %d others of at most %d: %+v", held, files, others, o.MaxBytes, st)
	}
}
