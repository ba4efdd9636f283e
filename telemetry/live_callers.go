package telemetry

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"time"
)

// LiveCaller is what a caller did in the window. Of one that was new in it, and came when
// there was no room for it, what it did before it got a place is missing.
type LiveCaller struct {
	Caller, Plan string
	// Requests have ended. Of them Hits had no model run for them; Errors, Refused and Shed
	// are as in LiveCounts.
	Requests, Hits, Errors, Refused, Shed int64
	// Busy is for how long upstreams worked for it, in the background as well.
	Busy time.Duration
	// InputTokens, CachedTokens and OutputTokens are those of model calls, likewise.
	InputTokens, CachedTokens, OutputTokens int64
	// Policies are those that refused it, at most 8 and "other".
	Policies []LiveCount
	// LastSeen is when its last request was answered, within a second.
	LastSeen time.Time
}

// callerCounts are a caller's sums over a window, in less room than LiveCounts.
type callerCounts struct {
	requests, hits, errors, refused, shed uint32
	busy                                  time.Duration
	input, cached, output                 int64
}

func (c *callerCounts) add(e *Entry, hit, background bool) {
	c.busy += e.UpstreamTime
	c.input += e.Usage.Input
	c.cached += e.Usage.Cached
	c.output += e.Usage.Output
	if background {
		return
	}
	c.requests++
	switch e.refused() {
	case RefusedQuota:
		c.refused++
	case RefusedQueue, RefusedStopping:
		c.shed++
	}
	if e.failed() {
		c.errors++
	}
	if hit {
		c.hits++
	}
}

func (c *callerCounts) sub(o *callerCounts) {
	c.requests -= o.requests
	c.hits -= o.hits
	c.errors -= o.errors
	c.refused -= o.refused
	c.shed -= o.shed
	c.busy -= o.busy
	c.input -= o.input
	c.cached -= o.cached
	c.output -= o.output
}

// liveCaller is what is known of one caller.
type liveCaller struct {
	id, plan string
	last     uint32 // step of its last request
	counts   steps[callerCounts]
	policies tally
	// credit is what the one had done whose place it has, and counts for it until the
	// step of until: else those who come anew would only push each other out.
	credit, until uint32
}

// rank is how many requests speak for keeping a caller. It may be of a little earlier
// than now: the one that is asked has not been rolled on.
func (c *liveCaller) rank(step uint32) uint32 {
	if step-c.last >= windowSteps {
		return 0
	}
	if int32(c.until-step) > 0 {
		return c.counts.sum.requests + c.credit
	}
	return c.counts.sum.requests
}

// liveCallers are the callers that use most: at most maxLiveCallers of them. Who comes
// when all places are taken gets that of one who does little, with his count for credit,
// as in Space-Saving (Metwally, Agrawal and El Abbadi, 2005). There the least of all is
// replaced; here it is the least of a few taken at random, so that nobody has to look at
// all of them, and counts can go down as time goes by. Of those who do much, none is lost
// while most do little.
type liveCallers struct {
	by      map[string]*liveCaller
	all     []*liveCaller
	random  uint64
	evicted uint32 // the step in which somebody lost his place last
	full    bool   // somebody did
	seen    distinct
}

// candidates is of how many the least loses his place.
const candidates = 16

func newLiveCallers() liveCallers {
	return liveCallers{by: map[string]*liveCaller{}, random: 1, seen: distinct{seed: maphash.MakeSeed()}}
}

func (s *liveCallers) observe(e *Entry, hit, background bool, step uint32, pool *cellPool) {
	if e.Caller == "" {
		return
	}
	id := e.Caller
	if len(id) > maxLiveName {
		id = id[:maxLiveName]
	}
	if !background {
		s.seen.add(id, step)
	}
	c := s.by[id]
	if c == nil {
		if background {
			return
		}
		c = s.place(step, pool)
		c.id, c.counts.step = strings.Clone(id), step // id may be a part of something long
		s.by[c.id] = c
	}
	c.counts.roll(step, (*callerCounts).sub).add(e, hit, background)
	c.counts.sum.add(e, hit, background)
	if background {
		return
	}
	c.last = step
	if c.plan != e.Plan {
		c.plan = strings.Clone(e.Plan)
	}
	if e.Policy != "" {
		c.policies.add(tallied{e.PolicyScope, e.Policy}, 0, step, pool)
	}
	if e.Shadow != "" {
		c.policies.add(tallied{e.ShadowScope, e.Shadow}, 1, step, pool)
	}
}

// place is an empty place, with the credit of whoever had it.
func (s *liveCallers) place(step uint32, pool *cellPool) *liveCaller {
	if len(s.all) < maxLiveCallers {
		c := &liveCaller{}
		s.all = append(s.all, c)
		return c
	}
	least, most := (*liveCaller)(nil), uint32(math.MaxUint32)
	for range candidates {
		s.random ^= s.random << 13 // xorshift (Marsaglia, 2003)
		s.random ^= s.random >> 7
		s.random ^= s.random << 17
		c := s.all[s.random%uint64(len(s.all))]
		if rank := c.rank(step); rank < most {
			least, most = c, rank
		}
	}
	delete(s.by, least.id)
	if most > 0 {
		s.evicted, s.full = step, true
	}
	release(pool, []*window{&least.policies.window})
	policies := tally{names: least.policies.names[:0], window: least.policies.window}
	*least = liveCaller{credit: most, until: step + windowSteps, policies: policies}
	return least
}

func (s *liveCallers) roll(step uint32, pool *cellPool) {
	for _, c := range s.all {
		c.policies.roll(step, pool)
	}
}

// of is how many callers the window has had, given how many of them are known: exactly
// where nobody has lost his place in it, else an estimate with a standard error of 3 %.
func (s *liveCallers) of(known int, step uint32) int {
	if !s.full || step-s.evicted >= windowSteps {
		return known
	}
	return max(known, s.seen.count(step))
}

// read copies what is known of a caller, but for its policies. It is the zero LiveCaller
// of one of which the window has nothing.
func (c *liveCaller) read(step uint32, started time.Time) LiveCaller {
	if step-c.last >= windowSteps {
		return LiveCaller{}
	}
	c.counts.roll(step, (*callerCounts).sub)
	n := c.counts.sum
	return LiveCaller{
		Caller: c.id, Plan: c.plan,
		Requests: int64(n.requests), Hits: int64(n.hits), Errors: int64(n.errors), Refused: int64(n.refused), Shed: int64(n.shed),
		Busy: n.busy, InputTokens: n.input, CachedTokens: n.cached, OutputTokens: n.output,
		LastSeen: started.Add(time.Duration(c.last) * time.Second),
	}
}

// distinct estimates how many different texts came in the window: HyperLogLog (Flajolet,
// Fusy, Gandouet and Meunier, 2007), in which every register remembers when it saw each
// rank last, so that what is old can be left out.
type distinct struct {
	seed maphash.Seed
	seen [registers][ranks]uint32 // steps, from 1
}

const (
	registers = 1024
	ranks     = 24 // enough for 2^34 texts
)

func (d *distinct) add(text string, step uint32) {
	h := maphash.String(d.seed, text)
	rank := min(bits.LeadingZeros64(h|1<<10), ranks-1)
	d.seen[h%registers][rank] = step + 1
}

func (d *distinct) count(step uint32) int {
	sum, empty := 0.0, 0
	for i := range d.seen {
		rank := 0
		for r := ranks - 1; r >= 0; r-- {
			if at := d.seen[i][r]; at > 0 && step+1-at < windowSteps {
				rank = r + 1
				break
			}
		}
		if rank == 0 {
			empty++
		}
		sum += math.Ldexp(1, -rank)
	}
	estimate := 0.7213 / (1 + 1.079/registers) * registers * registers / sum
	if estimate <= 2.5*registers && empty > 0 { // where counting the empty ones is better
		estimate = registers * math.Log(registers/float64(empty))
	}
	return int(math.Round(estimate))
}
