package loadtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// requests makes the requests of a load.
type requests struct {
	method string
	url    *text
	parsed *url.URL // of url, where it is no template
	body   *text
	fields []field // those of the callers last

	callers [][]field // of each caller, in place of fields with their names
}

// field is one line of a header.
type field struct {
	name  string
	value *text
}

// newRequests reads the templates, and makes one request to see whether they do.
func newRequests(o *Options) (*requests, error) {
	r := &requests{method: o.Method}
	var err error
	var wrong []error
	r.url, err = newText("URL", o.URL, o.Line)
	wrong = append(wrong, err)
	if len(o.Body) > MaxBody {
		err = fmt.Errorf("--body: %d bytes: want at most %d", len(o.Body), MaxBody)
	} else {
		r.body, err = newText("--body", o.Body, o.Line)
	}
	wrong = append(wrong, err)
	for i, h := range []http.Header{o.Header, o.CallerHeader} {
		flag := []string{"--header", "--caller-header"}[i]
		for _, name := range sortedNames(h) {
			for _, value := range h[name] {
				t, err := newText(flag+": "+name, value, o.Line)
				wrong = append(wrong, err)
				r.fields = append(r.fields, field{name, t})
			}
		}
	}
	if len(r.fields) > maxFields {
		wrong = append(wrong, fmt.Errorf("--header: %d fields: want at most %d", len(r.fields), maxFields))
	}
	for _, c := range o.Callers {
		wrong = append(wrong, checkHeader("--caller: "+c.Name, c.Header))
		var fields []field
		for _, name := range sortedNames(c.Header) {
			for _, value := range c.Header[name] {
				t, err := newText("--caller: "+c.Name+": "+name, value, o.Line)
				wrong = append(wrong, err)
				fields = append(fields, field{http.CanonicalHeaderKey(name), t})
			}
		}
		r.callers = append(r.callers, fields)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	if plainText(o.URL) {
		if r.parsed, err = parseTarget(o.URL); err != nil {
			return nil, err
		}
	}
	for caller := range max(len(r.callers), 1) {
		if _, err = r.make(context.Background(), &draw{caller: "1", random: rand.New(rand.NewPCG(o.Seed, 0))}, caller); err != nil {
			return r, err
		}
	}
	return r, nil
}

// parseTarget reads a URL that requests can be sent to.
func parseTarget(target string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		if strings.Contains(target, "@") { // which may stand behind a password
			return nil, errors.New("URL: want http://HOST:PORT/PATH or https://HOST:PORT/PATH, without a user")
		}
		return nil, fmt.Errorf("URL: %.200q: want http://HOST:PORT/PATH or https://HOST:PORT/PATH", target)
	}
	if u.User != nil {
		return nil, errors.New("URL: it has a user: want credentials in a header field, for example 'Authorization: Bearer KEY'")
	}
	if port, err := strconv.Atoi(cmp.Or(u.Port(), "80")); err != nil || port < 1 || port > 65535 {
		return nil, fmt.Errorf("URL: %.200q: want a port from 1 to 65535", u.Port())
	}
	u.RawQuery = escaped(u.RawQuery)
	return u, nil
}

// escaped is a query without what would end the request line or has no place in it, as a
// browser sends it.
func escaped(query string) string {
	var b strings.Builder
	for i := range len(query) {
		switch c := query[i]; {
		case c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// checkHeader says what cannot be a header's field.
func checkHeader(of string, h http.Header) error {
	for _, name := range sortedNames(h) {
		if !isToken(name) {
			return fmt.Errorf("%s: %.100q: want the name of a header field", of, name)
		}
		for _, value := range h[name] {
			if !isFieldValue(value) {
				return fmt.Errorf("%s: %s: want a text without line breaks", of, name)
			}
		}
	}
	return nil
}

// make makes the request of a draw, with the fields of its caller.
func (r *requests) make(ctx context.Context, d *draw, caller int) (*http.Request, error) {
	target := r.parsed
	if target == nil {
		rendered, err := r.url.render(d)
		if err != nil {
			return nil, err
		}
		if target, err = parseTarget(rendered); err != nil {
			return nil, err
		}
	}
	body, err := r.body.render(d)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, r.method, "", nil)
	if err != nil {
		return nil, fmt.Errorf("-X: %.100q: want a method, for example POST", r.method)
	}
	request.URL, request.Host = target, target.Host
	for _, f := range r.fields {
		value, err := f.value.render(d)
		if err != nil {
			return nil, err
		}
		request.Header.Add(f.name, value)
	}
	if caller < len(r.callers) {
		for _, f := range r.callers[caller] {
			request.Header.Del(f.name)
		}
		for _, f := range r.callers[caller] {
			value, err := f.value.render(d)
			if err != nil {
				return nil, err
			}
			request.Header.Add(f.name, value)
		}
	}
	if err := checkHeader("--header", request.Header); err != nil {
		return nil, err
	}
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
		request.Header.Del("Host")
	}
	if body != "" {
		setBody(request, body)
	}
	return request, nil
}

// setBody gives a request a body that can be sent again, should a connection end
// before anything of it was written.
func setBody(request *http.Request, body string) {
	request.ContentLength = int64(len(body))
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	request.Body, _ = request.GetBody() // it has no error
	if request.Header["Content-Type"] != nil {
		return
	}
	kind := "text/plain; charset=utf-8"
	if begin := strings.TrimLeft(body, " \t\r\n"); begin != "" && (begin[0] == '{' || begin[0] == '[') {
		kind = "application/json"
	}
	request.Header.Set("Content-Type", kind)
}

// isToken tells whether text may name a header field (RFC 9110 section 5.6.2).
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return text != ""
}

// isFieldValue tells whether text may be the value of a header field.
func isFieldValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
