package dialect

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-10 are lists of strings with
// parameters (RFC 9651):
//
//	RateLimit-Policy: "minute";q=5;w=60, "day";q=90000;w=86400;weir-unit="tokens"
//	RateLimit: "minute";r=4;t=12, "day";r=89100;t=900

const (
	maxListBytes = 4096
	maxListItems = 16
)

// listItem is an item of one of these lists, with the parameters that matter
// here. A number that is absent is -1.
type listItem struct {
	name    string
	q, r, t int64
	unit    string // of weir-unit, else of qu; "" where there is neither
}

// readPolicies appends the limits that RateLimit and RateLimit-Policy describe
// together. A policy whose unit is none of ours (content-bytes, concurrent-
// requests) is left out, and all of them are where a field is malformed.
func readPolicies(h http.Header, to []Limit) []Limit {
	states, policies := h["Ratelimit"], h["Ratelimit-Policy"]
	if len(states) == 0 || len(policies) == 0 {
		return to
	}
	rest, ok := parseList(strings.Join(states, ","))
	if !ok {
		return to
	}
	described, ok := parseList(strings.Join(policies, ","))
	if !ok {
		return to
	}
	for _, state := range rest {
		for _, policy := range described {
			if policy.name != state.name {
				continue
			}
			if l, ok := limitOf(policy, state); ok {
				to = append(to, l)
			}
			break
		}
	}
	return to
}

func limitOf(policy, state listItem) (Limit, bool) {
	l := Limit{Unit: policy.unit, Quota: max(0, policy.q), Remaining: state.r}
	switch policy.unit {
	case "":
		l.Unit = "requests"
	case "requests", "tokens", "input_tokens", "output_tokens":
	default:
		return Limit{}, false
	}
	if state.t > 0 {
		l.Full = time.Duration(min(state.t, int64(maxFull/time.Second)+1)) * time.Second
	}
	return l, state.r >= 0 && l.Full <= maxFull
}

// parseList reads a list of strings with parameters, which is stricter than RFC
// 9651: other items fail it, and so does a parameter of the wrong type or a
// negative number where a count is meant.
func parseList(text string) ([]listItem, bool) {
	if len(text) > maxListBytes {
		return nil, false
	}
	s := structured{rest: strings.Trim(text, " ")}
	var items []listItem
	for {
		item, ok := s.item()
		if !ok || len(items) == maxListItems {
			return nil, false
		}
		items = append(items, item)
		s.rest = strings.TrimLeft(s.rest, " \t")
		if s.rest == "" {
			return items, true
		}
		if !s.eat(',') {
			return nil, false
		}
		s.rest = strings.TrimLeft(s.rest, " \t")
	}
}

// structured is what is left to read of a structured field.
type structured struct{ rest string }

// item reads a string and its parameters. Of a parameter that is there twice, the
// last counts.
func (s *structured) item() (listItem, bool) {
	item := listItem{q: -1, r: -1, t: -1}
	var ok bool
	if item.name, ok = s.text(); !ok {
		return item, false
	}
	var quotaUnit, ourUnit string
	for s.eat(';') {
		s.rest = strings.TrimLeft(s.rest, " ")
		key, ok := s.key()
		if !ok {
			return item, false
		}
		switch key {
		case "q":
			item.q, ok = s.count()
		case "r":
			item.r, ok = s.count()
		case "t":
			item.t, ok = s.count()
		case "qu":
			quotaUnit, ok = s.textValue()
		case "weir-unit":
			ourUnit, ok = s.textValue()
		default:
			ok = s.skipValue()
		}
		if !ok {
			return item, false
		}
	}
	item.unit = quotaUnit
	if ourUnit != "" {
		item.unit = ourUnit
	}
	return item, true
}

func (s *structured) eat(c byte) bool {
	if s.rest != "" && s.rest[0] == c {
		s.rest = s.rest[1:]
		return true
	}
	return false
}

// span takes the longest beginning of which in has every byte.
func (s *structured) span(in func(c byte) bool) string {
	n := 0
	for n < len(s.rest) && in(s.rest[n]) {
		n++
	}
	taken := s.rest[:n]
	s.rest = s.rest[n:]
	return taken
}

// text reads a string: printable ASCII in quotes, with \" and \\.
func (s *structured) text() (string, bool) {
	if !s.eat('"') {
		return "", false
	}
	var b []byte
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.rest = s.rest[i+1:]
			return string(b), true
		case c < ' ' || c > '~':
			return "", false
		case c == '\\':
			i++
			if i == len(s.rest) || s.rest[i] != '"' && s.rest[i] != '\\' {
				return "", false
			}
			b = append(b, s.rest[i])
		default:
			b = append(b, c)
		}
	}
	return "", false
}

func (s *structured) textValue() (string, bool) {
	if !s.eat('=') {
		return "", false
	}
	return s.text()
}

func (s *structured) key() (string, bool) {
	if s.rest == "" || !isLower(s.rest[0]) && s.rest[0] != '*' {
		return "", false
	}
	return s.span(func(c byte) bool { return isLower(c) || isDigit(c) || strings.IndexByte("_-.*", c) >= 0 }), true
}

// count reads the value of a parameter that is a number and not negative.
func (s *structured) count() (int64, bool) {
	if !s.eat('=') {
		return 0, false
	}
	n, err := strconv.ParseUint(s.span(isDigit), 10, 63)
	return int64(n), err == nil && n <= maxCount && !strings.HasPrefix(s.rest, ".")
}

// skipValue passes over the value of a parameter that does not matter here,
// whatever its type. No value at all is true.
func (s *structured) skipValue() bool {
	if !s.eat('=') {
		return true
	}
	switch {
	case strings.HasPrefix(s.rest, `"`):
		_, ok := s.text()
		return ok
	case s.eat('?'):
		return s.eat('0') || s.eat('1')
	case s.eat(':'):
		_, err := base64.StdEncoding.DecodeString(s.span(func(c byte) bool { return c != ':' && c > ' ' }))
		return err == nil && s.eat(':')
	case s.rest != "" && (isAlpha(s.rest[0]) || s.rest[0] == '*'):
		s.span(func(c byte) bool { return isDigit(c) || isAlpha(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0 })
		return true
	}
	s.eat('@') // a date
	s.eat('-')
	if whole := len(s.span(isDigit)); whole == 0 || whole > 15 {
		return false
	}
	if !s.eat('.') {
		return true
	}
	decimals := len(s.span(isDigit))
	return decimals >= 1 && decimals <= 3
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isAlpha(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' }
