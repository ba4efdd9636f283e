package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slowModel is an upstream that answers when it is told to.
type slowModel struct {
	*httptest.Server
	arrived chan struct{} // a request is there
	release chan struct{} // closed: answer
}

func newSlowModel(t *testing.T) *slowModel {
	m := &slowModel{arrived: make(chan struct{}), release: make(chan struct{})}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case m.arrived <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		select {
		case <-m.release:
			_, _ = io.WriteString(w, "at last")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(m.Close)
	return m
}

// config is a configuration in front of it.
func (m *slowModel) config(grace string) string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
shutdown_grace: %s
upstreams:
  slow: {targets: [%q]}
routes:
  - match: {path: /slow}
    upstream: slow
`, grace, m.URL)
}

// result is what became of a request.
type result struct {
	answer
	err error
}

// ask sends a request to it through s, and returns when it is there.
func (m *slowModel) ask(t *testing.T, s *running) <-chan result {
	t.Helper()
	done := make(chan result, 1)
	go func() {
		resp, err := s.client.Get(s.base + "/slow")
		if err != nil {
			done <- result{err: err}
			return
		}
		a, err := read(resp)
		done <- result{a, err}
	}()
	select {
	case <-m.arrived:
	case r := <-done:
		t.Fatalf("the upstream was not asked: %+v", r)
	case <-time.After(patience):
		t.Fatal("the upstream was not asked")
	}
	return done
}

// awaitDraining waits until operators and callers can see that s stops.
func (s *running) awaitDraining(t *testing.T) {
	t.Helper()
	eventually(t, "/readyz says that it is shutting down", func() bool {
		a := fetch(t, s.client, s.admin+"/readyz")
		return a.Status == 503 && a.Body == "shutting down\n"
	})
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if a := fetch(t, s.client, s.admin+"/healthz"); a.Status != 200 {
		t.Errorf("/healthz = %d while draining, want 200: nobody must restart it", a.Status)
	}
}

// process is a "weir serve" as an operator has it.
type process struct {
	running
	command *exec.Cmd
	ended   chan error
}

// start runs a program with a configuration.
func start(t *testing.T, text string, program ...string) *process {
	t.Helper()
	p := &process{ended: make(chan error, 1)}
	p.command = exec.Command(program[0], append(program[1:], "serve", "--config", write(t, "weir.yaml", text))...)
	p.command.Stdout, p.command.Stderr = &p.stdout, &p.stderr
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.command.Wait() }()
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-p.ended
	})
	p.introduced(t)
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// wait returns how the process ended.
func (p *process) wait(t *testing.T) syscall.WaitStatus {
	t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err // for the cleanup
	case <-time.After(patience):
		t.Fatalf("still running; stderr:\n%s", &p.stderr)
	}
	status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		t.Fatalf("%T is no syscall.WaitStatus", p.command.ProcessState.Sys())
	}
	return status
}

// TestProcess builds the program and sends it signals.
func TestProcess(t *testing.T) {
	t.Parallel()
	weir := programs.path(t, "weir")
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(fmt.Sprintf("%s lets a running request finish and refuses new ones", s), func(t *testing.T) {
			t.Parallel()
			m := newSlowModel(t)
			p := start(t, m.config("10m"), weir)
			introduction := p.stdout.String()
			done := m.ask(t, &p.running)
			p.signal(t, s)
			p.awaitDraining(t)
			select {
			case r := <-done:
				t.Fatalf("the running request ended before its answer: %+v", r)
			default:
			}
			close(m.release)
			r := <-done
			if r.err != nil || r.Status != 200 || r.Body != "at last" || !r.Close {
				t.Errorf("the running request = %+v, want 200, the whole body, and the connection's end", r)
			}
			if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitOK {
				t.Errorf("ended with %v, want exit status %d", status, exitOK)
			}
			if got := p.stdout.String(); got != introduction {
				t.Errorf("stdout =\n%s\nwant\n%s", got, introduction)
			}
			entries := logged(t, p.stderr.String())
			if got, want := messages(entries), []string{"shutting down"}; !reflect.DeepEqual(got, want) || len(entries) != 2 {
				t.Errorf("log =\n%swant %q and one request", &p.stderr, want)
			}
		})
		t.Run(fmt.Sprintf("a second %s ends it at once", s), func(t *testing.T) {
			t.Parallel()
			m := newSlowModel(t)
			// As a background job of a script, in which interrupts are ignored.
			p := start(t, m.config("10m"), "sh", "-c", `trap '' INT TERM; exec "$0" "$@"`, weir)
			done := m.ask(t, &p.running)
			p.signal(t, s)
			p.awaitDraining(t)
			p.signal(t, s)
			if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitFailed {
				t.Errorf("ended with %v, want exit status %d", status, exitFailed)
			}
			if r := <-done; r.err == nil {
				t.Errorf("the running request = %+v, want that it was cut off", r)
			}
			logged(t, p.stderr.String())
		})
	}
	t.Run("a hangup reloads the file, and the running request goes on", func(t *testing.T) {
		t.Parallel()
		m := newSlowModel(t)
		p := start(t, m.config("10m"), weir)
		done := m.ask(t, &p.running)
		file := p.command.Args[len(p.command.Args)-1]
		if err := os.WriteFile(file, []byte(strings.Replace(m.config("10m"), "    upstream: slow", "    upstream: slow\n    max_body: 1KiB", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(t, syscall.SIGHUP)
		eventually(t, "the log tells of the reload", func() bool {
			select {
			case err := <-p.ended:
				p.ended <- err // for the cleanup
				t.Fatalf("the hangup ended it: %v; stderr:\n%s", err, &p.stderr)
			default:
			}
			return strings.Contains(p.stderr.String(), "the configuration is reloaded")
		})
		resp, err := p.client.Post(p.base+"/slow", "text/plain", strings.NewReader(strings.Repeat("x", 2000)))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := read(resp); err != nil || a.Status != 413 {
			t.Errorf("beyond the new bound: %+v, %v", a, err)
		}
		close(m.release)
		if r := <-done; r.err != nil || r.Status != 200 {
			t.Errorf("the running request = %+v, want 200", r)
		}
		p.signal(t, syscall.SIGTERM)
		if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitOK {
			t.Errorf("ended with %v, want exit status %d", status, exitOK)
		}
	})
	t.Run("a reader of the log that goes away does not end it", func(t *testing.T) {
		t.Parallel()
		m := newSlowModel(t)
		close(m.release)
		// The log goes to a program that reads nothing and ends.
		p := start(t, m.config("10m"), "sh", "-c", `mkfifo "$1"; log="$1"; shift; : <"$log" & exec "$0" "$@" 2>"$log"`, weir, filepath.Join(t.TempDir(), "log"))
		for range 5 {
			if r := <-m.ask(t, &p.running); r.err != nil || r.Status != 200 {
				t.Fatalf("a request after the log's reader has gone = %+v, want 200", r)
			}
		}
		p.signal(t, syscall.SIGTERM)
		if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitOK {
			t.Errorf("ended with %v, want exit status %d", status, exitOK)
		}
	})
	t.Run("a signal without running requests ends it", func(t *testing.T) {
		t.Parallel()
		p := start(t, newSlowModel(t).config("10m"), weir)
		p.signal(t, syscall.SIGTERM)
		if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitOK {
			t.Errorf("ended with %v, want exit status %d", status, exitOK)
		}
	})
}

// TestGrace ends while a request runs that will not finish.
func TestGrace(t *testing.T) {
	t.Parallel()
	for _, grace := range []string{"0s", "50ms"} {
		t.Run("cuts off what still runs after "+grace, func(t *testing.T) {
			t.Parallel()
			m := newSlowModel(t)
			s := serve(t, m.config(grace))
			done := m.ask(t, &s.running)
			if status := s.stop(t); status != exitOK {
				t.Errorf("exit status %d, want %d", status, exitOK)
			}
			if r := <-done; r.err == nil {
				t.Errorf("the running request = %+v, want that it was cut off", r)
			}
			entries := logged(t, s.stderr.String())
			want := []string{"shutting down", "requests were cut off"}
			if got := messages(entries); !reflect.DeepEqual(got, want) || len(entries) != 3 {
				t.Errorf("log =\n%swant %q and the request", &s.stderr, want)
			}
		})
	}
}
