//go:build unix

package bench

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/internal/jsonscan"
)

// scanPointers are what a gateway wants to know of a chat request.
var scanPointers = []string{"/model", "/stream", "/max_tokens", "/max_completion_tokens", "/n", "/temperature", "/seed", "/stream_options/include_usage"}

// The parts of a chat request, in the order in which clients write them.
type (
	chatMessage struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	chatTool struct {
		Type     string       `json:"type"`
		Function chatFunction `json:"function"`
	}
	chatFunction struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	}
	streamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	}
	chatBody struct {
		Model               string        `json:"model"`
		Messages            []chatMessage `json:"messages"`
		Tools               []chatTool    `json:"tools"`
		Stream              bool          `json:"stream"`
		StreamOptions       streamOptions `json:"stream_options"`
		MaxTokens           int           `json:"max_tokens"`
		MaxCompletionTokens int           `json:"max_completion_tokens"`
		N                   int           `json:"n"`
		Temperature         float64       `json:"temperature"`
		Seed                int           `json:"seed"`
	}
)

// talk is about size bytes of a conversation about code, some of it not English.
func talk(size int) string {
	const text = "Please explain what the function does, and why it says \"not found\" for an id that exists.\n" +
		"```go\nif err := db.Get(ctx, \"id\", &row); err != nil {\n\treturn fmt.Errorf(\"get %d: %w\", id, err)\n}\n```\n" +
		"Où est passé l’élève ? 这个问题很难回答。 Größe: 5 µm – naïve 😀\n" +
		"The server answers as soon as it can, so the second request does not wait for the first one to end.\n"
	return strings.ToValidUTF8(strings.Repeat(text, size/len(text)+1)[:size], "")
}

// chatRequest is a chat request of about size bytes, at most: a system prompt, so
// many messages of a conversation, three tools and the usual settings.
func chatRequest(tb testing.TB, size, messages int) []byte {
	tb.Helper()
	body := chatBody{
		Model: "llama-3.1-70b-instruct", Stream: true, StreamOptions: streamOptions{IncludeUsage: true},
		MaxTokens: 1024, MaxCompletionTokens: 1024, N: 1, Temperature: 0.7, Seed: 42,
	}
	for _, name := range []string{"search", "read_file", "run"} {
		body.Tools = append(body.Tools, chatTool{"function", chatFunction{name, "Use it when the user asks for what you do not know.", json.RawMessage(
			`{"type":"object","properties":{"query":{"type":"string","description":"What to look for."},"limit":{"type":"integer","minimum":1}},"required":["query"]}`)}})
	}
	var text bytes.Buffer
	write := func(each int) []byte {
		body.Messages = []chatMessage{{"system", talk(2 * each)}}
		for i := range messages {
			body.Messages = append(body.Messages, chatMessage{[]string{"user", "assistant"}[i%2], fmt.Sprint(i, ": ", talk(each))})
		}
		text.Reset()
		to := json.NewEncoder(&text)
		to.SetEscapeHTML(false)
		if err := to.Encode(body); err != nil {
			tb.Fatal(err)
		}
		return bytes.Clone(text.Bytes())
	}
	best := write(0)
	for each := 8; ; each += 8 {
		next := write(each)
		if len(next) > size {
			return best
		}
		best = next
	}
}

// BenchmarkScan does what a request's body costs before anything is decided: the
// members that routing, quotas and caching depend on, and the key of the body,
// whatever the order of its members and its white space.
func BenchmarkScan(b *testing.B) {
	for _, c := range []struct {
		name           string
		size, messages int
	}{{"body=4KB", 4 << 10, 5}, {"body=40KB", 40 << 10, 20}} {
		body := chatRequest(b, c.size, c.messages)
		b.Run(c.name, func(b *testing.B) {
			b.Run("weir", func(b *testing.B) { scanWeir(b, body, true, true) })
			b.Run("weir-gateway", func(b *testing.B) { scanGateway(b, body) })
			b.Run("weir-find", func(b *testing.B) { scanWeir(b, body, true, false) })
			b.Run("weir-key", func(b *testing.B) { scanWeir(b, body, false, true) })
			b.Run("encoding-json", func(b *testing.B) { scanStandard(b, body) })
			b.Run("sha256", func(b *testing.B) {
				var sum [sha256.Size]byte
				measure(b, func(n int) {
					for range n {
						sum = sha256.Sum256(body)
					}
				})
				checkSum(b, sum)
			})
		})
	}
}

func scanWeir(b *testing.B, body []byte, find, key bool) {
	paths, err := jsonscan.Compile(scanPointers...)
	if err != nil {
		b.Fatal(err)
	}
	var sum [sha256.Size]byte
	ignore := &jsonscan.Paths{}
	values, form := make([]jsonscan.Value, 0, len(scanPointers)), make([]byte, 0, 2*len(body))
	measure(b, func(n int) {
		for range n {
			if find {
				if values, err = paths.Find(values[:0], body, 0); err != nil || values[7].Kind() != jsonscan.Bool {
					b.Fatal(values, err)
				}
			}
			if key {
				if form, err = jsonscan.AppendCanonical(form[:0], body, ignore, 0); err != nil {
					b.Fatal(err)
				}
				sum = sha256.Sum256(form)
			}
		}
	})
	if key {
		checkSum(b, sum)
	}
}

// scanGateway is what the gateway does: it also estimates the tokens, looks at the
// tools, and gives the result away.
func scanGateway(b *testing.B, body []byte) {
	d := dialect.OpenAI()
	var sum [sha256.Size]byte
	ignore := &jsonscan.Paths{}
	form := make([]byte, 0, 2*len(body))
	measure(b, func(n int) {
		for range n {
			call := d.Read(dialect.Request{Method: "POST", Path: "/v1/chat/completions", Body: body})
			if call.Err != nil || call.Estimate.Output != 1024 {
				b.Fatal(call.Estimate, call.Err)
			}
			var err error
			if form, err = jsonscan.AppendCanonical(form[:0], body, ignore, 0); err != nil {
				b.Fatal(err)
			}
			sum = sha256.Sum256(form)
		}
	})
	checkSum(b, sum)
}

// checkSum sees to it that a sum is used, and was made.
func checkSum(b *testing.B, sum [sha256.Size]byte) {
	b.Helper()
	if sum == [sha256.Size]byte{} {
		b.Fatal("no sum was made")
	}
}

func scanStandard(b *testing.B, body []byte) {
	var sum [sha256.Size]byte
	measure(b, func(n int) {
		for range n {
			var tree map[string]any
			if err := json.Unmarshal(body, &tree); err != nil {
				b.Fatal(err)
			}
			if options, ok := tree["stream_options"].(map[string]any); !ok || options["include_usage"] != true {
				b.Fatal(tree["stream_options"])
			}
			form, err := json.Marshal(tree)
			if err != nil {
				b.Fatal(err)
			}
			sum = sha256.Sum256(form)
		}
	})
	checkSum(b, sum)
}

// TestScanRequests checks that the bodies are what the benchmark says.
func TestScanRequests(t *testing.T) {
	for size, messages := range map[int]int{4 << 10: 5, 40 << 10: 20} {
		body := chatRequest(t, size, messages)
		if len(body) > size || len(body) < size-300 {
			t.Errorf("a body of %d bytes, want about %d", len(body), size)
		}
		if err := jsonscan.Check(body, 0); err != nil {
			t.Error(err)
		}
	}
}
