package config_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
)

func TestDifferences(t *testing.T) {
	f := func(name, old, next string, want ...config.Difference) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if !strings.Contains(editable, old) {
				t.Fatal(old)
			}
			got := config.Differences(parse(t, editable), parse(t, strings.Replace(editable, old, next, 1)))
			equal(t, got, want)
		})
	}
	f("of nothing", "", "")
	f("of the form alone", "concurrency: 8", "concurrency: {min: 8, max: 8}")
	f("of policies", "[300/minute, 20 concurrent]", "[10/minute, {name: x, quota: 5, window: 1h, by: ip, shadow: true}]",
		config.Difference{Path: "plans.pro.policies", File: "[300/minute, 20 concurrent]",
			InForce: "[10/minute, {name: x, quota: 5, window: 1h, unit: requests, by: ip, burst: 5, algorithm: token_bucket, shadow: true}]"})
	f("of a name alone", "[5/minute]", "[{quota: 5, window: 1m, name: x}]",
		config.Difference{Path: "plans.default.policies", File: "[5/minute]", InForce: "[{name: x, quota: 5, window: 1m, unit: requests, by: caller, burst: 5, algorithm: token_bucket, shadow: false}]"})
	f("of no policies", "{policies: [5/minute]}", "{policies: [], budget: 20 USD/month}",
		config.Difference{Path: "plans.default.policies", File: "[5/minute]"}, config.Difference{Path: "plans.default.budget", InForce: "20 USD/month"})
	f("of a route", "600/minute]\n    cache: {mode: inference, ttl: 10m, auto: {min: 1m, max: 1h}}", "6/minute]\n    cache: {mode: inference, ttl: 90s}",
		config.Difference{Path: "routes[0].policies", File: "[600/minute]", InForce: "[6/minute]"},
		config.Difference{Path: "routes[0].cache.ttl", File: "10m", InForce: "1m30s"},
		config.Difference{Path: "routes[0].cache.auto", File: "{min: 1m, max: 1h}"})
	f("of a bound", "max: 1h", "max: 2h", config.Difference{Path: "routes[0].cache.auto.max", File: "1h", InForce: "2h"})
	f("of an upstream", `{url: "http://10.0.0.2:8000", weight: 2}`, `{url: "http://10.0.0.2:8000", weight: 3}, http://10.0.0.3`,
		config.Difference{Path: "upstreams.llm.targets", File: "[http://10.0.0.1:8000, {url: http://10.0.0.2:8000, weight: 2}]",
			InForce: "[http://10.0.0.1:8000, {url: http://10.0.0.2:8000, weight: 3}, http://10.0.0.3]"})
	f("of what is not there", "  nobodys: {}\n", "",
		config.Difference{Path: "plans.nobodys", File: "{weight: 1, priority: standard}"})
	f("of a new plan", "  nobodys: {}\n", "  nobodys: {}\n  free: {weight: 1}\ndatabase: {}\n",
		config.Difference{Path: "database", InForce: "{url: sqlite:weir.db, pool: {size: 10}}"},
		config.Difference{Path: "plans.free", InForce: "{weight: 1, priority: standard}"})
	f("of a route's name", "name: chat", "name: talk",
		config.Difference{Path: "routes", File: "[chat, files, GET,POST /*]", InForce: "[talk, files, GET,POST /*]"})
	f("of the order of routes", "  - {name: files, match: {path: /files/*}, upstream: other, cache: {mode: http}}\n  - {match: {path: /*, methods: [GET, POST]}, upstream: other}\n",
		"  - {match: {path: /*, methods: [GET, POST]}, upstream: other, max_body: 1}\n  - {name: files, match: {path: /files/*}, upstream: other, cache: {mode: http}}\n",
		config.Difference{Path: "routes", File: "[chat, files, GET,POST /*]", InForce: "[chat, GET,POST /*, files]"},
		config.Difference{Path: "routes[2].max_body", File: "10MiB", InForce: "1"})
	f("of lists", "callers:\n", "callers:\n  identify: [api_key]\n  trusted_proxies: [10.0.0.0/8, fd00::/8]\n  allow: [192.0.2.1]\n",
		config.Difference{Path: "callers.identify", File: "[api_key, jwt, header, ip]", InForce: "[api_key]"},
		config.Difference{Path: "callers.trusted_proxies", InForce: "[10.0.0.0/8, fd00::/8]"},
		config.Difference{Path: "callers.allow", InForce: "[192.0.2.1]"})
	f("of a price", "input: 3", "input: 4.5", config.Difference{Path: "prices.*.input", File: "3", InForce: "4.5"},
		config.Difference{Path: "prices.*.cached", File: "3", InForce: "4.5"})
	f("of a key", "key: weir_a,", "key: weir_b,", config.Difference{Path: "callers.keys",
		File: "[{caller: a, key: (redacted), plan: pro}]", InForce: "[{caller: a, key: (redacted), plan: pro}]"})
	f("of a field", "    dialect: openai", "    dialect: openai\n    set_headers: {Authorization: hunter2, X-A: ''}",
		config.Difference{Path: "upstreams.llm.set_headers", InForce: "{Authorization: (redacted), X-A: (redacted)}"})
	f("of a password", "prices:", "store: {url: 'redis://:hunter2@h'}\nprices:",
		config.Difference{Path: "store.url", File: "memory:", InForce: "redis://:(redacted)@h"})
	f("of dollars and quotes", "name: chat", `name: "cha$t 'a'"`,
		config.Difference{Path: "routes", File: "[chat, files, GET,POST /*]", InForce: "[cha$t 'a', files, GET,POST /*]"})
}

func TestADifferenceIsCut(t *testing.T) {
	var allowed []string
	for i := range 100 {
		allowed = append(allowed, fmt.Sprintf("192.0.2.%d", i))
	}
	got := config.Differences(parse(t, editable), parse(t, strings.Replace(editable, "callers:\n", "callers:\n  allow: ["+strings.Join(allowed, ", ")+"]\n", 1)))
	if len(got) != 1 || len([]rune(got[0].InForce)) != 1001 || !strings.HasSuffix(got[0].InForce, "…") {
		t.Errorf("%+v", got)
	}
}

func TestNeedsRestart(t *testing.T) {
	f := func(next string, want ...string) {
		t.Helper()
		equal(t, parse(t, editable).NeedsRestart(parse(t, next+editable)), want)
		equal(t, parse(t, next+editable).NeedsRestart(parse(t, editable)), want)
	}
	f("")
	f("shutdown_grace: 1s\nlimits: {json_depth: 7, headers: 1}\ntelemetry: {log: {level: debug}}\n")
	f("listen: ':1'\nadmin: {listen: 127.0.0.1:2, token: hunter2}\ntls: {cert: a, key: b}\n", "listen", "tls", "admin.listen", "admin.token")
	f("decide: {}\nstore: {url: 'redis://h', deadline: 1s}\ndatabase: {}\n", "decide", "store.url", "store.deadline", "database")
	f("blobs: {}\ninstances: 2\n", "blobs")
	f("cache: {tiers: [memory, dir], memory: {max_bytes: 16MiB}, dir: {path: a}, caller_share: 1, negative_ttl: 1s}\n",
		"cache.tiers", "cache.memory.max_bytes", "cache.dir", "cache.caller_share")
	f("limits: {header_timeout: 1s, header_bytes: 1KiB, auth_failures: 0}\ntelemetry: {log: {sample: 0, redact: [path]}, otlp: {endpoint: 'http://h'}, traces: 0}\n",
		"limits.header_bytes", "limits.header_timeout", "telemetry.otlp", "telemetry.traces")
	t.Run("for what keeps jobs", func(t *testing.T) {
		equal(t, parse(t, "database: {}\n"+editable).NeedsRestart(parse(t, "database: {url: 'sqlite:a'}\njobs: {attempts: 7}\n"+editable)), []string{"database.url", "jobs.attempts"})
	})
	t.Run("not for what can be edited", func(t *testing.T) {
		c := parse(t, editable)
		for _, e := range []config.Edit{
			{Kind: "plan", Name: "pro", Doc: []byte(`{"policies": [], "weight": 9}`)},
			{Kind: "route", Name: "chat", Doc: []byte(`{"cache": {"ttl": "30m"}}`)},
			{Kind: "upstream", Name: "llm", Doc: []byte(`{"concurrency": 9}`)},
		} {
			equal(t, c.NeedsRestart(edited(t, c, e.Kind, e.Name, string(e.Doc))), []string(nil))
		}
	})
}

func TestTheReferenceSaysWhatNeedsARestart(t *testing.T) {
	reference, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(reference), "\n## Changing it while it runs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	keys := config.RestartKeys()
	for _, kind := range []string{"plan", "route", "upstream"} {
		keys = append(keys, config.EditKeys(kind)...)
	}
	for _, key := range keys {
		if !strings.Contains(section, "`"+key+"`") {
			t.Errorf("no word of %s", key)
		}
	}
}

func TestRedactedHasNoSecrets(t *testing.T) {
	text, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(text))
	hidden := c.Redacted()
	equal(t, c, everything())
	equal(t, show(t, hidden), show(t, c))
	equal(t, config.Differences(c, c), []config.Difference(nil))
	if shown := show(t, hidden); strings.Contains(shown, "hunter2") {
		t.Error(shown)
	}
	f := func(got, want any) {
		t.Helper()
		equal(t, got, want)
	}
	f(hidden.Admin.Token, "(redacted)")
	f(hidden.Store.URL, "redis+sentinel://weir:(redacted)@mymaster@r1:26379,[2001:db8::1],r3/15")
	f(hidden.Database.URL, "postgres://weir:(redacted)@db1,[2001:db8::2]:6432/weir?sslmode=verify-full&sslpassword=(redacted)")
	f(hidden.Blobs.SigningKey, "(redacted)")
	f(hidden.Jobs.Webhooks.Secret, "(redacted)")
	f(hidden.Callers.Keys, []config.Key{{Caller: "alice", Key: "(redacted)", Plan: "pro"}, {Caller: "Zoë", Key: "(redacted)"}})
	f(hidden.Upstreams["llm"].SetHeaders, map[string]string{"Authorization": "(redacted)", "X-Price": "(redacted)", "X-Empty": "(redacted)"})
	f(hidden.Telemetry.OTLP.Headers, map[string]string{"Authorization": "(redacted)", "X-Empty": "(redacted)"})
	f(parse(t, minimal).Redacted(), parse(t, minimal))
}

// secretKeys are the keys whose values are never shown; those that end in url hide what is
// secret in them.
func secretKeys() []string {
	return []string{
		"admin.token", "blobs.signing_key", "blobs.url", "callers.keys[].key", "database.url", "jobs.webhooks.secret",
		"store.url", "telemetry.otlp.headers", "upstreams.*.set_headers",
	}
}

// fill gives every text that a struct can hold a value that tells where it is from: what a
// key that nobody has thought of would show.
func fill(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if name := f.Tag.Get("yaml"); name != "" {
				fill(v.Field(i), strings.TrimPrefix(path+"."+name, "."))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if holdsKeys(v.Type().Elem()) {
			path += "[]"
		}
		fill(v.Index(0), path)
	case reflect.Map:
		item := reflect.New(v.Type().Elem()).Elem()
		if holdsKeys(item.Type()) {
			path += ".*"
		}
		fill(item, path)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), item)
	case reflect.String:
		secret := "hunter2<" + path + ">"
		switch path {
		case "store.url":
			secret = "redis://u:" + secret + "@h"
		case "database.url":
			secret = "postgres://u:" + secret + "@h/d"
		case "blobs.url":
			secret = "s3://b?secret=" + secret
		}
		v.SetString(secret)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(0.5)
	}
}

func TestEverySecretIsHiddenWhereverItIsPrinted(t *testing.T) {
	full := &config.Config{}
	fill(reflect.ValueOf(full).Elem(), "")
	full.Cache.Tiers = []string{"dir"} // so that nothing is without effect
	var texts []string
	for _, c := range []*config.Config{full, full.Redacted()} {
		texts = append(texts, show(t, c))
	}
	var differences strings.Builder
	blank := &config.Config{
		Plans: map[string]config.Plan{"x": {}}, Upstreams: map[string]config.Upstream{"x": {}},
		Routes: []config.Route{{Name: full.Routes[0].Name}},
	}
	all := append(config.Differences(full, &config.Config{}), config.Differences(&config.Config{}, full)...)
	for _, d := range append(append(all, config.Differences(full, blank)...), config.Differences(blank, full)...) {
		differences.WriteString(d.File + d.InForce + "\n")
	}
	texts = append(texts, differences.String())
	tags := map[string]reflect.StructTag{}
	supported(reflect.TypeFor[config.Config](), "", tags)
	secrets := secretKeys()
	for key, tag := range tags {
		marker := "hunter2<" + key + ">"
		for i, text := range texts {
			if slices.Contains(secrets, key) && strings.Contains(text, marker) {
				t.Errorf("%s is shown in text %d", key, i)
			}
		}
		isSecret := tag.Get("secret") != ""
		if isSecret != slices.Contains(secrets, key) && key != "callers.keys" {
			t.Errorf("%s: tagged as secret %v: is it?", key, isSecret)
		}
		for _, word := range []string{"token", "secret", "password", "credential", "signing", "_key", "headers"} {
			harmless := []string{"limits.headers", "routes[].legacy_headers"}
			if strings.Contains(key, word) && !slices.Contains(secrets, key) && !slices.Contains(harmless, key) {
				t.Errorf("%s sounds like a secret: is it one?", key)
			}
		}
	}
	for _, key := range []string{"listen", "callers.jwt.audience", "routes[].match.model", "telemetry.otlp.endpoint"} {
		for i, text := range texts {
			if !strings.Contains(text, "hunter2<"+key+">") {
				t.Errorf("%s is not shown in text %d, so that it proves nothing:\n%s", key, i, text)
			}
		}
	}
}
