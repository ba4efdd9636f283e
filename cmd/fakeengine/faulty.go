package main

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// faulty lets requests meet the faults that are there.
func (s *server) faulty(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/debug/") {
			next.ServeHTTP(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			s.loop.count(func(t *stats) { t.Received++ })
		}
		now := time.Now()
		f, ok := s.faults.draw(r.URL.Path, now)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		s.loop.count(func(t *stats) { t.Faulted++ })
		switch f.Kind {
		case faultError:
			writeError(w, f.Status, "InternalServerError", "a fault on demand")
		case faultRetryAfter:
			left := max(time.Second, f.until.Sub(now)+time.Second-1).Truncate(time.Second)
			w.Header().Set("Retry-After", strconv.Itoa(int(left/time.Second)))
			writeError(w, f.Status, "ServiceUnavailableError", "a fault on demand: come back later")
		default: // reset, hang
			f.cut(w, r, next)
		}
	})
}

// cut lets the answer begin and ends or stops it after so many bytes of its body. An
// answer that is shorter comes whole.
func (f *fault) cut(w http.ResponseWriter, r *http.Request, next http.Handler) {
	c := &cutWriter{ResponseWriter: w, left: f.AfterBytes, hang: f.Kind == faultHang}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	c.ctx, c.until = ctx, f.until
	if f.AfterBytes == 0 {
		// The body is read first, as by a server that fails at its work; without that
		// nobody would notice that the client leaves.
		if _, ok := readBody(w, r); ok {
			c.fail()
		}
		return
	}
	next.ServeHTTP(c, r.WithContext(ctx))
}

// cutWriter fails when so many bytes were written.
type cutWriter struct {
	http.ResponseWriter
	ctx   context.Context
	until time.Time // zero: the hang has no end of its own
	left  int64
	hang  bool
}

// Unwrap is for http.ResponseController.
func (c *cutWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) <= c.left {
		c.left -= int64(len(p))
		return c.ResponseWriter.Write(p)
	}
	// A length that is promised and not kept must not make net/http drop the part.
	n, err := c.ResponseWriter.Write(p[:c.left])
	if err == nil {
		err = http.NewResponseController(c.ResponseWriter).Flush()
	}
	c.left = 0
	if err != nil {
		return n, err
	}
	c.fail()
	panic(http.ErrAbortHandler)
}

// fail resets the connection, or waits until the client leaves or the fault is over;
// then the connection is closed.
func (c *cutWriter) fail() {
	if c.hang {
		var over <-chan time.Time
		if !c.until.IsZero() {
			t := time.NewTimer(time.Until(c.until))
			defer t.Stop()
			over = t.C
		}
		select {
		case <-over:
		case <-c.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	}
	conn, _, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil { // HTTP/2, which is not served
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // Close then sends RST; if not, it is a FIN
	}
	_ = conn.Close()
}
