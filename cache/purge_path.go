package cache

import (
	"net/url"
	"strings"
)

// escapedStar is a * that is part of a path.
const escapedStar = "%2A"

// pathValue is the one form of all that mean the same path: escaped where a path
// may not hold a character as it is (RFC 3986, section 3.3), with capitals
// (section 6.2.2.1), and nowhere else (section 6.2.2.2). That goes beyond the
// RFC, for which %28 and a parenthesis may differ, and %2F and a slash do: who
// routes by the path decoded takes them for one, and no purge of what a route
// takes may be evaded by writing it otherwise. Only a * at the end stays, as the
// sign of a prefix. A value with an escape that is none stays as it is: no
// request has that path.
func pathValue(value string) string {
	start, prefix := strings.CutSuffix(value, "*")
	if !strings.ContainsFunc(start, escaped) {
		return value
	}
	start, err := url.PathUnescape(start)
	if err != nil {
		return value
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(start)+len(start)/2+len(escapedStar))
	for _, c := range []byte(start) {
		if escaped(rune(c)) {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	if prefix {
		b = append(b, '*')
	}
	return string(b)
}

// escaped holds for what a path in a label has escaped: what is no pchar or slash
// of RFC 3986, and the *.
func escaped(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	}
	return c >= 0x80 || !strings.ContainsRune("-._~!$&'()+,;=:@/", c)
}
