package gateway_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/storetest"
)

// dear may have an answer of 5000 tokens, and has one of 3.
const dear = `{"model":"m","max_tokens":5000,"messages":[{"role":"user","content":"hello"}]}`

func TestAJobThatAnotherProcessEnds(t *testing.T) {
	t.Parallel()
	yaml := with(policies("{name: tok, quota: 10000, window: year, unit: tokens, by: caller, algorithm: fixed_window}"), "")
	t.Run("charges what it used where it ran, which has nothing to give back", func(t *testing.T) {
		yaml := onPostgres(t, storetest.Postgres(t), yaml, http.HandlerFunc(modelServer))
		a := launch(t, yaml)
		if err := a.gateway.FinishJobs(noTime()); err != nil { // it runs none
			t.Fatal(err)
		}
		j := a.handIn(1, "/v1/chat/completions", dear)
		b := launch(t, yaml)
		for range 2 {
			b.as(1, "POST", "/v1/chat/completions", chat)
		}
		before := b.remains(1, "tok")
		b.becomes(1, j.ID, "completed")
		if was, is := atoi(t, before), atoi(t, b.remains(1, "tok")); was != 9980 && was != 9970 || is > was {
			t.Errorf("where it ran %d were left and %d are: it got what was reserved elsewhere", was, is)
		}
		if is := atoi(t, a.remains(1, "tok")); is >= 9980 {
			t.Errorf("where it was handed in %d are left: that instance cannot know of the end", is)
		}
	})
	t.Run("gives back nothing that was reserved before a start", func(t *testing.T) {
		yaml := at(t, yaml, http.HandlerFunc(modelServer))
		a := launch(t, yaml)
		if err := a.gateway.FinishJobs(noTime()); err != nil { // it runs none
			t.Fatal(err)
		}
		j := a.handIn(1, "/v1/chat/completions", dear)
		a.stop()
		b := launch(t, yaml)
		b.becomes(1, j.ID, "completed")
		for range 3 {
			b.as(1, "POST", "/v1/chat/completions", chat)
		}
		if is := atoi(t, b.remains(1, "tok")); is != 9960 {
			t.Errorf("%d are left after four answers of 10, want 9960", is)
		}
	})
}

func TestABudgetAcrossAStart(t *testing.T) {
	d := newDesk()
	first := spender("0.02", "openai")
	yaml := at(t, strings.Replace(first, "retry:", onePlace+", retry:", 1), d)
	a := launch(t, yaml)
	answers := func(v *visit, n string) {
		v.does(func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			say(w, strings.Replace(chatAnswer, `"completion_tokens":3`, `"completion_tokens":`+n, 1))
		})
		v.ends("")
	}
	spends := a.later("POST", "/v1/chat/completions", chat, of(1)...)
	answers(d.next(t), "9993") // half of it
	spends.got()
	j := a.handIn(1, "/v1/chat/completions", dear) // which may cost a quarter
	d.next(t)
	if err := a.gateway.FinishJobs(noTime()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	b := launch(t, yaml)
	answers(d.next(t), "3")
	b.becomes(1, j.ID, "completed")
	if is := atoi(t, b.remains(1, "budget")); is > 10_000_000 {
		t.Errorf("%d nano-USD are left of 20000000, of which half was spent", is)
	}
}

func TestFollowersOfAnAnswerThatIsLarge(t *testing.T) {
	g := make(chan struct{})
	w := keep(t, with("offload_over: 100KiB, cache: {mode: inference, only: all, ttl: 1h}", ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-g
		large(w, r)
	}))
	var all []*request
	for range 5 {
		all = append(all, w.later("POST", "/x?n=1000000", "{}", of(1)...))
	}
	w.shows(1, "weir_upstream_requests_in_flight")
	close(g)
	for _, q := range all {
		a := q.got()
		if a.status != 303 {
			t.Errorf("%d %v, %d bytes, %v", a.status, a.header, len(a.body), a.err)
			continue
		}
		if got := w.send("GET", a.header.Get("Location"), ""); got.body != pattern(1000000) {
			t.Errorf("the link: %d, %d bytes", got.status, len(got.body))
		}
	}
}

func TestTooManyStreamsOfEvents(t *testing.T) {
	d := newDesk()
	w := keep(t, durable, d)
	j := w.handIn(1, "/s", "{}")
	v := d.next(t)
	for range 20 {
		if r := w.open("GET", "/jobs/"+j.ID+"/events", "", of(1)...); r.StatusCode != 200 {
			t.Fatal(r.StatusCode)
		}
	}
	if a := w.as(1, "GET", "/jobs/"+j.ID+"/events", ""); a.status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("the 21st: %d %v %s", a.status, a.header, a.body)
	}
	v.ends("done")
	w.becomes(1, j.ID, "completed")
	storetest.Eventually(t, eventually, "there is room for one again", func() bool {
		return w.as(1, "GET", "/jobs/"+j.ID+"/events", "").status == 200
	})
}

func TestAPostgresThatGoesWhileAJobRuns(t *testing.T) {
	t.Parallel()
	server, d := storetest.Postgres(t), newDesk()
	w := launch(t, onPostgres(t, server, durable, d))
	j := w.handIn(1, "/s", `{"stream":true}`)
	v := d.next(t)
	live := w.open("GET", "/jobs/"+j.ID+"/events", "", of(1)...)
	v.streams("data: one\n\n")
	got := output(live.events("", "one"))
	server.Stop()
	storetest.Eventually(t, eventually, "it is away", func() bool { return !w.gateway.Database().Healthy() })
	v.ends("data: two\n\n")
	server.Start()
	if done := w.becomes(1, j.ID, "completed"); done.Attempt != 1 {
		t.Errorf("%+v", done)
	}
	all := live.events("", "")
	if got = append(got, output(all)...); len(got) != 2 || got[1].data != "two" || states(all)[len(states(all))-1] != "completed" {
		t.Errorf("the stream: %q and then %q", got, all)
	}
	if r := w.result(1, j.ID); r.body != "data: one\n\ndata: two\n\n" {
		t.Errorf("the result: %q", r.body)
	}
	d.nobody(t)
}

func TestNoAcknowledgedJobIsLost(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	var calls atomic.Int64
	w := launch(t, onPostgres(t, server, durable, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		modelServer(w, r)
	})))
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				a := w.as(i, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Idempotency-Key", strconv.Itoa(n))
				switch a.status {
				case 202:
					mu.Lock()
					acknowledged[strconv.Itoa(i)+" "+a.job(t).ID] = true
					mu.Unlock()
				case 503:
					n-- // again, with the same key
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	reached := func(n int) {
		storetest.Eventually(t, eventually, "jobs are handed in", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) >= n
		})
	}
	reached(30)
	server.Stop()
	storetest.Eventually(t, eventually, "it is away", func() bool { return !w.gateway.Database().Healthy() })
	mu.Lock()
	before := len(acknowledged)
	mu.Unlock()
	server.Start()
	reached(before + 30)
	close(stop)
	clients.Wait()
	for key := range acknowledged {
		user, id, _ := strings.Cut(key, " ")
		w.becomes(atoi(t, user), id, "completed")
	}
	// What was kept and not acknowledged was found again by its key.
	if u := w.used(""); u.Requests-u.Refused != int64(len(acknowledged)) || calls.Load() < int64(len(acknowledged)) {
		t.Errorf("%d jobs were acknowledged, the ledger has %+v, and there were %d calls", len(acknowledged), u, calls.Load())
	}
}

func TestAnAnswerInTimeThatIsLarge(t *testing.T) {
	w := keep(t, with("offload_over: 100KiB", ""), http.HandlerFunc(large))
	a := w.as(1, "POST", "/x?n=300000", "{}", "Prefer", "respond-async, wait=30")
	if a.status != 303 || a.header.Get("Preference-Applied") != "wait=30" || w.send("GET", a.header.Get("Location"), "").body != pattern(300000) {
		t.Errorf("%d %v", a.status, a.header)
	}
	a = w.as(1, "POST", "/x?n=300000", "{}", "Prefer", "respond-async, wait=30", "Accept", "application/json")
	if l := a.link(t); l.Bytes != 300000 || w.send("GET", path(t, l.URL), "").body != pattern(300000) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAChargedHit(t *testing.T) {
	w := keep(t, with(policies("{name: few, quota: 10, window: 1h, by: caller, algorithm: fixed_window}")+", cache: {mode: inference, only: all, ttl: 1h, charge_hits: true}", ""), http.HandlerFunc(modelServer))
	j := w.handIn(1, "/v1/chat/completions", chat, "Idempotency-Key", "k")
	w.becomes(1, j.ID, "completed")
	if got := w.remains(1, "few"); got != "9" {
		t.Errorf("after the job %s are left, want 9", got)
	}
	for _, prefer := range []string{"", "respond-async"} {
		if a := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", prefer, "Idempotency-Key", "another"); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if got := w.remains(1, "few"); got != "7" {
		t.Errorf("after two hits %s are left, want 7", got)
	}
}
