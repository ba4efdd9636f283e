package job

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// claimEvery is how long a job may wait although nobody woke the claim loop.
	claimEvery = time.Second
	// storeTime bounds one question to the store.
	storeTime = 30 * time.Second
)

// claimLoop gives free rooms their jobs, until ctx is over.
func (s *Jobs) claimLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if s.unsure {
				s.giveBackUnknown()
			}
			return
		case <-s.wakeup:
		case <-timer.C:
		}
		s.claimRound(ctx)
		timer.Reset(jitter(claimEvery))
	}
}

// claimRound claims once for each room. A claim that is on its way when ctx ends is
// waited for, because its jobs are ours then: they are given back.
func (s *Jobs) claimRound(ctx context.Context) {
	if s.unsure && !s.giveBackUnknown() {
		return
	}
	for _, room := range s.o.Rooms() {
		if ctx.Err() != nil {
			return
		}
		n := min(room.Max, maxRunning-s.inFlight())
		if n <= 0 {
			continue
		}
		now := s.now()
		jobs, err := s.claim(Claim{Owner: s.o.Owner, Until: now.Add(s.o.Lease), Route: room.Route, Max: n, Except: room.Except, PerCaller: room.PerCaller}, now)
		if s.answered("Claim", err); err != nil {
			s.unsure = true
			return
		}
		for _, j := range jobs {
			s.begin(j)
		}
	}
}

func (s *Jobs) claim(c Claim, now time.Time) ([]*Job, error) {
	ctx, cancel := context.WithTimeout(s.hard, s.o.Lease/2)
	defer cancel()
	return s.o.Store.Claim(ctx, c, now)
}

// giveBackUnknown gives back the jobs that a claim got whose answer was lost: nobody runs
// them, and waiting for their leases would cost each an attempt. It is false where the
// store cannot be asked.
func (s *Jobs) giveBackUnknown() bool {
	ctx, cancel := context.WithTimeout(s.hard, storeTime)
	defer cancel()
	f := Filter{State: Running, Max: 1000}
	for range rounds {
		jobs, err := s.o.Store.List(ctx, f)
		if s.answered("List", err); err != nil {
			return false
		}
		for _, j := range jobs {
			f.Before = j.ID
			l := Lease{ID: j.ID, Fence: j.Fence}
			if j.Owner != s.o.Owner || s.runs(l) {
				continue
			}
			now := s.now()
			err := s.o.Store.Finish(ctx, l, Outcome{State: Available, NotBefore: now}, now)
			if s.answered("Finish", err); away(err) {
				return false
			}
		}
		if len(jobs) < f.Max {
			break
		}
	}
	s.unsure = false
	return true
}

func (s *Jobs) runs(l Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[l] != nil
}

// inFlight is how many attempts this instance has.
func (s *Jobs) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

// begin starts an attempt at a job that was claimed.
func (s *Jobs) begin(j *Job) {
	a := s.newAttempt(j)
	s.mu.Lock()
	for l, old := range s.running {
		if l.ID == j.ID {
			old.stop(errLost) // nobody else can have given the job to us
		}
	}
	s.running[a.lease] = a
	s.routes[j.Route]++
	if s.closed {
		a.stop(errClosing)
	}
	s.mu.Unlock()

	e := Event{Kind: EventClaimed, ID: j.ID, Caller: j.Caller, Route: j.Route, State: j.State, Attempt: j.Attempt}
	if j.Attempt == 1 {
		e.Wait = s.now().Sub(j.Created)
	}
	s.o.Observe(e)
	s.notify(j.ID)
	s.attempts.Go(func() { s.attend(a) })
}

// left takes an attempt off the books and lets another job have its room.
func (s *Jobs) left(a *attempt) {
	s.mu.Lock()
	delete(s.running, a.lease)
	if s.routes[a.job.Route]--; s.routes[a.job.Route] == 0 {
		delete(s.routes, a.job.Route)
	}
	s.mu.Unlock()
	a.stop(errDone)
	s.Wake()
}

// stop ends the attempts at a job here, for a reason.
func (s *Jobs) stop(id string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, a := range s.running {
		if l.ID == id {
			a.stop(why)
		}
	}
}

func (s *Jobs) stopAll(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.running {
		a.stop(why)
	}
}

// contact remembers whether the store could be asked lately.
type contact struct {
	mu    sync.Mutex
	away  bool
	since time.Time // it is away
	quiet time.Time // until then nobody is rescued
}

// away reports whether err says that the store could not be asked.
func away(err error) bool {
	return err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrFull) &&
		!errors.Is(err, ErrLost) && !errors.Is(err, ErrConflict)
}

// answered notes how the store answered.
//
// When it comes back after a while, leases have run out whose owners were as cut off as
// we were: they get half a lease to renew them before anybody is rescued here. A store
// that comes and goes does not prolong that for ever.
func (s *Jobs) answered(op string, err error) {
	failed := away(err)
	if failed && errors.Is(err, context.Canceled) {
		return // we, or a caller who left, did not wait for it
	}
	now := s.now()
	s.store.mu.Lock()
	changed := s.store.away != failed
	s.store.away = failed
	switch {
	case changed && failed:
		s.store.since = now
	case changed && now.Sub(s.store.since) >= s.o.Lease/3 && now.After(s.store.quiet.Add(2*s.o.Lease)):
		s.store.quiet = now.Add(s.o.Lease / 2)
	}
	s.store.mu.Unlock()
	if failed {
		s.o.Observe(Event{Kind: EventStoreError, Op: op, Err: err})
	}
	switch {
	case changed && failed:
		s.log.Warn("job: the store cannot be asked; what runs goes on", "op", op, "error", err)
	case changed:
		s.log.Info("job: the store is back", "op", op)
	}
}

// mayRescue reports whether leases that have run out mean what they say.
func (s *Jobs) mayRescue() bool {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	return !s.store.away && !s.now().Before(s.store.quiet)
}

// jitter returns d, up to a fifth shorter or longer, so that instances started together
// do not stay together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*(d/5)+1)
}

// pause waits, at most until ctx is over, and returns its error then.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func stack() string { return string(debug.Stack()) }
