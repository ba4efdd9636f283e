package gateway_test

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/storetest"
)

// spender is durable with prices: an answer of modelServer costs 7 x 1 + 3 x 1 = 10
// micro-USD, and the callers have a budget of that many a month.
func spender(budget, dialect string) string {
	yaml := with("", "") + "prices: {\"*\": {input: 1, output: 1}}\nplans: {default: {budget: " + budget + " USD/month}}\n"
	return strings.Replace(yaml, "dialect: openai", "dialect: "+dialect, 1)
}

// small is a request that is known to have at most 3 tokens of answer.
const small = `{"model":"m","max_tokens":3,"messages":[{"role":"user","content":"hello"}]}`

func TestABudget(t *testing.T) {
	yaml := at(t, spender("0.00003", "openai"), http.HandlerFunc(modelServer))
	w := launch(t, yaml)
	for i := range 2 {
		if a := w.as(1, "POST", "/v1/chat/completions", small); a.status != 200 {
			t.Fatalf("call %d: %d %s", i, a.status, a.body)
		}
	}
	j := w.as(1, "POST", "/v1/chat/completions", small, "Prefer", "respond-async")
	if j.status == 202 {
		w.becomes(1, j.job(t).ID, "completed")
	}
	var refused answer
	storetest.Eventually(t, eventually, "the budget is used up", func() bool {
		refused = w.as(1, "POST", "/v1/chat/completions", small)
		return refused.status != 200
	})
	h := refused.header
	if refused.status != 429 || h.Get("Retry-After") == "" || !strings.Contains(refused.body, "budget") || !strings.Contains(refused.body, "0.00003 USD per month") || !strings.Contains(refused.body, `"insufficient_quota"`) || !strings.Contains(refused.body, `"project_spend_limit_exceeded"`) {
		t.Errorf("%d %v %s", refused.status, h, refused.body)
	}
	if later := w.as(1, "POST", "/v1/chat/completions", small, "Prefer", "respond-async"); later.status != 429 {
		t.Errorf("a job over the budget: %d %s", later.status, later.body)
	}
	if other := w.as(2, "POST", "/v1/chat/completions", small); other.status != 200 {
		t.Errorf("another caller's: %d %s", other.status, other.body)
	}
	spent := w.used("key:u1").Cost
	if spent != 10_000*w.used("key:u1").Output/3 {
		t.Errorf("the ledger: %+v", w.used("key:u1"))
	}
	w.stop()
	again := launch(t, yaml)
	if a := again.as(1, "POST", "/v1/chat/completions", small); a.status != 429 {
		t.Errorf("after a start: %d %s", a.status, a.body)
	}
	if a := again.as(3, "POST", "/v1/chat/completions", small); a.status != 200 {
		t.Errorf("who has spent nothing, after a start: %d %s", a.status, a.body)
	}
	if got := again.used("key:u1"); got.Cost != spent {
		t.Errorf("after a start the ledger has %d for u1, had %d", got.Cost, spent)
	}
}

func TestABudgetOnAnthropicsPaths(t *testing.T) {
	w := keep(t, spender("0.000015", "anthropic"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3}}`)
	}))
	if a := w.as(1, "POST", "/v1/messages", small); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	a := w.as(1, "POST", "/v1/messages", small)
	if a.status != 429 || !strings.Contains(a.body, "rate_limit_error") || !strings.Contains(a.body, "he budget of 0.000015 USD per month") || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if p := a.header.Get("Ratelimit-Policy"); !strings.Contains(p, `weir-unit="nanousd"`) {
		t.Errorf("RateLimit-Policy: %s", p)
	}
}

func TestTheLedgerOfEverything(t *testing.T) {
	yaml := strings.Replace(with("cache: {mode: inference, only: all, ttl: 1h}", ""), "routes: [", "routes: [{name: tight, match: {path: /tight}, upstream: u, policies: [{quota: 1, window: 1h}]}, ", 1) + "prices: {m: {input: 2, output: 10}}\n"
	w := keep(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		case "/busy":
			w.WriteHeader(http.StatusTooManyRequests)
		case "/off":
			panic(http.ErrAbortHandler)
		case "/tight":
			_, _ = io.WriteString(w, "fine")
		default:
			modelServer(w, r)
		}
	}))
	type call struct{ path, body, prefer string }
	for _, c := range []call{
		{"/v1/chat/completions", chat, ""}, {"/v1/chat/completions", chat, ""}, // a miss and a hit
		{"/v1/chat/completions", streamedChat, "respond-async"},
		{"/broken", "{}", ""}, {"/busy", "{}", ""}, {"/off", "{}", ""},
		{"/tight", "{}", ""}, {"/tight", "{}", ""},
	} {
		a := w.as(1, "POST", c.path, c.body, "Prefer", c.prefer)
		if a.status == 202 {
			w.becomes(1, a.job(t).ID, "completed")
		}
	}
	w.send("POST", "/x", "{}", "X-Api-Key", "weir_wrong") // is nobody's
	want := database.UsageCounts{Requests: 8, Hits: 1, Refused: 1, Errors: 2, Input: 14, Output: 6, Cost: 2 * (7*2_000 + 3*10_000)}
	if got := w.used("key:u1"); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := w.used(""); got != want {
		t.Errorf("everybody: %+v", got)
	}
	r, err := w.gateway.Database().Usage().Query(t.Context(), database.UsageFilter{By: []string{"route", "model"}})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int64{}
	for _, row := range r.Rows {
		rows[row.Route+" "+row.Model] = row.Requests
	}
	if want := map[string]int64{"all m": 3, "all ": 3, "tight ": 2}; !maps.Equal(rows, want) {
		t.Errorf("got %v, want %v", rows, want)
	}
}

func TestAPassedUsageIsWrittenAtTheEnd(t *testing.T) {
	yaml := at(t, durable, http.HandlerFunc(modelServer))
	w := launch(t, yaml)
	const n = 20
	for range n {
		w.as(1, "POST", "/v1/chat/completions", chat)
	}
	w.stop()
	if got := launch(t, yaml).used("key:u1"); got.Requests != n || got.Input != 7*n || got.Output != 3*n {
		t.Errorf("%+v", got)
	}
}
