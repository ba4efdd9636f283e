package dialect

import "bytes"

// walk steps through the elements of an array, or through the names and values
// of an object in turn. It reads only what jsonscan has found in a body that it
// checked: whether this is JSON is no longer asked, and other input gives
// nonsense, but ends.
type walk struct {
	raw []byte
	end int // of what has been seen
}

// into begins a walk through the array or object raw.
func into(raw []byte) walk { return walk{raw, 1} }

// next returns the next value as it is written, and whether there was one.
func (w *walk) next() (value []byte, ok bool) {
	i, ok := w.start()
	if !ok {
		return nil, false
	}
	w.end = min(valueEnd(w.raw, i), len(w.raw)-1)
	return w.raw[i:w.end:w.end], true
}

// start returns where the next value begins, and whether there is one.
func (w *walk) start() (at int, ok bool) {
	i := w.end
	for i < len(w.raw)-1 && separates(w.raw[i]) {
		i++
	}
	return i, i < len(w.raw)-1
}

// elements counts the elements of the array raw.
func elements(raw []byte) int {
	n := 0
	for w := into(raw); ; n++ {
		if _, ok := w.next(); !ok {
			return n
		}
	}
}

// member finds the member of the object raw whose name is written as name, quotes
// and all: its value is raw[from:to], or to is 0. plain is false if a name has
// escapes: it may then be any name.
func member(raw []byte, name string) (value span, plain bool) {
	plain = true
	for w := into(raw); ; {
		n, ok := w.next()
		if !ok {
			return value, plain
		}
		v, _ := w.next()
		if string(n) == name {
			value = span{w.end - len(v), w.end}
		}
		plain = plain && bytes.IndexByte(n, '\\') < 0
	}
}

// span is a part of a body.
type span struct{ from, to int }

func separates(c byte) bool { return c == ',' || c == ':' || blank(c) }

func blank(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// valueEnd returns the place behind the value that begins at i.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return stringEnd(b, i)
	case '[', '{':
	default:
		for i++; i < len(b) && !separates(b[i]) && b[i] != ']' && b[i] != '}'; {
			i++
		}
		return i
	}
	for open := 0; i < len(b); {
		switch b[i] {
		case '"':
			i = stringEnd(b, i)
			continue
		case '[', '{':
			open++
		case ']', '}':
			if open--; open == 0 {
				return i + 1
			}
		}
		i++
	}
	return i
}

// stringEnd returns the place behind the string whose first quote is at i.
func stringEnd(b []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		from := i
		i += n
		slashes := 0
		for i-slashes > from && b[i-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

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
