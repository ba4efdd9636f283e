// Command loadcheck shows whether weir load tells the truth: it sends 500 requests a
// second to a server that takes 20 ms, and then to one that answers nothing for a
// second.
//
//	go run ./cmd/loadcheck
//
// The server measures itself how long it takes. The rate must be within 1 %, the
// median within 1 ms of the server's own, the 500 requests of the silent second must
// be there with what they had to wait, and the same load from a closed loop must not
// have them: that is what it is blind to. On a machine that others use it may fail
// where weir load says itself that it was late.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	rate  = 500
	takes = 20 * time.Millisecond
	stall = time.Second
	// clients are as many as there are requests in flight at that rate.
	clients = 10
)

func main() {
	length := flag.Duration("length", 20*time.Second, "`time` of each load")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length); err != nil {
		fmt.Fprintln(os.Stderr, "loadcheck:", err)
		os.Exit(1)
	}
}

// report is the part of a report of weir load that is checked.
type report struct {
	Rate      float64            `json:"rate"`
	Sent      int                `json:"sent"`
	OK        int                `json:"ok"`
	LatencyMS map[string]float64 `json:"latency_ms"`
	LateMS    map[string]float64 `json:"late_ms"`
	Warnings  []string           `json:"warnings"`
}

func run(ctx context.Context, length time.Duration) error {
	if length < 4*time.Second {
		return errors.New("--length: want 4s or more")
	}
	dir, err := os.MkdirTemp("", "loadcheck")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	weir, err := build(ctx, dir)
	if err != nil {
		return err
	}
	s, err := newServer()
	if err != nil {
		return err
	}
	defer s.stop()
	load := func(silent bool, args ...string) (report, error) {
		s.begin(silent, length)
		return ask(ctx, weir, append(args, "--duration", length.String(), "--json", "-", s.url)...)
	}
	open, err := load(false, "--rate", strconv.Itoa(rate))
	if err != nil {
		return err
	}
	truth := s.median()
	stalled, err := load(true, "--rate", strconv.Itoa(rate))
	if err != nil {
		return err
	}
	closed, err := load(true, "--concurrency", strconv.Itoa(clients))
	if err != nil {
		return err
	}
	return judge(truth, open, stalled, closed)
}

// judge prints what is right and what is not.
func judge(truth float64, open, stalled, closed report) error {
	wrong := 0
	check := func(ok bool, format string, args ...any) {
		mark := "ok   "
		if !ok {
			mark, wrong = "WRONG", wrong+1
		}
		fmt.Printf("%s  %s\n", mark, fmt.Sprintf(format, args...))
	}
	check(math.Abs(open.Rate-rate) <= rate/100, "rate: %.2f a second, wanted %d within 1 %%", open.Rate, rate)
	check(open.OK == open.Sent, "answers: %d of %d", open.OK, open.Sent)
	p50 := open.LatencyMS["p50"]
	check(math.Abs(p50-truth) <= 1, "median: %.3f ms, the server's own is %.3f ms, wanted within 1 ms", p50, truth)
	fmt.Printf("       sent late: median %.3f ms, p99 %.3f ms\n", open.LateMS["p50"], open.LateMS["p99"])
	// The requests of the silent second wait from a whole second down to nothing.
	share := stall.Seconds() * rate / float64(stalled.Sent)
	waited := 1000 * stall.Seconds() * (1 - 0.01/share)
	check(stalled.LatencyMS["p99"] > 0.9*waited, "open loop, one silent second: p99 %.0f ms, wanted about %.0f; longest %.0f ms", stalled.LatencyMS["p99"], waited, stalled.LatencyMS["max"])
	check(closed.LatencyMS["p99"] < 100, "closed loop, the same: p99 %.0f ms, which hides it; longest %.0f ms", closed.LatencyMS["p99"], closed.LatencyMS["max"])
	for _, warning := range open.Warnings {
		fmt.Println("       weir load warns:", warning)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of 5 are wrong", wrong)
	}
	return nil
}

// build makes weir out of what is here.
func build(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/inferweir/weir").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w: run it in the directory bench", err)
	}
	weir := filepath.Join(dir, "weir")
	c := exec.CommandContext(ctx, "go", "build", "-o", weir, "./cmd/weir")
	c.Dir = strings.TrimSpace(string(root))
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return weir, nil
}

// ask runs weir load and reads its report.
func ask(ctx context.Context, weir string, args ...string) (r report, err error) {
	c := exec.CommandContext(ctx, weir, append([]string{"load", "--warmup", "1s"}, args...)...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return r, fmt.Errorf("weir load: %w", err)
	}
	return r, json.Unmarshal(out, &r)
}

// server takes its time for each request and knows how long that was.
type server struct {
	url  string
	http *http.Server

	mu     sync.Mutex // guards all below
	took   []time.Duration
	silent time.Time // when it answers nothing for a while; zero: never
}

func newServer() (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + l.Addr().String()}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(l) }() // ends with stop
	return s, nil
}

func (s *server) stop() { _ = s.http.Close() }

// begin forgets what was measured. A silent server answers nothing in a second in the
// middle of the load.
func (s *server) begin(silent bool, length time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took, s.silent = nil, time.Time{}
	if silent {
		s.silent = time.Now().Add(time.Second + length/2)
	}
}

// ServeHTTP answers after takes, and after the silence.
func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	begin := time.Now()
	s.mu.Lock()
	silent := s.silent
	s.mu.Unlock()
	if end := silent.Add(stall); !silent.IsZero() && begin.After(silent) && begin.Before(end) {
		time.Sleep(time.Until(end))
	}
	time.Sleep(takes)
	_, _ = io.WriteString(w, "ok")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = append(s.took, time.Since(begin))
}

// median is that of what it took, in milliseconds.
func (s *server) median() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) == 0 {
		return 0
	}
	slices.Sort(s.took)
	return s.took[len(s.took)/2].Seconds() * 1000
}
