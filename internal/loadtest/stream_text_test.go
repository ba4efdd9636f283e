package loadtest_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/inferweir/weir/internal/loadtest"
)

// chatDelta is a chunk of a chat completion as servers write it.
func chatDelta(delta string) string {
	return `data: {"id":"chatcmpl-B9M","object":"chat.completion.chunk","created":1741570283,"model":"m","choices":[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":null}]}` + "\n\n"
}

// typed is an event that has its type as a name, too.
func typed(kind, rest string) string {
	return "event: " + kind + "\ndata: {\"type\":\"" + kind + "\"" + rest + "}\n\n"
}

func TestPiecesOfText(t *testing.T) {
	for _, c := range []struct {
		name, event string
		pieces      int64
	}{
		{"text of a chat", chatDelta(`{"content":"Hi"}`), 1},
		{"text of a chat in parts", chatDelta(`{"content":[{"type":"text","text":"Hi"}]}`), 1},
		{"white space is text", chatDelta(`{"content":"\n"}`), 1},
		{"reasoning of vLLM and others", chatDelta(`{"content":null,"reasoning":"Let me","reasoning_details":[{"type":"reasoning.text","text":"Let me"}]}`), 1},
		{"reasoning of DeepSeek and others", chatDelta(`{"content":null,"reasoning_content":"Let me"}`), 1},
		{"a refusal of the model", chatDelta(`{"refusal":"I'm sorry, I cannot assist with that."}`), 1},
		{"the name of a tool", chatDelta(`{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"weather","arguments":""}}]}`), 1},
		{"arguments of a tool", chatDelta(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"city"}}]}`), 1},
		{"arguments of the second tool of a chunk", chatDelta(`{"tool_calls":[{"index":0,"function":{"arguments":""}},{"index":1,"function":{"arguments":"{"}}]}`), 1},
		{"arguments of a function, as it was before tools", chatDelta(`{"function_call":{"arguments":"{\"city"}}`), 1},
		{"what is said in audio", chatDelta(`{"audio":{"id":"audio_1","transcript":"Good"}}`), 1},
		{"text of a second choice", `data: {"choices":[{"index":0,"delta":{"content":""}},{"index":1,"delta":{"content":"Hi"}}]}` + "\n\n", 1},
		{"text of a completion", `data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"Hi","logprobs":null,"finish_reason":null}]}` + "\n\n", 1},
		{"text beside a member of an unknown form", `data: {"type":7,"usage":"none","choices":[{"text":"Hi"}]}` + "\n\n", 1},

		{"text of a response", typed("response.output_text.delta", `,"sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hi"`), 1},
		{"reasoning of a response", typed("response.reasoning_text.delta", `,"sequence_number":3,"item_id":"rs_1","output_index":0,"content_index":0,"delta":"Let me"`), 1},
		{"the summary of a response's reasoning", typed("response.reasoning_summary_text.delta", `,"sequence_number":3,"item_id":"rs_1","output_index":0,"summary_index":0,"delta":"**Greeting**"`), 1},
		{"a refusal in a response", typed("response.refusal.delta", `,"sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"I'm sorry"`), 1},
		{"arguments of a function in a response", typed("response.function_call_arguments.delta", `,"sequence_number":4,"item_id":"fc_1","output_index":1,"delta":"{\"x\":1}"`), 1},
		{"what is said in the audio of a response", typed("response.audio.transcript.delta", `,"sequence_number":4,"delta":"Good"`), 1},

		{"text of a message", typed("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"Hi"}`), 1},
		{"thinking of a message", typed("content_block_delta", `,"index":0,"delta":{"type":"thinking_delta","thinking":"Let me"}`), 1},
		{"input of a tool in a message", typed("content_block_delta", `,"index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city"}`), 1},

		{"a role alone", chatDelta(`{"role":"assistant","content":""}`), 0},
		{"nothing at all", chatDelta(`{"role":"assistant","content":null,"refusal":null,"reasoning":null,"reasoning_content":"","tool_calls":[],"audio":null}`), 0},
		{"the id of a tool's call", chatDelta(`{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"arguments":""}}]}`), 0},
		{"the end of a choice", `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n", 0},
		{"usage", `data: {"choices":[],"usage":{"prompt_tokens":81,"completion_tokens":0,"total_tokens":81}}` + "\n\n", 0},
		{"sound", chatDelta(`{"audio":{"id":"audio_1","data":"UklGRg=="}}`), 0},
		{"the sound of a response", typed("response.audio.delta", `,"sequence_number":4,"delta":"UklGRg=="`), 0},
		{"the beginning of a response", typed("response.created", `,"sequence_number":0,"response":{"id":"resp_67c9","status":"in_progress","error":null,"usage":null}`), 0},
		{"the whole text of a response again", typed("response.output_text.done", `,"sequence_number":9,"text":"Hi there"`), 0},
		{"an empty delta of a response", typed("response.output_text.delta", `,"sequence_number":3,"delta":""`), 0},
		{"the beginning of a message", typed("message_start", `,"message":{"id":"msg_1","role":"assistant","content":[],"usage":{"input_tokens":25,"output_tokens":1}}`), 0},
		{"the beginning of a block", typed("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`), 0},
		{"the signature of thinking", typed("content_block_delta", `,"index":0,"delta":{"type":"signature_delta","signature":"EqQBCgIYAhIM"}`), 0},
		{"an empty input of a tool", typed("content_block_delta", `,"index":1,"delta":{"type":"input_json_delta","partial_json":""}`), 0},
		{"usage of a message", typed("message_delta", `,"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":0}`), 0},
		{"a ping", typed("ping", ""), 0},
		{"a comment", ": keep-alive\n\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			pieces, tokens, err := loadtest.ReadStream([]byte(c.event + doneFrame))
			if pieces != c.pieces || tokens != c.pieces || err != nil {
				t.Errorf("%s%d pieces, %d tokens, %v; want %d of each", c.event, pieces, tokens, err, c.pieces)
			}
		})
	}
}

func TestStreamEnds(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		wrong        string // in the error; "": a whole stream
	}{
		{"a chat ends with its mark", chatDelta(`{"content":"Hi"}`) + doneFrame, ""},
		{"a message ends when it stops", typed("message_stop", ""), ""},
		{"a response ends when it is completed", typed("response.completed", `,"response":{"error":null}`), ""},
		{"a response ends when it may not be longer", typed("response.incomplete", `,"response":{"error":null}`), ""},
		{"a response that fails is an error", typed("response.failed", `,"response":{"status":"failed","error":{"code":"server_error","message":"The model failed."}}`), "the stream has an error: {\"type\":\"response.failed\""},
		{"an error without a name is one", `data: {"type":"error","code":"ERR_SOMETHING","message":"Something went wrong"}` + "\n\n", "Something went wrong"},
		{"an error that only its name tells is one", "event: error\ndata: {\"message\":\"gone\"}\n\n", "gone"},
		{"what is no JSON under that name is one", "event: error\ndata: out of memory\n\n", "out of memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := loadtest.ReadStream([]byte(c.stream))
			checkError(t, err, c.wrong)
		})
	}
	t.Run("a stream that just stops is cut", func(t *testing.T) {
		if _, _, err := loadtest.ReadStream([]byte(chatDelta(`{"content":"Hi"}`))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v, want %v", err, io.ErrUnexpectedEOF)
		}
	})
}

// checkError fails where an error does not say what is wanted; "" is none.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%v, want no error", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%v, want %q in it", err, want)
	}
}
