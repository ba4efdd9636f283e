package auth

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/inferweir/weir"
)

const (
	// maxHops bounds how many entries of X-Forwarded-For are read. Real chains
	// have a handful.
	maxHops = 100
	// maxHopText bounds the text of one address: the longest IPv6 address in
	// brackets, with a port and a zone, has fewer bytes.
	maxHopText = 128
)

// ClientAddr returns the client's own address for a request with the header h
// over a connection from remoteAddr: what Identify puts into Caller.Addr. It is
// the zero Addr if remoteAddr has no IP address. h may have been through
// Identify or not. Use it for log lines about requests that were refused.
//
// If the peer is a trusted proxy, X-Forwarded-For is read from the right, where
// our own proxies write, and the first address that is not trusted is the
// client. What stands left of it is the client's own invention.
func (a *Authenticator) ClientAddr(h http.Header, remoteAddr string) netip.Addr {
	return weir.Unwrap(a.clientBehind(h, parseHop(remoteAddr)))
}

// Network returns the network that counts as one client, for a request with the
// header h over a connection from remoteAddr: what Identify puts into Caller.Net,
// also for requests that it refuses. It is the zero Prefix if remoteAddr has no
// IP address. h may have been through
// Identify or not.
func (a *Authenticator) Network(h http.Header, remoteAddr string) netip.Prefix {
	addr := a.ClientAddr(h, remoteAddr)
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	return a.network(addr)
}

// clientBehind finds the client behind peer, with only IPv4-mapped addresses
// unwrapped.
//
// Every proxy appends the address from which it was called. So an entry is as
// believable as the hop to its right, which wrote it, and the walk goes on only
// while hops are trusted. An entry that is no address (also an empty one) says
// that the hop to its right passes on what it is sent; it and everything left
// of it may be the client's words. The walk then ends at that hop, the last one
// known: its clients share a count, which is safe, while believing an entry
// beyond would let each choose its own.
func (a *Authenticator) clientBehind(h http.Header, peer netip.Addr) netip.Addr {
	if !a.trusts(peer) {
		return peer
	}
	last, hops := peer, 0
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; hops++ {
			if hops == maxHops {
				return last
			}
			comma := strings.LastIndexByte(rest, ',')
			addr := parseHop(rest[comma+1:])
			if !addr.IsValid() {
				return last
			}
			if !a.trusts(addr) {
				return addr
			}
			last, more = addr, comma >= 0
			rest = rest[:max(comma, 0)]
		}
	}
	return last
}

// trusts reports whether addr, a result of parseHop, is a trusted proxy's.
//
// Only the IPv4-mapped form is unwrapped before: it is how the kernel shows an
// IPv4 peer on a dual-stack socket. The other transition addresses are chosen
// by whoever sends from them: 2002:a00:1:: would pass for 10.0.0.1 and
// everybody for a trusted proxy.
func (a *Authenticator) trusts(addr netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseHop reads an address as proxies write it: 192.0.2.1, 192.0.2.1:567,
// 2001:db8::1, [2001:db8::1], [2001:db8::1]:567, with white space around it and
// a zone after an IPv6 address. It drops the zone, which means something only
// on the host that wrote it, and unwraps IPv4-mapped addresses. Anything else
// is the zero Addr.
func parseHop(s string) netip.Addr {
	s = strings.Trim(s, " \t")
	if len(s) > maxHopText {
		return netip.Addr{}
	}
	host, port, bracketed := s, "", strings.HasPrefix(s, "[")
	if bracketed {
		var closed bool
		if host, port, closed = strings.Cut(s[1:], "]"); !closed {
			return netip.Addr{}
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		host, port = s[:i], s[i:]
	}
	if port != "" {
		if _, err := strconv.ParseUint(port[1:], 10, 16); port[0] != ':' || err != nil {
			return netip.Addr{}
		}
	}
	// The zone is cut off here, because netip would keep a table of zones, and
	// these may be a stranger's.
	host, zone, zoned := strings.Cut(host, "%")
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Is4() && (bracketed || zoned) || zoned && zone == "" {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// plainNetwork returns p as addresses are compared with it: without host bits,
// and without the IPv4-mapped form, because addresses lose that as well. mixed
// says that p covers mapped addresses and others: that is no network.
func plainNetwork(p netip.Prefix) (network netip.Prefix, mixed bool) {
	switch {
	case p.Addr().Is4In6() && p.Bits() < 96:
		return netip.Prefix{}, true
	case p.Addr().Is4In6():
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked(), false
	}
	return p.Masked(), false
}

// network cuts addr to the prefix that counts as one client.
func (a *Authenticator) network(addr netip.Addr) netip.Prefix {
	bits := a.prefixV6
	if addr.Is4() {
		bits = a.prefixV4
	}
	p, err := addr.Prefix(bits)
	if err != nil { // New has checked both lengths: cannot happen
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return p
}

// addressID is the ID of who is known by address only. The zero Prefix stands
// for a peer without an IP address; all of those are one caller.
func addressID(n netip.Prefix) string {
	text := append(make([]byte, 0, 64), "ip:"...)
	switch {
	case !n.IsValid():
		text = append(text, "unknown"...)
	case n.IsSingleIP():
		text = n.Addr().AppendTo(text)
	default:
		text = n.AppendTo(text)
	}
	return string(text)
}
