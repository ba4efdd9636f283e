package admin

import (
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

const withAuto = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}]}
plans:
  default: {policies: [5/minute]}
  pro: {policies: [10/second, {name: fast, quota: 60, window: 1m, auto: {min: 30, max: 100}}]}
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes:
  - name: all
    match: {path: /v1/*}
    upstream: u
    policies: [{name: together, concurrent: 4, by: global, auto: {min: 2, max: 8}}]
    cache: {mode: inference, ttl: 10m, auto: {min: 1m, max: 1h}}
`

func autosOf() []gateway.AutoSnapshot {
	return []gateway.AutoSnapshot{
		{What: "plan:pro/fast", Kind: "plan", Name: "pro", Path: "plans.pro.policies[1].quota", Value: "100", Min: "30", Max: "100", File: "60"},
		{What: "route:all/cache.ttl", Kind: "route", Name: "all", Path: "routes[0].cache.ttl", Value: "20m0s", Min: "1m0s", Max: "1h0m0s", File: "10m0s"},
		{What: "route:all/together", Kind: "route", Name: "all", Path: "routes[0].policies[0].concurrent", Value: "4", Min: "2", Max: "8", File: "4"},
	}
}

func TestMovedValuesHaveTheirUnits(t *testing.T) {
	c, err := config.Parse("test.yaml", []byte(withAuto), nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := movedRows(c, autosOf())
	var got [][6]any
	for _, r := range rows {
		got = append(got, [6]any{r.Path, r.Now, r.Least, r.Most, r.Was, r.Moved})
	}
	want := [][6]any{
		{"plans.pro.policies[1].quota", "100 per 1m", "30 per 1m", "100 per 1m", "60 per 1m", true},
		{"routes[0].cache.ttl", "20m0s", "1m0s", "1h0m0s", "10m0s", true},
		{"routes[0].policies[0].concurrent", "4 concurrent", "2 concurrent", "8 concurrent", "4 concurrent", false},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	f := func(kind, name string, want map[string][]string) {
		t.Helper()
		if got := movedIn(rows, kind, name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s: got %v, want %v", kind, name, got, want)
		}
	}
	f("plan", "pro", map[string][]string{"policies": {"fast to 100 per 1m"}})
	f("plan", "default", map[string][]string{})
	f("route", "all", map[string][]string{"cache.ttl": {"it to 20m0s"}})
}

// The page and its form say what load has moved, at once and while they are looked at.
func TestPagesSayWhatLoadHasMoved(t *testing.T) {
	d := dashboardOf(t, withAuto)
	d.snapshot = func() gateway.Snapshot { return gateway.Snapshot{Auto: autosOf()} }
	page := rendered(t, d, "/config")
	contains(t, page, `<code>plans.pro.policies[1].quota</code></th><td data-label="File"><code>60 per 1m</code></td><td data-label="In force"><code>100 per 1m</code></td><td data-label="Why">moved by load</td>`,
		`<code>routes[0].cache.ttl</code>`, `30 per 1m to 100 per 1m`)
	if strings.Contains(page, "<code>routes[0].policies[0].concurrent") {
		t.Error("what is as in the file is among the differences")
	}
	contains(t, rendered(t, d, "/config/edit?kind=plan&name=pro"), "<strong>Load has moved fast to 100 per 1m.</strong>")
	data, err := d.update(httptest.NewRequest("GET", "/live/config", nil), d.pageAt("/config"))
	if err != nil {
		t.Fatal(err)
	}
	var u update
	if err := json.Unmarshal(data, &u); err != nil {
		t.Fatal(err)
	}
	contains(t, u.Regions["differs"], "moved by load")
}

func TestTheCommandToTryWorks(t *testing.T) {
	f := func(name, yaml, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c, err := config.Parse("test.yaml", []byte("upstreams: {u: {targets: [\"http://127.0.0.1:1\"]}, llm: {targets: [\"http://127.0.0.1:2\"], dialect: openai}}\n"+yaml), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := try(c); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	const at = "'http://127.0.0.1:8080"
	const body = "-H 'Content-Type: application/json' -d "
	f("a prefix without its star", `routes: [{name: a, match: {path: /v1/*}, upstream: u}]`, "curl -i "+at+"/v1/'")
	f("an exact path", `routes: [{name: a, match: {path: /ask}, upstream: u}]`, "curl -i "+at+"/ask'")
	f("the first route for a GET", `routes: [{name: a, match: {path: /ask, methods: [POST]}, upstream: u}, {name: b, match: {path: /models, methods: [GET]}, upstream: llm}]`, "curl -i "+at+"/models'")
	f("a POST where no route is for a GET", `routes: [{name: a, match: {path: /v1/chat/completions, methods: [POST]}, upstream: llm}]`, "curl -i "+body+"'{}' "+at+"/v1/chat/completions'")
	f("a POST where a model is asked", `routes: [{name: a, match: {path: /v1/chat/completions}, upstream: llm}]`, "curl -i "+body+"'{}' "+at+"/v1/chat/completions'")
	f("a model that a route is for", `routes: [{name: a, match: {path: /v1/*, model: "llama*"}, upstream: llm}]`, "curl -i "+body+`'{"model": "llama"}' `+at+"/v1/'")
	f("another method", `routes: [{name: a, match: {path: /a, methods: [PUT]}, upstream: u}]`, "curl -i "+body+"'{}' -X PUT "+at+"/a'")
	f("with a key where callers need one", "callers: {require: true, keys: [{caller: alice, key: weir_alice}]}\nroutes: [{name: a, match: {path: /a}, upstream: u}]",
		`curl -i -H "Authorization: Bearer $WEIR_KEY" `+at+"/a'")
	f("as a shell reads it", `routes: [{name: a, match: {path: "/it's"}, upstream: u}]`, "curl -i "+at+`/it'\''s'`)
}

func TestSentences(t *testing.T) {
	for text, want := range map[string]string{"": "", "connection refused": "Connection refused.", "Over. ": "Over.", "so?": "So?", "éa": "Éa."} {
		if got := sentence(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
