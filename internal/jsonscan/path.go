package jsonscan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// maxPaths bounds the pointers of one Paths: each costs every scan a little.
	maxPaths = 64

	root    int32 = 0  // the node of the whole body
	nowhere int32 = -1 // the place in the trie of values that no pointer goes through
)

// Paths is a list of JSON pointers, ready to be looked up. It does not change,
// and may be used by several goroutines at once; it must not be copied. The zero
// value has no pointers.
type Paths struct {
	trie    trie
	n       int
	scratch sync.Pool // of *scratch
}

// node is a place in a document that pointers end at or go through.
type node struct {
	ids  []int32 // the pointers that end here
	kids []kid
}

type kid struct {
	name  string
	index int // name as an index into an array, -1 if it is none
	node  int32
}

// Compile prepares JSON pointers (RFC 6901) such as "/usage/total_tokens" or
// "/messages/0/role"; "" is the whole body. A step of digits names an element of
// an array or a member of an object, whichever the body has. "-", the element
// behind the last, never exists. At most 64 pointers.
func Compile(pointers ...string) (*Paths, error) {
	if len(pointers) > maxPaths {
		return nil, fmt.Errorf("%d JSON pointers: want at most %d", len(pointers), maxPaths)
	}
	p := &Paths{trie: []node{{}}, n: len(pointers)}
	for id, text := range pointers {
		steps, err := split(text)
		if err != nil {
			return nil, err
		}
		at := root
		for _, step := range steps {
			at = p.grow(at, step)
		}
		p.trie[at].ids = append(p.trie[at].ids, int32(id))
	}
	return p, nil
}

// split returns the steps of a pointer, unescaped.
func split(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	if text[0] != '/' {
		return nil, fmt.Errorf("%q: want a JSON pointer, which starts with a slash, for example /model", text)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("%q: want a JSON pointer in UTF-8", text)
	}
	steps := strings.Split(text[1:], "/")
	for i, step := range steps {
		if rest := strings.NewReplacer("~0", "", "~1", "").Replace(step); strings.Contains(rest, "~") {
			return nil, fmt.Errorf("%q: ~ not followed by 0 or 1: want ~0 for ~ and ~1 for /", text)
		}
		steps[i] = strings.NewReplacer("~0", "~", "~1", "/").Replace(step)
	}
	return steps, nil
}

// pointer joins steps, given from the last to the first.
func pointer(steps []string) string {
	var b strings.Builder
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	for _, step := range slices.Backward(steps) {
		b.WriteByte('/')
		b.WriteString(escape.Replace(step))
	}
	return b.String()
}

// grow returns the node one step below at, and makes it if need be.
func (p *Paths) grow(at int32, step string) int32 {
	for _, k := range p.trie[at].kids {
		if k.name == step {
			return k.node
		}
	}
	index, err := strconv.Atoi(step)
	if err != nil || strconv.Itoa(index) != step || index < 0 { // 01, +1 and -0 name no element
		index = -1
	}
	next := int32(len(p.trie))
	p.trie = append(p.trie, node{})
	p.trie[at].kids = append(p.trie[at].kids, kid{step, index, next})
	return next
}

// Find looks p's pointers up in body, in one pass, and appends a Value for each
// to values, in the order of Compile; where body has nothing there, the Kind of
// the value is Missing. The values are parts of body, not copies.
//
// The whole body is checked as Check does it, with the same depth and the same
// errors; on an error the result is values as it was. Find allocates nothing but
// room for values if that lacks it, save for its first calls and after garbage
// collections, and for bodies that are unusual.
func (p *Paths) Find(values []Value, body []byte, depth int) ([]Value, error) {
	s := newScanner(body, depth)
	at := nowhere
	if len(p.trie) > 0 {
		s.trie, at = p.trie, root
	}
	room := p.borrow()
	s.names, s.unescaped = room.names[:0], room.unescaped[:0]
	err := s.document(at)
	room.names, room.unescaped = s.names, s.unescaped
	p.giveBack(room)
	if err != nil {
		return values, err
	}
	for _, v := range s.spans[:p.n] {
		if v.to == 0 {
			values = append(values, Value{})
			continue
		}
		values = append(values, Value{raw: body[v.from:v.to:v.to], offset: int(v.from)})
	}
	return values, nil
}

// trie is where pointers lead: a tree of nodes, the root first.
type trie []node

// wanted tells whether a pointer ends at node at.
func (t trie) wanted(at int32) bool {
	return at != nowhere && len(t[at].ids) > 0
}

// child returns the node of the member called name of the object at node at.
func (t trie) child(at int32, name []byte) int32 {
	if at == nowhere {
		return nowhere
	}
	for _, k := range t[at].kids {
		if k.name == string(name) {
			return k.node
		}
	}
	return nowhere
}

// childAt returns the node of element n of the array at node at.
func (t trie) childAt(at int32, n int) int32 {
	if at == nowhere {
		return nowhere
	}
	for _, k := range t[at].kids {
		if k.index == n {
			return k.node
		}
	}
	return nowhere
}
