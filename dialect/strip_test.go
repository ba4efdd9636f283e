package dialect

import (
	"strings"
	"testing"
)

func TestUsageThatOnlyWeAskedForIsRemoved(t *testing.T) {
	g := chatStream()
	g.Injected = true
	for _, c := range []struct{ name, in, want string }{
		{"last", `{"a":1,"choices":[{}],"usage":null}`, `{"a":1,"choices":[{}]}`},
		{"first", `{"usage":null,"choices":[{}]}`, `{"choices":[{}]}`},
		{"in the middle", `{"a":1,"usage":null,"choices":[{}]}`, `{"a":1,"choices":[{}]}`},
		{"alone", `{"usage":null}`, `{}`},
		{"with spaces, last", `{ "a": 1, "choices": [ {} ], "usage": null }`, `{ "a": 1, "choices": [ {} ] }`},
		{"with spaces, first", `{ "usage" : null , "a": 1 }`, `{ "a": 1 }`},
		{"with spaces, in the middle", `{"a": 1, "usage": null, "b": 2}`, `{"a": 1, "b": 2}`},
		{"with values that look like it", `{"a":",\"usage\":null","choices":[{"usage":null}],"usage":{"usage":{"x":[1]}}}`, `{"a":",\"usage\":null","choices":[{"usage":null}]}`},
		{"with choices and counts", `{"choices":[{"index":0}],"usage":{"prompt_tokens":1}}`, `{"choices":[{"index":0}]}`},
		{"counts without choices", `{"usage":{"prompt_tokens":1},"choices":[ ]}`, ``},
		{"counts, choices missing", `{"usage":{"prompt_tokens":1},"id":1}`, `{"id":1}`},
		{"null, choices empty", `{"choices":[],"usage":null,"prompt_filter_results":[]}`, `{"choices":[],"prompt_filter_results":[]}`},
		{"no usage, choices empty", `{"choices":[],"prompt_filter_results":[]}`, `{"choices":[],"prompt_filter_results":[]}`},
		{"under a name with escapes", `{"a":1,"\u0075sage":null}`, `{"a":1,"\u0075sage":null}`},
		{"twice", `{"usage":null,"usage":null}`, `{"usage":null,"usage":null}`},
		{"in no JSON", `{"usage":null`, `{"usage":null`},
		{"in an array", `[{"usage":null}]`, `[{"usage":null}]`},
	} {
		for _, around := range []string{"data: %\n\n", "data:%\n\n", "data: %\r\n\r\n", "event: x\ndata: %\nid: 1\n\n", ": {\"usage\":null}\ndata: %\n\n", "data: %\n: data: %\n\n", "\ufeffdata: %\n\n"} {
			in := strings.ReplaceAll(around, "%", c.in)
			want := strings.ReplaceAll(strings.Replace(around, "%", c.want, 1), "%", c.in)
			switch {
			case c.want == "" && around[0] == ':':
				want = ": {\"usage\":null}\n" // a frame of its own
			case c.want == "":
				want = ""
			}
			const end = "data: [DONE]\n\n"
			if got, _ := g.pass(strings.NewReader(in+end), 4096); got.body != want+end {
				t.Errorf("%s:\n%q\ngot  %q\nwant %q", c.name, in, got.body, want+end)
			}
		}
	}
}

func TestWhereTheUsageIsIsNotGuessed(t *testing.T) {
	g := chatStream()
	g.Injected = true
	const event = `{"choices":[{"index":0}],"usage":null}`
	for _, in := range []string{
		"event: x\ndata: " + event + "\n: data: " + event + "\n\n",
		"event: x\ndata: " + event + "\nid: " + event + "\n\n",
		"data: {\"choices\":[],\ndata: \"usage\":null}\n\n",
	} {
		const end = "data: [DONE]\n\n"
		if got, _ := g.pass(strings.NewReader(in+end), 4096); got.body != in+end {
			t.Errorf("got  %q\nwant %q", got.body, in+end)
		}
	}
}

func TestNothingIsStrippedThatTheClientAskedFor(t *testing.T) {
	const in = `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n"
	for _, form := range []string{"chat", "completion", "media", "message", "infer-stream"} {
		g := chatStream().of(form)
		g.Injected = form != "chat" && form != "completion"
		if got, _ := g.pass(strings.NewReader(in), 4096); !strings.HasPrefix(got.body, in) {
			t.Errorf("%s: %q", form, got.body)
		}
	}
}
