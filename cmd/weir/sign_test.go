package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestSign signs with the configuration of a server that runs, whose database keeps the
// signing key: the server must take the link.
func TestSign(t *testing.T) {
	t.Setenv(signingKey, "0123456789abcdef0123456789abcdef") // which no server reads by itself
	model := newEcho(t)
	text := fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
database: {url: %q}
blobs: {url: %q}
upstreams:
  echo: {targets: [%q]}
routes:
  - match: {path: /*}
    upstream: echo
`, "sqlite:"+filepath.Join(t.TempDir(), "weir.db"), "dir:"+t.TempDir(), model.URL)
	weir := serve(t, text)
	config := write(t, "same.yaml", text)

	post, err := http.Post(weir.base+"/blobs", "application/json", strings.NewReader(`{"content_type": "image/png", "bytes": 3}`))
	if err != nil {
		t.Fatal(err)
	}
	defer post.Body.Close()
	var offered struct {
		Key    string `json:"key"`
		Upload struct {
			URL string `json:"url"`
		} `json:"upload"`
	}
	if err := json.NewDecoder(post.Body).Decode(&offered); err != nil || post.StatusCode != http.StatusCreated {
		t.Fatal(post.Status, err)
	}
	if got := send(t, http.MethodPut, offered.Upload.URL, "abc"); got != http.StatusCreated {
		t.Fatalf("upload: %d", got)
	}

	var link strings.Builder
	c := signCommand{Key: offered.Key, Config: file(config), Method: http.MethodGet, URL: baseURL(weir.base)}
	if err := c.Run(t.Context(), output{stdout: &link, stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if got := send(t, http.MethodGet, strings.TrimSpace(link.String()), ""); got != http.StatusOK {
		t.Errorf("the server answers %d to the link that weir sign prints, want 200", got)
	}
}

func send(t *testing.T, method, url, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "image/png")
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}
