package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// onPostgres is durable on a PostgreSQL, for several gateways with one folder.
func onPostgres(t *testing.T, s *storetest.PostgresServer, yaml string, targets ...http.Handler) string {
	t.Helper()
	return at(t, strings.Replace(yaml, "sqlite:DIR/weir.db", s.URL(), 1), targets...)
}

func TestGatewaysOnOnePostgres(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	t.Run("see each other's jobs, results, events and cancellations", func(t *testing.T) { seeEachOthersJobs(t, server) })
	t.Run("finish the jobs of one that is closed", func(t *testing.T) { finishEachOthersJobs(t, server) })
	t.Run("take over policies that are changed at one", func(t *testing.T) { takeOverPolicies(t, server) })
	t.Run("refuse a key that is revoked at one", func(t *testing.T) { refuseRevokedKeys(t, server) })
}

func seeEachOthersJobs(t *testing.T, server *storetest.PostgresServer) {
	d := newDesk()
	yaml := onPostgres(t, server, with("", "concurrency: 2"), d)
	a, b := launch(t, yaml), launch(t, yaml)
	j := a.handIn(1, "/s", `{"stream":true}`)
	v := d.next(t)
	v.streams("data: one\n\n")
	var live []*reading
	for _, w := range []*instance{a, b} {
		live = append(live, w.open("GET", "/jobs/"+j.ID+"/events", "", of(1)...))
	}
	for _, r := range live {
		if got := output(r.events("", "one")); len(got) != 1 || got[0].data != "one" {
			t.Errorf("live: %q", got)
		}
	}
	v.ends("data: two\n\n")
	for _, r := range live {
		all := r.events("", "")
		if got := output(all); len(got) != 1 || got[0].data != "two" || states(all)[len(states(all))-1] != "completed" {
			t.Errorf("live, the rest: %q", all)
		}
	}
	for _, w := range []*instance{a, b} {
		w.becomes(1, j.ID, "completed")
		if r := w.result(1, j.ID); r.body != "data: one\n\ndata: two\n\n" {
			t.Errorf("the result: %d %q", r.status, r.body)
		}
		if r := w.result(2, j.ID); r.status != 404 {
			t.Errorf("another's: %d", r.status)
		}
	}
	k := b.handIn(1, "/c", "{}")
	v = d.next(t)
	for _, w := range []*instance{a, b} { // one of them does not run it
		if r := w.as(1, "DELETE", "/jobs/"+k.ID, ""); r.status != 202 && r.status != 200 {
			t.Errorf("DELETE: %d %s", r.status, r.body)
		}
	}
	v.leaves()
	a.becomes(1, k.ID, "cancelled")
	b.becomes(1, k.ID, "cancelled")
	k = a.handIn(1, "/twice", "{}", "Idempotency-Key", "k")
	if r := b.as(1, "POST", "/twice", "{}", "Prefer", "respond-async", "Idempotency-Key", "k"); r.job(t).ID != k.ID {
		t.Errorf("another job: %d %s", r.status, r.body)
	}
	d.next(t).ends("once")
	b.becomes(1, k.ID, "completed")
	d.nobody(t)
}

func finishEachOthersJobs(t *testing.T, server *storetest.PostgresServer) {
	d := newDesk()
	yaml := onPostgres(t, server, with("", "concurrency: 4"), d)
	a := launch(t, yaml)
	var ids []string
	for range 3 {
		ids = append(ids, a.handIn(1, "/x", "{}").ID)
	}
	for range 3 {
		d.next(t)
	}
	b := launch(t, yaml)
	if err := a.gateway.FinishJobs(noTime()); err != nil { // nobody answers: they are given back
		t.Error(err)
	}
	for range 3 {
		d.next(t).ends("by the other")
	}
	for _, id := range ids {
		if j := b.becomes(1, id, "completed"); j.Attempt != 1 {
			t.Errorf("it had %d attempts, want 1: the first does not count", j.Attempt)
		}
		if r := b.result(1, id); r.body != "by the other" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func takeOverPolicies(t *testing.T, server *storetest.PostgresServer) {
	yaml := onPostgres(t, server, durable+"plans: {default: {policies: [{name: few, quota: 100, window: 1h}]}}\n", http.HandlerFunc(modelServer))
	a, b := launch(t, yaml), launch(t, yaml)
	if !setPolicies(t, a.gateway, "default", `[{"name": "few", "quota": 1, "window": "1h", "algorithm": "fixed_window"}]`) {
		t.Fatal("the database does not keep them")
	}
	storetest.Eventually(t, eventually, "the other has them", func() bool {
		return strings.Contains(b.as(1, "POST", "/v1/chat/completions", chat).header.Get("Ratelimit-Policy"), "q=1;")
	})
	for _, g := range []*gateway.Gateway{a.gateway, b.gateway} {
		if all := g.Overrides(); len(all) != 1 || !all[0].Kept || all[0].By != "test" {
			t.Errorf("the overrides are %+v", all)
		}
	}
	c := launch(t, yaml)
	if first := c.as(1, "POST", "/v1/chat/completions", chat); !strings.Contains(first.header.Get("Ratelimit-Policy"), "q=1;") {
		t.Errorf("after a start: %v", first.header["Ratelimit-Policy"])
	}
}

func refuseRevokedKeys(t *testing.T, server *storetest.PostgresServer) {
	yaml := onPostgres(t, server, durable, http.HandlerFunc(modelServer))
	a, b := launch(t, yaml), launch(t, yaml)
	text, made, err := a.gateway.Database().Keys().Create(t.Context(), database.NewKey{Caller: "zoe", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(w *instance) int { return w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text).status }
	if got := ask(a); got != 200 {
		t.Errorf("where it was made: %d", got)
	}
	storetest.Eventually(t, eventually, "the other knows it", func() bool { return ask(b) == 200 })
	if _, err := a.gateway.Database().Keys().Revoke(t.Context(), made.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if got := ask(a); got != 401 {
		t.Errorf("where it was revoked: %d", got)
	}
	storetest.Eventually(t, eventually, "the other refuses it", func() bool { return ask(b) == 401 })
}

func TestAPostgresThatIsAway(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	yaml := onPostgres(t, server, with(policies("{name: few, quota: 100000, window: 1h, by: caller, algorithm: fixed_window}"), ""), http.HandlerFunc(modelServer))
	w := launch(t, yaml)
	text, _, err := w.gateway.Database().Keys().Create(t.Context(), database.NewKey{Caller: "zoe", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	before := w.handIn(1, "/v1/chat/completions", chat)
	w.becomes(1, before.ID, "completed")
	for name, of := range map[string]struct{ away, back func() }{
		"stopped": {server.Stop, server.Start},
		"paused":  {server.Pause, server.Resume},
	} {
		t.Run(name, func(t *testing.T) {
			asked := w.used("").Requests
			of.away()
			ctx, done := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var slowest time.Duration
			sent, errs := int64(0), 0
			wg.Go(func() {
				for ctx.Err() == nil {
					slowest = max(slowest, took(func() {
						if a := w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text); a.status != 200 {
							errs++
						}
					}))
					sent++
				}
			})
			remained := func() string { return left(w.as(1, "POST", "/v1/chat/completions", chat), "few") }
			was := remained()
			var a answer
			if took := took(func() { a = w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async") }); a.status != 503 || a.header.Get("Retry-After") == "" || took > 6*time.Second {
				t.Errorf("a job: %d %v %s after %v", a.status, a.header, a.body, took)
			}
			storetest.Eventually(t, eventually, "it is known to be away", func() bool { return !w.gateway.Database().Healthy() })
			for _, path := range []string{"", "/result", "/events"} {
				if took := took(func() { a = w.as(1, "GET", "/jobs/"+before.ID+path, "") }); a.status != 503 || a.header.Get("Retry-After") == "" || took > time.Second {
					t.Errorf("%s: %d %v %s after %v", path, a.status, a.header, a.body, took)
				}
			}
			if took := took(func() {
				a = w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "Idempotency-Key", "k")
			}); a.status != 503 || a.header.Get("Retry-After") == "" || took > time.Second {
				t.Errorf("a job once that is known: %d %v %s after %v", a.status, a.header, a.body, took)
			}
			if is := remained(); atoi(t, was)-atoi(t, is) != 1 {
				t.Errorf("%s were left and %s are: refused jobs have cost something", was, is)
			}
			if a := w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", "weir_unknown"); a.status != 401 {
				t.Errorf("an unknown key: %d %s", a.status, a.body)
			}
			done()
			wg.Wait()
			if errs > 0 || slowest > time.Second {
				t.Errorf("%d of %d requests failed, the slowest took %v", errs, sent, slowest)
			}
			of.back()
			storetest.Eventually(t, eventually, "it is back", w.gateway.Database().Healthy)
			after := w.handIn(1, "/v1/chat/completions", chat)
			w.becomes(1, after.ID, "completed")
			// The looks at what remains, and the jobs: two refused, one done.
			if got, want := w.used("").Requests-asked, sent+2+3; got != want {
				t.Errorf("the ledger has %d requests more, want %d", got, want)
			}
		})
	}
}

func TestAGatewayThatStartsWithoutItsPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	yaml := onPostgres(t, server, durable, http.HandlerFunc(modelServer))
	first := launch(t, yaml)
	text, _, err := first.gateway.Database().Keys().Create(t.Context(), database.NewKey{Caller: "zoe", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	server.Stop()
	w := launch(t, yaml)
	if a := w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text); a.status != 503 || a.header.Get("Retry-After") != "1" {
		t.Errorf("a key that may be good: %d %v %s", a.status, a.header, a.body)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", chat); a.status != 200 {
		t.Errorf("a key of the configuration: %d %s", a.status, a.body)
	}
	if a := w.send("POST", "/v1/chat/completions", chat); a.status != 200 {
		t.Errorf("no key: %d %s", a.status, a.body)
	}
	if a := w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text[:len(text)-1]); a.status != 401 {
		t.Errorf("a key that is cut: %d %s", a.status, a.body)
	}
	server.Start()
	storetest.Eventually(t, eventually, "the key is known", func() bool {
		return w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text).status == 200
	})
	j := w.handIn(1, "/v1/chat/completions", chat)
	w.becomes(1, j.ID, "completed")
}

func TestAGatewayWhoseSigningKeyIsInAPostgresThatIsAway(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	yaml := onPostgres(t, server, strings.Replace(durable, ", signing_key: 0123456789abcdef0123456789abcdef", "", 1), http.HandlerFunc(modelServer))
	server.Stop()
	w := launch(t, yaml)
	upload := func() answer {
		return w.as(1, "POST", "/blobs", `{"content_type":"audio/wav","bytes":3}`)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", chat); a.status != 200 {
		t.Errorf("a request that needs neither: %d %s", a.status, a.body)
	}
	if a := upload(); a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "The key that links to large files are signed with cannot be read now.") {
		t.Errorf("a link: %d %v %s", a.status, a.header, a.body)
	}
	server.Start()
	storetest.Eventually(t, eventually, "there are links", func() bool { return upload().status == 201 })
}

func atoi(t *testing.T, text string) (n int) {
	t.Helper()
	for _, c := range text {
		n = n*10 + int(c-'0')
	}
	if text == "" {
		t.Error("a number is missing")
	}
	return n
}
