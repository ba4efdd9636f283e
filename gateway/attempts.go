package gateway

import (
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// Attempts limits how often a network may come with a secret that is not valid: a
// key, a token, a password. It may be used by any number of goroutines. It knows
// 16,384 networks at a time; counts are those of this process, whose own work and
// log it spares.
type Attempts struct {
	policy  atomic.Pointer[ratelimit.Policy] // nil: any number
	counts  *ratelimit.MemoryStore
	failed  atomic.Uint64
	refused atomic.Uint64

	previews bool
}

// maxNetworks is how many networks are counted.
const maxNetworks = 1 << 14

// NewAttempts allows each network perMinute failures at once, and then one every
// minute/perMinute. 0, and less, allows any number.
func NewAttempts(perMinute int) *Attempts {
	a := &Attempts{counts: ratelimit.NewMemoryStore(maxNetworks)}
	a.allow(perMinute)
	return a
}

// allow changes how many failures are allowed, as NewAttempts has it. Who failed has.
func (a *Attempts) allow(perMinute int) {
	if perMinute <= 0 {
		a.policy.Store(nil)
		return
	}
	p, err := ratelimit.Policy{Name: "auth", Scope: "auth", Quota: int64(perMinute), Window: time.Minute}.Prepare()
	if err != nil { // more than one a nanosecond: as good as any number
		p = nil
	}
	a.policy.Store(p)
}

// Check is to be asked before a secret is looked at. The error is a *weir.Problem
// with status 429 and the time to come back, or nil. A right secret is refused, too:
// it could be a lucky guess.
func (a *Attempts) Check(network netip.Prefix) error {
	d, limited := a.take(network, 0)
	if !limited || d.Remaining > 0 {
		return nil
	}
	a.refused.Add(1)
	return &weir.Problem{
		Status:     http.StatusTooManyRequests,
		Type:       typeAbnormalUsage,
		Title:      "Too many failed authentications",
		Detail:     "Too many requests from this network came with a key or token that is not valid. Try again later, with a valid one.",
		RetryAfter: d.Reset,
	}
}

// typeAbnormalUsage is for what is refused because of how it was used before.
const typeAbnormalUsage = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"

// Preview is a for who only asks whether Check would refuse: Failed does nothing, and
// nothing is counted. The counts are those of a.
func (a *Attempts) Preview() *Attempts {
	p := &Attempts{counts: a.counts, previews: true}
	p.policy.Store(a.policy.Load())
	return p
}

// Failed counts a secret that was not valid.
func (a *Attempts) Failed(network netip.Prefix) {
	if a.previews {
		return
	}
	a.failed.Add(1)
	a.take(network, 1)
}

// take reports whether there is a limit at all.
func (a *Attempts) take(network netip.Prefix, cost int64) (d ratelimit.Decision, limited bool) {
	policy := a.policy.Load()
	if policy == nil {
		return ratelimit.Decision{}, false
	}
	takes := []ratelimit.Take{{Policy: policy, Key: network.String(), Cost: cost}}
	// A memory store fails only for takes that are not well formed.
	_, _ = a.counts.Take(context.Background(), takes, time.Now())
	return takes[0].Decision, true
}
