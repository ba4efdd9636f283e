package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAQueuedRequestWaitsNoLongerThanItsClient(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"X-Request-Timeout as a duration": {"X-Request-Timeout", "200ms"},
		"X-Request-Timeout in seconds":    {"X-Request-Timeout", "0.2"},
		"X-Stainless-Timeout":             {"X-Stainless-Timeout", "0.2"},
		"Prefer":                          {"Prefer", "respond-async, wait=1"},
		"the least of several":            {"Prefer", "wait=100", "X-Stainless-Timeout", "0.2", "X-Request-Timeout", "1h"},
	} {
		for _, body := range []string{streamed, strings.Replace(streamed, "true", "false", 1)} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d := newDesk()
				w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
				first := w.later("GET", "/", "")
				running := d.next(t)
				a := w.later("POST", chats, body, fields...).got() // while the first is not answered
				if a.status != 503 && a.status != 504 || !isOpenAIError(a) {
					t.Error(a)
				}
				w.waits(0)
				running.ends("x")
				first.got()
				d.nobody(t)
				w.isIdle()
				w.until(func() bool { return strings.Contains(w.log.String(), `"status":50`) })
				if a.status == 503 && !strings.Contains(w.log.String(), `"shed":`) {
					t.Error(w.log)
				}
			})
		}
	}
}

func TestACallEndsWithItsClientsTimeout(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"a stream": streamed, "a whole answer": strings.Replace(streamed, "true", "false", 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
			q := w.later("POST", chats, body, "X-Request-Timeout", "300ms")
			v := d.next(t)
			if a := q.got(); a.status != 504 || !isOpenAIError(a) {
				t.Error(a)
			}
			v.leaves()
			w.isIdle()
		})
	}
}

func TestAStreamIsCutAtItsClientsTimeout(t *testing.T) {
	t.Parallel()
	for dialect, c := range map[string]struct{ path, body, begin, event string }{
		"openai":    {chats, streamed, firstEvent, `data: {"error":{`},
		"anthropic": {"/v1/messages", anthropicStreamed, anthropicBegin, "event: error\ndata: {\"type\":\"error\""},
	} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", dialect), d)
			q := w.later("POST", c.path, c.body, "X-Request-Timeout", "500ms")
			v := d.next(t)
			v.streams(c.begin)
			a := q.got()
			v.leaves()
			if rest, ok := strings.CutPrefix(a.body, c.begin); a.status != 200 || !ok || !strings.HasPrefix(rest, c.event) || a.err != nil {
				t.Error(a)
			}
			w.isIdle()
		})
	}
}

const (
	anthropicStreamed = `{"model":"m","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hi"}]}`
	anthropicBegin    = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"m\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n"
	anthropicEnd      = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

// What SDKs say of their own timeouts is about the beginning of an answer.
func TestWhatLimitsTheWaitDoesNotLimitTheAnswer(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"X-Stainless-Timeout": {"X-Stainless-Timeout", "0.3"},
		"Prefer":              {"Prefer", "wait=1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := map[string]time.Duration{"X-Stainless-Timeout": 300 * time.Millisecond, "Prefer": time.Second}[name]
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
			q := w.later("POST", chats, streamed, fields...)
			v := d.next(t)
			v.streams(firstEvent)
			pass(limit + 100*time.Millisecond)
			v.ends(nextEvent + lastEvents)
			if a := q.got(); !a.is(200, firstEvent+nextEvent+lastEvents) {
				t.Error(a)
			}
		})
	}
}

func TestTimeoutsThatMeanNothingAreIgnored(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(narrow, "DIALECT", "plain"), d)
	w.later("GET", "/", "")
	running := d.next(t)
	var all []*request
	for _, name := range []string{"X-Request-Timeout", "X-Stainless-Timeout", "Prefer"} {
		for _, value := range []string{"soon", "-1", "0", "NaN", "-Inf", "1e400", "1 2", "-5s", "0s", "9999999999999999999999", "wait", "wait=", "wait=-1", "wait=0", "wait=x", "wait=99999999999999", "wait=1.5", "await=1"} {
			all = append(all, w.later("GET", "/", "", name, value))
		}
	}
	w.waits(len(all))
	running.ends("x")
	d.inOrder(t, len(all))
	for _, q := range all {
		if a := q.got(); !a.is(200, "x") {
			t.Error(a)
		}
	}
}

func TestNobodyIsCutByAnothersTimeout(t *testing.T) {
	t.Parallel()
	const whole = `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}`
	for name, c := range map[string]struct {
		stream, begun bool
	}{
		"before the head":   {true, false},
		"within the stream": {true, true},
		"of a whole answer": {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release, body, want := newGate(), streamed, firstEvent+nextEvent+lastEvents
			if !c.stream {
				body, want = strings.Replace(streamed, "true", "false", 1), whole
			}
			u := &counted{h: func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				rest := want
				w.Header().Set("Content-Type", "application/json")
				if c.stream {
					w.Header().Set("Content-Type", "text/event-stream")
				}
				if c.begun {
					say(w, firstEvent)
					rest = rest[len(firstEvent):]
				}
				if release.wait(r) {
					say(w, rest)
				}
			}}
			w := site{upstream: ", dialect: openai, concurrency: 4"}.start(t, u)
			hasty := w.later("POST", chats, body, "X-Request-Timeout", "700ms")
			w.until(func() bool { return u.calls.Load() == 1 })
			patient := w.later("POST", chats, body)
			if a := hasty.got(); !strings.Contains(a.body, "time ran out") {
				t.Errorf("the one with a timeout: %v", a)
			}
			release.open()
			if a := patient.got(); !a.is(200, want) {
				t.Errorf("the other: %v", a)
			}
			w.isIdle()
		})
	}
	t.Run("in the queue", func(t *testing.T) {
		t.Parallel()
		for _, fields := range [][]string{{"X-Stainless-Timeout", "0.5"}, {"Prefer", "wait=1"}, {"X-Request-Timeout", "500ms"}} {
			d := newDesk()
			w := site{upstream: ", dialect: openai, concurrency: 1, queue: {max_wait: 1h, keepalive_after: 0s}"}.start(t, d)
			first := w.later("GET", "/", "")
			running := d.next(t)
			hasty := w.later("POST", chats, streamed, fields...)
			w.waits(1)
			patient := w.later("POST", chats, streamed)
			w.serves(3)
			if a := hasty.got(); a.status != 503 && a.status != 504 {
				t.Errorf("the one with a timeout: %v", a)
			}
			w.waits(1)
			running.ends("x")
			first.got()
			v := d.next(t)
			v.streams(firstEvent)
			v.ends(lastEvents)
			if a := patient.got(); !a.is(200, firstEvent+lastEvents) {
				t.Errorf("%v: the other: %v", fields, a)
			}
			w.isIdle()
		}
	})
}
