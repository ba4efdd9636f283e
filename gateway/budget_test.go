package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/database"
)

// budgetPlan has a model of 1 USD per million tokens of the prompt, half of that where
// they are cached, and 2 USD of the answer.
const budgetPlan = `
database: {url: "sqlite:%db"}
callers: {keys: [{caller: alice, key: weir_alice, plan: default}, {caller: bob, key: weir_bob, plan: default}]}
plans: {default: {policies: [1000/minute], budget: 0.001 USD/year}}
prices: {m: {input: 1, cached: 0.5, output: 2}, "*": {input: 10, output: 10}}
upstreams: {llm: {targets: ["%s"], dialect: openai}, own: {targets: ["%s"], dialect: anthropic}}
routes:
  - {name: look, match: {path: /look}, upstream: llm, max_body: 100}
  - {name: messages, match: {path: /v1/messages}, upstream: own}
  - {name: cached, match: {path: /cached/*}, upstream: llm, cache: {mode: inference, ttl: 1m, only: all}, legacy_headers: true}
  - {name: chat, match: {path: /*}, upstream: llm}
`

func withDatabase(t *testing.T, yaml string) string {
	return strings.ReplaceAll(yaml, "%db", filepath.Join(t.TempDir(), "weir.db"))
}

func (w *weir) wantBudget(want int64, header ...string) {
	w.t.Helper()
	if got := w.left("/look", "budget", header...); got != want {
		w.t.Errorf("%d nano-USD are left: want %d", got, want)
	}
}

func ask(model string, tokens int) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":"hi"}]}`, model, tokens)
}

func TestBudget(t *testing.T) {
	t.Parallel()
	const chat = "/v1/chat/completions"
	alice := []string{"Authorization", "Bearer weir_alice"}
	t.Run("is charged with what the model used, for each caller", func(t *testing.T) {
		w := start(t, withDatabase(t, budgetPlan), &usedUp{input: 100, output: 50})
		if a := w.send("POST", chat, ask("m", 50), alice...); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.wantBudget(1_000_000-200_000, alice...)
		w.wantBudget(1_000_000, "Authorization", "Bearer weir_bob")
	})
	t.Run("is reserved while the model runs", func(t *testing.T) {
		u := &usedUp{input: 7, output: 1, hold: make(chan struct{})}
		w := start(t, withDatabase(t, budgetPlan), u)
		done := make(chan answer)
		go func() { done <- w.sendCtx(context.Background(), "POST", chat, ask("m", 400), alice...) }()
		until(t, func() bool { return u.calls.Load() == 1 })
		w.wantBudget(1_000_000-8_000-800_000, alice...)
		a := w.send("POST", chat, ask("m", 400), alice...)
		if a.status != http.StatusTooManyRequests {
			t.Errorf("a second one of this size: %d %s", a.status, a.body)
		}
		close(u.hold)
		<-done
		w.wantBudget(1_000_000-9_000, alice...)
	})
	t.Run("has the price of the model that answers where the one that was asked for has none of its own", func(t *testing.T) {
		w := start(t, withDatabase(t, budgetPlan), &usedUp{input: 10, output: 10})
		if a := w.send("POST", chat, ask("other", 1), alice...); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.wantBudget(1_000_000-30_000, alice...)
	})
	t.Run("knows the price of tokens that the server had cached", func(t *testing.T) {
		w := start(t, withDatabase(t, budgetPlan), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"model":"m","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":60}}}`)
		}))
		w.send("POST", chat, ask("m", 1), alice...)
		w.wantBudget(1_000_000-70_000, alice...)
	})
	t.Run("is not charged for answers from the cache, nor shown as a number without a unit", func(t *testing.T) {
		w := start(t, withDatabase(t, budgetPlan), &usedUp{input: 100, output: 50})
		for range 3 {
			a := w.send("POST", "/cached"+chat, ask("m", 50), alice...)
			if a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "X-Ratelimit") && strings.Contains(name, "Tokens") {
					t.Errorf("%s: %s: money is no tokens", name, a.header.Get(name))
				}
			}
			if got := a.header.Get("X-Ratelimit-Limit"); got != "1000" {
				t.Errorf("X-RateLimit-Limit: %s: want that of requests", got)
			}
			if got := a.header.Get("Ratelimit-Policy"); !strings.Contains(got, `"budget";q=1000000;w=31556952;weir-unit="nanousd"`) {
				t.Errorf("RateLimit-Policy: %s: want the budget in it", got)
			}
		}
		w.wantBudget(1_000_000-200_000, alice...)
	})
	t.Run("is given back for what no upstream answered", func(t *testing.T) {
		w := start(t, withDatabase(t, strings.ReplaceAll(budgetPlan, "%s", "http://127.0.0.1:1")), nil)
		if a := w.send("POST", chat, ask("m", 50), alice...); a.status != http.StatusBadGateway {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.wantBudget(1_000_000, alice...)
	})
	t.Run("lets nothing through whose model may be another one upstream", func(t *testing.T) {
		u := &usedUp{input: 10, output: 10}
		w := start(t, withDatabase(t, budgetPlan), u)
		twice := `{"model":"m","model":"dear","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}`
		if a := w.send("POST", chat, twice, alice...); a.status != http.StatusBadRequest || u.calls.Load() > 0 {
			t.Errorf("%d %s after %d calls: want it refused", a.status, a.body, u.calls.Load())
		}
	})
}

func TestBudgetRefusal(t *testing.T) {
	alice := []string{"Authorization", "Bearer weir_alice"}
	w := start(t, withDatabase(t, budgetPlan), &usedUp{input: 600_000, output: 200_000})
	year := time.Now().UTC().Year() + 1
	again := fmt.Sprintf(" The next one begins at %d-01-01T00:00:00Z.", year)
	refused := func(path, body string) (message, kind, code string) {
		t.Helper()
		a := w.send("POST", path, body, alice...)
		if a.status != http.StatusTooManyRequests || a.header.Get("X-Should-Retry") != "false" {
			t.Fatalf("%d, X-Should-Retry: %q, %s", a.status, a.header.Get("X-Should-Retry"), a.body)
		}
		var e struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(a.body), &e); err != nil {
			t.Fatal(err)
		}
		return e.Error.Message, e.Error.Type, e.Error.Code
	}
	want := func(path, body, message, kind, code string) {
		t.Helper()
		if m, k, c := refused(path, body); m != message || k != kind || c != code {
			t.Errorf("%s: %q, %q, %q:\nwant %q, %q, %q", path, m, k, c, message, kind, code)
		}
	}
	const chat, code = "/v1/chat/completions", "project_spend_limit_exceeded"
	want(chat, ask("m", 1000), "This request may cost 0.002008 USD, and that is more than the budget of 0.001 USD per year.", "insufficient_quota", code)
	w.send("POST", chat, ask("m", 1), alice...)
	want(chat, ask("m", 1), "The budget of 0.001 USD per year is used up."+again, "insufficient_quota", code)
	want("/v1/messages", ask("m", 1), "The budget of 0.001 USD per year is used up."+again, "rate_limit_error", "")
	if a := w.send("POST", "/plain", ask("m", 1), "Authorization", "Bearer weir_bob"); a.status != http.StatusOK {
		t.Errorf("another caller: %d %s", a.status, a.body)
	}
}

func (w *weir) usage(by ...string) []database.UsageRow {
	w.t.Helper()
	u := w.gateway.Database().Usage()
	if err := u.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	report, err := u.Query(w.t.Context(), database.UsageFilter{By: by})
	if err != nil {
		w.t.Fatal(err)
	}
	return report.Rows
}

func TestLedger(t *testing.T) {
	const chat = "/v1/chat/completions"
	alice := []string{"Authorization", "Bearer weir_alice"}
	w := start(t, withDatabase(t, budgetPlan), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Want") {
		case "500":
			w.WriteHeader(http.StatusInternalServerError)
		case "404":
			w.WriteHeader(http.StatusNotFound)
		case "429":
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			(&usedUp{input: 100, output: 50}).ServeHTTP(w, r)
		}
	}))
	w.send("POST", chat, ask("m", 50), alice...)                                             // 200_000 of 1_000_000
	w.send("POST", chat, ask("m", 1000), alice...)                                           // refused
	w.send("POST", chat, ask("invented", 1), append([]string{"X-Want", "404"}, alice...)...) // not known there
	w.send("POST", chat, ask("m", 1), append([]string{"X-Want", "500"}, alice...)...)
	w.send("POST", chat, ask("m", 1), append([]string{"X-Want", "429"}, alice...)...) // the upstream's own
	w.send("POST", "/cached"+chat, ask("m", 50), alice...)
	w.send("POST", "/cached"+chat, ask("m", 50), alice...)
	w.send("POST", chat, ask("m", 50))
	w.send("POST", chat, ask("m", 50), "Authorization", "Bearer weir_mallory") // nobody
	ran := database.UsageCounts{Requests: 1, Input: 100, Output: 50, Cost: 200_000}
	with := func(c database.UsageCounts, change func(*database.UsageCounts)) database.UsageCounts {
		change(&c)
		return c
	}
	want := []database.UsageRow{
		{Caller: "ip:127.0.0.1", Route: "chat", Model: "m", UsageCounts: ran},
		{Caller: "key:alice", Route: "cached", Model: "m", UsageCounts: with(ran, func(c *database.UsageCounts) { c.Requests, c.Hits = 2, 1 })},
		{Caller: "key:alice", Route: "chat", UsageCounts: database.UsageCounts{Requests: 4, Refused: 1, Errors: 1}},
		{Caller: "key:alice", Route: "chat", Model: "m", UsageCounts: ran},
	}
	if got := w.usage(database.ByCaller, database.ByRoute, database.ByModel); !reflect.DeepEqual(got, want) {
		t.Errorf("the ledger has\n%+v: want\n%+v", got, want)
	}
	w.wantBudget(1_000_000-400_000, alice...)
}

func TestBudgetOutlivesTheProcess(t *testing.T) {
	const chat = "/v1/chat/completions"
	alice := []string{"Authorization", "Bearer weir_alice"}
	yaml := withDatabase(t, budgetPlan)
	for run := range 3 { // each ends before the next begins
		t.Run(fmt.Sprintf("run %d", run), func(t *testing.T) {
			w := start(t, yaml, &usedUp{input: 100, output: 50})
			until(t, func() bool { return w.left("/look", "budget", alice...) == 1_000_000-int64(run)*200_000 })
			w.send("POST", chat, ask("m", 50), alice...)
			w.wantBudget(1_000_000-int64(run+1)*200_000, alice...)
		})
	}
}

// until asks again until it is so, or for too long.
func until(t *testing.T, so func() bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), eventually)
	defer stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !so() {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("it did not come to be so")
		}
	}
}

func TestLedgerOfAJob(t *testing.T) {
	alice := []string{"Authorization", "Bearer weir_alice"}
	yaml := strings.ReplaceAll(withDatabase(t, budgetPlan), "match: {path: /*}, upstream: llm}", "match: {path: /*}, upstream: llm, respond_async: allowed}\nblobs: {url: 'dir:"+t.TempDir()+"'}")
	w := start(t, yaml, &usedUp{input: 100, output: 50})
	a := w.send("POST", "/v1/chat/completions", ask("m", 50), append([]string{"Prefer", "respond-async"}, alice...)...)
	if a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	until(t, func() bool {
		return strings.Contains(w.send("GET", a.header.Get("Location"), "", alice...).body, `"completed"`)
	})
	want := []database.UsageRow{
		{Caller: "key:alice", Route: "chat", Model: "m", UsageCounts: database.UsageCounts{Requests: 1, Input: 100, Output: 50, Cost: 200_000}},
	}
	if got := w.usage(database.ByCaller, database.ByRoute, database.ByModel); !reflect.DeepEqual(got, want) {
		t.Errorf("the ledger has\n%+v: want\n%+v", got, want)
	}
	until(t, func() bool { return w.left("/look", "budget", alice...) == 1_000_000-200_000 }) // settled after it has ended
}

func TestHitsHaveNoCostWhereTheyAreCharged(t *testing.T) {
	alice := []string{"Authorization", "Bearer weir_alice"}
	yaml := strings.ReplaceAll(withDatabase(t, budgetPlan), "only: all}", "only: all, charge_hits: true}")
	w := start(t, yaml, &usedUp{input: 100, output: 50})
	for range 3 {
		w.send("POST", "/cached/v1/chat/completions", ask("m", 50), alice...)
	}
	want := []database.UsageRow{{Caller: "key:alice", UsageCounts: database.UsageCounts{Requests: 3, Hits: 2, Input: 100, Output: 50, Cost: 200_000}}}
	if got := w.usage(database.ByCaller); !reflect.DeepEqual(got, want) {
		t.Errorf("the ledger has\n%+v: want\n%+v", got, want)
	}
	w.wantBudget(1_000_000-200_000, alice...)
}
