package ratelimit

import "time"

// lease is what an instance holds of one count, and what it knows of it. All times
// are by the instance's own clock, in nanoseconds since its start.
type lease struct {
	key      slotKey
	policy   *Policy
	segments [maxSegments]segment // the first count of them, oldest first
	count    int

	full   int64 // when nothing is used any more, by the last answer
	asked  int64 // when that came; 0 is never
	valid  time.Duration
	denied bool // the last answer granted nothing

	demand  int64   // units asked for since
	since   int64   // the last call
	rate    float64 // units asked for in a nanosecond, smoothed
	waiting int64   // units that followers of the present call wait for
	call    *leaseCall

	owed   int64 // to be settled with the next call
	queued bool  // for the next flush
	used   int64 // when it was last used

	strict strictWait
}

// same says that p and q, policies of one count, have the same numbers, so that
// what was granted by one is good by the other: a configuration that is read again
// makes other Policies of what did not change.
func (p *Policy) same(q *Policy) bool {
	return p == q || p.ready.interval == q.ready.interval && p.ready.burst == q.ready.burst &&
		p.MaxExcess == q.MaxExcess && p.Window == q.Window
}

// segment is one grant: units in a row, of which the i-th may be used from
// eligible+i*interval until valid+i*interval.
type segment struct {
	eligible, valid int64
	units           int64
	next            int64 // the first unit that is not used
}

// maxSegments is how many grants of one count are held at once. The old ones are
// kept, though used up, as long as there is room: what is given back goes into them.
const maxSegments = 4

// leaseCall is a Grant that is under way. Its followers wait for done.
type leaseCall struct {
	done chan struct{}
	err  error // written before done is closed
}

// gone is how many of the first units have run out.
func (s *segment) gone(interval time.Duration, now int64) int64 {
	if now <= s.valid {
		return 0
	}
	return min((now-s.valid+int64(interval)-1)/int64(interval), s.units)
}

// first is the first unit that is neither used nor run out.
func (s *segment) first(interval time.Duration, now int64) int64 {
	return max(s.next, s.gone(interval, now))
}

// find is when cost units can be used: now, or later, or, as far as it is
// known here, never.
func (l *lease) find(cost, now int64) (at int64, ok bool) {
	interval := l.policy.ready.interval
	at = now
	// Waiting for the one unit can make another run out; so again, a few times.
	for range 2 * maxSegments {
		left, latest := cost, at
		for i := range l.segments[:l.count] {
			s := &l.segments[i]
			first := s.first(interval, at)
			k := min(left, s.units-first)
			if k <= 0 {
				continue
			}
			latest = max(latest, s.eligible+(first+k-1)*int64(interval))
			if left -= k; left == 0 {
				break
			}
		}
		if left > 0 {
			return 0, false
		}
		if latest == at {
			return at, true
		}
		at = latest
	}
	return 0, false
}

// use uses up to cost units, whether they are eligible or not, and returns how
// many there were.
func (l *lease) use(cost, now int64) int64 {
	left := cost
	for i := range l.segments[:l.count] {
		s := &l.segments[i]
		first := s.first(l.policy.ready.interval, now)
		if k := min(left, s.units-first); k > 0 {
			s.next = first + k
			left -= k
		}
	}
	return cost - left
}

// unuse makes up to cost used units usable again, each in its own place, and
// returns how many there were that had not run out.
func (l *lease) unuse(cost, now int64) int64 {
	left := cost
	for i := l.count - 1; i >= 0; i-- {
		s := &l.segments[i]
		// What is not gone and before next was really used: use goes over what is
		// gone, and nothing else.
		if k := min(left, s.next-s.gone(l.policy.ready.interval, now)); k > 0 {
			s.next -= k
			left -= k
		}
	}
	return cost - left
}

// unused is how many units are held that can still be used, now or later.
func (l *lease) unused(now int64) int64 {
	n := int64(0)
	for i := range l.segments[:l.count] {
		s := &l.segments[i]
		n += max(s.units-s.first(l.policy.ready.interval, now), 0)
	}
	return n
}

// add takes a grant in. Where there is no room the oldest that is used up is
// forgotten, else the oldest.
func (l *lease) add(s segment, now int64) {
	if l.count == maxSegments {
		drop := 0
		for i := range l.segments {
			if l.segments[i].first(l.policy.ready.interval, now) >= l.segments[i].units {
				drop = i
				break
			}
		}
		copy(l.segments[drop:], l.segments[drop+1:])
		l.count--
	}
	l.segments[l.count] = s
	l.count++
}

// decision is what is known of the count: that which the last answer said, and
// what is held here and not used.
func (l *lease) decision(now int64, d Decision) Decision {
	g := l.policy.ready
	debt := max(time.Duration(l.full-now), 0) - time.Duration(l.unused(now))*g.interval
	left := Decision{}
	g.decideBucket(max(debt, 0), 0, 0, &left)
	left.Allowed, left.RetryAfter = d.Allowed, d.RetryAfter
	return left
}

// deny is the decision on a take of cost that has to wait.
func (l *lease) deny(cost, now int64, wait time.Duration) Decision {
	d := l.decision(now, Decision{RetryAfter: wait})
	d.Remaining = min(d.Remaining, max(cost-1, 0))
	if d.Reset == 0 {
		d.Reset = wait
	}
	d.Full = max(d.Full, d.Reset)
	return d
}

// verdict is what a lease says to a take.
type verdict uint8

const (
	unknown verdict = iota // the store has to be asked
	taken                  // the units are used
	refused                // it has to wait, and asking would change nothing
)

// decide takes cost units, if they are there.
func (l *lease) decide(cost, now int64) (verdict, Decision) {
	g := l.policy.ready
	if cost == 0 {
		if l.asked == 0 || time.Duration(now-l.asked) > l.policy.Slack() {
			return unknown, Decision{}
		}
		if over := time.Duration(l.full-now) - g.capacity - aheadSlacks*l.policy.Slack(); over > 0 {
			return refused, l.deny(0, now, over)
		}
		return taken, l.decision(now, Decision{Allowed: true})
	}
	at, ok := l.find(cost, now)
	switch {
	case ok && at == now:
		l.use(cost, now)
		return taken, l.decision(now, Decision{Allowed: true})
	case ok:
		return refused, l.deny(cost, now, time.Duration(at-now))
	}
	// When the store granted nothing, it does not before there is room ahead; a
	// slack earlier than this the units come into sight, so that is when to ask.
	wait := time.Duration(l.full-now) + time.Duration(cost)*g.interval - g.capacity
	if l.denied && wait > l.policy.Slack() {
		return refused, l.deny(cost, now, wait)
	}
	return unknown, Decision{}
}

// request makes the Grant that a take of cost needs.
func (l *lease) request(cost, now int64) Grant {
	slack := l.policy.Slack()
	if passed := float64(now - l.since); passed > 0 {
		weight := passed / (passed + 2*float64(slack))
		l.rate += weight * (float64(l.demand)/passed - l.rate)
	}
	l.demand, l.since = 0, now
	// As many as will be asked for while they are valid, four fifths to be careful:
	// what is not used is lost. Under load they are valid for long, and then two
	// slacks are enough to ask rarely.
	horizon := float64(min(max(l.valid, slack), 2*slack)) * 0.8
	if debt := time.Duration(l.full - now); debt < l.policy.ready.capacity/4 {
		horizon = float64(slack) * 1.6
	}
	want := min(cost+l.waiting+int64(min(l.rate*horizon, MaxUnits)), MaxUnits)
	owed := l.owed
	l.owed = 0
	return Grant{Policy: l.policy, Key: l.key.key, Owed: owed, Cost: cost, Want: want}
}

// granted takes in the answer to a request that was sent after before and
// answered before after.
func (l *lease) granted(a *Grant, before, after int64) {
	l.full, l.asked = after+int64(a.Full), max(after, 1)
	if a.Cost > 0 {
		l.denied, l.valid = a.Units == 0, a.Valid
	}
	if a.Units > 0 {
		l.add(segment{
			eligible: after + int64(a.Eligible),
			valid:    before + int64(a.Valid),
			units:    a.Units,
		}, after)
	}
}

// charge adds to what is owed, within what a count can bear.
func (l *lease) charge(units, now int64) {
	interval := int64(l.policy.ready.interval)
	most := int64(maxDebt) / interval
	units = min(max(units, -most), most)
	l.owed = min(max(l.owed+units, -most), most)
	l.full = min(max(l.full, now)+units*interval, now+int64(maxDebt))
}
