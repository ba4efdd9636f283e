package blob_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	secret = []byte("0123456789abcdef0123456789abcdef")
	alice  = weir.Caller{ID: "key:alice"}
	bob    = weir.Caller{ID: "key:bob"}
	nobody = weir.Caller{ID: "ip:192.0.2.1", Anonymous: true}
)

// clock is a time that a test sets.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{at: time.Date(2026, 11, 22, 18, 20, 0, 0, time.UTC)} }

// openDir opens a store in a new directory, at a time that the test sets.
func openDir(t testing.TB, c *clock, change func(*blob.Options)) (*blob.Store, string) {
	t.Helper()
	dir := t.TempDir()
	o := blob.Options{URL: "dir:" + dir, SigningKey: secret, Now: c.now}
	if change != nil {
		change(&o)
	}
	return open(t, o), dir
}

func open(t testing.TB, o blob.Options) *blob.Store {
	t.Helper()
	s, err := blob.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newS3 starts an S3 server in this process, and returns the URL of a bucket.
func newS3(t testing.TB) (address string, server *httptest.Server) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "an example, not a secret")
	t.Setenv("AWS_REGION", "")
	backend := s3mem.New()
	if err := backend.CreateBucket("models"); err != nil {
		t.Fatal(err)
	}
	server = httptest.NewServer(gofakes3.New(backend, gofakes3.WithAutoBucket(false)).Server())
	t.Cleanup(server.Close)
	return "s3://models?use_path_style=true&endpoint=" + server.URL, server
}

// serve serves a store as a gateway does: it writes problems. The caller is in the
// field X-Caller.
func serve(t testing.TB, s *blob.Store) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler(s))
	t.Cleanup(server.Close)
	return server
}

func handler(s *blob.Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c *weir.Caller
		if id := r.Header.Get("X-Caller"); id != "" {
			c = &weir.Caller{ID: id, Anonymous: id == nobody.ID}
		}
		if err := s.Serve(w, r, c); err != nil {
			err.(*weir.Problem).ServeHTTP(w, r)
		}
	})
}

// answer is what a client sees of an answer.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request that a line and fields describe, and follows no redirect.
func ask(t testing.TB, method, url string, body io.Reader, fields ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}
