package blob_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

// held is an upload whose body does not go on until it is released.
type held struct {
	reads   chan struct{} // closed by the first read
	release chan struct{}
	ended   chan error
	w       *httptest.ResponseRecorder
}

// Read waits, and then has the only byte.
func (h *held) Read(p []byte) (int, error) {
	close(h.reads)
	<-h.release
	return copy(p, "x"), io.EOF
}

func (*held) Close() error { return nil }

// hold begins an upload by a link, and returns when its body is read or it is refused.
func hold(t *testing.T, s *blob.Store, l blob.Link) (*held, error) {
	t.Helper()
	h := &held{make(chan struct{}), make(chan struct{}), make(chan error, 1), httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPut, l.URL, nil)
	r.Body, r.ContentLength, r.Header = h, 1, l.Header
	go func() { h.ended <- s.Serve(h.w, r, nil) }()
	select {
	case <-h.reads:
		return h, nil
	case err := <-h.ended:
		return nil, err
	}
}

func (h *held) finish(t *testing.T) {
	t.Helper()
	close(h.release)
	if err := <-h.ended; err != nil || h.w.Code != http.StatusCreated {
		t.Errorf("%d, %v", h.w.Code, err)
	}
}

func putLink(t *testing.T, s *blob.Store, c *clock, caller string) blob.Link {
	t.Helper()
	l, err := s.Link(context.Background(), blob.Grant{Method: http.MethodPut, Key: s.NewKey(caller, c.at.Add(time.Hour)), Type: "a/b", Bytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func isRefused(t *testing.T, what string, err error, status int) {
	t.Helper()
	p, ok := errors.AsType[*weir.Problem](err)
	if !ok || p.Status != status || p.RetryAfter <= 0 {
		t.Errorf("%s: %v, want %d and when to try again", what, err, status)
	}
}

func TestUploadsAtOnce(t *testing.T) {
	t.Run("are one of a link: the second writes nothing to the disk", func(t *testing.T) {
		c := newClock()
		s, dir := openDir(t, c, nil)
		l := putLink(t, s, c, alice.ID)
		first, err := hold(t, s, l)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			_, err := hold(t, s, l)
			isRefused(t, "another", err, http.StatusConflict)
		}
		aside, err := os.ReadDir(filepath.Join(dir, "uploads"))
		if err != nil || len(aside) != 1 {
			t.Errorf("%d files are being written, %v: want 1", len(aside), err)
		}
		first.finish(t)
	})
	t.Run("can be tried again where the first broke off", func(t *testing.T) {
		c := newClock()
		s, _ := openDir(t, c, nil)
		l := putLink(t, s, c, alice.ID)
		r := httptest.NewRequest(http.MethodPut, l.URL, nil)
		r.Body, r.ContentLength, r.Header = http.NoBody, 1, l.Header
		if p, _ := errors.AsType[*weir.Problem](s.Serve(httptest.NewRecorder(), r, nil)); p == nil || p.Status != http.StatusBadRequest {
			t.Fatalf("broken off: %v", p)
		}
		again, err := hold(t, s, l)
		if err != nil {
			t.Fatal(err)
		}
		again.finish(t)
	})
	t.Run("are 16 of a caller and 64 in all", func(t *testing.T) {
		c := newClock()
		s, _ := openDir(t, c, nil)
		var all []*held
		for caller := range 4 {
			id := fmt.Sprint("key:", caller)
			for range 16 {
				h, err := hold(t, s, putLink(t, s, c, id))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, h)
			}
			_, err := hold(t, s, putLink(t, s, c, id))
			isRefused(t, "the caller's 17th", err, http.StatusTooManyRequests)
		}
		_, err := hold(t, s, putLink(t, s, c, "key:other"))
		isRefused(t, "the 65th of all", err, http.StatusServiceUnavailable)
		for _, h := range all {
			h.finish(t)
		}
		last, err := hold(t, s, putLink(t, s, c, "key:0"))
		if err != nil {
			t.Fatal(err)
		}
		last.finish(t)
	})
}

func TestAdmit(t *testing.T) {
	type asked struct {
		caller string
		bytes  int64
	}
	var got []asked
	c := newClock()
	s, _ := openDir(t, c, func(o *blob.Options) {
		o.Admit = func(_ *http.Request, c weir.Caller, bytes int64) error {
			got = append(got, asked{c.ID, bytes})
			if len(got) > 1 {
				return &weir.Problem{Status: http.StatusTooManyRequests, Detail: "Over the quota."}
			}
			return nil
		}
	})
	base := serve(t, s).URL
	const body = `{"content_type": "image/png", "bytes": 1048576}`
	offer(t, base, body)
	t.Run("refuses the link with its own answer", func(t *testing.T) {
		a := ask(t, http.MethodPost, base+"/blobs", strings.NewReader(body), "X-Caller", alice.ID)
		if a.status != 429 || strings.Contains(a.body, "signature") || !strings.Contains(a.body, "Over the quota.") {
			t.Errorf("%+v", a)
		}
	})
	t.Run("is not asked for what is no request for a link", func(t *testing.T) {
		for name, body := range map[string]string{"nobody's": body, "malformed": "{", "too large": `{"content_type": "image/png", "bytes": 9999999999999}`} {
			var fields []string
			if name != "nobody's" {
				fields = []string{"X-Caller", alice.ID}
			}
			if a := ask(t, http.MethodPost, base+"/blobs", strings.NewReader(body), fields...); a.status < 400 {
				t.Errorf("%s: %+v", name, a)
			}
		}
	})
	if want := []asked{{alice.ID, 1 << 20}, {alice.ID, 1 << 20}}; !reflect.DeepEqual(got, want) {
		t.Errorf("asked %+v, want %+v", got, want)
	}
}

func TestUploadsWithoutBytesDoNotUseTheLinkUp(t *testing.T) {
	c := newClock()
	s, dir := openDir(t, c, nil)
	base := serve(t, s).URL
	o := offer(t, base, `{"content_type": "image/png", "bytes": 10}`)
	before := filesIn(t, dir)
	path := strings.TrimPrefix(o.Upload.URL, base)
	for field, want := range map[string]int{"": http.StatusLengthRequired, "Content-Length: 0\r\n": http.StatusBadRequest} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nConnection: close\r\n%s\r\n", path, field)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		_ = conn.Close()
		if res.StatusCode != want {
			t.Errorf("%q: %d, want %d", field, res.StatusCode, want)
		}
	}
	if got := filesIn(t, dir); !reflect.DeepEqual(got, before) {
		t.Errorf("left %q", got)
	}
	if got := ask(t, http.MethodPut, o.Upload.URL, strings.NewReader("0123456789"), "Content-Type", "image/png"); got.status != http.StatusCreated {
		t.Errorf("with bytes: %+v", got)
	}
}
