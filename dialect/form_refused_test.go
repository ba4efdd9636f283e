package dialect_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// change is a recorded stream with old replaced by new in the first place where it
// stands; "" for old puts new behind the end.
type change struct{ name, file, old, new string }

// of makes the stream.
func (c change) of(t *testing.T) []byte {
	t.Helper()
	stream := streamFiles(t)[c.file]
	if c.old == "" {
		return append(bytes.Clone(stream), c.new...)
	}
	changed := bytes.Replace(stream, []byte(c.old), []byte(c.new), 1)
	if bytes.Equal(changed, stream) {
		t.Fatalf("%s has no %s", c.file, c.old)
	}
	return changed
}

func TestStreamsThatLoseSomethingAreRefused(t *testing.T) {
	usage := `"choices":[],"usage":{`
	for _, c := range []change{
		{"an error at the end", "chat-text", "data: [DONE]", `data: {"error":{"message":"down"}}` + "\n\ndata: [DONE]"},
		{"an error instead of the end", "chat-text", "data: [DONE]", `data: {"error":{"message":"down"}}`},
		{"something behind the end", "chat-text", "", "data: {}\n\n"},
		{"half an event behind the end", "chat-text", "", "data: x"},
		{"the end twice", "chat-text", "", "data: [DONE]\n\n"},
		{"an event with a type", "chat-text", "data: {", "event: x\ndata: {"},
		{"an event with an id", "chat-text", "data: {", "id: 1\ndata: {"},
		{"a time to wait", "chat-text", "data: {", "retry: 1\ndata: {"},
		{"a byte order mark", "chat-text", "data: {", "\ufeffdata: {"},
		{"no JSON", "chat-text", "data: {", "data: -{"},
		{"a member twice", "chat-text", `"delta":{"content":"Hello"}`, `"delta":{"content":"Hello","content":"Hello"}`},
		{"a member twice, once in escapes", "chat-text", `"delta":{"content":"Hello"}`, `"delta":{"content":"Hello","\u0063ontent":"Hello"}`},
		{"a name in escapes", "chat-text", `"delta":{"content":"Hello"}`, `"delta":{"\u0063ontent":"Hello"}`},
		{"another id", "chat-text", `chatcmpl-B9MH`, `chatcmpl-other`},
		{"another model", "chat-text", `gpt-4o-2024-08-06`, `gpt-4o`},
		{"another time", "chat-text", `1741570283`, `1741570284`},
		{"another object", "chat-text", `chat.completion.chunk`, `chat.completion`},
		{"another fingerprint", "chat-text", `fp_fc9f1d7035`, `fp_other`},
		{"another role", "chat-text", `"delta":{"content":"Hello"}`, `"delta":{"role":"tool","content":"Hello"}`},
		{"no role", "chat-text", `"role":"assistant",`, ``},
		{"no id", "chat-text", `"id":"chatcmpl-B9MH",`, ``},
		{"no usage", "chat-text", usage, `"choices":[],"usage":null,"x":{`},
		{"usage of a number", "chat-text", `"usage":null`, `"usage":3`},
		{"usage before the end", "chat-text", `"usage":null`, `"usage":{}`},
		{"usage twice", "chat-text", "data: [DONE]", `data: {"id":"chatcmpl-B9MH","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","choices":[],"usage":{}}` + "\n\ndata: [DONE]"},
		{"no choices", "chat-text", `"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]`, `"choices":[]`},
		{"a choice without index", "chat-text", `{"index":0,`, `{`},
		{"a choice with a name for an index", "chat-text", `"index":0`, `"index":"0"`},
		{"choices that nobody asked for", "chat-text", `"index":0`, `"index":1`},
		{"a choice far away", "chat-text", `"index":0`, `"index":1000000`},
		{"a choice that does not end", "chat-text", `"finish_reason":"stop"`, `"finish_reason":null`},
		{"a choice that ends twice", "chat-text", `"finish_reason":null`, `"finish_reason":"stop"`},
		{"an end without a reason", "chat-text", `"finish_reason":"stop"`, `"finish_reason":""`},
		{"text of a number", "chat-text", `"content":"Hello"`, `"content":1`},
		{"text of parts", "chat-text", `"content":"Hello"`, `"content":["Hello"]`},
		{"half of a pair", "chat-text", `"content":" `, `"content":"\ude00 `},
		{"notes", "chat-text", `"refusal":null`, `"annotations":[{"type":"url_citation"}]`},
		{"sound", "chat-text", `"refusal":null`, `"audio":{"id":"a"}`},
		{"reasoning behind the text", "chat-text", `"content":" `, `"reasoning_content":" `},
		{"text behind a call", "chat-tools", `"delta":{},`, `"delta":{"content":"x"},`},
		{"a call behind a gap", "chat-tools", `"index":1,"id"`, `"index":2,"id"`},
		{"a call with two names", "chat-tools", `"function":{"arguments":"{\"city`, `"function":{"name":"get_weather","arguments":"{\"city`},
		{"a call with two ids", "chat-tools", `"index":0,"function"`, `"index":0,"id":"call_1","function"`},
		{"a call without an id", "chat-tools", `"id":"call_2",`, ``},
		{"a call of another type", "chat-tools", `"type":"function"`, `"type":"custom"`},
		{"a call of both kinds", "chat-tools", `"delta":{},`, `"delta":{"function_call":{"name":"f","arguments":""}},`},
		{"arguments that are no text", "chat-tools", `"arguments":"{}"`, `"arguments":{}`},
		{"two tokens that ended it", "chat-reasoning", `"finish_reason":null`, `"stop_reason":1,"finish_reason":null`},
		{"the tokens themselves", "chat-reasoning", `"token_ids":null`, `"token_ids":[1]`},
		{"probabilities with a hole", "completions-two-choices", `"top_logprobs":[{"A":-1.5}]`, `"top_logprobs":null`},
		{"a text of completions that is null", "completions-two-choices", `"text":"A"`, `"text":null`},
		{"an event without a type", "messages-text", "event: ping\n", ""},
		{"an event with two types", "messages-text", "event: ping\n", "event: message_stop\n"},
		{"an error event", "messages-text", "event: ping\ndata: {\"type\":\"ping\"}", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}"},
		{"a block behind a gap", "messages-text", `"index":0,"content_block"`, `"index":1,"content_block"`},
		{"a delta of another block", "messages-text", `"index":0,"delta"`, `"index":1,"delta"`},
		{"a block of an unknown type", "messages-text", `{"type":"text","text":""}`, `{"type":"server_tool_use","id":"s","name":"n","input":{}}`},
		{"a block with a member of another", "messages-text", `{"type":"text","text":""}`, `{"type":"text","text":"","data":"x"}`},
		{"a delta of an unknown type", "messages-text", `"type":"text_delta"`, `"type":"words_delta"`},
		{"a delta of another type", "messages-text", `"type":"text_delta","text"`, `"type":"thinking_delta","thinking"`},
		{"a delta with more", "messages-text", `"type":"text_delta",`, `"type":"text_delta","signature":"",`},
		{"a message that has begun", "messages-text", `"content":[]`, `"content":[{"type":"text","text":"a"}]`},
		{"a message with a container", "messages-text", `"content":[]`, `"content":[],"container":{"id":"c"}`},
		{"usage that is not known", "messages-text", `"usage":{"output_tokens":15}`, `"usage":{"output_tokens":15,"iterations":[]}`},
		{"usage that falls", "messages-text", `"usage":{"output_tokens":15}`, `"usage":{"output_tokens":15,"input_tokens":0}`},
		{"no output in the usage", "messages-text", `"usage":{"output_tokens":15}`, `"usage":{}`},
		{"no reason", "messages-text", `"stop_reason":"stop_sequence"`, `"stop_reason":null`},
		{"something behind the end", "messages-text", "", "event: ping\ndata: {\"type\":\"ping\"}\n\n"},
		{"[DONE]", "messages-text", "", "data: [DONE]\n\n"},
		{"two signatures", "messages-thinking-and-tool", `"signature":""`, `"signature":"x"`},
		{"input that is no JSON", "messages-thinking-and-tool", `67890}`, `67890`},
		{"input that is no object", "messages-thinking-and-tool", `"index":4,"delta":{"type":"input_json_delta","partial_json":""`, `"index":4,"delta":{"type":"input_json_delta","partial_json":"7"`},
		{"input with a member twice", "messages-thinking-and-tool", `\"n\": 12345678901234567890}`, `\"n\": 1, \"n\": 2}`},
		{"input that is there twice", "messages-thinking-and-tool", `"input":{}`, `"input":{"a":1}`},
		{"half a pair in the input", "messages-thinking-and-tool", `\"San`, `\"\ud83dSan`},
		{"a citation that is no object", "messages-citations", `"citation":{`, `"citation":null,"x":{`},
		{"an event that the server's tools send", "responses-text-and-call", "event: response.in_progress\ndata: {\"type\":\"response.in_progress\"", "event: response.web_search_call.searching\ndata: {\"type\":\"response.web_search_call.searching\""},
		{"an answer that failed", "responses-text-and-call", "event: response.completed\ndata: {\"type\":\"response.completed\"", "event: response.failed\ndata: {\"type\":\"response.failed\""},
		{"an answer that is not complete", "responses-text-and-call", `"status":"completed","output":`, `"status":"incomplete","output":`},
		{"an item that the end has not", "responses-text-and-call", `"output":[{"id":"msg_1"`, `"output":[{"id":"msg_2"`},
		{"an item that only the end has", "responses-text-and-call", `"output":[{"id":"msg_1"`, `"output":[{},{"id":"msg_1"`},
		{"an end with nothing", "responses-text-and-call", `"output":[{"id":"msg_1"`, `"output":[],"x":[{"id":"msg_1"`},
		{"an item that is not done", "responses-text-and-call", "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\"", "event: response.in_progress\ndata: {\"type\":\"response.in_progress\""},
		{"text of an item that has not begun", "responses-text-and-call", `"output_index":0,"content_index":0,"delta"`, `"output_index":1,"content_index":0,"delta"`},
		{"numbers that fall", "responses-text-and-call", `"sequence_number":5`, `"sequence_number":3`},
		{"something behind the end", "responses-text-and-call", "", "data: {\"type\":\"response.in_progress\"}\n\n"},
		{"an end that is not the last", "ollama-chat", `"done":false`, `"done":true`},
		{"no end", "ollama-chat", `"done":true`, `"done":false`},
		{"an error line", "ollama-chat", "", `{"error":"down"}`},
		{"two values in a line", "ollama-chat", "}\n{", "}{"},
		{"another model in between", "ollama-chat", `"qwen3"`, `"qwen2"`},
		{"another role in between", "ollama-chat", `"assistant"`, `"tool"`},
		{"pictures", "ollama-chat", `"content":"It is"`, `"content":"It is","images":["aGk="]`},
		{"statistics in between", "ollama-chat", `"done":false`, `"done":false,"eval_count":1`},
		{"thoughts behind the text", "ollama-chat", `"content":" \"late\"."`, `"content":"","thinking":"x"`},
		{"text behind a call", "ollama-chat", `"content":"","tool_calls":[{"function":{"name":"b"`, `"content":"x"},"done":false}` + "\n" + `{"model":"qwen3","created_at":"c","message":{"role":"assistant","content":"x","tool_calls":[{"function":{"name":"b"`},
		{"a chat's message in a text", "ollama-generate", `"response":"The"`, `"response":"The","message":{"role":"assistant","content":"x"}`},
		{"a text in a chat", "ollama-chat", `"done":false`, `"response":"x","done":false`},
	} {
		t.Run(c.file+" with "+c.name, func(t *testing.T) {
			s := shapeOf(t, c.file)
			if got, ok := s.convert("whole", s.full(), c.of(t)); ok {
				t.Errorf("made %s", got)
			}
		})
	}
}

// TestStreamsThatSayTheSameInOtherWordsAreTaken is the other side: what servers do
// differently and means nothing.
func TestStreamsThatSayTheSameInOtherWordsAreTaken(t *testing.T) {
	for _, c := range []change{
		{"comments", "chat-text", "data: {", ": ping\n\n: ping\ndata: {"},
		{"no space", "chat-text", "data: {", "data:{"},
		{"data in two lines", "chat-text", `"delta":{"content":"Hello"}`, "\ndata: \"delta\":{\"content\":\"Hello\"}"},
		{"blanks behind the end", "chat-text", "", "\n\n"},
		{"no blank between", "messages-text", "data: {", "data:{"},
		{"an id that is empty later", "chat-tools", `"index":0,"function"`, `"index":0,"id":"","type":null,"function"`},
		{"a name that is null later", "chat-tools", `"function":{"arguments":"{\"city`, `"function":{"name":null,"arguments":"{\"city`},
		{"a type that is said again", "chat-tools", `"index":0,"function"`, `"index":0,"type":"function","function"`},
		{"the role that is said again", "chat-text", `"delta":{"content":"Hello"}`, `"delta":{"role":"assistant","content":"Hello"}`},
		{"null beside the text", "chat-text", `"content":"Hello"`, `"content":"Hello","tool_calls":null,"function_call":null,"reasoning":null`},
		{"the older mark of the end", "responses-text-and-call", "", "data: [DONE]\n\n"},
		{"a report in between that says nothing", "messages-text", `"usage":{"output_tokens":15}`, `"usage":{"output_tokens":15,"input_tokens":null}`},
		{"blank lines", "ollama-chat", "}\n{", "}\r\n\r\n {"},
		{"no line end at the end", "ollama-generate", "3},\n", "3},\n"},
	} {
		t.Run(c.file+" with "+c.name, func(t *testing.T) {
			s := shapeOf(t, c.file)
			stream := streamFiles(t)[c.file]
			if c.name == "no line end at the end" {
				stream = bytes.TrimRight(stream, "\n")
			} else {
				stream = c.of(t)
			}
			want, _ := s.convert("whole", s.full(), streamFiles(t)[c.file])
			got, ok := s.convert("whole", s.full(), stream)
			if !ok {
				t.Fatal("not made")
			}
			// What is said once as null has its place.
			for _, null := range []string{`,"tool_calls":null`, `,"function_call":null`, `"reasoning":null,`} {
				if !bytes.Contains(want, []byte(null)) {
					got = bytes.Replace(got, []byte(null), nil, 1)
				}
			}
			if canonical(t, got) != canonical(t, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestWholeAnswersThatLoseSomethingAreRefused(t *testing.T) {
	for _, c := range []change{
		{"an error", "chat-text", `"object"`, `"error":{"message":"down"},"object"`},
		{"another object", "chat-text", `"chat.completion"`, `"chat.completion.chunk"`},
		{"no choices", "chat-text", `"choices":[{`, `"choices":[],"x":[{`},
		{"usage of a number", "chat-text", `"usage":{`, `"usage":3,"x":{`},
		{"choices in another order", "chat-two-choices", `"index":0`, `"index":1`},
		{"no reason", "chat-text", `"finish_reason":"stop"`, `"finish_reason":null`},
		{"padding", "chat-text", `"object"`, `"obfuscation":"a","object"`},
		{"no content", "chat-text", `"content":`, `"refusal_":`},
		{"content in parts", "chat-tools", `"content":null`, `"content":[]`},
		{"a call of an unknown type", "chat-tools", `"type":"function"`, `"type":"custom"`},
		{"a call without an id", "chat-tools", `"id":"call_1",`, ``},
		{"a call that is counted wrong", "chat-tools", `"id":"call_1",`, `"id":"call_1","index":1,`},
		{"arguments that are no text", "chat-tools", `"arguments":"{}"`, `"arguments":{}`},
		{"what every chunk would repeat", "chat-text", `"id":"`, `"id":"` + strings.Repeat("x", 2000)},
		{"a message of an unknown role", "messages-text", `"assistant"`, `"user"`},
		{"a message without a reason", "messages-text", `"stop_reason":"stop_sequence"`, `"stop_reason":null`},
		{"a block that is not known", "messages-text", `"type":"text"`, `"type":"web_search_tool_result"`},
		{"a block without its text", "messages-text", `"text":"Hello`, `"data":"Hello`},
		{"input that is no object", "messages-thinking-and-tool", `"input":{}`, `"input":[]`},
		{"no output", "messages-text", `"output_tokens":15,`, ``},
		{"usage that is not known", "messages-text", `"output_tokens":15,`, `"output_tokens":15,"iterations":null,`},
		{"an answer that goes on", "ollama-chat", `"done":true`, `"done":false`},
		{"an error of Ollama's", "ollama-chat", `"done":true`, `"done":true,"error":"down"`},
		{"a member twice", "ollama-generate", `"done":true`, `"done":true,"done":true`},
		{"another value", "ollama-generate", ``, `{}`},
	} {
		t.Run(c.file+" with "+c.name, func(t *testing.T) {
			s := shapeOf(t, c.file)
			whole, _ := s.convert("whole", s.full(), streamFiles(t)[c.file])
			changed := bytes.Replace(whole, []byte(c.old), []byte(c.new), 1)
			if c.old == "" {
				changed = append(bytes.Clone(whole), c.new...)
			}
			if bytes.Equal(whole, changed) {
				t.Fatalf("%s has no %s", whole, c.old)
			}
			if got, ok := s.convert(s.full(), "whole", changed); ok {
				t.Errorf("of %s was made %s", changed, got)
			}
		})
	}
	t.Run("usage that was asked for and is not there", func(t *testing.T) {
		s, body := shapes()["chat"], []byte(`{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}`)
		_, with := s.convert("stream+usage", "whole", body)
		_, without := s.convert("stream", "whole", body)
		if with || !without {
			t.Errorf("made with usage: %v, without: %v", with, without)
		}
	})
}

func TestContentTypesThatAreNotTheFormsAreRefused(t *testing.T) {
	s, stream := shapes()["chat"], streamFiles(t)["chat-text"]
	for contentType, want := range map[string]bool{
		"text/event-stream":                     true,
		"Text/Event-Stream; Charset=UTF-8":      true,
		`text/event-stream; charset="utf-8"`:    true,
		"text/event-stream; charset=iso-8859-1": false,
		"text/event-stream; v=1":                false,
		"application/json":                      false,
		"text/plain":                            false,
		"":                                      false,
		";":                                     false,
	} {
		if _, _, ok := s.call("whole").Convert("stream+usage", contentType, stream); ok != want {
			t.Errorf("%q is taken: %v, want %v", contentType, ok, want)
		}
	}
	for _, from := range []string{"", "stream", "whole", "stream+usage "} {
		if _, ok := s.convert("whole", from, stream); ok {
			t.Errorf("made of the form %q", from)
		}
	}
}

// TestWhatIsMadeIsBounded has answers of which each part is far shorter than the
// chunk that it would need.
func TestWhatIsMadeIsBounded(t *testing.T) {
	choices := make([]string, 256)
	for i := range choices {
		choices[i] = fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":""},"finish_reason":"stop"}`, i)
	}
	id := strings.Repeat("x", 900)
	for name, c := range map[string]struct {
		s    shape
		body string
	}{
		"choices":         {shapes()["chat"], `{"id":"` + id + `","object":"chat.completion","created":1,"model":"m","choices":[` + strings.Join(choices, ",") + `]}`},
		"too many":        {shapes()["chat"], `{"id":"i","object":"chat.completion","created":1,"model":"m","choices":[` + strings.Join(append(choices, strings.Replace(choices[0], "0", "256", 1)), ",") + `]}`},
		"citations":       {shapes()["messages"], `{"id":"i","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"","citations":[` + strings.Repeat("{},", 10_000) + `{}]}],"stop_reason":"end_turn","usage":{"output_tokens":1}}`},
		"an answer of MB": {shapes()["chat"], `{"id":"i","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("x", 9<<20) + `"},"finish_reason":"stop"}]}`},
	} {
		if got, ok := c.s.convert("stream", "whole", []byte(c.body)); ok {
			t.Errorf("%s: of %d bytes were made %d", name, len(c.body), len(got))
		}
	}
}
