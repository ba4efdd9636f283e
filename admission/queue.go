package admission

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

// Queue is a Scheduler for many goroutines, by the clock. Close it when it is no
// longer used.
type Queue struct {
	mu        sync.Mutex // guards all below
	scheduler *Scheduler
	closed    bool
	parked    bool          // no tick comes until wake
	step      time.Duration // until the next tick

	wake    chan struct{}
	stop    chan struct{}
	done    sync.WaitGroup
	decided chan struct{} // closed: the Ready of those who need not wait
}

// New checks the options and makes a Queue.
func New(o Options) (*Queue, error) {
	s, err := NewScheduler(o, func(it *Item) {
		if it.ready != nil {
			close(it.ready)
		}
	})
	if err != nil {
		return nil, err
	}
	q := &Queue{scheduler: s, wake: make(chan struct{}, 1), stop: make(chan struct{}), decided: make(chan struct{})}
	close(q.decided)
	q.done.Go(q.tick)
	return q, nil
}

// Close refuses who waits and who comes. What runs keeps its place.
func (q *Queue) Close() {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	q.closed = true
	q.scheduler.refuseAll(QueueClosed, time.Time{}, time.Now())
	q.mu.Unlock()
	close(q.stop)
	q.done.Wait()
}

// waitStep is how exact waits end while something waits.
const waitStep = 10 * time.Millisecond

// tick lets the scheduler's time pass: in small steps while something waits, in
// seconds while something runs, and not at all while nothing does.
func (q *Queue) tick() {
	timer := time.NewTimer(waitStep)
	defer timer.Stop()
	for {
		select {
		case <-q.stop:
			return
		case <-q.wake:
		case <-timer.C:
		}
		q.mu.Lock()
		s := q.scheduler
		s.Tick(time.Now())
		q.step, q.parked = waitStep, s.Idle()
		if s.waiting == 0 {
			q.step = controlEvery
		}
		step, parked := q.step, q.parked
		q.mu.Unlock()
		timer.Stop()
		if !parked {
			timer.Reset(step)
		}
	}
}

// Wake has the queue look again: a target may have opened.
func (q *Queue) Wake() {
	select {
	case q.wake <- struct{}{}:
	default: // it will
	}
}

// Slot is a request in the queue, and later its place on a target.
type Slot struct {
	queue *Queue
	item  Item
}

// Enter hands r in. The Slot that it returns waits: see Ready. It must be left with
// Leave or, once it has its place, with Done.
func (q *Queue) Enter(r Request) *Slot {
	slot := &Slot{queue: q, item: Item{request: r, target: -1, returns: len(r.Tried) > 0}}
	it := &slot.item
	q.mu.Lock()
	if q.closed {
		it.state, it.refusal, it.ready = ended, &Refusal{Reason: QueueClosed}, q.decided
		q.mu.Unlock()
		return slot
	}
	q.scheduler.Submit(it, time.Now())
	if it.ready = q.decided; it.state == waiting {
		it.ready = make(chan struct{})
	}
	q.hurryLocked()
	q.mu.Unlock()
	return slot
}

// hurryLocked has the next tick come as soon as it is due now.
func (q *Queue) hurryLocked() {
	s := q.scheduler
	if q.parked && !s.Idle() || q.step > waitStep && s.waiting > 0 {
		q.parked, q.step = false, waitStep
		q.Wake()
	}
}

// Refuse gives r the refusal, with an appointment of its own, of a request that it
// waited for elsewhere and that was refused.
func (q *Queue) Refuse(r Request, reason Reason) *Slot {
	slot := &Slot{queue: q, item: Item{request: r, target: -1}}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduler.Refuse(&slot.item, reason, time.Now())
	slot.item.ready = q.decided
	return slot
}

// Ready is closed once it is decided whether there is a place: see Err.
func (s *Slot) Ready() <-chan struct{} { return s.item.ready }

// Err is nil where the request has its place, and else a *Refusal. It is for after
// Ready.
func (s *Slot) Err() error {
	if s.item.refusal != nil {
		return s.item.refusal
	}
	return nil
}

// Acquire hands r in and waits for its place: for as long as it may, which the
// queue knows, and as ctx lasts. An error is a *Refusal, or that of ctx.
func (q *Queue) Acquire(ctx context.Context, r Request) (*Slot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slot := q.Enter(r)
	select {
	case <-slot.Ready():
	case <-ctx.Done():
		slot.Leave()
		return nil, ctx.Err()
	}
	if err := slot.Err(); err != nil {
		return nil, err
	}
	return slot, nil
}

// errNoRoom is the error of TryAcquire.
var errNoRoom = errors.New("no target has room now")

// TryAcquire is Acquire for who would not wait: an error says that no target that r
// has not tried has room now.
func (q *Queue) TryAcquire(r Request) (*Slot, error) {
	slot := &Slot{queue: q, item: Item{request: r, target: -1, untried: true}}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || !q.scheduler.try(&slot.item, time.Now()) {
		return nil, errNoRoom
	}
	slot.item.ready = q.decided
	q.hurryLocked()
	return slot, nil
}

// Leave gives up waiting, or a place with which nothing was done. It may be called
// at any time.
func (s *Slot) Leave() {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.scheduler.Cancel(&s.item, now)
	q.scheduler.Done(&s.item, Unused, now)
}

// Target is the index of the target with the place.
func (s *Slot) Target() int { return s.item.target }

// Waited is how long it took to get the place.
func (s *Slot) Waited() time.Duration { return s.item.Waited() }

// Shared is the number of the place, where others may have the same one: what has
// the same number is to be sent as one call. 0 is a place alone.
func (s *Slot) Shared() uint64 { return s.item.Shared() }

// Sharing is how many items of requests have the place, and whether it is sealed, so
// that no others will be given it.
func (s *Slot) Sharing() (items int, sealed bool) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.scheduler.sharing(&s.item)
}

// Seal ends the time in which others may come to share the place.
func (s *Slot) Seal() {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.Seal(&s.item)
}

// Switched is called when the connection becomes a socket, which has no end that
// tells anything of the target. An adaptive limit is then for the other requests; the
// bound of all, sockets too, is Limits.Max. A fixed limit is for both.
func (s *Slot) Switched() {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.Switched(&s.item, time.Now())
}

// FirstToken is called when the first token of a streamed answer is there.
func (s *Slot) FirstToken() {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.FirstToken(&s.item, time.Now())
}

// Progress is called when n more tokens have come, for which waited was spent waiting
// for the target: not for the client to take those before.
func (s *Slot) Progress(n int64, waited time.Duration) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.progress(&s.item, n, waited)
}

// Streams is called when an answer comes in parts that are no tokens, or not known to
// be: how long it takes tells nothing of its target.
func (s *Slot) Streams() {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.Streams(&s.item)
}

// Done gives the place back, once: what comes after the first is nothing.
func (s *Slot) Done(r Result) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.Done(&s.item, r, time.Now())
}

// Settle sets right, once, what the caller is charged for, before Done or after.
func (s *Slot) Settle(used weir.Usage) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.queue.scheduler.Settle(&s.item, used)
}

// Ticket is what the client may bring back with the same request at its
// appointment: "" where it has none. digest stands for the request.
func (s *Slot) Ticket(digest [32]byte) string {
	return s.queue.scheduler.Ticket(&s.item, digest) // which changes nothing any more
}

// Engine tells what a target says of itself.
func (q *Queue) Engine(target int, e EngineState) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduler.Engine(target, e, time.Now())
}

// SetBatchSize moves the number of items that may share one place.
func (q *Queue) SetBatchSize(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduler.SetBatchSize(n)
}

// Stats is how things are now.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.scheduler.Stats()
}
