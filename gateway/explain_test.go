package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// explained has something of everything: routes that differ in path, method and model,
// plans with several policies, keys, a trusted proxy, caches of each mode.
const explained = `
callers:
  identify: [api_key, header, ip]
  trusted_proxies: [127.0.0.1/32]
  deny: ["header:mallory", 192.0.2.66]
  allow: ["header:root"]
  keys:
    - {caller: alice, key: weir_alice_0123456789abcdef, plan: pro}
    - {caller: bob, key: weir_bob_0123456789abcdef}
  overrides:
    - {caller: "header:vip", plan: pro}
plans:
  default: {policies: [{name: few, quota: 8, window: 1h}]}
  pro:
    policies: [{name: many, quota: 40, window: 1h}, {name: toks, quota: 3000, unit: tokens, window: 1h}, 20 concurrent]
    weight: 4
    priority: critical
    budget: 5 USD/month
prices: {"*": {input: 1, output: 2}}
limits: {auth_failures: 3}
upstreams:
  llm: {targets: ["%s"], dialect: openai, set_headers: {X-Secret: hush}}
  app: {targets: ["%s/base"]}
routes:
  - {name: llama, match: {path: /v1/chat/completions, methods: [POST], model: "llama-*"}, upstream: llm, cache: {mode: inference, ttl: 1h}, policies: [{name: perip, quota: 25, window: 1h, by: ip}]}
  - {name: chat, match: {path: /v1/chat/completions, methods: [POST]}, upstream: llm, policies: [{name: small, quota: 400, unit: input_tokens, window: 1h, by: global}]}
  - {name: embed, match: {path: /v1/embeddings, methods: [POST]}, upstream: llm, cache: {mode: inference, ttl: 1h, share: all, charge_hits: true}}
  - {name: docs, match: {path: /docs/*, methods: [GET]}, upstream: app, cache: {mode: http}, policies: [{name: shady, quota: 1, window: 1h, shadow: true}]}
  - {name: tiny, match: {path: /tiny}, upstream: app, max_body: 1KiB, policies: [{name: model, quota: 4, window: 1h, by: model}]}
  - {name: never, match: {path: /never}, upstream: app, policies: [{name: cap, quota: 5, unit: bytes, window: 1h}]}
`

// explainedModel answers calls of OpenAI's API with their usage, and all else for an hour.
func explainedModel(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if strings.HasPrefix(r.URL.Path, "/base") {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("Etag", `"v1"`)
		_, _ = io.WriteString(w, "page")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"object": "list", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}`)
}

// sample is a request that is explained, and then sent.
type sample struct {
	method, path, body string
	header             []string
}

func (a sample) request(host string) gateway.ExplainRequest {
	r := gateway.ExplainRequest{Method: a.method, Path: a.path, Body: a.body, Headers: map[string]string{"Host": host, "User-Agent": "Go-http-client/1.1"}}
	if a.body != "" {
		r.Headers["Content-Type"] = "application/json"
	}
	for i := 0; i < len(a.header); i += 2 {
		r.Headers[a.header[i]] = a.header[i+1]
	}
	return r
}

// drawSample is any request. Most have a route, and many are the same as one before.
func drawSample(t *rapid.T) sample {
	target := rapid.SampledFrom([]string{
		"POST /v1/chat/completions", "POST /v1/chat/completions", "POST /v1/chat/completions", "POST /v1/embeddings", "POST /v1/embeddings",
		"GET /docs/a", "GET /docs/a", "HEAD /docs/a", "GET /docs/b?x=1", "GET /tiny", "GET /tiny", "POST /tiny", "PUT /tiny", "OPTIONS /tiny", "POST /never", "GET /never",
		"GET /v1/embeddings", "GET /nowhere", "GET /docs//x", "GET /docs/..", "GET /docs/%2f",
	}).Draw(t, "target")
	a := sample{}
	a.method, a.path, _ = strings.Cut(target, " ")
	if a.method == "POST" || a.method == "PUT" {
		name := rapid.SampledFrom([]string{`"llama-3"`, `"llama-3"`, `"llama-3"`, `"gpt"`, `""`, `7`}).Draw(t, "model")
		text := strings.Repeat("word ", rapid.SampledFrom([]int{1, 1, 40, 300}).Draw(t, "words"))
		extra := rapid.SampledFrom([]string{
			"", `, "temperature": 0`, `, "temperature": 0`, `, "seed": 1`, `, "stream": true`, `, "max_tokens": 50`, `, "max_tokens": 99999`, `, "model": "two"`,
		}).Draw(t, "extra")
		a.body = fmt.Sprintf(`{"model": %s, "messages": [{"role": "user", "content": %q}], "input": %q%s}`, name, text, text, extra)
	}
	fields := [][]string{
		{"Authorization", "Bearer weir_alice_0123456789abcdef"}, {"Authorization", "Bearer weir_alice_0123456789abcdef"}, {"Authorization", "Bearer weir_bob_0123456789abcdef"},
		{"Authorization", "Bearer weir_wrong"}, {"Authorization", "Bearer sk-other"}, {"X-User-ID", "vip"}, {"X-User-ID", "mallory"}, {"X-User-ID", "root"},
		{"X-Forwarded-For", "192.0.2.66"}, {"X-Forwarded-For", "192.0.2.7"}, {"Cache-Control", "no-store"}, {"Cache-Control", "no-cache"}, {"Cache-Control", "only-if-cached"},
		{"If-None-Match", `"v1"`}, {"Prefer", "respond-async"}, {"Range", "bytes=0-1"}, {"Upgrade", "h2c"}, {"X_User", "a"},
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2}).Draw(t, "fields") {
		field := rapid.SampledFrom(fields).Draw(t, "field")
		if !slices.Contains(a.header, field[0]) {
			a.header = append(a.header, field...)
		}
	}
	return a
}

// line is what the log says of a request.
type line struct {
	Msg, Caller, Plan, Route, Policy, Cache, Upstream string
	ID                                                string `json:"request_id"`
	Status                                            int
}

// nextLine is the next line of the log about a request.
func (w *explainedWeir) nextLine() (l line, err error) {
	for {
		select {
		case text := <-w.lines:
			if err := json.Unmarshal([]byte(text), &l); err != nil || l.Msg == "request" {
				return l, err
			}
		case <-time.After(eventually):
			return l, fmt.Errorf("no line of the log within %v", eventually)
		}
	}
}

func TestExplainAgreesWithWhatThenHappens(t *testing.T) {
	t.Parallel()
	outcomes := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := startExplained(t)
		defer w.stop()
		for range rapid.IntRange(10, 40).Draw(rt, "requests") {
			agrees(rt, w, drawSample(rt), outcomes)
		}
	})
	for _, want := range []string{"200", "400", "401", "403", "404", "405", "429", "501", "hit", "miss", "bypass", "few", "cap"} {
		if outcomes[want] == 0 {
			t.Errorf("no request was %q: %v", want, outcomes)
		}
	}
}

// agrees explains a, sends it, and compares.
func agrees(t *rapid.T, w *explainedWeir, a sample, outcomes map[string]int) {
	said, err := w.gateway.Explain(w.t.Context(), a.request(strings.TrimPrefix(w.url, "http://")))
	if err != nil {
		t.Fatalf("%+v: %v", a, err)
	}
	got := w.send(a.method, a.path, a.body, a.header...)
	if got.err != nil {
		t.Fatalf("%+v: %v", a, got.err)
	}
	l, err := w.nextLine()
	if err != nil || l.ID != got.header.Get("X-Request-Id") {
		t.Fatalf("%+v: %v: the log tells of %+v", a, err, l)
	}
	if said.Status != got.status {
		t.Fatalf("%+v: explained as %d, answered with %d: %s\n%s", a, said.Status, got.status, got.body, indent(said))
	}
	if said.Caller != l.Caller || said.Plan != l.Plan {
		t.Fatalf("%+v: explained as of %q with %q, logged as of %q with %q\n%s", a, said.Caller, said.Plan, l.Caller, l.Plan, indent(said))
	}
	if said.Route != "" && said.Route != l.Route {
		t.Fatalf("%+v: explained as of route %q, logged as of %q", a, said.Route, l.Route)
	}
	if want := refusedBy(said); want != l.Policy {
		t.Fatalf("%+v: explained as refused by %q, logged as refused by %q\n%s", a, want, l.Policy, indent(said))
	}
	result, wantResult := cacheResult(got.header.Get("Cache-Status")), cacheOutcome(said)
	if wantResult != "" && wantResult != "off" && result != wantResult { // what is refused before the look-up is a bypass
		t.Fatalf("%+v: explained as a %q, answered with %q\n%s", a, wantResult, got.header.Get("Cache-Status"), indent(said))
	}
	if sent := strings.Contains(said.Would, "be sent to"); sent != (l.Upstream != "") {
		t.Fatalf("%+v: it would %s, and went to %q", a, said.Would, l.Upstream)
	}
	outcomes[fmt.Sprint(got.status)]++
	outcomes[result]++
	outcomes[l.Policy]++
}

func indent(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// decisionOf is the last decision of a step.
func decisionOf(e gateway.Explanation, name string) gateway.Decision {
	for _, d := range slices.Backward(e.Decisions) {
		if d.Step == name {
			return d
		}
	}
	return gateway.Decision{}
}

// refusedBy is the policy that refuses.
func refusedBy(e gateway.Explanation) string {
	if d := decisionOf(e, "policies"); d.Outcome == "denied" {
		if violated, ok := decisionOf(e, "answer").Details["violated"].([]string); ok {
			return violated[0]
		}
	}
	return ""
}

func cacheOutcome(e gateway.Explanation) string { return decisionOf(e, "cache").Outcome }

// cacheResult is a Cache-Status in the words of the decision.
func cacheResult(status string) string {
	switch {
	case strings.Contains(status, "hit"):
		return "hit"
	case strings.Contains(status, "fwd=bypass"), strings.Contains(status, "fwd=method"):
		return "bypass"
	case status == "":
		return ""
	}
	return "miss"
}

// TestExplainDoesNothing sends nothing but explanations: metrics, counts, log and cache
// are as before, and the upstream has seen nothing.
func TestExplainDoesNothing(t *testing.T) {
	w := startExplained(t)
	defer w.stop()
	chat := sample{method: "POST", path: "/v1/chat/completions", body: `{"model": "llama-3", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}`}
	w.send(chat.method, chat.path, chat.body)
	if _, err := w.nextLine(); err != nil {
		t.Fatal(err)
	}
	calls, before := w.calls.Load(), w.steadyMetrics()
	host := strings.TrimPrefix(w.url, "http://")
	for _, a := range []sample{
		chat,
		{method: "POST", path: "/v1/chat/completions", body: `{"model": "llama-3"}`},
		{method: "POST", path: "/v1/embeddings", body: `{"model": "e", "input": "a"}`, header: []string{"Authorization", "Bearer weir_alice_0123456789abcdef"}},
		{method: "GET", path: "/docs/a", header: []string{"Authorization", "Bearer weir_wrong"}},
		{method: "GET", path: "/nowhere"}, {method: "GET", path: "/docs/a", header: []string{"X-Forwarded-For", "192.0.2.66"}},
		{method: "PUT", path: "/v1/embeddings"}, {method: "POST", path: "/never", body: "0123456789"},
	} {
		for range 20 {
			if _, err := w.gateway.Explain(t.Context(), a.request(host)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := w.steadyMetrics(); after != before {
		t.Errorf("explanations changed the metrics:\n%s", changedLines(before, after))
	}
	if n := w.calls.Load(); n != calls {
		t.Errorf("explanations made %d calls of the upstream", n-calls)
	}
	got := w.send(chat.method, chat.path, chat.body)
	if limits := got.header.Get("RateLimit"); !strings.HasPrefix(limits, `"few";r=7;`) || !strings.Contains(limits, `"perip";r=24;`) || cacheResult(got.header.Get("Cache-Status")) != "hit" {
		t.Errorf("after explanations the counts are %s, and the cache says %s", limits, got.header.Get("Cache-Status"))
	}
	if l, err := w.nextLine(); err != nil || l.ID != got.header.Get("X-Request-Id") {
		t.Errorf("explanations were logged: %+v, %v", l, err)
	}
}

// steadyMetrics are the metrics, without those of the process and of time.
func (w *weir) steadyMetrics() string {
	r, _ := http.NewRequest(http.MethodGet, "/metrics", nil)
	rec := newRecorder()
	w.gateway.Metrics().ServeHTTP(rec, r)
	return regexp.MustCompile(`(?m)^(# |go_|process_|promhttp_|weir_upstream_budget).*\n`).ReplaceAllString(rec.body.String(), "")
}

func changedLines(before, after string) string {
	was := map[string]bool{}
	for l := range strings.SplitSeq(before, "\n") {
		was[l] = true
	}
	var changed []string
	for l := range strings.SplitSeq(after, "\n") {
		if !was[l] {
			changed = append(changed, l)
		}
	}
	return strings.Join(changed, "\n")
}

func TestExplainRefusesWhatIsNoRequest(t *testing.T) {
	w := startExplained(t)
	defer w.stop()
	for name, c := range map[string]struct {
		request gateway.ExplainRequest
		want    string
	}{
		"no path":                    {gateway.ExplainRequest{}, "path: is not there: want the path of the request, for example /v1/chat/completions"},
		"a path with a host":         {gateway.ExplainRequest{Path: "http://a/b"}, `path: "http://a/b": want a path that begins with /, escaped as in a URL, without a host and without #`},
		"a fragment":                 {gateway.ExplainRequest{Path: "/a#b"}, `path: "/a#b": want a path that begins with /, escaped as in a URL, without a host and without #`},
		"a method of two words":      {gateway.ExplainRequest{Path: "/", Method: "GET /"}, `method: "GET /": want a method, for example POST`},
		"a body that is too long":    {gateway.ExplainRequest{Path: "/", Body: strings.Repeat("a", 10<<20+1)}, "body: has 10485761 bytes: want at most 10485760"},
		"an address that is none":    {gateway.ExplainRequest{Path: "/", RemoteAddr: "localhost"}, `remote_addr: "localhost": want an address, with or without a port, for example 192.0.2.1`},
		"a name with a space":        {gateway.ExplainRequest{Path: "/", Headers: map[string]string{"a b": "c"}}, "headers.a b: is no name of a field: want letters, digits and hyphens"},
		"a value with a line break":  {gateway.ExplainRequest{Path: "/", Headers: map[string]string{"A": "secret\nB: c"}}, "headers.A: has a control character: want a value without line breaks"},
		"a length of its own":        {gateway.ExplainRequest{Path: "/", Headers: map[string]string{"content-length": "3"}}, "headers.content-length: is told by the body: want it left out"},
		"a field in two spellings":   {gateway.ExplainRequest{Path: "/", Headers: map[string]string{"Accept": "a", "accept": "b"}}, "headers.accept: is there in another spelling, too: want it once"},
		"several mistakes, all said": {gateway.ExplainRequest{RemoteAddr: "x"}, "path: is not there: want the path of the request, for example /v1/chat/completions\nremote_addr: \"x\": want an address, with or without a port, for example 192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.gateway.Explain(t.Context(), c.request)
			mistakes, ok := errors.AsType[config.Mistakes](err)
			if !ok || mistakes.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestExplainShowsNoSecret(t *testing.T) {
	w := startExplained(t)
	defer w.stop()
	for _, header := range []map[string]string{
		{"Authorization": "Bearer weir_alice_0123456789abcdef"}, {"Authorization": "Bearer sk-0123456789abcdef", "Cookie": "0123456789abcdef"},
		{"X-Api-Key": "weir_0123456789abcdef"}, {"Authorization": "Basic weir_alice_0123456789abcdef"},
	} {
		said, err := w.gateway.Explain(t.Context(), gateway.ExplainRequest{Path: "/v1/chat/completions", Body: `{"model": "llama-3"}`, Headers: maps.Clone(header)})
		if err != nil {
			t.Fatal(err)
		}
		if text := indent(said); strings.Contains(text, "0123456789abcdef") || strings.Contains(text, "hush") {
			t.Errorf("%v: a secret is shown: %s", header, text)
		}
	}
}
