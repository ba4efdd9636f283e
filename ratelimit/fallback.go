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
	// FailLocal lets each instance enforce its share: the rate and the burst of each
	// policy divided by the number of instances, and to begin with at most that part
	// of what was left when the shared store was last heard. While that comes and goes, each
	// instance admits at most its share besides what the store does.
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
	if err == nil {
		f.remember(takes, now)
		return allowed, nil
	}
	if ctx.Err() != nil {
		return false, err
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

// remember notes what the shared store said is left, for the time when it says
// nothing.
func (f *Fallback) remember(takes []Take, now time.Time) {
	if f.options.OnFailure != FailLocal {
		return
	}
	n := int64(max(f.options.Instances(), 1))
	for i := range takes {
		t := &takes[i]
		g := t.Policy.ready
		if t.Mode != Shared || g.kind == slots {
			continue
		}
		if g.kind != bucket && g.windowEnd(t.Taken) != g.windowEnd(f.local.unix(now)) {
			continue // the two clocks are in different windows: it says nothing of ours
		}
		share := g.share(n, 0)
		f.local.raise(&share, t.Key, floorPart(min(t.Decision.Remaining, g.burst), g.burst, share.burst), now)
	}
}

// Settle implements Store: each take is corrected where it was decided.
func (f *Fallback) Settle(ctx context.Context, takes []Take, now time.Time) error {
	var shared, local []Take
	var from [2][]int // where they stand in takes
	for i, t := range takes {
		switch t.Mode {
		case Shared:
			shared, from[0] = append(shared, t), append(from[0], i)
		case Local:
			local, from[1] = append(local, t), append(from[1], i)
		}
	}
	var err error
	if len(shared) > 0 {
		switch err = f.options.Shared.Settle(ctx, shared, now); {
		case err == nil:
			f.remember(shared, now)
			for i, t := range shared {
				takes[from[0][i]].Decision = t.Decision
			}
		case ctx.Err() == nil:
			f.options.Observe(err)
		}
	}
	if len(local) > 0 {
		shares := f.shares(local)
		err = errors.Join(err, f.local.Settle(ctx, shares, now))
		for i, t := range shares {
			takes[from[1][i]].Decision = t.Decision
		}
	}
	return err
}

// shares are the takes, from this instance's share of each policy.
func (f *Fallback) shares(takes []Take) []Take {
	n := int64(max(f.options.Instances(), 1))
	shares := make([]Take, len(takes))
	for i, t := range takes {
		g, p := t.Policy.ready.share(n, t.Cost), *t.Policy
		p.ready = &g
		t.Policy = &p
		shares[i] = t
	}
	return shares
}

// share is g for one of n instances: its rate and its burst divided by n, at least
// one unit of each. A cost that the policy would admit is admitted by a share that
// is full, whatever its size: it waits for it afterwards, not before, because before
// would be for ever.
func (g gauge) share(n, cost int64) gauge {
	g.burst = max(g.burst/n, min(cost, g.burst), 1)
	if g.kind == bucket {
		// Each unit comes back n times as slowly, within the bounds of Validate.
		most := maxDebt / time.Duration(g.burst)
		if n <= int64(most/g.interval) {
			most = g.interval * time.Duration(n)
		}
		g.interval = most
		g.capacity = time.Duration(g.burst) * g.interval
		g.perNano = 1 / float64(g.interval)
	}
	return g
}
