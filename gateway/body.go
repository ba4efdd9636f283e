package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// bodyGrace is how long a body may take before the minimum rate counts.
const bodyGrace = 10 * time.Second

// bodies bounds the memory of all request bodies together: they are read before
// anybody's quota is asked.
type bodies struct {
	max  atomic.Int64
	held atomic.Int64
}

// leastForBodies is what all bodies together may take at least: 512 MiB. It is
// twice the largest body that a route allows where that is more.
const leastForBodies = 512 << 20

var errBodies = errors.New("the request bodies held at once take all the memory that they may")

func (b *bodies) take(n int64) bool {
	if b.held.Add(n) <= b.max.Load() {
		return true
	}
	b.held.Add(-n)
	return false
}

// release gives back what a body took.
func (b *bodies) release(body []byte) { b.held.Add(-int64(cap(body))) }

// firstRead is how much is set aside for a body before any of it has come: a
// length is a promise.
const firstRead = 64 << 10

// readAll reads in to its end. declared is the length that the client said, or
// less than 0. What it returns is to be released, with an error too.
func (b *bodies) readAll(in io.Reader, declared int64) (body []byte, err error) {
	next := int64(4 << 10)
	if declared >= 0 {
		// One byte more finds the end without growing.
		next = min(declared+1, firstRead)
	}
	for {
		if len(body) == cap(body) {
			if !b.take(next) {
				return body, errBodies
			}
			grown := make([]byte, len(body), next)
			copy(grown, body)
			b.release(body)
			body, next = grown, 2*next
			if declared >= 0 {
				next = declared + 1
			}
		}
		n, err := in.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return body, err
		}
	}
}

// read reads the body of r, at most most bytes of it, at no less than rate bytes
// a second (0: any) after the first seconds. What it returns is to be released,
// with an error too.
func (b *bodies) read(w http.ResponseWriter, r *http.Request, most, rate int64) ([]byte, error) {
	if r.ContentLength > most {
		return nil, bodyTooLarge(most)
	}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, nil
	}
	conn := http.NewResponseController(w)
	in := http.MaxBytesReader(w, r.Body, most)
	if rate > 0 {
		in = &steadyReader{ReadCloser: in, conn: conn, rate: rate, started: time.Now()}
	}
	body, err := b.readAll(in, r.ContentLength)
	if err == nil {
		_ = conn.SetReadDeadline(time.Time{}) // the watch for a client that leaves has none
		return body, nil
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return body, bodyTooLarge(most)
	}
	var p *weir.Problem
	switch {
	case errors.Is(err, errBodies):
		p = problem(http.StatusServiceUnavailable, "This gateway holds as many request bodies as it has memory for.")
		p.Type, p.RetryAfter = weir.TypeReducedCapacity, time.Second
	case errors.Is(err, os.ErrDeadlineExceeded):
		p = problem(http.StatusRequestTimeout, "The body came more slowly than %d bytes a second.", rate)
	case r.Context().Err() != nil:
		return body, r.Context().Err()
	default:
		p = problem(http.StatusBadRequest, "The body could not be read to its end.")
	}
	p.Err = err
	return body, p
}

func bodyTooLarge(most int64) *weir.Problem {
	return problem(http.StatusRequestEntityTooLarge, "The body is larger than %d bytes.", most)
}

// steadyReader moves the connection's deadline on by what has been read.
type steadyReader struct {
	io.ReadCloser
	conn    *http.ResponseController
	rate    int64
	started time.Time
	read    int64
}

func (s *steadyReader) Read(p []byte) (int, error) {
	earned := time.Duration(float64(s.read) / float64(s.rate) * float64(time.Second))
	// Without deadlines, as in a test's recorder, any pace is accepted.
	_ = s.conn.SetReadDeadline(s.started.Add(bodyGrace + earned))
	n, err := s.ReadCloser.Read(p)
	s.read += int64(n)
	return n, err
}
