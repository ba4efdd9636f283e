package cache

import (
	"errors"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/jsonscan"
)

// methodQuery is a safe request with a body (RFC 10008).
const methodQuery = "QUERY"

// members yields the members of a list of entity tags: commas may stand within their
// quotes, where a backslash escapes nothing (RFC 9110, section 8.8.3).
func members(line string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := range len(line) {
			switch {
			case line[i] == '"':
				quoted = !quoted
			case line[i] == ',' && !quoted:
				if !yield(line[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(line[start:])
	}
}

// directives yields the Cache-Control directives of h, names in lower case and
// values as they were written.
func directives(h http.Header) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for _, line := range h["Cache-Control"] {
			for rest := line; rest != ""; {
				var item string
				item, rest = cutMember(rest, ',')
				name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
				if name != "" && !yield(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)) {
					return
				}
			}
		}
	}
}

// credentials are the request fields that identify somebody to an upstream. An
// answer to one of their holders is not for another.
func credentials() []string {
	return []string{"Authorization", "X-Api-Key", "Api-Key", "Cookie"}
}

// unkeyed says which other request fields are not in the key, because no answer
// depends on them: they describe the connection, the client's software, or one
// request for somebody who traces it. All else is in the key: what a model server
// makes of a field cannot be known from here, and a field that changes the answer
// and not the key hands out wrong answers.
func unkeyed(name string) bool {
	switch name {
	case "B3", "Baggage", "Cache-Control", "Cf-Connecting-Ip", "Cf-Ray", "Connection", "Content-Length", "Date", "Dnt", "Expect",
		"Idempotency-Key", "If-Modified-Since", "If-None-Match", "Keep-Alive", "Newrelic", "Pragma",
		"Priority", "Proxy-Authorization", "Proxy-Connection", "Referer", "Sentry-Trace", "Te", "Traceparent", "Tracestate",
		"Trailer", "Transfer-Encoding", "Uber-Trace-Id", "Upgrade", "User-Agent", "Via", "X-Amzn-Trace-Id",
		"X-Cloud-Trace-Context", "X-Correlation-Id", "X-Forwarded-For", "X-Real-Ip", "X-Request-Id", "X-Request-Timeout":
		return true
	}
	for _, prefix := range []string{"Sec-", "X-B3-", "X-Datadog-", "X-Stainless-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// ErrUnkeyable says why a request has no key: Key wraps it.
var ErrUnkeyable = errors.New("cache: no key")

// inferenceKey gives the key of r, whatever its form. An error wraps ErrUnkeyable:
// the request must then bypass the cache, because another one could be taken for it.
func (c *Cache) inferenceKey(r *Request) (Key, error) {
	if !cacheable(r.HTTP) {
		return Key{}, ErrUnkeyable
	}
	k := NewKeyHash()
	k.Add("weir-2") // the form of the key: a change of it must not find old entries
	c.addOwner(k, r)
	k.Add(methodKey(r.HTTP))
	k.Add(r.HTTP.Host)
	k.Add(r.HTTP.URL.EscapedPath())
	k.Add(r.HTTP.URL.RawQuery)
	k.Add(r.Model)
	k.AddFields(r.HTTP.Header, c.own...)
	if len(r.Body) == 0 || !isJSON(r.HTTP.Header) {
		k.Add("bytes")
		k.AddBytes(r.Body)
		return k.Sum(), nil
	}
	ignore := c.ignore
	if r.Form != "" {
		ignore = c.formed
	}
	canonical, err := jsonscan.AppendCanonical(make([]byte, 0, 2*len(r.Body)), r.Body, ignore, c.options.Depth)
	if err != nil {
		return Key{}, errors.Join(ErrUnkeyable, err)
	}
	k.Add("json")
	k.AddBytes(canonical)
	return k.Sum(), nil
}

// addOwner adds whose answer it is, and what else all answers of c depend on.
func (c *Cache) addOwner(k *KeyHash, r *Request) {
	k.Add(c.options.Scope)
	k.Add(c.options.Generation)
	switch c.options.Share {
	case ShareCaller:
		k.Add("caller")
		k.Add(r.Caller.ID)
		for _, name := range c.own {
			addValues(k, r.HTTP.Header[name])
		}
	case SharePlan:
		k.Add("plan")
		k.Add(r.Caller.Plan)
	case ShareAll:
		k.Add("all")
	}
}

func addCredentials(k *KeyHash, h http.Header) {
	for _, name := range credentials() {
		addValues(k, h[name])
	}
}

// methodKey is the method in a key: a HEAD may have a GET's answer, without the
// body.
func methodKey(r *http.Request) string {
	if r.Method == http.MethodHead {
		return http.MethodGet
	}
	return r.Method
}

// inForm is the key of the answer in a form.
func (k Key) inForm(form string) Key {
	if form == "" {
		return k
	}
	h := NewKeyHash()
	h.Add("form")
	h.AddBytes(k[:])
	h.Add(form)
	return h.Sum()
}

// Keyed reports whether a request field, by its canonical name, is one that an answer
// may depend on, and no credential (Authorization, X-Api-Key, Api-Key, Cookie): whose
// answer it is, is another part of a key.
func Keyed(name string) bool { return !unkeyed(name) && !slices.Contains(credentials(), name) }

// AddFields adds the fields of h that are Keyed, without those in except.
func (k *KeyHash) AddFields(h http.Header, except ...string) {
	names := make([]string, 0, 32)
	for name, values := range h {
		if len(values) > 0 && Keyed(name) && !slices.Contains(except, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	k.length(len(names))
	for _, name := range names {
		k.Add(name)
		addValues(k, h[name])
	}
}

func addValues(k *KeyHash, values []string) {
	k.length(len(values))
	for _, v := range values {
		k.Add(v)
	}
}

// cacheable says whether r is a request that an answer can be kept for. A request
// for a part of an answer, or on a condition other than "not if unchanged", has
// an answer that is only its own.
func cacheable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, methodQuery:
	default:
		return false
	}
	for _, name := range []string{"Range", "If-Match", "If-Unmodified-Since", "If-Range"} {
		if len(r.Header[name]) > 0 {
			return false
		}
	}
	return true
}

func isJSON(h http.Header) bool {
	if len(h["Content-Type"]) != 1 || len(h["Content-Encoding"]) > 0 {
		return false
	}
	kind, _, err := mime.ParseMediaType(h["Content-Type"][0])
	return err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json"))
}

// stripConditions removes the conditions that the cache answers itself: an
// upstream that answered 304 to one client would leave the others without.
func stripConditions(h http.Header) {
	delete(h, "If-None-Match")
	delete(h, "If-Modified-Since")
}

// callerOf is who sent r, for a Middleware without auth in front of it.
func callerOf(r *http.Request) weir.Caller {
	if c, ok := weir.CallerFrom(r.Context()); ok {
		return c
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return weir.Caller{ID: "ip:" + host, Anonymous: true}
}
