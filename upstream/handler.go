package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
)

// Handler is a transport to a handler in this process. The handler runs on its
// own goroutine, with the request's context; its answer is passed on as it is
// written. Closing the answer's body ends the context and waits for the handler.
func Handler(h http.Handler) http.RoundTripper { return &inProcess{h} }

type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t *inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	read, write := io.Pipe()
	w := &pipeWriter{request: r, header: http.Header{}, write: write, head: make(chan *http.Response, 1), done: make(chan struct{})}
	in := r.Clone(r.Context())
	in.RequestURI = in.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	go w.serve(t.handler, in)
	select {
	case resp := <-w.head:
		resp.Body = &pipeBody{PipeReader: read, done: w.done}
		return resp, nil
	case <-w.done:
	}
	select {
	case resp := <-w.head: // both were ready
		resp.Body = &pipeBody{PipeReader: read, done: w.done}
		return resp, nil
	default:
		return nil, w.err
	}
}

// pipeWriter is the http.ResponseWriter of a handler in this process.
type pipeWriter struct {
	request *http.Request
	header  http.Header
	write   *io.PipeWriter
	head    chan *http.Response // the answer's head, once
	once    sync.Once
	done    chan struct{} // closed when the handler has returned
	err     error         // why it did not answer; written before done is closed
}

func (w *pipeWriter) serve(h http.Handler, r *http.Request) {
	defer close(w.done)
	defer func() {
		p := recover()
		switch err, isErr := p.(error); {
		case p == nil && r.Context().Err() != nil:
			// It returned because it was told to: what it wrote is not all.
			w.err = context.Cause(r.Context())
		case p == nil:
			w.WriteHeader(http.StatusOK)
			_ = w.write.Close()
			return
		case isErr && errors.Is(err, http.ErrAbortHandler):
			w.err = fmt.Errorf("the handler gave up: %w", err)
		default:
			w.err = fmt.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
		}
		_ = w.write.CloseWithError(w.err)
	}()
	h.ServeHTTP(w, r)
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if status < 200 {
		return
	}
	w.once.Do(func() {
		resp := &http.Response{
			Status:        strconv.Itoa(status) + " " + http.StatusText(status),
			StatusCode:    status,
			Proto:         "HTTP/1.1",
			ProtoMajor:    1,
			ProtoMinor:    1,
			Header:        make(http.Header, len(w.header)),
			ContentLength: -1,
			Request:       w.request,
		}
		for name, values := range w.header {
			resp.Header[name] = slices.Clone(values)
		}
		if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil {
			resp.ContentLength = n
		} else {
			resp.TransferEncoding = []string{"chunked"} // its end shows
		}
		w.head <- resp
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.request.Method == http.MethodHead {
		return len(p), nil
	}
	return w.write.Write(p)
}

// Flush does nothing: every write reaches the reader before it returns.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// pipeBody is the body of an answer from this process.
type pipeBody struct {
	*io.PipeReader
	done chan struct{}
}

// Close makes the handler's writes fail and waits until it has returned: a slot
// that is freed is free.
func (b *pipeBody) Close() error {
	err := b.PipeReader.Close()
	<-b.done
	return err
}
