package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// dashboardOf is the dashboard of a gateway with a configuration.
func dashboardOf(t *testing.T, yaml string) *dashboard {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(cfg, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close(context.Background()) })
	d, err := newDashboard(g, newGuard(g, ""), newStreams(g))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// rendered is a page, with single spaces.
func rendered(t *testing.T, d *dashboard, path string) string {
	t.Helper()
	mux := http.NewServeMux()
	d.handle(mux)
	r := httptest.NewRequest("GET", path, nil)
	r.Host, r.RemoteAddr = "127.0.0.1:8081", "127.0.0.1:50000"
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, r)
	if rec.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	return strings.Join(strings.Fields(rec.Body.String()), " ")
}

// shownWith renders a page with a snapshot of our own.
func shownWith(t *testing.T, path string, s gateway.Snapshot) string {
	t.Helper()
	d := dashboardOf(t, `
plans: {default: {policies: [5/minute]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: /v1/*}, upstream: u}]
`)
	d.snapshot = func() gateway.Snapshot { return s }
	return rendered(t, d, path)
}

func contains(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(page, w) {
			t.Errorf("no %q in %s", w, page)
		}
	}
}

func TestDashboardSaysWhatIsWrong(t *testing.T) {
	half := 0.5
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := gateway.Snapshot{
		At: at, Started: at.Add(-time.Hour), WindowS: 60,
		Traffic: gateway.Traffic{Rate: 12.5, InFlight: 3, Requests: 750, Errors: 75, Refused: 150, Shed: 15,
			Latency: gateway.Latency{N: 750, P50: 120, P95: 2500, P99: 90000, Max: 180000}, HitRatio: &half,
			Saved: gateway.Saved{Seconds: 3600 * 3, Tokens: 12345678}},
		Series:    gateway.Series{StepS: 1, End: at, Rate: []float64{1, 2, 3}},
		Routes:    []gateway.RouteSnapshot{{Name: "chat", QueueMS: 25, UpstreamMS: 75, Traffic: gateway.Traffic{Requests: 5, Latency: gateway.Latency{N: 5, P95: 99}}}},
		Callers:   []gateway.CallerSnapshot{{Caller: "<script>alert(1)</script>", Plan: "pro", Requests: 10, Refused: 4, Shed: 1, LastSeen: at.Add(-90 * time.Second), Policies: []gateway.PolicyRefusals{{Policy: "plan:pro/daily", Refused: 4, Shadow: 2}}}},
		CallersOf: 1001,
		Upstreams: []gateway.UpstreamSnapshot{{Name: "u", Waiting: map[string]int{"standard": 4, "batch": 3}, Running: 2}},
		Store:     gateway.HealthSnapshot{Kind: "redis", Detail: "connection refused"},
		Database:  &gateway.HealthSnapshot{Kind: "postgres"},
		Config:    gateway.ConfigSnapshot{File: "weir.yaml", Failed: "weir.yaml:3: plans: want a mapping", Loaded: at},
		Auto:      []gateway.AutoSnapshot{{What: "plan:pro/daily", Value: "42", Min: "10", Max: "100", File: "50", Reason: "too many wait", Since: at}},
		Events:    []gateway.EventSnapshot{{At: at, Kind: "eject", Level: "warn", Text: "u has lost a target", Details: json.RawMessage(`{"target":"http://127.0.0.1:1"}`)}},
	}
	t.Run("above each page", func(t *testing.T) {
		for _, path := range []string{"/", "/routes", "/callers", "/config", "/events"} {
			contains(t, shownWith(t, path, s), "The store (redis) does not answer.", "Connection refused.", "The database (postgres) does not answer.",
				"The last reload failed:</strong> weir.yaml:3: plans: want a mapping. The configuration before it is in force.")
		}
	})
	t.Run("with numbers that have a unit", func(t *testing.T) {
		contains(t, shownWith(t, "/", s), "<dd>12.5/s</dd>", "750 requests in 60 s, 3 running", "p95 2.50 s, p99 90.0 s, max 3.00 min", "<dd>10 %</dd>", "<dd>22 %</dd>",
			"150 over a quota, 15 by the queue", "<dd>50 %</dd>", "<dd>3.00 h</dd>", "12.3 M tokens", "<dd>7 waiting</dd>", "2 at upstreams", "u has lost a target",
			`points="0.0,66.3 300.0,33.7 600.0,1.0"`)
	})
	t.Run("with where the time goes, in words and as a bar", func(t *testing.T) {
		contains(t, shownWith(t, "/routes", s), `aria-label="queue 25.0 ms, upstream 75.0 ms"`, `<rect class="c4" x="0.0" width="25.0" height="12"/><rect class="c1" x="25.0" width="75.0" height="12"/>`)
	})
	t.Run("with callers as text, whatever they call themselves", func(t *testing.T) {
		page := shownWith(t, "/callers", s)
		contains(t, page, "&lt;script&gt;alert(1)&lt;/script&gt;", "plan:pro/daily: 4, 2 in shadow", "queue: 1", "50 %", "90 s ago", "and 1 000 more")
		if strings.Contains(page, "<script>alert") {
			t.Error("a caller's name is script")
		}
	})
	t.Run("with what load moves, and why", func(t *testing.T) {
		contains(t, shownWith(t, "/config", s), "plan:pro/daily</th>", ">42</td>", "10 to 100", "too many wait", "2026-03-04 05:06:07 UTC")
	})
	t.Run("with what to do where nothing happens", func(t *testing.T) {
		contains(t, shownWith(t, "/", gateway.Snapshot{WindowS: 60}), "No requests in the last 60 s.", "curl -i &#39;http://127.0.0.1:8080/v1/&#39;")
		contains(t, shownWith(t, "/callers", gateway.Snapshot{}), "No callers yet")
		contains(t, shownWith(t, "/config", gateway.Snapshot{}), "start Weir with <code>-c weir.yaml</code>", "add <code>database: {url: sqlite:weir.db}</code>")
	})
}

func TestFigures(t *testing.T) {
	type f = func() string
	for want, got := range map[string]f{
		"0":                       func() string { return count(0) },
		"999":                     func() string { return count(int64(999)) },
		"1\u202f234\u202f567":     func() string { return count(1234567) },
		"−1\u202f000":             func() string { return count(-1000) },
		"12.3 M":                  func() string { return count(12345678.0) },
		"12.3 G":                  func() string { return count(12345678901.0) },
		"–":                       func() string { return count("many") },
		"0/s":                     func() string { return rate(0) },
		"< 0.01/s":                func() string { return rate(0.001) },
		"1.25/s":                  func() string { return rate(1.25) },
		"12.5/s":                  func() string { return rate(12.5) },
		"125/s":                   func() string { return rate(125.4) },
		"0.42 ms":                 func() string { return millis(0.42) },
		"1.20 s":                  func() string { return millis(1200) },
		"2.00 min":                func() string { return millis(120000) },
		"2.00 h":                  func() string { return seconds(7200) },
		"2.00 d":                  func() string { return seconds(2 * 86400) },
		"< 0.1 %":                 func() string { return percent(0.0001) },
		"> 99.9 %":                func() string { return percent(0.9999) },
		"99.9 %":                  func() string { return percent(0.999) },
		"100 %":                   func() string { return percent(1) },
		"33.3 %":                  func() string { return ratio(1, int64(3)) },
		"– ":                      func() string { return ratio(1, 0) + " " },
		"1\u202f023 B":            func() string { return bytesOf(1023) },
		"1.00 KiB":                func() string { return bytesOf(1024) },
		"256 MiB":                 func() string { return bytesOf(256 << 20) },
		"4.00 TiB":                func() string { return bytesOf(4 << 40) },
		"60 s":                    func() string { return period(59.7) },
		"5 min":                   func() string { return period(300) },
		"100.0":                   func() string { return of(7, 5) },
		"2026-03-04 05:06:07 UTC": func() string { return utc(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)) },
		"3 h ago":                 func() string { return ago(time.Unix(0, 0), time.Unix(3*3600+5, 0)) },
		"now":                     func() string { return ago(time.Unix(5, 0), time.Unix(5, 0)) },
	} {
		if got() != want {
			t.Errorf("got %q, want %q", got(), want)
		}
	}
}

func TestPolicyLines(t *testing.T) {
	read := func(text, want string) {
		t.Helper()
		list, err := policyList(text)
		got, _ := json.Marshal(list)
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != want {
			t.Errorf("%q: got  %s\nwant %s", text, got, want)
		}
	}
	read("", `[]`)
	read("5/minute", `["5/minute"]`)
	read("- 5/minute\n  \n-\n  - 10 per 1s\n", `["5/minute","10 per 1s"]`)
	read(`["5/minute", {"quota": 1}]`, `["5/minute",{"quota":1}]`)
	read(`{"quota": 1, "window": "1m"}`, `[{"quota":1,"window":"1m"}]`)
	read(`{name: daily, quota: 1000, window: 24h, by: header:X-Team, shadow: true, auto: {min: 10, max: 20}}`,
		`[{"name":"daily","quota":1000,"window":"24h","by":"header:X-Team","shadow":true,"auto":{"min":10,"max":20}}]`)
	read(`{name: "a, b: c", lease: {max_excess: 1%}}`, `[{"name":"a, b: c","lease":{"max_excess":"1%"}}]`)
	const flow = `want a mapping in one line, for example {name: daily, quota: 1000, window: 1d}`
	for _, broken := range []string{`{`, `{name}`, `{name: }`, `{name: a} b`, `{"a`, `{a: "b\`, `{:}`} {
		read("5/minute\n"+broken, "policy 2: "+flow)
	}
	read(`[1`, "not a JSON list: unexpected end of JSON input")
}

// What the form shows means what is in force: sent back unchanged it is the same.
func TestPolicyLinesMeanWhatIsInForce(t *testing.T) {
	cfg, err := config.Parse("test.yaml", []byte(`
plans:
  default:
    policies:
      - 5/minute
      - 20000 tokens/day
      - {name: "night, and: day", quota: 7, window: 1h, by: "header:X-Team", burst: 3, algorithm: token_bucket, shadow: true}
      - {concurrent: 4, by: ip, auto: {min: 2, max: 8}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /v1/*}, upstream: u}]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := cfg.EditDoc("plan", "default")
	for _, f := range fieldsOf("plan", doc, cfg, "default") {
		if f.Key != "policies" {
			continue
		}
		list, err := policyList(f.Value)
		if err != nil {
			t.Fatal(err)
		}
		patch, _ := json.Marshal(map[string]any{"policies": list})
		next, err := cfg.Edited([]config.Edit{{Kind: "plan", Name: "default", Doc: patch}})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(next.Plans, cfg.Plans) {
			t.Errorf("%s\ngot  %+v\nwant %+v", f.Value, next.Plans, cfg.Plans)
		}
		return
	}
	t.Error("no policies")
}

func FuzzPolicyList(f *testing.F) {
	for _, seed := range []string{"5/minute", "- {a: b}", `{"a": {"b": [1, "c"]}}`, "[", "{a: \"\\", "{a:b}", "{ :"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := policyList(text)
		if err != nil {
			return
		}
		for i, item := range list {
			if !json.Valid(item) {
				t.Fatalf("policy %d of %q is no JSON: %s", i, text, item)
			}
		}
	})
}

func TestDocumentsForPeopleHaveNoSecrets(t *testing.T) {
	got := docForPeople([]byte(`{"targets":{"http://user:secret@h:1/a?key=secret#x":2},"queue":{"max":3}}`))
	if want := `{"queue":{"max":3},"targets":{"http://h:1/a":2}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, nothing := range []string{"", "null", "no JSON"} {
		if got := docForPeople([]byte(nothing)); got != "as in the file" {
			t.Errorf("%q: got %s", nothing, got)
		}
	}
}

func TestLiveRegionsAreThoseOfThePage(t *testing.T) {
	g, err := gateway.New(mustParse(t), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close(context.Background())
	d, err := newDashboard(g, newGuard(g, ""), newStreams(g))
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.listed {
		p := &d.listed[i]
		if len(p.regions) == 0 {
			continue
		}
		t.Run(p.title, func(t *testing.T) {
			r := httptest.NewRequest("GET", livePath+p.path, nil)
			data, err := d.update(r, p)
			if err != nil {
				t.Fatal(err)
			}
			var u update
			if err := json.Unmarshal(data, &u); err != nil {
				t.Fatal(err)
			}
			rec := httptest.NewRecorder()
			page := httptest.NewRequest("GET", p.path, nil)
			if err := d.show(rec, page, p, extras{}); err != nil {
				t.Fatal(err)
			}
			for _, found := range regexp.MustCompile(`data-live="([^"]+)"`).FindAllStringSubmatch(rec.Body.String(), -1) {
				if _, ok := u.Regions[found[1]]; !ok {
					t.Errorf("the stream does not have %s", found[1])
				}
			}
			if p.charts != (u.Series != nil) {
				t.Errorf("series: %v", u.Series)
			}
		})
	}
}

func mustParse(t *testing.T) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(`
database: {url: "sqlite:`+t.TempDir()+`/weir.db"}
plans: {default: {policies: [5/minute]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: /v1/*}, upstream: u}]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
