package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"io"
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
	sessions *sessions
	attempts *gateway.Attempts
	log      *slog.Logger
}

func newGuard(g *gateway.Gateway, token string) *guard {
	return &guard{
		secured:  token != "",
		token:    sha256.Sum256([]byte(token)),
		sessions: newSessions(token),
		attempts: gateway.NewAttempts(failuresPerMinute),
		log:      g.Logger(),
	}
}

// before lets through to next who may.
func (g *guard) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limitBody(w, r)
		if err := g.check(r); err != nil {
			refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitBody bounds the time for the body of a request. One without is not bounded: its
// answer may be a stream, which the deadline would end.
func limitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Not every writer has deadlines; the server's has.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	}
}

// check lets in who may use the API: with a token who has it, or the session of who has
// presented it at the login.
func (g *guard) check(r *http.Request) error {
	switch {
	case !g.secured:
		return g.checkPlace(r)
	case len(r.Header["Authorization"]) == 0 && g.hasSession(r):
		return g.checkScript(r)
	}
	return g.checkToken(r)
}

// hasSession says whether a request is of somebody who has logged in.
func (g *guard) hasSession(r *http.Request) bool {
	_, ok := g.sessions.expires(r, time.Now())
	return ok
}

// whileIn is next, of an event stream, until whoever asked with the cookie of a session has
// logged out of it.
func (g *guard) whileIn(r *http.Request, next func(context.Context) (string, []byte, error)) func(context.Context) (string, []byte, error) {
	if !g.secured || len(r.Header["Authorization"]) > 0 {
		return next
	}
	return func(within context.Context) (string, []byte, error) {
		name, data, err := next(within)
		if err == nil && !g.hasSession(r) {
			return "", nil, io.EOF
		}
		return name, data, err
	}
}

// checkScript refuses requests with a session's cookie that the dashboard's own pages
// have not sent: the browser adds the cookie whoever asks.
func (g *guard) checkScript(r *http.Request) error {
	switch {
	case !ownPage(r):
		return forbidden("With the session of the dashboard, this is only for its own pages.")
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return nil
	case !g.isCSRF(r, r.Header.Get(csrfHeader)):
		return forbidden("With the session of the dashboard, this needs the token of its forms in X-CSRF-Token.")
	}
	return nil
}

// checkForm refuses forms that the dashboard's own pages have not sent.
func (g *guard) checkForm(r *http.Request) error {
	token := r.Header.Get(csrfHeader)
	if token == "" {
		token = r.PostFormValue(csrfField)
	}
	switch {
	case !ownPage(r):
		return forbidden("This form was sent by the page of another site. Nothing was done.")
	case !g.isCSRF(r, token):
		return forbidden("This form is of a session that has ended. Nothing was done: load the page again and send it once more.")
	}
	return nil
}

// csrf is the token for the forms of whoever sent a request. Without a login it is that
// of the process: no page of another site can read it.
func (g *guard) csrf(r *http.Request) string { return g.sessions.csrf(g.session(r)) }

func (g *guard) isCSRF(r *http.Request, token string) bool {
	return g.sessions.isCSRF(token, g.session(r))
}

func (g *guard) session(r *http.Request) string {
	if !g.secured {
		return ""
	}
	return sessionOf(r)
}

// ownPage reports whether a request may be of a page of this listener, as far as the
// browser tells.
func ownPage(r *http.Request) bool {
	origins := r.Header["Origin"]
	return ownSite(r.Header["Sec-Fetch-Site"]) && (len(origins) == 0 || len(origins) == 1 && isOrigin(origins[0], r.Host))
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
	if err := checkMachine(r); err != nil {
		return err
	}
	if !ownPage(r) {
		return forbidden("Without admin.token, this is not for the pages of other sites.")
	}
	return nil
}

// checkMachine lets through what comes from this machine and names it as such.
func checkMachine(r *http.Request) error {
	switch {
	case !peer(r.RemoteAddr).IsLoopback():
		return forbidden("Without admin.token, this is only for clients on the machine itself.")
	case !isLoopbackHost(r.Host):
		return forbidden("Without admin.token, this is only for requests whose Host is localhost or a loopback address.")
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
