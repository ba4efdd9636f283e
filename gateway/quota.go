package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
)

// reserve takes from all policies of the caller's plan and of the route, or from
// none: what is known of the request's cost, and a guess of the rest. settle
// corrects it.
func (x *exchange) reserve() error {
	if x.reserved {
		return x.holdSlots()
	}
	x.listTakes(x.fill)
	return x.take(x.takes)
}

// reserveHit is reserve for a request that may be answered from the cache, where
// that is charged, too: it takes everything but slots, which only calls hold.
func (x *exchange) reserveHit() error {
	x.listTakes(x.fillHit)
	return x.take(x.takes)
}

// fillHit is fill for what a hit costs, too.
func (x *exchange) fillHit(t *ratelimit.Take) {
	if t.Policy.Concurrent == 0 {
		x.fill(t)
	}
}

// holdSlots takes the slots that reserveHit left out.
func (x *exchange) holdSlots() error {
	var due []ratelimit.Take
	var from [ratelimit.MaxTakes]int
	for i, t := range x.takes {
		if t.Policy.Concurrent > 0 && t.Cost == 0 {
			from[len(due)] = i
			x.fill(&t)
			due = append(due, t)
		}
	}
	err := x.take(due)
	for i, t := range due {
		if err != nil {
			t.Cost = 0 // not held
		}
		x.takes[from[i]] = t
	}
	return err
}

// fill says what t costs, and who holds its slot.
func (x *exchange) fill(t *ratelimit.Take) {
	if x.decides && (t.Policy.Concurrent > 0 || t.Policy.Unit != ratelimit.Requests) {
		return // its end will not be seen, nor its body
	}
	t.Cost = x.cost(t)
	if t.Policy.Concurrent > 0 {
		t.ID = x.slotID()
	}
}

func (x *exchange) take(takes []ratelimit.Take) error {
	if len(takes) == 0 {
		return nil
	}
	allowed, err := x.setup.counts.Take(x.r.Context(), takes, time.Now())
	if err != nil {
		if !x.reserved {
			x.takes, x.uncounted = nil, true
		}
		if x.r.Context().Err() != nil {
			return x.r.Context().Err()
		}
		x.storeMode = storeClosed
		return ratelimit.Unavailable(err)
	}
	x.countDecisions(takes)
	if allowed {
		x.reserved = true
		return nil
	}
	p := refusal(takes)
	if p == nil {
		return errors.New("the store of quotas refused without a reason")
	}
	x.notePolicy(p.Violated[0], takes)
	return p
}

func (x *exchange) countDecisions(takes []ratelimit.Take) {
	x.noteMode(takes)
	for i := range takes {
		t := &takes[i]
		decision := telemetry.ResultAllowed
		switch {
		case t.Mode >= ratelimit.Open: // nobody decided
			continue
		case t.Cost == 0 && t.Decision.Allowed: // only looked at
			continue
		case t.Decision.Allowed:
		case t.Policy.Shadow:
			decision = telemetry.ResultShadow
			if x.shadow == "" {
				x.shadow, x.scopes[1] = t.Policy.Name, t.Policy.Scope
			}
		default:
			decision = telemetry.ResultDenied
		}
		x.gateway.metrics.Decision(t.Policy.Scope, t.Policy.Name, decision)
	}
}

// noteMode remembers who decided, where it was not the shared store.
func (x *exchange) noteMode(takes []ratelimit.Take) {
	for i := range takes {
		switch takes[i].Mode {
		case ratelimit.Open:
			x.storeMode = storeOpen
		case ratelimit.Local:
			x.storeMode = storeLocal
		}
	}
}

// The values of Weir-Store, which stands in answers that the shared store had no
// say in: what was done instead.
const (
	storeLocal  = "local"
	storeOpen   = "open"
	storeClosed = "closed"
)

// peek looks at the policies, for the fields of an answer that takes nothing.
func (x *exchange) peek() {
	if x.reserved {
		return
	}
	x.listTakes(func(*ratelimit.Take) {})
	if len(x.takes) == 0 {
		return
	}
	if _, err := x.setup.counts.Take(x.r.Context(), x.takes, time.Now()); err != nil {
		x.takes = nil
	}
	x.noteMode(x.takes)
}

// giveBack returns what was reserved for an answer that never came.
func (x *exchange) giveBack() {
	x.unobtained = true
	x.settle(amounts{})
}

// settle ends what reserve began, once: it charges what was used in place of what
// was reserved, and frees the slots.
func (x *exchange) settle(used amounts) {
	if !x.reserved {
		return
	}
	x.reserved = false
	var due []ratelimit.Take
	var from [ratelimit.MaxTakes]int
	for i, t := range x.takes {
		switch {
		case t.Mode == ratelimit.Open || t.Policy.Shadow && !t.Decision.Allowed:
			continue // nothing was taken
		case t.Policy.Concurrent > 0:
			t.Cost = -t.Cost
		case x.run != nil:
			continue // the job settles what was reserved for it
		default:
			t.Cost = used.of(t.Policy.Unit) - t.Cost
		}
		if t.Cost != 0 {
			from[len(due)] = i
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return
	}
	// Also for a client that has left.
	err := x.setup.counts.Settle(context.WithoutCancel(x.r.Context()), due, time.Now())
	if err != nil {
		x.gateway.Logger().Warn("a quota could not be settled", "request_id", x.id, "error", err.Error())
		return
	}
	for i, t := range due {
		x.takes[from[i]].Decision = t.Decision
	}
}

// listTakes makes the takes of all policies that apply to the request, and lets
// fill add what they cost.
func (x *exchange) listTakes(fill func(*ratelimit.Take)) {
	x.takes = nil
	if x.exempt {
		return
	}
	plan := x.setup.policiesOf(x.caller.ID, x.plan)
	x.takes = make([]ratelimit.Take, 0, len(plan)+len(x.chosen.policies))
	for _, policies := range [][]policy{plan, x.chosen.policies} {
		for _, p := range policies {
			t := ratelimit.Take{Policy: p.Policy, Key: x.countedBy(p.by)}
			fill(&t)
			x.takes = append(x.takes, t)
		}
	}
}

// slotID names this request among all that run, here and on other instances. It
// is not the request's own ID, which a client may repeat.
func (x *exchange) slotID() string {
	if x.slot == "" {
		x.slot = x.gateway.slots.next()
	}
	return x.slot
}

// countedBy gives the value that a policy counts by.
func (x *exchange) countedBy(by string) string {
	switch by {
	case "caller":
		return x.caller.ID
	case "ip":
		return x.caller.Net.String()
	case "plan":
		return x.plan
	case "route":
		return x.chosen.name
	case "model":
		return x.chosen.upstream.dialect.Canonical(x.call.Model)
	case "global":
		return ""
	}
	// A header may hold a secret, and be long: only its hash leaves this process.
	sum := sha256.Sum256([]byte(strings.Join(x.r.Header[strings.TrimPrefix(by, "header:")], ",")))
	return hex.EncodeToString(sum[:16])
}

// limits are what is left of the caller's quotas, and of the upstream's where that
// is less: the tightest of each unit.
func (x *exchange) limits() []dialect.Limit {
	tightest := x.theirs
	for i := range x.takes {
		t := &x.takes[i]
		if t.Policy.Shadow || t.Policy.Concurrent > 0 || t.Policy.Unit == nanoUSD || t.Mode >= ratelimit.Open {
			continue
		}
		own := dialect.Limit{Unit: t.Policy.Unit, Quota: t.Burst(), Remaining: t.Decision.Remaining, Full: t.Decision.Full}
		tightest = dialect.Tightest([]dialect.Limit{own}, tightest)
	}
	return tightest
}
