package jsonscan

import "bytes"

// Walk steps through the elements of an array, or through the names and values of
// an object in turn, without allocating. It is for the Raw of a Value, and for
// parts of that: whether this is JSON is no longer asked. Other bytes give
// nonsense, but end.
type Walk struct {
	raw []byte
	end int // of what has been seen
}

// Into begins a walk through raw, an array or object with its brackets.
func Into(raw []byte) Walk { return Walk{raw, 1} }

// Next returns the next value as it is written, a part of raw, and whether there
// was one.
func (w *Walk) Next() (value []byte, ok bool) {
	i, ok := w.Start()
	if !ok {
		return nil, false
	}
	w.end = min(ValueEnd(w.raw, i), len(w.raw)-1)
	return w.raw[i:w.end:w.end], true
}

// Start returns where in raw the next value begins, and whether there is one.
func (w *Walk) Start() (at int, ok bool) {
	i := w.end
	for i < len(w.raw)-1 && separates(w.raw[i]) {
		i++
	}
	return i, i < len(w.raw)-1
}

// End returns the place in raw behind what has been seen.
func (w *Walk) End() int { return w.end }

// Skip goes on behind the place end: the caller knows what stands there.
func (w *Walk) Skip(end int) { w.end = end }

// Elements counts the elements of the array raw.
func Elements(raw []byte) int {
	n := 0
	for w := Into(raw); ; n++ {
		if _, ok := w.Next(); !ok {
			return n
		}
	}
}

func separates(c byte) bool { return c == ',' || c == ':' || IsSpace(c) }

// IsSpace reports whether c is white space between tokens.
func IsSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// ValueEnd returns the place in b behind the value that begins at i.
func ValueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return StringEnd(b, i)
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
			i = StringEnd(b, i)
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

// StringEnd returns the place in b behind the string whose first quote is at i.
func StringEnd(b []byte, i int) int {
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
