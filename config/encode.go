package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// YAML returns the whole configuration as it is in effect, every default
// included, in the form that Parse reads. Secrets are "(redacted)", and Parse
// refuses that word as a secret: such a text is to be read, or to be compared,
// not to be served from.
func (c *Config) YAML() ([]byte, error) {
	e := &encoder{}
	e.structure(reflect.ValueOf(*c), 0)
	return []byte(e.out.String()), nil
}

type encoder struct {
	out   strings.Builder
	outer reflect.Value // the struct in which the next one stands
}

func (e *encoder) line(indent int, text string) {
	e.out.WriteString(strings.Repeat("  ", indent))
	e.out.WriteString(text)
	e.out.WriteByte('\n')
}

// structure writes the keys of a struct. A key without a default that is not
// set is left out, and one that has no effect without another.
func (e *encoder) structure(v reflect.Value, indent int) {
	outer := e.outer
	for _, r := range rules(v.Type()) {
		f := v.Field(r.index)
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		if !r.hasDefault && isEmpty(f) || !r.effective(v, outer) {
			continue
		}
		e.outer = v
		e.value(r, f, indent)
	}
}

// effective reports whether the key has an effect in the struct v: with is the
// name of another field that must be there, after ../ one of the struct outer in
// which v stands, after a ! the value of it that does not count, with a * at its
// end all that begin with it, and after a = the word that the list must have.
func (r rule) effective(v, outer reflect.Value) bool {
	with, above := strings.CutPrefix(r.with, "../")
	if above {
		v = outer
	}
	if with == "" {
		return true
	}
	if list, word, ok := strings.Cut(with, "="); ok {
		words, _ := v.FieldByName(list).Interface().([]string)
		return slices.Contains(words, word)
	}
	name, not, _ := strings.Cut(with, "!")
	f := v.FieldByName(name)
	return !isEmpty(f) && (not == "" || !coversPattern(not, fmt.Sprint(f)))
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	}
	return v.IsZero()
}

func (e *encoder) value(r rule, v reflect.Value, indent int) {
	switch {
	case v.Kind() == reflect.Struct && !isLeaf(v.Type()):
		e.line(indent, r.name+":")
		e.structure(v, indent+1)
	case v.Kind() == reflect.Map:
		e.line(indent, r.name+":")
		e.mapping(r, v, indent+1)
	case v.Kind() == reflect.Slice && v.Len() > 0 && v.Index(0).Kind() == reflect.Struct && !isLeaf(v.Index(0).Type()):
		e.line(indent, r.name+":")
		for i := range v.Len() {
			item := &encoder{}
			item.structure(v.Index(i), indent+2)
			// The item's first line takes the dash in place of its indentation.
			e.out.WriteString(strings.Repeat("  ", indent+1) + "- " + strings.TrimLeft(item.out.String(), " "))
		}
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = scalar(rule{}, v.Index(i))
		}
		e.line(indent, r.name+": ["+strings.Join(items, ", ")+"]")
	default:
		e.line(indent, r.name+": "+scalar(r, v))
	}
}

func (e *encoder) mapping(r rule, v reflect.Value, indent int) {
	var names []string
	for _, k := range v.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	for _, name := range names {
		item := v.MapIndex(reflect.ValueOf(name))
		switch {
		case item.Kind() != reflect.Struct:
			e.line(indent, quote(name)+": "+scalar(r, item))
		case isEmptyStruct(item):
			e.line(indent, quote(name)+": {}")
		default:
			e.line(indent, quote(name)+":")
			e.structure(item, indent+1)
		}
	}
}

// isEmptyStruct holds where structure would write nothing.
func isEmptyStruct(v reflect.Value) bool {
	e := &encoder{}
	e.structure(v, 0)
	return e.out.Len() == 0
}

func scalar(r rule, v reflect.Value) string {
	if r.secret {
		return quote(redacted)
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		if r.words {
			return formatWindow(x)
		}
		return formatDuration(x)
	case Percent:
		return x.String()
	case After:
		return x.String()
	case Budget:
		return x.String()
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64) // never 1e-09, which is not read back
	case Size:
		if r.rate {
			return x.String() + "/s"
		}
		return x.String()
	case netip.Prefix:
		return quote(x.String())
	case string:
		if r.url {
			x = redactURL(x)
		}
		return quote(strings.ReplaceAll(x, "$", "$$"))
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a string so that every YAML reader takes it for one.
func quote(s string) string {
	if isPlain(s) {
		return s
	}
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r <= 0xFFFF && !unicode.IsPrint(r):
			out.WriteString(`\u`)
			hex := strconv.FormatInt(int64(r), 16)
			out.WriteString(strings.Repeat("0", 4-len(hex)) + hex)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// isPlain holds for strings that need no quotes: words, paths, addresses, URLs.
// It says no in doubt: to what looks like a number, and to words that YAML 1.1
// takes for true or false.
func isPlain(s string) bool {
	switch strings.ToLower(s) {
	case "", "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return false
	}
	if !isAlnum(s[0]) && s[0] != '/' || s[0] <= '9' && !strings.ContainsAny(s, "/:") {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case isAlnum(c) || strings.IndexByte("_./*%-", c) >= 0:
		case c == ':' && i+1 < len(s) && (isAlnum(s[i+1]) || s[i+1] == '/'):
		default:
			return false
		}
	}
	return true
}
