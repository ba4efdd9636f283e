package telemetry

import (
	"crypto/rand"
	"net/http"
)

// maxRequestID is the longest request ID that is taken from a client.
const maxRequestID = 128

// RequestID returns the name under which a request is logged, answered and
// passed upstream: the client's own X-Request-Id if there is exactly one and
// it is 1 to 128 of the characters A-Z a-z 0-9 . _ : -, else a fresh one with
// 128 random bits, as 26 characters of base32. A client's ID is only a name
// for looking things up; nothing may trust it to be unique.
func RequestID(h http.Header) string {
	if v := h["X-Request-Id"]; len(v) == 1 && validRequestID(v[0]) {
		return v[0]
	}
	return rand.Text()
}

func validRequestID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '.' || c == '_' || c == ':' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}
