package loadtest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// wire sees what becomes of one request below its answer. A transport sends some
// requests again whose connection has ended: those that may be repeated. In a load that
// would be one more request than is reported, and one error less: so what was written
// once is not written again.
type wire struct {
	cancel    context.CancelFunc
	connected atomic.Bool // there was a connection for it
	streams   atomic.Bool // of HTTP/2
	written   atomic.Bool // all of it; of HTTP/2, its header
	again     atomic.Bool // it was to be sent again
}

var errAgain = errors.New("it was sent already")

// trace is for the request's context.
func (w *wire) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		WroteHeaders: func() {
			if w.streams.Load() { // a server may refuse it before its body is written
				w.written.Store(true)
			}
		},
		WroteRequest: func(done httptrace.WroteRequestInfo) {
			if done.Err == nil {
				w.written.Store(true)
			}
		},
		GotConn: func(got httptrace.GotConnInfo) {
			w.connected.Store(true)
			over, ok := got.Conn.(*tls.Conn)
			w.streams.Store(ok && over.ConnectionState().NegotiatedProtocol == "h2")
			if !w.written.Load() {
				return
			}
			w.again.Store(true)
			w.cancel()
			if !w.streams.Load() {
				_ = got.Conn.Close() // HTTP/1, whose connection is this request's alone
			}
		},
	}
}

// guard keeps a body from being read again for another attempt.
func (w *wire) guard(request *http.Request) {
	body := request.GetBody
	if body == nil {
		return
	}
	request.GetBody = func() (io.ReadCloser, error) {
		if w.written.Load() {
			w.again.Store(true)
			return nil, errAgain
		}
		return body()
	}
}
