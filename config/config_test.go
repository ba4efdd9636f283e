package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

const (
	kib = config.Size(1 << 10)
	mib = config.Size(1 << 20)
)

// minimal is the least that is a configuration.
const minimal = `
upstreams:
  m: {targets: [http://127.0.0.1:8000]}
routes:
  - {match: {path: /a}, upstream: m}
`

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("weir.yaml", []byte(text), testEnv)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func defaultConfig() *config.Config {
	return &config.Config{
		Listen: "127.0.0.1:8080",
		Admin:  config.Admin{Listen: "127.0.0.1:8081"},
		Store:  config.Store{URL: "memory:", Deadline: 20 * time.Millisecond, OnFailure: "local"},
		Callers: config.Callers{
			Identify: []string{"api_key", "jwt", "header", "ip"},
			Header:   "X-User-ID",
			IPPrefix: config.IPPrefix{V4: 32, V6: 64},
		},
		Jobs:      config.Jobs{ResultTTL: 24 * time.Hour, Attempts: 3},
		Instances: 1,
		Upstreams: map[string]config.Upstream{"m": defaultUpstream("http://127.0.0.1:8000")},
		Cache: config.Cache{
			Tiers: []string{"memory"}, Memory: config.Memory{MaxBytes: 256 * mib}, CallerShare: 0.25, NegativeTTL: 5 * time.Second,
		},
		Routes: []config.Route{defaultRoute("/a", config.Match{Path: "/a"}, "m")},
		Limits: config.Limits{
			HeaderBytes: 64 * kib, Headers: 100, URLBytes: 8 * kib, HeaderTimeout: 10 * time.Second,
			BodyMinRate: kib, JSONDepth: 100, AuthFailures: 30,
		},
		Telemetry:     config.Telemetry{Log: config.Log{Level: "info", Sample: 1}, Traces: 0.01},
		ShutdownGrace: 30 * time.Second,
	}
}

func defaultUpstream(url string) config.Upstream {
	return config.Upstream{
		Targets: []config.Target{{URL: url, Weight: 1}}, Dialect: "plain", Balance: "least_busy",
		Connections: config.Connections{Max: 512, Idle: 128, IdleTimeout: 90 * time.Second},
		Timeouts: config.Timeouts{
			Connect: time.Second, FirstByte: time.Minute, BetweenBytes: 30 * time.Second, Total: 10 * time.Minute,
		},
		Retry:       config.Retry{Attempts: 2, Budget: 0.2},
		Breaker:     config.Breaker{Failures: 5, OpenFor: 10 * time.Second},
		Concurrency: config.Concurrency{Min: 1, Max: 256},
		Queue:       config.Queue{Max: 256, MaxWait: 10 * time.Second, Status: 503, KeepaliveAfter: 5 * time.Second},
	}
}

func defaultPlan(policies ...config.Policy) config.Plan {
	return config.Plan{Policies: policies, Weight: 1, Priority: "standard"}
}

func defaultRoute(name string, match config.Match, upstream string) config.Route {
	return config.Route{
		Name: name, Match: match, Upstream: upstream,
		Cache:   config.RouteCache{Mode: "off", Share: "caller", Only: "deterministic", Coalesce: true, Replay: "asap", MaxEntry: 8 * mib},
		MaxBody: 10 * mib, RespondAsync: "never",
	}
}

func defaultPolicy(name string, quota int64, window time.Duration) config.Policy {
	return config.Policy{
		Name: name, Quota: quota, Window: window, Unit: "requests", By: "caller", Burst: quota, Algorithm: "token_bucket",
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestTheLeastConfigurationHasEveryDefault(t *testing.T) {
	equal(t, parse(t, minimal), defaultConfig())
}

func TestTheBuiltinConfigurationServesTheBuiltinModels(t *testing.T) {
	want := defaultConfig()
	want.Plans = map[string]config.Plan{"default": defaultPlan(defaultPolicy("default", 5, time.Minute))}
	llm := defaultUpstream("builtin:")
	llm.Dialect = "openai"
	want.Upstreams = map[string]config.Upstream{"models": defaultUpstream("builtin:"), "llm": llm}
	cached := func(name, path, upstream string, methods ...string) config.Route {
		r := defaultRoute(name, config.Match{Path: path, Methods: methods}, upstream)
		r.Cache.Mode, r.Cache.TTL = "inference", time.Minute
		return r
	}
	want.Routes = []config.Route{
		cached("language", "/predict/language", "models", "GET", "POST"),
		cached("sentiment", "/predict/sentiment", "models", "GET", "POST"),
		cached("chat", "/v1/chat/completions", "llm", "POST"),
		cached("embeddings", "/v1/embeddings", "llm", "POST"),
		defaultRoute("list", config.Match{Path: "/v1/models*", Methods: []string{"GET"}}, "llm"),
	}
	equal(t, parse(t, string(config.Builtin())), want)
	config.Builtin()[0] = 'X'
	if config.Builtin()[0] == 'X' {
		t.Error("Builtin returned bytes that it still uses")
	}
}

func custom(p config.Policy, by string) config.Policy {
	p.By = by
	return p
}

func slots(name string, concurrent int64) config.Policy {
	return config.Policy{Name: name, Concurrent: concurrent, Unit: "requests", By: "caller"}
}

// counting is a policy of another unit or algorithm.
func counting(p config.Policy, unit, algorithm string) config.Policy {
	p.Unit, p.Algorithm = unit, algorithm
	if algorithm != "token_bucket" {
		p.Burst = 0
	}
	return p
}

// proPlan are the policies of testdata/everything.yaml's plan pro.
func proPlan() []config.Policy {
	daily := custom(defaultPolicy("daily", 1000, 24*time.Hour), "header:X-Team")
	daily.Burst = 50
	all := custom(slots("slots", 100), "global")
	all.Shadow = true
	all.Auto = &config.Auto{Min: 10, Max: 200}
	lease := counting(defaultPolicy("lease", 5000, time.Minute), "output_tokens", "token_bucket")
	lease.Lease = &config.Lease{MaxExcess: 0.0007}
	return []config.Policy{
		defaultPolicy("pro", 300, time.Minute), defaultPolicy("pro-2", 100, time.Hour), daily,
		defaultPolicy("pro-3", 9, 90*time.Minute), slots("pro-4", 20), all,
		counting(defaultPolicy("calendar", 5, ratelimit.Month), "tokens", "fixed_window"),
		counting(defaultPolicy("slide", 1000000, 7*24*time.Hour), "bytes", "sliding_window"),
		lease, counting(defaultPolicy("pro-5", 50, ratelimit.Year), "input_tokens", "token_bucket"),
	}
}

// manyOverrides are those of testdata/everything.yaml.
func manyOverrides() []config.Override {
	shadow := custom(defaultPolicy("calendar", 6, ratelimit.Year), "plan")
	shadow.Shadow = true
	return []config.Override{
		{Caller: "key:alice", Plan: "free"},
		{Caller: "key:Zoë", Policies: []config.Policy{defaultPolicy("default", 7, time.Minute), custom(slots("slots", 2), "global")}},
		{Caller: "ip:192.0.2.0/24", Plan: "pro", Policies: []config.Policy{
			defaultPolicy("pro", 600, time.Minute), slots("pro-4", 40), shadow,
		}},
	}
}

func chatRoute() config.Route {
	return config.Route{
		Name:     "chat",
		Match:    config.Match{Path: "/v1/chat/completions", Methods: []string{"POST"}, Model: "llama-*"},
		Upstream: "llm",
		Policies: []config.Policy{
			custom(defaultPolicy("all", 600, time.Minute), "global"), custom(defaultPolicy("chat", 30, time.Minute), "ip"),
			defaultPolicy("chat-2", 1000, 24*time.Hour),
		},
		Cache: config.RouteCache{
			Mode: "inference", TTL: 10 * time.Minute, Auto: &config.AutoTTL{Min: time.Minute, Max: 90 * time.Minute}, Share: "plan", Only: "all",
			StaleWhileRevalidate: time.Minute, StaleIfError: time.Hour,
			Ignore: []string{"/user", "/a~1b"}, Tags: []string{"llama", "modèle:7"}, Replay: "original",
			MaxEntry: 512, ChargeHits: true,
		},
		MaxBody: 1024 * mib, RespondAsync: "allowed", OffloadOver: 64 * kib, LegacyHeaders: true,
	}
}

func decidedRoute() config.Route {
	r := defaultRoute("/decided/*", config.Match{Path: "/decided/*"}, "")
	r.Policies = []config.Policy{defaultPolicy("/decided/*", 9, time.Second)}
	return r
}

func filesRoute() config.Route {
	r := defaultRoute("/files/*", config.Match{Path: "/files/*"}, "local")
	r.Cache = config.RouteCache{
		Mode: "http", StaleIfError: 24 * time.Hour, Share: "all", Only: "deterministic", Tags: []string{"files"},
		Coalesce: true, Replay: "asap", MaxEntry: mib,
	}
	return r
}

// smaller is r where the smallest tier lowers the default.
func smaller(r config.Route, entry config.Size) config.Route {
	r.Cache.MaxEntry = entry
	return r
}

// everything is what testdata/everything.yaml says.
func everything() *config.Config {
	predict := config.Match{Path: "/predict/*", Methods: []string{"GET", "POST"}}
	return &config.Config{
		Listen: "0.0.0.0:9090",
		TLS:    &config.TLS{Cert: "/etc/weir/cert.pem", Key: "/etc/weir/key.pem"},
		Admin:  config.Admin{Listen: ":9091", Token: "hunter2-admin"},
		Decide: &config.Decide{Listen: "127.0.0.1:9092"},
		Store: config.Store{
			URL:      "redis+sentinel://weir:hunter2%40@mymaster@r1:26379,[2001:db8::1],r3/15",
			Deadline: 5 * time.Millisecond, OnFailure: "closed",
		},
		Database: &config.Database{
			URL:  "postgres://weir:hunter2%40@db1,[2001:db8::2]:6432/weir?sslmode=verify-full&sslpassword=hunter2",
			Pool: config.Pool{Size: 5, Overflow: 0, PrePing: false, MaxLifetime: 0},
		},
		Blobs: &config.Blobs{
			URL: "s3://weir-blobs?region=eu-west-1&use_path_style=true", SignFor: 90 * time.Second,
			SigningKey: "hunter2-signing-0123456789abcdef",
		},
		Jobs: config.Jobs{
			ResultTTL: 7 * 24 * time.Hour, Attempts: 1,
			Webhooks: &config.Webhooks{
				Secret: "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==",
				Allow:  []string{"hooks.internal", "hooks.internal:8443", "10.2.0.0/16", "fd00::7", "[fd00::8]:9000", "[fd00::/8]:9443", "*:9000", "10.0.0.0/8:9000"},
			},
		},
		Prices: map[string]config.Price{
			"*":              {Input: 3, Cached: 0.3, Output: 15},
			"llama-*":        {Input: 0.15, Cached: 0.15, Output: 0.6},
			"org/embed:v1.5": {Input: 0.000000001, Cached: 0, Output: 0},
			"huge":           {Input: 1000000, Cached: 999999.999999999, Output: 123456.789012345},
		},
		Instances: 3,
		Callers: config.Callers{
			Identify: []string{"api_key", "jwt", "header", "ip"}, Require: true,
			TrustedProxies: []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"),
				netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("fd00::/8"),
			},
			Header: "X-Team", IPPrefix: config.IPPrefix{V4: 24, V6: 48},
			Keys: []config.Key{{"alice", "weir_hunter2alice", "pro"}, {"Zoë", "weir_hunter2zoe", ""}},
			JWT: &config.JWT{
				Issuer: "https://login.example.com/a", Audience: "weir", JWKSURL: "http://127.0.0.1:8099/keys",
				CallerClaim: "email", PlanClaim: "tier",
			},
			Allow:     []string{"10.1.0.0/16", "key:alice"},
			Deny:      []string{"2001:db8::/32", "jwt:4711", "header:Bob B.", "192.0.2.7"},
			Overrides: manyOverrides(),
		},
		Plans: map[string]config.Plan{
			"default": defaultPlan(defaultPolicy("default", 5, time.Minute)),
			"free":    {Budget: &config.Budget{Nanos: 50_000_000, Window: 24 * time.Hour}, Weight: 1, Priority: "batch"},
			"pro": {
				Policies: proPlan(), Budget: &config.Budget{Nanos: 20_000_000_000, Window: ratelimit.Month}, Weight: 4, Priority: "critical",
			},
		},
		Upstreams: map[string]config.Upstream{"local": defaultUpstream("builtin:"), "llm": llmUpstream(), "other": otherUpstream()},
		Cache: config.Cache{
			Tiers: []string{"memory", "redis", "dir"}, Memory: config.Memory{MaxBytes: 10_000_000},
			Dir: &config.CacheDir{Path: "/var/cache/weir", MaxBytes: mib}, CallerShare: 0.125,
		},
		Routes: []config.Route{
			chatRoute(), smaller(defaultRoute("GET,POST /predict/*", predict, "local"), mib), smaller(decidedRoute(), mib),
			filesRoute(), socketRoute(), smaller(defaultRoute("/*", config.Match{Path: "/*"}, "local"), mib),
		},
		Limits: config.Limits{
			HeaderBytes: 16 * kib, Headers: 50, URLBytes: 4 * kib, HeaderTimeout: 5 * time.Second, JSONDepth: 20,
		},
		Telemetry: config.Telemetry{
			Log:    config.Log{Level: "debug", Sample: 0.05, Redact: []string{"caller", "user_agent"}},
			OTLP:   &config.OTLP{Endpoint: "https://otel.example/otlp", Headers: map[string]string{"Authorization": "Bearer hunter2-llm", "X-Empty": ""}},
			Traces: 0,
		},
	}
}

func TestAFileWithEveryKeyIsReadWhole(t *testing.T) {
	text, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, parse(t, string(text)), everything())
	t.Run("with CRLF line ends and a byte order mark too", func(t *testing.T) {
		equal(t, parse(t, "\uFEFF"+strings.ReplaceAll(string(text), "\n", "\r\n")), everything())
	})
}

func TestYAMLReadsBackAsTheSameConfiguration(t *testing.T) {
	for _, want := range []*config.Config{defaultConfig(), everything()} {
		text, err := want.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "hunter2") {
			t.Errorf("a secret is shown:\n%s", text)
		}
		got := parse(t, revealed(text))
		hideSecrets(got)
		hideSecrets(want)
		equal(t, got, want)
	}
}

func TestYAMLIsReadable(t *testing.T) {
	c := parse(t, `
plans: {default: {policies: [5/minute]}}
upstreams:
  m: {targets: [http://127.0.0.1:8000], set_headers: {X-Key: hunter2}}
routes:
  - {match: {path: /a/*, methods: [GET]}, upstream: m, max_body: 512}
`)
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/readable.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(want) {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

func TestLoadReadsAFileAndTheEnvironment(t *testing.T) {
	t.Setenv("WEIR_TEST_LISTEN", "127.0.0.1:9999")
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("weir_from_file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "weir.yaml")
	text := "listen: ${WEIR_TEST_LISTEN}\ncallers: {keys: [{caller: a, key: ${file:" + secret + "}}]}\n" + minimal
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Listen = "127.0.0.1:9999"
	want.Callers.Keys = []config.Key{{Caller: "a", Key: "weir_from_file"}}
	equal(t, got, want)
}

func TestLoadSaysWhichFileIsMissing(t *testing.T) {
	_, err := config.Load("/nonexistent/weir.yaml")
	if !errors.Is(err, os.ErrNotExist) || err.Error() != "/nonexistent/weir.yaml: no such file or directory" {
		t.Error(err)
	}
}

func TestLargeInputs(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 64<<10+1), 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(t.TempDir(), "full")
	if err := os.WriteFile(full, []byte(strings.Repeat("a", 60<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, text, want string }{
		{"a file over 1MiB", minimal + strings.Repeat("#\n", 1<<19), "weir.yaml:1: the file has 1048673 bytes: want at most 1MiB"},
		{"an included file over 64KiB", "listen: ${file:" + big + "}" + minimal, `want at most 64KiB`},
		{"a value over 64KiB", "listen: ${file:" + full + "}${file:" + full + "}" + minimal, "longer than 65536 bytes"},
		{"values over 4MiB", "callers: {identify: [" + strings.Repeat("${file:"+full+"}, ", 80) + "]}" + minimal,
			"all values together have more than 4194304 bytes"},
		{"a list over 10000 items", "callers: {identify: [" + strings.Repeat("ip, ", 10001) + "]}" + minimal,
			"weir.yaml:1: callers.identify: 10001 items: want at most 10000"},
		{"a block mapping over 10000 keys", strings.Repeat("a:\n", 10001),
			"weir.yaml:10001: more than 10000 keys or items in one mapping or list"},
	}
	for _, test := range tests {
		t.Run(test.name+" is refused", func(t *testing.T) {
			_, err := config.Parse("weir.yaml", []byte(test.text), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%.300s, want %s", fmt.Sprint(err), test.want)
			}
		})
	}
	t.Run("at most 1000 mistakes are reported", func(t *testing.T) {
		_, err := config.Parse("weir.yaml", []byte("callers: {identify: ["+strings.Repeat("x, ", 5000)+"]}"+minimal), nil)
		mistakes, _ := errors.AsType[config.Mistakes](err)
		if len(mistakes) != 1000 {
			t.Error(len(mistakes))
		}
	})
}

func TestColonsInFlowMappings(t *testing.T) {
	got := parse(t, `
callers: {trusted_proxies: ["10.0.0.1", 2001:db8::/32, fd00::1]}
plans: {default: {policies: [{quota: 1, window: 1m, by: header:X-Team}]}}
upstreams: {m: {targets: [http://127.0.0.1:8000, {"url":"http://h:1/a:b"}]}, b: {targets: [builtin:]}} # a:b
admin: {listen: 127.0.0.1:${PORT}}
store:
  url: memory: # this process
routes: [{match: {path: /a:b}, upstream: m}]
`)
	want := defaultConfig()
	want.Admin.Listen = "127.0.0.1:9090"
	want.Callers.TrustedProxies = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fd00::1/128"),
	}
	policy := defaultPolicy("default", 1, time.Minute)
	policy.By = "header:X-Team"
	want.Plans = map[string]config.Plan{"default": defaultPlan(policy)}
	m := want.Upstreams["m"]
	m.Targets = append(m.Targets, config.Target{URL: "http://h:1/a:b", Weight: 1})
	want.Upstreams["m"] = m
	want.Upstreams["b"] = defaultUpstream("builtin:")
	want.Routes = []config.Route{defaultRoute("/a:b", config.Match{Path: "/a:b"}, "m")}
	equal(t, got, want)
}

func TestSmallStoresLowerTheDefaultsThatDependOnThem(t *testing.T) {
	c := parse(t, `
cache: {memory: {max_bytes: 1MiB}}
upstreams: {m: {targets: [http://h], connections: {max: 3}}}
routes: [{match: {path: /a}, upstream: m}]
`)
	equal(t, c.Upstreams["m"].Connections.Idle, 3)
	equal(t, c.Routes[0].Cache.MaxEntry, mib)

	most := func(cache string) config.Size {
		return parse(t, "cache: "+cache+minimal+"store: {url: redis://h}\n").Routes[0].Cache.MaxEntry
	}
	equal(t, most("{tiers: [memory, dir], memory: {max_bytes: 3MiB}, dir: {path: d, max_bytes: 2MiB}}"), 2*mib)
	equal(t, most("{tiers: [dir, memory], memory: {max_bytes: 1MiB}, dir: {path: d, max_bytes: 2MiB}}"), mib)
	equal(t, most("{tiers: [dir, redis], dir: {path: d, max_bytes: 2MiB}}"), 2*mib)
	equal(t, most("{tiers: [redis]}"), 8*mib)
	equal(t, most("{tiers: [redis], dir: {path: d, max_bytes: 2MiB}}"), 8*mib)
}

func TestADirectoryWithoutItsTierIsKeptForLater(t *testing.T) {
	c := parse(t, "cache: {tiers: [memory, redis], memory: {max_bytes: 256MiB}, dir: {path: cache, max_bytes: 10GiB}}"+minimal+"store: {url: redis://h}\n")
	equal(t, c.Cache.Tiers, []string{"memory", "redis"})
	equal(t, c.Cache.Dir, &config.CacheDir{Path: "cache", MaxBytes: 10 << 30})
	yaml, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(yaml), "\n  dir:") {
		t.Errorf("what has no effect is printed:\n%s", yaml)
	}
}

func TestOnlyWhatHasAnEffectIsPrinted(t *testing.T) {
	printed := func(text string) string {
		yaml, err := parse(t, text+"store: {url: redis://h}\n").YAML()
		if err != nil {
			t.Fatal(err)
		}
		parse(t, string(yaml))
		_, cache, _ := strings.Cut(string(yaml), "\ncache:\n")
		cache, _, _ = strings.Cut(cache, "\n    max_body:")
		return cache
	}
	equal(t, printed("cache: {tiers: [dir], dir: {path: a b}, caller_share: 1}"+strings.Replace(minimal, "upstream: m", "upstream: m, cache: {mode: http}", 1)), `  tiers: [dir]
  dir:
    path: "a b"
    max_bytes: 10GiB
  caller_share: 1
  negative_ttl: 5s
routes:
  - name: /a
    match:
      path: /a
    upstream: m
    cache:
      mode: http
      stale_while_revalidate: 0s
      stale_if_error: 0s
      share: caller
      coalesce: true
      max_entry: 8MiB
      charge_hits: false`)
}

func TestTheShareOfACaller(t *testing.T) {
	for text, want := range map[string]float64{"0.25": 0.25, "1": 1, "1.0": 1, "0.0001": 0.0001, "0.9999": 0.9999, "01.00": 1} {
		c := parse(t, "cache: {caller_share: "+text+"}"+minimal)
		equal(t, c.Cache.CallerShare, want)
		yaml, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, parse(t, string(yaml)).Cache.CallerShare, want)
	}
}

func TestAMistakeNamesItsPlace(t *testing.T) {
	_, err := config.Parse("weir.yaml", []byte("shutdown_grace: 10x"+minimal), nil)
	equal(t, err, error(config.Mistakes{{
		File: "weir.yaml", Line: 1, Path: "shutdown_grace", Value: `"10x"`, Want: "want a duration, for example 10m",
	}}))
}

func TestReferencesInValues(t *testing.T) {
	header := func(value string) string {
		c := parse(t, "upstreams:\n  m: {targets: [http://h], set_headers: {X: "+value+"}}\nroutes: [{match: {path: /a}, upstream: m}]\n")
		return c.Upstreams["m"].SetHeaders["X"]
	}
	for _, test := range []struct{ name, value, want string }{
		{"a variable in a flow mapping", "${PORT}", "9090"},
		{"a variable between text", `"a ${PORT} b ${PORT}"`, "a 9090 b 9090"},
		{"two dollar signs are one", "$$5", "$5"},
		{"two dollar signs before a brace", "$${PORT}", "${PORT}"},
		{"a dollar sign by itself", "a$b$", "a$b$"},
		{"a value is not read again", `'$$${PORT}'`, "$9090"},
		{"YAML in a value is text", "'{a: b}'", "{a: b}"},
	} {
		t.Run(test.name, func(t *testing.T) { equal(t, header(test.value), test.want) })
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "builtin.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if strings.Contains(string(text), "file:") || len(text) > 1<<14 {
			return // other files are none of this test's, and long ones are slow
		}
		want, err := config.Parse("weir.yaml", text, testEnv)
		if err != nil {
			if _, ok := errors.AsType[config.Mistakes](err); !ok || strings.Count(err.Error(), "\n") >= 1000 {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		printed, err := want.YAML()
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.Parse("weir.yaml", []byte(revealed(printed)), testEnv)
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		hideSecrets(got)
		hideSecrets(want)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got\n%+v\nwant\n%+v\n%s", got, want, printed)
		}
	})
}
