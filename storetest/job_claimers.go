package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

// claimers check each other.
type claimers struct {
	jobs int

	mu    sync.Mutex
	given map[job.Lease]bool
	last  map[string]int64
	ended map[string]int64 // the fence under which each was completed
}

// work claims until all jobs have ended.
func (w *claimers) work(s job.Store, i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for round := 0; ; round++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("the jobs do not end: %w", err)
		}
		// The lease has run out at once: whoever rescues takes what was left lying.
		var jobs []*job.Job
		err := asked(ctx, func() (err error) {
			jobs, err = s.Claim(ctx, job.Claim{Owner: fmt.Sprint("claimer ", i), Until: at(1), Route: "POST /v1/", Max: 1 + (i+round)%5}, at(2))
			return err
		})
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if err := w.took(j); err != nil {
				return err
			}
			if err := w.end(ctx, s, j, i); err != nil {
				return err
			}
		}
		if len(jobs) > 0 {
			continue
		}
		if err := asked(ctx, func() error {
			_, err := s.Rescue(ctx, at(2), at(100), 100)
			return err
		}); err != nil {
			return err
		}
		if w.done() {
			return nil
		}
	}
}

// asked calls f again while the store could not be asked: many instances on one SQLite
// file may keep each other waiting for too long.
func asked(ctx context.Context, f func() error) error {
	var last error
	for ctx.Err() == nil {
		err := f()
		if jobErr(err) != "error" {
			return err
		}
		last = err
	}
	return errors.Join(ctx.Err(), last)
}

func (w *claimers) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ended) == w.jobs
}

// took checks that j was given to nobody else.
func (w *claimers) took(j *job.Job) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := job.Lease{ID: j.ID, Fence: j.Fence}
	switch {
	case w.given[l]:
		return fmt.Errorf("job %s was given twice under fence %d", j.ID, j.Fence)
	case w.ended[j.ID] > 0 && w.ended[j.ID] < j.Fence:
		return fmt.Errorf("job %s was given after its end", j.ID)
	case len(j.Request.Body) == 0 || j.State != job.Running:
		return fmt.Errorf("job %s was given as %s with %d bytes", j.ID, j.State, len(j.Request.Body))
	}
	w.given[l] = true
	w.last[j.ID] = max(w.last[j.ID], j.Fence)
	return nil
}

// end ends the attempt, in a way that depends on the job, its fence and the claimer.
func (w *claimers) end(ctx context.Context, s job.Store, j *job.Job, i int) error {
	o := job.Outcome{State: job.Completed, Expires: at(100), Result: &job.Result{Status: 200, Body: fmt.Append(nil, i)}}
	switch (int(j.Fence) + int(j.ID[35])) % 4 {
	case 0:
		o = job.Outcome{State: job.Retryable, NotBefore: at(2)}
	case 1:
		o = job.Outcome{State: job.Available, NotBefore: at(2)}
	case 2:
		return nil
	}
	l := job.Lease{ID: j.ID, Fence: j.Fence}
	err := asked(ctx, func() error { return s.Finish(ctx, l, o, at(2)) })
	if errors.Is(err, job.ErrLost) { // it was rescued, since its lease is over
		return nil
	}
	if err != nil || o.State != job.Completed {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended[j.ID] > 0 || w.last[j.ID] > j.Fence {
		return fmt.Errorf("job %s ended under fence %d, after %d, and %d was given last", j.ID, j.Fence, w.ended[j.ID], w.last[j.ID])
	}
	w.ended[j.ID] = j.Fence
	return nil
}
