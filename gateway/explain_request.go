package gateway

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
)

// ExplainRequest is a request to explain, as a client would send it.
type ExplainRequest struct {
	// Method is GET without a body and POST with one where it is "".
	Method string `json:"method"`
	// Path is the path with its query. It begins with /.
	Path string `json:"path"`
	// Headers are the fields, each once. Host is the request's host: without it, the
	// configuration's listen. Nothing is added, so name what the client sends: Accept and
	// Accept-Encoding have a part in what the cache takes for the same request.
	Headers map[string]string `json:"headers"`
	// Body is the whole body, at most 10 MiB.
	Body string `json:"body"`
	// RemoteAddr is where the connection comes from: an address, with or without a port.
	// "" is 127.0.0.1.
	RemoteAddr string `json:"remote_addr"`
}

// The bounds of a request that is explained. What a listener refuses is refused below
// them, in its own words.
const (
	mostExplainedBody   = 10 << 20
	mostExplainedFields = 1000
)

// request is r as a server reads it, or everything that is wrong with it. listen is the
// host of a request that names none.
func (r ExplainRequest) request(ctx context.Context, listen string) (*http.Request, error) {
	var mistakes config.Mistakes
	wrong := func(path, value, want string) {
		if value != "" {
			value = fmt.Sprintf("%.60q", value)
		}
		mistakes = append(mistakes, config.Mistake{Path: path, Value: value, Want: want})
	}
	method := r.Method
	switch {
	case method == "" && r.Body == "":
		method = http.MethodGet
	case method == "":
		method = http.MethodPost
	case !isToken(method):
		wrong("method", method, "want a method, for example POST")
	}
	u, err := url.ParseRequestURI(r.Path)
	switch {
	case r.Path == "":
		wrong("path", "", "is not there: want the path of the request, for example /v1/chat/completions")
	case err != nil || !strings.HasPrefix(r.Path, "/") || strings.ContainsFunc(r.Path, isNoURIByte):
		wrong("path", r.Path, "want a path that begins with /, escaped as in a URL, without a host and without #")
	}
	if len(r.Body) > mostExplainedBody {
		wrong("body", "", fmt.Sprintf("has %d bytes: want at most %d", len(r.Body), mostExplainedBody))
	}
	remote, ok := remoteAddr(r.RemoteAddr)
	if !ok {
		wrong("remote_addr", r.RemoteAddr, "want an address, with or without a port, for example 192.0.2.1")
	}
	header, more := r.header()
	if mistakes = append(mistakes, more...); len(mistakes) > 0 {
		return nil, mistakes
	}
	host := cmp.Or(header.Get("Host"), listen)
	delete(header, "Host")
	in := &http.Request{
		Method: method, URL: u, RequestURI: r.Path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: host, RemoteAddr: remote, Body: http.NoBody,
	}
	if r.Body != "" {
		in.Body, in.ContentLength = io.NopCloser(strings.NewReader(r.Body)), int64(len(r.Body))
	}
	return in.WithContext(ctx), nil
}

// header reads the fields. Their values may be secrets: no mistake repeats one.
func (r ExplainRequest) header() (http.Header, config.Mistakes) {
	h, mistakes := http.Header{}, config.Mistakes(nil)
	if n := len(r.Headers); n > mostExplainedFields {
		return nil, config.Mistakes{{Path: "headers", Want: fmt.Sprintf("has %d fields: want at most %d", n, mostExplainedFields)}}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		value, canonical := r.Headers[name], http.CanonicalHeaderKey(name)
		path := fmt.Sprintf("headers.%.60s", strings.Trim(fmt.Sprintf("%.60q", name), `"`))
		switch {
		case !isToken(name):
			mistakes = append(mistakes, config.Mistake{Path: path, Want: "is no name of a field: want letters, digits and hyphens"})
		case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
			mistakes = append(mistakes, config.Mistake{Path: path, Want: "has a control character: want a value without line breaks"})
		case canonical == "Content-Length" || canonical == "Transfer-Encoding":
			mistakes = append(mistakes, config.Mistake{Path: path, Want: "is told by the body: want it left out"})
		case h[canonical] != nil:
			mistakes = append(mistakes, config.Mistake{Path: path, Want: "is there in another spelling, too: want it once"})
		}
		h[canonical] = []string{strings.Trim(value, " \t")}
	}
	return h, mistakes
}

// remoteAddr is text in the form of http.Request.RemoteAddr.
func remoteAddr(text string) (string, bool) {
	if text == "" {
		text = "127.0.0.1"
	}
	if at, err := netip.ParseAddrPort(text); err == nil {
		return at.String(), true
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return net.JoinHostPort(addr.String(), "0"), err == nil
}

// isToken reports whether s may be a method, or the name of a field (RFC 9110, section
// 5.6.2).
func isToken(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
	})
}

// isNoURIByte reports whether a server takes c for no part of a target.
func isNoURIByte(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' }
