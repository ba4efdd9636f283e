package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// matrixProcess is a "weir load matrix" of three runs, whose requests a model gets.
type matrixProcess struct {
	process
	json  string
	temp  string      // where it has its temporary files
	asked chan string // the run that a request comes from, the first of each
}

func startMatrix(t *testing.T, args ...string) *matrixProcess {
	t.Helper()
	return startMatrixOf(t, "1s", args...)
}

// startMatrixOf starts one whose runs take so long each.
func startMatrixOf(t *testing.T, duration string, args ...string) *matrixProcess {
	t.Helper()
	m := &matrixProcess{process: process{ended: make(chan error, 1)}, asked: make(chan string, 3)}
	var seen sync.Map
	model := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, twice := seen.LoadOrStore(r.URL.Path, true); !twice {
			m.asked <- r.URL.Path
		}
	}))
	t.Cleanup(model.Close)
	dir := t.TempDir()
	m.json, m.temp = filepath.Join(dir, "all.json"), t.TempDir()
	for name, text := range map[string]string{
		"plan.yaml": `
load: {rate: 40, duration: ` + duration + `, url: /ask}
config: weir.yaml
runs:
  - {name: first}
  - {name: second, set: {upstreams.model.targets: ["` + model.URL + `/second"]}}
  - {name: third, set: {upstreams.model.targets: ["` + model.URL + `/third"]}}
`,
		"weir.yaml": fmt.Sprintf("upstreams: {model: {targets: [%q]}}\nroutes: [{match: {path: /ask}, upstream: model}]\n", model.URL+"/first"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	m.command = exec.Command("weir", append([]string{"load", "matrix", "--warmup", "0s", "--json", m.json}, append(args, "plan.yaml")...)...)
	m.command.Dir, m.command.Env = dir, append(os.Environ(), "TMPDIR="+m.temp)
	m.command.Stdout, m.command.Stderr = &m.stdout, &m.stderr
	if err := m.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.ended <- m.command.Wait() }()
	t.Cleanup(func() {
		_ = m.command.Process.Kill()
		<-m.ended
	})
	return m
}

// server is the process of the weir serve that is under load.
func (m *matrixProcess) server(t *testing.T) int {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no server runs")
	return 0
}

// under waits until a run is under load.
func (m *matrixProcess) under(t *testing.T, path string) {
	t.Helper()
	for waited := time.After(patience); ; {
		select {
		case got := <-m.asked:
			if got == path {
				return
			}
		case <-waited:
			t.Fatalf("nobody asks for %s; stderr\n%s", path, &m.stderr)
		}
	}
}

// finished checks what a matrix leaves: its status, the names of the runs that have a
// report, and those that are missing.
func (m *matrixProcess) finished(t *testing.T, want string, missing []loadtest.MissingRun) {
	t.Helper()
	if status := m.wait(t); !status.Exited() || status.ExitStatus() != exitFailed {
		t.Errorf("ended with %v, want exit status %d", status, exitFailed)
	}
	text, err := os.ReadFile(m.json)
	if err != nil {
		t.Fatal(err)
	}
	var got loadtest.Matrix
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range got.Runs {
		names = append(names, r.Name)
		if r.Report.Sent != 40 || r.Report.OK != 40 || !strings.Contains(m.stdout.String(), "\n"+r.Name+" ") {
			t.Errorf("run %s: sent %d, ok %d, want all 40; stdout\n%s", r.Name, r.Report.Sent, r.Report.OK, &m.stdout)
		}
	}
	if strings.Join(names, " ") != want || got.Base != "first" || fmt.Sprint(got.Missing) != fmt.Sprint(missing) {
		t.Errorf("runs %v beside %q, missing %v; want %s beside first, missing %v", names, got.Base, got.Missing, want, missing)
	}
}

// TestMatrixKeepsWhatIsFinished ends matrices before their time.
func TestMatrixKeepsWhatIsFinished(t *testing.T) {
	t.Parallel()
	t.Run("an interrupt leaves the runs before it", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t)
		m.under(t, "/second/ask")
		m.signal(t, os.Interrupt)
		m.finished(t, "first", []loadtest.MissingRun{{Name: "second", Turn: 1, Why: "interrupted"}, {Name: "third", Turn: 1, Why: "interrupted"}})
		if want := "weir: plan.yaml: interrupted: 1 of 3 runs finished\n"; !strings.HasSuffix(m.stderr.String(), want) {
			t.Errorf("stderr =\n%swant it to end with %q", &m.stderr, want)
		}
		if want := "  warning: missing: second, third: interrupted\n"; !strings.Contains(m.stdout.String(), want) {
			t.Errorf("stdout =\n%swant %q in it", &m.stdout, want)
		}
		if strings.Contains(m.stderr.String(), "third: starting") {
			t.Errorf("stderr =\n%swant that nothing is started after an interrupt", &m.stderr)
		}
	})
	t.Run("a server that ends under its load leaves the others", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t)
		m.under(t, "/second/ask")
		if err := syscall.Kill(m.server(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		m.under(t, "/third/ask")
		m.wait(t)
		if want := `weir: plan.yaml: run "second": weir serve ended under the load: signal: killed`; !strings.Contains(m.stderr.String(), want) {
			t.Errorf("stderr =\n%swant %q in it", &m.stderr, want)
		}
		if want := "weir: plan.yaml: 2 of 3 runs finished\n"; !strings.HasSuffix(m.stderr.String(), want) {
			t.Errorf("stderr =\n%swant it to end with %q", &m.stderr, want)
		}
		_, why, _ := strings.Cut(m.stderr.String(), `run "second": `)
		why, _, _ = strings.Cut(why, "\n")
		m.finished(t, "first third", []loadtest.MissingRun{{Name: "second", Turn: 1, Why: why}})
	})
	t.Run("an interrupt in the first run leaves nothing", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t, "--repeat", "2")
		m.under(t, "/first/ask")
		m.signal(t, os.Interrupt)
		m.wait(t)
		if want := "weir: plan.yaml: interrupted: 0 of 6 runs finished\n"; !strings.HasSuffix(m.stderr.String(), want) || m.stdout.String() != "" {
			t.Errorf("stdout %q, stderr\n%swant nothing and %q", &m.stdout, &m.stderr, want)
		}
		if _, err := os.Stat(m.json); !os.IsNotExist(err) {
			t.Errorf("%v, want no file", err)
		}
	})
}
