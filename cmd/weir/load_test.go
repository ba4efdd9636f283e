package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestLoadInterrupted ends a load as Ctrl-C does.
func TestLoadInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var came atomic.Int64
	gone := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if came.Add(1) == 20 {
			interrupt()
			select {
			case <-r.Context().Done(): // the request that is under way is cut off
			case <-gone:
			}
		}
	}))
	defer s.Close()
	defer close(gone)
	var stdout, stderr transcript
	path := write(t, "report.json", "what was there before, and is longer than nothing")
	status := run(ctx, []string{"load", "--concurrency", "1", "--duration", "1h", "--json", path, s.URL}, output{&stdout, &stderr})
	if status != exitFailed {
		t.Errorf("exit status %d, want %d", status, exitFailed)
	}
	for _, want := range []string{"Ended before its time: interrupted.\n", "  unfinished "} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("stdout =\n%swant %q in it", &stdout, want)
		}
	}
	if want := "weir: interrupted: the report is of what was sent until then\n"; !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("stderr =\n%swant it to end with %q", &stderr, want)
	}
	report, err := readReport(path)
	if err != nil || report.Ended != loadtest.EndedInterrupted || report.OK != 19 || report.Unfinished != 1 || report.Sent != 20 {
		t.Errorf("%v, %+v; want 19 answers, and one that was unfinished", err, report)
	}
}

// hungUp is a standard output that nobody reads.
type hungUp struct{}

func (hungUp) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestLoadWritesItsFilesWhoeverReadsItsText loses no report to a reader that has left.
func TestLoadWritesItsFilesWhoeverReadsItsText(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	path := filepath.Join(t.TempDir(), "report.json")
	var stderr transcript
	status := run(context.Background(), []string{"load", "--rate", "100", "--requests", "2", "--json", path, s.URL}, output{hungUp{}, &stderr})
	report, err := readReport(path)
	if status != exitFailed || !strings.Contains(stderr.String(), "broken pipe") || err != nil || report.Sent != 2 {
		t.Errorf("status %d, stderr %q, report %v %+v; want a report, and what failed", status, &stderr, err, report)
	}
}

// TestLoadWithNothingToBeSlowerThan refuses what every load would be as fast as.
func TestLoadWithNothingToBeSlowerThan(t *testing.T) {
	t.Parallel()
	var came atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came.Add(1) }))
	defer s.Close()
	const unanswered = "has no answer without an error: want a report of a load that was answered, to be slower than"
	for text, want := range map[string]string{
		`{"target":"http://a/"}`:          unanswered,
		`{"target":"http://a/","sent":5}`: unanswered,
		// What timed out has latencies.
		`{"target":"http://a/","sent":5,"errors":{"timeout":5},"latency_ms":{"p50":60000}}`: unanswered,
		`{"target":"http://a/","sent":5,"ok":5}`:                                            "has no latencies: want a report as weir load --json wrote it, to be slower than",
	} {
		path := write(t, "before.json", text)
		var stdout, stderr transcript
		status := run(context.Background(), []string{"load", "--requests=2", "--compare", path, "--fail-if-slower=10%", s.URL}, output{&stdout, &stderr})
		if status != exitFailed || stderr.String() != "weir: "+path+": "+want+"\n" {
			t.Errorf("%s: status %d, stderr %q; want %d and %q", text, status, &stderr, exitFailed, want)
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("%d requests came, want none", n)
	}
}

// TestLoadKeepsItsStandardInput refuses a report where the body comes from.
func TestLoadKeepsItsStandardInput(t *testing.T) {
	t.Parallel()
	path := write(t, "body.json", `{"input": "a"}`)
	body, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var stderr strings.Builder
	command := exec.Command("weir", "load", "--requests", "1", "--body", "-", "--json", path, "http://127.0.0.1:1/")
	command.Stdin, command.Stderr = body, &stderr
	_ = command.Run() // what it says tells enough
	want := "weir: --json, --body: -: the same file: want another one, or what the load reads would be lost\n"
	if text, err := os.ReadFile(path); stderr.String() != want || err != nil || string(text) != `{"input": "a"}` {
		t.Errorf("stderr %q, the file %q, %v; want %q and the body", &stderr, text, err, want)
	}
}

// TestLoadStages checks what the flags make of the load.
func TestLoadStages(t *testing.T) {
	t.Parallel()
	ramp := loadRamp{From: 1, To: 50, For: 5 * time.Second}
	hold := func(rate float64, d time.Duration) loadtest.Stage {
		return loadtest.Stage{From: rate, To: rate, For: d}
	}
	for _, c := range []struct {
		name string
		load loadRun
		want []loadtest.Stage
	}{
		{"nothing said is ten a second for ten seconds", loadRun{}, []loadtest.Stage{hold(10, 10*time.Second)}},
		{"a rate", loadRun{Rate: 500, Duration: loadSpan(time.Minute)}, []loadtest.Stage{hold(500, time.Minute)}},
		{"a number of requests takes as long as it does, with room", loadRun{Rate: 100, Requests: 1000}, []loadtest.Stage{hold(100, 30*time.Second)}},
		{"a ramp alone ends at its end", loadRun{Ramp: []loadRamp{ramp}}, []loadtest.Stage{loadtest.Stage(ramp)}},
		{"a duration holds the last rate of ramps", loadRun{Ramp: []loadRamp{ramp}, Duration: loadSpan(time.Minute)}, []loadtest.Stage{loadtest.Stage(ramp), hold(50, time.Minute)}},
		{"a rate follows ramps", loadRun{Ramp: []loadRamp{ramp, ramp}, Rate: 80}, []loadtest.Stage{loadtest.Stage(ramp), loadtest.Stage(ramp), hold(80, 10*time.Second)}},
		{"a ramp to nothing is held at nothing", loadRun{Ramp: []loadRamp{{From: 10, For: time.Second}}, Duration: loadSpan(time.Minute)}, []loadtest.Stage{{From: 10, For: time.Second}, hold(0, time.Minute)}},
		{"requests may take a day, with ramps and warm-up", loadRun{Ramp: []loadRamp{ramp}, Rate: 1, Requests: 86_000, Warmup: loadWait(time.Minute)}, []loadtest.Stage{loadtest.Stage(ramp), hold(1, 24*time.Hour-time.Minute-ramp.For)}},
		{"ramps make some of the requests", loadRun{Ramp: []loadRamp{{From: 10, To: 10, For: 10 * time.Second}}, Rate: 10, Requests: 200}, []loadtest.Stage{hold(10, 10*time.Second), hold(10, 30*time.Second)}},
		{"clients have no rate", loadRun{Concurrency: 5}, nil},
	} {
		got := c.load.stages()
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// TestLoadProgress checks what is said on the way.
func TestLoadProgress(t *testing.T) {
	t.Parallel()
	at := func(elapsed time.Duration) loadtest.Progress {
		return loadtest.Progress{Elapsed: elapsed, Total: 20 * time.Second, Sent: 5000, Rate: 499.6, InFlight: 11, P95: 21400 * time.Microsecond, Errors: 1}
	}
	t.Run("a terminal has a bar", func(t *testing.T) {
		var b strings.Builder
		p := &loadProgress{out: &b, terminal: true}
		p.show(at(10 * time.Second))
		want := "\r\x1b[K[██████████          ] 500/s, 11 in flight, p95 21.4 ms, 1 error, 10s left"
		if got := b.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		b.Reset()
		p.clear()
		if got := b.String(); got != "\r\x1b[K" {
			t.Errorf("%q, want that the line is empty", got)
		}
	})
	t.Run("elsewhere there is a line every five seconds", func(t *testing.T) {
		var b strings.Builder
		p := &loadProgress{out: &b, name: "no cache: "}
		for elapsed := -time.Second; elapsed <= 21*time.Second; elapsed += 250 * time.Millisecond {
			p.show(at(elapsed))
		}
		p.clear()
		want := "no cache: 500/s, 11 in flight, p95 21.4 ms, 1 error, 15s left\n" +
			"no cache: 500/s, 11 in flight, p95 21.4 ms, 1 error, 10s left\n" +
			"no cache: 500/s, 11 in flight, p95 21.4 ms, 1 error, 5s left\n" +
			"no cache: 500/s, 11 in flight, p95 21.4 ms, 1 error, waiting for answers\n"
		if got := b.String(); got != want {
			t.Errorf("\n%swant\n%s", got, want)
		}
	})
	for _, c := range []struct {
		p    loadtest.Progress
		want string
	}{
		{loadtest.Progress{Elapsed: -time.Second, Total: time.Second}, "0/s, 0 in flight, p95 0.0 ms, 0 errors, warming up"},
		{loadtest.Progress{Elapsed: time.Second, Requests: 100, Sent: 40, P95: 1500 * time.Millisecond}, "0/s, 0 in flight, p95 1.50 s, 0 errors, 40 requests sent"},
		{loadtest.Progress{Elapsed: time.Second, Requests: 40, Sent: 40, P95: 150 * time.Millisecond}, "0/s, 0 in flight, p95 150 ms, 0 errors, waiting for answers"},
	} {
		if got := loadFigures(c.p); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestLoadLines checks the bounds of files that templates read.
func TestLoadLines(t *testing.T) {
	t.Parallel()
	many := write(t, "many.txt", strings.Repeat("x\n", maxFileLines+1))
	if _, err := readLines(many); err == nil || !strings.Contains(err.Error(), "more than 1000000 lines: want fewer") {
		t.Errorf("%v, want that it has too many lines", err)
	}
	long := write(t, "long.txt", strings.Repeat("x", loadtest.MaxBody+1))
	if _, err := readLines(long); err == nil {
		t.Error("a line that is longer than a body may be is read")
	}
	lines, err := readLines(write(t, "few.txt", "one\r\n\n  two"))
	if err != nil || len(lines) != 2 || lines[0] != "one" || lines[1] != "two" {
		t.Errorf("%q, %v; want one and two", lines, err)
	}
}

// TestTail keeps the end of what a server says.
func TestTail(t *testing.T) {
	t.Parallel()
	var last tail
	for range 3 * maxTail {
		if _, err := io.WriteString(&last, "abc\n"); err != nil {
			t.Fatal(err)
		}
	}
	if len(last.text) != maxTail || !strings.HasPrefix(last.String(), "abc abc") {
		t.Errorf("%d bytes: %.20q; want the last %d", len(last.text), &last, maxTail)
	}
}
