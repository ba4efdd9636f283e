package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// centre is a store that instances share: by Policy.Decide and Policy.Lend, with a
// clock of its own, and as far away as travel says. It keeps what was really
// admitted by itself and what was given back to it.
type centre struct {
	now func() int64

	mu       sync.Mutex // guards the rest
	travel   func() time.Duration
	away     func() bool
	accounts map[string]Account // by the policy's name and the key
	events   []event
	strict   int // calls of Take and Settle
	grants   int // calls of Grant
}

// event is what a count sees: units admitted, or, below zero, given back.
type event struct {
	at   int64
	cost int64
}

var errAway = errors.New("the store is away")

func newCentre() *centre {
	return &centre{
		travel:   func() time.Duration { return 0 },
		away:     func() bool { return false },
		now:      func() int64 { return time.Now().UnixNano() },
		accounts: map[string]Account{},
	}
}

// call does f there and back.
func (c *centre) call(f func(now int64)) error {
	c.mu.Lock()
	travel, away := c.travel, c.away
	c.mu.Unlock()
	time.Sleep(travel())
	if away() {
		return errAway
	}
	c.mu.Lock()
	f(c.now())
	c.mu.Unlock()
	time.Sleep(travel())
	return nil
}

// leave says whether the store is away from now on.
func (c *centre) leave(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = func() bool { return away }
}

// used is what the store knows of as used, in time.
func (c *centre) used(account string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.accounts[account].At - time.Now().UnixNano())
}

// set makes so much used.
func (c *centre) set(account string, used time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts[account] = Account{At: time.Now().Add(used).UnixNano()}
}

func (c *centre) Take(_ context.Context, takes []Take, _ time.Time) (bool, error) {
	err := c.call(func(now int64) {
		c.strict++
		for i := range takes {
			t := &takes[i]
			a := c.accounts[t.Policy.Name+t.Key]
			var s State
			s, t.Decision = t.Policy.Decide(State{At: a.At}, t.Cost, now)
			t.Taken = now
			if t.Decision.Allowed && t.Cost > 0 {
				a.At = s.At
				c.accounts[t.Policy.Name+t.Key] = a
				c.events = append(c.events, event{now, t.Cost})
			}
		}
	})
	return err == nil && Allowed(takes), err
}

func (c *centre) Settle(_ context.Context, takes []Take, _ time.Time) error {
	return c.call(func(now int64) {
		c.strict++
		for i := range takes {
			t := &takes[i]
			a := c.accounts[t.Policy.Name+t.Key]
			a.At = t.Policy.Settle(State{At: a.At}, t.Cost, t.Taken, now).At
			c.accounts[t.Policy.Name+t.Key] = a
		}
	})
}

func (c *centre) Grant(_ context.Context, grants []Grant, _ time.Time) error {
	if err := CheckGrants(grants); err != nil {
		return err
	}
	return c.call(func(now int64) {
		c.grants++
		for i := range grants {
			g := &grants[i]
			c.accounts[g.Policy.Name+g.Key] = g.Policy.Lend(c.accounts[g.Policy.Name+g.Key], g, now)
			if g.Owed < 0 {
				c.events = append(c.events, event{now, g.Owed})
			}
		}
	})
}

func (c *centre) record(e event) {
	c.mu.Lock()
	c.events = append(c.events, e)
	c.mu.Unlock()
}

// debt runs an exact token bucket without a bound over the events, in order, and
// returns the most that was ever used in it. That is at most C exactly when in
// every stretch of time w, from any event to any other, at most C + w is admitted,
// net of what is given back.
func debt(events []event, interval time.Duration) time.Duration {
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var most, used time.Duration
	var last int64
	for _, e := range events {
		used = max(used-time.Duration(e.at-last), 0) + time.Duration(e.cost)*interval
		used, last = max(used, 0), e.at
		most = max(most, used)
	}
	return most
}

// simulation is instances that share a centre, in virtual time.
type simulation struct {
	policy   Policy
	nodes    int
	load     float64       // requests offered, in the policy's rate
	skew     float64       // the part of them that comes to the first instance
	travel   time.Duration // the most, one way
	length   time.Duration
	costs    int64   // from 1 to this
	backs    float64 // the part of takes of which something is given back or charged later
	crashes  float64 // the part of requests before which an instance starts anew
	pauses   float64 // the part of requests before which an instance sleeps for up to 4 slacks
	away     float64 // the part of calls that fail
	seed     uint64
	sequence bool // an instance has one request at a time
}

type outcome struct {
	policy   *Policy
	events   []event
	offered  int64
	admitted int64
	ideal    int64 // by one exact bucket
	requests int
	calls    int
	errors   int
}

// offset is how far an instance's clock is from the centre's.
func offset(node int) time.Duration { return time.Duration(node+1) * 10_000 * time.Hour }

func (s simulation) run(t *testing.T) (out outcome) {
	p, err := s.policy.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(s.seed, 1))
		shared := newCentre()
		var mu sync.Mutex // guards random, which the store's calls use, and out
		random := rand.New(rand.NewPCG(s.seed, 2))
		roll := func(part float64) bool {
			mu.Lock()
			defer mu.Unlock()
			return random.Float64() < part
		}
		if s.travel > 0 {
			shared.travel = func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(random.Int64N(int64(s.travel)))
			}
		}
		shared.away = func() bool { return roll(s.away) }
		start := time.Now()
		out = outcome{policy: p}
		arrivals := s.arrivals(p, r)
		ideal := State{}
		for _, a := range arrivals {
			var d Decision
			if ideal, d = p.Decide(ideal, a.cost, start.UnixNano()+int64(a.at)); d.Allowed {
				out.ideal += a.cost
			}
			out.offered += a.cost
		}
		out.requests = len(arrivals)
		var wg sync.WaitGroup
		for n := range s.nodes {
			node := &node{simulation: s, policy: p, shared: shared, number: n, out: &out, mu: &mu, roll: roll}
			node.restart(t)
			wg.Go(func() { node.serve(t, start, arrivals) })
		}
		wg.Wait()
		out.events, out.calls = shared.events, shared.strict+shared.grants
	})
	return out
}

type arrival struct {
	at   time.Duration
	cost int64
	node int
}

func (s simulation) arrivals(p *Policy, r *rand.Rand) []arrival {
	mean := float64(p.Interval()) / s.load * float64(s.costs+1) / 2
	var all []arrival
	for at := 0.0; ; {
		at += -math.Log(1-r.Float64()) * mean
		if at > float64(s.length) {
			return all
		}
		a := arrival{at: time.Duration(at), cost: 1 + r.Int64N(s.costs), node: r.IntN(s.nodes)}
		if r.Float64() < s.skew {
			a.node = 0
		}
		all = append(all, a)
	}
}

// node is one instance.
type node struct {
	simulation
	policy *Policy
	shared *centre
	number int
	leases *Leases
	mu     *sync.Mutex
	out    *outcome
	roll   func(float64) bool
}

func (n *node) now() time.Time { return time.Now().Add(offset(n.number)) }

func (n *node) restart(t *testing.T) {
	leases, err := NewLeases(LeaseOptions{Shared: n.shared, Now: n.now})
	if err != nil {
		t.Fatal(err)
	}
	n.leases = leases
	t.Cleanup(func() { _ = leases.Close(context.Background()) })
}

func (n *node) serve(t *testing.T, start time.Time, arrivals []arrival) {
	var wg sync.WaitGroup
	for _, a := range arrivals {
		if a.node != n.number {
			continue
		}
		time.Sleep(time.Until(start.Add(a.at)))
		if n.roll(n.crashes) {
			n.restart(t)
		}
		if n.roll(n.pauses) {
			time.Sleep(time.Duration(float64(n.policy.Slack()) * 4 * float64(a.at%97) / 97))
		}
		if n.sequence {
			n.request(t, n.leases, a)
			continue
		}
		leases := n.leases
		wg.Go(func() { n.request(t, leases, a) })
	}
	wg.Wait()
}

func (n *node) request(t *testing.T, leases *Leases, a arrival) {
	takes := []Take{{Policy: n.policy, Key: "k", Cost: a.cost}}
	allowed, err := leases.Take(t.Context(), takes, n.now())
	n.mu.Lock()
	switch {
	case err != nil:
		n.out.errors++
	case allowed:
		n.out.admitted += a.cost
	}
	n.mu.Unlock()
	if err != nil {
		return
	}
	if !allowed {
		if d := takes[0].Decision; d.RetryAfter <= 0 && a.cost <= n.policy.Burst || d.Remaining >= a.cost {
			t.Errorf("denied a cost of %d with %+v", a.cost, d)
		}
		return
	}
	// What the centre took it has recorded by its own clock.
	if local := takes[0].Taken - int64(offset(n.number)); local > time.Now().UnixNano()-int64(offset(0))/2 {
		n.shared.record(event{local, a.cost})
	}
	if n.sequence && n.roll(n.backs) {
		n.correct(t, leases, takes)
	}
}

// correct settles a take, and records what its instance kept of it.
func (n *node) correct(t *testing.T, leases *Leases, takes []Take) {
	cost := takes[0].Cost
	takes[0].Cost = -1 - int64(float64(cost)*0.9)
	if n.roll(0.2) {
		takes[0].Cost = cost
	}
	takes[0].Cost = max(takes[0].Cost, -cost)
	shard := &leases.shards[leases.shardOf(n.policy.ready.id, "k")]
	now := n.now()
	held := func() int64 {
		shard.mu.Lock()
		defer shard.mu.Unlock()
		if l := shard.leases[slotKey{n.policy.ready.id, "k"}]; l != nil {
			return l.unused(int64(now.Sub(leases.start)))
		}
		return 0
	}
	before, at := held(), time.Now().UnixNano()
	err := leases.Settle(t.Context(), takes, now)
	if kept := held() - before; kept > 0 {
		n.shared.record(event{at, -kept})
	}
	if err != nil && n.away == 0 {
		t.Error(err)
	}
}
