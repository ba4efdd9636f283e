package builtin_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/inferweir/weir/builtin"
)

// openAIError is the text of a refusal in OpenAI's form.
func openAIError(t *testing.T, message, param, code string) string {
	t.Helper()
	null := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	type inner struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	text, err := json.Marshal(map[string]inner{"error": {message, "invalid_request_error", null(param), null(code)}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// chatRefusal is a body and the refusal that answers it, with OpenAI's code where
// the model is not there.
type chatRefusal struct {
	name, body string
	status     int
	param      string
	message    string
}

func wantChatRefusals(t *testing.T, refusals []chatRefusal) {
	m := load(t)
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			w := ask(t, m, c.body)
			if w.Code != c.status || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("got %d %v, want %d", w.Code, w.Header(), c.status)
			}
			code := ""
			if c.status == http.StatusNotFound {
				code = "model_not_found"
			}
			if got, want := strings.TrimSpace(w.Body.String()), openAIError(t, c.message, c.param, code); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestChatRefusesMessages(t *testing.T) {
	messages := func(list string) string { return `{"model": "weir-story", "messages": ` + list + `}` }
	const (
		roles = `"system", "developer", "user", "assistant", "tool" or "function"`
		name  = `the name of a model: "weir-story"`
	)
	wantChatRefusals(t, []chatRefusal{
		{"no body", "", 400, "", "body: JSON: offset 0: the end: want a value"},
		{"a member twice", `{"model": "a", "model": "weir-story"}`, 400, "model", `body: JSON: "/model": two members of this name: want one`},
		{"a member of a message twice, once escaped", messages(`[{"role": "user", "r\u006fle": "user"}]`), 400, "messages[0].role", `body: JSON: "/messages/0/role": two members of this name: want one`},
		{"an unknown member twice", `{"a.b": 1, "a.b": 2}`, 400, "", `body: JSON: "/a.b": two members of this name: want one`},
		{"a long member twice", messages(`[{"` + strings.Repeat("a", 99) + `": 1, "` + strings.Repeat("a", 99) + `": 1}]`), 400, "messages", `body: JSON: "/messages/0/` + strings.Repeat("a", 99) + `": two members of this name: want one`},
		{"a body that is too long", strings.Repeat(" ", builtin.MaxChatBodyBytes+1), 413, "", "body: want at most 2097152 bytes"},
		{"a list", "[]", 400, "", "body: a list: want an object"},
		{"null", "null", 400, "", "body: null: want an object"},
		{"no model", `{"messages": []}`, 400, "model", "model: missing: want " + name},
		{"a model that is null", `{"model": null}`, 400, "model", "model: null: want " + name},
		{"a model that is a number", `{"model": 4}`, 400, "model", "model: 4: want " + name},
		{"another model", `{"model": "gpt-5"}`, 404, "model", `The model "gpt-5" does not exist: want "weir-story" for chats`},
		{"the embeddings model", `{"model": "weir-embed"}`, 404, "model", `The model "weir-embed" does not exist: want "weir-story" for chats`},
		{"no messages", `{"model": "weir-story"}`, 400, "messages", "messages: missing: want a list of messages"},
		{"messages that are null", messages("null"), 400, "messages", "messages: missing: want a list of messages"},
		{"an empty list of messages", messages("[]"), 400, "messages", "messages: an empty list: want at least one message"},
		{"too many messages", messages("[" + strings.Repeat(`{"role": "tool", "content": ""},`, builtin.MaxMessages) + "1]"), 400, "messages", "messages: more than 1024: want at most 1024"},
		{"too many parts", messages(`[{"role": "user", "content": [` + strings.Repeat(`{"type": "text", "text": ""},`, 1024) + `{}]}]`), 400, "messages[0].content", "messages[0].content: more than 1024 parts: want at most 1024"},
		{"many numbers for messages", messages("[" + strings.Repeat("1,", 9999) + "1]"), 400, "messages[0]", "messages[0]: 1: want an object"},
		{"messages in a string", messages(`"hi"`), 400, "messages", `messages: "hi": want a list of messages`},
		{"a message that is a string", messages(`["hi"]`), 400, "messages[0]", `messages[0]: "hi": want an object`},
		{"a message that is null", messages(`[null]`), 400, "messages[0]", "messages[0]: null: want an object"},
		{"no role", messages(`[{"content": "hi"}]`), 400, "messages[0].role", "messages[0].role: missing: want " + roles},
		{"an unknown role", messages(`[{"role": "User", "content": "hi"}]`), 400, "messages[0].role", `messages[0].role: "User": want ` + roles},
		{"a role that is a list", messages(`[{"role": [], "content": "hi"}]`), 400, "messages[0].role", `messages[0].role: a list: want ` + roles},
		{"no content", messages(`[{"role": "assistant"}, {"role": "user"}]`), 400, "messages[1].content", "messages[1].content: missing: want a string or a list of parts"},
		{"content that is a number", messages(`[{"role": "user", "content": 1}]`), 400, "messages[0].content", "messages[0].content: 1: want a string or a list of parts"},
		{"a picture", messages(`[{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": "data:"}}]}]`), 400, "messages[0].content[1].type",
			`messages[0].content[1].type: "image_url": want "text": weir-story reads nothing else`},
		{"a part that is a string", messages(`[{"role": "user", "content": ["hi"]}]`), 400, "messages[0].content[0]", `messages[0].content[0]: "hi": want an object`},
		{"a part without text", messages(`[{"role": "user", "content": [{"type": "text"}]}]`), 400, "messages[0].content[0].text", "messages[0].content[0].text: missing: want a string"},
		{"a part without a type", messages(`[{"role": "user", "content": [{"text": "hi"}]}]`), 400, "messages[0].content[0].type", `messages[0].content[0].type: missing: want "text": weir-story reads nothing else`},
		{"a user's refusal", messages(`[{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]`), 400, "messages[0].content[0].type", `messages[0].content[0].type: "refusal": want "text": weir-story reads nothing else`},
		{"a refusal without words", messages(`[{"role": "assistant", "content": [{"type": "refusal", "text": "no"}]}]`), 400, "messages[0].content[0].refusal", "messages[0].content[0].refusal: missing: want a string"},
		{"no user", messages(`[{"role": "system", "content": "hi"}]`), 400, "messages", `messages: none has the role "user": want one, because weir-story answers the last of these`},
	})
}

func TestChatRefusesOptions(t *testing.T) {
	with := func(members string) string { return chat("hi", ", "+members) }
	wantChatRefusals(t, []chatRefusal{
		{"a temperature that is too high", with(`"temperature": 2.1`), 400, "temperature", "temperature: 2.1: want a number from 0 to 2"},
		{"a temperature below zero", with(`"temperature": -1`), 400, "temperature", "temperature: -1: want a number from 0 to 2"},
		{"a temperature in a string", with(`"temperature": "1"`), 400, "temperature", `temperature: "1": want a number from 0 to 2`},
		{"a temperature beyond numbers", with(`"temperature": 1e999`), 400, "temperature", "temperature: 1e999: want a number from 0 to 2"},
		{"a top_p that is too high", with(`"top_p": 1.5`), 400, "top_p", "top_p: 1.5: want a number from 0 to 1"},
		{"a penalty that is too low", with(`"presence_penalty": -3`), 400, "presence_penalty", "presence_penalty: -3: want a number from -2 to 2"},
		{"a penalty that is a list", with(`"frequency_penalty": [1]`), 400, "frequency_penalty", "frequency_penalty: a list: want a number from -2 to 2"},
		{"no tokens", with(`"max_tokens": 0`), 400, "max_tokens", "max_tokens: 0: want a whole number from 1 to 2147483647"},
		{"half a token", with(`"max_completion_tokens": 0.5`), 400, "max_completion_tokens", "max_completion_tokens: 0.5: want a whole number from 1 to 2147483647"},
		{"a seed that is too large", with(`"seed": 9223372036854775808`), 400, "seed", "seed: 9223372036854775808: want a whole number from -9223372036854775808 to 9223372036854775807"},
		{"a seed with a fraction", with(`"seed": 1.5`), 400, "seed", "seed: 1.5: want a whole number from -9223372036854775808 to 9223372036854775807"},
		{"too many choices", with(`"n": 5`), 400, "n", "n: 5: want a whole number from 1 to 4"},
		{"stream in a string", with(`"stream": "true"`), 400, "stream", `stream: "true": want true or false`},
		{"stream options that are a list", with(`"stream": true, "stream_options": []`), 400, "stream_options", "stream_options: a list: want an object"},
		{"stream options without a stream", with(`"stream_options": {"include_usage": true}`), 400, "stream_options", `stream_options: want it only where "stream" is true`},
		{"a wrong stream option", with(`"stream": true, "stream_options": {"include_usage": 1}`), 400, "stream_options.include_usage", "stream_options.include_usage: 1: want true or false"},
		{"a stop that is a number", with(`"stop": 1`), 400, "stop", "stop: 1: want a string or a list of strings"},
		{"too many stops", with(`"stop": ["a", "b", "c", "d", "e"]`), 400, "stop", "stop: more than 4 texts: want at most 4"},
		{"an empty stop", with(`"stop": ""`), 400, "stop[0]", "stop[0]: 0 bytes: want 1 to 256"},
		{"a stop that is too long", with(`"stop": ["a", "` + strings.Repeat("b", 257) + `"]`), 400, "stop[1]", "stop[1]: 257 bytes: want 1 to 256"},
		{"a stop that is null", with(`"stop": [null]`), 400, "stop[0]", "stop[0]: null: want a string"},
		{"tools", with(`"tools": [{"type": "function"}]`), 400, "tools", "tools: weir-story cannot call tools: want none"},
		{"tools that are an object", with(`"tools": {}`), 400, "tools", "tools: an object: want a list"},
		{"functions", with(`"functions": [{}]`), 400, "functions", "functions: weir-story cannot call tools: want none"},
		{"a bias", with(`"logit_bias": {"5": -100}`), 400, "logit_bias", "logit_bias: weir-story has none: want no member, or an empty object"},
		{"logprobs", with(`"logprobs": true`), 400, "logprobs", "logprobs: weir-story gives none: want false"},
		{"logprobs in a number", with(`"logprobs": 1`), 400, "logprobs", "logprobs: 1: want true or false"},
		{"top logprobs", with(`"top_logprobs": 3`), 400, "top_logprobs", "top_logprobs: 3: want 0: weir-story gives no logprobs"},
		{"JSON for an answer", with(`"response_format": {"type": "json_object"}`), 400, "response_format.type", `response_format.type: "json_object": want "text": weir-story writes nothing else`},
		{"a format in a string", with(`"response_format": "text"`), 400, "response_format", `response_format: "text": want an object`},
		{"sound", with(`"modalities": ["text", "audio"]`), 400, "modalities[1]", `modalities[1]: "audio": want "text"`},
		{"a format without a type", with(`"response_format": {}`), 400, "response_format.type", `response_format.type: missing: want "text": weir-story writes nothing else`},
		{"many kinds of answers", with(`"modalities": ["text", "text", "text"]`), 400, "modalities", `modalities: more than 2: want ["text"]`},
		{"kinds of answers in a string", with(`"modalities": "text"`), 400, "modalities", `modalities: "text": want a list`},
		{"the first of two mistakes", with(`"temperature": 3, "top_p": 3`), 400, "temperature", "temperature: 3: want a number from 0 to 2"},
		{"a user that is a number", with(`"user": 1`), 400, "user", "user: 1: want a string"},
	})
}

func TestChatRefusesWhatIsTooLongOrBroken(t *testing.T) {
	m := load(t)
	for name, c := range map[string][2]string{
		"the last message of the user is too long": {chat(strings.Repeat("9", 300), ""), "messages: the last message of the user: weir-story: a prompt of 305 tokens: want at most 255: ask for less"},
		"the messages are too long all together":   {chat(strings.Repeat("word ", builtin.MaxChatBytes/5+1), ""), "messages: more than 262144 bytes of text: want at most that"},
	} {
		t.Run(name, func(t *testing.T) {
			if w := ask(t, m, c[0]); w.Code != 400 || strings.TrimSpace(w.Body.String()) != openAIError(t, c[1], "messages", "context_length_exceeded") {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		})
	}
	t.Run("a body that breaks off", func(t *testing.T) {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest("POST", chatPath, brokenBody{}))
		if got := strings.TrimSpace(w.Body.String()); w.Code != 400 || got != openAIError(t, "body: it ended before it was whole", "", "") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}
