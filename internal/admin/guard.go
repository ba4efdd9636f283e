package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/gateway"
)

const (
	// failuresPerMinute is how often a network may come with a wrong token.
	failuresPerMinute = 30
	// bodyTimeout is how long a client may take for the body of a request.
	bodyTimeout = 10 * time.Second
)

// guard stands before the API. With a token, who has it comes in. Without one, who
// is on this machine: but a browser here sends what pages from anywhere tell it
// to, so the request must also name this machine as its host (a name that an
// attacker lets lead here does not), and must not come from another site's page.
type guard struct {
	secured  bool
	token    [sha256.Size]byte
	attempts *gateway.Attempts
	log      *slog.Logger
}

func newGuard(g *gateway.Gateway, token string) *guard {
	return &guard{
		secured:  token != "",
		token:    sha256.Sum256([]byte(token)),
		attempts: gateway.NewAttempts(failuresPerMinute),
		log:      g.Logger(),
	}
}

// before lets through to next who may.
func (g *guard) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not every writer has deadlines; the server's has.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		check := g.checkPlace
		if g.secured {
			check = g.checkToken
		}
		if err := check(r); err != nil {
			refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *guard) checkToken(r *http.Request) error {
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return unauthorized("Bearer", "This needs the token of admin.token: Authorization: Bearer TOKEN.")
	}
	network := networkOf(r.RemoteAddr)
	if err := g.attempts.Check(network); err != nil {
		return err
	}
	if len(values) == 1 && g.isToken(values[0]) {
		return nil
	}
	g.attempts.Failed(network)
	g.log.Warn("a request to the admin API had a wrong token", "remote", r.RemoteAddr)
	return unauthorized(`Bearer error="invalid_token"`, "This is not the token of admin.token: want Authorization: Bearer TOKEN, once.")
}

// isToken compares hashes: in constant time, whatever the lengths are.
func (g *guard) isToken(authorization string) bool {
	scheme, token, _ := strings.Cut(authorization, " ")
	presented := sha256.Sum256([]byte(strings.TrimLeft(token, " ")))
	return subtle.ConstantTimeCompare(presented[:], g.token[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

func unauthorized(challenge, detail string) error {
	return &weir.Problem{Status: http.StatusUnauthorized, Detail: detail, Header: http.Header{"Www-Authenticate": {challenge}}}
}

// networkOf is what counts as one client: an IPv4 address, or the least part of
// IPv6 that a host is given. All peers without an address are one.
func networkOf(remoteAddr string) netip.Prefix {
	addr := peer(remoteAddr)
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// peer is the address of who is at the other end, the zero Addr if it has none.
func peer(remoteAddr string) netip.Addr {
	at, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

func (g *guard) checkPlace(r *http.Request) error {
	switch origins := r.Header["Origin"]; {
	case !peer(r.RemoteAddr).IsLoopback():
		return forbidden("Without admin.token, this is only for clients on the machine itself.")
	case !isLoopbackHost(r.Host):
		return forbidden("Without admin.token, this is only for requests whose Host is localhost or a loopback address.")
	case len(origins) > 0 && !(len(origins) == 1 && isOrigin(origins[0], r.Host)), !ownSite(r.Header["Sec-Fetch-Site"]):
		return forbidden("Without admin.token, this is not for the pages of other sites.")
	}
	return nil
}

func forbidden(detail string) error {
	return &weir.Problem{Status: http.StatusForbidden, Detail: detail}
}

// isLoopbackHost reports whether host, with or without a port, means this machine
// whoever resolves it.
func isLoopbackHost(host string) bool {
	u := url.URL{Host: host}
	name := u.Hostname()
	if strings.EqualFold(name, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}

// isOrigin reports whether an Origin is that of the pages of host. "null" is the
// origin of pages that hide theirs.
func isOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Host, host)
}

// ownSite reads what a browser says about where a request comes from. A page of
// another port of this machine is another program's.
func ownSite(fetchSite []string) bool {
	for _, site := range fetchSite {
		if site != "same-origin" && site != "none" {
			return false
		}
	}
	return true
}
