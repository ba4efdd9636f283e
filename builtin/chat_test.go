package builtin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/builtin"
)

const chatPath = "/v1/chat/completions"

// chat is a request with more members, such as `, "n": 2`.
func chat(request, members string) string {
	return fmt.Sprintf(`{"model": "weir-story", "messages": [{"role": "user", "content": %q}]%s}`, request, members)
}

// ask sends a body to m without a server.
func ask(t testing.TB, m *builtin.Models, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", chatPath, strings.NewReader(body)))
	return w
}

// completion is what tests look at in an answer.
type completion struct {
	Choices []struct {
		Index        int
		Message      struct{ Role, Content string }
		FinishReason string `json:"finish_reason"`
	}
	Usage usage
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func complete(t testing.TB, m *builtin.Models, body string) (c completion) {
	t.Helper()
	w := ask(t, m, body)
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusOK || len(c.Choices) == 0 {
		t.Fatalf("%s: %d %s, %v", body, w.Code, w.Body, err)
	}
	return c
}

func content(t testing.TB, m *builtin.Models, body string) string {
	t.Helper()
	return complete(t, m, body).Choices[0].Message.Content
}

// volatile is what differs from one answer to the next.
func volatile(t testing.TB, body string) string {
	t.Helper()
	for pattern, with := range map[string]string{
		`"id":"chatcmpl-[0-9a-f]{24}"`:                        `"id":ID`,
		`"created":[0-9]{10}`:                                 `"created":TIME`,
		`"system_fingerprint":"fp_[0-9a-f]{10}_[0-9a-z]{2,}"`: `"system_fingerprint":FP`,
	} {
		if body != "" && !regexp.MustCompile(pattern).MatchString(body) {
			t.Errorf("no %s in %s", pattern, body)
		}
		body = regexp.MustCompile(pattern).ReplaceAllString(body, with)
	}
	return body
}

func TestChat(t *testing.T) {
	s := serve(t)
	got := send(t, request(t, "POST", s.URL+chatPath, chat("What does the duck say?", `, "temperature": 0`)))
	got.Body = volatile(t, got.Body)
	want := reply{http.StatusOK, "application/json", "", `{"id":ID,"object":"chat.completion","created":TIME,"model":"weir-story","system_fingerprint":FP,` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":"The duck says quack.","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":11,"completion_tokens":9,"total_tokens":20,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}` + "\n"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// events are the data of a stream.
func events(t testing.TB, w *httptest.ResponseRecorder) (data []string) {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "text/event-stream" || w.Code != http.StatusOK {
		t.Fatalf("%d %s %s", w.Code, got, w.Body)
	}
	for event := range strings.SplitAfterSeq(w.Body.String(), "\n\n") {
		if event == "" {
			continue
		}
		if !strings.HasPrefix(event, "data: ") || strings.Count(event, "\n") != 2 {
			t.Fatalf("event %q", event)
		}
		data = append(data, strings.TrimSuffix(strings.TrimPrefix(event, "data: "), "\n\n"))
	}
	if len(data) == 0 || data[len(data)-1] != "[DONE]" {
		t.Fatalf("a stream that does not end in [DONE]: %s", w.Body)
	}
	return data[:len(data)-1]
}

func TestChatStream(t *testing.T) {
	m := load(t)
	const head = `{"id":ID,"object":"chat.completion.chunk","created":TIME,"model":"weir-story","system_fingerprint":FP,"choices":[`
	delta := func(delta, finish string) string {
		return head + `{"index":0,"delta":{` + delta + `},"logprobs":null,"finish_reason":` + finish + `}]`
	}
	chunks := []string{delta(`"role":"assistant","content":""`, "null")}
	for _, piece := range []string{"The", " d", "uck", " say", "s", " ", "qu", "ack", "."} {
		chunks = append(chunks, delta(`"content":"`+piece+`"`, "null"))
	}
	chunks = append(chunks, delta("", `"stop"`))
	const duck, end = "What does the duck say?", `"usage":{"prompt_tokens":11,"completion_tokens":9,"total_tokens":20,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`
	for _, c := range []struct {
		name, members, usage string
		last                 []string
	}{
		{"sends a piece a chunk", `, "stream": true, "temperature": 0`, "}", nil},
		{"sends the usage where asked to", `, "stream": true, "temperature": 0, "stream_options": {"include_usage": true}`, `,"usage":null}`, []string{head + "]," + end}},
		{"leaves it out where told to", `, "stream": true, "temperature": 0, "stream_options": {"include_usage": false, "include_obfuscation": true}`, "}", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ask(t, m, chat(duck, c.members))
			var want []string
			for _, chunk := range chunks {
				want = append(want, chunk+c.usage)
			}
			want = append(want, c.last...)
			got := events(t, w)
			for i := range got {
				got[i] = volatile(t, got[i])
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if !w.Flushed {
				t.Error("nothing was flushed")
			}
		})
	}
}

// joined puts a stream's choices together.
func joined(t testing.TB, data []string) (c completion, chunks int) {
	t.Helper()
	ids := map[string]bool{}
	for _, text := range data {
		var chunk struct {
			ID      string
			Choices []struct {
				Index        int
				Delta        struct{ Role, Content string }
				FinishReason string `json:"finish_reason"`
			}
			Usage usage
		}
		if err := json.Unmarshal([]byte(text), &chunk); err != nil {
			t.Fatal(err)
		}
		ids[chunk.ID] = true
		c.Usage = chunk.Usage
		for _, part := range chunk.Choices {
			if part.Delta.Role != "" {
				c.Choices = append(c.Choices, struct {
					Index        int
					Message      struct{ Role, Content string }
					FinishReason string `json:"finish_reason"`
				}{})
				c.Choices[part.Index].Message.Role = part.Delta.Role
			}
			at := &c.Choices[part.Index]
			at.Index = part.Index
			at.Message.Content += part.Delta.Content
			at.FinishReason += part.FinishReason
			chunks++
		}
	}
	if len(ids) != 1 {
		t.Errorf("ids %v, want one", ids)
	}
	return c, chunks
}

func TestStreamSaysWhatTheAnswerSays(t *testing.T) {
	m := load(t)
	for _, members := range []string{
		`, "temperature": 0`,
		`, "seed": 1`,
		`, "seed": -9223372036854775808, "temperature": 2, "top_p": 0.9`,
		`, "seed": 3, "max_tokens": 5`,
		`, "seed": 4, "n": 4, "max_completion_tokens": 20, "max_tokens": 3`,
		`, "seed": 5, "stop": [" day", "nd", "zzz"]`,
		`, "seed": 6, "n": 2, "presence_penalty": 2, "frequency_penalty": -2, "stop": "."`,
	} {
		want := complete(t, m, chat("Tell me a story about a fox", members))
		got, chunks := joined(t, events(t, ask(t, m, chat("Tell me a story about a fox", members+`, "stream": true, "stream_options": {"include_usage": true}`))))
		if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
			t.Errorf("%s:\ngot  %s\nwant %s", members, a, b)
		}
		if most := want.Usage.CompletionTokens + 3*len(want.Choices); chunks > most {
			t.Errorf("%s: %d chunks, want at most %d", members, chunks, most)
		}
		if u := want.Usage; u.PromptTokens == 0 || u.TotalTokens != u.PromptTokens+u.CompletionTokens {
			t.Errorf("%s: usage %+v", members, u)
		}
	}
}

func TestChatSampling(t *testing.T) {
	m := load(t)
	const fox = "Tell me a story about a fox"
	t.Run("gives the same story for the same seed", func(t *testing.T) {
		if a, b := content(t, m, chat(fox, `, "seed": 7`)), content(t, m, chat(fox, `, "seed": 7`)); a != b {
			t.Errorf("%q\n%q", a, b)
		}
	})
	t.Run("gives other stories for other seeds, and without one", func(t *testing.T) {
		stories := map[string]bool{}
		for _, members := range []string{`, "seed": 1`, `, "seed": 2`, `, "seed": -1`, "", `, "seed": null`} {
			stories[content(t, m, chat(fox, members))] = true
		}
		if len(stories) != 5 {
			t.Errorf("%d stories, want 5: %v", len(stories), stories)
		}
	})
	t.Run("gives each choice a story of its own, the first as if alone", func(t *testing.T) {
		c := complete(t, m, chat(fox, `, "seed": 7, "n": 4`))
		stories := map[string]bool{}
		for i, choice := range c.Choices {
			if choice.Index != i || choice.Message.Role != "assistant" {
				t.Errorf("choice %d: %+v", i, choice)
			}
			stories[choice.Message.Content] = true
		}
		if one := complete(t, m, chat(fox, `, "seed": 7`)); len(stories) != 4 || c.Choices[0] != one.Choices[0] || c.Usage.PromptTokens != one.Usage.PromptTokens {
			t.Errorf("got %+v\nwant four, the first %+v", c, one)
		}
	})
	t.Run("takes the likeliest with a top_p of 0", func(t *testing.T) {
		if a, b := content(t, m, chat(fox, `, "top_p": 0`)), content(t, m, chat(fox, `, "temperature": 0`)); a != b {
			t.Errorf("%q\n%q", a, b)
		}
	})
	t.Run("ends before a stop text that begins within a token", func(t *testing.T) {
		whole := content(t, m, chat(fox, `, "temperature": 0`))
		for _, stop := range []string{"ce upon", "was", whole[10:30], "O", whole[:250]} {
			want, _, _ := strings.Cut(whole, stop)
			c := complete(t, m, chat(fox, `, "temperature": 0, "stop": `+fmt.Sprintf("%q", stop)))
			if got := c.Choices[0]; got.Message.Content != want || got.FinishReason != "stop" || c.Usage.CompletionTokens == 0 {
				t.Errorf("%q: got %+v, want %q", stop, c, want)
			}
		}
	})
}

func TestChatMessages(t *testing.T) {
	m := load(t)
	const duck = `{"role": "user", "content": "What does the duck say?"}`
	for _, c := range []struct {
		name, messages string
		tokens         int // of the prompt
	}{
		{"one message", duck, 11},
		{"parts", `{"role": "user", "content": [{"type": "text", "text": "What does"}, {"type": "text", "text": "the duck say?"}]}`, 11},
		{"white space", `{"role": "user", "content": " What does\n\tthe  duck say? "}`, 11},
		{"counts the other messages", `{"role": "system", "content": "story"}, {"role": "developer", "content": "a story"}, {"role": "user", "content": "Who are you?", "name": "x"},
			{"role": "assistant", "content": null, "tool_calls": []}, {"role": "assistant"}, {"role": "tool", "content": [], "tool_call_id": "1"}, ` + duck + `, {"role": "assistant", "content": " a story"}`, 11 + 3 + 2 + 5 + 2},
		{"names with escapes", `{"r\u006fle": "us\u0065r", "name": "role", "c\u006fntent": [{"t\u0079pe": "text", "\u0074ext": "What does the duck say?", "content": 1}]}`, 11},
		{"functions of old, and refusals", `{"role": "function", "name": "f", "content": " a story"}, {"role": "function", "name": "f", "content": null}, ` + duck +
			`, {"role": "assistant", "content": [{"type": "refusal", "refusal": " a story"}, {"type": "text", "text": ""}]}`, 11 + 2 + 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := complete(t, m, `{"model":"weir-story","temperature":0,"messages":[`+c.messages+`],"metadata":{"unknown":1},"store":false,"service_tier":"auto"}`)
			if got.Choices[0].Message.Content != "The duck says quack." || got.Usage != (usage{c.tokens, 9, c.tokens + 9}) {
				t.Errorf("got %+v, want %d tokens in the prompt", got, c.tokens)
			}
		})
	}
}

func TestChatTakesWhatMeansNothing(t *testing.T) {
	m := load(t)
	for _, members := range []string{
		`, "tools": [], "functions": null, "logit_bias": {}, "logprobs": false, "top_logprobs": 0, "response_format": {"type": "text"}, "modalities": ["text"]`,
		`, "tools": null, "logit_bias": null, "logprobs": null, "top_logprobs": null, "response_format": null, "modalities": null, "user": "a"`,
		`, "n": null, "stop": null, "stream": null, "stream_options": null, "max_tokens": null, "top_p": null, "seed": null, "presence_penalty": null`,
		`, "stop": [], "stream": false, "presence_penalty": -2, "frequency_penalty": 2.0, "top_p": 1, "reasoning_effort": "low"`,
		`, "max_tokens": 10.0, "n": 1.0, "seed": 1e0, "top_logprobs": 0.0, "tools": [ ], "logit_bias": { }, "modalities": ["te\u0078t", "text"]`,
	} {
		if got := content(t, m, chat("What does the duck say?", `, "temperature": 0.0`+members)); !strings.HasPrefix(got, "The duck") {
			t.Errorf("%s: got %q", members, got)
		}
	}
}

func TestModels(t *testing.T) {
	s := serve(t)
	const embed, story = `{"id":"weir-embed","object":"model","created":1795305600,"owned_by":"weir"}`, `{"id":"weir-story","object":"model","created":1795305600,"owned_by":"weir"}`
	const paths = ": want /v1/chat/completions, /v1/embeddings, /v1/models or /v1/models/{model}"
	for _, c := range []struct {
		method, path string
		want         reply
	}{
		{"GET", "/v1/models", reply{200, "application/json", "", `{"object":"list","data":[` + embed + "," + story + "]}\n"}},
		{"HEAD", "/v1/models", reply{200, "application/json", "", ""}},
		{"GET", "/v1/models/weir-story?a=b", reply{200, "application/json", "", story + "\n"}},
		{"GET", "/v1/models/weir-embed", reply{200, "application/json", "", embed + "\n"}},
		{"GET", "/v1/models/gpt%2F5", reply{404, "application/json", "", openAIError(t, `The model "gpt/5" does not exist: want "weir-embed" or "weir-story"`, "model", "model_not_found") + "\n"}},
		{"DELETE", "/v1/models/weir-story", reply{405, "application/json", "GET, HEAD", openAIError(t, `"DELETE": want GET, HEAD`, "", "") + "\n"}},
		{"POST", "/v1/models", reply{405, "application/json", "GET, HEAD", openAIError(t, `"POST": want GET, HEAD`, "", "") + "\n"}},
		{"GET", chatPath, reply{405, "application/json", "POST", openAIError(t, `"GET": want POST`, "", "") + "\n"}},
		{"POST", "/v1/completions", reply{404, "application/json", "", openAIError(t, `"POST" "/v1/completions"`+paths, "", "") + "\n"}},
		{"GET", "/v1/models/", reply{404, "application/json", "", openAIError(t, `"GET" "/v1/models/"`+paths, "", "") + "\n"}},
		{"GET", "/v1", reply{404, "application/json", "", openAIError(t, `"GET" "/v1"`+paths, "", "") + "\n"}},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			if got := send(t, request(t, c.method, s.URL+c.path, "")); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// wantAborted calls f, which must end an answer by breaking it off.
func wantAborted(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("got %v, want an aborted answer", p)
		}
	}()
	f()
}

// failing is an answer whose client leaves after so many writes: leave ends the
// request, or a nil leave makes writing fail.
type failing struct {
	*httptest.ResponseRecorder
	left  int
	leave func()
}

func (w *failing) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		if w.leave == nil {
			return 0, io.ErrClosedPipe
		}
		w.leave()
		return len(p), nil // it went to nobody
	}
	return w.ResponseRecorder.Write(p)
}

func TestChatEndsEarly(t *testing.T) {
	m := load(t)
	post := func(ctx context.Context, members string) *http.Request {
		return httptest.NewRequestWithContext(ctx, "POST", chatPath, strings.NewReader(chat("a fox", members)))
	}
	t.Run("breaks off for a client that left", func(t *testing.T) {
		for _, members := range []string{"", `, "stream": true`} {
			for looks := range 12 {
				w := httptest.NewRecorder()
				wantAborted(t, func() { m.ServeHTTP(w, post(&countdown{t.Context(), looks}, members)) })
				if strings.Contains(w.Body.String(), "[DONE]") || members == "" && w.Body.Len() > 0 {
					t.Errorf("%s after %d looks: got %s", members, looks, w.Body)
				}
			}
		}
	})
	t.Run("breaks a stream off at the chunk at which its client leaves", func(t *testing.T) {
		for left := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			w := &failing{httptest.NewRecorder(), left, cancel}
			wantAborted(t, func() { m.ServeHTTP(w, post(ctx, `, "stream": true, "n": 2`)) })
			if got := strings.Count(w.Body.String(), "data: "); got != left {
				t.Errorf("got %d chunks, want %d", got, left)
			}
		}
	})
	t.Run("answers 504 where the time ran out before it began", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for _, members := range []string{"", `, "stream": true`} {
			w := httptest.NewRecorder()
			m.ServeHTTP(w, post(ctx, members))
			want := `{"error":{"message":"The request's time ran out before there was an answer.","type":"server_error","param":null,"code":null}}`
			if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusGatewayTimeout || got != want {
				t.Errorf("got %d %s, want 504 %s", w.Code, got, want)
			}
		}
	})
	t.Run("stops when nothing can be sent, and frees its slot", func(t *testing.T) {
		for range 4*runtime.GOMAXPROCS(0) + 1 { // more than there are slots
			w := &failing{httptest.NewRecorder(), 3, nil}
			wantAborted(t, func() { m.ServeHTTP(w, post(t.Context(), `, "stream": true, "n": 4`)) })
			if got := strings.Count(w.Body.String(), "data: "); got != 3 {
				t.Errorf("got %d chunks, want 3", got)
			}
		}
	})
}

// slow is an answer whose client reads one chunk when told to.
type slow struct {
	*httptest.ResponseRecorder
	read chan struct{}
}

func (w *slow) Write(p []byte) (int, error) {
	<-w.read
	return w.ResponseRecorder.Write(p)
}

func TestClientsThatDoNotReadKeepNobodyFromTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := load(t)
		read := make(chan struct{})
		var clients sync.WaitGroup
		for range 4*runtime.GOMAXPROCS(0) + 1 { // more than there are slots
			clients.Go(func() {
				w := &slow{httptest.NewRecorder(), read}
				m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", chatPath, strings.NewReader(chat("What does the duck say?", `, "stream": true, "temperature": 0`))))
				if n := strings.Count(w.Body.String(), "data: "); n != 12 {
					t.Errorf("%d chunks, want 12", n)
				}
			})
		}
		synctest.Wait()
		if got := content(t, m, chat("What does the duck say?", `, "temperature": 0`)); got != "The duck says quack." {
			t.Errorf("got %q", got)
		}
		close(read)
		clients.Wait()
	})
}

func TestStreamComesPieceByPiece(t *testing.T) {
	s := serve(t)
	resp, err := http.DefaultClient.Do(request(t, "POST", s.URL+chatPath, chat("Tell me a story", `, "stream": true`)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "text/event-stream" || resp.ContentLength != -1 {
		t.Errorf("got %v, length %d", resp.Header, resp.ContentLength)
	}
	lines := 0
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		lines++
	}
	if lines < 20 {
		t.Errorf("got %d lines", lines)
	}
}

func TestManyChatsAtOnce(t *testing.T) {
	m := load(t)
	want := map[string]string{}
	requests := []string{
		chat("What does the duck say?", `, "temperature": 0`), chat("Tell me a story about a cat", `, "seed": 1, "max_tokens": 40`),
		chat("Hello!", `, "seed": 2`), chat("Where does the bear live?", `, "seed": 3, "n": 2`),
	}
	for _, body := range requests {
		want[body] = fmt.Sprintf("%+v", complete(t, m, body))
	}
	var work sync.WaitGroup
	for range 16 {
		for _, body := range requests {
			work.Go(func() {
				w := ask(t, m, body)
				var got completion
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || fmt.Sprintf("%+v", got) != want[body] {
					t.Errorf("%s: got %s, want %s", body, w.Body, want[body])
				}
			})
		}
	}
	work.Wait()
}

func FuzzChat(f *testing.F) {
	for _, body := range []string{
		chat("What does the duck say?", ""), chat("a", `, "n": 2, "stream": true, "stream_options": {"include_usage": true}, "stop": ["a", "é"], "seed": 1`),
		`{"model": "weir-story", "messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800 a"}]}, {"role": "tool", "content": ""}], "top_p": 0.1, "temperature": 2}`,
		`{"model": "weir-story", "messages": [null]}`, `{"model": null}`, `[]`, "", `{"messages": {}, "stop": {}, "n": -1, "seed": 1e3}`,
	} {
		f.Add(body)
	}
	m := load(f)
	f.Fuzz(func(t *testing.T, body string) {
		w := ask(t, m, body)
		switch {
		case w.Code == http.StatusOK && w.Header().Get("Content-Type") == "text/event-stream":
			joined(t, events(t, w))
		case w.Code == http.StatusOK:
			var c completion
			if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || len(c.Choices) == 0 || c.Usage.PromptTokens+c.Usage.CompletionTokens != c.Usage.TotalTokens {
				t.Fatalf("%q: %s, %v", body, w.Body, err)
			}
		default:
			var refusal struct {
				Error struct{ Message, Type string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || w.Code != 400 && w.Code != 404 ||
				refusal.Error.Type != "invalid_request_error" || refusal.Error.Message == "" || len(refusal.Error.Message) > 500 {
				t.Fatalf("%q: %d %s, %v", body, w.Code, w.Body, err)
			}
		}
	})
}
