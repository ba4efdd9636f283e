package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// fileOf is a configuration of the test.
func fileOf(t *testing.T, yaml string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	return unhurried(c)
}

// edits changes something, and fails where that fails.
func (w *weir) edits(kind, name, doc string) gateway.Change {
	w.t.Helper()
	c, err := w.gateway.Edit(w.t.Context(), config.Edit{Kind: kind, Name: name, Doc: []byte(doc)}, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// reloads puts another file in force.
func (w *weir) reloads(yaml string) {
	w.t.Helper()
	if err := w.gateway.Reload(fileOf(w.t, yaml)); err != nil {
		w.t.Fatal(err)
	}
}

func TestReloadsUnderLoadDropNoRequest(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		_, _ = io.WriteString(w, "answer to "+r.URL.Path)
	}))
	t.Cleanup(model.Close)
	// What changes from one to the other is nearly everything that may.
	file := func(odd bool) string {
		plans, key, upstream, ttl, replay := "", "weir_u1", "retry: {attempts: 1}, concurrency: 64", "10m", "asap"
		if odd {
			plans, key, upstream, ttl, replay = ", gold: {policies: [7/hour]}", "weir_u2", "retry: {attempts: 2}, concurrency: {min: 32, max: 128}", "20m", "original"
		}
		return `
callers: {keys: [{caller: u0, key: weir_u0}, {caller: u1, key: ` + key + ` ` + strings.Replace(plans, ", gold: {policies: [7/hour]}", ", plan: gold", 1) + `}]}
plans: {default: {policies: [{name: count, quota: 1000000, window: year, algorithm: fixed_window}]}` + plans + `}
upstreams: {u: {targets: ["` + model.URL + `"], ` + upstream + `, queue: {max: 1000}}, same: {targets: ["` + model.URL + `"], queue: {max: 1000}}}
routes:
  - {name: cached, match: {path: /cached}, upstream: u, cache: {mode: inference, ttl: ` + ttl + `, share: all, replay: ` + replay + `}}
  - {name: same, match: {path: /same/*}, upstream: same}
  - {name: all, match: {path: /*}, upstream: u}
`
	}
	w := launch(t, file(false))
	first := w.as(0, "GET", "/cached", "")
	if !first.is(200, "answer to /cached") {
		t.Fatal(first)
	}
	const clients, each = 200, 12
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for j := range each {
				path := fmt.Sprintf("/%s/%d/%d", []string{"same", "x"}[j%2], i, j)
				if a := w.as(0, "GET", path, ""); !a.is(200, "answer to "+path) {
					t.Error(a)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	reloads := 0
	for running := true; running; reloads++ {
		w.reloads(file(reloads%2 == 0))
		select {
		case <-over:
			running = false
		default:
		}
	}
	t.Logf("%d reloads under %d requests", reloads, clients*each)
	after := w.as(0, "GET", "/cached", "")
	if !after.hit() || !after.is(200, "answer to /cached") {
		t.Errorf("the cached answer is gone: %v", after)
	}
	if got, want := calls.Load(), int64(clients*each+1); got != want {
		t.Errorf("the model was asked %d times, want %d", got, want)
	}
	// One more, to see what is left.
	last := w.as(0, "GET", "/x/last", "")
	if got, want := last.header.Get("Ratelimit"), fmt.Sprintf(`"count";r=%d;`, 1000000-clients*each-2); !strings.HasPrefix(got, want) {
		t.Errorf("of the quota is left %s, want %s", got, want)
	}
	w.isIdle()
}

// closing counts the connections of a server that are open.
type closing struct{ open atomic.Int64 }

func (c *closing) state(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		c.open.Add(-1)
	}
}

func TestAStreamUnderWayEndsWhole(t *testing.T) {
	t.Parallel()
	d, conns := newDesk(), &closing{}
	model := httptest.NewUnstartedServer(d)
	model.Config.ConnState = conns.state
	model.Start()
	t.Cleanup(model.Close)
	file := func(more string) string {
		return "upstreams: {u: {targets: ['" + model.URL + "']" + more + "}}\nroutes: [{name: all, match: {path: /*}, upstream: u}]\n"
	}
	w := launch(t, file(""))
	opened := make(chan *reading, 1)
	go func() { opened <- w.open("GET", "/old", "") }()
	v := d.next(t)
	v.streams("data: one\n\n")
	r := after(t, "the head of the stream", opened)
	r.sees("data: one\n\n")
	w.reloads(file(", timeouts: {first_byte: 7s}"))
	q := w.later("GET", "/new", "")
	fresh := d.next(t)
	fresh.ends("new")
	if a := q.got(); !a.is(200, "new") {
		t.Error(a)
	}
	v.says("data: two\n\n")
	r.sees("data: two\n\n")
	v.ends("data: end\n\n")
	if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != "data: end\n\n" {
		t.Errorf("the stream ended with %q, %v", rest, err)
	}
	storetest.Eventually(t, eventually, "the connection of the old configuration is closed", func() bool { return conns.open.Load() == 1 })
}

func TestMorePlacesLetWhoWaitsGoAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.Replace(narrow, "DIALECT", "plain", 1), d)
	var waiting []*request
	first := w.later("GET", "/", "", of(0)...)
	running := []*visit{d.next(t)}
	for i := range 5 {
		waiting = append(waiting, w.queued(of(i+1), "/")...)
	}
	c := w.edits("upstream", "u", `{"concurrency": 4}`)
	if got := w.total("weir_admission_running"); got != 4 { // before Edit returned
		t.Errorf("%v run after the change, want 4", got)
	}
	for range 3 {
		running = append(running, d.next(t))
	}
	w.waits(2)
	d.nobody(t)
	if string(c.Doc) != `{"concurrency":{"min":4,"max":4}}` || c.Kept || c.By != "test" {
		t.Errorf("the change is %s by %s, kept %v", c.Doc, c.By, c.Kept)
	}
	w.edits("upstream", "u", `{"concurrency": 1, "queue": {"max": 1}}`)
	for _, v := range running[:3] {
		v.ends("x")
	}
	w.shows(1, "weir_upstream_requests_in_flight")
	w.waits(2) // they keep their places in the queue, and nobody goes yet
	if a := w.as(9, "GET", "/", ""); a.status != 503 {
		t.Errorf("beyond the queue: %v", a)
	}
	running[3].ends("x")
	for range 2 {
		d.next(t).ends("x")
	}
	for _, q := range append(waiting, first) {
		if a := q.got(); !a.is(200, "x") {
			t.Error(a)
		}
	}
	w.isIdle()
}

func TestAShorterTTLHoldsForWhatIsStored(t *testing.T) {
	t.Parallel()
	w := before(t, `
upstreams: {u: {targets: [T0]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1h, share: all}}]
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	began := time.Now()
	ask := func(path, want string) {
		t.Helper()
		_, ttl, _ := strings.Cut(want, "ttl=")
		full, _ := strconv.Atoi(ttl)
		if a := w.send("GET", path, ""); a.status != 200 || a.body != path || !strings.HasPrefix(a.lapsed(began, full), "weir; "+want) {
			t.Errorf("%s: %v, want %s", path, a, want)
		}
	}
	ask("/a", "fwd=miss")
	ask("/b", "fwd=miss")
	ask("/a", "hit; ttl=3599")
	w.edits("route", "all", `{"cache": {"ttl": "10m"}}`)
	ask("/a", "hit; ttl=599")
	if a := w.send("GET", "/a", ""); a.header.Get("Cache-Control") != "max-age=600" {
		t.Errorf("what a cache in front is told: %q", a.header.Get("Cache-Control"))
	}
	w.edits("route", "all", `{"cache": {"ttl": "1ms", "stale_while_revalidate": "0s"}}`)
	pass(2 * time.Millisecond)
	ask("/a", "fwd=miss; stored") // it is of no use any more
	c, err := w.gateway.Revert(t.Context(), "route", "all", "test")
	if err != nil || c.Doc != nil || !c.Kept || !strings.Contains(string(c.After), `"ttl":"1h"`) {
		t.Errorf("taken back: %s, %v", c.After, err)
	}
	ask("/b", "hit; ttl=3599") // it was never lost
}

func TestWeightsMoveAtOnce(t *testing.T) {
	t.Parallel()
	var asked [2]atomic.Int64
	count := func(i int) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked[i].Add(1) })
	}
	w := before(t, `
upstreams: {u: {targets: [T0, T1], balance: round_robin}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, count(0), count(1))
	send := func(want0, want1 int64) {
		t.Helper()
		asked[0].Store(0)
		asked[1].Store(0)
		for range 40 {
			w.send("GET", "/", "")
		}
		if got := [2]int64{asked[0].Load(), asked[1].Load()}; got != [2]int64{want0, want1} {
			t.Errorf("asked %v, want %d and %d", got, want0, want1)
		}
	}
	send(20, 20)
	url := w.gateway.Config().Upstreams["u"].Targets[1].URL
	w.edits("upstream", "u", `{"targets": {"`+url+`": 3}}`)
	send(10, 30)
	if _, err := w.gateway.Edit(t.Context(), config.Edit{Kind: "upstream", Name: "u", Doc: []byte(`{"targets": {"http://127.0.0.1:9": 3}}`)}, "test"); err == nil {
		t.Error("a target that is not there has a weight")
	}
}

func TestAReloadRefusesWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	file := "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: [{name: all, match: {path: /*}, upstream: u}]\n"
	w := launch(t, file)
	err := w.gateway.Reload(fileOf(t, "listen: 127.0.0.1:9\ncache: {memory: {max_bytes: 1MiB}}\nplans: {default: {policies: [1/hour]}}\n"+file))
	if !errors.Is(err, gateway.ErrNeedsRestart) || err.Error() != "a reload cannot change listen, cache.memory.max_bytes: want a restart" {
		t.Errorf("got %v", err)
	}
	if plans := w.gateway.Plans(); len(plans) != 0 {
		t.Errorf("a part of it is in force: %v", plans)
	}
}

func TestABrokenFileLeavesTheOneBeforeInForce(t *testing.T) {
	t.Parallel()
	good := `
plans: {default: {policies: [%d/hour]}}
upstreams: {u: {targets: ['http://127.0.0.1:1']}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`
	next, loads := fmt.Sprintf(good, 5), 0
	log := &lines{}
	g, err := gateway.New(fileOf(t, next), gateway.Options{Log: log, File: "weir.yaml", Load: func() (*config.Config, error) {
		loads++
		return config.Parse("weir.yaml", []byte(next), nil)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close(context.Background()) })
	w := &weir{t: t, gateway: g}
	metrics := func() [3]float64 {
		return [3]float64{w.total("weir_config_last_reload_successful"), w.total("weir_config_reloads_total", `result="ok"`), w.total("weir_config_reloads_total", `result="error"`)}
	}
	policy := func() string {
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		return rec.Header().Get("Ratelimit-Policy")
	}
	began := w.total("weir_config_last_reload_success_timestamp_seconds")
	next = "plans: {default: {policies: [5/minuet]}}"
	if err := g.ReloadFile("test"); err == nil || !strings.Contains(err.Error(), "5/minuet") {
		t.Errorf("got %v", err)
	}
	if got := metrics(); got != [3]float64{0, 0, 1} || policy() != `"default";q=5;w=3600` {
		t.Errorf("after a broken file: metrics %v, in force %s", got, policy())
	}
	next = fmt.Sprintf(good, 7)
	if err := g.ReloadFile("test"); err != nil {
		t.Fatal(err)
	}
	if got := metrics(); got != [3]float64{1, 1, 1} || policy() != `"default";q=7;w=3600` || loads != 2 {
		t.Errorf("after a good file: metrics %v, in force %s, read %d times", got, policy(), loads)
	}
	if now := w.total("weir_config_last_reload_success_timestamp_seconds"); now <= began {
		t.Errorf("the time of the last success is %v, and was %v", now, began)
	}
	events, _ := g.Events(0)
	var said []string
	for _, e := range events {
		if e.Kind == "reload" {
			said = append(said, e.Level)
		}
	}
	if !reflect.DeepEqual(said, []string{"error", "info"}) {
		t.Errorf("the events are %+v", events)
	}
	if err := (launch(t, "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: [{match: {path: /*}, upstream: u}]\n")).gateway.ReloadFile("test"); !errors.Is(err, gateway.ErrNoFile) {
		t.Errorf("without a file: %v", err)
	}
}

func TestEditsSurviveReloadsAndAreLeftOutWhereTheyDoNotFit(t *testing.T) {
	t.Parallel()
	file := func(routes string) string {
		return `
plans: {default: {policies: [5/hour]}}
upstreams: {u: {targets: ['http://127.0.0.1:1']}}
routes: [` + routes + "]\n"
	}
	const all, chat = "{name: all, match: {path: /*}, upstream: u}", "{name: chat, match: {path: /chat}, upstream: u, cache: {mode: inference, ttl: 1h}}, "
	w := launch(t, file(chat+all))
	w.edits("route", "chat", `{"cache": {"ttl": "5m"}, "max_body": "1MiB"}`)
	w.edits("plan", "default", `{"policies": ["6/hour"], "weight": 3}`)
	inForce := func() (said []string) {
		for _, o := range w.gateway.Overrides() {
			text := o.Kind + " " + o.Name + " " + string(o.Doc)
			if o.LeftOut != "" {
				text += " left out: " + o.LeftOut
			}
			said = append(said, text)
		}
		return said
	}
	want := []string{`plan default {"policies":["6/hour"],"weight":3}`, `route chat {"cache":{"ttl":"5m"},"max_body":"1MiB"}`}
	for i, routes := range []string{chat + all, all, chat + all} {
		w.reloads(file(routes))
		want, counts := want, [2]int{2, 0}
		if i == 1 {
			want, counts = []string{want[0], want[1] + " left out: there is no route chat in the file"}, [2]int{1, 1}
		}
		if got := inForce(); !reflect.DeepEqual(got, want) {
			t.Errorf("after reload %d: %q, want %q", i, got, want)
		}
		if c := w.gateway.Snapshot().Config; [2]int{c.Overrides, c.LeftOut} != counts {
			t.Errorf("after reload %d: %d in force and %d left out, want %v", i, c.Overrides, c.LeftOut, counts)
		}
	}
	if got := w.gateway.Config().Routes[0].Cache.TTL; got != 5*time.Minute {
		t.Errorf("the ttl is %v", got)
	}
	if got := w.gateway.File().Routes[0].Cache.TTL; got != time.Hour {
		t.Errorf("the file's ttl is %v", got)
	}
	w.edits("plan", "default", `{"policies": null}`) // back to the file's
	if got := w.gateway.Overrides()[0].Doc; string(got) != `{"weight":3}` {
		t.Errorf("of the plan is left %s", got)
	}
	if _, err := w.gateway.Edit(t.Context(), config.Edit{Kind: "route", Name: "chat", Doc: []byte(`{"cache": {"ttl": "10x"}}`)}, "test"); err == nil || !strings.Contains(err.Error(), `"10x"`) {
		t.Errorf("a mistake: %v", err)
	}
	for _, name := range []string{"none", ""} {
		if _, err := w.gateway.Edit(t.Context(), config.Edit{Kind: "route", Name: name, Doc: []byte(`{"max_body": "1KiB"}`)}, "test"); !errors.Is(err, gateway.ErrNoSuch) {
			t.Errorf("no such route: %v", err)
		}
	}
	audit, err := w.gateway.Audit(t.Context(), 2)
	if err != nil || len(audit) != 2 {
		t.Fatal(audit, err)
	}
	if c := audit[0]; c.Kind != "plan" || string(c.Before) != `{"policies":["6/hour"],"weight":3}` || string(c.After) != `{"weight":3}` || c.By != "test" || c.At.IsZero() {
		t.Errorf("the last change: %+v", c)
	}
}

func TestALeftOutEditIsTakenBack(t *testing.T) {
	t.Parallel()
	with := "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: [{name: c, match: {path: /c}, upstream: u, max_body: 1MiB}, {name: all, match: {path: /*}, upstream: u}]\n"
	without := strings.Replace(with, "{name: c, match: {path: /c}, upstream: u, max_body: 1MiB}, ", "", 1)
	w := launch(t, with)
	w.edits("route", "c", `{"max_body": "2MiB"}`)
	w.reloads(without)
	if c, err := w.gateway.Revert(t.Context(), "route", "c", "test"); err != nil || c.Doc != nil || len(w.gateway.Overrides()) != 0 {
		t.Fatal(c, err, w.gateway.Overrides())
	}
	w.reloads(with)
	if got := w.gateway.Config().Routes[0].MaxBody; got != 1<<20 {
		t.Errorf("the largest body is %d, want the file's", got)
	}
}

func TestWhatIsGoneHasNoMetrics(t *testing.T) {
	t.Parallel()
	w := launch(t, "upstreams: {a: {targets: ['http://127.0.0.1:1']}, b: {targets: ['http://127.0.0.1:1']}}\nroutes: [{name: y, match: {path: /y}, upstream: b}, {name: x, match: {path: /*}, upstream: a}]\n")
	count := func() int { return strings.Count(w.metrics(), `weir_admission_limit{upstream=`) }
	if count() != 2 {
		t.Fatal(w.metrics())
	}
	w.reloads("upstreams: {a: {targets: ['http://127.0.0.1:1']}}\nroutes: [{name: x, match: {path: /*}, upstream: a}]\n")
	if count() != 1 {
		t.Errorf("after b is gone: %s", w.metrics())
	}
}

// metrics is the page.
func (w *weir) metrics() string {
	rec := httptest.NewRecorder()
	w.gateway.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

func TestAReloadChangesKeys(t *testing.T) {
	t.Parallel()
	w := before(t, "callers: {keys: [{caller: a, key: weir_a}]}\nupstreams: {u: {targets: [T0]}}\nroutes: [{name: all, match: {path: /*}, upstream: u}]\n", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	target := w.gateway.Config().Upstreams["u"].Targets[0].URL
	ask := func(key string) int { return w.send("GET", "/", "", "X-Api-Key", key).status }
	if got := [2]int{ask("weir_a"), ask("weir_b")}; got != [2]int{200, 401} {
		t.Fatal(got)
	}
	w.reloads("callers: {keys: [{caller: b, key: weir_b}]}\nupstreams: {u: {targets: ['" + target + "']}}\nroutes: [{name: all, match: {path: /*}, upstream: u}]\n")
	if got := [2]int{ask("weir_a"), ask("weir_b")}; got != [2]int{401, 200} {
		t.Error(got)
	}
}

// editable is a configuration of which everything is edited.
const editable = `
plans: {default: {policies: [5/hour]}}
upstreams: {u: {targets: ['http://127.0.0.1:1'], concurrency: 8}}
routes: [{name: "GET /x y", match: {path: /x}, upstream: u, cache: {mode: inference, ttl: 1h}}]
`

// shown is what of a gateway's configuration may be edited.
func shown(g *gateway.Gateway) string {
	c := g.Config()
	return fmt.Sprint(c.Plans["default"].Weight, " ", c.Upstreams["u"].Concurrency.Max, " ", c.Upstreams["u"].Queue.Max, " ", c.Routes[0].Cache.TTL)
}

func editAll(w *instance) {
	w.edits("plan", "default", `{"weight": 7}`)
	w.edits("upstream", "u", `{"concurrency": 2, "queue": {"max": 9}}`)
	w.edits("route", "GET /x y", `{"cache": {"ttl": "2m"}}`)
}

func TestEditsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	yaml := "database: {url: 'sqlite:" + filepath.Join(t.TempDir(), "weir.db") + "'}\n" + editable
	a := launch(t, yaml)
	editAll(a)
	if err := a.gateway.Database().Overrides().Set(t.Context(), "plan", "default", []byte(`{"policies":["3/hour"]}`), "another instance"); err != nil {
		t.Fatal(err)
	}
	a.stop()
	b := launch(t, yaml)
	if got, want := shown(b.gateway), "1 2 9 2m0s"; got != want {
		t.Errorf("after a restart: %s, want %s", got, want)
	}
	if got := b.gateway.Config().Plans["default"].Policies[0].Quota; got != 3 {
		t.Errorf("what another instance kept: %d", got)
	}
	if c := b.edits("plan", "default", `{"weight": 2}`); !c.Kept || string(c.Doc) != `{"policies":["3/hour"],"weight":2}` {
		t.Errorf("an edit of that: %s", c.Doc)
	}
	for _, o := range b.gateway.Overrides() {
		if !o.Kept {
			t.Errorf("not kept: %+v", o)
		}
		if c, err := b.gateway.Revert(t.Context(), o.Kind, o.Name, "test"); err != nil || !c.Kept {
			t.Error(c, err)
		}
	}
	b.stop()
	if c := launch(t, yaml); shown(c.gateway) != "1 8 256 1h0m0s" || len(c.gateway.Overrides()) != 0 {
		t.Errorf("after all is taken back: %s", shown(c.gateway))
	}
}

func TestInstancesFollowEdits(t *testing.T) {
	t.Parallel()
	yaml := "database: {url: '" + storetest.Postgres(t).URL() + "'}\n" + editable
	a, b := launch(t, yaml), launch(t, yaml)
	editAll(a)
	storetest.Eventually(t, eventually, "the other has the changes", func() bool { return shown(b.gateway) == "7 2 9 2m0s" })
	b.edits("upstream", "u", `{"queue": {"max": 5}}`) // beside what the other has changed there
	storetest.Eventually(t, eventually, "the first has the change of the other", func() bool { return shown(a.gateway) == "7 2 5 2m0s" })
	if _, err := b.gateway.Revert(t.Context(), "route", "GET /x y", "b"); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, eventually, "the first has it taken back", func() bool { return shown(a.gateway) == "7 2 5 1h0m0s" })
	audit, err := a.gateway.Audit(t.Context(), 0)
	if err != nil || len(audit) != 5 {
		t.Fatal(audit, err)
	}
	last, _ := json.Marshal([]any{audit[0].Kind, audit[0].Before, audit[0].After, audit[0].By, audit[0].Kept})
	if string(last) != `["route",{"cache":{"ttl":"2m"}},null,"b",true]` {
		t.Errorf("the last change: %s", last)
	}
}
