package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// startWait is how long a server may take to be ready: the built-in models and a
	// large cache on disk are read first.
	startWait = time.Minute
	// stopWait is how long it may take to end.
	stopWait = 15 * time.Second
	// maxTail is how much is kept of what it says, for the message should it fail.
	maxTail = 4 << 10
	// ticksPerSecond is what the kernel counts a process's CPU time in for us (USER_HZ).
	ticksPerSecond = 100
)

// loadServer is a weir serve of a matrix, in a process of its own.
type loadServer struct {
	base, admin string
	file        string // its configuration
	command     *exec.Cmd
	said        tail
	ended       chan struct{} // closed when err is set
	err         error
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write keeps the last bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String is what it said last, on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return printable(strings.TrimSpace(string(t.text)))
}

// complaint is what the server says, without the name of its file: nobody has written it,
// and it is removed.
func (s *loadServer) complaint() string {
	return strings.ReplaceAll(s.said.String(), s.file+": ", "")
}

// lastWords is how the server ended, and the last line that it wrote: of what is before
// that most is its log.
func (s *loadServer) lastWords() string {
	how := "with status 0"
	if s.err != nil {
		how = s.err.Error()
	}
	s.said.mu.Lock()
	text := strings.TrimSpace(string(s.said.text))
	s.said.mu.Unlock()
	if text == "" {
		return how
	}
	return fmt.Sprintf("%s, after %.300s", how, printable(text[strings.LastIndexByte(text, '\n')+1:]))
}

// startServer starts a server with the configuration of a run, and waits until it is
// ready.
func startServer(ctx context.Context, r *matrixRun) (*loadServer, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "weir-load-*.yaml")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(r.text)
	s := &loadServer{file: f.Name(), ended: make(chan struct{})}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(s.file)
		return nil, err
	}
	s.command = exec.Command(program, "serve", "-c", s.file)
	s.command.Env = os.Environ()
	for name, value := range r.Env {
		s.command.Env = append(s.command.Env, name+"="+value)
	}
	s.command.Stderr = &s.said
	stdout, err := s.command.StdoutPipe()
	if err == nil {
		err = s.command.Start()
	}
	if err != nil {
		_ = os.Remove(s.file)
		return nil, err
	}
	introduced := make(chan bool, 1)
	go func() { // ends with the process
		introduced <- s.introduced(stdout)
		_, _ = io.Copy(io.Discard, stdout)
		s.err = s.command.Wait()
		close(s.ended)
	}()
	if err := s.await(ctx, introduced); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// introduced reads where the server listens.
func (s *loadServer) introduced(stdout io.Reader) bool {
	lines := bufio.NewScanner(stdout)
	for (s.base == "" || s.admin == "") && lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "Weir serves on "); ok {
			s.base = at
		}
		if at, ok := strings.CutPrefix(lines.Text(), "Metrics and health: "); ok {
			s.admin, _, _ = strings.Cut(at, "/metrics,")
		}
	}
	return s.base != "" && s.admin != ""
}

// await waits until the server says that it is ready.
func (s *loadServer) await(ctx context.Context, introduced <-chan bool) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	select {
	case ok := <-introduced:
		if !ok {
			<-s.ended
			return fmt.Errorf("weir serve ended: %s", s.complaint())
		}
	case <-ctx.Done():
		return fmt.Errorf("weir serve did not listen within %s: %s", short(startWait), s.complaint())
	}
	client := &http.Client{Transport: newTransport(1)}
	defer client.CloseIdleConnections()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(request)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-s.ended:
			return fmt.Errorf("weir serve ended: %s", s.complaint())
		case <-ctx.Done():
			return fmt.Errorf("weir serve was not ready within %s: %s", short(startWait), s.complaint())
		}
	}
}

// stop ends the server and waits for it.
func (s *loadServer) stop() error {
	defer os.Remove(s.file)
	_ = s.command.Process.Signal(os.Interrupt) // it may have ended
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		_ = s.command.Process.Kill()
		<-s.ended
	}
	return nil
}

// processUsage is what a process has used.
type processUsage struct {
	cpu time.Duration
	rss int64 // bytes in memory
}

// usage reads what the server has used so far; false where the system has no /proc.
func (s *loadServer) usage() (u processUsage, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.command.Process.Pid))
	if err != nil {
		return u, false
	}
	// The second field, a name in parentheses, may have spaces in it.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, system, pages = 11, 12, 21
	if len(fields) <= pages {
		return u, false
	}
	var numbers [3]int64
	for i, at := range []int{user, system, pages} {
		if numbers[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
			return u, false
		}
	}
	u.cpu = time.Duration(numbers[0]+numbers[1]) * time.Second / ticksPerSecond
	u.rss = numbers[2] * int64(os.Getpagesize())
	return u, true
}
