package admission

import (
	"slices"
	"time"
)

// Preview is what a Queue would do with a request now.
type Preview struct {
	// Runs says that the request would have its place at once, at one of Targets.
	Runs    bool
	Targets []int
	// Refusal is why it would be refused at once, nil where it would not.
	Refusal *Refusal
	// Load is the outstanding cost of each target, by its number: by what Options.Choose
	// chooses among Targets.
	Load []float64
	// Patience is the longest that it may wait.
	Patience time.Duration
	// Wait is how long it would wait, as far as is known: Known. Then it is an estimate
	// of the time that its caller's share of the targets needs for what waits before it.
	Wait  time.Duration
	Known bool
	// Before is how many requests of the same caller and class wait already.
	Before int
	// Waiting is how many wait, by class.
	Waiting [classes]int
	// Cost is the work that it stands for: see Cost. Without tokens it is its items or,
	// where others have tokens, as many as those have in the time of one without.
	Cost float64
}

// Preview tells what Enter would do with r now, by the same rules, and does nothing of
// it. A Refusal has the time of the appointment that r would get, and keeps none.
func (q *Queue) Preview(r Request) Preview {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return Preview{Refusal: &Refusal{Reason: QueueClosed}}
	}
	return q.scheduler.Preview(r, time.Now())
}

// Preview is Queue.Preview: Submit for a copy of the caller, which nothing else holds.
func (s *Scheduler) Preview(r Request, now time.Time) Preview {
	r.bound()
	it := &Item{request: r, state: waiting, target: -1, arrived: now, returns: len(r.Tried) > 0, cost: s.rate.price(&r)}
	it.caller = s.callers.copyOf(&r)
	c, l := it.caller, &s.lines[r.Class]
	p := Preview{Before: c.queued, Cost: it.cost, Load: slices.Clone(s.load)}
	for i := range s.lines {
		p.Waiting[i] = s.lines[i].queued
	}
	p.Patience = s.patience(&r, c.queued == 0, now)
	it.expires = now.Add(p.Patience)
	inTime := p.Patience > 0 || s.running == 0 && !r.late(now)
	g := s.open(&r)
	switch {
	case inTime && g != nil:
		p.Runs, p.Targets = true, []int{g.target}
		return p
	case inTime && s.nextIs(r.Class, now) && s.fit(it, now, func(*target) {}):
		p.Runs, p.Targets = true, slices.Clone(s.fits)
		return p
	}
	reason, until := s.hopeless(it, p.Patience, now)
	if reason == "" {
		if _, stays := s.victim(it); !stays {
			reason = QueueFull
		}
	}
	if reason != "" {
		it.refusal = &Refusal{Reason: reason}
		if reason != DeadlineTooClose {
			s.appoint(it, until, now)
		}
		p.Refusal = it.refusal
		return p
	}
	p.Wait, p.Known = s.rate.wait(c.cost+it.cost, s.portion(c, l))
	return p
}

// copyOf is a copy of the caller of r as get would return it.
func (cs *callers) copyOf(r *Request) *caller {
	c := caller{key: callerKey{r.Class, r.Caller}, at: -1, bucket: -1}
	if known := cs.by[c.key]; known != nil {
		c = *known
	}
	if c.queued == 0 {
		c.weight = weightOf(r)
	}
	return &c
}
