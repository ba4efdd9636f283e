package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Requests that differ by a field alone are not the same to the cache, and a replay has
// to see that. Who is named by a field asks for the same as others do.
func TestReplaySeesTheFieldsOfRequests(t *testing.T) {
	t.Parallel()
	const yaml = `
callers: {identify: [header, ip], trusted_proxies: [127.0.0.0/8]}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1h, share: all}}]
`
	upstream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "answered") })
	w := start(t, yaml, upstream)
	ask := func(want string, header ...string) {
		t.Helper()
		if got := w.send("GET", "/a", "", header...).header.Get("Cache-Status"); !strings.HasPrefix(got, "weir; "+want) {
			t.Errorf("%q: %s, want a %s", header, got, want)
		}
	}
	ask("fwd=miss", "Accept", "a/b", "Accept-Language", "fr", "X-User-ID", "anna")
	ask("hit", "Accept-Language", "fr", "Accept", "a/b", "X-User-ID", "ben", "User-Agent", "other")
	ask("fwd=miss", "Accept", "a/c", "Accept-Language", "fr", "X-User-ID", "anna")
	ask("fwd=miss", "Accept", "a/b", "X-User-ID", "anna")
	ask("fwd=miss", "X-User-ID", "anna")
	w.logged()
	_, report := replayed(t, strings.ReplaceAll(yaml, "%s", "http://127.0.0.1:1"), w.log.Bytes())
	if report.New.Hits != 1 || report.New.Upstream != 4 {
		t.Errorf("the replay has %d hits and %d upstream, want 1 and 4", report.New.Hits, report.New.Upstream)
	}
}
