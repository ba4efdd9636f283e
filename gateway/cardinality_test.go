package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const strangers = `
callers: {identify: [header, ip], trusted_proxies: [127.0.0.0/8]}
plans: {default: {policies: [{name: all, quota: 5, window: 1h}]}}
upstreams: {u: {targets: ["%s"], dialect: openai}}
routes:
- {name: chat, match: {path: /v1/chat/completions}, upstream: u, cache: {mode: inference, ttl: 1m, only: all}}
- {name: all, match: {path: /v1/*}, upstream: u}
`

// TestStrangersMakeNoSeries has callers, paths, models, methods and request IDs that all
// come once: what is told of them must not grow with them.
func TestStrangersMakeNoSeries(t *testing.T) {
	t.Parallel()
	w := start(t, strangers, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"model":%q,"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`,
			r.Header.Get("X-Model"))
	}))
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			model := fmt.Sprint("model-", i)
			header := []string{"X-User-Id", fmt.Sprint("user-", i), "X-Model", model, "X-Request-Id", fmt.Sprint("id-", i), "User-Agent", model}
			w.send("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"%d"}]}`, model, i), header...)
			w.send("GET", fmt.Sprint("/v1/path-", i), "", header...)
			w.send("GET", fmt.Sprint("/nowhere-", i), "", header...)
			w.send(fmt.Sprint("METHOD-", i), "/v1/x", "", header...)
		}
	}
	size := func() (series, bytes int) {
		rec := httptest.NewRecorder()
		w.gateway.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Count(rec.Body.String(), "\nweir_"), rec.Body.Len()
	}
	flood(0, 150) // more than there are places for models
	before, _ := size()
	flood(150, 650)
	after, bytes := size()
	if after != before || bytes > 1<<20 {
		t.Errorf("500 strangers made %d series of %d, in %d bytes; want the same, in 1 MiB at most", after, before, bytes)
	}
	if n := w.metric(`weir_gateway_requests_total{method="POST",route="chat",status="200"}`); n != "650" {
		t.Errorf("%s calls were answered, want 650", n)
	}
}
