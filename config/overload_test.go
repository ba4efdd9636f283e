package config_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
)

// fileWith is a file whose upstream m has these keys.
func fileWith(keys string) string {
	return "upstreams:\n  m: {" + keys + "}\nroutes: [{match: {path: /a}, upstream: m}]\n"
}

// reprinted is what is printed of a file.
func reprinted(t *testing.T, text string) string {
	t.Helper()
	out, err := parse(t, text).YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// llmUpstream and otherUpstream are those of testdata/everything.yaml, the one with
// every key and the other with the short forms, and with what can be off off.
func llmUpstream() config.Upstream {
	return config.Upstream{
		Targets: []config.Target{{"http://10.0.0.1:8000", 1}, {"https://h.example/base/", 2}, {"http://10.0.0.3", 1}},
		Dialect: "openai", Balance: "prefix",
		SetHeaders:  map[string]string{"Authorization": "Bearer hunter2-llm", "X-Price": "hunter2 $5 9090", "X-Empty": ""},
		Connections: config.Connections{Max: 64, Idle: 64, IdleTimeout: time.Minute},
		Timeouts: config.Timeouts{
			Connect: 250 * time.Millisecond, FirstByte: 5 * time.Minute, BetweenBytes: time.Minute, Total: 90 * time.Minute,
		},
		Probe:       &config.Probe{Path: "/health/ready", Interval: 500 * time.Millisecond, Timeout: 500 * time.Millisecond},
		Retry:       config.Retry{Attempts: 3, Post: true},
		Hedge:       &config.Hedge{After: config.After{Quantile: 0.99}, Budget: 0.01, Post: true},
		Breaker:     config.Breaker{Failures: 3, OpenFor: time.Minute},
		Concurrency: config.Concurrency{Min: 2, Max: 48},
		SLO:         &config.SLO{TTFT: 2 * time.Second, TPOT: 80 * time.Millisecond},
		Queue:       config.Queue{Max: 1000, MaxWait: 5 * time.Second, Status: 429},
		Batch:       &config.Batch{MaxSize: 16, MaxDelay: 2 * time.Millisecond},
		Engine:      &config.Engine{Metrics: "/v1/metrics", Kind: "sglang"},
	}
}

func otherUpstream() config.Upstream {
	u := defaultUpstream("http://10.0.1.1")
	u.Targets = append(u.Targets, config.Target{URL: "http://10.0.1.2", Weight: 1})
	u.Dialect, u.Balance = "kserve", "two_choices"
	u.Probe = &config.Probe{Path: "/v2/health/ready", Interval: 5 * time.Second, Timeout: 3 * time.Second}
	u.Retry.Attempts, u.Breaker.Failures = 1, 0
	u.Hedge = &config.Hedge{After: config.After{Duration: 1500 * time.Millisecond}, Budget: 0.05}
	u.Concurrency = config.Concurrency{Min: 8, Max: 8}
	u.SLO = &config.SLO{TTFT: 100 * time.Millisecond}
	u.Queue.Max, u.Queue.Status = 0, 429
	u.Batch = &config.Batch{MaxSize: 32, MaxDelay: 5 * time.Millisecond}
	u.Engine = &config.Engine{Metrics: ":8002/metrics", Kind: "triton"}
	return u
}

func socketRoute() config.Route {
	r := smaller(defaultRoute("GET /socket", config.Match{Path: "/socket", Methods: []string{"GET"}}, "other"), mib)
	r.Upgrade = []string{"websocket"}
	return r
}

// overloadTest is keys of an upstream with these targets, and what differs from its
// defaults because of them.
type overloadTest struct {
	name, targets, keys string
	change              func(u *config.Upstream)
}

const (
	oneTarget  = "http://h"
	twoTargets = "http://h, https://i"
	tlsTarget  = "https://h"
)

func attemptTests() []overloadTest {
	return []overloadTest{
		{"a probe has an interval and a timeout", oneTarget, "probe: {path: /health}", func(u *config.Upstream) {
			u.Probe = &config.Probe{Path: "/health", Interval: 5 * time.Second, Timeout: time.Second}
		}},
		{"a short interval lowers the default of the timeout", oneTarget, "probe: {path: '/health?full=1', interval: 200ms}", func(u *config.Upstream) {
			u.Probe = &config.Probe{Path: "/health?full=1", Interval: 200 * time.Millisecond, Timeout: 200 * time.Millisecond}
		}},
		{"a timeout may be as long as the interval", oneTarget, "probe: {path: /, interval: 3s, timeout: 3s}", func(u *config.Upstream) {
			u.Probe = &config.Probe{Path: "/", Interval: 3 * time.Second, Timeout: 3 * time.Second}
		}},
		{"a budget of retries may be 0", oneTarget, "retry: {budget: 0}", func(u *config.Upstream) { u.Retry.Budget = 0 }},
		{"a budget of retries may be 1", oneTarget, "retry: {attempts: 5, budget: 1, post: true}", func(u *config.Upstream) {
			u.Retry = config.Retry{Attempts: 5, Budget: 1, Post: true}
		}},
		{"one attempt is none again", oneTarget, "retry: {attempts: 1}", func(u *config.Upstream) { u.Retry.Attempts = 1 }},
		{"a hedge without keys is on", twoTargets, "hedge: {}", func(u *config.Upstream) {
			u.Hedge = &config.Hedge{After: config.After{Quantile: 0.95}, Budget: 0.05}
		}},
		{"a hedge may have a fixed time", twoTargets, "hedge: {after: 1m30s, budget: 0.0001, post: true}", func(u *config.Upstream) {
			u.Hedge = &config.Hedge{After: config.After{Duration: 90 * time.Second}, Budget: 0.0001, Post: true}
		}},
		{"no failures turn the breaker off", oneTarget, "breaker: {failures: 0}", func(u *config.Upstream) { u.Breaker.Failures = 0 }},
		{"a breaker opens for its time", oneTarget, "breaker: {open_for: 100ms}", func(u *config.Upstream) { u.Breaker.OpenFor = 100 * time.Millisecond }},
	}
}

func limitTests() []overloadTest {
	return []overloadTest{
		{"one number fixes the concurrency", oneTarget, "concurrency: 7", func(u *config.Upstream) { u.Concurrency = config.Concurrency{Min: 7, Max: 7} }},
		{"the number may be a variable", tlsTarget, "concurrency: ${PORT}", func(u *config.Upstream) { u.Concurrency = config.Concurrency{Min: 9090, Max: 9090} }},
		{"the least concurrency alone", oneTarget, "concurrency: {min: 256}", func(u *config.Upstream) { u.Concurrency.Min = 256 }},
		{"the greatest concurrency alone", oneTarget, "concurrency: {max: 512}", func(u *config.Upstream) { u.Concurrency.Max = 512 }},
		{"few connections lower its default", oneTarget, "connections: {max: 3}", func(u *config.Upstream) {
			u.Connections.Max, u.Connections.Idle, u.Concurrency.Max = 3, 3, 3
		}},
		{"but not what is said", twoTargets, "connections: {max: 3}, concurrency: 2", func(u *config.Upstream) {
			u.Connections.Max, u.Connections.Idle, u.Concurrency = 3, 3, config.Concurrency{Min: 2, Max: 2}
		}},
		{"over TLS a connection may carry several requests", tlsTarget, "connections: {max: 3}, concurrency: {min: 9, max: 900}", func(u *config.Upstream) {
			u.Connections.Max, u.Connections.Idle, u.Concurrency = 3, 3, config.Concurrency{Min: 9, Max: 900}
		}},
		{"the models in this process have no connections", "builtin:", "connections: {max: 3}", func(u *config.Upstream) {
			u.Connections.Max, u.Connections.Idle = 3, 3
		}},
		{"a goal for the first byte needs no tokens", oneTarget, "slo: {ttft: 10ms}", func(u *config.Upstream) { u.SLO = &config.SLO{TTFT: 10 * time.Millisecond} }},
		{"a goal for tokens alone", oneTarget, "dialect: ollama, slo: {tpot: 1m}", func(u *config.Upstream) {
			u.Dialect, u.SLO = "ollama", &config.SLO{TPOT: time.Minute}
		}},
		{"there may be no queue", oneTarget, "queue: {max: 0}", func(u *config.Upstream) { u.Queue.Max = 0 }},
		{"a wait may be longer than any timeout", oneTarget, "queue: {max: 65535, max_wait: 1h, status: 429, keepalive_after: 0s}", func(u *config.Upstream) {
			u.Queue = config.Queue{Max: 65535, MaxWait: time.Hour, Status: 429}
		}},
		{"a keep-alive may come too late for any", oneTarget, "queue: {max_wait: 1s, keepalive_after: 2s}", func(u *config.Upstream) {
			u.Queue.MaxWait, u.Queue.KeepaliveAfter = time.Second, 2*time.Second
		}},
		{"a batch without keys is on", oneTarget, "dialect: tfserving, batch: {}", func(u *config.Upstream) {
			u.Dialect, u.Batch = "tfserving", &config.Batch{MaxSize: 32, MaxDelay: 5 * time.Millisecond}
		}},
		{"vLLM shows its metrics where it serves", oneTarget, "engine: {kind: vllm}", func(u *config.Upstream) {
			u.Engine = &config.Engine{Metrics: "/metrics", Kind: "vllm"}
		}},
		{"Triton shows them on a port of their own", oneTarget, "engine: {kind: triton}", func(u *config.Upstream) {
			u.Engine = &config.Engine{Metrics: ":8002/metrics", Kind: "triton"}
		}},
		{"unless the file says otherwise", oneTarget, "engine: {kind: triton, metrics: /metrics}", func(u *config.Upstream) {
			u.Engine = &config.Engine{Metrics: "/metrics", Kind: "triton"}
		}},
		{"any engine may have such a port", oneTarget, `engine: {kind: sglang, metrics: ":1/m"}`, func(u *config.Upstream) {
			u.Engine = &config.Engine{Metrics: ":1/m", Kind: "sglang"}
		}},
		{"a dialect with prompts has prefixes", oneTarget, "dialect: kserve, balance: prefix", func(u *config.Upstream) { u.Dialect, u.Balance = "kserve", "prefix" }},
		{"two choices are for any dialect", twoTargets, "balance: two_choices", func(u *config.Upstream) { u.Balance = "two_choices" }},
	}
}

func TestTheKeysOfOverload(t *testing.T) {
	for _, test := range append(attemptTests(), limitTests()...) {
		t.Run(test.name, func(t *testing.T) {
			urls := strings.Split(test.targets, ", ")
			want := defaultUpstream(urls[0])
			for _, url := range urls[1:] {
				want.Targets = append(want.Targets, config.Target{URL: url, Weight: 1})
			}
			test.change(&want)
			text := fileWith(`targets: ["` + strings.Join(urls, `", "`) + `"], ` + test.keys)
			equal(t, parse(t, text).Upstreams["m"], want)
			// What is printed of it reads back as the same.
			equal(t, parse(t, reprinted(t, text)).Upstreams["m"], want)
		})
	}
}

func TestEveryQuantileReadsBackAsItself(t *testing.T) {
	for n := 50; n <= 99; n++ {
		text := fileWith(fmt.Sprintf("targets: [http://h, http://i], hedge: {after: p%d}", n))
		want := config.After{Quantile: float64(n) / 100}
		equal(t, parse(t, text).Upstreams["m"].Hedge.After, want)
		equal(t, parse(t, reprinted(t, text)).Upstreams["m"].Hedge.After, want)
		equal(t, want.String(), fmt.Sprintf("p%d", n))
	}
	equal(t, config.After{Duration: 250 * time.Millisecond}.String(), "250ms")
}

func TestWhatIsOffIsPrintedAsOff(t *testing.T) {
	got := reprinted(t, fileWith("targets: [http://h], retry: {attempts: 1}, breaker: {failures: 0}, queue: {max: 0}, concurrency: 4"))
	_, got, _ = strings.Cut(got, "      total: 10m\n")
	got, _, _ = strings.Cut(got, "cache:\n")
	equal(t, got, `    retry:
      attempts: 1
    breaker:
      failures: 0
    concurrency:
      min: 4
      max: 4
    queue:
      max: 0
      status: 503
`)
}

func TestRoutesThatUpgrade(t *testing.T) {
	for name, text := range map[string]string{
		"with all methods":         strings.Replace(minimal, "upstream: m", "upstream: m, upgrade: [websocket]", 1),
		"with GET among others":    strings.Replace(minimal, "{path: /a}, upstream: m", "{path: /a, methods: [POST, GET]}, upstream: m, upgrade: [websocket]", 1),
		"with a cache that is off": strings.Replace(minimal, "upstream: m", "upstream: m, upgrade: [websocket], cache: {mode: off}", 1),
		"with any model or none":   strings.Replace(minimal, "{path: /a}, upstream: m", `{path: /a, model: "*"}, upstream: m, upgrade: [websocket]`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			equal(t, parse(t, text).Routes[0].Upgrade, []string{"websocket"})
			equal(t, parse(t, reprinted(t, text)).Routes[0].Upgrade, []string{"websocket"})
		})
	}
}

// The examples of the reference are files, or parts of one.
func TestTheExamplesOfTheReferenceAreRight(t *testing.T) {
	reference, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)\n```yaml\n(.*?)```").FindAllStringSubmatch(string(reference), -1)
	if len(examples) < 11 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, example := range examples {
		text := example[1]
		if !strings.Contains(text, "upstreams:") {
			text += "upstreams: {llm: {targets: [http://h]}}\n"
		}
		if !strings.Contains(text, "routes:") {
			name := regexp.MustCompile(`upstreams:(?: \{|\n  )(\w+):`).FindStringSubmatch(text)[1]
			text += "routes: [{match: {path: /*}, upstream: " + name + "}]\n"
		}
		secret := func(name string) (string, bool) {
			if value, ok := testEnv(name); ok {
				return value, true
			}
			return "weir_" + name, true
		}
		if _, err := config.Parse("example.yaml", []byte(text), secret); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
}
