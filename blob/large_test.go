package blob_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/blob"
)

// large is more than all buffers, twice: with ten times as much, memory is the same.
const large = 192 << 20

// zeros is a body of some length.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// heap watches how much memory is in use while f runs, with little that waits to be
// collected.
func heap(f func()) (above uint64) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, most := m.HeapAlloc, m.HeapAlloc
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	}()
	f()
	close(done)
	<-stopped
	return most - start
}

// discardS3 is as much of an S3 server as an upload in parts needs. It keeps nothing.
func discardS3(t *testing.T, got *atomic.Int64) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		q := r.URL.Query()
		switch {
		case r.Method == http.MethodPost && q.Has("uploads"):
			fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>`)
		case r.Method == http.MethodPost:
			fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>`)
		case r.Method == http.MethodPut:
			got.Add(n)
			w.Header().Set("ETag", `"x"`)
		default:
			w.WriteHeader(http.StatusNotImplemented)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestLargeBlobsNeedLittleMemory(t *testing.T) {
	ctx := context.Background()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "an example, not a secret")
	t.Run("in a directory, in and out", func(t *testing.T) {
		c := newClock()
		s, _ := openDir(t, c, nil)
		h := handler(s)
		var out atomic.Int64
		above := heap(func() {
			i, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: c.at.Add(time.Hour)}, &zeros{large})
			if err != nil {
				t.Fatal(err)
			}
			link, err := s.Link(ctx, blob.Grant{Method: http.MethodGet, Key: i.Key})
			if err != nil {
				t.Fatal(err)
			}
			h.ServeHTTP(counter{header: http.Header{}, n: &out}, httptest.NewRequest(http.MethodGet, link.URL, nil))
		})
		t.Logf("%d MiB with %d KiB of heap", large>>20, above>>10)
		if out.Load() != large || above > 16<<20 {
			t.Errorf("%d bytes, %d of heap", out.Load(), above)
		}
	})
	t.Run("in a bucket", func(t *testing.T) {
		var got atomic.Int64
		s := open(t, blob.Options{URL: "s3://models?use_path_style=true&endpoint=" + discardS3(t, &got), SigningKey: secret})
		above := heap(func() {
			if _, err := s.Save(ctx, blob.Meta{Caller: alice.ID, Until: time.Now().Add(time.Hour)}, &zeros{large}); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%d MiB with %d KiB of heap", large>>20, above>>10)
		if got.Load() != large || above > large/2 {
			t.Errorf("%d bytes, %d of heap", got.Load(), above)
		}
	})
}

// counter is an answer that nobody keeps.
type counter struct {
	header http.Header
	n      *atomic.Int64
}

func (c counter) Header() http.Header { return c.header }
func (c counter) WriteHeader(int)     {}
func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
