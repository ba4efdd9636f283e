package blob_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

// offered is what a POST is answered with.
type offered struct {
	Key    string `json:"key"`
	Upload struct {
		Method  string            `json:"method"`
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
		Expires time.Time         `json:"expires"`
	} `json:"upload"`
	URL       string    `json:"url"`
	Expires   time.Time `json:"expires"`
	KeptUntil time.Time `json:"kept_until"`
}

func offer(t testing.TB, base, body string) offered {
	t.Helper()
	got := ask(t, http.MethodPost, base+"/blobs", strings.NewReader(body), "X-Caller", alice.ID)
	var o offered
	if err := json.Unmarshal([]byte(got.body), &o); err != nil || got.status != 201 || got.header.Get("Location") != "/blobs/"+o.Key {
		t.Fatalf("%+v, %v", got, err)
	}
	return o
}

func TestUpload(t *testing.T) {
	c := newClock()
	s, dir := openDir(t, c, nil)
	base := serve(t, s).URL
	const want10 = `{"content_type": "image/png", "bytes": 10, "name": "a.png", "keep": "2h"}`

	t.Run("is offered with all that it needs", func(t *testing.T) {
		got := offer(t, base, want10)
		want := got
		want.Upload.Method, want.Upload.Headers, want.Upload.Expires = "PUT", map[string]string{"Content-Type": "image/png"}, c.at.Add(5*time.Minute)
		want.Expires, want.KeptUntil = c.at.Add(5*time.Minute), time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
		if !reflect.DeepEqual(got, want) || !s.Owns(alice.ID, got.Key) || !strings.HasPrefix(got.Upload.URL, base+"/blobs/"+got.Key+"?") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("takes the file in, once", func(t *testing.T) {
		o := offer(t, base, want10)
		if got := ask(t, http.MethodGet, o.URL, nil); got.status != 404 {
			t.Errorf("before: %+v", got)
		}
		got := ask(t, http.MethodPut, o.Upload.URL, strings.NewReader("0123456789"), "Content-Type", "image/png")
		var said struct {
			URL   string `json:"url"`
			Bytes int64  `json:"bytes"`
			Type  string `json:"content_type"`
		}
		if err := json.Unmarshal([]byte(got.body), &said); err != nil || got.status != 201 || said.Bytes != 10 || said.Type != "image/png" {
			t.Fatalf("%+v, %v", got, err)
		}
		if got := ask(t, http.MethodPut, o.Upload.URL, strings.NewReader("9876543210"), "Content-Type", "image/png"); got.status != 409 {
			t.Errorf("again: %+v", got)
		}
		for _, at := range []string{o.URL, said.URL} {
			got := ask(t, http.MethodGet, at, nil)
			if got.status != 200 || got.body != "0123456789" || got.header.Get("Content-Disposition") != `attachment; filename="a.png"` {
				t.Errorf("%+v", got)
			}
		}
	})
	t.Run("takes in one of several at once", func(t *testing.T) {
		o := offer(t, base, want10)
		var taken, refused atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				got := ask(t, http.MethodPut, o.Upload.URL, strings.NewReader(strings.Repeat(fmt.Sprint(i), 10)), "Content-Type", "image/png")
				switch got.status {
				case 201:
					taken.Add(1)
				case 409:
					refused.Add(1)
				}
			})
		}
		all.Wait()
		if taken.Load() != 1 || refused.Load() != 7 {
			t.Errorf("%d taken, %d refused", taken.Load(), refused.Load())
		}
	})
	t.Run("refuses what the link is not for, and leaves nothing", func(t *testing.T) {
		before := filesIn(t, dir)
		for name, u := range map[string]struct {
			body   io.Reader
			fields []string
			status int
		}{
			"too long":     {strings.NewReader("01234567890"), []string{"Content-Type", "image/png"}, 413},
			"another type": {strings.NewReader("0"), []string{"Content-Type", "text/html"}, 415},
			"no type":      {strings.NewReader("0"), nil, 415},
			"two types":    {strings.NewReader("0"), []string{"Content-Type", "image/png", "Content-Type", "image/png"}, 415},
			"compressed":   {strings.NewReader("0"), []string{"Content-Type", "image/png", "Content-Encoding", "gzip"}, 415},
			"a part":       {strings.NewReader("0"), []string{"Content-Type", "image/png", "Content-Range", "bytes 0-0/10"}, 400},
			"no length":    {io.MultiReader(strings.NewReader("0")), []string{"Content-Type", "image/png"}, 411},
			"another's":    {strings.NewReader("0"), []string{"Content-Type", "image/png", "X-Caller", bob.ID}, 404},
		} {
			if got := ask(t, http.MethodPut, offer(t, base, want10).Upload.URL, u.body, u.fields...); got.status != u.status {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if got := filesIn(t, dir); !reflect.DeepEqual(got, before) {
			t.Errorf("left %q", got)
		}
	})
	t.Run("leaves nothing of a body that breaks off", func(t *testing.T) {
		before := filesIn(t, dir)
		o := offer(t, base, want10)
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 10\r\n\r\n01234", strings.TrimPrefix(o.Upload.URL, base))
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 400 {
			t.Fatalf("%v, %v", res, err)
		}
		_ = res.Body.Close()
		if got := filesIn(t, dir); !reflect.DeepEqual(got, before) {
			t.Errorf("left %q", got)
		}
	})
	t.Run("is offered to nobody without a name, and not for nonsense", func(t *testing.T) {
		if got := ask(t, http.MethodPost, base+"/blobs/", strings.NewReader(want10)); got.status != 401 {
			t.Errorf("%+v", got)
		}
		for body, want := range map[string]int{
			``:                                       400,
			`[]`:                                     400,
			`{"content_type": "a/b", "bytes": 1} {}`: 400,
			`{"content_type": "a/b", "bytes": 1, "x": 1}`:             400,
			`{"content_type": "ab", "bytes": 1}`:                      400,
			`{"content_type": "a/b"}`:                                 400,
			`{"content_type": "a/b", "bytes": -1}`:                    400,
			`{"content_type": "a/b", "bytes": 5368709121}`:            413,
			`{"content_type": "a/b", "bytes": 1, "keep": "8d"}`:       400,
			`{"content_type": "a/b", "bytes": 1, "keep": "59s"}`:      400,
			`{"content_type": "a/b", "bytes": 1, "keep": "for ever"}`: 400,
			`{"name": "` + strings.Repeat("x", 16<<10) + `"}`:         413,
		} {
			if got := ask(t, http.MethodPost, base+"/blobs/", strings.NewReader(body), "X-Caller", alice.ID); got.status != want {
				t.Errorf("%.80s: %+v, want %d", body, got, want)
			}
		}
	})
	t.Run("goes to S3 and never here", func(t *testing.T) {
		address, _ := newS3(t)
		s := open(t, blob.Options{URL: address, SigningKey: secret})
		o := offer(t, serve(t, s).URL, want10)
		fields := []string{}
		for name, value := range o.Upload.Headers {
			if name != "Content-Length" {
				fields = append(fields, name, value)
			}
		}
		if got := ask(t, o.Upload.Method, o.Upload.URL, strings.NewReader("0123456789"), fields...); got.status != 200 {
			t.Fatalf("%+v", got)
		}
		if got := ask(t, http.MethodGet, o.URL, nil); got.status != 200 || got.body != "0123456789" {
			t.Errorf("%+v", got)
		}
	})
}

// slow is a connection whose client sends a byte a second, and its deadlines hold.
type slow struct {
	*httptest.ResponseRecorder
	every    time.Duration
	deadline time.Time
}

func (s *slow) SetReadDeadline(at time.Time) error { s.deadline = at; return nil }

func (s *slow) Read(p []byte) (int, error) {
	time.Sleep(s.every)
	if !s.deadline.IsZero() && time.Now().After(s.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(p, "x"), nil
}

func (*slow) Close() error { return nil }

func TestSlowUpload(t *testing.T) {
	for name, c := range map[string]struct {
		every  time.Duration
		status int
		within time.Duration
	}{
		"ends one that is slower than the rate": {time.Second, http.StatusRequestTimeout, 31 * time.Second},
		"lets one come that is as fast":         {100 * time.Millisecond, http.StatusCreated, 101 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := &clock{time.Now()}
				s, _ := openDir(t, clock, func(o *blob.Options) { o.BodyMinRate = 9 })
				link, err := s.Link(context.Background(), blob.Grant{Method: http.MethodPut, Key: s.NewKey(alice.ID, clock.at.Add(time.Hour)), Type: "a/b", Bytes: 1000})
				if err != nil {
					t.Fatal(err)
				}
				w := &slow{ResponseRecorder: httptest.NewRecorder(), every: c.every}
				r := httptest.NewRequest(http.MethodPut, link.URL, nil)
				r.Body, r.ContentLength, r.Header = &until{w, 1000}, 1000, link.Header
				start := time.Now()
				err = s.Serve(w, r, nil)
				status := w.Code
				if p, ok := errors.AsType[*weir.Problem](err); ok {
					status = p.Status
				}
				if took := time.Since(start); status != c.status || took > c.within || !w.deadline.IsZero() {
					t.Errorf("%d after %v, deadline %v: %v", status, took, w.deadline, err)
				}
			})
		})
	}
}

// until is a body that ends after some bytes.
type until struct {
	*slow
	left int
}

func (u *until) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, io.EOF
	}
	n, err := u.slow.Read(p)
	u.left -= n
	return n, err
}
