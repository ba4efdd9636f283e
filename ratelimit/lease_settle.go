package ratelimit

import (
	"context"
	"errors"
	"time"
)

// How what is owed reaches the shared store without a take: not sooner than
// flushAfter, and not waiting longer than flushWithin.
const (
	flushAfter  = 50 * time.Millisecond
	flushWithin = time.Second
)

// refill gets the grants that c needs: those that nobody is asking for already
// in one call, then it waits for the others.
func (c *leaseTakes) refill(ctx context.Context, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var asks []asked
	var followed []*leaseCall
	c.lock()
	for i := range c.takes {
		if c.asking&(1<<i) == 0 {
			continue
		}
		l, cost := c.leases[i], max(c.takes[i].Cost, 0)
		if l.call != nil {
			l.waiting += cost
			followed = append(followed, l.call)
			continue
		}
		l.call = &leaseCall{done: make(chan struct{}), err: errLeaseCall}
		c.asking &^= 1 << i
		asks = append(asks, asked{lease: l, call: l.call, grant: l.request(cost, c.now)})
	}
	c.unlock()
	var err error
	if len(asks) > 0 {
		err = c.lead(ctx, asks, now)
	}
	for _, call := range followed {
		select {
		case <-call.done:
			err = errors.Join(err, call.err)
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
	}
	if len(followed) > 0 {
		c.lock()
		for i := range c.takes {
			if c.asking&(1<<i) != 0 {
				c.leases[i].waiting -= max(c.takes[i].Cost, 0)
			}
		}
		c.unlock()
	}
	return err
}

// errLeaseCall is what followers see of a call that did not return.
var errLeaseCall = errors.New("ratelimit: the store's Grant did not return")

// lead makes the call for others, too: so it does not end with the request that
// happens to make it, but when that would have to, at the latest.
func (l *Leases) lead(ctx context.Context, asks []asked, now time.Time) (err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(flushWithin)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	grants := make([]Grant, len(asks))
	for i := range asks {
		grants[i] = asks[i].grant
	}
	err = errLeaseCall
	before := l.clock()
	// Deferred, so that a store that panics leaves nobody waiting.
	defer func() {
		after := l.clock()
		for i := range asks {
			asks[i].grant = grants[i]
			l.answered(&asks[i], before, after, err)
		}
	}()
	l.calls.Add(1)
	err = l.options.Shared.Grant(ctx, grants, now)
	return err
}

// asked is a grant of one call, for whom it is, and whom to tell.
type asked struct {
	lease *lease
	call  *leaseCall // nil where nobody waits
	grant Grant
}

// answered takes in what the store said, and tells the followers.
func (l *Leases) answered(a *asked, before, after int64, err error) {
	shard := &l.shards[l.shardOf(a.lease.key.policy, a.lease.key.key)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	same := a.lease.policy.same(a.grant.Policy)
	switch {
	case err != nil && a.grant.Owed > 0 && !same:
		l.settleApart(a.lease.key, a.grant.Policy, a.grant.Owed)
	case err != nil && a.grant.Owed > 0:
		a.lease.owed += a.grant.Owed // was bounded when it was taken from there
		l.enqueue(a.lease)
	case err == nil && same: // else it was changed meanwhile
		a.lease.granted(&a.grant, before, after)
	}
	if a.call != nil {
		a.lease.call = nil
		a.call.err = err
		close(a.call.done)
	}
}

// owe notes units that the shared store does not know of yet. The caller holds
// the lock of the lease.
func (c *leaseTakes) owe(l *lease, units int64) {
	if units != 0 {
		l.charge(units, c.now)
		c.enqueue(l)
	}
}

// settleApart has units of p settled soon, without the lease of the count, which is
// one of other numbers. Where the queue is full they are lost.
func (l *Leases) settleApart(count slotKey, p *Policy, units int64) {
	if units != 0 {
		l.enqueue(&lease{key: count, policy: p, owed: units})
	}
}

// enqueue has the lease flushed soon. The caller holds its lock. Where the queue is
// full, which takes a store that has been away for long, what is owed waits for
// the next grant.
func (l *Leases) enqueue(of *lease) {
	if of.queued {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= 2*l.options.Keys {
		return
	}
	of.queued = true
	l.queue = append(l.queue, of)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Settle implements Store.
func (l *Leases) Settle(ctx context.Context, takes []Take, now time.Time) error {
	if err := Check(takes); err != nil {
		return err
	}
	c := leaseTakes{Leases: l, takes: takes, now: int64(now.Sub(l.start))}
	strict := make([]Take, 0, len(takes))
	for i := range takes {
		if slack := takes[i].Policy.Slack(); slack > 0 && slack >= takes[i].Policy.ready.interval {
			c.place(i)
			continue
		}
		c.strict |= 1 << i
		strict = append(strict, takes[i])
	}
	var err error
	if asks := c.settle(); len(asks) > 0 {
		err = l.lead(ctx, asks, now)
		c.now = max(c.now, l.clock())
	}
	c.settled()
	if len(strict) > 0 {
		err = errors.Join(err, l.options.Shared.Settle(ctx, strict, now))
	}
	for i := len(takes) - 1; i >= 0; i-- {
		if c.strict&(1<<i) != 0 {
			takes[i], strict = strict[len(strict)-1], strict[:len(strict)-1]
		}
	}
	return err
}

// settle corrects what is held, and returns what the shared store has to know at
// once.
func (c *leaseTakes) settle() (asks []asked) {
	c.lock()
	defer c.unlock()
	for i := range c.takes {
		if c.strict&(1<<i) != 0 {
			continue
		}
		t := &c.takes[i]
		l := c.known(i)
		c.leases[i] = l
		if t.Cost < 0 {
			give := -max(t.Cost, -maxInteger)
			c.owe(l, l.unuse(give, c.now)-give)
		} else if t.Cost > 0 {
			c.owe(l, t.Cost-l.use(t.Cost, c.now))
		}
		half := int64(t.Policy.Slack() / t.Policy.ready.interval / 2)
		if l.owed > half || l.owed < -half {
			asks = append(asks, asked{lease: l, grant: Grant{Policy: t.Policy, Key: t.Key, Owed: l.owed}})
			l.owed = 0
		}
	}
	return asks
}

// known is the lease of the i-th take; where there is none it is one that is not
// kept: a correction is no reason to forget another. Nor is it one to change a lease
// of other numbers: the units of a request that began by old ones are worth what
// they were worth then.
func (c *leaseTakes) known(i int) *lease {
	t := &c.takes[i]
	key := slotKey{policy: t.Policy.ready.id, key: t.Key}
	l := c.Leases.shards[c.at[i]].leases[key]
	if l == nil || !l.policy.same(t.Policy) {
		return &lease{key: key, policy: t.Policy}
	}
	l.used = c.now
	return l
}

// settled says what is left, where that is known.
func (c *leaseTakes) settled() {
	c.lock()
	defer c.unlock()
	for i := range c.takes {
		if c.strict&(1<<i) == 0 && c.leases[i].asked != 0 {
			c.takes[i].Decision = c.leases[i].decision(c.now, Decision{Allowed: true})
		}
	}
}

// flushLoop settles what is owed, soon after there is something.
func (l *Leases) flushLoop() {
	defer close(l.done)
	for {
		select {
		case <-l.stop:
			return
		case <-l.wake:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(flushAfter):
		}
		ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
		if err := l.flush(ctx); err != nil {
			l.options.Observe(err)
		}
		cancel()
	}
}

// flush settles what is in the queue. What comes into it meanwhile waits for the
// next flush.
func (l *Leases) flush(ctx context.Context) error {
	l.mu.Lock()
	due := l.queue
	l.queue = nil
	l.mu.Unlock()
	var errs error
	for len(due) > 0 {
		n := min(len(due), MaxGrants)
		asks := make([]asked, 0, n)
		for _, of := range due[:n] {
			shard := &l.shards[l.shardOf(of.key.policy, of.key.key)]
			shard.mu.Lock()
			if of.queued = false; of.owed != 0 {
				asks = append(asks, asked{lease: of, grant: Grant{Policy: of.policy, Key: of.key.key, Owed: of.owed}})
				of.owed = 0
			}
			shard.mu.Unlock()
		}
		due = due[n:]
		if len(asks) > 0 {
			errs = errors.Join(errs, l.lead(ctx, asks, l.options.Now()))
		}
	}
	return errs
}

// Close settles what is owed, as long as ctx lasts, and ends the work in the
// background. What is held is lost; it comes back with time. Use l no more.
func (l *Leases) Close(ctx context.Context) error {
	l.once.Do(func() { close(l.stop) })
	select {
	case <-l.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return l.flush(ctx)
}
