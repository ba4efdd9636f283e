package job

import (
	"context"
	"time"

	"github.com/google/uuid"
)

const (
	renewRetry  = time.Second // after a renewal that failed
	rescueEvery = 5 * time.Second
	rescueBatch = 500
	sweepEvery  = time.Minute
	sweepBatch  = 1000
	// rounds is how many batches are done before others get their turn.
	rounds = 10
)

// renewLoop renews the leases of all attempts together, until ctx is over.
func (s *Jobs) renewLoop(ctx context.Context) {
	timer := time.NewTimer(s.o.Lease / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if s.renew(ctx) {
			timer.Reset(s.o.Lease / 3)
		} else {
			timer.Reset(min(renewRetry, s.o.Lease/3))
		}
	}
}

// renew asks the store once for all leases, and stops the attempts that it says are lost
// or cancelled. It is false where the store could not be asked: nothing stops then.
func (s *Jobs) renew(ctx context.Context) bool {
	var leases []Lease
	var progress []Progress
	asked := make(map[string]*attempt)
	s.mu.Lock()
	for l, a := range s.running {
		if a.isLost() {
			continue
		}
		leases = append(leases, l)
		progress = append(progress, a.progress())
		asked[l.ID] = a
	}
	s.mu.Unlock()
	if len(leases) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	r, err := s.o.Store.Renew(ctx, leases, s.now().Add(s.o.Lease), progress)
	if s.answered("Renew", err); err != nil {
		return false
	}
	for _, id := range r.Lost {
		if a := asked[id]; a != nil {
			a.stop(errLost)
		}
	}
	for _, id := range r.Cancelled {
		if a := asked[id]; a != nil {
			a.stop(errCancelled)
		}
	}
	return true
}

// rescueLoop ends the attempts of instances that died, until ctx is over.
func (s *Jobs) rescueLoop(ctx context.Context) {
	for pause(ctx, jitter(rescueEvery)) == nil {
		s.rescue(ctx)
	}
}

// rescue does not stop with its loop in the midst of a batch: who ended a job must learn
// that it did, to tell of it.
func (s *Jobs) rescue(loop context.Context) {
	ctx, cancel := context.WithTimeout(s.hard, storeTime)
	defer cancel()
	if !s.mayRescue() {
		// While the store is thought to be away somebody has to ask whether it is back:
		// this, which changes nothing.
		_, err := s.o.Store.Get(ctx, "", uuid.Nil.String())
		s.answered("Get", err)
		return
	}
	for range rounds {
		now := s.now()
		jobs, err := s.o.Store.Rescue(ctx, now, s.expires(Discarded, now), rescueBatch)
		if s.answered("Rescue", err); err != nil {
			return
		}
		for _, j := range jobs {
			s.o.Observe(Event{Kind: EventRescued, ID: j.ID, Caller: j.Caller, Route: j.Route, State: j.State, Attempt: j.Attempt})
			s.ended(ctx, j)
		}
		if len(jobs) < rescueBatch || loop.Err() != nil {
			return
		}
	}
}

// sweepLoop drops what has expired, until ctx is over.
func (s *Jobs) sweepLoop(ctx context.Context) {
	for pause(ctx, jitter(sweepEvery)) == nil {
		for range rounds {
			if !s.sweep(ctx) {
				break
			}
		}
	}
}

// sweep does one batch. What a job was is told for as long again as its result was kept:
// that it expired, instead of that it never was. A blob that could not be deleted is told
// again by the store. It is false where there is no sense in going on.
func (s *Jobs) sweep(ctx context.Context) bool {
	now := s.now()
	keys, err := s.o.Store.Sweep(ctx, now, now.Add(-s.o.ResultTTL), sweepBatch)
	if s.answered("Sweep", err); err != nil {
		return false
	}
	if len(keys) == 0 || s.o.Blobs == nil {
		return len(keys) == 0
	}
	dropped := make([]string, 0, len(keys))
	for _, key := range keys {
		if err := s.o.Blobs.Delete(ctx, key); err != nil {
			s.log.Warn("job: an expired blob could not be deleted; it is tried again", "blob", key, "error", err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		dropped = append(dropped, key)
	}
	if len(dropped) == 0 {
		return false
	}
	err = s.o.Store.Dropped(ctx, dropped)
	s.answered("Dropped", err)
	return err == nil
}
