package jsonscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// name tells whether s is within a member's name.
func (s state) name() bool {
	return s == inName || s == inNameEscape || s == inNameHex || s == inNameCharacter
}

// within returns the state for a part of a string: of a value, or of a name if
// the Scanner is in one.
func (s *Scanner) within(value, name state) state {
	if s.state.name() {
		return name
	}
	return value
}

// inString reads on in a string. It is scanner.text for a text in pieces.
func (s *Scanner) inString(b []byte, i int) int {
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
			if s.state == inName {
				s.endName(b[max(s.nameFrom, 0):i])
				return i + 1
			}
			return s.ended(b, i+1)
		case c == '\\':
			if i+1 >= len(b) || !isShort(b[i+1]) {
				s.state = s.within(inEscape, inNameEscape)
				return i + 1
			}
			for i += 2; i+1 < len(b) && b[i] == '\\' && isShort(b[i+1]); { // they come in runs
				i += 2
			}
		case c < ' ':
			return s.fail(b, i, "control characters written as \\u escapes")
		case c < utf8.RuneSelf: // among the last seven bytes
			i++
		default:
			n := sequence(b[i:])
			if n == 0 {
				s.state, s.length = s.within(inCharacter, inNameCharacter), 0
				return s.inPartOfString(b, i)
			}
			i += n
		}
	}
	return i
}

// inPartOfString reads on in an escape, or in a character that is cut or wrong.
func (s *Scanner) inPartOfString(b []byte, i int) int {
	for ; i < len(b); i++ {
		c := b[i]
		switch s.state {
		case inEscape, inNameEscape:
			if c == 'u' {
				s.state, s.count = s.within(inHex, inNameHex), 0
				continue
			}
			if c != '/' && !isShort(c) {
				return s.fail(b, i, `one of "\/bfnrtu`)
			}
		case inHex, inNameHex:
			if hexValue(c) < 0 {
				return s.fail(b, i, "a hexadecimal digit")
			}
			if s.count++; s.count < 4 {
				continue
			}
		default: // in a character
			s.sequence[s.length] = c
			s.length++
			if !utf8.FullRune(s.sequence[:s.length]) {
				continue
			}
			if r, n := utf8.DecodeRune(s.sequence[:s.length]); r == utf8.RuneError && n == 1 {
				s.offset += i + 1 // that of the character counts from here
				s.err = s.notUTF8()
				return len(b)
			}
		}
		s.state = s.within(inText, inName)
		return i + 1
	}
	return i
}

// notUTF8 is the error of the character that is being read, up to s.offset.
func (s *Scanner) notUTF8() error {
	return &SyntaxError{Offset: s.offset - s.length, Found: found(s.sequence[:], 0), Want: "UTF-8"}
}

// beginName begins a name at byte i of the piece.
func (s *Scanner) beginName(i int) {
	s.state, s.name, s.nameFrom = inName, s.name[:0], -1
	if at := s.levels[len(s.levels)-1].node; at != nowhere && len(s.trie[at].kids) > 0 {
		s.nameFrom = i
	}
}

// keepName notes a part of a name. A name that is longer than any pointer's is
// not needed whole: one byte too many tells it.
func (s *Scanner) keepName(part []byte) {
	s.name = append(s.name, part[:min(len(part), s.longest+1-len(s.name))]...)
}

// endName ends a name with its last part, and finds the node of its value.
func (s *Scanner) endName(last []byte) {
	s.state = beforeColon
	if s.nameFrom < 0 {
		s.at = nowhere
		return
	}
	name := last
	if len(s.name) > 0 {
		s.keepName(last)
		name = s.name
	}
	if len(name) > s.longest {
		s.at = nowhere
		return
	}
	if bytes.IndexByte(name, '\\') >= 0 {
		s.text = appendText(s.text[:0], name, true)
		name = s.text
	}
	s.at = s.trie.child(s.levels[len(s.levels)-1].node, name)
}
