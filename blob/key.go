package blob

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

const (
	hourForm = "2006010215"
	// textLen is how many characters 128 bits have: those of a caller's tag, and the
	// random ones that make a key hard to guess.
	textLen = 26
	keyLen  = len(hourForm) + 1 + textLen + 1 + textLen
)

// keys are the secrets derived from the signing key, each for one purpose: what one
// leaks says nothing about the other.
type keys struct {
	link, caller []byte
}

func deriveKeys(secret []byte) (keys, error) {
	link, err := hkdf.Key(sha256.New, secret, nil, "weir blob link 1", sha256.Size)
	if err != nil {
		return keys{}, err
	}
	caller, err := hkdf.Key(sha256.New, secret, nil, "weir blob caller 1", sha256.Size)
	return keys{link: link, caller: caller}, err
}

func (s *Store) derive(secret []byte) error {
	k, err := deriveKeys(secret)
	if err == nil {
		s.keys.Store(&k)
	}
	return err
}

// ready asks for the secret, unless it is known.
func (s *Store) ready(ctx context.Context) error {
	if s.keys.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	secret, err := s.o.Secret(ctx)
	if err == nil && len(secret) < minSigningKey {
		err = fmt.Errorf("blob: the signing key has %d bytes: want at least %d", len(secret), minSigningKey)
	}
	if err == nil {
		err = s.derive(secret)
	}
	if err != nil {
		return &weir.Problem{
			Status: http.StatusServiceUnavailable, RetryAfter: retryAfter, Err: err,
			Detail: "The key that links to large files are signed with cannot be read now. Try again in 5 seconds.",
		}
	}
	return nil
}

// tag stands for a caller in keys. It is a keyed hash: links are seen by many, and IDs
// of callers are easily guessed.
func (k keys) tag(caller string) string {
	mac := hmac.New(sha256.New, k.caller)
	mac.Write([]byte(caller))
	return text(mac.Sum(nil)[:16])
}

func text(b []byte) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return text(b[:])
}

// NewKey is a new key for a blob of caller that is kept until a time: the hour (UTC) in
// which it expires, a keyed hash of the caller, and 128 random bits, as in
// "2026112218/4vqh…/k2zs…". It is "", which is no key, while Options.Secret is not known.
func (s *Store) NewKey(caller string, until time.Time) string {
	k := s.keys.Load()
	if k == nil {
		return ""
	}
	return until.UTC().Format(hourForm) + "/" + k.tag(caller) + "/" + random()
}

// Owns reports whether a key is one of caller's. Nobody's is while Options.Secret is not
// known.
func (s *Store) Owns(caller, key string) bool {
	k := s.keys.Load()
	return k != nil && validKey(key) && subtle.ConstantTimeCompare([]byte(tagOf(key)), []byte(k.tag(caller))) == 1
}

func tagOf(key string) string { return key[len(hourForm)+1 : len(hourForm)+1+textLen] }

// validKey reports whether NewKey can have made a key. All others are refused before
// they come near a file name.
func validKey(key string) bool {
	if len(key) != keyLen || key[len(hourForm)] != '/' || key[len(hourForm)+1+textLen] != '/' {
		return false
	}
	return validHour(key[:len(hourForm)]) && validText(tagOf(key)) && validText(key[keyLen-textLen:])
}

func validText(s string) bool {
	if len(s) != textLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func validHour(s string) bool {
	at, err := time.Parse(hourForm, s)
	return err == nil && at.Format(hourForm) == s
}

// expiry is the end of the hour in a valid key, or of an hour alone.
func expiry(key string) time.Time {
	at, err := time.Parse(hourForm, key[:len(hourForm)])
	if err != nil { // not of a valid key
		return time.Time{}
	}
	return at.Add(time.Hour)
}

// alive reports whether a key is valid and its hour has not passed.
func (s *Store) alive(key string) bool {
	return validKey(key) && s.o.Now().Before(expiry(key))
}
