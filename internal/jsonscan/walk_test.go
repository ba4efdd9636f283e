package jsonscan_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/inferweir/weir/internal/jsonscan"
)

// TestWalkEnds gives Walk what a Value never is: each step must get on.
func TestWalkEnds(t *testing.T) {
	for _, raw := range []string{"", "[", "]", "[]", "[]]]]", "[}]", `["]`, `[""]`, "[[", "[:,]", "[1}2]", `{"a"}`, `{"a":}`, "{{{{"} {
		if n := jsonscan.Elements([]byte(raw)); n > len(raw) {
			t.Errorf("%q: %d elements", raw, n)
		}
	}
}

func FuzzWalk(f *testing.F) {
	for _, list := range []string{
		`[]`, `[ ]`, `[1]`, ` [ "a" , "]\\" ,[[],"[" ], {"a]":"}\""} ,-1.5e3,true, null ]`, `["\\\"",2]`, "[\n\t1\r,{}]",
	} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want []json.RawMessage
		var value json.RawMessage
		if json.Unmarshal([]byte(text), &want) != nil || want == nil {
			return
		}
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		got := []json.RawMessage{}
		w := jsonscan.Into(value)
		for raw, ok := w.Next(); ok; raw, ok = w.Next() {
			if end := w.End(); string(value[end-len(raw):end]) != string(raw) {
				t.Fatalf("%q: %q ends at %d", text, raw, end)
			}
			got = append(got, raw)
		}
		if !slices.EqualFunc(got, want, slices.Equal) || jsonscan.Elements(value) != len(want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	})
}
