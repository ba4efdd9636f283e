package telemetry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxBrief is the longest text, in bytes, that Brief returns.
const maxBrief = 160

// Brief is what a log may tell of a message that others wrote, such as a model server: it
// may repeat what it was asked. Every part in quotes of any kind, in back quotes, braces or
// brackets becomes "…", to the end where such a part does not end, and of the rest at most
// 160 bytes are left. What a message repeats without any of these stays.
func Brief(message string) string {
	var out strings.Builder
	before := rune(0)
	for i := 0; i < len(message) && out.Len() < maxBrief; {
		r, size := utf8.DecodeRuneInString(message[i:])
		if end := enclosed(message[i:], before, r); end > 0 {
			out.WriteString("…")
			i, before = i+end, '…'
			continue
		}
		out.WriteString(message[i : i+size])
		i, before = i+size, r
	}
	return strings.ToValidUTF8(first(out.String(), maxBrief), "")
}

// first returns at most n bytes of s, without half a character at the end.
func first(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// enclosed is how long the part is that begins with r, the first character of s, and 0
// where r begins none. before is the character in front of it: an apostrophe in a word
// begins nothing.
func enclosed(s string, before, r rune) int {
	switch {
	case strings.ContainsRune("{[", r):
		return bracketed(s)
	case closing(r) == 0 || r == '\'' && isWord(before):
		return 0
	}
	return quoted(s, closing(r))
}

// closing is what ends a part that r begins; 0 where it begins none.
func closing(r rune) rune {
	switch r {
	case '"', '\'', '`':
		return r
	case '“', '„':
		return '”'
	case '‘':
		return '’'
	case '«':
		return '»'
	}
	return 0
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// quoted is the length of s up to the end of its quotes: all of it where they have none.
// What a backslash stands before ends nothing, nor does an apostrophe in a word.
func quoted(s string, end rune) int {
	_, i := utf8.DecodeRuneInString(s)
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		switch {
		case r == '\\':
			_, next := utf8.DecodeRuneInString(s[i:])
			i += next
		case r == end:
			if after, _ := utf8.DecodeRuneInString(s[i:]); end != '\'' && end != '’' || !isWord(after) {
				return i
			}
		}
	}
	return len(s)
}

// bracketed is the length of s up to the bracket that ends what its first one begins: all
// of it where there is none. Brackets in quotes count for nothing.
func bracketed(s string) int {
	depth, before := 0, rune(0)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '{' || r == '[':
			depth++
		case r == '}' || r == ']':
			if depth--; depth == 0 {
				return i + size
			}
		case closing(r) != 0 && (r != '\'' || !isWord(before)):
			i, before = i+quoted(s[i:], closing(r)), r
			continue
		}
		i, before = i+size, r
	}
	return len(s)
}
