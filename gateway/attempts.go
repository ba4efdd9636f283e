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
	policy  *ratelimit.Policy // nil: any number
	counts  *ratelimit.MemoryStore
	failed  atomic.Uint64
	refused atomic.Uint64
}

// maxNetworks is how many networks are counted.
const maxNetworks = 1 << 14

// NewAttempts allows each network perMinute failures at once, and then one every
// minute/perMinute. 0, and less, allows any number.
func NewAttempts(perMinute int) *Attempts {
	if perMinute <= 0 {
		return &Attempts{}
	}
	p, err := ratelimit.Policy{Name: "auth", Scope: "auth", Quota: int64(perMinute), Window: time.Minute}.Prepare()
	if err != nil { // more than one a nanosecond: as good as any number
		return &Attempts{}
	}
	return &Attempts{policy: p, counts: ratelimit.NewMemoryStore(maxNetworks)}
}

// Check is to be asked before a secret is looked at. The error is a *weir.Problem
// with status 429 and the time to come back, or nil. A right secret is refused, too:
// it could be a lucky guess.
func (a *Attempts) Check(network netip.Prefix) error {
	d := a.take(network, 0)
	if a.policy == nil || d.Remaining > 0 {
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

// Failed counts a secret that was not valid.
func (a *Attempts) Failed(network netip.Prefix) {
	a.failed.Add(1)
	a.take(network, 1)
}

func (a *Attempts) take(network netip.Prefix, cost int64) ratelimit.Decision {
	if a.policy == nil {
		return ratelimit.Decision{}
	}
	takes := []ratelimit.Take{{Policy: a.policy, Key: network.String(), Cost: cost}}
	// A memory store fails only for takes that are not well formed.
	_, _ = a.counts.Take(context.Background(), takes, time.Now())
	return takes[0].Decision
}
