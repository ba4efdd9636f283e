package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Difference is a key that has one value in the file and another one in force.
type Difference struct {
	// Path is the key, for example plans.pro.policies or routes[2].cache.ttl. Routes have
	// the index that they have in the file.
	Path string
	// File and InForce are its two values in one line each, as the file would have them,
	// cut after 1000 characters. "" is none. Secrets are "(redacted)": where two of them
	// differ both values are that.
	File, InForce string
}

// maxDifference bounds a value of a Difference, in characters.
const maxDifference = 1000

// Differences returns the keys whose values are not the same in two configurations, in the
// order of the file. A list is one key, other than that of the routes, which are compared by
// name; where those are not the same ones in the same order, the key is routes, with their
// names. A plan, an upstream or a price that only one of the two has is one key as well.
func Differences(file, inForce *Config) []Difference {
	d := &differ{}
	d.structure("", reflect.ValueOf(*file), reflect.ValueOf(*inForce))
	return d.found
}

// NeedsRestart returns those of the keys that differ in next whose change a running gateway
// cannot put in force, in the order of the file: those of its listeners and of what it opens
// at its start, the stores of counts, answers, keys, jobs and blobs, and where telemetry
// goes. It is empty where a reload is enough.
func (c *Config) NeedsRestart(next *Config) []string {
	var keys []string
	for _, d := range Differences(c, next) {
		for _, fixed := range restartKeys() {
			if d.Path == fixed || strings.HasPrefix(d.Path, fixed+".") {
				keys = append(keys, d.Path)
			}
		}
	}
	return keys
}

// restartKeys are the keys of what lives as long as the process.
func restartKeys() []string {
	return []string{
		"listen", "tls", "admin", "decide", "store", "database", "blobs", "jobs",
		"cache.tiers", "cache.memory", "cache.dir", "cache.caller_share",
		"limits.header_bytes", "limits.header_timeout", "telemetry.otlp", "telemetry.traces",
	}
}

// differ compares two configurations key by key.
type differ struct {
	found []Difference
	owner string        // the plan or route whose policies are next
	outer reflect.Value // the struct in which the next one stands
}

func (d *differ) add(path, file, inForce string) {
	d.found = append(d.found, Difference{path, cutAt(file, maxDifference), cutAt(inForce, maxDifference)})
}

func (d *differ) structure(path string, a, b reflect.Value) {
	for _, r := range rules(a.Type()) {
		d.value(place{path: path}.key(r.name, "", 0, r), a.Field(r.index), b.Field(r.index))
	}
}

func (d *differ) value(p place, a, b reflect.Value) {
	bothEmpty := isEmpty(a) && isEmpty(b) // a list may be nil or have no items
	if bothEmpty || reflect.DeepEqual(a.Interface(), b.Interface()) {
		return
	}
	if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
		a, b = a.Elem(), b.Elem()
	}
	switch {
	case a.Kind() == reflect.Struct && !isLeaf(a.Type()):
		d.structure(p.path, a, b)
	case a.Type() == reflect.TypeFor[[]Route]():
		d.routes(a.Interface().([]Route), b.Interface().([]Route))
	case a.Kind() == reflect.Map && !p.rule.secret:
		d.mapping(p, a, b)
	default:
		d.add(p.path, d.inline(p.rule, a), d.inline(p.rule, b))
	}
}

// mapping compares what has names.
func (d *differ) mapping(p place, a, b reflect.Value) {
	var names []string
	for _, k := range append(a.MapKeys(), b.MapKeys()...) {
		names = append(names, k.String())
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		d.owner = name
		at := p.key(shownKey(name), "", 0, p.rule)
		x, y := a.MapIndex(reflect.ValueOf(name)), b.MapIndex(reflect.ValueOf(name))
		switch {
		case x.IsValid() && y.IsValid():
			d.value(at, x, y)
		case x.IsValid():
			d.add(at.path, d.inline(p.rule, x), "")
		default:
			d.add(at.path, "", d.inline(p.rule, y))
		}
	}
	d.owner = ""
}

// routes compares those that both have, and the order of all.
func (d *differ) routes(file, inForce []Route) {
	names := func(routes []Route) string {
		var all []string
		for i := range routes {
			all = append(all, routes[i].Name)
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	if a, b := names(file), names(inForce); a != b {
		d.add("routes", a, b)
	}
	other := map[string]Route{}
	for _, r := range inForce {
		other[r.Name] = r
	}
	for i, r := range file {
		if same, both := other[r.Name]; both {
			d.owner = r.Name
			d.structure(fmt.Sprintf("routes[%d]", i), reflect.ValueOf(r), reflect.ValueOf(same))
		}
	}
	d.owner = ""
}

// inline is a value in one line, as the file would have it, "" for none.
func (d *differ) inline(r rule, v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case []Policy:
		return d.policies(x)
	case netip.Prefix:
		return x.String()
	case Target:
		if x.Weight == 1 {
			return x.URL
		}
	}
	switch {
	case v.Kind() == reflect.Struct && !isLeaf(v.Type()):
		return d.inlineStruct(v)
	case !r.hasDefault && isEmpty(v):
		return ""
	case v.Kind() == reflect.Map:
		var parts []string
		for at := v.MapRange(); at.Next(); {
			parts = append(parts, at.Key().String()+": "+unquoted(r, at.Value()))
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, ", ") + "}"
	case v.Kind() == reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = d.inline(rule{hasDefault: true}, v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return unquoted(r, v)
}

// inlineStruct has the keys that YAML would print.
func (d *differ) inlineStruct(v reflect.Value) string {
	var parts []string
	outer := d.outer
	for _, r := range rules(v.Type()) {
		d.outer = v
		if text := d.inline(r, v.Field(r.index)); text != "" && r.effective(v, outer) {
			parts = append(parts, r.name+": "+text)
		}
	}
	d.outer = outer
	return "{" + strings.Join(parts, ", ") + "}"
}

// policies has the short forms that PoliciesJSON has.
func (d *differ) policies(policies []Policy) string {
	if len(policies) == 0 {
		return ""
	}
	parts := make([]string, len(policies))
	unnamed := 0
	for i, p := range policies {
		if p.isShort() && p.Name == numbered(d.owner, unnamed+1) {
			unnamed++
			parts[i] = p.short()
		} else {
			parts[i] = d.inlineStruct(reflect.ValueOf(p))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// unquoted is a scalar as scalar writes it, but for people alone.
func unquoted(r rule, v reflect.Value) string {
	s, isText := v.Interface().(string)
	switch {
	case isText && r.secret:
		return redacted
	case isText && r.url:
		return redactURL(s)
	case isText:
		return s
	}
	return scalar(r, v)
}
