package dialect

import (
	"strings"
	"testing"

	"github.com/inferweir/weir"
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
		{"with values that look like it", `{"a":",\"usage\":null","choices":[{"usage":null}],"usage":null}`, `{"a":",\"usage\":null","choices":[{"usage":null}]}`},
		{"with choices and counts", `{"choices":[{"index":0}],"usage":{"prompt_tokens":1}}`, `{"choices":[{"index":0}],"usage":{"prompt_tokens":1}}`},
		{"counts without choices", `{"usage":{"prompt_tokens":1},"choices":[ ]}`, ``},
		{"counts without choices, and more", `{"usage":{},"choices":[],"timings":{"prompt_n":1}}`, ``},
		{"counts, choices missing", `{"usage":{"prompt_tokens":1},"id":1}`, `{"usage":{"prompt_tokens":1},"id":1}`},
		{"a number, choices empty", `{"choices":[],"usage":3}`, `{"choices":[],"usage":3}`},
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

// A byte order mark behind the first line makes another field of data: then
// nothing is touched.
func TestUsageIsRemovedWhereverItsLineIs(t *testing.T) {
	g := chatStream()
	g.Injected = true
	const event, rest = `{"choices":[{"index":0}],"usage":null}`, `{"choices":[{"index":0}]}`
	for in, want := range map[string]string{
		"event: x\ndata: " + event + "\n: data: " + event + "\n\n":                            "event: x\ndata: " + rest + "\n: data: " + event + "\n\n",
		"event: x\ndata: " + event + "\nid: " + event + "\n\n":                                "event: x\ndata: " + rest + "\nid: " + event + "\n\n",
		"data: {\"choices\":[{}],\ndata: \"usage\":null}\n\n":                                 "data: {\"choices\":[{}]\ndata: }\n\n",
		"data:{\"usage\":\r\ndata\r\ndata:null\r\nid: 7\r\ndata: \r\ndata: ,\"a\":1}\r\n\r\n": "data:{\r\ndata\r\ndata:\r\nid: 7\r\ndata: \r\ndata: \"a\":1}\r\n\r\n",
		"\ufeffdata: {\"a\":1,\ndata: \"usage\":null}\n\n":                                    "\ufeffdata: {\"a\":1\ndata: }\n\n",
		"data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":1}}\n\n":                  "",
		"data: {\"a\":1,\n\ufeffdata: 2\ndata: \"usage\":null}\n\n":                           "data: {\"a\":1,\n\ufeffdata: 2\ndata: \"usage\":null}\n\n",
	} {
		const end = "data: [DONE]\n\n"
		if got, _ := g.pass(strings.NewReader(in+end), 4096); got.body != want+end {
			t.Errorf("%q:\ngot  %q\nwant %q", in, got.body, want+end)
		}
	}
}

// TestAChunkThatIsThereOnlyForUsageIsDropped has what llama.cpp and others add to
// it: clients that did not ask for usage read choices[0] of every chunk.
func TestAChunkThatIsThereOnlyForUsageIsDropped(t *testing.T) {
	g := chatStream()
	g.Injected = true
	const end = "data: [DONE]\n\n"
	for _, in := range []string{
		`{"id":"x","object":"o","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1},"system_fingerprint":null,"service_tier":"s","obfuscation":"o"}`,
		`{"choices":[],"usage":{"prompt_tokens":1},"timings":{"prompt_n":1,"predicted_ms":20.25}}`,
		`{"choices":[],"usage":{"prompt_tokens":1},"citations":["a"]}`,
		`{"choices":[],"\u0075sage":{"prompt_tokens":1}}`,
	} {
		for _, fields := range []string{"", "id: 1\n", "retry: 5\n", "odd\n", "event: x\n"} {
			got, _ := g.pass(strings.NewReader("data: "+in+"\n"+fields+"\n"+end), 4096)
			if got.body != end || got.outcome.Usage.Input != 1 {
				t.Errorf("%s with %q: %+v", in, fields, got)
			}
		}
	}
}

// TestCountsBesideChoicesStay has what OpenRouter, Mistral and Groq send unasked.
func TestCountsBesideChoicesStay(t *testing.T) {
	g := chatStream()
	g.Injected = true
	const in = `data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n\n" +
		"data: [DONE]\n\n"
	got, _ := g.pass(strings.NewReader(in), 4096)
	o := Outcome{Usage: weir.Usage{Input: 1, Output: 2}, Known: true, Finish: "stop", Complete: true, Stopped: true}
	if want := (passed{strings.Replace(in, `,"usage":null`, "", 1), "EOF", o}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
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
