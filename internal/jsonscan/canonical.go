package jsonscan

import (
	"errors"
	"slices"
)

// AppendCanonical appends the canonical form of body to dst, which must not
// overlap body. Bodies that mean the same have the same form:
//
//   - no white space between tokens;
//   - the members of every object in the order of the bytes of their names, as
//     UTF-8 without escapes (RFC 8785 orders by UTF-16 code units: the same, save
//     for names beyond U+FFFF);
//   - strings with the fewest escapes, as in RFC 8785;
//   - numbers as they are written: 1, 1.0 and 1e0 are three forms. Rounding them
//     to float64, as RFC 8785 does, gives 9007199254740992 and ...993 one form,
//     and with it one cache key to two seeds.
//
// Members that a pointer of ignore names are left out, and so are elements of
// arrays; they are checked like the rest. ignore may be nil, and must not hold
// "". depth is that of Check.
//
// Bodies that differ in anything else have different forms. To keep it so, what
// Check refuses is refused with the same errors, and so are lone surrogates,
// which decoders replace or keep as they like (a *SyntaxError). On an error the
// result is dst as it was.
//
// A dst with room for twice the body is not reallocated. If it has that room and
// ignore is not nil, AppendCanonical allocates as little as Find.
func AppendCanonical(dst, body []byte, ignore *Paths, depth int) ([]byte, error) {
	s := newScanner(body, depth)
	at := nowhere
	if ignore != nil && len(ignore.trie) > 0 {
		s.trie, at = ignore.trie, root
		if s.trie.wanted(root) {
			return dst, errors.New(`ignore: "": names the whole body: want a member, for example /user`)
		}
	}
	room := ignore.borrow()
	s.names, s.unescaped, s.order = room.names[:0], room.unescaped[:0], room.order[:0]
	s.canon = &room.canon
	s.canon.reset(slices.Grow(dst, 2*len(body)), len(dst))
	err := s.document(at)
	if err == nil {
		dst = s.canon.finish()
	}
	s.canon.reset(nil, 0)
	room.names, room.unescaped, room.order = s.names, s.unescaped, s.order
	ignore.giveBack(room)
	return dst, err
}

// canon is the output of a scan. The first pass writes every token in the order
// of the body, straight to out, and lists the objects whose members are out of
// order. The second copies the text with those members in order. Each byte is
// copied once more at most, however deep it lies; sorting each object as it
// closes would copy it once a level.
type canon struct {
	out  []byte
	base int // where out begins: all offsets count from here

	members []piece     // those of the open objects that are complete, innermost last
	objects []reordered // by their place in the text
	pieces  []piece     // the members of objects, each object's in order
}

// piece is a member in the text of the first pass, name and all. next is the
// number of objects listed before it: those inside it follow.
type piece struct {
	span
	next uint32
}

// reordered is an object of the first pass. If count is 0 its members are in
// order; otherwise they are pieces[first:][:count]. While the object is open its
// members are canon.members[first:].
type reordered struct {
	span
	first, count uint32
	next         uint32 // the first object behind it
}

// mark is a state of canon to return to.
type mark struct{ out, objects, pieces int }

// reset makes c ready to write to out from base on. It keeps its lists.
func (c *canon) reset(out []byte, base int) {
	*c = canon{out: out, base: base, members: c.members[:0], objects: c.objects[:0], pieces: c.pieces[:0]}
}

func (c *canon) raw(b []byte) { c.out = append(c.out, b...) }

// text writes the string b, which has its quotes.
func (c *canon) text(b []byte, f form) {
	if f != rewritten {
		c.raw(b)
		return
	}
	c.out = append(c.out, '"')
	c.out = appendRewritten(c.out, b[1:len(b)-1])
	c.out = append(c.out, '"')
}

// open writes a bracket. It and the methods up to undo do nothing without an
// output.
func (c *canon) open(bracket byte) {
	if c != nil {
		c.out = append(c.out, bracket)
	}
}

func (c *canon) close(bracket byte) { c.open(bracket) }

// openObject opens an object and returns its number in objects.
func (c *canon) openObject() int {
	if c == nil {
		return 0
	}
	c.objects = add(c.objects, reordered{span: span{from: c.at()}, first: uint32(len(c.members))})
	c.open('{')
	return len(c.objects) - 1
}

func (c *canon) at() uint32 { return uint32(len(c.out) - c.base) }

// begin starts a member or an element, after a comma unless it is the first.
func (c *canon) begin() mark {
	if c == nil {
		return mark{}
	}
	m := mark{len(c.out), len(c.objects), len(c.pieces)}
	if last := c.out[len(c.out)-1]; last != '{' && last != '[' {
		c.out = append(c.out, ',')
	}
	return m
}

// undo takes back all that was written since m.
func (c *canon) undo(m mark) {
	c.out, c.objects, c.pieces = c.out[:m.out], c.objects[:m.objects], c.pieces[:m.pieces]
}

// endMember ends the member that was begun at m, or takes it back. Its name and
// value are written.
func (c *canon) endMember(m mark, ignored bool) {
	if ignored {
		c.undo(m)
		c.members = add(c.members, piece{})
		return
	}
	from := uint32(m.out - c.base)
	if c.out[m.out] == ',' {
		from++
	}
	c.members = add(c.members, piece{span{from, c.at()}, uint32(m.objects)})
}

// closeObject closes object o. order is that of its members, nil if they are in
// order.
func (c *canon) closeObject(o int, order []uint32) {
	c.close('}')
	object := &c.objects[o]
	members := c.members[object.first:]
	c.members = c.members[:object.first]
	if order == nil {
		if o == len(c.objects)-1 { // nothing inside is out of order either
			c.objects = c.objects[:o]
		}
		return
	}
	object.to = c.at()
	object.first = uint32(len(c.pieces))
	object.next = uint32(len(c.objects))
	for _, i := range order {
		if members[i].to > 0 { // 0: taken back
			c.pieces = add(c.pieces, members[i])
		}
	}
	object.count = uint32(len(c.pieces)) - object.first
}

// finish returns the output in order.
func (c *canon) finish() []byte {
	if len(c.pieces) == 0 {
		return c.out
	}
	first := c.out[c.base:]
	c.copy(first, piece{span: span{0, uint32(len(first))}})
	n := copy(first, c.out[c.base+len(first):])
	return c.out[:c.base+n]
}

// copy appends the part p of text, with the members of its objects in order. It
// calls itself once a level.
func (c *canon) copy(text []byte, p piece) {
	k, from := p.next, p.from
	for int(k) < len(c.objects) && c.objects[k].from < p.to {
		o := c.objects[k]
		if o.count == 0 {
			k++
			continue
		}
		c.raw(text[from : o.from+1])
		for i, member := range c.pieces[o.first:][:o.count] {
			if i > 0 {
				c.raw([]byte{','})
			}
			c.copy(text, member)
		}
		from, k = o.to-1, o.next
	}
	c.raw(text[from:p.to])
}
