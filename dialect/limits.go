package dialect

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limit is what one API says about one of its limits.
type Limit struct {
	// Unit is requests, tokens, input_tokens or output_tokens.
	Unit string
	// Quota is how many there are at most; 0 where it is not told. Remaining is
	// how many are left. Neither is negative.
	Quota, Remaining int64
	// Full is the time until nothing is used any more; 0 where nothing is, or
	// where it is not told. Of RateLimit and X-RateLimit-Reset, which know no
	// such time, it is the time until there is more.
	Full time.Duration
}

const (
	// maxCount is the largest number of a structured field (RFC 9651, section
	// 3.3.1). Larger ones are no count of anything.
	maxCount = 999_999_999_999_999
	// maxFull is the longest time until a quota is full: beyond a year, a
	// number is a mistake, or a date.
	maxFull = 366 * 24 * time.Hour
)

// limitFields are the names of the fields that describe one limit, as http.Header
// keys.
type limitFields struct{ unit, limit, remaining, reset string }

func openAIFields() [4]limitFields {
	return [...]limitFields{
		{"requests", "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{"tokens", "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
		// Not OpenAI's own, but some servers of its API have them.
		{"input_tokens", "X-Ratelimit-Limit-Input-Tokens", "X-Ratelimit-Remaining-Input-Tokens", "X-Ratelimit-Reset-Input-Tokens"},
		{"output_tokens", "X-Ratelimit-Limit-Output-Tokens", "X-Ratelimit-Remaining-Output-Tokens", "X-Ratelimit-Reset-Output-Tokens"},
	}
}

func anthropicFields() [4]limitFields {
	return [...]limitFields{
		{"requests", "Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset"},
		{"tokens", "Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset"},
		{"input_tokens", "Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset"},
		{"output_tokens", "Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset"},
	}
}

// Limits reads what an upstream says about its own limits, in every form that is
// known, whatever the dialect: OpenAI's and Anthropic's fields, RateLimit with
// RateLimit-Policy, and X-RateLimit-Limit, -Remaining and -Reset. There is at
// most one Limit for each unit, the tightest, in the order of Tightest. What is
// malformed, negative or absurd is left out, and so is what does not say how much
// remains.
func (d *Dialect) Limits(h http.Header, now time.Time) []Limit {
	return Tightest(vendorLimits(h, now), otherLimits(h, now))
}

// Exhausted is how long an upstream admits nothing more, as its own limits say: 0
// where something is left. It reads the fields that Limits reads. Of OpenAI's and
// Anthropic's, which tell when all is there again, it is the time in which one
// comes back.
func (d *Dialect) Exhausted(h http.Header, now time.Time) time.Duration {
	var wait time.Duration
	for _, l := range vendorLimits(h, now) {
		if l.Remaining == 0 && l.Quota > 0 {
			wait = max(wait, l.Full/time.Duration(l.Quota))
		}
	}
	for _, l := range otherLimits(h, now) {
		if l.Remaining == 0 {
			wait = max(wait, l.Full)
		}
	}
	return wait
}

// vendorLimits are OpenAI's and Anthropic's.
func vendorLimits(h http.Header, now time.Time) (all []Limit) {
	for _, fields := range [...][4]limitFields{openAIFields(), anthropicFields()} {
		for _, f := range fields {
			all = f.read(h, now, all)
		}
	}
	return all
}

// otherLimits are everybody's: their Full is the time until there is more.
func otherLimits(h http.Header, now time.Time) []Limit {
	classic := limitFields{"requests", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}
	return readPolicies(h, classic.read(h, now, nil))
}

// read appends the limit that f's fields of h describe, if they do.
func (f *limitFields) read(h http.Header, now time.Time, to []Limit) []Limit {
	remaining, ok := countOf(h[f.remaining])
	if !ok {
		return to
	}
	l := Limit{Unit: f.unit, Remaining: remaining}
	if v := h[f.limit]; v != nil {
		if l.Quota, ok = countOf(v); !ok {
			return to
		}
	}
	if v := h[f.reset]; v != nil {
		if l.Full, ok = resetOf(v, now); !ok {
			return to
		}
	}
	return append(to, l)
}

// countOf reads a field that is one number, in digits.
func countOf(values []string) (int64, bool) {
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	return int64(n), err == nil && n <= maxCount
}

// resetOf reads a field that tells when a quota is full: a duration ("6m0s",
// "12ms"), seconds, a Unix time in seconds or milliseconds, or a date of RFC
// 3339. Azure's -1 says that it is not known.
func resetOf(values []string, now time.Time) (time.Duration, bool) {
	const longest = 64 // characters; the forms have fewer
	if len(values) != 1 || len(values[0]) > longest || values[0] == "" {
		return 0, false
	}
	text := values[0]
	if text == "-1" {
		return 0, true
	}
	if text[0] < '0' || text[0] > '9' {
		return 0, false
	}
	if full, err := time.ParseDuration(text); err == nil {
		return full, full <= maxFull
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return untilOf(at, now)
	}
	if strings.Trim(text, "0123456789.") != "" { // exponents, "Inf", "0x10"
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || n > 1e15:
		return 0, false
	case n > 1e11: // milliseconds: as seconds, it would be in the year 5138
		return untilOf(time.UnixMilli(int64(n)), now)
	case n > maxFull.Seconds():
		return untilOf(time.Unix(int64(n), 0), now)
	}
	return time.Duration(n * float64(time.Second)), true
}

func untilOf(at, now time.Time) (time.Duration, bool) {
	full := max(0, at.Sub(now))
	return full, full <= maxFull
}

// SetLimits removes the limit fields that an upstream sent: they are about its
// account, which callers share. Then it describes limits in the fields of the
// path's API: OpenAI's (requests and tokens) or Anthropic's (input_tokens and
// output_tokens, too). Other units are left out; of two limits with one unit the
// first counts. Other APIs have no fields of their own.
//
// RateLimit and RateLimit-Policy are removed, too: set your own afterwards.
func (d *Dialect) SetLimits(h http.Header, path string, limits []Limit, now time.Time) {
	for name := range h {
		if IsLimitField(name) {
			delete(h, name)
		}
	}
	if len(limits) == 0 {
		return
	}
	switch d.apiOf(path) {
	case apiOpenAI:
		fields := openAIFields()
		for _, f := range fields[:2] {
			f.set(h, limits, func(l *Limit) string { return roundUp(l.Full, time.Millisecond).String() })
		}
	case apiAnthropic:
		for _, f := range anthropicFields() {
			f.set(h, limits, func(l *Limit) string {
				at := now.Add(l.Full)
				return at.Add(roundUp(time.Duration(at.Nanosecond()), time.Second)).UTC().Truncate(time.Second).Format(time.RFC3339)
			})
		}
	}
}

// set describes the first of limits that has f's unit. Clients want all three
// fields; what is not known is left out all the same, for 0 would be wrong.
func (f *limitFields) set(h http.Header, limits []Limit, reset func(*Limit) string) {
	for i := range limits {
		l := &limits[i]
		if l.Unit != f.unit {
			continue
		}
		if l.Quota > 0 {
			h[f.limit] = []string{strconv.FormatInt(l.Quota, 10)}
		}
		h[f.remaining] = []string{strconv.FormatInt(max(0, l.Remaining), 10)}
		// Where something is used and the time is not known, "now" would be wrong.
		if known := l.Full > 0 || l.Quota > 0 && l.Remaining >= l.Quota; known {
			h[f.reset] = []string{reset(l)}
		}
		return
	}
}

// IsLimitField reports whether a field describes limits, in whatever spelling:
// also X-RateLimit-Limit-Project-Tokens, RateLimit-Limit of older drafts,
// X-Rate-Limit-Limit, Mistral's by size, Azure's, Cohere's, what LiteLLM repeats of
// its own upstream, and Anthropic's for its priority tier and its fast mode.
func IsLimitField(name string) bool {
	const longest = 128 // characters; the forms have fewer
	if len(name) > longest {
		return false
	}
	switch {
	case containsFold(name, "ratelimit"), containsFold(name, "rate-limit"):
		return true
	case containsFold(name, "anthropic-"), containsFold(name, "-call-"):
		return endsFold(name, "-limit") || endsFold(name, "-remaining") || endsFold(name, "-reset")
	}
	return strings.EqualFold(name, "remaining-tokens") || strings.EqualFold(name, "remaining-requests")
}

// containsFold reports whether part stands in s, in capitals or not.
func containsFold(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i]|0x20 == part[0]|0x20 && strings.EqualFold(s[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

func endsFold(s, end string) bool {
	return len(s) >= len(end) && strings.EqualFold(s[len(s)-len(end):], end)
}

// roundUp rounds d up to a multiple of unit; less than nothing is 0.
func roundUp(d, unit time.Duration) time.Duration {
	d = max(0, d)
	if rest := d % unit; rest > 0 && d < 1<<62 {
		return d - rest + unit
	}
	return d
}

// Tightest gives for each unit the limit with the least remaining, of those with
// equally little the one that is full again the latest. The order is requests,
// tokens, input_tokens, output_tokens; other units are left out.
func Tightest(own, theirs []Limit) []Limit {
	var tightest []Limit
	for _, unit := range [...]string{"requests", "tokens", "input_tokens", "output_tokens"} {
		var found *Limit
		for _, limits := range [...][]Limit{own, theirs} {
			for i := range limits {
				if l := &limits[i]; l.Unit == unit && (found == nil || l.tighter(found)) {
					found = l
				}
			}
		}
		if found != nil {
			tightest = append(tightest, *found)
		}
	}
	return tightest
}

func (l *Limit) tighter(than *Limit) bool {
	if l.Remaining != than.Remaining {
		return l.Remaining < than.Remaining
	}
	return l.Full > than.Full
}
