package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// keyPrefix begins each of Weir's own keys, so that a key is known as one
// wherever it turns up.
const keyPrefix = "weir_"

// Callers says how a caller is identified.
type Callers struct {
	// Identify lists ways to identify a caller: api_key, jwt, header, ip. The
	// first that matches names it; a caller that none matches is anonymous and
	// counted by address. jwt never matches without JWT. Default
	// [api_key, jwt, header, ip].
	Identify []string `yaml:"identify" default:"[api_key, jwt, header, ip]"`
	// Require refuses requests without a valid key or token with 401. It needs
	// Keys, JWT or a Config.Database, which has keys of its own. Default false.
	Require bool `yaml:"require" default:"false"`
	// TrustedProxies are the networks whose Header and X-Forwarded-For are
	// believed; a bare address is a network of one. Default none, loopback
	// included.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// Header is the field in which a trusted proxy names the caller. Default
	// X-User-ID.
	Header string `yaml:"header" default:"X-User-ID" with:"TrustedProxies"`
	// IPPrefix is how much of an address counts as one caller.
	IPPrefix IPPrefix `yaml:"ip_prefix"`
	// Keys are the callers' API keys, besides those of Config.Database.
	Keys []Key `yaml:"keys" secret:"true"`
	// JWT is the issuer whose tokens name callers. nil, the default, is none:
	// every token is the upstream's affair.
	JWT *JWT `yaml:"jwt"`
	// Allow are those whom no policy counts or refuses: addresses, networks, and
	// callers such as key:alice. Default none.
	Allow []string `yaml:"allow"`
	// Deny are, in the same way, those who are refused with 403. Nobody is on
	// both lists. Default none.
	Deny []string `yaml:"deny"`
	// Overrides are what single callers have instead of their plans. Default
	// none.
	Overrides []Override `yaml:"overrides"`
}

// JWT is an OpenID issuer. Its tokens are checked by signature, issuer, audience
// and time.
type JWT struct {
	// Issuer is the iss of the tokens, to the letter: https://, or http:// on
	// loopback. Required.
	Issuer string `yaml:"issuer" required:"the iss of the tokens, for example https://login.example.com"`
	// Audience is what aud must contain. Required.
	Audience string `yaml:"audience" required:"the aud of tokens that are meant for this gateway"`
	// JWKSURL is where the issuer's keys are: https://, or http:// on loopback.
	// "", the default, is what the issuer's discovery document says.
	JWKSURL string `yaml:"jwks_url"`
	// CallerClaim is the claim that names the caller. Default sub.
	CallerClaim string `yaml:"caller_claim" default:"sub"`
	// PlanClaim is the claim that names the plan. A plan that does not exist
	// there is the plan "default". Default plan.
	PlanClaim string `yaml:"plan_claim" default:"plan"`
}

// Override is what one caller has instead of its plan. At least one of Plan and
// Policies.
type Override struct {
	// Caller is the caller's ID: key:NAME, jwt:NAME, header:NAME, or
	// ip:ADDRESS as IPPrefix counts addresses. Required, unique.
	Caller string `yaml:"caller" required:"the caller, for example key:alice"`
	// Plan names the plan that it has, whatever its key or token says. "", the
	// default, leaves it its own.
	Plan string `yaml:"plan"`
	// Policies replace those of its plan with the same name and unit, and are
	// added where there is none: see Applied. One without a name has that of the
	// plan's policy with its unit, by and window, else of the only one with its
	// unit and by; where the plan has none of its unit it is a new one, and
	// otherwise a name is required. Default none.
	Policies []Policy `yaml:"policies"`
}

// Applied returns the policies of the caller, where plan are those of its plan:
// each in its place, replaced by the one of o with the same name and unit, and
// then the others of o. It changes neither.
func (o Override) Applied(plan []Policy) []Policy {
	all := slices.Clone(plan)
	for _, p := range o.Policies {
		i := slices.IndexFunc(plan, func(q Policy) bool { return q.Name == p.Name && q.Unit == p.Unit })
		if i >= 0 {
			all[i] = p
		} else {
			all = append(all, p)
		}
	}
	return all
}

// defaultPlan is the name of the plan of a caller without one.
const defaultPlan = "default"

// planOf returns the name of the plan that o changes, and whether the file says
// it: a token can name any. Of a caller with a key in the file, that key says it,
// whatever others the database has.
func (c Callers) planOf(o *Override) (string, bool) {
	kind, name, _ := strings.Cut(o.Caller, ":")
	switch {
	case o.Plan != "":
		return o.Plan, true
	case kind == "jwt":
		return "", false
	case kind != "key":
		return defaultPlan, true
	}
	plans := c.keyPlans(name)
	if len(plans) != 1 {
		return "", false
	}
	return plans[0], true
}

// credential is what auth takes out of a request once it is judged, "" where there
// is nothing to be known by.
func (c *Config) credential() string {
	var all []string
	if len(c.Callers.Keys) > 0 {
		all = append(all, "a key of callers.keys")
	} else if c.Database != nil {
		all = append(all, "a key of the database")
	}
	if c.Callers.JWT != nil {
		all = append(all, "a token of callers.jwt")
	}
	return strings.Join(all, " or ")
}

// keyPlans are the plans of the keys of one caller, each once.
func (c Callers) keyPlans(caller string) []string {
	var plans []string
	for _, key := range c.Keys {
		if key.Caller == caller {
			plans = append(plans, cmp.Or(key.Plan, defaultPlan))
		}
	}
	slices.Sort(plans)
	return slices.Compact(plans)
}

// named reports whether way, one of the words of Identify, can name a caller. ip
// always does, so that nothing after it is asked.
func (c *Config) named(way string) bool {
	ways := c.Callers.Identify
	if i := slices.Index(ways, "ip"); i >= 0 {
		ways = ways[:i]
	}
	switch {
	case way == "ip":
		return true // or anonymous, and that is the same
	case !slices.Contains(ways, way):
		return false
	case way == "api_key":
		return len(c.Callers.Keys) > 0 || c.Database != nil
	case way == "jwt":
		return c.Callers.JWT != nil
	}
	return len(c.Callers.TrustedProxies) > 0
}

// IPPrefix gives lengths in bits: all addresses that agree in them are one
// caller.
type IPPrefix struct {
	// V4 is for IPv4. Default 32, the whole address; from 1 to 32.
	V4 int `yaml:"v4" default:"32" min:"1" max:"32"`
	// V6 is for IPv6. Default 64, what one household gets; from 1 to 128.
	V6 int `yaml:"v6" default:"64" min:"1" max:"128"`
}

// Key is one API key.
type Key struct {
	// Caller is the name of who holds the key; several keys may share it.
	// Required.
	Caller string `yaml:"caller" required:"the name of who holds the key"`
	// Key is the key itself; it begins with "weir_". Required, unique.
	Key string `yaml:"key" secret:"true" required:"a key that begins with weir_"`
	// Plan names the caller's plan. "", the default, is the plan "default".
	Plan string `yaml:"plan"`
}
