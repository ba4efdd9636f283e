package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

const sharedPlan = `
store: {url: "REDIS", on_failure: FAILURE, deadline: 10s}
instances: 2
plans: {default: {policies: [{name: r, quota: 10, window: 1h}, {name: s, concurrent: 4}]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: look, match: {path: /look}, upstream: u, max_body: 100}, {match: {path: /*}, upstream: u}]
`

func sharing(redis *storetest.RedisServer, onFailure string) string {
	return strings.NewReplacer("REDIS", redis.URL(), "FAILURE", onFailure).Replace(sharedPlan)
}

// connected waits until the gateway has its Redis.
func (w *weir) connected() *weir {
	w.t.Helper()
	w.until(func() bool { return w.metric("weir_redisstore_up") == "1" })
	return w
}

func nothing(http.ResponseWriter, *http.Request) {}

func TestTwoGatewaysShareOneLimit(t *testing.T) {
	redis := storetest.Redis(t)
	a := start(t, sharing(redis, "closed"), http.HandlerFunc(nothing)).connected()
	b := start(t, sharing(redis, "closed"), http.HandlerFunc(nothing)).connected()
	var admitted, other atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		w := []*weir{a, b}[i%2]
		wg.Go(func() {
			switch got := w.send("GET", "/", ""); {
			case got.status == 200:
				admitted.Add(1)
			case got.status != 429 || got.header.Get("Weir-Store") != "":
				other.Add(1)
			}
		})
	}
	wg.Wait()
	// Of requests that run at once four have a slot; none of the refused is charged.
	left := a.left("/look", "r")
	if admitted.Load() != 10-left || left > 6 || other.Load() != 0 || b.left("/look", "r") != left {
		t.Errorf("%d admitted, %d left, %d other answers", admitted.Load(), left, other.Load())
	}
	for range left {
		if got := b.send("GET", "/", ""); got.status != 200 {
			t.Errorf("one that was left: %d %s", got.status, got.body)
		}
	}
	if got := a.send("GET", "/", ""); got.status != 429 || got.header.Get("Retry-After") == "" {
		t.Errorf("the eleventh: %d %v", got.status, got.header)
	}
	a.until(func() bool { return a.left("/look", "s") == 4 })
}

// What is done while Redis is away is what the file says; it costs no more than the
// deadline, and ends by itself.
func TestWhileTheStoreIsAway(t *testing.T) {
	for mode, want := range map[string]struct {
		statuses string // of six requests
		fields   bool
	}{
		"local":  {"[200 200 200 429 429 429]", true}, // a half of the seven that were left
		"open":   {"[200 200 200 200 200 200]", false},
		"closed": {"[503 503 503 503 503 503]", false},
	} {
		t.Run(mode, func(t *testing.T) {
			redis := storetest.Redis(t)
			w := start(t, sharing(redis, mode), http.HandlerFunc(nothing)).connected()
			for range 3 {
				if got := w.send("GET", "/", ""); got.status != 200 || got.header.Get("Weir-Store") != "" {
					t.Fatalf("with its store: %d %v", got.status, got.header)
				}
			}
			redis.Stop()
			var statuses []int
			for range 6 {
				var got answer
				if took := took(func() { got = w.send("GET", "/", "") }); took > 3*time.Second { // one that refuses connections is not waited for
					t.Errorf("a request took %v", took)
				}
				statuses = append(statuses, got.status)
				if got.header.Get("Weir-Store") != mode || (got.header.Get("RateLimit") != "") != want.fields {
					t.Errorf("%d %v", got.status, got.header)
				}
				if got.status == 503 && (got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, "temporary-reduced-capacity")) {
					t.Errorf("%v %s", got.header, got.body)
				}
			}
			if fmt.Sprint(statuses) != want.statuses {
				t.Errorf("statuses %v, want %s", statuses, want.statuses)
			}
			if n := w.metric(`weir_ratelimit_fallbacks_total{on_failure="` + mode + `"}`); n == "0" || n == "" {
				t.Errorf("weir_ratelimit_fallbacks_total %q", n)
			}
			redis.Start()
			w.connected()
			if got := w.send("GET", "/", ""); got.status != 200 || got.header.Get("Weir-Store") != "" || got.remaining("r") != 9 {
				t.Errorf("with a new, empty store: %d %v", got.status, got.header)
			}
		})
	}
}

// A gateway starts, and does what it is told to, before its Redis is there.
func TestAStoreThatComesLater(t *testing.T) {
	redis := storetest.Redis(t)
	redis.Stop()
	w := start(t, sharing(redis, "local"), http.HandlerFunc(nothing))
	if got := w.send("GET", "/", ""); got.status != 200 || got.header.Get("Weir-Store") != "local" {
		t.Errorf("%d %v", got.status, got.header)
	}
	redis.Start()
	w.connected()
	if got := w.send("GET", "/", ""); got.status != 200 || got.header.Get("Weir-Store") != "" {
		t.Errorf("%d %v", got.status, got.header)
	}
}

func TestLeasesSpareTheStore(t *testing.T) {
	t.Parallel()
	redis := storetest.Redis(t)
	yaml := strings.NewReplacer("REDIS", redis.URL(), "FAILURE", "closed", "{name: r, quota: 10, window: 1h}, {name: s, concurrent: 4}",
		"{name: r, quota: 100000, window: 1m, lease: {max_excess: 1%}}").Replace(sharedPlan)
	w := start(t, yaml, http.HandlerFunc(nothing)).connected()
	const n = 2000
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				if got := w.send("GET", "/", ""); got.status != 200 {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	var calls float64
	for _, op := range []string{"take", "grant", "settle"} {
		var c float64
		_, _ = fmt.Sscan(w.metric(`weir_redisstore_calls_total{operation="`+op+`"}`), &c)
		calls += c
	}
	if calls == 0 || calls/n > 0.1 {
		t.Errorf("%.0f calls to Redis for %d requests", calls, n)
	}
	t.Logf("%.0f calls to Redis for %d requests", calls, n)
}
