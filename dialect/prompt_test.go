package dialect_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
)

func TestPromptIsWhatTheModelReadsFirst(t *testing.T) {
	for _, tt := range []struct{ name, dialect, path, body, want string }{
		{"a chat's messages", "openai", "/v1/chat/completions",
			`{"messages":[{"role":"user","content":"Hi"}],"model":"m"}`, `[{"role":"user","content":"Hi"}`},
		{"a chat's tools before its messages, wherever they stand", "openai", "/v1/chat/completions",
			`{"messages":[{"role":"user"}],"tools":[{"type":"function"}],"functions":[{"name":"f"}]}`, `[{"type":"function"}[{"name":"f"}[{"role":"user"}`},
		{"no tools as if there were none", "openai", "/v1/chat/completions",
			`{"tools":[ ],"functions":null,"messages":[{"role":"user"}]}`, `[{"role":"user"}`},
		{"a list without the white space at its end", "openai", "/v1/chat/completions", "{\"messages\":[\n {}\n]}", "[\n {}"},
		{"the chat of another server behind a prefix", "openai", "/openai/deployments/d/chat/completions",
			`{"messages":[{"role":"user"}]}`, `[{"role":"user"}`},
		{"a text to be completed", "openai", "/v1/completions", `{"prompt":"Once \"upon","suffix":"end"}`, `"Once \"upon`},
		{"texts to be completed", "openai", "/v1/completions", `{"prompt":["a","b"]}`, `["a","b"`},
		{"tokens to be completed", "openai", "/v1/completions", `{"prompt":[1,22,333]}`, `[1,22,333`},
		{"a response's tools, instructions and text", "openai", "/v1/responses",
			`{"input":"Hi","instructions":"Be brief.","tools":[{"type":"custom"}]}`, `[{"type":"custom"}"Be brief."Hi`},
		{"a response's items", "openai", "/v1/responses", `{"input":[{"role":"user"}]}`, `[{"role":"user"}`},
		{"what SageMaker's endpoint takes for a chat", "openai", "/invocations", `{"messages":[{"role":"user"}]}`, `[{"role":"user"}`},
		{"what SageMaker's endpoint takes for a text", "openai", "/invocations", `{"prompt":"Once"}`, `"Once`},
		{"messages of Anthropic's API", "anthropic", "/v1/messages",
			`{"system":"Be brief.","messages":[{"role":"user"}],"tools":[{"name":"t"}]}`, `[{"name":"t"}"Be brief.[{"role":"user"}`},
		{"a system of blocks", "anthropic", "/v1/messages", `{"system":[{"type":"text"}],"messages":[{}]}`, `[{"type":"text"}[{}`},
		{"messages of Anthropic's API at another server", "openai", "/v1/messages", `{"messages":[{}],"system":"s"}`, `"s[{}`},
		{"Ollama's chat", "ollama", "/api/chat", `{"messages":[{"role":"user"}],"tools":[{}]}`, `[{}[{"role":"user"}`},
		{"Ollama's prompt behind its system and its context", "ollama", "/api/generate",
			`{"prompt":"Hi","system":"s","context":[1,2],"images":["aGk="]}`, `[1,2"s"Hi`},
		{"OpenAI's chat at Ollama", "ollama", "/v1/chat/completions", `{"messages":[{}]}`, `[{}`},
		{"Triton's text", "kserve", "/v2/models/m/generate", `{"text_input":"Hi","images":["x"]}`, `"Hi`},
		{"Triton's stream", "kserve", "/v2/models/m/versions/1/generate_stream", `{"text_input":"Hi"}`, `"Hi`},

		{"none for embeddings", "openai", "/v1/embeddings", `{"input":"Hi"}`, ``},
		{"none for pictures", "openai", "/v1/images/generations", `{"prompt":"a cat"}`, ``},
		{"none for tokens that are only counted", "anthropic", "/v1/messages/count_tokens", `{"messages":[{}]}`, ``},
		{"none for tensors", "kserve", "/v2/models/m/infer", `{"inputs":[{"name":"a"}]}`, ``},
		{"none for an API that is not known", "plain", "/predict", `{"prompt":"Hi"}`, ``},
		{"none for a path that is not known", "openai", "/v1/files", `{"prompt":"Hi"}`, ``},
		{"none for a call that changes the server", "ollama", "/api/pull", `{"model":"m","prompt":"x"}`, ``},
		{"none for an empty body", "openai", "/v1/chat/completions", ``, ``},
		{"none for a body without messages", "openai", "/v1/chat/completions", `{"model":"m"}`, ``},
		{"none for messages that are none", "openai", "/v1/chat/completions", `{"messages":17}`, ``},
		{"none for an empty text", "openai", "/v1/completions", `{"prompt":""}`, ``},
		{"none for a body that ends too early", "openai", "/v1/chat/completions", `{"messages":[{"role":`, ``},
		{"none for a body that names it twice", "openai", "/v1/completions", `{"prompt":"a","prompt":"b"}`, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialects()[tt.dialect].Read(dialect.Request{Method: "POST", Path: tt.path, Body: []byte(tt.body)})
			got := c.Prompt()
			if string(got) != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.body, got, tt.want)
			}
			if tt.want == "" && got != nil {
				t.Errorf("got %q, want nil", got)
			}
		})
	}
}

// conversation is the body of a conversation's nth request, as the clients of an
// API write it.
type conversation struct {
	name, dialect, path string
	body                func(n int) string
}

func conversations() []conversation {
	// Each question is repeated with its answer in all requests that follow.
	turns := func(first, format string, n int) string {
		all := []string{first, fmt.Sprintf(format, "user", 0, "why?")}
		for i := range n {
			all = append(all, fmt.Sprintf(format, "assistant", i, strings.Repeat("because. ", 60)), fmt.Sprintf(format, "user", i+1, "why?"))
		}
		return strings.Join(all, ",")
	}
	const message = `{"role":%q,"content":"%d %s"}`
	system := `{"role":"system","content":"` + strings.Repeat("Be kind. ", 200) + `"}`
	return []conversation{
		{"OpenAI's chat", "openai", "/v1/chat/completions", func(n int) string {
			return fmt.Sprintf(`{"model":"m","messages":[%s],"max_tokens":%d}`, turns(system, message, n), 100+n)
		}},
		{"OpenAI's chat with the list on lines of its own", "openai", "/v1/chat/completions", func(n int) string {
			return fmt.Sprintf("{\"seed\": %d, \"messages\": [\n%s\n]\n}", n, turns(system, message, n))
		}},
		{"OpenAI's responses", "openai", "/v1/responses", func(n int) string {
			return fmt.Sprintf(`{"temperature":%d,"input":[%s],"instructions":"Be brief.","tools":[{"type":"function","name":"f"}]}`, n, turns(system, message, n))
		}},
		{"Anthropic's messages", "anthropic", "/v1/messages", func(n int) string {
			return fmt.Sprintf(`{"max_tokens":%d,"messages":[%s],"system":"Be brief.","tools":[{"name":"t"}]}`, 100+n, turns(system, message, n))
		}},
		{"Ollama's chat", "ollama", "/api/chat", func(n int) string {
			return fmt.Sprintf(`{"options":{"seed":%d},"messages":[%s]}`, n, turns(system, message, n))
		}},
		{"a text that grows", "openai", "/v1/completions", func(n int) string {
			return fmt.Sprintf(`{"max_tokens":%d,"prompt":"%s"}`, 100+n, strings.Repeat("Once upon a time. ", 100*(n+1)))
		}},
		{"tokens that grow", "openai", "/v1/completions", func(n int) string {
			return fmt.Sprintf(`{"n":%d,"prompt":[1%s]}`, n+1, strings.Repeat(",128006", 300*(n+1)))
		}},
	}
}

func TestTheNextTurnBeginsWithThePromptOfTheTurnBefore(t *testing.T) {
	for _, tt := range conversations() {
		t.Run(tt.name, func(t *testing.T) {
			d, before := dialects()[tt.dialect], ""
			for n := range 6 {
				c := d.Read(dialect.Request{Method: "POST", Path: tt.path, Body: []byte(tt.body(n))})
				if c.Err != nil {
					t.Fatal(c.Err)
				}
				prompt := string(c.Prompt())
				if !strings.HasPrefix(prompt, before) {
					t.Fatalf("turn %d: %d bytes that do not begin with the %d of the turn before", n, len(prompt), len(before))
				}
				if len(prompt) <= len(before) {
					t.Fatalf("turn %d: %d bytes after %d", n, len(prompt), len(before))
				}
				before = prompt
			}
		})
	}
}

func TestPromptIsBounded(t *testing.T) {
	d := dialect.OpenAI()
	long := strings.Repeat("Once upon a time. ", 10_000)
	for name, tt := range map[string]struct{ path, body, want string }{
		"one member":      {"/v1/completions", `{"prompt":"` + long + `"}`, (`"` + long)[:64<<10]},
		"several members": {"/v1/responses", `{"input":"` + long + `","instructions":"Be brief."}`, (`"Be brief."` + long)[:64<<10]},
		"many members": {"/v1/responses", `{"input":"` + long + `","instructions":"` + long + `","tools":[{}]}`,
			(`[{}"` + long)[:64<<10]},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.Read(dialect.Request{Method: "POST", Path: tt.path, Body: []byte(tt.body)})
			if got := string(c.Prompt()); got != tt.want {
				t.Errorf("%d bytes, want the first %d", len(got), len(tt.want))
			}
		})
	}
}

// TestPromptAllocatesLittle counts: what jsonscan needs, and the parts put together.
func TestPromptAllocatesLittle(t *testing.T) {
	d := dialect.OpenAI()
	for want, body := range map[float64]string{
		1: string(chatOf(4 << 10)),
		2: `{"tools":[{}],` + string(chatOf(4 << 10))[1:],
	} {
		c := d.Read(dialect.Request{Method: "POST", Path: "/v1/chat/completions", Body: []byte(body)})
		if n := testing.AllocsPerRun(100, func() { c.Prompt() }); n > want {
			t.Errorf("%.20s: %v allocations, want at most %v", body, n, want)
		}
	}
}
