package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// conversation is one answer of a model API in both its forms: as a stream, in the
// parts that the server sends, and whole.
type conversation struct {
	dialect, path    string
	ask, askStream   string
	kind, streamKind string
	events           []string
	whole            string
	// says is what an answer says, whichever form it has: what must not get lost.
	says func(t *testing.T, body string, stream bool) any
}

func conversations() []conversation {
	return []conversation{openAITalk(), anthropicTalk(), ollamaTalk()}
}

func openAITalk() conversation {
	event := func(delta, finish string) string {
		return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"llama-3","choices":[{"index":0,"delta":` + delta +
			`,"finish_reason":` + finish + `}],"usage":null}` + "\n\n"
	}
	const usage = `{"prompt_tokens":20,"completion_tokens":11,"total_tokens":31,"completion_tokens_details":{"reasoning_tokens":4}}`
	return conversation{
		dialect: "openai", path: chats, kind: "application/json", streamKind: "text/event-stream",
		ask:       `{"model":"llama","temperature":0,"messages":[{"role":"user","content":"hi"}]}`,
		askStream: `{"model":"llama","temperature":0,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`,
		events: []string{
			event(`{"role":"assistant","content":""}`, "null"),
			event(`{"reasoning_content":"They greet. "}`, "null"),
			event(`{"reasoning_content":"So do I."}`, "null"),
			": keepalive\n\n",
			event(`{"content":"Hé"}`, "null"),
			event(`{"content":"llo \u2603\n"}`, "null"),
			event(`{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":""}}]}`, "null"),
			event(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}`, "null"),
			event(`{"tool_calls":[{"index":0,"function":{"arguments":"\"Kyōto\"}"}}]}`, "null"),
			event(`{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"time","arguments":"{}"}}]}`, "null"),
			event(`{}`, `"tool_calls"`),
			`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"llama-3","choices":[],"usage":` + usage + "}\n\n",
			"data: [DONE]\n\n",
		},
		whole: `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"llama-3","choices":[{"index":0,"message":{"role":"assistant",` +
			`"content":"Héllo ☃\n","reasoning_content":"They greet. So do I.","tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather",` +
			`"arguments":"{\"city\":\"Kyōto\"}"}},{"id":"call_2","type":"function","function":{"name":"time","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":` + usage + `}`,
		says: openAISays,
	}
}

// tree is JSON whose shape a test knows.
type tree = map[string]any

func parsed(t *testing.T, text string) (v tree) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return v
}

// dataOf yields the JSON of a stream's events.
func dataOf(t *testing.T, body string) (all []tree) {
	t.Helper()
	for line := range strings.Lines(body) {
		text, isData := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if isData && text != "[DONE]" {
			all = append(all, parsed(t, text))
		}
	}
	return all
}

func textOf(v any) string { s, _ := v.(string); return s }

func openAISays(t *testing.T, body string, stream bool) any {
	var content, reasoning, finish string
	var usage any
	tools := map[float64][4]string{}
	add := func(message tree) {
		content += textOf(message["content"])
		reasoning += textOf(message["reasoning_content"])
		calls, _ := message["tool_calls"].([]any)
		for i, call := range calls {
			c, _ := call.(tree)
			index, ok := c["index"].(float64)
			if !ok {
				index = float64(i)
			}
			f, _ := c["function"].(tree)
			all := tools[index]
			for i, part := range []any{c["id"], c["type"], f["name"], f["arguments"]} {
				all[i] += textOf(part)
			}
			tools[index] = all
		}
	}
	docs := []tree{parsedUnless(t, body, stream)}
	if stream {
		docs = dataOf(t, body)
		if !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("the stream does not end as it should: %q", body)
		}
	}
	var id, model, created any
	for _, d := range docs {
		id, model, created = d["id"], d["model"], d["created"]
		if d["usage"] != nil {
			usage = d["usage"]
		}
		choices, _ := d["choices"].([]any)
		for _, choice := range choices {
			c, _ := choice.(tree)
			finish += textOf(c["finish_reason"])
			for _, name := range []string{"delta", "message"} {
				if m, ok := c[name].(tree); ok {
					add(m)
				}
			}
		}
	}
	return []any{id, model, created, content, reasoning, finish, tools, usage}
}

func parsedUnless(t *testing.T, body string, stream bool) tree {
	if stream {
		return nil
	}
	return parsed(t, body)
}

func anthropicTalk() conversation {
	event := func(name, data string) string {
		return "event: " + name + "\ndata: " + `{"type":"` + name + `"` + data + "}\n\n"
	}
	delta := func(index int, d string) string {
		return event("content_block_delta", fmt.Sprintf(`,"index":%d,"delta":%s`, index, d))
	}
	start := func(index int, block string) string {
		return event("content_block_start", fmt.Sprintf(`,"index":%d,"content_block":%s`, index, block))
	}
	stop := func(index int) string { return event("content_block_stop", fmt.Sprintf(`,"index":%d`, index)) }
	return conversation{
		dialect: "anthropic", path: "/v1/messages", kind: "application/json", streamKind: "text/event-stream",
		ask:       `{"model":"claude","max_tokens":500,"temperature":0,"messages":[{"role":"user","content":"hi"}]}`,
		askStream: `{"model":"claude","max_tokens":500,"temperature":0,"stream":true,"messages":[{"role":"user","content":"hi"}]}`,
		events: []string{
			event("message_start", `,"message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-1","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":20,"cache_read_input_tokens":8,"output_tokens":1}}`),
			start(0, `{"type":"thinking","thinking":"","signature":""}`),
			event("ping", ""),
			delta(0, `{"type":"thinking_delta","thinking":"They greet. "}`),
			delta(0, `{"type":"thinking_delta","thinking":"So do I."}`),
			delta(0, `{"type":"signature_delta","signature":"c2ln"}`),
			stop(0),
			start(1, `{"type":"text","text":""}`),
			delta(1, `{"type":"text_delta","text":"Hé"}`),
			delta(1, `{"type":"text_delta","text":"llo \u2603"}`),
			stop(1),
			start(2, `{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}`),
			delta(2, `{"type":"input_json_delta","partial_json":"{\"city\":"}`),
			delta(2, `{"type":"input_json_delta","partial_json":"\"Kyōto\"}"}`),
			stop(2),
			event("message_delta", `,"delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":11}`),
			event("message_stop", ""),
		},
		whole: `{"id":"msg_1","type":"message","role":"assistant","model":"claude-1","content":[{"type":"thinking","thinking":"They greet. So do I.","signature":"c2ln"},` +
			`{"type":"text","text":"Héllo ☃"},{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city":"Kyōto"}}],"stop_reason":"tool_use","stop_sequence":null,` +
			`"usage":{"input_tokens":20,"cache_read_input_tokens":8,"output_tokens":11}}`,
		says: anthropicSays,
	}
}

func anthropicSays(t *testing.T, body string, stream bool) any {
	if !stream {
		m := parsed(t, body)
		usage, _ := m["usage"].(tree)
		return []any{m["id"], m["model"], m["role"], m["content"], m["stop_reason"], usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]}
	}
	var message, usage tree
	var blocks []any
	var stop, output any
	partial := map[int]string{}
	last := ""
	for _, e := range dataOf(t, body) {
		i, _ := e["index"].(float64)
		last = textOf(e["type"])
		d, _ := e["delta"].(tree)
		switch last {
		case "message_start":
			message, _ = e["message"].(tree)
			usage, _ = message["usage"].(tree)
			output = usage["output_tokens"]
		case "content_block_start":
			blocks = append(blocks, e["content_block"])
		case "content_block_delta":
			block, _ := blocks[int(i)].(tree)
			for from, to := range map[string]string{"text": "text", "thinking": "thinking", "signature": "signature"} {
				if s, ok := d[from].(string); ok {
					block[to] = textOf(block[to]) + s
				}
			}
			partial[int(i)] += textOf(d["partial_json"])
		case "message_delta":
			stop = d["stop_reason"]
			u, _ := e["usage"].(tree)
			output = u["output_tokens"]
		}
	}
	for i, input := range partial {
		if block, _ := blocks[i].(tree); input != "" {
			block["input"] = any(parsed(t, input))
		}
	}
	if last != "message_stop" {
		t.Errorf("the stream ends with %q", last)
	}
	return []any{message["id"], message["model"], message["role"], blocks, stop, usage["input_tokens"], usage["cache_read_input_tokens"], output}
}

func ollamaTalk() conversation {
	event := func(message, more string) string {
		return `{"model":"llama3","created_at":"2026-01-01T00:00:00Z","message":` + message + more + "}\n"
	}
	const done = `,"done":true,"done_reason":"stop","total_duration":123456789,"load_duration":5,"prompt_eval_count":20,"prompt_eval_duration":6,"eval_count":11,"eval_duration":7`
	const calls = `"tool_calls":[{"function":{"name":"weather","arguments":{"city":"Kyōto"}}}]`
	return conversation{
		dialect: "ollama", path: "/api/chat", kind: "application/json", streamKind: "application/x-ndjson",
		ask:       `{"model":"llama3","options":{"temperature":0},"stream":false,"messages":[{"role":"user","content":"hi"}]}`,
		askStream: `{"model":"llama3","options":{"temperature":0},"messages":[{"role":"user","content":"hi"}]}`,
		events: []string{
			event(`{"role":"assistant","content":"","thinking":"They greet. "}`, `,"done":false`),
			event(`{"role":"assistant","content":"","thinking":"So do I."}`, `,"done":false`),
			event(`{"role":"assistant","content":"Hé"}`, `,"done":false`),
			event(`{"role":"assistant","content":"llo \u2603"}`, `,"done":false`),
			event(`{"role":"assistant","content":"",`+calls+`}`, `,"done":false`),
			event(`{"role":"assistant","content":""}`, done),
		},
		whole: strings.TrimSpace(event(`{"role":"assistant","content":"Héllo ☃","thinking":"They greet. So do I.",`+calls+`}`, done)),
		says: func(t *testing.T, body string, _ bool) any {
			var content, thinking string
			var calls []any
			var last tree
			for line := range strings.Lines(body) {
				last = parsed(t, line)
				m, _ := last["message"].(tree)
				content += textOf(m["content"])
				thinking += textOf(m["thinking"])
				more, _ := m["tool_calls"].([]any)
				calls = append(calls, more...)
			}
			return []any{content, thinking, calls, last["model"], last["done"], last["done_reason"], last["total_duration"], last["prompt_eval_count"], last["eval_count"]}
		},
	}
}

// ServeHTTP is a server that answers in the form that is asked for.
func (c *conversation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if wants := taken(r); strings.Contains(wants, `"stream":true`) || c.dialect == "ollama" && !strings.Contains(wants, `"stream":false`) {
		w.Header().Set("Content-Type", c.streamKind)
		w.Header().Set("Cache-Control", "no-cache, no-store") // as many do, by reflex
		for _, e := range c.events {
			say(w, e)
		}
		return
	}
	w.Header().Set("Content-Type", c.kind)
	_, _ = io.WriteString(w, c.whole)
}

func (c *conversation) site() site { return site{upstream: ", dialect: " + c.dialect} }

func TestAStreamFromTheCacheIsTheOriginal(t *testing.T) {
	t.Parallel()
	for _, c := range conversations() {
		for _, store := range every() {
			t.Run(c.dialect+" "+store, func(t *testing.T) {
				t.Parallel()
				origin := &counted{h: c.ServeHTTP}
				s := c.site()
				s.store = store
				w := s.start(t, origin)
				want := strings.Join(c.events, "")
				for i := range 3 {
					if a := w.send("POST", c.path, c.askStream); !a.is(200, want) || a.hit() != (i > 0) || a.header.Get("Content-Type") != c.streamKind {
						t.Errorf("%d: %v\nwant %q", i, a, want)
					}
				}
				if got := origin.calls.Load(); got != 1 {
					t.Errorf("%d calls, want 1", got)
				}
			})
		}
	}
}

func TestOneFormOfAnAnswerStandsForTheOther(t *testing.T) {
	t.Parallel()
	for _, c := range conversations() {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s stored as a stream %v", c.dialect, stream), func(t *testing.T) {
				t.Parallel()
				if a, b := c.says(t, c.whole, false), c.says(t, strings.Join(c.events, ""), true); !reflect.DeepEqual(a, b) {
					t.Fatalf("the origin's own forms differ: %v\n%v", a, b)
				}
				origin := &counted{h: c.ServeHTTP}
				w := c.site().start(t, origin)
				first, second, kind := c.ask, c.askStream, c.streamKind
				if stream {
					first, second, kind = c.askStream, c.ask, c.kind
				}
				one := w.send("POST", c.path, first)
				other := w.send("POST", c.path, second)
				if !other.hit() || origin.calls.Load() != 1 || other.status != 200 || !strings.HasPrefix(other.header.Get("Content-Type"), kind) {
					t.Fatalf("%d calls: %v of type %q", origin.calls.Load(), other, other.header.Get("Content-Type"))
				}
				want, got := c.says(t, one.body, stream), c.says(t, other.body, !stream)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("it says %v\nnot     %v\nas %s", got, want, other.body)
				}
				if again := w.send("POST", c.path, first); !again.is(200, one.body) || !again.hit() {
					t.Errorf("the stored form: %v", again)
				}
			})
		}
	}
}

// An event that has come is with the client before the next has: keeping it, and
// telling those who wait, delays nothing.
func TestKeepingAStreamDelaysNothing(t *testing.T) {
	t.Parallel()
	for _, c := range conversations() {
		t.Run(c.dialect, func(t *testing.T) {
			t.Parallel()
			seen := make(chan struct{})
			w := c.site().start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				w.Header().Set("Content-Type", c.streamKind)
				for _, e := range c.events {
					say(w, e)
					select {
					case <-seen:
					case <-r.Context().Done():
						return
					}
				}
			}))
			r := w.open("POST", c.path, c.askStream)
			for _, e := range c.events {
				r.sees(e)
				seen <- struct{}{}
			}
			if a := r.rest(); !a.is(200, "") {
				t.Errorf("%v", a)
			}
		})
	}
}

func TestAStreamIsReplayedAsTheRouteSays(t *testing.T) {
	t.Parallel()
	const pause = 300 * time.Millisecond
	for _, c := range conversations() {
		t.Run(c.dialect, func(t *testing.T) {
			t.Parallel()
			third, two := len(c.events)/3, 2*len(c.events)/3
			parts := []string{strings.Join(c.events[:third], ""), strings.Join(c.events[third:two], ""), strings.Join(c.events[two:], "")}
			for _, replay := range []string{"asap", "original"} {
				s := c.site()
				s.cache = ", replay: " + replay
				w := s.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					w.Header().Set("Content-Type", c.streamKind)
					for i, part := range parts {
						if i > 0 {
							pass(pause)
						}
						say(w, part)
					}
				}))
				want := strings.Join(parts, "")
				if a := w.send("POST", c.path, c.askStream); !a.is(200, want) {
					t.Fatalf("%v", a)
				}
				// A machine that stands still for as long as a pause shows neither: for one
				// that does so now and then there is another try, with the same answer.
				paced := func() (wrong string) {
					r := w.open("POST", c.path, c.askStream)
					came := arrivals(t, r, parts)
					if !strings.HasPrefix(r.Header.Get("Cache-Status"), "weir; hit") {
						t.Fatalf("Cache-Status %q", r.Header.Get("Cache-Status"))
					}
					for i := range parts[1:] {
						if gap := came[i+1].Sub(came[i]); replay == "original" && gap < pause/2 || replay == "asap" && gap > pause/2 {
							wrong += fmt.Sprintf("part %d came %v after the one before it, which was %v at first; ", i+1, gap, pause)
						}
					}
					return wrong
				}
				wrong := paced()
				for range 9 {
					if wrong != "" {
						wrong = paced()
					}
				}
				if wrong != "" {
					t.Errorf("%s: each of ten times %s", replay, wrong)
				}
			}
		})
	}
}

// arrivals reads the parts and says when each was there.
func arrivals(t *testing.T, r *reading, parts []string) (came []time.Time) {
	t.Helper()
	in := bufio.NewReader(r.Body)
	for _, part := range parts {
		got := make([]byte, len(part))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != part {
			t.Fatalf("%q, %v", got, err)
		}
		came = append(came, time.Now())
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Fatalf("then %q, %v", rest, err)
	}
	return came
}

// A client that leaves a replay ends it: nobody holds what nobody reads.
func TestAReplayEndsWithItsClient(t *testing.T) {
	t.Parallel()
	c := openAITalk()
	s := c.site()
	s.cache = ", replay: original"
	w := s.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		w.Header().Set("Content-Type", c.streamKind)
		say(w, c.events[0])
		pass(2 * time.Second)
		say(w, strings.Join(c.events[1:], ""))
	}))
	if a := w.send("POST", c.path, c.askStream); a.status != 200 || a.err != nil {
		t.Fatalf("%v", a)
	}
	r := w.open("POST", c.path, c.askStream)
	r.sees(c.events[0])
	r.leave()
	if took := took(func() { w.serves(0) }); took > time.Second {
		t.Errorf("it was replayed to nobody for %v", took)
	}
}
