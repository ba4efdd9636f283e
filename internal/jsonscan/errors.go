package jsonscan

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// SyntaxError says where a body stops being JSON.
type SyntaxError struct {
	// Offset is the byte at which reading stopped, from 0. It is the length of
	// the body where the body ends too early.
	Offset int
	// Found is that byte, for example "'x'" or "byte 0xff", or "the end".
	Found string
	// Want says what would have been right there, for example "a value".
	Want string
}

// Error names the place, what is there and what would be right.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("JSON: offset %d: %s: want %s", e.Offset, e.Found, e.Want)
}

// DepthError says that a body nests arrays and objects too deeply.
type DepthError struct {
	// Offset is the byte that opens the first level too many.
	Offset int
	// Depth is the number of levels that were allowed.
	Depth int
}

// Error names the place and the bound.
func (e *DepthError) Error() string {
	return fmt.Sprintf("JSON: offset %d: nested too deeply: want at most %d levels", e.Offset, e.Depth)
}

// DuplicateError says that an object has two members of one name.
type DuplicateError struct {
	// Pointer is the JSON pointer (RFC 6901) that both members have. It is as
	// long as the body makes it, and comes from there: quote it.
	Pointer string
}

// Error names the member; a long pointer is cut.
func (e *DuplicateError) Error() string {
	return "JSON: " + strconv.Quote(clip(e.Pointer)) + ": two members of this name: want one"
}

// clip cuts s, which a client chose, to a length that a log line can bear.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// found describes the byte of body at i for SyntaxError.Found.
func found(body []byte, i int) string {
	if i >= len(body) {
		return "the end"
	}
	if c := body[i]; c > ' ' && c < 0x7f {
		return "'" + string(rune(c)) + "'"
	}
	return fmt.Sprintf("byte 0x%02x", body[i])
}
