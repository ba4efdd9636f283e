package loadtest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What of Server-Timing has figures: so many names, of so many characters.
const (
	maxTimings    = 16
	maxTimingName = 40
)

// fieldCounts is what the headers of answers say of the server.
type fieldCounts struct {
	cache   map[string]int64 // hit, miss, collapsed, bypass: of Cache-Status
	timings map[string]*timing
}

// timing sums up one name of Server-Timing.
type timing struct {
	count int64
	sum   time.Duration
}

func (c *fieldCounts) add(h http.Header) {
	if said := cacheResult(h["Cache-Status"]); said != "" {
		if c.cache == nil {
			c.cache = map[string]int64{}
		}
		c.cache[said]++
	}
	for _, line := range h["Server-Timing"] {
		for part := range strings.SplitSeq(line, ",") {
			c.time(part)
		}
	}
}

// time reads one timing: queue;dur=1.25, in milliseconds.
func (c *fieldCounts) time(part string) {
	name, params, _ := strings.Cut(part, ";")
	name = clip(strings.TrimSpace(name), maxTimingName)
	for p := range strings.SplitSeq(params, ";") {
		ms, ok := strings.CutPrefix(strings.TrimSpace(p), "dur=")
		n, err := strconv.ParseFloat(ms, 64)
		if !ok || err != nil || !(n >= 0) || n > float64(time.Hour/time.Millisecond) || name == "" {
			continue
		}
		if c.timings == nil {
			c.timings = map[string]*timing{}
		}
		t := c.timings[name]
		if t == nil {
			if len(c.timings) == maxTimings {
				return
			}
			t = &timing{}
			c.timings[name] = t
		}
		t.count++
		t.sum += time.Duration(n * float64(time.Millisecond))
		return
	}
}

// cacheResult is what the cache nearest to the client, the last one, says of an
// answer (RFC 9211): hit, miss, collapsed or bypass; "" where none says anything.
func cacheResult(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	all := unquoted(fields[len(fields)-1])
	last := all[strings.LastIndexByte(all, ',')+1:]
	result := ""
	_, params, _ := strings.Cut(last, ";")
	for p := range strings.SplitSeq(params, ";") {
		switch p = strings.TrimSpace(p); {
		case p == "hit", p == "collapsed":
			return p
		case p == "fwd=bypass":
			result = "bypass"
		case strings.HasPrefix(p, "fwd="):
			result = "miss"
		}
	}
	return result
}

// unquoted is a field without its quoted strings, which may have anything in them.
func unquoted(field string) string {
	if !strings.Contains(field, `"`) {
		return field
	}
	var b strings.Builder
	quoted, escaped := false, false
	for _, c := range []byte(field) {
		switch {
		case escaped:
			escaped = false
		case c == '"':
			quoted = !quoted
		case quoted:
			escaped = c == '\\'
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
