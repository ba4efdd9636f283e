package loadtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/inferweir/weir/internal/loadtest"
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

// newTab starts a browser with one tab, and ends both with the test.
func newTab(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browserPath(t)), chromedp.WSURLReadTimeout(time.Minute), chromedp.UserDataDir(filepath.Join(t.TempDir(), "browser")),
		chromedp.Flag("no-sandbox", os.Geteuid() == 0), chromedp.Flag("no-proxy-server", true))
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stopAllocator) // waits for the end of its process
	tab, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	if err := chromedp.Do(tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

// evaluate runs a script in a tab and gives its value.
func evaluate[T any](t *testing.T, tab context.Context, script string) T {
	t.Helper()
	ctx, stop := context.WithTimeout(tab, 30*time.Second)
	defer stop()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// show opens a page as somebody with such a window and such colours sees it.
func show(t *testing.T, tab context.Context, url string, width int64, scheme string) {
	t.Helper()
	ctx, stop := context.WithTimeout(tab, 30*time.Second)
	defer stop()
	looks := chromedp.Func(func(ctx context.Context, to *chromedp.Target) error {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
		if _, err := cdp.Call(ctx, to, emulation.SetEmulatedMedia, media); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, to, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1})
		return err
	})
	if _, err := chromedp.Run(ctx, chromedp.Steps(looks, chromedp.Navigate(url), chromedp.WaitReady(chromedp.CSS("main")))); err != nil {
		t.Fatal(err)
	}
}

// streamLoad has refusals, errors, an error that says much, and callers with long names.
func streamLoad(t *testing.T, slower time.Duration) (r *loadtest.Report) {
	t.Helper()
	whole := streaming(role(0), chunk(20*ms+slower, "a"), chunk(7*ms, "b"), chunk(9*ms, "c"), usageFrame(6), frame{0, doneFrame}).answer
	silent := streaming(role(0), chunk(30*ms+slower, "a"), chunk(5*ms, "b"), frame{0, doneFrame}).answer
	failing := streaming(chunk(0, "a"), frame{0, "data: {\"error\":{\"message\":\"" + strings.Repeat("CUDA out of memory: tried to allocate 2.00 GiB; ", 5) + "\"}}\n\n"}).answer
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			switch n % 10 {
			case 3:
				return reply(http.StatusTooManyRequests, "{}", "Retry-After", "12"), nil
			case 5:
				return failing(n, r)
			case 7:
				return silent(n, r)
			}
			return whole(n, r)
		}}
		r = virtually(t, t.Context(), loadtest.Options{
			URL:    "http://server.test/v1/chat/completions?deployment=a-rather-long-name-of-a-model-that-nobody-would-type-twice",
			Stages: rate(40, 6*time.Second), Arrivals: loadtest.Poisson, Warmup: time.Second, Seed: 3, Stream: true, Body: `{"stream": true}`,
			Callers:    []loadtest.Caller{{Name: "alice", Weight: 3}, {Name: "an organisation with a name that is very long", Weight: 1}, {Name: "a_name_without_any_place_to_break_it_and_so_long_that_no_telephone_shows_it", Weight: 1}},
			Objectives: []loadtest.Objective{objective(t, "ttft<60ms"), objective(t, "itl_p99<20ms")},
		}, s)
	})
	r.Cores = 2
	return r
}

// pages are all kinds of pages, each at its path.
func pages(t *testing.T) map[string][]byte {
	t.Helper()
	plain, stream := sample(t, 0), streamLoad(t, 0)
	m := &loadtest.Matrix{Name: "plan.yaml", Runs: []loadtest.MatrixRun{
		{Name: "as it is", Turn: 1, CPUMicros: 1412.4, RSSBytes: 64 << 20, Report: stream},
		{Name: "no cache, one processor and a long name", Turn: 1, CPUMicros: 1234, RSSBytes: 2 << 30, Report: streamLoad(t, 30*ms),
			Set: map[string]any{"routes.chat.cache.mode": "off", "upstreams.llm.queue.max": 512}, Env: map[string]string{"GOMAXPROCS": "1"}},
	}}
	all := map[string][]byte{}
	add := func(name string, write func(*bytes.Buffer) error) {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		all["/"+name] = b.Bytes()
	}
	add("plain", func(b *bytes.Buffer) error { return plain.WriteHTML(b, nil) })
	add("stream", func(b *bytes.Buffer) error { return stream.WriteHTML(b, nil) })
	add("compare", func(b *bytes.Buffer) error { return streamLoad(t, 10*ms).WriteHTML(b, stream) })
	add("unlike", func(b *bytes.Buffer) error { return plain.WriteHTML(b, stream) })
	add("matrix", func(b *bytes.Buffer) error { return m.WriteHTML(b) })
	return all
}

// region is a table in the region that it scrolls in.
type region struct {
	Name    string
	Reached bool // it has the focus when it is given to it
	Inside  bool // the region is within the window
	Roomy   bool // in a table that scrolls, the names of the rows leave half of the region to the others
	Whole   bool // the last column can be seen after the region was scrolled to its end
	Named   bool // and the names of the rows still can
}

// TestPagesOnAllScreens checks in a browser that no page of a report is wider than a
// telephone, and that what is in a wide table is reached with the keyboard.
func TestPagesOnAllScreens(t *testing.T) {
	all := pages(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(all[r.URL.Path]) // the browser may leave
	}))
	t.Cleanup(s.Close)
	axe, err := os.ReadFile("../admin/testdata/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	tab := newTab(t)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		for _, width := range []int64{375, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				t.Run(fmt.Sprintf("%s %s %d", path[1:], scheme, width), func(t *testing.T) {
					show(t, tab, s.URL+path, width, scheme)
					evaluate[bool](t, tab, `for (const d of document.querySelectorAll("details")) d.open = true; true`)
					checkFits(t, tab)
					checkRegions(t, tab)
					if found := evaluate[string](t, tab, string(axe)+`; axe.run(document).then((r) => r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => v.id + ": " + v.nodes.map((n) => n.html).join("\n")).join("\n"))`); found != "" {
						t.Errorf("axe: %s", found)
					}
				})
			}
		}
	}
}

// checkFits fails where a page scrolls sideways, or something but the inside of a table
// is outside of the window.
func checkFits(t *testing.T, tab context.Context) {
	t.Helper()
	if wide := evaluate[[]int](t, tab, `scrollTo(1000, 0), [document.documentElement.scrollWidth, scrollX, innerWidth]`); wide[0] > wide[2] || wide[1] != 0 {
		t.Errorf("the page is %d wide in a window of %d and scrolls by %d", wide[0], wide[2], wide[1])
	}
	out := evaluate[string](t, tab, `[...document.querySelectorAll("body *")].filter((e) => !e.closest(".table > table") && !e.closest("svg > *") && e.getBoundingClientRect().right > innerWidth)
		.map((e) => e.outerHTML.slice(0, 120)).join("\n")`)
	if out != "" {
		t.Errorf("outside of the window: %s", out)
	}
}

// checkRegions fails where a table is not in a region with a name that the keyboard
// reaches and scrolls.
func checkRegions(t *testing.T, tab context.Context) {
	t.Helper()
	tables := evaluate[int](t, tab, `document.querySelectorAll("table").length`)
	found := evaluate[string](t, tab, `JSON.stringify([...document.querySelectorAll("[role=region][tabindex='0'][aria-label] > table")].map((table) => {
		const r = table.parentElement, last = table.querySelector("thead th:last-child");
		r.focus();
		const reached = document.activeElement === r;
		r.scrollLeft = 100000;
		const at = r.getBoundingClientRect();
		const name = table.querySelector("tbody th").getBoundingClientRect();
		const whole = last.getBoundingClientRect().right <= at.right + 1;
		r.scrollLeft = 0;
		return {name: r.ariaLabel, reached, inside: at.left >= 0 && at.right <= innerWidth, roomy: r.scrollWidth <= r.clientWidth || name.width <= at.width / 2, whole, named: name.left >= at.left - 1};
	}))`)
	var regions []region
	if err := json.Unmarshal([]byte(found), &regions); err != nil {
		t.Fatal(err)
	}
	if len(regions) != tables || tables == 0 {
		t.Errorf("%d of %d tables are in regions", len(regions), tables)
	}
	for _, r := range regions {
		if want := (region{r.Name, true, true, true, true, true}); r.Name == "" || r != want {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
}
