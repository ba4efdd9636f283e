package dialect

import "testing"

// TestMemberEnds gives member what jsonscan never would: each step must get on.
func TestMemberEnds(t *testing.T) {
	for _, raw := range []string{"", "[", "]", "[]", "[]]]]", "[}]", `["]`, `[""]`, "[[", "[:,]", "[1}2]", `{"a"}`, `{"a":}`, "{{{{"} {
		_, _ = member([]byte(raw), `"a"`)
	}
}

// everyDialect is what the tests of tables go through.
func everyDialect() []*Dialect {
	return []*Dialect{OpenAI(), Anthropic(), Ollama(), KServe(), TFServing(), Plain()}
}

func TestTables(t *testing.T) {
	for _, d := range everyDialect() {
		names := map[string]bool{}
		for _, e := range d.endpoints {
			if e.name == "" || names[e.name] || e.match == nil || e.api == apiPlain {
				t.Errorf("%s: endpoint %q: want a name of its own, a match and an API", d.name, e.name)
			}
			names[e.name] = true
			if e.manages == (e.request != nil) || e.manages == (e.answers != nil) {
				t.Errorf("%s: %s: want request and answers, or manages", d.name, e.name)
			}
			if e.request != nil && e.request.first[roles] > maxPointers {
				t.Errorf("%s: %s reads %d members, want at most %d", d.name, e.name, e.request.first[roles], maxPointers)
			}
		}
	}
}

// TestNamesFit: a look at a name has room for the longest that matters.
func TestNamesFit(t *testing.T) {
	var check func(n *names)
	check = func(n *names) {
		for _, m := range n.list {
			if text, same := folded(make([]byte, 0, longestName), []byte(m.text)); string(text) != m.text || !same {
				t.Errorf("%q: want small letters, digits and _, at most %d", m.text, longestName)
			}
			if m.inside != nil {
				check(m.inside)
			}
		}
	}
	for _, d := range everyDialect() {
		for _, e := range d.endpoints {
			if e.request != nil {
				check(&e.request.names)
			}
		}
		if d.other != nil {
			check(&d.other.names)
		}
	}
}

func TestWhoseFormAPathHas(t *testing.T) {
	f := func(d *Dialect, path string, want api) {
		t.Helper()
		if got := d.apiOf(path); got != want {
			t.Errorf("%s: %s: API %d, want %d", d.name, path, got, want)
		}
	}
	f(OpenAI(), "/v1/chat/completions", apiOpenAI)
	f(OpenAI(), "/v1/messages", apiAnthropic)
	f(OpenAI(), "/v1/messages/batches/b1", apiAnthropic)
	f(OpenAI(), "/v1/threads/t1/messages", apiOpenAI)
	f(OpenAI(), "/v1/threads/v1/messages/m1", apiOpenAI)
	f(Anthropic(), "/v1/models", apiAnthropic)
	f(Ollama(), "/api/tags", apiOllama)
	f(Ollama(), "/api/pull", apiOllama)
	f(Ollama(), "/v1/models", apiOpenAI)
	f(Ollama(), "/v1/messages", apiAnthropic)
	f(KServe(), "/v2/health/ready", apiKServe)
	f(KServe(), "/openai/v1/models", apiOpenAI)
	f(KServe(), "/openai/v1/messages", apiAnthropic)
	f(TFServing(), "/v1/models/m/metadata", apiKServe)
	f(Plain(), "/v1/chat/completions", apiPlain)
}

// TestWhoAskedForUsage fixes what the answer's side goes by: what Body put in,
// the answer must lose again, and nothing else.
func TestWhoAskedForUsage(t *testing.T) {
	f := func(body string, asked, injected bool) {
		t.Helper()
		c := OpenAI().Read(Request{Method: "POST", Path: "/v1/chat/completions", Body: []byte(body)})
		if c.usageAsked != asked || c.usageInjected != injected {
			t.Errorf("%s: asked %v, injected %v; want %v, %v", body, c.usageAsked, c.usageInjected, asked, injected)
		}
	}
	f(`{"stream":true}`, false, true)
	f(`{"stream":true,"stream_options":null}`, false, true)
	f(`{"stream":true,"stream_options":{"include_usage":false}}`, false, true)
	f(`{"stream":true,"stream_options":{"include_usage":true}}`, true, false)
	f(`{"stream":true,"stream_options":{"include_usage":1}}`, true, false)
	f(`{"stream":true,"stream_options":7}`, false, false)
	f(`{"stream":false}`, false, false)
	f(`{}`, false, false)
}
