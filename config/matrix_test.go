package config_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
)

func TestParseMatrix(t *testing.T) {
	t.Setenv("WEIR_TEST_KEY", "weir_hunter2")
	got, err := config.ParseMatrix("plan.yaml", []byte(`
load:
  rate: 0.5
  duration: 1m30s
  url: /predict/language?x=1
  body: body.json
  headers: {Authorization: "Bearer ${WEIR_TEST_KEY}", X-Empty: ""}
  callers: 10
  stream: true
  ramps: [10:500:30s, "500:500:1m"]
  arrivals: poisson
  slo: [p95<300ms, ttft<1s]
config: weir.yaml
runs:
  - name: as it is
  - name: no cache
    set:
      routes.0.cache.mode: "off"
      plans.default.policies: [5/minute, {name: x, quota: 5, window: 1m}]
      upstreams.models.queue: {max: 0}
      routes.chat.policies: null
      upstreams.models.set_headers.X-Key: ${LLM_KEY}
    env: {GOMAXPROCS: 2, EMPTY: "", KEY: "${WEIR_TEST_KEY}"}
`))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, &config.Matrix{
		Load: config.MatrixLoad{
			Rate: 0.5, Duration: 90 * time.Second, URL: "/predict/language?x=1", Method: "POST", Body: "body.json",
			Headers: map[string]string{"Authorization": "Bearer weir_hunter2", "X-Empty": ""}, Callers: 10, Stream: true,
			Ramps: []string{"10:500:30s", "500:500:1m"}, Arrivals: "poisson", SLO: []string{"p95<300ms", "ttft<1s"},
		},
		Config: "weir.yaml",
		Runs: []config.MatrixRun{{Name: "as it is"}, {
			Name: "no cache",
			Set: map[string]any{
				"routes.0.cache.mode":                "off",
				"plans.default.policies":             []any{"5/minute", map[string]any{"name": "x", "quota": "5", "window": "1m"}},
				"upstreams.models.queue":             map[string]any{"max": "0"},
				"routes.chat.policies":               nil,
				"upstreams.models.set_headers.X-Key": "${LLM_KEY}",
			},
			Env: map[string]string{"GOMAXPROCS": "2", "EMPTY": "", "KEY": "weir_hunter2"},
		}},
	})
	t.Run("the least one", func(t *testing.T) {
		got, err := config.ParseMatrix("plan.yaml", []byte("{load: {concurrency: 16, url: /a}, config: a/b.yaml, runs: [{name: x}]}"))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, &config.Matrix{
			Load:   config.MatrixLoad{Concurrency: 16, Arrivals: "constant", Duration: 20 * time.Second, URL: "/a", Method: "GET", Callers: 1},
			Config: "a/b.yaml", Runs: []config.MatrixRun{{Name: "x"}},
		})
	})
	t.Run("ramps alone end with the last, or hold its rate", func(t *testing.T) {
		for more, want := range map[string]time.Duration{"": 0, ", duration: 5s": 5 * time.Second, ", rate: 5": 20 * time.Second} {
			got, err := config.ParseMatrix("plan.yaml", []byte("{load: {ramps: [1:2:3s], url: /a"+more+"}, config: a, runs: [{name: x}]}"))
			if err != nil || got.Load.Duration != want {
				t.Errorf("%q: %v, %v; want %v", more, got, err, want)
			}
		}
	})
	t.Run("a check says what is wrong, at its place", func(t *testing.T) {
		check := func(l *config.MatrixLoad, wrong func(path, want string)) {
			wrong("load.ramps[1]", "want another than "+l.Ramps[0])
		}
		m, err := config.ParseMatrix("plan.yaml", []byte("config: a\nruns: [{name: x}]\nload:\n  url: /a\n  ramps:\n    - 1:2:3s\n    - up\n"), check)
		if want := `plan.yaml:7: load.ramps[1]: "up": want another than 1:2:3s`; m != nil || err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		check = func(l *config.MatrixLoad, wrong func(path, want string)) {
			for i := range l.SLO {
				wrong(fmt.Sprintf("load.slo[%d]", i), "want another")
			}
		}
		_, err = config.ParseMatrix("plan.yaml", []byte("{load: {rate: 5, url: /a, slo: [{}, a]}, config: a, runs: [{name: x}]}"), check)
		if want := "plan.yaml:1: load.slo[0]: a mapping: want a text\nplan.yaml:1: load.slo[1]: \"a\": want another"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

// refusesMatrix returns a check that a text is refused with the lines want.
func refusesMatrix(t *testing.T) func(text string, want ...string) {
	return func(text string, want ...string) {
		t.Helper()
		m, err := config.ParseMatrix("plan.yaml", []byte(text))
		if _, ok := err.(config.Mistakes); m != nil || !ok || err.Error() != strings.Join(want, "\n") {
			t.Errorf("%.200s\ngot\n%v\nwant\n%s", text, err, strings.Join(want, "\n"))
		}
	}
}

func TestParseMatrixSaysEverythingThatIsWrong(t *testing.T) {
	f := refusesMatrix(t)
	f("", "plan.yaml:1: the file is empty: want load, config and runs")
	f("[a]", `plan.yaml:1: want a mapping: load, config and runs`)
	f("a: [", `plan.yaml:1: not YAML: sequence end token ']' not found`)
	f("{}",
		`plan.yaml:1: load: missing: want what to send, for example {rate: 50, url: /v1/models}`,
		`plan.yaml:1: config: missing: want a configuration file, for example weir.yaml`,
		`plan.yaml:1: runs: missing: want a list of runs, for example [{name: as it is}]`)
	f(`
load:
  rate: 0
  concurrency: 100001
  duration: 20
  url: predict
  method: get
  boddy: a
  headers: {Host: a, "Bad Header": hunter2, X-A: "hunter2\nb"}
  callers: 0
  arrivals: uniform
  ramps: {}
  slo: [""]
config: " a"
runs:
  - {name: a, set: [], env: {"A-B": 1}}
  - {name: a, sett: {}}
  - {set: {a: 1, a: 2, b: !tag x}}
colour: red
`,
		`plan.yaml:3: load.rate: "0": want a number above 0 and at most 1000000, for example 200 or 0.5`,
		`plan.yaml:4: load.concurrency: "100001": want from 1 to 100000`,
		`plan.yaml:5: load.duration: "20": want a duration, for example 10m`,
		`plan.yaml:6: load.url: "predict": want a path that begins with /, for example /v1/chat/completions: each run has a server of its own`,
		`plan.yaml:7: load.method: "get": want one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY`,
		`plan.yaml:8: load.boddy: unknown key: did you mean body?`,
		`plan.yaml:9: load.headers.(redacted): want the name of a header field, for example Authorization`,
		`plan.yaml:9: load.headers.Host: belongs to the connection and is not for setting: want another field`,
		`plan.yaml:9: load.headers.X-A: want a value without line breaks and NUL`,
		`plan.yaml:10: load.callers: "0": want from 1 to 1000000`,
		`plan.yaml:11: load.arrivals: "uniform": want one of constant, poisson`,
		`plan.yaml:12: load.ramps: a mapping: want a list`,
		`plan.yaml:13: load.slo[0]: "": empty: want a text, or leave the key out`,
		`plan.yaml:14: config: " a": want printable characters without spaces around them`,
		`plan.yaml:16: runs[0].set: a list: want a mapping`,
		`plan.yaml:16: runs[0].env.A-B: "1": want the name of a variable, for example GOMAXPROCS`,
		`plan.yaml:17: runs[1].sett: unknown key: did you mean set?`,
		`plan.yaml:17: runs[1].name: "a": the same name as runs[0]: want one of its own`,
		`plan.yaml:18: runs[2].set.a: written twice: want it once, and it is already in line 18`,
		`plan.yaml:18: runs[2].set.b: anchors, aliases and tags are not supported: write the value out`,
		`plan.yaml:18: runs[2].name: missing: want a name, for example no cache`,
		`plan.yaml:19: colour: unknown key: want one of load, config, runs`)
}

func TestParseMatrixSaysWhatDoesNotGoTogether(t *testing.T) {
	f := refusesMatrix(t)
	f("{load: {rate: 5, concurrency: 5, url: /a}, config: a, runs: []}",
		`plan.yaml:1: load.concurrency: "5": has no effect with rate, which sends whether there are answers or not: want one of the two`,
		`plan.yaml:1: runs: 0 runs: want from 1 to 32`)
	f("{load: {url: /a}, config: a, runs: [{name: x, set: null}]}",
		`plan.yaml:1: runs[0].set: null: want a mapping, or leave the key out`,
		`plan.yaml:1: load: want rate, how many requests a second, or concurrency, how many at the same time`)
	f("{load: {url: /a, concurrency: 1, ramps: [1:2:3s], arrivals: poisson}, config: a, runs: [{name: x}]}",
		`plan.yaml:1: load.ramps: has no effect with concurrency, which has no rate: want one of the two`,
		`plan.yaml:1: load.arrivals: "poisson": has no effect with concurrency, which sends when there is an answer: want one of the two`)
	f("{load: {url: /a, rate: 1, ramps: ["+strings.Repeat("1:2:3s, ", 100)+"], slo: ["+strings.Repeat("p95<1s, ", 21)+"]}, config: a, runs: [{name: x}]}",
		`plan.yaml:1: load.ramps: 100 ramps: want at most 99`,
		`plan.yaml:1: load.slo: 21 conditions: want at most 20`)
	f("{load: {url: /a, rate: 1000001, headers: {A: '${WEIR_TEST_NO_KEY}'}}, config: a, runs: ["+strings.Repeat("{name: x}, ", 33)+"]}",
		`plan.yaml:1: load.rate: "1000001": want a number above 0 and at most 1000000, for example 200 or 0.5`,
		`plan.yaml:1: load.headers.A: environment variable WEIR_TEST_NO_KEY is not set`,
		`plan.yaml:1: runs: 33 runs: want from 1 to 32`)
	var sets strings.Builder
	for i := range 101 {
		fmt.Fprintf(&sets, "a%d: 1, ", i)
	}
	f("{load: {url: /a, rate: 1}, config: a, runs: [{name: "+strings.Repeat("x", 129)+", set: {"+sets.String()+"}, env: {"+sets.String()+"}}]}",
		`plan.yaml:1: runs[0].name: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…": want at most 128 bytes`,
		`plan.yaml:1: runs[0].set: 101 values: want at most 100`,
		`plan.yaml:1: runs[0].env: 101 variables: want at most 100`)
}

// fileForSets has names with dots, and values in all forms.
const fileForSets = `
# a comment
admin: {token: "${WEIR_ADMIN_TOKEN}"}
plans:
  default: {policies: [5/minute, 20 concurrent]}
upstreams:
  llm.v2: {targets: ["http://10.0.0.1:8000"], dialect: openai, concurrency: 8}
  models:
    targets: ["builtin:"]
    set_headers: {X-A: 'it''s $$5', X-B: "a\tü"}
routes:
  - name: v1.chat
    match: {path: /v1/chat/completions}
    upstream: llm.v2
    cache: {mode: inference, ttl: 10m}
  - match: {path: /predict/*, methods: [GET, POST]}
    upstream: models
`

func TestApplySets(t *testing.T) {
	f := func(name string, sets map[string]any, old, next string, more ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got, err := config.ApplySets("weir.yaml", []byte(fileForSets), sets)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(fileForSets, old, next, 1)
			if text == fileForSets && old != next {
				t.Fatal(old)
			}
			if len(more) > 0 {
				text = strings.Replace(text, more[0], more[1], 1)
			}
			c, err := config.Parse("weir.yaml", got, testEnv)
			want, errWant := config.Parse("weir.yaml", []byte(text), testEnv)
			if err != nil || errWant != nil {
				t.Fatalf("%v\n%v\n%s", err, errWant, got)
			}
			equal(t, c.Redacted(), want.Redacted())
			equal(t, c.Upstreams["models"].SetHeaders, want.Upstreams["models"].SetHeaders)
			equal(t, c.Admin, want.Admin)
		})
	}
	f("changes nothing", nil, "", "")
	f("replaces a value by index", map[string]any{"routes.0.cache.mode": "off"}, "{mode: inference, ttl: 10m}", "{mode: off, ttl: 10m}")
	f("replaces a value by index in brackets", map[string]any{"routes[0].cache.ttl": "1m", "plans.default.policies[0]": "9/minute"}, "ttl: 10m", "ttl: 1m", "5/minute", "9/minute")
	f("replaces a value by names with dots", map[string]any{"routes.v1.chat.cache.ttl": "1m", "upstreams.llm.v2.concurrency": 4}, "ttl: 10m", "ttl: 1m", "concurrency: 8", "concurrency: 4")
	f("replaces a value by the name that a route has of itself", map[string]any{"routes.GET,POST /predict/*.max_body": int64(17)}, "upstream: models", "upstream: models\n    max_body: 17")
	f("adds what is not there", map[string]any{"upstreams.llm.v2.queue.max": 0, "telemetry.log.level": "debug"}, "concurrency: 8", "concurrency: 8, queue: {max: 0}", "admin:", "telemetry: {log: {level: debug}}\nadmin:")
	f("adds a route's cache", map[string]any{"routes.1.cache": map[string]any{"mode": "inference", "ttl": "1m", "coalesce": false}}, "upstream: models", "upstream: models\n    cache: {mode: inference, ttl: 1m, coalesce: false}")
	f("adds a plan", map[string]any{"plans.free": map[string]any{"policies": []any{}}}, "plans:", "plans:\n  free: {policies: []}")
	f("takes a key out", map[string]any{"routes.0.cache": nil, "upstreams.models.set_headers.X-A": nil}, "    cache: {mode: inference, ttl: 10m}\n", "", "X-A: 'it''s $$5', ", "")
	f("takes an item out, and what is not there", map[string]any{"plans.default.policies.1": nil, "plans.default.budget": nil, "decide.listen": nil, "jobs": nil}, ", 20 concurrent", "", "admin:", "decide: {}\nadmin:")
	f("applies what is outside first", map[string]any{"routes.0.cache": map[string]any{"mode": "inference"}, "routes.0.cache.ttl": "7m"}, "ttl: 10m", "ttl: 7m")
	f("takes numbers and fractions", map[string]any{"cache.caller_share": 0.125, "limits.json_depth": uint64(7), "callers.require": true, "callers.keys": []any{map[string]any{"caller": "a", "key": "weir_a"}}},
		"admin:", "cache: {caller_share: 0.125}\nlimits: {json_depth: 7}\ncallers: {require: true, keys: [{caller: a, key: weir_a}]}\nadmin:")
	f("replaces references", map[string]any{"upstreams.models.set_headers.X-B": "${LLM_KEY} $$ {x: [1]} # no comment", "admin.token": "${ALICE_KEY}"},
		`"a\tü"`, `"${LLM_KEY} $$ {x: [1]} # no comment"`, "${WEIR_ADMIN_TOKEN}", "${ALICE_KEY}")
}

func TestApplySetsSaysWhatLeadsNowhere(t *testing.T) {
	f := func(text string, sets map[string]any, want ...string) {
		t.Helper()
		got, err := config.ApplySets("weir.yaml", []byte(text), sets)
		if _, ok := err.(config.Mistakes); got != nil || !ok || err.Error() != strings.Join(want, "\n") {
			t.Errorf("got %s\n%v\nwant\n%s", got, err, strings.Join(want, "\n"))
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Error("a secret is shown")
		}
	}
	f(fileForSets, map[string]any{
		"routes.2.cache": 1, "routes.chat.cache": 1, "routs.0.x.y": 1, "upstreams.lm.queue.max": 1, "plans.default.policies.7": 1,
		"upstreams.llm.v2.concurrency.max": 1, "plans.free.weight": 1, "": 1, "routes..cache": 1, "admin.token.x": 1, "a.": 1,
		"plans.default.policies.x": 1, "listen": make(chan int), "instances": []any{[]string{}}, "callers": map[string]any{"a": 3i},
	},
		`"": want a path such as routes.0.cache.ttl, without empty steps`,
		`a.: want a path such as routes.0.cache.ttl, without empty steps`,
		`listen: a value of type chan int: want a text, a number, true or false, a list or a mapping`,
		`callers: a value of type complex128: want a text, a number, true or false, a list or a mapping`,
		`instances: a value of type []string: want a text, a number, true or false, a list or a mapping`,
		`admin.token.x: leads nowhere: admin.token is a single value, which has no "x"`,
		`routes..cache: leads nowhere: routes has no item "": want an index from 0 to 1, or one of v1.chat, GET,POST /predict/*`,
		`routes.2.cache: leads nowhere: routes has no item "2": want an index from 0 to 1, or one of v1.chat, GET,POST /predict/*`,
		`plans.free.weight: leads nowhere: plans has no "free": want default`,
		`routes.chat.cache: leads nowhere: routes has no item "chat": want an index from 0 to 1, or one of v1.chat, GET,POST /predict/*`,
		`upstreams.lm.queue.max: leads nowhere: upstreams has no "lm": want one of llm.v2, models`,
		`plans.default.policies.7: leads nowhere: plans.default.policies has no item "7": want an index from 0 to 1`,
		`plans.default.policies.x: leads nowhere: plans.default.policies has no item "x": want an index from 0 to 1`,
		`upstreams.llm.v2.concurrency.max: leads nowhere: upstreams.llm.v2.concurrency is a single value, which has no "max"`)
	f("a: &x 1\nb: *x\n", nil,
		`weir.yaml:1: a: anchors, aliases and tags are not supported: write the value out`,
		`weir.yaml:2: b: anchors, aliases and tags are not supported: write the value out`)
	f("a: 1\na: 2\n", nil, `weir.yaml:2: a: written twice: want it once, and it is already in line 1`)
	f("a: [", nil, `weir.yaml:1: not YAML: sequence end token ']' not found`)
	f("", nil, `weir.yaml:1: the file is empty: want at least upstreams and routes`)
	f("plain", map[string]any{"a": 1}, `a: leads nowhere: the file is a single value, which has no "a"`)
	f("routes: []", map[string]any{"routes.0.x": 1}, `routes.0.x: leads nowhere: routes has no item "0": want something in it first`)
	deep := map[string]any{}
	deep["x"] = deep
	f(fileForSets, map[string]any{"listen": deep}, `listen: nested more than 100 levels deep`)
}

func TestApplySetsKeepsEveryFile(t *testing.T) {
	for _, file := range []string{"testdata/everything.yaml", "testdata/full.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.ApplySets(file, text, nil)
		if err != nil {
			t.Fatal(err)
		}
		want, errWant := config.Parse("x", text, testEnv)
		got, errGot := config.Parse("x", again, testEnv)
		equal(t, got, want)
		if (errGot == nil) != (errWant == nil) {
			t.Errorf("%v, want %v", errGot, errWant)
		}
	}
}
