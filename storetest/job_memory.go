package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

// NewJobs makes an empty job.Store in memory, for the tests of what uses one. It does
// no I/O and starts no goroutine, so that it fits into a synctest bubble, and it is the
// model that Jobs compares other stores with: it is written to be read, not to be fast,
// and each call may look at every job. It keeps nothing when the process ends.
func NewJobs() job.Store {
	return &memoryJobs{jobs: map[string]*memoryJob{}, turns: map[[2]string]int64{}, dead: map[string]bool{}}
}

// memoryJob is a job with what its Store knows besides.
type memoryJob struct {
	job.Job
	output []job.Chunk
	stored int  // bytes of output
	full   bool // a chunk was not kept, so none may follow
	swept  bool
	// finished is the fence under which Finish was last called with success.
	finished int64
	// due is when the webhook is to be told, the zero time for not.
	due    time.Time
	called int
}

type memoryJobs struct {
	mu    sync.Mutex
	jobs  map[string]*memoryJob
	turns map[[2]string]int64 // by route and caller: when they were last given a job
	turn  int64
	dead  map[string]bool // blobs that nobody needs
}

var _ job.Store = (*memoryJobs)(nil)

// micro is t as a Store gives it back.
func micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

func cloneHeader(h http.Header) http.Header {
	if h == nil {
		return http.Header{}
	}
	return h.Clone()
}

// cloneBytes makes nil of what is empty: a Store does not tell the two apart.
func cloneBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

func cloneResult(r *job.Result) *job.Result {
	if r == nil {
		return nil
	}
	c := *r
	c.Header, c.Body = cloneHeader(r.Header), cloneBytes(r.Body)
	return &c
}

func cloneFailure(f *job.Failure) *job.Failure {
	if f == nil {
		return nil
	}
	c := *f
	return &c
}

// view copies the job. bodies says which bodies the copy has: those of the request, of
// the result, both or none.
func (m *memoryJob) view(request, result bool) *job.Job {
	j := m.Job
	j.Account = cloneBytes(m.Account)
	j.Failure = cloneFailure(m.Failure)
	j.Result = cloneResult(m.Result)
	if !m.swept {
		j.Request.Header = cloneHeader(m.Request.Header)
	}
	j.Request.Body = cloneBytes(m.Request.Body)
	if !request {
		j.Request.Body = nil
	}
	if !result && j.Result != nil {
		j.Result.Body = nil
	}
	return &j
}

func (m *memoryJob) waits() bool { return m.State == job.Available || m.State == job.Retryable }

func (m *memoryJob) claimable(route string, now time.Time) bool {
	return m.waits() && !m.CancelRequested && m.Route == route && !m.NotBefore.After(now)
}

// size is what a job counts against Bounds.Bytes.
func (m *memoryJob) size() int64 { return int64(len(m.Request.Body)) }

// sorted is all jobs that match, oldest first. The caller holds mu.
func (s *memoryJobs) sorted(match func(*memoryJob) bool) []*memoryJob {
	var all []*memoryJob
	for _, m := range s.jobs {
		if match(m) {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *memoryJob) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// find is the job of caller, or of anybody for caller "". The caller holds mu.
func (s *memoryJobs) find(caller, id string) (*memoryJob, error) {
	m, ok := s.jobs[id]
	if !ok || caller != "" && m.Caller != caller {
		return nil, job.ErrNotFound
	}
	return m, nil
}

// same is the job with the ID, or else with the idempotency key, of j; nil where there
// is none. The caller holds mu.
func (s *memoryJobs) same(j *job.Job) *memoryJob {
	if m := s.jobs[j.ID]; m != nil {
		return m
	}
	for _, m := range s.jobs {
		if j.IdempotencyKey != "" && m.Caller == j.Caller && m.IdempotencyKey == j.IdempotencyKey {
			return m
		}
	}
	return nil
}

// Create implements job.Store.
func (s *memoryJobs) Create(ctx context.Context, j *job.Job, b job.Bounds) (*job.Job, bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if len(j.Account) > maxAccount {
		return nil, false, errAccount
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.same(j); m != nil {
		if m.Caller != j.Caller || m.RequestHash != j.RequestHash {
			return nil, false, job.ErrConflict
		}
		return m.view(false, true), false, nil
	}
	size := int64(len(j.Request.Body))
	var all, own int64
	for _, m := range s.jobs {
		if m.State.Ended() {
			continue
		}
		all, size = all+1, size+m.size()
		if m.Caller == j.Caller {
			own++
		}
	}
	if b.Jobs > 0 && all >= b.Jobs || b.CallerJobs > 0 && own >= b.CallerJobs || b.Bytes > 0 && size > b.Bytes {
		return nil, false, job.ErrFull
	}
	n := &memoryJob{Job: job.Job{
		ID: j.ID, Caller: j.Caller, Plan: j.Plan, Route: j.Route, IdempotencyKey: j.IdempotencyKey,
		RequestHash: j.RequestHash, Request: j.Request, Account: cloneBytes(j.Account), State: job.Available,
		MaxAttempts: j.MaxAttempts, NotBefore: micro(j.NotBefore), Created: micro(j.Created), Expires: micro(j.Expires), Webhook: j.Webhook,
	}}
	n.Request.Header, n.Request.Body = cloneHeader(j.Request.Header), cloneBytes(j.Request.Body)
	s.jobs[n.ID] = n
	return n.view(false, true), true, nil
}

// FindKey implements job.Store.
func (s *memoryJobs) FindKey(ctx context.Context, caller, key string) (*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.jobs {
		if key != "" && m.Caller == caller && m.IdempotencyKey == key {
			return m.view(false, true), nil
		}
	}
	return nil, job.ErrNotFound
}

// Get implements job.Store.
func (s *memoryJobs) Get(ctx context.Context, caller, id string) (*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find(caller, id)
	if err != nil {
		return nil, err
	}
	return m.view(false, true), nil
}

// List implements job.Store.
func (s *memoryJobs) List(ctx context.Context, f job.Filter) ([]*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.sorted(func(m *memoryJob) bool {
		return (f.Caller == "" || m.Caller == f.Caller) && (f.Route == "" || m.Route == f.Route) &&
			(f.State == "" || m.State == f.State) && (f.Before == "" || m.ID < f.Before)
	})
	slices.Reverse(all)
	most := min(f.Max, 1000)
	if most <= 0 {
		most = 100
	}
	var out []*job.Job
	for _, m := range all[:min(most, len(all))] {
		out = append(out, m.view(false, false))
	}
	return out, nil
}

// Ahead implements job.Store.
func (s *memoryJobs) Ahead(ctx context.Context, id string, now time.Time) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.find("", id)
	if err != nil {
		return 0, err
	}
	if !j.waits() {
		return 0, nil
	}
	// It plays the claims out, as if the job might run now.
	turns, turn := maps.Clone(s.turns), s.turn
	left := s.sorted(func(m *memoryJob) bool { return m == j || m.claimable(j.Route, now) })
	for n := int64(0); ; n++ {
		i := next(left, turns)
		if left[i] == j {
			return n, nil
		}
		turn++
		turns[[2]string{j.Route, left[i].Caller}] = turn
		left = slices.Delete(left, i, i+1)
	}
}

// next is the index of the job that is to be claimed first among jobs of one route,
// which are sorted by their creation.
func next(jobs []*memoryJob, turns map[[2]string]int64) int {
	best := 0
	for i, m := range jobs {
		if turns[[2]string{m.Route, m.Caller}] < turns[[2]string{jobs[best].Route, jobs[best].Caller}] {
			best = i
		}
	}
	return best
}

// Lines implements job.Store.
func (s *memoryJobs) Lines(ctx context.Context) ([]job.Line, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := map[string]job.Line{}
	for _, m := range s.jobs {
		l := lines[m.Route]
		l.Route = m.Route
		switch {
		case m.waits():
			l.Waiting++
		case m.State == job.Running:
			l.Running++
		default:
			continue
		}
		lines[m.Route] = l
	}
	return slices.SortedFunc(maps.Values(lines), func(a, b job.Line) int { return cmp.Compare(a.Route, b.Route) }), nil
}

// Claim implements job.Store.
func (s *memoryJobs) Claim(ctx context.Context, c job.Claim, now time.Time) ([]*job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.sorted(func(m *memoryJob) bool { return m.claimable(c.Route, now) && !slices.Contains(c.Except, m.Caller) })
	var out []*job.Job
	given := map[string]int{}
	for len(out) < c.Max && len(left) > 0 {
		i := next(left, s.turns)
		m := left[i]
		left = slices.Delete(left, i, i+1)
		if given[m.Caller]++; c.PerCaller > 0 && given[m.Caller] > c.PerCaller {
			continue
		}
		s.turn++
		s.turns[[2]string{m.Route, m.Caller}] = s.turn
		m.State, m.Owner, m.LeaseUntil, m.Started = job.Running, c.Owner, micro(c.Until), micro(now)
		m.Fence++
		m.Attempt++
		m.Progress = job.Progress{}
		out = append(out, m.view(true, false))
	}
	return out, nil
}

// held is the running job of a lease, nil where that is lost. The caller holds mu.
func (s *memoryJobs) held(id string, fence int64) *memoryJob {
	if m := s.jobs[id]; m != nil && m.Fence == fence && m.State == job.Running {
		return m
	}
	return nil
}

// Renew implements job.Store.
func (s *memoryJobs) Renew(ctx context.Context, leases []job.Lease, until time.Time, progress []job.Progress) (job.Renewal, error) {
	if err := ctx.Err(); err != nil {
		return job.Renewal{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var r job.Renewal
	for i, l := range leases {
		m := s.held(l.ID, l.Fence)
		if m == nil {
			r.Lost = append(r.Lost, l.ID)
			continue
		}
		m.LeaseUntil = micro(until)
		if i < len(progress) {
			m.Progress = progress[i]
		}
		if m.CancelRequested {
			r.Cancelled = append(r.Cancelled, l.ID)
		}
	}
	return r, nil
}

// Append implements job.Store.
func (s *memoryJobs) Append(ctx context.Context, chunks []job.Chunk) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chunks {
		m := s.held(c.ID, c.Fence)
		if m == nil || m.full {
			continue
		}
		if m.stored+len(c.Data) > job.MaxOutput {
			m.full = true
			continue
		}
		c.Seq, c.Data = int64(len(m.output))+1, cloneBytes(c.Data)
		m.stored += len(c.Data)
		m.output = append(m.output, c)
	}
	return nil
}

// Output implements job.Store.
func (s *memoryJobs) Output(ctx context.Context, id string, seq int64, maxBytes int) ([]job.Chunk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find("", id)
	if err != nil {
		return nil, err
	}
	var out []job.Chunk
	size := 0
	for _, c := range m.output[min(max(seq, 0), int64(len(m.output))):] {
		size += len(c.Data)
		if size > maxBytes && len(out) > 0 {
			break
		}
		c.Data = cloneBytes(c.Data)
		out = append(out, c)
	}
	return out, nil
}

// errOutcome says that an attempt cannot end so.
func errOutcome(s job.State) error {
	return fmt.Errorf("job: an attempt cannot end as %q: want completed, cancelled, discarded, retryable or available", s)
}

// maxAccount is how large an account may be, in bytes.
const maxAccount = 64 << 10

var errAccount = errors.New("job: the account is larger than 64 KiB")
