package jsonscan

import (
	"fmt"
	"math"
	"strconv"
)

const (
	// DefaultDepth is how many levels of arrays and objects a body may nest
	// where the caller names no number: far more than any request needs.
	DefaultDepth = 100

	// maxDepth bounds the recursion, and with it the goroutine's stack, whatever
	// the caller asks for. It is the bound of encoding/json.
	maxDepth = 10_000

	// failed is the position that scanning functions return after an error, which
	// is then in scanner.err: cheaper on the hot path than a second result.
	failed = -1
)

// Check reads body once and returns nil if it is one JSON value. Otherwise the
// error is a *SyntaxError, a *DepthError, a *DuplicateError or, for bodies of
// 2 GiB and more, a plain one. An array or object is one level deeper than what
// holds it; depth is the most levels, 0 or less means DefaultDepth, and more
// than 10,000 means 10,000.
//
// Escapes of lone surrogates, such as "\ud800", are within the grammar and
// pass: what they mean is up to who reads the string.
func Check(body []byte, depth int) error {
	s := newScanner(body, depth)
	return s.document(nowhere)
}

// scanner walks a body. Every method takes the position where it starts and
// returns the one after what it read, or failed.
type scanner struct {
	body  []byte
	depth int // levels allowed
	level int // levels open
	err   error
	trail []string // after a duplicate: the names from it outwards

	names     []name // the members of all open objects, innermost last
	unescaped []byte // the names among them that hold escapes
	index     index
	order     []uint32

	trie  trie           // nil: no pointers
	spans [maxPaths]span // where each pointer's value is

	canon *canon // nil: no output
}

// span is a part of a text: [from, to). Offsets have 32 bits throughout: the
// lists made of them are half the size, and document refuses longer bodies.
type span struct{ from, to uint32 }

// newScanner returns a scanner by value, so that it stays on the caller's stack.
func newScanner(body []byte, depth int) scanner {
	if depth <= 0 {
		depth = DefaultDepth
	}
	return scanner{body: body, depth: min(depth, maxDepth)}
}

// document reads the whole body as one value, at is the trie node of its root.
func (s *scanner) document(at int32) error {
	if len(s.body) > math.MaxInt32 {
		return fmt.Errorf("JSON: %d bytes: want at most %d", len(s.body), math.MaxInt32)
	}
	i := s.value(s.space(0), at)
	if i != failed {
		if i = s.space(i); i < len(s.body) {
			s.fail(i, "the end")
		}
	}
	if d, ok := s.err.(*DuplicateError); ok {
		d.Pointer = pointer(s.trail)
	}
	return s.err
}

func (s *scanner) fail(i int, want string) int {
	s.err = &SyntaxError{Offset: i, Found: found(s.body, i), Want: want}
	return failed
}

// space returns the first position from i on that holds no white space.
func (s *scanner) space(i int) int {
	b := s.body
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// value reads the value that starts at i. at is its node in the trie, or
// nowhere.
func (s *scanner) value(i int, at int32) int {
	if i >= len(s.body) {
		return s.fail(i, "a value")
	}
	end := failed
	switch c := s.body[i]; c {
	case '"':
		var form form
		if end, form = s.text(i + 1); end != failed && s.canon != nil {
			s.canon.text(s.body[i:end], form)
		}
	case '{':
		end = s.object(i, at)
	case '[':
		end = s.array(i, at)
	case 't':
		end = s.literal(i, "true")
	case 'f':
		end = s.literal(i, "false")
	case 'n':
		end = s.literal(i, "null")
	default:
		if c != '-' && !digit(c) {
			return s.fail(i, "a value")
		}
		if end = s.number(i); end != failed && s.canon != nil {
			s.canon.raw(s.body[i:end])
		}
	}
	if at != nowhere && end != failed {
		for _, id := range s.trie[at].ids {
			s.spans[id] = span{uint32(i), uint32(end)}
		}
	}
	return end
}

func (s *scanner) literal(i int, word string) int {
	for k := range len(word) {
		if i+k >= len(s.body) || s.body[i+k] != word[k] {
			return s.fail(i+k, word)
		}
	}
	end := i + len(word)
	if s.canon != nil {
		s.canon.raw(s.body[i:end])
	}
	return end
}

func (s *scanner) number(i int) int {
	b := s.body
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' { // no digit may follow
		i++
	} else if i = s.digits(i); i == failed {
		return failed
	}
	if i < len(b) && b[i] == '.' {
		if i = s.digits(i + 1); i == failed {
			return failed
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = s.digits(i)
	}
	return i
}

// digits reads one digit or more.
func (s *scanner) digits(i int) int {
	start := i
	for i < len(s.body) && digit(s.body[i]) {
		i++
	}
	if i == start {
		return s.fail(i, "a digit")
	}
	return i
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// enter opens a level at i, and leave closes it.
func (s *scanner) enter(i int) bool {
	if s.level == s.depth {
		s.err = &DepthError{Offset: i, Depth: s.depth}
		return false
	}
	s.level++
	return true
}

func (s *scanner) leave() { s.level-- }

func (s *scanner) array(i int, at int32) int {
	if !s.enter(i) {
		return failed
	}
	s.canon.open('[')
	if i = s.space(i + 1); i < len(s.body) && s.body[i] == ']' {
		s.leave()
		s.canon.close(']')
		return i + 1
	}
	for n := 0; ; n++ {
		if i = s.element(i, n, at); i == failed {
			return failed
		}
		if i = s.space(i); i >= len(s.body) || s.body[i] != ',' {
			break
		}
		i = s.space(i + 1)
	}
	if i >= len(s.body) || s.body[i] != ']' {
		return s.fail(i, "a comma or ]")
	}
	s.leave()
	s.canon.close(']')
	return i + 1
}

// element reads element n of the array at node at.
func (s *scanner) element(i, n int, at int32) int {
	at = s.trie.childAt(at, n)
	m := s.canon.begin()
	if i = s.value(i, at); i == failed {
		if s.duplicated() {
			s.trail = append(s.trail, strconv.Itoa(n))
		}
		return failed
	}
	if s.canon != nil && s.trie.wanted(at) {
		s.canon.undo(m)
	}
	return i
}

func (s *scanner) object(i int, at int32) int {
	if !s.enter(i) {
		return failed
	}
	names, unescaped := len(s.names), len(s.unescaped)
	o := s.canon.openObject()
	if i = s.space(i + 1); i < len(s.body) && s.body[i] == '}' {
		s.leave()
		if s.canon != nil {
			s.canon.closeObject(o, nil)
		}
		return i + 1
	}
	for {
		if i = s.member(i, at); i == failed {
			return failed
		}
		if i = s.space(i); i >= len(s.body) || s.body[i] != ',' {
			break
		}
		i = s.space(i + 1)
	}
	if i >= len(s.body) || s.body[i] != '}' {
		return s.fail(i, "a comma or }")
	}
	dup, sorted := s.duplicate(s.names[names:])
	if dup >= 0 {
		s.err = &DuplicateError{}
		s.trail = append(s.trail, string(s.nameText(s.names[names+dup])))
		return failed
	}
	if s.canon != nil {
		var order []uint32
		if !sorted {
			order = s.sorted(s.names[names:])
		}
		s.canon.closeObject(o, order)
	}
	s.names, s.unescaped = s.names[:names], s.unescaped[:unescaped]
	s.leave()
	return i + 1
}

// member reads one member of the object at node at, up to the end of its value.
func (s *scanner) member(i int, at int32) int {
	if i >= len(s.body) || s.body[i] != '"' {
		return s.fail(i, "a member name in quotes")
	}
	end, form := s.text(i + 1)
	if end == failed {
		return failed
	}
	this := len(s.names)
	key := s.push(i+1, end-1, form)
	colon := s.space(end)
	if colon >= len(s.body) || s.body[colon] != ':' {
		return s.fail(colon, "a colon")
	}
	at = s.trie.child(at, key)
	m := s.canon.begin()
	if s.canon != nil {
		s.canon.text(s.body[i:end], form)
		s.canon.raw([]byte{':'})
	}
	if i = s.value(s.space(colon+1), at); i == failed {
		if s.duplicated() {
			s.trail = append(s.trail, string(s.nameText(s.names[this])))
		}
		return failed
	}
	if s.canon != nil {
		s.canon.endMember(m, s.trie.wanted(at))
	}
	return i
}

// duplicated tells whether the scan ended at a duplicate. Each level then adds
// its step to the trail on the way out.
func (s *scanner) duplicated() bool {
	_, ok := s.err.(*DuplicateError)
	return ok
}
