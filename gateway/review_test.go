package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// Trap 21: the count of a route is its pattern's, not the URL's.
func TestARouteIsCountedByItsPatternNotByURL(t *testing.T) {
	w := start(t, `
plans: {default: {policies: [{name: p, quota: 2, window: 1h, by: route}]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: users, match: {path: /users/*}, upstream: u, policies: [{name: r, quota: 2, window: 1h, by: route}]}]
`, http.HandlerFunc(nothing))
	for i, want := range []int{200, 200, 429} {
		if a := w.send("GET", "/users/"+string(rune('1'+i))+"?x="+string(rune('a'+i)), ""); a.status != want {
			t.Errorf("request %d: %d, want %d", i, a.status, want)
		}
	}
}

// by: ip is a network: whoever has a /64 has one count.
func TestByIPIsANetwork(t *testing.T) {
	w := start(t, `
callers: {trusted_proxies: [127.0.0.1]}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u, policies: [{quota: 1, window: 1h, by: ip}]}]
`, http.HandlerFunc(nothing))
	a := w.send("GET", "/", "", "X-Forwarded-For", "2001:db8:1:2::1").status
	b := w.send("GET", "/", "", "X-Forwarded-For", "2001:db8:1:2:ffff::2").status
	if a != 200 || b != 429 {
		t.Errorf("%d, %d", a, b)
	}
}

// What was learned is by model, plan and route: a model of long answers does not
// make another one's reservations long.
func TestTheUsualSizeIsByModelAndPlan(t *testing.T) {
	u := &usedUp{input: 5, output: 4000}
	w := start(t, strings.ReplaceAll(strings.Replace(tokenPlan, "plans: {", "callers: {keys: [{caller: a, key: weir_a_0123456789, plan: pro}]}\nplans: {pro: {policies: [{name: t, quota: 100000, unit: tokens, window: 1h}]}, ", 1), "quota: 1000,", "quota: 100000,"), u)
	body := func(model string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}]}`
	}
	reserve := func(model string, header ...string) int64 {
		u.hold = make(chan struct{})
		n, before := u.calls.Load(), w.left("/look", "t", header...)
		done := make(chan answer)
		go func() { done <- w.send("POST", "/v1/chat/completions", body(model), header...) }()
		w.until(func() bool { return u.calls.Load() == n+1 })
		r := before - w.left("/look", "t", header...)
		close(u.hold)
		<-done
		u.hold = nil
		return r
	}
	for range 6 {
		w.send("POST", "/v1/chat/completions", body("long"))
	}
	u.output = 10
	for range 6 {
		w.send("POST", "/v1/chat/completions", body("short"))
	}
	if r := reserve("short"); r > 200 {
		t.Errorf("short reserves %d", r)
	}
	if r := reserve("long"); r < 2000 {
		t.Errorf("long reserves %d", r)
	}
	key := []string{"X-Api-Key", "weir_a_0123456789"}
	u.output = 10
	for range 6 {
		w.send("POST", "/v1/chat/completions", body("long"), key...)
	}
	if r := reserve("long", key...); r > 1000 {
		t.Errorf("long of another plan reserves %d", r)
	}
}

// A client that leaves before the answer began pays for its prompt and one request.
func TestWhoLeavesBeforeTheAnswerPaysForThePrompt(t *testing.T) {
	u := &usedUp{hold: make(chan struct{})}
	w := start(t, tokenPlan, u)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.sendCtx(ctx, "POST", "/v1/chat/completions", hi); close(done) }()
	w.until(func() bool { return u.calls.Load() == 1 })
	leave()
	<-done
	w.until(func() bool { return w.left("/look", "out") == 1000 }) // what was reserved for its answer
	w.wantLeft("/look", map[string]int64{"t": 992, "in": 992, "out": 1000, "r": 999})
}

// A stored answer is charged for what it used when it was made, and takes no slot:
// it runs nothing.
func TestChargedHitsCostWhatTheyUsedAndHoldNoSlot(t *testing.T) {
	u := &usedUp{input: 7, output: 5}
	w := start(t, `
plans: {default: {policies: [{name: t, quota: 1000, unit: tokens, window: 1h}, {name: r, quota: 1000, window: 1h}, {name: s, concurrent: 1}]}}
upstreams: {llm: {targets: ["%s"], dialect: openai}}
routes:
  - {name: look, match: {path: /look}, upstream: llm, max_body: 100}
  - {match: {path: /*}, upstream: llm, cache: {mode: inference, ttl: 1m, only: all, charge_hits: true}}
`, u)
	embed := `{"model":"m","input":"x"}`
	for n := range int64(3) { // one call, two hits
		w.send("POST", "/v1/chat/completions", hi)
		w.wantLeft("/look", map[string]int64{"t": 1000 - 12*(n+1), "r": 999 - n, "s": 1})
	}
	for range 2 {
		w.send("POST", "/v1/embeddings", embed)
	}
	w.wantLeft("/look", map[string]int64{"t": 1000 - 36 - 24, "r": 995})
	u.hold = make(chan struct{})
	done := make(chan answer, 1)
	go func() { done <- w.send("POST", "/v1/chat/completions", strings.Replace(hi, "hi", "ho", 1)) }()
	w.until(func() bool { return u.calls.Load() == 3 })
	if a := w.send("POST", "/v1/chat/completions", hi); a.status != 200 {
		t.Errorf("a hit while the only slot is held: %d %s", a.status, a.body)
	}
	left := w.left("/look", "r")
	if a := w.send("POST", "/v1/chat/completions", strings.Replace(hi, "hi", "hm", 1)); a.status != 429 {
		t.Errorf("a second call: %d", a.status)
	}
	if got := w.left("/look", "r"); got != left {
		t.Errorf("a request without a slot was charged: %d left, then %d", left, got)
	}
	close(u.hold)
	<-done
	w.until(func() bool { return w.left("/look", "s") == 1 })
}

// Who waits for the last byte, and only then comes again, never meets its own slot,
// whatever the length of the answer and of its connection.
func TestACallerThatComesOneByOneNeedsOneSlot(t *testing.T) {
	t.Parallel()
	w := start(t, `
plans: {default: {policies: [1 concurrent]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = io.WriteString(w, strings.Repeat("x", n))
	}))
	for range 150 {
		for _, n := range []string{"0", "100", "65536", "200000"} {
			w.client.CloseIdleConnections()
			if a := w.send("GET", "/?n="+n, ""); a.status != 200 {
				t.Fatalf("%s bytes: %d %s", n, a.status, a.body)
			}
		}
	}
}

// A proxy that is not trusted makes one caller of all its clients: that is said.
func TestAMistakenProxyIsSaidOnce(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, http.HandlerFunc(nothing))
	for range 3 {
		w.send("GET", "/", "", "X-Forwarded-For", "203.0.113.9")
	}
	w.logged()
	if n := strings.Count(w.log.String(), "callers.trusted_proxies"); n != 1 {
		t.Errorf("said %d times:\n%s", n, w.log)
	}
}
