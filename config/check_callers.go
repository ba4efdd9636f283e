package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/inferweir/weir/auth"
)

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
	if c.Callers.Require && len(c.Callers.Keys) == 0 && c.Callers.JWT == nil && c.Database == nil &&
		k.clean("callers.keys") && k.clean("callers.require") && !k.said("callers.jwt") && !k.said("database") {
		k.fail("callers.require", "would refuse everybody: want callers.keys, callers.jwt or a database with it")
	}
	if c.Callers.JWT != nil {
		k.jwt(*c.Callers.JWT)
	}
	k.listed("callers.allow", c.Callers.Allow)
	k.listed("callers.deny", c.Callers.Deny)
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
	var jwt *auth.JWT
	if c.JWT != nil {
		jwt = &auth.JWT{
			Issuer: c.JWT.Issuer, Audience: c.JWT.Audience, JWKSURL: c.JWT.JWKSURL,
			CallerClaim: c.JWT.CallerClaim, PlanClaim: c.JWT.PlanClaim,
		}
	}
	_, err := auth.New(auth.Options{
		Identify:       c.Identify,
		Require:        c.Require,
		TrustedProxies: c.TrustedProxies,
		Header:         c.Header,
		PrefixV4:       c.IPPrefix.V4,
		PrefixV6:       c.IPPrefix.V6,
		Keys:           keys,
		JWT:            jwt,
		Allow:          c.Allow,
		Deny:           c.Deny,
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
			want = strings.TrimPrefix(want, n.value+": ")
			if quoted, err := strconv.QuotedPrefix(want); err == nil { // fail shows what is written in the file
				want = strings.TrimPrefix(want[len(quoted):], ": ")
			}
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
	k.planName(path+".plan", key.Plan, c.Plans)
}

func (k *checker) planName(path, name string, plans map[string]Plan) {
	if _, known := plans[name]; name != "" && !known && !k.at["plans"] {
		k.fail(path, "unknown plan: "+existing(plans, "plans"))
	}
}

// listed checks what auth takes although it is hardly meant: a network is written
// as everywhere in the file, and once.
func (k *checker) listed(path string, entries []string) {
	once(k, path, entries, "the same entry twice")
	for i, entry := range entries {
		kind, _, _ := strings.Cut(entry, ":")
		if isID := kind == "key" || kind == "jwt" || kind == "header" || kind == "ip"; isID || !strings.Contains(entry, "/") {
			continue
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		if _, err := parsePrefix(entry); err != nil && k.clean(at) {
			k.fail(at, err.Error())
		}
	}
}

func (k *checker) jwt(j JWT) {
	k.secureURL("callers.jwt.issuer", j.Issuer)
	k.printable("callers.jwt.audience", j.Audience)
	k.secureURL("callers.jwt.jwks_url", j.JWKSURL)
	k.printable("callers.jwt.caller_claim", j.CallerClaim)
	k.printable("callers.jwt.plan_claim", j.PlanClaim)
}

// secureURL checks a URL whose answers decide who a caller is: nobody on the way
// may change them.
func (k *checker) secureURL(path, text string) {
	if text == "" || !k.clean(path) {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || !validPort(u):
		k.fail(path, "want a URL, for example https://login.example.com")
	case u.User != nil || strings.Contains(text, "#"):
		k.fail(path, "want no user, no password and no fragment in the URL")
	case u.Scheme == "http" && !(address{host: u.Hostname()}).loopback():
		k.fail(path, "want https://, so that nobody on the way can say who a caller is: http:// is for loopback alone")
	}
}

// overrides checks what single callers have instead of their plans.
func (k *checker) overrides(c *Config) {
	first := map[string]int{}
	served := k.served(c, c.Routes, "routes")
	for i, o := range c.Callers.Overrides {
		path := fmt.Sprintf("callers.overrides[%d]", i)
		if o.Caller != "" && k.clean(path+".caller") {
			if at, twice := first[o.Caller]; twice {
				k.fail(path+".caller", fmt.Sprintf("the same caller as callers.overrides[%d]: want one override for each", at))
			} else if want := k.callerMistake(o.Caller, c); want != "" {
				k.fail(path+".caller", want)
			}
			first[o.Caller] = i
		}
		k.planName(path+".plan", o.Plan, c.Plans)
		if k.clean(path) && o.Plan == "" && len(o.Policies) == 0 {
			k.fail(path, "changes nothing: want plan or policies with it")
		}
		k.namedPolicies(path, o, c)
		if k.clean(path) {
			k.policies(path+".policies", o.Policies)
			k.effective(path+".policies", o.Policies, c, served)
			k.besideBudgets(path+".policies", o, c)
			k.autoOfCaller(path+".policies", o.Policies)
		}
	}
}

// namedPolicies checks that it is known which policies the ones of o replace.
func (k *checker) namedPolicies(path string, o Override, c *Config) {
	owner, known := c.Callers.planOf(&o)
	for i, p := range o.Policies {
		at := fmt.Sprintf("%s.policies[%d]", path, i)
		switch {
		case p.Name != "" || !k.clean(path+".caller") || !k.clean(path+".plan") || !k.clean(at):
		case !known:
			k.fail(at, "want a name, or plan in the override: which plan the caller has, and so which policy this one replaces, is not known here")
		default:
			k.fail(at, fmt.Sprintf("want a name: %s, whose place it takes in plan %s, or a new one",
				oneOf(sameKind(c.Plans[owner].Policies, p)), shownKey(owner)))
		}
	}
}

// sameKind are the names of the policies that count the same things as p.
func sameKind(policies []Policy, p Policy) []string {
	var names []string
	for _, q := range policies {
		if q.sameUnit(&p) {
			names = append(names, cut(q.Name))
		}
	}
	return names
}

// callerMistake says why id is no caller that can come, "" where one can.
func (k *checker) callerMistake(id string, c *Config) string {
	kind, name, _ := strings.Cut(id, ":")
	printable := name != "" && len(name) <= 2*maxName && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
	isKey := func(key Key) bool { return key.Caller == name }
	judged := k.clean("callers.identify") && k.clean("callers.keys") && k.clean("callers.jwt") && k.clean("callers.trusted_proxies") && k.clean("database")
	switch {
	case kind == "ip" && name != "":
		return k.addressMistake(id, name, c.Callers.IPPrefix)
	case kind != "key" && kind != "jwt" && kind != "header" || !printable:
		return "want the ID of a caller: key:NAME, jwt:NAME, header:NAME or ip:ADDRESS"
	case !judged:
		return ""
	case kind == "key" && c.Database == nil && !slices.ContainsFunc(c.Callers.Keys, isKey):
		return "never matches: no key in callers.keys names " + strconv.Quote(cut(name))
	case kind == "key" && !c.named("api_key"):
		return "never matches: want api_key in callers.identify, before ip"
	case kind == "jwt" && !c.named("jwt"):
		return "never matches: want callers.jwt, and jwt in callers.identify before ip"
	case kind == "header" && !c.named("header"):
		return "never matches: want callers.trusted_proxies, and header in callers.identify before ip"
	}
	return ""
}

// addressMistake checks that a caller known by address can have this ID.
func (k *checker) addressMistake(id, name string, lengths IPPrefix) string {
	if name == "unknown" || !k.clean("callers.ip_prefix") {
		return "" // unknown is who comes over a unix socket
	}
	network, err := parsePrefix(name)
	if err != nil {
		return "want an address after ip: as callers.ip_prefix counts it, for example ip:192.0.2.1 or ip:2001:db8::/64"
	}
	bits := lengths.V6
	if network.Addr().Is4() {
		bits = lengths.V4
	}
	counted, err := network.Addr().Prefix(bits)
	if err != nil {
		return err.Error() // the length is checked already
	}
	want := "ip:" + counted.String()
	if counted.IsSingleIP() {
		want = "ip:" + counted.Addr().String()
	}
	if id != want {
		return "never matches: with callers.ip_prefix a caller from there is " + want + ": want that"
	}
	return ""
}
