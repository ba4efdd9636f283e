package config

import (
	"fmt"
	"strings"
)

// complete fills in the defaults that depend on other values: names, bursts,
// the idle connections of an upstream with few connections, and the largest
// entry of a small cache.
func complete(c *Config, nodes map[string]node) {
	for name, plan := range c.Plans {
		completePolicies(plan.Policies, name)
	}
	for name, u := range c.Upstreams {
		if _, said := nodes["upstreams."+shownKey(name)+".connections.idle"]; !said {
			u.Connections.Idle = min(u.Connections.Idle, u.Connections.Max)
			c.Upstreams[name] = u
		}
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Name == "" {
			r.Name = strings.TrimPrefix(strings.Join(r.Match.Methods, ",")+" "+r.Match.Path, " ")
		}
		if _, said := nodes[fmt.Sprintf("routes[%d].cache.max_entry", i)]; !said {
			r.Cache.MaxEntry = min(r.Cache.MaxEntry, c.Cache.Memory.MaxBytes)
		}
		completePolicies(r.Policies, r.Name)
	}
}

func completePolicies(policies []Policy, owner string) {
	unnamed := 0
	for i := range policies {
		p := &policies[i]
		if p.Name == "" {
			unnamed++
			p.Name = owner
			if unnamed > 1 {
				p.Name = fmt.Sprintf("%s-%d", owner, unnamed)
			}
		}
		if p.Burst == 0 {
			p.Burst = p.Quota
		}
	}
}
