package dialect

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/inferweir/weir"
)

// chatOf is a JSON answer with these finish reasons, null where one is "".
func chatOf(reasons ...string) string {
	var choices []string
	for i, r := range reasons {
		text, err := json.Marshal(r)
		if err != nil {
			return ""
		}
		if r == "" {
			text = []byte("null")
		}
		choices = append(choices, `{"index":`+strconv.Itoa(i)+`,"message":{"content":"x","refusal":null},"finish_reason":`+string(text)+`}`)
	}
	return `{"choices":[` + strings.Join(choices, ",") + `]}`
}

func many(n int, of string) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = of
	}
	return list
}

func TestWhichWholeAnswersTheModelEnded(t *testing.T) {
	for _, c := range []struct {
		name, form string
		status     int
		answers    int64
		body       string
		want       bool
	}{
		{"stop", "chat", 200, 1, chatOf("stop"), true},
		{"created", "chat", 201, 1, chatOf("stop"), true},
		{"tool calls", "chat", 200, 1, chatOf("tool_calls"), true},
		{"a function's call", "chat", 200, 0, chatOf("function_call"), true},
		{"a length", "chat", 200, 1, chatOf("length"), false},
		{"a filter", "chat", 200, 1, chatOf("content_filter"), false},
		{"an abort", "chat", 200, 1, chatOf("abort"), false},
		{"another word", "chat", 200, 1, chatOf("STOP"), false},
		{"no reason", "chat", 200, 1, chatOf(""), false},
		{"no choice", "chat", 200, 1, chatOf(), false},
		{"no member", "chat", 200, 1, `{"choices":[{"index":0}]}`, false},
		{"a number", "chat", 200, 1, `{"choices":[{"finish_reason":1}]}`, false},
		{"a reason too long to be one", "chat", 200, 1, chatOf(strings.Repeat("stop", 2000)), false},
		{"two of two", "chat", 200, 2, chatOf("stop", "tool_calls"), true},
		{"two where one was asked for", "chat", 200, 1, chatOf("stop", "stop"), true},
		{"one of two", "chat", 200, 2, chatOf("stop"), false},
		{"the second a length", "chat", 200, 2, chatOf("stop", "length"), false},
		{"the second null", "chat", 200, 2, chatOf("stop", ""), false},
		{"a hole", "chat", 200, 2, `{"choices":[{"finish_reason":"stop"},{},{"finish_reason":"stop"}]}`, false},
		{"as many as are read", "chat", 200, 16, chatOf(many(16, "stop")...), true},
		{"more than are read", "chat", 200, 17, chatOf(many(17, "stop")...), false},
		{"more than are read or asked for", "chat", 200, 1, chatOf(many(17, "stop")...), false},
		{"a refusal", "chat", 200, 1, `{"choices":[{"message":{"refusal":"I cannot."},"finish_reason":"stop"}]}`, false},
		{"a second refusal", "chat", 200, 1, `{"choices":[{"finish_reason":"stop"},{"message":{"refusal":"I cannot."},"finish_reason":"stop"}]}`, false},
		{"a long refusal", "chat", 200, 1, `{"choices":[{"message":{"refusal":"` + strings.Repeat("No. ", 5000) + `"},"finish_reason":"stop"}]}`, false},
		{"a refusal without text", "chat", 200, 1, `{"choices":[{"message":{"refusal":""},"finish_reason":"stop"}]}`, true},
		{"an error", "chat", 200, 1, `{"error":{"message":"x"},` + chatOf("stop")[1:], false},
		{"an error's status", "chat", 500, 1, chatOf("stop"), false},
		{"no success", "chat", 300, 1, chatOf("stop"), false},
		{"half", "chat", 200, 1, chatOf("stop") + "x", false},
		{"a text", "completion", 200, 1, `{"choices":[{"text":"x","finish_reason":"stop"}]}`, true},
		{"eos", "completion", 200, 1, `{"choices":[{"text":"x","finish_reason":"eos_token"},{"finish_reason":"eos"}]}`, true},
		{"a turn", "message", 200, 1, `{"stop_reason":"end_turn"}`, true},
		{"a sequence", "message", 200, 1, `{"stop_reason":"stop_sequence"}`, true},
		{"a tool's use", "message", 200, 1, `{"stop_reason":"tool_use"}`, true},
		{"a refused message", "message", 200, 1, `{"stop_reason":"refusal"}`, false},
		{"a pause", "message", 200, 1, `{"stop_reason":"pause_turn"}`, false},
		{"a message's length", "message", 200, 1, `{"stop_reason":"max_tokens"}`, false},
		{"a message without a reason", "message", 200, 1, `{"stop_reason":null}`, false},
		{"a response", "response", 200, 1, `{"status":"completed","output":[{"content":[{"type":"output_text"}]}]}`, true},
		{"a response of several items", "response", 200, 1, `{"status":"completed","output":[{"type":"reasoning"},{"content":[{"type":"output_text"},{"type":"output_text"}]}]}`, true},
		{"a response that is refused", "response", 200, 1, `{"status":"completed","output":[{"type":"reasoning"},{"content":[{"type":"refusal"}]}]}`, false},
		{"a response of more parts than are read", "response", 200, 1, `{"status":"completed","output":[{"content":[{"type":"output_text"},{"type":"output_text"},{"type":"output_text"}]}]}`, false},
		{"a response of more items than are read", "response", 200, 1, `{"status":"completed","output":[1,2,3,4,5,6,7,8,9]}`, false},
		{"a response in the background", "response", 200, 1, `{"status":"in_progress"}`, false},
		{"an incomplete response", "response", 200, 1, `{"status":"incomplete","incomplete_details":{"reason":"content_filter"}}`, false},
		{"Ollama", "ollama-chat", 200, 1, `{"done":true,"done_reason":"stop"}`, true},
		{"an older Ollama", "ollama-generate", 200, 1, `{"done":true}`, true},
		{"Ollama's length", "ollama-generate", 200, 1, `{"done":true,"done_reason":"length"}`, false},
		{"Ollama that loaded a model", "ollama-generate", 200, 1, `{"done":true,"done_reason":"load"}`, false},
		{"Ollama that is not done", "ollama-generate", 200, 1, `{"done":false,"done_reason":"stop"}`, false},
		{"embeddings", "embedding", 200, 1, `{"data":[]}`, true},
		{"embeddings that failed", "embedding", 200, 1, `{"error":"x"}`, false},
		{"embeddings that were refused", "embedding", 400, 1, `{"data":[]}`, false},
		{"half of embeddings", "embedding", 200, 1, `{"data":[`, false},
		{"nothing of embeddings", "embedding", 200, 1, ``, false},
		{"a count", "count", 200, 1, `{"input_tokens":3}`, true},
		{"predictions", "infer", 200, 1, `{"predictions":[1]}`, true},
		{"TGI", "infer", 200, 1, `{"details":{"finish_reason":"eos_token"}}`, true},
		{"TGI's length", "infer", 200, 1, `{"details":{"finish_reason":"length"}}`, false},
		{"Ollama's embeddings", "ollama-embed", 200, 1, `{"embeddings":[[1]]}`, true},
		{"a transcription", "media", 200, 1, `{"text":"x"}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := golden{Status: c.status, Type: "application/json", Answers: c.answers}.of(c.form)
			got, err := g.pass(strings.NewReader(c.body), 512)
			if got.outcome.Stopped != c.want || got.body != c.body || err != io.EOF {
				t.Errorf("%+v, want %t", got.outcome, c.want)
			}
		})
	}
}

func TestWhichStreamsTheModelEnded(t *testing.T) {
	const done = "data: [DONE]\n\n"
	choice := func(index int, reason string) string {
		return `data: {"choices":[{"index":` + strconv.Itoa(index) + `,"delta":{"content":"x","refusal":null},"finish_reason":` + reason + "}]}\n\n"
	}
	const started = `data: {"type":"message_start","message":{}}` + "\n\n"
	const over = `data: {"type":"message_stop"}` + "\n\n"
	for _, c := range []struct {
		name, form string
		answers    int64
		body       string
		want       bool
	}{
		{"stop", "chat", 1, choice(0, "null") + choice(0, `"stop"`) + done, true},
		{"no mark", "chat", 1, choice(0, "null") + choice(0, `"stop"`), true},
		{"no reason", "chat", 1, choice(0, "null") + done, false},
		{"no choice", "chat", 1, done, false},
		{"a length", "chat", 1, choice(0, `"length"`) + done, false},
		{"the second a length", "chat", 2, choice(0, `"stop"`) + choice(1, `"length"`) + done, false},
		{"one of two with a mark", "chat", 2, choice(0, `"stop"`) + done, false},
		{"two of two", "chat", 2, choice(0, `"stop"`) + choice(1, `"tool_calls"`) + done, true},
		{"one of two that began", "chat", 1, choice(0, `"stop"`) + choice(1, "null") + done, false},
		{"a refusal", "chat", 1, `data: {"choices":[{"index":0,"delta":{"refusal":"No"}}]}` + "\n\n" + choice(0, `"stop"`) + done, false},
		{"an error", "chat", 1, choice(0, `"stop"`) + "data: {\"error\":{\"message\":\"x\"}}\n\n", false},
		{"a text", "completion", 1, `data: {"choices":[{"text":"x","finish_reason":"stop"}]}` + "\n\n" + done, true},
		{"a turn", "message", 1, started + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}` + "\n\n" + over, true},
		{"a refused message", "message", 1, started + `data: {"type":"message_delta","delta":{"stop_reason":"refusal"}}` + "\n\n" + over, false},
		{"a message without a reason", "message", 1, started + over, false},
		{"a response", "response", 1, `data: {"type":"response.completed","response":{"status":"completed"}}` + "\n\n", true},
		{"a response that is refused", "response", 1, `data: {"type":"response.refusal.delta","delta":"No"}` + "\n\n" + `data: {"type":"response.completed","response":{"status":"completed"}}` + "\n\n", false},
		{"an incomplete response", "response", 1, `data: {"type":"response.incomplete","response":{"status":"incomplete"}}` + "\n\n", false},
		{"Ollama", "ollama-chat", 1, `{"done":true,"done_reason":"stop"}` + "\n", true},
		{"an older Ollama", "ollama-chat", 1, `{"done":true}` + "\n", true},
		{"Ollama's length", "ollama-chat", 1, `{"done":true,"done_reason":"length"}` + "\n", false},
		{"Triton", "infer-stream", 1, `data: {"text_output":"x"}` + "\n\n", true},
		{"TGI's length", "infer-stream", 1, `data: {"generated_text":"x","details":{"finish_reason":"length"}}` + "\n\n", false},
		{"a transcription", "media", 1, `data: {"type":"transcript.text.done","text":"x"}` + "\n\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := golden{Status: 200, Type: "text/event-stream", Stream: true, Answers: c.answers}.of(c.form)
			if g.endpoint.answers.lines {
				g.Type = "application/x-ndjson"
			}
			if got, _ := g.pass(strings.NewReader(c.body), 512); got.outcome.Stopped != c.want || got.body != c.body {
				t.Errorf("%+v, want %t", got, c.want)
			}
			if got, _ := g.pass(io.MultiReader(strings.NewReader(c.body[:len(c.body)/2]), iotest.ErrReader(io.ErrUnexpectedEOF)), 512); got.outcome.Stopped {
				t.Errorf("half of it: %+v", got)
			}
		})
	}
}

func TestAPredictionCalledErrorIsNone(t *testing.T) {
	for in, want := range map[string]Outcome{
		`{"predictions":[1],"error":0.25}`:      {Complete: true, Stopped: true},
		`{"predictions":[1],"error":false}`:     {Complete: true, Stopped: true},
		`{"predictions":[1],"error":true}`:      {Complete: true, Stopped: true},
		`{"predictions":[1],"error":null}`:      {Complete: true, Stopped: true},
		`{"predictions":[1],"error":""}`:        {Complete: true, Stopped: true},
		`{"predictions":[1],"error":{}}`:        {Complete: true, Stopped: true},
		`{"predictions":[1],"error":[0.5]}`:     {Complete: true, Stopped: true},
		`{"error":"out of memory"}`:             {Complete: true, Err: "out of memory"},
		`{"error":{"message":"no such model"}}`: {Complete: true, Err: "no such model"},
	} {
		g := golden{Status: 200, Type: "application/json"}.of("infer")
		if got, _ := g.pass(strings.NewReader(in), 512); got.outcome != want {
			t.Errorf("%s: %+v, want %+v", in, got.outcome, want)
		}
	}
}

func TestAnErrorsStatusIsNoStream(t *testing.T) {
	for _, c := range []struct{ name, body, err string }{
		{"JSON", `{"error":{"message":"down","type":"t"}}`, "t: down"},
		{"JSON behind white space", "\n\n {\"message\":\"down\"}\n", "down"},
		{"an event", "event: error\ndata: {\"error\":{\"message\":\"down\"}}\n\n", "down"},
		{"an event behind a comment", ": hello\n\nid: 1\n\ndata: {\"error\":\"down\"}\n\ndata: {\"error\":\"up\"}\n\n", "down"},
		{"an event that is not ended", `data: {"error":"down"}`, "down"},
		{"an event of text", "data: down\n\n", ""},
		{"a page", "<html>503 Service Unavailable</html>", ""},
		{"nothing", "", ""},
		{"the beginning of a stream", "data: {\"choices\":[]}\n\n", ""},
		{"more than is read", strings.Repeat(": wait\n\n", 1<<13) + "data: {\"error\":\"down\"}\n\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, form := range []string{"chat", "message", "response", "infer-stream"} {
				g := golden{Status: 503, Type: "text/event-stream", Stream: true, Injected: true}.of(form)
				h := http.Header{"Content-Type": {g.Type}, "Content-Length": {"7"}, "Etag": {"x"}}
				if a := g.call().Answer(503, h); a.Streams() || a.Resizes() || len(h) != 3 {
					t.Errorf("%s: followed, %v", form, h)
				}
				for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, &weir.Problem{Status: 504}} {
					got, err := g.pass(io.MultiReader(iotest.OneByteReader(strings.NewReader(c.body)), iotest.ErrReader(end)), 512)
					want := passed{c.body, end.Error(), Outcome{Err: c.err, Complete: end == io.EOF}}
					if got != want || err != end {
						t.Errorf("%s: %+v, want %+v", form, got, want)
					}
				}
			}
		})
	}
}
