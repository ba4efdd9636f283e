package jsonscan

import "unicode/utf8"

// MaxScanned is the most bytes of a value that a Scanner keeps.
const MaxScanned = 4096

// Scanner looks the pointers of a Paths up in a text that comes in pieces, and
// does not keep the text: answers of model servers may be 75 MB of embeddings
// with the usage at the very end.
//
// It checks what Find checks and reports the same errors, with two differences.
// It does not detect two members of one name, because it would have to keep all
// names, and memory would grow with the text: the last member counts, as in most
// decoders, and what was found in the earlier one is forgotten where the later
// one begins. And a text may be longer than 2 GiB.
//
// Its memory is a few bytes for each open level and MaxScanned for each pointer,
// whatever the text. It must not be used by two goroutines at once.
type Scanner struct {
	trie  trie
	n     int
	slots []slot // by node
	open  []int32

	depth  int
	levels []level
	state  state
	at     int32 // the node of the value that comes or is being read
	offset int   // of the current piece in the text
	err    error

	word  string // the literal that is being read
	count int    // how many bytes of it, or hexadecimal digits of an escape, are read

	sequence [utf8.UTFMax]byte // a character that is cut between pieces
	length   int               // how much of it is there

	name     []byte // what earlier pieces have of the name that is being read
	nameFrom int    // where it begins in this piece, -1 if no pointer needs it
	longest  int    // the most bytes, escaped, of a name that a pointer can have
	text     []byte // the name, unescaped
}

// level is an open array or object.
type level struct {
	node   int32
	object bool
	n      int // the number of the element, in an array
}

// slot is what was found at a node.
type slot struct {
	kind   Kind
	seen   bool // a value was begun here
	done   bool // and is complete
	long   bool // it is longer than MaxScanned
	from   int  // while it is open: where it goes on in this piece
	offset int
	raw    []byte
}

// state is what a Scanner reads or expects.
type state uint8

const (
	beforeValue   state = iota
	beforeElement       // the first: the array may end instead
	beforeMember        // the first: the object may end instead
	beforeName
	beforeColon
	afterValue
	inText
	inName
	inEscape // behind the backslash; more states of both kinds of strings follow
	inHex
	inCharacter
	inNameEscape
	inNameHex
	inNameCharacter
	inLiteral
	afterMinus
	afterZero
	inWhole
	afterPoint
	inFraction
	afterE
	afterSign
	inExponent
)

// NewScanner returns a Scanner for one text. depth is that of Check.
func (p *Paths) NewScanner(depth int) *Scanner {
	if depth <= 0 {
		depth = DefaultDepth
	}
	s := &Scanner{trie: p.trie, n: p.n, slots: make([]slot, len(p.trie)), depth: min(depth, maxDepth), at: nowhere}
	if len(p.trie) > 0 {
		s.at = root
	}
	longest := 0
	for _, node := range p.trie {
		for _, k := range node.kids {
			longest = max(longest, len(k.name))
		}
	}
	s.longest = longest * len(`\u0000`) // no escape is longer for each byte that it means
	return s
}

// Write reads the next piece of the text. It takes all of it and the error is
// always nil: the text passes through here on its way to somebody else, whom its
// mistakes do not concern. Values tells them.
func (s *Scanner) Write(b []byte) (int, error) {
	i := 0
	for i < len(b) && s.err == nil {
		i = s.step(b, i)
	}
	if s.err == nil {
		for _, at := range s.open {
			s.slots[at].keep(b, len(b))
			s.slots[at].from = 0
		}
		if s.state.name() && s.nameFrom >= 0 {
			s.keepName(b[s.nameFrom:])
			s.nameFrom = 0
		}
	}
	s.offset += len(b)
	return len(b), nil
}

// Values appends a Value for each pointer to dst, in the order of Compile; where
// the text has nothing there, the Kind of the value is Missing. The error is that
// of Find for the text so far as a whole: a *SyntaxError or *DepthError, or nil.
// With an error, too, the values are those that were complete where the text
// broke off: usage, say, in an answer that lost its last byte. A Value is a copy
// of the text, which the next Write may change. Of one longer than MaxScanned
// there is only the Kind and the Offset: see Value.TooLong.
func (s *Scanner) Values(dst []Value) ([]Value, error) {
	base := len(dst)
	for range s.n {
		dst = append(dst, Value{})
	}
	err := s.unfinished()
	for at, node := range s.trie {
		slot := &s.slots[at]
		if !slot.done && !(err == nil && slot.seen) { // a number ends with the text
			continue
		}
		v := Value{raw: slot.raw[:len(slot.raw):len(slot.raw)], offset: slot.offset}
		if slot.long {
			v = Value{long: slot.kind, offset: slot.offset}
		}
		for _, id := range node.ids {
			dst[base+int(id)] = v
		}
	}
	return dst, err
}

// unfinished returns the error of the text if it ended here.
func (s *Scanner) unfinished() error {
	if s.err != nil {
		return s.err
	}
	e := &SyntaxError{Offset: s.offset, Found: found(nil, 0)}
	switch s.state {
	case beforeValue, beforeElement:
		e.Want = "a value"
	case beforeMember, beforeName:
		e.Want = "a member name in quotes"
	case beforeColon:
		e.Want = "a colon"
	case inText, inName:
		e.Want = "a closing quote"
	case inEscape, inNameEscape:
		e.Want = "an escape"
	case inHex, inNameHex:
		e.Want = "a hexadecimal digit"
	case inCharacter, inNameCharacter:
		return s.notUTF8()
	case inLiteral:
		e.Want = s.word
	case afterMinus, afterPoint, afterE, afterSign:
		e.Want = "a digit"
	case afterValue, afterZero, inWhole, inFraction, inExponent:
		if len(s.levels) == 0 {
			return nil
		}
		e.Want = s.separators()
	}
	return e
}

// fail notes that byte i of the piece b is wrong, and ends the piece.
func (s *Scanner) fail(b []byte, i int, want string) int {
	s.err = &SyntaxError{Offset: s.offset + i, Found: found(b, i), Want: want}
	return len(b)
}

// step reads on from byte i of the piece b, as far as the state lasts, and
// returns where it stopped.
func (s *Scanner) step(b []byte, i int) int {
	switch s.state {
	case inText, inName:
		return s.inString(b, i)
	case inEscape, inNameEscape, inHex, inNameHex, inCharacter, inNameCharacter:
		return s.inPartOfString(b, i)
	case inLiteral:
		return s.inLiteral(b, i)
	case afterMinus, afterZero, inWhole, afterPoint, inFraction, afterE, afterSign, inExponent:
		return s.inNumber(b, i)
	}
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	if i == len(b) {
		return i
	}
	switch c := b[i]; s.state {
	case beforeElement:
		if c == ']' {
			return s.leave(b, i)
		}
		return s.value(b, i)
	case beforeMember, beforeName:
		if c == '}' && s.state == beforeMember {
			return s.leave(b, i)
		}
		if c != '"' {
			return s.fail(b, i, "a member name in quotes")
		}
		s.beginName(i + 1)
		return i + 1
	case beforeColon:
		if c != ':' {
			return s.fail(b, i, "a colon")
		}
		s.state = beforeValue
		return i + 1
	case afterValue:
		return s.after(b, i)
	}
	return s.value(b, i)
}

// separators names what may stand behind a value.
func (s *Scanner) separators() string {
	switch {
	case len(s.levels) == 0:
		return "the end"
	case s.levels[len(s.levels)-1].object:
		return "a comma or }"
	}
	return "a comma or ]"
}

// after reads the byte behind a value.
func (s *Scanner) after(b []byte, i int) int {
	if len(s.levels) == 0 {
		return s.fail(b, i, s.separators())
	}
	top := &s.levels[len(s.levels)-1]
	switch c := b[i]; {
	case c == ',' && top.object:
		s.state = beforeName
		return i + 1
	case c == ',':
		top.n++
		s.state, s.at = beforeValue, s.trie.childAt(top.node, top.n)
		return i + 1
	case c == '}' && top.object, c == ']' && !top.object:
		return s.leave(b, i)
	}
	return s.fail(b, i, s.separators())
}

// value reads the first byte of a value.
func (s *Scanner) value(b []byte, i int) int {
	if s.at != nowhere {
		s.begin(b, i)
	}
	switch c := b[i]; c {
	case '"':
		s.state = inText
	case '{', '[':
		return s.enter(b, i)
	case 't':
		s.state, s.word, s.count = inLiteral, "true", 1
	case 'f':
		s.state, s.word, s.count = inLiteral, "false", 1
	case 'n':
		s.state, s.word, s.count = inLiteral, "null", 1
	case '-':
		s.state = afterMinus
	case '0':
		s.state = afterZero
	default:
		if !digit(c) {
			return s.fail(b, i, "a value")
		}
		s.state = inWhole
	}
	return i + 1
}

// ended notes that the value which was being read ends before byte end.
func (s *Scanner) ended(b []byte, end int) int {
	if s.at != nowhere && len(s.trie[s.at].ids) > 0 {
		slot := &s.slots[s.at]
		slot.keep(b, end)
		slot.done = true
		s.open = s.open[:len(s.open)-1]
	}
	s.state = afterValue
	return end
}

// enter opens an array or object.
func (s *Scanner) enter(b []byte, i int) int {
	if len(s.levels) == s.depth {
		s.err = &DepthError{Offset: s.offset + i, Depth: s.depth}
		return len(b)
	}
	s.levels = append(s.levels, level{node: s.at, object: b[i] == '{'})
	if b[i] == '{' {
		s.state = beforeMember
		return i + 1
	}
	s.state, s.at = beforeElement, s.trie.childAt(s.at, 0)
	return i + 1
}

// leave closes the innermost array or object.
func (s *Scanner) leave(b []byte, i int) int {
	last := len(s.levels) - 1
	s.at = s.levels[last].node
	s.levels = s.levels[:last]
	return s.ended(b, i+1)
}

func (s *Scanner) inLiteral(b []byte, i int) int {
	for ; s.count < len(s.word); s.count++ {
		if i == len(b) {
			return i
		}
		if b[i] != s.word[s.count] {
			return s.fail(b, i, s.word)
		}
		i++
	}
	return s.ended(b, i)
}

// inNumber reads on in a number. Its end is known only from what follows.
func (s *Scanner) inNumber(b []byte, i int) int {
	for ; i < len(b); i++ {
		c := b[i]
		switch s.state {
		case inWhole, inFraction, inExponent: // digits come in runs
			for digit(c) {
				if i++; i == len(b) {
					return i
				}
				c = b[i]
			}
		}
		next := nextInNumber(s.state, c)
		if next == afterValue {
			return s.ended(b, i)
		}
		if next == beforeValue {
			return s.fail(b, i, "a digit")
		}
		s.state = next
	}
	return i
}

// nextInNumber returns the state after c: afterValue if c is behind the number,
// beforeValue if it is wrong.
func nextInNumber(now state, c byte) state {
	switch now {
	case afterMinus:
		switch {
		case c == '0':
			return afterZero
		case digit(c):
			return inWhole
		}
		return beforeValue
	case afterPoint:
		if digit(c) {
			return inFraction
		}
		return beforeValue
	case afterE, afterSign:
		switch {
		case digit(c):
			return inExponent
		case now == afterE && (c == '+' || c == '-'):
			return afterSign
		}
		return beforeValue
	}
	switch {
	case c == '.' && (now == afterZero || now == inWhole):
		return afterPoint
	case c|0x20 == 'e' && now != inExponent:
		return afterE
	}
	return afterValue
}

// begin notes that a value begins at byte i, at node s.at.
func (s *Scanner) begin(b []byte, i int) {
	slot := &s.slots[s.at]
	if slot.seen {
		s.forget(s.at)
	}
	slot.seen = true
	if len(s.trie[s.at].ids) == 0 {
		return
	}
	slot.kind, slot.from, slot.offset = Value{raw: b[i : i+1]}.Kind(), i, s.offset+i
	slot.raw, slot.long = slot.raw[:0], false
	s.open = append(s.open, s.at)
}

// forget forgets what was found at a node and below, where the text has had a
// value: so it goes no deeper than the text.
func (s *Scanner) forget(at int32) {
	s.slots[at].seen, s.slots[at].done = false, false
	for _, k := range s.trie[at].kids {
		if s.slots[k.node].seen {
			s.forget(k.node)
		}
	}
}

// keep adds the part of the value that this piece has up to end.
func (v *slot) keep(b []byte, end int) {
	if v.long {
		return
	}
	if len(v.raw)+end-v.from > MaxScanned {
		v.raw, v.long = v.raw[:0], true
		return
	}
	v.raw = append(v.raw, b[v.from:end]...)
}

// TooLong tells whether a Scanner found the value and did not keep it, because it
// is longer than MaxScanned. Its Kind and Offset are right and its Raw is nil;
// Text, Float and Int have nothing of it.
func (v Value) TooLong() bool { return v.long != Missing }
