package admin

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// none stands where there is nothing to say a number of.
const none = "–"

// functions are what templates can call.
func (d *dashboard) functions() template.FuncMap {
	return template.FuncMap{
		"static": d.assets.url,
		"help":   help,
		"count":  count, "rate": rate, "ms": millis, "seconds": seconds, "span": period, "share": share, "ratio": ratio, "bytes": bytesOf,
		"of": of, "time": utc, "clock": clock, "ago": ago, "rfc3339": rfc3339,
		"add": func(a, b int64) int64 { return a + b },
		"sum": sumOf[string], "keys": sortedKeys, "dict": dict, "phases": phases, "told": told, "indented": indented,
		"sentence": sentence, "stopped": stopped,
		"in": in, "short": shortKey, "tier": tierState, "refusedFor": refusedFor,
		"rfc3339nano": func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	}
}

// sentence is a text with a capital letter and a full stop, for texts of others that stand
// between sentences of a page.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return stopped(string(unicode.ToUpper(first)) + text[size:])
}

// stopped is a text that ends as a sentence does.
func stopped(text string) string {
	text = strings.TrimSpace(text)
	if last, _ := utf8.DecodeLastRuneInString(text); text == "" || strings.ContainsRune(".:!?…", last) {
		return text
	}
	return text + "."
}

// help is a button that shows what a figure is: by keyboard, touch and mouse, without
// script. id is unique on its page.
func help(id, name, text string) template.HTML {
	e := template.HTMLEscapeString
	return template.HTML(`<button type="button" class="help" popovertarget="help-` + e(id) + `" aria-label="What is ` + e(name) + `?">?</button>` +
		`<span id="help-` + e(id) + `" class="tip" popover role="note"><strong>` + e(name) + `.</strong> ` + e(text) + `</span>`)
}

// count writes a number with its thousands apart, and one that nobody reads to its end in
// millions.
func count(n any) string {
	v, ok := figure(n)
	switch {
	case !ok:
		return none
	case math.Abs(v) >= 1e10:
		return strconv.FormatFloat(v/1e9, 'f', 1, 64) + " G"
	case math.Abs(v) >= 1e7:
		return strconv.FormatFloat(v/1e6, 'f', 1, 64) + " M"
	}
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	if v < 0 {
		return "−" + digits
	}
	return digits
}

func figure(n any) (float64, bool) {
	switch n := n.(type) {
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case float64:
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	}
	return 0, false
}

// significant writes v with about three digits.
func significant(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a < 0.01:
		return "< 0.01"
	case a < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return count(v)
}

// rate is a number a second.
func rate(v float64) string { return significant(v) + "/s" }

// millis is a time in milliseconds, in the unit that suits it.
func millis(v float64) string {
	if v < 1000 {
		return significant(v) + " ms"
	}
	return seconds(v / 1000)
}

// seconds is a time in seconds, in the unit that suits it.
func seconds(v float64) string {
	switch {
	case v < 120:
		return significant(v) + " s"
	case v < 2*60*60:
		return significant(v/60) + " min"
	case v < 2*24*60*60:
		return significant(v/3600) + " h"
	}
	return significant(v/86400) + " d"
}

// period is how long something goes back, in whole units.
func period(v float64) string {
	if v < 120 {
		return count(math.Round(v)) + " s"
	}
	return count(math.Round(v/60)) + " min"
}

// share is a share from 0 to 1 in percent; nil is none.
func share(v *float64) string {
	if v == nil {
		return none
	}
	return percent(*v)
}

// ratio is part of whole in percent.
func ratio(part, whole any) string {
	p, okPart := figure(part)
	w, okWhole := figure(whole)
	if !okPart || !okWhole || w == 0 {
		return none
	}
	return percent(p / w)
}

func percent(v float64) string {
	switch v *= 100; {
	case v > 0 && v < 0.1:
		return "< 0.1 %"
	case v > 99.9 && v < 100:
		return "> 99.9 %"
	case v == math.Trunc(v) || v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64) + " %"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " %"
}

// of is part of whole as a number from 0 to 100, for bars.
func of(part, whole any) string {
	p, _ := figure(part)
	w, _ := figure(whole)
	if w <= 0 {
		return "0"
	}
	return strconv.FormatFloat(min(max(p/w*100, 0), 100), 'f', 1, 64)
}

func bytesOf(n int64) string {
	if n < 1<<10 {
		return count(n) + " B"
	}
	v := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if v /= 1 << 10; v < 1<<10 {
			return significant(v) + " " + unit
		}
	}
	return significant(v/(1<<10)) + " TiB"
}

// utc, clock and rfc3339 write a moment for people, the same moment on the day itself, and
// for programs.
func utc(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func clock(t time.Time) string   { return t.UTC().Format("15:04:05") }
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ago is the time from then to now, for people.
func ago(then, now time.Time) string {
	switch {
	case then.IsZero():
		return none
	case now.Sub(then) < time.Second:
		return "now"
	}
	d := now.Sub(then)
	for _, u := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= 2*u.length {
			return fmt.Sprintf("%d %s ago", d/u.length, u.name)
		}
	}
	return fmt.Sprintf("%d s ago", d/time.Second)
}

func sumOf[K cmp.Ordered](values map[K]int64) int64 {
	var sum int64
	for _, v := range values {
		sum += v
	}
	return sum
}

func sortedKeys(values map[string]int64) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// dict gives a template several named values.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: %d values: want names and values in turn", len(pairs))
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v: want a name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}
