package gateway_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
)

func TestMetricsAndLog(t *testing.T) {
	w := start(t, cached, &counted{})
	w.send("POST", "/x?secret=1", `{"a":1}`)
	w.send("POST", "/x?secret=1", `{"a":1}`)
	for i := range 5 {
		w.send("POST", "/x", `{"b":`+strconv.Itoa(i)+`}`)
	}
	for name, want := range map[string]string{
		`weir_gateway_requests_total{method="POST",route="all",status="200"}`:                    "6",
		`weir_gateway_requests_total{method="POST",route="all",status="429"}`:                    "1",
		`weir_cache_requests_total{result="hit",route="all"}`:                                    "1",
		`weir_cache_requests_total{result="miss",route="all"}`:                                   "6",
		`weir_ratelimit_decisions_total{policy="default",result="allowed",scope="plan:default"}`: "5",
		`weir_ratelimit_decisions_total{policy="default",result="denied",scope="plan:default"}`:  "1",
		`weir_upstream_requests_total{result="ok",upstream="u"}`:                                 "5",
		`weir_upstream_requests_in_flight{upstream="u"}`:                                         "0",
		`weir_gateway_requests_in_flight{route="all"}`:                                           "0",
		`weir_cache_entries{tier="memory"}`:                                                      "5",
		`weir_gateway_body_bytes`:                                                                "0",
		`weir_ratelimit_keys_evicted_total`:                                                      "0",
	} {
		if got := w.metric(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if err := w.gateway.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range strings.Lines(w.log.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines = append(lines, m)
	}
	if strings.Contains(w.log.String(), "secret") {
		t.Error("the log has a query")
	}
	if len(lines) != 7 {
		t.Fatalf("%d lines", len(lines))
	}
	for key, want := range map[string]any{"msg": "request", "route": "all", "caller": "ip:127.0.0.1", "plan": "default", "method": "POST", "path": "/x",
		"status": 200.0, "cache": "weir; fwd=miss; stored", "upstream": "u", "bytes_in": 7.0, "bytes_out": 8.0, "client": "127.0.0.1", "level": "INFO"} {
		if got := lines[0][key]; got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
	if last := lines[len(lines)-1]; last["status"] != 429.0 || last["policy"] != "default" || last["level"] != "WARN" {
		t.Errorf("the refusal's line is %v", last)
	}
}

func TestBuiltinConfiguration(t *testing.T) {
	w := start(t, string(config.Builtin()), nil)
	began := time.Now()
	first := w.send("POST", "/predict/language", `{"instances": ["Où est la bibliothèque ?"]}`)
	if first.body != `{"predictions":[{"label":"fr","score":0.931}]}`+"\n" || first.header.Get("Cache-Status") != "weir; fwd=miss; stored" {
		t.Errorf("%d %s %v", first.status, first.body, first.header)
	}
	second := w.send("POST", "/predict/language", `{"instances": ["Où est la bibliothèque ?"]}`)
	if second.body != first.body || second.lapsed(began, 59) != "weir; hit; ttl=59" {
		t.Errorf("%d %s %v", second.status, second.body, second.header)
	}
	if got := w.send("GET", "/predict/sentiment?text=Today+SUX!", "").body; got != `{"predictions":[{"label":"negative","score":0.5461}]}`+"\n" {
		t.Errorf("sentiment: %s", got)
	}
	if a := w.send("POST", "/predict/language", `{"instances": 1}`); a.status != 400 || a.header.Get("Cache-Status") != "weir; fwd=miss" {
		t.Errorf("a mistake: %d %v", a.status, a.header)
	}
}
