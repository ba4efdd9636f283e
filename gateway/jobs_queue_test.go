package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

const onePlace = "concurrency: 1, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}"

func TestWhoIsThereGoesBeforeJobs(t *testing.T) {
	d := newDesk()
	w := keep(t, with("", onePlace), d)
	busy := w.later("GET", "/busy", "", of(9)...)
	v := d.next(t)
	var ids []string
	for i := range 3 {
		ids = append(ids, w.handIn(1, "/job"+strconv.Itoa(i), "{}").ID)
	}
	w.waits(3)
	direct := append(w.queued(of(1), "/own"), w.queued(of(2), "/other1", "/other2")...)
	first := map[string]bool{}
	for range direct {
		v.ends("done")
		v = d.next(t)
		first[v.r.URL.Path] = true
	}
	if !first["/own"] || !first["/other1"] || !first["/other2"] {
		t.Errorf("first went %v, want those whose clients wait", first)
	}
	busy.got()
	for i := range ids {
		v.ends("done")
		v = d.next(t)
		if want := "/job" + strconv.Itoa(i); v.r.URL.Path != want {
			t.Errorf("%s goes, want %s", v.r.URL.Path, want)
		}
	}
	v.ends("done")
	for _, q := range direct {
		if a := q.got(); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for _, id := range ids {
		w.becomes(1, id, "completed")
	}
	w.isIdle()
}

func TestJobsDoNotStarve(t *testing.T) {
	var jobs, direct atomic.Int64
	w := keep(t, with("", onePlace), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/job" {
			jobs.Add(1)
		} else {
			direct.Add(1)
		}
		_, _ = io.WriteString(w, "fine")
	}))
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					w.as(2+i, "GET", "/direct", "")
				}
			}
		})
	}
	var ids []string
	for range 5 {
		ids = append(ids, w.handIn(1, "/job", "{}").ID)
	}
	for _, id := range ids {
		w.becomes(1, id, "completed")
	}
	close(stop)
	clients.Wait()
	if jobs.Load() != 5 || direct.Load() == 0 {
		t.Errorf("%d jobs and %d direct calls ran", jobs.Load(), direct.Load())
	}
}

func TestAJobThatFails(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	yaml := strings.Replace(with(policies("{name: few, quota: 100, window: 1h, by: caller, algorithm: fixed_window}"), ""), "\nroutes", "\njobs: {attempts: 2}\nroutes", 1)
	var broken atomic.Bool
	broken.Store(true)
	w := keep(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if !broken.Load() {
			modelServer(w, r)
			return
		}
		w.Header().Set("X-Kept", "yes")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "it is broken")
	}))
	j := w.handIn(1, "/v1/chat/completions", chat)
	waits := w.becomes(1, j.ID, "retryable")
	if waits.Attempt != 1 || waits.Error == nil || waits.Error.Status != 500 || waits.Result != nil || waits.Position == nil {
		t.Errorf("after the first attempt: %+v", waits)
	}
	dead := w.becomes(1, j.ID, "discarded")
	if dead.Attempt != 2 || dead.Error == nil || dead.Error.Status != 500 || dead.Result == nil || calls.Load() != 2 {
		t.Errorf("after the last: %+v, %d calls", dead, calls.Load())
	}
	if r := w.result(1, j.ID); r.status != 500 || r.body != "it is broken" || r.header.Get("X-Kept") != "yes" {
		t.Errorf("its result: %d %v %s", r.status, r.header, r.body)
	}
	list := w.admin("GET", "/api/v1/jobs?state=discarded")
	var all struct{ Jobs []seen }
	if err := json.Unmarshal([]byte(list.body), &all); err != nil || len(all.Jobs) != 1 || all.Jobs[0].ID != j.ID || all.Jobs[0].Caller != "key:u1" || strings.Contains(list.body, "hello") || strings.Contains(list.body, "broken") {
		t.Errorf("%v: %s", err, list.body)
	}
	storetest.Eventually(t, eventually, "it is settled", func() bool { return w.remains(1, "few") == "98" })
	broken.Store(false)
	if a := w.admin("POST", "/api/v1/jobs/"+j.ID+"/retry"); a.status != 202 {
		t.Errorf("retry: %d %s", a.status, a.body)
	}
	if done := w.becomes(1, j.ID, "completed"); done.Attempt != 3 || done.Error != nil {
		t.Errorf("after the retry: %+v", done)
	}
	if r := w.result(1, j.ID); r.status != 200 || r.body != chatAnswer {
		t.Errorf("its result: %d %s", r.status, r.body)
	}
	if a := w.admin("POST", "/api/v1/jobs/"+j.ID+"/retry"); a.status != 409 {
		t.Errorf("retry of what is done: %d %s", a.status, a.body)
	}
	if u := w.used("key:u1"); u.Requests != 1+int64(strings.Count(w.log.String(), `"status":400`)) || u.Input != 7 || u.Output != 3 {
		t.Errorf("the ledger: %+v", u)
	}
	storetest.Eventually(t, eventually, "the third attempt is charged, once", func() bool { return w.remains(1, "few") == "97" })
}

func TestAJobsRequestThatNoWaitingHelps(t *testing.T) {
	w := keep(t, with(policies("{name: tok, quota: 100, window: 1h, unit: tokens, by: caller}"), ""), http.HandlerFunc(modelServer))
	a := w.as(1, "POST", "/v1/chat/completions", `{"model":"m","max_tokens":5000,"messages":[]}`, "Prefer", "respond-async")
	if a.status != 429 || a.header.Get("X-Should-Retry") != "false" || a.header.Get("Retry-After") != "" {
		t.Errorf("%d %v %s, want 429 for ever", a.status, a.header, a.body)
	}
	if list := w.admin("GET", "/api/v1/jobs").body; strings.Contains(list, `"id"`) {
		t.Errorf("it is kept: %s", list)
	}
}

func TestJobsOutliveTheirGateway(t *testing.T) {
	d := newDesk()
	yaml := at(t, with(policies("{name: few, quota: 100, window: 1h, by: caller, algorithm: fixed_window}"), onePlace), d)
	a := launch(t, yaml)
	j, k := a.handIn(1, "/a", "{}"), a.handIn(1, "/b", "{}")
	d.next(t)
	if err := a.gateway.FinishJobs(noTime()); err != nil {
		t.Error(err)
	}
	a.stop()
	b := launch(t, yaml)
	for range 2 {
		d.next(t).ends("after the start")
	}
	for _, id := range []string{j.ID, k.ID} {
		if done := b.becomes(1, id, "completed"); done.Attempt != 1 {
			t.Errorf("%+v", done)
		}
		if r := b.result(1, id); r.body != "after the start" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	// The attempt that the stop broke off counts for nothing.
	if u := b.used("key:u1"); u.Requests != 2 || u.Errors != 0 {
		t.Errorf("the ledger: %+v, want 2 requests", u)
	}
	if now := b.remains(1, "few"); now != "98" {
		t.Errorf("%s are left, want 98", now)
	}
}

func TestManyJobsLeaveWhoIsThereAlone(t *testing.T) {
	t.Parallel()
	w := keep(t, with("", "concurrency: 2, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "fine")
	}))
	const jobs = 300
	all := atOnce(jobs, func(i int) answer {
		return w.as(i%10, "POST", "/job", "{}", "Prefer", "respond-async")
	})
	for _, a := range all {
		if a.status != 202 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for range 50 {
		if a := w.as(11, "GET", "/direct", ""); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for i, a := range all {
		w.becomes(i%10, a.job(t).ID, "completed")
	}
	if u := w.used(""); u.Requests != jobs+50 || u.Refused != 0 || u.Errors != 0 {
		t.Errorf("the ledger: %+v", u)
	}
}
