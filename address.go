package weir

import "net/netip"

// Unwrap returns the IPv4 address in a NAT64
// (64:ff9b::/96, RFC 6052), 6to4 (2002::/16, RFC 3056) or Teredo (2001::/32,
// RFC 4380) address, so that an IPv4 client counts as one client however it
// comes, and so that all of NAT64 is not one: every IPv4 client there shares the
// same /64.
//
// If the embedded address is not public, addr stays as it is. The RFCs allow
// public addresses only, so it is forged or of a private translator, and it
// must not count as a host of our own network, nor pass as one where networks
// are allowed or denied.
func Unwrap(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	var v4 [4]byte
	switch {
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}:
		v4 = [4]byte(b[12:])
	case [2]byte(b[:2]) == [2]byte{0x20, 0x02}:
		v4 = [4]byte(b[2:6])
	case [4]byte(b[:4]) == [4]byte{0x20, 0x01}:
		v4 = [4]byte{^b[12], ^b[13], ^b[14], ^b[15]}
	default:
		return addr
	}
	if embedded := netip.AddrFrom4(v4); isPublic(embedded) {
		return embedded
	}
	return addr
}

// isPublic reports whether an IPv4 address can be a host's on the internet. The
// documentation networks count as such: they are nobody's.
func isPublic(v4 netip.Addr) bool {
	b := v4.As4()
	switch {
	case !v4.IsGlobalUnicast() || v4.IsPrivate():
		return false
	case b[0] == 0: // this network
		return false
	case b[0] == 100 && b[1]&0xc0 == 64: // carrier-grade NAT, 100.64.0.0/10
		return false
	}
	return b[0] < 240 // reserved
}
