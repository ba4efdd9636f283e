package dialect_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// maker draws whole answers, as the text of their JSON: numbers and strings must
// come back as they are written.
type maker struct{ *rapid.T }

func (m maker) of(list ...string) string { return rapid.SampledFrom(list).Draw(m.T, "one of") }

func (m maker) n(low, high int) int { return rapid.IntRange(low, high).Draw(m.T, "n") }

// object puts members together; those that are "" are not there.
func (m maker) object(members ...string) string {
	var there []string
	for _, member := range members {
		if member != "" {
			there = append(there, member)
		}
	}
	return "{" + strings.Join(there, ",") + "}"
}

// list draws a few elements.
func (m maker) list(most int, element func(i int) string) string {
	var all []string
	for i := range m.n(0, most) {
		all = append(all, element(i))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// text draws a string as it may be written.
func (m maker) text() string {
	var b strings.Builder
	b.WriteByte('"')
	for range m.n(0, 6) {
		b.WriteString(m.of("a", "b c", "ä", "😀", `\"`, `\\`, `\n`, `\u0000`, `\u00e9`, `\ud83d\ude00`, `\/`, `\\ud83d`, "data: x", "[DONE]", "\u2028", `{\"a\":1}`))
	}
	return b.String() + `"`
}

func (m maker) number() string {
	return m.of("0", "1", "-1", "9007199254740993", "0.1", "1e400", "-0.0", "12345678901234567890", "1E-7")
}

// value draws any JSON.
func (m maker) value(depth int) string {
	if depth == 0 {
		return m.of("null", "true", m.number(), m.text())
	}
	if m.n(0, 1) == 0 {
		return m.list(3, func(int) string { return m.value(depth - 1) })
	}
	return m.input(depth)
}

// input draws an object.
func (m maker) input(depth int) string {
	var members []string
	for i := range m.n(0, 3) {
		members = append(members, fmt.Sprintf(`"%c%s:%s`, 'a'+i, m.text()[1:], m.value(depth-1)))
	}
	return m.object(members...)
}

func (m maker) choice(chat bool, i int) string {
	index := fmt.Sprintf(`"index":%d`, i)
	end := m.object(index, `"finish_reason":`+m.of(`"stop"`, `"length"`, `"tool_calls"`), m.of("", `"stop_reason":null`, `"stop_reason":`+m.text(), `"stop_reason":`+m.number()), m.of("", `"matched_stop":2`), m.of("", `"token_ids":null`))
	probs := m.of("", `"logprobs":null`, `"logprobs":{"content":[{"token":`+m.text()+`,"logprob":`+m.number()+`}],"refusal":null}`)
	written := `"text":` + m.text()
	if chat {
		written = `"message":` + m.message()
	} else if probs != "" {
		probs = m.of(`"logprobs":null`, `"logprobs":{"tokens":["a"],"token_logprobs":[`+m.number()+`],"top_logprobs":null,"text_offset":[3]}`)
	}
	return m.object(written, probs, end[1:len(end)-1])
}

func (m maker) message() string {
	calls := m.of("", `"tool_calls":null`, `"tool_calls":[]`, `"tool_calls":`+m.list(3, func(i int) string {
		return fmt.Sprintf(`{"id":"call_%d","type":"function","function":{"name":"f","arguments":%s}}`, i, m.text())
	}))
	if calls == "" {
		calls = m.of("", `"function_call":null`, `"function_call":{"name":"f","arguments":`+m.text()+`}`)
	}
	text := func(name string) string {
		return m.of("", `"`+name+`":null`, `"`+name+`":`+m.text())
	}
	return m.object(`"role":"assistant"`, `"content":`+m.of("null", m.text()), text("refusal"), text("reasoning_content"), text("reasoning"),
		m.of("", `"annotations":[]`, `"annotations":null`), m.of("", `"audio":null`), calls)
}

// chunks draws an answer of OpenAI's.
func (m maker) chunks(chat bool) string {
	kind := "text_completion"
	if chat {
		kind = "chat.completion"
	}
	choices := []string{m.choice(chat, 0)}
	for i := range m.n(0, 2) {
		choices = append(choices, m.choice(chat, i+1))
	}
	return m.object(`"id":`+m.text(), `"object":"`+kind+`"`, `"created":17`, `"model":`+m.text(), `"choices":[`+strings.Join(choices, ",")+`]`,
		`"usage":`+m.input(2), m.of("", `"service_tier":null`, `"service_tier":"default"`), m.of("", `"system_fingerprint":null`, `"system_fingerprint":"fp"`),
		m.of("", `"prompt_logprobs":null,"kv_transfer_params":null`))
}

// messages draws an answer of Anthropic's.
func (m maker) messages() string {
	content := m.list(4, func(i int) string {
		switch m.n(0, 3) {
		case 0:
			return m.object(`"type":"text"`, `"text":`+m.text(), m.of("", `"citations":null`, `"citations":`+m.list(2, func(int) string { return m.input(1) })))
		case 1:
			return m.object(`"type":"thinking"`, `"thinking":`+m.text(), m.of("", `"signature":`+m.text()))
		case 2:
			return m.object(`"type":"redacted_thinking"`, `"data":`+m.text())
		}
		return m.object(`"type":"tool_use"`, fmt.Sprintf(`"id":"t%d"`, i), `"name":`+m.text(), `"input":`+m.input(3), m.of("", `"caller":{"type":"direct"}`))
	})
	return m.object(`"id":`+m.text(), `"type":"message"`, `"role":"assistant"`, `"model":`+m.text(), `"content":`+content,
		`"stop_reason":`+m.of(`"end_turn"`, `"tool_use"`), m.of("", `"stop_sequence":null`, `"stop_sequence":`+m.text()),
		`"usage":`+m.object(`"input_tokens":7`, m.of("", `"cache_read_input_tokens":null`, `"cache_read_input_tokens":3`), `"output_tokens":12`, m.of("", `"service_tier":"standard"`)),
		m.of("", `"container":null`), m.of("", `"stop_details":null`))
}

// ollama draws an answer of Ollama's.
func (m maker) ollama(chat bool) string {
	calls := m.of("", `"tool_calls":null`, `"tool_calls":`+m.list(2, func(int) string { return `{"function":{"name":"f","arguments":` + m.input(2) + `}}` }))
	thinking := m.of("", `"thinking":`+m.text())
	written := m.object(`"response":`+m.text(), thinking, calls)
	written = written[1 : len(written)-1]
	if chat {
		written = `"message":` + m.object(`"role":"assistant"`, `"content":`+m.text(), thinking, m.of("", `"images":null`), calls)
	}
	return m.object(`"model":`+m.text(), `"created_at":"c"`, written, m.of("", `"logprobs":`+m.list(2, func(int) string { return m.input(1) })),
		`"done":true`, m.of("", `"done_reason":"stop"`), m.of("", `"context":[1,2]`), `"eval_count":`+m.number())
}

// TestWholeAnswersComeBackFromTheirStreams makes a stream of an answer, and of that
// the answer again.
func TestWholeAnswersComeBackFromTheirStreams(t *testing.T) {
	for name, draw := range map[string]func(maker) string{
		"chat":            func(m maker) string { return m.chunks(true) },
		"completions":     func(m maker) string { return m.chunks(false) },
		"messages":        maker.messages,
		"ollama-chat":     func(m maker) string { return m.ollama(true) },
		"ollama-generate": func(m maker) string { return m.ollama(false) },
	} {
		t.Run(name, func(t *testing.T) {
			s := shapes()[name]
			rapid.Check(t, func(t *rapid.T) {
				whole := []byte(draw(maker{t}))
				if rapid.Bool().Draw(t, "indented") {
					var b bytes.Buffer
					if err := json.Indent(&b, whole, "", "\t"); err != nil {
						t.Fatalf("%v: %s", err, whole)
					}
					whole = b.Bytes()
				}
				stream, ok := s.convert(s.full(), "whole", whole)
				if !ok {
					t.Fatalf("no stream of %s", whole)
				}
				again, ok := s.convert("whole", s.full(), stream)
				if !ok {
					t.Fatalf("of %s\nthe stream\n%s\nis not taken", whole, stream)
				}
				if got, want := canonical(t, again), canonical(t, whole); got != want {
					t.Fatalf("got  %s\nwant %s\nof\n%s", got, want, stream)
				}
			})
		})
	}
}

// TestHowAStreamIsCutMakesNoDifference cuts the texts of an answer into other pieces.
func TestHowAStreamIsCutMakesNoDifference(t *testing.T) {
	s := shapes()["chat"]
	chunk := func(delta, finish string) string {
		return fmt.Sprintf(`data: {"id":"i","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%s,"finish_reason":%s}],"usage":null}`+"\n\n", delta, finish)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := maker{t}
		var stream, text strings.Builder
		stream.WriteString(chunk(`{"role":"assistant"}`, "null"))
		for range m.n(1, 8) {
			piece := m.text()
			text.WriteString(piece[1 : len(piece)-1])
			stream.WriteString(chunk(`{"content":`+piece+`}`, "null"))
		}
		stream.WriteString(chunk("{}", `"stop"`) + `data: {"id":"i","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{}}` + "\n\ndata: [DONE]\n\n")
		got, ok := s.convert("whole", "stream+usage", []byte(stream.String()))
		want := `{"id":"i","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"` + text.String() + `"},"finish_reason":"stop"}],"usage":{}}`
		if !ok || canonical(t, got) != canonical(t, []byte(want)) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// FuzzConvert has any body in any form. What is made must be whole to who reads it,
// bounded, and make the same stream again.
func FuzzConvert(f *testing.F) {
	names := []string{"chat", "completions", "responses", "messages", "ollama-chat", "ollama-generate"}
	for name, stream := range streamFiles(f) {
		for i := range names {
			if s := shapeOf(f, name); s.path == shapes()[names[i]].path {
				f.Add(i, stream)
				if whole, ok := s.convert("whole", s.full(), stream); ok {
					f.Add(i, whole)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		s := shapes()[names[max(i, -i, 0)%len(names)]]
		for _, to := range []string{"whole", "stream", "stream+usage"} {
			for _, from := range s.call(to).OtherForms() {
				made, ok := s.convert(to, from, body)
				if !ok {
					continue
				}
				if len(made) > 64<<10+16*len(body) {
					t.Fatalf("%d bytes of %d", len(made), len(body))
				}
				if o := outcome(t, s.call(to), s.contentType(to), made); !o.Complete || o.Err != "" {
					t.Fatalf("%s to %s: %+v: of\n%s\nwas made\n%s", from, to, o, body, made)
				}
				again, back := s.convert(from, to, made)
				if !back || from != "whole" {
					continue
				}
				if third, ok := s.convert(to, from, again); !ok || len(third) != len(made) {
					t.Fatalf("of\n%s\nwas made\n%s\nof that\n%s\nand then\n%s", body, made, again, third)
				}
			}
		}
	})
}
