package admin_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// cached asks for the same thing each time, and returns the Cache-Status of the answer.
func (s *site) cached(path, body string) string {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.callers+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	status, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Cache-Status"), "weir; "), ";")
	return status
}

func purgeEmpties(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	const one, other = `{"text": "one"}`, `{"text": "other"}`
	fill := func() {
		t.Helper()
		for _, path := range []string{"/classify", "/classify/more"} {
			s.cached(path, one)
			s.cached(path, other)
			equal(t, [2]string{s.cached(path, one), s.cached(path, other)}, [2]string{"hit", "hit"})
		}
	}
	fill()
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/cache")
	b.until(`document.querySelectorAll("[data-live=top] tbody tr").length === 4`)
	equal(t, is[int](b, `document.querySelector("tbody details > code").textContent.length`), 64)

	b.submit(`[data-live="top"] form button`)
	equal(t, b.text(".note"), "1 answer was removed at this instance. Others that share its store forget theirs, too.")
	missed := 0
	for _, path := range []string{"/classify", "/classify/more"} {
		for _, body := range []string{one, other} {
			if s.cached(path, body) != "hit" {
				missed++
			}
		}
	}
	equal(t, missed, 1)

	fill()
	b.do(chromedp.SendKeys(chromedp.CSS("#field-path"), "/classify/*"))
	b.submit(`form:has(#field-path) button`)
	equal(t, strings.HasPrefix(b.text(".note"), "2 answers were removed"), true)
	equal(t, [2]string{s.cached("/classify", one), s.cached("/classify/more", one)}, [2]string{"hit", "fwd=miss"})

	fill()
	b.submit(`a[href="/cache/all"]`)
	equal(t, b.text("h1"), "Purge the whole cache")
	b.accessible()
	b.submit(`main form button`)
	equal(t, strings.HasPrefix(b.text(".note"), "4 answers were removed"), true)
	equal(t, [2]string{s.cached("/classify", one), s.cached("/classify/more", one)}, [2]string{"fwd=miss", "fwd=miss"})
	b.quiet()

	b.do(chromedp.SendKeys(chromedp.CSS("#field-path"), "classify"))
	b.submit(`form:has(#field-path) button`)
	equal(t, b.text("#field-path-wrong"), "“classify”: want a path that begins with /, for example /v1/chat/completions, or /v1/* for all that begin so")
	equal(t, is[string](b, `document.querySelector("#field-path").value`), "classify")
	b.accessible()
}

func TestPurgeForms(t *testing.T) {
	yaml := strings.Replace(withSecrets, `database: {url: "sqlite:%s"}`, "", 1)
	f := func(name, kind, value string, status int, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			o := open(t, yaml, "")
			rec := o.post("/cache/purge", url.Values{"csrf": {csrfIn(t, o.browse("/cache").Body.String())}, "kind": {kind}, "value": {value}})
			equal(t, rec.Code, status)
			purges := 0
			events, _ := o.gateway.Events(0)
			for _, e := range events {
				if e.Kind == "purge" {
					purges++
				}
			}
			if status == http.StatusSeeOther {
				equal(t, [2]any{leadsTo(rec), purges}, [2]any{want, 1})
				return
			}
			if body := rec.Body.String(); !strings.Contains(body, want) || purges != 0 {
				t.Errorf("no %s, or %d purges, in %s", want, purges, body)
			}
		})
	}
	hash := strings.Repeat("0123456789abcdef", 4)
	f("by key", "key", strings.ToUpper(hash), 303, "/cache says purged-0")
	f("by tag", "tag", " llama ", 303, "/cache says purged-0")
	f("by path", "path", "/v1/*", 303, "/cache says purged-0")
	f("by caller", "caller", "key:alice", 303, "/cache says purged-0")
	f("all, whatever else is there", "all", "no", 303, "/cache says purged-0")
	f("not by a key that is none", "key", "12", 400, `<div class="wrong" id="field-key-wrong"><p>“12”: want the 64 hexadecimal digits of a key</p></div>`)
	f("not by a tag with a comma", "tag", "a,b", 400, `<div class="wrong" id="field-tag-wrong"><p>“a,b”: want a tag, without spaces and commas</p></div>`)
	f("not by a caller without its kind", "caller", "alice", 400, `id="field-caller" name="value" value="alice"`)
	f("not by nothing", "path", "", 400, `id="field-path-wrong"`)
	f("not by what is no kind", "route", "chat", 400, "want key, tag, path, caller or all")

	t.Run("need the token of their session", func(t *testing.T) {
		rec := open(t, yaml, "").post("/cache/purge", url.Values{"kind": {"all"}})
		equal(t, rec.Code, 403)
	})
}

func TestCachePageOfRoutesWithout(t *testing.T) {
	body := open(t, twoPlans, "").browse("/cache").Body.String()
	equal(t, [2]bool{strings.Contains(body, "No route has a cache"), strings.Contains(body, "/cache/purge")}, [2]bool{true, false})
}
