package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/storetest"
)

// handIn makes a job and returns its ID.
func (s *site) handIn(path, body string) string {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.callers+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Prefer", "respond-async")
	r.Header.Set("Authorization", "Bearer weir_alice_secret")
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusAccepted {
		s.t.Fatalf("%d %s", res.StatusCode, text)
	}
	return strings.TrimPrefix(res.Header.Get("Location"), "/jobs/")
}

// becomes waits until a job is in a state, for who made it.
func (s *site) becomes(id, state string) {
	s.t.Helper()
	storetest.Eventually(s.t, tabWait, "job "+id+" is "+state, func() bool {
		r, err := http.NewRequest(http.MethodGet, s.callers+"/jobs/"+id, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer weir_alice_secret")
		res, err := s.client.Do(r)
		if err != nil {
			s.t.Fatal(err)
		}
		defer res.Body.Close()
		var j struct{ State string }
		return json.NewDecoder(res.Body).Decode(&j) == nil && j.State == state
	})
}

// furnish makes keys and jobs in many states.
func (s *site) furnish() {
	s.t.Helper()
	keys := s.gateway.Database().Keys()
	now := keys.Now()
	made := func(caller, plan string, expires time.Time) database.Key {
		_, key, err := keys.Create(s.t.Context(), database.NewKey{Caller: caller, Plan: plan, Expires: expires, By: "ops"})
		if err != nil {
			s.t.Fatal(err)
		}
		return key
	}
	made("dora", "pro", now.Add(90*24*time.Hour))
	old := made("emil", "", time.Time{})
	if _, _, err := keys.Rotate(s.t.Context(), old.ID, 24*time.Hour, "ops"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := keys.Revoke(s.t.Context(), made("frida", "free", time.Time{}).ID, "ops"); err != nil {
		s.t.Fatal(err)
	}
	for i := range 3 {
		s.becomes(s.handIn("/classify", fmt.Sprintf(`{"text": "later %d"}`, i)), "completed")
	}
	s.becomes(s.handIn("/classify/hang", "{}"), "running")
	s.becomes(s.handIn("/classify/broken", "{}"), "retryable")
}

func jobIsCancelled(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/jobs")
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	equal(t, strings.Contains(b.text("main"), "There are no jobs."), true)
	id := s.handIn("/classify/hang", "{}")
	b.until(`document.querySelector("tbody .state")?.textContent === "running"`)
	equal(t, b.text("tbody th"), id)
	b.submit("tbody th a")
	equal(t, strings.Contains(b.text("[data-live=job]"), "POST /classify/hang"), true)
	for _, l := range looks() {
		job := newTab(t, browser, l)
		job.open(s.admin + "/jobs/job?id=" + id)
		job.accessible()
		job.fits()
		job.quiet()
		job.shoot("jobs-job-" + l.String())
	}
	is[bool](b, `window.confirm = () => true; true`)
	b.submit(`form[action="/jobs/cancel"] button`)
	equal(t, regexp.MustCompile(`^The job is (cancelled|asked to stop)`).MatchString(b.text(".note")), true)
	b.until(`document.querySelector("[data-live=job] .state").textContent === "cancelled" && !document.querySelector('form[action="/jobs/cancel"]')`)
	s.becomes(id, "cancelled")
	b.quiet()
}

// jobsSite is a gateway with one job that is discarded and one that runs.
func jobsSite(t *testing.T) (s *site, discarded, running string) {
	t.Helper()
	s = newSite(t, siteConfig+"jobs: {attempts: 1}\ndatabase: {url: \"sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"\"}\n", "")
	discarded, running = s.handIn("/classify/broken", "{}"), s.handIn("/classify/hang", "{}")
	s.becomes(discarded, "discarded")
	s.becomes(running, "running")
	return s, discarded, running
}

func TestJobsPage(t *testing.T) {
	s, discarded, running := jobsSite(t)
	o := &operators{t: t, handler: s.operators, gateway: s.gateway}
	listed := func(query string) []string {
		var ids []string
		for _, m := range regexp.MustCompile(`<tr data-key="([0-9a-f-]{36})"`).FindAllStringSubmatch(o.browse("/jobs"+query).Body.String(), -1) {
			ids = append(ids, m[1])
		}
		return ids
	}
	f := func(name, query string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			equal(t, listed(query), want)
		})
	}
	f("lists the newest first", "", running, discarded)
	f("lists those of a state", "?state=discarded", discarded)
	f("lists those of a caller", "?caller=key:alice", running, discarded)
	f("lists none of another caller", "?caller=key:bob")
	f("lists those of a route", "?route=classify&state=running", running)
	f("lists none of another route", "?route=chat")
	f("lists those before another", "?before="+running, discarded)

	t.Run("says what is wrong with a query", func(t *testing.T) {
		rec := o.browse("/jobs?state=lost")
		equal(t, [2]any{rec.Code, strings.Contains(rec.Body.String(), "want available, running, retryable")}, [2]any{400, true})
	})
	t.Run("shows why a job failed", func(t *testing.T) {
		body := o.browse("/jobs/job?id=" + discarded).Body.String()
		equal(t, [3]bool{strings.Contains(body, "Last error"), strings.Contains(body, "/jobs/retry"), strings.Contains(body, "/jobs/cancel")}, [3]bool{true, true, false})
	})
	t.Run("shows no query of a request", func(t *testing.T) {
		body := o.browse("/jobs/job?id=" + s.handIn("/classify/broken?text=secret", "{}")).Body.String()
		equal(t, [2]bool{strings.Contains(body, "<code>POST /classify/broken</code>"), strings.Contains(body, "secret")}, [2]bool{true, false})
	})
	t.Run("has no page of what is no job", func(t *testing.T) {
		for _, id := range []string{"", "x", "../keys", "00000000-0000-7000-8000-000000000000"} {
			equal(t, [2]any{id, o.browse("/jobs/job?id=" + url.QueryEscape(id)).Code}, [2]any{id, 404})
		}
	})
	csrf := csrfIn(t, o.browse("/jobs/job?id="+discarded).Body.String())
	t.Run("refuses to try a running job again", func(t *testing.T) {
		rec := o.post("/jobs/retry", url.Values{"csrf": {csrf}, "id": {running}})
		equal(t, [3]any{rec.Code, strings.Contains(rec.Body.String(), "only a discarded one can be tried again"), strings.Contains(rec.Body.String(), `data-stream="/live/jobs/job?id=`+running+`"`)},
			[3]any{409, true, true})
	})
	t.Run("needs the token of the session", func(t *testing.T) {
		equal(t, o.post("/jobs/cancel", url.Values{"id": {running}}).Code, 403)
	})
	t.Run("tries a discarded job again", func(t *testing.T) {
		rec := o.post("/jobs/retry", url.Values{"csrf": {csrf}, "id": {discarded}})
		equal(t, [2]any{rec.Code, leadsTo(rec)}, [2]any{303, "/jobs/job?id=" + discarded + " says job-retried"})
		s.becomes(discarded, "discarded")
		equal(t, strings.Contains(o.browse("/jobs/job?id="+discarded).Body.String(), "2 of 2"), true)
	})
	t.Run("leaves what has ended as it is", func(t *testing.T) {
		rec := o.post("/jobs/cancel", url.Values{"csrf": {csrf}, "id": {discarded}})
		equal(t, leadsTo(rec), "/jobs/job?id="+discarded+" says job-over")
	})
	t.Run("says how to have jobs", func(t *testing.T) {
		rec := open(t, twoPlans, "").browse("/jobs")
		equal(t, [2]any{rec.Code, strings.Contains(rec.Body.String(), "Jobs need a database")}, [2]any{200, true})
		equal(t, open(t, twoPlans, "").browse("/jobs/job?id="+discarded).Code, 409)
	})
}

func TestLongListOfJobs(t *testing.T) {
	s, _, _ := jobsSite(t)
	for i := range 60 {
		s.handIn("/classify/hang", fmt.Sprint(i))
	}
	o := &operators{t: t, handler: s.operators, gateway: s.gateway}
	rows := func(body string) int { return strings.Count(body, `<tr data-key="`) }
	first := o.browse("/jobs?route=classify").Body.String()
	older := regexp.MustCompile(`href="(/jobs\?before=[0-9a-f-]{36}&amp;route=classify)">Older`).FindStringSubmatch(first)
	if older == nil {
		t.Fatalf("no older ones in %s", first)
	}
	second := o.browse(strings.ReplaceAll(older[1], "&amp;", "&")).Body.String()
	equal(t, [2]int{rows(first), rows(second)}, [2]int{50, 12})
	equal(t, [3]bool{strings.Contains(second, ">Older<"), strings.Contains(second, `href="/jobs?route=classify">Newest`), strings.Contains(second, `data-live="list"`)}, [3]bool{false, true, false})
}
