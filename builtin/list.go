package builtin

import (
	"bytes"
	"iter"
)

// elements gives the elements of list, an array that jsonscan found, in turn, as
// they are written and with their numbers; of an object, it gives the names and
// values. Nothing is allocated, and what is behind the element at which the
// caller stops is not looked at.
func elements(list []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		last := len(list) - 1 // the bracket
		at := 1
		for n := 0; ; n++ {
			for at < last && separates(list[at]) {
				at++
			}
			if at >= last {
				return
			}
			end := valueEnd(list[:last], at)
			if !yield(n, list[at:end:end]) {
				return
			}
			at = end
		}
	}
}

// isEmpty tells whether an array or object that jsonscan found has nothing in it.
func isEmpty(raw []byte) bool {
	return len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}

func separates(c byte) bool {
	return c == ',' || c == ':' || c == ' ' || c == '\n' || c == '\r' || c == '\t'
}

// valueEnd returns the place behind the value that begins at i. b is part of a
// body that is JSON.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return stringEnd(b, i)
	case '[', '{':
	default:
		for i < len(b) && !separates(b[i]) {
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
	return len(b)
}

// stringEnd returns the place behind the string whose first quote is at i.
func stringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}
