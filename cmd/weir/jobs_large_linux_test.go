package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestJobsAreLarge passes bodies through weir that are much larger than the memory that
// it may take for them: as a job's result and as an answer that becomes a link.
func TestJobsAreLarge(t *testing.T) {
	t.Parallel()
	size := int64(256 << 20)
	if _, set := soak(t); set {
		size = 1 << 30
	}
	big := newHook(t, largeAnswer)
	l := &largeWeir{sum: largeSum(size), size: size, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(l.client.CloseIdleConnections)
	l.process = start(t, jobsConfig(t, "sqlite:"+t.TempDir()+"/weir.db", big.URL,
		route("/link*", "work", "respond_async: allowed", "offload_over: 1MiB")), programs.path(t, "weir"))
	l.await(t, l.handIn(t, "/work", 1<<20)) // so that idle is not as if it had never worked
	l.idle = l.memory(t, "VmRSS")

	work, link := l.handIn(t, "/work", size), l.handIn(t, "/link", size)
	l.await(t, work)
	l.await(t, link)
	l.flat(t, "two jobs ran at once")
	l.whole(t, l.open(t, "/jobs/"+work+"/result", http.StatusOK))
	l.flat(t, "one's result was fetched through the jobs' API")
	l.linked(t, l.open(t, "/jobs/"+link+"/result", http.StatusSeeOther))
	l.flat(t, "the other's was fetched by its link")
	for _, chunked := range []bool{false, true} {
		l.linked(t, l.open(t, fmt.Sprintf("/link?bytes=%d&chunked=%t", size, chunked), http.StatusSeeOther))
		l.flat(t, fmt.Sprintf("a direct answer became a link, chunked %t", chunked))
	}
}

// largeBlock is what a large answer repeats.
func largeBlock() []byte {
	return bytes.Repeat([]byte("A large answer says the same again and again.\n"), 64<<10/46)
}

// largeAnswer answers with as many bytes as the query says, with or without their
// number.
func largeAnswer(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.FormValue("chunked") != "true" {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	_, _ = io.Copy(w, largeReader(n)) // a reader that leaves is seen by its own checks
}

// largeReader gives n bytes.
func largeReader(n int64) io.Reader { return io.LimitReader(&repeated{block: largeBlock()}, n) }

type repeated struct {
	block []byte
	at    int
}

// Read implements io.Reader.
func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

func largeSum(n int64) uint32 {
	sum := crc32.NewIEEE()
	_, _ = io.Copy(sum, largeReader(n)) // neither fails
	return sum.Sum32()
}

// largeWeir is a weir whose memory is looked at.
type largeWeir struct {
	*process
	client *http.Client // without a timeout
	size   int64
	sum    uint32
	idle   int64 // bytes
}

// memory is a line of /proc/PID/status, in bytes.
func (l *largeWeir) memory(t *testing.T, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in:\n%s", name, text)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// flat checks the most memory that weir ever had, which is 64 MiB above idle or less.
func (l *largeWeir) flat(t *testing.T, what string) {
	t.Helper()
	const most = 64 << 20
	peak := l.memory(t, "VmHWM")
	t.Logf("%4d MiB: %s: at most %d KiB, %d KiB above idle", l.size>>20, what, peak>>10, (peak-l.idle)>>10)
	if peak-l.idle > most {
		t.Errorf("%s: weir had %d MiB, %d MiB above idle, want at most %d MiB above", what, peak>>20, (peak-l.idle)>>20, most>>20)
	}
}

func (l *largeWeir) open(t *testing.T, path string, status int) *http.Response {
	t.Helper()
	client := *l.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	url := path
	if strings.HasPrefix(path, "/") {
		url = l.base + path
	}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		a, err := read(resp)
		t.Fatalf("%s: %d %.200q %v, want %d", path, a.Status, a.Body, err, status)
	}
	return resp
}

func (l *largeWeir) handIn(t *testing.T, path string, size int64) string {
	t.Helper()
	url := fmt.Sprintf("%s%s?bytes=%d&chunked=%t", l.base, path, size, path == "/work")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("please"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Prefer", "respond-async")
	resp, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	a, err := read(resp)
	var j jobView
	if err != nil || a.Status != http.StatusAccepted || json.Unmarshal([]byte(a.Body), &j) != nil {
		t.Fatalf("handed in: %d %s %v, want 202 and a job", a.Status, a.Body, err)
	}
	return j.ID
}

func (l *largeWeir) await(t *testing.T, id string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	for {
		j, err := look(ctx, l.client, l.base, id)
		switch {
		case err != nil:
			t.Fatal(err)
		case j.State == "completed":
			return
		case j.Error != nil || !pause(ctx, 20*time.Millisecond):
			t.Fatalf("job %s is %+v; stderr:\n%s", id, j, &l.stderr)
		}
	}
}

// whole reads a body that must be all of the answer.
func (l *largeWeir) whole(t *testing.T, resp *http.Response) {
	t.Helper()
	defer resp.Body.Close()
	sum := crc32.NewIEEE()
	n, err := io.Copy(sum, resp.Body)
	if err != nil || n != l.size || sum.Sum32() != l.sum {
		t.Errorf("read %d bytes with the sum %08x and the error %v, want %d with %08x", n, sum.Sum32(), err, l.size, l.sum)
	}
}

// linked follows a link, once for everything and once for the last bytes.
func (l *largeWeir) linked(t *testing.T, resp *http.Response) {
	t.Helper()
	_ = resp.Body.Close()
	link := resp.Header.Get("Location")
	l.whole(t, l.open(t, link, http.StatusOK))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.base+link, nil)
	if err != nil {
		t.Fatal(err)
	}
	const part = 1000
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-", l.size-part))
	if resp, err = l.client.Do(r); err != nil {
		t.Fatal(err)
	}
	a, err := read(resp)
	all := bytes.Repeat(largeBlock(), 2)
	at := (l.size - part) % int64(len(all)/2)
	if want := string(all[at : at+part]); err != nil || a.Status != http.StatusPartialContent || a.Body != want {
		t.Errorf("the last %d bytes: %d, %v and %.200q, want 206 and %.200q", part, a.Status, err, a.Body, want)
	}
}
