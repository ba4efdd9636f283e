package admin_test

import (
	"context"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

func keyLives(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/keys")
	b.do(chromedp.SendKeys(chromedp.CSS("#field-caller"), "gina"), chromedp.SetValue(chromedp.CSS("#field-plan"), "pro"))
	b.submit("form[action='/keys/create'] button")
	key := b.text("#made-key")
	equal(t, regexp.MustCompile(`^weir_[0-9A-Za-z_]{40,}$`).MatchString(key), true)
	equal(t, strings.Contains(is[string](b, `location.href`), key[5:]), false)
	b.do(chromedp.Click(chromedp.CSS("[data-copy]")))
	b.until(`/^(Copied|Selected)/.test(document.querySelector("[data-copied]").textContent)`)
	b.accessible()
	equal(t, s.ask("/classify", key, `{"text": "of gina"}`), 200)
	for _, l := range looks() {
		made := newTab(t, browser, l)
		made.open(s.admin + "/keys")
		made.do(chromedp.SendKeys(chromedp.CSS("#field-caller"), "holder-"+l.String()))
		made.submit("form[action='/keys/create'] button")
		made.accessible()
		made.fits()
		made.shoot("keys-made-" + l.String())
	}

	onPage := func() bool { return strings.Contains(is[string](b, `document.documentElement.outerHTML`), key[5:40]) }
	equal(t, onPage(), true)
	b.submit(`nav a[href="/keys"]`)
	equal(t, onPage(), false)

	b.open(s.admin + "/keys?caller=gina")
	b.submit(`tbody a.button`)
	for _, l := range looks() {
		one := newTab(t, browser, l)
		one.open(is[string](b, `location.href`))
		one.accessible()
		one.fits()
		one.quiet()
		one.shoot("keys-key-" + l.String())
	}
	b.submit(`form[action="/keys/revoke"] button`)
	equal(t, strings.HasPrefix(b.text(".note"), "The key is revoked"), true)
	equal(t, b.text(".facts .state"), "revoked")
	equal(t, s.ask("/classify", key, `{"text": "of gina"}`), 401)
}

// keysOfDatabase has a database, and a key in the file.
func keysOfDatabase(t *testing.T) *operators {
	t.Helper()
	return open(t, twoPlans+"database: {url: \"sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"\"}\n", "")
}

// forms of the page of keys, as a browser sends them.
func (o *operators) keyForm(page, path string, form url.Values) (code int, body, location string) {
	o.t.Helper()
	text := o.browse(page).Body.String()
	if form.Get("csrf") == "" {
		form.Set("csrf", csrfIn(o.t, text))
	}
	if once := regexp.MustCompile(`name="once" value="([^"]+)"`).FindStringSubmatch(text); once != nil && form["once"] == nil {
		form.Set("once", once[1])
	}
	rec := o.post(path, form)
	equal(o.t, rec.Header().Get("Cache-Control"), "no-store")
	return rec.Code, rec.Body.String(), leadsTo(rec)
}

// shownKey is the key that a page shows, "" for none.
func shownKey(body string) string {
	return regexp.MustCompile(`weir_[0-9A-Za-z]{10}[0-9A-Za-z_]{20,}`).FindString(body)
}

// idsOn are the IDs that a page of keys links to.
func idsOn(body string) (ids []string) {
	for _, m := range regexp.MustCompile(`href="/keys/key\?id=(\w+)"`).FindAllStringSubmatch(body, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

func TestKeyForms(t *testing.T) {
	t.Run("make a key, which is shown once and logged nowhere", func(t *testing.T) {
		o := keysOfDatabase(t)
		form := url.Values{"caller": {" gina "}, "plan": {"pro"}, "expires": {"90d"}}
		code, body, _ := o.keyForm("/keys", "/keys/create", form)
		key := shownKey(body)
		equal(t, [3]any{code, key != "", strings.Contains(body, "not shown again")}, [3]any{200, true, true})
		list := o.browse("/keys").Body.String()
		equal(t, [2]any{shownKey(list), idsOn(list)}, [2]any{"", []string{key[5:15]}})

		code, again, location := o.keyForm("/keys", "/keys/create", form) // the same form, as on a reload
		equal(t, [3]any{code, shownKey(again), location}, [3]any{303, "", "/keys says key-shown"})
		equal(t, len(idsOn(o.browse("/keys").Body.String())), 1)

		rec := o.browse("/keys/create")
		equal(t, [2]any{rec.Code, rec.Header().Get("Location")}, [2]any{303, "/keys"})
		events, _ := o.gateway.Events(0)
		last := events[len(events)-1]
		equal(t, [2]string{last.Kind, last.Text}, [2]string{"key", "Key " + key[5:15] + " of gina was created by dashboard from 127.0.0.1:50000"})
		o.logged()
		equal(t, strings.Contains(o.log.String(), key[16:]), false)
	})
	t.Run("say what is wrong beside the fields, and keep what was typed", func(t *testing.T) {
		o := keysOfDatabase(t)
		code, body, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {""}, "plan": {"gold"}, "expires": {"soon"}})
		equal(t, [2]any{code, shownKey(body)}, [2]any{400, ""})
		for _, want := range []string{`id="field-caller-wrong"`, `id="field-plan-wrong"`, `id="field-expires-wrong"`, `name="expires" value="soon"`, "“gold”: is no plan of the configuration: want default, pro"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
		equal(t, len(idsOn(body)), 0)
	})
	t.Run("may be sent again after a mistake", func(t *testing.T) {
		o := keysOfDatabase(t)
		form := url.Values{"caller": {""}}
		o.keyForm("/keys", "/keys/create", form)
		form.Set("caller", "gina")
		code, body, _ := o.keyForm("/keys", "/keys/create", form)
		equal(t, [2]any{code, shownKey(body) != ""}, [2]any{200, true})
	})
	t.Run("do not show a key that was pasted into a field", func(t *testing.T) {
		o := keysOfDatabase(t)
		_, body, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {"weir_pasted\nsecret"}, "expires": {"weir_pasted"}})
		equal(t, strings.Contains(body, "weir_pasted"), false)
	})
	t.Run("replace a key, which stays good for the grace", func(t *testing.T) {
		o := keysOfDatabase(t)
		_, body, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {"gina"}, "plan": {"pro"}})
		id := shownKey(body)[5:15]
		code, wrong, _ := o.keyForm("/keys/key?id="+id, "/keys/rotate", url.Values{"id": {id}, "grace": {"long"}})
		equal(t, [3]any{code, strings.Contains(wrong, `id="field-grace-wrong"`), strings.Contains(wrong, `name="grace" value="long"`)}, [3]any{400, true, true})
		code, body, _ = o.keyForm("/keys/key?id="+id, "/keys/rotate", url.Values{"id": {id}, "grace": {"2h"}})
		next := shownKey(body)[5:15]
		equal(t, [2]any{code, next != id}, [2]any{200, true})
		old := o.browse("/keys/key?id=" + id).Body.String()
		equal(t, [4]bool{strings.Contains(old, "replaced</span>"), strings.Contains(old, "by "+next), strings.Contains(old, "/keys/rotate"), strings.Contains(old, "/keys/revoke")},
			[4]bool{true, true, false, true})
	})
	t.Run("revoke a key once", func(t *testing.T) {
		o := keysOfDatabase(t)
		_, body, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {"gina"}})
		id := shownKey(body)[5:15]
		code, _, location := o.keyForm("/keys/key?id="+id, "/keys/revoke", url.Values{"id": {id}})
		equal(t, [2]any{code, location}, [2]any{303, "/keys/key?id=" + id + " says key-revoked"})
		code, body, _ = o.keyForm("/keys", "/keys/revoke", url.Values{"id": {id}})
		equal(t, [2]any{code, strings.Contains(body, "The key is revoked already.")}, [2]any{409, true})
	})
	t.Run("need their token, and what makes them good for once", func(t *testing.T) {
		o := keysOfDatabase(t)
		code, _, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {"gina"}, "csrf": {"wrong"}})
		equal(t, code, 403)
		code, _, _ = o.keyForm("/keys", "/keys/create", url.Values{"caller": {"gina"}, "once": {""}})
		equal(t, code, 400)
		equal(t, len(idsOn(o.browse("/keys").Body.String())), 0)
	})
	t.Run("need a database", func(t *testing.T) {
		o := open(t, twoPlans, "")
		code, _, _ := o.keyForm("/config", "/keys/create", url.Values{"caller": {"gina"}})
		equal(t, code, 409)
	})
}

func TestKeysPage(t *testing.T) {
	t.Run("lists the keys of a caller, and of a state", func(t *testing.T) {
		o := keysOfDatabase(t)
		ids := map[string]string{}
		for _, caller := range []string{"gina", "hugo"} {
			_, body, _ := o.keyForm("/keys", "/keys/create", url.Values{"caller": {caller}})
			ids[caller] = shownKey(body)[5:15]
		}
		o.keyForm("/keys/key?id="+ids["hugo"], "/keys/revoke", url.Values{"id": {ids["hugo"]}})
		f := func(query string, want ...string) {
			t.Helper()
			equal(t, idsOn(o.browse("/keys"+query).Body.String()), want)
		}
		f("", ids["hugo"], ids["gina"])
		f("?caller=gina", ids["gina"])
		f("?state=revoked", ids["hugo"])
		f("?caller=gina&state=revoked")
		f("?caller=nobody")
	})
	t.Run("names the callers of the file, without their keys", func(t *testing.T) {
		for _, o := range []*operators{open(t, twoPlans, ""), keysOfDatabase(t)} {
			body := o.browse("/keys").Body.String()
			equal(t, [2]bool{strings.Contains(body, `<th scope="row">alice</th><td data-label="Plan">pro</td>`), strings.Contains(body, "weir_alice")}, [2]bool{true, false})
		}
	})
	t.Run("says how to have keys in a database", func(t *testing.T) {
		rec := open(t, twoPlans, "").browse("/keys")
		equal(t, [3]any{rec.Code, strings.Contains(rec.Body.String(), "database: {url: sqlite:weir.db}"), strings.Contains(rec.Body.String(), "/keys/create")}, [3]any{200, true, false})
	})
	t.Run("has no page of what is no key", func(t *testing.T) {
		o := keysOfDatabase(t)
		equal(t, o.browse("/keys/key?id=weir_secret").Code, 404)
		equal(t, strings.Contains(o.browse("/keys/key?id=weir_secret").Body.String(), "weir_secret"), false)
	})
}

func TestPagesWhileTheDatabaseIsAway(t *testing.T) {
	o := keysOfDatabase(t)
	if err := o.gateway.Database().Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys, jobs := o.browse("/keys"), o.browse("/jobs?state=running")
	equal(t, [2]any{keys.Code, strings.Contains(keys.Body.String(), "The database does not answer now: the keys are listed when it is back.")}, [2]any{200, true})
	page := jobs.Body.String()
	equal(t, [3]any{jobs.Code, strings.Contains(page, `<h2 id="down">The database does not answer</h2>`), strings.Contains(page, `data-stream="/live/jobs?down=1&amp;state=running" data-down="/jobs?state=running"`)}, [3]any{503, true, true})
	equal(t, [2]any{strings.Count(page, "does not answer"), strings.Contains(page, "nothing is changed")}, [2]any{1, false})
	moving, whole := o.browse("/live/jobs?brief=1").Body.String(), o.browse("/live/jobs?brief=1&down=1").Body.String()
	equal(t, [2]int{strings.Count(moving, "does not answer"), strings.Count(whole, "does not answer")}, [2]int{1, 0})
	form := url.Values{"caller": {"gina"}}
	code, body, _ := o.keyForm("/keys", "/keys/create", form)
	equal(t, [3]any{code, shownKey(body), strings.Contains(body, `name="caller" value="gina"`)}, [3]any{503, "", true})
}
