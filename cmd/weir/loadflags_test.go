package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestLoadZeros gives each flag its zero: it has its evident meaning or is refused, and is
// never taken for a default.
func TestLoadZeros(t *testing.T) {
	t.Parallel()
	var came atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came.Add(1)
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	const number = "want a number above 0, for example 200 or 0.5"
	const whole = "want a whole number, 1 or more"
	const span = "want a time above 0 with its unit, for example 10s"
	const empty = "is empty: want a text, or the flag left out"
	plan := write(t, "plan.yaml", "load: {rate: 5, url: /a}\nconfig: nowhere.yaml\nruns: [{name: a}]\n")
	for _, c := range []struct {
		args   []string
		status int
		want   string // on stderr
	}{
		{[]string{"--rate=0"}, exitUsage, `--rate: "0": ` + number},
		{[]string{"--rate=-1"}, exitUsage, `--rate: "-1": ` + number},
		{[]string{"--rate=NaN"}, exitUsage, `--rate: "NaN": ` + number},
		{[]string{"--rate="}, exitUsage, `--rate: "": ` + number},
		{[]string{"--concurrency=0"}, exitUsage, `--concurrency: "0": ` + whole},
		{[]string{"--duration=0s"}, exitUsage, `--duration: "0s": ` + span},
		{[]string{"--duration=0"}, exitUsage, `--duration: "0": ` + span},
		{[]string{"--duration=10"}, exitUsage, `--duration: "10": ` + span},
		{[]string{"--requests=0"}, exitUsage, `--requests: "0": ` + whole},
		{[]string{"--arrivals="}, exitUsage, `--arrivals: "": want constant or poisson`},
		{[]string{"--arrivals=random"}, exitUsage, `--arrivals: "random": want constant or poisson`},
		{[]string{"--warmup=5"}, exitUsage, `--warmup: "5": want a time with its unit, for example 2s, or 0s for none`},
		{[]string{"--warmup=-1s"}, exitUsage, `--warmup: "-1s": want a time with its unit`},
		{[]string{"--rate", "-5"}, exitUsage, `weir: --rate: "-5" is read as another flag: want a value, or --rate="-5" if that is the value` + "\n"},
		{[]string{"--json", "--html=x"}, exitUsage, `weir: --json: "--html=x" is read as another flag: want a value`},
		{[]string{"--ramp=0:0:0s"}, exitUsage, `--ramp: "0:0:0s": want FROM:TO:DURATION, for example 10:500:30s`},
		{[]string{"--ramp=Inf:10:5s"}, exitUsage, `--ramp: "Inf:10:5s": want rates from 0 to 1000000 a second`},
		{[]string{"--ramp=1:1000001:5s"}, exitUsage, `--ramp: "1:1000001:5s": want rates from 0 to 1000000 a second`},
		{[]string{"--ramp=0:0:1s"}, exitUsage, `--rate: nothing would be sent: want a rate and a duration that make a request at least`},
		{[]string{"--max-in-flight=0"}, exitUsage, `--max-in-flight: "0": ` + whole},
		{[]string{"--timeout=0"}, exitUsage, `--timeout: "0": ` + span},
		{[]string{"--method="}, exitUsage, `--method: ` + empty},
		{[]string{"--header="}, exitUsage, `--header: want a name and a value with a colon between`},
		{[]string{"--caller="}, exitUsage, `--caller: "": want NAME,WEIGHT,'HEADER: VALUE'`},
		{[]string{"--caller=alice,0"}, exitUsage, `--caller: "alice" with weight 0: want a name and a weight above 0`},
		{[]string{"--caller=alice,1", "--caller=alice,2"}, exitUsage, `--caller: "alice" has the weights 1 and 2: want the same with each of its fields`},
		{[]string{"--caller=alice,1,X-A: {{sec}}"}, exitUsage, `--caller: alice: X-A: line 1: function "sec" not defined`},
		{[]string{"--json=-", "--html=-"}, exitUsage, `--json, --html: -: want one of them on the standard output`},
		{[]string{"--fail-if-slower=5%"}, exitUsage, "weir: --fail-if-slower: want --compare with it"},
		{[]string{"--body=" + strings.Repeat("a b ", 3<<20)}, exitUsage, "weir: --body: 12582912 bytes: want at most 10485760"},
		{[]string{"--body=" + strings.Repeat("{{words 100000}} ", 20)}, exitUsage, "weir: --body: the text is longer than 10485760 bytes"},
		{[]string{"--callers=0"}, exitUsage, `--callers: "0": ` + whole},
		{[]string{"--callers=2", "--caller-header="}, exitUsage, `--caller-header: want a name and a value with a colon between`},
		{[]string{"--slo="}, exitUsage, `--slo: "": want a percentile and a time, for example p95<300ms`},
		{[]string{"--slo=p95<0s"}, exitUsage, `--slo: "p95<0s": want a percentile and a time, for example p95<300ms`},
		{[]string{"--max-errors="}, exitUsage, `--max-errors: "": want from 0% to 100%, for example 5%`},
		{[]string{"--seed="}, exitUsage, `--seed: expected a valid 64 bit uint but got ""`},
		{[]string{"--json="}, exitUsage, `--json: ` + empty},
		{[]string{"--html="}, exitUsage, `--html: ` + empty},
		{[]string{"--compare="}, exitUsage, `--compare: ` + empty},
		{[]string{"--concurrency=1", "--arrivals=poisson"}, exitUsage, `--arrivals: poisson with --concurrency: want a rate`},
		{[]string{"--rate=1", "--requests=100000"}, exitUsage, `--requests: 100000 take longer than 24h with ramps and warm-up: want fewer, or a higher rate`},
		{[]string{"--rate=1", "--duration=24h", "--warmup=1s"}, exitUsage, `--duration: 24h0m1s with ramps and warm-up: want at most 24h`},
		{[]string{"--rate=1", "--duration=25h"}, exitUsage, `--duration: 25h: want a time above 0 and at most 24h`},
		{[]string{"--concurrency=99999999999999"}, exitUsage, `--concurrency: 99999999999999: want from 1 to 100000`},

		{[]string{"matrix", "--warmup=5", plan}, exitUsage, `--warmup: "5": want a time with its unit`},
		{[]string{"matrix", "--repeat=0", plan}, exitUsage, `--repeat: 0: want from 1 to 20`},
		{[]string{"matrix", "--json=", plan}, exitUsage, `--json: ` + empty},
		{[]string{"matrix", "--html=", plan}, exitUsage, `--html: ` + empty},
		{[]string{"matrix", "--seed=", plan}, exitUsage, `--seed: expected a valid 64 bit uint but got ""`},
		{[]string{"matrix", ""}, exitFailed, `weir: : no such file or directory`},
		// None is a warm-up, too; the plan is read next.
		{[]string{"matrix", "--warmup=0s", "--seed=0", plan}, exitFailed, `nowhere.yaml: no such file or directory`},
	} {
		args := append([]string{"load"}, c.args...)
		if c.args[0] != "matrix" {
			args = append(args, s.URL)
		}
		var stdout, stderr transcript
		status := run(context.Background(), args, output{&stdout, &stderr})
		if status != c.status || !strings.Contains(stderr.String(), c.want) || stdout.String() != "" {
			t.Errorf("%q: status %d, stdout %q, stderr\n%swant %d and %q", c.args, status, &stdout, &stderr, c.status, c.want)
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d requests came, want none: nothing is sent before all is right", n)
	}

	t.Run("zeros that mean something", func(t *testing.T) {
		for _, c := range []struct {
			args   []string
			path   string
			status int
		}{
			{[]string{"--warmup=0s", "--seed=0", "--body=", "--max-errors=0%", "--rate=100", "--requests=2"}, "/", exitOK},
			{[]string{"--max-errors=0%", "--rate=100", "--requests=2"}, "/missing", exitFailed},
			{[]string{"--ramp=0:20:100ms"}, "/", exitOK},
			{[]string{"--ramp=20:20:100ms", "--requests=100000000"}, "/", exitOK}, // ends with its ramp
		} {
			var stdout, stderr transcript
			if status := run(context.Background(), append(append([]string{"load"}, c.args...), s.URL+c.path), output{&stdout, &stderr}); status != c.status {
				t.Errorf("%q: status %d, want %d; stderr\n%s", c.args, status, c.status, &stderr)
			}
		}
	})
	t.Run("a seed of nothing is a seed", func(t *testing.T) {
		zero := uint64(0)
		if a, b := seedOf(&zero), seedOf(nil); a != 0 || b == seedOf(nil) {
			t.Errorf("%d and %d, want 0, and another one each time", a, b)
		}
	})
}

// TestLoadBudget ends with status 1 where more fails than is allowed, however few there
// were, and says so.
func TestLoadBudget(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%5 == 0 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer s.Close()
	for budget, want := range map[string]string{
		"10%": "weir: more than 10 % of all requests failed\n",
		"20%": "",
	} {
		n.Store(0)
		var stdout, stderr transcript
		status := run(context.Background(), []string{"load", "--rate", "50", "--requests", "10", "--max-errors", budget, s.URL}, output{&stdout, &stderr})
		if (status == exitFailed) != (want != "") || !strings.HasSuffix(stderr.String(), want) {
			t.Errorf("%s: status %d, stderr\n%swant %q", budget, status, &stderr, want)
		}
		if warned := strings.Contains(stdout.String(), "20.0 % of the requests failed, and 10 % are allowed"); warned != (want != "") {
			t.Errorf("%s: stdout\n%s", budget, &stdout)
		}
	}
}

// TestLoadFilesApart refuses one file for two things before anything is sent, by
// whatever name, and leaves what was there.
func TestLoadFilesApart(t *testing.T) {
	t.Parallel()
	var came atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came.Add(1) }))
	defer s.Close()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	const report = `{"sent": 1, "ok": 1, "target": "http://x/", "errors": {}}`
	if err := os.WriteFile(at("old.json"), []byte(report), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at("old.json"), at("link.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(at("old.json"), at("hard.json")); err != nil {
		t.Fatal(err)
	}
	plan := write(t, "plan.yaml", "load: {rate: 5, url: /a}\nconfig: weir.yaml\nruns: [{name: a}]\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(plan), "weir.yaml"), []byte("upstreams: {m: {targets: ['builtin:']}}\nroutes: [{match: {path: /a}, upstream: m}]\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--json", at("new"), "--html", at("new")}, "--json, --html: " + at("new") + ": the same file: want two"},
		{[]string{"--json", at("new"), "--html", dir + "/./new"}, "--json, --html: " + dir + "/./new: the same file: want two"},
		{[]string{"--json", at("old.json"), "--html", at("link.json")}, "--json, --html: " + at("link.json") + ": the same file: want two"},
		{[]string{"--json", at("old.json"), "--compare", at("old.json")}, "--json, --compare: " + at("old.json") + ": the same file: want another one, or what is compared with would be lost"},
		{[]string{"--html", at("hard.json"), "--compare", at("old.json")}, "--html, --compare: " + at("old.json") + ": the same file: want another one, or what is compared with would be lost"},
		{[]string{"--json", "-", "--html", "-"}, "--json, --html: -: want one of them on the standard output, and a file for the other"},
		{[]string{"--json", at("new"), "--html", dir}, "--html: " + dir + ": is a directory"},
		{[]string{"--json", at("new"), "--html", at("no/such")}, "--html: " + at("no/such") + ": no such file or directory"},
		{[]string{"--json", at("new"), "--body", "{{nothing}} x"}, "--body: line 1: function \"nothing\" not defined"},
		{[]string{"matrix", plan, "--json", at("new"), "--html", at("new")}, "--json, --html: " + at("new") + ": the same file: want two"},
		{[]string{"matrix", plan, "--json", at("no/such")}, "--json: " + at("no/such") + ": no such file or directory"},
	} {
		args := append([]string{"load"}, c.args...)
		if c.args[0] != "matrix" {
			args = append(args, s.URL)
		}
		var stdout, stderr transcript
		status := run(context.Background(), args, output{&stdout, &stderr})
		if status == exitOK || !strings.HasPrefix(stderr.String(), "weir: "+c.want) || stdout.String() != "" {
			t.Errorf("%q: status %d, stderr\n%swant another and %q", c.args, status, &stderr, c.want)
		}
		if text, err := os.ReadFile(at("old.json")); err != nil || string(text) != report {
			t.Errorf("%q: what was there is %q, %v", c.args, text, err)
		}
		if _, err := os.Stat(at("new")); !os.IsNotExist(err) {
			t.Errorf("%q: leaves a file behind: %v", c.args, err)
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d requests came, want none", n)
	}

	t.Run("what is no file may be written twice", func(t *testing.T) {
		var stdout, stderr transcript
		if status := run(context.Background(), []string{"load", "--rate", "100", "--requests", "2", "--json", os.DevNull, "--html", os.DevNull, s.URL}, output{&stdout, &stderr}); status != exitOK {
			t.Errorf("status %d, stderr\n%s", status, &stderr)
		}
	})
	t.Run("a page on the standard output is alone there", func(t *testing.T) {
		var stdout, stderr transcript
		status := run(context.Background(), []string{"load", "--rate", "100", "--requests", "2", "--json", at("new"), "--html", "-", s.URL}, output{&stdout, &stderr})
		if status != exitOK || !strings.HasPrefix(stdout.String(), "<!") || strings.Contains(stdout.String(), "milliseconds  ") {
			t.Errorf("status %d, stdout\n%.300s", status, &stdout)
		}
		if r, err := readReport(at("new")); err != nil || r.Sent != 2 || r.Ended != "" {
			t.Errorf("%+v, %v; want a report of 2 requests", r, err)
		}
	})
}

// TestPlanForms checks what a plan writes as flags do, at its place in the file.
func TestPlanForms(t *testing.T) {
	t.Parallel()
	plan := write(t, "plan.yaml", `config: weir.yaml
runs: [{name: a}]
load:
  url: /a
  ramps: [10, "1:20000:5s", 1:50:5s, "Inf:2:3s"]
  slo:
    - fast
    - p95<300ms
    - ttft<1s
`)
	var stdout, stderr transcript
	status := run(context.Background(), []string{"load", "matrix", plan}, output{&stdout, &stderr})
	want := plan + `:5: load.ramps[0]: "10": want FROM:TO:DURATION, for example 10:500:30s
` + plan + `:5: load.ramps[1]: "1:20000:5s": want rate with it for more than 10000 a second
` + plan + `:5: load.ramps[3]: "Inf:2:3s": want rates from 0 to 1000000 a second
` + plan + `:7: load.slo[0]: "fast": ` + loadtest.ObjectiveForm + `
` + plan + `:9: load.slo[2]: "ttft<1s": want stream: true with it, or a condition for the latency, for example p95<300ms
`
	if status != exitFailed || stderr.String() != want || stdout.String() != "" {
		t.Errorf("status %d, stderr\n%swant\n%s", status, &stderr, want)
	}
}

// TestRampsOfTheLongestLoad checks that requests which ramps have room for need no rate
// held after them, where that would be longer than a load may be.
func TestRampsOfTheLongestLoad(t *testing.T) {
	c := &loadRun{URL: "http://h/", Rate: 1, Requests: 5, Ramp: []loadRamp{{From: 1, To: 1, For: loadtest.MaxDuration}}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	o, err := c.options()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loadtest.New(o); err != nil || len(o.Stages) != 1 {
		t.Errorf("%d stages, %v; want the ramp alone", len(o.Stages), err)
	}
}
