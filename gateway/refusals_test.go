package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/storetest"
)

const refusing = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}], deny: ["header:evil"], trusted_proxies: [127.0.0.0/8]}
plans: {pro: {}}
upstreams: {llm: {targets: ["%s"], dialect: openai, retry: {attempts: 1}, breaker: {failures: 0}}, gone: {targets: ["http://127.0.0.1:1"], retry: {attempts: 1}, breaker: {failures: 1, open_for: 1h}}}
routes:
- {name: chat, match: {path: /v1/*}, upstream: llm, cache: {mode: inference, ttl: 1h, share: caller}}
- {name: one, match: {path: /one}, upstream: llm, policies: [{name: once, quota: 1, window: 1h}]}
- {name: gone, match: {path: /gone}, upstream: gone}
`

// echoing is an OpenAI server that tells a request with X-Bad that its prompt is wrong, and
// repeats it.
func echoing(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Header.Get("X-Status") != "":
		var status int
		_, _ = fmt.Sscan(r.Header.Get("X-Status"), &status)
		w.WriteHeader(status)
	case r.Header.Get("X-Bad") != "":
		w.WriteHeader(400)
		_, _ = fmt.Fprintf(w, `{"error":{"message":%q,"type":"invalid_request_error","code":"bad"}}`, "Invalid prompt: "+string(b))
	default:
		_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}
}

func TestRefusedLoginsAreOnTheirOwn(t *testing.T) {
	w := start(t, refusing, http.HandlerFunc(echoing))
	alice := []string{"Authorization", "Bearer weir_alice"}
	ask := func(body string) { w.send("POST", "/v1/chat/completions", body, alice...) }
	ask(`{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`)
	ask(`{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`)
	for range 2 {
		ask(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`) // which the cache is not asked about
	}
	s := w.snapshotOf(4)
	same(t, *s.Traffic.HitRatio, 0.5)
	w.send("GET", "/v1/models", "", "X-User-ID", "evil", "X-Forwarded-For", "203.0.113.9")
	for range 32 { // more than a network may
		w.send("GET", "/v1/models", "", "Authorization", "Bearer weir_bad")
	}
	s = w.snapshotOf(37)
	same(t, []int64{s.Traffic.Unauthorized, s.Traffic.Refused, s.Traffic.Errors, s.Traffic.Latency.N}, []int64{33, 0, 0, 4})
	refused := map[string]int{}
	for _, l := range w.lines() {
		if l["status"] == 200.0 {
			continue
		}
		refused[fmt.Sprint(l["status"], " ", l["refused"], " ", l["client"], " ", l["caller"])]++
	}
	same(t, refused, map[string]int{"403 denied 203.0.113.9 header:evil": 1, "401 key 127.0.0.1 <nil>": 30, "429 attempts 127.0.0.1 <nil>": 2})
}

func TestMetricsTellWeirsRefusalsFromTheUpstreamsOwn(t *testing.T) {
	w := start(t, refusing, http.HandlerFunc(echoing))
	f := func(path string, want int, header ...string) {
		t.Helper()
		if a := w.send("GET", path, "", header...); a.status != want {
			t.Fatalf("%s: %d %s, want %d", path, a.status, a.body, want)
		}
	}
	for _, status := range []int{401, 429, 503, 529} {
		f("/v1/models", status, "X-Status", fmt.Sprint(status))
	}
	f("/one", 200)
	f("/one", 429)
	f("/gone", 502)
	f("/gone", 503) // the breaker is open
	f("/nowhere", 404)
	f("/v1/chat/completions", 504, "Cache-Control", "only-if-cached")
	s := w.snapshotOf(10)
	same(t, []int64{s.Traffic.Refused, s.Traffic.Shed, s.Traffic.Unauthorized, s.Traffic.Errors, s.Traffic.Latency.N}, []int64{1, 0, 0, 4, 5})
	for series, want := range map[string]string{
		`weir_gateway_errors_total{route="chat"}`:                                         "2",
		`weir_gateway_errors_total{route="gone"}`:                                         "2",
		`weir_gateway_errors_total{route="other"}`:                                        "0",
		`weir_gateway_refusals_total{reason="quota",route="one"}`:                         "1",
		`weir_gateway_refusals_total{reason="quota",route="chat"}`:                        "0",
		`weir_gateway_refusals_total{reason="queue",route="chat"}`:                        "0",
		`weir_gateway_refusals_total{reason="upstream",route="gone"}`:                     "2",
		`weir_gateway_refusals_total{reason="request",route="chat"}`:                      "1",
		`weir_gateway_refusals_total{reason="request",route="other"}`:                     "1",
		`weir_upstream_answers_total{class="2xx",upstream="llm"}`:                         "1",
		`weir_upstream_answers_total{class="4xx",upstream="llm"}`:                         "2",
		`weir_upstream_answers_total{class="5xx",upstream="llm"}`:                         "2",
		`weir_upstream_answers_total{class="5xx",upstream="gone"}`:                        "0",
		`weir_upstream_requests_total{result="error",upstream="gone"}`:                    "1",
		`weir_ratelimit_decisions_total{policy="once",result="denied",scope="route:one"}`: "1",
	} {
		if got := w.metric(series); got != want {
			t.Errorf("%s = %s, want %s", series, got, want)
		}
	}
}

func TestClosedStoreRefusesAndIsNoError(t *testing.T) {
	w := start(t, `
store: {url: "redis://127.0.0.1:1", on_failure: closed}
plans: {default: {policies: [5/minute]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &counted{})
	if a := w.send("GET", "/", ""); a.status != 503 {
		t.Fatal(a)
	}
	s := w.snapshotOf(1)
	same(t, []int64{s.Traffic.Uncounted, s.Traffic.Errors, s.Traffic.Shed, s.Traffic.Latency.N}, []int64{1, 0, 0, 0})
	same(t, w.metric(`weir_gateway_refusals_total{reason="store",route="all"}`), "1")
	same(t, w.metric(`weir_gateway_errors_total{route="all"}`), "0")
}

func TestLogHasNoPromptThatAnUpstreamRepeats(t *testing.T) {
	w := start(t, refusing, http.HandlerFunc(echoing))
	body := `{"model":"m","messages":[{"role":"user","content":"a \"SECRET\" } SECRET"}]}`
	w.send("POST", "/v1/chat/completions", body, "Authorization", "Bearer weir_alice", "X-Bad", "1")
	lines := w.lines()
	same(t, lines[0]["error"], any("invalid_request_error/bad: Invalid prompt: …"))
	if text := fmt.Sprint(lines); strings.Contains(text, "SECRET") {
		t.Errorf("a prompt is in the log: %s", text)
	}
}

func TestSnapshotKeepsARouteThatAReloadRemoved(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	const yaml = `
upstreams: {u: {targets: ["%s"]}}
routes: [{name: NAME, match: {path: /*}, upstream: u}]
`
	w := start(t, strings.Replace(yaml, "NAME", "old", 1), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(began)
		<-end
	}))
	answers := make(chan answer)
	go func() { answers <- w.send("GET", "/", "") }()
	<-began
	next, err := config.Parse("test.yaml", []byte(strings.NewReplacer("NAME", "new", "%s", w.gateway.Config().Upstreams["u"].Targets[0].URL).Replace(yaml)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.gateway.Reload(next); err != nil {
		t.Fatal(err)
	}
	same(t, w.routeOf(w.snapshotOf(0), "old").InFlight, int64(1))
	close(end)
	<-answers
	s := w.snapshotOf(1)
	same(t, []int64{w.routeOf(s, "old").Requests, w.routeOf(s, "new").Requests, int64(len(s.Routes))}, []int64{1, 0, 2})
}

func TestSeriesHasNoFiguresOfSecondsWithoutRequests(t *testing.T) {
	t.Parallel()
	w := start(t, cached, &counted{})
	w.send("GET", "/a", "")
	storetest.Eventually(t, eventually, "the second after the request is over", func() bool {
		s := w.gateway.Snapshot().Series
		for i, p := range s.P50 {
			idle := s.Rate[i] == 0
			if (p == nil) != idle || (s.P99[i] == nil) != idle || (s.Hits[i] == nil) != idle {
				t.Fatalf("second %d with %v requests: p50 %v, p99 %v, hit ratio %v", i, s.Rate[i], p, s.P99[i], s.Hits[i])
			}
		}
		for i, rate := range s.Rate[:max(len(s.Rate), 1)-1] {
			if rate > 0 && s.Rate[i+1] == 0 {
				return true
			}
		}
		return false
	})
}
