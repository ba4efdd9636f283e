package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What was found by trying to break the dialects, each with what it would have
// cost somebody.

func TestManagementBehindABasePathIsRefused(t *testing.T) {
	t.Parallel()
	f := func(dialect, base, path string, want int) {
		t.Helper()
		w := start(t, fmt.Sprintf(`
upstreams: {u: {targets: ["%%s%s"], dialect: %s}}
routes: [{match: {path: /*}, upstream: u}]
`, base, dialect), newAPI().says(`{}`))
		if got := w.send("POST", path, `{"model":"m"}`); got.status != want {
			t.Errorf("%s with the base path %s: POST %s is %d, want %d", dialect, base, path, got.status, want)
		}
	}
	f("ollama", "/api", "/pull", 403)
	f("ollama", "/api/", "/delete", 403)
	f("ollama", "/api", "/chat", 200)
	f("ollama", "/x", "/api/create", 403)
	f("kserve", "/v2", "/repository/models/m/unload", 403)
	f("kserve", "/v2", "/models/m/infer", 200)
	t.Run("of any target", func(t *testing.T) {
		w := start(t, `
upstreams: {u: {targets: ["%s", "%s/api"], dialect: ollama}}
routes: [{match: {path: /pull*}, upstream: u}]
`, newAPI().says(`{}`))
		for range 2 {
			// The route names /pull, which is /api/pull at one of the targets: it
			// was meant.
			if got := w.send("POST", "/pull", `{"model":"m"}`); got.status != 200 {
				t.Errorf("%d, want 200", got.status)
			}
		}
		w = start(t, `
upstreams: {u: {targets: ["%s", "%s/api"], dialect: ollama}}
routes: [{match: {path: /*}, upstream: u}]
`, newAPI().says(`{}`))
		for range 2 {
			if got := w.send("POST", "/pull", `{"model":"m"}`); got.status != 403 {
				t.Errorf("%d, want 403 whichever target it would have been", got.status)
			}
		}
	})
}

func TestTheModelOfABasePathCounts(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s/openai/deployments/dear"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, newAPI().says(`{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]}`))
	w.send("POST", "/chat/completions", `{"messages":[]}`)
	w.equalLog(map[string]any{"model": "dear", "finish": "stop"})
}

func TestTwoReadersOfOneModel(t *testing.T) {
	t.Parallel()
	const yaml = `
upstreams: {u: {targets: ["%s"], dialect: DIALECT}}
routes:
  - {name: dear, match: {path: /*, model: dear}, upstream: u, policies: [1/day]}
  - {name: cheap, match: {path: /*, model: "cheap*"}, upstream: u}
  - {name: rest, match: {path: /*}, upstream: u}
`
	f := func(dialect, path, body string, want int) {
		t.Helper()
		w := start(t, strings.Replace(yaml, "DIALECT", dialect, 1), newAPI().says(`{}`))
		w.send("POST", path, body)
		if got := w.send("POST", path, body); got.status != want {
			t.Errorf("%s %s %s: %d %s, want %d", dialect, path, body, got.status, got.body, want)
		}
	}
	// Servers in Go take names in any case, and the last one.
	for _, dialect := range []string{"openai", "ollama", "plain"} {
		f(dialect, "/v1/chat/completions", `{"model":"cheap","Model":"dear"}`, 400)
		f(dialect, "/v1/chat/completions", `{"mOdel":"dear"}`, 400)
		f(dialect, "/v1/chat/completions", `{"model":"cheap","\u004dodel":"dear"}`, 400)
	}
	// LiteLLM takes it from the path and from the query before the body.
	f("openai", "/engines/dear/chat/completions", `{"model":"cheap"}`, 429)
	f("openai", "/openai/deployments/dear/chat/completions", `{"model":"cheap"}`, 429)
	f("openai", "/openai/deployments/azure/dear/chat/completions", `{"model":"dear"}`, 200)
	f("openai", "/v1/chat/completions?model=dear", `{"model":"cheap"}`, 400)
	f("openai", "/v1/chat/completions?model=cheap", `{"model":"cheap"}`, 200)
}

func TestAnotherNameOfAModelIsTheSameModel(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s"], dialect: ollama}}
routes:
  - {name: dear, match: {path: /*, model: "Llama3:latest"}, upstream: u, policies: [{quota: 1, window: 1h, by: model}]}
  - {name: small, match: {path: /*, model: "library/Tiny*"}, upstream: u, policies: [{quota: 1, window: 1h, by: model}]}
  - {name: rest, match: {path: /*}, upstream: u}
`, newAPI().says(`{}`))
	f := func(model string, want int) {
		t.Helper()
		if got := w.send("POST", "/api/chat", `{"stream":false,"model":"`+model+`"}`); got.status != want {
			t.Errorf("%s: %d %s, want %d", model, got.status, got.body, want)
		}
	}
	f("llama3", 200)
	for _, name := range []string{"llama3", "LLAMA3", "llama3:latest", "library/llama3", "registry.ollama.ai/library/Llama3:latest"} {
		f(name, 429)
	}
	f("llama3:8b", 200)
	f("tinyllama", 200)
	f("TinyLlama:latest", 429)
}

func TestTheStateOfSomethingIsNotKept(t *testing.T) {
	t.Parallel()
	f := func(dialect, method, path, body, want string) {
		t.Helper()
		w := start(t, speaking(dialect), newAPI().says(`{"id":"r","status":"in_progress"}`))
		w.send(method, path, body)
		if got := w.send(method, path, body).header.Get("Cache-Status"); !strings.Contains(got, want) {
			t.Errorf("%s %s %s: %s, want a %s", method, path, body, got, want)
		}
	}
	f("openai", "GET", "/v1/responses/resp_1", "", "bypass")
	f("openai", "GET", "/health", "", "bypass")
	f("ollama", "GET", "/api/ps", "", "bypass")
	f("kserve", "GET", "/v2/models/m/ready", "", "bypass")
	f("kserve", "POST", "/v2/models/m/infer", `{"inputs":[],"parameters":{"sequence_id":5,"sequence_start":true}}`, "bypass")
	f("kserve", "POST", "/v2/models/m/infer", `{"inputs":[],"parameters":{"sequence_id":0}}`, "hit")
	f("anthropic", "POST", "/v1/messages", `{"model":"m","temperature":0,"mcp_servers":[{"url":"x"}]}`, "bypass")
}

func TestAPathsModelNeedsNoReadableBody(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s"], dialect: kserve}}
routes:
  - {name: digits, match: {path: /v2/*, model: digits}, upstream: u, policies: [{quota: 100, window: 1m, by: model}]}
`, newAPI().says(`{}`))
	for _, body := range []string{"\x00\x01\x02", `[NaN]`, "\x1f\x8b\x08"} {
		if got := w.send("POST", "/v2/models/digits/infer", body, "Inference-Header-Content-Length", "0"); got.status != 200 {
			t.Errorf("%q: %d %s, want 200: the path names the model", body, got.status, got.body)
		}
	}
}

func TestUnfinishedAnswersAreNotStored(t *testing.T) {
	t.Parallel()
	f := func(dialect, path, request, answer, want string) {
		t.Helper()
		w := start(t, speaking(dialect), newAPI().says(answer))
		w.send("POST", path, request)
		if got := w.send("POST", path, request).header.Get("Cache-Status"); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want a %s", answer, got, want)
		}
	}
	const chat = `{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`
	choices := func(reasons ...string) string {
		var all []string
		for i, r := range reasons {
			all = append(all, fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":"x"},"finish_reason":%s}`, i, r))
		}
		return `{"model":"m","choices":[` + strings.Join(all, ",") + `]}`
	}
	two := strings.Replace(chat, `"temperature"`, `"n":2,"temperature"`, 1)
	f("openai", "/v1/chat/completions", two, choices(`"stop"`, `"stop"`), "hit")
	f("openai", "/v1/chat/completions", two, choices(`"stop"`, `"length"`), "miss")
	f("openai", "/v1/chat/completions", two, choices(`"stop"`), "miss")
	for _, reason := range []string{`"abort"`, `"insufficient_system_resource"`, `"error"`, `null`} {
		f("openai", "/v1/chat/completions", chat, choices(reason), "miss")
	}
	f("openai", "/v1/chat/completions", chat, `{"choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":"no"},"finish_reason":"stop"}]}`, "miss")
	f("openai", "/v1/responses", `{"model":"m","temperature":0,"input":"hi"}`, `{"id":"r","status":"completed","output":[]}`, "hit")
	f("openai", "/v1/responses", `{"model":"m","temperature":0,"input":"hi"}`, `{"id":"r","status":"queued","output":[]}`, "miss")
	f("openai", "/v1/embeddings", `{"model":"m","input":"hi"}`, `{"data":[{"index":0,"embedding":[1]}]}`, "hit")
	f("anthropic", "/v1/messages", chat, `{"type":"message","content":[],"stop_reason":"end_turn"}`, "hit")
	f("anthropic", "/v1/messages", chat, `{"type":"message","content":[],"stop_reason":"max_tokens"}`, "miss")
	const ollama = `{"model":"m","stream":false,"options":{"temperature":0},"messages":[]}`
	f("ollama", "/api/chat", ollama, `{"message":{"content":"x"},"done":true,"done_reason":"stop"}`, "hit")
	f("ollama", "/api/chat", ollama, `{"message":{"content":""},"done":true,"done_reason":"unload"}`, "miss")
	f("ollama", "/api/chat", ollama, `{"message":{"content":"x"},"done":false}`, "miss")
	f("openai", "/v1/chat/completions", strings.Replace(chat, `"temperature":0`, `"temperature":0.9,"seed":-1`, 1), choices(`"stop"`), "bypass")
}

func TestStreamsOfLinesAreReplayedAsLines(t *testing.T) {
	var calls atomic.Int64
	w := start(t, speaking("ollama"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, `{"message":{"content":"a"},"done":false}`+"\n")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, `{"message":{"content":""},"done":true,"done_reason":"stop"}`+"\n")
	}))
	began := time.Now()
	for _, want := range []string{"weir; fwd=miss; stored", "weir; hit; ttl=59"} {
		got := w.send("POST", "/api/chat", `{"model":"m","options":{"temperature":0},"messages":[]}`)
		if status := got.lapsed(began, 59); status != want || strings.Count(got.body, "\n") != 2 || len(got.header["Content-Length"]) > 0 {
			t.Errorf("%s: %q, want %s and two lines in a stream", status, got.body, want)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

func TestTheUpstreamsErrorsPassAsTheyAre(t *testing.T) {
	for _, body := range []string{`{"error":{"message":"slow"}}`, "upstream connect error", "data: oops\n\n"} {
		a := newAPI().streams(body)
		a.status = 503
		w := start(t, speaking("openai"), a)
		if got := w.send("POST", "/v1/chat/completions", chatRequest); got.status != 503 || got.body != body {
			t.Errorf("%d %q, want 503 %q", got.status, got.body, body)
		}
	}
}

func TestAnEmptyStreamIsNoCleanEnd(t *testing.T) {
	a := newAPI().streams("")
	a.header.Set("Content-Length", "0")
	w := start(t, speaking("openai"), a)
	if got := w.send("POST", "/v1/chat/completions", chatRequest); !strings.HasPrefix(got.body, `data: {"error":{`) || got.err != nil {
		t.Errorf("%q %v, want an error event", got.body, got.err)
	}
}

func TestAStreamThatLacksAChoiceIsCut(t *testing.T) {
	a := newAPI().streams(`data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}` + "\n\n")
	w := start(t, speaking("openai"), a)
	got := w.send("POST", "/v1/chat/completions", strings.Replace(chatRequest, `"stream"`, `"n":2,"stream"`, 1))
	if !strings.Contains(got.body, `data: {"error":{`) {
		t.Errorf("%q, want an error event: the second choice never came", got.body)
	}
}

func TestATargetWhoseQuotaIsUsedUpIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := func(want string, fields ...string) {
		t.Helper()
		a := newAPI().says(`{"choices":[]}`)
		for i := 0; i < len(fields); i += 2 {
			a.header.Set(fields[i], fields[i+1])
		}
		w := start(t, `
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: llm}]
`, a)
		w.send("POST", "/v1/chat/completions", `{"model":"m"}`)
		if got := w.metric(`weir_upstream_targets_closed{upstream="llm"}`); got != want {
			t.Errorf("%v: %s targets closed, want %s", fields, got, want)
		}
	}
	f("1", "X-Ratelimit-Limit-Requests", "2", "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "60s")
	f("0", "X-Ratelimit-Limit-Requests", "2", "X-Ratelimit-Remaining-Requests", "1", "X-Ratelimit-Reset-Requests", "60s")
	f("1", "RateLimit-Policy", `"a";q=1000000;w=60`, "RateLimit", `"a";r=0;t=12`) // until there is more, not until all is there
	f("1", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "12")
	f("0", "X-Ratelimit-Remaining", "0") // for nobody knows how long
}

func TestOneCallersOwnKeyClosesNothing(t *testing.T) {
	t.Parallel()
	f := func(yaml string, want string, header ...string) {
		t.Helper()
		a := newAPI().says(`{}`)
		a.status = 429
		a.header.Set("Retry-After", "60")
		w := start(t, yaml, a)
		w.send("POST", "/v1/chat/completions", `{"model":"m"}`, header...)
		if got := w.metric(`weir_upstream_targets_closed{upstream="llm"}`); got != want {
			t.Errorf("%s with %v: %s targets closed, want %s", yaml, header, got, want)
		}
	}
	const open = `
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /*}, upstream: llm}]
`
	f(open, "1")
	f(open, "0", "Authorization", "Bearer mallory")
	f(open, "0", "X-Api-Key", "mallory")
	f(strings.Replace(open, "dialect: openai", `dialect: openai, set_headers: {Authorization: Bearer ours}`, 1), "1", "Authorization", "Bearer mallory")
}

func TestLimitFieldsOfEverySpellingStayBehind(t *testing.T) {
	w := start(t, speaking("openai"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Trailer", "X-Ratelimit-Remaining-Requests, X-Request-Id, X-Checksum")
		for _, name := range []string{"X-RateLimitBySize-Remaining", "RateLimitBySize-Limit", "X-Rate-Limit-Remaining", "Llm_provider-X-Ratelimit-Limit-Tokens"} {
			h.Set(name, "7")
		}
		h.Set("X-Ratelimit-Remaining-Tokens", "0")
		h.Set("X-Ratelimit-Reset-Tokens", "-1")
		_, _ = io.WriteString(w, `{"data":[]}`)
		h.Set("X-Ratelimit-Remaining-Requests", "3")
		h.Set("X-Request-Id", "theirs")
		h.Set("X-Checksum", "1")
	}))
	for _, want := range []string{"miss", "hit"} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/v1/embeddings", strings.NewReader(`{"model":"m","input":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := w.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		for name := range resp.Header {
			lower := strings.ToLower(name)
			if strings.Contains(lower, "bysize") || strings.Contains(lower, "rate-limit") || strings.Contains(lower, "llm_provider") || lower == "x-ratelimit-reset-tokens" {
				t.Errorf("%s: the client sees %s", want, name)
			}
		}
		if len(resp.Trailer["X-Ratelimit-Remaining-Requests"])+len(resp.Trailer["X-Request-Id"]) > 0 {
			t.Errorf("%s: the client sees the trailers %v", want, resp.Trailer)
		}
	}
}

func TestAWrongMethodIsToldInTheRoutesDialect(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s"], dialect: openai}}
routes: [{match: {path: /v1/embeddings, methods: [POST]}, upstream: u}]
`, newAPI())
	got := w.send("GET", "/v1/embeddings", "")
	if got.status != 405 || got.header.Get("Allow") != "POST" || !strings.HasPrefix(got.body, `{"error":{"message":"GET is not a method`) {
		t.Errorf("%d %v %s, want OpenAI's form", got.status, got.header, got.body)
	}
}

func TestABuiltinModelThatTakesTooLongIs504(t *testing.T) {
	t.Parallel()
	w := start(t, `
upstreams:
  models: {targets: ["builtin:"], timeouts: {total: 30ms}}
  llm: {targets: ["builtin:"], dialect: openai, timeouts: {total: 30ms}}
routes:
  - {match: {path: /v1/*}, upstream: llm}
  - {match: {path: /*}, upstream: models}
`, nil)
	// A few megabytes take a second.
	texts := strings.TrimSuffix(strings.Repeat(`"`+strings.Repeat("q ", 30_000)+`",`, 100), ",")
	for path, body := range map[string]string{
		"/v1/embeddings":     `{"model":"weir-embed","input":[` + texts + `]}`,
		"/predict/language":  `{"instances":[` + texts + `]}`,
		"/predict/sentiment": `{"instances":[` + texts + `]}`,
	} {
		if got := w.send("POST", path, body); got.status != 504 || !strings.Contains(got.body, "took more than 30ms") {
			t.Errorf("%s: %d %s %v, want 504", path, got.status, got.body, got.err)
		}
	}
}
