package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
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
	// doneCookie is the name of the cookie that tells the next page what a form has done,
	// and doneFor how long it does.
	doneCookie = "weir_done"
	doneFor    = time.Minute
)

// sessions makes the cookies of those who have logged in, and knows them again. It keeps
// no list of them: a cookie is its own expiry, signed. The key is that of this process and
// of the token: a start ends all sessions, and so does another token. Those that were ended
// by a logout are listed until they would be over anyway.
type sessions struct {
	mu    sync.RWMutex
	key   []byte                          // guarded by mu
	ended map[[sessionBytes]byte]struct{} // guarded by mu
}

// maxEnded is how many sessions may be listed as ended. Each was begun by a login with the
// token: who logs out more often within 12 hours ends all sessions, because to forget one
// would bring it back.
const maxEnded = 4096

func newSessions(token string) *sessions {
	return &sessions{key: mac(newKey(), "sessions of the token", token), ended: map[[sessionBytes]byte]struct{}{}}
}

func newKey() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // which never fails
	return key
}

// sign is a MAC of what and value, so that what is signed for one purpose is of no use
// for another.
func (s *sessions) sign(what, value string) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return mac(s.key, what, value)
}

func mac(key []byte, what, value string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(what + "\x00" + value)) // which never fails
	return h.Sum(nil)
}

// sessionBytes are the expiry and a number that makes each session another one.
const sessionBytes = 8 + 16

func expiryOf(session [sessionBytes]byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(session[:8])), 0)
}

// end ends the session that the cookie of a request is, wherever else that cookie is.
func (s *sessions) end(r *http.Request, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.readLocked(r)
	if !ok {
		return
	}
	maps.DeleteFunc(s.ended, func(other [sessionBytes]byte, _ struct{}) bool { return !now.Before(expiryOf(other)) })
	if len(s.ended) >= maxEnded {
		s.key = newKey()
		clear(s.ended)
		return
	}
	s.ended[session] = struct{}{}
}

// begin makes the value of a cookie.
func (s *sessions) begin(now time.Time) string {
	var raw [sessionBytes]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(now.Add(sessionFor).Unix()))
	_, _ = rand.Read(raw[8:]) // which never fails
	return encode(append(raw[:], s.sign("session", string(raw[:]))...))
}

// readLocked is the session that the cookie of a request says, if it was made here.
func (s *sessions) readLocked(r *http.Request) (session [sessionBytes]byte, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(sessionOf(r))
	if err != nil || len(raw) != sessionBytes+sha256.Size {
		return session, false
	}
	copy(session[:], raw)
	return session, subtle.ConstantTimeCompare(raw[sessionBytes:], mac(s.key, "session", string(session[:]))) == 1
}

// expires tells until when the cookie of a request is a session. The key and the list are
// of one moment: between a look at the one and a look at the other, a new key may have
// taken the list's place.
func (s *sessions) expires(r *http.Request, now time.Time) (until time.Time, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	session, ok := s.readLocked(r)
	if !ok {
		return time.Time{}, false
	}
	_, ended := s.ended[session]
	until = expiryOf(session)
	return until, !ended && now.Before(until)
}

// csrf is the token that the forms of a session have. A page of another site can have
// the browser send the cookie, in spite of SameSite, but cannot read this.
func (s *sessions) csrf(session string) string { return encode(s.sign("csrf", session)) }

// isCSRF compares in constant time.
func (s *sessions) isCSRF(token, session string) bool {
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

// cookie is what is sent to the browser: value "" ends the session there.
func cookie(r *http.Request, value string) *http.Cookie {
	return cookieFor(r, http.Cookie{Name: sessionCookie, Value: value, Path: "/", MaxAge: int(sessionFor / time.Second)})
}

// cookieFor is c with what all cookies have; one without a value is taken away.
func cookieFor(r *http.Request, c http.Cookie) *http.Cookie {
	c.HttpOnly, c.SameSite, c.Secure = true, http.SameSiteStrictMode, throughTLS(r)
	if c.Value == "" {
		c.MaxAge = -1
	}
	return &c
}

// throughTLS reports whether the browser speaks TLS, with this listener or with a proxy
// before it: the Origin of a form has the scheme of the page that it is on. On a plain
// connection a browser would not keep a cookie that is Secure.
func throughTLS(r *http.Request) bool {
	origin := r.Header["Origin"]
	return r.TLS != nil || len(origin) == 1 && strings.HasPrefix(strings.ToLower(origin[0]), "https://")
}

// done makes the cookie that says at a page, once and soon, that what the word means
// has been done. It is signed: no link, and no program on another port of the machine,
// can have the page say what is not so.
func (s *sessions) done(r *http.Request, page, word string) *http.Cookie {
	path, _, _ := strings.Cut(page, "?")
	until := strconv.FormatInt(time.Now().Add(doneFor).Unix(), 10)
	value := word + "." + until + "." + encode(s.sign("done", doneAt(r, path, word, until)))
	return cookieFor(r, http.Cookie{Name: doneCookie, Value: value, Path: path, MaxAge: int(doneFor / time.Second)})
}

// whatIsDone is the word of a cookie that done has made for the page of r, "" without
// one that is still good.
func (s *sessions) whatIsDone(r *http.Request, now time.Time) string {
	for _, c := range r.CookiesNamed(doneCookie) {
		word, rest, _ := strings.Cut(c.Value, ".")
		until, signed, _ := strings.Cut(rest, ".")
		mac, err := base64.RawURLEncoding.DecodeString(signed)
		if err != nil || subtle.ConstantTimeCompare(mac, s.sign("done", doneAt(r, r.URL.Path, word, until))) != 1 {
			continue // of another page, or of another program
		}
		if at, err := strconv.ParseInt(until, 10, 64); err == nil && now.Unix() < at {
			return word
		}
	}
	return ""
}

// doneAt is what such a cookie is good for: one session, page, word and time.
func doneAt(r *http.Request, path, word, until string) string {
	return url.Values{"session": {sessionOf(r)}, "path": {path}, "word": {word}, "until": {until}}.Encode()
}
