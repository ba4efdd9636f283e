package dialect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/inferweir/weir/internal/jsonscan"
)

// names are members of an object that a form reads. Servers written in Go, such as
// Ollama, and some in Java and C# take "Model" for "model", and where both are
// there, the last one: a body with a member that only looks like one of these is
// two requests to two readers.
type names struct {
	list []memberName
	// initials has a bit for each letter that a name begins with.
	initials uint32
}

type memberName struct {
	text   string
	inside *names // what is read inside it; nil: nothing, or not by name
}

// add notes what a pointer reads, one level deep and the next. Elements of lists
// have no names.
func (n *names) add(pointer string) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	i := slices.IndexFunc(n.list, func(m memberName) bool { return m.text == name })
	if i < 0 {
		i = len(n.list)
		n.list = append(n.list, memberName{text: name})
		n.initials |= bit(name[0])
	}
	if rest == "" || rest[0] <= '9' {
		return
	}
	if n.list[i].inside == nil {
		n.list[i].inside = new(names)
	}
	inside, _, _ := strings.Cut(rest, "/")
	n.list[i].inside.add(inside)
}

// bit is the place of a letter, either case, in names.initials; of what is none, 0.
func bit(c byte) uint32 {
	if c |= ' '; c < 'a' || c > 'z' {
		return 0
	}
	return 1 << (c - 'a')
}

// lookalike returns an error if the object at body[from:] has a member that looks
// like one of n, or holds one. The values in known are passed over as a whole.
func (n *names) lookalike(body []byte, from int, known []jsonscan.Value) error {
	for w := jsonscan.Into(body[from:]); ; {
		name, ok := w.Next()
		if !ok {
			return nil
		}
		m, err := n.find(name[1 : len(name)-1])
		if err != nil {
			return err
		}
		at, ok := w.Start()
		if !ok {
			return nil
		}
		end := knownEnd(known, from+at)
		if end <= from+at {
			end = jsonscan.ValueEnd(body, from+at)
		}
		w.Skip(end - from)
		if m != nil && m.inside != nil && body[from+at] == '{' {
			if err := m.inside.lookalike(body[:end], from+at, nil); err != nil {
				return err
			}
		}
	}
}

// knownEnd returns the place behind the one of values that begins at the place at,
// 0 if none does.
func knownEnd(values []jsonscan.Value, at int) int {
	for _, v := range values {
		if v.Offset() == at {
			return at + len(v.Raw())
		}
	}
	return 0
}

// find returns the member that name, as it is written between its quotes, is. The
// error is of one that is none, but for its capitals.
func (n *names) find(name []byte) (*memberName, error) {
	if len(name) == 0 {
		return nil, nil
	}
	if c := name[0]; c != '\\' && c < utf8.RuneSelf && n.initials&bit(c) == 0 {
		return nil, nil
	}
	for i := range n.list {
		if m := &n.list[i]; m.text == string(name) {
			return m, nil
		}
	}
	var room [longestName]byte
	text, same := folded(room[:0], name)
	for i := range n.list {
		switch m := &n.list[i]; {
		case m.text != string(text):
		case same:
			return m, nil
		default:
			return nil, fmt.Errorf("JSON: %.100q: some servers take it for %q: want that name, or another", name, m.text)
		}
	}
	return nil, nil
}

// longestName is the length of the longest name in any names.
const longestName = 32

// folded appends a name, as it is written, in small letters and without escapes to
// dst, and reports whether nothing but escapes was changed. It folds as Go's
// encoding/json does. Where a name has a letter that folds to none of ASCII's, or
// is longer than dst has room, the result is nil.
func folded(dst, name []byte) (text []byte, same bool) {
	same = true
	for len(name) > 0 {
		r, size := letter(name)
		name = name[size:]
		small := fold(r)
		if small >= utf8.RuneSelf || len(dst) == cap(dst) {
			return nil, false
		}
		same = same && small == r
		dst = append(dst, byte(small))
	}
	return dst, same
}

// fold is the small letter of a letter. Two beyond ASCII have one within: the long
// s and the sign of Kelvin.
func fold(r rune) rune {
	switch {
	case 'A' <= r && r <= 'Z':
		return r + 'a' - 'A'
	case r == 'ſ':
		return 's'
	case r == '\u212a':
		return 'k'
	}
	return r
}

// letter returns the first letter of a name as it is written, and how many bytes
// that takes. Escapes other than \u are none that names here have.
func letter(name []byte) (r rune, size int) {
	switch {
	case name[0] < utf8.RuneSelf && name[0] != '\\':
		return rune(name[0]), 1
	case name[0] != '\\':
		return utf8.DecodeRune(name)
	case len(name) >= 6 && name[1] == 'u':
		if n, err := strconv.ParseUint(string(name[2:6]), 16, 16); err == nil {
			return rune(n), 6
		}
	}
	return utf8.RuneError, min(2, len(name))
}
