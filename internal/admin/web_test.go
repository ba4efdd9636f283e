package admin_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
)

// browse asks for a page as a browser does.
func (o *operators) browse(path string, fields ...string) *httptest.ResponseRecorder {
	return o.ask("GET", path, "", append([]string{"Accept", "text/html", "Sec-Fetch-Site", "same-origin"}, fields...)...)
}

// post sends a form as a browser does.
func (o *operators) post(path string, form url.Values, fields ...string) *httptest.ResponseRecorder {
	return o.ask("POST", path, form.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded",
		"Accept", "text/html", "Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:8081"}, fields...)...)
}

// csrfIn is the token that the forms of a page have.
func csrfIn(t *testing.T, page string) string {
	t.Helper()
	found := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("no token in %s", page)
	}
	return found[1]
}

// loggedIn is the cookie of a session, as a field of a request.
func (o *operators) loggedIn(token string) string {
	o.t.Helper()
	rec := o.post("/login", url.Values{"token": {token}})
	cookies := rec.Result().Cookies()
	if rec.Code != http.StatusSeeOther || len(cookies) != 1 {
		o.t.Fatalf("%d %v %s", rec.Code, cookies, rec.Body)
	}
	return cookies[0].Name + "=" + cookies[0].Value
}

const withSecrets = `
admin: {token: weir_admin_token_secret}
database: {url: "sqlite:%s"}
callers: {keys: [{caller: alice, key: weir_alice_secret, plan: pro}]}
plans: {default: {policies: [5/minute]}, pro: {policies: [300/minute]}}
upstreams:
  u: {targets: ["http://127.0.0.1:1", "http://127.0.0.1:2"], set_headers: {Authorization: "Bearer headersecret"}}
routes: [{name: "all of it", match: {path: /v1/*}, upstream: u, cache: {mode: inference, ttl: 1m}}]
`

// allPages are the addresses of all pages for withSecrets.
func allPages() []string {
	return []string{"/", "/routes", "/callers", "/cache", "/cache/all", "/upstreams", "/jobs", "/jobs?state=discarded&caller=x&route=all+of+it", "/keys", "/keys?caller=x&state=live", "/config", "/events", "/config/edit?kind=plan&name=pro",
		"/config/edit?kind=route&name=all+of+it", "/config/edit?kind=upstream&name=u"}
}

func TestDashboardPages(t *testing.T) {
	for name, yaml := range map[string]string{
		"with a database":    strings.Replace(withSecrets, "%s", filepath.Join(t.TempDir(), "weir.db"), 1),
		"without a database": strings.Replace(withSecrets, `database: {url: "sqlite:%s"}`, "", 1),
	} {
		t.Run("all are there, say what must not be done with them, and tell no secret, "+name, func(t *testing.T) {
			o := open(t, yaml, "")
			for _, path := range allPages() {
				rec := o.browse(path)
				equal(t, [2]any{path, rec.Code}, [2]any{path, 200})
				policy := rec.Header().Get("Content-Security-Policy")
				for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
					if !strings.Contains(policy, want) {
						t.Errorf("%s: no %s in %q", path, want, policy)
					}
				}
				for _, field := range [][2]string{{"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "same-origin"}, {"Cache-Control", "no-store"},
					{"Cross-Origin-Opener-Policy", "same-origin"}, {"Cross-Origin-Resource-Policy", "same-origin"}, {"Content-Type", "text/html; charset=utf-8"}} {
					equal(t, [3]string{path, field[0], rec.Header().Get(field[0])}, [3]string{path, field[0], field[1]})
				}
				body := rec.Body.String()
				if secret := regexp.MustCompile(`weir_alice|weir_admin|headersecret`).FindString(body); secret != "" {
					t.Errorf("%s: %s is on the page", path, secret)
				}
				if inline := regexp.MustCompile(`(?i)<script>|<style|\sstyle=|\son[a-z]+=|javascript:`).FindString(body); inline != "" {
					t.Errorf("%s: %s is on the page", path, inline)
				}
				if lost := regexp.MustCompile(`<no value>|ZgotmplZ|%!|NaN`).FindString(body); lost != "" {
					t.Errorf("%s: %s is on the page", path, lost)
				}
			}
		})
	}
	t.Run("what is no page is 404: a page for browsers, a problem for others", func(t *testing.T) {
		o := open(t, twoPlans, "")
		page, other := o.browse("/nothing"), o.ask("GET", "/nothing", "")
		equal(t, [2]any{page.Code, page.Header().Get("Content-Type")}, [2]any{404, "text/html; charset=utf-8"})
		equal(t, [2]any{other.Code, other.Header().Get("Content-Type")}, [2]any{404, "application/problem+json"})
		if !strings.Contains(page.Body.String(), `aria-label="Pages"`) {
			t.Errorf("no navigation in %s", page.Body)
		}
	})
	t.Run("a plan that is not there is 404", func(t *testing.T) {
		rec := open(t, twoPlans, "").browse("/config/edit?kind=plan&name=gold")
		equal(t, [2]any{rec.Code, strings.Contains(rec.Body.String(), "There is no plan &#34;gold&#34;")}, [2]any{404, true})
	})
	t.Run("other methods are refused", func(t *testing.T) {
		rec := open(t, twoPlans, "").ask("DELETE", "/routes", "")
		equal(t, [2]any{rec.Code, rec.Header().Get("Allow")}, [2]any{405, "GET, HEAD"})
	})
	t.Run("pages of other sites see nothing", func(t *testing.T) {
		o := open(t, twoPlans, "")
		for _, fields := range [][]string{{"Host", "evil.example"}, {"Origin", "http://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Remote", "192.0.2.1:9"}} {
			equal(t, [2]any{fields[0], o.ask("GET", "/config", "", fields...).Code}, [2]any{fields[0], 403})
		}
	})
	t.Run("a link on another site leads to a page", func(t *testing.T) {
		o := open(t, twoPlans, "")
		for path, want := range map[string]int{"/config": 200, "/live/routes": 403, "/api/v1/plans": 403, "/debug/pprof/": 403} {
			rec := o.ask("GET", path, "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
			equal(t, [2]any{path, rec.Code}, [2]any{path, want})
		}
	})
}

func TestDashboardFiles(t *testing.T) {
	o := open(t, twoPlans, "secret")
	page := o.browse("/login").Body.String()
	urls := regexp.MustCompile(`"(/static/[^"]+)"`).FindAllStringSubmatch(page, -1)
	kinds := map[string]string{}
	for _, u := range urls {
		rec := o.browse(u[1])
		equal(t, [3]any{u[1], rec.Code, rec.Header().Get("Cache-Control")}, [3]any{u[1], 200, "public, max-age=31536000, immutable"})
		kinds[u[1][strings.LastIndex(u[1], "."):]] = rec.Header().Get("Content-Type") + " " + rec.Header().Get("X-Content-Type-Options")
	}
	equal(t, kinds, map[string]string{".css": "text/css; charset=utf-8 nosniff", ".js": "text/javascript; charset=utf-8 nosniff", ".svg": "image/svg+xml nosniff"})
	equal(t, o.browse("/static/live.js").Code, 404)
	equal(t, o.ask("POST", urls[0][1], "").Code, 405)
}

func TestDashboardLogin(t *testing.T) {
	const token = "the right token"
	t.Run("sends to the login and back", func(t *testing.T) {
		o := open(t, twoPlans, token)
		rec := o.browse("/routes?sort=p50")
		equal(t, [2]any{rec.Code, rec.Header().Get("Location")}, [2]any{303, "/login?next=%2Froutes%3Fsort%3Dp50"})
		equal(t, strings.Contains(o.browse(rec.Header().Get("Location")).Body.String(), `name="next" value="/routes?sort=p50"`), true)
		rec = o.post("/login", url.Values{"token": {token}, "next": {"/routes?sort=p50"}})
		equal(t, [2]any{rec.Code, rec.Header().Get("Location")}, [2]any{303, "/routes?sort=p50"})
	})
	t.Run("sends to no other site", func(t *testing.T) {
		o := open(t, twoPlans, token)
		for _, next := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/nothing", "/metrics", ""} {
			equal(t, o.post("/login", url.Values{"token": {token}, "next": {next}}).Header().Get("Location"), "/")
		}
	})
	t.Run("refuses a wrong token, and many of them for a while", func(t *testing.T) {
		o := open(t, twoPlans, token)
		for range 30 {
			rec := o.post("/login", url.Values{"token": {"wrong"}})
			equal(t, [2]any{rec.Code, len(rec.Result().Cookies())}, [2]any{401, 0})
		}
		rec := o.post("/login", url.Values{"token": {token}})
		equal(t, [2]any{rec.Code, rec.Header().Get("Retry-After") != ""}, [2]any{429, true})
		equal(t, o.ask("GET", "/api/v1/plans", "", "Authorization", "Bearer "+token).Code, 429)
	})
	t.Run("is for its own form alone", func(t *testing.T) {
		o := open(t, twoPlans, token)
		rec := o.ask("POST", "/login", url.Values{"token": {token}}.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Origin", "http://evil.example")
		equal(t, [2]any{rec.Code, len(rec.Result().Cookies())}, [2]any{403, 0})
	})
	t.Run("gives a cookie that scripts, other sites and plain connections do not get", func(t *testing.T) {
		o := open(t, twoPlans, token)
		flags := func(c *http.Cookie) [6]any {
			return [6]any{c.Name, c.HttpOnly, c.SameSite, c.Secure, c.Path, c.MaxAge}
		}
		plain := o.post("/login", url.Values{"token": {token}}).Result().Cookies()[0]
		equal(t, flags(plain), [6]any{"weir_session", true, http.SameSiteStrictMode, false, "/", 12 * 60 * 60})
		r := httptest.NewRequest("POST", "/login", strings.NewReader("token="+url.QueryEscape(token)))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.TLS = &tls.ConnectionState{}
		rec := httptest.NewRecorder()
		o.handler.ServeHTTP(rec, r)
		equal(t, flags(rec.Result().Cookies()[0]), [6]any{"weir_session", true, http.SameSiteStrictMode, true, "/", 12 * 60 * 60})
	})
	t.Run("ends after 12 hours", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := open(t, twoPlans, token)
			cookie := o.loggedIn(token)
			time.Sleep(12*time.Hour - time.Second)
			equal(t, o.browse("/routes", "Cookie", cookie).Code, 200)
			time.Sleep(2 * time.Second)
			equal(t, o.browse("/routes", "Cookie", cookie).Code, 303)
			equal(t, o.ask("GET", "/api/v1/plans", "", "Cookie", cookie).Code, 401)
		})
	})
	t.Run("holds at this process and with this token alone", func(t *testing.T) {
		cookie := open(t, twoPlans, token).loggedIn(token)
		equal(t, open(t, twoPlans, token).browse("/routes", "Cookie", cookie).Code, 303)
	})
	t.Run("does not believe a cookie that somebody has changed, or two", func(t *testing.T) {
		o := open(t, twoPlans, token)
		cookie := o.loggedIn(token)
		name, value, _ := strings.Cut(cookie, "=")
		for i := range len(value) {
			changed := []byte(value)
			changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
			if i < len(value)-1 { // the last one has bits that say nothing
				equal(t, [2]any{i, o.browse("/routes", "Cookie", name+"="+string(changed)).Code}, [2]any{i, 303})
			}
		}
		equal(t, o.browse("/routes", "Cookie", cookie+"; "+cookie).Code, 303)
		equal(t, o.browse("/routes", "Cookie", cookie).Code, 200)
	})
	t.Run("logs out", func(t *testing.T) {
		o := open(t, twoPlans, token)
		cookie := o.loggedIn(token)
		csrf := csrfIn(t, o.browse("/", "Cookie", cookie).Body.String())
		equal(t, o.post("/logout", nil, "Cookie", cookie).Code, 403)
		rec := o.post("/logout", url.Values{"csrf": {csrf}}, "Cookie", cookie)
		equal(t, [3]any{rec.Code, rec.Header().Get("Location"), rec.Result().Cookies()[0].MaxAge}, [3]any{303, "/login", -1})
	})
	t.Run("ends what it logs out of, wherever its cookie is, and nothing else", func(t *testing.T) {
		o := open(t, twoPlans, token)
		cookie, other := o.loggedIn(token), o.loggedIn(token)
		csrf := csrfIn(t, o.browse("/", "Cookie", cookie).Body.String())
		o.post("/logout", url.Values{"csrf": {csrf}}, "Cookie", cookie)
		equal(t, [2]int{o.browse("/routes", "Cookie", cookie).Code, o.ask("GET", "/api/v1/plans", "", "Cookie", cookie).Code}, [2]int{303, 401})
		equal(t, [2]int{o.browse("/routes", "Cookie", other).Code, o.ask("GET", "/api/v1/plans", "", "Cookie", other).Code}, [2]int{200, 200})
	})
	t.Run("ends the streams of what it logs out of", func(t *testing.T) {
		for _, path := range []string{"/live/", "/api/v1/events"} {
			synctest.Test(t, func(t *testing.T) {
				o := open(t, twoPlans, token)
				cookie, over := o.loggedIn(token), make(chan struct{})
				csrf := csrfIn(t, o.browse("/", "Cookie", cookie).Body.String())
				go func() {
					defer close(over)
					o.ask("GET", path, "", "Cookie", cookie)
				}()
				synctest.Wait()
				o.post("/logout", url.Values{"csrf": {csrf}}, "Cookie", cookie)
				select {
				case <-over:
				case <-time.After(3 * time.Second):
					t.Errorf("%s goes on after the logout", path)
				}
			})
		}
	})
	t.Run("without a token there is none", func(t *testing.T) {
		rec := open(t, twoPlans, "").browse("/login")
		equal(t, [2]any{rec.Code, rec.Header().Get("Location")}, [2]any{303, "/"})
	})
}

func TestDashboardSessionAtTheAPI(t *testing.T) {
	const token = "the right token"
	o := open(t, twoPlans, token)
	cookie := o.loggedIn(token)
	other := o.loggedIn(token)
	csrf := csrfIn(t, o.browse("/", "Cookie", cookie).Body.String())
	change := func(fields ...string) int {
		return o.ask("PATCH", "/api/v1/plans/default", `{"policies": ["7/minute"]}`, fields...).Code
	}
	equal(t, o.ask("GET", "/api/v1/plans", "", "Cookie", cookie).Code, 200)
	equal(t, o.ask("GET", "/api/v1/plans", "", "Cookie", cookie, "Origin", "http://evil.example").Code, 403)
	equal(t, o.ask("GET", "/api/v1/plans", "", "Cookie", "weir_session=abc").Code, 401)
	equal(t, change("Cookie", cookie), 403)
	equal(t, change("Cookie", cookie, "X-CSRF-Token", "wrong"), 403)
	equal(t, change("Cookie", other, "X-CSRF-Token", csrf), 403)
	equal(t, change("Cookie", cookie, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "same-site"), 403)
	equal(t, change("Cookie", cookie, "X-CSRF-Token", csrf, "Origin", "http://127.0.0.1:9999"), 403)
	equal(t, change("X-CSRF-Token", csrf), 401)
	equal(t, change("Cookie", cookie, "X-CSRF-Token", csrf), 200)
	equal(t, change("Cookie", cookie, "Authorization", "Bearer wrong"), 401)
}

func TestDashboardForms(t *testing.T) {
	edit := func(o *operators, form url.Values, fields ...string) *httptest.ResponseRecorder {
		page := o.browse("/config/edit?kind=plan&name=pro").Body.String()
		all := url.Values{"csrf": {csrfIn(t, page)}, "kind": {"plan"}, "name": {"pro"}, "targets": {""}}
		for name, values := range form {
			all[name] = values
		}
		return o.post("/config/save", all, fields...)
	}
	policies := func(o *operators) string {
		list, _ := o.gateway.Policies("pro")
		return string(config.PoliciesJSON(list, "pro"))
	}
	const was = "300/minute\n20000 tokens/minute"

	t.Run("change what is in force, and only what was changed", func(t *testing.T) {
		o := open(t, strings.Replace(twoPlans, ", {name: daily, quota: 1000, window: 24h, by: ip}", "", 1), "")
		rec := edit(o, url.Values{"policies": {"- 7/minute\r\n\r\n{name: daily, quota: 50, window: 1d, by: ip}"}, "was.policies": {was}, "weight": {"9"}, "was.weight": {"9"}})
		equal(t, [2]any{rec.Code, leadsTo(rec)}, [2]any{303, "/config/edit?kind=plan&name=pro says edited"})
		equal(t, policies(o), `["7/minute",{"name":"daily","quota":50,"window":"1d","unit":"requests","by":"ip","burst":50,"algorithm":"token_bucket"}]`)
		shown := o.browse("/config").Body.String()
		for _, want := range []string{"<code>plans.pro.policies</code>", "not as in the file", "dashboard from 127.0.0.1:50000", "until this process ends"} {
			if !strings.Contains(shown, want) {
				t.Errorf("no %s in %s", want, shown)
			}
		}
		csrf := csrfIn(t, shown)
		rec = o.post("/config/revert", url.Values{"csrf": {csrf}, "kind": {"plan"}, "name": {"pro"}})
		equal(t, [2]any{rec.Code, leadsTo(rec)}, [2]any{303, "/config says reverted"})
		equal(t, policies(o), `["300/minute","20000 tokens/minute"]`)
	})
	t.Run("say what is wrong beside the field, and keep what was typed", func(t *testing.T) {
		o := open(t, twoPlans, "")
		before := policies(o)
		rec := edit(o, url.Values{"policies": {"5/minute\nmany"}, "was.policies": {was}, "weight": {"5000"}, "was.weight": {"1"}})
		body := rec.Body.String()
		equal(t, rec.Code, 400)
		equal(t, policies(o), before)
		for _, want := range []string{"5/minute\nmany</textarea>", `id="field-policies-wrong"`, "policy 2: “many”: ", `name="weight" value="5000"`, `id="field-weight-wrong"`, `aria-invalid="true"`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
	})
	t.Run("a list that is no JSON is wrong beside the field, too", func(t *testing.T) {
		o := open(t, twoPlans, "")
		for _, text := range []string{`["5/minute"`, `{"name": daily`, `{name daily}`} {
			rec := edit(o, url.Values{"policies": {text}, "was.policies": {was}})
			equal(t, [3]any{text, rec.Code, strings.Contains(rec.Body.String(), `id="field-policies-wrong"`)}, [3]any{text, 400, true})
		}
	})
	t.Run("with nothing changed change nothing", func(t *testing.T) {
		o := open(t, twoPlans, "")
		rec := edit(o, url.Values{"weight": {"1"}, "was.weight": {"1"}})
		equal(t, [2]any{rec.Code, leadsTo(rec)}, [2]any{303, "/config/edit?kind=plan&name=pro says unchanged"})
		equal(t, strings.Contains(o.browse("/config").Body.String(), "not as in the file"), false)
	})
	t.Run("are refused without their token, and from other sites", func(t *testing.T) {
		o := open(t, twoPlans, "")
		before := policies(o)
		change := url.Values{"policies": {"7/minute"}, "was.policies": {was}}
		wrong := url.Values{"csrf": {"wrong"}, "policies": {"7/minute"}, "was.policies": {was}}
		equal(t, edit(o, wrong).Code, 403)
		equal(t, edit(o, change, "Origin", "http://evil.example").Code, 403)
		equal(t, edit(o, change, "Sec-Fetch-Site", "cross-site").Code, 403)
		equal(t, o.ask("POST", "/config/reload", "").Code, 403)
		equal(t, policies(o), before)
	})
	t.Run("of targets that have changed since are refused", func(t *testing.T) {
		o := open(t, strings.Replace(withSecrets, `database: {url: "sqlite:%s"}`, "", 1), "")
		page := o.browse("/config/edit?kind=upstream&name=u").Body.String()
		mark := regexp.MustCompile(`name="targets" value="([^"]+)"`).FindStringSubmatch(page)[1]
		form := url.Values{"csrf": {csrfIn(t, page)}, "kind": {"upstream"}, "name": {"u"}, "targets": {"other"}, "targets.1": {"5"}, "was.targets.1": {"1"}}
		equal(t, o.post("/config/save", form).Code, 409)
		form.Set("targets", mark)
		equal(t, o.post("/config/save", form).Code, 303)
		equal(t, strings.Contains(o.browse("/config").Body.String(), "Weight of http://127.0.0.1:2: 5"), true)
	})
	t.Run("a file that is right again is not called wrong any more", func(t *testing.T) {
		wrong := true
		load := func() (*config.Config, error) {
			if wrong {
				return config.Parse("weir.yaml", []byte("plans: 5"), nil)
			}
			return config.Parse("weir.yaml", []byte(twoPlans), nil)
		}
		cfg, err := config.Parse("weir.yaml", []byte(twoPlans), nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := gateway.New(cfg, gateway.Options{File: "weir.yaml", Load: load})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close(context.Background()) })
		o := &operators{t: t, handler: admin.Handler(g, config.Admin{}), gateway: g}
		const failed = "The last reload failed:"
		form := url.Values{"csrf": {csrfIn(t, o.browse("/config").Body.String())}}
		rec := o.post("/config/reload", form)
		equal(t, [2]any{rec.Code, strings.Contains(rec.Body.String(), failed)}, [2]any{400, true})
		wrong = false
		rec = o.post("/config/reload", form)
		body := o.browse("/config", "Cookie", doneCookie(t, rec)).Body.String()
		equal(t, [3]any{leadsTo(rec), strings.Contains(body, failed), strings.Contains(body, "read again and is in force")}, [3]any{"/config says reloaded", false, true})
	})
	t.Run("a file that is not there cannot be read again", func(t *testing.T) {
		o := open(t, twoPlans, "")
		rec := o.post("/config/reload", url.Values{"csrf": {csrfIn(t, o.browse("/config").Body.String())}})
		equal(t, [2]any{rec.Code, strings.Contains(rec.Body.String(), `role="alert"`)}, [2]any{409, true})
	})
}

func TestDashboardSorting(t *testing.T) {
	o := open(t, twoPlans, "")
	heads := func(path string) []string {
		var all []string
		for _, m := range regexp.MustCompile(`aria-sort="(\w+)"><a href="([^"]+)">([^<]+)`).FindAllStringSubmatch(o.browse(path).Body.String(), -1) {
			all = append(all, m[3]+" "+m[1]+" "+m[2])
		}
		return slices.Clip(all)
	}
	equal(t, heads("/routes"), []string{"p95 descending /routes?order=reverse&amp;sort=p95"})
	equal(t, heads("/routes?sort=name"), []string{"Route ascending /routes?order=reverse&amp;sort=name"})
	equal(t, heads("/routes?order=reverse&sort=name"), []string{"Route descending /routes?sort=name"})
	equal(t, heads("/routes?sort=nothing"), []string{"p95 descending /routes?order=reverse&amp;sort=p95"})
}
