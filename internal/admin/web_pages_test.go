package admin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
)

// site is a gateway with both listeners, and a model behind it.
type site struct {
	t       *testing.T
	gateway *gateway.Gateway
	callers string // URLs
	admin   string
	client  *http.Client
	// operators is the handler of the admin listener.
	operators http.Handler
}

const siteConfig = `
callers:
  identify: [api_key, ip]
  keys:
    - {caller: alice, key: weir_alice_secret, plan: pro}
    - {caller: crawler, key: weir_crawler_secret, plan: free}
    - {caller: notebook, key: weir_notebook_secret, plan: free}
plans:
  default: {policies: [60/minute]}
  free: {policies: [20/minute]}
  pro: {policies: [5000/minute, {name: daily, quota: 100000, window: 1d, auto: {min: 1000, max: 200000}}], weight: 4}
upstreams:
  llm: {targets: ["%[1]s"], dialect: openai, set_headers: {Authorization: "Bearer upstream-secret"}, concurrency: 8}
  embedder: {targets: ["%[1]s/embed", {url: "%[1]s/other", weight: 2}]}
routes:
  - {name: chat, match: {path: /v1/chat/completions}, upstream: llm, cache: {mode: inference, ttl: 10m, stale_if_error: 1h}}
  - {name: embeddings, match: {path: /v1/embeddings}, upstream: llm, policies: [{name: all, quota: 50000, window: 1m, by: global}]}
  - {name: classify, match: {path: /classify*}, upstream: embedder, respond_async: allowed, cache: {mode: inference, ttl: 1m, share: all}}
`

// model answers like a chat API, some things slowly and some not at all.
func model(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if strings.Contains(r.URL.Path, "hang") {
		<-r.Context().Done()
		return
	}
	if strings.Contains(r.URL.Path, "broken") {
		http.Error(w, "the model has crashed", http.StatusInternalServerError)
		return
	}
	wait := map[bool]time.Duration{true: 40 * time.Millisecond, false: 8 * time.Millisecond}[strings.Contains(r.URL.Path, "chat")]
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 120, "completion_tokens": 40, "total_tokens": 160}}`)
}

// newSite serves yaml, siteConfig where it is "", with %[1]s as the model's URL.
func newSite(t *testing.T, yaml, token string) *site {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(model))
	if yaml == "" {
		yaml = siteConfig + "database: {url: \"sqlite:" + filepath.Join(t.TempDir(), "weir.db") + "\"}\n"
	}
	yaml = strings.ReplaceAll(yaml, "%[1]s", upstream.URL)
	load := func() (*config.Config, error) { return config.Parse("weir.yaml", []byte(yaml), nil) }
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(cfg, gateway.Options{Log: io.Discard, Version: "1.0.0", File: "weir.yaml", Load: load})
	if err != nil {
		t.Fatal(err)
	}
	handler := admin.Handler(g, config.Admin{Token: token})
	callers, operators := httptest.NewServer(g), httptest.NewServer(handler)
	s := &site{t: t, gateway: g, callers: callers.URL, admin: operators.URL, client: &http.Client{Transport: &http.Transport{}}, operators: handler}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		for _, server := range []*httptest.Server{operators, callers} {
			server.CloseClientConnections()
			server.Close()
		}
		over, stop := context.WithCancel(context.Background())
		stop()
		_ = g.FinishJobs(over) // some wait for a model that never answers
		_ = g.Close(context.Background())
		upstream.Close()
	})
	return s
}

// ask sends a request as a caller and returns the status.
func (s *site) ask(path, key, body string) int {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.callers+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// traffic is a mix of hits, misses, refusals and errors.
func (s *site) traffic(n int) {
	for i := range n {
		s.ask("/v1/chat/completions", "weir_alice_secret", fmt.Sprintf(`{"model": "llama-3", "temperature": 0, "messages": [{"role": "user", "content": "Question %d"}]}`, i%7))
		s.ask("/classify", "weir_crawler_secret", `{"text": "`+strconv.Itoa(i%5)+`"}`)
		s.ask("/v1/embeddings", "weir_notebook_secret", `{"model": "embed", "input": "`+strconv.Itoa(i)+`"}`)
		if i%5 == 0 {
			s.ask("/classify/broken", "weir_alice_secret", `{"text": "`+strconv.Itoa(i)+`"}`)
			s.ask("/classify", "", `{"text": "`+strconv.Itoa(i)+`"}`)
		}
	}
}

// keepBusy sends traffic until the test ends, more at some times than at others.
func (s *site) keepBusy() {
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-ticker.C:
			case <-done:
				return
			}
			s.ask("/classify", "weir_crawler_secret", fmt.Sprintf(`{"text": "%d"}`, i%11))
			if i%100 < 60 {
				s.ask("/v1/chat/completions", "weir_alice_secret", fmt.Sprintf(`{"model": "llama-3", "temperature": 0, "messages": [{"role": "user", "content": "Question %d"}]}`, i/3))
			}
			if i%7 == 0 {
				s.ask("/v1/embeddings", "weir_notebook_secret", fmt.Sprintf(`{"model": "embed", "input": "%d"}`, i))
			}
		}
	})
	s.t.Cleanup(func() {
		close(done)
		sending.Wait()
	})
}

// dashboardPages are the pages by the name of their picture.
func dashboardPages() [][2]string {
	return [][2]string{
		{"overview", "/"}, {"routes", "/routes"}, {"callers", "/callers"}, {"cache", "/cache"}, {"cache-all", "/cache/all"},
		{"upstreams", "/upstreams"}, {"jobs", "/jobs"}, {"keys", "/keys"}, {"config", "/config"},
		{"config-plan", "/config/edit?kind=plan&name=pro"}, {"events", "/events"},
	}
}

func TestDashboardInABrowser(t *testing.T) {
	browser := newBrowser(t)
	for name, test := range map[string]func(*testing.T, context.Context){
		"every page is quiet, accessible and fits, in light and dark, wide and narrow": everyPage,
		"the login refuses a wrong token and lets the right one in":                    logsIn,
		"figures move under load, and nothing that somebody is at is touched":          figuresMove,
		"a limit that is edited changes the next answer":                               limitChanges,
		"it says that the connection is lost, and goes on when it is back":             connectionComesBack,
		"explanations open by keyboard":                                                explains,
		"colours can be chosen, and are remembered":                                    themes,
		"it pauses and goes on":                                                        pauses,
		"eight windows are live at once":                                               manyWindows,
		"it says that all streams are taken, and goes on when one is free":             streamsAreTaken,
		"names of others may be long":                                                  longNames,
		"a page that could not be shown is shown when it can be":                       pageComesBack,
		"it sorts and explains on a narrow screen, too":                                narrowHeads,
		"a purge empties the cache":                                                    purgeEmpties,
		"a target that fails is seen to be left out":                                   targetsFail,
		"a job is cancelled":                                                           jobIsCancelled,
		"a key that is made works until it is revoked, and is shown once":              keyLives,
	} {
		t.Run(name, func(t *testing.T) { test(t, browser) })
	}
}

// twiceNamed are the ids that a page has more than once: a button would open the
// explanation of another figure.
const twiceNamed = `[...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i).join(" ")`

func everyPage(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	s.traffic(30)
	s.keepBusy()
	s.furnish()
	for _, l := range looks() {
		t.Run(l.String(), func(t *testing.T) {
			b := newTab(t, browser, l)
			for _, p := range dashboardPages() {
				b.open(s.admin + p[1])
				if is[bool](b, `"stream" in document.body.dataset`) {
					b.until(`document.querySelector("[data-status]").textContent === "live"`)
				}
				if p[0] == "overview" {
					b.until(`document.querySelectorAll(".plot canvas").length === 5`)
					if os.Getenv("WEIR_SCREENSHOTS") != "" {
						b.until(`lastSeries.rate.length >= 25`) // for lines to be seen
					}
				}
				b.accessible()
				b.fits()
				b.quiet()
				equal(t, is[string](b, twiceNamed), "")
				b.shoot(p[0] + "-" + l.String())
			}
			b.do(chromedp.Navigate("about:blank"))
		})
	}
}

func logsIn(t *testing.T, browser context.Context) {
	const token = "correct horse"
	s := newSite(t, "", token)
	for _, l := range looks() {
		b := newTab(t, browser, l)
		b.open(s.admin + "/routes")
		b.accessible()
		b.fits()
		b.shoot("login-" + l.String())
		b.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong"))
		b.submit("main button")
		equal(t, b.text("#wrong"), "This is not the token of admin.token.")
		b.accessible()
		equal(t, s.status("/routes"), 200)
		b.do(chromedp.SendKeys(chromedp.CSS("#token"), token))
		b.submit("main button")
		equal(t, b.text("h1"), "Routes")
		equal(t, is[string](b, `document.cookie`), "")
		b.until(`document.querySelector("[data-status]").textContent === "live"`)
		b.submit(`form[action="/logout"] button`)
		equal(t, b.text("h1"), "Log in")
		b.open(s.admin + "/config")
		equal(t, b.text("h1"), "Log in")
		b.quiet("status of 401")
	}
}

// status is what a client without a session gets in the end.
func (s *site) status(path string) int {
	s.t.Helper()
	res, err := s.client.Get(s.admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func figuresMove(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/callers")
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	equal(t, strings.Contains(b.text("main"), "No callers yet"), true)
	s.ask("/classify", "weir_alice_secret", `{"text": "one"}`)
	b.until(`document.querySelector("tbody th")?.textContent.includes("key:alice")`)
	b.do(chromedp.Focus(chromedp.CSS(`thead a[href*="refused"]`)))
	is[bool](b, `document.querySelector("#help-column-requests").showPopover(); window.row = document.querySelector("tbody tr"); scrollTo(0, 40); true`)
	s.ask("/classify", "weir_alice_secret", `{"text": "two"}`)
	s.ask("/classify", "weir_crawler_secret", `{"text": "three"}`)
	b.until(`document.querySelectorAll("tbody tr").length === 2 && document.querySelector("tbody td").textContent.startsWith("2")`)
	equal(t, is[bool](b, `document.activeElement.href.includes("refused")`), true)
	equal(t, is[bool](b, `document.querySelector("#help-column-requests").matches(":popover-open")`), true)
	equal(t, is[bool](b, `window.row.isConnected`), true)
	for range 3 { // now crawler has the most, and comes first
		s.ask("/classify", "weir_crawler_secret", `{"text": "three"}`)
	}
	b.until(`document.querySelector("tbody th").textContent.includes("key:crawler")`)
	equal(t, is[bool](b, `window.row.isConnected && document.querySelectorAll("tbody tr")[1] === window.row`), true)
	b.quiet()
}

func limitChanges(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	ask := func() int {
		return s.ask("/classify", "weir_notebook_secret", `{"text": "`+strconv.Itoa(int(time.Now().UnixNano()))+`"}`)
	}
	equal(t, ask(), 200)
	b.open(s.admin + "/config")
	b.submit(`a[href="/config/edit?kind=plan&name=free"]`)
	set := func(selector, value string) {
		b.do(chromedp.SetValue(chromedp.CSS(selector), value))
	}
	set("#field-policies", "1 per 1h")
	b.submit("main form button")
	equal(t, strings.HasPrefix(b.text(".note"), "Changed."), true)
	equal(t, [2]int{ask(), ask()}, [2]int{429, 429})

	set("#field-policies", "1000/minute\nnonsense")
	set("#field-weight", "-1")
	b.submit("main form button")
	equal(t, strings.HasPrefix(b.text("#field-policies-wrong"), "policy 2: “nonsense”:"), true)
	equal(t, b.text("#field-weight-wrong") != "", true)
	equal(t, ask(), 429)
	b.accessible()
	b.shoot("mistake-" + looks()[0].String())
	set("#field-policies", "1000/minute")
	set("#field-weight", "2")
	b.submit("main form button")
	equal(t, ask(), 200)

	b.open(s.admin + "/config")
	equal(t, strings.Contains(b.text("main"), "plans.free.policies"), true)
	for _, l := range looks() {
		wide := newTab(t, browser, l)
		wide.open(s.admin + "/config")
		wide.accessible()
		wide.fits()
		wide.shoot("config-changed-" + l.String())
	}
	is[bool](b, `window.confirm = () => true; true`)
	b.submit(`form[action="/config/revert"] button`)
	equal(t, strings.HasPrefix(b.text(".note"), "Taken back"), true)
	b.submit(`form[action="/config/reload"] button`)
	equal(t, strings.HasPrefix(b.text(".note"), "The configuration was read again"), true)
	b.quiet("status of 400")
}

func connectionComesBack(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	var away atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		r.Host = strings.TrimPrefix(s.admin, "http://")
		s.operators.ServeHTTP(w, r)
	}))
	defer front.Close()
	b := newTab(t, browser, looks()[0])
	b.open(front.URL + "/")
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	away.Store(true)
	front.CloseClientConnections()
	b.until(`document.querySelector("[data-status]").textContent === "paused: connection lost"`)
	away.Store(false)
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	b.do(chromedp.Navigate("about:blank"))
	front.CloseClientConnections()
}

func explains(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[2])
	b.open(s.admin + "/")
	b.do(chromedp.Focus(chromedp.CSS(".help")), chromedp.KeyEvent("\r"))
	b.until(`document.querySelector("#help-rate").matches(":popover-open")`)
	equal(t, strings.HasPrefix(b.text("#help-rate"), "Traffic. Requests that ended"), true)
	equal(t, is[bool](b, `(() => { const r = document.querySelector("#help-rate").getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth && r.top >= 0 })()`), true)
	b.do(chromedp.KeyEvent("\u001b"))
	b.until(`!document.querySelector("#help-rate").matches(":popover-open")`)
	b.quiet()
}

func themes(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/events")
	ground := func() string { return is[string](b, `getComputedStyle(document.body).backgroundColor`) }
	light := ground()
	b.do(chromedp.Click(chromedp.CSS("[data-theme-switch]")))
	equal(t, [2]string{b.text("[data-theme-switch]"), ground()}, [2]string{"Theme: light", light})
	b.do(chromedp.Click(chromedp.CSS("[data-theme-switch]")))
	dark := ground()
	equal(t, [2]any{b.text("[data-theme-switch]"), dark != light}, [2]any{"Theme: dark", true})
	b.open(s.admin + "/")
	equal(t, [2]string{b.text("[data-theme-switch]"), ground()}, [2]string{"Theme: dark", dark})
	b.quiet()
}

func pauses(t *testing.T, browser context.Context) {
	s := newSite(t, "", "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/")
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	b.do(chromedp.Click(chromedp.CSS("[data-pause]")))
	equal(t, [2]string{b.text("[data-pause]"), b.text("[data-status]")}, [2]string{"Go live", "paused"})
	s.traffic(1)
	equal(t, is[bool](b, `document.querySelector(".figures").textContent.includes("0 requests in")`), true)
	b.do(chromedp.Click(chromedp.CSS("[data-pause]")))
	b.until(`document.querySelector("[data-status]").textContent === "live" && !document.querySelector(".figures").textContent.includes("0 requests in")`)
	b.quiet()
}
