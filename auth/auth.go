// Package auth says who is calling: it makes a weir.Caller of an API key, of a
// token (JWT) of an OpenID issuer, of a header that a trusted proxy vouches for,
// or of the client's address, and removes from the request what the caller may
// not say and what the upstream may not see.
//
// Nothing that a client writes is believed unless it is a valid key or token. Headers
// such as X-Forwarded-For and X-User-ID count only when the connection comes
// from an address in Options.TrustedProxies, which is empty by default.
package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/inferweir/weir"
)

// Options says how callers are identified. The zero value identifies everybody
// by the address of the connection.
type Options struct {
	// Identify lists the identifiers that may name the caller, in order; the
	// first that matches does: "api_key", "jwt" (which needs JWT to match anything),
	// "header" and "ip". nil means all of them in this order, an empty list
	// none. Whom none of them names is anonymous, by IP.
	//
	// A Weir key, and a token of JWT's issuer, is checked and removed whether or
	// not it is listed: the list decides what names a caller, not what is
	// accepted.
	Identify []string
	// Require refuses requests without a valid key or token, with 401. It need
	// not name the caller: with Identify "header", "api_key" a proxy can present
	// its own key and name the user. A header or an address alone is not enough.
	Require bool
	// TrustedProxies are the networks whose X-Forwarded-For and identity header
	// are believed. List your own proxies only: a client inside one of these
	// networks can pass for anybody. Default: none, loopback included.
	TrustedProxies []netip.Prefix
	// Header is the identity header. "" means X-User-ID.
	Header string
	// PrefixV4 is how many leading bits of an IPv4 address make one client,
	// 1 to 32. 0 means 32: every address is its own.
	PrefixV4 int
	// PrefixV6 is the same for IPv6, 1 to 128. 0 means 64, the least that a
	// host is given: counted by full addresses, one client has 2^64 of them.
	PrefixV6 int
	// Keys are the keys that are valid. They are only read.
	Keys []Key
	// Stored finds a key that is kept elsewhere by its Digest, and returns its Caller
	// and Plan, which it has checked: the form of a caller's name is that of Key. It
	// is asked about keys of the form of NewKey with a right checksum that are not in
	// Keys, for every request that presents one, so it should answer from memory.
	// ErrNoKey refuses the key with 401; any other error is 503. nil means that there
	// are no others.
	Stored func(digest [32]byte) (Key, error)
	// JWT is the issuer whose tokens are accepted. nil means none: every token
	// is the upstream's affair.
	JWT *JWT
	// After is the Authenticator whose place this one takes, and that is not closed yet.
	// Where both have the same JWT, this one knows the issuer's keys and the tokens that
	// were found valid; either may be closed first, and this one must be. nil is none.
	After *Authenticator
	// Deny lists who is refused, with 403: addresses (192.0.2.1), networks
	// (192.0.2.0/24, 2001:db8::/32) and callers ("key:alice", "jwt:4711",
	// "header:bob"). An address or network means everybody there, whatever names
	// them. It wins over Allow. An IPv4 address covers all forms in which its
	// client may come, see weir.Caller.Addr.
	Deny []string
	// Allow lists, in the same way, whom Exempt names. It refuses nobody else.
	Allow []string
}

type identifier int

const (
	byKey identifier = iota
	byToken
	byHeader
	byAddress
)

// An Authenticator identifies callers. It may be used by any number of
// goroutines. What it was told in New never changes; what it learns later, the
// issuer's keys and the tokens that were found valid, is lost with it. Close it
// after its last use.
type Authenticator struct {
	identify []identifier
	require  bool
	trusted  []netip.Prefix
	// header is the identity header in canonical form, the only spelling that
	// is believed; folded is the same name as sameName wants it, and shown as
	// it was configured.
	header, folded, shown string
	prefixV4, prefixV6    int
	keys                  keyring
	// stored is nil without Options.Stored.
	stored func(digest [32]byte) (Key, error)
	// jwt is Options.JWT. tokens is nil without it.
	jwt         *JWT
	closing     *sync.Once
	tokens      *tokens
	allow, deny callerList
}

// New returns an Authenticator for o, or everything that is wrong with o, as
// one errors.Join: every message begins with the place, in the words of the
// configuration (keys[0], identify[1], trusted_proxies[0], ip_prefix.v4,
// header, require, jwt.issuer, allow[0], deny[1]). No message holds a key.
//
// New asks nobody: an issuer that is down keeps no Authenticator from being
// made. It starts no goroutine either, so one that was made only to see whether
// o is right needs no Close.
func New(o Options) (*Authenticator, error) {
	keys, errs := newKeyring(o.Keys)
	a := &Authenticator{closing: new(sync.Once), require: o.Require, keys: keys, stored: o.Stored, prefixV4: o.PrefixV4, prefixV6: o.PrefixV6}
	for _, step := range []func(Options) []error{a.setIdentify, a.setTrusted, a.setHeader, a.setPrefixes, a.setTokens, a.setLists} {
		errs = append(errs, step(o)...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if a.tokens != nil {
		a.tokens.users.Add(1)
	}
	return a, nil
}

func (a *Authenticator) setIdentify(o Options) (errs []error) {
	if o.Identify == nil {
		a.identify = []identifier{byKey, byToken, byHeader, byAddress}
		return nil
	}
	first := make(map[string]int)
	for i, name := range o.Identify {
		if j, listed := first[name]; listed {
			errs = append(errs, fmt.Errorf("identify[%d]: %q: is identify[%d] already: want each at most once", i, name, j))
			continue
		}
		first[name] = i
		switch name {
		case "api_key":
			a.identify = append(a.identify, byKey)
		case "jwt":
			a.identify = append(a.identify, byToken)
		case "header":
			a.identify = append(a.identify, byHeader)
		case "ip":
			a.identify = append(a.identify, byAddress)
		default:
			errs = append(errs, fmt.Errorf("identify[%d]: %q: want api_key, jwt, header or ip", i, name))
		}
	}
	_, key := first["api_key"]
	_, token := first["jwt"]
	if o.Require && !key && !token {
		errs = append(errs, errors.New("require: true: would refuse everybody, because identify lists neither api_key nor jwt: want one of them there"))
	}
	return errs
}

func (a *Authenticator) setTrusted(o Options) (errs []error) {
	for i, p := range o.TrustedProxies {
		switch network, mixed := plainNetwork(p); {
		case !p.IsValid():
			errs = append(errs, fmt.Errorf("trusted_proxies[%d]: %v: want an address and a prefix length, for example 10.0.0.0/8", i, p))
		case mixed:
			errs = append(errs, fmt.Errorf("trusted_proxies[%d]: %v: mixes IPv4 and IPv6: want an IPv4 network, for example 10.0.0.0/8", i, p))
		default:
			a.trusted = append(a.trusted, network)
		}
	}
	return errs
}

func (a *Authenticator) setHeader(o Options) []error {
	name := o.Header
	if name == "" {
		name = "X-User-ID"
	}
	a.header, a.folded, a.shown = http.CanonicalHeaderKey(name), foldName(name), name
	if !isToken(name) {
		return []error{fmt.Errorf("header: %q: want the name of a header, for example X-User-ID", name)}
	}
	switch a.folded {
	case "authorization", "x-api-key", "cookie", "host", "connection", "forwarded", "x-real-ip",
		"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port":
		return []error{fmt.Errorf("header: %q: has another meaning: want a header of its own, for example X-User-ID", name)}
	}
	return nil
}

func (a *Authenticator) setPrefixes(o Options) (errs []error) {
	if a.prefixV4 == 0 {
		a.prefixV4 = 32
	}
	if a.prefixV6 == 0 {
		a.prefixV6 = 64
	}
	if a.prefixV4 < 1 || a.prefixV4 > 32 {
		errs = append(errs, fmt.Errorf("ip_prefix.v4: %d: want 1 to 32", o.PrefixV4))
	}
	if a.prefixV6 < 1 || a.prefixV6 > 128 {
		errs = append(errs, fmt.Errorf("ip_prefix.v6: %d: want 1 to 128", o.PrefixV6))
	}
	return errs
}

// Identify says who sent a request with the header h over a connection from
// remoteAddr, in the form of http.Request.RemoteAddr. The error is a
// *weir.Problem: 401 for a key or token that is not valid, misplaced, missing or
// not the only one (see Failed), 503 for a token that cannot be checked because
// its issuer does not answer, or for a key because Options.Stored fails, 403 for
// who is on Options.Deny, 400 for a malformed identity header of a trusted proxy,
// 504 if ctx ran out of time. The Caller has no ID then, but for one who is on
// Options.Deny by name: it is for the log.
//
// Only a token can make Identify wait: for the issuer's keys, at most 5 seconds
// and no longer than ctx. Nobody else waits for them.
//
// Identify edits h, and the upstream should see h only afterwards. It removes
//
//   - Weir's keys and the issuer's tokens, from whomever; other values of the
//     same header stay;
//   - the identity header, X-Forwarded-*, X-Real-Ip and Forwarded, unless the
//     peer is a trusted proxy: then they are passed on as they are;
//   - always, any spelling of these names that an upstream may take for them,
//     such as X_User_ID (see sameName): a proxy that guards the one spelling
//     does not guard the other.
//
// h should have canonical names, as net/http makes them. After an error h may
// be half edited and the request must not go on.
//
// A peer that has no IP address, such as "@" for a unix socket, is not trusted:
// its caller is "ip:unknown", without Addr and Net, unless a key names it.
func (a *Authenticator) Identify(ctx context.Context, h http.Header, remoteAddr string) (weir.Caller, error) {
	c, p := a.identifyCaller(ctx, h, remoteAddr)
	if p != nil {
		return c, p
	}
	return c, nil
}

func (a *Authenticator) identifyCaller(ctx context.Context, h http.Header, remoteAddr string) (weir.Caller, *weir.Problem) {
	peer := parseHop(remoteAddr)
	var c weir.Caller
	if addr := weir.Unwrap(a.clientBehind(h, peer)); addr.IsValid() {
		c.Addr, c.Net = addr, a.network(addr)
	}
	if a.deny.hasAddr(c.Addr) { // first: its credentials are not worth a look
		return weir.Caller{}, denied()
	}
	found := a.clean(h, a.trusts(peer))
	p := found.problem()
	var token *identity
	if p == nil && found.token != "" {
		token, p = a.tokens.identify(ctx, found.token)
	}
	if p != nil {
		return weir.Caller{}, p
	}
	if a.require && found.holder == nil && token == nil {
		return weir.Caller{}, a.noCredential()
	}
	user, p := a.user(h)
	if p != nil {
		return weir.Caller{}, p
	}
	c = a.name(c, found.holder, token, user)
	if a.deny.hasID(c.ID) {
		return c, denied()
	}
	return c, nil
}

// name completes c, of which the address is known, by the first identifier that
// matches. key and token are nil and user is "" where the request has none.
func (a *Authenticator) name(c weir.Caller, key *holder, token *identity, user string) weir.Caller {
	for _, id := range a.identify {
		switch {
		case id == byKey && key != nil:
			c.ID, c.Plan = key.id, key.plan
			return c
		case id == byToken && token != nil:
			c.ID, c.Plan = token.id, token.plan
			return c
		case id == byHeader && user != "":
			c.ID = "header:" + user
			return c
		case id == byAddress:
			return anonymous(c)
		}
	}
	return anonymous(c)
}

func anonymous(c weir.Caller) weir.Caller {
	c.ID, c.Anonymous = addressID(c.Net), true
	return c
}

// user reads the identity header, which clean has left only where a trusted
// proxy sent it. It is checked even if something else names the caller, because
// it is passed on: a proxy that adds to what the client sent, and does not
// replace it, must not go unnoticed.
func (a *Authenticator) user(h http.Header) (string, *weir.Problem) {
	values, ok := h[a.header]
	if !ok {
		return "", nil
	}
	wrong := fmt.Sprintf("has %d values", len(values))
	if len(values) == 1 {
		user := strings.Trim(values[0], " \t")
		if wrong = nameMistake(user); wrong == "" {
			return user, nil
		}
	}
	return "", &weir.Problem{
		Status: http.StatusBadRequest,
		Detail: fmt.Sprintf("The header %s %s: the proxy must send exactly one value of 1 to %d bytes of printable UTF-8.", a.shown, wrong, maxName),
	}
}

// maxName bounds a caller's name, in bytes: names become keys of counters.
const maxName = 256

// nameMistake says what keeps s from being a caller's name, "" for nothing. The
// text follows the name of the place and does not repeat s.
func nameMistake(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxName:
		return fmt.Sprintf("is %d bytes long", len(s))
	case !utf8.ValidString(s):
		return "is not UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "holds a character that is not printable"
	}
	return ""
}

// Middleware identifies the caller of each request, puts it into the context
// (weir.CallerFrom) and passes on a copy of the request with the edited header;
// the request that it was given stays as it is. Who fails is answered with the
// Problem.
func (a *Authenticator) Middleware() weir.Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := r.Header.Clone()
			c, p := a.identifyCaller(r.Context(), h, r.RemoteAddr)
			if p != nil {
				p.ServeHTTP(w, r)
				return
			}
			r = r.WithContext(weir.WithCaller(r.Context(), c))
			r.Header = h
			next.ServeHTTP(w, r)
		})
	}
}

// Close ends a fetch from the issuer that is under way, and waits until it has
// ended. Tokens that need a fetch are then refused with 503; all else goes on
// working. It may be called more than once, and always returns nil.
func (a *Authenticator) Close() error {
	a.closing.Do(func() {
		if a.tokens != nil && a.tokens.users.Add(-1) == 0 {
			a.tokens.source.close()
		}
	})
	return nil
}
