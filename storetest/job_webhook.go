package storetest

import (
	"context"
	"time"

	"github.com/inferweir/weir/job"
)

// due leases webhooks.
func (t jobTest) due(turn job.Turn, second int) []job.Delivery {
	t.Helper()
	turn.Until = at(second + 90)
	d, err := t.s.Deliveries(context.Background(), turn, at(second))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// told is which jobs were leased, in their order.
func told(deliveries []job.Delivery) []string {
	out := []string{}
	for _, d := range deliveries {
		out = append(out, d.Job.ID)
	}
	return out
}

// endHooked creates jobs with a webhook and ends them, the nth at second n.
func (t jobTest) endHooked(callers ...string) {
	t.Helper()
	for n, caller := range callers {
		j := newJob(n, caller)
		j.Webhook = "https://example.com/hook"
		t.create(j)
		if _, ended := t.cancel(j.ID, n); !ended {
			t.Fatalf("%s did not end", j.ID)
		}
	}
}

func webhookTurns(t jobTest) {
	t.endHooked("key:alice", "key:alice", "key:alice", "key:alice", "key:alice", "key:böb\x01", "key:carol", "key:carol")
	t.same("each has a share, first who has waited longest", told(t.due(job.Turn{Max: 6}, 100)), ids(0, 1, 5, 6, 7))
	t.same("one alone may have all", told(t.due(job.Turn{Max: 2}, 100)), ids(2, 3))
	t.same("that was leased", told(t.due(job.Turn{Max: 9}, 100)), ids(4))
	t.same("without some", told(t.due(job.Turn{Max: 9, Except: []string{"key:alice", "key:böb\x01", "key:nobody"}}, 300)), ids(6, 7))
	t.same("not more of one", told(t.due(job.Turn{Max: 9, PerCaller: 2}, 300)), ids(0, 1, 5))
	t.same("the next of them", told(t.due(job.Turn{Max: 1}, 300)), ids(2))
	t.same("none", told(t.due(job.Turn{}, 300)), ids())
}

func webhookOfRetried(t jobTest) {
	ctx := context.Background()
	j := newJob(1, "key:alice")
	j.Webhook = "https://example.com/hook"
	t.create(j)
	t.finish(t.claimed(1), job.Outcome{State: job.Discarded, Expires: at(500)}, 2)
	first := t.due(job.Turn{Max: 9}, 3)
	t.same("the first end", told(first), ids(1))
	if _, err := t.s.Retry(ctx, j.ID, at(4), at(900)); err != nil {
		t.Fatal(err)
	}
	t.isErr("what runs since before the retry", t.s.Delivered(ctx, j.ID, first[0].Attempt, at(5)), job.ErrLost)
	t.same("of a job that waits", told(t.due(job.Turn{Max: 9}, 5)), ids())
	t.finish(t.claimed(6), job.Outcome{State: job.Completed, Expires: at(500)}, 7)
	t.isErr("the same, after the new end", t.s.Delivered(ctx, j.ID, first[0].Attempt, time.Time{}), job.ErrLost)
	second := t.due(job.Turn{Max: 9}, 8)
	t.same("the new end", told(second), ids(1))
	t.isErr("the same, after that was leased", t.s.Delivered(ctx, j.ID, first[0].Attempt, time.Time{}), job.ErrLost)
	if err := t.s.Delivered(ctx, j.ID, second[0].Attempt, time.Time{}); err != nil {
		t.Fatal(err)
	}
	t.same("delivered", told(t.due(job.Turn{Max: 9}, 500)), ids())
}

func webhookOfForgotten(t jobTest) {
	ctx := context.Background()
	t.endHooked("key:alice", "key:alice", "key:alice")
	if d := t.due(job.Turn{Max: 1}, 10); len(d) != 1 || t.s.Delivered(ctx, jobID(0), 1, time.Time{}) != nil {
		t.Fatalf("leased %s", show(d))
	}
	for range 2 { // first the results go, then the jobs
		t.sweep(20_000, 10_000)
	}
	_, err := t.s.Get(ctx, "", jobID(0))
	t.isErr("delivered and forgotten", err, job.ErrNotFound)
	due := t.due(job.Turn{Max: 9}, 20_000)
	t.same("still due", told(due), ids(1, 2))
	t.same("without what is large", due[0].Job.Request, job.Request{})
	if err := t.s.Delivered(ctx, jobID(1), due[0].Attempt, time.Time{}); err != nil {
		t.Fatal(err)
	}
	t.sweep(20_000, 10_000)
	_, err = t.s.Get(ctx, "", jobID(1))
	t.isErr("forgotten once it is told", err, job.ErrNotFound)
	week := int(job.WebhookKept / time.Second)
	t.sweep(20_000+week, 100+week)
	t.get(jobID(2))
	t.sweep(20_000+week, 1000+week)
	_, err = t.s.Get(ctx, "", jobID(2))
	t.isErr("forgotten when nobody has told it for a week", err, job.ErrNotFound)
}
