package blob_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

func TestLink(t *testing.T) {
	ctx := context.Background()
	c := newClock()
	s, _ := openDir(t, c, nil)
	key := s.NewKey(alice.ID, c.at.Add(24*time.Hour))
	link := func(g blob.Grant) (blob.Link, error) { g.Key = key; return s.Link(ctx, g) }

	t.Run("is a path that expires", func(t *testing.T) {
		got, err := link(blob.Grant{Method: http.MethodGet, Caller: alice.ID})
		want := blob.Link{URL: got.URL, Expires: c.at.Add(5 * time.Minute), Local: true}
		if err != nil || !reflect.DeepEqual(got, want) || !strings.HasPrefix(got.URL, "/blobs/"+key+"?expires=") {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("says what a PUT must send", func(t *testing.T) {
		got, err := link(blob.Grant{Method: http.MethodPut, Type: "image/png", Bytes: 10, For: time.Hour})
		want := blob.Link{URL: got.URL, Header: http.Header{"Content-Type": {"image/png"}}, Expires: c.at.Add(time.Hour), Local: true}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("is never good for longer than the blob", func(t *testing.T) {
		got, err := link(blob.Grant{Method: http.MethodGet, For: 7 * 24 * time.Hour})
		if want := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC); err != nil || !got.Expires.Equal(want) {
			t.Errorf("%s, %v, want %s", got.Expires, err, want)
		}
	})
	t.Run("is not made of another caller's key", func(t *testing.T) {
		if got, err := link(blob.Grant{Method: http.MethodGet, Caller: bob.ID}); err != blob.ErrNotFound {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("is not made without what binds it", func(t *testing.T) {
		for want, g := range map[string]blob.Grant{
			"want GET or PUT":          {Method: http.MethodDelete},
			"from 1s to 168h":          {Method: http.MethodGet, For: 7*24*time.Hour + 1},
			"no number of bytes":       {Method: http.MethodGet, Bytes: 1},
			"needs the type":           {Method: http.MethodPut, Bytes: 1},
			"want a media type":        {Method: http.MethodPut, Type: "image", Bytes: 1},
			"PUT 0 bytes":              {Method: http.MethodPut, Type: "image/png"},
			"from 1 to 5368709120":     {Method: http.MethodPut, Type: "image/png", Bytes: 5<<30 + 1},
			"a link that is good for ": {Method: http.MethodGet, For: -time.Second},
		} {
			if got, err := link(g); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v, %v, want %q", got, err, want)
			}
		}
	})
	t.Run("is the same without the directory", func(t *testing.T) {
		g := blob.Grant{Method: http.MethodPut, Key: key, Type: "image/png", Name: "a b.png", Bytes: 10}
		want, err := s.Link(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		o := blob.Options{URL: "dir:does/not/exist", SigningKey: secret, Now: c.now}
		if got, err := blob.Sign(ctx, o, g); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		o.SigningKey = secret[1:]
		if got, err := blob.Sign(ctx, o, g); err == nil {
			t.Errorf("%+v", got)
		}
	})
}

// TestLinkOnS3 looks at links to a bucket: the store signs them, and they bind as much.
func TestLinkOnS3(t *testing.T) {
	ctx := context.Background()
	address, _ := newS3(t)
	s := open(t, blob.Options{URL: address, SigningKey: secret})
	key := s.NewKey(alice.ID, time.Now().Add(24*time.Hour))
	g := blob.Grant{Method: http.MethodPut, Key: key, Caller: alice.ID, Type: "image/png", Name: "é.png", Bytes: 10}
	put, err := s.Link(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	name := `attachment; filename="_.png"; filename*=UTF-8''%C3%A9.png`
	t.Run("a PUT is bound to type, length, name and an empty place", func(t *testing.T) {
		want := http.Header{"Content-Type": {"image/png"}, "Content-Length": {"10"}, "Content-Disposition": {name}, "If-None-Match": {"*"}}
		u, err := url.Parse(put.URL)
		if err != nil || put.Local || !reflect.DeepEqual(put.Header, want) {
			t.Fatalf("%+v, %v", put, err)
		}
		if got := u.Query().Get("X-Amz-SignedHeaders"); got != "content-disposition;content-length;content-type;host;if-none-match" {
			t.Errorf("signed: %s", got)
		}
		if u.Query().Get("X-Amz-Expires") != "299" && u.Query().Get("X-Amz-Expires") != "300" || strings.Contains(u.RawQuery, "hecksum") {
			t.Errorf("%s", u.RawQuery)
		}
	})
	t.Run("it takes in the file once, and a GET gives it out, in parts too", func(t *testing.T) {
		fields := []string{"Content-Type", "image/png", "Content-Disposition", name, "If-None-Match", "*"}
		if got := ask(t, http.MethodPut, put.URL, strings.NewReader("0123456789"), fields...); got.status != 200 {
			t.Fatalf("%+v", got)
		}
		if got := ask(t, http.MethodPut, put.URL, strings.NewReader("9876543210"), fields...); got.status != http.StatusPreconditionFailed {
			t.Errorf("again: %+v", got)
		}
		if got, err := s.Stat(ctx, key); err != nil || got.Type != "image/png" || got.Name != "é.png" || got.Bytes != 10 {
			t.Errorf("%+v, %v", got, err)
		}
		get, err := s.Link(ctx, blob.Grant{Method: http.MethodGet, Key: key, Type: "image/png", Name: "é.png"})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, http.MethodGet, get.URL, nil, "Range", "bytes=2-4"); got.status != 206 || got.body != "234" || got.header.Get("Content-Type") != "image/png" {
			t.Errorf("%+v", got)
		}
		q, _ := url.Parse(get.URL)
		if q.Query().Get("response-content-disposition") != name || q.Query().Get("response-content-type") != "image/png" {
			t.Errorf("%s", get.URL)
		}
	})
	t.Run("a link here is good for nothing", func(t *testing.T) {
		dir, _ := openDir(t, &clock{time.Now()}, nil)
		link, err := dir.Link(ctx, blob.Grant{Method: http.MethodGet, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, http.MethodGet, serve(t, s).URL+link.URL, nil); got.status != http.StatusForbidden {
			t.Errorf("%+v", got)
		}
	})
	t.Run("Sign makes one without a signing key", func(t *testing.T) {
		g.Caller = "" // the key says whose keys are whose
		got, err := blob.Sign(ctx, blob.Options{URL: address}, g)
		if err != nil || !reflect.DeepEqual(got.Header, put.Header) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestStoreAway asks a store that nobody serves any more.
func TestStoreAway(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond) // the SDK tries again for seconds
	defer cancel()
	address, server := newS3(t)
	s := open(t, blob.Options{URL: address, SigningKey: secret})
	server.Close()
	key := s.NewKey(alice.ID, time.Now().Add(time.Hour))
	_, statErr := s.Stat(ctx, key)
	_, openErr := s.Open(ctx, key)
	for _, err := range []error{statErr, openErr, s.Delete(ctx, key)} {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok || p.Status != http.StatusServiceUnavailable || p.RetryAfter != 5*time.Second {
			t.Errorf("%v", err)
		}
	}
	if n, err := s.Sweep(ctx); n != 0 || err == nil {
		t.Errorf("swept %d, %v", n, err)
	}
}

// TestAbandonedUploads leaves uploads in parts on S3, as a crash does.
func TestAbandonedUploads(t *testing.T) {
	address, server := newS3(t)
	for _, prefix := range []string{"", "weir/"} {
		t.Run("are removed after a day below "+prefix, func(t *testing.T) {
			c := &clock{time.Now()}
			s := open(t, blob.Options{URL: address + "&prefix=" + prefix, SigningKey: secret, Now: c.now})
			ours, others := server.URL+"/models/"+prefix+s.NewKey(alice.ID, c.at.Add(48*time.Hour)), server.URL+"/models/"+prefix+"backup"
			for _, at := range []string{ours, others} {
				if got := ask(t, http.MethodPost, at+"?uploads", nil); got.status != 200 {
					t.Fatalf("%+v", got)
				}
			}
			uploads := func() string { return ask(t, http.MethodGet, server.URL+"/models?uploads", nil).body }
			has := func(at string) bool {
				return strings.Contains(uploads(), strings.TrimPrefix(at, server.URL+"/models/")+"<")
			}
			c.at = c.at.Add(23 * time.Hour)
			if _, err := s.Sweep(context.Background()); err != nil || !has(ours) || !has(others) {
				t.Errorf("after 23h: %v: %s", err, uploads())
			}
			c.at = c.at.Add(2 * time.Hour)
			if _, err := s.Sweep(context.Background()); err != nil || has(ours) || !has(others) {
				t.Errorf("after 25h: %v: %s", err, uploads())
			}
		})
	}
}
