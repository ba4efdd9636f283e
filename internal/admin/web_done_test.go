package admin_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// leadsTo is where an answer leads, and what the page there will say has been done.
func leadsTo(rec *httptest.ResponseRecorder) string {
	to := rec.Header().Get("Location")
	for _, c := range rec.Result().Cookies() {
		if c.Name == "weir_done" {
			word, _, _ := strings.Cut(c.Value, ".")
			to += " says " + word
		}
	}
	return to
}

// doneCookie is the cookie that a form has left, as a field of a request.
func doneCookie(t *testing.T, rec *httptest.ResponseRecorder) string {
	t.Helper()
	for _, c := range rec.Result().Cookies() {
		if c.Name == "weir_done" && c.Value != "" {
			return c.Name + "=" + c.Value
		}
	}
	t.Fatalf("no cookie in %v", rec.Header())
	return ""
}

func TestWhatWasDoneIsSaidOnce(t *testing.T) {
	const says = `<p class="note good" role="status">Changed. It is in force`
	edited := func(t *testing.T) (*operators, string) {
		o := open(t, twoPlans, "")
		page := o.browse("/config/edit?kind=plan&name=pro").Body.String()
		rec := o.post("/config/save", url.Values{"csrf": {csrfIn(t, page)}, "kind": {"plan"}, "name": {"pro"}, "targets": {""}, "weight": {"7"}, "was.weight": {"1"}})
		return o, doneCookie(t, rec)
	}
	f := func(name, path string, change func(cookie string) string, want bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			o, cookie := edited(t)
			rec := o.browse(path, "Cookie", change(cookie))
			taken := strings.Contains(strings.Join(rec.Header()["Set-Cookie"], " "), "weir_done=; Path=/config/edit; Max-Age=0; HttpOnly; SameSite=Strict")
			equal(t, [3]any{rec.Code, strings.Contains(rec.Body.String(), says), taken}, [3]any{200, want, want})
		})
	}
	same := func(cookie string) string { return cookie }
	f("by the page that the form leads to, which takes the cookie", "/config/edit?kind=plan&name=pro", same, true)
	f("not by another page", "/config", same, false)
	f("not by a cookie for another word", "/config/edit?kind=plan&name=pro", func(c string) string { return strings.Replace(c, "edited", "reverted", 1) }, false)
	f("not by a cookie that is not signed", "/config/edit?kind=plan&name=pro", func(c string) string { return c[:strings.LastIndex(c, ".")] }, false)
	f("not by a link", "/config/edit?kind=plan&name=pro&done=edited", func(string) string { return "weir_done=" }, false)

	t.Run("not to another session", func(t *testing.T) {
		o := open(t, twoPlans, "token")
		one, other := o.loggedIn("token"), o.loggedIn("token")
		csrf := csrfIn(t, o.browse("/cache", "Cookie", one).Body.String())
		rec := o.post("/cache/purge", url.Values{"csrf": {csrf}, "kind": {"all"}}, "Cookie", one)
		done := doneCookie(t, rec)
		said := func(session string) bool {
			return strings.Contains(o.browse("/cache", "Cookie", session+"; "+done).Body.String(), `class="note good"`)
		}
		equal(t, [2]bool{said(other), said(one)}, [2]bool{false, true})
	})
	t.Run("and not later than a minute after it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o, cookie := edited(t)
			time.Sleep(59 * time.Second)
			equal(t, strings.Contains(o.browse("/config/edit?kind=plan&name=pro", "Cookie", cookie).Body.String(), says), true)
			time.Sleep(2 * time.Second)
			equal(t, strings.Contains(o.browse("/config/edit?kind=plan&name=pro", "Cookie", cookie).Body.String(), says), false)
		})
	})
}

// A proxy before the listener speaks TLS with the browser: the origin of the form says so.
func TestCookiesAreSecureWhereTheBrowserSpeaksTLS(t *testing.T) {
	f := func(origin string, want bool) {
		t.Helper()
		o := open(t, twoPlans, "token")
		fields := []string{"Host", "weir.example", "Content-Type", "application/x-www-form-urlencoded"}
		if origin != "" {
			fields = append(fields, "Origin", origin)
		}
		rec := o.ask("POST", "/login", "token=token", fields...)
		cookies := rec.Result().Cookies()
		if rec.Code != http.StatusSeeOther || len(cookies) != 1 {
			t.Fatalf("%d %v", rec.Code, cookies)
		}
		equal(t, [2]any{origin, cookies[0].Secure}, [2]any{origin, want})
	}
	f("", false)
	f("http://weir.example", false)
	f("https://weir.example", true)
	f("HTTPS://weir.example", true)
}

// A browser that has a wrong token in its Authorization is refused, logged and counted
// once, as other clients are.
func TestAWrongTokenIsCountedOnce(t *testing.T) {
	for _, path := range []string{"/", "/nothing", "/live/routes"} {
		o := open(t, twoPlans, "token")
		for range 30 {
			if rec := o.browse(path, "Authorization", "Bearer wrong"); rec.Code == http.StatusTooManyRequests || rec.Code == http.StatusOK {
				t.Fatalf("%s: %d", path, rec.Code)
			}
		}
		equal(t, [2]any{path, o.ask("GET", "/api/v1/plans", "", "Authorization", "Bearer wrong").Code}, [2]any{path, 429})
		o.logged()
		equal(t, [2]any{path, strings.Count(o.log.String(), "had a wrong token")}, [2]any{path, 30})
	}
}

func TestLiveRegionsAreForOwnPagesAlone(t *testing.T) {
	o := open(t, twoPlans, "token")
	cookie := o.loggedIn("token")
	f := func(want int, fields ...string) {
		t.Helper()
		equal(t, o.ask("GET", "/live/routes?brief=1", "", append([]string{"Cookie", cookie, "Accept", "text/event-stream"}, fields...)...).Code, want)
	}
	f(200)
	f(200, "Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:8081")
	f(403, "Sec-Fetch-Site", "cross-site")
	f(403, "Sec-Fetch-Site", "same-site")
	f(403, "Origin", "http://127.0.0.1:9999")
}

func TestABriefStreamIsOneUpdate(t *testing.T) {
	rec := open(t, twoPlans, "").ask("GET", "/live/routes?brief=1", "", "Accept", "text/event-stream")
	body := rec.Body.String()
	equal(t, [4]any{rec.Code, rec.Header().Get("Content-Type"), strings.HasPrefix(body, "retry: 2000\n\nevent: update\ndata: {"), strings.Count(body, "event:")},
		[4]any{200, "text/event-stream", true, 1})
}
