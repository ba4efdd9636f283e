package dialect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
)

// golden is an answer in testdata: NAME.json says what it is and what its Outcome
// must be, NAME.upstream is what the upstream sends, and NAME.client what the
// client must get, where that is something else.
type golden struct {
	Form     string
	Status   int
	Type     string
	Stream   bool
	Prompt   int64
	Injected bool
	Answers  int64 // 0: one
	Outcome  Outcome

	name             string
	endpoint         *endpoint
	upstream, client string
}

// of returns g with the endpoint of its form. To make one takes longer than to
// pass an answer.
func (g golden) of(form string) golden {
	g.Form, g.endpoint = form, endpointOf(form)
	return g
}

func goldens(t testing.TB) []golden {
	t.Helper()
	files, err := filepath.Glob("testdata/answers/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden answers: %v", err)
	}
	var list []golden
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(file, ".json")
		g := golden{name: filepath.Base(base)}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&g); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		upstream, err := os.ReadFile(base + ".upstream")
		if err != nil {
			t.Fatal(err)
		}
		g.upstream, g.client = string(upstream), string(upstream)
		if client, err := os.ReadFile(base + ".client"); err == nil {
			g.client = string(client)
		}
		list = append(list, g.of(g.Form))
	}
	return list
}

// streams are the golden answers that are followed as streams.
func streams(t testing.TB) []golden {
	var list []golden
	for _, g := range goldens(t) {
		if g.answer().Streams() {
			list = append(list, g)
		}
	}
	return list
}

func endpointOf(form string) *endpoint {
	switch form {
	case "chat":
		return &endpoint{name: "chat/completions", api: apiOpenAI, answers: chatAnswers()}
	case "completion":
		return &endpoint{name: "completions", api: apiOpenAI, answers: completionAnswers()}
	case "response":
		return &endpoint{name: "responses", api: apiOpenAI, answers: responseAnswers()}
	case "embedding":
		return &endpoint{name: "embeddings", api: apiOpenAI, answers: embeddingAnswers()}
	case "media":
		return &endpoint{name: "audio/transcriptions", api: apiOpenAI, answers: mediaAnswers()}
	case "message":
		return &endpoint{name: "messages", api: apiAnthropic, answers: messageAnswers()}
	case "count":
		return &endpoint{name: "messages/count_tokens", api: apiAnthropic, answers: countAnswers()}
	case "ollama-generate":
		return &endpoint{name: "api/generate", api: apiOllama, answers: ollamaGenerateAnswers()}
	case "ollama-chat":
		return &endpoint{name: "api/chat", api: apiOllama, answers: ollamaChatAnswers()}
	case "ollama-embed":
		return &endpoint{name: "api/embed", api: apiOllama, answers: ollamaEmbedAnswers()}
	case "infer":
		return &endpoint{name: "infer", api: apiKServe, answers: inferAnswers()}
	case "infer-stream":
		return &endpoint{name: "generate_stream", api: apiKServe, answers: inferStreamAnswers()}
	}
	panic("no such form: " + form)
}

func (g golden) call() *Call {
	return &Call{endpoint: g.endpoint, Stream: g.Stream, Estimate: Estimate{Input: g.Prompt, Answers: g.Answers}, usageInjected: g.Injected}
}

func (g golden) answer() *Answer {
	return g.call().Answer(g.Status, http.Header{"Content-Type": {g.Type}})
}

// passed is what the client got.
type passed struct {
	body    string
	err     string
	outcome Outcome
}

// pass reads the answer, n bytes at a time.
func (g golden) pass(upstream io.Reader, n int) (passed, error) {
	a := g.answer()
	body := a.Body(io.NopCloser(upstream))
	var got bytes.Buffer
	p := make([]byte, n)
	for {
		n, err := body.Read(p)
		got.Write(p[:n])
		if err != nil {
			return passed{got.String(), err.Error(), a.Outcome()}, err
		}
	}
}

func TestGoldenAnswersPassAndTellTheirOutcome(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			got, _ := g.pass(strings.NewReader(g.upstream), 32<<10)
			if want := (passed{g.client, "EOF", g.Outcome}); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestCuttingChangesNothing(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			want, _ := g.pass(strings.NewReader(g.upstream), 32<<10)
			for _, n := range []int{1, 7, 4096} {
				if got, _ := g.pass(iotest.OneByteReader(strings.NewReader(g.upstream)), n); got != want {
					t.Fatalf("byte by byte, read %d at a time:\ngot  %+v\nwant %+v", n, got, want)
				}
				if got, _ := g.pass(iotest.DataErrReader(strings.NewReader(g.upstream)), n); got != want {
					t.Fatalf("the end with the last bytes, read %d at a time:\ngot  %+v\nwant %+v", n, got, want)
				}
			}
			rapid.Check(t, func(t *rapid.T) {
				upstream := &pieces{rest: g.upstream, next: func(most int) int { return rapid.IntRange(1, most).Draw(t, "piece") }}
				if got, _ := g.pass(upstream, rapid.IntRange(1, 200).Draw(t, "read")); got != want {
					t.Fatalf("got  %+v\nwant %+v", got, want)
				}
			})
		})
	}
}

// pieces is a reader that hands out rest in pieces.
type pieces struct {
	rest string
	next func(most int) int
}

func (r *pieces) Read(p []byte) (int, error) {
	if r.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:r.next(min(len(r.rest), 100))])
	r.rest = r.rest[n:]
	return n, nil
}

func TestLineEndsMakeNoDifference(t *testing.T) {
	for _, g := range streams(t) {
		for _, end := range []string{"\r\n", "\r"} {
			if end == "\r" && g.answer().form.lines {
				continue
			}
			other := g
			other.upstream = strings.ReplaceAll(g.upstream, "\n", end)
			want := passed{strings.ReplaceAll(g.client, "\n", end), "EOF", g.Outcome}
			for _, n := range []int{1, 32 << 10} {
				got, _ := other.pass(iotest.OneByteReader(strings.NewReader(other.upstream)), n)
				if got != want {
					t.Errorf("%s with %q:\ngot  %+v\nwant %+v", g.name, end, got, want)
				}
			}
		}
	}
}

func TestWholeAnswersAreCompleteOnlyWhole(t *testing.T) {
	for _, g := range goldens(t) {
		if g.answer().mode != whole {
			continue
		}
		for n := range len(strings.TrimSpace(g.upstream)) {
			got, err := g.pass(strings.NewReader(g.upstream[:n]), 512)
			if got.outcome.Complete || got.body != g.upstream[:n] || err != io.EOF {
				t.Fatalf("%s: the first %d bytes: %+v", g.name, n, got)
			}
		}
		broken := io.MultiReader(strings.NewReader(g.upstream), iotest.ErrReader(io.ErrUnexpectedEOF))
		got, err := g.pass(broken, 512)
		want := g.Outcome
		want.Complete, want.Stopped, want.Known = false, false, g.Outcome.Known && g.Form != "count"
		if got.outcome != want || got.body != g.upstream || err != io.ErrUnexpectedEOF {
			t.Errorf("%s: a transport that fails: %+v", g.name, got)
		}
	}
}

func TestLargeAnswersAreNotKept(t *testing.T) {
	g := golden{Status: 200, Type: "application/json"}.of("embedding")
	upstream := func() io.Reader {
		return io.MultiReader(strings.NewReader(`{"data":[`), &repeated{text: `[0.12345,-0.5],`, left: 1 << 18}, strings.NewReader(`[]],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}`))
	}
	a := g.answer()
	body := a.Body(io.NopCloser(upstream()))
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	want := Outcome{Usage: weir.Usage{Input: 8}, Known: true, Model: "m", Version: "m", Complete: true, Stopped: true}
	if got := a.Outcome(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// repeated is a text that is repeated left times.
type repeated struct {
	text string
	left int
	at   int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) && r.left > 0 {
		m := copy(p[n:], r.text[r.at:])
		n += m
		if r.at += m; r.at == len(r.text) {
			r.at, r.left = 0, r.left-1
		}
	}
	if r.left == 0 {
		err = io.EOF
	}
	return n, err
}

func TestWhichAnswersAreFollowed(t *testing.T) {
	for _, c := range []struct {
		name, form string
		stream     bool
		status     int
		header     http.Header
		want       mode
	}{
		{"an event stream", "chat", true, 200, http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}, followed},
		{"an event stream that was not asked for", "chat", false, 200, http.Header{"Content-Type": {"Text/Event-Stream"}}, followed},
		{"an event stream that is no success", "chat", true, 500, http.Header{"Content-Type": {"text/event-stream"}}, failed},
		{"an event stream that was moved", "chat", true, 302, http.Header{"Content-Type": {"text/event-stream"}}, failed},
		{"an encoded event stream that is no success", "chat", true, 500, http.Header{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}}, unread},
		{"JSON although a stream was asked for", "chat", true, 200, http.Header{"Content-Type": {"application/json"}}, whole},
		{"JSON of another type", "chat", true, 400, http.Header{"Content-Type": {"application/problem+json"}}, whole},
		{"no type", "chat", false, 200, http.Header{}, whole},
		{"no type although a stream was asked for", "chat", true, 200, http.Header{}, sniffed},
		{"plain text although a stream was asked for", "chat", true, 200, http.Header{"Content-Type": {"Text/Plain; charset=utf-8"}}, sniffed},
		{"plain text", "chat", false, 200, http.Header{"Content-Type": {"text/plain"}}, unread},
		{"an error without a type although a stream was asked for", "chat", true, 500, http.Header{}, whole},
		{"an error in plain text although a stream was asked for", "chat", true, 500, http.Header{"Content-Type": {"text/plain"}}, unread},
		{"encoded text although a stream was asked for", "chat", true, 200, http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"gzip"}}, opaque},
		{"no type of an endpoint without streams", "embedding", true, 200, http.Header{}, whole},
		{"lines without a type", "ollama-chat", true, 200, http.Header{}, sniffed},
		{"lines of JSON", "ollama-chat", true, 200, http.Header{"Content-Type": {"application/x-ndjson"}}, followed},
		{"lines of JSON that were not asked for", "ollama-chat", false, 200, http.Header{"Content-Type": {"application/x-ndjson"}}, followed},
		{"lines of JSON under another name", "ollama-chat", true, 200, http.Header{"Content-Type": {"application/json"}}, followed},
		{"JSON of Ollama", "ollama-chat", false, 200, http.Header{"Content-Type": {"application/json"}}, whole},
		{"an error of Ollama", "ollama-chat", true, 404, http.Header{"Content-Type": {"application/json"}}, whole},
		{"an error of Ollama as a line", "ollama-chat", true, 404, http.Header{"Content-Type": {"application/x-ndjson"}}, whole},
		{"events of Ollama", "ollama-chat", true, 200, http.Header{"Content-Type": {"text/event-stream"}}, unread},
		{"lines of an API of events", "chat", true, 200, http.Header{"Content-Type": {"application/x-ndjson"}}, unread},
		{"events where there are none", "embedding", false, 200, http.Header{"Content-Type": {"text/event-stream"}}, unread},
		{"an encoded stream", "chat", true, 200, http.Header{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}}, opaque},
		{"an encoded stream without a terminal event", "infer-stream", true, 200, http.Header{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}}, unread},
		{"encoded JSON", "chat", false, 200, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"br"}}, unread},
		{"not encoded", "chat", true, 200, http.Header{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"Identity"}}, followed},
		{"no content", "chat", true, 204, http.Header{"Content-Type": {"text/event-stream"}}, unread},
		{"not modified", "chat", true, 304, http.Header{"Content-Type": {"text/event-stream"}}, unread},
		{"content that is reset", "chat", true, 205, http.Header{"Content-Type": {"text/event-stream"}}, unread},
		{"an empty stream", "chat", true, 200, http.Header{"Content-Type": {"text/event-stream"}, "Content-Length": {"0"}}, followed},
		{"sound", "media", false, 200, http.Header{"Content-Type": {"audio/mpeg"}}, unread},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := (&Call{endpoint: endpointOf(c.form), Stream: c.stream}).Answer(c.status, c.header)
			if a.mode != c.want || a.Streams() != (c.want == followed || c.want == sniffed) || a.Resizes() != a.Streams() {
				t.Errorf("mode %d, streams %t, resizes %t; want mode %d", a.mode, a.Streams(), a.Resizes(), c.want)
			}
		})
	}
}

func TestOnlyAFollowedStreamLosesItsLength(t *testing.T) {
	fields := []string{"Content-Length", "ETag", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest", "X-Other"}
	for media, want := range map[string][]string{"text/event-stream": {"X-Other"}, "application/json": fields} {
		h := http.Header{}
		for _, name := range fields {
			h.Set(name, "7")
		}
		h.Set("Content-Type", media)
		(&Call{endpoint: endpointOf("chat"), Stream: true}).Answer(200, h)
		h.Del("Content-Type")
		wanted := http.Header{}
		for _, name := range want {
			wanted.Set(name, "7")
		}
		if !reflect.DeepEqual(h, wanted) {
			t.Errorf("%s: %v, want %v", media, h, wanted)
		}
	}
}

func TestWhatIsNotReadPasses(t *testing.T) {
	events := http.Header{"Content-Type": {"text/event-stream"}}
	gzipped := http.Header{"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}}
	half := `data: {"choices":[{"index":0,"del`
	for _, c := range []struct {
		name   string
		call   *Call
		header http.Header
		body   io.ReadCloser
		text   string
		want   Outcome
	}{
		{"an unknown endpoint", &Call{}, events, io.NopCloser(strings.NewReader(half)), half, Outcome{Complete: true, Stopped: true}},
		{"an endpoint whose answers are not read", &Call{endpoint: &endpoint{name: "files"}}, events, io.NopCloser(strings.NewReader(half)), half, Outcome{Complete: true, Stopped: true}},
		{"an encoded stream", &Call{endpoint: endpointOf("chat")}, gzipped, io.NopCloser(strings.NewReader(half)), half, Outcome{}},
		{"an encoded stream that may end anywhere", &Call{endpoint: endpointOf("media")}, gzipped, io.NopCloser(strings.NewReader(half)), half, Outcome{Complete: true, Stopped: true}},
		{"an answer that can only be encoded chat", &Call{endpoint: endpointOf("chat")}, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, io.NopCloser(strings.NewReader(half)), half, Outcome{Complete: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := c.call.Answer(200, c.header)
			got, err := io.ReadAll(a.Body(c.body))
			if string(got) != c.text || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if got := a.Outcome(); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestErrorsAreShortAndValid(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for in, want := range map[string]string{
		`{"error":{"message":"` + strings.Repeat(`日`, 200) + `"}}`: strings.Repeat("日", 100),
		`{"error":{"message":"` + long + `","type":"t"}}`:          "t: (too long to be shown)",
		`{"error":{"type":"t","code":"t"}}`:                        "t",
		`{"error":{"reason":"odd"}}`:                               `{"reason":"odd"}`,
		`{"error":["odd"]}`:                                        `["odd"]`,
		`{"error":{"message":"\ud800"}}`:                           "\ufffd",
		`{"title":"x","detail":"problem"}`:                         "problem",
		`{"message":"plain"}`:                                      "plain",
		`{}`:                                                       "",
		`[]`:                                                       "",
		`<html>`:                                                   "",
		`{"error":"` + long + `"}`:                                 "(too long to be shown)",
	} {
		g := golden{Status: 500, Type: "application/json"}.of("chat")
		if got, _ := g.pass(strings.NewReader(in), 512); got.outcome.Err != want {
			t.Errorf("%.60s: %q, want %q", in, got.outcome.Err, want)
		}
	}
}

func TestCloseClosesTheUpstream(t *testing.T) {
	for _, g := range goldens(t) {
		c := &closed{Reader: strings.NewReader(g.upstream)}
		if err := g.answer().Body(c).Close(); err != errClosed || c.times != 1 {
			t.Errorf("%s: %v, closed %d times", g.name, err, c.times)
		}
	}
}

var errClosed = errors.New("closed")

type closed struct {
	io.Reader
	times int
}

func (c *closed) Close() error {
	c.times++
	return errClosed
}

func TestCutErrorSaysWhy(t *testing.T) {
	p := &weir.Problem{Status: 504, Detail: "Too slow.", Err: context.DeadlineExceeded}
	err := fmt.Errorf("reading: %w", &CutError{p})
	if got, want := err.Error(), "reading: stream cut: 504 Gateway Timeout: Too slow.: context deadline exceeded"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if found, ok := errors.AsType[*weir.Problem](err); !ok || found != p {
		t.Errorf("%v has not the problem", err)
	}
}

func TestAnAnswerIsReadAsItsRequestAsks(t *testing.T) {
	list := goldens(t)
	event, lines, answer := "text/event-stream", "application/x-ndjson", "application/json"
	for _, c := range []struct {
		dialect          *Dialect
		path, body, kind string
		golden           string
	}{
		{OpenAI(), "/v1/chat/completions", `{"model":"m","messages":[],"stream":true}`, event, "chat-usage-injected"},
		{OpenAI(), "/v1/chat/completions", `{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":false}}`, event, "chat-usage-injected"},
		{OpenAI(), "/v1/chat/completions", `{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}`, event, "chat-usage-asked"},
		{OpenAI(), "/v1/completions", `{"model":"m","prompt":"x","stream":true}`, event, "completions-usage-injected"},
		{OpenAI(), "/v1/responses", `{"model":"m","input":"x","stream":true}`, event, "responses-completed"},
		{OpenAI(), "/v1/embeddings", `{"model":"m","input":"x"}`, answer, "embeddings-answer"},
		{OpenAI(), "/v1/rerank", `{"model":"m","query":"x","documents":["y"]}`, answer, "rerank-answer-total-only"},
		{OpenAI(), "/v1/images/generations", `{"prompt":"x","stream":true}`, event, "image-stream"},
		{OpenAI(), "/v1/messages", `{"model":"m","messages":[],"stream":true}`, event, "messages-text"},
		{Anthropic(), "/v1/messages", `{"model":"m","messages":[],"stream":true}`, event, "messages-tools-cumulative"},
		{Anthropic(), "/v1/messages/count_tokens", `{"model":"m","messages":[]}`, answer, "count-answer"},
		{Ollama(), "/api/generate", `{"model":"m","prompt":"x"}`, lines, "ollama-generate"},
		{Ollama(), "/api/chat", `{"model":"m","messages":[],"stream":false}`, answer, "ollama-chat-answer"},
		{Ollama(), "/api/embed", `{"model":"m","input":"x"}`, answer, "ollama-embed-answer"},
		{KServe(), "/v2/models/mnist/infer", `{"inputs":[]}`, answer, "kserve-v2-answer"},
		{KServe(), "/v1/models/m:predict", `{"instances":[]}`, answer, "kserve-v1-answer"},
		{KServe(), "/v2/models/m/generate", `{"text_input":"x"}`, answer, "triton-generate-answer"},
		{TFServing(), "/v1/models/m:predict", `{"instances":[]}`, answer, "kserve-v1-answer"},
	} {
		found := false
		for _, g := range list {
			if g.name != c.golden {
				continue
			}
			found = true
			call := c.dialect.Read(Request{Method: "POST", Path: c.path, Body: []byte(c.body)})
			a := call.Answer(200, http.Header{"Content-Type": {c.kind}})
			got, err := io.ReadAll(a.Body(io.NopCloser(strings.NewReader(g.upstream))))
			if err != nil || string(got) != g.client || a.Outcome() != g.Outcome {
				t.Errorf("%s %s: %v, %+v:\n%s", c.dialect.Name(), c.path, err, a.Outcome(), got)
			}
		}
		if !found {
			t.Errorf("no golden answer %s", c.golden)
		}
	}
}
