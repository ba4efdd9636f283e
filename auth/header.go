package auth

import (
	"net/http"
	"strings"
)

// clean removes from h what the upstream may not see, and returns which
// credentials it found on the way. trusted says whether the peer is a trusted proxy.
func (a *Authenticator) clean(h http.Header, trusted bool) found {
	var f found
	for name, values := range h {
		switch {
		// Both credentials count in every spelling: who knows a key may use it,
		// and no spelling of it may reach the upstream.
		case sameName(name, "authorization"):
			a.take(&f, values, true)
		case sameName(name, "x-api-key"):
			a.take(&f, values, false)
		case sameName(name, a.folded):
			if !trusted || name != a.header {
				delete(h, name)
			}
			continue
		case isForwarding(name):
			if !trusted || !isPlain(name) {
				delete(h, name)
			}
			continue
		default:
			continue
		}
		if f.changed {
			f.changed = false
			if len(f.kept) == 0 {
				delete(h, name)
			} else {
				h[name] = f.kept
			}
		}
	}
	return f
}

// isForwarding reports whether name tells where a request came from, or whom
// its sender stands for. All of X-Forwarded-* is meant, not only -For, -Host,
// -Proto and -Port: upstreams believe X-Forwarded-User, -Email and -Prefix too.
func isForwarding(name string) bool {
	const family = "x-forwarded-"
	return len(name) > len(family) && sameName(name[:len(family)], family) ||
		sameName(name, "x-real-ip") || sameName(name, "forwarded")
}

// sameName reports whether an upstream may take name for want, a result of
// foldName. Upstreams that see headers as CGI variables (RFC 3875, section
// 4.1.18; so WSGI, Rack and PHP) turn hyphens into underscores, so that
// X_User_ID and X-User-ID become the same variable, and some do so with every
// character that is no letter or digit.
func sameName(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range len(name) {
		if fold(name[i]) != want[i] {
			return false
		}
	}
	return true
}

func foldName(name string) string {
	folded := []byte(name)
	for i, c := range folded {
		folded[i] = fold(c)
	}
	return string(folded)
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// isPlain reports whether name consists of letters, digits and hyphens in the
// case that net/http gives them.
func isPlain(name string) bool {
	start := true
	for i := range len(name) {
		c := name[i]
		if c != '-' && fold(c) == '-' || start && 'a' <= c && c <= 'z' || !start && 'A' <= c && c <= 'Z' {
			return false
		}
		start = c == '-'
	}
	return true
}

// isToken reports whether s may be a header's name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if fold(s[i]) == '-' && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(s[i])) {
			return false
		}
	}
	return s != ""
}
