package config

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/inferweir/weir/ratelimit"
)

// existing lists the names of a mapping for a message.
func existing[T any](m map[string]T, kind string) string {
	if len(m) == 0 {
		return "there are no " + kind
	}
	names := slices.Sorted(maps.Keys(m))
	for i := range names {
		names[i] = shownKey(names[i])
	}
	return "want " + oneOf(names)
}

func (k *checker) upstreams(c *Config) {
	for _, name := range slices.Sorted(maps.Keys(c.Upstreams)) {
		u := c.Upstreams[name]
		path := "upstreams." + shownKey(name)
		k.name(path, name)
		k.targets(path+".targets", u.Targets)
		if u.Connections.Idle > u.Connections.Max && k.clean(path+".connections") {
			k.fail(path+".connections.idle", fmt.Sprintf("want at most connections.max, which is %d", u.Connections.Max))
		}
		k.setHeaders(path+".set_headers.", u.SetHeaders)
		k.overload(path, u)
	}
}

func (k *checker) setHeaders(prefix string, headers map[string]string) {
	seen := map[string]bool{}
	for _, field := range slices.Sorted(maps.Keys(headers)) {
		path := prefix + shownKey(field)
		k.setHeader(path, field, headers[field])
		canonical := http.CanonicalHeaderKey(field)
		if seen[canonical] {
			k.fail(path, "the same field twice: case makes no difference")
		}
		seen[canonical] = true
	}
}

func (k *checker) setHeader(path, field, value string) {
	switch {
	case !k.clean(path):
	case isConnectionField(field):
		k.fail(path, "belongs to the connection and is not for setting: want another field")
	case strings.ContainsAny(value, "\r\n\x00"):
		k.fail(path, "want a value without line breaks and NUL")
	case value == redacted:
		k.fail(path, errRedacted)
	}
}

// isConnectionField holds for fields that describe the connection or the form
// of the message on it (RFC 9110, section 7.6.1): a proxy writes its own.
func isConnectionField(field string) bool {
	switch http.CanonicalHeaderKey(field) {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host":
		return true
	}
	return false
}

func (k *checker) targets(path string, targets []Target) {
	if len(targets) == 0 && k.clean(path) {
		k.fail(path, "want at least one URL, for example [http://127.0.0.1:8000]")
	}
	seen := map[string]bool{}
	for i, t := range targets {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.clean(at) {
			continue
		}
		if k.said(at + ".url") {
			at += ".url"
		}
		switch {
		case t.URL == builtinTarget:
			if len(targets) > 1 {
				k.fail(at, "want it as the only target of its upstream")
			}
		case seen[t.URL]:
			k.fail(at, "the same target twice: want another, or a greater weight")
		default:
			k.targetURL(at, t.URL)
		}
		seen[t.URL] = true
	}
}

func (k *checker) targetURL(path, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "" || !validPort(u):
		k.fail(path, "want http://host:port or https://host:port, with a base path if need be, or builtin:")
	case u.User != nil:
		k.fail(path, "want no user and password in the URL: set_headers can send Authorization")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		k.fail(path, "want no query and no fragment in the URL")
	}
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func (k *checker) routes(c *Config) {
	if len(c.Routes) == 0 && k.clean("routes") {
		k.fail("routes", "want at least one route: a list of mappings with match and upstream")
	}
	names := map[string]int{}
	most, whose := mostPolicies(c)
	for i := range c.Routes {
		r := &c.Routes[i]
		path := fmt.Sprintf("routes[%d]", i)
		k.match(path+".match", r.Match)
		if k.clean(path + ".match") {
			k.routeName(path, i, r, names)
			k.covered(c.Routes[:i], r)
		}
		if _, known := c.Upstreams[r.Upstream]; r.Upstream != "" && !known && !k.at["upstreams"] {
			k.fail(path+".upstream", "unknown upstream: "+existing(c.Upstreams, "upstreams"))
		}
		k.policies(path+".policies", r.Policies)
		k.effective(path+".policies", r.Policies, c, k.served(c, c.Routes[i:i+1], path+".upstream"))
		// Of an edit of a plan it is said there.
		if n := len(r.Policies) + most; n > ratelimit.MaxTakes && (k.live == nil || k.clean("plans")) {
			k.fail(path+".policies", fmt.Sprintf("%d policies together with those of %s: want at most %d", n, whose, ratelimit.MaxTakes))
		}
		k.routeCache(path+".cache", r.Cache, &c.Cache)
		k.upgrade(path+".upgrade", r, c)
		k.deferred(path, r, c)
		k.ownPath(path+".match.path", r, c)
		if r.Upstream == "" && c.Decide != nil && k.clean(path+".upstream") {
			k.decideOnly(path, r)
		}
	}
}

// decideOnly checks a route of which nothing is known but the requests' headers.
func (k *checker) decideOnly(path string, r *Route) {
	if r.Cache.Mode != cacheOff {
		k.fail(path+".cache.mode", "has no effect without an upstream: there are no answers to keep")
	}
	if r.RespondAsync != neverAsync {
		k.fail(path+".respond_async", "has no effect without an upstream: there is no work to put off: want an upstream, or never")
	}
	if r.OffloadOver > 0 {
		k.fail(path+".offload_over", "has no effect without an upstream: there are no answers to store: want an upstream, or this key left out")
	}
	if r.Match.Model != "" && r.Match.Model != "*" && k.clean(path+".match") { // * is any, none among them
		k.fail(path+".match.model", "never matches: without an upstream the body, which names the model, is not read: want an upstream, or no model")
	}
}

func (k *checker) routeName(path string, i int, r *Route, names map[string]int) {
	at := path + ".name"
	k.name(at, r.Name)
	if first, twice := names[r.Name]; twice {
		k.fail(at, fmt.Sprintf("the same name %q as routes[%d]: want a name of its own", cut(r.Name), first))
		return
	}
	names[r.Name] = i
}

func (k *checker) match(path string, m Match) {
	if k.clean(path+".path") && m.Path != "" {
		star := strings.IndexByte(m.Path, '*')
		outside := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '?' || r == '#' }
		switch {
		case !strings.HasPrefix(m.Path, "/"):
			k.fail(path+".path", "want a path that begins with /, for example /v1/*")
		case star >= 0 && star < len(m.Path)-1:
			k.fail(path+".path", "want * only at the end, for example /v1/*")
		case strings.ContainsFunc(m.Path, outside):
			k.fail(path+".path", "want a path without spaces, query and fragment")
		}
	}
	if star := strings.IndexByte(m.Model, '*'); star >= 0 && star < len(m.Model)-1 {
		k.fail(path+".model", `want * only at the end, for example "llama-*"`)
	}
	if k.said(path+".methods") && len(m.Methods) == 0 && k.clean(path+".methods") {
		k.fail(path+".methods", "want at least one method, or leave the key out for all")
	}
	once(k, path+".methods", m.Methods, "the same method twice")
}

// covered reports r, the route after earlier, where one of those takes all its
// requests. A route without an upstream takes none of those that are for one.
func (k *checker) covered(earlier []Route, r *Route) {
	for i := range earlier {
		e := &earlier[i]
		if e.Upstream == "" && r.Upstream != "" {
			continue
		}
		if e.Match.covers(r.Match) && k.clean(fmt.Sprintf("routes[%d].match", i)) {
			k.fail(fmt.Sprintf("routes[%d].match", len(earlier)),
				fmt.Sprintf("never matches: routes[%d] %q takes all its requests: want this route before it", i, cut(e.Name)))
			return
		}
	}
}

// covers holds where m takes every request that o would.
func (m Match) covers(o Match) bool {
	if !coversPattern(m.Path, o.Path) || m.Model != "" && !coversPattern(m.Model, o.Model) {
		return false
	}
	if len(m.Methods) == 0 {
		return true
	}
	for _, method := range o.Methods {
		if !slices.Contains(m.Methods, method) {
			return false
		}
	}
	return len(o.Methods) > 0
}

// coversPattern holds where a matches all that b does; a * at the end of
// either stands for anything.
func coversPattern(a, b string) bool {
	if prefix, ok := strings.CutSuffix(a, "*"); ok {
		return strings.HasPrefix(strings.TrimSuffix(b, "*"), prefix) && b != ""
	}
	return a == b
}
