package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
)

// editable is a file with a plan, routes and an upstream to edit.
const editable = `
callers:
  keys: [{caller: a, key: weir_a, plan: pro}]
  overrides: [{caller: "key:a", policies: [7/minute]}]
prices: {"*": {input: 3, output: 15}}
plans:
  default: {policies: [5/minute]}
  pro: {policies: [300/minute, 20 concurrent], weight: 4}
  nobodys: {}
upstreams:
  llm:
    targets: [http://10.0.0.1:8000, {url: "http://10.0.0.2:8000", weight: 2}]
    dialect: openai
    connections: {max: 64}
    concurrency: 8
  other: {targets: ["builtin:"]}
routes:
  - name: chat
    match: {path: /v1/chat/completions}
    upstream: llm
    policies: [600/minute]
    cache: {mode: inference, ttl: 10m, auto: {min: 1m, max: 1h}}
  - {name: files, match: {path: /files/*}, upstream: other, cache: {mode: http}}
  - {match: {path: /*, methods: [GET, POST]}, upstream: other}
`

func edited(t *testing.T, c *config.Config, kind, name, doc string) *config.Config {
	t.Helper()
	next, err := c.Edited([]config.Edit{{Kind: kind, Name: name, Doc: []byte(doc)}})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func docOf(t *testing.T, c *config.Config, kind, name string) string {
	t.Helper()
	doc, ok := c.EditDoc(kind, name)
	if !ok {
		t.Fatalf("no %s %s", kind, name)
	}
	return string(doc)
}

func TestEditDocIsWhatIsInForce(t *testing.T) {
	c := parse(t, editable)
	f := func(kind, name, want string) {
		t.Helper()
		equal(t, docOf(t, c, kind, name), want)
	}
	f("plan", "default", `{"policies":["5/minute"],"weight":1,"priority":"standard"}`)
	f("plan", "pro", `{"policies":["300/minute","20 concurrent"],"weight":4,"priority":"standard"}`)
	f("plan", "nobodys", `{"policies":[]}`)
	f("route", "chat", `{"policies":["600/minute"],"cache":{"ttl":"10m","auto":{"min":"1m","max":"1h"},"stale_while_revalidate":"0s","stale_if_error":"0s"},"max_body":"10MiB"}`)
	f("route", "files", `{"policies":[],"cache":{"stale_while_revalidate":"0s","stale_if_error":"0s"},"max_body":"10MiB"}`)
	f("route", "GET,POST /*", `{"policies":[],"max_body":"10MiB"}`)
	f("upstream", "llm", `{"targets":{"http://10.0.0.1:8000":1,"http://10.0.0.2:8000":2},"concurrency":{"min":8,"max":8},"queue":{"max":256,"max_wait":"10s"}}`)
	for _, unknown := range [][2]string{{"plan", "free"}, {"route", "pro"}, {"upstream", "pro"}, {"callers", "a"}, {"", ""}} {
		if doc, ok := c.EditDoc(unknown[0], unknown[1]); ok || doc != nil {
			t.Errorf("%q: %s", unknown, doc)
		}
	}
}

func TestAnEditChangesWhatItNames(t *testing.T) {
	c := parse(t, editable)
	f := func(kind, name, doc, want string) {
		t.Helper()
		next := edited(t, c, kind, name, doc)
		equal(t, docOf(t, next, kind, name), want)
		// The file itself, changed in the same way, is the same configuration.
		equal(t, c, parse(t, editable))
	}
	f("plan", "pro", `{"policies": ["10/minute", {"quota": 5, "window": "1h", "auto": {"min": 1, "max": 9}}], "priority": "batch"}`,
		`{"policies":["10/minute",{"name":"pro-2","quota":5,"window":"1h","unit":"requests","by":"caller","burst":5,"algorithm":"token_bucket","auto":{"min":1,"max":9}}],"weight":4,"priority":"batch"}`)
	f("plan", "default", `{"budget": "0.5 USD per day", "weight": 9}`, `{"policies":["5/minute"],"budget":"0.5 USD/day","weight":9,"priority":"standard"}`)
	f("plan", "default", ` {"policies": ["1/second"]}`, `{"policies":["1/second"],"weight":1,"priority":"standard"}`)
	f("plan", "default", `{"policies": []}`, `{"policies":[],"weight":1,"priority":"standard"}`)
	f("route", "chat", `{"cache": {"ttl": "30m"}, "max_body": "1MiB"}`,
		`{"policies":["600/minute"],"cache":{"ttl":"30m","auto":{"min":"1m","max":"1h"},"stale_while_revalidate":"0s","stale_if_error":"0s"},"max_body":"1MiB"}`)
	f("route", "chat", `{"cache": {"auto": {"max": "2h"}, "stale_if_error": "1d"}, "policies": null}`,
		`{"policies":["600/minute"],"cache":{"ttl":"10m","auto":{"min":"1m","max":"2h"},"stale_while_revalidate":"0s","stale_if_error":"1d"},"max_body":"10MiB"}`)
	f("route", "GET,POST /*", `{"policies": ["9/minute"]}`, `{"policies":["9/minute"],"max_body":"10MiB"}`)
	f("upstream", "llm", `{"concurrency": {"max": 32}, "queue": {"max": 0}, "targets": {"http://10.0.0.1:8000": 1000}}`,
		`{"targets":{"http://10.0.0.1:8000":1000,"http://10.0.0.2:8000":2},"concurrency":{"min":8,"max":32},"queue":{"max":0,"max_wait":"10s"}}`)
	f("upstream", "llm", `{"concurrency": 4, "queue": {"max_wait": "250ms", "max": 7}}`,
		`{"targets":{"http://10.0.0.1:8000":1,"http://10.0.0.2:8000":2},"concurrency":{"min":4,"max":4},"queue":{"max":7,"max_wait":"250ms"}}`)
	f("upstream", "llm", `{}`, docOf(t, c, "upstream", "llm"))
	f("upstream", "llm", `null`, docOf(t, c, "upstream", "llm"))
}

// As of any other key, the values are those of the file.
func TestAnEditIsWhatTheFileWouldBe(t *testing.T) {
	f := func(kind, name, doc, old, new string) {
		t.Helper()
		if !strings.Contains(editable, old) {
			t.Fatal(old)
		}
		equal(t, show(t, edited(t, parse(t, editable), kind, name, doc)), show(t, parse(t, strings.Replace(editable, old, new, 1))))
	}
	f("plan", "pro", `{"policies": ["1/second"], "weight": 2, "priority": "critical", "budget": "20 USD/month"}`,
		"{policies: [300/minute, 20 concurrent], weight: 4}", "{policies: [1/second], weight: 2, priority: critical, budget: 20 USD/month}")
	f("route", "chat", `{"cache": {"ttl": "20m", "auto": {"min": "5m"}}, "policies": ["1/second", "2 concurrent"]}`,
		"policies: [600/minute]\n    cache: {mode: inference, ttl: 10m, auto: {min: 1m, max: 1h}}",
		"policies: [1/second, 2 concurrent]\n    cache: {mode: inference, ttl: 20m, auto: {min: 5m, max: 1h}}")
	f("upstream", "llm", `{"concurrency": {"min": 2, "max": 64}, "queue": {"max": 1}}`, "concurrency: 8", "concurrency: {min: 2, max: 64}\n    queue: {max: 1}")
}

// show gives a configuration with all that it points to.
func show(t *testing.T, c *config.Config) string {
	t.Helper()
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refuses returns a check that an edit of editable is refused with the words want.
func refuses(t *testing.T) func(kind, name, doc, want string) {
	c := parse(t, editable)
	return func(kind, name, doc, want string) {
		t.Helper()
		next, err := c.Edited([]config.Edit{{Kind: kind, Name: name, Doc: []byte(doc)}})
		if _, isMistakes := err.(config.Mistakes); next != nil || !isMistakes || err.Error() != want {
			t.Errorf("%s %s %s\ngot  %v, %T %v\nwant %s", kind, name, doc, next, err, err, want)
		}
		equal(t, c, parse(t, editable))
	}
}

func TestEditsOfNothingAreMistakes(t *testing.T) {
	f := refuses(t)
	f("plan", "free", `{"weight": 1}`, "plans.free: unknown plan: want one of default, nobodys, pro")
	f("route", "/", `{}`, "routes./: unknown route: want one of chat, files, GET,POST /*")
	f("upstream", "x", `null`, "upstreams.x: unknown upstream: want one of llm, other")
	f("callers", "a", `{}`, `unknown kind "callers": want plan, route or upstream`)
	f("plan", "pro", `["5/minute"]`, `plans.pro: want a JSON object, for example {"policies": ["5/minute"]}`)
	f("plan", "pro", `5`, `plans.pro: want a JSON object, for example {"policies": ["5/minute"]}`)
	f("plan", "pro", `{"weight": 1, "weight": 2}`,
		`plans.pro: JSON: "/weight": two members of this name: want one`)
	f("plan", "pro", `{"weight": 1} {}`,
		`plans.pro: JSON: offset 14: '{': want the end`)
	f("plan", "pro", `{weight: 1}`,
		`plans.pro: JSON: offset 1: 'w': want a member name in quotes`)
}

func TestEditsOfPlansThatAreMistakes(t *testing.T) {
	f := refuses(t)
	f("plan", "pro", `{"weigth": 1, "name": "x", "policies": ["10x"], "priority": "first"}`,
		`plans.pro.policies[0]: "10x": want QUOTA [UNIT] per WINDOW, for example 5/minute, 100 per 1h or 10 per 30s`+"\n"+
			`plans.pro.priority: "first": want one of critical, standard, batch`+"\n"+
			`plans.pro.name: unknown key: want one of policies, budget, weight, priority`+"\n"+
			`plans.pro.weigth: unknown key: did you mean weight?`)
	f("plan", "pro", `{"weight": 0, "budget": "5 EUR/day", "policies": [{"quota": 5}]}`,
		`plans.pro.policies[0].window: missing: want a duration, for example 1m`+"\n"+
			`plans.pro.budget: "5 EUR/day": want USD: prices are in US dollars, and nothing here knows what another currency is worth`+"\n"+
			`plans.pro.weight: "0": want from 1 to 1000`)
	f("plan", "pro", `{"policies": null, "weight": [], "priority": {"a": 1}, "budget": 5}`,
		`plans.pro.budget: "5": want AMOUNT USD/WINDOW, for example 20 USD/month or 0.50 USD per day`+"\n"+
			`plans.pro.weight: a list: want a whole number`+"\n"+
			`plans.pro.priority: a mapping: want a text`)
	f("plan", "pro", `{"policies": {"a": null}}`,
		`plans.pro.policies: a mapping: want a list`)
	f("plan", "pro", `{"policies": [null, {"quota": null}]}`,
		`plans.pro.policies[0]: null: want a policy, for example 5/minute or {quota: 5, window: 1m}, or leave the key out`+"\n"+
			`plans.pro.policies[1].quota: null: want how many in a window, for example 100`+"\n"+
			`plans.pro.policies[1].window: missing: want a duration, for example 1m`)
	f("plan", "nobodys", `{"weight": 2}`,
		`plans.nobodys.weight: "2": has no effect: nothing gives a caller this plan: want it in callers.keys, in callers.overrides or, with callers.jwt, in a token`)
	f("plan", "nobodys", `{"policies": ["5/minute"]}`,
		`plans.nobodys.policies: never match: nothing gives a caller this plan: want it in callers.keys, in callers.overrides or, with callers.jwt, in a token`)
	f("plan", "pro", `{"policies": [{"quota": 5, "window": "1m", "by": "header:X-User-ID"}, {"quota": 5, "window": "1m", "lease": {"max_excess": "50%"}}]}`,
		`plans.pro.policies[0].by: "header:X-User-ID": never matches: the field is believed only from callers.trusted_proxies, which is empty, and removed from all other requests`+"\n"+
			`plans.pro.policies[1].lease: has no effect with store.url memory:, which nothing is asked for over a network: want it with a Redis URL`)
	f("plan", "pro", `{"policies": ["${HOME}"]}`,
		`plans.pro.policies[0]: "${HOME}": want QUOTA [UNIT] per WINDOW, for example 5/minute, 100 per 1h or 10 per 30s`)
	f("plan", "pro", `{"policies": [`+strings.Repeat(`"5/minute",`, 32)+`"5/minute"]}`,
		`plans.pro.policies: 33 policies: want at most 32`)
	f("plan", "pro", `{"policies": [`+strings.Repeat(`"5/minute",`, 31)+`"5/minute"]}`,
		`plans.pro.policies: 33 policies together with those of route "chat": want at most 32`)
}

func TestEditsOfRoutesThatAreMistakes(t *testing.T) {
	f := refuses(t)
	f("route", "chat", `{"cache": {"ttl": "2h"}}`,
		`routes[0].cache.auto.max: want at least ttl, which is 2h: it starts there`)
	f("route", "chat", `{"cache": {"mode": "off", "ttl": 600}, "upstream": "other", "max_body": 0, "match": {}}`,
		`routes[0].cache.ttl: "600": want a duration, for example 10m`+"\n"+
			`routes[0].cache.mode: is changed in the file alone: want one of ttl, auto, stale_while_revalidate, stale_if_error`+"\n"+
			`routes[0].max_body: "0": want at least 1`+"\n"+
			`routes[0].match: is changed in the file alone: want one of policies, cache, max_body`+"\n"+
			`routes[0].upstream: is changed in the file alone: want one of policies, cache, max_body`)
	f("route", "chat", `{"cache": 5, "policies": "5/minute"}`,
		`routes[0].policies: "5/minute": want a list`+"\n"+
			`routes[0].cache: "5": want a mapping`)
	f("route", "files", `{"cache": {"ttl": "1m"}}`,
		`routes[1].cache.ttl: "1m": has no effect with mode http, where the upstream's own fields decide: want this key left out, or mode: inference`)
	f("route", "GET,POST /*", `{"cache": {"ttl": "1m"}, "max_body": "ten"}`,
		`routes[2].max_body: "ten": want a size, for example 8KiB or 512`+"\n"+
			`routes[2].cache.ttl: "1m": has no effect on a route without a cache: want cache.mode in the file, inference or http`)
}

func TestEditsOfUpstreamsThatAreMistakes(t *testing.T) {
	f := refuses(t)
	f("upstream", "llm", `{"concurrency": 65, "queue": {"max_wait": "0s", "status": 429}, "dialect": "plain"}`,
		`upstreams.llm.queue.max_wait: "0s": want from 1ms to 1h`+"\n"+
			`upstreams.llm.queue.status: is changed in the file alone: want one of max, max_wait`+"\n"+
			`upstreams.llm.dialect: is changed in the file alone: want one of targets, concurrency, queue`+"\n"+
			`upstreams.llm.concurrency.max: "65": want at most connections.max, which is 64: each request has a connection of its own`)
	f("upstream", "llm", `{"concurrency": 65}`,
		`upstreams.llm.concurrency.max: "65": want at most connections.max, which is 64: each request has a connection of its own`)
	f("upstream", "llm", `{"concurrency": {"min": 9}}`,
		`upstreams.llm.concurrency.min: "9": want at most concurrency.max, which is 8`)
	f("upstream", "llm", `{"concurrency": "many", "queue": 5}`,
		`upstreams.llm.concurrency: "many": want a whole number`+"\n"+
			`upstreams.llm.queue: "5": want a mapping`)
	f("upstream", "llm", `{"targets": {"http://10.0.0.1:8000": 0, "http://10.0.0.3:8000": 1, "http://u:hunter2@h": 1}}`,
		`upstreams.llm.targets[0].weight: "0": want from 1 to 1000`+"\n"+
			`upstreams.llm.targets.http://10.0.0.3:8000: unknown target: want one of http://10.0.0.1:8000, http://10.0.0.2:8000`+"\n"+
			`upstreams.llm.targets.(redacted): unknown target: want one of http://10.0.0.1:8000, http://10.0.0.2:8000`)
	f("upstream", "llm", `{"targets": ["http://10.0.0.1:8000"]}`,
		`upstreams.llm.targets: a list: want a mapping of URLs and weights, for example {"http://10.0.0.1:8000": 2}`)
	f("upstream", "llm", `{"concurrency": {"max": 70000, "least": 1}, "targets": null, "queue": {"max": null}}`,
		`upstreams.llm.concurrency.max: "70000": want from 1 to 65535`+"\n"+
			`upstreams.llm.concurrency.least: unknown key: want one of min, max`)
}

func TestSeveralEditsAreOne(t *testing.T) {
	c := parse(t, editable)
	edits := []config.Edit{
		{Kind: "plan", Name: "pro", Doc: []byte(`{"weight": 9, "priority": "batch"}`)},
		{Kind: "upstream", Name: "llm", Doc: []byte(`{"concurrency": {"max": 32}}`)},
		{Kind: "route", Name: "chat", Doc: []byte(`{"cache": {"ttl": "2h"}}`)},
		{Kind: "plan", Name: "pro", Doc: []byte(`{"weight": null, "policies": ["1/second"]}`)},
		{Kind: "route", Name: "chat", Doc: []byte(`{"cache": {"auto": {"max": "3h"}}}`)},
		{Kind: "plan", Name: "default"},
	}
	next, err := c.Edited(edits)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, config.Differences(c, next), []config.Difference{
		{Path: "plans.pro.policies", File: "[300/minute, 20 concurrent]", InForce: "[1/second]"},
		{Path: "plans.pro.priority", File: "standard", InForce: "batch"},
		{Path: "upstreams.llm.concurrency.max", File: "8", InForce: "32"},
		{Path: "routes[0].cache.ttl", File: "10m", InForce: "2h"},
		{Path: "routes[0].cache.auto.max", File: "1h", InForce: "3h"},
	})
	t.Run("and all of their mistakes are said", func(t *testing.T) {
		_, err := c.Edited(append(edits, config.Edit{Kind: "plan", Name: "default", Doc: []byte(`{"budget": "1 USD"}`)},
			config.Edit{Kind: "route", Name: "files", Doc: []byte("5")}, config.Edit{Kind: "upstream", Name: "llm", Doc: []byte(`{"concurrency": {"min": 33}}`)},
			config.Edit{Kind: "user", Name: "a"}))
		want := `routes[1]: want a JSON object, for example {"policies": ["5/minute"]}` + "\n" +
			`plans.default.budget: "1 USD": want AMOUNT USD/WINDOW, for example 20 USD/month or 0.50 USD per day` + "\n" +
			`unknown kind "user": want plan, route or upstream` + "\n" +
			`upstreams.llm.concurrency.min: "33": want at most concurrency.max, which is 32`
		if err == nil || err.Error() != want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
	})
	t.Run("but not more than a file has room for", func(t *testing.T) {
		if _, err := c.Edited(make([]config.Edit, 10001)); fmt.Sprint(err) != "10001 edits: want at most 10000" {
			t.Error(err)
		}
	})
}

// Every configuration can be edited, and nothing that is not said is judged anew.
func TestNoEditChangesNothing(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"builtin": string(config.Builtin()), "editable": editable, "minimal": minimal}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, ".bad.yaml") && !strings.HasSuffix(file, "full.yaml") {
			texts[file] = string(text)
		}
	}
	if len(texts) < 4 {
		t.Fatalf("%d files", len(texts))
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			c := parse(t, text)
			same, err := c.Edited(nil)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, show(t, same), show(t, c))
			equal(t, config.Differences(c, same), []config.Difference(nil))
			var edits []config.Edit
			for name := range c.Plans {
				edits = append(edits, config.Edit{Kind: "plan", Name: name, Doc: []byte(docOf(t, c, "plan", name))})
			}
			for _, r := range c.Routes {
				edits = append(edits, config.Edit{Kind: "route", Name: r.Name, Doc: []byte(docOf(t, c, "route", r.Name))})
			}
			for name := range c.Upstreams {
				edits = append(edits, config.Edit{Kind: "upstream", Name: name, Doc: []byte(docOf(t, c, "upstream", name))})
			}
			if same, err = c.Edited(edits); err != nil {
				t.Fatal(err)
			}
			equal(t, show(t, same), show(t, c))
			equal(t, config.Differences(c, same), []config.Difference(nil))
		})
	}
}
