package config_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// policies puts a list of policies into the plan pro, as an edit does.
func policies(list string) ([]config.Policy, error) {
	c, err := config.Parse("weir.yaml", []byte(`
store: {url: "redis://10.0.0.3"}
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}]}
plans: {pro: {}}
upstreams: {llm: {targets: ["http://10.0.0.1:8000"], dialect: openai}}
routes: [{match: {path: /*}, upstream: llm}]
`), nil)
	if err != nil {
		return nil, err
	}
	if c, err = c.Edited([]config.Edit{{Kind: "plan", Name: "pro", Doc: []byte(`{"policies": ` + list + `}`)}}); err != nil {
		return nil, err
	}
	return c.Plans["pro"].Policies, nil
}

func TestPoliciesOfAnEdit(t *testing.T) {
	f := func(name, list string, want ...config.Policy) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			got, err := policies(list)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, want)
		})
	}
	daily := counting(custom(defaultPolicy("daily", 7, 24*time.Hour), "header:X-Team"), "tokens", "fixed_window")
	daily.Shadow = true
	leased := defaultPolicy("pro-2", 1000, ratelimit.Month)
	leased.Lease = &config.Lease{MaxExcess: 0.005}
	f("have defaults and names",
		`["5/minute", {"name": "daily", "quota": 7, "window": "day", "unit": "tokens", "by": "header:X-Team", "algorithm": "fixed_window", "shadow": true},
		{"quota": "1000", "window": "month", "lease": {"max_excess": "0.5%"}}, "20 concurrent"]`,
		defaultPolicy("pro", 5, time.Minute), daily, leased, slots("pro-3", 20))
	f("may be indented with tabs", "[\n\t\"5/minute\"\n]", defaultPolicy("pro", 5, time.Minute))
	f("may have escapes of JSON", `["5\/minute", {"name": "a\u0026b", "quota": 1, "window": "1s"}]`,
		defaultPolicy("pro", 5, time.Minute), defaultPolicy("a&b", 1, time.Second))
	f("replace no ${…}", `[{"name": "${PATH} $$ ${file:/etc/hostname}", "quota": 1, "window": "1s"}]`,
		defaultPolicy("${PATH} $$ ${file:/etc/hostname}", 1, time.Second))
	f("may be none", "[]", []config.Policy{}...)
}

func TestPoliciesOfAnEditSayWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ name, list, want string }{
		{"as the file would, without file and line", `["10x", {"quota": 5}, {"concurrent": 1, "unit": "tokens"}]`,
			`plans.pro.policies[0]: "10x": want QUOTA [UNIT] per WINDOW, for example 5/minute, 100 per 1h or 10 per 30s` + "\n" +
				"plans.pro.policies[1].window: missing: want a duration, for example 1m\n" +
				`plans.pro.policies[2].unit: "tokens": has no effect with concurrent, which counts the requests that run at the same time: want one of the two`},
		{"of two with one name", `["5/minute", {"name": "pro", "quota": 1, "window": "1s"}]`,
			`plans.pro.policies[1]: the same name "pro" and unit as plans.pro.policies[0]: want another name`},
		{"of a bound without the other", `[{"quota": 5, "window": "1m", "auto": {"min": 1}}]`,
			"plans.pro.policies[0].auto.max: missing: want the most that the quota may become, for example 100"},
		{"of a lease that holds nothing", `[{"quota": 5, "window": "1m", "lease": {"max_excess": "1%"}}]`,
			`plans.pro.policies[0].lease.max_excess: "1%": would never hold a whole unit: want at least 20% with a quota of 5, or a greater quota`},
		{"of a word", `"5/minute"`, `plans.pro.policies: "5/minute": want a list`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := policies(test.list)
			if err == nil || got != nil || err.Error() != test.want {
				t.Errorf("got %v, %v\nwant %s", got, err, test.want)
			}
		})
	}
}

func TestPoliciesJSON(t *testing.T) {
	got := string(config.PoliciesJSON(proPlan(), "pro"))
	want := `["300/minute","100/hour",` +
		`{"name":"daily","quota":1000,"window":"1d","unit":"requests","by":"header:X-Team","burst":50,"algorithm":"token_bucket"},` +
		`"9 per 90m","20 concurrent",{"name":"slots","concurrent":100,"by":"global","shadow":true,"auto":{"min":10,"max":200}},` +
		`{"name":"calendar","quota":5,"window":"month","unit":"tokens","by":"caller","algorithm":"fixed_window"},` +
		`{"name":"slide","quota":1000000,"window":"7d","unit":"bytes","by":"caller","algorithm":"sliding_window"},` +
		`{"name":"lease","quota":5000,"window":"1m","unit":"output_tokens","by":"caller","burst":5000,"algorithm":"token_bucket","lease":{"max_excess":"0.07%"}},` +
		`"50 input_tokens/year"]`
	equal(t, got, want)
	equal(t, string(config.PoliciesJSON(nil, "pro")), "[]")
	t.Run("a name that is not the default one needs the long form", func(t *testing.T) {
		equal(t, string(config.PoliciesJSON([]config.Policy{defaultPolicy("pro", 5, time.Minute)}, "free")),
			`[{"name":"pro","quota":5,"window":"1m","unit":"requests","by":"caller","burst":5,"algorithm":"token_bucket"}]`)
	})
}

// drawPolicy draws any policy that a file can have.
func drawPolicy(t *rapid.T) config.Policy {
	p := config.Policy{
		Name: rapid.SampledFrom([]string{"", "", "a", "pro", "pro-2", "<&>", "${X} $"}).Draw(t, "name"),
		Unit: "requests", By: rapid.SampledFrom([]string{"caller", "caller", "ip", "header:X-Team"}).Draw(t, "by"),
		Shadow: rapid.IntRange(0, 3).Draw(t, "shadow") == 0,
	}
	amount := rapid.Int64Range(1, 1e6).Draw(t, "amount")
	if rapid.IntRange(0, 3).Draw(t, "auto") == 0 {
		p.Auto = &config.Auto{Min: rapid.Int64Range(1, amount).Draw(t, "min"), Max: rapid.Int64Range(amount, 2e6).Draw(t, "max")}
	}
	if rapid.Bool().Draw(t, "slots") {
		p.Concurrent = amount
		return p
	}
	p.Quota = amount
	p.Burst = p.Quota
	p.Window = rapid.OneOf(
		rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 24 * time.Hour, ratelimit.Month, ratelimit.Year}),
		rapid.Map(rapid.Int64Range(1, 366*86400*1000), func(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }),
	).Draw(t, "window")
	p.Unit = rapid.SampledFrom([]string{"requests", "tokens", "bytes"}).Draw(t, "unit")
	p.Algorithm = rapid.SampledFrom([]string{"token_bucket", "sliding_window", "fixed_window"}).Draw(t, "algorithm")
	switch {
	case p.Algorithm != "token_bucket":
		p.Burst = 0
	case rapid.Bool().Draw(t, "leased"):
		p.Lease = &config.Lease{MaxExcess: config.Percent(float64(rapid.IntRange(1, 500000).Draw(t, "excess")) / 1e6)}
	}
	return p
}

func TestPoliciesJSONReadsBackAsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drawn := rapid.SliceOfN(rapid.Custom(drawPolicy), 1, 5).Draw(t, "policies")
		// What a file cannot hold is filtered by the parser, and names by it too.
		text, err := json.Marshal(written(drawn))
		if err != nil {
			t.Fatal(err)
		}
		want, err := policies(string(text))
		if err != nil {
			t.Skip(err)
		}
		printed := config.PoliciesJSON(want, "pro")
		got, err := policies(string(printed))
		if err != nil {
			t.Fatalf("%v in %s", err, printed)
		}
		if fmt.Sprintf("%+v", plain(got)) != fmt.Sprintf("%+v", plain(want)) {
			t.Fatalf("got\n%+v\nwant\n%+v\nfrom %s", plain(got), plain(want), printed)
		}
	})
}

// written gives policies in their long form, without PoliciesJSON.
func written(policies []config.Policy) []map[string]any {
	var list []map[string]any
	for _, p := range policies {
		m := map[string]any{"by": p.By, "shadow": p.Shadow}
		if p.Name != "" {
			m["name"] = p.Name
		}
		if p.Concurrent > 0 {
			m["concurrent"] = p.Concurrent
		} else {
			m["quota"], m["window"] = p.Quota, fmt.Sprintf("%ds%dms", p.Window/time.Second, p.Window%time.Second/time.Millisecond)
			m["unit"], m["algorithm"] = p.Unit, p.Algorithm
		}
		if p.Lease != nil {
			m["lease"] = map[string]any{"max_excess": p.Lease.MaxExcess.String()}
		}
		if p.Auto != nil {
			m["auto"] = map[string]any{"min": p.Auto.Min, "max": p.Auto.Max}
		}
		list = append(list, m)
	}
	return list
}

// plain shows leases and bounds by value.
func plain(policies []config.Policy) []any {
	var all []any
	for _, p := range policies {
		lease := config.Lease{}
		if p.Lease != nil {
			lease = *p.Lease
		}
		auto := config.Auto{}
		if p.Auto != nil {
			auto = *p.Auto
		}
		p.Lease, p.Auto = nil, nil
		all = append(all, p, lease, auto)
	}
	return all
}

func TestLimitIsWhatThePolicySays(t *testing.T) {
	lease := proPlan()[8]
	lease.Shadow = true
	equal(t, lease.Limit(), ratelimit.Policy{
		Name: "lease", Quota: 5000, Window: time.Minute, Burst: 5000, Unit: "output_tokens", Algorithm: "token_bucket",
		Shadow: true, MaxExcess: 0.0007,
	})
	equal(t, slots("s", 20).Limit(), ratelimit.Policy{Name: "s", Unit: "requests", Concurrent: 20})
	for _, p := range proPlan() {
		if _, err := p.Limit().Prepare(); err != nil {
			t.Error(err)
		}
	}
}

func TestAnOverrideTakesThePlaceOfItsPlansPolicies(t *testing.T) {
	c := parse(t, `
callers:
  jwt: {issuer: https://login.example.com, audience: weir}
  keys: [{caller: alice, key: weir_hunter2alice, plan: pro}]
  overrides:
    - {caller: key:alice, policies: [9/minute, 10/day, 2 concurrent, 70 tokens/minute, 80 tokens/hour]}
    - {caller: jwt:4711, plan: pro, policies: [{name: pro-2, quota: 1, window: 1s}]}
    - {caller: jwt:4712, policies: [{name: pro-2, quota: 1, window: 1s}]}
plans: {pro: {policies: [5/minute, 100/day, 20 concurrent]}}
upstreams: {m: {targets: [http://h], dialect: openai}}
routes: [{match: {path: /a}, upstream: m}]
`)
	plan := c.Plans["pro"].Policies
	before := fmt.Sprint(plan)
	tokens := func(name string, quota int64, window time.Duration) config.Policy {
		return counting(defaultPolicy(name, quota, window), "tokens", "token_bucket")
	}
	equal(t, c.Callers.Overrides[0].Applied(plan), []config.Policy{
		defaultPolicy("pro", 9, time.Minute), defaultPolicy("pro-2", 10, 24*time.Hour), slots("pro-3", 2),
		tokens("pro-4", 70, time.Minute), tokens("pro-5", 80, time.Hour),
	})
	equal(t, c.Callers.Overrides[1].Applied(plan), []config.Policy{
		plan[0], defaultPolicy("pro-2", 1, time.Second), plan[2],
	})
	equal(t, c.Callers.Overrides[2].Applied(nil), []config.Policy{defaultPolicy("pro-2", 1, time.Second)})
	equal(t, fmt.Sprint(plan), before)
}

func TestStoreURLsAreRedacted(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"memory:", "memory:"},
		{"redis://h", "redis://h"},
		{"redis://h:6379/15", "redis://h:6379/15"},
		{"rediss://[::1]:6379", "rediss://[::1]:6379"},
		{"rediss://[::1]/0", "rediss://[::1]/0"},
		{"redis://:hunter2@h/0", "redis://:(redacted)@h/0"},
		{"redis://user:hunter2%2F%40@h", "redis://user:(redacted)@h"},
		{"redis+cluster://user:hunter2@h1:1,h2,h3/0", "redis+cluster://user:(redacted)@h1:1,h2,h3/0"},
		{"redis+sentinel://mymaster@h1,h2:2/3", "redis+sentinel://mymaster@h1,h2:2/3"},
		{"rediss+cluster://h1", "rediss+cluster://h1"},
		{"rediss+sentinel://m@h1", "rediss+sentinel://m@h1"},
		{"redis+sentinel://m@h1/0?sentinel_user=u&sentinel_password=hunter2%26", "redis+sentinel://m@h1/0?sentinel_user=u&sentinel_password=(redacted)"},
		{"redis+sentinel://m@h1?sentinel_password=hunter2", "redis+sentinel://m@h1?sentinel_password=(redacted)"},
		{"redis+sentinel://:hunter2@my.master@h1", "redis+sentinel://:(redacted)@my.master@h1"},
	} {
		t.Run(test.url, func(t *testing.T) {
			c := parse(t, fmt.Sprintf("store: {url: %q}%s", test.url, minimal))
			equal(t, c.Store.URL, test.url)
			equal(t, c.Store.Redacted(), test.want)
			text, err := c.YAML()
			if err != nil || !strings.Contains(string(text), test.want) || strings.Contains(string(text), "hunter2") {
				t.Errorf("%v\n%s", err, text)
			}
			if _, err := config.Parse("weir.yaml", text, nil); (err != nil) != strings.Contains(test.url, "hunter2") {
				t.Errorf("a print-out without a password is served from, and only that: %v", err)
			}
		})
	}
	t.Run("and so are those that are none", func(t *testing.T) {
		for _, url := range []string{"redis://hunter2@h", "redis+sentinel://m:hunter2@h", "redis://a:hunter2@b:hunter2@h", "redis://h?password=hunter2"} {
			if got := (config.Store{URL: url}).Redacted(); strings.Contains(got, "hunter2") {
				t.Error(got)
			}
		}
	})
}

func TestAStoreHasAtMost100Hosts(t *testing.T) {
	hosts := func(n int) string { return "redis+cluster://" + strings.Repeat("h,", n-1) + "h" }
	parse(t, "store: {url: \""+hosts(100)+"\"}"+minimal)
	_, err := config.Parse("weir.yaml", []byte("store: {url: \""+hosts(101)+"\"}"+minimal), nil)
	if err == nil || !strings.HasSuffix(err.Error(), "101 hosts: want at most 100") {
		t.Error(err)
	}
}

func TestPoliciesThatCanMatchAreNoMistakes(t *testing.T) {
	for _, test := range []struct{ name, text string }{
		{"a plan that a token can name", "callers: {jwt: {issuer: https://i, audience: a}}\nplans: {pro: {policies: [5/minute]}}"},
		{"a plan that an override has", "callers: {overrides: [{caller: ip:192.0.2.1, plan: pro}]}\nplans: {pro: {policies: [5/minute]}}"},
		{"who comes over a unix socket", "callers: {overrides: [{caller: ip:unknown, policies: [5/minute]}]}"},
		{"an IPv6 network that counts as one", "callers: {overrides: [{caller: ip:2001:db8::/64, policies: [5/minute]}]}"},
		{"a user of a trusted proxy", "callers: {trusted_proxies: [10.0.0.0/8], overrides: [{caller: header:bob, policies: [5/minute]}]}"},
		{"a field of a trusted proxy", "callers: {trusted_proxies: [10.0.0.0/8]}\nplans: {default: {policies: [{quota: 1, window: 1s, by: header:X-User-ID}]}}"},
		{"a key without restrictions to it", "callers: {require: true, jwt: {issuer: http://localhost:1, audience: a}}"},
		{"an issuer on loopback", "callers: {jwt: {issuer: \"http://[::1]:8080/realm\", audience: a}}"},
		{"bytes of any upstream", "plans: {default: {policies: [10 bytes/second, 20 concurrent]}}"},
		{"an upstream's own keys", "plans: {default: {policies: [{name: a, quota: 1, window: 1s, by: header:Authorization}, {name: b, concurrent: 1, by: header:X-Api-Key}]}}"},
		{"a cookie beside keys", "callers: {keys: [{caller: a, key: weir_a}]}\nplans: {default: {policies: [{quota: 1, window: 1s, by: header:Cookie}]}}"},
		{"bytes and models of a plan that one upstream is for", "decide: {}\nplans: {default: {policies: [9 bytes/second, {name: m, quota: 1, window: 1s, by: model}]}}"},
		{"shadow with a lease", "store: {url: redis://h}\nplans: {default: {policies: [{quota: 2, window: 1s, shadow: true, lease: {max_excess: 50%}}]}}"},
	} {
		t.Run(test.name, func(t *testing.T) { parse(t, test.text+minimal) })
	}
}

func TestRoutesThatCanMatchAreNoMistakes(t *testing.T) {
	f := func(name, routes string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			parse(t, "decide: {}\nupstreams: {m: {targets: [http://h]}}\nroutes:\n"+routes)
		})
	}
	f("a decision on any model, or none", `  - {match: {path: /a, model: "*"}}`)
	f("a model of an upstream", `  - {match: {path: /a, model: x}, upstream: m}`)
	f("what is decided otherwise than it is served",
		"  - {name: decided, match: {path: /*}, policies: [5/minute]}\n  - {name: served, match: {path: /*}, upstream: m, policies: [9/minute]}")
}
