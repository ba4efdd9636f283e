package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// Options say what a Limiter enforces and how it knows whom to charge.
type Options struct {
	// Policies are enforced together: a request takes from all or from none. At
	// least one, at most MaxTakes, with distinct names in a scope. A policy
	// without a name is called "default", the next ones "default-2" and so on.
	Policies []Policy
	// Store keeps the counts. nil means a memory store of DefaultKeys. Limiters
	// that share a store, a scope and policy names share the counts.
	Store Store
	// Key says whose count a request takes from. nil means ByCaller.
	Key func(*http.Request) string
	// Cost says how many units a request takes from every policy. nil means 1.
	Cost func(*http.Request) int64
	// FailOpen admits requests that the store could not decide. Without it they
	// are refused with 503.
	FailOpen bool
	// Observe, if not nil, is told of every decision. It must not block.
	Observe func(Event)
}

// An Event is one decision, or a failure of the store to make one.
type Event struct {
	// Takes are the takes of the request with their decisions. They are valid
	// only during the call.
	Takes []Take
	// Allowed says what the limiter did with the request.
	Allowed bool
	// Err is why the store could not decide.
	Err error
}

// Limiter enforces policies. It is safe for concurrent use.
type Limiter struct {
	options  Options
	policies []*Policy
	holds    bool   // slots
	instance string // in front of every ID
	ids      *atomic.Uint64
}

// New checks the options and makes a Limiter.
func New(o Options) (*Limiter, error) {
	if len(o.Policies) == 0 || len(o.Policies) > MaxTakes {
		return nil, fmt.Errorf("ratelimit: %d policies: want 1 to %d", len(o.Policies), MaxTakes)
	}
	if o.Store == nil {
		o.Store = NewMemoryStore(0)
	}
	if o.Key == nil {
		o.Key = ByCaller
	}
	l := &Limiter{options: o, instance: rand.Text(), ids: new(atomic.Uint64)}
	names := map[[3]string]bool{}
	var errs []error
	for i, p := range o.Policies {
		if p.Name == "" {
			p.Name = "default"
			if i > 0 {
				p.Name = fmt.Sprintf("default-%d", i+1)
			}
		}
		name := [3]string{p.Scope, p.Name, p.unit()}
		if names[name] {
			errs = append(errs, fmt.Errorf("ratelimit: policies[%d]: %q: stands here twice and would share one count", i, p.Name))
		}
		names[name] = true
		prepared, err := p.Prepare()
		if err != nil {
			errs = append(errs, fmt.Errorf("ratelimit: policies[%d].%w", i, err))
			continue
		}
		l.policies = append(l.policies, prepared)
		l.holds = l.holds || prepared.Concurrent > 0
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return l, nil
}

// Take takes cost units for key from every policy, or from none. It returns the
// takes with their decisions, and a *weir.Problem if the request is refused.
// Where a policy is concurrent, the slot is held until Settle.
func (l *Limiter) Take(ctx context.Context, key string, cost int64) ([]Take, error) {
	takes := make([]Take, len(l.policies))
	id := ""
	if l.holds {
		id = l.instance + strconv.FormatUint(l.ids.Add(1), 36)
	}
	for i, p := range l.policies {
		takes[i] = Take{Policy: p, Key: key, ID: id, Cost: cost}
	}
	allowed, err := l.options.Store.Take(ctx, takes, time.Now())
	if err != nil {
		allowed = l.options.FailOpen
	}
	if l.options.Observe != nil {
		l.options.Observe(Event{Takes: takes, Allowed: allowed, Err: err})
	}
	switch {
	case err != nil && !allowed:
		return nil, Unavailable(err)
	case err != nil:
		return nil, nil
	case allowed:
		return takes, nil
	}
	if p := Refusal(takes); p != nil {
		return takes, p
	}
	return nil, Unavailable(errNoReason)
}

// Settle ends what Take began, once the request is done: it frees slots, and
// charges used units in place of the cost that was taken. It must be called once
// for every Take that was not refused, where a policy is concurrent or the cost
// was an estimate.
func (l *Limiter) Settle(ctx context.Context, takes []Take, used int64) error {
	due := make([]Take, 0, len(takes))
	for _, t := range takes {
		switch {
		case !t.Decision.Allowed: // in shadow: it gave nothing
			continue
		case t.Policy.Concurrent > 0:
			t.Cost = -1
		default:
			t.Cost = max(used, 0) - max(t.Cost, 0)
		}
		if t.Cost != 0 {
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return nil
	}
	return l.options.Store.Settle(context.WithoutCancel(ctx), due, time.Now())
}

// errNoReason is the fault of a store, which refused and named no policy for it.
var errNoReason = errors.New("ratelimit: the store took nothing, and every decision says allowed")

// Middleware refuses requests that are over a policy with 429 and describes the
// policies in the RateLimit fields of every answer. It has the form of
// weir.Middleware.
func (l *Limiter) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cost := int64(1)
		if l.options.Cost != nil {
			cost = l.options.Cost(r)
		}
		takes, err := l.Take(r.Context(), l.options.Key(r), cost)
		SetFields(w.Header(), takes)
		if p, refused := errors.AsType[*weir.Problem](err); refused {
			p.ServeHTTP(w, r)
			return
		}
		if l.holds && takes != nil {
			// Also where the handler panics: a slot is not to outlive its request.
			// A shared store that is away frees it later, by itself.
			defer func() { _ = l.Settle(r.Context(), takes, cost) }()
		}
		next.ServeHTTP(w, r)
	})
}

// ByCaller is the key of requests that went through auth: the caller's ID.
// Without a caller it is ByIP.
func ByCaller(r *http.Request) string {
	if c, ok := weir.CallerFrom(r.Context()); ok {
		return c.ID
	}
	return ByIP(r)
}

// ByIP is the address of the connection's other end, transition addresses
// unwrapped (weir.Unwrap); of an IPv6 address the first 64 bits, because one client
// has all the others. Behind a proxy that is the proxy: put auth in front, which
// knows proxies, and use ByCaller.
func ByIP(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := weir.Unwrap(peer.Addr().Unmap().WithZone(""))
	if addr.Is4() {
		return addr.String()
	}
	net, err := addr.Prefix(64)
	if err != nil { // 64 fits every IPv6 address
		return addr.String()
	}
	return net.String()
}

// Refusal says why takes were refused: the quota, its window, and when the same
// request can be admitted. It is nil if nothing was refused.
func Refusal(takes []Take) *weir.Problem {
	var order [MaxTakes]int
	var refused []*Take
	var names []string
	for _, i := range tightestFirst(takes, order[:0]) {
		if t := &takes[i]; !t.Decision.Allowed {
			refused = append(refused, t)
			names = append(names, t.Policy.Name)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	p := &weir.Problem{
		Status:     http.StatusTooManyRequests,
		Type:       weir.TypeQuotaExceeded,
		Title:      "Quota exceeded",
		RetryAfter: refused[0].Decision.RetryAfter, // the longest: all must have room
		Violated:   names,
		Unit:       refused[0].Policy.unit(),
	}
	p.Detail = "Request refused: " + refused[0].reason()
	if p.RetryAfter > 0 {
		p.Detail += " Try again in " + count(ceilSeconds(p.RetryAfter), "seconds") + "."
	}
	return p
}

// reason says in a sentence why t was denied.
func (t *Take) reason() string {
	p, unit := t.Policy, t.Policy.unit()
	if p.Concurrent > 0 {
		return fmt.Sprintf("%q lets %s run at a time, and as many do.", p.Name, count(p.Concurrent, unit))
	}
	quota := count(p.Quota, unit) + " per " + spell(p.Window)
	if t.Mode == Local {
		quota = "this instance's share of " + quota
	}
	switch {
	case t.Decision.RetryAfter == weir.Never:
		return fmt.Sprintf("it costs %s, and %q never has more than %d at once (%s).", count(t.Cost, unit), p.Name, p.ready.burst, quota)
	case t.Decision.Remaining > 0:
		return fmt.Sprintf("it costs %s, and %d are left of %s.", count(t.Cost, unit), t.Decision.Remaining, quota)
	case p.Quota == 1 || t.Mode == Local:
		return quota + " is used up."
	}
	return quota + " are used up."
}

// Unavailable is the refusal for a store that could not decide. It is a 503 and
// not a 429: the caller did nothing wrong.
func Unavailable(err error) *weir.Problem {
	return &weir.Problem{
		Status:     http.StatusServiceUnavailable,
		Type:       weir.TypeReducedCapacity,
		Title:      "Quota cannot be checked",
		Detail:     "The quota store did not answer, and this service admits nothing unchecked. Try again in a second.",
		RetryAfter: time.Second,
		Err:        err,
	}
}
