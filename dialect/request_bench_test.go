package dialect_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
)

// chatOf makes a chat request of about size bytes: turns of 400.
func chatOf(size int) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"llama-3.1-8b","temperature":0.7,"max_tokens":512,"stream":true,"messages":[{"role":"system","content":"You are a helpful assistant."}`)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"}`, strings.Repeat("Tell me \\\"more\\\" about it. ", 13))
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 40 << 10} {
		b.Run(fmt.Sprintf("chat of %d KiB", size>>10), func(b *testing.B) {
			d, body := dialect.OpenAI(), chatOf(size)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if c := d.Read(dialect.Request{Method: "POST", Path: "/v1/chat/completions", Body: body}); c.Err != nil {
					b.Fatal(c.Err)
				}
			}
		})
	}
}

// TestReadAllocatesLittle counts: one for the Call, one for its model, one that
// jsonscan needs, one for what Body is to put in.
func TestReadAllocatesLittle(t *testing.T) {
	d, body := dialect.OpenAI(), chatOf(4<<10)
	if n := testing.AllocsPerRun(100, func() {
		d.Read(dialect.Request{Method: "POST", Path: "/v1/chat/completions", Body: body})
	}); n > 4 {
		t.Errorf("%v allocations, want at most 4", n)
	}
}
