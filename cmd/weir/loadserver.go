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

	"github.com/inferweir/weir/internal/loadtest"
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
	introduced  chan bool     // whether it said where it listens
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

// startServer starts a server with the configuration of a run.
func startServer(r *matrixRun) (*loadServer, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "weir-load-*.yaml")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(r.text)
	s := &loadServer{file: f.Name(), introduced: make(chan bool, 1), ended: make(chan struct{})}
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
	go func() { // ends with the process
		s.introduced <- s.introduce(stdout)
		_, _ = io.Copy(io.Discard, stdout)
		s.err = s.command.Wait()
		close(s.ended)
	}()
	return s, nil
}

// introduce reads where the server listens.
func (s *loadServer) introduce(stdout io.Reader) bool {
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
func (s *loadServer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	select {
	case ok := <-s.introduced:
		if !ok {
			select {
			case <-s.ended:
				return fmt.Errorf("weir serve ended: %s", s.complaint())
			case <-ctx.Done():
				return fmt.Errorf("weir serve did not say where it listens: %s", s.complaint())
			}
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

// load sends a load to the server. It ends with the server, which is an error then.
func (s *loadServer) load(ctx context.Context, o loadtest.Options) (*loadtest.Report, error) {
	test, err := loadtest.New(o)
	if err != nil {
		return nil, err
	}
	under, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-s.ended:
			cancel()
		case <-under.Done():
		}
	})
	report := test.Run(under)
	cancel()
	watching.Wait()
	select {
	case <-s.ended:
		if s.err == nil {
			// Somebody has asked it to end: with Ctrl-C a terminal asks this process
			// as well, which may hear of it later.
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return nil, fmt.Errorf("weir serve ended under the load: %s", s.lastWords())
	default:
	}
	if report.Ended != "" {
		return nil, errInterrupted
	}
	return report, nil
}

// stop ends the server and waits for it, until somebody is in a hurry: then it is killed.
func (s *loadServer) stop(hurry <-chan struct{}) {
	defer os.Remove(s.file)
	_ = s.command.Process.Signal(os.Interrupt) // it may have ended
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-s.ended:
		return
	case <-timer.C:
	case <-hurry:
	}
	_ = s.command.Process.Kill()
	<-s.ended
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
