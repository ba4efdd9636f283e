package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/inferweir/weir/ratelimit"
)

// complete fills in the defaults that depend on other values: names, bursts,
// what an upstream with few connections can have, the largest entry of a small
// cache, cached tokens, and blobs where a route needs them.
func complete(c *Config, nodes map[string]node) {
	for name, plan := range c.Plans {
		completePolicies(plan.Policies, name)
	}
	for name, price := range c.Prices {
		if _, said := nodes["prices."+shownKey(name)+".cached"]; !said {
			price.Cached = price.Input
			c.Prices[name] = price
		}
	}
	for name, u := range c.Upstreams {
		completeUpstream(&u, "upstreams."+shownKey(name), nodes)
		c.Upstreams[name] = u
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Name == "" {
			r.Name = strings.TrimPrefix(strings.Join(r.Match.Methods, ",")+" "+r.Match.Path, " ")
		}
		if _, said := nodes[fmt.Sprintf("routes[%d].cache.max_entry", i)]; !said {
			if _, least := c.Cache.smallest(); least > 0 {
				r.Cache.MaxEntry = min(r.Cache.MaxEntry, least)
			}
			if r.OffloadOver > 0 {
				r.Cache.MaxEntry = min(r.Cache.MaxEntry, r.OffloadOver)
			}
		}
		if c.Blobs == nil && (r.OffloadOver > 0 || r.RespondAsync != neverAsync) {
			c.Blobs = &Blobs{}
			setDefaults(reflect.ValueOf(c.Blobs).Elem())
		}
		completePolicies(r.Policies, r.Name)
	}
	for i := range c.Callers.Overrides {
		o := &c.Callers.Overrides[i]
		// Where it is not known whose policies they change, check wants names.
		if owner, known := c.Callers.planOf(o); known {
			nameOverrides(o.Policies, c.Plans[owner].Policies, owner)
		}
		completeBursts(o.Policies)
	}
}

// completeUpstream fills in those defaults of the upstream at path that depend on
// others of its values.
func completeUpstream(u *Upstream, path string, nodes map[string]node) {
	said := func(key string) bool {
		_, ok := nodes[path+key]
		return ok
	}
	if !said(".connections.idle") {
		u.Connections.Idle = min(u.Connections.Idle, u.Connections.Max)
	}
	if fixed := nodes[path+".concurrency"].scalar; !fixed && !said(".concurrency.max") && oneEach(u.Targets) {
		u.Concurrency.Max = min(u.Concurrency.Max, u.Connections.Max)
	}
	if u.Probe != nil && !said(".probe.timeout") {
		u.Probe.Timeout = min(u.Probe.Timeout, u.Probe.Interval)
	}
	if u.Engine != nil && u.Engine.Kind == "triton" && !said(".engine.metrics") {
		u.Engine.Metrics = ":8002/metrics" // Triton shows them on a port of their own
	}
}

func completePolicies(policies []Policy, owner string) {
	unnamed := 0
	for i := range policies {
		p := &policies[i]
		if p.Name == "" {
			unnamed++
			p.Name = numbered(owner, unnamed)
		}
	}
	completeBursts(policies)
}

// numbered is the name of the nth policy without one, from 1 on.
func numbered(owner string, n int) string {
	if n == 1 {
		return owner
	}
	return fmt.Sprintf("%s-%d", owner, n)
}

func completeBursts(policies []Policy) {
	for i := range policies {
		p := &policies[i]
		switch {
		case p.Concurrent > 0:
			p.Algorithm = "" // it is the algorithm of a window
		case p.Burst == 0 && p.Algorithm == ratelimit.TokenBucket:
			p.Burst = p.Quota
		}
	}
}

// nameOverrides names what one caller has in place of plan, the policies of the
// plan owner. A policy without a name replaces the one with its unit, by and
// window, else the only one with its unit and by. Where the plan has none of its
// unit it is a new one; otherwise it stays without a name.
func nameOverrides(policies, plan []Policy, owner string) {
	used := map[string]bool{}
	for _, list := range [][]Policy{plan, policies} {
		for i := range list {
			used[list[i].Name] = true
		}
	}
	for i := range policies {
		p := &policies[i]
		if p.Name != "" {
			continue
		}
		same, replaced := likeIn(plan, p)
		switch {
		case replaced != nil:
			p.Name = replaced.Name
		case same == 0:
			n := 1
			for used[numbered(owner, n)] {
				n++
			}
			p.Name = numbered(owner, n)
			used[p.Name] = true
		}
	}
}

// likeIn returns how many of plan have p's unit, and which one of them p
// replaces: nil where that is not clear.
func likeIn(plan []Policy, p *Policy) (same int, replaced *Policy) {
	var byAlike, alike *Policy
	by, exactly := 0, 0
	for i := range plan {
		q := &plan[i]
		if !q.sameUnit(p) {
			continue
		}
		same++
		if q.By == p.By {
			by++
			byAlike = q
			if q.Window == p.Window {
				exactly++
				alike = q
			}
		}
	}
	switch {
	case exactly == 1:
		return same, alike
	case by == 1:
		return same, byAlike
	}
	return same, nil
}

// sameUnit holds for two policies that count the same things.
func (p *Policy) sameUnit(q *Policy) bool {
	return p.Unit == q.Unit && (p.Concurrent > 0) == (q.Concurrent > 0)
}
