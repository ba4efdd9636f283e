package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const twoPlans = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}]}
plans:
  default: {policies: [5/minute]}
  pro: {policies: [300/minute, 20000 tokens/minute, {name: daily, quota: 1000, window: 24h, by: ip}]}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /v1/*}, upstream: u}]
`

// operators is an admin listener without the network.
type operators struct {
	t       *testing.T
	handler http.Handler
	gateway *gateway.Gateway
	log     *bytes.Buffer
	purged  *purges
}

func open(t *testing.T, yaml, token string) *operators {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	g, err := gateway.New(cfg, gateway.Options{Log: log, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close(context.Background()) })
	purged := &purges{removed: 12}
	return &operators{t, admin.HandlerWith(g, purged, config.Admin{Token: token}), g, log, purged}
}

// purges writes down what it is asked to remove.
type purges struct {
	asked   [][2]string
	removed int
	err     error
}

func (p *purges) Purge(_ context.Context, kind, value string) (int, error) {
	p.asked = append(p.asked, [2]string{kind, value})
	return p.removed, p.err
}

// ask sends a request from this machine, as curl would, unless fields say
// otherwise: "Host" and "Remote" are no fields, but the request's own.
func (o *operators) ask(method, path, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host, r.RemoteAddr = "127.0.0.1:8081", "127.0.0.1:50000"
	if method == http.MethodPatch || method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(fields); i += 2 {
		switch name, value := fields[i], fields[i+1]; {
		case name == "Host":
			r.Host = value
		case name == "Remote":
			r.RemoteAddr = value
		case name == "Content-Type":
			r.Header.Set(name, value)
		default:
			r.Header.Add(name, value)
		}
	}
	rec := httptest.NewRecorder()
	o.handler.ServeHTTP(rec, r)
	return rec
}

// logged waits for the log, and returns its lines but for their time.
func (o *operators) logged() (lines []map[string]any) {
	o.t.Helper()
	if err := o.gateway.Close(context.Background()); err != nil {
		o.t.Fatal(err)
	}
	for line := range strings.Lines(o.log.String()) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			o.t.Fatalf("%q: %v", line, err)
		}
		delete(l, "time")
		lines = append(lines, l)
	}
	return lines
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// said is the status and the body of an answer.
func said(rec *httptest.ResponseRecorder) [2]any { return [2]any{rec.Code, rec.Body.String()} }

// fivePerMinute is the plan default of twoPlans, and rest what follows the policies of the
// other.
const (
	rest          = `,"weight":1,"priority":"standard"}`
	fivePerMinute = `{"policies":["5/minute"]` + rest
)

func TestPlans(t *testing.T) {
	const pro = `["300/minute","20000 tokens/minute",{"name":"daily","quota":1000,"window":"1d","unit":"requests","by":"ip","burst":1000,"algorithm":"token_bucket"}]`
	t.Run("shows all plans as the configuration has them", func(t *testing.T) {
		o := open(t, twoPlans, "")
		got := o.ask("GET", "/api/v1/plans", "")
		equal(t, said(got), [2]any{200, `{"plans":{"default":` + fivePerMinute + `,"pro":{"policies":` + pro + rest + "}}\n"})
		equal(t, [2]string{got.Header().Get("Content-Type"), got.Header().Get("Cache-Control")}, [2]string{"application/json", "no-store"})
	})
	t.Run("shows one plan", func(t *testing.T) {
		o := open(t, twoPlans, "")
		equal(t, said(o.ask("GET", "/api/v1/plans/pro", "")), [2]any{200, `{"policies":` + pro + rest + "\n"})
	})
	t.Run("shows that there are none", func(t *testing.T) {
		_, noPlans, _ := strings.Cut(twoPlans, "window: 24h, by: ip}]}")
		o := open(t, noPlans, "")
		equal(t, said(o.ask("GET", "/api/v1/plans", "")), [2]any{200, `{"plans":{}}` + "\n"})
		equal(t, o.ask("GET", "/api/v1/plans/x", "").Code, 404)
	})
	t.Run("takes back what it shows", func(t *testing.T) {
		o := open(t, twoPlans, "")
		shown := o.ask("GET", "/api/v1/plans/pro", "").Body.String()
		body := `{"policies":` + pro + `,"weight":1,"priority":"standard"`
		equal(t, said(o.ask("PATCH", "/api/v1/plans/pro", shown)), [2]any{200, body + `,"override":` + body + `},"file":` + body + `},"kept":false}` + "\n"})
	})
	t.Run("says what is in force after a change, from the next request on", func(t *testing.T) {
		o := open(t, twoPlans, "")
		got := o.ask("PATCH", "/api/v1/plans/default", `{"policies": ["2/minute", {"name": "daily", "quota": 1000, "window": "24h"}]}`)
		const now = `{"policies":["2/minute",{"name":"daily","quota":1000,"window":"1d","unit":"requests","by":"caller","burst":1000,"algorithm":"token_bucket"}],"weight":1,"priority":"standard",` +
			`"override":{"policies":["2/minute",{"name":"daily","quota":1000,"window":"24h"}]},"file":` + fivePerMinute + `,"kept":false`
		equal(t, said(got), [2]any{200, now + "}\n"})
		var at struct{ At string }
		shown := o.ask("GET", "/api/v1/plans/default", "").Body.String()
		if err := json.Unmarshal([]byte(shown), &at); err != nil {
			t.Fatal(err)
		}
		equal(t, shown, now+`,"by":"admin 127.0.0.1:50000","at":"`+at.At+"\"}\n")
		var limits []string
		for range 3 {
			rec := httptest.NewRecorder()
			o.gateway.ServeHTTP(rec, httptest.NewRequest("GET", "/v1/models", nil))
			limits = append(limits, fmt.Sprint(rec.Code, " ", rec.Header().Get("Ratelimit-Policy")))
		}
		// The upstream is not there, and what brought no answer costs nothing.
		equal(t, limits, slices.Repeat([]string{`502 "default";q=2;w=60, "daily";q=1000;w=86400`}, 3))
		equal(t, o.ask("PATCH", "/api/v1/plans/default", `{"policies": []}`).Body.String(), `{"policies":[],"weight":1,"priority":"standard","override":{"policies":[]},"file":`+fivePerMinute+`,"kept":false}`+"\n")
	})
	t.Run("logs who changed what", func(t *testing.T) {
		o := open(t, twoPlans, "")
		o.ask("PATCH", "/api/v1/plans/default", `{"policies": ["7/hour"]}`)
		equal(t, o.logged(), []map[string]any{{
			"level": "INFO", "msg": "a change of the live configuration is in force", "kind": "plan", "name": "default",
			"before": map[string]any{"policies": []any{"5/minute"}, "weight": 1.0, "priority": "standard"},
			"after":  map[string]any{"policies": []any{"7/hour"}, "weight": 1.0, "priority": "standard"}, "kept": false, "by": "admin 127.0.0.1:50000",
		}})
	})
}

func TestRefusedChanges(t *testing.T) {
	o := open(t, twoPlans, "")
	f := func(name string, got *httptest.ResponseRecorder, status int, detail string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var p struct{ Detail string }
			if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
				t.Fatalf("%q: %v", got.Body, err)
			}
			equal(t, [3]any{got.Code, got.Header().Get("Content-Type"), p.Detail}, [3]any{status, "application/problem+json", detail})
			equal(t, o.ask("GET", "/api/v1/plans/default", "").Body.String(), fivePerMinute+"\n")
		})
	}
	const at = "/api/v1/plans/default"
	f("names the plans where one is unknown", o.ask("PATCH", "/api/v1/plans/gold", `{"policies": []}`), 404, `There is no plan "gold": want default, pro.`)
	f("an unknown plan is not there to look at either", o.ask("GET", "/api/v1/plans/a%2Fb", ""), 404, `There is no plan "a/b": want default, pro.`)
	f("a path that is none", o.ask("GET", "/api/v1/plan", ""), 404, "This is the admin listener: below /api/v1/ want plans, routes, upstreams, config, reload, audit, snapshot, events, explain, keys, usage, jobs or cache/purge.")
	f("a form of a web page", o.ask("PATCH", at, `{"policies": []}`, "Content-Type", "text/plain"), 415, "Want a body that is not compressed, with Content-Type: application/json.")
	f("a body of no type", o.ask("PATCH", at, `{"policies": []}`, "Content-Type", ""), 415, "Want a body that is not compressed, with Content-Type: application/json.")
	f("a compressed body", o.ask("PATCH", at, `{"policies": []}`, "Content-Encoding", "gzip"), 415, "Want a body that is not compressed, with Content-Type: application/json.")
	f("a body of more than 1 MiB", o.ask("PATCH", at, `{"policies": ["`+strings.Repeat("x", 1<<20)+`"]}`), 413, "The body is too large: want at most 1048576 bytes.")
	f("no body", o.ask("PATCH", at, ""), 400, `Nothing is changed: want a JSON object, for example {"policies": ["5/minute"]}`)
	f("a list alone", o.ask("PATCH", at, `["5/minute"]`), 400, `Nothing is changed: want a JSON object, for example {"policies": ["5/minute"]}`)
	f("nothing to change", o.ask("PATCH", at, `{}`), 400, `Nothing is changed: want a member to change: policies, budget, weight or priority, for example {"policies": ["5/minute"]}`)
	f("a member that is unknown", o.ask("PATCH", at, `{"policies": [], "callers": 2}`), 400, `Nothing is changed: callers: is no member of a plan that can be changed: want policies, budget, weight or priority`)
	f("no number", o.ask("PATCH", at, `{"weight": 2000}`), 400, `Nothing is changed: plans.default.weight: "2000": want from 1 to 1000`)
	f("a member twice", o.ask("PATCH", at, `{"policies": [], "policies": ["1/minute"]}`), 400, "Nothing is changed: policies: is there twice: want it once")
	f("half an object", o.ask("PATCH", at, `{"policies": ["5/minute"]`), 400, `Nothing is changed: is no JSON after byte 25: EOF: want for example {"policies": ["5/minute"]}`)
	f("more behind the object", o.ask("PATCH", at, `{"policies": []} {}`), 400, "Nothing is changed: something follows the JSON object: want nothing behind it")
	many := strings.Repeat(`"5/minute",`, 32) + `"5/minute"`
	f("more policies than a request can take from", o.ask("PATCH", at, `{"policies": [`+many+`]}`), 400, "Nothing is changed: plans.default.policies: 33 policies: want at most 32")

	t.Run("no more policies than there is room for beside a route's", func(t *testing.T) {
		o := open(t, strings.Replace(twoPlans, "upstream: u}", "upstream: u, policies: [1/hour]}", 1), "")
		got := o.ask("PATCH", at, `{"policies": [`+strings.Repeat(`"5/minute",`, 31)+`"5/minute"]}`)
		const want = `33 policies together with those of route \"all\": want at most 32`
		if got.Code != 400 || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%d %s, want 400 and %s", got.Code, got.Body, want)
		}
	})
	t.Run("tells every mistake and its place", func(t *testing.T) {
		got := o.ask("PATCH", at, `{"polices": 1, "policies": ["5/minuet", {"quota": 0, "window": "10x", "colour": "red"}]}`)
		var p struct {
			Status   int
			Detail   string
			Mistakes []struct{ Path, Value, Detail string }
		}
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
			t.Fatalf("%q: %v", got.Body, err)
		}
		var places [][2]string
		for _, m := range p.Mistakes {
			places = append(places, [2]string{m.Path, m.Value})
			if m.Detail == "" {
				t.Errorf("%+v: want what would be right", m)
			}
		}
		equal(t, places, [][2]string{{"polices", ""}, {"plans.default.policies[0]", "5/minuet"}, {"plans.default.policies[1].colour", ""}, {"plans.default.policies[1].quota", "0"}, {"plans.default.policies[1].window", "10x"}})
		equal(t, p.Detail, `Nothing is changed: polices: is no member of a plan that can be changed: want policies, budget, weight or priority; and 4 more`)
	})
	t.Run("a method that a path has not", func(t *testing.T) {
		var got [][2]any
		for _, ask := range [][2]string{{"POST", "/api/v1/plans"}, {"PATCH", "/api/v1/plans"}, {"PUT", at}, {"POST", at}} {
			rec := o.ask(ask[0], ask[1], "")
			got = append(got, [2]any{rec.Code, rec.Header().Get("Allow")})
		}
		equal(t, got, [][2]any{{405, "GET, HEAD"}, {405, "GET, HEAD"}, {405, "GET, HEAD, PATCH, DELETE"}, {405, "GET, HEAD, PATCH, DELETE"}})
		equal(t, o.ask("HEAD", at, "").Code, 200)
	})
	t.Run("deep and long bodies end soon", func(t *testing.T) {
		begun := time.Now()
		for _, list := range []string{strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "[" + strings.Repeat(`"a",`, 200_000) + `"a"]`, "[" + strings.Repeat(`{"quota":1},`, 80_000) + "1]"} {
			equal(t, o.ask("PATCH", at, `{"policies": `+list+`}`).Code, 400)
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// What the file check refuses is refused here, too.
func TestChangesThatCanNeverMatch(t *testing.T) {
	o := open(t, `
callers: {keys: [{caller: alice, key: weir_alice}], overrides: [{caller: "key:alice", policies: [{name: own, quota: 1, window: 1s}]}]}
plans: {default: {policies: [5/minute]}, nobodys: {}}
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: /v1/*}, upstream: u}]
`, "")
	change := func(plan, policies string) any {
		var p struct {
			Mistakes []struct{ Path, Value, Detail string }
		}
		got := o.ask("PATCH", "/api/v1/plans/"+plan, `{"policies": [`+policies+`]}`)
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
			t.Fatalf("%q: %v", got.Body, err)
		}
		var said []string
		for _, m := range p.Mistakes {
			said = append(said, m.Path+": "+m.Value+": "+m.Detail)
		}
		return append(said, fmt.Sprint(got.Code))
	}
	equal(t, change("default", `"9 tokens/minute", {"quota": 100, "window": "1m", "lease": {"max_excess": "1%"}}`), []string{
		"plans.default.policies[0]: 9 tokens/minute: never counts: upstream u has the dialect plain, which does not say how many tokens a request uses: want unit requests, or dialect openai, anthropic, ollama or kserve",
		"plans.default.policies[1].lease: : has no effect with store.url memory:, which nothing is asked for over a network: want it with a Redis URL", "400",
	})
	equal(t, change("default", `{"name": "a", "quota": 9, "window": "1m", "by": "header:X_Team"}, {"name": "b", "quota": 9, "window": "1m", "by": "header:X-User-ID"}, {"name": "c", "concurrent": 9, "by": "header:Authorization"}`), []string{
		"plans.default.policies[0].by: header:X_Team: never matches: fields with an underscore in their names are removed: want another one, for example header:X-Team",
		"plans.default.policies[1].by: header:X-User-ID: never matches: the field is believed only from callers.trusted_proxies, which is empty, and removed from all other requests",
		"plans.default.policies[2].by: header:Authorization: all who present a key of callers.keys would share one count: it is removed from the field before anything is counted: want by: caller", "400",
	})
	equal(t, change("nobodys", `"5/minute"`), []string{
		"plans.nobodys.policies: : never match: nothing gives a caller this plan: want it in callers.keys, in callers.overrides or, with callers.jwt, in a token", "400",
	})
	equal(t, change("default", strings.Repeat(`"5/minute",`, 31)+`"5/minute"`), []string{
		"plans.default.policies: : 33 policies together with those of callers.overrides[0]: want at most 32", "400",
	})
	equal(t, o.ask("GET", "/api/v1/plans", "").Body.String(), `{"plans":{"default":`+fivePerMinute+`,"nobodys":{"policies":[]}}}`+"\n")
	equal(t, change("default", `"9 bytes/minute", {"quota": 100, "window": "1m", "by": "header:X-Team"}`), []string{"200"})
}

func TestOnThisMachine(t *testing.T) {
	o := open(t, twoPlans, "")
	f := func(name string, want int, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got := [2]int{o.ask("GET", "/api/v1/plans", "", fields...).Code, o.ask("PATCH", "/api/v1/plans/pro", `{"policies": []}`, fields...).Code}
			equal(t, got, [2]int{want, want})
		})
	}
	f("admits curl", 200)
	f("admits by name", 200, "Host", "localhost:8081")
	f("admits by name in capitals, without a port", 200, "Host", "LocalHost")
	f("admits by IPv6", 200, "Host", "[::1]:8081", "Remote", "[::1]:5000")
	f("admits by another loopback address", 200, "Host", "127.1.2.3", "Remote", "127.9.9.9:1")
	f("admits an IPv4 client of a socket for both", 200, "Remote", "[::ffff:127.0.0.1]:5000")
	f("admits its own page", 200, "Origin", "http://127.0.0.1:8081", "Sec-Fetch-Site", "same-origin")
	f("admits who types the address", 200, "Sec-Fetch-Site", "none")
	f("refuses another machine", 403, "Remote", "192.0.2.1:5000")
	f("refuses another machine that calls itself this one", 403, "Remote", "192.0.2.1:5000", "X-Forwarded-For", "127.0.0.1", "Host", "localhost")
	f("refuses a peer without an address", 403, "Remote", "@")
	f("refuses a name that leads here", 403, "Host", "rebinding.example:8081")
	f("refuses a name that begins like this machine", 403, "Host", "localhost.example")
	f("refuses an address that begins like this machine", 403, "Host", "127.0.0.1.example")
	f("refuses a request without a host", 403, "Host", "")
	f("refuses the page of another site", 403, "Origin", "https://example.com")
	f("refuses a page that hides where it is from", 403, "Origin", "null")
	f("refuses the page of another port of this machine", 403, "Origin", "http://127.0.0.1:3000")
	f("refuses a page of this machine by another name", 403, "Origin", "http://localhost:8081")
	f("refuses two origins", 403, "Origin", "http://127.0.0.1:8081", "Origin", "https://example.com")
	f("refuses what a browser says is of another site", 403, "Sec-Fetch-Site", "cross-site")
	f("refuses what a browser says is of another port", 403, "Sec-Fetch-Site", "same-site")
	f("refuses the page of a rebound name", 403, "Host", "rebinding.example:8081", "Origin", "http://rebinding.example:8081")

	t.Run("metrics and health are for everybody, the rest is not", func(t *testing.T) {
		var got []int
		for _, path := range []string{"/metrics", "/healthz", "/readyz", "/", "/api"} {
			got = append(got, o.ask("GET", path, "", "Remote", "192.0.2.1:5000", "Host", "weir.example").Code)
		}
		equal(t, got, []int{200, 200, 200, 403, 307})
	})
}

const token = "0123456789abcdef-token"

func TestToken(t *testing.T) {
	o := open(t, twoPlans, token)
	f := func(name string, status int, challenge string, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got := o.ask("GET", "/api/v1/plans/pro", "", fields...)
			equal(t, [2]any{got.Code, got.Header().Get("Www-Authenticate")}, [2]any{status, challenge})
			if strings.Contains(got.Body.String(), token) {
				t.Errorf("the token is in %s", got.Body)
			}
		})
	}
	const wrong = `Bearer error="invalid_token"`
	f("lets in who has it, from anywhere", 200, "", "Authorization", "Bearer "+token, "Remote", "192.0.2.1:5000", "Host", "weir.example")
	f("lets in who spells the scheme otherwise", 200, "", "Authorization", "bearer  "+token)
	f("asks for it", 401, "Bearer")
	f("asks for it on this machine, too", 401, "Bearer", "Host", "localhost")
	f("refuses another", 401, wrong, "Authorization", "Bearer x"+token)
	f("refuses the beginning of it", 401, wrong, "Authorization", "Bearer "+token[:10])
	f("refuses none", 401, wrong, "Authorization", "Bearer ")
	f("refuses it in another scheme", 401, wrong, "Authorization", "Basic "+token)
	f("refuses it beside another", 401, wrong, "Authorization", "Bearer "+token, "Authorization", "Bearer x")
	t.Run("is asked for before anything is told", func(t *testing.T) {
		var got []int
		for _, path := range []string{"/api/v1/plans/none", "/api/none", "/api/"} {
			got = append(got, o.ask("POST", path, "").Code)
		}
		equal(t, got, []int{401, 401, 401})
	})
	t.Run("is not needed for metrics and health", func(t *testing.T) {
		var got []int
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			got = append(got, o.ask("GET", path, "", "Remote", "192.0.2.1:5000").Code)
		}
		equal(t, got, []int{200, 200, 200})
	})
	t.Run("a wrong one is logged, without it", func(t *testing.T) {
		o := open(t, twoPlans, token)
		o.ask("GET", "/api/v1/plans", "", "Authorization", "Bearer nearly-"+token)
		o.ask("GET", "/api/v1/plans", "")
		equal(t, o.logged(), []map[string]any{{"level": "WARN", "msg": "a request to the admin API had a wrong token", "remote": "127.0.0.1:50000"}})
	})
}

func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, twoPlans, token)
		ask := func(remote, presented string) *httptest.ResponseRecorder {
			return o.ask("GET", "/api/v1/plans", "", "Remote", remote, "Authorization", "Bearer "+presented)
		}
		var guesses []int
		for i := range 32 {
			guesses = append(guesses, ask("192.0.2.1:5000", fmt.Sprint("guess", i)).Code)
		}
		equal(t, guesses, append(slices.Repeat([]int{401}, 30), 429, 429))
		refused := ask("192.0.2.1:5001", token)
		equal(t, [2]any{refused.Code, refused.Header().Get("Retry-After")}, [2]any{429, "2"})
		equal(t, ask("192.0.2.2:5000", token).Code, 200)                               // another address
		equal(t, o.ask("GET", "/api/v1/plans", "", "Remote", "192.0.2.1:1").Code, 401) // who does not guess
		time.Sleep(2 * time.Second)                                                    // of the bubble: it takes none
		equal(t, ask("192.0.2.1:5000", token).Code, 200)
		for i := range 30 {
			ask(fmt.Sprintf("[2001:db8::%d]:5000", i), "guess")
		}
		equal(t, ask("[2001:db8::ffff]:5000", token).Code, 429) // the same network
		_ = o.gateway.Close(context.Background())
	})
}

func TestPlansShowTheirBudget(t *testing.T) {
	o := open(t, `
plans: {default: {policies: [], budget: 20 USD per month}, free: {policies: []}}
prices: {"*": {input: 1, output: 1}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{match: {path: /v1/*}, upstream: u}]
callers: {keys: [{caller: alice, key: weir_alice, plan: free}]}
`, "")
	const at, all = "/api/v1/plans/default", `{"policies":[],"budget":"20 USD/month","weight":1,"priority":"standard"`
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/api/v1/plans", "", `{"plans":{"default":` + all + `},"free":{"policies":[],"weight":1,"priority":"standard"}}}`},
		{"GET", at, "", all + "}"},
		{"PATCH", at, `{"budget": "1 USD/month"}`, `{"policies":[],"budget":"1 USD/month","weight":1,"priority":"standard","override":{"budget":"1 USD/month"},"file":` + all + `},"kept":false}`},
		{"DELETE", at, "", all + `,"kept":true}`},
	} {
		equal(t, o.ask(c.method, c.path, c.body).Body.String(), c.want+"\n")
	}
}

func TestMembersAreNamedAsTheyAre(t *testing.T) {
	o := open(t, twoPlans, "")
	f := func(in, want string) {
		t.Helper()
		var got struct {
			Mistakes []struct {
				Path string `json:"path"`
			} `json:"mistakes"`
		}
		rec := o.ask("PATCH", "/api/v1/plans/default", `{"policies": [], `+in+`: 1}`)
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || len(got.Mistakes) != 1 || got.Mistakes[0].Path != want {
			t.Errorf("%s: %s: want the path %s", in, rec.Body, want)
		}
	}
	f(`"foo"`, "foo")
	f(`""`, `""`)
	f(`"two words"`, `"two words"`)
	f(`"\u001b[2J"`, `"\x1b[2J"`)
}

func TestPlansAreTakenBack(t *testing.T) {
	for name, more := range map[string]string{"with a database": "database: {url: 'sqlite:" + filepath.Join(t.TempDir(), "weir.db") + "'}\n", "without one": ""} {
		t.Run(name, func(t *testing.T) {
			o := open(t, twoPlans+more, "")
			const at = "/api/v1/plans/default"
			file := o.ask("GET", at, "").Body.String()
			if got := o.ask("PATCH", at, `{"policies": ["7/hour"]}`).Code; got != 200 {
				t.Fatal(got)
			}
			if got := o.ask("GET", at, "").Body.String(); got == file {
				t.Fatalf("it is not changed: %s", got)
			}
			for range 2 { // the second time there is nothing to take back
				got := o.ask("DELETE", at, "")
				equal(t, [2]any{got.Code, got.Body.String()}, [2]any{200, strings.TrimSuffix(file, "}\n") + `,"kept":true}` + "\n"})
			}
			equal(t, o.ask("GET", at, "").Body.String(), file)
			equal(t, o.ask("DELETE", "/api/v1/plans/gold", "").Code, 404)
		})
	}
}
