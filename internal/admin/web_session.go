package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"time"
)

const (
	// sessionCookie is the name of the cookie of who has logged in.
	sessionCookie = "weir_session"
	// sessionFor is how long a login lasts.
	sessionFor = 12 * time.Hour
	// csrfField is the field of a form, csrfHeader that of a request by script, with the
	// token of its session.
	csrfField, csrfHeader = "csrf", "X-Csrf-Token"
)

// sessions makes the cookies of those who have logged in, and knows them again. It keeps
// no list: a cookie is its own expiry, signed. The key is that of this process and of the
// token: a start ends all sessions, and so does another token.
type sessions struct{ key []byte }

func newSessions(token string) sessions {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // which never fails
	s := sessions{key}
	return sessions{s.sign("sessions of the token", token)}
}

// sign is a MAC of what and value, so that what is signed for one purpose is of no use
// for another.
func (s sessions) sign(what, value string) []byte {
	mac := hmac.New(sha256.New, s.key)
	_, _ = mac.Write([]byte(what + "\x00" + value)) // which never fails
	return mac.Sum(nil)
}

// sessionBytes are the expiry and a number that makes each session another one.
const sessionBytes = 8 + 16

// begin makes the value of a cookie.
func (s sessions) begin(now time.Time) string {
	var raw [sessionBytes]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(now.Add(sessionFor).Unix()))
	_, _ = rand.Read(raw[8:]) // which never fails
	return encode(append(raw[:], s.sign("session", string(raw[:]))...))
}

// expires tells until when the cookie of a request is a session.
func (s sessions) expires(r *http.Request, now time.Time) (until time.Time, ok bool) {
	value := sessionOf(r)
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(raw) != sessionBytes+sha256.Size {
		return time.Time{}, false
	}
	if subtle.ConstantTimeCompare(raw[sessionBytes:], s.sign("session", string(raw[:sessionBytes]))) != 1 {
		return time.Time{}, false
	}
	until = time.Unix(int64(binary.BigEndian.Uint64(raw[:8])), 0)
	return until, now.Before(until)
}

// csrf is the token that the forms of a session have. A page of another site can have
// the browser send the cookie, in spite of SameSite, but cannot read this.
func (s sessions) csrf(session string) string { return encode(s.sign("csrf", session)) }

// isCSRF compares in constant time.
func (s sessions) isCSRF(token, session string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(s.csrf(session))) == 1
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sessionOf is the cookie of a request, "" without one. Where there are several, a
// listener on another port of the machine has set one, too: none is believed.
func sessionOf(r *http.Request) string {
	found := r.CookiesNamed(sessionCookie)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

// cookie is what is sent to the browser: value "" ends the session there. Secure is set
// where the request came through TLS, else the browser would not keep it.
func cookie(r *http.Request, value string) *http.Cookie {
	c := &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
		MaxAge: int(sessionFor / time.Second),
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}
