package clients_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen: much longer than any
// machine needs, and no part of what is measured.
const patience = 3 * time.Minute

// node is a Node that can run the clients, program the built command weir. TestMain
// sets them, and nothing changes them after that.
var node, program string

func TestMain(m *testing.M) {
	status, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func prepareAndRun(m *testing.M) (status int, err error) {
	dir, err := os.MkdirTemp("", "weir-clients")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	install := exec.Command("./node.sh")
	install.Stderr = os.Stderr
	path, err := install.Output()
	if err != nil {
		return 0, fmt.Errorf("node.sh: %w", err)
	}
	node, program = strings.TrimSpace(string(path)), filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-o", program, "./cmd/weir")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// serveModel serves a stand-in and Weir in front of it until the test ends.
func serveModel(t *testing.T) (*standIn, *process) {
	t.Helper()
	model := newStandIn()
	t.Cleanup(model.Close)
	return model, serve(t, configuration(model.URL, closedPort(t)))
}

// closedPort is the address of a server that is not there.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return "http://" + l.Addr().String()
}

// clients are the scripts in js/.
func clients() []string { return []string{"openai", "anthropic", "ai", "langchain", "ollama"} }

// plenty is the quota of callers without a key: no test uses it up.
const plenty = 1000000

// The plans have short windows, because the clients wait them out.
func configuration(model, closed string) string {
	var keys strings.Builder
	for _, client := range clients() {
		for _, plan := range []string{"tight", "daily"} {
			fmt.Fprintf(&keys, "    - {caller: %s, key: %s, plan: %s}\n", client+"-"+plan, keyOf(client, plan), plan)
		}
	}
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
callers:
  keys:
%[3]splans:
  default: {policies: [%[4]d per 1h]}
  tight: {policies: [1 per 3s]}
  daily: {policies: [1 per 24h]}
upstreams:
  openai: {targets: [%[1]q], dialect: openai}
  anthropic: {targets: [%[1]q], dialect: anthropic}
  ollama: {targets: [%[1]q], dialect: ollama}
  openai-gone: {targets: [%[2]q], dialect: openai, breaker: {failures: 0}}
  anthropic-gone: {targets: [%[2]q], dialect: anthropic, breaker: {failures: 0}}
  ollama-gone: {targets: [%[2]q], dialect: ollama, breaker: {failures: 0}}
routes:
  - {match: {path: /v1/messages*}, upstream: anthropic}
  - {match: {path: /v1/*}, upstream: openai}
  - {match: {path: /api/*}, upstream: ollama}
  - {match: {path: /cached/v1/messages*}, upstream: anthropic, cache: {mode: inference, ttl: 10m, only: all}}
  - {match: {path: /cached/v1/*}, upstream: openai, cache: {mode: inference, ttl: 10m, only: all}}
  - {match: {path: /cached/api/*}, upstream: ollama, cache: {mode: inference, ttl: 10m, only: all}}
  - {match: {path: /gone/v1/messages}, upstream: anthropic-gone}
  - {match: {path: /gone/v1/*}, upstream: openai-gone}
  - {match: {path: /gone/api/*}, upstream: ollama-gone}
`, model, closed, keys.String(), plenty)
}

// keyOf is a Weir key.
func keyOf(client, plan string) string { return "weir_" + client + "-" + plan + "-0123456789" }

// process is a "weir serve" as an operator has it.
type process struct {
	command *exec.Cmd
	log     bytes.Buffer // to be read after its end
	base    string       // the URL that it says
	read    chan struct{}
}

// serve runs Weir with a configuration until the test ends.
func serve(t *testing.T, text string) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{command: exec.Command(program, "serve", "--config", file), read: make(chan struct{})}
	p.command.Stderr = &p.log
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	found := make(chan string, 1)
	go p.readBase(out, found)
	select {
	case p.base = <-found:
	case <-time.After(patience):
	}
	if p.base == "" {
		t.Fatal("weir does not say where it serves")
	}
	return p
}

// readBase reads what the program prints to its end, and finds the line that says
// where it serves.
func (p *process) readBase(out io.Reader, found chan<- string) {
	defer close(p.read)
	defer close(found)
	lines := bufio.NewScanner(out)
	for first := true; lines.Scan(); {
		if base, ok := strings.CutPrefix(lines.Text(), "Weir serves on "); ok && first {
			found <- base
			first = false
		}
	}
}

// stop ends it, and at once where it does not end by itself. It must end well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	_ = p.command.Process.Signal(os.Interrupt) // it may have ended before
	kill := time.AfterFunc(patience, func() { _ = p.command.Process.Kill() })
	defer kill.Stop()
	<-p.read // Wait closes the pipe
	if err := p.command.Wait(); err != nil {
		t.Errorf("weir ended with %v\n%s", err, &p.log)
	}
}

// attempt is one request that a client sent, and what it got. Times are in
// milliseconds.
type attempt struct {
	Began, Answered float64
	Status          int // 0: no answer
	Headers, Sent   map[string]string
}

// failure is an error as a client raised it.
type failure struct {
	Class     string   `json:"class"`
	Status    int      `json:"status"`
	Message   string   `json:"message"`
	Code      any      `json:"code"`
	Type      any      `json:"type"`
	Retryable *bool    `json:"retryable"`
	Last      *failure `json:"last"`
}

// outcome is what became of a scenario.
type outcome struct {
	Group, Name string
	Value       any
	Error       *failure
	Before      int    // parts of a stream that the client gave out
	Heard       string // what came before the first event of a stream that was overheard
	Attempts    []attempt
}

// statuses are those of the attempts.
func (o outcome) statuses() []int {
	var all []int
	for _, a := range o.Attempts {
		all = append(all, a.Status)
	}
	return all
}

// outcomes are those of a script, by "group: name".
type outcomes map[string]outcome

// runScript runs groups of a client's scenarios.
func runScript(t *testing.T, client, base, key string, groups ...string) outcomes {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, node, append([]string{"js/" + client + ".mjs", base, key}, groups...)...)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", client, err, &stdout, &stderr)
	}
	all := outcomes{}
	for line := range strings.Lines(stdout.String()) {
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s printed %q: %v", client, line, err)
		}
		all[o.Group+": "+o.Name] = o
	}
	return all
}

// gaveUp reports whether a client left an attempt before it had an answer.
func (all outcomes) gaveUp() bool {
	for _, o := range all {
		if slices.Contains(o.statuses(), 0) {
			return true
		}
	}
	return false
}

// get gives an outcome that must be there.
func (all outcomes) get(t *testing.T, name string) outcome {
	t.Helper()
	o, ok := all[name]
	if !ok {
		t.Fatalf("no scenario %q", name)
	}
	return o
}
