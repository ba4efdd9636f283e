package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// copyBufferSize is how much of a body is read at once.
const copyBufferSize = 32 << 10

// errClientLeft is returned by Relay when the client took no more.
var errClientLeft = errors.New("upstream: the client left")

// Ahead says how far an answer is read ahead of its client.
type Ahead struct {
	// Bytes is how much is read before the client takes it, so that it cannot keep
	// others waiting; the answer is then read to its end even if the client leaves.
	// 0 is nothing.
	Bytes int64
	// Wanted, if not nil, reports whether others read the answer now. If so a
	// client that is Bytes behind and takes nothing for ten seconds is given up.
	Wanted func() bool
}

// stallFor is how long a client may take nothing while others want more.
const stallFor = 10 * time.Second

// errStalled is returned by Relay when the client took nothing for too long.
var errStalled = errors.New("upstream: the client took nothing while others waited")

// Relay writes resp to w and closes its body. Every byte is passed on as soon as
// it is there: what can be read at once is written and flushed before the next is
// waited for.
//
// ahead is for an answer that others wait for, too. The zero value reads the target
// no faster than the client, as a stream should be.
//
// How long a client may take is the server's to say, with a write deadline. After
// an error the client's copy is incomplete, and the server must end the connection
// in a way that shows it: panic(http.ErrAbortHandler).
func (p *Pool) Relay(w http.ResponseWriter, resp *http.Response, ahead Ahead) error {
	defer func() { _ = resp.Body.Close() }() // read to its end or given up: no news
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	if _, typed := h["Content-Type"]; !typed {
		h["Content-Type"] = nil // or the server would guess one from the body
	}
	out := http.NewResponseController(w)
	w.WriteHeader(resp.StatusCode)
	if resp.ContentLength < 0 {
		// A stream may be silent for long before its first byte, but a client
		// that has the head knows that it is served.
		_ = out.Flush()
	}
	buf := p.buffer()
	defer p.buffers.Put(buf)

	n, err := resp.Body.Read(buf[:])
	c := &client{w: w, out: out, length: resp.ContentLength}
	var in io.Reader = resp.Body
	if ahead.Bytes > 0 && err == nil {
		// A short answer was whole after one read. This one is not.
		r := newReadAhead(resp.Body, ahead)
		defer r.finish()
		in = r
	}
	for {
		if n > 0 && !c.send(buf[:n]) {
			return errClientLeft
		}
		if errors.Is(err, io.EOF) {
			setTrailers(h, resp.Trailer)
			return nil
		}
		if err != nil {
			return err
		}
		n, err = in.Read(buf[:])
	}
}

// buffer is one from p.buffers, to which it is given back.
func (p *Pool) buffer() *[copyBufferSize]byte {
	if buf, ok := p.buffers.Get().(*[copyBufferSize]byte); ok {
		return buf
	}
	return new([copyBufferSize]byte)
}

// client is who an answer goes to.
type client struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	length int64 // declared; negative: none
	sent   int64
}

// send writes p and has it sent; false means that the client took no more.
func (c *client) send(p []byte) bool {
	n, err := c.w.Write(p)
	c.sent += int64(n)
	if err != nil {
		return false
	}
	if c.sent == c.length { // at the declared end the server flushes by itself
		return true
	}
	err = c.out.Flush()
	return err == nil || errors.Is(err, http.ErrNotSupported) // who cannot flush sends at the end
}

func setTrailers(h, trailer http.Header) {
	for name, values := range trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// ClientLeft reports whether err, from Relay, says that the client took no more.
func ClientLeft(err error) bool { return errors.Is(err, errClientLeft) }

// readAhead reads a body as fast as it comes and keeps what its reader has not
// taken, up to a bound.
type readAhead struct {
	ahead Ahead
	done  sync.WaitGroup // the goroutine that reads

	mu        sync.Mutex // guards all below
	changed   sync.Cond
	unread    []byte
	taken     int64 // by the reader, in all
	err       error // why no more comes
	abandoned bool  // nobody takes any more: read on, keep nothing
}

func newReadAhead(body io.Reader, ahead Ahead) *readAhead {
	r := &readAhead{ahead: ahead}
	r.changed.L = &r.mu
	r.done.Go(func() { r.fill(body) })
	return r
}

func (r *readAhead) fill(body io.Reader) {
	buf := make([]byte, copyBufferSize)
	for {
		n, err := body.Read(buf)
		r.mu.Lock()
		if int64(len(r.unread)) >= r.ahead.Bytes && !r.abandoned {
			r.waitLocked()
		}
		if !r.abandoned {
			r.unread = append(r.unread, buf[:n]...)
			r.err = err
		}
		r.changed.Broadcast()
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// waitLocked waits until there is room, or gives the reader up.
func (r *readAhead) waitLocked() {
	at, stalled := r.taken, false
	timer := time.AfterFunc(stallFor, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		stalled = true
		r.changed.Broadcast()
	})
	defer timer.Stop()
	for int64(len(r.unread)) >= r.ahead.Bytes && !r.abandoned {
		if stalled {
			if r.taken == at && r.ahead.Wanted != nil && r.ahead.Wanted() {
				r.unread, r.err, r.abandoned = nil, errStalled, true
				return
			}
			at, stalled = r.taken, false
			timer.Reset(stallFor)
		}
		r.changed.Wait()
	}
}

// Read implements io.Reader.
func (r *readAhead) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.unread) == 0 && r.err == nil {
		r.changed.Wait()
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	r.taken += int64(n)
	if len(r.unread) == 0 {
		r.unread = nil
	}
	r.changed.Broadcast()
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// finish reads the body to its end and waits for that.
func (r *readAhead) finish() {
	r.mu.Lock()
	r.abandoned = true
	r.unread = nil
	r.changed.Broadcast()
	r.mu.Unlock()
	r.done.Wait()
}
