package upstream

import (
	"context"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
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
