package cache

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// longest is what a number of seconds that is too large counts as (RFC 9111,
// section 1.2.2): 2^31 of them, more than 68 years.
const longest = (1 << 31) * time.Second

// control is what a response says of its use by a shared cache: the directives of
// the first targeted field that is valid (RFC 9213), else those of Cache-Control.
// A duration that is negative was not given.
type control struct {
	// targeted says that Cache-Control and Expires are not to be looked at.
	targeted bool

	maxAge, sharedMaxAge               time.Duration
	staleWhileRevalidate, staleIfError time.Duration
	noStore, noCache, private, public  bool
	mustRevalidate, proxyRevalidate    bool
	mustUnderstand                     bool
	noCacheFields, privateFields       []string // of the qualified forms, canonical
}

// targets are the targeted fields that are meant for this cache, the more specific
// one first, in the form of a key of http.Header.
func targets() [2]string { return [2]string{targetedField, "Cdn-Cache-Control"} }

// responseControl reads what h says of its use. What it does not know it leaves
// alone; where h contradicts itself or gives a number that is none, the answer is
// stale at once (RFC 9111, section 4.2.1).
func responseControl(h http.Header) control {
	c := control{maxAge: -1, sharedMaxAge: -1, staleWhileRevalidate: -1, staleIfError: -1}
	for _, name := range targets() {
		if lines := h[name]; len(lines) > 0 && c.readTargeted(lines) {
			c.targeted = true
			return c
		}
	}
	for d := range cacheDirectives(h["Cache-Control"]) {
		c.add(d)
	}
	return c
}

// readTargeted reads a targeted field. It reports false for one that is empty or
// no dictionary: it counts as absent (RFC 9213, section 2.1).
func (c *control) readTargeted(lines []string) bool {
	dict, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil || len(dict.Names()) == 0 {
		return false
	}
	for _, name := range dict.Names() {
		d := directive{name: name}
		member, _ := dict.Get(name)
		item, ok := member.(httpsfv.Item)
		if !ok { // an inner list: no directive has such a value
			d.form = malformed
			c.add(d)
			continue
		}
		switch v := item.Value.(type) {
		case bool:
			if !v { // name=?0
				continue
			}
		case int64:
			d.form = number
			d.value = max(0, min(time.Duration(v), longest/time.Second)) * time.Second
		case string:
			d.form, d.text = text, v
		case httpsfv.Token:
			d.form, d.text = text, string(v)
		default: // a decimal is not to be taken for a number of seconds
			d.form = malformed
		}
		c.add(d)
	}
	return true
}

// add adds one directive.
func (c *control) add(d directive) {
	switch d.name {
	case "max-age":
		addSeconds(&c.maxAge, d)
	case "s-maxage":
		addSeconds(&c.sharedMaxAge, d)
	case "stale-while-revalidate":
		addSeconds(&c.staleWhileRevalidate, d)
	case "stale-if-error":
		addSeconds(&c.staleIfError, d)
	case "no-store":
		c.noStore = true
	case "must-revalidate":
		c.mustRevalidate = true
	case "proxy-revalidate":
		c.proxyRevalidate = true
	case "must-understand":
		c.mustUnderstand = true
	case "public":
		c.public = true
	case "no-cache":
		addQualified(&c.noCache, &c.noCacheFields, d)
	case "private":
		addQualified(&c.private, &c.privateFields, d)
	}
}

// addSeconds sets to to the directive's seconds. Without a valid number, and where
// two differ, it is 0: what cannot be known for sure is not fresh.
func addSeconds(to *time.Duration, d directive) {
	value, ok := d.seconds()
	if !ok || *to >= 0 && *to != value {
		value = 0
	}
	*to = value
}

// addQualified adds a no-cache or private directive: with field names it is about
// those fields, without, or with anything else, about the whole answer.
func addQualified(all *bool, fields *[]string, d directive) {
	if d.form != text || d.text == "" {
		*all = true
		return
	}
	for name := range strings.SplitSeq(d.text, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if !isToken(name) {
			*all = true
			return
		}
		*fields = append(*fields, http.CanonicalHeaderKey(name))
	}
	if len(*fields) == 0 {
		*all = true
	}
}

// lifetime is the freshness lifetime that the directives give; negative if they
// give none.
func (c *control) lifetime() time.Duration {
	if c.sharedMaxAge >= 0 {
		return c.sharedMaxAge
	}
	return c.maxAge
}

// neverStale says that the answer may not be used once it is stale, whatever a
// client or an operator allows (RFC 9111, section 4.2.4).
func (c *control) neverStale() bool {
	return c.noCache || c.mustRevalidate || c.proxyRevalidate || c.sharedMaxAge >= 0
}

// The forms that the value of a directive can have.
type form int

const (
	none form = iota
	text
	number    // value has it: only in a structured field
	malformed // it cannot be understood
)

// directive is one cache directive: its name in lower case, its argument.
type directive struct {
	name  string
	form  form
	text  string
	value time.Duration
}

// seconds is the argument as a number of seconds.
func (d directive) seconds() (time.Duration, bool) {
	switch d.form {
	case number:
		return d.value, true
	case text:
		return seconds(d.text)
	}
	return 0, false
}

// seconds reads delta-seconds (RFC 9111, section 1.2.2): digits, and nothing else.
// One that is too large is the longest.
func seconds(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	var n time.Duration
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = min(10*n+time.Duration(s[i]-'0'), longest/time.Second)
	}
	return n * time.Second, true
}

// cacheDirectives yields the directives of a Cache-Control field. Arguments can be
// tokens or quoted (RFC 9111, section 5.2); what is neither is malformed.
func cacheDirectives(lines []string) func(yield func(directive) bool) {
	return func(yield func(directive) bool) {
		for _, line := range lines {
			for rest := line; rest != ""; {
				var item string
				item, rest = cutMember(rest, ',')
				if item = strings.Trim(item, " \t"); item != "" && !yield(readDirective(item)) {
					return
				}
			}
		}
	}
}

// cutMember cuts s at the first separator that is not within a quoted string, where
// a backslash escapes (RFC 9110, section 5.6.4).
func cutMember(s string, separator byte) (member, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '\\' && quoted:
			i++
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func readDirective(item string) directive {
	name, value, has := strings.Cut(item, "=")
	d := directive{name: strings.ToLower(strings.TrimRight(name, " \t"))}
	switch {
	case !has:
	case strings.HasSuffix(name, " ") || strings.HasSuffix(name, "\t"):
		d.form = malformed // no blank is allowed there, so who knows what was meant
	case strings.HasPrefix(value, `"`):
		d.form, d.text = text, ""
		var ok bool
		if d.text, ok = unquote(value); !ok {
			d.form = malformed
		}
	case isToken(value):
		d.form, d.text = text, value
	default:
		d.form = malformed
	}
	return d
}

// unquote reads a quoted string that is the whole of s.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i == len(s)-1
		case '\\':
			if i++; i == len(s) {
				return "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", false
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		case strings.IndexByte("!#$%&'*+.^_`|~", c) < 0:
			return false
		}
	}
	return s != ""
}

// httpDate reads an HTTP-date in any of its three forms, without regard to case
// (RFC 9111, section 4.2). One in another zone than GMT is none. now tells the
// century of a year of two digits (RFC 9110, section 5.6.7).
func httpDate(s string, now time.Time) (time.Time, bool) {
	if n := len(s) - len(" GMT"); n > 0 && strings.EqualFold(s[n:], " GMT") {
		s = s[:n] + " GMT"
	}
	if t, err := time.Parse(http.TimeFormat, s); err == nil {
		return t.Truncate(time.Second), true
	}
	if t, err := time.Parse("Monday, 02-Jan-06 15:04:05 GMT", s); err == nil {
		year := now.UTC().Year()/100*100 + t.Year()%100
		if year > now.UTC().Year()+50 {
			year -= 100
		}
		return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC), true
	}
	if t, err := time.Parse(time.ANSIC, s); err == nil {
		return t.Truncate(time.Second), true
	}
	return time.Time{}, false
}

// dateOf reads a field that is one date. Two that differ are none.
func dateOf(h http.Header, name string, now time.Time) (time.Time, bool) {
	lines := h[name]
	if len(lines) == 0 || slices.ContainsFunc(lines, func(l string) bool { return l != lines[0] }) {
		return time.Time{}, false
	}
	return httpDate(lines[0], now)
}
