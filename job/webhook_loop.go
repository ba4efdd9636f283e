package job

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Turn asks for webhooks that are to be told. Callers take turns: those who have waited
// longest share Max evenly, and of each come first those that have been due longest.
type Turn struct {
	// Until is until when others leave alone what is given.
	Until time.Time
	// Max is how many at most. Except are callers who are passed over. PerCaller is how many one
	// caller is given at most; 0 is no bound.
	Max       int
	Except    []string
	PerCaller int
}

// Share is how many each of so many callers is given at most, where there are not more of
// them than t.Max: at least 1.
func (t Turn) Share(callers int) int {
	share := max(1, t.Max/max(1, callers))
	if t.PerCaller > 0 {
		share = min(share, t.PerCaller)
	}
	return share
}

const (
	// maxTurn is how many deliveries are leased at once: few, as there may be no place for
	// them at their host.
	maxTurn = 16
	// breath is how long the loop rests when it had to put some off, so that a caller with
	// many of them does not keep it, and the store, busy.
	breath = 100 * time.Millisecond
)

// deliverWebhooks tells the ends of jobs until ctx is over. Deliveries that run then are
// cut off and put back, to be tried at once by another instance. Without webhooks it
// returns at once.
func (s *Jobs) deliverWebhooks(ctx context.Context) {
	if s.hooks == nil {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, 1) // a delivery has ended
	for ctx.Err() == nil {
		begun, off := s.startDeliveries(ctx, &running, free)
		wait, early := time.Second, free
		switch {
		case off > 0:
			wait, early = breath, nil
		case begun > 0:
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-early:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// startDeliveries begins some of those due, and says how many, and how many it put off
// because their host has its share.
func (s *Jobs) startDeliveries(ctx context.Context, running *sync.WaitGroup, free chan<- struct{}) (begun, off int) {
	var putOff sync.WaitGroup
	defer putOff.Wait()
	for _, d := range s.dueDeliveries(ctx) {
		p := s.hooks.places.begin(d.Job.Caller, hostOf(d.Job.Webhook))
		if p == nil {
			off++
			putOff.Go(func() { s.putOff(ctx, d) }) // or it would keep the others from their turn
			continue
		}
		begun++
		running.Go(func() {
			defer func() {
				p.end()
				select {
				case free <- struct{}{}:
				default:
				}
			}()
			s.deliverOne(withPlace(ctx, p), d)
		})
	}
	return begun, off
}

// dueDeliveries leases some of what is due. Callers of whom nothing runs come first: so a
// caller with thousands of slow receivers takes no place from one with a single webhook.
func (s *Jobs) dueDeliveries(ctx context.Context) []Delivery {
	c := s.hooks.places.crowd()
	if c.room == 0 {
		return nil
	}
	now := s.now()
	t := Turn{Until: now.Add(deliveryLease), Max: min(c.room, maxTurn), Except: c.running, PerCaller: maxCallerDeliveries}
	due, err := s.o.Store.Deliveries(ctx, t, now)
	if err == nil && len(due) == 0 && len(c.full) < len(c.running) {
		t.Except, t.PerCaller = c.full, c.each
		due, err = s.o.Store.Deliveries(ctx, t, now)
	}
	if err != nil && ctx.Err() == nil {
		s.o.Observe(Event{Kind: EventStoreError, Op: "Deliveries", Err: err})
	}
	return due
}

// putOff has a delivery due again a little later. It was not tried.
func (s *Jobs) putOff(ctx context.Context, d Delivery) {
	s.delivered(ctx, d, s.now().Add(postponed+rand.N(postponed)))
}

// deliverOne tries a delivery and writes down what came of it.
func (s *Jobs) deliverOne(ctx context.Context, d Delivery) {
	begun := s.now()
	over, err := s.hooks.deliver(ctx, &d.Job, begun)
	e := Event{Kind: EventDelivered, ID: d.Job.ID, Caller: d.Job.Caller, Route: d.Job.Route, State: d.Job.State, Attempt: d.Attempt, Err: err}
	var next time.Time
	if err != nil {
		e.Kind = EventUndelivered
	}
	switch {
	case err != nil && ctx.Err() != nil: // we have stopped, not the receiver
		s.delivered(ctx, d, begun)
		return
	case errors.Is(err, errBusy):
		s.putOff(ctx, d)
		return
	case !over:
		next, _ = nextTry(d.Job.Finished, begun, s.now(), d.Attempt)
	}
	s.o.Observe(e)
	if err != nil && next.IsZero() {
		s.o.Log.Warn("webhook given up", "job", d.Job.ID, "caller", d.Job.Caller, "host", hostOf(d.Job.Webhook), "attempt", d.Attempt, "error", err.Error())
	}
	s.delivered(ctx, d, next)
}

// delivered writes down that a try is over, also after ctx is. It tries for a few
// seconds: if it fails, the delivery is due again when its lease runs out, and its
// receiver knows the webhook-id.
func (s *Jobs) delivered(ctx context.Context, d Delivery, next time.Time) {
	for try := range 3 {
		if try > 0 {
			timer := time.NewTimer(time.Second)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		err := s.o.Store.Delivered(once, d.Job.ID, d.Attempt, next)
		cancel()
		if err == nil || errors.Is(err, ErrLost) {
			return // lost: another instance has it, or the job is forgotten
		}
		s.o.Observe(Event{Kind: EventStoreError, ID: d.Job.ID, Op: "Delivered", Err: err})
	}
}
