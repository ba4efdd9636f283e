package jsonscan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// name is the name of a member of an object that is still open. A million of
// them may be open at once, so it is small.
type name struct {
	prefix uint64 // the first eight bytes of the text: most comparisons end here
	// The text is body[from:to]; with escapes, where from is at least len(body),
	// it is unescaped[from-len(body):to-len(body)].
	from, to uint32
}

// fewNames is how many names an object may have to be compared each with each.
// Beyond, a hash table is faster, and needed: an object may have a million.
const fewNames = 24

// push notes the name in body[from:to] and returns its text.
func (s *scanner) push(from, to int, f form) []byte {
	if f != verbatim {
		text := s.body[from:to]
		from = len(s.body) + len(s.unescaped)
		s.unescaped = appendText(s.unescaped, text, true)
		to = len(s.body) + len(s.unescaped)
	}
	n := name{from: uint32(from), to: uint32(to)}
	text := s.nameText(n)
	n.prefix = prefix(text)
	s.names = add(s.names, n)
	return text
}

// add appends to a list that begins with room for an ordinary body, and then
// doubles: append's own steps of a quarter would allocate, for a million names,
// five times what is used.
func add[T any](list []T, v T) []T {
	if len(list) == cap(list) {
		bigger := make([]T, len(list), max(24, 2*len(list)))
		copy(bigger, list)
		list = bigger
	}
	return append(list, v)
}

func (s *scanner) nameText(n name) []byte {
	if from := int(n.from) - len(s.body); from >= 0 {
		return s.unescaped[from : int(n.to)-len(s.body)]
	}
	return s.body[n.from:n.to]
}

// prefix returns the first eight bytes of text, zeros behind the end, such that
// prefixes that differ are in the order of the texts.
func prefix(text []byte) uint64 {
	if len(text) >= 8 {
		return binary.BigEndian.Uint64(text)
	}
	var p uint64
	for i, c := range text {
		p |= uint64(c) << (56 - 8*i)
	}
	return p
}

func (s *scanner) compare(a, b name) int {
	if a.prefix != b.prefix {
		return cmp.Compare(a.prefix, b.prefix)
	}
	return bytes.Compare(s.nameText(a), s.nameText(b))
}

func (s *scanner) equal(a, b *name) bool {
	return a.prefix == b.prefix && a.to-a.from == b.to-b.from &&
		(a.to-a.from <= 8 || bytes.Equal(s.nameText(*a), s.nameText(*b)))
}

// duplicate returns the first of names that repeats an earlier one, or -1, and
// whether names are in order.
func (s *scanner) duplicate(names []name) (at int, sorted bool) {
	sorted = true
	for i := 1; sorted && i < len(names); i++ {
		sorted = s.compare(names[i-1], names[i]) < 0
	}
	if sorted {
		return -1, true
	}
	if len(names) > fewNames {
		return s.index.duplicate(s, names), false
	}
	for i := 1; i < len(names); i++ {
		for k := range i {
			if s.equal(&names[i], &names[k]) {
				return i, false
			}
		}
	}
	return -1, false
}

// sorted returns the positions in names in the order of the names' bytes in
// UTF-8, which is that of their code points. It is valid until the next call.
func (s *scanner) sorted(names []name) []uint32 {
	s.order = s.order[:0]
	for i := range names {
		s.order = add(s.order, uint32(i))
	}
	slices.SortFunc(s.order, func(a, b uint32) int { return s.compare(names[a], names[b]) })
	return s.order
}

// index is a hash table with open addressing. Its seed is random, so that no
// body can be made whose names collide.
type index struct {
	seed  maphash.Seed
	table []uint32 // position in names plus 1; 0: free
}

func (x *index) duplicate(s *scanner, names []name) int {
	size := 1
	for size < 2*len(names) {
		size *= 2
	}
	if cap(x.table) < size {
		x.seed, x.table = maphash.MakeSeed(), make([]uint32, size)
	}
	table := x.table[:size]
	clear(table)
	for i := range names {
		at := int(maphash.Bytes(x.seed, s.nameText(names[i]))) & (size - 1)
		for ; table[at] != 0; at = (at + 1) & (size - 1) {
			if s.equal(&names[table[at]-1], &names[i]) {
				return i
			}
		}
		table[at] = uint32(i + 1)
	}
	return -1
}
