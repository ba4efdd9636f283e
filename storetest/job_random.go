package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/job"
)

// jobModel does random things with a store and with NewJobs, and compares what they say.
func jobModel(t *testing.T, s job.Store) {
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		emptyJobs(r, s)
		m := &jobMachine{model: NewJobs(), real: s, round: round}
		r.Repeat(map[string]func(*rapid.T){
			"": m.check, "create": m.create, "wait": m.wait, "claim": m.claim, "claim more": m.claim, "renew": m.renew,
			"append": m.append, "finish": m.finish, "finish more": m.finish, "cancel": m.cancel, "retry": m.retry,
			"rescue": m.rescue, "sweep": m.sweep, "deliver": m.deliver, "delivered": m.delivered,
		})
		m.checkAll(r)
	})
}

// emptyJobs leaves a store without jobs. What it knows of turns stays: each round of the
// test has callers of its own.
func emptyJobs(r *rapid.T, s job.Store) {
	ctx := context.Background()
	far := at(0).AddDate(10, 0, 0)
	for {
		if _, err := s.Rescue(ctx, far, at(0), 1000); err != nil {
			r.Fatal(err)
		}
		blobs, err := s.Sweep(ctx, far.AddDate(10, 0, 0), far.AddDate(10, 0, 0), 1000)
		if err != nil {
			r.Fatal(err)
		}
		if err := s.Dropped(ctx, blobs); err != nil {
			r.Fatal(err)
		}
		left, err := s.List(ctx, job.Filter{})
		if err != nil {
			r.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
	}
}

// jobMachine does the same with both stores.
type jobMachine struct {
	model, real job.Store
	round       int
	second      int
	created     int
	leases      []job.Lease // given out so far
	calls       []job.Delivery
}

// jobErr is the kind of an error, without its words.
func jobErr(err error) string {
	for _, e := range []error{job.ErrNotFound, job.ErrFull, job.ErrLost, job.ErrConflict} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	if err != nil {
		return "error"
	}
	return ""
}

// both calls f with the model and the store, compares, and returns what they said.
func both[T any](r *rapid.T, m *jobMachine, what string, f func(s job.Store) (T, error)) T {
	want, wantErr := f(m.model)
	got, err := f(m.real)
	if jobErr(err) != jobErr(wantErr) {
		r.Fatalf("%s: got error %v, want %v", what, err, wantErr)
	}
	if !reflect.DeepEqual(got, want) {
		r.Fatalf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
	return want
}

func (m *jobMachine) now() time.Time { return at(m.second) }

func (m *jobMachine) id(r *rapid.T) string { return jobID(rapid.IntRange(0, m.created).Draw(r, "job")) }

func (m *jobMachine) caller(r *rapid.T) string {
	return fmt.Sprintf("key:%d-%d", m.round, rapid.IntRange(0, 3).Draw(r, "caller"))
}

func (m *jobMachine) route(r *rapid.T) string {
	return fmt.Sprintf("POST /%d/%d", m.round, rapid.IntRange(0, 1).Draw(r, "route"))
}

func (m *jobMachine) create(r *rapid.T) {
	j := newJob(m.created, m.caller(r))
	j.Route = m.route(r)
	j.MaxAttempts = rapid.IntRange(1, 3).Draw(r, "attempts")
	j.Created = m.now()
	j.NotBefore = at(m.second + rapid.SampledFrom([]int{0, 0, 0, 7}).Draw(r, "delay"))
	j.Expires = at(m.second + rapid.IntRange(10, 400).Draw(r, "expires"))
	j.IdempotencyKey = rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(r, "key")
	j.RequestHash = [32]byte{byte(rapid.IntRange(0, 1).Draw(r, "hash"))}
	j.Request.Body = []byte(strings.Repeat("x", rapid.IntRange(0, 30).Draw(r, "body")))
	j.Webhook = rapid.SampledFrom([]string{"", "https://example.com/"}).Draw(r, "webhook")
	b := job.Bounds{Jobs: 12, CallerJobs: 6, Bytes: 200}
	created := both(r, m, "create", func(s job.Store) (created bool, err error) {
		_, created, err = s.Create(context.Background(), j, b)
		return created, err
	})
	if created {
		m.created++
	}
}

func (m *jobMachine) wait(r *rapid.T) { m.second += rapid.IntRange(1, 25).Draw(r, "seconds") }

func (m *jobMachine) claim(r *rapid.T) {
	c := job.Claim{Owner: "one", Until: at(m.second + 20), Route: m.route(r), Max: rapid.IntRange(0, 4).Draw(r, "max")}
	for _, j := range both(r, m, "claim", func(s job.Store) ([]*job.Job, error) { return s.Claim(context.Background(), c, m.now()) }) {
		m.leases = append(m.leases, job.Lease{ID: j.ID, Fence: j.Fence})
	}
}

// lease is one that was given out, or is wrong.
func (m *jobMachine) lease(r *rapid.T) job.Lease {
	if len(m.leases) == 0 || rapid.IntRange(0, 9).Draw(r, "wrong") == 0 {
		return job.Lease{ID: m.id(r), Fence: int64(rapid.IntRange(0, 3).Draw(r, "fence"))}
	}
	// Mostly a late one, which is more likely to be held.
	n := len(m.leases)
	return m.leases[n-1-min(rapid.IntRange(0, n-1).Draw(r, "lease"), rapid.IntRange(0, n-1).Draw(r, "or"))]
}

func (m *jobMachine) renew(r *rapid.T) {
	var leases []job.Lease
	for range rapid.IntRange(0, 4).Draw(r, "leases") {
		if l := m.lease(r); !slices.Contains(leases, l) {
			leases = append(leases, l)
		}
	}
	progress := make([]job.Progress, min(len(leases), rapid.IntRange(0, 4).Draw(r, "progress")))
	for i := range progress {
		progress[i].Bytes = int64(m.second + i)
	}
	both(r, m, "renew", func(s job.Store) (job.Renewal, error) {
		return s.Renew(context.Background(), leases, at(m.second+20), progress)
	})
}

func (m *jobMachine) append(r *rapid.T) {
	var chunks []job.Chunk
	for i := range rapid.IntRange(0, 5).Draw(r, "chunks") {
		l := m.lease(r)
		chunks = append(chunks, job.Chunk{ID: l.ID, Fence: l.Fence, Attempt: i, Data: []byte(strings.Repeat("y", i))})
	}
	both(r, m, "append", func(s job.Store) (bool, error) { return true, s.Append(context.Background(), chunks) })
}

func (m *jobMachine) finish(r *rapid.T) {
	o := job.Outcome{
		State: rapid.SampledFrom([]job.State{job.Completed, job.Cancelled, job.Discarded, job.Discarded, job.Retryable, job.Retryable,
			job.Available, job.Running}).Draw(r, "state"),
		NotBefore: at(m.second + rapid.SampledFrom([]int{-3, 0, 9}).Draw(r, "delay")),
		Expires:   at(m.second + rapid.IntRange(5, 60).Draw(r, "expires")),
		Progress:  job.Progress{Bytes: int64(m.second), Events: 1},
	}
	if rapid.Bool().Draw(r, "result") {
		o.Result = &job.Result{Status: 200, Header: http.Header{"X": {"y"}}, Bytes: 4, Body: []byte("body")}
		if rapid.Bool().Draw(r, "blob") {
			o.Result.Body, o.Result.Blob = nil, fmt.Sprint("blob/", rapid.IntRange(0, 5).Draw(r, "key"))
		}
	}
	if rapid.Bool().Draw(r, "failed") {
		o.Failure = &job.Failure{Status: 500, Detail: "no"}
	}
	if rapid.Bool().Draw(r, "account") {
		o.Account = []byte(fmt.Sprint("account ", m.second))
	}
	l := m.lease(r)
	both(r, m, "finish", func(s job.Store) (bool, error) { return true, s.Finish(context.Background(), l, o, m.now()) })
}

func (m *jobMachine) cancel(r *rapid.T) {
	id := m.id(r)
	caller := rapid.SampledFrom([]string{"", m.caller(r)}).Draw(r, "by")
	var ended [2]bool
	i := 0
	both(r, m, "cancel", func(s job.Store) (j *job.Job, err error) {
		j, ended[i], err = s.Cancel(context.Background(), caller, id, m.now(), at(m.second+40))
		i++
		return j, err
	})
	if ended[0] != ended[1] {
		r.Fatalf("cancel %s: ended %v, want %v", id, ended[1], ended[0])
	}
}

func (m *jobMachine) retry(r *rapid.T) {
	id := m.id(r)
	both(r, m, "retry", func(s job.Store) (*job.Job, error) {
		return s.Retry(context.Background(), id, m.now(), at(m.second+100))
	})
}

func (m *jobMachine) rescue(r *rapid.T) {
	most := rapid.IntRange(0, 5).Draw(r, "max")
	both(r, m, "rescue", func(s job.Store) ([]string, error) {
		jobs, err := s.Rescue(context.Background(), m.now(), at(m.second+40), most)
		return sortedIDs(jobs), err
	})
}

func (m *jobMachine) sweep(r *rapid.T) {
	forget := at(m.second - rapid.IntRange(0, 60).Draw(r, "forget"))
	blobs := both(r, m, "sweep", func(s job.Store) ([]string, error) {
		return s.Sweep(context.Background(), m.now(), forget, 50)
	})
	if rapid.Bool().Draw(r, "dropped") {
		both(r, m, "dropped", func(s job.Store) (bool, error) { return true, s.Dropped(context.Background(), blobs) })
	}
}

func (m *jobMachine) deliver(r *rapid.T) {
	turn := job.Turn{Until: at(m.second + 15), Max: rapid.IntRange(0, 3).Draw(r, "max")}
	turn.PerCaller = rapid.IntRange(0, 2).Draw(r, "each")
	if rapid.Bool().Draw(r, "except") {
		turn.Except = []string{fmt.Sprintf("key:%d-0", m.round), fmt.Sprintf("key:%d-1", m.round)}
	}
	m.calls = append(m.calls, both(r, m, "deliveries", func(s job.Store) ([]job.Delivery, error) {
		return s.Deliveries(context.Background(), turn, m.now())
	})...)
}

func (m *jobMachine) delivered(r *rapid.T) {
	if len(m.calls) == 0 {
		return
	}
	d := rapid.SampledFrom(m.calls).Draw(r, "delivery")
	next := rapid.SampledFrom([]time.Time{{}, at(m.second + 3)}).Draw(r, "next")
	both(r, m, "delivered", func(s job.Store) (bool, error) {
		return true, s.Delivered(context.Background(), d.Job.ID, d.Attempt, next)
	})
}

// check compares what a list says of every job, and what one of the other reads does.
func (m *jobMachine) check(r *rapid.T) {
	reads := m.reads(r)
	reads[rapid.IntRange(0, len(reads)-1).Draw(r, "which read")]()
}

// checkAll compares all that can be read.
func (m *jobMachine) checkAll(r *rapid.T) {
	for _, read := range m.reads(r) {
		read()
	}
}

// reads compares the lists of jobs, and returns what compares the other reads, of one of
// the jobs where there is one.
func (m *jobMachine) reads(r *rapid.T) []func() {
	ctx := context.Background()
	listed := both(r, m, "list", func(s job.Store) ([]*job.Job, error) { return s.List(ctx, job.Filter{}) })
	all := []func(){
		func() { both(r, m, "lines", func(s job.Store) ([]job.Line, error) { return s.Lines(ctx) }) },
	}
	if len(listed) == 0 {
		return all
	}
	j := rapid.SampledFrom(listed).Draw(r, "read")
	return append(all,
		func() { both(r, m, "get", func(s job.Store) (*job.Job, error) { return s.Get(ctx, j.Caller, j.ID) }) },
		func() {
			both(r, m, "find", func(s job.Store) (*job.Job, error) { return s.FindKey(ctx, j.Caller, j.IdempotencyKey) })
		},
		func() { both(r, m, "ahead", func(s job.Store) (int64, error) { return s.Ahead(ctx, j.ID, m.now()) }) },
		func() {
			both(r, m, "output", func(s job.Store) ([]job.Chunk, error) { return s.Output(ctx, j.ID, 1, 6) })
		},
	)
}
