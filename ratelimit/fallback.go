package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// OnFailure says what becomes of takes while a shared store is away.
type OnFailure string

// What can become of takes that the shared store cannot decide.
const (
	// FailLocal lets each instance enforce its share: the quota and the burst
	// divided by the number of instances. What the shared store admits uses the
	// share up, too, as far as it goes: a store that comes and goes admits little
	// more than one that stays, and an outage at most one burst more, once.
	FailLocal OnFailure = "local"
	// FailOpen admits all of them.
	FailOpen OnFailure = "open"
	// FailClosed refuses all of them, with the store's error.
	FailClosed OnFailure = "closed"
)

// FallbackOptions say what a Fallback does.
type FallbackOptions struct {
	// Shared is the store that instances share. Required.
	Shared Store
	// OnFailure is what becomes of takes that Shared cannot decide. "" means
	// FailLocal.
	OnFailure OnFailure
	// Instances is how many share the store; it is asked at each take that is
	// decided locally. nil means 1.
	Instances func() int
	// Keys is how many counts the local store has room for. 0 means DefaultKeys.
	Keys int
	// Observe, if not nil, is told of every take and settling that Shared failed
	// to do, and why. It must not block.
	Observe func(error)
}

// Fallback is a Store that says what happens while the shared one is away, and
// marks what it decided without it in Take.Mode. It goes back to the shared store
// as soon as that answers: how soon, and how long a take waits for it, is the
// shared store's affair.
type Fallback struct {
	options FallbackOptions
	local   *MemoryStore
}

// NewFallback checks the options and makes a Fallback.
func NewFallback(o FallbackOptions) (*Fallback, error) {
	switch o.OnFailure {
	case "":
		o.OnFailure = FailLocal
	case FailLocal, FailOpen, FailClosed:
	default:
		return nil, fmt.Errorf("on_failure: %q: want local, open or closed", o.OnFailure)
	}
	if o.Shared == nil {
		return nil, errors.New("ratelimit: a fallback without a shared store")
	}
	if o.Instances == nil {
		o.Instances = func() int { return 1 }
	}
	if o.Observe == nil {
		o.Observe = func(error) {}
	}
	return &Fallback{options: o, local: NewMemoryStore(o.Keys)}, nil
}

// Evicted is how many local counts of callers in debt had to make room.
func (f *Fallback) Evicted() uint64 { return f.local.Evicted() }

// Take implements Store. An error of Shared is returned only with FailClosed, and
// where ctx ended.
func (f *Fallback) Take(ctx context.Context, takes []Take, now time.Time) (bool, error) {
	if err := Check(takes); err != nil {
		return false, err
	}
	for i := range takes {
		takes[i].Mode = Shared
	}
	allowed, err := f.options.Shared.Take(ctx, takes, now)
	if err == nil && allowed && f.options.OnFailure == FailLocal {
		f.mirror(ctx, takes, now)
	}
	if err == nil || ctx.Err() != nil {
		return allowed, err
	}
	f.options.Observe(err)
	switch f.options.OnFailure {
	case FailClosed:
		return false, err
	case FailOpen:
		for i := range takes {
			takes[i].Decision, takes[i].Mode = Decision{}, Open
		}
		return true, nil
	}
	shares := f.shares(takes)
	allowed, err = f.local.Take(ctx, shares, now)
	for i := range takes {
		takes[i].Decision, takes[i].Taken, takes[i].Mode = shares[i].Decision, shares[i].Taken, Local
	}
	return allowed, err
}

// mirror uses the local shares up by what the shared store admitted, until each is
// overdrawn: were it charged less, a store that comes and goes would admit twice as
// much; were it charged more, an instance that serves more than its share would
// have to wait for that in an outage. Slots are left out: nobody would free them.
func (f *Fallback) mirror(ctx context.Context, takes []Take, now time.Time) {
	for _, t := range f.shares(takes) {
		if t.Cost <= 0 || t.Policy.Concurrent > 0 || !t.Decision.Allowed {
			continue
		}
		look := []Take{t}
		look[0].Cost = 0
		// A memory store fails only for takes that are not well formed.
		if fits, _ := f.local.Take(ctx, look, now); fits {
			look[0].Cost = t.Cost
			_ = f.local.Settle(ctx, look, now)
		}
	}
}

// Settle implements Store: each take is corrected where it was decided.
func (f *Fallback) Settle(ctx context.Context, takes []Take, now time.Time) error {
	var shared, local []Take
	for _, t := range takes {
		switch t.Mode {
		case Shared:
			shared = append(shared, t)
		case Local:
			local = append(local, t)
		}
	}
	var err error
	if len(shared) > 0 {
		if err = f.options.Shared.Settle(ctx, shared, now); err != nil && ctx.Err() == nil {
			f.options.Observe(err)
		}
	}
	if len(local) > 0 {
		err = errors.Join(err, f.local.Settle(ctx, f.shares(local), now))
	}
	return err
}

// shares are the takes, from this instance's share of each policy.
func (f *Fallback) shares(takes []Take) []Take {
	n := int64(max(f.options.Instances(), 1))
	shares := make([]Take, len(takes))
	for i, t := range takes {
		t.Policy = t.Policy.share(n, t.Cost)
		shares[i] = t
	}
	return shares
}

// share is p for one of n instances: its rate and its burst divided by n, at
// least one unit of each. A cost that the policy would admit is admitted by a share
// that is full, whatever its size: it waits for it afterwards, not before, because
// before would be for ever.
func (p *Policy) share(n, cost int64) *Policy {
	g := *p.ready
	g.burst = max(g.burst/n, min(cost, g.burst), 1)
	if g.kind == bucket {
		// Each unit comes back n times as slowly, within the bounds of Validate.
		most := maxDebt / time.Duration(g.burst)
		if slower := most / g.interval; n <= int64(slower) {
			most = g.interval * time.Duration(n)
		}
		g.interval = most
		g.capacity = time.Duration(g.burst) * g.interval
		g.perNano = 1 / float64(g.interval)
	}
	q := *p
	q.ready = &g
	return &q
}
