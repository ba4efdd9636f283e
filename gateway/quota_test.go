package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// remaining is r of a policy in the RateLimit field, -1 where it is not there.
func (a answer) remaining(policy string) int64 {
	for item := range strings.SplitSeq(a.header.Get("RateLimit"), ", ") {
		name, rest, _ := strings.Cut(item, ";r=")
		if name == strconv.Quote(policy) {
			number, _, _ := strings.Cut(rest, ";")
			n, _ := strconv.ParseInt(number, 10, 64)
			return n
		}
	}
	return -1
}

// left asks for what remains of a policy, without taking: no route refuses a
// method at this price, and a refusal tells what is left.
func (w *weir) left(path, policy string, header ...string) int64 {
	w.t.Helper()
	a := w.send("POST", path, strings.Repeat("x", 200), header...) // more than max_body
	if a.status != http.StatusRequestEntityTooLarge {
		w.t.Fatalf("a look at what is left: %d %s", a.status, a.body)
	}
	return a.remaining(policy)
}

// usedUp answers every call of a model API with what it used.
type usedUp struct {
	input, output int64
	hold          chan struct{} // if not nil, closed to let answers go
	calls         atomic.Int64
}

func (u *usedUp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	u.calls.Add(1)
	if u.hold != nil {
		select {
		case <-u.hold:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"model":"m","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`, u.input, u.output)
}

const tokenPlan = `
limits: {auth_failures: 0}
plans: {default: {policies: [{name: t, quota: 1000, unit: tokens, window: 1h}, {name: in, quota: 1000, unit: input_tokens, window: 1h}, {name: out, quota: 1000, unit: output_tokens, window: 1h}, {name: r, quota: 1000, window: 1h}]}}
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes:
  - {name: look, match: {path: /look}, upstream: llm, max_body: 100}
  - {name: all, match: {path: /*}, upstream: llm}
`

// hi is 28 bytes of prompt as it is counted: 7 tokens.
const hi = `{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}`

func (w *weir) wantLeft(path string, want map[string]int64) {
	w.t.Helper()
	got := map[string]int64{}
	for name := range want {
		got[name] = w.left(path, name)
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("left: %v, want %v", got, want)
	}
}

func TestTokensAreChargedAsTheyWereUsed(t *testing.T) {
	u := &usedUp{input: 20, output: 30}
	w := start(t, tokenPlan, u)
	if a := w.send("POST", "/v1/chat/completions", hi); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.wantLeft("/look", map[string]int64{"t": 950, "in": 980, "out": 970, "r": 999})
	u.output = 900 // more than was reserved: it is charged all the same
	w.send("POST", "/v1/chat/completions", hi)
	w.wantLeft("/look", map[string]int64{"t": 30, "in": 960, "out": 70, "r": 998})
	a := w.send("POST", "/v1/chat/completions", hi)
	if a.status != 429 || a.header.Get("Retry-After") == "" || u.calls.Load() != 2 {
		t.Errorf("over the quota: %d %v after %d calls", a.status, a.header, u.calls.Load())
	}
	w.wantLeft("/look", map[string]int64{"t": 30, "in": 960, "out": 70, "r": 998}) // a refusal costs nothing
}

func TestWhatEachEndUsesOfAQuotaInTokens(t *testing.T) {
	t.Parallel()
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	stream := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, body)
		}
	}
	streamed := strings.Replace(hi, "{", `{"stream":true,`, 1)
	for name, c := range map[string]struct {
		api  http.HandlerFunc
		body string
		want map[string]int64
	}{
		"an upstream's 500 costs a request and no tokens":  {status(500, `{"error":{"message":"x"}}`), hi, map[string]int64{"t": 1000, "r": 999}},
		"an upstream's 400 costs a request and no tokens":  {status(400, `{"error":{"message":"x"}}`), hi, map[string]int64{"t": 1000, "r": 999}},
		"an error that reports usage costs that":           {status(400, `{"error":{"message":"x"},"usage":{"prompt_tokens":11,"completion_tokens":1}}`), hi, map[string]int64{"t": 988, "r": 999}},
		"a stream costs what it reports":                   {stream(withUsage()), streamed, map[string]int64{"t": 988, "in": 991, "out": 997, "r": 999}},
		"a stream without usage costs what it sent":        {stream(chatStream), streamed, map[string]int64{"out": 998, "r": 999}},
		"an answer without usage is estimated":             {status(200, `{"choices":[{"index":0,"message":{"content":"xxxxxxxx"},"finish_reason":"stop"}]}`), hi, map[string]int64{"r": 999, "out": 979}},
		"embeddings cost what they report":                 {status(200, `{"data":[],"usage":{"prompt_tokens":40,"total_tokens":40}}`), `{"model":"m","input":"hello"}`, map[string]int64{"t": 960, "out": 1000, "r": 999}},
		"max_tokens beside a larger cap reserves the most": {status(200, `{}`), `{"model":"m","max_tokens":1,"max_completion_tokens":10000,"messages":[]}`, map[string]int64{"t": 1000, "r": 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, tokenPlan, c.api)
			path := "/v1/chat/completions"
			if strings.Contains(c.body, `"input"`) {
				path = "/v1/embeddings"
			}
			w.send("POST", path, c.body)
			w.wantLeft("/look", c.want)
		})
	}
}

func TestARequestThatWasNeverAnsweredCostsNothing(t *testing.T) {
	w := start(t, strings.Replace(tokenPlan, `"%s"`, `"http://127.0.0.1:1"`, 1), nil)
	if a := w.send("POST", "/v1/chat/completions", hi); a.status != 502 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.wantLeft("/look", map[string]int64{"t": 1000, "in": 1000, "out": 1000, "r": 1000})
}

func TestACapAboveTheBurstIsRefusedForEver(t *testing.T) {
	u := &usedUp{}
	w := start(t, tokenPlan, u)
	a := w.send("POST", "/v1/chat/completions", strings.Replace(hi, "50", "5000", 1))
	if a.status != 429 || a.header.Get("Retry-After") != "" || a.header.Get("X-Should-Retry") != "false" || u.calls.Load() != 0 {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// A missing max_tokens may use anything; it reserves what is usual, and is never
// refused while the bucket is full, whatever was learned before.
func TestARequestWithoutACapIsAdmittedByAFullBucket(t *testing.T) {
	u := &usedUp{input: 5, output: 5000}
	w := start(t, strings.ReplaceAll(tokenPlan, "window: 1h", "window: 50ms"), u)
	open := `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	for i := range 3 {
		deadline := time.Now().Add(10 * time.Second)
		for w.left("/look", "t") < 1000 && time.Now().Before(deadline) { // each answer is a debt of five windows
			continue
		}
		if a := w.send("POST", "/v1/chat/completions", open); a.status != 200 {
			t.Fatalf("request %d: %d %s", i, a.status, a.body)
		}
	}
}

func TestTheUsualSizeIsReserved(t *testing.T) {
	u := &usedUp{input: 5, output: 400}
	w := start(t, strings.ReplaceAll(tokenPlan, "quota: 1000", "quota: 10000"), u)
	open := `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	for range 8 {
		w.send("POST", "/v1/chat/completions", open)
	}
	u.hold = make(chan struct{})
	done := make(chan answer)
	go func() { done <- w.send("POST", "/v1/chat/completions", open) }()
	w.until(func() bool { return u.calls.Load() == 9 })
	reserved := 10000 - 8*405 - w.left("/look", "t")
	close(u.hold)
	<-done
	if reserved < 300 || reserved > 700 {
		t.Errorf("%d tokens are reserved while the ninth runs, want about 405", reserved)
	}
	w.wantLeft("/look", map[string]int64{"t": 10000 - 9*405})
}

func TestBytesCountBothBodies(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [{name: b, quota: 1000, unit: bytes, window: 1h}]}}
upstreams: {u: {targets: ["%s"]}}
routes:
  - {name: look, match: {path: /look}, upstream: u, max_body: 100}
  - {match: {path: /*}, upstream: u}
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("a", 300))
	}))
	w.send("POST", "/x", strings.Repeat("b", 200))
	w.wantLeft("/look", map[string]int64{"b": 500})
}

// 200 calls at once against 100 tokens: what is admitted is never more than the
// bucket, plus what the estimates of those that ran were wrong by.
func TestConcurrentCallsAgainstTokens(t *testing.T) {
	t.Parallel()
	u := &usedUp{input: 7, output: 5}
	w := start(t, strings.ReplaceAll(tokenPlan, "quota: 1000, unit: tokens", "quota: 100, unit: tokens"), u)
	request := strings.Replace(hi, "50", "3", 1) // reserves 10, and uses 12
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if w.send("POST", "/v1/chat/completions", request).status == 200 {
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	if used := admitted.Load() * 12; used > 100+10*2 || used < 90 {
		t.Errorf("%d calls used %d tokens of 100", admitted.Load(), used)
	}
}

const slotPlan = `
plans: {default: {policies: [{name: slots, concurrent: 2}, 1000/hour]}}
upstreams: {u: {targets: ["%s"], dialect: openai}}
routes:
  - {name: look, match: {path: /look}, upstream: u, max_body: 100}
  - {match: {path: /*}, upstream: u}
`

func TestSlotsAreHeldUntilTheLastByte(t *testing.T) {
	more, first := make(chan struct{}), make(chan struct{}, 10)
	w := start(t, slotPlan, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		first <- struct{}{}
		select {
		case <-more:
		case <-r.Context().Done():
		}
	}))
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	// One ID for all of them: a client's own must not let it share one slot.
	wg.Go(func() { w.sendCtx(ctx, "GET", "/a", "", "X-Request-Id", "same") })
	<-first
	wg.Go(func() { w.send("GET", "/a", "", "X-Request-Id", "same") })
	<-first
	a := w.send("GET", "/a", "", "X-Request-Id", "same")
	if a.status != 429 || a.header.Get("Retry-After") != "1" || a.remaining("slots") != 0 {
		t.Errorf("the third: %d %v %s", a.status, a.header, a.body)
	}
	if got := w.left("/look", "default-2") + w.left("/look", "default"); got != 998-1 { // -1: the one of the two that is not there
		t.Errorf("a request without a slot was charged: %d left", got)
	}
	leave() // in the middle of its answer
	w.until(func() bool { return w.left("/look", "slots") == 1 })
	close(more)
	wg.Wait()
	w.until(func() bool { return w.left("/look", "slots") == 2 })
	if a := w.send("GET", "/a", ""); a.status != 200 {
		t.Errorf("a slot was not freed: %d", a.status)
	}
}

// until waits until something holds, at most ten seconds.
func (w *weir) until(holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(eventually); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("it never happened")
		}
	}
}

// What the counters say after random ends of many requests is what the ledger of
// all answers says, and no slot is left behind. The full number is for when there
// is time: go test -run Ledger -ledger 100000.
func TestCountersEqualTheLedger(t *testing.T) {
	t.Parallel()
	var ledger atomic.Int64 // of requests that an upstream answered
	w := start(t, `
plans: {default: {policies: [{name: slots, concurrent: 64}, {name: r, quota: 10000000, window: 366d}, {name: t, quota: 1000000000, unit: tokens, window: year, algorithm: fixed_window}]}}
upstreams: {llm: {targets: ["%s"], dialect: openai, breaker: {failures: 0}}}
routes:
  - {name: look, match: {path: /look}, upstream: llm, max_body: 100}
  - {match: {path: /*}, upstream: llm}
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.Header.Get("End") {
		case "break": // before the first byte: it costs nothing
			panic(http.ErrAbortHandler)
		case "cut":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, chatStream[:200])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "late":
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond):
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`)
	}))
	n := *ledgerSize
	ends := []string{"", "break", "cut", "late"}
	var wg sync.WaitGroup
	var left atomic.Int64 // clients that left: their request may have been charged or not
	for range 16 {
		wg.Go(func() {
			for range n / 16 {
				end := ends[rand.IntN(len(ends))]
				ctx, cancel := t.Context(), func() {}
				if end == "late" {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
				}
				a := w.sendCtx(ctx, "POST", "/v1/chat/completions", hi, "End", end)
				cancel()
				switch {
				case a.status == 0 && end == "late":
					left.Add(1)
				case a.status == 200:
					ledger.Add(1)
				case a.status != 502:
					t.Errorf("%q: %d %s", end, a.status, a.body)
				}
			}
		})
	}
	wg.Wait()
	w.until(func() bool { return w.left("/look", "slots") == 64 })
	used := 10_000_000 - w.left("/look", "r")
	if used < ledger.Load() || used > ledger.Load()+left.Load() {
		t.Errorf("%d requests are counted, %d were answered and %d clients left", used, ledger.Load(), left.Load())
	}
	tokens := 1_000_000_000 - w.left("/look", "t")
	if err := w.gateway.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var logged int64
	for line := range strings.Lines(w.log.String()) {
		var entry struct {
			Input  int64 `json:"input_tokens"`
			Output int64 `json:"output_tokens"`
		}
		_ = json.Unmarshal([]byte(line), &entry)
		logged += entry.Input + entry.Output
	}
	if tokens != logged {
		t.Errorf("%d tokens are counted, the log has %d", tokens, logged)
	}
}

func TestShadowPoliciesRefuseNobody(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [{name: real, quota: 3, window: 1h}, {name: new, quota: 1, window: 1h, shadow: true}]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u, legacy_headers: true}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var statuses []int
	for range 4 {
		a := w.send("GET", "/", "")
		statuses = append(statuses, a.status)
		if strings.Contains(fmt.Sprint(a.header), "new") || a.header.Get("X-RateLimit-Limit") != "3" {
			t.Errorf("a client is told of a shadow: %v", a.header)
		}
	}
	if !slices.Equal(statuses, []int{200, 200, 200, 429}) {
		t.Errorf("statuses %v", statuses)
	}
	for metric, want := range map[string]string{
		`weir_ratelimit_decisions_total{policy="new",result="allowed",scope="plan:default"}`: "1",
		`weir_ratelimit_decisions_total{policy="new",result="shadow",scope="plan:default"}`:  "3",
		`weir_ratelimit_decisions_total{policy="real",result="denied",scope="plan:default"}`: "1",
	} {
		if got := w.metric(metric); got != want {
			t.Errorf("%s %s, want %s", metric, got, want)
		}
	}
	w.equalLog(map[string]any{"policy": "real", "shadow": "new"})
}

func TestAllowAndDenyLists(t *testing.T) {
	w := start(t, `
callers:
  keys: [{caller: alice, key: weir_alice_0123456789}, {caller: bob, key: weir_bob_0123456789}]
  allow: ["key:alice"]
  deny: ["key:bob"]
plans: {default: {policies: [1/hour]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u, policies: [{name: all, quota: 1, window: 1h, by: global}]}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 3 {
		if a := w.send("GET", "/", "", "X-Api-Key", "weir_alice_0123456789"); a.status != 200 || a.header.Get("RateLimit") != "" {
			t.Errorf("alice: %d %v", a.status, a.header)
		}
	}
	if a := w.send("GET", "/", "", "X-Api-Key", "weir_bob_0123456789"); a.status != 403 {
		t.Errorf("bob: %d", a.status)
	}
	if first, second := w.send("GET", "/", "").status, w.send("GET", "/", "").status; first != 200 || second != 429 {
		t.Errorf("others: %d, then %d", first, second)
	}
}

func TestFailedAuthenticationsAreLimited(t *testing.T) {
	w := start(t, `
limits: {auth_failures: 3}
callers: {keys: [{caller: alice, key: weir_alice_0123456789}]}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var statuses []int
	began := time.Now()
	for range 3 {
		statuses = append(statuses, w.send("GET", "/", "", "Authorization", "Bearer weir_wrong").status)
		statuses = append(statuses, w.send("GET", "/", "", "X-Api-Key", "weir_alice_0123456789").status)
	}
	a := w.send("GET", "/", "", "Authorization", "Bearer weir_wrong")
	statuses = append(statuses, a.status,
		w.send("GET", "/", "", "X-Api-Key", "weir_alice_0123456789").status,  // it could be a lucky guess
		w.send("GET", "/", "", "Authorization", "Bearer sk-upstream").status, // nobody's here
		w.send("GET", "/", "").status)
	if want := []int{401, 200, 401, 200, 401, 429, 429, 429, 200, 200}; !slices.Equal(statuses, want) {
		t.Errorf("statuses %v, want %v", statuses, want)
	}
	if countedDown(began, 20, a.header.Get("Retry-After")) != "20" || !strings.Contains(a.body, "abnormal-usage-detected") {
		t.Errorf("%v %s", a.header, a.body)
	}
	if got := w.metric("weir_auth_failures_total"); got != "3" {
		t.Errorf("weir_auth_failures_total %s", got)
	}
}

// policiesOf is a list of policies in their short form.
func policiesOf(texts ...string) string { return `["` + strings.Join(texts, `","`) + `"]` }

// setPolicies changes the policies of a plan. It returns whether the database keeps them.
func setPolicies(t *testing.T, g *gateway.Gateway, plan, list string) bool {
	t.Helper()
	doc := `{"policies": ` + list + `}`
	c, err := g.Edit(t.Context(), config.Edit{Kind: "plan", Name: plan, Doc: []byte(doc)}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c.Kept
}

func TestAChangedPlanKeepsTheDebt(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [10/hour]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 10 {
		w.send("GET", "/", "")
	}
	change := func(texts ...string) {
		t.Helper()
		setPolicies(t, w.gateway, "default", policiesOf(texts...))
	}
	change("5/hour")
	if a := w.send("GET", "/", ""); a.status != 429 {
		t.Errorf("a smaller quota let a debtor in: %d", a.status)
	}
	change("10/hour")
	if a := w.send("GET", "/", ""); a.status != 429 {
		t.Errorf("there and back gave units back: %d", a.status)
	}
	change("1000/hour")
	if a := w.send("GET", "/", ""); a.status != 429 {
		t.Errorf("the debt of an hour is gone: %d %v", a.status, a.header) // its bucket is full again only in an hour
	}
	change("1000/minute", "7/hour")
	if a := w.send("GET", "/", ""); a.header.Get("RateLimit-Policy") != `"default";q=1000;w=60, "default-2";q=7;w=3600` {
		t.Errorf("%v", a.header)
	}
	if _, err := w.gateway.Edit(t.Context(), config.Edit{Kind: "plan", Name: "gold", Doc: []byte(`{"policies": []}`)}, "test"); !errors.Is(err, gateway.ErrNoSuch) {
		t.Errorf("a plan that is not there: %v", err)
	}
	if got := w.metric(`weir_ratelimit_decisions_total{policy="default-2",result="allowed",scope="plan:default"}`); got == "" {
		t.Error("the new policy has no metric")
	}
}

func TestOverridesOfOneCaller(t *testing.T) {
	w := start(t, `
callers:
  keys: [{caller: alice, key: weir_alice_0123456789}, {caller: bob, key: weir_bob_0123456789}, {caller: carl, key: weir_carl_0123456789, plan: pro}]
  overrides:
    - {caller: "key:alice", policies: [{name: default, quota: 2, window: 1h}, {name: extra, quota: 9, window: 1m}]}
    - {caller: "key:bob", plan: pro}
plans: {default: {policies: [1/hour]}, pro: {policies: [3/hour]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, want := range map[string]struct {
		admitted int
		policies string
	}{
		"alice": {2, `"default";q=2;w=3600, "extra";q=9;w=60`},
		"bob":   {3, `"pro";q=3;w=3600`},
		"carl":  {3, `"pro";q=3;w=3600`},
	} {
		admitted, last := 0, answer{}
		for range 5 {
			if last = w.send("GET", "/", "", "X-Api-Key", "weir_"+name+"_0123456789"); last.status == 200 {
				admitted++
			}
		}
		if admitted != want.admitted || last.header.Get("RateLimit-Policy") != want.policies {
			t.Errorf("%s: %d admitted, %q", name, admitted, last.header.Get("RateLimit-Policy"))
		}
	}
	if a := w.send("GET", "/", ""); a.header.Get("RateLimit-Policy") != `"default";q=1;w=3600` {
		t.Errorf("others: %v", a.header)
	}
}

func TestWindowsOfEveryAlgorithm(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [{name: f, quota: 5, window: month, algorithm: fixed_window}, {name: s, quota: 4, window: 1h, algorithm: sliding_window}, {name: b, quota: 6, window: 1h}]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var last answer
	admitted := 0
	for range 8 {
		if last = w.send("GET", "/", ""); last.status == 200 {
			admitted++
		}
	}
	if admitted != 4 || last.remaining("s") != 0 || last.remaining("f") != 1 || last.remaining("b") != 2 {
		t.Errorf("%d admitted, %v", admitted, last.header)
	}
}
