package jsonscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// form says how a string is written, from what needs no work to what needs most.
type form uint8

const (
	verbatim  form = iota // no escapes: the bytes are the text
	escaped               // only escapes that the canonical form has too
	rewritten             // other escapes: \/ and \u
)

// Eight bytes are looked at as one word. (x-ones)&^x&highs has the lowest set
// bit in the first byte of x that is 0; bytes above that one may be wrong.
// Source: Anderson, Bit Twiddling Hacks, "Determine if a word has a zero byte".
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special has a high bit set in the first byte of x that is a quote, a
// backslash, a control character or not ASCII, and none if there is no such
// byte.
func special(x uint64) uint64 {
	quote, backslash := x^('"'*ones), x^('\\'*ones)
	return ((quote-ones)&^quote | (backslash-ones)&^backslash | (x-' '*ones)&^x | x) & highs
}

// text reads a string from behind its opening quote at i to behind the closing
// one. Most of a body is text: what is common stays in this loop.
func (s *scanner) text(i int) (int, form) {
	b, f := s.body, verbatim
	for i < len(b) {
		if i+8 <= len(b) {
			m := special(binary.LittleEndian.Uint64(b[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, f
		case c == '\\':
			if i+1 >= len(b) || !isShort(b[i+1]) {
				if i = s.escape(i); i == failed {
					return failed, f
				}
				f = rewritten
				continue
			}
			f = max(f, escaped)
			i += 2
			for i+1 < len(b) && b[i] == '\\' && isShort(b[i+1]) { // they come in runs
				i += 2
			}
		case c < ' ':
			return s.fail(i, "control characters written as \\u escapes"), f
		case c < utf8.RuneSelf: // among the last seven bytes
			i++
		case c >= 0xc2 && c < 0xe0 && i+1 < len(b) && b[i+1]&0xc0 == 0x80:
			i += 2
		default:
			n := sequence(b[i:])
			if n == 0 {
				return s.fail(i, "UTF-8"), f
			}
			i += n
		}
	}
	return s.fail(i, "a closing quote"), f
}

// isShort tells whether a backslash and c are an escape that the canonical form
// has too.
func isShort(c byte) bool {
	const (
		low  uint64 = 1 << '"'
		high uint64 = 1<<('\\'-64) | 1<<('b'-64) | 1<<('f'-64) | 1<<('n'-64) | 1<<('r'-64) | 1<<('t'-64)
	)
	return c < 64 && low>>c&1 != 0 || c >= 64 && c < 128 && high>>(c-64)&1 != 0
}

// sequence returns the length of the characters outside ASCII that b begins
// with, 0 if the first is not UTF-8. It stops at the first that is not.
func sequence(b []byte) int {
	i := 0
	for i < len(b) && b[i] >= utf8.RuneSelf {
		if i+2 < len(b) && b[i]&0xf0 == 0xe0 { // most scripts: three bytes
			r := rune(b[i]&0xf)<<12 | rune(b[i+1]&0x3f)<<6 | rune(b[i+2]&0x3f)
			if b[i+1]&0xc0 == 0x80 && b[i+2]&0xc0 == 0x80 && r >= 0x800 && !utf16.IsSurrogate(r) {
				i += 3
				continue
			}
			break
		}
		_, n := utf8.DecodeRune(b[i:])
		if n == 1 {
			break
		}
		i += n
	}
	return i
}

// escape checks the escape whose backslash is at i, one that is not short.
func (s *scanner) escape(i int) int {
	if i+1 >= len(s.body) {
		return s.fail(i+1, "an escape")
	}
	switch s.body[i+1] {
	case '/':
		return i + 2
	case 'u':
	default:
		return s.fail(i+1, `one of "\/bfnrtu`)
	}
	for k := i + 2; k < i+6; k++ {
		if k >= len(s.body) || hexValue(s.body[k]) < 0 {
			return s.fail(k, "a hexadecimal digit")
		}
	}
	r := fourHex(s.body[i+2:])
	if s.canon == nil || !utf16.IsSurrogate(r) {
		return i + 6
	}
	if r >= 0xdc00 || !hasLow(s.body[i+6:]) {
		return s.fail(i, "both halves of a surrogate pair")
	}
	return i + 12
}

// hasLow tells whether b begins with the escape of a low surrogate.
func hasLow(b []byte) bool {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return false
	}
	for _, c := range b[2:6] {
		if hexValue(c) < 0 {
			return false
		}
	}
	r := fourHex(b[2:])
	return 0xdc00 <= r && r < 0xe000
}

// unescape decodes the escape that b begins with; text has checked it. A lone
// surrogate comes back as it is. n is the length of the escape.
func unescape(b []byte) (r rune, n int) {
	switch b[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r = fourHex(b[2:])
		if 0xd800 <= r && r < 0xdc00 && hasLow(b[6:]) {
			return utf16.DecodeRune(r, fourHex(b[8:])), 12
		}
		return r, 6
	}
	return rune(b[1]), 2
}

// appendText appends the text of a string, given without its quotes. A lone
// surrogate becomes U+FFFD, or, with keep, the three bytes that UTF-8 would have
// for it: no valid text contains those, so different names stay different.
func appendText(dst, b []byte, keep bool) []byte {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		r, n := unescape(b[i:])
		if keep && utf16.IsSurrogate(r) {
			dst = append(dst, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
		} else {
			dst = utf8.AppendRune(dst, r)
		}
		b = b[i+n:]
	}
}

// appendRewritten appends a string, given without its quotes, with the fewest
// escapes: only quote, backslash and control characters are escaped, as \b \t \n
// \f \r where these exist, else as \u00 and two lower-case digits. It is the way
// of RFC 8785, section 3.2.2.2.
func appendRewritten(dst, b []byte) []byte {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		r, n := unescape(b[i:])
		switch short := shortEscape(r); {
		case short != 0:
			dst = append(dst, '\\', short)
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&0xf])
		default:
			dst = utf8.AppendRune(dst, r)
		}
		b = b[i+n:]
	}
}

// shortEscape returns the letter of the short escape of r, 0 if r has none or
// needs none.
func shortEscape(r rune) byte {
	switch r {
	case '"', '\\':
		return byte(r)
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	}
	return 0
}

const hexDigits = "0123456789abcdef"

// fourHex decodes the four hexadecimal digits that b begins with.
func fourHex(b []byte) rune {
	return hexValue(b[0])<<12 | hexValue(b[1])<<8 | hexValue(b[2])<<4 | hexValue(b[3])
}

// hexValue returns the value of the digit c, -1 if it is none.
func hexValue(c byte) rune {
	if digit(c) {
		return rune(c - '0')
	}
	if c |= 0x20; 'a' <= c && c <= 'f' {
		return rune(c-'a') + 10
	}
	return -1
}
