package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// Middleware answers requests from the cache, and keeps the answers of next. It
// has the form of weir.Middleware.
//
// It reads the request's body, up to Options.MaxBody, because the body is part
// of the key. The caller is the one that auth put into the context, else the
// other end of the connection. next's handler runs with a context that ends
// when every client that waits for its answer has left.
func (c *Cache) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		event, err := c.serve(w, r, next)
		if c.options.Observe != nil {
			c.options.Observe(event)
		}
		if err == nil {
			return
		}
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			p = weir.Ended(r.Context())
		}
		if p == nil {
			panic(http.ErrAbortHandler)
		}
		p.ServeHTTP(w, r)
	})
}

func (c *Cache) serve(w http.ResponseWriter, r *http.Request, next http.Handler) (Event, error) {
	body, err := readBody(w, r, c.options.MaxBody)
	if err != nil {
		return Event{Result: "bypass"}, err
	}
	r = r.Clone(r.Context())
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	if err := rewind(r); err != nil {
		return Event{Result: "bypass"}, err
	}
	l, err := c.LookUp(r.Context(), Request{HTTP: r, Body: body, Caller: callerOf(r)}, time.Now())
	event := func() Event { return Event{Result: l.Result(), Err: l.Err} }
	if err != nil {
		return event(), err
	}
	if l.Refresh {
		c.refresh(l, r, next)
	}
	if l.Entry == nil {
		defer l.Leave()
		if answered, err := l.Join(r.Context()); err != nil {
			return event(), err
		} else if !answered {
			err := c.call(w, r, l, next)
			return event(), err
		}
	}
	if l.Serve(w, r) != nil {
		panic(http.ErrAbortHandler)
	}
	return event(), nil
}

// refresh makes a stale answer anew in the background.
func (c *Cache) refresh(l *Lookup, r *http.Request, next http.Handler) {
	again := l.Refreshing()
	if again == nil {
		return
	}
	r = again.Request().Clone(again.Context(r.Context()))
	if rewind(r) != nil {
		again.Leave()
		return
	}
	go func() {
		defer again.Leave()
		// Whatever it panics with is nobody's: the stale answer stays.
		defer func() { _ = recover() }()
		if again.Needed() {
			_ = c.call(nobody{http.Header{}}, r, again, next)
		}
	}()
}

// nobody takes an answer that has no client.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) WriteHeader(int)             {}
func (n nobody) Write(p []byte) (int, error) { return len(p), nil }

// call runs next and keeps what it writes. An error says why the client has no
// answer.
func (c *Cache) call(w http.ResponseWriter, r *http.Request, l *Lookup, next http.Handler) error {
	for {
		again, err := c.callOnce(w, r, l, next)
		if !again {
			return err
		}
		if err := rewind(r); err != nil {
			return err
		}
	}
}

// rewind makes the body of r readable again.
func rewind(r *http.Request) error {
	body, err := r.GetBody()
	r.Body = body
	return err
}

func (c *Cache) callOnce(w http.ResponseWriter, r *http.Request, l *Lookup, next http.Handler) (again bool, err error) {
	ctx := l.Context(r.Context())
	rw := &recorder{ResponseWriter: w, lookup: l, ctx: ctx, before: w.Header().Clone()}
	defer func() {
		if p := recover(); p != nil {
			rw.cut(fmt.Errorf("cache: the handler panicked: %v", p))
			panic(p) // it is the server's to handle
		}
	}()
	out := r.Clone(ctx)
	l.Prepare(out.Header)
	next.ServeHTTP(rw, out)
	if rw.replaced == AskAgain {
		rw.restore()
		return true, nil
	}
	if rw.replaced == Replaced {
		rw.restore()
		return false, l.Serve(w, r)
	}
	if err := context.Cause(ctx); err != nil {
		// It returned because it was told to: what it wrote is not all.
		rw.cut(err)
		if rw.rec != nil {
			panic(http.ErrAbortHandler)
		}
		return false, err
	}
	if rw.rec == nil {
		rw.WriteHeader(http.StatusOK)
	}
	if rw.declared >= 0 && rw.declared != rw.written && r.Method != http.MethodHead {
		rw.cut(fmt.Errorf("cache: the handler wrote %d of %d bytes", rw.written, rw.declared))
		rw.release()
		return false, nil
	}
	for name := range rw.Header() {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			rw.rec.resp.Trailer = http.Header{"Trailer": {name}}
		}
	}
	l.fail(rw.rec.Finish())
	rw.release()
	return false, nil
}

// recorder is the http.ResponseWriter of a request whose answer is kept.
type recorder struct {
	http.ResponseWriter
	lookup   *Lookup
	ctx      context.Context
	before   http.Header // what stood there before the handler: not the answer's
	rec      *Recording
	replaced Replacement
	declared int64 // Content-Length; negative: none
	written  int64
	held     []byte // written by the handler, not yet to the client
	through  bool   // nothing is held back any more
}

// Unwrap is for http.ResponseController.
func (rw *recorder) Unwrap() http.ResponseWriter { return rw.ResponseWriter }

func (rw *recorder) WriteHeader(status int) {
	if rw.replaced != Passed {
		return
	}
	if status < 200 || rw.rec != nil {
		rw.ResponseWriter.WriteHeader(status)
		return
	}
	h := rw.Header()
	resp := &http.Response{StatusCode: status, Header: h.Clone(), ContentLength: -1, ProtoMajor: 2, Body: http.NoBody}
	own := http.Header{}
	for name, values := range h {
		if !slices.Equal(values, rw.before[name]) {
			own[name] = slices.Clone(values)
		}
	}
	if len(h["Trailer"]) > 0 {
		resp.Trailer = http.Header{"Trailer": h["Trailer"]} // what is announced, is not stored
	}
	if rw.replaced = rw.lookup.Replace(rw.ctx, resp, nil); rw.replaced != Passed {
		return
	}
	rw.declared = -1
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		rw.declared, resp.ContentLength = n, n
	}
	rw.rec = rw.lookup.Record(rw.ctx, resp, Keep{own: own})
	rw.through = rw.rec.ReadAhead() == 0
	if len(own["Cache-Status"]) == 0 {
		delete(h, "Cache-Status")
	}
	rw.lookup.SetFields(h, true)
	rw.ResponseWriter.WriteHeader(status)
}

// restore takes back the fields of an answer that is not given.
func (rw *recorder) restore() {
	h := rw.Header()
	clear(h)
	copyFields(h, rw.before)
}

func (rw *recorder) Write(p []byte) (int, error) {
	if rw.rec == nil {
		rw.WriteHeader(http.StatusOK)
	}
	if rw.replaced != Passed {
		return len(p), nil
	}
	rw.written += int64(len(p))
	_, _ = rw.rec.Write(p)
	if !rw.through && rw.rec.keep && len(rw.held)+len(p) <= int(rw.lookup.cache.options.MaxEntry) {
		rw.held = append(rw.held, p...)
		return len(p), nil
	}
	rw.release()
	n, err := rw.ResponseWriter.Write(p)
	if err != nil && rw.lookup.leads && rw.ctx.Err() == nil {
		// The client of this request has left, but others wait for the answer.
		return len(p), nil
	}
	return n, err
}

// release writes to the client what was held back so that a client that takes
// nothing does not keep the handler, and all who wait for it, waiting.
func (rw *recorder) release() {
	rw.through = true
	if len(rw.held) > 0 {
		_, _ = rw.ResponseWriter.Write(rw.held) // a client that has left needs no answer
		rw.held = nil
	}
}

// Flush sends what was written so far to the client. From then on the handler
// writes at the client's pace.
func (rw *recorder) Flush() {
	if rw.rec == nil {
		rw.WriteHeader(http.StatusOK)
	}
	if rw.replaced != Passed {
		return
	}
	rw.release()
	_ = http.NewResponseController(rw.ResponseWriter).Flush() // a writer that cannot flush sends at its end
}

// cut ends a recording that is not whole.
func (rw *recorder) cut(err error) {
	problem := &weir.Problem{
		Status: http.StatusBadGateway,
		Title:  "The answer broke off",
		Detail: "The request that this one waited for did not get a complete answer.",
		Err:    err,
	}
	if rw.rec == nil {
		rw.lookup.Fail(problem)
		return
	}
	rw.rec.Cut(problem)
}

// readBody reads the body of r, whose bytes are part of the key.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	switch _, tooLarge := errors.AsType[*http.MaxBytesError](err); {
	case tooLarge:
		return nil, &weir.Problem{
			Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("The request body is larger than %d bytes.", most),
			Err:    err,
		}
	case err != nil:
		return nil, &weir.Problem{Status: http.StatusBadRequest, Detail: "The request body could not be read to its end.", Err: err}
	}
	return body, nil
}
