package config

import (
	"fmt"
	"math/big"
	"net/url"
	"strings"
)

// auto checks the bounds of a policy that the load moves: it must be one that can be
// counted at both ends, and it starts between them.
func (k *checker) auto(at string, p Policy) {
	path, key, value := at+".auto", "quota", p.Quota
	if p.Concurrent > 0 {
		key, value = "concurrent", p.Concurrent
	}
	switch a := *p.Auto; {
	case !k.clean(at):
	case a.Min > value:
		k.fail(path+".min", fmt.Sprintf("want at most %s, which is %d: it starts there", key, value))
	case a.Max < value:
		k.fail(path+".max", fmt.Sprintf("want at least %s, which is %d: it starts there", key, value))
	default:
		if err := p.moved(a.Max).Limit().Validate(); err != nil {
			k.fail(path+".max", "would be more than can be counted: "+err.Error())
		}
	}
}

// moved is p where the load has moved its quota, or its slots, to n. A burst keeps its
// share of the quota, and is never less than 1.
func (p Policy) moved(n int64) Policy {
	if p.Concurrent > 0 {
		p.Concurrent = n
		return p
	}
	if p.Burst > 0 && p.Quota > 0 {
		// The product of two such numbers may be longer than 64 bits.
		burst := new(big.Int).Mul(big.NewInt(p.Burst), big.NewInt(n))
		burst.Quo(burst, big.NewInt(p.Quota))
		if !burst.IsInt64() {
			burst.SetInt64(1<<63 - 1)
		}
		p.Burst = max(1, burst.Int64())
	}
	p.Quota = n
	return p
}

// autoTTL checks the bounds of a TTL that the load moves.
func (k *checker) autoTTL(path string, r RouteCache) {
	switch a := *r.Auto; {
	case !k.clean(path):
	case a.Min > r.TTL:
		k.fail(path+".min", "want at most ttl, which is "+formatDuration(r.TTL)+": it starts there")
	case a.Max < r.TTL:
		k.fail(path+".max", "want at least ttl, which is "+formatDuration(r.TTL)+": it starts there")
	}
}

// autoOfCaller reports what would be moved for a single caller: the load that counts is
// that of the whole plan or route.
func (k *checker) autoOfCaller(path string, policies []Policy) {
	for i, p := range policies {
		if at := fmt.Sprintf("%s[%d].auto", path, i); p.Auto != nil && k.clean(at) {
			k.fail(at, "has no effect on single callers: want it in a policy of a plan or a route")
		}
	}
}

func (k *checker) telemetry(t Telemetry) {
	once(k, "telemetry.log.redact", t.Log.Redact, "the same member twice")
	if t.OTLP == nil {
		if !k.said("telemetry.otlp") {
			k.noEffect("telemetry", "without otlp: traces are sent nowhere: want otlp with it, or this key left out", "traces")
		}
		return
	}
	const at = "telemetry.otlp.endpoint"
	u, err := url.Parse(t.OTLP.Endpoint)
	switch {
	case !k.clean(at):
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !validPort(u):
		k.fail(at, "want http://host:port or https://host:port, with a base path if need be, for example http://127.0.0.1:4318")
	case u.User != nil:
		k.fail(at, "want no user and password in the URL: headers can send Authorization")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(t.OTLP.Endpoint, "#"):
		k.fail(at, "want no query and no fragment in the URL")
	}
	k.setHeaders("telemetry.otlp.headers.", t.OTLP.Headers)
}
