package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// remembers are the keys of a route that keeps every answer of a model.
const remembers = "cache: {mode: inference, only: all, ttl: 1h}"

// answers is the whole answer of a model to a chat.
func (v *visit) answers() {
	v.t.Helper()
	v.does(func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, chatAnswer)
	})
	v.ends("")
}

func TestRegressionFinishingJobsWaitsForNoDirectCall(t *testing.T) {
	d := newDesk()
	w := keep(t, with(remembers, "concurrency: 4"), d)
	j := w.handIn(1, "/v1/chat/completions", chat)
	jobs := d.next(t)
	direct := w.later("POST", "/v1/chat/completions", chat, of(1)...)
	own := d.next(t)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.gateway.FinishJobs(ctx) }()
	if err := after(t, "the end of FinishJobs", done); err != nil { // the upstream still says nothing
		t.Error(err)
	}
	jobs.leaves()
	if now := w.look(1, j.ID); now.State != "available" || now.Attempt != 0 || now.Error != nil {
		t.Errorf("the job is not given back: %+v", now)
	}
	own.answers()
	if a := direct.got(); !a.is(200, chatAnswer) {
		t.Errorf("the direct call: %v", a)
	}
	d.nobody(t)
}

func TestRegressionJobsWithoutASlotAreNotClaimedAgainAndAgain(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, with(policies("{name: one, concurrent: 1, by: caller}"), ""), d)
	begin := time.Now()
	atOnce(60, func(i int) answer {
		a := w.as(1, "POST", "/job", "{}", "Prefer", "respond-async")
		if a.status != 202 {
			t.Errorf("%d %s", a.status, a.body)
		}
		return a
	})
	v := d.next(t)
	w.until(func() bool { return strings.Count(w.log.String(), `"status":202`) == 60 }) // a moment after the answers
	vain := func() float64 { return w.total("weir_job_events_total", `event="given_back"`) }
	logged := strings.Count(w.log.String(), "\n")
	storetest.Eventually(t, eventually, "a second has passed in which jobs could be claimed in vain", func() bool {
		return vain() >= 2 && time.Since(begin) > time.Second
	})
	// Five a second: without a pause it is one for each job as often as it can be asked for.
	if n, most := vain(), 10+5*time.Since(begin).Seconds(); n > most {
		t.Errorf("%v claims in vain in %v, want at most %.0f", n, time.Since(begin), most)
	}
	text := w.log.String()
	if n := strings.Count(text, "\n"); n != logged || strings.Contains(text, "WARN") {
		t.Errorf("%d lines are logged for them: %s", n-logged, text)
	}
	for range 3 { // each makes room for the next
		v.ends("done")
		v = d.next(t)
	}
	d.nobody(t)
	if err := w.gateway.FinishJobs(noTime()); err != nil { // the rest is not waited for
		t.Error(err)
	}
}

func TestRegressionEqualJobsLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, with(remembers, "concurrency: 8, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}"), d)
	var ids []string
	for range 20 {
		ids = append(ids, w.handIn(1, "/v1/chat/completions", chat).ID)
	}
	var equal []*visit
	for range 8 { // none waits for another's answer with a place that others could use
		equal = append(equal, d.next(t))
	}
	other := w.handIn(2, "/other", "{}")
	equal[0].answers()
	v := d.next(t)
	for ; v.r.URL.Path != "/other"; v = d.next(t) { // it may be asked for before the answer is kept
		v.answers()
	}
	v.ends("done")
	w.becomes(2, other.ID, "completed")
	for _, v := range equal[1:] {
		v.answers()
	}
	for _, id := range ids {
		w.becomes(1, id, "completed")
	}
}

func TestRegressionARetryOfTheOperatorSettlesNothingTwice(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(with(policies("{name: few, quota: 10, window: year, by: caller, algorithm: fixed_window}, {name: tok, quota: 10000, window: year, unit: tokens, by: caller, algorithm: fixed_window}"), ""), "\nroutes", "\njobs: {attempts: 1}\nroutes", 1)
	var broken atomic.Bool
	w := keep(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
		modelServer(w, r)
	}))
	for range 5 { // or what is given back too often would not show
		if a := w.as(1, "POST", "/v1/chat/completions", chat); a.status != 200 {
			t.Fatal(a)
		}
	}
	leaves := func(when, few, tok string) {
		t.Helper()
		storetest.Eventually(t, eventually, fmt.Sprintf("%s %s requests and %s tokens are left", when, few, tok), func() bool {
			return w.remains(1, "few") == few && w.remains(1, "tok") == tok
		})
	}
	leaves("after five calls", "5", "9950")
	broken.Store(true)
	j := w.handIn(1, "/v1/chat/completions", `{"model":"m","max_tokens":3000,"messages":[{"role":"user","content":"job"}]}`)
	w.becomes(1, j.ID, "discarded")
	leaves("when it is discarded", "5", "9950")
	retry := func(wants string) {
		t.Helper()
		if a := w.admin("POST", "/api/v1/jobs/"+j.ID+"/retry"); a.status != 202 {
			t.Fatal(a)
		}
		w.becomes(1, j.ID, wants)
	}
	for range 3 {
		retry("discarded")
	}
	broken.Store(false)
	retry("completed")
	leaves("when it has run", "4", "9940")
}

func TestRegressionADirectCallDoesNotWaitAsAJobDoes(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, with(remembers, onePlace), d)
	busy := w.later("POST", "/busy", "{}", of(2)...)
	v := d.next(t)
	j := w.handIn(1, "/v1/chat/completions", chat)
	w.waits(1)
	all := []*request{busy, w.later("POST", "/v1/chat/completions", chat, of(1)...)}
	w.waits(2)
	for i := range 6 {
		all = append(all, w.later("POST", "/o"+strconv.Itoa(i), "{}", of(3+i%2)...))
		w.waits(3 + i)
	}
	v.ends("done")
	others := 0
	for v = d.next(t); v.r.URL.Path != "/v1/chat/completions"; v = d.next(t) {
		if others++; others == 6 {
			t.Error("all others go before the direct call that is the same as a job")
		}
		v.ends("done")
	}
	v.answers()
	for range 6 - others {
		d.next(t).ends("done")
	}
	for _, q := range all {
		if a := q.got(); a.status != 200 {
			t.Error(a)
		}
	}
	w.becomes(1, j.ID, "completed") // from the cache
	if r := w.result(1, j.ID); !r.is(200, chatAnswer) {
		t.Error(r)
	}
	d.nobody(t)
}

func TestRegressionWhoWaitsForAJobIsToldOfItBeforeTheEnd(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, durable, d)
	q := w.later("POST", "/x", "{}", append(of(1), "Prefer", "respond-async, wait=600")...)
	v := d.next(t)
	w.gateway.Drain()
	a := q.got()
	if a.status != 202 || a.header.Get("Location") != "/jobs/"+a.job(t).ID || a.header.Get("Preference-Applied") != "respond-async" {
		t.Errorf("who waited: %d %v %s", a.status, a.header, a.body)
	}
	late := w.as(1, "POST", "/y", "{}", "Prefer", "respond-async, wait=600")
	if late.status != 202 || late.header.Get("Location") != "/jobs/"+late.job(t).ID {
		t.Errorf("who comes then: %d %v %s", late.status, late.header, late.body)
	}
	v.ends("done")
	w.becomes(1, a.job(t).ID, "completed")
	d.next(t).ends("done, too")
	w.becomes(1, late.job(t).ID, "completed")
}

func TestRegressionJobsAndDirectCallsEndWithoutEachOther(t *testing.T) {
	t.Parallel()
	for name, jobFirst := range map[string]bool{"a job that is cancelled": true, "a client that leaves": false} {
		t.Run(name+" does not end the same call of another", func(t *testing.T) {
			d := newDesk()
			w := keep(t, with(remembers, "concurrency: 4"), d)
			var id string
			var direct *request
			ask := map[bool]func() *visit{
				true:  func() *visit { id = w.handIn(1, "/v1/chat/completions", chat).ID; return d.next(t) },
				false: func() *visit { direct = w.later("POST", "/v1/chat/completions", chat, of(1)...); return d.next(t) },
			}
			first, second := ask[jobFirst](), ask[!jobFirst]()
			if jobFirst {
				if a := w.as(1, "DELETE", "/jobs/"+id, ""); a.status != 202 && a.status != 200 {
					t.Errorf("DELETE: %d %s", a.status, a.body)
				}
				first.leaves() // at once: the upstream would say nothing more
				w.becomes(1, id, "cancelled")
				second.answers()
				if a := direct.got(); !a.is(200, chatAnswer) {
					t.Error(a)
				}
			} else {
				direct.leave()
				first.leaves()
				second.answers()
				if j := w.becomes(1, id, "completed"); j.Attempt != 1 {
					t.Errorf("%+v", j)
				}
			}
			d.nobody(t)
		})
	}
}

func TestRegressionAnIdempotencyKeyGoesBeforeTheCache(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	w := keep(t, with(remembers, ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		modelServer(w, r)
	}))
	key := []string{"Prefer", "respond-async", "Idempotency-Key", "k"}
	j := w.handIn(1, "/v1/chat/completions", chat, key...)
	w.becomes(1, j.ID, "completed")
	cached := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async")
	if !cached.is(200, chatAnswer) || !cached.hit() {
		t.Errorf("without a key: %v", cached)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", chat, key...); a.status != 202 || a.job(t).ID != j.ID || a.header.Get("Location") != "/jobs/"+j.ID || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same request, which is cached: %d %v %s", a.status, a.header, a.body)
	}
	other := strings.Replace(chat, "hello", "other", 1)
	if a := w.as(1, "POST", "/v1/chat/completions", other); a.status != 200 {
		t.Error(a)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", other, key...); a.status != 422 {
		t.Errorf("another request, which is cached: %d %s", a.status, a.body)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}

func TestRegressionAnEmptyAnswerIsOne(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(with("cache: {mode: http}", ""), "\nroutes", "\njobs: {attempts: 1}\nroutes", 1)
	w := keep(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Kept", "yes")
		w.Header().Set("Content-Length", "0")
		if strings.HasPrefix(r.URL.Path, "/cached") {
			w.Header().Set("Cache-Control", "max-age=600")
		}
	}))
	all := atOnce(60, func(i int) answer {
		path := "/own" + strconv.Itoa(i)
		if i%2 == 0 {
			path = "/cached" + strconv.Itoa(i)
		}
		a := w.as(1, "GET", path, "", "Prefer", "respond-async")
		w.as(1, "GET", path, "") // has the answer before the job, or while it runs
		return a
	})
	for i, a := range all {
		id := a.job(t).ID
		var j seen
		storetest.Eventually(t, eventually, "the job has ended", func() bool {
			j = w.look(1, id)
			return j.Finished != nil
		})
		r := w.result(1, id)
		if j.State != "completed" || j.Attempt != 1 || j.Error != nil || !r.is(200, "") || r.header.Get("X-Kept") != "yes" {
			t.Errorf("%d: %+v, %v", i, j, r)
		}
	}
}

func TestRegressionOnlyRequestsForSomethingBecomeJobs(t *testing.T) {
	t.Parallel()
	w := keep(t, strings.Replace(with("", ""), "respond_async: allowed", "respond_async: always", 1), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
	}))
	for method, status := range map[string]int{"HEAD": 200, "OPTIONS": 200, "GET": 202, "POST": 202, "PUT": 202, "DELETE": 202} {
		for _, header := range [][]string{nil, {"Prefer", "respond-async"}, {"Idempotency-Key", method}} {
			a := w.as(1, method, "/x", "", header...)
			if a.status != status || (a.header.Get("X-Method") == method) != (status == 200) {
				t.Errorf("%s %v: %d %v %s, want %d", method, header, a.status, a.header, a.body, status)
			}
			if status == 202 {
				w.becomes(1, a.job(t).ID, "completed")
			}
		}
	}
	if n := strings.Count(w.admin("GET", "/api/v1/jobs").body, `"id"`); n != 4*3 {
		t.Errorf("%d jobs are kept, want 12", n)
	}
}

func TestRegressionAtMostAHundredOfACallerAreWaitedFor(t *testing.T) {
	t.Parallel()
	g := newGate()
	defer g.open()
	w := keep(t, with("", "concurrency: 128"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if r.URL.Path == "/theirs" || g.wait(r) {
			_, _ = io.WriteString(w, "done")
		}
	}))
	const asked = 101
	answers := make(chan answer, asked)
	for range asked {
		go func() { answers <- w.as(1, "POST", "/mine", "{}", "Prefer", "respond-async, wait=600") }()
	}
	told := func(a answer) {
		t.Helper()
		if a.status != 202 || a.header.Get("Location") == "" || a.header.Get("Preference-Applied") != "respond-async" {
			t.Errorf("%d %v %s, want 202", a.status, a.header, a.body)
		}
	}
	told(after(t, "the answer for one too many", answers))
	theirs := w.as(2, "POST", "/theirs", "{}", "Prefer", "respond-async, wait=600")
	if !theirs.is(200, "done") {
		t.Errorf("another caller's is not waited for: %v", theirs)
	}
	if n := len(answers); n > 0 {
		t.Errorf("%d more are not waited for", n)
	}
	w.gateway.Drain()
	for range asked - 1 {
		told(after(t, "the answers for the rest", answers))
	}
}

func TestRegressionWhatIsSaidOfAJobIsOneThing(t *testing.T) {
	w := keep(t, with("", ""), http.HandlerFunc(modelServer))
	f := func(name string, header ...string) {
		t.Helper()
		header = append([]string{"Prefer", "respond-async"}, header...)
		if a := w.as(1, "POST", "/v1/chat/completions", chat, header...); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	f("an empty key, which would be a new job each time", "Idempotency-Key", "")
	f("quotes with nothing in them", "Idempotency-Key", `""`)
	f("two keys", "Idempotency-Key", "a", "Idempotency-Key", "b")
	f("two webhooks", "X-Webhook-Url", "https://a.example/", "X-Webhook-Url", "https://b.example/")
	a := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async, wait=99999999999999999999")
	if got := a.header.Get("Preference-Applied"); a.status != 200 || got != "wait=600" {
		t.Errorf("%d with %q, want what is really waited at most", a.status, got)
	}
}
