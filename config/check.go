package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// check reports what is wrong although every value by itself has the right
// form. It changes nothing.
func check(c *Config, d *decoder) {
	k := &checker{d}
	k.listeners(c)
	k.store(c.Store)
	k.callers(c)
	k.overrides(c)
	k.plans(c)
	k.upstreams(c)
	k.cache(c)
	k.routes(c)
	k.database(c)
	k.blobs(c.Blobs)
	k.jobs(c)
	k.prices(c.Prices)
	k.telemetry(c.Telemetry)
}

type checker struct{ *decoder }

// fail reports a mistake at path, with the value that stands there in the file,
// or at the next place above it that does.
func (k *checker) fail(path, want string) {
	n, exact := k.nodes[path]
	value := ""
	if exact && n.scalar && !n.secret {
		value = shown(n.value)
	}
	for p := path; !exact && p != ""; {
		p = parent(p)
		n, exact = k.nodes[p]
	}
	k.add(n.line, path, value, want)
}

// said reports whether the file has a value at path.
func (k *checker) said(path string) bool {
	_, ok := k.nodes[path]
	return ok
}

func (k *checker) listeners(c *Config) {
	if c.TLS != nil && k.clean("tls") {
		k.printable("tls.cert", c.TLS.Cert)
		k.printable("tls.key", c.TLS.Key)
	}
	listeners := []listener{{path: "listen", value: c.Listen}, {path: "admin.listen", value: c.Admin.Listen}}
	if c.Decide != nil {
		listeners = append(listeners, listener{path: "decide.listen", value: c.Decide.Listen})
	}
	for i := range listeners {
		b := &listeners[i]
		b.address, b.ok = k.address(b.path, b.value)
		for _, a := range listeners[:i] {
			if a.ok && b.ok && a.address.overlaps(b.address) {
				k.overlap(a, *b)
			}
		}
	}
	admin := listeners[1]
	if strings.ContainsFunc(c.Admin.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		k.fail("admin.token", "want printable ASCII without spaces: it travels in a header")
	}
	if c.Admin.Token == redacted {
		k.fail("admin.token", errRedacted)
	}
	if admin.ok && !admin.address.loopback() && c.Admin.Token == "" && k.clean("admin.token") {
		k.fail("admin.listen", "is not loopback: want admin.token with it, or 127.0.0.1")
	}
}

const errRedacted = `"(redacted)" stands for a secret that was not printed: want the secret itself`

// listener is one that the file has. ok says that its address is one.
type listener struct {
	path, value string
	address     address
	ok          bool
}

// overlap reports two listeners on one port, at the later one that the file has.
func (k *checker) overlap(a, b listener) {
	path := b.path
	if !k.said(path) {
		path = a.path
	}
	k.fail(path, fmt.Sprintf("%s %s and %s %s are the same port: want two", a.path, a.value, b.path, b.value))
}

// address is where a listener listens.
type address struct {
	host string
	port int
}

func (a address) loopback() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// everywhere holds for an address that is all of the machine's.
func (a address) everywhere() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// overlaps holds where the system would let only one of the two listen.
func (a address) overlaps(b address) bool {
	return a.port == b.port && a.port != 0 && (a.host == b.host || a.everywhere() || b.everywhere())
}

func (k *checker) address(path, value string) (address, bool) {
	if !k.clean(path) {
		return address{}, false
	}
	host, portText, err := net.SplitHostPort(value)
	port, errPort := strconv.ParseUint(portText, 10, 16)
	_, errIP := netip.ParseAddr(host)
	if err != nil || errPort != nil || host != "" && errIP != nil && !isHostname(host) {
		k.fail(path, "want host:port, for example 127.0.0.1:8080 or :8080")
		return address{}, false
	}
	return address{host, int(port)}, true
}

func isHostname(s string) bool {
	for _, c := range []byte(s) {
		if !isAlnum(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return len(s) <= 253 && !strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "-")
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isToken holds for the names of header fields (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !isAlnum(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// maxName bounds names: they become labels of metrics and parts of headers.
const maxName = 128

// name checks a name that stands in RateLimit fields and metrics, where only
// printable ASCII can.
func (k *checker) name(path, value string) {
	bad := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if value == "" || len(value) > maxName || strings.ContainsFunc(value, bad) || strings.TrimSpace(value) != value {
		k.fail(path, fmt.Sprintf(`want a name of 1 to %d printable ASCII characters without " and \`, maxName))
	}
}

// printable checks a text that may be in any language.
func (k *checker) printable(path, value string) bool {
	if !k.clean(path) || value == "" {
		return false
	}
	if !isPrintable(value) {
		k.fail(path, "want printable characters without spaces around them")
		return false
	}
	return true
}

func isPrintable(s string) bool {
	bad := func(r rune) bool { return !unicode.IsPrint(r) }
	return !strings.ContainsFunc(s, bad) && strings.TrimSpace(s) == s
}

// once reports items of a list that an earlier one equals.
func once[T comparable](k *checker, path string, items []T, want string) {
	seen := map[T]bool{}
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if seen[item] && k.clean(at) {
			k.fail(at, want)
		}
		seen[item] = true
	}
}
