package admin

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/auth"
)

// day is what 90d counts. It has 24 hours, whatever the clocks of a place do.
const day = 24 * time.Hour

// expiry reads when a key expires: never, for "" too; after a time, such as 90d; on a
// date, whose first moment in UTC is meant; or at a moment in the form of RFC 3339.
// want is what would be right, "" where text is.
func expiry(text string, now time.Time) (at time.Time, want string) {
	switch text {
	case "", "never":
		return time.Time{}, ""
	}
	if d, ok := span(text); ok {
		at = now.Add(d)
	} else if at, ok = moment(text); !ok {
		return time.Time{}, "want a time to live, for example 90d, a date, for example 2030-12-31, or never"
	}
	if !at.After(now) {
		return time.Time{}, "is in the past: want a time to come, for example 90d"
	}
	return at, ""
}

func moment(text string) (at time.Time, ok bool) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), true
		}
	}
	return time.Time{}, false
}

// span reads a duration as the configuration has it, such as 90d, 24h or 1d12h.
func span(text string) (time.Duration, bool) {
	days, rest, found := strings.Cut(text, "d")
	if !found {
		days, rest = "0", text
	}
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > uint64(math.MaxInt64/day)-1 {
		return 0, false
	}
	d := time.Duration(0)
	if rest != "" {
		if d, err = time.ParseDuration(rest); err != nil || d < 0 || d > day*365 || rest[0] == '+' || rest[0] == '-' {
			return 0, false
		}
	} else if !found {
		return 0, false
	}
	return time.Duration(n)*day + d, true
}

// shown quotes a value for a message, cut, and without what may be a key.
func shown(value string) string {
	const most = 60
	switch {
	case value == "":
		return ""
	case strings.Contains(value, auth.KeyPrefix):
		return `"(redacted)"`
	case len(value) > most:
		return strconv.Quote(strings.ToValidUTF8(value[:most], "") + "…")
	}
	return strconv.Quote(value)
}
