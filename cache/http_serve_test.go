package cache

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// digits is a stored answer of ten bytes.
func digits(lines ...string) *Entry {
	e := &Entry{Status: 200, Body: []byte("0123456789"), Made: noon}
	e.Header = fields(append([]string{"Content-Type: text/plain", "Date: " + at(0), "Cache-Control: max-age=60", "Vary: X-A"}, lines...)...)
	return e
}

func serve(e *Entry, method string, lines ...string) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	r.Header = fields(lines...)
	w := httptest.NewRecorder()
	w.Header()["Age"] = []string{"5"}
	serveHTTPEntry(w, r, e)
	return w.Result()
}

func text0(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServeHTTPEntryWhole(t *testing.T) {
	f := func(t *testing.T, name string, e *Entry, method, body string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			resp := serve(e, method, lines...)
			want := e.Header.Clone()
			want["Age"] = []string{"5"}
			if e.Status != http.StatusNoContent {
				want.Set("Content-Length", map[bool]string{true: "10", false: "0"}[len(e.Body) > 0])
			}
			delete(resp.Header, "Accept-Ranges") // may be said
			for name, values := range resp.Header {
				if len(values) == 0 {
					delete(resp.Header, name) // not sent
				}
			}
			if got := text0(t, resp); resp.StatusCode != e.Status || got != body || !reflect.DeepEqual(resp.Header, want) {
				t.Errorf("got %d %v %q, want %d %v %q", resp.StatusCode, resp.Header, got, e.Status, want, body)
			}
		})
	}
	const all = "0123456789"
	f(t, "gives GET all", digits(), "GET", all)
	f(t, "gives QUERY all", digits(), "QUERY", all)
	f(t, "gives HEAD the fields", digits(), "HEAD", "")
	bare := digits()
	delete(bare.Header, "Content-Type")
	f(t, "invents no type", bare, "GET", all)
	f(t, "ignores a range for HEAD", digits(), "HEAD", "", "Range: bytes=0-1")
	f(t, "ignores a unit that it does not know", digits(), "GET", all, "Range: lines=0-1")
	f(t, "ignores two Range fields", digits(), "GET", all, "Range: bytes=0-1", "Range: bytes=2-3")
	f(t, "ignores too many ranges", digits(), "GET", all, "Range: bytes=0-0"+strings.Repeat(",1-1", maxRanges))
	f(t, "ignores ranges that are more than all", digits(), "GET", all, "Range: bytes=0-,0-")
	f(t, "ignores a range of another version", digits(`ETag: "a"`), "GET", all, "Range: bytes=0-1", `If-Range: "b"`)
	f(t, "ignores a range of a weakly known version", digits(`ETag: W/"a"`), "GET", all, "Range: bytes=0-1", `If-Range: W/"a"`)
	f(t, "ignores a range of another date", digits("Last-Modified: "+at(-time.Hour)), "GET", all, "Range: bytes=0-1", "If-Range: "+at(-time.Minute))
	f(t, "ignores a range of a date that is not sure", digits("Last-Modified: "+at(0)), "GET", all, "Range: bytes=0-1", "If-Range: "+at(0))
	f(t, "does not look at If-Match", digits(`ETag: "a"`), "GET", all, `If-Match: "b"`)
	f(t, "does not look at If-Unmodified-Since", digits("Last-Modified: "+at(0)), "GET", all, "If-Unmodified-Since: "+at(-time.Hour))
	f(t, "has another tag", digits(`ETag: "a"`), "GET", all, `If-None-Match: "b", "c,a"`)
	f(t, "does not look at the date beside a tag", digits(`ETag: "a"`, "Last-Modified: "+at(-time.Hour)), "GET", all, `If-None-Match: "b"`, "If-Modified-Since: "+at(0))
	f(t, "has changed since", digits("Last-Modified: "+at(0)), "GET", all, "If-Modified-Since: "+at(-time.Hour))
	f(t, "has been made since", digits(), "GET", all, "If-Modified-Since: "+at(-time.Hour))
	f(t, "does not look at a date that is none", digits("Last-Modified: "+at(-time.Hour)), "GET", all, "If-Modified-Since: now")
	f(t, "does not look at a date for QUERY", digits("Last-Modified: "+at(-time.Hour)), "QUERY", all, "If-Modified-Since: "+at(0))
	missing := digits(`ETag: "a"`)
	missing.Status = http.StatusNotFound
	f(t, "gives errors whole", missing, "GET", all, "Range: bytes=0-1", `If-None-Match: "a"`)
	moved := digits("Location: /x")
	moved.Status, moved.Body = http.StatusMovedPermanently, nil
	f(t, "gives redirects whole", moved, "GET", "", "If-Modified-Since: "+at(time.Hour))
	empty := digits()
	empty.Status, empty.Body = http.StatusNoContent, nil
	f(t, "gives nothing without a length", empty, "GET", "")
}

func TestServeHTTPEntryNotModified(t *testing.T) {
	f := func(t *testing.T, name string, e *Entry, method string, want, request []string) {
		t.Run(name, func(t *testing.T) {
			resp := serve(e, method, request...)
			wanted := fields(append(want, "Age: 5", "Date: "+at(0), "Cache-Control: max-age=60", "Vary: X-A")...)
			if got := text0(t, resp); resp.StatusCode != http.StatusNotModified || got != "" || !reflect.DeepEqual(resp.Header, wanted) {
				t.Errorf("got %d %v %q, want 304 %v", resp.StatusCode, resp.Header, got, wanted)
			}
		})
	}
	list := func(lines ...string) []string { return lines }
	changed := "Last-Modified: " + at(-time.Hour)
	for _, method := range []string{"GET", "HEAD", "QUERY"} {
		f(t, "knows the tag for "+method, digits(`ETag: "a"`, changed), method, list(`ETag: "a"`), list(`If-None-Match: "b", W/"a"`, "If-Modified-Since: "+at(-2*time.Hour)))
	}
	f(t, "knows a tag with a comma", digits(`ETag: "a,b"`), "GET", list(`ETag: "a,b"`), list(`If-None-Match: "a,b"`))
	f(t, "knows a weak tag", digits(`ETag: W/"a"`), "GET", list(`ETag: W/"a"`), list(`If-None-Match: "a"`))
	f(t, "knows any tag", digits(), "GET", nil, list("If-None-Match: *"))
	f(t, "sends no fields of the content", digits(`ETag: "a"`, "Content-Encoding: gzip", "Content-Language: de", "Content-Location: /x"), "GET",
		list(`ETag: "a"`, "Content-Location: /x"), list(`If-None-Match: "a"`, "Range: bytes=0-1"))
	f(t, "has not changed since then", digits(changed), "GET", list(changed), list("If-Modified-Since: "+at(-time.Hour)))
	f(t, "has not changed since later", digits(changed), "HEAD", list(changed), list("If-Modified-Since: "+at(0)))
	f(t, "has not been made since", digits(), "GET", nil, list("If-Modified-Since: "+at(0)))
	accepted := digits(`ETag: "a"`)
	accepted.Status = http.StatusNonAuthoritativeInfo
	f(t, "knows the tag of any success", accepted, "GET", list(`ETag: "a"`), list(`If-None-Match: "a"`))
}

func TestServeHTTPEntryRanges(t *testing.T) {
	f := func(t *testing.T, name, contentRange, body string, e *Entry, method string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			resp := serve(e, method, lines...)
			if got := text0(t, resp); resp.StatusCode != http.StatusPartialContent || resp.Header.Get("Content-Range") != contentRange || got != body {
				t.Errorf("got %d %q %q, want 206 %q %q", resp.StatusCode, resp.Header.Get("Content-Range"), got, contentRange, body)
			}
			for name, values := range e.Header {
				if !reflect.DeepEqual(resp.Header[name], values) {
					t.Errorf("%s: got %q, want %q", name, resp.Header[name], values)
				}
			}
			if resp.Header.Get("Age") != "5" || resp.ContentLength != int64(len(body)) {
				t.Errorf("Age %q, length %d", resp.Header.Get("Age"), resp.ContentLength)
			}
		})
	}
	hour := at(-time.Hour)
	for _, method := range []string{"GET", "QUERY"} {
		f(t, "gives "+method+" the first bytes", "bytes 0-1/10", "01", digits(`ETag: "a"`), method, "Range: bytes=0-1")
	}
	f(t, "gives the last bytes", "bytes 7-9/10", "789", digits(), "GET", "Range: bytes=-3")
	f(t, "gives the rest", "bytes 7-9/10", "789", digits(), "GET", "Range: bytes=7-")
	f(t, "gives what there is", "bytes 7-9/10", "789", digits(), "GET", "Range: bytes=7-100")
	f(t, "takes the unit in any case", "bytes 0-1/10", "01", digits(), "GET", "Range: Bytes=0-1")
	f(t, "gives a range of the same version", "bytes 0-1/10", "01", digits(`ETag: "a"`), "GET", "Range: bytes=0-1", `If-Range: "a"`)
	f(t, "gives a range of the same date", "bytes 0-1/10", "01", digits("Last-Modified: "+hour), "GET", "Range: bytes=0-1", "If-Range: "+hour)
	f(t, "gives a range where the client has another version", "bytes 0-1/10", "01", digits(`ETag: "a"`), "GET", "Range: bytes=0-1", `If-None-Match: "b"`)
	f(t, "counts encoded bytes", "bytes 0-1/10", "01", digits("Content-Encoding: gzip"), "GET", "Range: bytes=0-1")
	t.Run("gives several ranges", func(t *testing.T) {
		resp := serve(digits(), "GET", "Range: bytes=0-1, 8-")
		kind, parameters, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if resp.StatusCode != http.StatusPartialContent || kind != "multipart/byteranges" || err != nil {
			t.Fatalf("got %d %v, %v", resp.StatusCode, resp.Header, err)
		}
		var got []string
		parts := multipart.NewReader(resp.Body, parameters["boundary"])
		for {
			part, err := parts.NextPart()
			if err != nil {
				break
			}
			body, _ := io.ReadAll(part)
			got = append(got, part.Header.Get("Content-Type")+" "+part.Header.Get("Content-Range")+" "+string(body))
		}
		if want := []string{"text/plain bytes 0-1/10 01", "text/plain bytes 8-9/10 89"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	for _, wanted := range []string{"bytes=10-", "bytes=x-y", "bytes=5-2"} {
		t.Run("refuses "+wanted, func(t *testing.T) {
			e := digits(`ETag: "a"`)
			resp := serve(e, "GET", "Range: "+wanted)
			if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || strings.Contains(text0(t, resp), "0123") {
				t.Errorf("got %d", resp.StatusCode)
			}
			if resp.Header.Get("Cache-Control") != "" || resp.Header.Get("Etag") != "" {
				t.Errorf("a refusal with the fields of the answer: %v", resp.Header)
			}
		})
	}
	t.Run("names the length where no range fits", func(t *testing.T) {
		if got := serve(digits(), "GET", "Range: bytes=10-").Header.Get("Content-Range"); got != "bytes */10" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("leaves the entry alone", func(t *testing.T) {
		e := digits(`ETag: "a"`)
		before := e.Header.Clone()
		w := httptest.NewRecorder()
		serveHTTPEntry(w, httptest.NewRequest("GET", "/", nil), e)
		w.Header().Add("Vary", "X-B")
		w.Header()["Etag"] = append(w.Header()["Etag"], "x")
		serve(e, "GET", "Range: bytes=10-")
		if !reflect.DeepEqual(e.Header, before) {
			t.Errorf("got %v, want %v", e.Header, before)
		}
	})
}
