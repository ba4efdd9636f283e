package admin_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
	"github.com/inferweir/weir/storetest"
)

// live is a configuration with something of every kind.
const live = `
callers: {keys: [{caller: alice, key: weir_alice}]}
plans: {default: {policies: [5/minute]}}
upstreams: {llm: {targets: ["http://127.0.0.1:1"], concurrency: 8, set_headers: {Authorization: "Bearer sesame"}}}
routes:
  - {match: {path: /v1/x, methods: [GET]}, upstream: llm, cache: {mode: inference, ttl: 10m}}
  - {name: all, match: {path: /*}, upstream: llm}
`

// member reads a member of an answer, by its names from the outside.
func member(t *testing.T, rec *httptest.ResponseRecorder, names ...string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		t.Fatalf("%q: %v", rec.Body, err)
	}
	for _, name := range names {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

func TestRoutesAndUpstreamsAreChanged(t *testing.T) {
	o := open(t, live, "")
	list := o.ask("GET", "/api/v1/routes", "")
	if got := member(t, list, "routes", "GET /v1/x", "cache", "ttl"); list.Code != 200 || got != "10m" {
		t.Errorf("%d %s", list.Code, list.Body)
	}
	// A name with a space and slashes is one segment, or what is left of the path.
	for ttl, at := range map[string]string{"3m": "/api/v1/routes/GET%20%2Fv1%2Fx", "4m": "/api/v1/routes/GET%20/v1/x"} {
		got := o.ask("PATCH", at, `{"cache": {"ttl": "`+ttl+`"}}`)
		equal(t, []any{got.Code, member(t, got, "cache", "ttl"), member(t, got, "override"), member(t, got, "file", "cache", "ttl"), member(t, got, "kept")},
			[]any{200, ttl, map[string]any{"cache": map[string]any{"ttl": ttl}}, "10m", false})
		equal(t, member(t, o.ask("GET", at, ""), "cache", "ttl"), any(ttl))
	}
	const upstream = "/api/v1/upstreams/llm"
	got := o.ask("PATCH", upstream, `{"concurrency": {"max": 16}, "queue": {"max": 7}}`)
	equal(t, []any{got.Code, member(t, got, "queue", "max"), o.gateway.Config().Upstreams["llm"].Concurrency.Max}, []any{200, 7.0, 16})
	got = o.ask("DELETE", upstream, "")
	equal(t, []any{got.Code, member(t, got, "queue", "max"), member(t, got, "override"), member(t, got, "kept")}, []any{200, 256.0, nil, true})
	for path, want := range map[string]string{
		"/api/v1/routes/none":    `There is no route "none": want GET /v1/x, all.`,
		"/api/v1/routes/":        `There is no route "": want GET /v1/x, all.`,
		"/api/v1/upstreams/none": `There is no upstream "none": want llm.`,
	} {
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			body := ""
			if method == "PATCH" {
				body = `{"queue": {"max": 7}}`
			}
			got := o.ask(method, path, body)
			equal(t, []any{got.Code, member(t, got, "detail")}, []any{404, want})
		}
	}
	mistakes := o.ask("PATCH", upstream, `{"targets": {"http://127.0.0.1:9": 2}, "breaker": {}}`)
	if mistakes.Code != 400 || !strings.Contains(mistakes.Body.String(), "breaker: is no member of an upstream that can be changed: want targets, concurrency or queue") {
		t.Errorf("%d %s", mistakes.Code, mistakes.Body)
	}
}

func TestTheConfigurationIsShown(t *testing.T) {
	o := open(t, live, "")
	o.ask("PATCH", "/api/v1/plans/default", `{"policies": ["7/minute"]}`)
	got := o.ask("GET", "/api/v1/config", "")
	file, _ := member(t, got, "file").(string)
	inForce, _ := member(t, got, "in_force").(string)
	if got.Code != 200 || strings.Contains(got.Body.String(), "sesame") || strings.Contains(got.Body.String(), "weir_alice") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if !strings.Contains(file, "quota: 5\n") || !strings.Contains(inForce, "quota: 7\n") {
		t.Errorf("the file is\n%s\nand in force\n%s", file, inForce)
	}
	equal(t, member(t, got, "differences"), any([]any{map[string]any{"path": "plans.default.policies", "file": "[5/minute]", "in_force": "[7/minute]"}}))
	overrides, _ := member(t, got, "overrides").([]any)
	if len(overrides) != 1 {
		t.Errorf("the overrides are %v", overrides)
	}
	yaml := o.ask("GET", "/api/v1/config?format=yaml", "")
	equal(t, []any{yaml.Code, yaml.Header().Get("Content-Type"), yaml.Body.String()}, []any{200, "application/yaml", inForce})
	equal(t, o.ask("GET", "/api/v1/config?format=toml", "").Code, 400)
}

func TestAnEditThatIsLeftOutIsShownAndTakenBack(t *testing.T) {
	parse := func(text string) *config.Config {
		c, err := config.Parse("weir.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const routeC = "  - {name: c, match: {path: /c}, upstream: llm}\n"
	with := strings.Replace(live, "  - {name: all", routeC+"  - {name: all", 1)
	o := open(t, with, "")
	o.ask("PATCH", "/api/v1/routes/c", `{"max_body": "1MiB"}`)
	if err := o.gateway.Reload(parse(live)); err != nil {
		t.Fatal(err)
	}
	const why = "there is no route c in the file"
	overrides, _ := member(t, o.ask("GET", "/api/v1/config", ""), "overrides").([]any)
	if len(overrides) != 1 {
		t.Fatalf("the overrides are %v", overrides)
	}
	first, _ := overrides[0].(map[string]any)
	equal(t, []any{first["kind"], first["name"], first["left_out"]}, []any{"route", "c", why})
	got := o.ask("GET", "/api/v1/routes/c", "")
	equal(t, []any{got.Code, member(t, got, "override"), member(t, got, "left_out"), member(t, got, "file")},
		[]any{200, map[string]any{"max_body": "1MiB"}, why, nil})
	equal(t, member(t, o.ask("GET", "/api/v1/routes", ""), "routes", "c"), nil) // it is not in force
	equal(t, o.ask("PATCH", "/api/v1/routes/c", `{"max_body": "2MiB"}`).Code, 404)
	got = o.ask("DELETE", "/api/v1/routes/c", "")
	equal(t, []any{got.Code, got.Body.String()}, []any{200, `{"kept":true}` + "\n"})
	equal(t, o.ask("GET", "/api/v1/routes/c", "").Code, 404)
	if err := o.gateway.Reload(parse(with)); err != nil {
		t.Fatal(err)
	}
	equal(t, member(t, o.ask("GET", "/api/v1/routes/c", ""), "max_body"), any("10MiB"))
}

func TestWhatLoadMovesIsShown(t *testing.T) {
	release := make(chan struct{})
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer target.Close()
	var requests sync.WaitGroup
	defer requests.Wait()
	defer close(release)
	o := open(t, `
plans: {default: {policies: [3/hour, {name: p, quota: 100, window: 1h, auto: {min: 80, max: 120}}]}}
upstreams: {llm: {targets: ["`+target.URL+`"], concurrency: 1, queue: {max: 1}}}
routes: [{name: all, match: {path: /*}, upstream: llm, cache: {mode: inference, ttl: 1h, auto: {min: 1h, max: 2h}}}]
`, "")
	moved := func(what, value, min, max, reason string) map[string]any {
		return map[string]any{"what": what, "value": value, "min": min, "max": max, "reason": reason}
	}
	// Nothing has moved.
	equal(t, member(t, o.ask("GET", "/api/v1/plans/default", ""), "auto"), any([]any{moved("plan:default/p", "100", "80", "120", "as in the file")}))
	equal(t, member(t, o.ask("GET", "/api/v1/routes", ""), "routes", "all", "auto"), any([]any{moved("route:all/cache.ttl", "1h0m0s", "1h0m0s", "2h0m0s", "as in the file")}))
	equal(t, member(t, o.ask("GET", "/api/v1/upstreams/llm", ""), "auto"), nil)
	equal(t, member(t, o.ask("GET", "/api/v1/config", ""), "differences"), any([]any{}))

	for _, path := range []string{"/a", "/b", "/c"} { // one has the place, one waits, one is refused
		requests.Go(func() { o.gateway.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)) })
	}
	storetest.Eventually(t, time.Minute, "the quota is lowered", func() bool { return o.gateway.Auto()[0].Value == "80" })
	got := o.ask("GET", "/api/v1/plans", "")
	equal(t, member(t, got, "plans", "default", "auto"), any([]any{
		moved("plan:default/p", "80", "80", "120", "lowered from 100 to 80: the queue of llm refused 1 request in the last 5s")}))
	equal(t, member(t, o.ask("GET", "/api/v1/config", ""), "differences"), any([]any{
		map[string]any{"path": "plans.default.policies[1].quota", "file": "100", "in_force": "80", "why": "moved by load"},
		map[string]any{"path": "routes[0].cache.ttl", "file": "1h0m0s", "in_force": "2h0m0s", "why": "moved by load"},
	}))
}

func TestChangesAreRemembered(t *testing.T) {
	o := open(t, live, "")
	equal(t, o.ask("GET", "/api/v1/audit", "").Body.String(), `{"changes":[]}`+"\n")
	o.ask("PATCH", "/api/v1/plans/default", `{"policies": ["7/minute"]}`)
	o.ask("DELETE", "/api/v1/plans/default", "")
	got := o.ask("GET", "/api/v1/audit?max=1", "")
	changes, _ := member(t, got, "changes").([]any)
	if len(changes) != 1 {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	last, _ := changes[0].(map[string]any)
	equal(t, []any{last["kind"], last["name"], last["before"], last["after"], last["by"]},
		[]any{"plan", "default", map[string]any{"policies": []any{"7/minute"}}, nil, "admin 127.0.0.1:50000"})
	for _, max := range []string{"0", "x", "10001"} {
		equal(t, o.ask("GET", "/api/v1/audit?max="+max, "").Code, 400)
	}
}

func TestReloads(t *testing.T) {
	parse := func(text string) (*config.Config, error) { return config.Parse("weir.yaml", []byte(text), nil) }
	text, failure := live, error(nil)
	c, err := parse(live)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(c, gateway.Options{File: "weir.yaml", Load: func() (*config.Config, error) {
		if failure != nil {
			return nil, failure
		}
		return parse(text)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close(t.Context()) })
	h := admin.Handler(g, config.Admin{})
	reload := func() *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://127.0.0.1:8081/api/v1/reload", nil)
		r.RemoteAddr = "127.0.0.1:50000"
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec
	}
	text = strings.Replace(live, "5/minute", "9/minute", 1)
	got := reload()
	equal(t, []any{got.Code, got.Body.String()}, []any{200, `{"differences":[],"reloaded":true}` + "\n"})
	if p := g.Config().Plans["default"].Policies; len(p) != 1 || p[0].Quota != 9 {
		t.Errorf("in force is %+v", p)
	}
	text = strings.Replace(live, "5/minute", "5/minuet", 1)
	got = reload()
	if list, _ := member(t, got, "mistakes").([]any); got.Code != 400 || len(list) != 1 || !strings.Contains(got.Body.String(), "5/minuet") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	text = "listen: 127.0.0.1:9\n" + live
	got = reload()
	equal(t, []any{got.Code, member(t, got, "detail")}, []any{409, "Nothing is changed: a reload cannot change listen: want a restart."})
	failure = errors.New("weir.yaml: it is gone")
	got = reload()
	equal(t, []any{got.Code, member(t, got, "detail")}, []any{400, "Nothing is changed: weir.yaml: it is gone."})

	got = open(t, live, "").ask("POST", "/api/v1/reload", "")
	equal(t, []any{got.Code, member(t, got, "detail")}, []any{409, "There is no file to reload: Weir was started without --config."})
	if got := g.Config().Plans["default"].Policies[0].Quota; !reflect.DeepEqual(got, int64(9)) {
		t.Errorf("the quota in force is %d", got)
	}
}
