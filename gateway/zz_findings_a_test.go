package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const findingsA = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}], deny: ["header:evil"], trusted_proxies: [127.0.0.0/8]}
plans: {pro: {}}
upstreams: {llm: {targets: ["%s"], dialect: openai, retry: {attempts: 1}, breaker: {failures: 0}}}
routes: [{name: chat, match: {path: /v1/*}, upstream: llm, cache: {mode: inference, ttl: 1h, share: caller}}]
`

func TestFindingsA(t *testing.T) {
	w := start(t, findingsA, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rw.Header().Set("Content-Type", "application/json")
		if r.Header.Get("X-Bad") != "" {
			rw.WriteHeader(400)
			fmt.Fprintf(rw, `{"error":{"message":%q,"type":"invalid_request_error"}}`, "Invalid prompt: "+string(b))
			return
		}
		_, _ = io.WriteString(rw, `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}))
	alice := []string{"Authorization", "Bearer weir_alice"}
	hit := `{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`
	w.send("POST", "/v1/chat/completions", hit, alice...)
	w.send("POST", "/v1/chat/completions", hit, alice...)
	for range 2 {
		w.send("POST", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, alice...)
	}
	s := w.snapshotOf(4)
	if r := *s.Traffic.HitRatio; r != 0.5 {
		t.Errorf("A2: hit ratio %v of 1 hit, 1 miss, 2 bypasses; Grafana, the recording rule and observability.md say 0.5", r)
	}
	w.send("POST", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"PROMPTSECRET"}]}`, append(alice, "X-Bad", "1")...)
	w.send("GET", "/v1/models", "", "Authorization", "Bearer weir_bad")
	w.send("GET", "/v1/models", "", "X-User-ID", "evil")
	for range 31 {
		w.send("GET", "/v1/models", "", "Authorization", "Bearer weir_bad")
	}
	s = w.snapshotOf(38)
	t.Logf("traffic: requests %d refused %d errors %d latency.n %d; callers %+v", s.Traffic.Requests, s.Traffic.Refused, s.Traffic.Errors, s.Traffic.Latency.N, s.Callers)
	if s.Traffic.Latency.N != 5 {
		t.Errorf("A4: 401, 403 and 429 of failed authentications are in the latency: n %d, want 5", s.Traffic.Latency.N)
	}
	for _, l := range w.lines() {
		if st := l["status"].(float64); (st == 401 || st == 403 || st == 429) && l["client"] == nil {
			t.Errorf("A1: the line of a %v has no client: %v", st, l)
			break
		}
	}
	for _, l := range w.lines() {
		if strings.Contains(fmt.Sprint(l), "PROMPTSECRET") {
			t.Errorf("A5: a prompt is in the log: %v", l["error"])
		}
	}
}
