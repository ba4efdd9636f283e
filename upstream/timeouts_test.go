package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

func TestTimeouts(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	send := func(t *testing.T, limit upstream.Timeouts, h http.HandlerFunc) (*http.Response, string, []upstream.Event, error) {
		url, events := front(t, upstream.Options{Timeouts: limit}, backend(t, h))
		resp, err := client(t).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, string(b), events(), err
	}
	// headed is send where the head has to come before the time is over, and the end
	// soon after it: a machine that stood still meanwhile has another try.
	headed := func(t *testing.T, limit upstream.Timeouts, h http.HandlerFunc) (resp *http.Response, body string, e []upstream.Event, err error) {
		for range 50 {
			resp, body, e, err = send(t, limit, h)
			if resp.StatusCode == 200 && e[0].Total < limit.FirstByte+limit.Total+500*time.Millisecond {
				break
			}
		}
		return resp, body, e, err
	}
	t.Run("no head in time is 504", func(t *testing.T) {
		resp, body, e, _ := send(t, upstream.Timeouts{FirstByte: 50 * time.Millisecond}, hang)
		if resp.StatusCode != 504 || !strings.Contains(body, `Upstream \"llm\" sent no answer within 50ms.`) || e[0].Result != "timeout" {
			t.Errorf("%s %s %+v", resp.Status, body, e)
		}
	})
	t.Run("a head without a body in time breaks off", func(t *testing.T) {
		resp, _, e, err := headed(t, upstream.Timeouts{FirstByte: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		})
		if resp.StatusCode != 200 || err == nil || e[0].Result != "timeout" {
			t.Errorf("%s, read error %v, %+v", resp.Status, err, e)
		}
	})
	t.Run("silence in a body breaks off", func(t *testing.T) {
		resp, body, e, err := send(t, upstream.Timeouts{BetweenBytes: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first")
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		})
		if resp.StatusCode != 200 || body != "first" || err == nil || e[0].Result != "timeout" || !strings.Contains(e[0].Err.Error(), "no further byte in time") {
			t.Errorf("%s %q, read error %v, %+v", resp.Status, body, err, e)
		}
	})
	t.Run("a stream that never falls silent ends at the total", func(t *testing.T) {
		_, _, e, err := headed(t, upstream.Timeouts{Total: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				<-time.After(5 * time.Millisecond)
			}
		})
		if err == nil || e[0].Result != "timeout" {
			t.Errorf("read error %v, %+v", err, e)
		}
	})
	t.Run("a slow client is not the upstream's silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 8<<20)) }
			p := newPool(t, upstream.Options{
				Targets:  []upstream.Target{{URL: "a", Transport: upstream.Handler(http.HandlerFunc(h))}},
				Timeouts: upstream.Timeouts{FirstByte: 600 * time.Millisecond, BetweenBytes: 400 * time.Millisecond},
			})
			w := &slowWriter{ResponseRecorder: httptest.NewRecorder()}
			p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil)) // panics where it breaks off
			if n := w.Body.Len(); n != 8<<20 {
				t.Errorf("%d bytes", n)
			}
		})
	})
	t.Run("no handshake in time is 504", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		url, events := front(t, upstream.Options{Timeouts: upstream.Timeouts{Connect: 50 * time.Millisecond}}, "https://"+silent.Addr().String())
		resp, err := client(t).Get(url)
		code, body := read(t, resp, err)
		if e := events(); code != 504 || !strings.Contains(body, "accepted no connection within 50ms") || e[0].Result != "timeout" {
			t.Errorf("%d %s %+v", code, body, e)
		}
	})
}

// slowWriter is a client that takes nothing more for a while, twice: before the first
// bytes and before the next.
type slowWriter struct {
	*httptest.ResponseRecorder
	writes int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.writes++; w.writes <= 2 {
		time.Sleep(900 * time.Millisecond)
	}
	return w.ResponseRecorder.Write(p)
}

func TestDoNeverHidesTheCallersOwnEnd(t *testing.T) {
	pool, err := upstream.New(upstream.Options{Targets: []upstream.Target{{URL: backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = pool.Do(ctx, httptest.NewRequest("GET", "/", nil))
	var p *weir.Problem
	if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
}

func TestARequestWhoseTimeIsOverIs504(t *testing.T) {
	pool, err := upstream.New(upstream.Options{Targets: []upstream.Target{{URL: backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	timed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
		defer cancel()
		pool.ServeHTTP(w, r.WithContext(ctx))
	}))
	defer timed.Close()
	resp, err := client(t).Get(timed.URL)
	if code, body := read(t, resp, err); code != 504 || !strings.Contains(body, "time ran out") {
		t.Errorf("%d %s", code, body)
	}
}
