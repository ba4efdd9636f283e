package config

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// ApplySets returns the configuration in text with other values in it, as YAML that Parse
// reads; comments are lost. The name stands in messages. The keys of sets are the paths of
// the values, with dots between their steps: routes.0.cache.ttl, or routes[0].cache.ttl as in
// messages. A step in a list is an index, or the name of a route; names with dots in them are
// found, too. A key that is not there yet is added, but no item of a list, and no upstream,
// plan or price along the way. A value may be a text, a number, true or false, []any or
// map[string]any; nil takes the key, or the item, out. Paths are applied in their order, so
// that a shorter one comes before those within it.
//
// The error is Mistakes: of the text, where it is no YAML, or without file and line one for
// each path that leads nowhere. Whether the result is a configuration, Parse says.
func ApplySets(name string, text []byte, sets map[string]any) ([]byte, error) {
	d := newDecoder(name, nil)
	node := parseYAML(text, d.collector, "the file is empty: want at least upstreams and routes")
	if node == nil {
		return nil, d.err()
	}
	root := d.tree(place{line: lineOf(node)}, node)
	if err := d.err(); err != nil {
		return nil, err
	}
	var mistakes Mistakes
	for _, path := range slices.SortedFunc(maps.Keys(sets), byLength) {
		value, err := treeOf(sets[path], 0)
		if err == nil {
			err = root.set(steps(path), value)
		}
		if err != nil {
			mistakes = append(mistakes, Mistake{Path: shownPath(path), Want: err.Error()})
		}
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	out := &encoder{}
	out.tree(root, 0)
	return []byte(out.out.String()), nil
}

// shownPath is the path of a set in messages: nothing at all would look like the file.
func shownPath(path string) string {
	if path == "" {
		return `""`
	}
	return cut(path)
}

func byLength(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// tree is YAML as it was written, for changing.
type tree struct {
	kind  treeKind
	text  string // of a scalar
	keys  []string
	items []*tree // of a mapping, in the order of its keys, or of a list
}

type treeKind int

const (
	treeScalar treeKind = iota
	treeNull
	treeMapping
	treeList
)

// tree reads a node. What the decoder would refuse is reported.
func (d *decoder) tree(p place, n ast.Node) *tree {
	if text, ok := scalarText(n); ok {
		return &tree{text: text}
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return &tree{kind: treeNull}
	case *ast.MappingNode:
		t := &tree{kind: treeMapping}
		for _, e := range d.entries(p, n, "want a mapping") {
			t.keys = append(t.keys, e.key)
			t.items = append(t.items, d.tree(p.key(shownKey(e.key), "*", e.line, rule{}), e.value))
		}
		return t
	case *ast.SequenceNode:
		t := &tree{kind: treeList}
		for i, item := range n.Values {
			t.items = append(t.items, d.tree(p.item(i, lineOf(item)), item))
		}
		return t
	}
	d.add(p.line, p.path, "", "anchors, aliases and tags are not supported: write the value out")
	return &tree{kind: treeNull}
}

// treeOf makes a tree of a value, nil of nil.
func treeOf(v any, depth int) (*tree, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d levels deep", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		if depth == 0 {
			return nil, nil
		}
		return &tree{kind: treeNull}, nil
	case string:
		return &tree{text: v}, nil
	case bool, int, int64, uint64:
		return &tree{text: fmt.Sprint(v)}, nil
	case float64:
		return &tree{text: strconv.FormatFloat(v, 'f', -1, 64)}, nil
	case []any:
		t := &tree{kind: treeList}
		for _, item := range v {
			of, err := treeOf(item, depth+1)
			if err != nil {
				return nil, err
			}
			t.items = append(t.items, of)
		}
		return t, nil
	case map[string]any:
		t := &tree{kind: treeMapping}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			of, err := treeOf(v[key], depth+1)
			if err != nil {
				return nil, err
			}
			t.keys, t.items = append(t.keys, key), append(t.items, of)
		}
		return t, nil
	}
	return nil, fmt.Errorf("a value of type %T: want a text, a number, true or false, a list or a mapping", v)
}

// steps parts a path at its dots, and before its indexes in brackets.
func steps(path string) []string {
	index := regexp.MustCompile(`\[(\d+)\]`)
	return strings.Split(strings.TrimPrefix(index.ReplaceAllString(path, ".$1"), "."), ".")
}

// set puts value at the end of the path, nil for nothing.
func (t *tree) set(path []string, value *tree) error {
	at, done := t, []string{}
	for {
		i, n, err := at.find(path, done)
		if err != nil {
			return err
		}
		done = append(done, path[:n]...)
		if path = path[n:]; len(path) == 0 {
			at.put(i, done[len(done)-n:], value)
			return nil
		}
		if i < 0 {
			i = len(at.items)
			at.keys, at.items = append(at.keys, done[len(done)-1]), append(at.items, &tree{kind: treeMapping})
		}
		at = at.items[i]
	}
}

// put replaces item i, or adds the key where i is -1. nil takes it out.
func (t *tree) put(i int, key []string, value *tree) {
	switch {
	case i >= 0 && value != nil:
		t.items[i] = value
	case i >= 0:
		t.items = slices.Delete(t.items, i, i+1)
		if t.kind == treeMapping {
			t.keys = slices.Delete(t.keys, i, i+1)
		}
	case value != nil:
		t.keys, t.items = append(t.keys, strings.Join(key, ".")), append(t.items, value)
	}
}

// find looks for the beginning of a path: the item that it is of, -1 for a key that can be
// added, and how many of its steps that took. done is what was found before.
func (t *tree) find(path, done []string) (i, n int, err error) {
	where := "the file"
	if len(done) > 0 {
		where = cut(strings.Join(done, "."))
	}
	// The longest name first: llm.v2 is one where there is such an upstream.
	for n := len(path); n > 0; n-- {
		if i := t.index(strings.Join(path[:n], ".")); i >= 0 {
			return i, n, nil
		}
	}
	switch {
	case t.kind == treeList:
		return 0, 0, fmt.Errorf("leads nowhere: %s has no item %q: want %s", where, cut(path[0]), t.wanted())
	case t.kind != treeMapping:
		// Without the value: it may be a secret.
		return 0, 0, fmt.Errorf("leads nowhere: %s is a single value, which has no %q", where, cut(path[0]))
	case len(path) > 1 && len(done) == 1 && namesThings(done[0]):
		return 0, 0, fmt.Errorf("leads nowhere: %s has no %q: want %s", where, cut(path[0]), t.wanted())
	case path[0] == "":
		return 0, 0, fmt.Errorf("want a path such as routes.0.cache.ttl, without empty steps")
	}
	return -1, 1, nil
}

// namesThings holds for the mappings whose keys are the user's own.
func namesThings(key string) bool { return key == "upstreams" || key == "plans" || key == "prices" }

// index is where a step leads, -1 for nowhere.
func (t *tree) index(step string) int {
	switch t.kind {
	case treeMapping:
		return slices.Index(t.keys, step)
	case treeList:
		if n, err := strconv.ParseUint(step, 10, 31); err == nil {
			if int(n) < len(t.items) {
				return int(n)
			}
			return -1
		}
		return slices.IndexFunc(t.items, func(item *tree) bool { return item.kind == treeMapping && item.routeName() == step })
	}
	return -1
}

// routeName is the name of a route, as it has one without a key for it.
func (t *tree) routeName() string {
	scalar := func(of *tree, key string) string {
		if i := of.index(key); i >= 0 {
			return of.items[i].text
		}
		return ""
	}
	if name := scalar(t, "name"); name != "" {
		return name
	}
	i := t.index("match")
	if i < 0 {
		return ""
	}
	match := t.items[i]
	var methods []string
	if i := match.index("methods"); i >= 0 {
		for _, m := range match.items[i].items {
			methods = append(methods, m.text)
		}
	}
	return strings.TrimPrefix(strings.Join(methods, ",")+" "+scalar(match, "path"), " ")
}

// wanted says what there is.
func (t *tree) wanted() string {
	var names []string
	for i, item := range t.items {
		switch name := item.routeName(); {
		case t.kind == treeMapping:
			names = append(names, shownKey(t.keys[i]))
		case item.kind == treeMapping && name != "":
			names = append(names, shownKey(name))
		}
	}
	switch {
	case len(t.items) == 0:
		return "something in it first"
	case len(names) == 0:
		return fmt.Sprintf("an index from 0 to %d", len(t.items)-1)
	case t.kind == treeList:
		return fmt.Sprintf("an index from 0 to %d, or %s", len(t.items)-1, oneOf(names))
	}
	return oneOf(names)
}

// tree writes a tree, each value with its key on lines of its own.
func (e *encoder) tree(t *tree, indent int) {
	for i, item := range t.items {
		start := "-"
		if t.kind == treeMapping {
			start = quote(t.keys[i]) + ":"
		}
		switch {
		case item.kind == treeNull:
			e.line(indent, start+" null")
		case item.kind == treeScalar:
			e.line(indent, start+" "+quote(item.text))
		case len(item.items) == 0 && item.kind == treeMapping:
			e.line(indent, start+" {}")
		case len(item.items) == 0:
			e.line(indent, start+" []")
		case t.kind == treeList:
			inner := &encoder{}
			inner.tree(item, indent+1)
			// The item's first line takes the dash in place of its indentation.
			e.out.WriteString(strings.Repeat("  ", indent) + "- " + strings.TrimLeft(inner.out.String(), " "))
		default:
			e.line(indent, start)
			e.tree(item, indent+1)
		}
	}
}
