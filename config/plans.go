package config

import (
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// Plan is what a caller may use.
type Plan struct {
	// Policies all apply to each of the plan's callers. Default none.
	Policies []Policy `yaml:"policies"`
}

// Policy is a quota. In the file it is the short form, such as 5/minute or
// 100 per 1h, or a mapping with these keys.
type Policy struct {
	// Name stands in the RateLimit fields. The default is the name of the plan
	// or route; the second policy without a name has -2 after it, the third -3.
	// Unique, with its unit, in its plan or route.
	Name string `yaml:"name"`
	// Quota is how many units come back in Window. Required, at least 1.
	Quota int64 `yaml:"quota" min:"1" required:"how many in a window, for example 100" unless:"concurrent"`
	// Window is the time in which Quota comes back. Required, from 1ms to 366d.
	Window time.Duration `yaml:"window" min:"1ms" max:"366d" required:"a duration, for example 1m" unless:"concurrent"`
	// Unit is what is counted: requests, the default.
	Unit string `yaml:"unit" default:"requests"`
	// By is what has a count of its own: caller, ip, global (one count for
	// all), plan, route, model, or header:NAME. "" is caller, the default.
	By string `yaml:"by" default:"caller"`
	// Burst is how many may come at once. 0 is Quota, the default; else at
	// least 1.
	Burst int64 `yaml:"burst" min:"1"`
	// Algorithm is token_bucket, the default: Burst at once, then one every
	// Window/Quota.
	Algorithm string `yaml:"algorithm" default:"token_bucket"`
}

// limit is p as the package that counts sees it.
func (p Policy) limit() ratelimit.Policy {
	return ratelimit.Policy{Name: p.Name, Quota: p.Quota, Window: p.Window, Burst: p.Burst, Unit: p.Unit}
}
