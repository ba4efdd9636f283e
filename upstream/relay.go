package upstream

import (
	"errors"
	"io"
	"net/http"
)

// copyBufferSize is how much of a body is read at once.
const copyBufferSize = 32 << 10

// errClientLeft is returned by Relay when the client took no more.
var errClientLeft = errors.New("upstream: the client left")

// Relay writes resp to w and closes its body. Every byte is passed on as soon as
// it is there: what can be read at once is written and flushed before the next is
// waited for. It returns how many bytes of the body the client was sent.
//
// With drain, a client that leaves does not end the reading: somebody else needs
// the answer. An error then is the target's; otherwise it can be the client's,
// too. In either case the client's copy is incomplete, and the server must end
// the connection in a way that shows it: panic(http.ErrAbortHandler).
func (p *Pool) Relay(w http.ResponseWriter, resp *http.Response, drain bool) (sent int64, err error) {
	defer func() { _ = resp.Body.Close() }() // read to its end or given up: no news
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(w)
	if resp.ContentLength < 0 {
		// A stream may be silent for long before its first byte, but a client
		// that has the head knows that it is served.
		_ = out.Flush()
	}
	buf, ok := p.buffers.Get().(*[copyBufferSize]byte)
	if !ok {
		buf = new([copyBufferSize]byte)
	}
	defer p.buffers.Put(buf)
	left := false
	for {
		n, readErr := resp.Body.Read(buf[:])
		if n > 0 && !left {
			m, writeErr := w.Write(buf[:n])
			sent += int64(m)
			if writeErr == nil && sent != resp.ContentLength {
				// At the declared end the server flushes by itself.
				writeErr = flush(out)
			}
			left = writeErr != nil
		}
		switch {
		case readErr == io.EOF:
			setTrailers(h, resp.Trailer)
			if left {
				return sent, errClientLeft
			}
			return sent, nil
		case readErr != nil:
			return sent, readErr
		case left && !drain:
			return sent, errClientLeft
		}
	}
}

// flush sends what was written. A writer that cannot flush sends at its end.
func flush(out *http.ResponseController) error {
	if err := out.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func setTrailers(h, trailer http.Header) {
	for name, values := range trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// ClientLeft reports whether err, from Relay, says that the client took no more.
func ClientLeft(err error) bool { return errors.Is(err, errClientLeft) }
