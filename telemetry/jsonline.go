package telemetry

import (
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxString is the longest string, in bytes before escaping, that a line
	// repeats: paths and agents are the client's, and a log has to stay small.
	maxString = 256

	// timeLayout has a fixed width, so that lines sort as text.
	timeLayout = "2006-01-02T15:04:05.000Z07:00"
)

// appendEntry appends e as one line, but for its end. Members without a value are left
// out, except status and duration_ms.
func appendEntry(b []byte, e *Entry, level slog.Level) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, timeLayout)
	b = append(b, `","level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","msg":"request"`...)
	b = appendString(b, `,"request_id":`, e.RequestID)
	b = appendString(b, `,"caller":`, e.Caller)
	b = appendString(b, `,"plan":`, e.Plan)
	b = appendString(b, `,"route":`, e.Route)
	b = appendString(b, `,"method":`, e.Method)
	b = appendString(b, `,"path":`, withoutQuery(e.Path))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.Status), 10)
	b = append(b, `,"duration_ms":`...)
	b = appendLogMillis(b, e.Duration)
	b = appendDuration(b, `,"first_byte_ms":`, e.FirstByte)
	b = appendDuration(b, `,"upstream_ms":`, e.UpstreamTime)
	b = appendDuration(b, `,"queue_ms":`, e.QueueTime)
	b = appendDuration(b, `,"cache_ms":`, e.CacheTime)
	b = appendString(b, `,"cache":`, e.Cache)
	b = appendString(b, `,"cache_key":`, e.CacheKey)
	b = appendTrue(b, `,"refresh":true`, e.Refresh)
	b = appendString(b, `,"policy":`, e.Policy)
	b = appendString(b, `,"refused":`, e.Refused)
	b = appendString(b, `,"shadow":`, e.Shadow)
	b = appendString(b, `,"store":`, e.Store)
	b = appendString(b, `,"shed":`, e.Shed)
	b = appendString(b, `,"job":`, e.Job)
	b = appendString(b, `,"model":`, e.Model)
	b = appendInt(b, `,"input_tokens":`, e.Usage.Input)
	b = appendInt(b, `,"cached_tokens":`, e.Usage.Cached)
	b = appendInt(b, `,"output_tokens":`, e.Usage.Output)
	b = appendTrue(b, `,"usage_estimated":true`, e.UsageEstimated)
	b = appendString(b, `,"finish":`, e.Finish)
	b = appendString(b, `,"error":`, hideQueries(e.Error))
	b = appendInt(b, `,"bytes_in":`, e.BytesIn)
	b = appendInt(b, `,"bytes_out":`, e.BytesOut)
	b = appendString(b, `,"upstream":`, e.Upstream)
	b = appendString(b, `,"target":`, bareTarget(e.Target))
	b = appendString(b, `,"client":`, e.Client)
	b = appendString(b, `,"proto":`, e.Proto)
	b = appendString(b, `,"user_agent":`, e.UserAgent)
	return appendDetails(b, e)
}

// appendDetails appends what only some readers of the log need.
func appendDetails(b []byte, e *Entry) []byte {
	b = appendString(b, `,"policy_scope":`, e.PolicyScope)
	b = appendString(b, `,"shadow_scope":`, e.ShadowScope)
	b = appendDuration(b, `,"saved_ms":`, e.Saved)
	b = appendInt(b, `,"saved_tokens":`, e.SavedTokens)
	if e.Request != 0 {
		b = appendHash(append(b, `,"request":`...), e.Request)
	}
	b = appendTrue(b, `,"samples":true`, e.Samples)
	b = appendTrue(b, `,"stream":true`, e.Stream)
	b = appendInt(b, `,"estimate_input":`, e.Estimate.Input)
	b = appendInt(b, `,"estimate_output":`, e.Estimate.Output)
	b = appendInt(b, `,"attempts":`, int64(e.Attempts))
	b = appendString(b, `,"trace_id":`, e.TraceID)
	return appendString(b, `,"span_id":`, e.SpanID)
}

// appendEnd ends a line that stands for 1/share lines.
func appendEnd(b []byte, share float64) []byte {
	if share < 1 {
		b = strconv.AppendFloat(append(b, `,"sample":`...), share, 'g', -1, 64)
	}
	return append(b, '}', '\n')
}

func appendTrue(b []byte, member string, is bool) []byte {
	if !is {
		return b
	}
	return append(b, member...)
}

// appendHash appends h in 16 hexadecimal digits, quoted: a JSON number would lose some.
func appendHash(b []byte, h uint64) []byte {
	b = append(b, '"')
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[h>>shift&15])
	}
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

func appendString(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendQuoted(append(b, key...), cut(s))
}

func appendInt(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, key...), n, 10)
}

func appendDuration(b []byte, key string, d time.Duration) []byte {
	if d <= 0 {
		return b
	}
	return appendLogMillis(append(b, key...), d)
}

// appendLogMillis appends d in milliseconds, exact to the microsecond.
func appendLogMillis(b []byte, d time.Duration) []byte {
	us := divide(d, time.Microsecond)
	b = strconv.AppendInt(b, us/1000, 10)
	if us%1000 == 0 {
		return b
	}
	return appendThousandths(append(b, '.', byte('0'+us%1000/100)), us%100)
}

// appendQuoted appends s as a JSON string. Beyond what JSON demands it escapes
// every character that is not printable (C1 controls, U+2028, bidirectional
// overrides, …): those can end a line for some readers, drive a terminal, or
// show another text than the one that is there.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = appendEscape(b, rune(c))
			default:
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		switch {
		case r == utf8.RuneError && size == 1, r <= 0xffff && !strconv.IsPrint(r):
			b = appendEscape(b, r)
		case !strconv.IsPrint(r):
			r -= 0x10000 // RFC 8259, section 7: a surrogate pair
			b = appendEscape(appendEscape(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// appendEscape appends a code unit of 16 bits.
func appendEscape(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// cut returns at most maxString bytes of s, without half a character at the end.
func cut(s string) string {
	if len(s) <= maxString {
		return s
	}
	n := maxString
	for n > maxString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// withoutQuery returns a path without what follows it: queries hold prompts
// and keys.
func withoutQuery(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i]
	}
	return path
}

// bareTarget returns a target's URL without user information and query.
func bareTarget(target string) string {
	target = withoutQuery(target)
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		return target
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	at := strings.LastIndexByte(authority, '@')
	if at < 0 {
		return target
	}
	return scheme + "://" + authority[at+1:] + path
}

// hideQueries replaces what follows a question mark, up to the next space or
// quote, by "…": net/http and net/url put whole URLs into their errors.
func hideQueries(s string) string {
	if strings.IndexByte(s, '?') < 0 {
		return s
	}
	s = s[:min(len(s), 4*maxString)] // the rest is cut anyway
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		b = append(b, s[i])
		if s[i] != '?' {
			continue
		}
		end := i + 1
		for end < len(s) && s[end] != ' ' && s[end] != '"' && s[end] != '\n' {
			if s[end] == '\\' { // an escaped quote is part of the URL
				end++
			}
			end++
		}
		if end > i+1 {
			b = append(b, "…"...)
		}
		i = end - 1
	}
	return string(b)
}
