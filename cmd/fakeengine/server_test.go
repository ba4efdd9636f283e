package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: a busy machine is no failure.
const patience = 30 * time.Second

// engine is a fakeengine that runs.
type engine struct {
	t    *testing.T
	base string
}

// start runs the command on a free port until the test ends.
func start(t *testing.T, args ...string) *engine {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	said, out := io.Pipe()
	var failed bytes.Buffer
	var status int
	var running sync.WaitGroup
	running.Go(func() {
		status = run(ctx, append([]string{"--listen", "127.0.0.1:0"}, args...), out, &failed)
		_ = out.Close()
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "fakeengine serves on ")
	if err != nil || !ok {
		stop()
		running.Wait()
		t.Fatalf("it said %q, %v, and ended with %d and %q", line, err, status, failed.String())
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		running.Wait()
		if status != 0 || failed.Len() > 0 {
			t.Errorf("it ended with status %d and %q", status, failed.String())
		}
	})
	return &engine{t, base}
}

// post sends body and returns the answer, whose body the caller closes.
func (e *engine) post(ctx context.Context, path, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(r)
}

// ask sends body and returns the status and the whole answer.
func (e *engine) ask(path, body string) (int, string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := e.post(ctx, path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// get reads JSON.
func (e *engine) get(path string, v any) {
	e.t.Helper()
	resp, err := http.Get(e.base + path)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		e.t.Fatal(err)
	}
}

func (e *engine) stats() (s stats) {
	e.t.Helper()
	e.get("/debug/stats", &s)
	return s
}

// until waits until the engine's counts are as they should be.
func (e *engine) until(what string, ok func(stats) bool) stats {
	e.t.Helper()
	for begin := time.Now(); ; {
		s := e.stats()
		if ok(s) {
			return s
		}
		if time.Since(begin) > patience {
			e.t.Fatalf("%s: not yet: %+v", what, s)
		}
	}
}

// chunk is an event of a stream.
type chunk struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Model   string `json:"model"`
	Choices []struct {
		Delta struct {
			Role    string  `json:"role"`
			Content *string `json:"content"`
		} `json:"delta"`
		Text         string  `json:"text"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage `json:"usage"`
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
	Details    struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// answer is what a client makes of an answer.
type answer struct {
	Text, Reason string
	Usage        *usage
	Events       int // with text in them
}

// readStream reads a stream to its end.
func readStream(t *testing.T, text string) answer {
	t.Helper()
	var s sse.Splitter
	if _, err := s.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	s.End()
	var a answer
	last := ""
	for {
		f, ok := s.Next()
		if !ok {
			break
		}
		if last = string(f.Data); last == "[DONE]" {
			continue
		}
		var c chunk
		if err := json.Unmarshal(f.Data, &c); err != nil {
			t.Fatalf("%q: %v", f.Data, err)
		}
		if c.Usage != nil {
			a.Usage = c.Usage
		}
		for _, choice := range c.Choices {
			more := choice.Text
			if choice.Delta.Content != nil {
				more = *choice.Delta.Content
			}
			if more != "" {
				a.Events++
			}
			a.Text += more
			if choice.FinishReason != nil {
				a.Reason = *choice.FinishReason
			}
		}
	}
	if rest := s.Rest(); last != "[DONE]" || len(rest) > 0 {
		t.Fatalf("the stream ends with %q and a rest of %q", last, rest)
	}
	return a
}

// readWhole reads an answer that is not streamed.
func readWhole(t *testing.T, text string) answer {
	t.Helper()
	var c struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
			Text         string `json:"text"`
			FinishReason string `json:"finish_reason"`
		} `json:"choices"`
		Usage *usage `json:"usage"`
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil || len(c.Choices) != 1 {
		t.Fatalf("%q: %v", text, err)
	}
	return answer{Text: c.Choices[0].Message.Content + c.Choices[0].Text, Reason: c.Choices[0].FinishReason, Usage: c.Usage}
}
