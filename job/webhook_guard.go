package job

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/inferweir/weir"
)

// maxWebhook is the longest URL of a webhook, in bytes.
const maxWebhook = 2048

// guard keeps webhooks from reaching what callers could not reach by themselves. It
// checks the address that is dialed, after the look-up of the name: a name that leads
// somewhere else the next time gains nothing.
type guard struct {
	special []netip.Prefix // never, unless an address or network in allow has it
	allow   []allowed
	dialer  net.Dialer
}

// allowed is an entry of WebhookOptions.Allow. One of host, net and any is set.
type allowed struct {
	host string
	net  netip.Prefix
	any  bool   // any public host
	port uint16 // 0: the usual ones
}

func newGuard(allow []string) (*guard, error) {
	if len(allow) > maxAllow {
		return nil, fmt.Errorf("job: WebhookOptions.Allow: %d entries: want at most %d", len(allow), maxAllow)
	}
	g := &guard{special: specialNetworks()}
	for i, text := range allow {
		a, err := parseAllowed(text)
		if err != nil {
			return nil, fmt.Errorf("job: WebhookOptions.Allow[%d]: %q: %w", i, text, err)
		}
		g.allow = append(g.allow, a)
	}
	return g, nil
}

// specialNetworks are those of the special-purpose address registries of the IANA (RFC
// 6890) that are not globally reachable, or that embed other addresses in a way that
// hides where they lead, multicast, and what is reserved.
func specialNetworks() []netip.Prefix {
	texts := []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
		"168.63.129.16/32", // of the global ones: a platform's own, for its virtual machines
		"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23",     // protocols: Teredo, benchmarking, ORCHID
		"2001:db8::/32", // documentation
		"3fff::/20",     // documentation
		"2620:4f:8000::/48",
		"5f00::/16", // segment routing
	}
	nets := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		nets = append(nets, netip.MustParsePrefix(text))
	}
	return nets
}

// CheckWebhookAllow says what is wrong with an entry of WebhookOptions.Allow: nil where
// New would take it.
func CheckWebhookAllow(text string) error {
	_, err := parseAllowed(text)
	return err
}

// parseAllowed reads HOST, ADDRESS, NETWORK, each with or without :PORT, and *:PORT.
func parseAllowed(text string) (allowed, error) {
	wrong := errors.New(`want a host, an address or a network, with or without a port, for example "hooks.internal", "10.0.0.0/8:9000", "[fd00::1]:9000" or "*:9000"`)
	if a, ok := allowedNet(text); ok {
		return a, checkNet(text, a.net)
	}
	host, port, found := cutPort(text)
	a, ok := allowedNet(host)
	switch n, err := strconv.ParseUint(port, 10, 16); {
	case found && (err != nil || n == 0):
		return allowed{}, wrong
	case found:
		a.port = uint16(n)
	}
	switch {
	case ok:
		return a, checkNet(host, a.net)
	case host == "*" && found:
		a.any = true
	case isHostName(host):
		a.host = canonicalHost(host)
	default:
		return allowed{}, wrong
	}
	return a, nil
}

// cutPort cuts the port from HOST:PORT and [HOST]:PORT.
func cutPort(text string) (host, port string, found bool) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, port, found = strings.Cut(inner, "]")
		if port, ok := strings.CutPrefix(port, ":"); found && ok {
			return host, port, true
		}
		if found && port == "" {
			return host, "", false
		}
		return text, "", false
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// checkNet refuses networks that are written in a way in which more, or less, may have been
// meant.
func checkNet(text string, n netip.Prefix) error {
	written, err := netip.ParsePrefix(text)
	switch {
	case err != nil: // an address
		return nil
	case n.Addr().Is4In6():
		return errors.New("want the IPv4 network itself, for example 10.0.0.0/8")
	case written != n:
		return fmt.Errorf("has bits beyond its length: want %v", n)
	}
	return nil
}

func allowedNet(text string) (allowed, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return allowed{net: p.Masked()}, true
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return allowed{net: netip.PrefixFrom(a, a.BitLen())}, true
	}
	return allowed{}, false
}

// checkURL says what is wrong with the URL of a webhook, to whoever wrote it.
func (g *guard) checkURL(text string) error {
	if len(text) > maxWebhook {
		return fmt.Errorf("the URL of the webhook has %d bytes: want at most %d", len(text), maxWebhook)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("the URL of the webhook is malformed: want for example https://example.com/hook")
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("the URL of the webhook begins with %q: want https:// or http://", u.Scheme)
	case u.Host == "" || u.Opaque != "" || u.Hostname() == "":
		return errors.New("the URL of the webhook has no host: want for example https://example.com/hook")
	case u.User != nil:
		return errors.New("the URL of the webhook has a user or password: put what the receiver has to know into its path or query")
	case strings.Contains(text, "#"):
		return errors.New("the URL of the webhook has a fragment (#…), which is never sent")
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		return g.check("", addr, port)
	}
	return g.checkName(host, port)
}

// checkName refuses what is no name of a public host before it is ever looked up.
func (g *guard) checkName(host string, port uint16) error {
	switch {
	case !isHostName(host):
		return fmt.Errorf("the host of the webhook is %q: want a name of letters, digits, dots and hyphens (others in their xn-- form) or an address", host)
	case endsInNumber(host):
		// Some resolvers take 2130706433, 0x7f.1 and 127.1 for addresses.
		return fmt.Errorf("the host of the webhook is %q: want an address as four decimal numbers", host)
	}
	host = canonicalHost(host)
	for _, a := range g.allow {
		if a.host == host && portFits(a, port) {
			return nil
		}
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return fmt.Errorf("the host of the webhook is %q: want one on the public internet", host)
	}
	// A network that is allowed may have it: its addresses are known when it is dialed.
	if usualPort(port) || slices.ContainsFunc(g.allow, func(a allowed) bool { return a.host == "" && a.port == port }) {
		return nil
	}
	return wrongPort(port)
}

func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	switch {
	case text == "" && u.Scheme == "https":
		return 443, nil
	case text == "":
		return 80, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("the port of the webhook is %q: want 80, 443, 8080 or 8443", text)
	}
	return uint16(n), nil
}

func wrongPort(port uint16) error {
	return fmt.Errorf("the port of the webhook is %d: want 80, 443, 8080 or 8443", port)
}

func usualPort(port uint16) bool {
	return port == 80 || port == 443 || port == 8080 || port == 8443
}

func portFits(a allowed, port uint16) bool {
	return a.port == port || a.port == 0 && usualPort(port)
}

// check says whether addr may be called at port. name is the host whose address it is,
// "" for one that was written as an address.
func (g *guard) check(name string, addr netip.Addr, port uint16) error {
	private := g.isSpecial(addr)
	plain := addr.Unmap()
	port2 := usualPort(port)
	for _, a := range g.allow {
		switch {
		case a.any:
			port2 = port2 || a.port == port
		case a.host != "" && a.host == name && portFits(a, port) && !neverByName(plain):
			return nil
		case a.net.IsValid() && plain.Zone() == "" && a.net.Contains(plain) && portFits(a, port) && (a.net.IsSingleIP() || !isMetadata(plain)):
			return nil
		}
	}
	switch {
	case private:
		return fmt.Errorf("the address of the webhook, %s, is not on the public internet", addr)
	case !port2:
		return wrongPort(port)
	}
	return nil
}

// neverByName are addresses that a name in Allow does not open, as who answers for the
// name could lead it to the metadata service of a cloud: write the address itself.
func neverByName(addr netip.Addr) bool {
	return addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() || addr.Zone() != "" || isMetadata(addr)
}

// isMetadata reports whether addr is, outside the link-local ones, where a cloud hands
// credentials to its virtual machines: Azure, Alibaba, Oracle, AWS and Google, in this order. A
// network in Allow does not open it either.
func isMetadata(addr netip.Addr) bool {
	switch addr.String() {
	case "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254":
		return true
	}
	return false
}

// isSpecial reports whether addr is anything but an address of the public internet,
// also where it is so by an address that it embeds.
func (g *guard) isSpecial(addr netip.Addr) bool {
	if !addr.IsValid() || addr.Zone() != "" {
		return true
	}
	addr = addr.Unmap()
	if addr.Is6() {
		b := addr.As16()
		global := b[0]&0xe0 == 0x20 // 2000::/3
		nat64 := netip.MustParsePrefix("64:ff9b::/96").Contains(addr)
		sixToFour := b[0] == 0x20 && b[1] == 0x02
		if !global && !nat64 {
			return true // ULA, link-local, multicast, loopback, IPv4-compatible, unassigned
		}
		if nat64 || sixToFour {
			v4 := weir.Unwrap(addr)
			return !v4.Is4() || g.isSpecial(v4)
		}
	}
	return slices.ContainsFunc(g.special, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// dial connects to an address that check allows. It uses no proxy.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		name = ""
	}
	d := g.dialer
	d.Control = func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if err := g.check(canonicalHost(name), to.Addr(), to.Port()); err != nil {
			return err
		}
		return takeAddress(ctx, to.Addr())
	}
	return d.DialContext(ctx, network, address)
}

// isHostName reports whether host is written as names of hosts are, underscores
// included.
func isHostName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, c := range []byte(label) {
			if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// endsInNumber is the test of the WHATWG's URL standard for hosts that are IPv4 addresses
// in any of their forms.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if strings.Trim(last, "0123456789") == "" {
		return true
	}
	hex := strings.ToLower(last)
	return strings.HasPrefix(hex, "0x") && strings.Trim(hex[2:], "0123456789abcdef") == ""
}

// canonicalHost is a name as it is compared: in lower case, without the root's dot.
func canonicalHost(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }
