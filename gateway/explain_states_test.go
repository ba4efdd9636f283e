package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/gateway"
)

// explains is what w says of a request that its client would send. The fields are names
// and values by turns.
func (w *instance) explains(method, path, body string, header ...string) gateway.Explanation {
	w.t.Helper()
	r := sample{method, path, body, header}.request("weir.example")
	said, err := w.gateway.Explain(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return said
}

// told fails where the outcome of a step, the status or what would happen is not that.
func told(t *testing.T, said gateway.Explanation, step, outcome string, status int, would string) {
	t.Helper()
	if d := decisionOf(said, step); d.Outcome != outcome || said.Status != status || said.Would != would {
		t.Errorf("%s: %s, with %d it would %s; want %s, %d, %s\n%s", step, d.Outcome, said.Status, said.Would, outcome, status, would, indent(said))
	}
}

// isStatus fails where the answer has another status.
func (a answer) isStatus(t *testing.T, status int) {
	t.Helper()
	if a.err != nil || a.status != status {
		t.Errorf("answered with %d, %v: %s; want %d", a.status, a.err, a.body, status)
	}
}

func TestExplainTellsTheQueue(t *testing.T) {
	d := newDesk()
	yaml := strings.NewReplacer("DIALECT", "plain", "max: 64", "max: 1").Replace(narrow)
	w := before(t, yaml, d)
	first := w.later("GET", "/a", "", of(1)...)
	v := d.next(t)
	told(t, w.explains("GET", "/b", "", of(2)...), "queue", "waits", 200, "wait for a place, then be sent to u")
	waiting := w.queued(of(2), "/b")
	said := w.explains("GET", "/c", "", of(2)...)
	told(t, said, "queue", "refused", 503, "be refused with 503")
	if got := decisionOf(said, "queue").Details; got["reason"] != "queue_full" || got["waiting_of_caller"] != 1 || got["class"] != "standard" {
		t.Errorf("the queue's details are %v", got)
	}
	w.send("GET", "/c", "", of(2)...).isStatus(t, 503)
	w.waits(1) // the explanations have taken nobody's place
	v.ends("done")
	first.got().isStatus(t, 200)
	d.next(t).ends("done")
	waiting[0].got().isStatus(t, 200)
	w.isIdle()
	told(t, w.explains("GET", "/d", "", of(1)...), "queue", "runs", 200, "be sent to "+decisionOf(w.explains("GET", "/d", ""), "upstream").Outcome)
	d.nobody(t)
}

func TestExplainTellsWhatIsStored(t *testing.T) {
	const yaml = `
callers: {keys: KEYS}
plans: {default: {policies: [1/hour]}}
upstreams: {u: {targets: [T0], retry: {attempts: 1}, breaker: {failures: 1, open_for: 1h}}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: http, share: all, stale_if_error: 1h}}]
`
	d := newDesk()
	w := before(t, yaml, d)
	stores := func(user int, path, control string) answer {
		t.Helper()
		running := w.later("GET", path, "", of(user)...)
		v := d.next(t)
		told(t, w.explains("GET", path, "", of(user)...), "cache", "collapsed", 200, "wait for the same request, which is running")
		v.does(func(rw http.ResponseWriter) {
			rw.Header().Set("Cache-Control", control)
			rw.Header().Set("Etag", `"v1"`)
			say(rw, "page")
		})
		v.ends("")
		return running.got()
	}
	stores(1, "/a", "public, max-age=3600").isStatus(t, 200)
	stores(2, "/s", "public, max-age=1").isStatus(t, 200)

	// The quota is used up, and a hit costs nothing.
	hit := w.explains("GET", "/a", "", of(1)...)
	told(t, hit, "policies", "not asked", 200, "be answered from the cache")
	if hit.Cost != nil || decisionOf(hit, "cache").Outcome != "hit" {
		t.Errorf("a hit costs %v, and the cache says %s", hit.Cost, decisionOf(hit, "cache").Outcome)
	}
	known := append(of(1), "If-None-Match", `"v1"`)
	told(t, w.explains("GET", "/a", "", known...), "cache", "hit", 304, "be answered from the cache")
	w.send("GET", "/a", "", known...).isStatus(t, 304)
	told(t, w.explains("GET", "/other", "", of(1)...), "policies", "denied", 429, "be refused with 429")
	w.send("GET", "/other", "", of(1)...).isStatus(t, 429)
	told(t, w.explains("GET", "/other", "", append(of(1), "Cache-Control", "only-if-cached")...), "cache", "miss", 504, "be refused with 504")

	// The breaker opens, and what is stale is better than nothing.
	failing := w.later("GET", "/x", "", of(3)...)
	v := d.next(t)
	v.does(func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusInternalServerError) })
	v.ends("")
	failing.got().isStatus(t, 500)
	refused := w.explains("GET", "/x", "", of(4)...)
	told(t, refused, "queue", "refused", 503, "be refused with 503")
	if got := decisionOf(refused, "upstream"); got.Outcome != "none" || got.Reason != "No target is open." {
		t.Errorf("the upstream's decision is %+v", got)
	}
	w.send("GET", "/x", "", of(4)...).isStatus(t, 503)
	pass(1100 * time.Millisecond) // until /s is stale
	told(t, w.explains("GET", "/s", "", of(5)...), "queue", "refused", 200, "be answered from the cache")
	w.send("GET", "/s", "", of(5)...).isStatus(t, 200)
	d.nobody(t)
}

func TestExplainTellsWhoPaysForARefresh(t *testing.T) {
	const yaml = `
callers: {keys: KEYS}
plans: {default: {policies: [{name: one, quota: 1, window: 1h}]}}
upstreams: {u: {targets: [T0]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1s, stale_while_revalidate: 1h, share: all}}]
`
	d := newDesk()
	w := before(t, yaml, d)
	first := w.later("GET", "/a", "", of(1)...)
	d.next(t).ends("old")
	first.got().isStatus(t, 200)
	pass(1100 * time.Millisecond)

	poor := w.explains("GET", "/a", "", of(1)...)
	told(t, poor, "cache", "stale", 200, "be answered from the cache")
	told(t, poor, "policies", "not asked", 200, "be answered from the cache")
	if poor.Cost != nil {
		t.Errorf("a refresh that is left to others costs %v", poor.Cost)
	}
	w.send("GET", "/a", "", of(1)...).isStatus(t, 200)
	d.nobody(t)

	rich := w.explains("GET", "/a", "", of(2)...)
	told(t, rich, "policies", "allowed", 200, "be answered from the cache")
	if rich.Cost["requests"] != 1 {
		t.Errorf("a refresh costs %v, want a request", rich.Cost)
	}
	w.send("GET", "/a", "", of(2)...).isStatus(t, 200)
	d.next(t).ends("new")
	told(t, w.explains("GET", "/b", "", of(2)...), "policies", "denied", 429, "be refused with 429")
}

func TestExplainChargesWhoWaitsForTheSame(t *testing.T) {
	for charged, want := range map[string]int64{"false": 0, "true": 1} {
		t.Run(charged, func(t *testing.T) {
			d := newDesk()
			w := before(t, `
plans: {default: {policies: [9/hour]}}
upstreams: {u: {targets: [T0]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1h, charge_hits: `+charged+`}}]
`, d)
			first := w.later("GET", "/a", "")
			v := d.next(t)
			said := w.explains("GET", "/a", "")
			told(t, said, "cache", "collapsed", 200, "wait for the same request, which is running")
			if said.Cost["requests"] != want {
				t.Errorf("it costs %v, want %d requests", said.Cost, want)
			}
			v.ends("")
			first.got().isStatus(t, 200)
		})
	}
}

func TestExplainTellsJobs(t *testing.T) {
	w := keep(t, with("", ""), http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { say(rw, "done") }))
	later := append(of(1), "Prefer", "respond-async", "Idempotency-Key", "k1")
	told(t, w.explains("POST", "/a", `{}`, later...), "job", "later", 202, "become a job")
	told(t, w.explains("POST", "/a", `{}`, of(1)...), "job", "now", 200, "be sent to "+decisionOf(w.explains("POST", "/a", `{}`, of(1)...), "upstream").Outcome)
	got := w.send("POST", "/a", `{}`, later...)
	got.isStatus(t, 202)
	id := strings.TrimPrefix(got.header.Get("Location"), "/jobs/")
	told(t, w.explains("POST", "/a", `{}`, later...), "job", id, 202, "become a job")
	told(t, w.explains("POST", "/a", `{"other": 1}`, later...), "answer", "422 Unprocessable Entity", 422, "be refused with 422")
	own := append(of(1), "Prefer", "respond-async", "Cookie", "a=b")
	told(t, w.explains("POST", "/a", `{}`, own...), "job", "now", 200, "be sent to "+decisionOf(w.explains("POST", "/a", `{}`, own...), "upstream").Outcome)
	told(t, w.explains("GET", "/jobs/"+id, "", of(1)...), "route", "/jobs", 0, "be answered from Weir's own jobs")
	told(t, w.explains("GET", "/jobs/"+id, "", "X-Api-Key", "weir_wrong"), "caller", "refused", 401, "be refused with 401")
	told(t, w.explains("GET", "/blobs/x", ""), "route", "/blobs", 0, "be answered from Weir's own blobs")
}

func TestExplainTellsWebSocketsAndDialects(t *testing.T) {
	const yaml = `
upstreams:
  u: {targets: [T0]}
  claude: {targets: [T0], dialect: anthropic, concurrency: 1, queue: {max: 0}}
routes:
  - {name: ws, match: {path: /ws}, upstream: u, upgrade: [websocket]}
  - {name: app, match: {path: /app}, upstream: u}
  - {name: messages, match: {path: /v1/messages}, upstream: claude}
`
	d := newDesk()
	w := before(t, yaml, d)
	handshake := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	said := w.explains("GET", "/ws", "", handshake...)
	told(t, said, "route", "ws", 101, "be sent to "+decisionOf(said, "upstream").Outcome)
	told(t, w.explains("GET", "/app", "", handshake...), "model", "refused", 501, "be refused with 501")

	first := w.later("POST", "/v1/messages", `{"model": "c", "max_tokens": 1, "messages": []}`)
	v := d.next(t)
	told(t, w.explains("POST", "/v1/messages", `{"model": "c", "max_tokens": 1, "messages": []}`), "queue", "refused", 529, "be refused with 529")
	w.send("POST", "/v1/messages", `{"model": "c", "max_tokens": 1, "messages": []}`).isStatus(t, 529)
	v.ends("{}")
	first.got().isStatus(t, 200)
}

func TestExplainChargesHitsFirst(t *testing.T) {
	const yaml = `
plans: {default: {policies: [{name: two, quota: 2, window: 1h}, 1 concurrent]}}
upstreams: {u: {targets: [T0], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1h, only: all, charge_hits: true}}]
`
	d := newDesk()
	w := before(t, yaml, d)
	first := w.later("POST", "/a", `{"x": 1}`)
	v := d.next(t)
	told(t, w.explains("POST", "/b", `{"x": 1}`), "policies", "denied", 429, "be refused with 429") // the one slot
	v.ends(`{}`)
	first.got().isStatus(t, 200)
	hit := w.explains("POST", "/a", `{"x": 1}`)
	told(t, hit, "cache", "hit", 200, "be answered from the cache")
	if hit.Cost["requests"] != 1 {
		t.Errorf("a hit costs %v, want a request", hit.Cost)
	}
	w.send("POST", "/a", `{"x": 1}`).isStatus(t, 200)
	said := w.explains("POST", "/a", `{"x": 1}`)
	told(t, said, "policies", "denied", 429, "be refused with 429")
	if decisionOf(said, "cache").Step != "" {
		t.Error("the cache was looked into for a request that is refused before that")
	}
	w.send("POST", "/a", `{"x": 1}`).isStatus(t, 429)
}
