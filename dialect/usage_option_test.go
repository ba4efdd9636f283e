package dialect_test

import (
	"testing"

	"github.com/inferweir/weir/dialect"
)

func TestBodyAsksForUsage(t *testing.T) {
	all := dialects()
	f := func(name, path, body, want string) {
		t.Helper()
		sent := []byte(body)
		c := all[name].Read(dialect.Request{Method: "POST", Path: path, Body: sent})
		if got := string(c.Body()); got != want {
			t.Errorf("%s %s\ngot  %s\nwant %s", name, path, got, want)
		}
		if string(sent) != body {
			t.Errorf("%s %s: the client's body was changed to %s", name, path, sent)
		}
		if again := string(c.Body()); again != want {
			t.Errorf("%s %s: the second time %s", name, path, again)
		}
	}
	for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
		f("openai", path, `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true}}`)
		f("openai", path, "{ \"stream\" : true , \"n\":1\n}", "{ \"stream\" : true,\"stream_options\":{\"include_usage\":true} , \"n\":1\n}")
		f("openai", path, `{"stream":true,"stream_options":null}`, `{"stream":true,"stream_options":{"include_usage":true}}`)
		f("openai", path, `{"stream":true,"stream_options":{}}`, `{"stream":true,"stream_options":{"include_usage":true}}`)
		f("openai", path, `{"stream":true,"stream_options": { } }`, `{"stream":true,"stream_options": {"include_usage":true } }`)
		f("openai", path, `{"stream_options":{"include_obfuscation":false},"stream":true}`, `{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true}`)
		f("openai", path, `{"stream_options":{"include_usage":false},"stream":true}`, `{"stream_options":{"include_usage":true},"stream":true}`)
		f("openai", path, `{"stream_options":{"include_usage":null,"a":1},"stream":true}`, `{"stream_options":{"include_usage":true,"a":1},"stream":true}`)
		f("openai", path, `{"stream_options":{"include\u005fusage":false},"stream":true}`, `{"stream_options":{"include\u005fusage":true},"stream":true}`)
		for _, same := range []string{
			`{"stream":true,"stream_options":{"include_usage":true}}`,
			`{"stream":true,"stream_options":{"include_usage":"true"}}`, // a server's to judge
			`{"stream":true,"stream_options":7}`,
			`{"stream":true,"stream_options":[]}`,
			`{"stream":true,"stream":true}`,
			`{"stream":true`,
			`{"stream":false}`,
			`{"stream":false,"stream_options":{"include_usage":false}}`,
			`{}`,
			``,
		} {
			f("openai", path, same, same)
		}
	}
	f("ollama", "/v1/chat/completions", `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true}}`)
	f("kserve", "/openai/v1/chat/completions", `{"stream":true}`, `{"stream":true,"stream_options":{"include_usage":true}}`)
	for _, other := range [][2]string{
		{"openai", "/v1/responses"}, {"openai", "/v1/embeddings"}, {"openai", "/v1/messages"}, {"openai", "/unknown"},
		{"anthropic", "/v1/messages"}, {"ollama", "/api/chat"}, {"kserve", "/v2/models/m/generate"}, {"plain", "/v1/chat/completions"},
	} {
		f(other[0], other[1], `{"stream":true}`, `{"stream":true}`)
	}
}
