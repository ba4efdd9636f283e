package job

import (
	"context"
	"errors"
	"time"
)

const (
	firstFinishRetry = 100 * time.Millisecond
	mostFinishRetry  = 2 * time.Second
	blobTime         = 10 * time.Second // to delete one
)

// conclude writes down what came of an attempt, and tells of it: once the store has it,
// and only who got it there.
func (s *Jobs) conclude(a *attempt, v verdict) {
	now := s.now()
	o := s.outcome(a, v, now)
	var committed, known bool
	if known = a.isLost(); !known {
		committed, known = s.commit(a, o, now)
	}
	s.left(a)
	if v.result != nil && v.result.Blob != "" && known && !(committed && o.Result != nil) {
		s.deleteBlob(v.result.Blob)
	}
	e := Event{ID: a.job.ID, Caller: a.job.Caller, Route: a.job.Route, State: o.State, Attempt: a.job.Attempt, Err: v.err}
	switch {
	case !known:
		s.mu.Lock()
		s.unkept++
		s.mu.Unlock()
		return
	case !committed:
		e.Kind, e.State = EventLost, ""
		s.log.Warn("job: the lease was lost while the job ran; what it gave is dropped", "job", a.job.ID, "fence", a.lease.Fence)
	case o.State == Retryable:
		e.Kind = EventRetried
		s.log.Info("job: the attempt failed", "job", a.job.ID, "attempt", a.job.Attempt, "of", a.job.MaxAttempts,
			"status", o.Failure.Status, "again", o.NotBefore, "error", v.err)
	case o.State == Available:
		e.Kind = EventGivenBack
	default:
		s.ended(s.hard, finished(a.job, o, now))
		return
	}
	s.o.Observe(e)
	s.notify(a.job.ID)
}

// commit asks the store until it says that the attempt has ended, or that its lease is
// lost. known is false where Close gave up before.
func (s *Jobs) commit(a *attempt, o Outcome, now time.Time) (committed, known bool) {
	again := firstFinishRetry
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithTimeout(s.hard, storeTime)
		err := s.o.Store.Finish(ctx, a.lease, o, now)
		cancel()
		s.answered("Finish", err)
		switch {
		case err == nil:
			return true, true
		case errors.Is(err, ErrNotFound):
			return false, true
		case errors.Is(err, ErrLost):
			if tries == 0 || !o.State.Ended() {
				return false, true
			}
			return s.wasOurs(a, o, now)
		}
		if pause(s.hard, jitter(again)) != nil {
			return false, false
		}
		again = min(2*again, mostFinishRetry)
	}
}

// wasOurs tells whether it was an earlier try of ours that ended the job, whose answer got
// lost: nobody else's end has this fence and this very microsecond.
func (s *Jobs) wasOurs(a *attempt, o Outcome, now time.Time) (ours, known bool) {
	for {
		ctx, cancel := context.WithTimeout(s.hard, storeTime)
		j, err := s.o.Store.Get(ctx, "", a.job.ID)
		cancel()
		s.answered("Get", err)
		switch {
		case err == nil:
			return j.Fence == a.lease.Fence && j.State == o.State && j.Finished.Equal(now) && j.Expires.Equal(o.Expires), true
		case errors.Is(err, ErrNotFound):
			return false, true
		}
		if pause(s.hard, jitter(mostFinishRetry)) != nil {
			return false, false
		}
	}
}

// finished is j as the store has it after the outcome of its last attempt.
func finished(j *Job, o Outcome, now time.Time) *Job {
	end := *j
	end.State, end.Result, end.Failure, end.Progress = o.State, o.Result, o.Failure, o.Progress
	end.Finished, end.Expires = now, o.Expires
	end.Owner, end.LeaseUntil = "", time.Time{}
	if o.Account != nil {
		end.Account = o.Account
	}
	return &end
}

// deleteBlob removes what no job has. Where that fails it goes when it expires.
func (s *Jobs) deleteBlob(key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.hard), blobTime)
	defer cancel()
	if err := s.o.Blobs.Delete(ctx, key); err != nil {
		s.log.Warn("job: a blob that no job has could not be deleted", "blob", key, "error", err)
	}
}
