package dialect_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/dialect"
)

// The paths of the endpoints whose answers have several forms.
const (
	chatPath       = "/v1/chat/completions"
	completionPath = "/v1/completions"
	responsePath   = "/v1/responses"
	messagePath    = "/v1/messages"
	ollamaChat     = "/api/chat"
	ollamaGenerate = "/api/generate"
)

func post(d *dialect.Dialect, path, body string) *dialect.Call {
	return d.Read(dialect.Request{Method: "POST", Path: path, Body: []byte(body)})
}

func TestForm(t *testing.T) {
	open, claude, llama := dialect.OpenAI(), dialect.Anthropic(), dialect.Ollama()
	fromChunks, fromStream, fromWhole := []string{"stream+usage"}, []string{"stream"}, []string{"whole"}
	for _, c := range []struct {
		name   string
		d      *dialect.Dialect
		path   string
		body   string
		form   string
		others []string
	}{
		{"nothing asked", open, chatPath, `{"model":"m"}`, "whole", fromChunks},
		{"no stream", open, chatPath, `{"stream":false}`, "whole", fromChunks},
		{"null, which OpenAI takes for nothing", open, chatPath, `{"stream":null,"stream_options":null}`, "whole", fromChunks},
		{"a stream", open, chatPath, `{"stream":true}`, "stream", []string{"stream+usage", "whole"}},
		{"a stream that says what it is by default", open, chatPath, `{"stream":true,"stream_options":{"include_usage":false}}`, "stream", []string{"stream+usage", "whole"}},
		{"a stream with usage", open, chatPath, `{"stream":true,"stream_options":{"include_usage":true}}`, "stream+usage", fromWhole},
		{"a stream with usage, name in escapes", open, chatPath, `{"stream":true,"stream_options":{"\u0069nclude_usage":true}}`, `stream {"stream":true,"stream_options":{"include_usage":true}}`, nil},
		{"options without a stream", open, chatPath, `{"stream_options":{"include_usage":true}}`, `whole {"stream_options":{"include_usage":true}}`, nil},
		{"options that servers read differently", open, chatPath, `{"stream":true,"stream_options":{}}`, `stream {"stream":true,"stream_options":{}}`, nil},
		{"usage null", open, chatPath, `{"stream":true,"stream_options":{"include_usage":null}}`, `stream {"stream":true,"stream_options":{"include_usage":null}}`, nil},
		{"more options", open, chatPath, `{"stream":true,"stream_options":{"include_usage": true, "include_obfuscation":false}}`,
			`stream {"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}`, nil},
		{"a text for a stream", open, chatPath, `{"stream":"true"}`, `asked {"stream":"true"}`, nil},
		{"a number for a stream", open, chatPath, `{"stream":1,"stream_options":[]}`, `asked {"stream":1,"stream_options":[]}`, nil},
		{"a member that some take for another", open, chatPath, `{"Stream":true}`, `asked {}`, nil},
		{"no JSON", open, chatPath, `stream`, "", nil},
		{"no body", open, chatPath, ``, "", nil},
		{"a member twice", open, chatPath, `{"stream":true,"stream":false}`, "", nil},
		{"half a surrogate", open, chatPath, `{"stream":"\ud800"}`, "", nil},
		{"another method", open, "/v1/models", `{"stream":true}`, "", nil},
		{"completions", open, completionPath, `{"stream":true,"stream_options":{"include_usage":true}}`, "stream+usage", fromWhole},
		{"SageMaker's path", open, "/invocations", `{"messages":[],"stream":true}`, "stream", []string{"stream+usage", "whole"}},
		{"SageMaker's path for what streams nothing", open, "/invocations", `{"query":"q","stream":true}`, "", nil},
		{"embeddings", open, "/v1/embeddings", `{"input":"a","stream":true}`, "", nil},
		{"pictures", open, "/v1/images/generations", `{"prompt":"a","stream":true}`, "", nil},
		{"responses", open, responsePath, `{"input":"a"}`, "whole", fromStream},
		{"a stream of responses", open, responsePath, `{"input":"a","stream":true}`, "stream", nil},
		{"a stream of responses with options", open, responsePath, `{"input":"a","stream":true,"stream_options":{"include_obfuscation":false}}`,
			`stream {"stream":true,"stream_options":{"include_obfuscation":false}}`, nil},
		{"a response with options that say nothing", open, responsePath, `{"stream":null,"stream_options":null}`, "whole", fromStream},
		{"messages", claude, messagePath, `{"model":"m"}`, "whole", fromStream},
		{"a stream of messages", claude, messagePath, `{"stream":true}`, "stream", fromWhole},
		{"null, which Anthropic refuses", claude, messagePath, `{"stream":null}`, `asked {"stream":null}`, nil},
		{"options that the API has not", claude, messagePath, `{"stream":true,"stream_options":{"include_usage":true}}`,
			`stream {"stream":true,"stream_options":{"include_usage":true}}`, nil},
		{"counted tokens", claude, "/v1/messages/count_tokens", `{"stream":true}`, "", nil},
		{"Ollama's chat", llama, ollamaChat, `{"model":"m"}`, "stream", fromWhole},
		{"Ollama's chat, null", llama, ollamaChat, `{"stream":null}`, "stream", fromWhole},
		{"Ollama's text without a stream", llama, ollamaGenerate, `{"stream":false}`, "whole", fromStream},
		{"Ollama's text with options", llama, ollamaGenerate, `{"stream_options":null}`, `stream {"stream_options":null}`, nil},
		{"OpenAI's chat of KServe", dialect.KServe(), "/openai/v1/chat/completions", `{"stream":true}`, "stream", []string{"stream+usage", "whole"}},
		{"KServe", dialect.KServe(), "/v2/models/m/generate", `{"text_input":"a","stream":true}`, "", nil},
		{"TensorFlow Serving", dialect.TFServing(), "/v1/models/m:predict", `{"instances":[1],"stream":true}`, "", nil},
		{"anything", dialect.Plain(), "/x", `{"stream":true}`, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := post(c.d, c.path, c.body)
			if got := call.Form(); got != c.form {
				t.Errorf("%s is of form %q, want %q", c.body, got, c.form)
			}
			if got := call.OtherForms(); !reflect.DeepEqual(got, c.others) {
				t.Errorf("%s can be made of %q, want %q", c.body, got, c.others)
			}
		})
	}
}

// TestRequestsOfOneFormAskForTheSame draws two requests. Where they have one name,
// they must be of the same of the few requests that are known to be one.
func TestRequestsOfOneFormAskForTheSame(t *testing.T) {
	streams := []string{"", "null", "false", "true", `"true"`, "0", "1", "{}", `"whole"`}
	options := []string{"", "null", "{}", `{"include_usage":true}`, `{"include_usage":false}`, `{"include_usage":null}`, `{"include_usage":1}`,
		`{"include_usage":true,"a":1}`, `{"a":1,"include_usage":true}`, "[]", `"stream"`, "true"}
	// As a server reads them: what is equal here has one answer.
	meaning := func(path, stream, option string) string {
		if stream == "null" && path != messagePath || stream == "" {
			if stream = "false"; path == ollamaChat {
				stream = "true"
			}
		}
		plain := path == chatPath && (option == "null" || option == `{"include_usage":false}` && stream == "true")
		if plain {
			option = ""
		}
		if option == `{"a":1,"include_usage":true}` {
			option = `{"include_usage":true,"a":1}`
		}
		return stream + " " + option
	}
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.SampledFrom([]string{chatPath, messagePath, ollamaChat}).Draw(t, "path")
		d := shapes()["chat"].dialect
		if path == ollamaChat {
			d = shapes()["ollama-chat"].dialect
		}
		var form, means [2]string
		for i := range form {
			stream, option := rapid.SampledFrom(streams).Draw(t, "stream"), rapid.SampledFrom(options).Draw(t, "options")
			members := []string{`"model":"m"`}
			if stream != "" {
				members = append(members, `"stream":`+stream)
			}
			if option != "" {
				members = append(members, `"stream_options":`+option)
			}
			call := post(d, path, "{"+strings.Join(members, ",")+"}")
			form[i], means[i] = call.Form(), meaning(path, stream, option)
			if form[i] == "" {
				t.Fatalf("%s %s has no form", stream, option)
			}
		}
		if form[0] == form[1] && means[0] != means[1] {
			t.Fatalf("%s: %s and %s have both the form %s", path, means[0], means[1], form[0])
		}
	})
}

func TestFormPointersAreThoseThatFormReads(t *testing.T) {
	want := []string{"/stream", "/stream_options"}
	if got := dialect.FormPointers(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for _, pointer := range want {
		body := fmt.Sprintf(`{%q:"x"}`, pointer[1:])
		if post(dialect.OpenAI(), chatPath, body).Form() == post(dialect.OpenAI(), chatPath, "{}").Form() {
			t.Errorf("%s is not read", pointer)
		}
	}
}
