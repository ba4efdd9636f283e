package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/jsonscan"
)

// JWT says whose tokens name callers: signed JSON Web Tokens (RFC 7519), such as
// ID tokens and access tokens of an OpenID Connect provider.
//
// A value in Authorization (Bearer) or x-api-key is taken for a token of the
// issuer if it has three parts of base64url with dots between, at most 16 KiB in
// all, of which the second is a JSON object whose iss is Issuer. Then it must be
// valid; else it is the upstream's affair. To be valid it needs a signature by one
// of the issuer's keys with RS256 to RS512, PS256 to PS512, ES256 to ES512 or
// EdDSA (Ed25519), an exp that is not over, an nbf, if any, at most 5 minutes
// ahead, and an aud that is or contains Audience.
//
// A token that was found valid is taken for valid until it expires, but for at
// most 5 minutes, without another look; the last 4096 of them are remembered. The
// issuer's keys are fetched again after at most 5 minutes. So a key that the
// issuer withdraws counts for at most 10 minutes more, provided that the issuer
// answers.
type JWT struct {
	// Issuer is the iss of the tokens, to the letter. Where JWKSURL is empty it
	// must be a URL under which /.well-known/openid-configuration is found, with
	// https outside of trusted networks: who can change that answer can name any
	// caller.
	Issuer string
	// Audience is what aud must contain: without it, a token that somebody gave
	// to another service of the same issuer would be good here.
	Audience string
	// JWKSURL is where the issuer's keys are (RFC 7517). "" means that the
	// issuer's discovery document says it; otherwise that is never fetched.
	JWKSURL string
	// CallerClaim is the claim that names the caller, a string or a decimal
	// number, at the top level. "" means sub, which must be a string (RFC 7519,
	// section 4.1.2). The weir.Caller's ID is "jwt:" and its value.
	CallerClaim string
	// PlanClaim is the claim that names the plan, a string or a decimal number.
	// "" means plan. A token without it, or with one that can name no plan, such
	// as an array, has none. Whether there is such a plan is not looked at.
	PlanClaim string
	// HTTPClient fetches from the issuer. nil means one that uses the proxy of
	// the environment. Each fetch takes at most 5 seconds and reads at most 1 MiB.
	HTTPClient *http.Client
}

const (
	// maxToken bounds a token, in bytes. Longer ones are not looked at.
	maxToken = 16 << 10
	// tokenFor is how long a token is taken for valid without another look.
	tokenFor = 5 * time.Minute
)

// algorithms are those with which nobody can sign who can only verify. Without
// this list a token could say "none", or HS256 with a public key as the secret
// (RFC 8725, section 2.1).
func algorithms() []string {
	return []string{
		oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
		oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
	}
}

// tokens judges the tokens of one issuer. nil knows none.
type tokens struct {
	issuer, audience       string
	callerClaim, planClaim string
	iss                    *jsonscan.Paths
	source                 *source
	verified               verified
	users                  atomic.Int64 // Authenticators
}

// identity is whom a valid token names.
type identity struct{ id, plan string }

func (a *Authenticator) setTokens(o Options) (errs []error) {
	if o.JWT == nil {
		return nil
	}
	j := *o.JWT
	fail := func(place, value, want string) { errs = append(errs, fmt.Errorf("jwt.%s: %q: %s", place, value, want)) }
	switch {
	case j.Issuer == "":
		fail("issuer", j.Issuer, "want the iss of the tokens, for example https://login.example.com")
	case j.JWKSURL == "" && !isWeb(j.Issuer):
		fail("issuer", j.Issuer, "want a URL such as https://login.example.com, or jwks_url beside it")
	}
	if j.Audience == "" {
		fail("audience", j.Audience, "want the aud of tokens that are meant for this gateway")
	}
	if j.JWKSURL != "" && !isWeb(j.JWKSURL) {
		fail("jwks_url", j.JWKSURL, "want a URL such as https://login.example.com/keys")
	}
	a.jwt = &j
	if b := o.After; b != nil && b.tokens != nil && *b.jwt == j && len(errs) == 0 {
		a.tokens = b.tokens
		return nil
	}
	iss, err := jsonscan.Compile("/iss")
	if err != nil { // a constant: cannot happen
		errs = append(errs, err)
	}
	a.tokens = &tokens{
		issuer: j.Issuer, audience: j.Audience, iss: iss, source: newSource(j),
		callerClaim: orElse(j.CallerClaim, "sub"), planClaim: orElse(j.PlanClaim, "plan"),
	}
	return errs
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// isWeb reports whether s is an absolute URL for HTTP, without a fragment, and
// without a password, which would end up in logs.
func isWeb(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.Fragment == ""
}

// find returns the first word of text that claims to be a token of the issuer,
// "" if there is none. What stands around a word is anything that is not
// base64url and no dot.
func (t *tokens) find(text string) string {
	if t == nil {
		return ""
	}
	start, dots := 0, 0
	for i := 0; i <= len(text); i++ {
		if i < len(text) && (text[i] == '.' || isBase64URL(text[i])) {
			if text[i] == '.' {
				dots++
			}
			continue
		}
		if word := text[start:i]; dots == 2 && t.claims(word) {
			return word
		}
		start, dots = i+1, 0
	}
	return ""
}

func isBase64URL(c byte) bool { return fold(c) != '-' || c == '-' || c == '_' }

// claims reports whether token, three parts of base64url, says that it is the
// issuer's. Header and signature may be broken: then the token is not valid, but
// it is still not for the upstream.
func (t *tokens) claims(token string) bool {
	if len(token) > maxToken {
		return false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return false
	}
	var room [1]jsonscan.Value
	found, err := t.iss.Find(room[:0], text, 0)
	if err != nil {
		return false
	}
	iss, ok := found[0].Text()
	return ok && iss == t.issuer
}

// errSignature says that no key that fits made the signature: perhaps one that
// is not known yet.
var errSignature = errors.New("no known key made the signature")

// identify judges a token that claims to be the issuer's.
func (t *tokens) identify(ctx context.Context, token string) (*identity, *weir.Problem) {
	sum := sha256.Sum256([]byte(token))
	if who := t.verified.get(sum, time.Now()); who != nil {
		return who, nil
	}
	head, err := readHead(token)
	if err != nil {
		return nil, badToken(err)
	}
	keys, p := t.source.get(ctx, nil)
	if p != nil {
		return nil, p
	}
	valid, err := t.verify(ctx, keys, head, token)
	if errors.Is(err, errSignature) && !keys.knows(head.KeyID) {
		newer, p := t.source.get(ctx, keys)
		if p != nil {
			return nil, p
		}
		if newer != keys {
			valid, err = t.verify(ctx, newer, head, token)
		}
	}
	if err != nil {
		return nil, badToken(err)
	}
	who, err := t.named(valid)
	if err != nil {
		return nil, badToken(err)
	}
	now := time.Now()
	until := now.Add(tokenFor)
	if valid.Expiry.Before(until) {
		until = valid.Expiry
	}
	t.verified.put(sum, who, until)
	return who, nil
}

// head is what the header of a token says about its signature.
type head struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// readHead reads a token's header. Nobody vouches for it: it only chooses among
// the issuer's keys.
func readHead(token string) (head, error) {
	var h head
	first, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(first)
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		return head{}, fmt.Errorf("header: %w", err)
	}
	if !slices.Contains(algorithms(), h.Algorithm) {
		return head{}, fmt.Errorf("algorithm %.20q is not accepted", h.Algorithm)
	}
	return h, nil
}

// attempt tries some of the issuer's keys on one token, and remembers whether it
// was the signature that failed.
type attempt struct {
	keys   oidc.StaticKeySet
	failed bool
}

// VerifySignature implements oidc.KeySet.
func (a *attempt) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := a.keys.VerifySignature(ctx, token)
	a.failed = err != nil
	return payload, err
}

// verify returns the token if keys, and what it says of itself, make it valid.
func (t *tokens) verify(ctx context.Context, keys *keySet, head head, token string) (*oidc.IDToken, error) {
	try := attempt{keys: oidc.StaticKeySet{PublicKeys: keys.candidates(head)}}
	valid, err := oidc.NewVerifier(t.issuer, &try, &oidc.Config{
		ClientID:             t.audience,
		SupportedSigningAlgs: algorithms(),
	}).Verify(ctx, token)
	switch {
	case try.failed:
		return nil, errSignature
	case err != nil:
		return nil, err
	case !time.Now().Before(valid.Expiry): // go-oidc takes it in the very second (RFC 7519, section 4.1.4)
		return nil, &oidc.TokenExpiredError{Expiry: valid.Expiry}
	}
	return valid, nil
}

// named reads whom a valid token names.
func (t *tokens) named(valid *oidc.IDToken) (*identity, error) {
	var claims map[string]json.RawMessage
	if err := valid.Claims(&claims); err != nil {
		return nil, err
	}
	for name := range claims {
		// encoding/json takes Exp for exp. Issuers that let users add claims of
		// their own protect only the registered spelling.
		for _, registered := range [...]string{"iss", "aud", "exp", "nbf"} {
			if name != registered && strings.EqualFold(name, registered) {
				return nil, fmt.Errorf("claim %.20q: passes for %s", name, registered)
			}
		}
	}
	name := claimText(claims[t.callerClaim])
	if wrong := nameMistake(name); wrong != "" {
		return nil, fmt.Errorf("claim %q: as a caller's name it %s", t.callerClaim, wrong)
	}
	plan := claimText(claims[t.planClaim])
	if nameMistake(plan) != "" {
		plan = ""
	}
	return &identity{id: "jwt:" + name, plan: plan}, nil
}

// claimText is a claim as a name: a string, or a number without an exponent, as it
// is written. Anything else is "".
func claimText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if len(raw) > 0 && strings.Trim(string(raw), "-.0123456789") == "" { // valid JSON, so a number
		return string(raw)
	}
	return ""
}

// badToken is the answer to a token of the issuer that is not valid.
func badToken(cause error) *weir.Problem {
	detail := "The presented token is not valid here. It may be meant for another service, or not be signed by its issuer: " + howToSendToken
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(cause, &expired) && expired.Expiry.IsZero():
		detail = "The presented token is not valid here, because it does not say when it expires: " + howToSendToken
	case errors.As(cause, &expired):
		detail = "The presented token has expired: get a new one from its issuer."
	}
	return refused(`error="invalid_token"`, detail, cause)
}
