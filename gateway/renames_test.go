package gateway_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/inferweir/weir/storetest"
)

func TestRenamesLeaveNoMetrics(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	w := before(t, renamed("", "T0"), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}`))
	}))
	target := w.gateway.Config().Upstreams["u"].Targets[0].URL
	size := func() int { return strings.Count(w.metrics(), "\nweir_") }
	ask := func() {
		w.send("POST", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"Hi"}]}`, "X-Api-Key", "weir_a")
	}
	ask()
	atFirst := size()
	held := make(chan int, 1)
	go func() { held <- w.send("GET", "/hold", "", "X-Api-Key", "weir_a").status }()
	storetest.Eventually(t, eventually, "the first setup has a request", func() bool {
		return w.metric(`weir_gateway_requests_in_flight{route="all"}`) == "1"
	})
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask()
				}
			}
		})
	}
	for i := range 200 {
		w.reloads(renamed(fmt.Sprint(i), target))
	}
	close(stop)
	asking.Wait()
	if got := w.metric(`weir_gateway_requests_in_flight{route="all"}`); got != "1" {
		t.Errorf("%s requests are in flight of a route that is gone, want the one that runs on", got)
	}
	close(hold)
	if got := <-held; got != 200 {
		t.Errorf("the request that ran on has status %d", got)
	}
	w.reloads(renamed("", target))
	ask()
	storetest.Eventually(t, eventually, "the page is as small as at the start", func() bool { return size() == atFirst })
	if names := regexp.MustCompile(`"[^"]*\b(all|u|chat|p|pro)\d+"`).FindAllString(w.metrics(), -1); names != nil {
		t.Errorf("the page still has %q", names)
	}
	if got := w.metric(`weir_gateway_requests_in_flight{route="other"}`); got != "0" {
		t.Errorf("%s requests are in flight of other", got)
	}
	if got := w.metric(`weir_gateway_requests_total{method="POST",route="chat",status="200"}`); got != "1" {
		t.Errorf("the route that came back counts %s requests, want 1", got)
	}
}

// renamed is a configuration all of whose names end alike.
func renamed(end, target string) string {
	return strings.NewReplacer("$", end, "TARGET", target).Replace(`
callers: {keys: [{caller: a, key: weir_a, plan: pro$}]}
plans: {pro$: {policies: [{name: p$, quota: 100000, window: 1h}]}}
upstreams: {u$: {targets: ["TARGET"], dialect: openai, timeouts: {first_byte: 1h, total: 1h}}}
routes:
- {name: chat$, match: {path: /v1/chat/completions}, upstream: u$, policies: [{name: q$, quota: 100000, window: 1h}], cache: {mode: inference, ttl: 1m, only: all}}
- {name: all$, match: {path: /*}, upstream: u$}
`)
}
