package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// link is a JSON link to a blob.
type link struct {
	URL         string `json:"url"`
	Expires     time.Time
	Bytes       int64
	ContentType string `json:"content_type"`
}

func (a answer) link(t *testing.T) (l link) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &l); err != nil || l.URL == "" {
		t.Fatalf("%d %q is no link: %v", a.status, a.body, err)
	}
	return l
}

// path is a link's without the host, for clients who always ask the same.
func path(t *testing.T, link string) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	return u.RequestURI()
}

// large answers with as many bytes as the query says, all at once or in parts.
func large(w http.ResponseWriter, r *http.Request) {
	_ = taken(r)
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	h := w.Header()
	h.Set("Content-Type", "audio/wav")
	h.Set("Etag", `"theirs"`)
	h.Set("X-Kept", "yes")
	if kind := r.URL.Query().Get("type"); kind != "" {
		h.Set("Content-Type", kind)
	}
	if r.URL.Query().Has("whole") {
		h.Set("Content-Length", strconv.Itoa(n))
	}
	if s := r.URL.Query().Get("status"); s != "" {
		status, _ := strconv.Atoi(s)
		w.WriteHeader(status)
	}
	if r.Method == "HEAD" {
		return
	}
	part := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	for n > 0 {
		m := min(n, len(part))
		if _, err := w.Write(part[:m]); err != nil {
			return
		}
		n -= m
		if !r.URL.Query().Has("whole") {
			_ = http.NewResponseController(w).Flush()
		}
	}
	if r.URL.Query().Has("breaks") {
		panic(http.ErrAbortHandler)
	}
}

func pattern(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

const offloadOver = 100 << 10

func TestLargeAnswersAreLinks(t *testing.T) {
	t.Parallel()
	w := keep(t, with("offload_over: 100KiB, "+policies("{name: bytes, quota: 1073741824, window: 1h, unit: bytes, by: caller, algorithm: fixed_window}"), ""), http.HandlerFunc(large))
	for name, how := range map[string]string{"with a length": "&whole", "in parts": ""} {
		for _, n := range []int{0, 1, offloadOver - 1, offloadOver} {
			a := w.as(1, "GET", "/x?n="+strconv.Itoa(n)+how, "")
			if a.status != 200 || a.body != pattern(n) || a.header.Get("Etag") != `"theirs"` || a.err != nil {
				t.Errorf("%s, %d bytes: %d %v %.30q… %d bytes", name, n, a.status, a.header, a.body, len(a.body))
			}
		}
		for _, n := range []int{offloadOver + 1, 1 << 20} {
			t.Run(name+", "+strconv.Itoa(n)+" bytes", func(t *testing.T) {
				to := "/x?n=" + strconv.Itoa(n) + how
				a := w.as(1, "GET", to, "")
				where := a.header.Get("Location")
				if a.status != 303 || !strings.HasPrefix(where, "/blobs/") || a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Kept") != "yes" || a.header.Get("Etag") != "" || len(a.body) > 1000 {
					t.Fatalf("%d %v %.100q", a.status, a.header, a.body)
				}
				got := w.send("GET", where, "")
				h := got.header
				if got.status != 200 || got.body != pattern(n) || h.Get("Content-Type") != "audio/wav" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") {
					t.Errorf("the link: %d %v, %d bytes", got.status, h, len(got.body))
				}
				part := w.send("GET", where, "", "Range", "bytes=5-10")
				if part.status != 206 || part.body != "56789a" || part.header.Get("Content-Range") != "bytes 5-10/"+strconv.Itoa(n) {
					t.Errorf("a range: %d %v %q", part.status, part.header, part.body)
				}
				if head := w.send("HEAD", where, ""); head.status != 200 || head.header.Get("Content-Length") != strconv.Itoa(n) {
					t.Errorf("HEAD: %d %v", head.status, head.header)
				}
				if theirs := w.as(2, "GET", where, ""); theirs.status != 404 {
					t.Errorf("another's: %d", theirs.status)
				}
				if own := w.as(1, "GET", where, ""); own.status != 200 {
					t.Errorf("the owner's with a key: %d %s", own.status, own.body)
				}
				l := w.as(1, "GET", to, "", "Accept", "application/json").link(t)
				if l.Bytes != int64(n) || l.ContentType != "audio/wav" || !strings.HasPrefix(l.URL, "http://weir.example/blobs/") || time.Until(l.Expires) <= 0 {
					t.Errorf("as JSON: %+v", l)
				}
				if got := w.send("GET", path(t, l.URL), ""); got.body != pattern(n) {
					t.Errorf("the link: %d, %d bytes", got.status, len(got.body))
				}
			})
		}
	}
	for name, to := range map[string]string{
		"a stream":          "/x?n=300000&type=text/event-stream",
		"lines":             "/x?n=300000&type=application/x-ndjson",
		"an error":          "/x?n=300000&status=500",
		"a 201":             "/x?n=300000&status=201&whole",
		"an error by whole": "/x?n=300000&status=404&whole",
	} {
		if a := w.as(1, "GET", to, ""); a.status == 303 || len(a.body) != 300000 || a.err != nil {
			t.Errorf("%s: %d %v, %d bytes, %v", name, a.status, a.header, len(a.body), a.err)
		}
	}
	if a := w.as(1, "HEAD", "/x?n=300000&whole", ""); a.status != 200 || a.header.Get("Content-Length") != "300000" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	a := w.as(3, "GET", "/x?n=1048576", "")
	if now := w.remains(3, "bytes"); a.status != 303 || now != strconv.Itoa(1<<30-1<<20-len(a.body)) {
		t.Errorf("%d; %s bytes are left after 1 MiB of 1 GiB", a.status, now)
	}
	if u := w.used("key:u3"); u.Requests != 2 || u.Errors != 0 {
		t.Errorf("the ledger: %+v", u)
	}
	if a := w.as(1, "GET", "/x?n=300000&breaks", ""); a.status == 303 || a.err == nil && a.status < 500 {
		t.Errorf("an answer that breaks off: %d %v %q, %v", a.status, a.header, a.body, a.err)
	}
}

func TestOffloadingBesideACache(t *testing.T) {
	w := keep(t, with("offload_over: 100KiB, cache: {mode: http}", ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		large(w, r)
	}))
	for range 2 {
		if a := w.as(1, "GET", "/x?n=200000", ""); a.status != 303 || len(w.send("GET", a.header.Get("Location"), "").body) != 200000 {
			t.Errorf("large: %d %v %d bytes", a.status, a.header, len(a.body))
		}
		if a := w.as(1, "GET", "/x?n=1000", ""); a.status != 200 || a.body != pattern(1000) {
			t.Errorf("small: %d %v", a.status, a.header)
		}
	}
	if a := w.as(1, "GET", "/x?n=1000", ""); !strings.Contains(a.header.Get("Cache-Status"), "hit") {
		t.Errorf("a small one is not cached: %v", a.header)
	}
}

func TestLargeResultsOfJobs(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(with("offload_over: 100KiB", ""), "routes: [", "routes: [{name: whole, match: {path: /whole}, upstream: u, respond_async: allowed}, ", 1)
	w := keep(t, yaml, http.HandlerFunc(large))
	for to, linked := range map[string]bool{"/x?n=300000": true, "/whole?n=300000": false, "/x?n=80000": false, "/x?n=102400": false, "/x?n=102401": true} {
		j := w.handIn(1, to, "")
		w.becomes(1, j.ID, "completed")
		n, _ := strconv.Atoi(to[strings.Index(to, "=")+1:])
		a := w.result(1, j.ID)
		if !linked {
			if a.status != 200 || a.body != pattern(n) || a.header.Get("Content-Type") != "audio/wav" {
				t.Errorf("%s: %d %v, %d bytes", to, a.status, a.header, len(a.body))
			}
			continue
		}
		if a.status != 303 || w.send("GET", a.header.Get("Location"), "").body != pattern(n) {
			t.Errorf("%s: %d %v", to, a.status, a.header)
		}
		l := w.result(1, j.ID, "Accept", "application/json").link(t)
		if l.Bytes != int64(n) || l.ContentType != "audio/wav" || w.send("GET", path(t, l.URL), "").body != pattern(n) {
			t.Errorf("%s: %+v", to, l)
		}
		if theirs := w.result(2, j.ID); theirs.status != 404 {
			t.Errorf("another's: %d", theirs.status)
		}
	}
}

// peak is the most memory that is in use while f runs, above what was before.
func peak(f func()) uint64 {
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	runtime.GC()
	idle, most := inUse(), uint64(0)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			most = max(most, inUse())
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	f()
	stop()
	wg.Wait()
	return most - min(most, idle)
}

func TestALargeAnswerTakesLittleMemory(t *testing.T) {
	const n = 200 << 20
	w := keep(t, with("offload_over: 100KiB", "")+"", http.HandlerFunc(large))
	read := func(where string) (sum int64) {
		r := w.open("GET", where, "", of(1)...)
		sum, err := io.Copy(io.Discard, r.Body)
		if err != nil || r.StatusCode != 200 {
			t.Error(r.StatusCode, err)
		}
		return sum
	}
	for name, how := range map[string]func() int64{
		"offloaded": func() int64 {
			return read(w.as(1, "GET", "/x?n="+strconv.Itoa(n), "").header.Get("Location"))
		},
		"a job's": func() int64 {
			j := w.handIn(1, "/x?n="+strconv.Itoa(n), "")
			w.becomes(1, j.ID, "completed")
			return read(w.result(1, j.ID).header.Get("Location"))
		},
	} {
		var got int64
		if used := peak(func() { got = how() }); used > 64<<20 || got != n {
			t.Errorf("%s: %d bytes came, with %d MiB of memory", name, got, used>>20)
		}
	}
}
