package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir"
)

// match explains which routes the request may have, as far as its head tells.
func (e *explainer) match() error {
	err := e.x.match()
	e.say(e.route())
	if p, ok := errors.AsType[*weir.Problem](err); ok && len(e.x.candidates) == 0 {
		e.told.Decisions[0].Reason = p.Detail
	}
	return err
}

// mostRoutes is how many routes an explanation names.
const mostRoutes = 100

// lookedAt is a route, and whether it is the request's.
type lookedAt struct {
	Route string `json:"route"`
	Fits  bool   `json:"fits"`
	Why   string `json:"why"`
}

// route is the decision about the route by what is known so far: the head, or the model,
// too.
func (e *explainer) route() Decision {
	x := e.x
	d := Decision{Step: "route", Outcome: "none", Reason: "No route has this path and method."}
	if e.told.Route != "" || len(x.candidates) > 0 {
		d.Outcome, d.Reason = x.chosen.name, fmt.Sprintf("The route %q is the first whose match fits.", x.chosen.name)
	}
	var all []lookedAt
	seen := false
	for _, rt := range x.setup.routes {
		one := lookedAt{Route: rt.name}
		switch rt.fit(x.r, false) {
		case fitsDecisions:
			one.Why = "it has no upstream: it is for decisions about requests that are elsewhere"
		case fitsPathNot:
			one.Why = fmt.Sprintf("its path is %s", rt.config.Match.Path)
		case fitsMethodNot:
			one.Why = fmt.Sprintf("its methods are %s", strings.Join(rt.methods, ", "))
		default:
			one.Fits, one.Why = e.candidate(rt, seen)
			seen = seen || one.Fits
		}
		if all = append(all, one); len(all) == mostRoutes {
			break
		}
	}
	d.Details = map[string]any{"routes": all}
	if n := len(x.setup.routes) - len(all); n > 0 {
		d.Details["more"] = n
	}
	return d
}

// candidate tells whether rt, whose path and method fit, is the request's route. taken says
// that one before it is.
func (e *explainer) candidate(rt *route, taken bool) (fits bool, why string) {
	x := e.x
	switch {
	case x.call != nil && !rt.serves(x.call.Model) && x.call.Model == "":
		return false, fmt.Sprintf("its model is %s, and the request names none", rt.config.Match.Model)
	case x.call != nil && !rt.serves(x.call.Model):
		return false, fmt.Sprintf("its model is %s, and the request's is %.100s", rt.config.Match.Model, x.call.Model)
	case taken:
		return false, "one before it fits"
	case x.call == nil && rt.model != "":
		return true, fmt.Sprintf("path and method fit; its model is %s", rt.config.Match.Model)
	case rt.model != "":
		return true, "path, method and model fit"
	}
	return true, "path and method fit"
}

// own explains a request to Weir's own paths, which is not made: some of them change
// things, or wait.
func (e *explainer) own() error {
	x := e.x
	what := "jobs"
	if strings.HasPrefix(x.r.URL.Path, blobsPath) || x.r.URL.Path+"/" == blobsPath {
		what = "blobs"
	}
	e.say(Decision{Step: "route", Outcome: "/" + what, Reason: fmt.Sprintf("The path is one of Weir's own: it is for %s, and no route gets it.", what)})
	if err := checkRequest(x.r, x.setup.config.Limits); err != nil {
		return err
	}
	if what == "jobs" { // a signed link to a blob needs no caller
		if err := e.authenticate(); err != nil {
			return err
		}
	}
	e.answer(0, "be answered from Weir's own "+what, "Weir answers itself. What it answers depends on the "+strings.TrimSuffix(what, "s")+", which is not looked up here.")
	return nil
}

// authenticate explains who is calling, and which plan that gives.
func (e *explainer) authenticate() error {
	x := e.x
	peer := e.peer()
	err := x.authenticate()
	if err != nil {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			return err
		}
		d := Decision{Step: "caller", Outcome: "refused", Reason: p.Detail}
		if p.Status == http.StatusForbidden {
			d.Reason = "callers.deny lists the caller, or where it comes from."
		}
		e.say(d)
		return err
	}
	ways, named := e.identifiers()
	d := Decision{Step: "caller", Outcome: x.caller.ID, Reason: named, Details: map[string]any{"identifiers": ways, "peer": peer}}
	if x.caller.Addr.IsValid() {
		d.Details["client"] = x.caller.Addr.String()
	}
	if x.exempt {
		d.Details["exempt"] = true
		d.Reason += " callers.allow lists it: no policy counts it."
	}
	if removed := e.missing(x.r.Header); len(removed) > 0 {
		d.Details["removed"] = removed
	}
	if passed := e.credentials(); len(passed) > 0 {
		d.Details["credentials"] = passed
		d.Reason += fmt.Sprintf(" Credentials that are not Weir's: %s.", strings.Join(passed, ", "))
	}
	e.say(d)
	e.say(e.plan())
	return nil
}

// peer is the address of the connection's other end.
func (e *explainer) peer() string {
	host, _, err := net.SplitHostPort(e.x.r.RemoteAddr)
	if err != nil { // it was made with one
		return e.x.r.RemoteAddr
	}
	return host
}

// missing are the names of the client's fields that h has no more.
func (e *explainer) missing(h http.Header) []string {
	var names []string
	for name := range e.came {
		if len(h[name]) == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// credentials are the names of the fields with credentials that are not for Weir.
func (e *explainer) credentials() []string {
	var names []string
	for _, name := range credentials() {
		if len(e.x.r.Header[name]) > 0 {
			names = append(names, name)
		}
	}
	return names
}

// way is an identifier, and whether it named the caller.
type way struct {
	Identifier string `json:"identifier"`
	Matched    bool   `json:"matched"`
	Why        string `json:"why"`
}

// identifiers tells of each identifier why it named the caller, or did not. What was tried
// shows in the caller and in what is left of the header.
func (e *explainer) identifiers() (ways []way, named string) {
	x := e.x
	c := x.setup.config.Callers
	kind, _, _ := strings.Cut(x.caller.ID, ":")
	by := map[string]string{"key": "api_key", "jwt": "jwt", "header": "header", "ip": "ip"}[kind]
	done := false
	for _, name := range c.Identify {
		w := way{Identifier: name, Matched: name == by && !done}
		switch {
		case done:
			w.Why = "the caller has a name already"
		case w.Matched:
			w.Why, done = e.namedBy(name), true
			named = w.Why
		default:
			w.Why = e.notNamedBy(name)
		}
		ways = append(ways, w)
	}
	if named == "" {
		named = e.namedBy("ip")
	}
	return ways, strings.ToUpper(named[:1]) + named[1:] + "."
}

func (e *explainer) namedBy(identifier string) string {
	c := e.x.setup.config.Callers
	switch identifier {
	case "api_key":
		return "a Weir key names the caller, and is not passed on"
	case "jwt":
		return fmt.Sprintf("a token of %s names the caller, and is not passed on", c.JWT.Issuer)
	case "header":
		return fmt.Sprintf("%s of a trusted proxy names the caller", c.Header)
	}
	return "no key, token or trusted header names the caller, so its address does"
}

func (e *explainer) notNamedBy(identifier string) string {
	c := e.x.setup.config.Callers
	switch identifier {
	case "api_key":
		return "no Weir key (weir_…) in Authorization or X-Api-Key"
	case "jwt":
		if c.JWT == nil {
			return "callers.jwt is not configured"
		}
		return fmt.Sprintf("no token of %s in Authorization or X-Api-Key", c.JWT.Issuer)
	case "header":
		name := http.CanonicalHeaderKey(c.Header)
		if len(e.came[name]) > 0 && len(e.x.r.Header[name]) == 0 {
			return fmt.Sprintf("%s is ignored and removed: the peer %s is not in callers.trusted_proxies", c.Header, e.peer())
		}
		return fmt.Sprintf("no %s", c.Header)
	}
	return "it comes later"
}

// plan is the decision about the plan.
func (e *explainer) plan() Decision {
	x := e.x
	d := Decision{Step: "plan", Outcome: x.plan, Details: map[string]any{}}
	own, overridden := x.setup.overrides[x.caller.ID]
	_, there := x.setup.plans[x.plan]
	switch {
	case overridden && own.plan == x.plan:
		d.Reason = fmt.Sprintf("callers.overrides gives this caller the plan %q.", x.plan)
	case x.named == x.plan:
		d.Reason = fmt.Sprintf("The caller's %s names the plan %q.", e.nameOfCredential(), x.plan)
	case x.named != "":
		d.Reason = fmt.Sprintf("The caller's %s names the plan %.100q, which is not there: it has the plan %q.", e.nameOfCredential(), x.named, x.plan)
		d.Details["unknown"] = fmt.Sprintf("%.100s", x.named)
	default:
		d.Reason = fmt.Sprintf("Nothing names a plan: it is %q.", x.plan)
	}
	if !there {
		d.Reason += " plans." + x.plan + " is not configured, so no plan limits the caller."
	}
	if _, changed := own.policies[x.plan]; overridden && changed {
		d.Details["override"] = true
		if own.plan == "" {
			d.Reason += " callers.overrides has policies of its own for this caller."
		}
	}
	if share, ok := x.setup.shares[x.plan]; ok {
		d.Details["weight"], d.Details["priority"] = share.weight, share.class.String()
	}
	return d
}

func (e *explainer) nameOfCredential() string {
	if strings.HasPrefix(e.x.caller.ID, "jwt:") {
		return "token"
	}
	return "key"
}
