package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// browserPath finds the browser: make test installs one.
func browserPath(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no chromium, chromium-browser or google-chrome on the PATH: run make tools")
	return ""
}

// newBrowser starts the browser that all of a test's tabs are in, and ends it with the
// test.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browserPath(t)), chromedp.WSURLReadTimeout(tabWait), chromedp.UserDataDir(filepath.Join(t.TempDir(), "browser")),
		chromedp.Flag("no-sandbox", os.Geteuid() == 0), chromedp.Flag("no-proxy-server", true))
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stopAllocator) // waits for the end of its process
	browser, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	if err := chromedp.Do(browser); err != nil {
		t.Fatal(err)
	}
	return browser
}

// look is how a page is looked at.
type look struct {
	width  int64
	scheme string // light or dark
}

// String names files and tests.
func (l look) String() string { return fmt.Sprintf("%s-%d", l.scheme, l.width) }

// looks are all that pages must be good in.
func looks() []look {
	return []look{{1280, "light"}, {1280, "dark"}, {375, "light"}, {375, "dark"}}
}

// tab is a page of the browser. It writes down what the page complains of.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

// tabWait is how long anything may take that a tab waits for.
const tabWait = time.Minute

// newTab opens a tab with no cookies of other tabs.
func newTab(t *testing.T, browser context.Context, l look) *tab {
	t.Helper()
	return tabOf(t, browser, l, chromedp.WithNewBrowserContext())
}

// another opens a tab beside b, of the same person: with the same cookies and locks.
func (b *tab) another() *tab {
	b.t.Helper()
	return tabOf(b.t, b.ctx, looks()[0])
}

func tabOf(t *testing.T, parent context.Context, l look, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, stop := chromedp.NewContext(parent, options...)
	b := &tab{t: t, ctx: ctx}
	b.do(chromedp.Func(func(ctx context.Context, to *chromedp.Target) error {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}}
		if _, err := cdp.Call(ctx, to, emulation.SetEmulatedMedia, media); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, to, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: l.width, Height: 900, DeviceScaleFactor: 1})
		return err
	}))
	said := chromedp.Console(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		for m, err := range said {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.complaints = append(b.complaints, fmt.Sprintf("%s %s %s", m.Source, m, m.URL))
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		stop()
		listening.Wait()
	})
	return b
}

// quiet fails where the page has complained: of errors, of what the policy of its content
// refuses, of anything else that the console shows but what is meant to be there.
func (b *tab) quiet(meant ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		if !slices.ContainsFunc(meant, func(m string) bool { return strings.Contains(c, m) }) {
			b.t.Errorf("the console says: %s", c)
		}
	}
	b.complaints = nil
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, chromedp.Steps(steps...))
}

// run does an action and returns its value.
func run[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	// The first action of a context makes its target, which ends with the context it gets:
	// that must be the tab's own.
	if err := chromedp.Do(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(b.ctx, tabWait)
	defer stop()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// open goes to an address and waits until the page is there.
func (b *tab) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url), chromedp.WaitReady(chromedp.CSS("main")))
}

// text is what an element shows.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return strings.Join(strings.Fields(run(b, chromedp.Text(chromedp.CSS(selector)))), " ")
}

// is evaluates script to a value.
func is[T any](b *tab, script string) T {
	b.t.Helper()
	return run(b, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// until waits until script is true.
func (b *tab) until(script string) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, tabWait)
	defer stop()
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](script, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(tabWait)))
	if err != nil {
		b.t.Fatalf("%s: %v: the page says\n%s", script, err, b.text("body"))
	}
}

// submit clicks on an element, and waits until another page is there.
func (b *tab) submit(selector string) {
	b.t.Helper()
	run(b, chromedp.WaitEvent(page.LoadEventFired, nil, chromedp.Click(chromedp.CSS(selector))))
}

// violation is a finding of axe.
type violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// accessible fails where axe has a finding that is serious or critical.
func (b *tab) accessible() {
	b.t.Helper()
	axe, err := os.ReadFile("testdata/axe.min.js")
	if err != nil {
		b.t.Fatal(err)
	}
	is[bool](b, string(axe)+"; true")
	found := is[string](b, `axe.run(document).then((r) => JSON.stringify(r.violations))`)
	var violations []violation
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		b.t.Fatal(err)
	}
	for _, v := range violations {
		if v.Impact != "serious" && v.Impact != "critical" {
			b.t.Logf("axe: %s %s: %s (%d)", v.Impact, v.ID, v.Help, len(v.Nodes))
			continue
		}
		for _, n := range v.Nodes {
			b.t.Errorf("axe: %s %s: %s\n%s\n%s", v.Impact, v.ID, v.Help, n.HTML, n.FailureSummary)
		}
	}
}

// fits fails where the page is wider than the window.
func (b *tab) fits() {
	b.t.Helper()
	if wide := is[[]int](b, `[document.documentElement.scrollWidth, innerWidth]`); wide[0] > wide[1] {
		culprits := is[string](b, `[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map((e) => e.outerHTML.slice(0, 120)).join("\n")`)
		b.t.Errorf("the page is %d wide in a window of %d: %s", wide[0], wide[1], culprits)
	}
}
