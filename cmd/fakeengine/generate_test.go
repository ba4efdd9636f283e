package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const fast = "--speed=200"

func TestAnswers(t *testing.T) {
	e := start(t, fast, "--output-tokens", "40")
	prompt := strings.Repeat("word", 25) // tokens
	ask := func(t *testing.T, path, more string) answer {
		t.Helper()
		body := fmt.Sprintf(`{"model":"fake","messages":[{"role":"user","content":%q}]%s}`, prompt, more)
		if path == "/v1/completions" {
			body = fmt.Sprintf(`{"model":"fake","prompt":%q%s}`, prompt, more)
		}
		status, text := e.ask(path, body)
		if status != http.StatusOK {
			t.Fatalf("%d: %s", status, text)
		}
		if strings.Contains(more, `"stream":true`) {
			return readStream(t, text)
		}
		return readWhole(t, text)
	}
	used := func(n int) *usage { return &usage{Prompt: 25, Completion: n, Total: 25 + n} }
	check := func(t *testing.T, got, want answer) {
		t.Helper()
		if got.Reason != want.Reason || got.Events != want.Events || len(got.Text) != len(want.Text) ||
			(got.Usage == nil) != (want.Usage == nil) || got.Usage != nil && *got.Usage != *want.Usage {
			t.Errorf("got %+v with %+v, want %+v with %+v", got, got.Usage, want, want.Usage)
		}
	}
	ofTokens := func(n int) string { return strings.Repeat("word", n) }
	for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
		t.Run("a stream has an event for each token and ends with DONE on "+path, func(t *testing.T) {
			check(t, ask(t, path, `,"stream":true,"fake_tokens":12`), answer{Text: ofTokens(12), Reason: "stop", Events: 12})
		})
		t.Run("a stream has usage where it is asked for on "+path, func(t *testing.T) {
			check(t, ask(t, path, `,"stream":true,"fake_tokens":3,"stream_options":{"include_usage":true}`),
				answer{Text: ofTokens(3), Reason: "stop", Events: 3, Usage: used(3)})
		})
		t.Run("a whole answer has usage on "+path, func(t *testing.T) {
			check(t, ask(t, path, `,"fake_tokens":7`), answer{Text: ofTokens(7), Reason: "stop", Usage: used(7)})
		})
		t.Run("max_tokens ends an answer on "+path, func(t *testing.T) {
			check(t, ask(t, path, `,"fake_tokens":7,"max_tokens":4`), answer{Text: ofTokens(4), Reason: "length", Usage: used(4)})
			check(t, ask(t, path, `,"fake_tokens":4,"max_tokens":4`), answer{Text: ofTokens(4), Reason: "stop", Usage: used(4)})
			check(t, ask(t, path, `,"ignore_eos":true,"max_completion_tokens":9`), answer{Text: ofTokens(9), Reason: "length", Usage: used(9)})
		})
	}
	t.Run("the same prompt gets the same text, streamed or not", func(t *testing.T) {
		first, second, streamed := ask(t, "/v1/completions", ""), ask(t, "/v1/completions", ""), ask(t, "/v1/completions", `,"stream":true`)
		if first.Text == "" || first.Text != second.Text || first.Text != streamed.Text {
			t.Errorf("%q, %q, %q", first.Text, second.Text, streamed.Text)
		}
	})
	t.Run("other prompts get other texts and lengths, around the median", func(t *testing.T) {
		texts, below := map[string]bool{}, 0
		for i := range 40 {
			_, text := e.ask("/v1/completions", fmt.Sprintf(`{"prompt":"number %d"}`, i))
			a := readWhole(t, text)
			texts[a.Text] = true
			if a.Usage.Completion < 40 {
				below++
			}
		}
		if len(texts) != 40 || below < 8 || below > 32 {
			t.Errorf("%d different texts, %d shorter than the median, of 40", len(texts), below)
		}
	})
}

func TestMistakes(t *testing.T) {
	e := start(t, fast, "--kv-tokens", "1000")
	for _, c := range []struct{ name, path, body, want string }{
		{"no JSON", "/v1/chat/completions", `hello`, "not a request in OpenAI's form"},
		{"no messages", "/v1/chat/completions", `{}`, "messages: want at least one"},
		{"no prompt", "/v1/completions", `{}`, "prompt: missing"},
		{"another model", "/v1/completions", `{"model":"gpt","prompt":"x"}`, `model: "gpt": want "fake"`},
		{"two answers", "/v1/completions", `{"prompt":"x","n":2}`, "n: 2: want 1"},
		{"no token", "/v1/completions", `{"prompt":"x","max_tokens":0}`, "max_tokens: 0: want 1 to 999"},
		{"no length", "/v1/completions", `{"prompt":"x","fake_tokens":0}`, "fake_tokens: 0: want 1 or more"},
		{"a prompt longer than the KV cache", "/v1/completions", `{"prompt":"` + strings.Repeat("word", 1000) + `"}`, "maximum context length is 1000"},
		{"an answer that does not fit beside its prompt", "/v1/completions", `{"prompt":"` + strings.Repeat("word", 900) + `","max_tokens":101}`, "max_tokens: 101: want 1 to 100"},
		{"no input", "/v1/embeddings", `{}`, "input: want a string or a list"},
		{"empty input", "/v1/embeddings", `{"input":["a",""]}`, `input[1]: "": want a text that is not empty`},
		{"an empty list", "/v1/embeddings", `{"input":[]}`, "input: 0 of them: want 1 to 2048"},
		{"no instances", "/v1/models/m:predict", `{"instances":[]}`, "instances: want a list"},
		{"an instance that is null", "/v1/models/m:predict", `{"instances":[1,null]}`, "instances[1]: null"},
	} {
		t.Run(c.name+" is the client's mistake", func(t *testing.T) {
			if status, text := e.ask(c.path, c.body); status != http.StatusBadRequest || !strings.Contains(text, strings.ReplaceAll(c.want, `"`, `\"`)) {
				t.Errorf("%d %s, want 400 and %q", status, text, c.want)
			}
		})
	}
	if s := e.stats(); s.Requests != 0 || s.Received != 14 {
		t.Errorf("the engine took %d of %d, want none of 14", s.Requests, s.Received)
	}
}

// open begins a stream and waits for its first event. close ends the client's side.
func (e *engine) open(body string) (closeIt func()) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	resp, err := e.post(ctx, "/v1/completions", body)
	if err != nil {
		cancel()
		e.t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 16)); err != nil {
		e.t.Errorf("the first bytes: %v", err)
	}
	return func() { cancel(); _ = resp.Body.Close() }
}

func TestClientsThatLeave(t *testing.T) {
	const long = `{"prompt":"x","stream":true,"user":"anna","fake_tokens":60000}`
	t.Run("free the KV cache at once", func(t *testing.T) {
		e := start(t, "--speed", "20")
		leave := e.open(long)
		if s := e.stats(); s.Running != 1 || s.KVUsed <= 0 || s.Started != 1 {
			t.Fatalf("%+v", s)
		}
		leave()
		s := e.until("the cancel", func(s stats) bool { return s.Cancelled == 1 })
		if s.Running != 0 || s.KVUsed != 0 || s.Wasted < 1 || s.Wasted != s.Generated || s.Late != 0 || s.ForNobody != 0 {
			t.Errorf("%+v", s)
		}
		var cancels []cancel
		e.get("/debug/cancels", &cancels)
		if len(cancels) != 1 || cancels[0].User != "anna" || time.Since(cancels[0].At) > patience || int64(cancels[0].Tokens) != s.Wasted {
			t.Errorf("%+v", cancels)
		}
	})
	t.Run("before their first token have cost nothing", func(t *testing.T) {
		e := start(t, "--speed", "20", "--max-seqs", "1")
		defer e.open(long)()
		ctx, cancel := context.WithCancel(context.Background())
		var client sync.WaitGroup
		client.Go(func() {
			if resp, err := e.post(ctx, "/v1/completions", long); err == nil {
				_ = resp.Body.Close()
				t.Error("there is an answer")
			}
		})
		e.until("the second to wait", func(s stats) bool { return s.Waiting == 1 })
		cancel()
		client.Wait()
		s := e.until("the cancel", func(s stats) bool { return s.Cancelled == 1 })
		if s.Untouched != 1 || s.Wasted != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("are worked for to the end by an engine that does not notice", func(t *testing.T) {
		e := start(t, "--speed", "20", "--ignore-disconnect")
		e.open(`{"prompt":"x","stream":true,"fake_tokens":3000}`)()
		s := e.until("the end", func(s stats) bool { return s.Generated == 3000 && s.Cancelled+s.Completed == 1 })
		if s.Cancelled != 1 || s.Completed != 0 || s.Running != 0 || s.Wasted != 3000 || s.Late < 1 || s.ForNobody <= 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBounds(t *testing.T) {
	t.Run("the KV cache is never overfull, and who loses his place is computed again", func(t *testing.T) {
		e := start(t, "--speed", "50", "--kv-tokens", "600")
		var clients sync.WaitGroup
		for range 12 {
			clients.Go(func() {
				if status, text := e.ask("/v1/completions", `{"prompt":"`+strings.Repeat("word", 50)+`","fake_tokens":200}`); status != http.StatusOK {
					t.Errorf("%d %s", status, text)
				} else if a := readWhole(t, text); a.Usage.Completion != 200 {
					t.Errorf("%+v", a.Usage)
				}
			})
		}
		most := 0.0
		s := e.until("all of them", func(s stats) bool { most = max(most, s.KVUsed); return s.Completed == 12 })
		clients.Wait()
		if most > 1 || most < 0.5 || s.Preemptions == 0 || s.Computed <= s.PromptTokens || s.KVUsed != 0 {
			t.Errorf("at most %v of the cache, then %+v", most, s)
		}
	})
	t.Run("a full queue is 503", func(t *testing.T) {
		e := start(t, "--max-queue", "1")
		leave := e.open(`{"prompt":"x","stream":true,"fake_tokens":10000}`)
		status, text := e.ask("/v1/completions", `{"prompt":"y"}`)
		if status != http.StatusServiceUnavailable || !strings.Contains(text, `"type":"ServiceUnavailableError"`) {
			t.Errorf("%d %s", status, text)
		}
		leave()
		e.until("the place to be free", func(s stats) bool { return s.Cancelled == 1 && s.Refused == 1 })
		if status, text := e.ask("/v1/completions", `{"prompt":"y","max_tokens":1}`); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
	})
	t.Run("max-seqs is how many run", func(t *testing.T) {
		e := start(t, "--speed", "20", "--max-seqs", "2")
		const long = `{"prompt":"x","stream":true,"fake_tokens":60000}`
		ctx, cancel := context.WithCancel(context.Background())
		var clients sync.WaitGroup
		for range 5 {
			clients.Go(func() {
				if resp, err := e.post(ctx, "/v1/completions", long); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
		e.until("two to run and three to wait", func(s stats) bool { return s.Running == 2 && s.Waiting == 3 })
		cancel()
		clients.Wait()
		e.until("all to be gone", func(s stats) bool { return s.Cancelled == 5 && s.Running+s.Waiting == 0 })
	})
}

func TestTimes(t *testing.T) {
	took := func(t *testing.T, e *engine, path, body string) time.Duration {
		t.Helper()
		begin := time.Now()
		if status, text := e.ask(path, body); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		return time.Since(begin)
	}
	t.Run("steps take their time, divided by the speed", func(t *testing.T) {
		e := start(t, "--speed", "2", "--step", "10ms", "--step-seq", "1ns", "--step-prompt", "1ms", "--step-kv", "1ns")
		// 100 tokens of a prompt and 20 steps, twice as fast.
		const want = (100*time.Millisecond + 20*10*time.Millisecond) / 2
		if got := took(t, e, "/v1/completions", `{"prompt":"`+strings.Repeat("word", 100)+`","fake_tokens":20}`); got < want {
			t.Errorf("%v, want %v or more", got, want)
		}
	})
	t.Run("a call of embeddings takes its time and that of each input", func(t *testing.T) {
		e := start(t, "--embed-step", "50ms", "--embed-item", "10ms")
		if got := took(t, e, "/v1/embeddings", `{"input":["a","b","c","d","e"]}`); got < 100*time.Millisecond {
			t.Errorf("%v, want 100ms or more", got)
		}
		if got := took(t, e, "/v1/models/m:predict", `{"instances":[1,2,3,4,5]}`); got < 100*time.Millisecond {
			t.Errorf("%v, want 100ms or more", got)
		}
		if s := e.stats(); s.Calls != 2 || s.CallItems != 10 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCalls(t *testing.T) {
	e := start(t, fast)
	t.Run("an input has the same embedding alone and among others", func(t *testing.T) {
		var together, alone struct {
			Data []struct {
				Index     int
				Embedding []float64
			}
			Usage struct {
				Prompt int `json:"prompt_tokens"`
			}
		}
		decode := func(body string, v any) {
			t.Helper()
			status, text := e.ask("/v1/embeddings", body)
			if status != http.StatusOK {
				t.Fatalf("%d %s", status, text)
			}
			unmarshal(t, text, v)
		}
		decode(`{"input":["alpha","beta"]}`, &together)
		decode(`{"input":"beta"}`, &alone)
		if len(together.Data) != 2 || len(alone.Data) != 1 || together.Usage.Prompt != 3 || alone.Usage.Prompt != 1 || together.Data[1].Index != 1 ||
			fmt.Sprint(together.Data[1].Embedding) != fmt.Sprint(alone.Data[0].Embedding) || fmt.Sprint(together.Data[0].Embedding) == fmt.Sprint(alone.Data[0].Embedding) {
			t.Errorf("%+v, %+v", together, alone)
		}
	})
	t.Run("a list of token IDs is one input", func(t *testing.T) {
		_, text := e.ask("/v1/embeddings", `{"input":[1,2,3]}`)
		if strings.Count(text, `"embedding":[`) != 1 {
			t.Error(text)
		}
	})
	t.Run("there is a prediction for each instance", func(t *testing.T) {
		var got struct{ Predictions []float64 }
		_, text := e.ask("/v1/models/m:predict", `{"instances":[{"a":1},"x",{"a":1}]}`)
		unmarshal(t, text, &got)
		if p := got.Predictions; len(p) != 3 || p[0] != p[2] || p[0] == p[1] {
			t.Error(text)
		}
	})
	t.Run("only predict can be called", func(t *testing.T) {
		if status, _ := e.ask("/v1/models/m:explain", `{"instances":[1]}`); status != http.StatusNotFound {
			t.Error(status)
		}
	})
}

func TestPrefixCache(t *testing.T) {
	e := start(t, fast, "--prefix-cache", "--block-size", "16", "--kv-tokens", "4096")
	cached := func(prompt string) int {
		t.Helper()
		status, text := e.ask("/v1/completions", fmt.Sprintf(`{"prompt":%q,"max_tokens":1}`, prompt))
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		return readWhole(t, text).Usage.Details.Cached
	}
	same := strings.Repeat("same", 100)
	if got := []int{cached(same + "one"), cached(same + "two"), cached("other" + same)}; fmt.Sprint(got) != "[0 96 0]" {
		t.Errorf("tokens in the cache: %v, want [0 96 0]", got)
	}
	for i := range 3 {
		cached(strings.Repeat(fmt.Sprintf("%04d", i), 4000))
	}
	if got := cached(same + "three"); got != 0 {
		t.Errorf("%d tokens are there after three prompts that fill the cache", got)
	}
	if s := e.stats(); s.CachedTokens != 96 || s.Computed != s.PromptTokens-96 {
		t.Errorf("%+v", s)
	}
}

func TestLog(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	said, out := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		run(ctx, []string{"--listen", "127.0.0.1:0", "--log", fast}, out, io.Discard)
		_ = out.Close()
	})
	defer running.Wait()
	defer said.Close() // before the wait, for what nobody reads
	defer stop()
	lines := bufio.NewScanner(said)
	lines.Scan()
	e := &engine{t, strings.TrimPrefix(lines.Text(), "fakeengine serves on ")}
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"x"}],"user":"one\ntwo"}`,
		"/v1/completions":      `{"prompt":"x","stream":true,"user":"one\ntwo"}`,
	} {
		var client sync.WaitGroup
		client.Go(func() {
			if status, text := e.ask(path, body); status != http.StatusOK {
				t.Errorf("%d %s", status, text)
			}
		})
		lines.Scan()
		if got, want := lines.Text(), path+` "one\ntwo"`; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		client.Wait()
	}
	http.DefaultClient.CloseIdleConnections()
}
