package loadtest_test

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// loaded runs a load over real connections.
func loaded(t *testing.T, o loadtest.Options) *loadtest.Report {
	t.Helper()
	test, err := loadtest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return test.Run(context.Background())
}

// TestSockets compares what is reported with what the server itself has seen. How
// busy the machine is makes no difference to that.
func TestSockets(t *testing.T) {
	var mu sync.Mutex
	var took []time.Duration
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		<-time.After(20 * ms)
		_, _ = io.WriteString(w, "an answer")
		mu.Lock()
		defer mu.Unlock()
		took = append(took, time.Since(begin))
	}))
	defer s.Close()
	r := loaded(t, loadtest.Options{URL: s.URL, Stages: rate(100, 2*time.Second)})
	if r.Sent != 200 || r.OK != 200 || len(took) != 200 || r.Bytes != 200*9 || r.Connections < 1 || r.Connections > 200 {
		t.Errorf("sent %d, ok %d, %d bytes, %d connections, of %d that came; want 200, 200, 1800 and at most 200", r.Sent, r.OK, r.Bytes, r.Connections, len(took))
	}
	slices.Sort(took)
	if truth := float64(took[99]) / float64(ms); r.LatencyMS.P50 < truth*0.999 {
		t.Errorf("the median is %g ms, and the server took %g ms itself", r.LatencyMS.P50, truth)
	}
	if r.LatencyMS.P50 < 20 || r.LateMS.P50 == 0 || r.LatencyMS.P50 > r.LatencyMS.P99 || r.LatencyMS.P99 > r.LatencyMS.Max {
		t.Errorf("latency %+v, late %+v", r.LatencyMS, r.LateMS)
	}
}

func TestConnectionErrors(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		target := "http://" + l.Addr().String()
		_ = l.Close()
		r := loaded(t, loadtest.Options{URL: target, Concurrency: 1, Requests: 5})
		if want := map[string]int64{"connect": 5}; !reflect.DeepEqual(r.Errors, want) || !strings.Contains(r.ErrorExamples["connect"], "refused") {
			t.Errorf("errors %v, for example %q; want %v", r.Errors, r.ErrorExamples, want)
		}
	})
	t.Run("connections that end before the answer, or in it", func(t *testing.T) {
		var n atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, b, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if n.Add(1)%2 == 0 {
				writeAll(t, b.Writer, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
			}
		}))
		defer s.Close()
		// A body keeps the transport from asking again by itself.
		r := loaded(t, loadtest.Options{URL: s.URL, Concurrency: 1, Requests: 4, Body: "x"})
		if want := map[string]int64{"cut": 4}; !reflect.DeepEqual(r.Errors, want) {
			t.Errorf("errors %v, want %v: %q", r.Errors, want, r.ErrorExamples)
		}
	})
	t.Run("a server that accepts and is silent", func(t *testing.T) {
		gone := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-gone:
			case <-r.Context().Done():
			}
		}))
		defer s.Close()
		defer close(gone)
		want := map[string]int64{"timeout": 2}
		r := loaded(t, loadtest.Options{URL: s.URL, Concurrency: 2, Requests: 2, Timeout: 50 * ms})
		for try := 0; r.Errors["connect"] > 0 && try < 10; try++ { // a busy machine may not connect within 50 ms
			r = loaded(t, loadtest.Options{URL: s.URL, Concurrency: 2, Requests: 2, Timeout: 50 * ms})
		}
		if !reflect.DeepEqual(r.Errors, want) || r.LatencyMS.Max < 50 {
			t.Errorf("errors %v, latency %+v; want %v with 50 ms", r.Errors, r.LatencyMS, want)
		}
	})
}

func writeAll(t *testing.T, w *bufio.Writer, text string) {
	t.Helper()
	if _, err := w.WriteString(text); err != nil {
		t.Error(err)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	var protocol atomic.Value
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocol.Store(r.Proto) }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the client that does not trust it
	s.StartTLS()
	defer s.Close()
	t.Run("a certificate of nobody is no connection", func(t *testing.T) {
		r := loaded(t, loadtest.Options{URL: s.URL, Concurrency: 1, Requests: 1})
		if want := map[string]int64{"connect": 1}; !reflect.DeepEqual(r.Errors, want) {
			t.Errorf("errors %v, want %v", r.Errors, want)
		}
	})
	t.Run("it may be accepted, and HTTP/2 is spoken where both sides do", func(t *testing.T) {
		r := loaded(t, loadtest.Options{URL: s.URL, Concurrency: 4, Requests: 20, Insecure: true})
		if r.OK != 20 || protocol.Load() != "HTTP/2.0" {
			t.Errorf("ok %d with %v, want 20 with HTTP/2.0: %v", r.OK, protocol.Load(), r.ErrorExamples)
		}
	})
}

// TestStreamOverSocket reads a stream as it comes: in pieces.
func TestStreamOverSocket(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, f := range []frame{role(0), chunk(0, "a"), chunk(0, "b"), {0, doneFrame}} {
			for _, part := range []string{f.text[:len(f.text)/2], f.text[len(f.text)/2:]} {
				_, _ = io.WriteString(w, part)
				_ = http.NewResponseController(w).Flush()
			}
		}
	}))
	defer s.Close()
	r := loaded(t, loadtest.Options{URL: s.URL, Concurrency: 2, Requests: 10, Stream: true, Body: "{}"})
	if r.OK != 10 || r.Tokens != 20 || r.TTFTMS.P50 <= 0 || r.TTFTMS.Max > r.LatencyMS.Max {
		t.Errorf("ok %d, %d tokens, to the first %+v of %+v: %v", r.OK, r.Tokens, r.TTFTMS, r.LatencyMS, r.ErrorExamples)
	}
}
