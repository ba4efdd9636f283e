package gateway_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/storetest"
)

// policies are those of durable's route.
func policies(list string) string { return "policies: [" + list + "]" }

// remains is what the user's policy has left: a request that is refused for what is
// wrong with it is told, and takes nothing.
func (w *instance) remains(user int, policy string) string {
	w.t.Helper()
	a := w.as(user, "POST", "/look", "{}", "Prefer", "respond-async", "Idempotency-Key", "a", "Idempotency-Key", "b")
	if a.status != 400 {
		w.t.Errorf("a look: %d %s", a.status, a.body)
	}
	return left(a, policy)
}

func TestAJobCostsWhatItUses(t *testing.T) {
	w := keep(t, with(policies("{name: few, quota: 3, window: 1h, by: caller}, {name: tok, quota: 10000, window: year, unit: tokens, by: caller, algorithm: fixed_window}"), ""), http.HandlerFunc(modelServer))
	var ids []string
	for i := range 3 {
		j := w.handIn(1, "/v1/chat/completions", fmt.Sprintf(`{"model":"m","max_tokens":5000,"n":1,"user":"%d","messages":[{"role":"user","content":"%d"}]}`, i, i))
		w.becomes(1, j.ID, "completed")
		ids = append(ids, j.ID)
		storetest.Eventually(t, eventually, "it is settled: it has used 10 tokens", func() bool {
			return w.remains(1, "tok") == strconv.Itoa(10000-10*(i+1))
		})
	}
	a := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async")
	if a.status != 429 || a.header.Get("Retry-After") == "" || a.header.Get("Location") != "" || left(a, "few") != "0" {
		t.Errorf("over the quota: %d %v %s", a.status, a.header, a.body)
	}
	list := w.admin("GET", "/api/v1/jobs?caller=key:u1")
	for _, id := range ids {
		if !strings.Contains(list.body, id) {
			t.Errorf("no %s in %s", id, list.body)
		}
	}
	if n := strings.Count(list.body, `"id"`); n != 3 {
		t.Errorf("%d jobs are kept, want 3: %s", n, list.body)
	}
	// Three jobs, the refused one and the look are requests; looks at jobs are none.
	if u := w.used("key:u1"); u.Input != 21 || u.Output != 9 || u.Refused != 1 {
		t.Errorf("the ledger: %+v", u)
	}
}

func TestAJobThatBroughtNothingCostsNothing(t *testing.T) {
	for name, of := range map[string]struct {
		breaks bool // the model breaks off, once it may
		ends   func(w *instance, id string)
	}{
		"cancelled while it waits": {false, func(w *instance, id string) {
			if a := w.as(1, "DELETE", "/jobs/"+id, ""); a.status != 200 && a.status != 202 {
				w.t.Errorf("DELETE: %d %s", a.status, a.body)
			}
			w.becomes(1, id, "cancelled")
		}},
		"discarded without an answer": {true, func(w *instance, id string) {
			w.becomes(1, id, "discarded")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk()
			handler, may := http.Handler(d), make(chan struct{})
			if of.breaks {
				handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					<-may
					panic(http.ErrAbortHandler)
				})
			}
			yaml := strings.Replace(with(policies("{name: few, quota: 3, window: 1h, by: caller}, {name: tok, quota: 10000, window: 1h, unit: tokens, by: caller}"), "concurrency: 1"), "\nroutes", "\njobs: {attempts: 1}\nroutes", 1)
			w := keep(t, yaml, handler)
			if !of.breaks {
				w.later("POST", "/busy", "{}", asUser(2)...)
				d.next(t)
			}
			j := w.handIn(1, "/v1/chat/completions", chat)
			if got := w.remains(1, "few"); got != "2" {
				t.Errorf("while it waits %s are left, want 2", got)
			}
			close(may)
			of.ends(w, j.ID)
			storetest.Eventually(t, eventually, "all is given back", func() bool {
				return w.remains(1, "few") == "3" && w.remains(1, "tok") == "10000"
			})
		})
	}
}

// asUser is of where that is a variable.
func asUser(user int) []string { return of(user) }

func TestTheSameKeyIsTheSameJob(t *testing.T) {
	var calls atomic.Int64
	w := keep(t, with(policies("{name: few, quota: 10, window: 1h, by: caller}"), ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		modelServer(w, r)
	}))
	first := w.handIn(1, "/v1/chat/completions", chat, "Idempotency-Key", "k")
	w.becomes(1, first.ID, "completed")
	again := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Idempotency-Key", "k", "User-Agent", "another", "X-Request-Id", "another")
	if again.status != 202 || again.job(t).ID != first.ID || again.header.Get("Idempotent-Replayed") != "true" || again.job(t).State != "completed" {
		t.Errorf("again: %d %v %s", again.status, again.header, again.body)
	}
	waited := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async, wait=5", "Idempotency-Key", `"k"`)
	if waited.status != 200 || waited.body != chatAnswer || waited.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again, with time: %d %v %s", waited.status, waited.header, waited.body)
	}
	for name, of := range map[string][3]string{
		"body":  {"POST", "/v1/chat/completions", chat + " "},
		"path":  {"POST", "/v1/completions", chat},
		"query": {"POST", "/v1/chat/completions?a", chat},
		"field": {"PUT", "/v1/chat/completions", chat},
	} {
		if a := w.as(1, of[0], of[1], of[2], "Prefer", "respond-async", "Idempotency-Key", "k"); a.status != 422 {
			t.Errorf("another %s: %d %s, want 422", name, a.status, a.body)
		}
	}
	theirs := w.handIn(2, "/v1/chat/completions", chat, "Idempotency-Key", "k")
	if theirs.ID == first.ID {
		t.Error("another caller got the job")
	}
	w.becomes(2, theirs.ID, "completed")
	a := w.as(1, "POST", "/v1/chat/completions", chat)
	if left(a, "few") != "8" || calls.Load() != 3 {
		t.Errorf("%s are left, want 8; %d calls, want 3", left(a, "few"), calls.Load())
	}
}

func TestFiftyAtOnceAreOneJob(t *testing.T) {
	var calls atomic.Int64
	w := keep(t, with(policies("{name: few, quota: 1000, window: 1h, by: caller}"), ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		modelServer(w, r)
	}))
	all := atOnce(50, func(int) answer {
		return w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Idempotency-Key", "k")
	})
	id, replayed := all[0].job(t).ID, 0
	for _, a := range all {
		if a.status != 202 || a.job(t).ID != id {
			t.Fatalf("%d %s, want 202 and %s", a.status, a.body, id)
		}
		if a.header.Get("Idempotent-Replayed") == "true" {
			replayed++
		}
	}
	w.becomes(1, id, "completed")
	a := w.as(1, "POST", "/v1/chat/completions", chat)
	if replayed != 49 || calls.Load() != 2 || left(a, "few") != "998" {
		t.Errorf("%d replayed, %d calls, %s left; want 49, 2, 998", replayed, calls.Load(), left(a, "few"))
	}
}

func TestASlotIsHeldWhileAJobRuns(t *testing.T) {
	d := newDesk()
	w := keep(t, with(policies("{name: one, concurrent: 1, by: caller}"), ""), d)
	first, second := w.handIn(1, "/a", "{}"), w.handIn(1, "/b", "{}")
	v := d.next(t)
	if a := w.as(1, "POST", "/direct", "{}"); a.status != 429 {
		t.Errorf("a direct call while a job runs: %d %s, want 429", a.status, a.body)
	}
	other := w.later("POST", "/other", "{}", of(2)...)
	theirs := d.next(t)
	theirs.ends("theirs")
	if a := other.got(); a.status != 200 {
		t.Errorf("another caller's: %d %s", a.status, a.body)
	}
	running, waiting := w.look(1, first.ID), w.look(1, second.ID)
	if v.r.URL.Path == "/b" {
		first, second = second, first
		running, waiting = waiting, running
	}
	if running.State != "running" || waiting.State == "discarded" || waiting.Error != nil {
		t.Errorf("one runs: %+v; one waits: %+v", running, waiting)
	}
	v.ends("done")
	w.becomes(1, first.ID, "completed")
	d.next(t).ends("done, too")
	if j := w.becomes(1, second.ID, "completed"); j.Attempt != 1 {
		t.Errorf("it had %d attempts, want 1", j.Attempt)
	}
}

func TestAJobThatWaitsForAPlaceHoldsNoSlot(t *testing.T) {
	d := newDesk()
	w := keep(t, with(policies("{name: one, concurrent: 1, by: caller}"), "concurrency: 1, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}"), d)
	busy := w.later("POST", "/busy", "{}", of(2)...)
	v := d.next(t)
	j := w.handIn(1, "/later", "{}")
	w.waits(1) // for a place: it is claimed
	direct := w.later("POST", "/direct", "{}", of(1)...)
	w.waits(2)
	v.ends("done")
	busy.got()
	v = d.next(t)
	if v.r.URL.Path != "/direct" {
		t.Errorf("%s goes first, want the direct call", v.r.URL.Path)
	}
	v.ends("done")
	if a := direct.got(); a.status != 200 {
		t.Errorf("the direct call: %d %s", a.status, a.body)
	}
	d.next(t).ends("done")
	w.becomes(1, j.ID, "completed")
}
