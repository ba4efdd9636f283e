package gateway_test

import (
	"fmt"
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

// timely is a request that is at the upstream before its time is over.
type timely struct {
	*request
	visit *visit
	limit time.Duration // of its client
}

// reaches asks with ever longer limits, until a request is at the upstream, and has its
// first words where there are some, before its time is over: on a machine that is not
// busy that is the first.
func (w *instance) reaches(d *desk, limit time.Duration, words string, ask func(limit time.Duration) *request) timely {
	w.t.Helper()
	for ; limit < eventually; limit *= 2 {
		q := ask(limit)
		select {
		case v := <-d.visits:
			if v.t = w.t; words == "" || v.begins(words) {
				return timely{q, v, limit}
			}
			after(w.t, "the end of a call whose time was over too early", v.over)
			q.got()
		case <-q.answer:
			select {
			case v := <-d.visits:
				after(w.t, "the end of a call whose time was over too early", v.over)
			default:
			}
		}
	}
	w.t.Fatal("no request reached the upstream in its time")
	return timely{}
}

// begins begins a stream of events, and reports whether the call still ran.
func (v *visit) begins(part string) bool {
	s := step{func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/event-stream")
		say(w, part)
	}, make(chan struct{})}
	select {
	case v.steps <- s:
		<-s.done
		return true
	case <-v.over:
		return false
	}
}

func TestACallEndsWithItsClientsTimeout(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"a stream": streamed, "a whole answer": strings.Replace(streamed, "true", "false", 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
			q := w.reaches(d, 300*time.Millisecond, "", func(limit time.Duration) *request {
				return w.later("POST", chats, body, "X-Request-Timeout", limit.String())
			})
			if a := q.got(); a.status != 504 || !isOpenAIError(a) {
				t.Error(a)
			}
			q.visit.leaves()
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
			q := w.reaches(d, 500*time.Millisecond, c.begin, func(limit time.Duration) *request {
				return w.later("POST", c.path, c.body, "X-Request-Timeout", limit.String())
			})
			a := q.got()
			q.visit.leaves()
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
	for name, c := range map[string]struct {
		limit time.Duration
		text  string
	}{
		"X-Stainless-Timeout": {300 * time.Millisecond, "%v"},
		"Prefer":              {time.Second, "wait=%v"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
			q := w.reaches(d, c.limit, firstEvent, func(limit time.Duration) *request {
				return w.later("POST", chats, streamed, name, fmt.Sprintf(c.text, limit.Seconds()))
			})
			pass(q.limit + 100*time.Millisecond)
			q.visit.ends(nextEvent + lastEvents)
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
			var hasty *request
			for limit := 700 * time.Millisecond; u.calls.Load() == 0; limit *= 2 { // the first, on a machine that is not busy
				hasty = w.later("POST", chats, body, "X-Request-Timeout", limit.String())
				w.until(func() bool { return u.calls.Load() == 1 || len(hasty.answer) > 0 })
			}
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
		for name, text := range map[string]string{"X-Stainless-Timeout": "%v", "Prefer": "wait=%v", "X-Request-Timeout": "%vs"} {
			d := newDesk()
			w := site{upstream: ", dialect: openai, concurrency: 1, queue: {max_wait: 1h, keepalive_after: 0s}"}.start(t, d)
			first := w.later("GET", "/", "")
			running := d.next(t)
			var hasty *request
			for seconds := 1; hasty == nil || len(hasty.answer) > 0; seconds *= 2 { // the first, on a machine that is not busy
				hasty = w.later("POST", chats, streamed, name, fmt.Sprintf(text, seconds))
				w.until(func() bool { return w.total("weir_admission_waiting") == 1 || len(hasty.answer) > 0 })
			}
			patient := w.later("POST", chats, streamed)
			w.until(func() bool { return w.total("weir_gateway_requests_in_flight") == 3 || len(hasty.answer) > 0 })
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
				t.Errorf("%s: the other: %v", name, a)
			}
			w.isIdle()
		}
	})
}
