package gateway_test

import (
	"net/http"
	"strings"
	"testing"
)

// talk is an API whose streams may have comments.
type talk struct {
	dialect, path, body string
	stream              string
	err                 string // how an error event begins
}

func talks() []talk {
	return []talk{
		{"openai", chats, streamed, firstEvent + nextEvent + lastEvents, `data: {"error":{`},
		{"openai", "/v1/responses", `{"model":"m","input":"hi","stream":true}`,
			"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\",\"model\":\"m\"}}\n\n" +
				"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"status\":\"completed\",\"model\":\"m\",\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
			"event: error\ndata: {\"type\":\"error\""},
		{"anthropic", "/v1/messages", anthropicStreamed, anthropicBegin + anthropicEnd, "event: error\ndata: {\"type\":\"error\""},
	}
}

// impatient is an upstream with one place, whose queue tells streams early that they
// wait. LIMITS are further keys of the queue.
const impatient = `
callers: {keys: KEYS}
plans: {default: {policies: [{name: t, quota: 100000, unit: tokens, window: 366d}, {name: r, quota: 1000, window: 366d}, {name: slots, concurrent: 90}]}}
upstreams: {u: {targets: [T0], dialect: DIALECT, concurrency: 1, queue: {keepalive_after: 50ms, LIMITS}, retry: {attempts: 1}, breaker: {failures: 0}}}
routes:
  - {name: look, match: {path: /look}, upstream: u, max_body: 20}
  - {name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1m, share: caller, only: all}}
`

const comment = ": queued\n\n"

func (t talk) yaml(limits string) string {
	return strings.NewReplacer("DIALECT", t.dialect, "LIMITS", limits).Replace(impatient)
}

// afterComments is what comes after at least n comments, and whether that is so.
func afterComments(body string, n int) (rest string, ok bool) {
	for ; strings.HasPrefix(body, comment); n-- {
		body = body[len(comment):]
	}
	return body, n <= 0
}

// waiting is a stream that waits behind another request, and has been told so twice.
func (w *instance) waiting(t *testing.T, d *desk, c talk) (running *visit, r *reading) {
	t.Helper()
	w.later("GET", "/first", "")
	running = d.next(t)
	r = w.open("POST", c.path, c.body)
	r.sees(comment + comment)
	if h := r.Header; r.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("Content-Length") != "" || h.Get("Content-Encoding") != "" ||
		h.Get("X-Request-Id") == "" || h.Get("Ratelimit") == "" || h.Get("Cache-Control") == "" || r.Uncompressed {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	return running, r
}

func TestAStreamThatWaitsIsKeptOpen(t *testing.T) {
	t.Parallel()
	for _, c := range talks() {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, c.yaml("max_wait: 1h"), d)
			running, r := w.waiting(t, d, c)
			d.nobody(t)
			running.ends("x")
			v := d.next(t)
			if v.body == "" || v.r.Header.Get("Accept-Encoding") != "identity" {
				t.Errorf("the upstream was asked %q with %v", v.body, v.r.Header)
			}
			v.does(func(rw http.ResponseWriter) {
				rw.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				rw.WriteHeader(103) // the head is out: it can go nowhere
				say(rw, c.stream[:30])
			})
			v.ends(c.stream[30:])
			a := r.rest()
			if rest, _ := afterComments(a.body, 0); rest != c.stream || a.err != nil {
				t.Errorf("%v\nwant %q", a, c.stream)
			}
			w.isIdle()
			if again := w.send("POST", c.path, c.body); !again.hit() || !again.is(200, c.stream) {
				t.Errorf("what is stored: %v", again)
			}
			w.until(func() bool { return w.left("/look", "slots") == 90 })
			if strings.Contains(w.log.String(), "superfluous") {
				t.Error(w.log)
			}
			d.nobody(t)
		})
	}
}

func TestARefusalOfAStreamThatWaitedIsAnEvent(t *testing.T) {
	t.Parallel()
	for _, c := range talks() {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, c.yaml("max_wait: 4s"), d)
			before := w.left("/look", "t")
			running, r := w.waiting(t, d, c)
			a := r.rest()
			if rest, _ := afterComments(a.body, 0); !strings.HasPrefix(rest, c.err) || !strings.HasSuffix(rest, "\n\n") || strings.Count(rest, "data:") != 1 || a.err != nil {
				t.Error(a)
			}
			w.until(func() bool { return strings.Contains(w.log.String(), `"shed":"expired"`) })
			running.ends("x")
			w.isIdle()
			w.until(func() bool { return w.left("/look", "slots") == 90 })
			if got := w.left("/look", "t"); got != before {
				t.Errorf("it cost %d tokens", before-got)
			}
			if got := w.left("/look", "r"); got != 999 { // the first one's
				t.Errorf("%d requests are left", got)
			}
			d.nobody(t)
		})
	}
}

func TestAnUpstreamsErrorAfterTheWaitIsAnEvent(t *testing.T) {
	t.Parallel()
	for _, c := range talks() {
		for name, e := range map[string]struct {
			answer func(*visit)
			begin  string // of the stream, before the error
			says   string
			tokens bool // are charged
		}{
			"a 400": {func(v *visit) {
				v.does(func(w http.ResponseWriter) {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(400)
					say(w, `{"error":{"message":"no such thing"}}`)
				})
				v.ends("")
			}, "", "no such thing", false},
			"a 429": {func(v *visit) {
				v.does(func(w http.ResponseWriter) { w.WriteHeader(429) })
				v.ends("")
			}, "", "429", false},
			"a 500": {func(v *visit) {
				v.does(func(w http.ResponseWriter) { w.WriteHeader(500) })
				v.ends("")
			}, "", "500", false},
			"no answer": {(*visit).breaks, "", "Upstream", false},
			"a whole answer": {func(v *visit) {
				v.does(func(w http.ResponseWriter) { w.Header().Set("Content-Type", "application/json") })
				v.ends(`{"id":"c"}`)
			}, "", "want a stream", true},
			"a compressed stream": {func(v *visit) {
				v.does(func(w http.ResponseWriter) {
					w.Header().Set("Content-Type", "text/event-stream")
					w.Header().Set("Content-Encoding", "gzip")
				})
				v.ends("\x1f\x8b")
			}, "", "want a stream", true},
			"a stream that breaks off": {func(v *visit) {
				v.streams(c.stream[:strings.Index(c.stream, "\n\n")+2])
				v.breaks()
			}, c.stream[:strings.Index(c.stream, "\n\n")+2], "", true},
		} {
			t.Run(c.path+" "+name, func(t *testing.T) {
				t.Parallel()
				d := newDesk()
				w := before(t, c.yaml("max_wait: 1h"), d)
				running, r := w.waiting(t, d, c)
				running.ends("x")
				e.answer(d.next(t))
				a := r.rest()
				rest, _ := afterComments(a.body, 0)
				event, ok := strings.CutPrefix(rest, e.begin)
				if !ok || !strings.HasPrefix(event, c.err) || !strings.Contains(event, e.says) || !strings.HasSuffix(event, "\n\n") || strings.Count(event, "data:") != 1 || a.err != nil {
					t.Error(a)
				}
				w.isIdle()
				w.until(func() bool { return w.left("/look", "slots") == 90 })
				again := w.later("POST", c.path, c.body)
				v := d.next(t) // nothing of it is stored
				v.streams(c.stream)
				v.ends("")
				if a := again.got(); !a.is(200, c.stream) {
					t.Errorf("the next: %v", a)
				}
			})
		}
	}
}

func TestWhatIsNoStreamOfEventsWaitsInSilence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ dialect, keepalive, method, path, body string }{
		"a whole answer":       {"openai", "20ms", "POST", chats, strings.Replace(streamed, "true", "false", 1)},
		"an unknown path":      {"openai", "20ms", "POST", "/other", `{"stream":true}`},
		"any HTTP":             {"plain", "20ms", "POST", chats, streamed},
		"Ollama":               {"ollama", "20ms", "POST", "/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`},
		"where it is disabled": {"openai", "0s", "POST", chats, streamed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, `
upstreams: {u: {targets: [T0], dialect: `+c.dialect+`, concurrency: 1, queue: {keepalive_after: `+c.keepalive+`, max_wait: 500ms}}}
routes: [{match: {path: /*}, upstream: u}]
`, d)
			w.later("GET", "/", "")
			running := d.next(t)
			a := w.later(c.method, c.path, c.body).got()
			if a.status != 503 || a.header.Get("Retry-After") == "" || strings.Contains(a.body, ": queued") {
				t.Errorf("%v %v", a.header, a)
			}
			running.ends("x")
			w.isIdle()
		})
	}
}

// Followers of a stream that waits have their answer's own head, without comments.
func TestFollowersOfAStreamThatWaits(t *testing.T) {
	t.Parallel()
	c := talks()[0]
	for name, fails := range map[string]bool{"get its answer": false, "get its refusal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			limits := "max_wait: 1h"
			if fails {
				limits = "max_wait: 4s"
			}
			w := before(t, c.yaml(limits), d)
			running, r := w.waiting(t, d, c)
			followers := []*request{w.later("POST", c.path, c.body), w.later("POST", c.path, c.body)}
			w.serves(4)
			if !fails {
				running.ends("x")
				v := d.next(t)
				v.streams(c.stream)
				v.ends("")
			}
			a := r.rest()
			if rest, _ := afterComments(a.body, 0); a.err != nil || fails != strings.HasPrefix(rest, c.err) || !fails && rest != c.stream {
				t.Errorf("the leader: %v", a)
			}
			for _, q := range followers {
				a := q.got()
				if fails && (a.status != 503 || !isOpenAIError(a)) || !fails && !a.is(200, c.stream) {
					t.Errorf("a follower: %v", a)
				}
			}
			if fails {
				running.ends("x")
			}
			w.isIdle()
			d.nobody(t)
		})
	}
}

func TestAStreamThatWaitedCostsWhatItUsed(t *testing.T) {
	t.Parallel()
	d := newDesk()
	c := talks()[0]
	w := before(t, c.yaml("max_wait: 1h"), d)
	running, r := w.waiting(t, d, c)
	running.ends("x")
	w.until(func() bool { return w.left("/look", "slots") == 89 })
	v := d.next(t)
	v.streams(withUsage())
	v.ends("")
	r.rest()
	w.isIdle()
	w.until(func() bool { return w.left("/look", "slots") == 90 })
	if t1, r1 := w.left("/look", "t"), w.left("/look", "r"); t1 != 100000-12 || r1 != 998 {
		t.Errorf("left %d tokens and %d requests", t1, r1)
	}
}
