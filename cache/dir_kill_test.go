//go:build unix

package cache_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
)

var (
	kills    = flag.Int("kills", 100, "how often TestDirStoreSurvivesKill kills a process that writes")
	killed   = flag.String("killed", "", "be the process that writes into this directory until it is killed")
	fullDisk = flag.String("full-disk", "", "be the process that writes into this directory and may write no file above 64 KiB")
)

const (
	killBytes = 2 << 20
	killKeys  = 400
)

// ofKey is the entry of a key in one of its versions, which is in every part of
// it: no two differ in less than much.
func ofKey(name, version int) *cache.Entry {
	text := strconv.Itoa(name) + "," + strconv.Itoa(version)
	seed := sha256.Sum256([]byte(text))
	random := rand.NewChaCha8(seed)
	body := make([]byte, random.Uint64()%40_000)
	_, _ = random.Read(body)
	until := time.Date(2100, 1, 1, 0, 0, 0, version, time.UTC)
	return &cache.Entry{
		Meta:   cache.Meta{Owner: "key:" + strconv.Itoa(name%7), Labels: []string{text}, Epoch: uint64(version)},
		Status: 200, Header: http.Header{"X-Text": {text}}, Body: body, ETag: `"` + text + `"`,
		Made: until.Add(-time.Hour), Expires: until, Until: until, Took: time.Duration(1+random.Uint64()%5000) * time.Millisecond,
		Frames: []cache.Frame{{End: len(body) / 2}, {End: len(body), At: time.Duration(version)}},
	}
}

// writeUntilKilled puts, gets and deletes at random, and tells of each operation
// by a byte.
func writeUntilKilled(t *testing.T, dir string) {
	s := openDir(t, cache.DirOptions{Path: dir, MaxBytes: killBytes})
	for range 3 {
		go func() {
			for {
				name := rand.IntN(killKeys)
				var err error
				switch rand.IntN(8) {
				case 0:
					err = s.Delete(context.Background(), key(strconv.Itoa(name)))
				case 1:
					_, err = s.Get(context.Background(), key(strconv.Itoa(name)), time.Now())
				default:
					err = s.Put(context.Background(), key(strconv.Itoa(name)), ofKey(name, rand.IntN(1000)), time.Now())
				}
				if err != nil {
					fmt.Println("!", err)
					os.Exit(1)
				}
				fmt.Print(".")
			}
		}()
	}
	select {}
}

// TestDirStoreSurvivesKill kills a process that writes at random moments, also
// while it opens the store and counts files, and looks at what there is then.
func TestDirStoreSurvivesKill(t *testing.T) {
	if *killed != "" {
		writeUntilKilled(t, *killed)
	}
	dir, entries, temporaries := t.TempDir(), 0, 0
	for range *kills {
		killOnce(t, dir)
		_, _, others := blocks(t, dir)
		temporaries += others
		entries += checkKilled(t, dir)
	}
	t.Logf("%d kills: %d entries looked at, %d interrupted writes", *kills, entries, temporaries)
	if entries < *kills {
		t.Errorf("only %d entries in all: the test tests nothing", entries)
	}
}

func killOnce(t *testing.T, dir string) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestDirStoreSurvivesKill$", "-killed="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// How far it is then is the random moment: nothing here waits for time to pass.
	progress := make([]byte, rand.IntN(300))
	_, err = io.ReadFull(bufio.NewReaderSize(out, 16), progress)
	if err != nil || bytes.Contains(progress, []byte("!")) {
		t.Errorf("the process ended by itself: %s, %v", progress, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("the process was not killed: %v", err)
	}
}

// checkKilled opens the directory and returns how many entries it has, which are
// all whole.
func checkKilled(t *testing.T, dir string) (entries int) {
	t.Helper()
	s, err := cache.OpenDir(cache.DirOptions{Path: dir, MaxBytes: killBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-s.Scanned()
	for name := range killKeys {
		k := key(strconv.Itoa(name))
		_, err := os.Stat(fileOf(dir, k))
		there := err == nil
		got, err := s.Get(context.Background(), k, time.Now())
		if err != nil || (got != nil) != there {
			t.Errorf("key %d: %+v, %v, and the file is there: %t", name, got, err, there)
		}
		if got == nil {
			continue
		}
		entries++
		if want := ofKey(name, int(got.Epoch)); !reflect.DeepEqual(got, want) {
			t.Errorf("key %d is not what was put: %+v", name, got.Meta)
		}
	}
	held, files, others := blocks(t, dir)
	if st := s.Stats(); held > killBytes || others != 0 || files != entries || st.Entries != files || st.Bytes != held {
		t.Errorf("%d bytes of at most %d in %d files with %d entries, and %d others: %+v", held, killBytes, files, entries, others, st)
	}
	return entries
}

// A process that may not write beyond 64 KiB of a file finds out in the middle of
// one, as on a disk that is full.
func TestDirStoreLeavesNothingOnAFullDisk(t *testing.T) {
	if *fullDisk != "" {
		writeOnFullDisk(t, *fullDisk)
		return
	}
	dir := filepath.Join(t.TempDir(), "cache")
	child := exec.Command(os.Args[0], "-test.run=^TestDirStoreLeavesNothingOnAFullDisk$", "-full-disk="+dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if held, files, others := blocks(t, dir); held != 2*4096 || files != 2 || others != 0 {
		t.Errorf("%d bytes in %d files and %d others: want two small entries", held, files, others)
	}
}

func writeOnFullDisk(t *testing.T, dir string) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	s, now := openDir(t, cache.DirOptions{Path: dir}), time.Now()
	dirPut(t, s, "small", dirEntry("", 100, now.Add(time.Hour)), now)
	for range 3 {
		err := s.Put(context.Background(), key("small"), dirEntry("", 1<<20, now.Add(time.Hour)), now)
		if !errors.Is(err, syscall.EFBIG) || bytes.Count([]byte(err.Error()), []byte("file too large")) != 1 {
			t.Errorf("got %v, want one error", err)
		}
	}
	dirPut(t, s, "another", dirEntry("", 100, now.Add(time.Hour)), now)
	e, err := s.Get(context.Background(), key("small"), now)
	if err != nil || e == nil || len(e.Body) != 100 {
		t.Errorf("what was there before: %+v, %v", e, err)
	}
	if got, want := s.Stats(), (cache.Stats{Entries: 2, Bytes: 2 * 4096}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
