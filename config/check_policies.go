package config

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir/ratelimit"
)

func (k *checker) plans(c *Config) {
	served := k.served(c, c.Routes, "routes")
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		path := "plans." + shownKey(name)
		k.name(path, name)
		k.plan(path+".policies", name, c, served)
	}
}

// plan checks the policies of a plan, which stand at path.
func (k *checker) plan(path, name string, c *Config, s served) {
	policies := c.Plans[name].Policies
	k.policies(path, policies)
	k.effective(path, policies, c, s)
	k.budget(parent(path)+".budget", name, c, s)
	k.besideBudget(path, policies, c.Plans[name].Budget)
	want := k.nobodyHas(name, c)
	if want == "" || !k.clean(parent(path)) {
		return
	}
	if len(policies) > 0 && k.clean(path) {
		k.fail(path, "never match: "+want)
		return
	}
	for _, key := range []string{"budget", "weight", "priority"} {
		if at := parent(path) + "." + key; k.said(at) {
			k.fail(at, "has no effect: "+want)
			return
		}
	}
}

// nobodyHas says why no caller can have the plan, "" where one can.
func (k *checker) nobodyHas(plan string, c *Config) string {
	for _, key := range []string{"callers.keys", "callers.jwt", "callers.overrides", "callers.identify", "database"} {
		if !k.clean(key) {
			return ""
		}
	}
	byKey := c.Database != nil || slices.ContainsFunc(c.Callers.Keys, func(key Key) bool { return key.Plan == plan })
	switch {
	case plan == defaultPlan, byKey && c.named("api_key"), c.named("jwt"),
		slices.ContainsFunc(c.Callers.Overrides, func(o Override) bool { return o.Plan == plan }):
		return ""
	case byKey:
		return "the plan is that of a key, and callers.identify names nobody by key: want api_key in it, before ip"
	case c.Callers.JWT != nil:
		return "the plan can only be that of a token, and callers.identify names nobody by token: want jwt in it, before ip"
	}
	return "nothing gives a caller this plan: want it in callers.keys, in callers.overrides or, with callers.jwt, in a token"
}

// policies checks those of one plan, route or override by themselves.
func (k *checker) policies(path string, policies []Policy) {
	seen := map[string]int{}
	for i, p := range policies {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.clean(at) || k.besideConcurrent(at, p) {
			continue
		}
		if err := p.Limit().Validate(); err != nil {
			k.fail(at, err.Error())
		}
		if k.said(at + ".name") {
			k.name(at+".name", p.Name)
		}
		if p.Lease != nil {
			k.lease(at, p)
		}
		if p.Auto != nil {
			k.auto(at, p)
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

// besideConcurrent reports a key of a window beside concurrent. Only the first:
// the one key too many is to blame for all of them.
func (k *checker) besideConcurrent(at string, p Policy) bool {
	if p.Concurrent == 0 {
		return false
	}
	for _, key := range []string{"quota", "window", "unit", "burst", "algorithm", "lease"} {
		if k.said(at + "." + key) {
			k.fail(at+"."+key, "has no effect with concurrent, which counts the requests that run at the same time: want one of the two")
			return true
		}
	}
	return false
}

// lease checks that a part of the quota can be held in advance at all.
func (k *checker) lease(at string, p Policy) {
	const all = 1_000_000
	quota := p.Quota
	if p.Auto != nil {
		quota = min(quota, p.Auto.Min)
	}
	if k.clean(at) && quota < all && quota*p.Lease.MaxExcess.millionths() < all {
		least := Percent(float64((all+quota-1)/quota) / all)
		want := fmt.Sprintf("want at least %v with a quota of %d, or a greater quota", least, quota)
		if least > maxExcess {
			want = "want it only with a quota of 2 or more"
		}
		k.fail(at+".lease.max_excess", "would never hold a whole unit: "+want)
	}
}

func isScope(by string) bool {
	switch by {
	case "caller", "ip", "global", "plan", "route", "model":
		return true
	}
	return false
}

// effective reports policies that can never count or hold anything where they
// stand, on the routes that s is about.
func (k *checker) effective(path string, policies []Policy, c *Config, s served) {
	judged := k.clean("callers.trusted_proxies") && k.clean("callers.header")
	for i, p := range policies {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.clean(at) {
			continue
		}
		if p.Lease != nil && c.Store.URL == memoryStore && k.clean("store.url") {
			k.fail(at+".lease", "has no effect with store.url memory:, which nothing is asked for over a network: want it with a Redis URL")
		}
		if header, ok := strings.CutPrefix(p.By, "header:"); ok && judged {
			want := neverSent(header, c)
			if want == "" && s.any && !s.proxied && namesTarget(header) {
				want = "never matches: the field names the request to decide on, and is removed: want another one, or by: route"
			}
			if want != "" {
				k.fail(k.orAbove(at, "by"), want)
			}
		}
		if p.Auto != nil && s.any && !s.proxied {
			k.fail(at+".auto", "has no effect: without an upstream nothing says how much there is to do: want an upstream, or this key left out")
		}
		if p.By == "model" && s.any && !s.proxied {
			k.fail(k.orAbove(at, "by"), "never tells models apart: without an upstream the body, which names the model, is not read: want an upstream, or another word, such as caller")
		}
		if want := neverCounts(p, s); want != "" {
			k.fail(k.orAbove(at, "unit"), want)
		}
	}
}

// namesTarget holds for the fields in which another server names the request that
// it asks about.
func namesTarget(field string) bool {
	switch http.CanonicalHeaderKey(field) {
	case "X-Original-Uri", "X-Original-Method", "X-Forwarded-Uri", "X-Forwarded-Method":
		return true
	}
	return false
}

// orAbove is the place of a policy's key, or of the policy where it is in its
// short form.
func (k *checker) orAbove(at, key string) string {
	if k.said(at + "." + key) {
		return at + "." + key
	}
	return at
}

// served is what is known of the routes on which a policy applies.
type served struct {
	any     bool // there are some
	proxied bool // to one of them belongs an upstream
	tokens  bool // one of the upstreams says how many tokens it uses
	by      string
}

// served looks at routes whose upstreams stand at path. Where something is wrong
// with them nothing is known.
func (k *checker) served(c *Config, routes []Route, path string) served {
	if !k.clean(path) || !k.clean("upstreams") {
		return served{}
	}
	s := served{any: len(routes) > 0, by: "the upstream of no route has a dialect that says"}
	for _, r := range routes {
		dialect := c.Upstreams[r.Upstream].Dialect
		s.proxied = s.proxied || r.Upstream != ""
		s.tokens = s.tokens || countsTokens(dialect)
		if len(routes) == 1 {
			s.by = fmt.Sprintf("upstream %s has the dialect %s, which does not say", shownKey(r.Upstream), dialect)
		}
	}
	return s
}

// neverCounts says why p counts nothing on any of the routes, "" where it does.
func neverCounts(p Policy, s served) string {
	tokens := p.Unit == "tokens" || p.Unit == "input_tokens" || p.Unit == "output_tokens"
	switch {
	case !s.any:
		return ""
	case !s.proxied && p.Concurrent > 0:
		return "would never be given back: without an upstream nobody sees where a request ends: want a quota in a window, or an upstream"
	case !s.proxied && tokens:
		return "never counts: without an upstream nothing says how many tokens a request uses: want unit requests, or an upstream"
	case !s.proxied && p.Unit == "bytes":
		return "never counts: without an upstream nobody sees the bodies of request and answer: want unit requests, or an upstream"
	case p.Concurrent > 0 || !tokens || s.tokens:
		return ""
	}
	return "never counts: " + s.by + " how many tokens a request uses: want unit requests, or dialect openai, anthropic, ollama or kserve"
}

// countsTokens holds for the dialects in which requests and answers say what
// they use.
func countsTokens(dialect string) bool {
	return dialect != "plain" && dialect != "tfserving" // KServe serves the OpenAI endpoints, too
}

// neverSent says why no request that is counted has the field, "" where one can.
// The caller sees to it that trusted_proxies and header have no mistakes.
func neverSent(field string, c *Config) string {
	canonical := http.CanonicalHeaderKey(field)
	ofProxy := canonical == http.CanonicalHeaderKey(c.Callers.Header) || strings.HasPrefix(canonical, "X-Forwarded-") ||
		canonical == "X-Real-Ip" || canonical == "Forwarded"
	switch {
	case !isToken(field): // said already
		return ""
	case isConnectionField(field):
		return "never matches: the field belongs to the connection and is removed before anything is counted: want another one"
	case strings.Contains(field, "_"):
		return "never matches: fields with an underscore in their names are removed: want another one, for example header:X-Team"
	case canonical == "X-Request-Id":
		return "would have a count for every single request: want a field that requests have in common"
	case holdsCredential(canonical) && c.credential() != "":
		return "all who present " + c.credential() + " would share one count: it is removed from the field before anything is counted: want by: caller"
	case ofProxy && len(c.Callers.TrustedProxies) == 0:
		return "never matches: the field is believed only from callers.trusted_proxies, which is empty, and removed from all other requests"
	}
	return ""
}

// holdsCredential holds for the fields in which callers present Weir's keys and
// the issuer's tokens.
func holdsCredential(canonical string) bool {
	return canonical == "Authorization" || canonical == "X-Api-Key"
}

// mostPolicies are the most policies that a caller has apart from those of a
// route, and whose they are: stores take from so many at once.
func mostPolicies(c *Config) (most int, whose string) {
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		if n := c.Plans[name].takes(); n > most {
			most, whose = n, "plan "+shownKey(name)
		}
	}
	all := append(slices.Sorted(maps.Keys(c.Plans)), defaultPlan)
	for i, o := range c.Callers.Overrides {
		names, known := c.plansUnder(o)
		if !known {
			names = all
		}
		for _, name := range names {
			plan := c.Plans[name]
			if plan.takes()+len(o.Policies) <= most {
				continue
			}
			plan.Policies = o.Applied(plan.Policies)
			if n := plan.takes(); n > most {
				most, whose = n, fmt.Sprintf("callers.overrides[%d]", i)
			}
		}
	}
	return most, whose
}

// plansUnder are the plans that the caller of o may have, and whether the file
// says which: a token may name any.
func (c *Config) plansUnder(o Override) (names []string, known bool) {
	kind, name, _ := strings.Cut(o.Caller, ":")
	if kind == "key" && o.Plan == "" {
		return c.Callers.keyPlans(name), c.Database == nil // which may have others
	}
	if owner, known := c.Callers.planOf(&o); known {
		return []string{owner}, true
	}
	return nil, false
}

// crowded says where the policies of a plan meet with so many others that no
// store takes from all of them, "" where they do not.
func (c *Config) crowded(plan string) string {
	own := c.Plans[plan]
	policies := own.Policies
	most, others := own.takes(), []string(nil)
	for i, o := range c.Callers.Overrides {
		if names, known := c.plansUnder(o); known && !slices.Contains(names, plan) {
			continue
		}
		own.Policies = o.Applied(policies)
		if n := own.takes(); n > most {
			most, others = n, []string{fmt.Sprintf("callers.overrides[%d]", i)}
		}
	}
	ofRoute, route := 0, ""
	for _, r := range c.Routes {
		if n := len(r.Policies); n > ofRoute {
			ofRoute, route = n, r.Name
		}
	}
	if route != "" {
		others = append(others, fmt.Sprintf("route %q", cut(route)))
	}
	if own.Budget != nil {
		others = append(others, "the plan's budget")
	}
	if most+ofRoute <= ratelimit.MaxTakes {
		return ""
	}
	return fmt.Sprintf("%d policies together with those of %s: want at most %d", most+ofRoute, strings.Join(others, " and "), ratelimit.MaxTakes)
}
