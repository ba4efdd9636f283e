package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/inferweir/weir/auth"
)

// check reports what is wrong although every value by itself has the right
// form. It changes nothing.
func check(c *Config, d *decoder) {
	k := &checker{d}
	k.listeners(c)
	k.callers(c)
	k.plans(c)
	k.upstreams(c)
	k.cache(c.Cache)
	k.routes(c)
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
	listen, okListen := k.address("listen", c.Listen)
	admin, okAdmin := k.address("admin.listen", c.Admin.Listen)
	if okListen && okAdmin && listen.overlaps(admin) {
		path := "admin.listen"
		if !k.said(path) {
			path = "listen"
		}
		k.fail(path, fmt.Sprintf("listen %s and admin.listen %s are the same port: want two", c.Listen, c.Admin.Listen))
	}
	if strings.ContainsFunc(c.Admin.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		k.fail("admin.token", "want printable ASCII without spaces: it travels in a header")
	}
	if c.Admin.Token == redacted {
		k.fail("admin.token", errRedacted)
	}
	if okAdmin && !admin.loopback() && c.Admin.Token == "" && k.clean("admin.token") {
		k.fail("admin.listen", "is not loopback: want admin.token with it, or 127.0.0.1")
	}
}

const errRedacted = `"(redacted)" stands for a secret that was not printed: want the secret itself`

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
	bad := func(r rune) bool { return !unicode.IsPrint(r) }
	if !k.clean(path) || value == "" {
		return false
	}
	if strings.ContainsFunc(value, bad) || strings.TrimSpace(value) != value {
		k.fail(path, "want printable characters without spaces around them")
		return false
	}
	return true
}

func (k *checker) callers(c *Config) {
	once(k, "callers.identify", c.Callers.Identify, "the same way twice")
	once(k, "callers.trusted_proxies", c.Callers.TrustedProxies, "the same network twice")
	header := c.Callers.Header
	switch {
	case !k.clean("callers.header"):
	case !isToken(header):
		k.fail("callers.header", "want the name of a header field, for example X-User-ID")
	case isConnectionField(header):
		k.fail("callers.header", "belongs to the connection: want a field that names the caller, for example X-User-ID")
	case k.said("callers.header") && len(c.Callers.TrustedProxies) == 0 && k.clean("callers.trusted_proxies"):
		k.fail("callers.header", "never matches: it is believed only from callers.trusted_proxies, which is empty")
	}
	if c.Callers.Require && len(c.Callers.Keys) == 0 && k.clean("callers.keys") && k.clean("callers.require") {
		k.fail("callers.require", "would refuse everybody: want callers.keys with it")
	}
	seen := map[string]int{}
	for i, key := range c.Callers.Keys {
		k.key(fmt.Sprintf("callers.keys[%d]", i), key, c)
		if at, twice := seen[key.Key]; twice && key.Key != "" {
			k.fail(fmt.Sprintf("callers.keys[%d].key", i), fmt.Sprintf("the same key as callers.keys[%d]: want one of its own", at))
		} else {
			seen[key.Key] = i
		}
	}
	k.identification(c.Callers)
}

// identification lets auth judge what only it knows: which names and keys it can
// tell apart.
func (k *checker) identification(c Callers) {
	keys := make([]auth.Key, len(c.Keys))
	for i, key := range c.Keys {
		keys[i] = auth.Key{Caller: key.Caller, Key: key.Key, Plan: key.Plan}
	}
	_, err := auth.New(auth.Options{
		Identify:       c.Identify,
		Require:        c.Require,
		TrustedProxies: c.TrustedProxies,
		Header:         c.Header,
		PrefixV4:       c.IPPrefix.V4,
		PrefixV6:       c.IPPrefix.V6,
		Keys:           keys,
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return
	}
	for _, e := range joined.Unwrap() {
		// Its messages begin with the place: keys[0] (caller "a"): the key is ...
		place, want, _ := strings.Cut(e.Error(), ": ")
		place, _, _ = strings.Cut(place, " ")
		path := "callers." + place
		if n, exact := k.nodes[path]; exact && n.scalar {
			want = strings.TrimPrefix(strings.TrimPrefix(want, n.value+": "), strconv.Quote(n.value)+": ")
		}
		if above := parent(path); k.clean(path) && (!strings.HasSuffix(above, "]") || k.clean(above)) { // or it is said already
			k.fail(path, want)
		}
	}
}

func (k *checker) key(path string, key Key, c *Config) {
	if k.printable(path+".caller", key.Caller) && len(key.Caller) > 2*maxName {
		k.fail(path+".caller", fmt.Sprintf("want at most %d bytes", 2*maxName))
	}
	notPlain := func(r rune) bool { return r <= ' ' || r > '~' }
	switch secret, own := strings.CutPrefix(key.Key, keyPrefix); {
	case !k.clean(path+".key") || key.Key == "":
	case key.Key == redacted:
		k.fail(path+".key", errRedacted)
	case !own || secret == "" || strings.ContainsFunc(key.Key, notPlain):
		k.fail(path+".key", "want a key that begins with weir_ and has no spaces")
	}
	if _, known := c.Plans[key.Plan]; key.Plan != "" && !known && !k.at["plans"] {
		k.fail(path+".plan", "unknown plan: "+existing(c.Plans, "plans"))
	}
}

func (k *checker) plans(c *Config) {
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		path := "plans." + shownKey(name)
		k.name(path, name)
		k.policies(path+".policies", c.Plans[name].Policies)
	}
}

// policies checks those of one plan or route.
func (k *checker) policies(path string, policies []Policy) {
	seen := map[string]int{}
	for i, p := range policies {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.clean(at) {
			continue
		}
		if err := p.limit().Validate(); err != nil {
			k.fail(at, err.Error())
		}
		if k.said(at + ".name") {
			k.name(at+".name", p.Name)
		}
		if header, ok := strings.CutPrefix(p.By, "header:"); ok && !isToken(header) {
			k.fail(at+".by", "want the name of a header field after header:, for example header:X-Team")
		} else if !ok && !isScope(p.By) {
			k.fail(at+".by", "want one of caller, ip, global, plan, route, model, header:NAME")
		}
		id := p.Name + "\x00" + p.Unit
		if first, twice := seen[id]; twice {
			k.fail(at, fmt.Sprintf("the same name %q and unit as %s[%d]: want another name", cut(p.Name), path, first))
		} else {
			seen[id] = i
		}
	}
}

func isScope(by string) bool {
	switch by {
	case "caller", "ip", "global", "plan", "route", "model":
		return true
	}
	return false
}

func (k *checker) cache(c Cache) {
	if len(c.Tiers) == 0 {
		k.fail("cache.tiers", "want at least one store, for example [memory]")
	}
	once(k, "cache.tiers", c.Tiers, "the same store twice")
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
