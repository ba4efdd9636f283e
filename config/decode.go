package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/inferweir/weir/ratelimit"
)

// maxItems bounds every list and mapping: checks compare some of them in pairs.
const maxItems = 10000

// rule is what the tags of a struct field say of its key.
type rule struct {
	name       string // yaml
	index      int    // of the field in its struct
	def        string // default: as it would be written in the file
	hasDefault bool
	min, max   string // of numbers, sizes and durations
	required   string // what is wanted where the key is missing
	unless     string // the key that takes the place of a required one; after a / it is one of the file itself
	with       string // the field without which this key has no effect, see effective
	secret     bool   // the value is not to be shown
	url        bool   // the value is a URL whose password is not to be shown
	rate       bool   // a Size per second
	words      bool   // a time.Duration that may be the name of a window
	zero       bool   // a fraction that may be 0
	money      bool   // an amount of US dollars
	number     bool   // a number above 0 that may have decimals
}

// rules returns the keys of a struct in their order.
func rules(t reflect.Type) []rule {
	var all []rule
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name := tag.Get("yaml")
		if name == "" {
			continue
		}
		r := rule{
			name: name, index: i,
			min: tag.Get("min"), max: tag.Get("max"),
			required: tag.Get("required"), unless: tag.Get("unless"), with: tag.Get("with"),
			secret: tag.Get("secret") == "true", url: tag.Get("secret") == "url",
			rate: tag.Get("rate") == "true", words: tag.Get("words") == "true", zero: tag.Get("zero") == "true",
			money: tag.Get("money") == "true", number: tag.Get("number") == "true",
		}
		r.def, r.hasDefault = tag.Lookup("default")
		all = append(all, r)
	}
	return all
}

// node is where a value stands in the file, for the checks that come later.
type node struct {
	line   int
	value  string // as written
	scalar bool
	secret bool
}

// place is a position in the tree: where it is, and how the schema names it.
type place struct {
	path    string // routes[0].cache.ttl
	pattern string // routes[].cache.ttl
	line    int
	rule    rule
}

func (p place) key(name, pattern string, line int, r rule) place {
	join := func(a, b string) string {
		if a == "" {
			return b
		}
		return a + "." + b
	}
	return place{join(p.path, name), join(p.pattern, pattern), line, r}
}

func (p place) item(i, line int) place {
	r := p.rule
	r.min, r.max = "", ""
	return place{p.path + "[" + strconv.Itoa(i) + "]", p.pattern + "[]", line, r}
}

type decoder struct {
	*collector
	expander
	nodes   map[string]node // by path
	top     map[string]bool // the keys of the file itself
	later   []string
	choices map[string]choice
	// live are the patterns of the keys that an Edit may have; nil is a file, which may
	// have all of them. What is decoded then has values already, which stay.
	live map[string]bool
}

func newDecoder(file string, lookup func(string) (string, bool)) *decoder {
	return &decoder{
		collector: newCollector(file), expander: expander{lookup: lookup},
		nodes: map[string]node{}, top: map[string]bool{}, later: laterKeys(), choices: choices(),
	}
}

// decode fills c from the document. It returns false where nothing is there to
// be checked.
func (d *decoder) decode(root ast.Node, c *Config) bool {
	v := reflect.ValueOf(c).Elem()
	setDefaults(v)
	p := place{line: lineOf(root)}
	m, ok := root.(*ast.MappingNode)
	if !ok {
		d.add(p.line, "", "", "want a mapping: keys such as listen, upstreams and routes")
		return false
	}
	for _, pair := range m.Values {
		if k, isNode := pair.Key.(ast.Node); isNode {
			key, _ := scalarText(k)
			d.top["/"+key] = true
		}
	}
	d.value(p, root, v)
	return true
}

// setDefaults gives every key in v its default, as far as it has one.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct || isLeaf(v.Type()) {
		return
	}
	for _, r := range rules(v.Type()) {
		f := v.Field(r.index)
		switch {
		case !r.hasDefault:
			setDefaults(f)
		case f.Kind() == reflect.Slice:
			words := strings.Split(strings.Trim(r.def, "[]"), ", ")
			f.Set(reflect.ValueOf(words))
		default:
			// A test sets the defaults of every struct and prints them again.
			_ = setText(f, r.def, r)
		}
	}
}

// isLeaf holds for structs that are one value in the file.
func isLeaf(t reflect.Type) bool {
	return t == reflect.TypeFor[netip.Prefix]() || t == reflect.TypeFor[After]() || t == reflect.TypeFor[Budget]()
}

// bad reports a value that is of the wrong kind.
func (d *decoder) bad(p place, n ast.Node, want string) {
	value := ""
	if !p.rule.secret {
		value = describe(n)
	}
	d.add(p.line, p.path, value, want)
}

// value decodes n into v by v's type.
func (d *decoder) value(p place, n ast.Node, v reflect.Value) {
	raw, scalar := scalarText(n)
	if p.rule.url && mayHoldPassword(raw) {
		p.rule.secret = true
	}
	d.nodes[p.path] = node{p.line, raw, scalar, p.rule.secret}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		d.add(p.line, p.path, "", "anchors and aliases are not supported: write the value out")
		return
	case *ast.TagNode:
		d.add(p.line, p.path, "", "tags are not supported: write the value without !")
		return
	case *ast.NullNode:
		d.bad(p, n, orLeaveOut(v.Type(), p.rule))
		return
	}
	if d.ownForm(p, n, v) {
		return
	}
	switch {
	case v.Kind() == reflect.Pointer:
		if d.live == nil || v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			setDefaults(v.Elem())
		}
		d.value(p, n, v.Elem())
	case v.Kind() == reflect.Struct && !isLeaf(v.Type()):
		d.structure(p, n, v)
	case v.Kind() == reflect.Map:
		d.mapping(p, n, v)
	case v.Kind() == reflect.Slice:
		d.list(p, n, v)
	case scalar:
		d.text(p, raw, v)
	default:
		d.bad(p, n, wanted(v.Type(), p.rule))
	}
}

// ownForm decodes what has a form of its own: a policy, a target or a concurrency in one
// word, values of any kind, and in an edit the targets. It reports whether it is that.
func (d *decoder) ownForm(p place, n ast.Node, v reflect.Value) bool {
	raw, scalar := scalarText(n)
	switch target := v.Addr().Interface().(type) {
	case *Policy:
		if scalar {
			d.shortPolicy(p, raw, target)
		}
		return scalar
	case *Target:
		if scalar {
			d.text(p, raw, reflect.ValueOf(&target.URL).Elem())
		}
		return scalar
	case *Concurrency:
		if scalar {
			d.fixed(p, raw, target)
		}
		return scalar
	case *map[string]any:
		values, ok := d.anything(p, n).(map[string]any)
		if !ok {
			d.bad(p, n, wanted(v.Type(), p.rule))
		}
		*target = values
		return true
	case *[]Target:
		if d.live != nil {
			d.weights(p, n, *target)
		}
		return d.live != nil
	}
	return false
}

// orLeaveOut is said of a key that is there but has nothing to say.
func orLeaveOut(t reflect.Type, r rule) string {
	if r.required != "" {
		return "want " + r.required
	}
	return wanted(t, r) + ", or leave the key out"
}

type entry struct {
	key   string
	line  int
	value ast.Node
}

// entries returns the pairs of a mapping whose keys are plain and new.
func (d *decoder) entries(p place, n ast.Node, want string) []entry {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.bad(p, n, want)
		return nil
	}
	if len(m.Values) > maxItems {
		d.add(p.line, p.path, "", fmt.Sprintf("%d keys: want at most %d", len(m.Values), maxItems))
		return nil
	}
	var all []entry
	first := map[string]int{}
	for _, pair := range m.Values {
		line := lineOf(pair.Key)
		key, ok := "", false
		if k, isNode := pair.Key.(ast.Node); isNode {
			key, ok = scalarText(k)
		}
		if !ok {
			d.add(line, p.key("?", "", 0, rule{}).path, "", "want a plain key: complex keys and merge keys are not supported")
			continue
		}
		if at, twice := first[key]; twice {
			path := p.key(d.keyName(p, key), "", 0, rule{}).path
			d.add(line, path, "", fmt.Sprintf("written twice: want it once, and it is already in line %d", at))
			continue
		}
		first[key] = line
		all = append(all, entry{key, line, pair.Value})
	}
	return all
}

// keyName is a mapping's key as messages show it. Where values are secrets, a
// key that is no header name may be one too: "Authorization: Bearer …" in
// quotes, for example.
func (d *decoder) keyName(p place, key string) string {
	if p.rule.secret && !isToken(key) {
		return redacted
	}
	return shownKey(key)
}

func (d *decoder) structure(p place, n ast.Node, v reflect.Value) {
	if _, ok := n.(*ast.MappingNode); !ok {
		d.bad(p, n, wanted(v.Type(), p.rule))
		return
	}
	all := rules(v.Type())
	seen := map[string]bool{}
	for _, e := range d.entries(p, n, wanted(v.Type(), p.rule)) {
		seen[e.key] = true
		name := d.keyName(p, e.key)
		r, known := findRule(all, e.key)
		child := p.key(name, e.key, e.line, r)
		switch {
		case !d.isLive(child.pattern) && known:
			d.add(e.line, child.path, "", "is changed in the file alone: "+d.hint(p, "", all))
		case known:
			d.value(child, e.value, v.Field(r.index))
		case d.isLater(child.pattern):
			d.add(e.line, child.path, "", notYet)
		default:
			d.add(e.line, child.path, "", "unknown key: "+d.hint(p, e.key, all))
		}
	}
	for _, r := range all {
		there := d.live != nil && !v.Field(r.index).IsZero()
		if !d.isLive(p.key(r.name, r.name, 0, r).pattern) {
			continue
		}
		if r.required != "" && !seen[r.name] && !seen[r.unless] && !d.top[r.unless] && !there {
			d.add(p.line, p.key(r.name, "", 0, rule{}).path, "", "missing: want "+r.required)
		}
	}
}

func findRule(all []rule, name string) (rule, bool) {
	for _, r := range all {
		if r.name == name {
			return r, true
		}
	}
	return rule{}, false
}

func (d *decoder) isLater(pattern string) bool {
	return slices.Contains(d.later, pattern)
}

// hint says which key was meant, or which there are.
func (d *decoder) hint(p place, key string, all []rule) string {
	var known []string
	for _, r := range all {
		if d.isLive(p.key(r.name, r.name, 0, r).pattern) {
			known = append(known, r.name)
		}
	}
	words := slices.Clone(known)
	prefix := p.key("", "", 0, rule{}).pattern
	for _, k := range d.later {
		if d.live != nil {
			break
		}
		if rest, ok := strings.CutPrefix(k, prefix); ok && !strings.ContainsAny(rest, ".[") && rest != "" {
			words = append(words, rest)
		}
	}
	if near, ok := nearest(key, words); ok {
		return "did you mean " + near + "?"
	}
	return "want " + oneOf(known)
}

func (d *decoder) mapping(p place, n ast.Node, v reflect.Value) {
	entries := d.entries(p, n, wanted(v.Type(), p.rule))
	v.Set(reflect.MakeMapWithSize(v.Type(), len(entries)))
	for _, e := range entries {
		child := p.key(d.keyName(p, e.key), "*", e.line, p.rule)
		if p.rule.secret && !isToken(e.key) {
			d.add(e.line, child.path, "", "want the name of a header field, for example Authorization")
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		setDefaults(item)
		d.value(child, e.value, item)
		v.SetMapIndex(reflect.ValueOf(e.key), item)
	}
}

func (d *decoder) list(p place, n ast.Node, v reflect.Value) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.bad(p, n, wanted(v.Type(), p.rule))
		return
	}
	if len(s.Values) > maxItems {
		d.add(p.line, p.path, "", fmt.Sprintf("%d items: want at most %d", len(s.Values), maxItems))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, item := range s.Values {
		setDefaults(v.Index(i))
		d.value(p.item(i, lineOf(item)), item, v.Index(i))
	}
}

// text decodes a scalar into a value that is not a collection.
func (d *decoder) text(p place, raw string, v reflect.Value) {
	text, err := d.expand(raw)
	switch {
	case err != nil:
	case text == "" && !strings.HasSuffix(p.pattern, ".*"):
		err = errors.New("empty: " + orLeaveOut(v.Type(), p.rule))
	case d.refusal(p, text) != "":
		err = errors.New(d.refusal(p, text))
	default:
		err = setText(v, text, p.rule)
	}
	if err == nil {
		err = inRange(v, p.rule)
	}
	if err != nil {
		d.add(p.line, p.path, shownUnless(p.rule.secret, raw), err.Error())
	}
}

// refusal is what is wrong with a text where only some are right.
func (d *decoder) refusal(p place, text string) string {
	if c, ok := d.choices[p.pattern]; ok {
		return c.refuse(text)
	}
	return ""
}

func shownUnless(secret bool, raw string) string {
	if secret {
		return ""
	}
	return shown(raw)
}

// inRange compares a number with the least and the greatest that its rule
// allows.
func inRange(v reflect.Value, r rule) error {
	if !v.CanInt() || r.min == "" && r.max == "" {
		return nil
	}
	bound := reflect.New(v.Type()).Elem()
	if r.min != "" && setText(bound, r.min, r) == nil && v.Int() < bound.Int() {
		if r.max == "" {
			return errors.New("want at least " + r.min)
		}
		return errors.New("want from " + r.min + " to " + r.max)
	}
	if r.max != "" && setText(bound, r.max, r) == nil && v.Int() > bound.Int() {
		return errors.New("want from " + r.min + " to " + r.max)
	}
	return nil
}

// shortPolicy decodes 5/minute.
func (d *decoder) shortPolicy(p place, raw string, to *Policy) {
	text, err := d.expand(raw)
	if err != nil {
		d.add(p.line, p.path, shown(raw), err.Error())
		return
	}
	limit, err := ratelimit.ParsePolicy(text)
	switch {
	case err != nil && text != raw:
		// The error quotes words of the text, and these came from elsewhere.
		err = errors.New(wanted(reflect.TypeFor[Policy](), p.rule))
	case err == nil && limit.Concurrent == 0:
		if refusal := d.choices[p.pattern+".unit"].refuse(limit.Unit); refusal != "" {
			err = errors.New(refusal)
		}
	}
	if err != nil {
		d.add(p.line, p.path, shown(raw), err.Error())
		return
	}
	to.Concurrent = limit.Concurrent
	if limit.Concurrent == 0 {
		to.Quota, to.Window, to.Unit = limit.Quota, limit.Window, limit.Unit
	}
}

// fixed decodes a concurrency that is one number.
func (d *decoder) fixed(p place, raw string, to *Concurrency) {
	v := reflect.ValueOf(to).Elem()
	p.rule, _ = findRule(rules(v.Type()), "max")
	d.text(p, raw, v.FieldByName("Max"))
	to.Min = to.Max
}
