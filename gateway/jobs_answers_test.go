package gateway_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/storetest"
)

// modelServer is a model server that answers in every way that one has.
func modelServer(w http.ResponseWriter, r *http.Request) {
	body := taken(r)
	h := w.Header()
	h.Set("X-Model", "m")
	switch {
	case r.URL.Path == "/v1/missing":
		h.Set("Content-Type", "application/json")
		h.Set("X-Kept", "yes")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"message":"no such thing"}}`)
	case r.URL.Path == "/v1/nothing":
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/v1/moved":
		h.Set("Location", "/v1/elsewhere")
		w.WriteHeader(http.StatusFound)
	case r.URL.Path == "/v1/untyped":
		h["Content-Type"] = nil
		_, _ = io.WriteString(w, "<b>bytes</b>")
	case r.URL.Path == "/v1/chunks":
		h.Set("Content-Type", "application/octet-stream")
		for range 40 {
			say(w, strings.Repeat("\x00\xff", 2000))
		}
	case strings.Contains(body, `"stream":true`):
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		for _, word := range []string{"Once", " upon", " a"} {
			say(w, `data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"`+word+`"},"finish_reason":null}]}`+"\n\n")
		}
		say(w, `data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n")
		say(w, `data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`+"\n\n")
		say(w, "data: [DONE]\n\n")
	default:
		h.Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, chatAnswer)
	}
}

// lasting are the fields of an answer that are not about the moment or its connection.
func lasting(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range []string{"Date", "Server-Timing", "X-Request-Id", "Set-Cookie", "Ratelimit", "Ratelimit-Policy",
		"X-Content-Type-Options", "Cache-Control", "Preference-Applied", "Content-Length", "Transfer-Encoding"} {
		delete(h, name)
	}
	return h
}

const streamedChat = `{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello"}]}`

func TestAJobsResultIsTheDirectAnswer(t *testing.T) {
	t.Parallel()
	w := keep(t, durable, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=of-the-model")
		modelServer(w, r)
	}))
	for name, of := range map[string]struct{ path, body string }{
		"JSON":                    {"/v1/chat/completions", chat},
		"a stream":                {"/v1/chat/completions", streamedChat},
		"a 404":                   {"/v1/missing", "{}"},
		"a 204":                   {"/v1/nothing", "{}"},
		"a redirection":           {"/v1/moved", "{}"},
		"an answer without type":  {"/v1/untyped", "{}"},
		"bytes that go to a blob": {"/v1/chunks", "{}"},
		"a GET":                   {"/v1/models?a=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			method := "POST"
			if of.body == "" {
				method = "GET"
			}
			direct := w.as(1, method, of.path, of.body)
			a := w.as(1, method, of.path, of.body, "Prefer", "respond-async")
			j := a.job(t)
			if a.status != 202 || a.header.Get("Location") != "/jobs/"+j.ID || a.header.Get("Preference-Applied") != "respond-async" || a.header.Get("Retry-After") != "1" {
				t.Errorf("handed in: %d %v", a.status, a.header)
			}
			done := w.becomes(1, j.ID, "completed")
			if done.Attempt != 1 || done.Started == nil || done.Finished == nil || done.Expires == nil || done.Result == nil || *done.Result != "/jobs/"+j.ID+"/result" || done.Error != nil {
				t.Errorf("the job: %+v", done)
			}
			for range 2 { // as often as one likes
				got := w.result(1, j.ID)
				if got.status != direct.status || got.body != direct.body || got.err != nil || !maps.EqualFunc(lasting(got.header), lasting(direct.header), slices.Equal) {
					t.Errorf("got  %d %v %.300q %v\nwant %d %v %.300q", got.status, lasting(got.header), got.body, got.err, direct.status, lasting(direct.header), direct.body)
				}
				if len(got.header["Set-Cookie"]) > 0 || got.header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(got.header.Get("Cache-Control"), "private") {
					t.Errorf("the result's own fields: %v", got.header)
				}
			}
			head := w.as(1, "HEAD", "/jobs/"+j.ID+"/result", "")
			if head.status != direct.status || head.body != "" || !maps.EqualFunc(lasting(head.header), lasting(direct.header), slices.Equal) {
				t.Errorf("HEAD: %d %v %q", head.status, head.header, head.body)
			}
		})
	}
}

func TestWhoAnswersLater(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(durable, "routes: [", `routes: [
  {name: never, match: {path: /never}, upstream: u}, {name: always, match: {path: /always}, upstream: u, respond_async: always}, `, 1)
	w := keep(t, yaml, http.HandlerFunc(modelServer))
	const later, now = 202, 200
	for name, of := range map[string]struct {
		path   string
		header []string
		want   int
	}{
		"respond_async never ignores the preference":        {"/never", []string{"Prefer", "respond-async"}, now},
		"respond_async allowed answers at once without one": {"/allowed", nil, now},
		"wait alone asks for no job":                        {"/allowed", []string{"Prefer", "wait=1"}, now},
		"another preference asks for none":                  {"/allowed", []string{"Prefer", "return=minimal"}, now},
		"a preference with a parameter and another before":  {"/allowed", []string{"Prefer", `foo="respond-async, x", Respond-Async; a=b`}, later},
		"respond_async always answers later":                {"/always", nil, later},
		"an own key for the upstream is answered at once":   {"/allowed", []string{"Prefer", "respond-async", "Authorization", "Bearer theirs"}, now},
		"so is a cookie":                                      {"/allowed", []string{"Prefer", "respond-async", "Cookie", "a=b"}, now},
		"so is a key in the query":                            {"/allowed?api_key=theirs", []string{"Prefer", "respond-async"}, now},
		"where always is wanted an own key is refused":        {"/always", []string{"Authorization", "Bearer theirs"}, 400},
		"where always is wanted a key in the query is, too":   {"/always?access_token=theirs", nil, 400},
		"where always is wanted a cookie is, too":             {"/always", []string{"Cookie", "a=b"}, 400},
		"an idempotency key that is too long is refused":      {"/allowed", []string{"Prefer", "respond-async", "Idempotency-Key", strings.Repeat("k", 256)}, 400},
		"two idempotency keys are refused":                    {"/allowed", []string{"Prefer", "respond-async", "Idempotency-Key", "a", "Idempotency-Key", "b"}, 400},
		"a webhook is refused where none are configured":      {"/allowed", []string{"Prefer", "respond-async", "X-Webhook-Url", "https://example.com/"}, 400},
		"an answer within wait is the answer":                 {"/allowed", []string{"Prefer", "respond-async, wait=30"}, now},
		"and where always is wanted":                          {"/always", []string{"Prefer", "wait=30"}, now},
		"an idempotency key of 255 bytes and quotes is taken": {"/allowed", []string{"Prefer", "respond-async", "Idempotency-Key", `"` + strings.Repeat("k", 255) + `"`}, later},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.as(2, "POST", of.path, "{}", of.header...)
			if a.status != of.want {
				t.Fatalf("%d %v %s, want %d", a.status, a.header, a.body, of.want)
			}
			applied := a.header.Get("Preference-Applied")
			switch {
			case strings.Contains(name, "within wait") || strings.Contains(name, "and where always"):
				if applied != "wait=30" || a.body != chatAnswer {
					t.Errorf("Preference-Applied: %q; %s", applied, a.body)
				}
			case of.want == later:
				want := "respond-async"
				if of.path == "/always" {
					want = ""
				}
				if applied != want {
					t.Errorf("Preference-Applied: %q, want %q", applied, want)
				}
				w.becomes(2, a.job(t).ID, "completed")
			case applied != "":
				t.Errorf("Preference-Applied: %q", applied)
			}
		})
	}
}

func TestAnAnswerThatTakesLongerThanItsClientWaits(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, durable, d)
	a := w.as(1, "POST", "/x", "{}", "Prefer", "respond-async, wait=1")
	if a.status != 202 || a.header.Get("Preference-Applied") != "respond-async" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	id := a.job(t).ID
	if r := w.result(1, id); r.status != 202 || r.header.Get("Location") != "/jobs/"+id || r.header.Get("Retry-After") != "1" || r.job(t).State != "running" {
		t.Errorf("the result before it is there: %d %v %s", r.status, r.header, r.body)
	}
	v := d.next(t)
	if p := v.r.Header["Prefer"]; len(p) > 0 {
		t.Errorf("the upstream got Prefer: %q", p)
	}
	v.ends("done")
	w.becomes(1, id, "completed")
	if r := w.result(1, id); r.status != 200 || r.body != "done" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestJobsAndTheCache(t *testing.T) {
	var calls atomic.Int64
	w := keep(t, with("policies: [{name: few, quota: 5, window: 1h, by: caller}], cache: {mode: inference, only: all, ttl: 1h}", ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		modelServer(w, r)
	}))
	j := w.handIn(1, "/v1/chat/completions", chat)
	w.becomes(1, j.ID, "completed")
	direct := w.as(1, "POST", "/v1/chat/completions", chat)
	if direct.status != 200 || direct.body != chatAnswer || !strings.Contains(direct.header.Get("Cache-Status"), "hit") || calls.Load() != 1 {
		t.Errorf("the direct call after the job: %d %v %s; %d calls", direct.status, direct.header, direct.body, calls.Load())
	}
	again := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Idempotency-Key", "k")
	if again.status != 200 || again.body != chatAnswer || left(again, "few") != "4" {
		t.Errorf("a job whose answer is cached: %d %v %s", again.status, again.header, again.body)
	}
	stream := w.handIn(1, "/v1/chat/completions", streamedChat)
	w.becomes(1, stream.ID, "completed")
	if a := w.as(1, "POST", "/v1/chat/completions", streamedChat); !strings.Contains(a.header.Get("Cache-Status"), "hit") || a.body != w.result(1, stream.ID).body {
		t.Errorf("the direct stream after the job: %v %q\nand the job's: %q", a.header, a.body, w.result(1, stream.ID).body)
	}
	other := w.as(2, "POST", "/v1/chat/completions", chat)
	if strings.Contains(other.header.Get("Cache-Status"), "hit") {
		t.Errorf("another caller got the answer: %v", other.header)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Cache-Control", "only-if-cached, no-cache"); a.status != 504 {
		t.Errorf("a job that must not ask: %d %s", a.status, a.body)
	}
	if u := w.used("key:u1"); u.Requests != 6 || u.Errors != 0 || u.Hits != 3 || u.Input != 14 || u.Output != 6 {
		t.Errorf("the ledger: %+v", u)
	}
}

func TestAJobWhoseAnswerCameMeanwhileCostsNothing(t *testing.T) {
	d := newDesk()
	w := keep(t, with("policies: [{name: few, quota: 5, window: 1h, by: caller}], cache: {mode: inference, only: all, ttl: 1h}", "concurrency: 1, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}"), d)
	first := w.later("POST", "/first", "{}", of(3)...)
	blocks := d.next(t)
	direct := w.later("POST", "/same", "{}", of(1)...)
	w.waits(1)
	last := w.later("POST", "/last", "{}", of(2)...) // it has the place until the answer is stored
	w.waits(2)
	j := w.handIn(1, "/same", "{}")
	blocks.ends("first")
	first.got()
	d.next(t).ends("the answer")
	if a := direct.got(); a.body != "the answer" {
		t.Errorf("%d %s", a.status, a.body)
	}
	blocks = d.next(t)
	storetest.Eventually(t, eventually, "the answer is stored", func() bool {
		return strings.Contains(w.as(1, "POST", "/same", "{}", "Cache-Control", "only-if-cached").header.Get("Cache-Status"), "hit")
	})
	blocks.ends("last")
	last.got()
	w.becomes(1, j.ID, "completed")
	if r := w.result(1, j.ID); r.status != 200 || r.body != "the answer" {
		t.Errorf("%d %s", r.status, r.body)
	}
	d.nobody(t)
	storetest.Eventually(t, eventually, "4 are left", func() bool { // a job is settled after it is told
		return left(w.as(1, "POST", "/same", "{}"), "few") == "4"
	})
}

func TestAResultEndsWithItsTime(t *testing.T) {
	yaml := at(t, durable, http.HandlerFunc(modelServer))
	w := launchAs(t, yaml, func(c *config.Config) { c.Jobs.ResultTTL = 1 })
	j := w.handIn(1, "/v1/chat/completions", chat, "Idempotency-Key", "k")
	done := w.becomes(1, j.ID, "completed")
	if done.Result != nil {
		t.Errorf("a result that is gone is offered: %v", *done.Result)
	}
	if r := w.result(1, j.ID); r.status != 410 || r.header.Get("X-Should-Retry") != "false" || strings.Contains(r.body, "choices") {
		t.Errorf("%d %v %s, want 410", r.status, r.header, r.body)
	}
	if other := w.result(2, j.ID); other.status != 404 {
		t.Errorf("another's: %d", other.status)
	}
	e := w.as(1, "GET", "/jobs/"+j.ID+"/events", "")
	if e.status != 200 || !strings.Contains(e.body, `"completed"`) || strings.Contains(e.body, "choices") {
		t.Errorf("events: %d %s", e.status, e.body)
	}
}
