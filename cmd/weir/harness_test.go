package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
)

// patience is how long a test waits for what must happen: much longer than any
// machine needs, and no part of what is measured.
const patience = time.Minute

// transcript is what a command writes, for a test that reads along.
type transcript struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{} // closed when there is more; nil while nobody waits
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
	return len(p), nil
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// find returns the first match of pattern and its groups, or else what is closed
// when there is more to read.
func (s *transcript) find(pattern *regexp.Regexp) ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := pattern.FindStringSubmatch(s.text.String()); m != nil {
		return m, nil
	}
	if s.grown == nil {
		s.grown = make(chan struct{})
	}
	return nil, s.grown
}

// await waits until pattern is there.
func (s *transcript) await(t *testing.T, pattern string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for compiled := regexp.MustCompile(pattern); ; {
		m, more := s.find(compiled)
		if m != nil {
			return m
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("no %s in:\n%s", pattern, s)
		}
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// running is a "weir serve" that a test reads and ends.
type running struct {
	stdout, stderr transcript
	base, admin    string // the URLs that it says
	client         *http.Client
}

// introduced reads where it serves.
func (s *running) introduced(t *testing.T) {
	t.Helper()
	s.base = s.stdout.await(t, `Weir serves on (\S+)\n`)[1]
	s.admin = s.stdout.await(t, `Metrics and health: (\S+)/metrics, /healthz, /readyz\n`)[1]
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: patience}
}

// get asks for a path of the callers' listener.
func (s *running) get(t *testing.T, path string) answer {
	t.Helper()
	return fetch(t, s.client, s.base+path)
}

// inProcess is a "weir serve" in the process of the test.
type inProcess struct {
	running
	signal func()   // what SIGTERM does
	status chan int // its exit status
}

// serve runs "weir serve" with a configuration, in this process.
func serve(t *testing.T, text string) *inProcess {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &inProcess{signal: cancel, status: make(chan int, 1)}
	args := []string{"serve", "-c", write(t, "weir.yaml", text)}
	go func() { s.status <- run(ctx, args, output{&s.stdout, &s.stderr}) }()
	t.Cleanup(func() { s.stop(t) })
	s.introduced(t)
	return s
}

// stop ends it and returns its exit status.
func (s *inProcess) stop(t *testing.T) int {
	t.Helper()
	s.signal()
	select {
	case status := <-s.status:
		s.status <- status // for who asks again
		return status
	case <-time.After(patience):
		t.Errorf("still serving after %s; stderr:\n%s", patience, &s.stderr)
		return -1
	}
}

// write makes a file in a directory of its own, and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// builtinConfig is the built-in configuration on ports that are free, with
// replacements: old, new, old, new.
func builtinConfig(t *testing.T, replacements ...string) string {
	t.Helper()
	text := string(config.Builtin())
	replacements = append(replacements, "\nlisten: 127.0.0.1:8080 ", "\nlisten: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}")
	for i := 0; i < len(replacements); i += 2 {
		if strings.Count(text, replacements[i]) != 1 {
			t.Fatalf("want %q once in:\n%s", replacements[i], text)
		}
		text = strings.Replace(text, replacements[i], replacements[i+1], 1)
	}
	return text
}

// answer is an answer that has been read.
type answer struct {
	Status int
	Header http.Header
	Body   string
	Proto  string
	Close  bool // the server closes the connection after it
}

// field gives a header field of it.
func (a answer) field(name string) string { return strings.Join(a.Header.Values(name), ", ") }

// json gives its body as a value.
func (a answer) json(t *testing.T) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil {
		t.Fatalf("%q: %v", a.Body, err)
	}
	return v
}

func read(resp *http.Response) (answer, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body), resp.Proto, resp.Close}, err
}

func fetch(t *testing.T, c *http.Client, url string) answer {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	a, err := read(resp)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// logged parses a log: each line must be one JSON object with a time, a level
// and a message.
func logged(t *testing.T, text string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(text) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil || !strings.HasSuffix(line, "\n") {
			t.Errorf("a line of stderr is not one JSON object: %q: %v", line, err)
			continue
		}
		_, errTime := time.Parse(time.RFC3339, str(entry["time"]))
		if errTime != nil || str(entry["level"]) == "" || str(entry["msg"]) == "" {
			t.Errorf("line %s, want a time, a level and a message", line)
		}
		lines = append(lines, entry)
	}
	return lines
}

// messages are the log's lines beside those of requests.
func messages(lines []map[string]any) (all []string) {
	for _, l := range lines {
		if msg := str(l["msg"]); msg != "request" {
			all = append(all, msg)
		}
	}
	return all
}

// str is v where it is a string, else "".
func str(v any) string {
	s, _ := v.(string)
	return s
}
