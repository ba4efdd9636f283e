package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// lineExample is what a line of a file of requests looks like.
const lineExample = `for example {"path": "/v1/embeddings", "body": {"input": "text"}}`

// request is one line of the file.
type request struct {
	line         int
	method, path string
	host         string
	header       http.Header
	body         []byte
}

// parseRequest reads one line, and says everything that is wrong with it.
func parseRequest(text []byte) (*request, []string) {
	r := &request{header: http.Header{}}
	if !utf8.Valid(text) {
		return r, []string{"is not UTF-8: want JSON in UTF-8"}
	}
	var wrong []string
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	err := members(text, func(name string, value json.RawMessage, twice bool) {
		switch {
		case twice:
			fail("%s: is there twice: want it once", name)
		case name == "method" && !texts(value, &r.method), name == "path" && !texts(value, &r.path):
			fail("%s: %s: want a text", name, shown(value))
		case name == "headers":
			wrong = append(wrong, r.headers(value)...)
		case name == "body" && !r.setBody(value):
			fail("body: %s: want an object, a list or a text", shown(value))
		case name != "method" && name != "path" && name != "body":
			fail("%s: unknown member: want one of method, path, headers, body", shown([]byte(name)))
		}
	})
	if err != nil {
		return r, []string{fmt.Sprintf("%v: want a JSON object, %s", err, lineExample)}
	}
	return r, r.complete(wrong)
}

// complete fills in what the line leaves out, checks what is in it, and adds to
// what is wrong.
func (r *request) complete(wrong []string) []string {
	if r.method == "" {
		r.method = http.MethodGet
		if r.body != nil {
			r.method = http.MethodPost
		}
	}
	switch r.method {
	case http.MethodGet, http.MethodHead, http.MethodPost, "QUERY":
	default:
		wrong = append(wrong, "method: "+shown([]byte(r.method))+": is not answered from a cache: want GET, HEAD, POST or QUERY")
	}
	unnamed := func(w string) bool { return strings.HasPrefix(w, "path:") }
	switch mistake := pathMistake(r.path); {
	case r.path == "" && slices.ContainsFunc(wrong, unnamed):
	case r.path == "":
		wrong = append(wrong, "path: missing: want one, "+lineExample)
	case mistake != "":
		wrong = append(wrong, "path: "+shown([]byte(r.path))+": "+mistake)
	}
	return wrong
}

// pathMistake says what is wrong with a path and its query: "" for nothing. It
// knows the paths that a Weir refuses, so that none of them is found out in the
// middle of a file.
func pathMistake(path string) string {
	outside := func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' }
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, outside) {
		return "want a path that begins with /, with a query if need be, without spaces and fragment"
	}
	// Without a host two slashes would begin one.
	u, err := url.Parse("http://host" + path)
	if err != nil {
		return "want a path in which % stands before two hexadecimal digits"
	}
	contains := func(s string, parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(strings.ToLower(s), part) })
	}
	dots := func(segment string) bool { return segment == "." || segment == ".." }
	what, want := "", ""
	switch {
	case strings.ContainsFunc(u.Path, func(c rune) bool { return c < ' ' || c == 0x7f }):
		what, want = "an escaped control character", "none"
	case contains(u.EscapedPath(), "%2f"):
		what, want = "an escaped slash", "a slash, or the name without one"
	case contains(u.Path, "%2e", "%2f", "%5c"):
		what, want = "a character that is escaped twice", "it escaped once"
	case contains(u.Path, `\`):
		what, want = "a backslash", "a slash"
	case contains(u.Path, ";"):
		what, want = "a semicolon", "none"
	case contains(u.Path, "//"):
		what, want = "two slashes together", "one"
	case slices.ContainsFunc(strings.Split(u.Path, "/"), dots):
		what, want = "a segment . or ..", "the path that it leads to"
	default:
		return ""
	}
	return "has " + what + ", and Weir answers such paths with 400: want " + want
}

// setBody takes a text as it is, and JSON as it is written but for white space
// between its parts: numbers keep their digits.
func (r *request) setBody(value json.RawMessage) bool {
	switch value[0] {
	case '"':
		var text string
		if !texts(value, &text) {
			return false
		}
		r.body = []byte(text)
	case '{', '[':
		var compact bytes.Buffer
		if json.Compact(&compact, value) != nil {
			return false
		}
		r.body = compact.Bytes()
		if r.header.Get("Content-Type") == "" {
			r.header.Set("Content-Type", "application/json")
		}
	default:
		return false
	}
	return true
}

// headers takes the fields. Those of the connection are not for choosing.
func (r *request) headers(value json.RawMessage) (wrong []string) {
	err := members(value, func(name string, value json.RawMessage, twice bool) {
		var text string
		field := http.CanonicalHeaderKey(name)
		bad := func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
		switch {
		case !isFieldName(name):
			wrong = append(wrong, "headers: "+shown([]byte(name))+": want the name of a header field")
		case twice:
			wrong = append(wrong, "headers."+name+": is there twice: want it once")
		case !texts(value, &text) || strings.ContainsFunc(text, bad):
			wrong = append(wrong, "headers."+name+": want a text without line breaks") // it may be a secret
		case field == "Host":
			r.host = text
		case isConnectionField(field):
			wrong = append(wrong, "headers."+name+": belongs to the connection: want it left out")
		case field == "Content-Type":
			r.header.Set(field, text) // in the place of that of JSON
		default:
			r.header.Add(field, text)
		}
	})
	if err != nil {
		return append(wrong, fmt.Sprintf("headers: %v: want a JSON object", err))
	}
	return wrong
}

func isConnectionField(field string) bool {
	switch field {
	case "Connection", "Content-Length", "Expect", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// isFieldName holds for tokens (RFC 9110, section 5.6.2).
func isFieldName(name string) bool {
	for _, c := range []byte(name) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

// members gives the members of a JSON object to do, in their order. twice says that
// the name was there before.
func members(text []byte, do func(name string, value json.RawMessage, twice bool)) error {
	d := json.NewDecoder(bytes.NewReader(text))
	start, err := d.Token()
	if err != nil {
		return fmt.Errorf("is no JSON: %w", err)
	}
	if start != json.Delim('{') {
		return errors.New("is no object")
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return fmt.Errorf("is no JSON after byte %d: %w", d.InputOffset(), err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("is no JSON after byte %d: %w", d.InputOffset(), err)
		}
		name, _ := key.(string) // what else would be an error
		do(name, value, seen[name])
		seen[name] = true
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("is no JSON after byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// texts reads a JSON text, and reports whether value is one.
func texts(value json.RawMessage, to *string) bool {
	return value[0] == '"' && json.Unmarshal(value, to) == nil
}

// shown is a part of a line for a message.
func shown(text []byte) string {
	const most = 60
	if len(text) > most {
		return printable(strings.ToValidUTF8(string(text[:most]), "")) + "…"
	}
	return printable(string(text))
}
