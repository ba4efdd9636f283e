package ratelimit

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// The bounds of what an answer may teach. They are far beyond what an honest
// server says, and keep a wrong one from closing a key for ever.
const (
	maxAdvice     = 24 * time.Hour
	maxFieldBytes = 8 << 10
	maxItems      = 64
	maxLeft       = 1 << 40
)

// advice is what one answer says about the time after it.
type advice struct {
	refused bool          // 429 or 503: nothing was done for the request
	told    bool          // it says when to come back
	wait    time.Duration // that time, from receipt; 0 means at once
	should  string        // X-Should-Retry: "true", "false" or ""
	state   quotaState
}

// quotaState is what the RateLimit fields of an answer say.
type quotaState struct {
	present bool          // some form of the fields was there and made sense
	counted bool          // left and reset are known
	left    int64         // requests
	reset   time.Duration // until there are more
	pace    time.Duration // between requests in the long run; 0 is unknown
	blocked time.Duration // a policy of another unit has nothing left for so long
}

// statusOverloaded is what Anthropic's API, and Weir in its place, say for 503.
const statusOverloaded = 529

// readAdvice reads an answer that was received at now.
func readAdvice(resp *http.Response, now time.Time) advice {
	h := resp.Header
	a := advice{}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, statusOverloaded:
		a.refused = true
	}
	age, fresh := readAge(h)
	if fresh {
		// A stored answer tells what was left when it was stored.
		a.state = readState(h, now)
	}
	if !a.refused {
		return a
	}
	a.should = strings.ToLower(strings.TrimSpace(h.Get("X-Should-Retry")))
	a.wait, a.told = retryAfter(h, age, now)
	if s := a.state; !a.told && (s.blocked > 0 || s.counted && s.left == 0) {
		a.wait, a.told = s.blocked, true
		if s.counted && s.left == 0 {
			a.wait = max(a.wait, s.reset)
		}
	}
	return a
}

// readAge is how long ago the answer left its server, in seconds, as far as its
// Age field says; fresh says that it has none, or plainly 0. With one that makes
// no sense the answer has been stored nevertheless, and nobody knows for how long.
func readAge(h http.Header) (age float64, fresh bool) {
	field := h.Values("Age")
	if len(field) == 0 {
		return 0, true
	}
	age, ok := parseNumber(field[0])
	return age, ok && age == 0 && len(field) == 1
}

// RetryAfter reads when a server wants to be asked again: Retry-After-Ms before
// Retry-After, which is in seconds, fractions too, or a date by the server's own Date;
// less the Age of a stored answer. It is at most a day, and 0 where nothing is said.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	age, _ := readAge(h)
	wait, _ := retryAfter(h, age, now)
	return wait
}

// retryAfter reads Retry-After-Ms, else Retry-After. Of an answer that has been
// under way for age seconds so much of the wait is over. No 429 may be stored (RFC
// 6585, section 4), but a 503 may, and a cache that breaks the rule is no reason to
// wait twice.
func retryAfter(h http.Header, age float64, now time.Time) (time.Duration, bool) {
	if ms, ok := parseNumber(h.Get("Retry-After-Ms")); ok {
		return scale(max(ms-1000*age, 0), time.Millisecond), true
	}
	text := h.Get("Retry-After")
	if s, ok := parseNumber(text); ok {
		return scale(max(s-age, 0), time.Second), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return until(at, h, age, now), true
	}
	return 0, false
}

// parseNumber reads a number that is not negative: digits, and perhaps a
// fraction. Signs, exponents, NaN and infinity are no times.
func parseNumber(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789.") != "" || strings.Count(s, ".") > 1 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// scale gives n units, rounded up to a nanosecond, at most maxAdvice.
func scale(n float64, unit time.Duration) time.Duration {
	ns := math.Ceil(n * float64(unit))
	if ns >= float64(maxAdvice) {
		return maxAdvice
	}
	return time.Duration(ns)
}

// until is the time until at, which the server gave by its own clock: that is
// what its Date field shows, however wrong it goes, plus the age of the answer.
// Without a Date the clocks are taken to agree.
func until(at time.Time, h http.Header, age float64, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date.Add(scale(age, time.Second))
	}
	return min(max(at.Sub(now), 0), maxAdvice)
}

// readState reads the newest form of the RateLimit fields that is there.
func readState(h http.Header, now time.Time) quotaState {
	if s := structuredState(h); s.present {
		return s
	}
	for _, f := range [][2]string{
		{"Ratelimit-Remaining", "Ratelimit-Reset"},
		{"Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset"},
		{"X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{"X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
	} {
		left, ok := parseNumber(firstItem(h.Get(f[0])))
		if !ok {
			continue
		}
		if reset, ok := parseReset(firstItem(h.Get(f[1])), h, now); ok {
			return quotaState{present: true, counted: true, left: int64(min(left, maxLeft)), reset: reset}
		}
	}
	return quotaState{}
}

// firstItem cuts what older drafts allowed after the number: "9, 100;w=60". A
// date with a comma has no use here.
func firstItem(s string) string {
	if len(s) > maxFieldBytes {
		return ""
	}
	s, _, _ = strings.Cut(s, ",")
	s, _, _ = strings.Cut(s, ";")
	return strings.TrimSpace(s)
}

// Numbers from here on are points in time since 1970, in seconds and in
// milliseconds. Smaller ones are seconds from now: 15 years of them.
const (
	unixSeconds = 5e8
	unixMillis  = 5e11
)

// parseReset reads the forms that servers use: "30", "1.5", "1750000000",
// "6m0s", "12ms", "2026-01-02T15:04:05Z".
func parseReset(s string, h http.Header, now time.Time) (time.Duration, bool) {
	if n, ok := parseNumber(s); ok {
		switch {
		case n >= 1000*unixMillis: // the year 17814
			return 0, false
		case n >= unixMillis:
			return until(time.UnixMilli(int64(n)), h, 0, now), true
		case n >= unixSeconds:
			return until(time.Unix(int64(n), 0), h, 0, now), true
		}
		return scale(n, time.Second), true
	}
	if d, err := time.ParseDuration(s); err == nil {
		return min(d, maxAdvice), d >= 0
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return until(at, h, 0, now), true
	}
	return 0, false
}

// quotaPolicy is an item of RateLimit-Policy.
type quotaPolicy struct {
	pace time.Duration
	unit string
}

// structuredState reads RateLimit and RateLimit-Policy of
// draft-ietf-httpapi-ratelimit-headers-10, and RateLimit of its draft 07:
// "limit=100, remaining=50, reset=30".
func structuredState(h http.Header) quotaState {
	field := h.Values("Ratelimit")
	if tooLong(field) {
		return quotaState{}
	}
	list, err := httpsfv.UnmarshalList(field)
	if err != nil {
		return dictionaryState(field)
	}
	policies := readPolicies(h.Values("Ratelimit-Policy"))
	var s quotaState
	for i, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok || i >= maxItems {
			continue
		}
		s.add(item, policies[itemName(item)])
	}
	return s
}

// add counts one item of RateLimit: the tightest policy of requests is counted
// down, one of another unit matters only when nothing is left of it.
func (s *quotaState) add(item httpsfv.Item, p quotaPolicy) {
	left, ok := integer(item.Params, "r")
	if !ok {
		return
	}
	s.present = true
	seconds, hasReset := integer(item.Params, "t")
	reset := scale(float64(seconds), time.Second)
	unit := unitOf(item.Params)
	if unit == "" {
		unit = p.unit
	}
	if unit != "" && unit != "request" && unit != Requests {
		if left == 0 && hasReset {
			s.blocked = max(s.blocked, reset)
		}
		return
	}
	if !hasReset {
		if left == 0 && p.pace == 0 {
			return // nothing is left, and nobody knows for how long
		}
		reset = p.pace
		if reset == 0 {
			reset = time.Second
		}
	}
	if !s.counted || left < s.left || left == s.left && reset > s.reset {
		s.counted, s.left, s.reset, s.pace = true, min(left, maxLeft), reset, p.pace
	}
}

func dictionaryState(field []string) quotaState {
	d, err := httpsfv.UnmarshalDictionary(field)
	if err != nil {
		return quotaState{}
	}
	left, ok1 := dictionaryInteger(d, "remaining")
	reset, ok2 := dictionaryInteger(d, "reset")
	if !ok1 || !ok2 {
		return quotaState{}
	}
	return quotaState{present: true, counted: true, left: min(left, maxLeft), reset: scale(float64(reset), time.Second)}
}

func dictionaryInteger(d *httpsfv.Dictionary, name string) (int64, bool) {
	m, _ := d.Get(name)
	item, ok := m.(httpsfv.Item)
	if !ok {
		return 0, false
	}
	n, ok := item.Value.(int64)
	return n, ok && n >= 0
}

func readPolicies(field []string) map[string]quotaPolicy {
	if tooLong(field) {
		return nil
	}
	list, err := httpsfv.UnmarshalList(field)
	if err != nil {
		return nil
	}
	policies := map[string]quotaPolicy{}
	for i, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok || i >= maxItems {
			continue
		}
		p := quotaPolicy{unit: unitOf(item.Params)}
		quota, ok1 := integer(item.Params, "q")
		window, ok2 := integer(item.Params, "w")
		if ok1 && ok2 && quota > 0 {
			// Rounded up: half a nanosecond early is early.
			p.pace = scale(float64(window)/float64(quota), time.Second)
		}
		policies[itemName(item)] = p
	}
	return policies
}

// itemName is the name of a policy. The draft wants a String; its own examples
// have Tokens.
func itemName(item httpsfv.Item) string {
	switch v := item.Value.(type) {
	case string:
		return v
	case httpsfv.Token:
		return string(v)
	}
	return ""
}

// unitOf is the unit that the parameters name: qu is the draft's, the others are
// for units that its registry lacks, such as tokens.
func unitOf(p *httpsfv.Params) string {
	for _, name := range []string{"weir-unit", "x-unit", "qu"} {
		v, _ := p.Get(name)
		switch v := v.(type) {
		case string:
			return v
		case httpsfv.Token:
			return string(v)
		}
	}
	return ""
}

func integer(p *httpsfv.Params, name string) (int64, bool) {
	v, _ := p.Get(name)
	n, ok := v.(int64)
	return n, ok && n >= 0
}

func tooLong(field []string) bool {
	n := 0
	for _, s := range field {
		n += len(s)
	}
	return n == 0 || n > maxFieldBytes
}
