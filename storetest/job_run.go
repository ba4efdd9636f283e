package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

func claimNow(t jobTest) {
	later := newJob(1, "key:alice")
	later.NotBefore = at(10)
	t.create(later)
	other := newJob(2, "key:alice")
	other.Route = "GET /other"
	t.create(other)
	for n := 3; n <= 6; n++ {
		t.create(newJob(n, "key:alice"))
	}
	t.same("none asked for", idsOfJobs(t.claim(1, 0)), ids())
	t.same("the oldest two", idsOfJobs(t.claim(1, 2)), ids(3, 4))
	t.same("a microsecond early", idsOfJobs(t.claim(9, 1)), ids(5))
	t.same("the one whose time has come first", idsOfJobs(t.claim(10, 5)), ids(1, 6))
	t.same("nothing left", idsOfJobs(t.claim(11, 5)), ids())
	jobs, err := t.s.Claim(context.Background(), job.Claim{Owner: "two", Until: at(50), Route: "GET /other", Max: 9}, at(11))
	if err != nil {
		t.Fatal(err)
	}
	t.same("the other route", idsOfJobs(jobs), ids(2))
	t.same("whose", jobs[0].Owner, "two")
}

func claimTurns(t jobTest) {
	for n := 1; n <= 6; n++ {
		t.create(newJob(n, "key:alice"))
	}
	t.create(newJob(7, "key:bob"))
	t.create(newJob(8, "key:carol"))
	t.create(newJob(9, "key:bob"))
	t.same("first", idsOfJobs(t.claim(1, 5)), ids(1, 7, 8, 2, 9))
	t.create(newJob(10, "key:dave"))
	t.create(newJob(11, "key:carol"))
	t.same("then", idsOfJobs(t.claim(2, 9)), ids(10, 11, 3, 4, 5, 6))
}

func claimBounds(t jobTest) {
	for n, caller := range []string{"key:alice", "key:alice", "key:alice", "key:bob", "key:bob", "key:cär\x01ol"} {
		t.create(newJob(n+1, caller))
	}
	claim := func(c job.Claim) []string {
		t.Helper()
		c.Owner, c.Until, c.Route = "one", at(100), "POST /v1/"
		jobs, err := t.s.Claim(context.Background(), c, at(1))
		if err != nil {
			t.Fatal(err)
		}
		return idsOfJobs(jobs)
	}
	t.same("one of each", claim(job.Claim{Max: 9, PerCaller: 1}), ids(1, 4, 6))
	t.same("but for alice", claim(job.Claim{Max: 9, Except: []string{"key:alice", "key:nobody"}}), ids(5))
	t.same("but for all", len(claim(job.Claim{Max: 9, Except: []string{"key:alice"}})), 0)
	t.create(newJob(7, "key:cär\x01ol"))
	t.same("odd names, too", len(claim(job.Claim{Max: 9, Except: []string{"key:alice", "key:cär\x01ol"}})), 0)
	t.same("two at most", claim(job.Claim{Max: 9, PerCaller: 2}), ids(2, 7, 3))
}

func claimManyCallers(t jobTest) {
	const callers = 300
	for n := range 2 * callers {
		t.create(newJob(n, fmt.Sprint("key:", n*7%callers)))
	}
	for round := range 2 {
		seen := map[string]bool{}
		for len(seen) < callers {
			before := len(seen)
			for _, j := range t.claim(round, 6) {
				seen[j.Caller] = true
			}
			if len(seen) != before+6 {
				t.Fatalf("round %d: %d callers after %d, want 6 more", round, len(seen), before)
			}
		}
	}
	t.same("left", len(t.claim(2, 6)), 0)
}

func claimLongestAgo(t jobTest) {
	order := []string{"key:carol", "key:alice", "key:bob"}
	for n, caller := range order {
		t.create(newJob(n, caller))
		t.claim(n, 1)
	}
	for n, caller := range []string{"key:alice", "key:bob", "key:carol", "key:new"} {
		t.create(newJob(10+n, caller))
		t.create(newJob(20+n, caller))
	}
	var got []string
	for range 8 {
		got = append(got, idsOfJobs(t.claim(9, 1))...)
	}
	t.same("order", got, ids(13, 12, 10, 11, 23, 22, 20, 21))
}

func claimFence(t jobTest) {
	j := newJob(1, "key:alice")
	j.MaxAttempts = 9
	t.create(j)
	for n := 1; n <= 4; n++ {
		got := t.claim(10*n, 1)
		if len(got) != 1 || got[0].Attempt != n || got[0].Fence != int64(n) || !got[0].Started.Equal(at(10*n)) {
			t.Fatalf("claim %d: %s", n, show(got))
		}
		t.same("progress begins again", got[0].Progress, job.Progress{})
		t.same("body", got[0].Request.Body, j.Request.Body)
		t.finish(job.Lease{ID: j.ID, Fence: int64(n)}, job.Outcome{State: job.Retryable, NotBefore: at(10*n + 1),
			Progress: job.Progress{Bytes: 5, Events: 1}, Failure: &job.Failure{Status: 503, Detail: "no"}}, 10*n+1)
		waiting := t.get(j.ID)
		t.same("owner", waiting.Owner, "")
		t.same("lease", waiting.LeaseUntil, time.Time{})
		t.same("progress", waiting.Progress, job.Progress{Bytes: 5, Events: 1})
	}
}

func aheadOfAll(t jobTest) {
	ctx := context.Background()
	// Some turns are taken already, and some callers have many more jobs than others.
	for n, caller := range []string{"key:b", "key:d", "key:b"} {
		t.create(newJob(n, caller))
		t.claim(1, 1)
	}
	callers := []string{"key:a", "key:b", "key:c", "key:d", "key:a", "key:a", "key:b"}
	for n := 10; n < 60; n++ {
		j := newJob(n, callers[n*n%len(callers)])
		if n%10 == 3 {
			j.NotBefore = at(2)
		}
		t.create(j)
	}
	late := newJob(70, "key:late")
	late.NotBefore = at(1000)
	t.create(late)
	ahead := map[string]int64{}
	for n := 10; n < 60; n++ {
		a, err := t.s.Ahead(ctx, jobID(n), at(5))
		if err != nil {
			t.Fatal(err)
		}
		ahead[jobID(n)] = a
	}
	a, err := t.s.Ahead(ctx, late.ID, at(5))
	if err != nil || a != 2 { // after a and c, which have had none either and wait for longer
		t.Fatalf("of one whose time has not come: %d, %v, want 2, as if it had", a, err)
	}
	for i, j := range t.claim(5, 100) {
		if ahead[j.ID] != int64(i) {
			t.Errorf("job %s of %s is claimed after %d, and %d were ahead", j.ID, j.Caller, i, ahead[j.ID])
		}
	}
	if a, err := t.s.Ahead(ctx, jobID(10), at(5)); a != 0 || err != nil {
		t.Fatalf("ahead of one that runs: %d, %v", a, err)
	}
	_, err = t.s.Ahead(ctx, jobID(99), at(5))
	t.isErr("of one that is not there", err, job.ErrNotFound)
}

func countLines(t jobTest) {
	f := func(want ...job.Line) {
		t.Helper()
		got, err := t.s.Lines(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, func(a, b job.Line) int { return bytes.Compare([]byte(a.Route), []byte(b.Route)) })
		if !slices.Equal(got, want) {
			t.Fatalf("lines %+v, want %+v", got, want)
		}
	}
	f()
	for n := range 20 {
		j := newJob(n, fmt.Sprint("key:", n%3))
		if n%4 == 0 {
			j.Route = "GET /other"
		}
		t.create(j)
	}
	f(job.Line{Route: "GET /other", Waiting: 5}, job.Line{Route: "POST /v1/", Waiting: 15})
	run := t.claim(1, 4)
	f(job.Line{Route: "GET /other", Waiting: 5}, job.Line{Route: "POST /v1/", Waiting: 11, Running: 4})
	t.finish(job.Lease{ID: run[0].ID, Fence: 1}, job.Outcome{State: job.Completed, Expires: at(9)}, 2)
	t.finish(job.Lease{ID: run[1].ID, Fence: 1}, job.Outcome{State: job.Retryable, NotBefore: at(90)}, 2)
	t.finish(job.Lease{ID: run[2].ID, Fence: 1}, job.Outcome{State: job.Available, NotBefore: at(2)}, 2)
	for n := 0; n < 20; n += 4 {
		t.cancel(jobID(n), 3)
	}
	f(job.Line{Route: "POST /v1/", Waiting: 13, Running: 1})
	t.rescue(40, 100)
	f(job.Line{Route: "POST /v1/", Waiting: 14})
}

func renewLeases(t jobTest) {
	ctx := context.Background()
	for n := range 5 {
		t.create(newJob(n, "key:alice"))
	}
	t.claim(0, 4)
	t.finish(job.Lease{ID: jobID(2), Fence: 1}, job.Outcome{State: job.Completed, Expires: at(9)}, 1)
	t.cancel(jobID(3), 1)
	leases := []job.Lease{{ID: jobID(3), Fence: 1}, {ID: jobID(1), Fence: 2}, {ID: jobID(0), Fence: 1}, {ID: jobID(2), Fence: 1},
		{ID: jobID(4), Fence: 0}, {ID: jobID(9), Fence: 1}, {ID: jobID(1), Fence: 1}}
	r, err := t.s.Renew(ctx, leases, at(5000), []job.Progress{{Bytes: 1}, {Bytes: 2}, {Bytes: 3, Events: 4}})
	if err != nil {
		t.Fatal(err)
	}
	t.same("renewal", r, job.Renewal{Lost: ids(1, 2, 4, 9), Cancelled: ids(3)})
	for n, want := range map[int]job.Progress{0: {Bytes: 3, Events: 4}, 1: {}, 3: {Bytes: 1}} {
		j := t.get(jobID(n))
		t.same(fmt.Sprint("progress of ", n), j.Progress, want)
		t.same(fmt.Sprint("lease of ", n), j.LeaseUntil, at(5000))
	}
	t.same("rescued before", sortedIDs(t.rescue(4999, 100)), ids())
	for range 2 { // late, but nobody else has it
		r, err = t.s.Renew(ctx, leases[2:3], at(5001), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.same("late renewal", r, job.Renewal{})
	}
	t.same("progress stays", t.get(jobID(0)).Progress, job.Progress{Bytes: 3, Events: 4})
	t.same("rescued", sortedIDs(t.rescue(5001, 100)), ids(3))
	r, err = t.s.Renew(ctx, leases[2:3], at(6000), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.same("a rescued one", r, job.Renewal{Lost: ids(0)})
	r, err = t.s.Renew(ctx, nil, at(6000), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.same("nothing to renew", r, job.Renewal{})
}

func (t jobTest) output(id string, seq int64, maxBytes int) []job.Chunk {
	t.Helper()
	chunks, err := t.s.Output(context.Background(), id, seq, maxBytes)
	if err != nil {
		t.Fatalf("output of %s after %d: %v", id, seq, err)
	}
	return chunks
}

func chunk(n int, fence int64, attempt int, data string) job.Chunk {
	return job.Chunk{ID: jobID(n), Fence: fence, Attempt: attempt, Data: []byte(data)}
}

// numberedFrom is chunks as a store gives them back, the first with seq.
func numberedFrom(seq int64, chunks ...job.Chunk) []job.Chunk {
	for i := range chunks {
		chunks[i].Seq = seq + int64(i)
	}
	return chunks
}

func appendOutput(t jobTest) {
	for n := 1; n <= 2; n++ {
		t.create(newJob(n, "key:alice"))
	}
	t.append(chunk(1, 0, 0, "before it runs"))
	t.claim(0, 2)
	t.append(chunk(1, 1, 1, "a"), chunk(2, 1, 1, "\x00\xff"), chunk(1, 1, 1, "b"), chunk(1, 2, 2, "from the future"), chunk(9, 1, 1, "of nobody"))
	t.append()
	var many, want []job.Chunk
	for i := range 50 {
		many = append(many, chunk(1, 1, 1, fmt.Sprint("many ", i)))
	}
	t.append(many...)
	t.finish(job.Lease{ID: jobID(1), Fence: 1}, job.Outcome{State: job.Retryable, NotBefore: at(1)}, 1)
	t.append(chunk(1, 1, 1, "too late"))
	t.claim(1, 1)
	t.append(chunk(1, 1, 1, "much too late"), chunk(1, 2, 2, "c"))
	want = append(want, chunk(1, 1, 1, "a"), chunk(1, 1, 1, "b"))
	want = append(append(want, many...), chunk(1, 2, 2, "c"))
	t.same("the first", t.output(jobID(1), 0, 1<<20), numberedFrom(1, want...))
	t.same("the second", t.output(jobID(2), 0, 1<<20), numberedFrom(1, chunk(2, 1, 1, "\x00\xff")))
	t.same("the end", len(t.output(jobID(1), 53, 1<<20)), 0)
	t.same("beyond the end", len(t.output(jobID(1), 1<<62, 1<<20)), 0)
	_, err := t.s.Output(context.Background(), jobID(9), 0, 1)
	t.isErr("of one that is not there", err, job.ErrNotFound)
}

func boundedOutput(t jobTest) {
	t.create(newJob(1, "key:alice"))
	t.create(newJob(2, "key:alice"))
	t.claim(0, 2)
	piece := bytes.Repeat([]byte("0123456789abcdef"), job.MaxOutput/8/16)
	for range 7 {
		t.append(job.Chunk{ID: jobID(1), Fence: 1, Attempt: 1, Data: piece})
	}
	t.append(chunk(2, 1, 1, "x"), job.Chunk{ID: jobID(1), Fence: 1, Attempt: 1, Data: append([]byte("!"), piece...)}, chunk(2, 1, 1, "y"), chunk(1, 1, 1, "small"))
	t.append(chunk(1, 1, 1, "small"))
	t.same("the other job's", t.output(jobID(2), 0, 1<<20), numberedFrom(1, chunk(2, 1, 1, "x"), chunk(2, 1, 1, "y")))
	size := 0
	for seq := int64(0); ; {
		chunks := t.output(jobID(1), seq, 1<<22)
		if len(chunks) == 0 {
			break
		}
		for _, c := range chunks {
			if seq++; c.Seq != seq || !bytes.Equal(c.Data, piece) {
				t.Fatalf("chunk %d with %d bytes after %d", c.Seq, len(c.Data), seq)
			}
			size += len(c.Data)
		}
	}
	t.same("kept", size, 7*len(piece))
	t.finish(job.Lease{ID: jobID(1), Fence: 1}, job.Outcome{State: job.Retryable, NotBefore: at(1)}, 1)
	t.claim(1, 1)
	t.append(chunk(1, 2, 2, "small"))
	t.same("after the next attempt", len(t.output(jobID(1), 7, 1<<20)), 0)
}

func pageOutput(t jobTest) {
	t.create(newJob(1, "key:alice"))
	t.claim(0, 1)
	chunks := []job.Chunk{chunk(1, 1, 1, "1234567"), chunk(1, 1, 1, "12"), chunk(1, 1, 1, "34"), chunk(1, 1, 1, ""), chunk(1, 1, 1, "123456789"), chunk(1, 1, 1, "1")}
	t.append(chunks...)
	f := func(seq int64, maxBytes int, want ...int64) {
		t.Helper()
		var got []int64
		for _, c := range t.output(jobID(1), seq, maxBytes) {
			got = append(got, c.Seq)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("after %d at most %d bytes: chunks %v, want %v", seq, maxBytes, got, want)
		}
	}
	f(0, 0, 1)
	f(0, -5, 1)
	f(-3, 8, 1)
	f(0, 9, 1, 2)
	f(1, 3, 2)
	f(1, 4, 2, 3, 4)
	f(4, 4, 5)
	f(4, 10, 5, 6)
	f(5, 1<<30, 6)
	f(6, 1<<30)
}

// JobClaimers has many claimers work off jobs at once: several of each store, which all
// show the same jobs. Some of them give jobs back, fail, or leave them to be rescued. No
// job may be given to two, and each must end once.
func JobClaimers(t *testing.T, stores ...job.Store) {
	t.Helper()
	const jobs, each = 120, 3
	first := jobTest{t, stores[0]}
	for n := range jobs {
		j := newJob(n, fmt.Sprint("key:", n%7))
		j.MaxAttempts = 1000
		first.create(j)
	}
	w := &claimers{given: map[job.Lease]bool{}, last: map[string]int64{}, ended: map[string]int64{}, jobs: jobs}
	errs := make(chan error, each*len(stores))
	for i := range cap(errs) {
		go func() { errs <- w.work(stores[i%len(stores)], i) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		return
	}
	lines, err := stores[0].Lines(context.Background())
	if err != nil || len(lines) != 0 {
		t.Fatalf("lines %+v, %v, want none", lines, err)
	}
	for n := range jobs {
		if j := first.get(jobID(n)); j.State != job.Completed || j.Fence != w.last[j.ID] {
			t.Errorf("job %d is %s under fence %d, and %d was given last", n, j.State, j.Fence, w.last[j.ID])
		}
	}
}
