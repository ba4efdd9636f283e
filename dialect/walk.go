package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
)

// member finds the member of the object raw whose name is written as name, quotes
// and all: its value is raw[from:to], or to is 0. plain is false if a name has
// escapes: it may then be any name.
func member(raw []byte, name string) (value span, plain bool) {
	plain = true
	for w := jsonscan.Into(raw); ; {
		n, ok := w.Next()
		if !ok {
			return value, plain
		}
		v, _ := w.Next()
		if string(n) == name {
			value = span{w.End() - len(v), w.End()}
		}
		plain = plain && bytes.IndexByte(n, '\\') < 0
	}
}

// span is a part of a body.
type span struct{ from, to int }

// spanOf is where in a body a value stands.
func spanOf(v jsonscan.Value) span { return span{v.Offset(), v.Offset() + len(v.Raw())} }

// edit puts text in the place of length bytes of a body.
type edit struct {
	at, length int
	text       []byte
}

// apply returns a copy of body with the edits made. They are in the order of
// their places and do not overlap.
func apply(body []byte, edits ...edit) []byte {
	size := len(body)
	for _, e := range edits {
		size += len(e.text) - e.length
	}
	out := make([]byte, 0, size)
	from := 0
	for _, e := range edits {
		out = append(append(out, body[from:e.at]...), e.text...)
		from = e.at + e.length
	}
	return append(out, body[from:]...)
}
