package dialect

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// takeApart puts the values of the members of raw, an object, into values, each at
// the place of its name in names; what raw lacks is nil. It reports false if raw is
// no object or has another member than these: nobody knows what that would be in
// another form. raw is a part of what jsonscan.Check has seen. A name that is
// written with escapes is another.
func takeApart(raw []byte, names []string, values [][]byte) bool {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	for w := jsonscan.Into(raw); ; {
		name, ok := w.Next()
		if !ok {
			return true
		}
		value, _ := w.Next()
		i := slices.Index(names, string(name[1:len(name)-1]))
		if i < 0 {
			return false
		}
		values[i] = value
	}
}

// appendMember appends a member to dst, an object without its last brace; nothing
// where value is nil.
func appendMember(dst []byte, name string, value []byte) []byte {
	if value == nil {
		return dst
	}
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), name...), '"', ':')
	return append(dst, value...)
}

// object is an object of the members that have a value.
func object(names []string, values [][]byte) []byte {
	out := []byte{'{'}
	for i, name := range names {
		out = appendMember(out, name, values[i])
	}
	return append(out, '}')
}

// appendElement appends an element to dst, an array without its last bracket.
func appendElement(dst, value []byte) []byte {
	if dst[len(dst)-1] != '[' {
		dst = append(dst, ',')
	}
	return append(dst, value...)
}

func isNull(raw []byte) bool   { return string(raw) == "null" }
func isString(raw []byte) bool { return len(raw) > 0 && raw[0] == '"' }
func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }
func isArray(raw []byte) bool  { return len(raw) > 0 && raw[0] == '[' }

// isAbsent reports whether there is no member, or it is null.
func isAbsent(raw []byte) bool { return raw == nil || isNull(raw) }

// isEmptyText reports whether raw is "".
func isEmptyText(raw []byte) bool { return string(raw) == `""` }

// isText reports whether raw is this string, which needs no escapes.
func isText(raw []byte, text string) bool {
	return len(raw) == len(text)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == text
}

// isCount reports whether raw is a whole number of 0 or more.
func isCount(raw []byte) bool {
	_, ok := wholeNumber(raw)
	return ok
}

// wholeNumber is a whole number of 0 or more, written with at most 18 digits and
// nothing else.
func wholeNumber(raw []byte) (n int64, ok bool) {
	if len(raw) == 0 || len(raw) > 18 {
		return 0, false
	}
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// appendCount appends a number.
func appendCount(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// compacted is body without the white space between its tokens: what stands in one
// line of a stream. ok is false if it is not one JSON value, each of whose objects
// has a name once.
func compacted(body []byte, depth int) (text []byte, ok bool) {
	if jsonscan.Check(body, depth) != nil {
		return nil, false
	}
	var b bytes.Buffer
	b.Grow(len(body))
	if json.Compact(&b, body) != nil {
		return nil, false
	}
	return b.Bytes(), true
}

// quoted is a string in JSON that means text, which is compacted JSON: it has no
// letter that needs another escape.
func quoted(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/8+2)
	out = append(out, '"')
	for _, c := range text {
		if c == '"' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, c)
	}
	return append(out, '"')
}

// sameMember is a member that says the same wherever it stands. Its zero value has not
// been seen; null is replaced by whatever else comes.
type sameMember struct{ raw []byte }

// add reports whether raw agrees with what was said before; nil always does.
func (s *sameMember) add(raw []byte) bool {
	switch {
	case raw == nil:
	case isAbsent(s.raw):
		s.raw = raw
	case !isNull(raw):
		return bytes.Equal(s.raw, raw)
	}
	return true
}

// joinedText is a string that comes in pieces, as it is written. It is missing, null, or
// the pieces so far.
type joinedText struct {
	pieces []byte // with the first quote
	null   bool
}

// add appends a piece. It reports false for what is no string, and for half a
// surrogate pair: apart it means something else than together.
func (t *joinedText) add(raw []byte) bool {
	switch {
	case raw == nil:
	case isNull(raw):
		t.null = true
	case !isString(raw), strings.HasPrefix(string(raw[1:min(len(raw), 5)]), `\u`) && isLowSurrogate(raw[3:5]):
		return false
	default:
		if t.pieces == nil {
			t.pieces = []byte{'"'}
		}
		t.pieces = append(t.pieces, raw[1:len(raw)-1]...)
	}
	return true
}

// isLowSurrogate reports whether an escape that begins with these digits is the
// second half of a pair.
func isLowSurrogate(digits []byte) bool {
	return (digits[0] == 'd' || digits[0] == 'D') && strings.IndexByte("cdefCDEF", digits[1]) >= 0
}

// empty reports whether no letter has come.
func (t *joinedText) empty() bool { return len(t.pieces) <= 1 }

// raw is the string, null, or nil if nothing was said.
func (t *joinedText) raw() []byte {
	switch {
	case t.pieces != nil:
		return append(t.pieces, '"')
	case t.null:
		return []byte("null")
	}
	return nil
}

// joinedList is an array that comes in pieces. It is missing, null, or the elements so
// far.
type joinedList struct {
	elements []byte // with the first bracket
	null     bool
}

// add appends the elements of an array.
func (l *joinedList) add(raw []byte) bool {
	switch {
	case raw == nil:
	case isNull(raw):
		l.null = true
	case !isArray(raw):
		return false
	default:
		if l.elements == nil {
			l.elements = []byte{'['}
		}
		if inner := bytes.Trim(raw[1:len(raw)-1], jsonSpace); len(inner) > 0 {
			l.elements = appendElement(l.elements, inner)
		}
	}
	return true
}

// empty reports whether there is no element.
func (l *joinedList) empty() bool { return len(l.elements) <= 1 }

// raw is the array, null, or nil if nothing was said.
func (l *joinedList) raw() []byte {
	switch {
	case l.elements != nil:
		return append(l.elements, ']')
	case l.null:
		return []byte("null")
	}
	return nil
}
