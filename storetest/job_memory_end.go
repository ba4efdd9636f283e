package storetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/inferweir/weir/job"
)

// end ends a job as state. The caller holds mu.
func (m *memoryJob) end(state job.State, now, expires time.Time) {
	m.State, m.Finished, m.Expires = state, micro(now), micro(expires)
	m.Owner, m.LeaseUntil = "", time.Time{}
	if m.Webhook != "" {
		m.due = m.Finished
	}
}

// wait makes a job wait again. The caller holds mu.
func (m *memoryJob) wait(state job.State, notBefore time.Time) {
	m.State, m.NotBefore = state, micro(notBefore)
	m.Owner, m.LeaseUntil = "", time.Time{}
}

// drop forgets the blob of the job's result. The caller holds mu.
func (s *memoryJobs) drop(m *memoryJob) {
	if m.Result != nil && m.Result.Blob != "" {
		s.dead[m.Result.Blob] = true
	}
	m.Result = nil
}

// Finish implements job.Store.
func (s *memoryJobs) Finish(ctx context.Context, l job.Lease, o job.Outcome, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !o.State.Ended() && o.State != job.Available && o.State != job.Retryable {
		return errOutcome(o.State)
	}
	if len(o.Account) > maxAccount {
		return errAccount
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.held(l.ID, l.Fence)
	if m == nil {
		if m := s.jobs[l.ID]; m != nil && m.finished == l.Fence && m.Fence == l.Fence && m.State == o.State {
			return nil
		}
		return job.ErrLost
	}
	m.finished = l.Fence
	m.Progress = o.Progress
	if o.Account != nil {
		m.Account = cloneBytes(o.Account)
	}
	if o.State == job.Available {
		m.wait(o.State, o.NotBefore)
		m.Attempt--
		if m.Attempt == 0 {
			m.Started = time.Time{}
		}
		return nil
	}
	if r := cloneResult(o.Result); r == nil || m.Result == nil || r.Blob != m.Result.Blob {
		s.drop(m)
		m.Result = r
	} else {
		m.Result = r
	}
	m.Failure = cloneFailure(o.Failure)
	if o.State == job.Retryable {
		m.wait(o.State, o.NotBefore)
	} else {
		m.end(o.State, now, o.Expires)
	}
	return nil
}

// Cancel implements job.Store.
func (s *memoryJobs) Cancel(ctx context.Context, caller, id string, now, expires time.Time) (*job.Job, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find(caller, id)
	if err != nil {
		return nil, false, err
	}
	ended := m.waits()
	switch {
	case ended:
		m.end(job.Cancelled, now, expires)
	case m.State == job.Running:
		m.CancelRequested = true
	}
	return m.view(false, true), ended, nil
}

// Retry implements job.Store.
func (s *memoryJobs) Retry(ctx context.Context, id string, now, expires time.Time) (*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find("", id)
	if err != nil {
		return nil, err
	}
	if m.swept {
		return nil, job.ErrNotFound
	}
	if m.State != job.Discarded {
		return nil, job.ErrLost
	}
	s.drop(m)
	m.wait(job.Available, now)
	m.MaxAttempts, m.CancelRequested, m.Account = m.Attempt+1, false, nil
	m.Finished, m.Expires = time.Time{}, micro(expires)
	m.due = time.Time{}
	m.called++
	return m.view(false, true), nil
}

// Rescue implements job.Store.
func (s *memoryJobs) Rescue(ctx context.Context, now, expires time.Time, most int) ([]*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*job.Job
	end := func(m *memoryJob, state job.State) {
		m.end(state, now, expires)
		out = append(out, m.view(false, false))
	}
	late := s.sorted(func(m *memoryJob) bool { return m.State == job.Running && !m.LeaseUntil.After(now) })
	slices.SortStableFunc(late, func(a, b *memoryJob) int { return a.LeaseUntil.Compare(b.LeaseUntil) })
	for _, m := range late[:min(max(most, 0), len(late))] {
		switch {
		case m.CancelRequested:
			end(m, job.Cancelled)
		case m.Attempt >= m.MaxAttempts:
			m.Failure = &job.Failure{Status: 503, Detail: "The instance that ran the job stopped."}
			end(m, job.Discarded)
		default:
			m.Failure = &job.Failure{Status: 503, Detail: "The instance that ran the job stopped."}
			m.wait(job.Retryable, now)
		}
	}
	asked := s.sorted(func(m *memoryJob) bool { return m.waits() && m.CancelRequested })
	slices.SortStableFunc(asked, byExpires)
	for _, m := range asked[:min(max(most-len(out), 0), len(asked))] {
		end(m, job.Cancelled)
	}
	tired := s.sorted(func(m *memoryJob) bool { return m.waits() && !m.CancelRequested && !m.Expires.After(now) })
	slices.SortStableFunc(tired, byExpires)
	for _, m := range tired[:min(max(most-len(out), 0), len(tired))] {
		m.Failure = &job.Failure{Status: 504, Detail: "The job waited longer than it may."}
		end(m, job.Discarded)
	}
	return out, nil
}

func byExpires(a, b *memoryJob) int { return a.Expires.Compare(b.Expires) }

// Sweep implements job.Store.
func (s *memoryJobs) Sweep(ctx context.Context, now, forget time.Time, most int) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.sorted(func(m *memoryJob) bool { return m.State.Ended() && !m.swept && m.Expires.Before(now) })
	slices.SortStableFunc(gone, byExpires)
	for _, m := range gone[:min(max(most, 0), len(gone))] {
		s.drop(m)
		m.output, m.Request, m.swept = nil, job.Request{}, true
	}
	old := s.sorted(func(m *memoryJob) bool {
		return m.swept && m.Expires.Before(forget) && (m.due.IsZero() || m.Expires.Before(forget.Add(-job.WebhookKept)))
	})
	slices.SortStableFunc(old, byExpires)
	for _, m := range old[:min(max(most, 0), len(old))] {
		delete(s.jobs, m.ID)
	}
	dead := slices.Sorted(maps.Keys(s.dead))
	return dead[:min(max(most, 0), len(dead))], nil
}

// Dropped implements job.Store.
func (s *memoryJobs) Dropped(ctx context.Context, blobs []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range blobs {
		delete(s.dead, b)
	}
	return nil
}

// Deliveries implements job.Store.
func (s *memoryJobs) Deliveries(ctx context.Context, t job.Turn, now time.Time) ([]job.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.sorted(func(m *memoryJob) bool {
		return !m.due.IsZero() && !m.due.After(now) && !slices.Contains(t.Except, m.Caller)
	})
	slices.SortStableFunc(due, func(a, b *memoryJob) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.ID, b.ID)) })
	lines := map[string][]*memoryJob{}
	for _, m := range due {
		lines[m.Caller] = append(lines[m.Caller], m)
	}
	callers := slices.SortedFunc(maps.Keys(lines), func(a, b string) int {
		return cmp.Or(lines[a][0].due.Compare(lines[b][0].due), cmp.Compare(a, b))
	})
	callers = callers[:min(max(t.Max, 0), len(callers))]
	var out []job.Delivery
	for _, caller := range callers {
		line := lines[caller]
		for _, m := range line[:min(t.Share(len(callers)), len(line))] {
			m.called++
			m.due = micro(t.Until)
			out = append(out, job.Delivery{Job: *m.view(false, false), Attempt: m.called})
		}
	}
	return out, nil
}

// Delivered implements job.Store.
func (s *memoryJobs) Delivered(ctx context.Context, id string, attempt int, next time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.jobs[id]
	if !ok || attempt < 1 || m.called != attempt {
		return job.ErrLost
	}
	m.due = micro(next)
	return nil
}
