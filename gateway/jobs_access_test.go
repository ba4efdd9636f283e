package gateway_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// event is one of a job's stream.
type event struct{ name, id, data string }

// events reads a stream of events, comments left out, until one has the last name and
// contains text, or the end.
func (r *reading) events(name, text string) (all []event) {
	r.t.Helper()
	late := time.AfterFunc(eventually, r.leave)
	defer late.Stop()
	var e event
	in := bufio.NewReader(r.Body)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return all
		}
		if err != nil {
			r.t.Errorf("the events break off after %q: %v", all, err)
			return all
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data += value
		case "":
			if e == (event{}) {
				continue
			}
			all = append(all, e)
			if e.name == name && strings.Contains(e.data, text) && text != "" {
				return all
			}
			e = event{}
		}
	}
}

// output are the events of the model among those.
func output(all []event) (own []event) {
	for _, e := range all {
		if e.name != "weir.job" {
			own = append(own, e)
		}
	}
	return own
}

func states(all []event) (names []string) {
	for _, e := range all {
		if e.name == "weir.job" {
			var j seen
			_ = json.Unmarshal([]byte(e.data), &j)
			names = append(names, j.State)
		}
	}
	return names
}

func TestTheEventsOfAJob(t *testing.T) {
	d := newDesk()
	w := keep(t, durable, d)
	j := w.handIn(1, "/s", `{"stream":true}`)
	v := d.next(t)
	live := w.open("GET", "/jobs/"+j.ID+"/events", "", of(1)...)
	if k := live.Header.Get("Content-Type"); live.StatusCode != 200 || k != "text/event-stream" {
		t.Fatalf("%d %s", live.StatusCode, k)
	}
	v.streams("data: one\n\nevent: x\ndata: two\n\n")
	first := live.events("x", "two")
	v.says("data: three\n\n")
	resumed := w.open("GET", "/jobs/"+j.ID+"/events", "", append(of(1), "Last-Event-ID", output(first)[0].id)...)
	v.ends("data: four\n\n")
	all := append(first, live.events("", "")...)
	got := output(all)
	want := []event{{"", "", "one"}, {"x", "", "two"}, {"", "", "three"}, {"", "", "four"}}
	same := func(got, want []event) bool {
		if len(got) != len(want) {
			return false
		}
		for i := range got {
			if got[i].name != want[i].name || got[i].data != want[i].data || got[i].id == "" {
				return false
			}
		}
		return true
	}
	if !same(got, want) {
		t.Errorf("live: %q", got)
	}
	if s := states(all); len(s) < 2 || s[0] != "running" || s[len(s)-1] != "completed" {
		t.Errorf("the states: %q", s)
	}
	if got := output(resumed.events("", "")); !same(got, want[1:]) {
		t.Errorf("resumed: %q", got)
	}
	for from := range 5 {
		header := of(1)
		if from > 0 {
			header = append(header, "Last-Event-ID", got[from-1].id)
		}
		replay := w.open("GET", "/jobs/"+j.ID+"/events", "", header...).events("", "")
		if !same(output(replay), want[from:]) || len(states(replay)) != 1 {
			t.Errorf("after the end, from %d: %q", from, replay)
		}
	}
	if r := w.result(1, j.ID); r.body != "data: one\n\nevent: x\ndata: two\n\ndata: three\n\ndata: four\n\n" || r.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("the result: %v %q", r.header, r.body)
	}
}

func TestEventsOfAnAttemptThatFails(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := keep(t, durable, d)
	j := w.handIn(1, "/s", `{"stream":true}`)
	v := d.next(t)
	live := w.open("GET", "/jobs/"+j.ID+"/events", "", of(1)...)
	v.streams("data: wrong\n\n")
	all := live.events("", "wrong")
	v.breaks()
	again := d.next(t)
	again.streams("data: right\n\n")
	again.ends("")
	all = append(all, live.events("", "")...)
	reset := false
	var shown []string
	for _, e := range all {
		if e.name == "weir.job" {
			if strings.Contains(e.data, `"reset":true`) {
				reset, shown = true, nil
			}
			continue
		}
		shown = append(shown, e.data)
	}
	if !reset || len(shown) != 1 || shown[0] != "right" {
		t.Errorf("reset: %v, then %q of %q", reset, shown, all)
	}
	if r := w.result(1, j.ID); r.body != "data: right\n\n" {
		t.Errorf("the result: %q", r.body)
	}
	if a, b := v.r.Header.Get("X-Request-Id"), again.r.Header.Get("X-Request-Id"); a != b || a == "" {
		t.Errorf("X-Request-Id of the attempts: %q and %q", a, b)
	}
}

func TestCancellingAJob(t *testing.T) {
	d := newDesk()
	w := keep(t, with("", "concurrency: 1"), d)
	running := w.handIn(1, "/running", "{}")
	v := d.next(t)
	var a answer
	if took := took(func() { a = w.as(1, "DELETE", "/jobs/"+running.ID, ""); v.leaves() }); took > 2*time.Second { // much of it is a busy machine's
		t.Errorf("the upstream was left after %v", took)
	}
	if a.status != 202 && a.status != 200 {
		t.Errorf("running: %d %s", a.status, a.body)
	}
	w.becomes(1, running.ID, "cancelled")
	if r := w.result(1, running.ID); r.status != 409 {
		t.Errorf("the result: %d %s", r.status, r.body)
	}
	if a := w.as(1, "DELETE", "/jobs/"+running.ID, ""); a.status != 200 || a.job(t).State != "cancelled" {
		t.Errorf("again: %d %s", a.status, a.body)
	}
	j := w.handIn(1, "/fine", "{}")
	d.next(t).ends("fine")
	w.becomes(1, j.ID, "completed")
	if a := w.as(1, "DELETE", "/jobs/"+j.ID, ""); a.status != 200 || a.job(t).State != "completed" {
		t.Errorf("one that has ended: %d %s", a.status, a.body)
	}
	if r := w.result(1, j.ID); r.status != 200 || r.body != "fine" {
		t.Errorf("its result: %d %s", r.status, r.body)
	}
	d.nobody(t)
	w.isIdle()
}

func TestAJobIsItsCallersAlone(t *testing.T) {
	w := keep(t, durable, http.HandlerFunc(modelServer))
	j := w.handIn(1, "/v1/chat/completions", chat)
	w.becomes(1, j.ID, "completed")
	unknown := "01a20402-cb79-7e94-b728-572df0fd7a36"
	for _, of := range [][2]string{{"GET", ""}, {"HEAD", ""}, {"DELETE", ""}, {"GET", "/result"}, {"HEAD", "/result"}, {"GET", "/events"}, {"POST", ""}, {"PUT", "/result"}} {
		for name, who := range map[string][]string{"another": {"X-Api-Key", "weir_u2"}, "nobody known": nil} {
			theirs := w.send(of[0], "/jobs/"+j.ID+of[1], "", who...)
			none := w.send(of[0], "/jobs/"+unknown+of[1], "", who...)
			if theirs.status != none.status || theirs.body != none.body || theirs.status != 404 && theirs.status != 405 {
				t.Errorf("%s: %s %s: %d %s; of one that is not there: %d %s", name, of[0], of[1], theirs.status, theirs.body, none.status, none.body)
			}
			for _, h := range []http.Header{theirs.header, none.header} {
				delete(h, "X-Request-Id")
				delete(h, "Server-Timing")
				delete(h, "Date")
			}
			if len(theirs.header) != len(none.header) {
				t.Errorf("%s: %v, and of one that is not there %v", name, theirs.header, none.header)
			}
		}
	}
	if j := w.look(1, j.ID); j.State != "completed" {
		t.Errorf("it is %s", j.State)
	}
	for _, path := range []string{"/jobs/", "/jobs/x", "/jobs/" + strings.ToUpper(j.ID), "/jobs/" + j.ID + "/", "/jobs/" + j.ID + "/result/", "/jobs/../jobs/" + j.ID, "/jobs/" + j.ID + "%00"} {
		if a := w.as(1, "GET", path, ""); a.status != 404 && a.status != 400 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := w.send("GET", "/jobs/"+j.ID, "", "X-Api-Key", "weir_unknown"); a.status != 401 {
		t.Errorf("with an unknown key: %d %s", a.status, a.body)
	}
}

func TestAnonymousCallersAreTheirAddress(t *testing.T) {
	w := keep(t, strings.Replace(durable, "callers: {keys: KEYS}", "callers: {trusted_proxies: [127.0.0.1], keys: KEYS}", 1), http.HandlerFunc(modelServer))
	a := w.send("POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "X-Forwarded-For", "203.0.113.1")
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	id := a.job(t).ID
	if a := w.send("GET", "/jobs/"+id, "", "X-Forwarded-For", "203.0.113.1"); a.status != 200 {
		t.Errorf("the same address: %d %s", a.status, a.body)
	}
	if a := w.send("GET", "/jobs/"+id, "", "X-Forwarded-For", "203.0.113.2"); a.status != 404 {
		t.Errorf("another address: %d %s", a.status, a.body)
	}
	if a := w.as(1, "GET", "/jobs/"+id, "", "X-Forwarded-For", "203.0.113.1"); a.status != 404 {
		t.Errorf("a key from there: %d %s", a.status, a.body)
	}
	w.admin("DELETE", "/api/v1/jobs/"+id)
}

func TestNothingStoredCarriesCredentials(t *testing.T) {
	dir := t.TempDir()
	d := newDesk()
	w := keep(t, strings.ReplaceAll(with("", "set_headers: {Authorization: Bearer set-for-the-upstream}"), "DIR", dir), d)
	for _, query := range []string{"find-me=1", "subscription-key=secret-1", "X-Amz-Signature=secret-2", "client_secret=secret-3", "sas_token=secret-4", "API-KEY=secret-5", "refresh_token=secret-6"} {
		q := w.later("POST", "/q?"+query, `{"a":1}`, append(of(1), "Prefer", "respond-async",
			"Authorization", "Bearer secret-of-authorization", "Proxy-Authorization", "Basic secret-of-proxies")...)
		v := d.next(t)
		if got := v.r.Header.Get("Authorization"); got != "Bearer set-for-the-upstream" {
			t.Errorf("the upstream got Authorization: %q", got)
		}
		v.ends("{}")
		if a := q.got(); a.status == 202 {
			w.becomes(1, a.job(t).ID, "completed")
		}
	}
	w.stop()
	text := everyFile(t, dir)
	for _, encoded := range regexp.MustCompile(`[A-Za-z0-9+/]{4,}={0,2}`).FindAllString(text, -1) {
		if plain, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			text += string(plain)
		}
	}
	if !strings.Contains(text, "find-me") {
		t.Fatal("no request is found in what is stored: this test looks at the wrong place")
	}
	for _, secret := range []string{"secret-", "weir_u1", "set-for-the-upstream"} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%q is stored: %.100q", secret, text[max(i-60, 0):])
		}
	}
}

func TestAKeyOfAnyNameIsAnsweredAtOnce(t *testing.T) {
	yaml := strings.Replace(durable, "routes: [", "routes: [{name: always, match: {path: /always}, upstream: u, respond_async: always}, ", 1)
	w := keep(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.Contains(r.Header.Get(name), "theirs") {
				return
			}
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	for _, name := range []string{"X-Goog-Api-Key", "Ocp-Apim-Subscription-Key", "X-Auth-Token", "X-Amz-Security-Token"} {
		if a := w.as(1, "POST", "/x", "{}", name, "theirs", "Prefer", "respond-async"); a.status != 200 {
			t.Errorf("%s: %d %s, want the answer at once", name, a.status, a.body)
		}
		if a := w.as(1, "POST", "/always", "{}", name, "theirs"); a.status != 400 {
			t.Errorf("%s, always: %d %s, want 400", name, a.status, a.body)
		}
	}
}
