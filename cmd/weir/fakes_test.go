package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// echo is an upstream whose answers are what it was asked.
type echo struct{ *httptest.Server }

func newEcho(t *testing.T) echo {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/secret") {
			w.Header().Set("Cache-Control", "no-store")
		}
		if strings.HasPrefix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error": {"message": "There is no model \u001b[31mllama-9."}}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{
			"method": r.Method, "url": r.URL.String(), "type": r.Header.Get("Content-Type"), "body": string(body),
		})
	}))
	t.Cleanup(server.Close)
	return echo{server}
}

// config has a cache in front of it, and a quota where a path begins with /slow.
func (e echo) config() string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
upstreams:
  echo: {targets: [%q]}
routes:
  - match: {path: /slow*}
    upstream: echo
    policies: [{quota: 50, window: 1s, burst: 1}]
    cache: {mode: inference, ttl: 1h}
  - match: {path: /plain*}
    upstream: echo
  - match: {path: /tagged*}
    upstream: echo
    cache: {mode: inference, ttl: 1h, tags: [llama, "7b"]}
  - match: {path: /*}
    upstream: echo
    cache: {mode: inference, ttl: 1h}
`, e.URL)
}

// newFakeAdmin is an admin API that finds 12 answers for most purges. What it is
// asked with the tag "strange" it answers strangely, by the path.
func newFakeAdmin(t *testing.T) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch path, purge := strings.CutSuffix(r.URL.Path, "/api/v1/cache/purge"); {
		case err != nil || r.Method != http.MethodPost || !purge || r.Header.Get("Content-Type") != "application/json":
			w.WriteHeader(http.StatusNotFound)
		case path == "/token" && r.Header.Get("Authorization") != "Bearer 0123-right":
			w.Header().Set("Www-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"status": 401, "detail": "This needs the token of admin.token: Authorization: Bearer TOKEN."}`)
		case path == "/elsewhere":
			http.Redirect(w, r, "/api/v1/cache/purge", http.StatusTemporaryRedirect)
		case path == "/page":
			_, _ = io.WriteString(w, "<html>Welcome</html>")
		case path == "/half":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"purged"`)
		case path == "/away":
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"detail": "This instance has removed 3, but not all other instances could be told."}`)
		default:
			removed := 12
			if string(body) == `{"all":true}` {
				removed = 1
			}
			_, _ = fmt.Fprintf(w, `{"purged":%s,"removed":%d}`+"\n", body, removed)
		}
	}))
	t.Cleanup(server.Close)
	return server
}
