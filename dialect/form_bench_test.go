package dialect_test

import (
	"bytes"
	"testing"
)

// BenchmarkConvert converts a chat of 500 pieces.
func BenchmarkConvert(b *testing.B) {
	s, recorded := shapes()["chat"], streamFiles(b)["chat-text"]
	events := bytes.SplitAfter(recorded, []byte("\n\n"))
	stream := bytes.Join([][]byte{events[0], bytes.Repeat(events[1], 500), bytes.Join(events[2:], nil)}, nil)
	whole, _ := s.convert("whole", "stream+usage", stream)
	for _, c := range []struct {
		to, from string
		body     []byte
	}{{"whole", "stream+usage", stream}, {"stream", "stream+usage", stream}, {"stream+usage", "whole", whole}} {
		b.Run(c.from+" to "+c.to, func(b *testing.B) {
			call := s.call(c.to)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := call.Convert(c.from, s.contentType(c.from), c.body); !ok {
					b.Fatal("not made")
				}
			}
		})
	}
}
