package admin_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func targetsFail(t *testing.T, browser context.Context) {
	healthy, failing := httptest.NewServer(http.HandlerFunc(model)), httptest.NewServer(http.HandlerFunc(model))
	t.Cleanup(healthy.Close)
	t.Cleanup(failing.Close)
	s := newSite(t, `
upstreams:
  llm: {targets: ["`+healthy.URL+`", {url: "`+failing.URL+`", weight: 2}], balance: round_robin, concurrency: 4, breaker: {failures: 2, open_for: 10m}}
routes: [{name: all, match: {path: /*}, upstream: llm}]
`, "")
	b := newTab(t, browser, looks()[0])
	b.open(s.admin + "/upstreams")
	b.until(`document.querySelector("[data-status]").textContent === "live"`)
	states := `[...document.querySelectorAll("td[data-label=State] .state")].map((s) => s.textContent).join(", ")`
	equal(t, is[string](b, states), "gets requests, gets requests")

	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if res, err := s.client.Post(s.callers+"/one", "application/json", strings.NewReader("{}")); err == nil {
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}
				}
			}
		})
	}
	defer load.Wait()
	defer close(stop)
	b.until(`Number.parseFloat(document.querySelector(".figures dd").textContent) > 0`)
	failing.CloseClientConnections()
	failing.Close()
	b.until(states + ` === "gets requests, left out"`)
	b.until(`document.querySelector(".titled").textContent.includes("1 of 2 targets gets no requests")`)
	equal(t, strings.Contains(b.text(`tr:nth-child(2) td[data-label="State"]`), "breaker open: too many requests in a row failed, tried again in"), true)
	equal(t, s.ask("/one", "", "{}"), 200)
	b.accessible()
	b.quiet()
	for _, l := range looks() {
		look := newTab(t, browser, l)
		look.open(s.admin + "/upstreams")
		look.accessible()
		look.fits()
		look.shoot("upstreams-left-out-" + l.String())
	}
	b.submit(`.titled a`)
	equal(t, b.text("h1"), "Upstream llm")
}
