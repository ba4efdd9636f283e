package upstream

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// outgoing is in as it goes to a target.
func outgoing(ctx context.Context, in *http.Request, base *url.URL) *http.Request {
	out := &http.Request{
		Method:        in.Method,
		URL:           joinURL(base, in.URL),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        in.Header.Clone(),
		Body:          in.Body,
		GetBody:       in.GetBody, // for a connection that closed before anything was written
		ContentLength: in.ContentLength,
		// The target's own name: what the client called us stands in
		// X-Forwarded-Host.
		Host: base.Host,
	}
	if out.Header == nil {
		out.Header = http.Header{}
	}
	if in.ContentLength == 0 {
		out.Body, out.GetBody = nil, nil
	}
	RemoveHopByHop(out.Header)
	delete(out.Header, "Expect") // the server answered 100 already
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or the transport would invent one
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := out.Header[name]; ok { // by this spelling http.Transport would send a POST twice
			delete(out.Header, name)
			out.Header[strings.ToLower(name)] = v
		}
	}
	forwarded(out.Header, in)
	return out.WithContext(ctx)
}

// joinURL puts the request's path after the base's, both as they were written.
func joinURL(base, in *url.URL) *url.URL {
	u := *base
	u.Path = trimSlash(base.Path) + in.Path
	u.RawPath = trimSlash(base.EscapedPath()) + in.EscapedPath()
	u.RawQuery, u.ForceQuery = in.RawQuery, in.ForceQuery
	return &u
}

func trimSlash(s string) string {
	if n := len(s); n > 0 && s[n-1] == '/' {
		return s[:n-1]
	}
	return s
}

// forwarded tells the target about the client's connection. What stands in these
// fields already comes from trusted proxies: auth has removed all else.
func forwarded(h http.Header, in *http.Request) {
	if host, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		h["X-Forwarded-For"] = []string{appendForwarded(h["X-Forwarded-For"], host)}
	}
	if _, ok := h["X-Forwarded-Host"]; !ok && in.Host != "" {
		h["X-Forwarded-Host"] = []string{in.Host}
	}
	if _, ok := h["X-Forwarded-Proto"]; !ok {
		proto := "http"
		if in.TLS != nil {
			proto = "https"
		}
		h["X-Forwarded-Proto"] = []string{proto}
	}
}

func appendForwarded(before []string, host string) string {
	all := ""
	for _, line := range before {
		all += line + ", "
	}
	return all + host
}

// RemoveHopByHop removes the fields that concern one connection only (RFC 9110,
// section 7.6.1): those that Connection names, and the known ones.
//
// Do this before anything is decided by a field: who could have one removed after
// the decision, by naming it in Connection, would be taken for somebody else.
func RemoveHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range splitList(line) {
			delete(h, http.CanonicalHeaderKey(name))
		}
	}
	for _, name := range []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings",
	} {
		delete(h, name)
	}
}

// splitList yields the members of a comma-separated list.
func splitList(line string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !yield(name) {
				return
			}
		}
	}
}

// replay hands out the body of a request, once for each attempt.
type replay struct {
	in   *http.Request
	last *onceBody // that was handed out, where the request's own is all there is
	used bool      // the request's own body was handed out
}

// none reports whether the request has no body.
func (r *replay) none() bool {
	return r.in.Body == nil || r.in.Body == http.NoBody || r.in.ContentLength == 0
}

// ready reports whether the body can be handed out once more.
func (r *replay) ready() bool {
	return r.none() || r.in.GetBody != nil || r.last == nil || r.last.state.Load() == bodyUnread
}

// rewinds reports whether two attempts may have it at the same time.
func (r *replay) rewinds() bool { return r.none() || r.in.GetBody != nil }

// next is the body for one more attempt. What the attempt before had reads no more.
func (r *replay) next() (io.ReadCloser, error) {
	switch {
	case r.in.GetBody != nil && r.used:
		return r.in.GetBody()
	case r.in.GetBody != nil:
		r.used = true
		return r.in.Body, nil
	case r.last != nil && !r.last.state.CompareAndSwap(bodyUnread, bodyTaken):
		return nil, errBodyUsed
	}
	r.last = &onceBody{ReadCloser: r.in.Body, declared: r.in.ContentLength}
	return r.last, nil
}

// err is why the request's own body could not be sent, nil where it could.
func (r *replay) err() error {
	if r.last == nil {
		return nil
	}
	if err := r.last.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// measure reports whether a body that can be had again is as long as it was declared.
// It is read once more for that, when an attempt has failed: one that is counted on its
// way does not look to the transport as if it were in memory, and goes out in a segment
// behind that of its head.
func (r *replay) measure() error {
	if r.none() || r.in.GetBody == nil || r.in.ContentLength < 0 {
		return nil
	}
	body, err := r.in.GetBody()
	if err != nil {
		return nil // which says nothing of the one that was sent
	}
	defer func() { _ = body.Close() }()
	n, err := io.Copy(io.Discard, io.LimitReader(body, r.in.ContentLength+1))
	if err == nil && n != r.in.ContentLength {
		return errLength
	}
	return nil
}

// close closes a body that no attempt has read.
func (r *replay) close() {
	if r.last != nil && r.last.state.CompareAndSwap(bodyUnread, bodyTaken) {
		_ = r.in.Body.Close()
	}
}

// The states of a onceBody.
const (
	bodyUnread int32 = iota
	bodyRead
	bodyTaken // for another attempt, or closed unread
)

// Errors of a request's body.
var (
	errBodyUsed = errors.New("the request's body was read by an attempt before")
	errLength   = errors.New("the request's body is not as long as its Content-Length")
)

// onceBody is a request's own body, which can be sent once. As long as nothing of
// it was read another attempt may have it instead.
type onceBody struct {
	io.ReadCloser
	declared int64 // negative: nothing
	sent     int64 // read so far, by one attempt
	state    atomic.Int32
	failed   atomic.Pointer[error]
}

// Read implements io.Reader. A body of another length than declared is an error here
// and not in the transport, where it would look like one of the target's.
func (b *onceBody) Read(p []byte) (int, error) {
	if !b.state.CompareAndSwap(bodyUnread, bodyRead) && b.state.Load() == bodyTaken {
		return 0, errBodyUsed
	}
	n, err := b.ReadCloser.Read(p)
	b.sent += int64(n)
	if b.declared >= 0 && (b.sent > b.declared || err == io.EOF && b.sent < b.declared) {
		err = errLength
	}
	if err != nil && err != io.EOF {
		b.failed.Store(&err)
	}
	return n, err
}

// Close keeps a body open that nobody has read.
func (b *onceBody) Close() error {
	if b.state.Load() != bodyRead {
		return nil
	}
	return b.ReadCloser.Close()
}
