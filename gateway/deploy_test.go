package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/inferweir/weir/storetest"
)

// everything is a gateway that has a metric of each kind.
const everything = `
telemetry: {otlp: {endpoint: "COLLECTOR"}}
store: {url: "REDIS", deadline: 10s}
database: {url: "sqlite:DIR/weir.db"}
blobs: {url: "dir:DIR/blobs", signing_key: 0123456789abcdef0123456789abcdef}
cache: {tiers: [memory, dir], dir: {path: "DIR/cache"}}
plans: {default: {policies: [{name: few, quota: 20, window: 1h}, {name: two, concurrent: 2}]}}
upstreams:
  llm: {targets: ["%s"], dialect: openai, probe: {path: /health}, engine: {metrics: /metrics, kind: vllm}, batch: {max_size: 4}}
routes:
- {name: chat, match: {path: /v1/chat/completions}, upstream: llm, respond_async: allowed, cache: {mode: inference, ttl: 1m, only: all}}
- {name: all, match: {path: /*}, upstream: llm}
`

// series is one line of the page: a name and labels.
type series struct {
	name   string
	labels map[string]string
}

// page reads the text format.
func page(t *testing.T, text string) []series {
	t.Helper()
	var all []series
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		s := series{labels: map[string]string{"job": "weir", "instance": "127.0.0.1:8081"}} // Prometheus's own
		if at := strings.IndexByte(line, '{'); at >= 0 {
			name = line[:at]
			for _, m := range regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(line[at:], -1) {
				s.labels[m[1]] = m[2]
			}
		}
		s.name = name
		all = append(all, s)
	}
	return all
}

// scrape has the series of a gateway by their names.
func scrape(t *testing.T, w *weir) map[string][]series {
	t.Helper()
	there := map[string][]series{"up": {{"up", map[string]string{"job": "weir", "instance": ""}}}}
	for _, s := range page(t, w.metrics()) {
		there[s.name] = append(there[s.name], s)
	}
	return there
}

// queries are all that the files of deploy, and the docs, ask of Prometheus, by where they do.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"rules.yml", "alerts.yml"} {
		var file struct {
			Groups []struct {
				Name  string
				Rules []struct {
					Record, Alert, Expr string
					Labels, Annotations map[string]string
				}
			}
		}
		if err := yaml.Unmarshal([]byte(deployed(t, "prometheus/"+name)), &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, g := range file.Groups {
			for _, r := range g.Rules {
				all[name+" "+r.Record+r.Alert] = r.Expr
				if r.Alert != "" && (r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"])) {
					t.Errorf("%s: %s: want a summary, a description and a severity", name, r.Alert)
				}
			}
		}
	}
	var board any
	if err := json.Unmarshal([]byte(deployed(t, "grafana/weir.json")), &board); err != nil {
		t.Fatal(err)
	}
	dig(board, "weir.json", all)
	documented(t, all)
	if len(all) < 105 {
		t.Fatalf("found only %d queries", len(all))
	}
	return all
}

// documented finds the queries of the docs.
func documented(t *testing.T, all map[string]string) {
	t.Helper()
	_, text, _ := strings.Cut(observability(t), "```promql\n")
	text, _, _ = strings.Cut(text, "```")
	for line := range strings.Lines(text) {
		// The page has native histograms in protobuf alone.
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "# from the native histogram") {
			all["observability.md "+line] = strings.TrimSpace(line)
		}
	}
}

// dig finds the queries of a dashboard, wherever they are.
func dig(v any, at string, all map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		if title, ok := v["title"].(string); ok {
			at += " " + title
		}
		for key, one := range v {
			text, isText := one.(string)
			switch {
			case isText && key == "expr":
				all[fmt.Sprint(at, " ", v["refId"])] = text
			case isText && key == "definition":
				all[fmt.Sprint(at, " ", v["name"])] = text
			default:
				dig(one, at, all)
			}
		}
	case []any:
		for _, one := range v {
			dig(one, at, all)
		}
	}
}

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func observability(t *testing.T) string {
	t.Helper()
	return deployed(t, "../docs/observability.md")
}

// TestDeployAsksForWhatThereIs compares every query of deploy, and the table of metrics
// in the docs, with the page of a gateway that has all features.
func TestDeployAsksForWhatThereIs(t *testing.T) {
	t.Parallel()
	w, docs := startEverything(t), observability(t)
	there := scrape(t, w)
	asked := queries(t)
	for at, query := range asked {
		if err := checkQuery(query, there, asked); err != nil {
			t.Errorf("%s: %v\n%s", at, err, query)
		}
	}
	for line := range strings.Lines(w.metrics()) {
		rest, ok := strings.CutPrefix(line, "# TYPE weir_")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		if !strings.Contains(docs, "`weir_"+name+"`") {
			t.Errorf("docs/observability.md does not have `weir_%s`", name)
		}
	}
	for _, name := range regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)`").FindAllStringSubmatch(docs, -1) {
		if there[name[1]] == nil && there[name[1]+"_count"] == nil {
			t.Errorf("docs/observability.md has %s, which is not there", name[1])
		}
	}
}

// TestRatiosAreOfEnough checks that nobody is woken up by one failure of two: an alert
// over a ratio also asks how many there are of what the ratio is of.
func TestRatiosAreOfEnough(t *testing.T) {
	t.Parallel()
	asked := queries(t)
	floor := regexp.MustCompile(`^([a-z_:]+):ratio_rate5m > [0-9.]+ and ([a-z_:]+:rate5m) > 0\.[0-9]+$`)
	ratios := 0
	for at, query := range asked {
		if !strings.HasPrefix(at, "alerts.yml ") {
			continue
		}
		if strings.Contains(query, "rate(") && strings.Contains(query, " / ") {
			t.Errorf("%s: want the ratio as a rule\n%s", at, query)
		}
		if !strings.Contains(query, ":ratio_") {
			continue
		}
		ratios++
		m := floor.FindStringSubmatch(query)
		if m == nil {
			t.Errorf("%s: want how many there are with it\n%s", at, query)
			continue
		}
		_, of, _ := strings.Cut(asked["rules.yml "+m[1]+":ratio_rate5m"], "/ ")
		of, many := strings.TrimSpace(of), asked["rules.yml "+m[2]]
		if of != many && of != "("+many+")" {
			t.Errorf("%s: the ratio is of\n%s, and %s is\n%s", at, of, m[2], many)
		}
	}
	if ratios < 5 {
		t.Errorf("found only %d ratios", ratios)
	}
}

// TestRatiosBeginTogether asks a gateway that nobody has asked anything. A counter that
// appears with its first event has no rate of it: beside one that was there at 0 a share
// would be too high, or infinite.
func TestRatiosBeginTogether(t *testing.T) {
	t.Parallel()
	there := scrape(t, beginEverything(t))
	asked := queries(t)
	for at, query := range asked {
		if !strings.Contains(query, "/ ") || !strings.Contains(query, "weir_") {
			continue
		}
		if err := checkQuery(query, there, asked); err != nil {
			t.Errorf("%s: at the start: %v\n%s", at, err, query)
		}
	}
}

// TestGuessedKeysAreSeen wants both counters: who guesses keys is soon refused unseen, and
// counted in the other one.
func TestGuessedKeysAreSeen(t *testing.T) {
	t.Parallel()
	asked := queries(t)
	seen := 0
	for at, query := range asked {
		failed, limited := strings.Contains(query, "weir_auth_failures_total"), strings.Contains(query, "weir_auth_failures_limited_total")
		if failed != limited {
			t.Errorf("%s: want failures, and those that were limited\n%s", at, query)
		}
		if failed && limited {
			seen++
		}
	}
	if seen < 2 {
		t.Errorf("%d queries ask for failed keys, want an alert and a panel", seen)
	}
}

// TestDeployNamesItsPrometheus wants the version that knows each setting, where it is said.
func TestDeployNamesItsPrometheus(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"prometheus.yml": deployed(t, "prometheus/prometheus.yml"), "README.md": deployed(t, "README.md"), "observability.md": observability(t),
	} {
		if strings.Contains(text, "scrape_native_histograms") && !strings.Contains(text, "Prometheus 3.8") {
			t.Errorf("%s: scrape_native_histograms is for Prometheus 3.8 or newer", name)
		}
	}
}

// checkQuery finds what a query asks for that is not there. It knows no more of PromQL
// than names, selectors, groupings and brackets.
func checkQuery(query string, there map[string][]series, asked map[string]string) error {
	quoted := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	bare := quoted.ReplaceAllString(query, `""`)
	for _, pair := range []string{"()", "{}", "[]"} {
		if strings.Count(bare, pair[:1]) != strings.Count(bare, pair[1:]) {
			return fmt.Errorf("its %s are not in pairs", pair)
		}
	}
	labels := map[string]bool{"le": true, "job": true, "instance": true}
	for _, m := range regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?`).FindAllStringSubmatch(strings.ReplaceAll(query, "$__", ""), -1) {
		name, selector := m[1], m[2]
		if strings.Contains(name, ":") {
			if asked["rules.yml "+name] == "" {
				return fmt.Errorf("there is no rule %s", name)
			}
			continue
		}
		if !strings.HasPrefix(name, "weir_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && name != "up" {
			continue
		}
		if len(there[name]) == 0 {
			return fmt.Errorf("there is no metric %s", name)
		}
		for _, s := range there[name] {
			for label := range s.labels {
				labels[label] = true
			}
		}
		if err := checkSelector(selector, there[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, m := range regexp.MustCompile(`\bby \(([^)]*)\)`).FindAllStringSubmatch(bare, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if label = strings.TrimSpace(label); !labels[label] {
				return fmt.Errorf("none of its metrics has the label %s", label)
			}
		}
	}
	for _, m := range regexp.MustCompile(`([a-zA-Z_]+)\s*\(`).FindAllStringSubmatch(bare, -1) {
		if !slices.Contains([]string{"sum", "rate", "by", "max", "min", "count", "topk", "histogram_quantile", "increase", "changes", "label_values", "and", "or"}, m[1]) {
			return fmt.Errorf("%s is no function that is known here", m[1])
		}
	}
	return nil
}

// checkSelector wants of each matcher that a series has its label, and that some have,
// and some have not, the value: what fits nothing or does nothing is a mistake.
func checkSelector(selector string, all []series) error {
	for _, m := range regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(selector, -1) {
		label, op, value := m[1], m[2], m[3]
		values := map[string]bool{}
		for _, s := range all {
			if v, ok := s.labels[label]; ok {
				values[v] = true
			}
		}
		if len(values) == 0 {
			return fmt.Errorf("it has no label %s", label)
		}
		if strings.HasPrefix(value, "$") {
			continue // a variable of the dashboard
		}
		parts := []string{regexp.QuoteMeta(value)}
		if strings.HasSuffix(op, "~") {
			parts = strings.Split(value, "|") // each must be there
		}
		for _, part := range parts {
			one, err := regexp.Compile("^(?:" + part + ")$")
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(keysOf(values), one.MatchString) {
				return fmt.Errorf("no %s is %s, they are %q", label, part, keysOf(values))
			}
		}
	}
	return nil
}

func keysOf(m map[string]bool) []string {
	var all []string
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// beginEverything starts a gateway with all features.
func beginEverything(t *testing.T) *weir {
	t.Helper()
	_, collector := newOTLPCollector(t)
	redis := storetest.Redis(t)
	yaml := strings.NewReplacer("COLLECTOR", collector, "REDIS", redis.URL(), "DIR", t.TempDir()).Replace(everything)
	return start(t, yaml, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"model":"llama","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`)
		}
	})).connected()
}

// startEverything starts such a gateway and sends what makes its metrics.
func startEverything(t *testing.T) *weir {
	t.Helper()
	w := beginEverything(t)
	const chat, body = "/v1/chat/completions", `{"model":"llama","messages":[{"role":"user","content":"Hi"}]}`
	f := func(method, path, body string, want int, header ...string) {
		t.Helper()
		if a := w.send(method, path, body, header...); a.status != want {
			t.Fatalf("%s %s: %d %s, want %d", method, path, a.status, a.body, want)
		}
	}
	f("POST", chat, body, 200)
	f("POST", chat, body, 200) // from the cache
	f("POST", chat, strings.Replace(body, "Hi", "Later", 1), 202, "Prefer", "respond-async")
	f("GET", "/broken", "", 500)
	f("GET", "/busy", "", 503)
	for range 30 { // more than the plan allows
		w.send("GET", "/", "")
	}
	f("GET", "/", "", 429)
	w.until(func() bool { return w.metric(`weir_job_ended_total{state="completed"}`) == "1" })
	return w
}

func TestQueriesThatAskForWhatIsNotThere(t *testing.T) {
	there := map[string][]series{
		"weir_a_total": {{"weir_a_total", map[string]string{"result": "ok"}}, {"weir_a_total", map[string]string{"result": "500"}}},
	}
	asked := map[string]string{"rules.yml r:weir_a:rate5m": "x"}
	f := func(query, want string) {
		t.Helper()
		err := checkQuery(query, there, asked)
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	f(`sum by (result) (rate(weir_a_total{result=~"ok|5.."}[5m])) / r:weir_a:rate5m`, "")
	f(`sum(rate(weir_b_total[5m]))`, "there is no metric weir_b_total")
	f(`sum(rate(weir_a_total{reslut="ok"}[5m]))`, "weir_a_total: it has no label reslut")
	f(`sum(rate(weir_a_total{result=~"ok|4.."}[5m]))`, `weir_a_total: no result is 4.., they are ["500" "ok"]`)
	f(`sum by (route) (rate(weir_a_total[5m]))`, "none of its metrics has the label route")
	f(`sum(rate(weir_a_total[5m])`, "its () are not in pairs")
	f(`average(weir_a_total)`, "average is no function that is known here")
	f(`r:weir_b:rate5m`, "there is no rule r:weir_b:rate5m")
}
