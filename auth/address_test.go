package auth_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

func TestClientBehindProxies(t *testing.T) {
	a := newAuth(t, options())
	f := func(name, peer string, lines []string, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			h := http.Header{"X-Forwarded-For": lines}
			before := a.ClientAddr(h, peer)
			c, err := a.Identify(t.Context(), h, peer)
			after := a.ClientAddr(h, peer)
			if got := []string{before.String(), c.Addr.String(), after.String()}; err != nil || !slices.Equal(got, []string{want, want, want}) {
				t.Errorf("ClientAddr before, Identify, ClientAddr after: %q, %v, want %s", got, err, want)
			}
		})
	}
	one := func(line string) []string { return []string{line} }

	f("a stranger is the client, whatever it says", stranger, one("192.0.2.1"), "203.0.113.7")
	f("a stranger on IPv6 too", "[2001:db8::7]:4711", one("192.0.2.1"), "2001:db8::7")
	f("loopback is a stranger unless it is listed", "127.0.0.1:4711", one("192.0.2.1"), "127.0.0.1")
	f("a proxy names the client", proxy, one("203.0.113.7"), "203.0.113.7")
	f("a proxy on IPv6 names the client", "[fd00::2]:4711", one("203.0.113.7"), "203.0.113.7")
	f("a proxy on a dual-stack socket names the client", "[::ffff:10.0.0.2]:4711", one("203.0.113.7"), "203.0.113.7")
	f("a proxy with a zone names the client", "[fd00::2%eth0]:4711", one("203.0.113.7"), "203.0.113.7")
	f("a proxy that names nobody is the client", proxy, nil, "10.0.0.2")
	f("an address without a port is a peer too", "10.0.0.2", one("203.0.113.7"), "203.0.113.7")

	f("what the client put to the left does not count", proxy, one("192.0.2.1, 198.51.100.1, 203.0.113.7"), "203.0.113.7")
	f("trusted addresses are skipped from the right", proxy, one("192.0.2.1, 203.0.113.7, 10.9.9.9, fd00::9"), "203.0.113.7")
	f("a trusted address left of the client does not count", proxy, one("10.1.1.1, 203.0.113.7, 10.9.9.9"), "203.0.113.7")
	f("lines are read as one, from the last", proxy, []string{"192.0.2.1", "192.0.2.2, 203.0.113.7", "10.9.9.9"}, "203.0.113.7")
	f("all trusted gives the leftmost", proxy, []string{"10.1.1.1, 10.2.2.2", "10.3.3.3"}, "10.1.1.1")
	f("a mapped proxy is skipped", proxy, one("203.0.113.7, ::ffff:10.9.9.9"), "203.0.113.7")
	f("a mapped proxy in hexadecimal is skipped", proxy, one("203.0.113.7, ::ffff:a09:909"), "203.0.113.7")

	f("garbage ends the walk at the peer", proxy, one("203.0.113.7, unknown"), "10.0.0.2")
	f("garbage ends the walk at the last good hop", proxy, one("203.0.113.7, unknown, 10.9.9.9"), "10.9.9.9")
	f("garbage left of the client is not reached", proxy, one("unknown, 203.0.113.7, 10.9.9.9"), "203.0.113.7")
	f("an empty entry ends the walk", proxy, one("203.0.113.7,, 10.9.9.9"), "10.9.9.9")
	f("an empty line ends the walk", proxy, []string{"203.0.113.7", "", "10.9.9.9"}, "10.9.9.9")
	f("an empty header leaves the peer", proxy, one(""), "10.0.0.2")
	f("a comma at the end ends the walk", proxy, one("203.0.113.7,"), "10.0.0.2")
	f("a hundred hops are read", proxy, one("203.0.113.7"+strings.Repeat(",10.9.9.9", 99)), "203.0.113.7")
	f("more are not", proxy, one("203.0.113.7"+strings.Repeat(",10.9.9.9", 100)), "10.9.9.9")
	f("more are not, over many lines either", proxy, append([]string{"203.0.113.7"}, slices.Repeat([]string{"10.9.9.9"}, 100)...), "10.9.9.9")

	// Transition addresses of 10.0.0.1: whoever sends from one chose what is
	// embedded in it.
	for _, forged := range []string{"2002:a00:1::", "2002:0a00:0001::1", "64:ff9b::10.0.0.1", "64:ff9b::a00:1", "2001:0:cb00:7107:0:0:f5ff:fffe"} {
		f("a peer "+forged+" is not the proxy in it", "["+forged+"]:4711", one("192.0.2.1"), netip.MustParseAddr(forged).String())
		f("a hop "+forged+" is not the proxy in it", proxy, one("192.0.2.1, "+forged), netip.MustParseAddr(forged).String())
	}
}

func TestFormsOfHops(t *testing.T) {
	a := newAuth(t, options())
	f := func(entry, want string) {
		t.Helper()
		if got := a.ClientAddr(http.Header{"X-Forwarded-For": {"192.0.2.1," + entry}}, proxy).String(); got != want {
			t.Errorf("%q is %s, want %s", entry, got, want)
		}
	}
	for _, entry := range []string{"203.0.113.7", " \t203.0.113.7 ", "203.0.113.7:567", "203.0.113.7:0", "::ffff:203.0.113.7", "[::ffff:203.0.113.7]:567", "::ffff:cb00:7107%eth0"} {
		f(entry, "203.0.113.7")
	}
	for _, entry := range []string{"2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:567", " [2001:DB8:0:0::7]:567 ", "2001:db8::7%eth0", "[2001:db8::7%25eth0]:567", "2001:db8::7%" + strings.Repeat("z", 100)} {
		f(entry, "2001:db8::7")
	}
	for _, entry := range []string{
		"", " ", "unknown", "_hidden", "localhost", "203.0.113", "203.0.113.07", "203.0.113.256", "203.0.113.7.", "0xcb.0.0x71.7", "3405803783",
		"203.0.113.7:", "203.0.113.7:x", "203.0.113.7:65536", "203.0.113.7:-1", "203.0.113.7:+1", "203.0.113.7%eth0", "203.0.113.7/32", "203.0.113.7 192.0.2.9",
		"[203.0.113.7]", "[203.0.113.7]:567", "[2001:db8::7", "2001:db8::7]", "[2001:db8::7]567", "[2001:db8::7]:", "[[2001:db8::7]]", "[]", "[]:567", "2001:db8::7%", "2001:db8:::7",
		`"203.0.113.7"`, "for=203.0.113.7", "http://203.0.113.7", "203.0.113.7;", "\u00a0203.0.113.7", "2001:db8::7%" + strings.Repeat("z", 200),
	} {
		f(entry, "10.0.0.2")
	}
}

func TestCallersByAddress(t *testing.T) {
	f := func(o auth.Options, remote string, want weir.Caller) {
		t.Helper()
		if got, err := newAuth(t, o).Identify(t.Context(), http.Header{}, remote); err != nil || got != want {
			t.Errorf("%s with prefixes %d and %d: caller %+v, %v\nwant %+v", remote, o.PrefixV4, o.PrefixV6, got, err, want)
		}
	}
	var o auth.Options
	f(o, "203.0.113.7:4711", byIP("203.0.113.7", "203.0.113.7/32"))
	f(o, "[2001:db8:1:2:3:4:5:6]:4711", byIP("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"))
	f(o, "[fe80::1:2%eth0]:4711", byIP("fe80::1:2", "fe80::/64"))

	// Mapped addresses, also in hexadecimal.
	f(o, "[::ffff:1.2.3.4]:4711", byIP("1.2.3.4", "1.2.3.4/32"))
	f(o, "[::ffff:102:304]:4711", byIP("1.2.3.4", "1.2.3.4/32"))
	f(o, "[::ffff:10.0.0.1]:4711", byIP("10.0.0.1", "10.0.0.1/32"))

	// NAT64, 6to4 and Teredo, of a public address.
	f(o, "[64:ff9b::203.0.113.7]:4711", byIP("203.0.113.7", "203.0.113.7/32"))
	f(o, "[64:ff9b::cb00:7107%eth0]:4711", byIP("203.0.113.7", "203.0.113.7/32"))
	f(o, "[2002:cb00:7107::1]:4711", byIP("203.0.113.7", "203.0.113.7/32"))
	f(o, "[2002:cb00:7107:ffff:1:2:3:4]:4711", byIP("203.0.113.7", "203.0.113.7/32"))
	f(o, "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:4711", byIP("192.0.2.45", "192.0.2.45/32")) // RFC 4380, section 4

	// Of an address that is nobody's on the internet.
	f(o, "[64:ff9b::10.0.0.1]:4711", byIP("64:ff9b::a00:1", "64:ff9b::/64"))
	f(o, "[2002:a00:1::5]:4711", byIP("2002:a00:1::5", "2002:a00:1::/64"))
	f(o, "[2002:7f00:1::5]:4711", byIP("2002:7f00:1::5", "2002:7f00:1::/64"))
	f(o, "[2002:6440:1::5]:4711", byIP("2002:6440:1::5", "2002:6440:1::/64"))
	f(o, "[2002:a9fe:a9fe::5]:4711", byIP("2002:a9fe:a9fe::5", "2002:a9fe:a9fe::/64"))
	f(o, "[2002::5]:4711", byIP("2002::5", "2002::/64"))
	f(o, "[2002:1::5]:4711", byIP("2002:1::5", "2002:1::/64"))
	f(o, "[2002:e000:1::5]:4711", byIP("2002:e000:1::5", "2002:e000:1::/64"))
	f(o, "[2002:f000:1::5]:4711", byIP("2002:f000:1::5", "2002:f000:1::/64"))
	f(o, "[2001::8000:0:80ff:fffe]:4711", byIP("2001::8000:0:80ff:fffe", "2001::/64")) // 127.0.0.1

	// Dotted tails and prefixes that mean nothing.
	f(o, "[2001:db8::1.2.3.4]:4711", byIP("2001:db8::102:304", "2001:db8::/64"))
	f(o, "[::1.2.3.4]:4711", byIP("::102:304", "::/64"))
	f(o, "[::ffff:0:1.2.3.4]:4711", byIP("::ffff:0:102:304", "::/64"))
	f(o, "[1::ffff:1.2.3.4]:4711", byIP("1::ffff:102:304", "1::/64"))
	f(o, "[64:ff9b:1::1.2.3.4]:4711", byIP("64:ff9b:1::102:304", "64:ff9b:1::/64"))
	f(o, "[64:ff9b::1:1.2.3.4]:4711", byIP("64:ff9b::1:102:304", "64:ff9b::/64"))
	f(o, "[2001:1::fefd:fcfb]:4711", byIP("2001:1::fefd:fcfb", "2001:1::/64"))

	// Other prefixes; an unwrapped address is cut as the IPv4 address that it is.
	o.PrefixV4, o.PrefixV6 = 24, 48
	f(o, "203.0.113.7:4711", byIP("203.0.113.7", "203.0.113.0/24"))
	f(o, "[::ffff:203.0.113.7]:4711", byIP("203.0.113.7", "203.0.113.0/24"))
	f(o, "[2002:cb00:7107::1]:4711", byIP("203.0.113.7", "203.0.113.0/24"))
	f(o, "[2001:db8:1:2::5]:4711", byIP("2001:db8:1:2::5", "2001:db8:1::/48"))
	o.PrefixV4, o.PrefixV6 = 1, 128
	f(o, "203.0.113.7:4711", byIP("203.0.113.7", "128.0.0.0/1"))
	f(o, "[2001:db8:1:2::5]:4711", byIP("2001:db8:1:2::5", "2001:db8:1:2::5/128"))

	// Peers without an IP address.
	for _, remote := range []string{"@", "", "pipe", "/run/weir.sock", "localhost:80", "@:80", strings.Repeat("1", 1000)} {
		f(o, remote, weir.Caller{ID: "ip:unknown", Anonymous: true})
	}
}

func TestMappedTrustedNetwork(t *testing.T) {
	o := auth.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}
	h := http.Header{"X-Forwarded-For": {"203.0.113.7, 10.1.1.1"}}
	if got := newAuth(t, o).ClientAddr(h, proxy).String(); got != "203.0.113.7" {
		t.Errorf("client is %s, want 203.0.113.7", got)
	}
}

func TestAddressInAnAddressIsNotTrusted(t *testing.T) {
	o := auth.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	a := newAuth(t, o)
	f := func(remote, forwarded, want string) {
		t.Helper()
		h := http.Header{"X-Forwarded-For": {forwarded}, "X-Real-Ip": {"192.0.2.1"}}
		c, err := a.Identify(t.Context(), h, remote)
		if err != nil || c.Addr.String() != want {
			t.Errorf("%s from %s: client is %v, %v, want %s", forwarded, remote, c.Addr, err, want)
		}
	}
	f("198.51.100.1:4711", "192.0.2.1", "192.0.2.1")
	f("[::ffff:198.51.100.1]:4711", "192.0.2.1", "192.0.2.1")
	// Counted as 198.51.100.1, and still not believed as that proxy.
	for _, forged := range []string{"2002:c633:6401::1", "64:ff9b::198.51.100.1", "2001::39cc:9bfe"} {
		f("["+forged+"]:4711", "192.0.2.1", "198.51.100.1")
		f("198.51.100.9:4711", "192.0.2.1, "+forged, "198.51.100.1")
	}
}

func TestUnixSocketIsNeverTrusted(t *testing.T) {
	o := options()
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	a := newAuth(t, o)
	h := http.Header{"X-Forwarded-For": {"203.0.113.7"}, "X-User-Id": {"bob"}}
	if got, err := a.Identify(t.Context(), h, "@"); err != nil || got != (weir.Caller{ID: "ip:unknown", Anonymous: true}) || len(h) != 0 {
		t.Errorf("caller %+v, %v, header %v, want ip:unknown and an empty header", got, err, h)
	}
	if got, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {bobKey}}, "@"); err != nil || got != (weir.Caller{ID: "key:bob"}) {
		t.Errorf("with a key: caller %+v, %v, want key:bob without an address", got, err)
	}
}
