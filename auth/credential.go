package auth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/inferweir/weir"
)

// maxPresented bounds the keys that one request may present.
const maxPresented = 16

// found is what the credentials in one request come to: Weir's keys, judged, and
// a token, not yet judged.
type found struct {
	holder                        *holder
	count                         int
	unknown, misplaced, ambiguous bool
	// mistyped is a key whose checksum is wrong, unchecked why one could not be
	// looked up.
	mistyped  bool
	unchecked error
	// token claims to be the issuer's, "" if there is none.
	token                           string
	misplacedToken, ambiguousTokens bool
	// kept is what is left of the header that take read last, if changed.
	kept    []string
	changed bool
}

// take reads the credentials in the values of Authorization (bearer) or
// x-api-key, and leaves in f.kept the values without them. A value may be a
// list with commas, which is what intermediaries make of several lines.
func (a *Authenticator) take(f *found, values []string, bearer bool) {
	f.kept, f.changed = nil, false
	for i, value := range values {
		rest, changed := value, false
		if strings.Contains(value, KeyPrefix) || a.tokens != nil && strings.Count(value, ".") >= 2 {
			rest, changed = a.takeFrom(f, value, bearer)
		}
		if changed && !f.changed {
			f.changed = true
			f.kept = append(f.kept, values[:i]...) // a copy: the caller may share values
		}
		if f.changed && (!changed || rest != "") {
			f.kept = append(f.kept, rest)
		}
	}
}

// takeFrom does for one value what take does for all: it returns the value
// without credentials, "" if nothing is left, and whether there were any.
func (a *Authenticator) takeFrom(f *found, value string, bearer bool) (string, bool) {
	var kept []string
	changed := false
	for element := range strings.SplitSeq(value, ",") {
		word := strings.Trim(element, " \t")
		scheme, rest, ok := strings.Cut(strings.ReplaceAll(word, "\t", " "), " ")
		schemeless := bearer
		if bearer && ok && strings.EqualFold(scheme, "bearer") {
			word, schemeless = strings.TrimLeft(rest, " "), false
		}
		token := a.tokens.find(word)
		f.misplaced = f.misplaced || schemeless && mentionsKey(word)
		f.misplacedToken = f.misplacedToken || token != "" && (schemeless || token != word)
		switch {
		case token != "" && token == word:
			changed = true
			f.ambiguousTokens = f.ambiguousTokens || f.token != "" && f.token != token
			f.token = token
		case !strings.HasPrefix(word, KeyPrefix):
			f.misplaced = f.misplaced || mentionsKey(word)
			kept = append(kept, element)
		case f.count == maxPresented:
			f.ambiguous = true
			return "", true
		default:
			f.count++
			changed = true
			a.judge(f, word)
		}
	}
	if !changed {
		return value, false
	}
	return strings.Trim(strings.Join(kept, ","), " \t,"), true
}

func (f *found) add(h *holder) {
	switch {
	case f.holder == nil:
		f.holder = h
	case f.holder.id != h.id:
		f.ambiguous = true
	case h.before(f.holder): // two keys of one caller may differ in their plans
		f.holder = h
	}
}

// mentionsKey reports whether a word of s begins as a Weir key does. Inside a
// word, as in sk-weir_1, it is somebody else's key. An equals sign ends a word:
// in a token it can only be padding.
func mentionsKey(s string) bool {
	for at := 0; ; at += len(KeyPrefix) {
		i := strings.Index(s[at:], KeyPrefix)
		if i < 0 {
			return false
		}
		if at += i; at == 0 || s[at-1] == '=' || !isKeyByte(s[at-1]) {
			return true
		}
	}
}

// Presents reports whether a request with the header h presents a credential
// that Identify would judge: a Weir key, or something that claims to be a token
// of the issuer, wherever in Authorization or x-api-key it stands. Where it
// reports false, Failed is false for Identify's error. No key is looked up and no
// signature checked, so it is cheap enough to ask before a request may try. Ask
// before Identify, which removes credentials from h.
func (a *Authenticator) Presents(h http.Header) bool {
	for name, values := range h {
		if !sameName(name, "authorization") && !sameName(name, "x-api-key") {
			continue
		}
		for _, value := range values {
			if mentionsKey(value) || a.tokens.find(value) != "" {
				return true
			}
		}
	}
	return false
}

// badCredential marks the cause of a Problem as the fault of a credential.
type badCredential struct{ error }

// Unwrap returns what is wrong, for the log.
func (b badCredential) Unwrap() error { return b.error }

// Failed reports whether err, of Identify, says that a presented credential was
// refused: a key or token that is not valid, in a wrong form, or beside another
// one. Who fails again and again may be guessing. It is false for a missing
// credential, for one that could not be checked, for a denied caller, and for nil.
func Failed(err error) bool {
	var bad badCredential
	return errors.As(err, &bad)
}

const (
	howToSend      = `send one Weir key, as "Authorization: Bearer KEY" or as "x-api-key: KEY".`
	howToSendToken = `send one token, as "Authorization: Bearer TOKEN" or as "x-api-key: TOKEN".`
)

// problem is why the credentials are not acceptable, nil if they are or if only
// the token is left to judge. Which reason is given does not depend on the order
// of the headers.
func (f *found) problem() *weir.Problem {
	const malformed = `error="invalid_request"`
	switch {
	case f.mistyped:
		return refused(`error="invalid_token"`, "The presented Weir key is mistyped or cut: its checksum is wrong. Copy the whole key again: "+howToSend, errors.New("mistyped key"))
	case f.unknown:
		return refused(`error="invalid_token"`, "The presented Weir key is not valid. It may be mistyped, revoked or expired: "+howToSend, errors.New("unknown key"))
	case f.misplaced:
		return refused(malformed, "The request holds a Weir key in a form that is not accepted: "+howToSend, errors.New("misplaced key"))
	case f.ambiguous:
		return refused(malformed, fmt.Sprintf(
			"The request presents Weir keys of different callers, or more than %d keys: %s", maxPresented, howToSend), errors.New("several keys"))
	case f.misplacedToken:
		return refused(malformed, "The request holds a token in a form that is not accepted: "+howToSendToken, errors.New("misplaced token"))
	case f.ambiguousTokens:
		return refused(malformed, "The request presents different tokens of the same issuer: "+howToSendToken, errors.New("several tokens"))
	case f.unchecked != nil: // last: what is wrong anyway is not worth coming back
		return uncheckable(f.unchecked)
	}
	return nil
}

func (a *Authenticator) noCredential() *weir.Problem {
	if a.tokens != nil {
		return unauthorized("", "This gateway answers only with a key or a token: "+strings.TrimSuffix(howToSend, ".")+", or "+howToSendToken)
	}
	return unauthorized("", "This gateway answers only with a key: "+howToSend)
}

// refused is the answer to a presented credential that is not accepted, for the
// reason cause.
func refused(reason, detail string, cause error) *weir.Problem {
	p := unauthorized(reason, detail)
	p.Err = badCredential{cause}
	return p
}

// unauthorized is a 401 with a challenge as in RFC 6750, section 3: the reason
// is there only if there was a credential.
func unauthorized(reason, detail string) *weir.Problem {
	challenge := `Bearer realm="weir"`
	if reason != "" {
		challenge += ", " + reason
	}
	return &weir.Problem{
		Status: http.StatusUnauthorized,
		Detail: detail,
		// This spelling, which SetHeader copies as it is, is the canonical one.
		Header: http.Header{"Www-Authenticate": {challenge}},
	}
}
