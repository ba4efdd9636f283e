package admission

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// Reason says why a request was refused.
type Reason string

// The reasons.
const (
	// QueueFull: no place is left in the queue, and nobody takes more of it.
	QueueFull Reason = "queue_full"
	// WaitTooLong: it would have waited for longer than it may.
	WaitTooLong Reason = "wait_too_long"
	// Expired: it did wait for that long.
	Expired Reason = "expired"
	// DeadlineTooClose: it could not be ready by its deadline.
	DeadlineTooClose Reason = "deadline"
	// NoTarget: no target may be given work, and none will be in time.
	NoTarget Reason = "no_target"
	// QueueClosed: the queue was closed.
	QueueClosed Reason = "closed"
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{QueueFull, WaitTooLong, Expired, DeadlineTooClose, NoTarget, QueueClosed}
}

// Refusal is why a request is not worked on, and when it can be. It is an error.
type Refusal struct {
	Reason Reason
	// RetryAfter is the time until this request's own appointment: its caller's
	// refused requests have one after the other, as fast as the caller's share of
	// the targets allows. 0 where nobody knows.
	RetryAfter time.Duration
	// Booked says that the appointment is kept: with the ticket of it, the request
	// may wait for longer, and goes before others of its caller. One that is more
	// than a minute away is not kept: clients do not wait for that long.
	Booked bool

	slot time.Time
}

// Error implements error.
func (r *Refusal) Error() string { return "refused: " + string(r.Reason) }

const (
	// leastWait is the nearest that an appointment is.
	leastWait = time.Second
	// mostWait is the farthest that one is kept: SDKs ignore a longer Retry-After.
	mostWait = time.Minute
	// promised is the part of its caller's share that is given to the first of its
	// appointments: what comes anew needs the rest. The farther away an appointment is,
	// the longer the overload lasts and the less there will be: at promisedFor from now
	// it is half of that. Promises of more bring back requests that are late in any
	// case, in the place of new ones that are not.
	promised    = 0.5
	promisedFor = 10 * time.Second
	// early and late are how much before and after its time a ticket is good.
	early = time.Second
	late  = 10 * time.Second
)

// refuse decides it. until is when it could be tried again, where that is known.
func (s *Scheduler) refuse(it *Item, reason Reason, until, now time.Time) {
	it.state = ended
	it.refusal = &Refusal{Reason: reason}
	if reason != DeadlineTooClose { // coming back later makes that no better
		s.appoint(it, until, now)
	}
	s.callers.rest(it.caller, now)
	s.observe(Event{Class: it.request.Class, Target: -1, Wait: max(now.Sub(it.arrived), 0), Reason: reason})
	s.decided(it)
}

// Refuse refuses it as another one was refused that it waited for. It has an
// appointment of its own.
func (s *Scheduler) Refuse(it *Item, reason Reason, now time.Time) {
	if it.state != fresh {
		return
	}
	s.arrive(it, now)
	until := time.Time{}
	if !s.anyOpen(now) {
		until = s.opensAt(now)
	}
	s.refuse(it, reason, until, now)
}

// appoint says when it is to come back. Each of a caller's refused requests has a
// time of its own, apart by what the caller's share of the targets needs for one.
// One that comes back too early keeps the time that it has.
func (s *Scheduler) appoint(it *Item, until, now time.Time) {
	c, l, refusal := it.caller, &s.lines[it.request.Class], it.refusal
	if slot, ok := s.slotOf(&it.request); ok && slot.After(now.Add(early)) && !slot.After(now.Add(mostWait)) {
		refusal.RetryAfter, refusal.slot, refusal.Booked = slot.Sub(now), slot, true
		return
	}
	slot := now.Add(leastWait)
	if c.nextSlot.After(slot) && !c.nextSlot.After(now.Add(2*mostWait)) { // else the clock was set back
		slot = c.nextSlot
	}
	if until.After(slot) {
		slot = until
	}
	refusal.RetryAfter, refusal.slot = slot.Sub(now), slot
	if refusal.RetryAfter > mostWait {
		return
	}
	share := promised / (1 + float64(refusal.RetryAfter)/float64(promisedFor))
	apart, known := s.rate.wait(it.cost, share*s.portion(c, l))
	if !known {
		apart = max(s.rate.usual/time.Duration(max(s.running, 1)), time.Millisecond)
	}
	c.nextSlot, refusal.Booked = slot.Add(min(apart, mostWait)), true
}

// Ticket is what shows that the item has its appointment: "" where it has none. It
// is for the same caller and the same request alone, by digest.
func (s *Scheduler) Ticket(it *Item, digest [32]byte) string {
	if it.refusal == nil || !it.refusal.Booked {
		return ""
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(it.refusal.slot.UnixMilli()))
	b = append(b, s.sign(b, it.request.Caller, digest)...)
	return base64.RawURLEncoding.EncodeToString(b)
}

// MaxTicket is the longest that a ticket is.
const MaxTicket = 64

// signed is how many bytes of a signature a ticket has: who guesses one gains a
// place in his own line.
const signed = 16

func (s *Scheduler) sign(slot []byte, caller string, digest [32]byte) []byte {
	h := hmac.New(sha256.New, s.options.Secret)
	h.Write(slot)
	h.Write(digest[:])
	h.Write([]byte(caller))
	return h.Sum(nil)[:signed]
}

// slotOf reads the ticket of r: the time of its appointment, to the millisecond.
func (s *Scheduler) slotOf(r *Request) (time.Time, bool) {
	if r.Ticket == "" || len(r.Ticket) > MaxTicket {
		return time.Time{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(r.Ticket)
	if err != nil || len(b) != 8+signed || !hmac.Equal(b[8:], s.sign(b[:8], r.Caller, r.Digest)) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b))), true
}

// keeps reports whether it has a ticket that is due.
func (s *Scheduler) keeps(it *Item, now time.Time) bool {
	slot, ok := s.slotOf(&it.request)
	return ok && !now.Before(slot.Add(-early)) && !now.After(slot.Add(late))
}
