package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// MergeEdit merges patch, a JSON merge patch (RFC 7396), into old, the Doc of an Edit, which
// may be nil: keys of the patch take the place of those of old, null takes them away, and
// objects are merged in the same way. The result is nil where nothing is left, and else in
// one form for all that means the same: keys in the order of the file, no spaces, and a
// concurrency that is one number as {"min", "max"}. Which keys and values there may be, Edited says. Each has at most 1MiB.
func MergeEdit(old, patch []byte) ([]byte, error) {
	was, err := readDoc(old)
	if err != nil {
		return nil, err
	}
	next, err := readDoc(patch)
	if err != nil {
		return nil, err
	}
	// In old, too, null and objects without members say nothing.
	return writeDoc(mergeDocs(mergeDocs(doc{}, was), next)), nil
}

// doc is a JSON object of which some members are objects in turn, and the others are as
// they were written.
type doc map[string]docValue

// docValue is one of the two.
type docValue struct {
	object doc             // nil: raw counts
	raw    json.RawMessage // compact
}

// inDoc are the keys whose values are objects that are merged.
func inDoc(key string) bool {
	switch key {
	case "cache", "auto", "targets", "concurrency", "queue":
		return true
	}
	return false
}

// readDoc reads a document; null and nothing are an empty one.
func readDoc(text []byte) (doc, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return doc{}, nil
	}
	if err := checkDoc(text); err != nil {
		return nil, err
	}
	switch text[0] {
	case 'n':
		return doc{}, nil
	case '{':
		return readObject(text, inDoc)
	}
	return nil, errors.New(wantDoc)
}

// readObject reads an object whose members are objects where isObject holds for their keys.
func readObject(text []byte, isObject func(key string) bool) (doc, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err) // not reached: it is checked
	}
	out := doc{}
	for key, raw := range members {
		raw = compact(raw)
		if limit, ok := fixedLimit(key, raw); ok {
			out[key] = docValue{object: doc{"min": {raw: limit}, "max": {raw: limit}}}
			continue
		}
		if !isObject(key) || raw[0] != '{' {
			out[key] = docValue{raw: raw}
			continue
		}
		inner := func(inner string) bool { return key == "cache" && inner == "auto" }
		object, err := readObject(raw, inner)
		if err != nil {
			return nil, err
		}
		out[key] = docValue{object: object}
	}
	return out, nil
}

// fixedLimit is the number of a concurrency that is one. Others are left as they are, to be
// reported as they were written.
func fixedLimit(key string, raw json.RawMessage) (json.RawMessage, bool) {
	n, err := strconv.ParseUint(string(bytes.Trim(raw, `"`)), 10, 16)
	if key != "concurrency" || err != nil || n == 0 {
		return nil, false
	}
	return json.RawMessage(strconv.FormatUint(n, 10)), true
}

func (v docValue) isNull() bool { return v.object == nil && string(v.raw) == "null" }

// mergeDocs is RFC 7396, section 2. Objects that become empty say nothing, and are left out.
func mergeDocs(was, patch doc) doc {
	out := maps.Clone(was)
	for key, v := range patch {
		switch {
		case v.isNull():
			delete(out, key)
		case v.object != nil:
			out[key] = docValue{object: mergeDocs(out[key].orEmpty(), v.object)}
		default:
			out[key] = v
		}
	}
	for key, v := range out {
		if v.isNull() || v.object != nil && len(v.object) == 0 {
			delete(out, key)
		}
	}
	return out
}

// orEmpty is the object, or an empty one in place of something else.
func (v docValue) orEmpty() doc {
	if v.object == nil {
		return doc{}
	}
	return v.object
}

// writeDoc is nil where there is nothing to write.
func writeDoc(d doc) []byte {
	if len(d) == 0 {
		return nil
	}
	out := []byte{'{'}
	for i, key := range slices.SortedFunc(maps.Keys(d), fileOrder) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, quoteJSON(key)...), ':')
		if v := d[key]; v.object != nil {
			out = append(out, writeDoc(v.object)...)
		} else {
			out = append(out, v.raw...)
		}
	}
	return append(out, '}')
}

// fileOrder compares two keys of documents by where they stand in the file; others come
// after them by their letters.
func fileOrder(a, b string) int {
	order := []string{
		"policies", "budget", "weight", "priority", // of a plan
		"cache", "ttl", "auto", "min", "stale_while_revalidate", "stale_if_error", "max_body", // of a route
		"targets", "concurrency", "queue", "max", "max_wait", // of an upstream
	}
	rank := func(key string) int {
		if i := slices.Index(order, key); i >= 0 {
			return i
		}
		return len(order)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

func compact(text []byte) json.RawMessage {
	var out bytes.Buffer
	// It is JSON: checked before.
	_ = json.Compact(&out, text)
	return out.Bytes()
}

// quoteJSON writes a text as JSON, with < and > as they are: prices and paths have none,
// and people read it.
func quoteJSON(s string) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a buffer takes everything, and every text has a form
	return bytes.TrimSpace(out.Bytes())
}
