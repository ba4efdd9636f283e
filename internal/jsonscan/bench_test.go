package jsonscan_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/inferweir/weir/internal/jsonscan"
)

var chatPointers = []string{"/model", "/stream", "/max_tokens", "/temperature", "/stream_options/include_usage"}

// chatBody returns a chat request of about size bytes, mostly prompt, with line
// ends and some text outside ASCII.
func chatBody(size int) []byte {
	const paragraph = `The quick brown fox jumps over the lazy dog, says the \"manual\"; naïve readers believe it.\n`
	var messages []string
	for i := 0; len(messages)*1000 < size; i++ {
		messages = append(messages, fmt.Sprintf(`{"role":"user","content":"%d %s"}`, i, strings.Repeat(paragraph, 10)))
	}
	return []byte(`{"model":"llama-3.1-70b","messages":[` + strings.Join(messages, ",") + `],"max_tokens":512,"temperature":0.0,` +
		`"top_p":1,"stream":true,"stream_options":{"include_usage":true},"seed":42,"user":"alice","tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}`)
}

// withText returns a chat request of about 10 KB of the same text.
func withText(text string) []byte {
	return []byte(`{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat(text, 10<<10/len(text)) + `"}],"stream":true}`)
}

func chatBodies() map[string][]byte {
	var pretty []byte
	var tree any
	if json.Unmarshal(chatBody(10<<10), &tree) == nil {
		pretty, _ = json.MarshalIndent(tree, "", "    ")
	}
	return map[string][]byte{
		"chat": chatBody(10 << 10), "ascii": withText("plain text "), "code": withText(`if x {\n\t\treturn \"y\"\n}\n`),
		"french": withText("Les élèves étaient très âgés. "), "japanese": withText("日本語の文章です。"), "pretty": pretty,
	}
}

func BenchmarkCheck(b *testing.B) {
	for name, body := range chatBodies() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := jsonscan.Check(body, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	p := compile(b, chatPointers...)
	for name, body := range chatBodies() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var room [8]jsonscan.Value
			for b.Loop() {
				if _, err := p.Find(room[:0], body, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFindInSmallBody(b *testing.B) {
	p := compile(b, chatPointers...)
	body := []byte(`{"model":"weir-story","messages":[{"role":"user","content":"Hello there"}],"max_tokens":20,"stream":false}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	var room [8]jsonscan.Value
	for b.Loop() {
		if _, err := p.Find(room[:0], body, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendCanonical(b *testing.B) {
	ignore := compile(b, "/user", "/metadata", "/stream_options")
	for name, body := range chatBodies() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			dst := make([]byte, 0, 2*len(body))
			for b.Loop() {
				if _, err := jsonscan.AppendCanonical(dst, body, ignore, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncodingJSON is the yardstick: the standard library on the same body.
func BenchmarkEncodingJSON(b *testing.B) {
	body := chatBody(10 << 10)
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("valid", func() error {
		if !json.Valid(body) {
			return fmt.Errorf("not valid")
		}
		return nil
	})
	run("five members", func() error {
		var v struct {
			Model         string  `json:"model"`
			Stream        bool    `json:"stream"`
			MaxTokens     int     `json:"max_tokens"`
			Temperature   float64 `json:"temperature"`
			StreamOptions struct {
				IncludeUsage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		return json.Unmarshal(body, &v)
	})
	run("tree and back", func() error {
		var tree any
		if err := json.Unmarshal(body, &tree); err != nil {
			return err
		}
		_, err := json.Marshal(tree)
		return err
	})
}

func BenchmarkWorstMegabyte(b *testing.B) {
	for name, body := range worstCases(1 << 20) {
		b.Run("check/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := jsonscan.Check(body, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("canonical/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jsonscan.AppendCanonical(nil, body, nil, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
