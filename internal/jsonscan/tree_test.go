package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// decode returns the tree that encoding/json makes of body, numbers as written.
func decode(t testing.TB, body []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", body, err)
	}
	return tree
}

// at returns what tree has at pointer: the reference for Find.
func at(tree any, pointer string) (any, bool) {
	if pointer == "" {
		return tree, true
	}
	for step := range strings.SplitSeq(pointer[1:], "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		switch v := tree.(type) {
		case map[string]any:
			next, ok := v[step]
			if !ok {
				return nil, false
			}
			tree = next
		case []any:
			n, err := strconv.ParseUint(step, 10, 31)
			if err != nil || strconv.FormatUint(n, 10) != step || int(n) >= len(v) {
				return nil, false
			}
			tree = v[n]
		default:
			return nil, false
		}
	}
	return tree, true
}

// pointers lists the pointers of everything in tree.
func pointers(tree any, here string) []string {
	list := []string{here}
	switch v := tree.(type) {
	case map[string]any:
		for name, value := range v {
			step := strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
			list = append(list, pointers(value, here+"/"+step)...)
		}
	case []any:
		for i, value := range v {
			list = append(list, pointers(value, fmt.Sprint(here, "/", i))...)
		}
	}
	return list
}

// without returns a copy of tree that lacks the member or element at pointer.
func without(tree any, pointer string) any {
	step, rest, more := strings.Cut(pointer[1:], "/")
	name := strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
	keep := func(this string, value any) (any, bool) {
		switch {
		case this != name:
			return value, true
		case more:
			return without(value, "/"+rest), true
		}
		return nil, false
	}
	switch v := tree.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, value := range v {
			if kept, ok := keep(k, value); ok {
				out[k] = kept
			}
		}
		return out
	case []any:
		out := []any{}
		for i, value := range v {
			if kept, ok := keep(strconv.Itoa(i), value); ok {
				out = append(out, kept)
			}
		}
		return out
	}
	return tree
}

// changed returns a copy of tree with one scalar changed, the one that *n counts
// down to.
func changed(tree any, n *int) any {
	switch v := tree.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, k := range names(v) {
			out[k] = changed(v[k], n)
		}
		return out
	case []any:
		out := []any{}
		for _, value := range v {
			out = append(out, changed(value, n))
		}
		return out
	}
	*n--
	if *n != -1 {
		return tree
	}
	switch v := tree.(type) {
	case json.Number:
		last := len(v) - 1
		return v[:last] + json.Number('0'+(v[last]-'0'+1)%10)
	case string:
		return v + "\x00"
	case bool:
		return !v
	}
	return false
}

// names returns the names of the members of m, sorted.
func names(m map[string]any) []string {
	var list []string
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// scalars counts what changed can change.
func scalars(tree any) int {
	n := 1 << 30
	changed(tree, &n)
	return 1<<30 - n
}

// render writes tree as JSON with members, white space and escapes at random.
func render(tree any, r *rand.Rand) []byte {
	return renderTo(nil, tree, r)
}

func renderTo(b []byte, tree any, r *rand.Rand) []byte {
	space := func() {
		for r.IntN(4) == 0 {
			b = append(b, " \t\r\n"[r.IntN(4)])
		}
	}
	space()
	switch v := tree.(type) {
	case map[string]any:
		b = append(b, '{')
		list := names(v)
		r.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
		for i, k := range list {
			if i > 0 {
				b = append(b, ',')
			}
			space()
			b = renderText(b, k, r)
			space()
			b = append(b, ':')
			b = renderTo(b, v[k], r)
		}
		space()
		b = append(b, '}')
	case []any:
		b = append(b, '[')
		for i, value := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = renderTo(b, value, r)
		}
		space()
		b = append(b, ']')
	case string:
		b = renderText(b, v, r)
	case json.Number:
		b = append(b, v...)
	case nil:
		b = append(b, "null"...)
	case bool:
		b = strconv.AppendBool(b, v)
	}
	space()
	return b
}

func renderText(b []byte, text string, r *rand.Rand) []byte {
	const short = "\"\"\\\\//\bb\ff\nn\rr\tt"
	unit := func(u rune) {
		digits := fmt.Sprintf("%04x", u)
		if r.IntN(2) == 0 {
			digits = strings.ToUpper(digits)
		}
		b = append(append(b, `\u`...), digits...)
	}
	b = append(b, '"')
	for _, c := range text {
		k := strings.IndexRune(short, c)
		switch {
		case k >= 0 && k%2 == 0 && r.IntN(2) == 0:
			b = append(b, '\\', short[k+1])
		case c > 0xffff && r.IntN(2) == 0:
			high, low := utf16.EncodeRune(c)
			unit(high)
			unit(low)
		case c < ' ' || c == '"' || c == '\\' || c <= 0xffff && r.IntN(4) == 0:
			unit(c)
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}
