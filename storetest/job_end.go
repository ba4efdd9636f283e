package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

func finishWays(t jobTest) {
	for n, state := range []job.State{job.Completed, job.Cancelled, job.Discarded, job.Retryable} {
		j := newJob(n, "key:alice")
		j.Account = []byte("reserved")
		t.create(j)
		l := t.claimed(1)
		want := t.get(j.ID)
		o := job.Outcome{State: state, Progress: job.Progress{Bytes: 7, Events: 2}, Account: []byte("spent"), Expires: at(500).Add(time.Microsecond),
			NotBefore: at(100), Failure: &job.Failure{Status: 429, Detail: "too many"},
			Result: &job.Result{Status: 200, Header: http.Header{"A": {"b", "c"}}, Body: []byte("answer"), Bytes: 6}}
		t.finish(l, o, 2)
		want.State, want.Progress, want.Account, want.Failure, want.Result = state, o.Progress, o.Account, o.Failure, o.Result
		want.Owner, want.LeaseUntil = "", time.Time{}
		if state.Ended() {
			want.Finished, want.Expires = at(2), o.Expires
		} else {
			want.NotBefore = at(100)
		}
		t.same(string(state), t.get(j.ID), want)
		want.Result = &job.Result{Status: 200, Header: http.Header{"A": {"b", "c"}}, Bytes: 6}
		listed, err := t.s.List(context.Background(), job.Filter{State: state})
		if err != nil {
			t.Fatal(err)
		}
		t.same("listed", listed, []*job.Job{want})
	}
	l := t.claimed(100)
	t.finish(l, job.Outcome{State: job.Completed, Expires: at(500)}, 101)
	j := t.get(l.ID)
	if j.Failure != nil || j.Result != nil || string(j.Account) != "spent" {
		t.Fatalf("the next attempt left: %s", show(j))
	}
}

func giveBack(t jobTest) {
	j := newJob(1, "key:alice")
	t.create(j)
	want := t.get(j.ID)
	t.finish(t.claimed(1), job.Outcome{State: job.Available, NotBefore: at(5)}, 2)
	want.Fence, want.NotBefore = 1, at(5)
	t.same("given back", t.get(j.ID), want)
	t.same("too early", idsOfJobs(t.claim(4, 1)), ids())
	t.finish(t.claimed(5), job.Outcome{State: job.Retryable, NotBefore: at(6), Failure: &job.Failure{Status: 500, Detail: "no"},
		Result: &job.Result{Status: 500, Body: []byte("no"), Bytes: 2}, Account: []byte("spent")}, 6)
	want = t.get(j.ID)
	t.finish(t.claimed(6), job.Outcome{State: job.Available, NotBefore: at(7)}, 7)
	want.State, want.Fence, want.NotBefore, want.Started = job.Available, 3, at(7), at(6)
	t.same("given back later", t.get(j.ID), want)
	if j := t.claim(7, 1)[0]; j.Attempt != 2 || j.Fence != 4 {
		t.Fatalf("then attempt %d under fence %d, want 2 and 4", j.Attempt, j.Fence)
	}
}

func finishFenced(t jobTest) {
	ctx := context.Background()
	t.create(newJob(1, "key:alice"))
	done := job.Outcome{State: job.Completed, Expires: at(500), Result: &job.Result{Status: 200, Body: []byte("zombie"), Bytes: 6}}
	t.isErr("before it runs", t.s.Finish(ctx, job.Lease{ID: jobID(1)}, done, at(1)), job.ErrLost)
	old := t.claimed(1)
	t.rescue(31, 10)
	t.isErr("after it was rescued", t.s.Finish(ctx, old, done, at(32)), job.ErrLost)
	l := t.claimed(32)
	want := t.get(l.ID)
	t.isErr("under the old fence", t.s.Finish(ctx, old, done, at(33)), job.ErrLost)
	t.isErr("under a fence to come", t.s.Finish(ctx, job.Lease{ID: l.ID, Fence: 3}, done, at(33)), job.ErrLost)
	t.isErr("of another job", t.s.Finish(ctx, job.Lease{ID: jobID(2), Fence: 1}, done, at(33)), job.ErrLost)
	t.same("unchanged", t.get(l.ID), want)
	t.finish(l, job.Outcome{State: job.Discarded, Expires: at(500)}, 34)
	want = t.get(l.ID)
	t.isErr("after its end", t.s.Finish(ctx, l, done, at(35)), job.ErrLost)
	t.same("unchanged", t.get(l.ID), want)
}

func finishTwice(t jobTest) {
	t.create(newJob(1, "key:alice"))
	l := t.claimed(1)
	again := job.Outcome{State: job.Retryable, NotBefore: at(2), Failure: &job.Failure{Status: 500, Detail: "first"}}
	t.finish(l, again, 2)
	again.Failure = &job.Failure{Status: 500, Detail: "second"}
	t.finish(l, again, 3)
	t.same("failure", t.get(l.ID).Failure, &job.Failure{Status: 500, Detail: "first"})
	l2 := t.claimed(3)
	t.isErr("under the next fence", t.s.Finish(context.Background(), l, again, at(3)), job.ErrLost)
	done := job.Outcome{State: job.Completed, Expires: at(500), Result: &job.Result{Status: 200, Body: []byte("answer"), Bytes: 6}}
	t.finish(l2, done, 4)
	want := t.get(l.ID)
	done.Result, done.Expires = nil, at(900)
	t.finish(l2, done, 5)
	t.same("unchanged", t.get(l.ID), want)
	lines, err := t.s.Lines(context.Background())
	if err != nil || len(lines) != 0 {
		t.Fatalf("lines %+v, %v: counted twice", lines, err)
	}
}

func cancelJobs(t jobTest) {
	for n := range 3 {
		t.create(newJob(n, "key:alice"))
	}
	t.claim(1, 1)
	j, ended := t.cancel(jobID(0), 2)
	if ended || j.State != job.Running || !j.CancelRequested || !j.Finished.IsZero() {
		t.Fatalf("one that runs: ended %v, %s", ended, show(j))
	}
	t.finish(job.Lease{ID: jobID(0), Fence: 1}, job.Outcome{State: job.Cancelled, Expires: at(50)}, 3)
	want := t.get(jobID(0))
	j, ended = t.cancel(jobID(0), 4)
	t.same("ended again", ended, false)
	t.same("one that has ended", j, want)
	want = t.get(jobID(1))
	j, ended = t.cancel(jobID(1), 5)
	want.State, want.Finished, want.Expires = job.Cancelled, at(5), at(105)
	t.same("ended", ended, true)
	t.same("one that waits", j, want)
	t.same("kept", t.get(jobID(1)), want)
	t.same("claimed", idsOfJobs(t.claim(6, 9)), ids(2))
	_, _, err := t.s.Cancel(context.Background(), "key:alice", jobID(7), at(1), at(2))
	t.isErr("one that is not there", err, job.ErrNotFound)
}

func cancelledThenRetried(t jobTest) {
	for n, state := range []job.State{job.Retryable, job.Available} {
		t.create(newJob(n, "key:alice"))
		l := t.claimed(1)
		t.cancel(l.ID, 2)
		t.finish(l, job.Outcome{State: state, NotBefore: at(3)}, 3)
		t.same("claimed", idsOfJobs(t.claim(4, 9)), ids())
		got := t.rescue(5, 9)
		if len(got) != 1 || got[0].State != job.Cancelled || got[0].ID != l.ID || !got[0].Finished.Equal(at(5)) {
			t.Fatalf("rescued %s", show(got))
		}
	}
	t.create(newJob(5, "key:alice"))
	l := t.claimed(6)
	t.cancel(l.ID, 7)
	t.finish(l, job.Outcome{State: job.Retryable, NotBefore: at(8)}, 8)
	if j, ended := t.cancel(l.ID, 9); !ended || j.State != job.Cancelled {
		t.Fatalf("cancelled again while it waits: ended %v, %s", ended, show(j))
	}
}

func retryJobs(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	j.Webhook = "https://example.com/"
	t.create(j)
	_, err := t.s.Retry(ctx, j.ID, at(1), at(2))
	t.isErr("one that waits", err, job.ErrLost)
	l := t.claimed(1)
	t.append(chunk(1, 1, 1, "a"))
	t.finish(l, job.Outcome{State: job.Discarded, Expires: at(50), Failure: &job.Failure{Status: 400, Detail: "bad"},
		Result: &job.Result{Status: 400, Body: []byte("bad"), Bytes: 3}}, 2)
	want := t.get(j.ID)
	got, err := t.s.Retry(ctx, j.ID, at(10), at(900))
	if err != nil {
		t.Fatal(err)
	}
	want.State, want.MaxAttempts, want.NotBefore = job.Available, 2, at(10)
	want.Finished, want.Expires, want.Result, want.Account = time.Time{}, at(900), nil, nil
	t.same("retried", got, want)
	t.same("kept", t.get(j.ID), want)
	deliveries, err := t.s.Deliveries(ctx, job.Turn{Until: at(30), Max: 9}, at(20))
	if err != nil || len(deliveries) != 0 {
		t.Fatalf("told of an end that is none: %+v, %v", deliveries, err)
	}
	run := t.claim(20, 1)
	if len(run) != 1 || run[0].Attempt != 2 || string(run[0].Request.Body) != `{"n":1}` {
		t.Fatalf("claimed %s", show(run))
	}
	t.append(chunk(1, 2, 2, "b"))
	t.same("output", t.output(j.ID, 0, 100), numberedFrom(1, chunk(1, 1, 1, "a"), chunk(1, 2, 2, "b")))
	t.same("rescued after the last attempt", t.rescue(60, 9)[0].State, job.Discarded)
	t.sweep(1000, 0)
	_, err = t.s.Retry(ctx, j.ID, at(1000), at(2000))
	t.isErr("one that was swept", err, job.ErrNotFound)
	_, err = t.s.Retry(ctx, jobID(9), at(1000), at(2000))
	t.isErr("one that is not there", err, job.ErrNotFound)
}

func rescueLeases(t jobTest) {
	for n := range 5 {
		j := newJob(n, "key:alice")
		if n == 1 {
			j.MaxAttempts = 1
		}
		j.Account = []byte("reserved")
		t.create(j)
	}
	t.claim(0, 3)
	t.claim(1, 1)
	t.cancel(jobID(2), 5)
	t.same("before", idsOfJobs(t.rescue(29, 100)), ids())
	got := t.rescue(30, 100)
	t.same("ended", sortedIDs(got), ids(1, 2))
	states := map[int]job.State{0: job.Retryable, 1: job.Discarded, 2: job.Cancelled, 3: job.Running, 4: job.Available}
	for n, state := range states {
		j := t.get(jobID(n))
		if j.State != state || j.State.Ended() && (!j.Finished.Equal(at(30)) || !j.Expires.Equal(at(130))) || string(j.Account) != "reserved" {
			t.Fatalf("job %d should be %s: %s", n, state, show(j))
		}
		if failed := state == job.Retryable || state == job.Discarded; failed != (j.Failure != nil) {
			t.Fatalf("job %d: failure %+v", n, j.Failure)
		}
		if state != job.Running && (j.Owner != "" || !j.LeaseUntil.IsZero()) {
			t.Fatalf("job %d has a lease: %s", n, show(j))
		}
	}
	t.same("at once", idsOfJobs(t.claim(30, 1)), ids(0))
	t.same("again", idsOfJobs(t.rescue(30, 100)), ids())
	for n := 10; n < 20; n++ {
		j := newJob(n, "key:alice")
		j.MaxAttempts = 1
		t.create(j)
	}
	t.claim(100, 100)
	seen := map[string]bool{}
	for range 12 {
		for _, j := range t.rescue(200, 3) {
			seen[j.ID] = true
		}
	}
	for n := 10; n < 20; n++ {
		if !seen[jobID(n)] {
			t.Fatalf("job %d is not rescued in steps of 3", n)
		}
	}
}

func rescueTired(t jobTest) {
	for n := range 4 {
		j := newJob(n, "key:alice")
		j.Expires = at(100 + n)
		if n == 1 {
			j.NotBefore = at(5000)
		}
		t.create(j)
	}
	run := t.claim(0, 1)
	if _, err := t.s.Renew(context.Background(), []job.Lease{{ID: run[0].ID, Fence: 1}}, at(9000), nil); err != nil {
		t.Fatal(err)
	}
	t.same("before", idsOfJobs(t.rescue(100, 9)), ids())
	got := t.rescue(102, 9)
	t.same("ended", idsOfJobs(got), ids(1, 2))
	for _, j := range got {
		if j.State != job.Discarded || j.Failure == nil || j.Failure.Status != 504 || !j.Expires.Equal(at(202)) || !j.Finished.Equal(at(102)) {
			t.Fatalf("ended as %s", show(j))
		}
	}
	t.same("what runs goes on", t.get(jobID(0)).State, job.Running)
	t.same("what may wait", t.get(jobID(3)).State, job.Available)
}

func sweepJobs(t jobTest) {
	ctx := context.Background()
	for n := range 3 {
		t.create(newJob(n, "key:alice"))
	}
	t.claim(0, 2)
	t.append(chunk(0, 1, 1, "output"))
	for n := range 2 {
		t.finish(job.Lease{ID: jobID(n), Fence: 1}, job.Outcome{State: job.Completed, Expires: at(100 + 50*n), Account: []byte("spent"),
			Result: &job.Result{Status: 200, Blob: fmt.Sprint("blob/", n, `/\`), Bytes: 1 << 20}}, 1)
	}
	t.same("before", len(t.sweep(100, 100)), 0)
	want := t.get(jobID(0))
	for range 2 {
		t.same("blobs", t.sweep(101, 100), []string{`blob/0/\`})
	}
	want.Result, want.Request = nil, job.Request{}
	t.same("swept", t.get(jobID(0)), want)
	t.same("output", len(t.output(jobID(0), 0, 100)), 0)
	if t.get(jobID(1)).Result == nil {
		t.Fatal("swept too early")
	}
	if err := t.s.Dropped(ctx, []string{`blob/0/\`, "never there"}); err != nil {
		t.Fatal(err)
	}
	t.same("dropped", len(t.sweep(150, 100)), 0)
	t.same("the next", t.sweep(1000, 101), []string{`blob/1/\`})
	_, err := t.s.Get(ctx, "", jobID(0))
	t.isErr("forgotten", err, job.ErrNotFound)
	t.get(jobID(1))
	t.sweep(1000, 1000)
	_, err = t.s.Get(ctx, "", jobID(1))
	t.isErr("forgotten too", err, job.ErrNotFound)
	t.same("a blob outlives its job", t.sweep(1000, 1000), []string{`blob/1/\`})
	if err := t.s.Dropped(ctx, nil); err != nil {
		t.Fatal(err)
	}
	t.same("what waits stays", t.get(jobID(2)).State, job.Available)
}

func replacedBlob(t jobTest) {
	t.create(newJob(1, "key:alice"))
	for n := range 3 {
		blob := fmt.Sprint("blob/", min(n, 1)) // the last two have the same
		t.finish(t.claimed(n), job.Outcome{State: job.Retryable, NotBefore: at(n + 1), Result: &job.Result{Status: 500, Blob: blob}}, n)
	}
	t.same("replaced", t.sweep(10, 10), []string{"blob/0"})
	t.same("the last one", t.get(jobID(1)).Result, &job.Result{Status: 500, Header: http.Header{}, Blob: "blob/1"})
	t.same("given back", t.claimed(5), job.Lease{ID: jobID(1), Fence: 4})
	t.finish(job.Lease{ID: jobID(1), Fence: 4}, job.Outcome{State: job.Completed, Expires: at(9)}, 6)
	t.same("replaced by nothing", t.sweep(7, 7), []string{"blob/0", "blob/1"})
}

func freedKey(t jobTest) {
	j := newJob(1, "key:alice")
	j.IdempotencyKey = "mine"
	t.create(j)
	t.cancel(j.ID, 1)
	t.sweep(200, 0)
	other := newJob(2, "key:alice")
	other.IdempotencyKey = "mine"
	_, _, err := t.s.Create(context.Background(), other, noBounds())
	t.isErr("while the job is kept", err, job.ErrConflict)
	t.sweep(200, 200)
	t.create(other)
}

func deliverWebhooks(t jobTest) {
	ctx := context.Background()
	due := func(now, until, most int) []job.Delivery {
		t.Helper()
		d, err := t.s.Deliveries(ctx, job.Turn{Until: at(until), Max: most}, at(now))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for n := range 4 {
		j := newJob(n, "key:alice")
		if n > 0 {
			j.Webhook = "https://example.com/hook"
		}
		t.create(j)
	}
	for _, j := range t.claim(0, 3) {
		t.finish(job.Lease{ID: j.ID, Fence: 1}, job.Outcome{State: job.Completed, Expires: at(5000),
			Result: &job.Result{Status: 200, Header: http.Header{}, Body: []byte("x"), Bytes: 1}}, 10)
	}
	t.same("before", len(due(9, 100, 9)), 0)
	first := due(10, 100, 1)
	want := t.get(jobID(1))
	want.Result.Body = nil
	t.same("the first", first, []job.Delivery{{Job: *want, Attempt: 1}})
	second := due(11, 100, 9)
	t.same("the second", []any{len(second), second[0].Job.ID, second[0].Attempt}, []any{1, jobID(2), 1})
	t.same("leased", len(due(99, 200, 9)), 0)
	if err := t.s.Delivered(ctx, jobID(1), 1, time.Time{}); err != nil {
		t.Fatal(err)
	}
	again := due(100, 200, 9)
	t.same("after the lease", []any{len(again), again[0].Job.ID, again[0].Attempt}, []any{1, jobID(2), 2})
	t.isErr("an attempt that is over", t.s.Delivered(ctx, jobID(2), 1, time.Time{}), job.ErrLost)
	t.isErr("one that never was", t.s.Delivered(ctx, jobID(3), 0, time.Time{}), job.ErrLost)
	for range 2 { // once more is as once
		if err := t.s.Delivered(ctx, jobID(2), 2, at(150)); err != nil {
			t.Fatal(err)
		}
	}
	t.same("not yet", len(due(149, 200, 9)), 0)
	t.same("a third time", due(150, 200, 9)[0].Attempt, 3)
	t.cancel(jobID(3), 300)
	t.same("cancelled ones too", len(due(300, 400, 9)), 2)
}

func cancelledJobs(t jobTest) {
	t.create(newJob(1, "key:alice"))
	want := t.get(jobID(1))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, create := t.s.Create(ctx, newJob(2, "key:alice"), noBounds())
	_, get := t.s.Get(ctx, "", jobID(1))
	_, claim := t.s.Claim(ctx, job.Claim{Route: "POST /v1/", Max: 1, Until: at(9)}, at(1))
	_, _, cancelJob := t.s.Cancel(ctx, "", jobID(1), at(1), at(2))
	for i, err := range []error{create, get, claim, cancelJob} {
		if err == nil || errors.Is(err, job.ErrNotFound) || errors.Is(err, job.ErrLost) {
			t.Errorf("call %d: got error %v, want the context's", i, err)
		}
	}
	t.same("unchanged", t.get(jobID(1)), want)
	_, err := t.s.Get(context.Background(), "", jobID(2))
	t.isErr("not created", err, job.ErrNotFound)
}

func concurrentKey(t jobTest) {
	const callers = 12
	var wg sync.WaitGroup
	kept := make([]string, callers)
	created := make([]bool, callers)
	errs := make([]error, callers)
	for i := range callers {
		wg.Go(func() {
			j := newJob(i, "key:alice")
			j.IdempotencyKey, j.RequestHash = "mine", [32]byte{1}
			var k *job.Job
			if k, created[i], errs[i] = t.s.Create(context.Background(), j, noBounds()); errs[i] == nil {
				kept[i] = k.ID
			}
		})
	}
	wg.Wait()
	made := 0
	for i := range callers {
		if created[i] {
			made++
		}
		if errs[i] != nil || kept[i] != kept[0] {
			t.Fatalf("caller %d: job %s, %v, and another has %s", i, kept[i], errs[i], kept[0])
		}
	}
	t.same("created", made, 1)
	listed, err := t.s.List(context.Background(), job.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	t.same("kept", idsOfJobs(listed), kept[:1])
}
