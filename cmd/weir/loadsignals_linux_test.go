package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/inferweir/weir/internal/loadtest"
)

// gone checks that a matrix has ended its server, and removed what it had made for it.
func (m *matrixProcess) gone(t *testing.T, server int) {
	t.Helper()
	if err := syscall.Kill(server, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("%v, want that the server is no more", err)
		_ = syscall.Kill(server, syscall.SIGKILL)
	}
	if left, err := filepath.Glob(filepath.Join(m.temp, "*")); err != nil || len(left) != 0 {
		t.Errorf("%q, %v; want no temporary file left", left, err)
	}
}

// twice sends two signals at once. They are different ones: of two that are the same a
// process may see one.
func (s *process) twice(t *testing.T) {
	t.Helper()
	s.signal(t, os.Interrupt)
	s.signal(t, syscall.SIGTERM)
}

// TestTwoSignalsLeaveWhatOneDoes ends loads as who does not want to wait.
func TestTwoSignalsLeaveWhatOneDoes(t *testing.T) {
	t.Parallel()
	missing := []loadtest.MissingRun{{Name: "second", Turn: 1, Why: "interrupted"}, {Name: "third", Turn: 1, Why: "interrupted"}}
	t.Run("a server that hangs keeps no report back, and is killed by the second", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t)
		m.under(t, "/second/ask")
		server := m.server(t)
		if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		m.signal(t, os.Interrupt)
		eventually(t, "there is a report", func() bool {
			text, err := os.ReadFile(m.json)
			return err == nil && json.Valid(text)
		})
		if err := syscall.Kill(server, 0); err != nil {
			t.Errorf("%v, want a report before the server has ended", err)
		}
		m.signal(t, os.Interrupt)
		m.finished(t, "first", missing)
		m.gone(t, server)
	})
	t.Run("both at once leave the runs before them", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t)
		m.under(t, "/second/ask")
		server := m.server(t)
		m.twice(t)
		m.finished(t, "first", missing)
		m.gone(t, server)
	})
	t.Run("both at once in the first run leave nothing", func(t *testing.T) {
		t.Parallel()
		m := startMatrix(t)
		m.under(t, "/first/ask")
		server := m.server(t)
		m.twice(t)
		if status := m.wait(t); !status.Exited() || status.ExitStatus() != exitFailed {
			t.Errorf("ended with %v, want exit status %d", status, exitFailed)
		}
		m.gone(t, server)
		if _, err := os.Stat(m.json); !os.IsNotExist(err) {
			t.Errorf("%v, want no file", err)
		}
	})
	t.Run("a load of one server has its report", func(t *testing.T) {
		t.Parallel()
		asked := make(chan struct{}, 1)
		model := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			select {
			case asked <- struct{}{}:
			default:
			}
		}))
		t.Cleanup(model.Close)
		path := filepath.Join(t.TempDir(), "one.json")
		s := process{command: exec.Command("weir", "load", "--rate", "40", "--duration", "1h", "--json", path, model.URL), ended: make(chan error, 1)}
		s.command.Stdout, s.command.Stderr = &s.stdout, &s.stderr
		if err := s.command.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { s.ended <- s.command.Wait() }()
		t.Cleanup(func() {
			_ = s.command.Process.Kill()
			<-s.ended
		})
		<-asked
		s.twice(t)
		s.wait(t)
		if report, err := readReport(path); err != nil || report.Ended != loadtest.EndedInterrupted {
			t.Errorf("%v, %+v; want a report that was interrupted", err, report)
		}
	})
}

// TestMatrixGoesOnFromAServerThatHasEnded ends servers long before the time of their load.
func TestMatrixGoesOnFromAServerThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct{ duration, warmup string }{
		"under its load": {"24h", "0s"},
		"in its warm-up": {"1s", "1h"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMatrixOf(t, of.duration, "--warmup", of.warmup)
			for _, path := range []string{"/first/ask", "/second/ask", "/third/ask"} {
				m.under(t, path)
				if err := syscall.Kill(m.server(t), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			if status := m.wait(t); !status.Exited() || status.ExitStatus() != exitFailed {
				t.Errorf("ended with %v, want exit status %d", status, exitFailed)
			}
			if n := strings.Count(m.stderr.String(), ": weir serve ended under the load: signal: killed"); n != 3 {
				t.Errorf("stderr =\n%swant that three servers were killed, got %d", &m.stderr, n)
			}
			if want := "weir: plan.yaml: 0 of 3 runs finished\n"; !strings.HasSuffix(m.stderr.String(), want) {
				t.Errorf("stderr =\n%swant it to end with %q", &m.stderr, want)
			}
		})
	}
}
