package admin_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/inferweir/weir/storetest"
)

const isLive = `document.querySelector("[data-status]").textContent === "live"`

// manyWindows opens more windows than the browser keeps connections to a server: all of
// them load, show figures that move, and hold no more than three streams.
func manyWindows(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	first := newTab(t, browser, looks()[0])
	tabs := []*tab{first}
	for len(tabs) < 8 {
		tabs = append(tabs, first.another())
	}
	for _, b := range tabs {
		b.open(s.admin + "/callers")
		equal(t, is[string](b, `document.visibilityState`), "visible")
		b.until(isLive)
	}
	s.ask("/classify", "weir_alice_secret", `{"text": "one"}`)
	streams := 0
	for _, b := range tabs {
		b.until(`document.querySelector("tbody th")?.textContent.includes("key:alice")`)
		b.until(isLive)
		streams += map[bool]int{true: 1}[is[bool](b, `release !== null`)]
		b.quiet()
	}
	equal(t, streams, 3)
	closed := 0
	for i, b := range tabs { // those that kept a stream leave: others take their places
		if is[bool](b, `release !== null`) && closed < 3 {
			b.do(chromedp.Navigate("about:blank"))
			tabs[i] = nil
			closed++
		}
	}
	storetest.Eventually(t, tabWait, "three others have a stream", func() bool {
		streams := 0
		for _, b := range tabs {
			if b != nil && is[bool](b, `release !== null`) {
				streams++
			}
		}
		return streams == 3
	})
}

func streamsAreTaken(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	var viewers []*http.Response
	defer func() {
		for _, res := range viewers {
			_ = res.Body.Close()
		}
	}()
	for range 32 {
		res, err := s.client.Get(s.admin + "/api/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		viewers = append(viewers, res)
		equal(t, res.StatusCode, 200)
	}
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/callers")
	b.until(`document.querySelector("[data-status]").textContent === "paused: too many windows are open, here or elsewhere; tried again"`)
	_ = viewers[0].Body.Close()
	b.until(isLive)
	b.quiet("status of 503")
}

// longNames has callers with the longest names that there are, without a space in them.
func longNames(t *testing.T, browser context.Context) {
	yaml := strings.Replace(siteConfig, "identify: [api_key, ip]", "identify: [api_key, header, ip]\n  trusted_proxies: [127.0.0.0/8]", 1)
	s := newSite(t, strings.Replace(yaml, "60/minute", "1/minute", 1)+"database: {url: \"sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"\"}\n", "")
	for _, name := range []string{strings.Repeat("L", 250), "short"} {
		for i := range 3 {
			r, err := http.NewRequest(http.MethodPost, s.callers+"/classify", strings.NewReader(fmt.Sprintf(`{"text": "%s %d"}`, name, i)))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-User-ID", name)
			res, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	}
	for _, l := range []look{looks()[0], looks()[2]} {
		b := newTab(t, browser, l)
		for _, path := range []string{"/callers", "/", "/events"} {
			b.open(s.admin + path)
			b.until(isLive)
			if path != "/events" {
				equal(t, is[bool](b, `[...document.querySelectorAll("tbody th")].some((e) => e.textContent.includes("L".repeat(240)))`), true)
			}
			b.fits()
			equal(t, is[string](b, `[...document.querySelectorAll(".scroll, .panel")].filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.scrollWidth + " in " + e.clientWidth + ": " + e.getAttribute("aria-label")).join()`), "")
			equal(t, is[string](b, `[...document.querySelectorAll("tbody th")].filter((e) => e.clientWidth > Math.min(350, innerWidth) || e.clientHeight > 400).map((e) => e.clientWidth + " x " + e.clientHeight).join()`), "")
			b.quiet()
		}
	}
}

// pageComesBack has a database that is away, and then the same pages with one that is not.
func pageComesBack(t *testing.T, browser context.Context) {
	away, back := newSite(t, "", ""), newSite(t, "", "")
	if err := away.gateway.Database().Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var isBack atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := map[bool]*site{false: away, true: back}[isBack.Load()]
		r.Host = strings.TrimPrefix(s.admin, "http://")
		s.operators.ServeHTTP(w, r)
	}))
	defer front.Close()
	defer front.CloseClientConnections()
	b := newTab(t, browser, looks()[0])
	b.open(front.URL + "/jobs")
	b.until(isLive)
	equal(t, b.text("#down"), "The database does not answer")
	b.accessible()
	run(b, chromedp.WaitEvent(page.LoadEventFired, nil, chromedp.Func(func(context.Context, *chromedp.Target) error {
		isBack.Store(true)
		front.CloseClientConnections()
		return nil
	})))
	equal(t, b.text("#list"), "Jobs, the newest first")
	b.until(isLive)
	b.do(chromedp.Navigate("about:blank"))
}

func narrowHeads(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	s.traffic(1)
	b := newTab(t, browser, looks()[2])
	b.open(s.admin + "/callers")
	b.until(isLive)
	b.fits()
	const seen = `(e) => { const r = e.getBoundingClientRect(); return r.width > 10 && r.height > 10 && r.left >= 0 && r.right <= innerWidth && document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2)?.closest("a, button") === e }`
	equal(t, is[string](b, `[...document.querySelectorAll("thead a, thead .help")].filter((e) => { e.scrollIntoView({ block: "center" }); return !(`+seen+`)(e) }).map((e) => e.outerHTML).join()`), "")
	b.do(chromedp.Click(chromedp.CSS(`thead [popovertarget="help-column-busy"]`)))
	b.until(`document.querySelector("#help-column-busy").matches(":popover-open")`)
	b.do(chromedp.KeyEvent("\u001b"))
	b.submit(`thead a[href*="sort=caller"]`)
	equal(t, is[string](b, `document.querySelector("thead th[aria-sort]").textContent.slice(0, 6)`), "Caller")
	b.quiet()
}
