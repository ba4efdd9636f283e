package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/ratelimit"
)

// Edit is a change of one plan, route or upstream of a configuration in force.
type Edit struct {
	// Kind is plan, route or upstream.
	Kind string
	// Name is that of the plan, route or upstream, which must be there.
	Name string
	// Doc is a JSON object with some of the keys that EditKeys names, in the forms that
	// they have in the file; the targets of an upstream are an object of their URLs and
	// weights. Keys that it does not have, or that are null, stay as they are. At most 1MiB.
	Doc []byte
}

// The kinds of an Edit.
const (
	editPlan     = "plan"
	editRoute    = "route"
	editUpstream = "upstream"
)

// EditKeys are the keys that an Edit of the kind may have, in the order of the file, those
// within another one after a dot. It is nil for what is no kind.
func EditKeys(kind string) []string {
	switch kind {
	case editPlan:
		return []string{"policies", "budget", "weight", "priority"}
	case editRoute:
		return []string{"policies", "cache.ttl", "cache.auto", "cache.stale_while_revalidate", "cache.stale_if_error", "max_body"}
	case editUpstream:
		return []string{"targets", "concurrency", "queue.max", "queue.max_wait"}
	}
	return nil
}

// Edited returns a copy of c with the edits in it. Several edits of one plan, route or
// upstream are merged first, as MergeEdit does. All that Parse would refuse if it stood in
// the file is refused: policies that can never count or match, a plan that no caller can
// have, more policies than there is room for together with those of routes and of
// callers.overrides, a TTL where nothing is cached. The overrides of callers keep the names
// that they have in c. ${…} is not replaced: who may edit may not read the environment by
// it. c is not changed, and must be one that Parse, Load or Edited gave.
//
// The error, if any, is Mistakes without file and line, with the paths of the file, such as
// plans.pro.policies[0] or routes[2].cache.ttl.
func (c *Config) Edited(edits []Edit) (*Config, error) {
	out := reflect.New(reflect.TypeFor[Config]()).Elem()
	out.Set(cloned(reflect.ValueOf(*c)))
	e := &editor{checker: &checker{newDecoder("", nil)}, config: out.Addr().Interface().(*Config)}
	e.literal = true
	e.live = map[string]bool{}
	for _, kind := range []string{editPlan, editRoute, editUpstream} {
		for _, key := range EditKeys(kind) {
			e.live[editPattern(kind)+"."+key] = true
		}
	}
	if len(edits) > maxItems {
		return nil, Mistakes{{Want: fmt.Sprintf("%d edits: want at most %d", len(edits), maxItems)}}
	}
	for _, edit := range e.merged(edits) {
		e.apply(edit)
	}
	check(e.config, e.decoder)
	mistakes := e.collector.list
	if len(mistakes) == 0 {
		return e.config, nil
	}
	for i := range mistakes {
		mistakes[i].Line = 0 // they come from no file
	}
	return nil, mistakes
}

// editor puts edits in a configuration, and gathers what is wrong with them.
type editor struct {
	*checker
	config *Config
}

// merged are the edits with one document for each plan, route and upstream, in the order
// in which they come first. What is no document is reported.
func (e *editor) merged(edits []Edit) []Edit {
	type object struct{ kind, name string }
	var all []Edit
	first := map[object]int{}
	for _, edit := range edits {
		id := object{edit.Kind, edit.Name}
		at, again := first[id]
		if !again {
			at = len(all)
			first[id] = at
			all = append(all, Edit{Kind: edit.Kind, Name: edit.Name})
		}
		doc, err := MergeEdit(all[at].Doc, edit.Doc)
		if err != nil {
			e.add(0, e.path(edit.Kind, edit.Name), "", err.Error())
			continue
		}
		all[at].Doc = doc
	}
	return all
}

// path is where a plan, route or upstream stands in the file.
func (e *editor) path(kind, name string) string {
	switch kind {
	case editPlan:
		return "plans." + shownKey(name)
	case editUpstream:
		return "upstreams." + shownKey(name)
	case editRoute:
		if i := e.config.routeIndex(name); i >= 0 {
			return fmt.Sprintf("routes[%d]", i)
		}
		return "routes." + shownKey(name)
	}
	return ""
}

func (c *Config) routeIndex(name string) int {
	return slices.IndexFunc(c.Routes, func(r Route) bool { return r.Name == name })
}

// editPattern is how the schema names what an edit of the kind is of.
func editPattern(kind string) string {
	switch kind {
	case editPlan:
		return "plans.*"
	case editRoute:
		return "routes[]"
	}
	return "upstreams.*"
}

// apply decodes the document of an edit over what it is of. What is wrong with one key
// keeps nobody from looking at the others.
func (e *editor) apply(edit Edit) {
	p := place{path: e.path(edit.Kind, edit.Name), pattern: editPattern(edit.Kind)}
	switch edit.Kind {
	case editPlan:
		plan, known := e.config.Plans[edit.Name]
		if !e.known(p, known, "plan", existing(e.config.Plans, "plans")) {
			return
		}
		e.over(p, edit.Doc, &plan)
		completePolicies(plan.Policies, edit.Name)
		e.config.Plans[edit.Name] = plan
		e.room(p.path+".policies", plan.Policies)
		if want := e.config.crowded(edit.Name); want != "" && e.said(p.path+".policies") {
			e.fail(p.path+".policies", want)
		}
	case editRoute:
		i := e.config.routeIndex(edit.Name)
		if !e.known(p, i >= 0, "route", "want "+oneOf(e.config.routeNames())) {
			return
		}
		route := &e.config.Routes[i]
		e.over(p, edit.Doc, route)
		completePolicies(route.Policies, edit.Name)
		e.room(p.path+".policies", route.Policies)
	case editUpstream:
		u, known := e.config.Upstreams[edit.Name]
		if !e.known(p, known, "upstream", existing(e.config.Upstreams, "upstreams")) {
			return
		}
		e.over(p, edit.Doc, &u)
		e.config.Upstreams[edit.Name] = u
		if u.Queue.Max == 0 {
			// A queue that is turned off and on again has the wait that it had.
			delete(e.nodes, p.path+".queue.max_wait")
		}
	default:
		e.add(0, "", "", fmt.Sprintf("unknown kind %s: want plan, route or upstream", shown(edit.Kind)))
	}
}

func (e *editor) known(p place, known bool, what, want string) bool {
	if !known {
		e.add(0, p.path, "", "unknown "+what+": "+want)
	}
	return known
}

// routeNames are the names of the routes, as messages show them.
func (c *Config) routeNames() []string {
	names := make([]string, len(c.Routes))
	for i := range c.Routes {
		names[i] = shownKey(c.Routes[i].Name)
	}
	return names
}

// over decodes a document of MergeEdit over a struct: keys that it does not have stay as
// they are.
func (e *editor) over(p place, doc []byte, to any) {
	if doc == nil {
		return
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		e.add(0, p.path, "", wantDoc)
		return
	}
	e.structure(p, jsonNode(v), reflect.ValueOf(to).Elem())
}

// room refuses more policies than any store takes from at once.
func (e *editor) room(path string, policies []Policy) {
	if n := len(policies); n > ratelimit.MaxTakes && e.clean(path) {
		e.fail(path, fmt.Sprintf("%d policies: want at most %d", n, ratelimit.MaxTakes))
	}
}

// wantDoc is said of what is no document at all.
const wantDoc = `want a JSON object, for example {"policies": ["5/minute"]}`

// jsonNode gives a JSON value the form in which the decoder reads values. Numbers and
// words are texts: what they mean says the key.
func jsonNode(v any) ast.Node {
	at := func(text string) *token.Token { return token.New(text, text, &token.Position{}) }
	switch v := v.(type) {
	case nil:
		return ast.Null(at("null"))
	case map[string]any:
		m := ast.Mapping(at("{"), true)
		for _, key := range slices.SortedFunc(maps.Keys(v), fileOrder) {
			m.Values = append(m.Values, ast.MappingValue(at(":"), ast.String(at(key)), jsonNode(v[key])))
		}
		return m
	case []any:
		list := ast.Sequence(at("["), true)
		for _, item := range v {
			list.Values = append(list.Values, jsonNode(item))
		}
		return list
	}
	return ast.String(at(fmt.Sprint(v)))
}

// isLive reports whether an edit may change the key, something within it, or what it is
// within.
func (d *decoder) isLive(pattern string) bool {
	if d.live == nil || d.live[pattern] {
		return true
	}
	for key := range d.live {
		if strings.HasPrefix(key, pattern+".") || strings.HasPrefix(pattern, key+".") || strings.HasPrefix(pattern, key+"[") {
			return true
		}
	}
	return false
}

// weights decodes what an edit says of targets, which are those of the file.
func (d *decoder) weights(p place, n ast.Node, targets []Target) {
	weight, _ := findRule(rules(reflect.TypeFor[Target]()), "weight")
	for _, e := range d.entries(p, n, `want a mapping of URLs and weights, for example {"http://10.0.0.1:8000": 2}`) {
		i := slices.IndexFunc(targets, func(t Target) bool { return t.URL == e.key })
		if i < 0 {
			urls := make([]string, len(targets))
			for i, t := range targets {
				urls[i] = t.URL
			}
			name := shownKey(e.key)
			if shown(e.key) == shown(redacted) {
				name = redacted
			}
			d.add(0, p.key(name, "", 0, rule{}).path, "", "unknown target: want "+oneOf(urls))
			continue
		}
		at := p.item(i, 0).key("weight", "weight", 0, weight)
		d.value(at, e.value, reflect.ValueOf(&targets[i].Weight).Elem())
	}
}

// checkDoc reports what is no JSON, or none that has one meaning.
func checkDoc(doc []byte) error {
	if len(doc) > maxFile {
		return fmt.Errorf("%d bytes: want at most 1MiB", len(doc))
	}
	if err := jsonscan.Check(doc, maxDepth); err != nil {
		return err
	}
	return nil
}
