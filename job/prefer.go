package job

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Preferences are what a request's Prefer fields say about when its answer is wanted
// (RFC 7240). The zero value is no preference.
type Preferences struct {
	// Async is respond-async: 202 and a job instead of waiting for the answer.
	Async bool
	// Wait is how long the client waits for the answer before it wants the 202, in
	// whole seconds and at most a day. 0 where it says nothing, or wait=0.
	Wait time.Duration
}

const (
	// maxPrefer is how many bytes of Prefer fields are read, in all.
	maxPrefer = 4 << 10
	// maxWait is the longest wait that is told apart from a longer one.
	maxWait = 24 * time.Hour
)

// ParsePrefer reads the Prefer fields of a request. Whatever is not understood is
// ignored, as RFC 7240 wants it: other preferences, their parameters, and what is
// malformed, up to the next comma. Of a preference that comes twice the first counts.
func ParsePrefer(h http.Header) Preferences {
	var p Preferences
	var async, wait bool // seen
	left := maxPrefer
	for _, field := range h.Values("Prefer") {
		if left -= len(field); left < 0 {
			break
		}
		for field != "" {
			var item string
			item, field = cutUnquoted(field, ',')
			item, _ = cutUnquoted(item, ';') // parameters: none that we know
			name, value := preference(item)
			switch {
			case name == "respond-async" && !async:
				async, p.Async = true, value == ""
			case name == "wait" && !wait:
				p.Wait, wait = waitOf(value)
			}
		}
	}
	return p
}

// cutUnquoted cuts s at the first sep outside of a quoted string. A quote that never
// ends lasts to the end of the field.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '\\' && quoted:
			i++
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// preference splits NAME=VALUE, with or without spaces and quotes. The name is in lower
// case. An empty value is none.
func preference(item string) (name, value string) {
	name, value, _ = strings.Cut(item, "=")
	name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1] // an escape in it makes it no number and no known value
	}
	return name, value
}

// waitOf reads whole seconds. ok is false for anything else.
func waitOf(value string) (wait time.Duration, ok bool) {
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds > int64(maxWait/time.Second) {
		return maxWait, true // digits only: it is too large
	}
	return time.Duration(seconds) * time.Second, true
}
