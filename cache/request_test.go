package cache_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/inferweir/weir/cache"
)

// In a quoted string a backslash escapes a quote: what follows it can be within the
// string, or after it.
func TestReadsDirectivesAfterQuotedStrings(t *testing.T) {
	f := func(control, status string) {
		t.Helper()
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "answer")
		}))
		ask(h, request("GET", "/", ""))
		resp := ask(h, request("GET", "/", "", "Cache-Control", control))
		wantsField(t, control, resp, "Cache-Status", status)
		wants(t, control, resp, 200, "answer")
	}
	const bypass, hit = "weir; fwd=bypass", "weir; hit; ttl=59"
	f(`a="\"", no-store`, bypass)
	f(`a="\\", no-store`, bypass)
	f(`a="b, c", no-store`, bypass)
	f(`no-store, a="\"`, bypass)
	f(`a="\", no-store"`, hit)
	f(`a="b, no-store"`, hit)
	f(`a="\\\", no-store"`, hit)
}

// In an entity tag a backslash is a character as any other.
func TestReadsEntityTagsWithBackslashes(t *testing.T) {
	h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"b"`)
		_, _ = io.WriteString(w, "answer")
	}))
	ask(h, request("GET", "/", ""))
	wants(t, "after a tag that ends in a backslash", ask(h, request("GET", "/", "", "If-None-Match", `"a\", "b"`)), 304, "")
	wants(t, "another tag", ask(h, request("GET", "/", "", "If-None-Match", `"b\"`)), 200, "answer")
}
