package telemetry

import (
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// redacted stands in for a value that is not told.
const redacted = "redacted"

// redaction hides members of lines. It does not change.
type redaction struct {
	key    [sha256.Size]byte
	hidden []func(*redaction, *Entry)
	// request says that the hash of what was asked for is hidden, which is no text.
	request bool
}

// newRedaction returns nil where nothing is hidden.
func newRedaction(names []string) *redaction {
	if len(names) == 0 {
		return nil
	}
	r := &redaction{request: slices.Contains(names, "request")}
	_, _ = rand.Read(r.key[:]) // which cannot fail
	for _, name := range names {
		if hide := hiding(name); hide != nil {
			r.hidden = append(r.hidden, hide)
		}
	}
	return r
}

// hiding is what hides a member, nil where there is nothing to hide.
func hiding(name string) func(*redaction, *Entry) {
	plain := func(of func(*Entry) *string) func(*redaction, *Entry) {
		return func(_ *redaction, e *Entry) {
			if s := of(e); *s != "" {
				*s = redacted
			}
		}
	}
	switch name {
	case "caller":
		return func(r *redaction, e *Entry) { e.Caller = r.pseudonym(e.Caller) }
	case "client":
		return func(r *redaction, e *Entry) { e.Client = r.pseudonym(e.Client) }
	case "path":
		return plain(func(e *Entry) *string { return &e.Path })
	case "user_agent":
		return plain(func(e *Entry) *string { return &e.UserAgent })
	case "model":
		return plain(func(e *Entry) *string { return &e.Model })
	case "error":
		return plain(func(e *Entry) *string { return &e.Error })
	case "request_id":
		return plain(func(e *Entry) *string { return &e.RequestID })
	case "cache_key":
		return plain(func(e *Entry) *string { return &e.CacheKey })
	case "target":
		return func(_ *redaction, e *Entry) {
			e.Error = hideAddresses(e.Error)
			if e.Target != "" {
				e.Target = redacted
			}
		}
	}
	return nil
}

// hideAddresses replaces what may be an address in an error by "…": URLs, IP addresses,
// hosts with a port, names with a dot in them, and what was looked up.
func hideAddresses(s string) string {
	if s == "" {
		return ""
	}
	words := strings.Split(first(s, 4*maxString), " ") // the rest is cut anyway
	for i, word := range words {
		bare := strings.TrimRight(strings.TrimLeft(word, `("'`), `:;,.)"'`)
		if isAddress(bare) || bare != "" && i > 0 && words[i-1] == "lookup" {
			words[i] = strings.Replace(word, bare, "…", 1)
		}
	}
	return strings.Join(words, " ")
}

// isAddress reports whether a word of an error may tell where something is.
func isAddress(word string) bool {
	if strings.Contains(word, "://") || strings.Contains(word, "->") {
		return true
	}
	host, port, err := net.SplitHostPort(word)
	if err == nil && host != "" && port != "" && strings.Trim(port, "0123456789") == "" {
		return true
	}
	if _, err := netip.ParseAddr(strings.Trim(word, "[]")); err == nil {
		return true
	}
	dot := strings.IndexByte(word, '.')
	return dot > 0 && dot < len(word)-1
}

// pseudonym is the same for the same name as long as the process runs, and tells
// nothing of it: there are few addresses, and who does not know the key cannot try them.
func (r *redaction) pseudonym(name string) string {
	if name == "" {
		return ""
	}
	var room [sha256.Size + maxString]byte
	sum := sha256.Sum256(append(append(room[:0], r.key[:]...), name...))
	b := append(make([]byte, 0, len(redacted)+9), redacted+":"...)
	for _, c := range sum[:4] {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return string(b)
}

// appendEntry appends e's line without what is hidden.
func (r *redaction) appendEntry(b []byte, e *Entry, level slog.Level) []byte {
	if r == nil {
		return appendEntry(b, e, level)
	}
	return r.appendHidden(b, *e, level) // a copy on the heap, which nobody else pays for
}

func (r *redaction) appendHidden(b []byte, e Entry, level slog.Level) []byte {
	for _, hide := range r.hidden {
		hide(r, &e)
	}
	asked := e.Request
	if r.request {
		e.Request = 0
	}
	b = appendEntry(b, &e, level)
	if r.request && asked != 0 {
		b = append(b, `,"request":"redacted"`...)
	}
	return b
}
