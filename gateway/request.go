package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/upstream"
)

// checkRequest refuses what is too large, and what two servers could understand
// in two ways: the one that decides must not be another than the one that acts.
func checkRequest(r *http.Request, l config.Limits) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "QUERY":
	default:
		return problem(http.StatusNotImplemented, "%.40q is not a method that is served here.", r.Method)
	}
	if r.ProtoMajor == 1 && r.ProtoMinor > 1 {
		return problem(http.StatusHTTPVersionNotSupported, "%s is not a version of HTTP that is served here.", r.Proto)
	}
	if n := len(r.RequestURI); n > int(l.URLBytes) {
		return problem(http.StatusRequestURITooLong, "The URL has %d bytes: want at most %d.", n, l.URLBytes)
	}
	fields := 0
	for _, values := range r.Header {
		fields += len(values)
	}
	if fields > l.Headers {
		return problem(http.StatusRequestHeaderFieldsTooLarge, "The request has %d header fields: want at most %d.", fields, l.Headers)
	}
	if len(r.Header["Upgrade"]) > 0 && !upstream.IsWebSocket(r) {
		return cannotUpgrade()
	}
	// A target with a host in it is served like one without (RFC 9112, section
	// 3.2.2): where a request goes, the routes say.
	if !strings.HasPrefix(r.URL.Path, "/") {
		return problem(http.StatusBadRequest, "The request's target is %.200q: want a path that begins with /.", r.RequestURI)
	}
	return checkPath(r.URL.Path, r.URL.EscapedPath())
}

// checkPath refuses paths that servers normalize each in its own way. path has
// its escapes resolved, as routes see it; escaped is as the upstream gets it.
func checkPath(path, escaped string) error {
	refused := func(what, want string) error {
		return problem(http.StatusBadRequest, "The path has %s: want %s, because servers read this in different ways.", what, want)
	}
	switch {
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return refused("a control character", "none")
	case strings.Contains(strings.ToLower(escaped), "%2f"):
		return refused("an escaped slash", "a slash, or the name without one")
	case containsAny(strings.ToLower(path), "%2e", "%2f", "%5c"):
		return refused("a character that is escaped twice", "it escaped once")
	case strings.Contains(path, `\`):
		return refused("a backslash", "a slash")
	case strings.Contains(path, ";"):
		return refused("a semicolon", "none")
	case strings.Contains(path, "//"):
		return refused("two slashes together", "one")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return refused(fmt.Sprintf("a segment %q", segment), "the path that it leads to")
		}
	}
	return nil
}

func containsAny(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(s, part) })
}

func problem(status int, format string, args ...any) *weir.Problem {
	return &weir.Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// linger is how long a client whose request is refused may go on sending its body.
const linger = time.Second

// refuseUnread lets an answer be sent before the request's body is read. Without
// this the server would first read much of it, for as long as the client likes.
// What may still come must not be taken for the next request: the connection
// ends.
func refuseUnread(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
	conn := http.NewResponseController(w)
	// Not every writer can; then the server does what it does.
	_ = conn.EnableFullDuplex()
	_ = conn.SetReadDeadline(time.Now().Add(linger))
}
