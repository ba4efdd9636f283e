package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

// Jobs tests a job.Store. open makes an empty one; what it needs to close, it registers
// with t.Cleanup. NewJobs is the model that it is compared with.
func Jobs(t *testing.T, open func(t *testing.T) job.Store) {
	for _, c := range []struct {
		name string
		run  func(jobTest)
	}{
		{"keeps every field of a job, to the microsecond", keepsJob},
		{"gives back odd bytes, and what is empty as empty", keepsOddBytes},
		{"makes one job of an idempotency key and refuses it with another request", sameKey},
		{"makes one job of an ID, however often it is created", sameID},
		{"refuses more jobs than may wait, until some have ended", jobBounds},
		{"refuses an account of more than 64 KiB and writes nothing", largeAccount},
		{"shows a caller nobody else's job", foreignJobs},
		{"takes what is no UUID for a job that is not there", notUUID},
		{"lists the newest first, by caller, route and state, page by page", listJobs},
		{"claims what may run now, of its route, and no more than asked for", claimNow},
		{"claims by turns of the callers", claimTurns},
		{"passes over callers that are excepted, and gives a caller no more than it may have", claimBounds},
		{"gives each of hundreds of callers one job before any a second", claimManyCallers},
		{"gives first to whoever was given one longest ago", claimLongestAgo},
		{"counts the attempt and moves the fence with each claim", claimFence},
		{"says how many are ahead in the order in which they are claimed", aheadOfAll},
		{"counts what waits and runs by route", countLines},
		{"renews leases, also late ones, and says which are lost or cancelled", renewLeases},
		{"keeps output in order, without gaps, over all attempts", appendOutput},
		{"keeps no more output than may be kept, and no hole in it", boundedOutput},
		{"pages output by bytes, and at least one chunk", pageOutput},
		{"ends an attempt in each way", finishWays},
		{"does not count an attempt that is given back", giveBack},
		{"refuses to end an attempt under an old fence", finishFenced},
		{"takes the same end of the same attempt twice as once", finishTwice},
		{"cancels what waits, asks what runs, and leaves what has ended", cancelJobs},
		{"does not run again what was cancelled while it ran", cancelledThenRetried},
		{"retries what is discarded, and nothing else", retryJobs},
		{"rescues jobs whose lease has run out", rescueLeases},
		{"discards jobs that waited too long", rescueTired},
		{"sweeps results and then jobs, and tells blobs until they are dropped", sweepJobs},
		{"frees a blob whose result another attempt replaced", replacedBlob},
		{"frees an idempotency key with its job", freedKey},
		{"leases a webhook to one at a time until it is delivered", deliverWebhooks},
		{"gives webhooks to callers by turns", webhookTurns},
		{"loses what was leased of a webhook before its job was retried", webhookOfRetried},
		{"keeps a job until its webhook is delivered", webhookOfForgotten},
		{"does nothing for a context that has ended", cancelledJobs},
		{"creates one job of many that come with one key at once", concurrentKey},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(jobTest{t, open(t)}) })
	}
	t.Run("gives a job to one of many that claim at once, and loses none", func(t *testing.T) {
		s := open(t)
		JobClaimers(t, s, s, s)
	})
	t.Run("does what the model does", func(t *testing.T) { jobModel(t, open(t)) })
}

// jobTest is a store under test, with calls that must succeed.
type jobTest struct {
	*testing.T
	s job.Store
}

// at is a time of a test, in seconds after its begin.
func at(seconds int) time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 891234000, time.UTC).Add(time.Duration(seconds) * time.Second)
}

// jobID is the ID of the nth job: they sort as they count.
func jobID(n int) string { return fmt.Sprintf("019cb7a1-0000-7000-8000-%012x", n) }

// noBounds let all jobs in.
func noBounds() job.Bounds { return job.Bounds{Jobs: 1 << 40, CallerJobs: 1 << 40, Bytes: 1 << 50} }

// newJob is the nth job of a test, of caller and for the route "POST /v1/".
func newJob(n int, caller string) *job.Job {
	return &job.Job{
		ID: jobID(n), Caller: caller, Plan: "default", Route: "POST /v1/", RequestHash: [32]byte{byte(n), 1, 2},
		Request: job.Request{
			Method: "POST", URI: "/v1/chat/completions?n=1", Host: "weir.example",
			Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(fmt.Sprintf(`{"n":%d}`, n)), ID: fmt.Sprint("request-", n),
		},
		State: job.Available, MaxAttempts: 3, NotBefore: at(0), Created: at(0), Expires: at(86400),
	}
}

func (t jobTest) create(j *job.Job) *job.Job {
	t.Helper()
	kept, created, err := t.s.Create(context.Background(), j, noBounds())
	if err != nil || !created {
		t.Fatalf("create %s: created %v, %v", j.ID, created, err)
	}
	return kept
}

func (t jobTest) get(id string) *job.Job {
	t.Helper()
	j, err := t.s.Get(context.Background(), "", id)
	if err != nil {
		t.Fatalf("get %s: %v", id, err)
	}
	return j
}

// claim claims at a second, with a lease of 30 s.
func (t jobTest) claim(second, most int) []*job.Job {
	t.Helper()
	jobs, err := t.s.Claim(context.Background(), job.Claim{Owner: "one", Until: at(second + 30), Route: "POST /v1/", Max: most}, at(second))
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return jobs
}

// claimed claims the only job that there is.
func (t jobTest) claimed(second int) job.Lease {
	t.Helper()
	jobs := t.claim(second, 10)
	if len(jobs) != 1 {
		t.Fatalf("claimed %d jobs, want 1", len(jobs))
	}
	return job.Lease{ID: jobs[0].ID, Fence: jobs[0].Fence}
}

func (t jobTest) finish(l job.Lease, o job.Outcome, second int) {
	t.Helper()
	if err := t.s.Finish(context.Background(), l, o, at(second)); err != nil {
		t.Fatalf("finish %s: %v", l.ID, err)
	}
}

func (t jobTest) append(chunks ...job.Chunk) {
	t.Helper()
	if err := t.s.Append(context.Background(), chunks); err != nil {
		t.Fatalf("append: %v", err)
	}
}

func (t jobTest) cancel(id string, second int) (*job.Job, bool) {
	t.Helper()
	j, ended, err := t.s.Cancel(context.Background(), "", id, at(second), at(second+100))
	if err != nil {
		t.Fatalf("cancel %s: %v", id, err)
	}
	return j, ended
}

func (t jobTest) rescue(second, most int) []*job.Job {
	t.Helper()
	jobs, err := t.s.Rescue(context.Background(), at(second), at(second+100), most)
	if err != nil {
		t.Fatalf("rescue: %v", err)
	}
	return jobs
}

func (t jobTest) sweep(now, forget int) []string {
	t.Helper()
	blobs, err := t.s.Sweep(context.Background(), at(now), at(forget), 100)
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return blobs
}

// same compares whole values.
func (t jobTest) same(what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
}

// show prints a value with what its pointers point to.
func show(v any) string {
	switch v := v.(type) {
	case *job.Job:
		if v == nil {
			return "no job"
		}
		return fmt.Sprintf("%+v result %+v failure %+v", *v, v.Result, v.Failure)
	case []*job.Job:
		var b strings.Builder
		for _, j := range v {
			b.WriteString("\n\t" + show(j))
		}
		return b.String()
	}
	return fmt.Sprintf("%+v", v)
}

func (t jobTest) isErr(what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got error %v, want %v", what, got, want)
	}
}

func idsOfJobs(jobs []*job.Job) []string {
	out := []string{}
	for _, j := range jobs {
		out = append(out, j.ID)
	}
	return out
}

// ids are those of the nth jobs.
func ids(n ...int) []string {
	out := []string{}
	for _, n := range n {
		out = append(out, jobID(n))
	}
	return out
}

func keepsJob(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	j.IdempotencyKey, j.Webhook, j.Account = "mine", "https://example.com/hook?a=b", []byte{0, 1, 255}
	j.Request.Header["X-Many"] = []string{"a", "", "b"}
	j.NotBefore = at(5).Add(999 * time.Nanosecond)
	j.Created = at(0).In(time.FixedZone("CET", 3600))
	want := *j
	want.NotBefore, want.Created = at(5), at(0)
	want.Request.Body = nil
	t.same("created", t.create(j), &want)
	t.same("got", t.get(j.ID), &want)
	got, err := t.s.FindKey(ctx, "key:alice", "mine")
	if err != nil {
		t.Fatal(err)
	}
	t.same("found", got, &want)
	listed, err := t.s.List(ctx, job.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	t.same("listed", listed, []*job.Job{&want})
	want.Request.Body = j.Request.Body
	want.State, want.Attempt, want.Fence, want.Owner = job.Running, 1, 1, "one"
	want.LeaseUntil, want.Started = at(36), at(6)
	t.same("claimed", t.claim(6, 1), []*job.Job{&want})
}

func keepsOddBytes(t jobTest) {
	odd := "\x00\xff\\x41\\\\é\u2028\xc3\""
	j := newJob(1, "header:"+odd)
	j.Plan, j.IdempotencyKey, j.Webhook, j.Route = odd, odd+strings.Repeat("k", 9000), odd, "POST /v1/"
	j.Request = job.Request{Method: odd, URI: odd, Host: odd, ID: odd, Body: []byte(odd), Header: http.Header{odd: {odd, "", odd}, "None": {}}}
	t.create(j)
	want := *j
	want.Request.Body = nil
	t.same("odd", t.get(j.ID), &want)
	found, err := t.s.FindKey(context.Background(), j.Caller, j.IdempotencyKey)
	if err != nil {
		t.Fatal(err)
	}
	t.same("found by an odd key", found.ID, j.ID)
	run := t.claim(0, 1)
	t.same("odd request", run[0].Request, j.Request)
	t.finish(job.Lease{ID: j.ID, Fence: 1}, job.Outcome{State: job.Completed, Expires: at(9), Result: &job.Result{Status: 299,
		Header: http.Header{odd: {odd}}, Body: []byte(odd), Bytes: int64(len(odd))}, Failure: &job.Failure{Status: 500, Detail: odd}}, 1)
	got := t.get(j.ID)
	t.same("odd result", got.Result, &job.Result{Status: 299, Header: http.Header{odd: {odd}}, Body: []byte(odd), Bytes: int64(len(odd))})
	t.same("odd failure", got.Failure, &job.Failure{Status: 500, Detail: odd})

	for n, r := range []job.Request{{}, {Header: http.Header{}, Body: []byte{}}} {
		e := newJob(2+n, "key:alice")
		e.Request, e.Account = r, []byte{}
		t.create(e)
		run := t.claim(0, 1)[0]
		t.same("an empty request", run.Request, job.Request{Header: http.Header{}})
		t.same("an empty account", run.Account, []byte(nil))
		t.finish(job.Lease{ID: e.ID, Fence: 1}, job.Outcome{State: job.Completed, Expires: at(9), Result: &job.Result{}}, 1)
		t.same("an empty result", t.get(e.ID).Result, &job.Result{Header: http.Header{}})
	}
}

func sameKey(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	j.IdempotencyKey = "mine"
	first := t.create(j)
	again := newJob(2, "key:alice")
	again.IdempotencyKey, again.RequestHash = "mine", j.RequestHash
	kept, created, err := t.s.Create(ctx, again, job.Bounds{Jobs: 1, CallerJobs: 1, Bytes: 1})
	if err != nil || created {
		t.Fatalf("the same request again: created %v, %v", created, err)
	}
	t.same("the same request again", kept, first)
	other := newJob(3, "key:alice")
	other.IdempotencyKey = "mine"
	_, _, err = t.s.Create(ctx, other, noBounds())
	t.isErr("another request", err, job.ErrConflict)
	for n, id := range ids(2, 3) {
		_, err := t.s.Get(ctx, "", id)
		t.isErr(fmt.Sprint("get ", n), err, job.ErrNotFound)
	}
	bob := newJob(4, "key:bob")
	bob.IdempotencyKey = "mine"
	t.create(bob)
	for n := range 2 {
		none := newJob(5+n, "key:alice")
		none.RequestHash = j.RequestHash
		t.create(none)
	}
	_, err = t.s.FindKey(ctx, "key:alice", "")
	t.isErr("the empty key", err, job.ErrNotFound)
	_, err = t.s.FindKey(ctx, "key:carol", "mine")
	t.isErr("a caller without it", err, job.ErrNotFound)
}

func sameID(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	first := t.create(j)
	kept, _, err := t.s.Create(ctx, j, noBounds())
	if err != nil {
		t.Fatal(err)
	}
	t.same("again", kept, first)
	t.same("claimed", idsOfJobs(t.claim(1, 10)), ids(1))
	kept, created, err := t.s.Create(ctx, j, noBounds())
	if err != nil || created || kept.State != job.Running {
		t.Fatalf("created while it runs: %v, %v, %v", kept, created, err)
	}
	j.RequestHash[5]++
	_, _, err = t.s.Create(ctx, j, noBounds())
	t.isErr("with another request", err, job.ErrConflict)
}

func jobBounds(t jobTest) {
	b := job.Bounds{Jobs: 4, CallerJobs: 3, Bytes: 1000}
	try := func(n int, caller string, size int, want error) {
		t.Helper()
		j := newJob(n, caller)
		j.Request.Body = bytes.Repeat([]byte{'x'}, size)
		if _, _, err := t.s.Create(context.Background(), j, b); !errors.Is(err, want) {
			t.Fatalf("job %d of %s with %d bytes: got error %v, want %v", n, caller, size, err, want)
		}
	}
	try(1, "key:alice", 1001, job.ErrFull)
	try(1, "key:alice", 600, nil)
	try(2, "key:bob", 401, job.ErrFull)
	try(2, "key:alice", 300, nil)
	try(3, "key:alice", 10, nil)
	try(4, "key:alice", 0, job.ErrFull)
	try(4, "key:bob", 0, nil)
	try(5, "key:carol", 0, job.ErrFull)
	if _, ended := t.cancel(jobID(1), 1); !ended {
		t.Fatal("not cancelled")
	}
	try(5, "key:alice", 691, job.ErrFull)
	try(5, "key:alice", 690, nil)
	try(6, "key:carol", 0, job.ErrFull)
	run := t.claim(1, 1)[0]
	try(6, "key:carol", 0, job.ErrFull) // what runs has not ended
	t.finish(job.Lease{ID: run.ID, Fence: 1}, job.Outcome{State: job.Completed, Expires: at(5)}, 2)
	try(6, "key:carol", 0, nil)
	if t.sweep(10, 10); len(t.rescue(90000, 100)) != 4 {
		t.Fatal("not all are rescued")
	}
	try(7, "key:alice", 1000, nil)
}

func largeAccount(t jobTest) {
	j := newJob(1, "key:alice")
	j.Account = make([]byte, 64<<10+1)
	if _, _, err := t.s.Create(context.Background(), j, noBounds()); err == nil {
		t.Fatal("created with a large account")
	}
	j.Account = j.Account[1:]
	t.create(j)
	l := t.claimed(0)
	if err := t.s.Finish(context.Background(), l, job.Outcome{State: job.Completed, Account: make([]byte, 64<<10+1)}, at(1)); err == nil || errors.Is(err, job.ErrLost) {
		t.Fatalf("finished with a large account: %v", err)
	}
	if err := t.s.Finish(context.Background(), l, job.Outcome{State: job.Running}, at(1)); err == nil || errors.Is(err, job.ErrLost) {
		t.Fatalf("finished as running: %v", err)
	}
	t.same("state", t.get(j.ID).State, job.Running)
}

func foreignJobs(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	j.IdempotencyKey = "mine"
	want := t.create(j)
	_, err := t.s.Get(ctx, "key:bob", j.ID)
	t.isErr("get", err, job.ErrNotFound)
	_, err = t.s.FindKey(ctx, "key:bob", "mine")
	t.isErr("find", err, job.ErrNotFound)
	_, _, err = t.s.Cancel(ctx, "key:bob", j.ID, at(1), at(2))
	t.isErr("cancel", err, job.ErrNotFound)
	listed, err := t.s.List(ctx, job.Filter{Caller: "key:bob"})
	if err != nil || len(listed) != 0 {
		t.Fatalf("list: %v, %v", listed, err)
	}
	got, err := t.s.Get(ctx, "key:alice", j.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.same("the owner's", got, want)
}

func notUUID(t jobTest) {
	ctx := context.Background()
	t.create(newJob(1, "key:alice"))
	for _, id := range []string{"", "x", "\x00\xff", strings.Repeat("a", 1<<16), jobID(2), strings.ToUpper(jobID(1)), jobID(1) + " ",
		"{" + jobID(1) + "}", "' OR true --"} {
		_, get := t.s.Get(ctx, "", id)
		_, _, cancel := t.s.Cancel(ctx, "", id, at(1), at(2))
		_, retry := t.s.Retry(ctx, id, at(1), at(2))
		_, ahead := t.s.Ahead(ctx, id, at(1))
		_, output := t.s.Output(ctx, id, 0, 100)
		for i, err := range []error{get, cancel, retry, ahead, output} {
			t.isErr(fmt.Sprintf("call %d of %.40q", i, id), err, job.ErrNotFound)
		}
		t.isErr("finish", t.s.Finish(ctx, job.Lease{ID: id, Fence: 1}, job.Outcome{State: job.Completed}, at(1)), job.ErrLost)
		t.isErr("delivered", t.s.Delivered(ctx, id, 1, time.Time{}), job.ErrLost)
		r, err := t.s.Renew(ctx, []job.Lease{{ID: id, Fence: 1}}, at(9), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.same("renewed", r, job.Renewal{Lost: []string{id}})
		t.append(job.Chunk{ID: id, Fence: 1, Data: []byte("x")})
	}
}

func listJobs(t jobTest) {
	for n := range 120 {
		j := newJob(n, []string{"key:alice", "key:bob"}[n%2])
		if n%3 == 0 {
			j.Route = "GET /other"
		}
		t.create(j)
	}
	t.cancel(jobID(4), 1)
	f := func(f job.Filter, want ...string) {
		t.Helper()
		got, err := t.s.List(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		t.same(fmt.Sprintf("%+v", f), idsOfJobs(got), want)
	}
	var newest []string
	for n := 119; n >= 20; n-- {
		newest = append(newest, jobID(n))
	}
	f(job.Filter{}, newest...)
	f(job.Filter{Max: -1}, newest...)
	f(job.Filter{Max: 2}, ids(119, 118)...)
	f(job.Filter{Max: 2, Before: jobID(118)}, ids(117, 116)...)
	f(job.Filter{Max: 5, Caller: "key:alice", Before: jobID(10)}, ids(8, 6, 4, 2, 0)...)
	f(job.Filter{Max: 3, Route: "GET /other"}, ids(117, 114, 111)...)
	f(job.Filter{State: job.Cancelled}, ids(4)...)
	f(job.Filter{State: job.Cancelled, Caller: "key:bob"}, []string{}...)
	f(job.Filter{State: job.Available, Caller: "key:alice", Route: "POST /v1/", Before: jobID(9)}, ids(8, 2)...)
	all, err := t.s.List(context.Background(), job.Filter{Max: 5000})
	if err != nil || len(all) != 120 {
		t.Fatalf("listed %d, %v, want all 120", len(all), err)
	}
	for _, j := range all {
		if j.Request.Body != nil || j.Request.URI == "" {
			t.Fatalf("listed with the request %+v", j.Request)
		}
	}
}

// sortedIDs sorts the IDs of jobs.
func sortedIDs(jobs []*job.Job) []string {
	out := idsOfJobs(jobs)
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
