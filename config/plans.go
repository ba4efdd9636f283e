package config

import (
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// Plan is what a caller may use.
type Plan struct {
	// Policies all apply to each of the plan's callers. Default none.
	Policies []Policy `yaml:"policies"`
	// Budget is what each of the plan's callers may spend. nil, the default, is any
	// amount. It needs Config.Prices with a price for "*".
	Budget *Budget `yaml:"budget"`
	// Weight is each of its callers' share of an upstream where requests wait,
	// against the others of the same Priority. Default 1, from 1 to 1000.
	Weight int `yaml:"weight" default:"1" min:"1" max:"1000"`
	// Priority is whose requests go first, and are refused last: critical, then
	// standard, then batch. Default standard.
	Priority string `yaml:"priority" default:"standard"`
}

// takes is how many counts a request of the plan takes from: its budget is one
// more policy.
func (p Plan) takes() int {
	if p.Budget != nil {
		return len(p.Policies) + 1
	}
	return len(p.Policies)
}

// Policy is a quota. In the file it is the short form, such as 5/minute or
// 100 per 1h, or a mapping with these keys.
type Policy struct {
	// Name stands in the RateLimit fields. The default is the name of the plan
	// or route; the second policy without a name has -2 after it, the third -3.
	// Unique, with its unit, in its plan or route.
	Name string `yaml:"name"`
	// Quota is how many units come back in Window. Required without Concurrent, at
	// least 1.
	Quota int64 `yaml:"quota" min:"1" required:"how many in a window, for example 100" unless:"concurrent"`
	// Window is the time in which Quota comes back: a duration, or second, minute,
	// hour, day, week, month (ratelimit.Month) or year (ratelimit.Year). Required
	// without Concurrent, from 1ms to 366d.
	Window time.Duration `yaml:"window" words:"true" min:"1ms" max:"366d" required:"a duration, for example 1m" unless:"concurrent"`
	// Concurrent, in place of Quota and Window, is how many requests may run at
	// the same time. 0, the default, is a policy with a Quota; else at least 1.
	Concurrent int64 `yaml:"concurrent" min:"1"`
	// Unit is what is counted: requests, the default, tokens, input_tokens,
	// output_tokens or bytes. Only requests with Concurrent, and on routes without
	// an upstream.
	Unit string `yaml:"unit" default:"requests" with:"Quota"`
	// By is what has a count of its own: caller, ip, global (one count for
	// all), plan, route, model, or header:NAME. "" is caller, the default. Fields
	// that never arrive are mistakes, and those that hold Weir's own keys.
	By string `yaml:"by" default:"caller"`
	// Burst is how many may come at once, with token_bucket. 0 is Quota, the
	// default; else at least 1.
	Burst int64 `yaml:"burst" min:"1"`
	// Algorithm is token_bucket, the default: Burst at once, then one every
	// Window/Quota; sliding_window: Quota in the last Window; or fixed_window:
	// Quota in each window of the clock and the calendar, in UTC. "" with
	// Concurrent.
	Algorithm string `yaml:"algorithm" default:"token_bucket" with:"Quota"`
	// Shadow decides, counts and reports, but refuses nobody. Default false.
	Shadow bool `yaml:"shadow" default:"false"`
	// Lease lets each instance hold some of the quota in advance. nil, the
	// default, asks the store for each request.
	Lease *Lease `yaml:"lease"`
	// Auto lets the load move Quota, or Concurrent, which is where it starts. nil, the
	// default, leaves it where it is.
	Auto *Auto `yaml:"auto"`
}

// Auto are the bounds between which the load moves a quota.
type Auto struct {
	// Min is the least it becomes, where there is too much to do. Required, at least 1.
	Min int64 `yaml:"min" min:"1" required:"the least that the quota may become, for example 10"`
	// Max is the most it becomes, where there is room. Required, at least Min.
	Max int64 `yaml:"max" min:"1" required:"the most that the quota may become, for example 100"`
}

// Lease lets an instance take units before it needs them, so that most requests
// need not wait for the store. Only with token_bucket and a Redis.
type Lease struct {
	// MaxExcess is how much more than the quota may be used because of it, all
	// instances together. Required, above 0 and at most 50 %.
	MaxExcess Percent `yaml:"max_excess" required:"a share of the quota, for example 1%"`
}

// maxExcess is the most that Lease.MaxExcess may be.
const maxExcess Percent = 0.5

// Limit is p as the package that counts sees it. It has no Scope.
func (p Policy) Limit() ratelimit.Policy {
	limit := ratelimit.Policy{
		Name: p.Name, Quota: p.Quota, Window: p.Window, Burst: p.Burst, Unit: p.Unit,
		Algorithm: p.Algorithm, Concurrent: p.Concurrent, Shadow: p.Shadow,
	}
	if p.Lease != nil {
		limit.MaxExcess = float64(p.Lease.MaxExcess)
	}
	return limit
}
