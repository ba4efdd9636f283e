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
	now := time.Now()
	body, err := readBody(w, r, c.options.MaxBody)
	if err != nil {
		return Event{Result: "bypass"}, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	wishes := ReadWishes(r.Header)
	key, err := c.Key(r, body, callerOf(r))
	if (err != nil || wishes.NoStore) && wishes.OnlyIfCached {
		return Event{Result: "bypass"}, ErrOnlyIfCached()
	}
	if err != nil || wishes.NoStore {
		w.Header()["Cache-Status"] = []string{StatusBypass}
		next.ServeHTTP(w, r)
		return Event{Result: "bypass"}, nil
	}
	entry, storeErr := c.Get(r.Context(), key, wishes, now)
	if entry != nil {
		ServeHit(w, r, entry, now)
		return Event{Result: "hit"}, nil
	}
	if wishes.OnlyIfCached {
		return Event{Result: "miss", Err: storeErr}, ErrOnlyIfCached()
	}
	if r.Method == http.MethodHead { // there is no body to keep, or to wait for
		w.Header()["Cache-Status"] = []string{StatusMiss}
		next.ServeHTTP(w, r)
		return Event{Result: "miss", Err: storeErr}, nil
	}
	flight := c.Join(r.Context(), key, wishes, now)
	defer flight.Leave()
	if !flight.Leads() {
		entry, err := flight.Wait(r.Context())
		if err != nil || entry != nil {
			if entry != nil {
				ServeCollapsed(w, r, entry)
			}
			return Event{Result: "collapsed", Err: storeErr}, err
		}
		flight = nil // the answer was not for us: ask ourselves
	}
	putErr, err := c.record(w, r, Ask{Key: key, Flight: flight, Wishes: wishes, Now: now}, next)
	return Event{Result: "miss", Err: errors.Join(storeErr, putErr)}, err
}

// record runs next and keeps what it writes. It returns the store's error, and
// why the client has no answer.
func (c *Cache) record(w http.ResponseWriter, r *http.Request, a Ask, next http.Handler) (putErr, err error) {
	ctx := a.Flight.Context(r.Context())
	rw := &recorder{ResponseWriter: w, cache: c, ask: a, ctx: ctx, before: w.Header().Clone()}
	defer func() {
		if p := recover(); p != nil {
			rw.cut(fmt.Errorf("cache: the handler panicked: %v", p))
			panic(p) // it is the server's to handle
		}
	}()
	r = r.WithContext(ctx)
	StripConditions(r.Header)
	next.ServeHTTP(rw, r)
	if err := context.Cause(ctx); err != nil {
		// It returned because it was told to: what it wrote is not all.
		rw.cut(err)
		if rw.rec != nil {
			panic(http.ErrAbortHandler)
		}
		return nil, err
	}
	if rw.rec == nil {
		rw.WriteHeader(http.StatusOK)
	}
	if rw.declared >= 0 && rw.declared != rw.written && r.Method != http.MethodHead {
		rw.cut(fmt.Errorf("cache: the handler wrote %d of %d bytes", rw.written, rw.declared))
		rw.release()
		return nil, nil
	}
	putErr = rw.rec.Finish()
	rw.release()
	return putErr, nil
}

// recorder is the http.ResponseWriter of a request whose answer is kept.
type recorder struct {
	http.ResponseWriter
	cache    *Cache
	ask      Ask
	ctx      context.Context
	before   http.Header // what stood there before the handler: not the answer's
	rec      *Recording
	declared int64 // Content-Length; negative: none
	written  int64
	held     []byte // written by the handler, not yet to the client
	through  bool   // nothing is held back any more
}

// Unwrap is for http.ResponseController.
func (rw *recorder) Unwrap() http.ResponseWriter { return rw.ResponseWriter }

func (rw *recorder) WriteHeader(status int) {
	if status < 200 || rw.rec != nil {
		rw.ResponseWriter.WriteHeader(status)
		return
	}
	h := rw.Header()
	resp := &http.Response{StatusCode: status, Header: h, ContentLength: -1, ProtoMajor: 2}
	rw.declared = -1
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		rw.declared, resp.ContentLength = n, n
	}
	rw.rec = rw.cache.Record(rw.ctx, rw.ask, resp)
	rw.rec.header = http.Header{}
	for name, values := range h {
		if !slices.Equal(values, rw.before[name]) {
			rw.rec.header[name] = slices.Clone(values)
		}
	}
	rw.through = rw.rec.ReadAhead() == 0
	h["Cache-Status"] = []string{rw.rec.CacheStatus(rw.ask.Wishes)}
	rw.cache.Privatize(h)
	rw.ResponseWriter.WriteHeader(status)
}

func (rw *recorder) Write(p []byte) (int, error) {
	if rw.rec == nil {
		rw.WriteHeader(http.StatusOK)
	}
	rw.written += int64(len(p))
	_, _ = rw.rec.Write(p)
	if !rw.through && rw.rec.keep {
		rw.held = append(rw.held, p...)
		return len(p), nil
	}
	rw.release()
	n, err := rw.ResponseWriter.Write(p)
	if err != nil && rw.ask.Flight != nil && rw.ctx.Err() == nil {
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
		rw.ask.Flight.Fail(problem)
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
