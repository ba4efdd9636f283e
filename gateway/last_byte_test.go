package gateway_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// readToDone reads an answer as model clients do: to its own end, not the transport's.
func readToDone(body io.Reader) {
	for lines := bufio.NewReader(body); ; {
		if line, err := lines.ReadString('\n'); err != nil || strings.HasPrefix(line, "data: [DONE]") {
			return
		}
	}
}

// A lone client that comes again at the end of its answer: its refund is there.
func TestALoneClientFindsWhatItDidNotUse(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"json 200 KiB with length", "json 100 bytes", "stream to [DONE]"} {
		w := start(t, `
plans: {default: {policies: [{name: t, quota: 1000000, burst: 1000, unit: tokens, window: 1h}]}}
upstreams: {u: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if strings.HasPrefix(kind, "stream") {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n")
				return
			}
			n := 10
			if strings.Contains(kind, "200") {
				n = 200 << 10
			}
			text := `{"choices":[{"index":0,"message":{"content":"` + strings.Repeat("x", n) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			_, _ = io.WriteString(w, text)
		}))
		refused := 0
		for range 150 {
			req, _ := http.NewRequest("POST", w.url+"/v1/chat/completions", strings.NewReader(fmt.Sprintf(`{"model":"m","max_tokens":600,"stream":%v,"messages":[{"role":"user","content":"hi"}]}`, strings.HasPrefix(kind, "stream"))))
			req.Header.Set("Content-Type", "application/json")
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == 429 {
				refused++
			}
			readToDone(resp.Body)
			resp.Body.Close()
			w.client.CloseIdleConnections()
		}
		if refused > 0 {
			t.Errorf("%s: a lone client was refused %d times though it uses 2 tokens of 1000", kind, refused)
		}
	}
}

// A slot is held until the last byte is out, with a cache, too.
func TestASlotIsHeldWhileItsClientReads(t *testing.T) {
	const size = 8 << 20
	for _, cache := range []string{"", ", cache: {mode: inference, ttl: 1m, only: all, max_entry: 16MiB}"} {
		w := start(t, `
plans: {default: {policies: [1 concurrent]}}
cache: {memory: {max_bytes: 64MiB}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u`+cache+`}]
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.WriteString(w, strings.Repeat("x", size))
		}))
		c := w.dial()
		_, _ = io.WriteString(c, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
		line, _ := bufio.NewReaderSize(c, 16).ReadString('\n')
		<-time.After(200 * time.Millisecond) // so that what is read ahead, is
		if a := w.send("GET", "/b", ""); a.status != 429 {
			t.Errorf("cache %q: %d while the first answer (%q) is under way", cache, a.status, strings.TrimSpace(line))
		}
		_ = c.Close()
	}
}

// A model client stops at [DONE] and comes again.
func TestAClientThatStopsAtDoneFindsItsSlot(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [1 concurrent]}}
upstreams: {u: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	}))
	refused := 0
	for range 200 {
		req, _ := http.NewRequest("POST", w.url+"/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
		req.Header.Set("Content-Type", "application/json")
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == 429 {
			refused++
		}
		readToDone(resp.Body)
		_ = resp.Body.Close()
	}
	if refused > 0 {
		t.Errorf("%d of 200 refused", refused)
	}
}

// What was reserved and given back is not missing from a share.
func TestAShareKnowsWhatWasGivenBack(t *testing.T) {
	redis := storetest.Redis(t)
	w := start(t, strings.ReplaceAll(`
store: {url: "REDIS", on_failure: local, deadline: 10s}
plans: {default: {policies: [{name: t, quota: 100000, unit: tokens, window: 1h}]}}
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: llm}]
`, "REDIS", redis.URL()), &usedUp{input: 7, output: 5}).connected()
	body := strings.Replace(hi, "50", "20000", 1)
	for range 12 {
		if a := w.send("POST", "/v1/chat/completions", body); a.status != 200 || a.header.Get("Weir-Store") != "" {
			t.Fatal(a.status, a.header)
		}
	}
	redis.Stop()
	if a := w.send("POST", "/v1/chat/completions", hi); a.status != 200 || a.header.Get("Weir-Store") != "local" {
		t.Errorf("144 tokens of 100,000 were used: %d %v %s", a.status, a.header, a.body)
	}
}

// Over HTTP/2 the end of an answer comes after its last bytes, and a long terminal
// event is handed on in parts: what was used is what the whole of it says.
func TestAnAnswerIsSettledByItsEnd(t *testing.T) {
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.Contains(r.URL.Path, "responses") {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[{\"x\":\"%s\"}],\"usage\":{\"input_tokens\":20,\"output_tokens\":30,\"total_tokens\":50}}}\n\n", strings.Repeat("y", 200000))
			return
		}
		text := `{"model":"m","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":300}}`
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		_, _ = io.WriteString(w, text)
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	t.Cleanup(api.Close)
	roots := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	for _, cache := range []string{"", ", cache: {mode: inference, ttl: 1m, only: all}"} {
		yaml := strings.NewReplacer("%s", api.URL, "{name: r, quota: 1000, window: 1h}", "{name: b, quota: 1000000, unit: bytes, window: year, algorithm: fixed_window}",
			"match: {path: /*}, upstream: llm", "match: {path: /*}, upstream: llm"+cache).Replace(tokenPlan)
		w := start(t, yaml, nil)
		if a := w.send("POST", "/v1/chat/completions", hi); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.until(func() bool { return w.left("/look", "out") == 700 }) // a moment after the last byte
		w.wantLeft("/look", map[string]int64{"t": 500, "in": 800, "out": 700})
		a := w.send("POST", "/v1/responses", `{"model":"m","stream":true,"max_output_tokens":50,"input":"hi"}`)
		if len(a.body) < 200_000 {
			t.Fatalf("%d %d bytes", a.status, len(a.body))
		}
		w.until(func() bool { return w.left("/look", "b") < 1_000_000-200_000 })
	}
}
