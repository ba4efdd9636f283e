package admission

import (
	"crypto/rand"
	"math"
	"slices"
	"time"
)

// The rules' constants. Where they come from is said in docs/overload.md.
const (
	// objectiveShare of SLO.TTFT is the longest wait: with more everyone is late,
	// with less there is nothing to be fair among.
	objectiveShare = 0.4
	// aloneShare is the same for a request of whose caller nothing else waits: who asks
	// for less than his share does not make the queue long, and waiting is better for
	// him than to be refused and late.
	aloneShare = 0.65
	// hopelessShare of the longest wait is what a newcomer may have to expect. One
	// whose ticket is due may expect all of it.
	hopelessShare = 0.5
	// newestFirst: once the oldest request of a caller has waited for this share of
	// its longest wait, the newest goes first. The old ones are late already.
	newestFirst = 0.25
	// reserveAfter is how long a request that fits nowhere may be overtaken by
	// smaller ones of other classes.
	reserveAfter = 250 * time.Millisecond
	// owed is the share of the work that each lower class is owed, and of the places
	// in the queue that nobody above takes from it.
	owed = 0.05
	// recently is for how long a class is active after a request, so that some of a
	// target's places stay free of those below: see kept.
	recently = 10 * time.Second
	// controlEvery is the step of the limits.
	controlEvery = time.Second
)

// kept is how many of a target's n places stay free of a class while a class above it is
// active. What runs is not interrupted: of few places one alone would too often be taken
// as well when somebody comes who waits for an answer.
func kept(c Class, n float64) float64 {
	switch c {
	case Critical:
		return 0
	case Standard:
		return math.Floor(n * 0.05)
	}
	return min(max(math.Ceil(n*0.2), 3), n-1)
}

// Scheduler decides. It has neither locks nor a clock: it is for one goroutine at a
// time, and for simulations.
type Scheduler struct {
	options Options
	decided func(*Item)
	targets []*target
	callers callers
	lines   [classes]line
	waiting int
	running int
	expiry  wheel
	groups  map[string]*group // open ones

	groupIDs   uint64
	rate       rate
	controlled time.Time // when the limits last moved
	latest     time.Time // the time that it was last told
	fits       []int     // scratch: the targets with room
	load       []float64
}

// target is what runs on one server.
type target struct {
	*limiter
	weight  float64
	running int     // places taken
	sockets int     // beside those, by sockets
	tokens  int64   // held in its key-value cache, as far as is known
	prefill int64   // of prompts that have no first token yet
	items   int     // requests there
	whole   []*Item // with a prompt in prefill, whose first token nobody will see
}

// NewScheduler checks the options. decided is called for each item once, from
// within a method of the Scheduler: with a target, or with a refusal. It may not
// call the Scheduler. The times that the methods are told should not go back, as
// those of time.Now do not; where they do, everyone waits as long as before.
func NewScheduler(o Options, decided func(*Item)) (*Scheduler, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if len(o.Secret) == 0 {
		o.Secret = []byte(rand.Text())
	}
	s := &Scheduler{
		options: o,
		decided: decided,
		callers: newCallers(),
		groups:  map[string]*group{},
		load:    make([]float64, len(o.Targets)),
	}
	for _, t := range o.Targets {
		s.targets = append(s.targets, &target{limiter: newLimiter(o.Limits, o.SLO, time.Time{}), weight: float64(max(t.Weight, 1))})
	}
	return s, nil
}

// Submit hands in an item, once. It is decided before Submit returns where there is
// room for it, or no hope.
func (s *Scheduler) Submit(it *Item, now time.Time) {
	if it.state != fresh {
		return
	}
	s.clock(now)
	s.arrive(it, now)
	r := &it.request
	s.lines[r.Class].arrived = now
	patience := s.patience(r, it.caller.queued == 0, now)
	it.expires = now.Add(patience)
	// What a deadline allows is known by what was measured: where nothing runs, it is
	// measured again.
	inTime := patience > 0 || s.running == 0 && !r.late(now)
	// Who shares a place takes none from those before it.
	if inTime && (s.open(r) != nil || s.nextIs(r.Class, now)) && s.place(it, now) {
		return
	}
	if reason, until := s.hopeless(it, patience, now); reason != "" {
		s.refuse(it, reason, until, now)
		return
	}
	if !s.makeRoom(it, now) {
		s.refuse(it, QueueFull, time.Time{}, now)
		return
	}
	s.enqueue(it, now)
	s.dispatch(now)
}

func (s *Scheduler) arrive(it *Item, now time.Time) {
	r := &it.request
	r.bound()
	it.state, it.arrived, it.target = waiting, now, -1
	it.cost = s.rate.price(r)
	it.caller = s.callers.get(r)
}

// nextIs reports whether a newcomer of class goes before all that waits.
func (s *Scheduler) nextIs(class Class, now time.Time) bool {
	if s.waiting == 0 {
		return true
	}
	for i := range s.lines {
		l := &s.lines[i]
		if len(l.heap) > 0 && (Class(i) <= class || l.credit >= l.next(now).cost) {
			return false
		}
	}
	return true
}

// patience is how long r may wait, alone or behind others of its caller.
func (s *Scheduler) patience(r *Request, alone bool, now time.Time) time.Duration {
	p := s.options.MaxWait
	if s.options.SLO.TTFT > 0 && r.Class != Batch {
		share := objectiveShare
		if alone {
			share = aloneShare
		}
		p = min(p, time.Duration(share*float64(s.options.SLO.TTFT)))
	}
	if !r.Deadline.IsZero() {
		p = min(p, r.Deadline.Sub(now)-s.rate.takes(r, now))
	}
	if !r.WaitUntil.IsZero() {
		p = min(p, r.WaitUntil.Sub(now))
	}
	return p
}

// hopeless tells why a request would wait in vain, and until when, if that is known.
func (s *Scheduler) hopeless(it *Item, patience time.Duration, now time.Time) (Reason, time.Time) {
	if patience <= 0 {
		return DeadlineTooClose, time.Time{}
	}
	share := hopelessShare
	if it.returns || s.keeps(it, now) {
		it.returns, share = true, 1
	}
	if !s.anyOpen(now) {
		until := s.opensAt(now)
		if until.After(it.expires) || s.options.MaxQueue < 0 || s.down(now) {
			return NoTarget, until
		}
		return "", time.Time{}
	}
	if s.options.MaxQueue < 0 {
		return QueueFull, time.Time{}
	}
	c, l := it.caller, &s.lines[it.request.Class]
	wait, known := s.rate.wait(c.cost, s.portion(c, l))
	if known && wait > time.Duration(share*float64(patience)) {
		return WaitTooLong, time.Time{}
	}
	return "", time.Time{}
}

// portion is the part of its class's work that c gets while it has something to wait
// for.
func (s *Scheduler) portion(c *caller, l *line) float64 {
	all := l.weight
	if c.at < 0 {
		all += c.weight
	}
	return c.weight / all
}

// makeRoom refuses, where the queue is full, who is to make room. It reports whether it
// stays.
func (s *Scheduler) makeRoom(it *Item, now time.Time) bool {
	victim, stays := s.victim(it)
	if victim != nil {
		s.dequeue(victim, now)
		s.refuse(victim, QueueFull, time.Time{}, now)
	}
	return stays
}

// victim is who makes room where the queue is full: of who has the longest line for its
// weight, in the lowest class that has more than it is owed, the newest request; nil
// where there is room, or where that is it, which does not stay then.
func (s *Scheduler) victim(it *Item) (victim *Item, stays bool) {
	if s.waiting < s.options.MaxQueue {
		return nil, true
	}
	least := 0 // where there is not a place for each class
	if s.options.MaxQueue >= classes {
		least = max(int(owed*float64(s.options.MaxQueue)), 1)
	}
	for i := classes - 1; i >= 0; i-- {
		l, own := &s.lines[i], Class(i) == it.request.Class
		if own && l.queued < least || !own && l.queued <= least {
			continue
		}
		longest := l.longest()
		if own {
			longest = it.longer(longest)
		}
		if longest == nil {
			return nil, false
		}
		return longest.last, true
	}
	return nil, false
}

// longer is the caller whose newest request makes room for it: longest, or its own
// where that one's line would be longer, nil where it is itself the newest there.
func (it *Item) longer(longest *caller) *caller {
	c := it.caller
	if longest != nil && float64(c.queued+1)/c.weight < longest.length() {
		return longest
	}
	if it.returns && c.last != nil && !c.last.returns {
		return c // it goes before those
	}
	return nil
}

func (s *Scheduler) enqueue(it *Item, now time.Time) {
	c, l := it.caller, &s.lines[it.request.Class]
	if c.idle { // its only other one has just made room
		s.callers.wake(c)
	}
	c.push(it)
	if c.at < 0 {
		l.enter(c)
	}
	l.queued++
	l.sort(c)
	if s.waiting++; s.waiting == 1 {
		s.rate.waits(now)
	}
	s.expiry.add(it, now)
}

func (s *Scheduler) dequeue(it *Item, now time.Time) {
	c, l := it.caller, &s.lines[it.request.Class]
	c.remove(it)
	if c.queued == 0 {
		l.leave(c)
	}
	l.queued--
	l.sort(c)
	if s.waiting--; s.waiting == 0 {
		s.rate.empty(now)
	}
	s.expiry.remove(it)
	s.callers.rest(c, now)
}

// dispatch gives work out for as long as there is both work and room.
func (s *Scheduler) dispatch(now time.Time) {
	for s.waiting > 0 && s.dispatchOne(now) {
	}
}

func (s *Scheduler) dispatchOne(now time.Time) bool {
	for _, class := range s.order(now) {
		l := &s.lines[class]
		if len(l.heap) == 0 {
			continue
		}
		it := l.next(now)
		if !it.expires.After(now) {
			s.expire(it, now)
			return true
		}
		if s.place(it, now) {
			return true
		}
		if it.stuck.IsZero() {
			it.stuck = now
		}
		if now.Sub(it.stuck) > reserveAfter {
			return false // what comes free is for it
		}
	}
	return false
}

// order is the classes in the order in which they go: from the first, but one that
// is owed the cost of its next request goes before.
func (s *Scheduler) order(now time.Time) [classes]Class {
	order := [classes]Class{Critical, Standard, Batch}
	for class := Class(classes - 1); class > 0; class-- {
		l := &s.lines[class]
		if len(l.heap) > 0 && l.credit >= l.next(now).cost {
			i := slices.Index(order[:], class)
			copy(order[1:i+1], order[:i])
			order[0] = class
		}
	}
	return order
}

// goesAs is the class whose places may be taken for it to run.
func (s *Scheduler) goesAs(it *Item, now time.Time) Class {
	class := it.request.Class
	if s.lines[class].credit >= it.cost {
		return Critical // it is owed to it: it goes like the first class
	}
	for above := range class {
		if at := s.lines[above].arrived; !at.IsZero() && now.Sub(at) < recently {
			return class
		}
	}
	return Critical
}

// run puts it on a target, alone or in a group.
func (s *Scheduler) run(it *Item, target int, g *group, now time.Time) {
	c, l, r := it.caller, &s.lines[it.request.Class], &it.request
	c.running++ // before it leaves the line: it does not rest
	if it.queued() {
		l.floor = max(l.floor, c.counter)
		s.dequeue(it, now)
	} else {
		c.counter = max(c.counter, l.least())
		l.floor = max(l.floor, c.counter)
	}
	s.charge(c, it.cost)
	it.charged = it.cost
	s.owe(it, now)
	s.hold(it, target, g, now)
	it.state, it.dispatched = running, now
	s.observe(Event{Class: r.Class, Target: target, Wait: now.Sub(it.arrived)})
	s.decided(it)
}

// owe counts what the lower classes are owed of all work, this one's own included,
// and what they have had of it.
func (s *Scheduler) owe(it *Item, now time.Time) {
	for class := Standard; class < classes; class++ {
		l := &s.lines[class]
		if class == it.request.Class {
			l.credit = max(l.credit-it.cost, 0)
		}
		if len(l.heap) > 0 {
			l.credit = min(l.credit+owed*it.cost, mostCredit*max(it.cost, l.next(now).cost))
		}
	}
}

// mostCredit bounds what a class is owed, in requests: what was not used long ago is
// not made up for.
const mostCredit = 8

// charge moves c's counter, and c where that belongs.
func (s *Scheduler) charge(c *caller, cost float64) {
	c.counter += cost / c.weight
	if c.at >= 0 {
		s.lines[c.key.class].moved(c)
	}
}

func (s *Scheduler) anyOpen(now time.Time) bool {
	if s.options.Open == nil {
		return true
	}
	for i := range s.targets {
		if s.options.Open(i, now) {
			return true
		}
	}
	return false
}

// down reports whether no target is open and none will be by itself: those that
// failed may fail again, and who waits for them would wait for the next failure.
func (s *Scheduler) down(now time.Time) bool {
	if s.options.Pauses == nil || s.anyOpen(now) {
		return false
	}
	for i := range s.targets {
		if s.options.Pauses(i, now) {
			return false
		}
	}
	return true
}

// opensAt is when the first target will be open: now where nobody knows.
func (s *Scheduler) opensAt(now time.Time) time.Time {
	if s.options.OpensAt == nil {
		return now
	}
	if at := s.options.OpensAt(now); !at.IsZero() {
		return at
	}
	return now
}

// Cancel is called when nobody waits for an item any more. One that waits is gone;
// one that a target works on holds its place until Done.
func (s *Scheduler) Cancel(it *Item, now time.Time) {
	if it.state != waiting {
		return
	}
	s.dequeue(it, now)
	it.state = ended
	s.observe(Event{Class: it.request.Class, Target: -1, Wait: now.Sub(it.arrived), Left: true})
	s.dispatch(now)
}

// try is Submit for who would not wait, and would rather have no target than one
// that he has tried.
func (s *Scheduler) try(it *Item, now time.Time) bool {
	s.arrive(it, now)
	if s.waiting == 0 && s.place(it, now) {
		return true
	}
	it.state = ended
	s.callers.rest(it.caller, now)
	return false
}

// refuseAll refuses all that waits.
func (s *Scheduler) refuseAll(reason Reason, until, now time.Time) {
	for i := range s.lines {
		for l := &s.lines[i]; len(l.heap) > 0; {
			it := l.heap[0].caller.first
			s.dequeue(it, now)
			s.refuse(it, reason, until, now)
		}
	}
}

// Tick lets time pass: refuses those who waited for too long, tries again what was
// closed, and once a second moves the limits. It is due every 10 ms while something
// waits, and once a second while something runs.
func (s *Scheduler) Tick(now time.Time) {
	s.clock(now)
	s.expiry.due(now, func(it *Item) { s.expire(it, now) })
	if since := now.Sub(s.controlled); since >= controlEvery {
		if s.controlled.IsZero() {
			since = controlEvery
		}
		s.control(since, now)
	}
	for _, t := range s.targets {
		t.prefilled(now)
	}
	if s.waiting > 0 && s.down(now) {
		s.refuseAll(NoTarget, s.opensAt(now), now)
	}
	s.dispatch(now)
}

// expire refuses it, whose time is over.
func (s *Scheduler) expire(it *Item, now time.Time) {
	s.dequeue(it, now)
	reason, until := Expired, time.Time{}
	if !s.anyOpen(now) {
		reason, until = NoTarget, s.opensAt(now)
	}
	s.refuse(it, reason, until, now)
}

func (s *Scheduler) control(since time.Duration, now time.Time) {
	s.controlled = now
	s.rate.tick(since, now)
	n := 1
	if s.options.Instances != nil {
		n = max(s.options.Instances(), 1)
	}
	for _, t := range s.targets {
		t.share(n)
		t.tick(now)
	}
	s.callers.sweep(&s.lines, now)
}

// Engine tells what a target says of itself.
func (s *Scheduler) Engine(target int, e EngineState, now time.Time) {
	s.targets[target].engine(e, now)
	s.dispatch(now)
}

// SetBatchSize moves the number of items that may share one place.
func (s *Scheduler) SetBatchSize(n int) { s.options.BatchSize = max(n, 1) }

// Idle reports whether nothing waits and nothing runs: then no Tick is due.
func (s *Scheduler) Idle() bool { return s.waiting == 0 && s.running == 0 }

func (s *Scheduler) observe(e Event) {
	if s.options.Observe != nil {
		s.options.Observe(e)
	}
}
