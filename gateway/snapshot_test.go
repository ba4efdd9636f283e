package gateway_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// snapshotOf waits until n requests are counted: a request is, a moment after its answer.
func (w *weir) snapshotOf(n int64) (s gateway.Snapshot) {
	w.t.Helper()
	storetest.Eventually(w.t, eventually, fmt.Sprintf("%d requests are counted", n), func() bool {
		s = w.gateway.Snapshot()
		return s.Traffic.Requests == n
	})
	return s
}

func (w *weir) routeOf(s gateway.Snapshot, name string) gateway.RouteSnapshot {
	w.t.Helper()
	for _, r := range s.Routes {
		if r.Name == name {
			return r
		}
	}
	w.t.Fatalf("the snapshot has no route %q: %v", name, s.Routes)
	return gateway.RouteSnapshot{}
}

// lines are those of the requests in the log. The gateway is closed then.
func (w *weir) lines() (lines []map[string]any) {
	w.t.Helper()
	w.logged()
	for text := range strings.Lines(w.log.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			w.t.Fatalf("%q: %v", text, err)
		}
		if line["msg"] == "request" {
			lines = append(lines, line)
		}
	}
	return lines
}

// wellUsed is an OpenAI server that needs a while for its answers, and says that it used
// 46 tokens.
func wellUsed(calls *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		calls.Add(1)
		pass(30 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"c","object":"chat.completion","created":1,"model":"llama","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`)
	}
}

const watched = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}, {caller: bob, key: weir_bob}]}
plans:
  default: {policies: [{name: few, quota: 2, window: 1h}]}
  pro: {policies: [100/minute, {name: next, quota: 3, window: 1h, shadow: true}]}
upstreams: {llm: {targets: ["%s"], dialect: openai}, other: {targets: ["http://127.0.0.1:1"]}}
routes:
  - {name: chat, match: {path: /v1/chat/completions}, upstream: llm, cache: {mode: inference, ttl: 1h}}
  - {name: models, match: {path: /v1/models}, upstream: other, policies: [{name: none, quota: 1, window: 1h, by: global}]}
`

func TestSnapshotCountsAMixOfRequests(t *testing.T) {
	var calls atomic.Int64
	w := start(t, watched, wellUsed(&calls))
	alice, bob := []string{"Authorization", "Bearer weir_alice"}, []string{"Authorization", "Bearer weir_bob"}
	question := func(i int) string {
		return fmt.Sprintf(`{"model":"llama","temperature":0,"messages":[{"role":"user","content":"%d"}]}`, i)
	}
	for i := range 4 { // of alice: the fourth would be refused
		w.send("POST", "/v1/chat/completions", question(i), alice...)
	}
	for range 3 { // hits cost nothing
		w.send("POST", "/v1/chat/completions", question(0), alice...)
	}
	for i := range 5 { // of bob: three are refused
		w.send("POST", "/v1/chat/completions", question(i), bob...)
	}
	w.send("GET", "/v1/models", "", alice...) // 502, which costs nothing
	w.send("GET", "/nowhere", "")             // 404
	s := w.snapshotOf(14)

	chat, models := w.routeOf(s, "chat"), w.routeOf(s, "models")
	same(t, []int64{s.Traffic.Requests, s.Traffic.Errors, s.Traffic.Refused, s.Traffic.Shed, s.Traffic.InFlight}, []int64{14, 1, 3, 0, 0})
	same(t, []int64{chat.Requests, chat.Errors, chat.Refused, chat.Latency.N}, []int64{12, 0, 3, 9})
	same(t, []int64{models.Requests, models.Errors, models.Refused}, []int64{1, 1, 0})
	same(t, chat.Policies, []gateway.PolicyRefusals{{Policy: "plan:default/few", Refused: 3}, {Policy: "plan:pro/next", Shadow: 1}})
	same(t, *chat.HitRatio, 3.0/12)
	same(t, models.HitRatio, (*float64)(nil))
	same(t, chat.Tokens, gateway.TokenSums{Input: 6 * 12, Output: 6 * 34})
	same(t, chat.Saved.Tokens, int64(3*46))
	same(t, []any{chat.Upstream, s.Routes[0].Latency.P95 >= s.Routes[1].Latency.P95}, []any{"llm", true})
	if s.CallersOf != 2 {
		t.Errorf("got %d callers, want 2", s.CallersOf)
	}
	checkCallers(t, s)
	llm := s.Upstreams[0]
	same(t, []any{llm.Name, llm.Dialect, llm.Calls, llm.Latency.N, llm.WaitMS.N, llm.Targets[0].State}, []any{"llm", "openai", map[string]int64{"ok": 6}, int64(6), int64(6), "open"})
	same(t, s.Upstreams[1].Calls, map[string]int64{"error": 2}) // tried again
	same(t, []int{len(s.Cache.Keys), int(s.Cache.Tiers[0].Entries)}, []int{1, 6})
	same(t, s.Cache.Keys[0].Hits, int64(3))
	same(t, s.Store, gateway.HealthSnapshot{Kind: "memory", Healthy: true})

	t.Run("and has the latencies and the time saved that the log has", func(t *testing.T) { checkTimes(t, chat, w.lines()) })
}

// checkCallers compares what alice and bob did.
func checkCallers(t *testing.T, s gateway.Snapshot) {
	t.Helper()
	for _, c := range s.Callers {
		c.Rate, c.BusyMS, c.LastSeen = 0, 0, time.Time{}
		want := gateway.CallerSnapshot{
			Caller: "key:alice", Plan: "pro", Requests: 8, Hits: 3, Errors: 1, Tokens: gateway.TokenSums{Input: 48, Output: 136},
			Policies: []gateway.PolicyRefusals{{Policy: "plan:pro/next", Shadow: 2}}, // the other one on the way to models
		}
		if c.Caller == "key:bob" {
			want = gateway.CallerSnapshot{
				Caller: "key:bob", Plan: "default", Requests: 5, Refused: 3, Tokens: gateway.TokenSums{Input: 24, Output: 68},
				Policies: []gateway.PolicyRefusals{{Policy: "plan:default/few", Refused: 3}},
			}
		}
		same(t, c, want)
	}
}

// checkTimes compares a route's figures with the lines of the log.
func checkTimes(t *testing.T, chat gateway.RouteSnapshot, lines []map[string]any) {
	t.Helper()
	var took []float64
	saved := 0.0
	for _, l := range lines {
		ms, _ := l["saved_ms"].(float64)
		saved += ms
		if l["route"] == "chat" && l["status"] != 429.0 {
			took = append(took, l["duration_ms"].(float64))
		}
	}
	slices.Sort(took)
	for _, c := range []struct{ got, want float64 }{
		{chat.Latency.P50, took[4]}, {chat.Latency.P99, took[8]}, {chat.Latency.Max, took[8]}, {chat.Saved.Seconds, saved / 1000},
	} {
		if math.Abs(c.got-c.want) > 0.03*c.want+0.002 {
			t.Errorf("got %v, want %v within 3 %%", c.got, c.want)
		}
	}
	if chat.Saved.Seconds < 3*0.03 {
		t.Errorf("three answers that took 30 ms each saved %v s", chat.Saved.Seconds)
	}
}

func TestSnapshotCountsWhatFollowersOfAStreamSaved(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	w := start(t, strings.ReplaceAll(watched, "quota: 2,", "quota: 9,"), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(rw, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}]}\n\n")
		_ = http.NewResponseController(rw).Flush()
		close(began)
		<-end
		pass(20 * time.Millisecond)
		_, _ = io.WriteString(rw, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46}}\n\ndata: [DONE]\n\n")
	}))
	const body = `{"model":"llama","temperature":0,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`
	answers := make(chan answer)
	ask := func() { answers <- w.send("POST", "/v1/chat/completions", body, "Authorization", "Bearer weir_alice") }
	go ask()
	<-began
	go ask()
	storetest.Eventually(t, eventually, "both are in flight", func() bool { return w.gateway.Snapshot().Traffic.InFlight == 2 })
	pass(20 * time.Millisecond) // so that the second has joined
	close(end)
	for range 2 {
		if a := <-answers; a.status != 200 || !strings.Contains(a.body, "[DONE]") {
			t.Fatal(a)
		}
	}
	saved := w.routeOf(w.snapshotOf(2), "chat").Saved
	if saved.Tokens != 46 || saved.Seconds < 0.02 {
		t.Errorf("got %+v, want 46 tokens and more than 20 ms", saved)
	}
}

func TestLogTellsWhatReplayNeeds(t *testing.T) {
	var calls atomic.Int64
	const body = `{"model":"llama","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}`
	hash := func(line map[string]any) string { s, _ := line["request"].(string); return s }
	w := start(t, watched, wellUsed(&calls))
	for range 3 {
		w.send("POST", "/v1/chat/completions", body, "Authorization", "Bearer weir_bob")
	}
	w.send("POST", "/v1/chat/completions?x=1", body, "Authorization", "Bearer weir_bad")
	lines := w.lines()
	if hash(lines[0]) == "" || hash(lines[0]) != hash(lines[1]) || hash(lines[3]) != "" {
		t.Errorf("hashes: %v", lines)
	}
	for i, want := range []map[string]any{
		{"samples": true, "attempts": 1.0, "estimate_output": 50.0, "policy_scope": nil, "status": 200.0},
		{"samples": true, "attempts": 1.0, "estimate_output": 50.0, "policy_scope": nil, "status": 200.0},
		{"samples": true, "attempts": nil, "estimate_output": 50.0, "policy_scope": "plan:default", "status": 429.0},
		{"samples": nil, "attempts": nil, "estimate_output": nil, "policy_scope": nil, "status": 401.0},
	} {
		got := map[string]any{}
		for name := range want {
			got[name] = lines[i][name]
		}
		same(t, got, want)
	}
}

func TestSnapshotFindsTheTopCallersAmongTwentyThousand(t *testing.T) {
	w := start(t, `
callers: {identify: [header], trusted_proxies: [127.0.0.0/8]}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1h, share: all}}]
`, &counted{})
	ask := func(caller string) {
		r := httptest.NewRequest("GET", "/a", nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("X-User-ID", caller)
		w.gateway.ServeHTTP(httptest.NewRecorder(), r)
	}
	const all, heavy = 20_000, 20
	for i := range all {
		ask(fmt.Sprint("light-", i))
		if i%50 == 0 {
			for n := range heavy {
				ask(fmt.Sprint("heavy-", n))
			}
		}
	}
	s := w.snapshotOf(all + all/50*heavy)
	for _, c := range s.Callers[:heavy] {
		if !strings.HasPrefix(c.Caller, "header:heavy-") || c.Requests < 360 || c.Requests > 400 {
			t.Errorf("among the first %d: %+v", heavy, c)
		}
	}
	if s.CallersOf < all*9/10 || s.CallersOf > all*11/10 {
		t.Errorf("got %d callers, want %d within 10 %%", s.CallersOf, all+heavy)
	}
}

func TestSnapshotSaysWhichTargetsAreLeftOut(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: [{url: "http://127.0.0.1:1", weight: 3}], breaker: {failures: 2, open_for: 1m}, retry: {attempts: 1}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, nil)
	for range 2 {
		w.send("GET", "/a", "")
	}
	s := w.snapshotOf(2)
	target := s.Upstreams[0].Targets[0]
	if left := time.Until(target.Until); left < 50*time.Second || left > time.Minute {
		t.Errorf("it opens in %v, want in a minute", left)
	}
	target.Until, target.Limit = time.Time{}, 0
	same(t, target, gateway.TargetSnapshot{URL: "http://127.0.0.1:1", Weight: 3, State: "breaker"})
	e := s.Events[0]
	same(t, []string{e.Kind, e.Level, e.Text}, []string{"eject", "warn", "Upstream u, target http://127.0.0.1:1: too many requests in a row failed: the target is left out until one succeeds"})
	same(t, s.Events[len(s.Events)-1].Kind, "start")
}

func TestSnapshotShowsTheQueue(t *testing.T) {
	t.Parallel()
	began, end := make(chan struct{}, 9), make(chan struct{})
	w := start(t, `
upstreams: {u: {targets: ["%s"], concurrency: 1, queue: {max: 1, max_wait: 1m}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { began <- struct{}{}; <-end }))
	answers := make(chan answer)
	ask := func() { answers <- w.send("GET", "/a", "") }
	go ask()
	<-began
	go ask()
	var s gateway.Snapshot
	storetest.Eventually(t, eventually, "one waits", func() bool {
		s = w.gateway.Snapshot()
		return s.Upstreams[0].Waiting["standard"] == 1
	})
	same(t, []any{s.Upstreams[0].Running, s.Upstreams[0].Limit, s.Upstreams[0].MaxQueue, s.Traffic.InFlight, w.routeOf(s, "all").InFlight}, []any{1, 1.0, 1, int64(2), int64(2)})
	if a := w.send("GET", "/a", ""); a.status != 503 {
		t.Fatal(a)
	}
	s = w.snapshotOf(1)
	same(t, []any{s.Traffic.Shed, s.Traffic.Errors, s.Upstreams[0].Refused}, []any{int64(1), int64(0), map[string]int64{"queue_full": 1}})
	storetest.Eventually(t, eventually, "the series shows who waits and runs", func() bool {
		s := w.gateway.Snapshot().Series
		n := len(s.Waiting)
		return n > 0 && s.Waiting[n-1] == 1 && s.Running[n-1] == 1
	})
	close(end)
	<-answers
	<-answers
	s = w.snapshotOf(3)
	same(t, []any{s.Upstreams[0].WaitMS.N, s.Traffic.InFlight}, []any{int64(2), int64(0)})
	if s.Upstreams[0].WaitMS.Max < 1 {
		t.Errorf("the longest wait was %v ms", s.Upstreams[0].WaitMS.Max)
	}
}

func TestSnapshotHasNoNullListsAndIsSharedForAMoment(t *testing.T) {
	w := start(t, cached, &counted{})
	var first gateway.Snapshot
	storetest.Eventually(t, eventually, "two are one", func() bool {
		first = w.gateway.Snapshot()
		return w.gateway.Snapshot().At.Equal(first.At)
	})
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if rest := strings.ReplaceAll(string(text), `"hit_ratio":null`, ""); strings.Contains(rest, "null") {
		t.Errorf("it has a null: %s", text)
	}
	same(t, first.Version, "test")
	storetest.Eventually(t, eventually, "there is a newer one", func() bool { return w.gateway.Snapshot().At.After(first.At) })
}

func TestEventsAreCountedTogetherAndBounded(t *testing.T) {
	w := start(t, plain, &counted{})
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	note := func(after time.Duration, text string) {
		w.gateway.Note(gateway.EventSnapshot{At: at.Add(after), Kind: "store", Level: "warn", Text: text})
	}
	_, before := w.gateway.Events(0)
	for i := range 12 {
		note(time.Duration(i)*time.Second, "it is away")
	}
	note(12*time.Second, "something else")
	note(22*time.Second, "it is away")
	news, last := w.gateway.Events(before)
	texts := func(list []gateway.EventSnapshot) (texts []string) {
		for _, e := range list {
			texts = append(texts, e.Text)
		}
		return texts
	}
	same(t, texts(news), []string{"it is away, 12 times", "something else", "it is away"})
	same(t, []any{news[0].Count, news[0].At, news[0].ID < news[1].ID}, []any{12, at.Add(11 * time.Second), true})

	again := w.gateway.EventsAfter(last)
	select {
	case <-again:
		t.Error("there is news before anything happens")
	default:
	}
	note(23*time.Second, "it is away")
	<-again
	again2, _ := w.gateway.Events(last)
	same(t, []any{texts(again2), again2[0].ID}, []any{[]string{"it is away, 2 times"}, news[2].ID})

	_, before = w.gateway.Events(0)
	w.gateway.Note(gateway.EventSnapshot{Text: strings.Repeat("é", 600), Details: json.RawMessage("{")})
	news, _ = w.gateway.Events(before)
	same(t, []any{news[0].Text, news[0].Level, news[0].Details}, []any{strings.Repeat("é", 512), "info", json.RawMessage(nil)})

	for i := range 600 {
		note(time.Minute, fmt.Sprint("event ", i))
	}
	all, _ := w.gateway.Events(0)
	same(t, []any{len(all), all[0].Text, all[499].Text}, []any{500, "event 100", "event 599"})
	shown := w.gateway.Snapshot().Events
	same(t, []any{len(shown), shown[0].Text, shown[99].Text}, []any{100, "event 599", "event 500"})
}

func TestEventsTellOfPurges(t *testing.T) {
	w := start(t, cached, &counted{})
	w.send("GET", "/a", "")
	storetest.Eventually(t, eventually, "it is stored", func() bool {
		n, err := w.gateway.Purge(t.Context(), "path", "/a")
		return err == nil && n == 1
	})
	all, _ := w.gateway.Events(0)
	e := all[len(all)-1]
	same(t, []string{e.Kind, e.Level, e.Text}, []string{"purge", "info", "The answers with path /a were purged: 1 here"})
}

// manyRoutes is a configuration with n routes, which nobody is behind.
func manyRoutes(tb testing.TB, n int) *gateway.Gateway {
	var yaml strings.Builder
	yaml.WriteString("upstreams:\n")
	for i := range n / 5 {
		fmt.Fprintf(&yaml, "  u%d: {targets: [\"http://127.0.0.1:1\"], retry: {attempts: 1}, breaker: {failures: 0}}\n", i)
	}
	yaml.WriteString("routes:\n")
	for i := range n {
		fmt.Fprintf(&yaml, "  - {name: r%d, match: {path: /%d}, upstream: u%d}\n", i, i, i%(n/5))
	}
	cfg, err := config.Parse("test.yaml", []byte(yaml.String()), nil)
	if err != nil {
		tb.Fatal(err)
	}
	g, err := gateway.New(cfg, gateway.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.Close(tb.Context()) })
	return g
}

func TestSnapshotListsRoutesBeyondThoseKnownByNameAsOne(t *testing.T) {
	t.Parallel()
	g := manyRoutes(t, 600)
	for i := range 600 {
		g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", fmt.Sprintf("/%d", i), nil))
	}
	s := g.Snapshot()
	if len(s.Routes) != 501 {
		t.Fatalf("got %d routes, want 501", len(s.Routes))
	}
	slices.SortFunc(s.Routes, func(a, b gateway.RouteSnapshot) int { return cmp.Compare(b.Requests, a.Requests) })
	same(t, []any{s.Routes[0].Name, s.Routes[0].Requests}, []any{"other", int64(100)})
}

func BenchmarkSnapshot(b *testing.B) {
	g := manyRoutes(b, 500)
	for i := range 1500 {
		r := httptest.NewRequest("GET", fmt.Sprintf("/%d", i%500), nil)
		r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
		g.ServeHTTP(httptest.NewRecorder(), r)
	}
	for b.Loop() {
		gateway.FreshSnapshot(g)
	}
}

func TestSnapshotAndEventsTellOfAStoreAndADatabaseThatAreAway(t *testing.T) {
	t.Parallel()
	redis, postgres := storetest.Redis(t), storetest.Postgres(t)
	w := start(t, `
store: {url: "`+redis.URL()+`", on_failure: open}
database: {url: "`+postgres.URL()+`"}
plans: {default: {policies: [100/minute]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &counted{})
	storetest.Eventually(t, eventually, "both are healthy", func() bool {
		s := w.gateway.Snapshot()
		return s.Store.Healthy && s.Database.Healthy
	})
	_, before := w.gateway.Events(0)
	told := func(what string, want ...string) {
		t.Helper()
		storetest.Eventually(t, eventually, what, func() bool {
			news, _ := w.gateway.Events(before)
			left := slices.Clone(want)
			for _, e := range news {
				if i := slices.Index(left, e.Kind+" "+e.Level); i >= 0 {
					left = slices.Delete(left, i, i+1)
				}
			}
			return len(left) == 0
		})
	}
	redis.Stop()
	postgres.Stop()
	told("both are away", "store error", "database error")
	var s gateway.Snapshot
	storetest.Eventually(t, eventually, "the snapshot says so", func() bool {
		s = w.gateway.Snapshot()
		return !s.Store.Healthy && !s.Database.Healthy
	})
	same(t, []any{s.Store.Kind, strings.HasPrefix(s.Store.Detail, "on_failure: open; "), s.Store.Failures > 0, s.Database.Kind}, []any{"redis", true, true, "postgres"})
	_, before = w.gateway.Events(0)
	redis.Start()
	postgres.Start()
	told("both are back", "store info", "database info")
}
