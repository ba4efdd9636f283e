package config

import (
	"encoding/json"
	"strconv"
	"time"
)

// EditDoc returns the whole Doc of a plan, route or upstream as it is in c: what an Edit
// would say to have it so, with all of EditKeys that mean something there, in the order of
// the file. A cache that is off has none, one in mode http has only its stale_… keys, and a
// plan that no caller can have has only policies. It is false where c has none of that name,
// or for an unknown kind.
func (c *Config) EditDoc(kind, name string) ([]byte, bool) {
	switch kind {
	case editPlan:
		p, ok := c.Plans[name]
		if !ok {
			return nil, false
		}
		return writeDoc(c.planDoc(name, p)), true
	case editRoute:
		i := c.routeIndex(name)
		if i < 0 {
			return nil, false
		}
		return writeDoc(routeDoc(c.Routes[i])), true
	case editUpstream:
		u, ok := c.Upstreams[name]
		if !ok {
			return nil, false
		}
		return writeDoc(upstreamDoc(u)), true
	}
	return nil, false
}

func (c *Config) planDoc(name string, p Plan) doc {
	d := doc{"policies": {raw: PoliciesJSON(p.Policies, name)}}
	if k := (&checker{newDecoder("", nil)}); k.nobodyHas(name, c) != "" {
		return d
	}
	d["weight"], d["priority"] = docNumber(p.Weight), docText(p.Priority)
	if p.Budget != nil {
		d["budget"] = docText(p.Budget.String())
	}
	return d
}

func routeDoc(r Route) doc {
	d := doc{"policies": {raw: PoliciesJSON(r.Policies, r.Name)}, "max_body": docText(r.MaxBody.String())}
	if r.Cache.Mode == cacheOff {
		return d
	}
	duration := func(t time.Duration) docValue { return docText(formatDuration(t)) }
	of := doc{
		"stale_while_revalidate": duration(r.Cache.StaleWhileRevalidate),
		"stale_if_error":         duration(r.Cache.StaleIfError),
	}
	if r.Cache.Mode == cacheInference {
		of["ttl"] = duration(r.Cache.TTL)
		if a := r.Cache.Auto; a != nil {
			of["auto"] = docValue{object: doc{"min": duration(a.Min), "max": duration(a.Max)}}
		}
	}
	d["cache"] = docValue{object: of}
	return d
}

func upstreamDoc(u Upstream) doc {
	targets := doc{}
	for _, t := range u.Targets {
		targets[t.URL] = docNumber(t.Weight)
	}
	return doc{
		"targets":     {object: targets},
		"concurrency": {object: doc{"min": docNumber(u.Concurrency.Min), "max": docNumber(u.Concurrency.Max)}},
		"queue":       {object: doc{"max": docNumber(u.Queue.Max), "max_wait": docText(formatDuration(u.Queue.MaxWait))}},
	}
}

func docText(s string) docValue { return docValue{raw: quoteJSON(s)} }

func docNumber(n int) docValue { return docValue{raw: json.RawMessage(strconv.Itoa(n))} }
