package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// api is a model server: it streams the frames of the answer that the test sets,
// and notes what it was asked.
type api struct {
	asked  chan string // bodies
	header http.Header // of the answer
	status int
	answer string
	flush  int  // so many bytes at once; 0: all
	cut    bool // break off at the end
}

func newAPI() *api { return &api{asked: make(chan string, 100), header: http.Header{}, status: 200} }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.asked <- string(body)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	rest := a.answer
	for rest != "" {
		n := len(rest)
		if a.flush > 0 {
			n = min(n, a.flush)
		}
		_, _ = io.WriteString(w, rest[:n])
		rest = rest[n:]
		_ = http.NewResponseController(w).Flush()
	}
	if a.cut {
		panic(http.ErrAbortHandler)
	}
}

// streams makes the API answer with an event stream.
func (a *api) streams(answer string) *api {
	a.header.Set("Content-Type", "text/event-stream")
	a.answer = answer
	return a
}

func (a *api) says(answer string) *api {
	a.header.Set("Content-Type", "application/json")
	a.answer = answer
	return a
}

const llm = `
plans: {default: {policies: [100/minute]}}
upstreams: {llm: {targets: ["%s"], dialect: DIALECT}}
routes:
  - {name: chat, match: {path: /*}, upstream: llm, cache: {mode: inference, ttl: 1m}}
`

func speaking(dialect string) string { return strings.ReplaceAll(llm, "DIALECT", dialect) }

// logged is the last line of the log.
func (w *weir) logged() map[string]any {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), eventually)
	defer cancel()
	if err := w.gateway.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		w.t.Fatalf("%q: %v", lines[len(lines)-1], err)
	}
	return line
}

// equalLog compares those members of the log's last line that want names.
func (w *weir) equalLog(want map[string]any) {
	w.t.Helper()
	line, got := w.logged(), map[string]any{}
	for name := range want {
		if v, ok := line[name]; ok {
			got[name] = v
		} else {
			got[name] = nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		w.t.Errorf("the log says %v, want %v", got, want)
	}
}

const (
	chatRequest = `{"model":"llama","messages":[{"role":"user","content":"hi"}],"stream":true}`
	// What a server sends that was not asked for usage, and what it sends when it was.
	chatStream = `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"llama-3","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

: keepalive

data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"llama-3","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}

data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"llama-3","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: [DONE]

`
)

// withUsage is chatStream of a server that was asked for usage.
func withUsage() string {
	s := strings.ReplaceAll(chatStream, `}]}`, `}],"usage":null}`)
	return strings.Replace(s, "data: [DONE]",
		`data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"llama-3","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":8}}}`+"\n\ndata: [DONE]", 1)
}

// text is a pattern in which TEXT stands for any JSON string.
func text(pattern string) string {
	return strings.ReplaceAll(pattern, "TEXT", `"(?:[^"\\]|\\.)+"`)
}

func TestStreamUsageIsAskedForAndTakenOutAgain(t *testing.T) {
	for _, flush := range []int{0, 1, 7} {
		a := newAPI().streams(withUsage())
		a.flush = flush
		w := start(t, speaking("openai"), a)
		got := w.send("POST", "/v1/chat/completions", chatRequest)
		if got.body != chatStream {
			t.Errorf("pieces of %d: the client got\n%s\nwant\n%s", flush, got.body, chatStream)
		}
		var body struct {
			StreamOptions struct {
				IncludeUsage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		if asked := <-a.asked; json.Unmarshal([]byte(asked), &body) != nil || !body.StreamOptions.IncludeUsage {
			t.Errorf("the upstream was asked %s, want include_usage", asked)
		}
		w.equalLog(map[string]any{
			"model": "llama-3", "input_tokens": 9.0, "cached_tokens": 8.0, "output_tokens": 3.0, "finish": "stop", "usage_estimated": nil, "error": nil,
		})
		for kind, want := range map[string]string{"input": "9", "cached": "8", "output": "3"} {
			name := fmt.Sprintf(`weir_gateway_tokens_total{kind=%q,model="llama-3",route="chat"}`, kind)
			if got := w.metric(name); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	}
}

func TestFieldsOfABodyThatIsChangedStayBehind(t *testing.T) {
	fields := make(chan http.Header, 1)
	w := start(t, speaking("openai"), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { fields <- r.Header }))
	f := func(body string, want bool) {
		t.Helper()
		w.send("POST", "/v1/chat/completions", body, "Content-Digest", "sha-256=:AA==:", "Accept-Encoding", "gzip")
		h := <-fields
		if _, got := h["Content-Digest"]; got != want || h.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: the upstream got %v, want Content-Digest: %v", body, h, want)
		}
	}
	f(`{"model":"m","stream":true}`, false)
	f(`{"model":"m","stream":true,"stream_options":{"include_usage":null}}`, false) // as long as before
	f(`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, true)
	f(`{"model":"m"}`, true)
}

func TestStreamUsageThatWasAskedForStays(t *testing.T) {
	a := newAPI().streams(withUsage())
	w := start(t, speaking("openai"), a)
	request := strings.Replace(chatRequest, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
	if got := w.send("POST", "/v1/chat/completions", request); got.body != withUsage() {
		t.Errorf("the client got\n%s", got.body)
	}
	if asked := <-a.asked; asked != request {
		t.Errorf("the upstream was asked %s, want what the client sent", asked)
	}
}

func TestACutStreamIsNeverACleanEnd(t *testing.T) {
	t.Parallel()
	f := func(dialect, path, request, stream, contentType, event string, output float64) {
		t.Helper()
		for _, cut := range []bool{true, false} { // the connection breaks, or ends as if all were well
			a := newAPI().streams(stream + "data: {\"half")
			if contentType != "" {
				a.header.Set("Content-Type", contentType)
				a.answer = stream + `{"half`
			}
			a.cut = cut
			w := start(t, speaking(dialect), a)
			got := w.send("POST", path, request)
			rest, whole := strings.CutPrefix(got.body, stream)
			if !whole || got.err != nil || got.status != 200 {
				t.Errorf("%s: %d %v\n%s", path, got.status, got.err, got.body)
			}
			if !regexp.MustCompile("^" + text(event) + "$").MatchString(rest) {
				t.Errorf("%s: at the end came %q, want %s", path, rest, event)
			}
			w.equalLog(map[string]any{"status": 200.0, "output_tokens": output, "usage_estimated": true})
			if w.logged()["error"] == nil {
				t.Errorf("%s: the log names no error", path)
			}
			if again := w.send("POST", path, request); strings.Contains(again.header.Get("Cache-Status"), "hit") {
				t.Errorf("%s: a cut answer was stored", path)
			}
		}
	}
	f("openai", "/v1/chat/completions", chatRequest, chatStream[:strings.Index(chatStream, `data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"llama-3","choices":[{"index":0,"delta":{},`)], "",
		`data: \{"error":\{"message":TEXT,"type":"server_error","param":null,"code":[^}]+\}\}\n\n`, 2)
	f("openai", "/v1/responses", `{"model":"m","input":"hi","stream":true}`,
		`event: response.output_text.delta`+"\n"+`data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"i","output_index":0,"content_index":0,"delta":"One two three"}`+"\n\n", "",
		`event: error\ndata: \{"type":"error","code":[^,]+,"message":TEXT,"param":null,"sequence_number":5,"error":\{[^}]+\}\}\n\n`, 4)
	f("anthropic", "/v1/messages", `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}],"stream":true}`,
		`event: content_block_delta`+"\n"+`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}`+"\n\n", "",
		`event: error\ndata: \{"type":"error","error":\{"type":"api_error","message":TEXT\}[^}]*\}\n\n`, 2)
	f("ollama", "/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`,
		`{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Hello"},"done":false}`+"\n", "application/x-ndjson",
		`\{"error":TEXT\}\n`, 2)
}

func TestRefusalsAreInTheRoutesDialect(t *testing.T) {
	t.Parallel()
	const yaml = `
callers: {keys: [{caller: a, key: weir_good, plan: small}]}
plans: {default: {policies: [100/minute]}, small: {policies: [1 per 30s]}}
upstreams:
  gpt: {targets: ["%s"], dialect: openai}
  claude: {targets: ["%s"], dialect: anthropic}
  llama: {targets: ["%s"], dialect: ollama}
  kserve: {targets: ["%s"], dialect: kserve}
  app: {targets: ["%s"]}
  gone: {targets: ["http://127.0.0.1:1"], dialect: anthropic}
routes:
  - {match: {path: /v1/messages}, upstream: claude, max_body: 1KiB}
  - {match: {path: /gone/v1/messages}, upstream: gone}
  - {match: {path: /v1/models/*}, upstream: kserve}
  - {match: {path: /v1/*}, upstream: gpt, max_body: 1KiB}
  - {match: {path: /api/pull}, upstream: llama}
  - {match: {path: /api/*}, upstream: llama}
  - {match: {path: /predict}, upstream: app}
`
	w := start(t, yaml, newAPI().says(`{}`))
	f := func(path, body, key string, status int, want string) {
		t.Helper()
		var header []string
		if key != "" {
			header = []string{"X-Api-Key", key}
		}
		got := w.send("POST", path, body, header...)
		if got.status != status || !regexp.MustCompile("^"+text(want)+"\n?$").MatchString(got.body) {
			t.Errorf("%s: %d %s\nwant %d %s", path, got.status, got.body, status, want)
		}
		if got.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: without X-Request-Id", path)
		}
	}
	const hi = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	long := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("x", 2000) + `"}]}`
	f("/v1/chat/completions", hi, "weir_bad", 401, `\{"error":\{"message":TEXT,"type":"invalid_request_error","param":null,"code":"invalid_api_key"\}\}`)
	f("/v1/chat/completions", long, "", 413, `\{"error":\{"message":TEXT,"type":"invalid_request_error",[^}]+\}\}`)
	f("/v1/messages", hi, "weir_bad", 401, `\{"type":"error","error":\{"type":"authentication_error","message":TEXT\},"request_id":"[^"]+"\}`)
	f("/v1/messages", long, "", 413, `\{"type":"error","error":\{"type":"request_too_large","message":TEXT\},"request_id":"[^"]+"\}`)
	f("/gone/v1/messages", hi, "", 502, `\{"type":"error","error":\{"type":"api_error","message":TEXT\},"request_id":"[^"]+"\}`)
	f("/api/chat", hi, "weir_bad", 401, `\{"error":TEXT\}`)
	f("/api/delete", `{"model":"m"}`, "", 403, `\{"error":TEXT\}`)
	f("/api/blobs/sha256:00", `x`, "", 403, `\{"error":TEXT\}`)
	f("/api/pull", `{"model":"m"}`, "", 200, `\{\}`) // the route names it
	f("/v1/models/m:predict", `{"instances":[1]}`, "weir_bad", 401, `\{"error":TEXT\}`)
	f("/predict", `{}`, "weir_bad", 401, `\{"type":"about:blank","title":"Unauthorized".*`)

	f("/v1/chat/completions", hi, "weir_good", 200, `\{\}`)
	f("/v1/chat/completions", hi, "weir_good", 429,
		`\{"error":\{"message":"[^}]*lease try again in (29\.[0-9]+|30)s\.[^}]*","type":"requests","param":null,"code":"rate_limit_exceeded"\}\}`)
	f("/v1/messages", hi, "weir_good", 429, `\{"type":"error","error":\{"type":"rate_limit_error","message":TEXT\},"request_id":"[^"]+"\}`)
	f("/api/chat", hi, "weir_good", 429, `\{"error":TEXT\}`)
	f("/v1/models/m:predict", `{"instances":[1]}`, "weir_good", 429, `\{"error":TEXT\}`)
	f("/predict", `{}`, "weir_good", 429, `\{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded".*`)
}

func TestLimitFieldsAreMerged(t *testing.T) {
	t.Parallel()
	f := func(dialect, path string, theirs, want map[string]string) {
		t.Helper()
		a := newAPI().says(`{}`)
		for name, value := range theirs {
			a.header.Set(name, value)
		}
		w := start(t, strings.Replace(speaking(dialect), "cache: {mode: inference, ttl: 1m}", "policies: [50/minute]", 1), a)
		got := w.send("POST", path, `{"model":"m"}`)
		limits := map[string]string{}
		for name, values := range got.header {
			if name = strings.ToLower(name); strings.Contains(name, "ratelimit") && name != "ratelimit" && name != "ratelimit-policy" {
				limits[name] = values[0]
			}
		}
		for name, pattern := range want {
			if !regexp.MustCompile("^" + pattern + "$").MatchString(limits[name]) {
				t.Errorf("%s: %s is %q, want %s", dialect, name, limits[name], pattern)
			}
			delete(limits, name)
		}
		if len(limits) > 0 {
			t.Errorf("%s: the client sees %v, too", dialect, limits)
		}
		if policies := got.header.Get("Ratelimit-Policy"); !strings.Contains(policies, `"default";q=100;w=60`) {
			t.Errorf("%s: RateLimit-Policy is %s", dialect, policies)
		}
	}
	openai := map[string]string{
		"x-ratelimit-limit-requests": "10000", "x-ratelimit-remaining-requests": "9999", "x-ratelimit-reset-requests": "8ms",
		"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m0s",
	}
	f("openai", "/v1/chat/completions", openai, map[string]string{
		// Of the requests the caller's own quota is tighter, of tokens there is only the upstream's.
		"x-ratelimit-limit-requests": "50", "x-ratelimit-remaining-requests": "49", "x-ratelimit-reset-requests": `1\.2s|1\.19[0-9]*s|1[0-9]{3}ms`,
		"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m0s",
	})
	f("openai", "/v1/chat/completions", map[string]string{"X-RateLimit-Limit-Requests": "60", "X-RateLimit-Remaining-Requests": "3", "X-RateLimit-Reset-Requests": "57s"}, map[string]string{
		"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "57s",
	})
	f("anthropic", "/v1/messages", map[string]string{
		"Anthropic-RateLimit-Input-Tokens-Limit": "40000", "Anthropic-RateLimit-Input-Tokens-Remaining": "100", "Anthropic-RateLimit-Input-Tokens-Reset": time.Now().Add(time.Minute).UTC().Format(time.RFC3339),
	}, map[string]string{
		"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49", "anthropic-ratelimit-requests-reset": `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`,
		"anthropic-ratelimit-input-tokens-limit": "40000", "anthropic-ratelimit-input-tokens-remaining": "100", "anthropic-ratelimit-input-tokens-reset": `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`,
	})
	f("plain", "/predict", openai, nil)
	f("ollama", "/api/chat", openai, nil)
}

func TestAnExhaustedTargetIsLeftAlone(t *testing.T) {
	a := newAPI().says(`{"error":{"message":"slow down"}}`)
	a.status = 429
	a.header.Set("Retry-After", "30")
	w := start(t, `
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: llm}]
`, a)
	name := `weir_upstream_targets_closed{upstream="llm"}`
	if got := w.metric(name); got != "0" {
		t.Errorf("%s is %s at first, want 0", name, got)
	}
	a.header.Set("X-Request-Id", "theirs")
	got := w.send("POST", "/v1/chat/completions", `{"model":"m"}`)
	if id := got.header["X-Request-Id"]; len(id) != 1 || id[0] == "theirs" {
		t.Errorf("X-Request-Id is %v, want Weir's own: the log is searched by it", id)
	}
	if got.status != 429 || got.header.Get("Retry-After") != "30" || got.body != a.answer {
		t.Errorf("the client got %d %v %s, want the upstream's own refusal", got.status, got.header, got.body)
	}
	if got := w.metric(name); got != "1" {
		t.Errorf("%s is %s after a 429 with Retry-After, want 1", name, got)
	}
	w.equalLog(map[string]any{"status": 429.0, "error": "slow down", "output_tokens": nil})
}

func TestTheModelOfAPathCounts(t *testing.T) {
	w := start(t, `
upstreams: {tf: {targets: ["%s"], dialect: tfserving}}
routes:
  - {name: digits, match: {path: /v1/models/*, model: digits}, upstream: tf, policies: [{quota: 1, window: 1m, by: model}]}
  - {name: rest, match: {path: /v1/models/*}, upstream: tf}
`, newAPI().says(`{"predictions":[1]}`))
	for _, want := range []int{200, 429} {
		if got := w.send("POST", "/v1/models/digits:predict", `{"instances":[1]}`); got.status != want {
			t.Errorf("%d %s, want %d", got.status, got.body, want)
		}
	}
	for range 2 {
		if got := w.send("POST", "/v1/models/faces/versions/3:predict", `{"instances":[1]}`); got.status != 200 {
			t.Errorf("%d %s, want 200: it is another model", got.status, got.body)
		}
	}
	w.equalLog(map[string]any{"route": "rest", "model": "faces"})
}

func TestOnlyWholeAnswersOfDialectsAreStored(t *testing.T) {
	t.Parallel()
	const request = `{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`
	answer := func(finish string) string {
		return `{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"` + finish + `"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`
	}
	for finish, want := range map[string]string{"stop": "hit", "tool_calls": "hit", "length": "miss", "content_filter": "miss"} {
		w := start(t, speaking("openai"), newAPI().says(answer(finish)))
		w.send("POST", "/v1/chat/completions", request)
		if got := w.send("POST", "/v1/chat/completions", request).header.Get("Cache-Status"); !strings.Contains(got, want) {
			t.Errorf("an answer that ended with %s: %s, want a %s", finish, got, want)
		}
	}
	t.Run("an omitted temperature is the provider's default, not 0", func(t *testing.T) {
		w := start(t, speaking("openai"), newAPI().says(answer("stop")))
		got := w.send("POST", "/v1/chat/completions", `{"model":"m","messages":[]}`).header.Get("Cache-Status")
		if got != "weir; fwd=bypass" {
			t.Errorf("Cache-Status is %s, want a bypass", got)
		}
	})
}

func TestAClientThatLeavesIsChargedForWhatWasMade(t *testing.T) {
	const deltas = 5
	released := make(chan struct{})
	w := start(t, speaking("openai"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range deltas {
			_, _ = io.WriteString(w, `data: {"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}`+"\n\n")
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(released)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", w.url+"/v1/chat/completions", strings.NewReader(chatRequest))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for range 2*deltas - 1 {
		lines.Scan()
	}
	cancel()
	_ = resp.Body.Close()
	<-released
	name := `weir_gateway_tokens_total{kind="output",model="m",route="chat"}`
	w.until(func() bool { return w.metric(name) != "none" })
	if got := w.metric(name); got != "5" {
		t.Errorf("%s is %s, want the 5 that were made", name, got)
	}
	w.equalLog(map[string]any{"output_tokens": 5.0, "usage_estimated": true})
}
