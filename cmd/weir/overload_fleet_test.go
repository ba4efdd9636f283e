//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// modelServer is a fakeengine in a process of its own, which can be killed, paused and
// started again.
type modelServer struct {
	name    string // of its model: answers say who gave them
	program string
	address string
	args    []string
	lives   []*transcript // what it said, each time that it ran
	command *exec.Cmd
	ended   chan error
}

// start runs it at its address.
func (m *modelServer) start(t *testing.T) {
	t.Helper()
	said, failed := &transcript{}, &transcript{}
	args := append([]string{"--listen", m.address, "--model", m.name, "--log"}, m.args...)
	m.command, m.ended = exec.Command(m.program, args...), make(chan error, 1)
	m.command.Stdout, m.command.Stderr = said, failed
	if err := m.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func(c *exec.Cmd, ended chan<- error) { ended <- c.Wait() }(m.command, m.ended)
	m.lives = append(m.lives, said)
	eventually(t, "fakeengine serves", func() bool {
		select {
		case err := <-m.ended:
			m.ended <- err // for the cleanup
			t.Fatalf("fakeengine ended: %v\n%s%s", err, said, failed)
		default:
		}
		return strings.Contains(said.String(), "\n")
	})
	line, _, _ := strings.Cut(said.String(), "\n")
	m.address = strings.TrimPrefix(line, "fakeengine serves on http://")
}

// kill ends it at once. What it said is all there afterwards.
func (m *modelServer) kill() {
	_ = m.command.Process.Kill() // it may have ended
	err := <-m.ended
	m.ended <- err // for who asks again
}

func (m *modelServer) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := m.command.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// taken are the users of the requests that it began to work on, in all of its lives.
func (m *modelServer) taken() (users []string) {
	for _, life := range m.lives {
		for line := range strings.Lines(life.String()) {
			quoted, ok := strings.CutPrefix(line, "/v1/chat/completions ")
			if user, err := strconv.Unquote(strings.TrimSuffix(quoted, "\n")); ok && err == nil {
				users = append(users, user)
			}
		}
	}
	return users
}

// modelStats are some of fakeengine's /debug/stats.
type modelStats struct {
	Received, Requests, Completed, Failed, Cancelled int
	Running, Waiting                                 int
}

// modelCancel is one of fakeengine's /debug/cancels.
type modelCancel struct {
	User   string
	At     time.Time
	Tokens int
}

// ask reads one of its /debug endpoints.
func (m *modelServer) ask(t *testing.T, c *http.Client, path string, v any) {
	t.Helper()
	a := fetch(t, c, "http://"+m.address+path)
	if err := json.Unmarshal([]byte(a.Body), v); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%s: %d %s: %v", path, a.Status, a.Body, err)
	}
}

func (m *modelServer) stats(t *testing.T, c *http.Client) (s modelStats) {
	t.Helper()
	m.ask(t, c, "/debug/stats", &s)
	return s
}

// fleet is three model servers and a weir in front of them, all processes.
type fleet struct {
	*process
	models  []*modelServer
	callers *http.Client
	still   *standstills
}

// startFleet starts three model servers, and a weir with more settings of its upstream,
// each a line.
func startFleet(t *testing.T, weir, fakeengine string, settings ...string) *fleet {
	t.Helper()
	f, targets := &fleet{still: watchStandstills(t)}, []string{}
	for _, name := range []string{"a", "b", "c"} {
		m := &modelServer{name: name, program: fakeengine, address: "127.0.0.1:0"}
		m.start(t)
		t.Cleanup(m.kill)
		f.models, targets = append(f.models, m), append(targets, "http://"+m.address)
	}
	f.process = start(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
upstreams:
  llm:
    targets: [%s]
    dialect: openai
    timeouts: {first_byte: 2s, between_bytes: 1s}
    breaker: {failures: 3, open_for: 500ms}
    engine: {kind: vllm}
    %s
routes:
  - match: {path: /v1/*}
    upstream: llm
`, strings.Join(targets, ", "), strings.Join(settings, "\n    ")), weir)
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	f.callers = &http.Client{Transport: transport, Timeout: patience}
	return f
}

// metric is a sum over all series of one name.
func (f *fleet) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	found := false
	for line := range strings.Lines(fetch(t, f.client, f.admin+"/metrics").Body) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if bare, _, _ := strings.Cut(series, "{"); bare != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		t.Fatalf("no metric %s", name)
	}
	return sum
}

// awaitClosed waits until so many targets may be given nothing, and returns when it was.
func (f *fleet) awaitClosed(t *testing.T, n float64) time.Time {
	t.Helper()
	eventually(t, fmt.Sprintf("%v targets are closed", n), func() bool { return f.metric(t, "weir_upstream_targets_closed") == n })
	return time.Now()
}

// awaitIdle waits until weir and the model servers have nothing to do, and checks that
// it comes within limit.
func (f *fleet) awaitIdle(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	for _, name := range []string{"weir_admission_running", "weir_admission_waiting", "weir_upstream_requests_in_flight", "weir_gateway_requests_in_flight"} {
		eventually(t, name+" is 0", func() bool { return f.metric(t, name) == 0 })
	}
	for _, m := range f.models {
		eventually(t, "nothing runs or waits at "+m.name, func() bool {
			s := m.stats(t, f.client)
			return s.Running+s.Waiting == 0 && s.Requests == s.Completed+s.Cancelled+s.Failed
		})
	}
	took := f.still.since(begin)
	if took > limit {
		t.Errorf("something was in flight for %s after the last client, want at most %s", took, limit)
	}
	return took
}

// taken says where each request was worked on, by its user. It fails for those that
// were worked on twice.
func (f *fleet) taken(t *testing.T) map[string]string {
	t.Helper()
	at := map[string]string{}
	for _, m := range f.models {
		for _, user := range m.taken() {
			if before, twice := at[user]; twice {
				t.Errorf("%s was worked on twice: at %s and at %s", user, before, m.name)
				continue
			}
			at[user] = m.name
		}
	}
	return at
}

// call is a request of a client and what became of it.
type call struct {
	id          string
	stream      bool
	tokens      int // that it asks for
	sent, ended time.Time
	status      int
	by          string // the model server that answers
	text        string
	begun       int    // how often the answer said who speaks
	failure     string // the API's error, as an event or as the answer
	complete    bool   // the end is there: [DONE], or the whole answer
	err         error  // of the connection, or in the answer's form
}

// do sends c and reads the answer. It calls seen whenever there is more of a stream.
func (f *fleet) do(ctx context.Context, c *call, seen func()) {
	c.sent = time.Now()
	defer func() { c.ended = time.Now() }()
	// All have the same prompt: so all get the beginning of the same text.
	body := fmt.Sprintf(`{"messages":[{"role":"user","content":"Tell me."}],"user":%q,"fake_tokens":%d,"stream":%t}`, c.id, c.tokens, c.stream)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.base+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		c.err = err
		return
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := f.callers.Do(r)
	if err != nil {
		c.err = err
		return
	}
	defer resp.Body.Close()
	if c.status = resp.StatusCode; c.stream && c.status == http.StatusOK {
		c.err = c.readStream(resp.Body, seen)
		return
	}
	whole, err := io.ReadAll(resp.Body)
	if c.err = err; err == nil {
		c.err = c.take(whole)
	}
	c.complete = c.err == nil && c.failure == ""
}

// take adds an event or a whole answer.
func (c *call) take(data []byte) error {
	type message struct{ Role, Content string }
	var part struct {
		Model   string
		Choices []struct{ Delta, Message message }
		Error   *struct{ Message string }
	}
	if err := json.Unmarshal(data, &part); err != nil {
		return fmt.Errorf("%q: %w", data, err)
	}
	if part.Error != nil {
		c.failure = part.Error.Message
		return nil
	}
	if c.by != "" && c.by != part.Model {
		return fmt.Errorf("%s goes on where %s began", part.Model, c.by)
	}
	c.by = part.Model
	for _, choice := range part.Choices {
		c.text += choice.Delta.Content + choice.Message.Content
		if choice.Delta.Role+choice.Message.Role != "" {
			c.begun++
		}
	}
	return nil
}

func (c *call) readStream(body io.Reader, seen func()) error {
	lines := bufio.NewScanner(body)
	for lines.Scan() && lines.Err() == nil { // after an error there may be half a line
		line := lines.Text()
		data, ok := strings.CutPrefix(line, "data: ")
		switch {
		case line == "" || line[0] == ':': // the end of an event, a comment
		case !ok || c.complete || c.failure != "":
			return fmt.Errorf("%q is no event, or comes after the end", line)
		case data == "[DONE]":
			c.complete = true
		default:
			if err := c.take([]byte(data)); err != nil {
				return err
			}
			seen()
		}
	}
	return lines.Err()
}

// wrong says what is wrong with how c ended, given the whole text: it must be complete,
// or have failed as the API's clients expect it.
func (c *call) wrong(text string) string {
	text = text[:4*c.tokens] // a token is four bytes
	switch {
	case c.err != nil:
		return "it broke: " + c.err.Error()
	case c.begun > 1:
		return fmt.Sprintf("it began %d times", c.begun)
	case !strings.HasPrefix(text, c.text):
		return fmt.Sprintf("its text is %q, want the beginning of %q", c.text, text)
	case c.complete && (c.status != http.StatusOK || c.failure != "" || c.text != text):
		return fmt.Sprintf("it ended well with %d, %q and %q", c.status, c.failure, c.text)
	case !c.complete && c.failure == "":
		return fmt.Sprintf("its end is neither complete nor an error, with %d and %q", c.status, c.text)
	case !c.complete && c.status < 500 && !(c.stream && c.status == http.StatusOK):
		return fmt.Sprintf("it failed with %d and %q", c.status, c.failure)
	}
	return ""
}
