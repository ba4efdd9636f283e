package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/storetest"
)

// The places of a target are shared out among the instances that Redis knows of.
func TestTwoInstancesTogetherKeepOneLimit(t *testing.T) {
	t.Parallel()
	const limit = 10
	var now, most atomic.Int64
	release := map[string]chan struct{}{"/a": make(chan struct{}), "/b": make(chan struct{})} // by instance
	origin := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			continue
		}
		select {
		case <-release[r.URL.Path]:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(origin.Close)
	redis := storetest.Redis(t)
	yaml := fmt.Sprintf(`
store: {url: %q, deadline: 10s, on_failure: open}
upstreams: {u: {targets: [%q], concurrency: %d, queue: {max_wait: 1h}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, redis.URL(), origin.URL, limit)
	a, b := launch(t, yaml), launch(t, yaml)
	for _, w := range []*instance{a, b} {
		w.connected()
		w.shows(2, "weir_redisstore_instances")
	}
	instances := map[string]*instance{"/a": a, "/b": b}
	// The limits follow once a second while something runs.
	var all []*request
	for path, w := range instances {
		all = append(all, w.later("POST", path, "{}"))
		w.shows(limit/2, "weir_admission_limit")
	}
	for path, w := range instances {
		for range 15 {
			all = append(all, w.later("POST", path, "{}"))
		}
		w.shows(limit/2, "weir_admission_running")
		w.waits(15 + 1 - limit/2)
	}
	// Who has a place is on the way to the upstream, and not yet there.
	storetest.Eventually(t, eventually, "all places of the upstream are taken", func() bool { return now.Load() == limit })
	for path, w := range instances {
		for range 15 + 1 {
			release[path] <- struct{}{}
		}
		w.isIdle()
	}
	for _, q := range all {
		if got := q.got(); got.status != 200 {
			t.Error(got)
		}
	}
	if most.Load() != limit {
		t.Errorf("%d at once at the upstream, want %d", most.Load(), limit)
	}
	b.stop()
	last := a.later("POST", "/a", "{}")
	a.shows(limit, "weir_admission_limit")
	release["/a"] <- struct{}{}
	last.got()
}
