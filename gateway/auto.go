package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
)

// moved are the values that load has moved, by what they are: quotas, slots, and times
// in nanoseconds. It is not changed once a setup has it.
type moved map[string]int64

// policyKey and ttlKey name a value, in moved and for operators. What follows the last /
// is the policy's: its name is in quotes where it would not end there, or be a TTL's.
func policyKey(scope string, p config.Policy) string {
	name := p.Name
	if name == ttlName || strings.ContainsAny(name, `/ "`) {
		name = strconv.Quote(name)
	}
	key := scope + "/" + name
	if p.Unit != "" && p.Unit != "requests" {
		key += " " + p.Unit
	}
	return key
}

// ttlName stands where a policy has its name.
const ttlName = "cache.ttl"

func ttlKey(r config.Route) string { return "route:" + r.Name + "/" + ttlName }

// apply puts what load has moved in place of what policies say. The burst is as much
// larger or smaller as the quota.
func (m moved) apply(scope string, policies []config.Policy) []config.Policy {
	var applied []config.Policy // nil: as they are
	for i, p := range policies {
		value, ok := m[policyKey(scope, p)]
		if !ok || p.Auto == nil {
			continue
		}
		value = min(max(value, p.Auto.Min), p.Auto.Max)
		if applied == nil {
			applied = slices.Clone(policies)
		}
		if p.Concurrent > 0 {
			applied[i].Concurrent = value
			continue
		}
		if p.Burst > 0 {
			applied[i].Burst = max(int64(float64(p.Burst)*float64(value)/float64(p.Quota)), 1)
		}
		applied[i].Quota = value
	}
	if applied == nil {
		return policies
	}
	return applied
}

// ttl is how long the answers of a route are fresh.
func (m moved) ttl(r config.Route) time.Duration {
	auto := r.Cache.Auto
	value, ok := m[ttlKey(r)]
	if !ok || auto == nil {
		return r.Cache.TTL
	}
	return min(max(time.Duration(value), auto.Min), auto.Max)
}

// kept are the values of m that still fit c: what is moved is there, starts where it did,
// and the bounds have room for the value.
func (m moved) kept(was, c *config.Config) moved {
	before, now := autoStarts(was), autoStarts(c)
	left := moved{}
	for key, value := range m {
		start, there := now[key]
		if there && start.start == before[key].start && start.low <= value && value <= start.high {
			left[key] = value
		}
	}
	return left
}

// autoStart is where a value starts, between what it moves, and by which upstream's
// load: "" is that of all.
type autoStart struct {
	start, low, high int64
	ttl              bool
	upstream         string
	place            autoPlace
}

// autoPlace is where the configuration has a value: of which plan or route, and its path.
type autoPlace struct{ kind, name, path string }

// matter are the upstreams whose load moves the value.
func (a autoStart) matter(all map[string]pressure) []pressure {
	if a.upstream != "" {
		if p, there := all[a.upstream]; there {
			return []pressure{p}
		}
		return nil
	}
	return slices.Collect(maps.Values(all))
}

// autoStarts are the values of c that load moves.
func autoStarts(c *config.Config) map[string]autoStart {
	all := map[string]autoStart{}
	add := func(at autoPlace, upstream string, policies []config.Policy) {
		for i, p := range policies {
			if p.Auto == nil {
				continue
			}
			key, place := "quota", at
			if p.Concurrent > 0 {
				key = "concurrent"
			}
			place.path = fmt.Sprintf("%s.policies[%d].%s", at.path, i, key)
			all[policyKey(at.kind+":"+at.name, p)] = autoStart{max(p.Quota, p.Concurrent), p.Auto.Min, p.Auto.Max, false, upstream, place}
		}
	}
	for name, plan := range c.Plans {
		add(autoPlace{"plan", name, "plans." + name}, "", plan.Policies)
	}
	for i, r := range c.Routes {
		at := autoPlace{"route", r.Name, fmt.Sprintf("routes[%d]", i)}
		add(at, r.Upstream, r.Policies)
		if a := r.Cache.Auto; a != nil {
			at.path += ".cache.ttl"
			all[ttlKey(r)] = autoStart{int64(r.Cache.TTL), int64(a.Min), int64(a.Max), true, r.Upstream, at}
		}
	}
	return all
}
