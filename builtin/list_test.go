package builtin

import (
	"encoding/json"
	"slices"
	"testing"
)

func FuzzElements(f *testing.F) {
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
		for i, raw := range elements(value) {
			if i != len(got) {
				t.Fatalf("%q: element %d is number %d", text, len(got), i)
			}
			got = append(got, raw)
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if isEmpty(value) != (len(want) == 0) {
			t.Errorf("%q: empty: %v", text, isEmpty(value))
		}
	})
}
