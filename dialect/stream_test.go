package dialect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/sse"
)

// terminals are the beginnings of the events that end a stream well.
var terminals = [...]string{
	"data: [DONE]", "event: response.completed", "event: response.incomplete", "event: message_stop", `"done":true`,
	"transcript.text.done", "image_generation.completed", `"generated_text":"`,
}

// failures are in the events by which an upstream ends its stream badly.
var failures = [...]string{`{"error":`, `"object":"error"`, "event: response.failed", "event: error"}

// wholeFrames reports whether text ends where a frame does.
func wholeFrames(text string, lines bool) bool {
	if lines {
		return text == "" || strings.HasSuffix(text, "\n")
	}
	at := strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n") + 1
	return text == "" || strings.HasSuffix(text, "\n\n") || strings.HasPrefix(text[at:], ":") && strings.HasSuffix(text, "\n")
}

// has reports whether one of marks is in text.
func has(text string, marks []string) bool {
	for _, m := range marks {
		if strings.Contains(text, m) {
			return true
		}
	}
	return false
}

// told takes the error event off the end of what a client got.
func told(g golden, body string, err error, sequence int64) (rest string, ok bool) {
	cut, isCut := errors.AsType[*CutError](err)
	if !isCut {
		return body, false
	}
	return strings.CutSuffix(body, string(errorEvent(g.endpoint, cut.Problem, sequence)))
}

// nextNumber is the number of the event that follows text.
func nextNumber(text string) int64 { return int64(strings.Count(text, `"sequence_number":`)) }

func TestAStreamCutByItsTransportEndsInOneErrorEvent(t *testing.T) {
	problem := &weir.Problem{Status: 504, Detail: "The upstream sent nothing for 30 seconds."}
	causes := []error{io.ErrUnexpectedEOF, problem}
	for _, g := range streams(t) {
		lines := g.answer().form.lines
		for n := range len(g.upstream) + 1 {
			cause := causes[n%len(causes)]
			got, err := g.pass(io.MultiReader(strings.NewReader(g.upstream[:n]), iotest.ErrReader(cause)), 4096)
			cut, ok := errors.AsType[*CutError](err)
			if !ok {
				t.Fatalf("%s, cut after %d bytes by %v: the error is %v", g.name, n, cause, err)
			}
			if cause == problem && cut.Problem != problem {
				t.Fatalf("%s, cut after %d bytes: the problem is %v", g.name, n, cut.Problem)
			}
			passed, isTold := told(g, got.body, err, nextNumber(got.body)-1)
			if g.Form != "response" {
				passed, isTold = told(g, got.body, err, 0)
			}
			over := has(passed, terminals[:]) || has(passed, failures[:])
			if isTold == over || !strings.HasPrefix(g.client, passed) || !wholeFrames(passed, lines) {
				t.Fatalf("%s, cut after %d bytes by %v: over %t, told %t:\n%s", g.name, n, cause, over, isTold, got.body)
			}
			if isTold && got.outcome.Complete {
				t.Fatalf("%s, cut after %d bytes by %v: complete", g.name, n, cause)
			}
			if g.client == g.upstream && !lines && strings.HasSuffix(g.upstream[:n], "\n\n") && passed != g.upstream[:n] {
				t.Fatalf("%s, cut after %d bytes by %v: a whole event is missing", g.name, n, cause)
			}
		}
	}
}

func TestAStreamThatEndsEarlyWithoutAnError(t *testing.T) {
	for _, g := range streams(t) {
		form := g.answer().form
		for n := range len(g.upstream) + 1 {
			got, err := g.pass(strings.NewReader(g.upstream[:n]), 4096)
			if err == io.EOF {
				// It may end so: everything has passed, and no half of an event.
				if !strings.HasPrefix(g.client, got.body) || g.client == g.upstream && got.body != g.upstream[:n] {
					t.Fatalf("%s, ended after %d bytes:\n%s", g.name, n, got.body)
				}
				if form.end == endTerminal && !has(got.body, terminals[:]) && !has(got.body, failures[:]) {
					t.Fatalf("%s, ended after %d bytes without its end:\n%s", g.name, n, got.body)
				}
				continue
			}
			sequence := int64(0)
			if g.Form == "response" {
				sequence = nextNumber(got.body) - 1
			}
			passed, isTold := told(g, got.body, err, sequence)
			if !isTold || !strings.HasPrefix(g.client, passed) || !wholeFrames(passed, form.lines) || has(passed, terminals[:]) || has(passed, failures[:]) {
				t.Fatalf("%s, ended after %d bytes: %v:\n%s", g.name, n, err, got.body)
			}
			if want := (&weir.Problem{Status: 502, Detail: "The upstream's stream ended before its end.", Err: io.EOF}); got.err != (&CutError{want}).Error() {
				t.Fatalf("%s, ended after %d bytes: %s", g.name, n, got.err)
			}
			if got.outcome.Complete {
				t.Fatalf("%s, ended after %d bytes: complete", g.name, n)
			}
		}
	}
}

func chatStream() golden {
	return golden{Status: 200, Type: "text/event-stream", Stream: true, Prompt: 40}.of("chat")
}

func TestHowAStreamMayEnd(t *testing.T) {
	const begun = `data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}` + "\n\n"
	const second = `data: {"choices":[{"index":1,"delta":{"content":"Ho"},"finish_reason":null}]}` + "\n\n"
	const finished = `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	const strays = `data: {"choices":[{"index":400,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	many := `data: {"choices":[` + strings.Repeat(`{"delta":{},"finish_reason":"stop"},`, maxChoices)
	const tail = `data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	cut := "stream cut: 502 Bad Gateway: The upstream's stream ended before its end.: EOF"
	for _, c := range []struct {
		name, upstream, passed, err string
	}{
		{"nothing at all", "", "", cut},
		{"only a comment", ": ping\n\n", ": ping\n\n", cut},
		{"no finish reason", begun, begun, cut},
		{"every choice finished", begun + finished, begun + finished, "EOF"},
		{"one of two choices finished", begun + second + finished, begun + second + finished, cut},
		{"a choice of a number that is not followed", begun + strays + finished, begun + strays + finished, cut},
		{"as many choices as are followed", many[:len(many)-1] + "]}\n\n", many[:len(many)-1] + "]}\n\n", "EOF"},
		{"more choices than are followed", many + "{}]}\n\n", many + "{}]}\n\n", cut},
		{"a mark without a blank line", begun + "data: [DONE]\n", begun + "data: [DONE]\n", "EOF"},
		{"a mark without a line end", begun + "data:[DONE]", begun + "data:[DONE]", "EOF"},
		{"a mark with a \\r", begun + "data: [DONE]\r", begun + "data: [DONE]\r", "EOF"},
		{"half a mark", begun + "data: [DON", begun, cut},
		{"half a mark when every choice finished", begun + finished + "data: [DO", begun + finished, cut},
		{"half an event when every choice finished", begun + finished + tail[:40], begun + finished, cut},
		{"an event without a blank line when every choice finished", begun + finished + tail, begun + finished + tail, "EOF"},
		{"the last event has no blank line", begun + finished[:len(finished)-1], begun + finished[:len(finished)-1], "EOF"},
		{"half a comment when every choice finished", begun + finished + ": pi", begun + finished + ": pi", "EOF"},
		{"something behind the end", "data: [DONE]\n\ndata: {\"half", "data: [DONE]\n\ndata: {\"half", "EOF"},
		{"an error without JSON", "event: error\ndata: out of memory\n\n", "event: error\ndata: out of memory\n\n", "EOF"},
		{"half an error", begun + "event: error\ndata: {\"mess", begun, cut},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := chatStream()
			got, err := g.pass(strings.NewReader(c.upstream), 4096)
			want := c.passed
			if cut, ok := errors.AsType[*CutError](err); ok {
				want += string(errorEvent(g.endpoint, cut.Problem, 0))
			}
			if got.body != want || got.err != c.err || got.outcome.Complete != (c.err == "EOF" && !strings.Contains(c.upstream, "event: error")) {
				t.Errorf("%+v\nwant %q, %s", got, want, c.err)
			}
		})
	}
}

// TestAStreamIsWholeWithTheChoicesAskedFor ends streams without their mark.
func TestAStreamIsWholeWithTheChoicesAskedFor(t *testing.T) {
	finished := func(indexes ...int) string {
		var b strings.Builder
		for _, i := range indexes {
			fmt.Fprintf(&b, "data: {\"choices\":[{\"index\":%d,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n", i)
		}
		return b.String()
	}
	for _, c := range []struct {
		name, path, body, upstream string
		whole                      bool
	}{
		{"one of one", "/v1/chat/completions", `{"stream":true}`, finished(0), true},
		{"one of two", "/v1/chat/completions", `{"stream":true,"n":2}`, finished(0), false},
		{"two of two", "/v1/chat/completions", `{"stream":true,"n":2}`, finished(1, 0), true},
		{"one twice", "/v1/chat/completions", `{"stream":true,"n":2}`, finished(0, 0), false},
		{"two of one", "/v1/chat/completions", `{"stream":true}`, finished(1, 0), true},
		{"two prompts, one answered", "/v1/completions", `{"stream":true,"prompt":["a","b"]}`, finished(0), false},
		{"two prompts", "/v1/completions", `{"stream":true,"prompt":["a","b"]}`, finished(0, 1), true},
		{"two prompts, each twice", "/v1/completions", `{"stream":true,"n":2,"prompt":["a","b"]}`, finished(0, 1, 2), false},
		{"two prompts, all four", "/v1/completions", `{"stream":true,"n":2,"prompt":["a","b"]}`, finished(0, 1, 2, 3), true},
		{"the best of three", "/v1/completions", `{"stream":true,"best_of":3,"prompt":"a"}`, finished(0), true},
		{"two of the best of three", "/v1/completions", `{"stream":true,"n":2,"best_of":3,"prompt":"a"}`, finished(0), false},
		{"more than are followed", "/v1/chat/completions", `{"stream":true,"n":300}`, finished(0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for mark, whole := range map[string]bool{"": c.whole, "data: [DONE]\n\n": true} {
				call := OpenAI().Read(Request{Method: "POST", Path: c.path, Body: []byte(c.body)})
				a := call.Answer(200, http.Header{"Content-Type": {"text/event-stream"}})
				_, err := io.ReadAll(a.Body(io.NopCloser(strings.NewReader(c.upstream + mark))))
				if o := a.Outcome(); (err == nil) != whole || o.Complete != whole || o.Stopped != c.whole {
					t.Errorf("%q: %v: %+v", mark, err, o)
				}
			}
		})
	}
}

func TestAnEmptyStreamIsACut(t *testing.T) {
	for _, g := range forms() {
		a := g.call().Answer(200, http.Header{"Content-Type": {g.Type}, "Content-Length": {"0"}})
		got, err := io.ReadAll(a.Body(http.NoBody))
		cut, ok := errors.AsType[*CutError](err)
		if clean := g.endpoint.answers.end == endClean; ok == clean || a.Outcome().Complete != clean {
			t.Errorf("%s: %v: %+v", g.Form, err, a.Outcome())
		} else if ok && string(got) != string(errorEvent(g.endpoint, cut.Problem, 0)) {
			t.Errorf("%s: %q", g.Form, got)
		}
	}
}

func TestTheFirstOfTwoErrorsIsTold(t *testing.T) {
	const upstream = "data: {\"error\":{\"message\":\"first\",\"code\":7}}\n\nevent: error\ndata: {\"error\":\"second\"}\n\n"
	got, _ := chatStream().pass(strings.NewReader(upstream), 4096)
	if want := (passed{upstream, "EOF", Outcome{Err: "7: first"}}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestTheClientsOwnEndAddsNothing(t *testing.T) {
	for _, g := range streams(t) {
		half := len(g.upstream) / 2
		upstream := io.MultiReader(strings.NewReader(g.upstream[:half]), iotest.ErrReader(context.Canceled))
		got, err := g.pass(upstream, 4096)
		if err != context.Canceled || !strings.HasPrefix(g.client, got.body) || got.outcome.Complete {
			t.Errorf("%s: %v: %+v", g.name, err, got)
		}
	}
}

func TestAfterTheTerminalEventNothingIsAdded(t *testing.T) {
	for _, g := range streams(t) {
		if !has(g.client, terminals[:]) && !has(g.client, failures[:]) {
			continue
		}
		for _, cause := range []error{io.ErrUnexpectedEOF, &weir.Problem{Status: 504}} {
			got, err := g.pass(io.MultiReader(strings.NewReader(g.upstream), iotest.ErrReader(cause)), 4096)
			if _, cut := errors.AsType[*CutError](err); !cut || got.body != g.client || got.outcome != g.Outcome {
				t.Errorf("%s, then %v: %v: %+v", g.name, cause, err, got)
			}
		}
	}
}

func TestUsageOfACutStreamIsCounted(t *testing.T) {
	frame := func(content, usage string) string {
		return `data: {"model":"m","choices":[{"index":0,"delta":{"content":"` + content + `"}}],"usage":` + usage + "}\n\n"
	}
	for _, c := range []struct {
		name, upstream string
		want           Outcome
	}{
		{"without any report", frame("one", "null") + frame("two", "null"), Outcome{Usage: weir.Usage{Input: 40, Output: 2}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"with escapes that are not counted as text", frame(`\u65e5\u672c\n\ud83d\ude00\u00e9\u0041`, "null"), Outcome{Usage: weir.Usage{Input: 40, Output: 4}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"with a report of all so far", frame("one", "null") + frame("two", `{"prompt_tokens":9,"completion_tokens":30}`), Outcome{Usage: weir.Usage{Input: 9, Output: 30}, Known: true, Model: "m", Version: "m"}},
		{"with an early report", frame("one", `{"prompt_tokens":9,"completion_tokens":1}`) + frame("and two", "null"), Outcome{Usage: weir.Usage{Input: 9, Output: 3}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"with zeros in every report", frame("one", `{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`) + frame("two", `{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`), Outcome{Usage: weir.Usage{Input: 40, Output: 2}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"with more cached than read", frame("one", `{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":10}}`), Outcome{Usage: weir.Usage{Input: 9, Cached: 9, Output: 1}, Known: true, Model: "m", Version: "m"}},
		{"with a report that became less", frame("one", `{"prompt_tokens":9,"completion_tokens":5}`) + frame("two", `{"prompt_tokens":0,"completion_tokens":1}`), Outcome{Usage: weir.Usage{Input: 9, Output: 5}, Known: true, Model: "m", Version: "m"}},
		{"with one report for each chunk", strings.Repeat(frame("one word", `{"prompt_tokens":9,"completion_tokens":1}`), 10), Outcome{Usage: weir.Usage{Input: 9, Output: 20}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"with one report for each of few chunks", strings.Repeat(frame("one word", `{"prompt_tokens":9,"completion_tokens":1}`), 7), Outcome{Usage: weir.Usage{Input: 9, Output: 1}, Known: true, Model: "m", Version: "m"}},
		{"with half as much reported as came", strings.Repeat(frame("one word", "null"), 9) + frame("one word", `{"prompt_tokens":9,"completion_tokens":5}`), Outcome{Usage: weir.Usage{Input: 9, Output: 5}, Known: true, Model: "m", Version: "m"}},
		{"with every letter a delta", strings.Repeat(frame("x", "null"), 39) + frame("x", `{"prompt_tokens":9,"completion_tokens":8}`), Outcome{Usage: weir.Usage{Input: 9, Output: 8}, Known: true, Model: "m", Version: "m"}},
		{"with a report of the total alone", frame("one", "null") + frame("two", `{"total_tokens":30}`), Outcome{Usage: weir.Usage{Input: 30, Output: 2}, Known: true, Estimated: true, Model: "m", Version: "m"}},
		{"before its first delta", frame("", "null"), Outcome{Model: "m", Version: "m"}},
		{"with nothing but an input", frame("", `{"prompt_tokens":9}`), Outcome{Usage: weir.Usage{Input: 9}, Known: true, Model: "m", Version: "m"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := chatStream()
			got, _ := g.pass(io.MultiReader(strings.NewReader(c.upstream), iotest.ErrReader(io.ErrUnexpectedEOF)), 4096)
			if got.outcome != c.want {
				t.Errorf("%+v, want %+v", got.outcome, c.want)
			}
		})
	}
}

func TestKeepAlivesPassAtOnce(t *testing.T) {
	for _, comment := range []string{": ping\n", "\n", ": ping\n\n", ": ping\r\n"} {
		from, to := io.Pipe()
		g := chatStream()
		body := g.answer().Body(from)
		wrote := make(chan error, 1)
		go func() {
			_, err := to.Write([]byte(comment))
			wrote <- err
		}()
		got := make([]byte, len(comment))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != comment {
			t.Fatalf("%q, %v, want %q", got, err, comment)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// turns is a reader that hands out one text at a time.
type turns []string

func (r *turns) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*r)[0])
	*r = (*r)[1:]
	return n, nil
}

func TestWhatComesTogetherGoesTogether(t *testing.T) {
	frame := `data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}` + "\n\n"
	upstream := &turns{frame + frame + frame[:10], "", frame[10:20], frame[20:] + frame, "data: [DONE]\n\n"}
	g := chatStream()
	body := g.answer().Body(io.NopCloser(upstream))
	p := make([]byte, 4096)
	for _, want := range []string{frame + frame, "", frame + frame, "data: [DONE]\n\n"} {
		if n, err := body.Read(p); string(p[:n]) != want || err != nil {
			t.Fatalf("%q, %v, want %q", p[:n], err, want)
		}
	}
	for range 2 {
		if n, err := body.Read(p); n != 0 || err != io.EOF {
			t.Fatalf("%d, %v at the end", n, err)
		}
	}
}

func TestTheOutcomeIsKnownSoFar(t *testing.T) {
	frame := `data: {"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}` + "\n\n"
	a := chatStream().answer()
	body := a.Body(io.NopCloser(&turns{frame, frame}))
	p := make([]byte, 4096)
	for n := range int64(2) {
		if _, err := body.Read(p); err != nil {
			t.Fatal(err)
		}
		want := Outcome{Usage: weir.Usage{Input: 40, Output: n + 1}, Known: true, Estimated: true, Model: "m", Version: "m"}
		if got := a.Outcome(); got != want {
			t.Errorf("after %d events: %+v, want %+v", n+1, got, want)
		}
	}
}

func TestAnImageThatBeganHasAnEnd(t *testing.T) {
	const done = `data: {"type":"image_generation.completed","b64_json":"AA=="}` + "\n\n"
	const part = `data: {"type":"image_generation.partial_image","b64_json":"AA=="}` + "\n\n"
	g := golden{Status: 200, Type: "text/event-stream", Stream: true}.of("media")
	const progress = `data: {"type":"progress","percent":50}` + "\n\n"
	const other = `data: {"type":"someone.elses.delta","delta":"x"}` + "\n\n"
	for upstream, complete := range map[string]bool{
		part: false, part + progress: false, progress: true, other + progress: true,
		part + done: true, part + done + progress: true, part + done + part: true, part + done + part + done: true,
		`data: {"type":"transcript.text.segment"}` + "\n\n": false, `data: {"type":"speech.audio.delta"}` + "\n\n": false,
	} {
		got, err := g.pass(strings.NewReader(upstream), 4096)
		if _, isCut := errors.AsType[*CutError](err); isCut == complete || got.outcome.Complete != complete {
			t.Errorf("%q: %v: %+v", upstream, err, got)
		}
	}
}

func TestAReadOfNothingDoesNotWait(t *testing.T) {
	from, to := io.Pipe()
	defer to.Close()
	g := chatStream()
	if n, err := g.answer().Body(from).Read(nil); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestTooLongAnEventIsACut(t *testing.T) {
	for _, c := range []struct{ form, media, text string }{
		{"chat", "text/event-stream", "data: {\"a\":\""},
		{"ollama-chat", "application/x-ndjson", "{\"a\":\""},
	} {
		t.Run(c.form, func(t *testing.T) {
			g := golden{Status: 200, Type: c.media, Stream: true}.of(c.form)
			upstream := io.MultiReader(strings.NewReader(c.text), &repeated{text: strings.Repeat("x", 1<<16), left: sse.MaxLine>>16 + 1})
			got, err := g.pass(upstream, 64<<10)
			cut, ok := errors.AsType[*CutError](err)
			if !ok || cut.Problem.Status != http.StatusBadGateway || !errors.Is(err, sse.ErrTooLong) {
				t.Fatalf("%v", err)
			}
			if rest, told := told(g, got.body, err, 0); !told || rest != "" {
				t.Errorf("%.100q", got.body)
			}
		})
	}
}

func TestLinesAreCutLikeEvents(t *testing.T) {
	var c lineCutter
	var got []string
	for _, piece := range []string{"a\n b ", "\r\n\n", "", "c", "\nd\ne"} {
		if n, err := c.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		for frame, ok := c.Next(); ok; frame, ok = c.Next() {
			got = append(got, string(frame.Raw)+"="+string(frame.Data))
		}
	}
	if got, want := strings.Join(got, "|")+"|"+string(c.Rest()), "a\n=a| b \r\n=b|\n=|c\n=c|d\n=d|e"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func forms() []golden {
	list := []golden{}
	for _, form := range []string{"chat", "completion", "response", "message", "media", "infer-stream", "ollama-chat", "ollama-generate"} {
		g := golden{Status: 200, Type: "text/event-stream", Stream: true}.of(form)
		if g.endpoint.answers.lines {
			g.Type = "application/x-ndjson"
		}
		list = append(list, g)
	}
	return list
}

func FuzzStreams(f *testing.F) {
	for _, g := range streams(f) {
		f.Add([]byte(g.upstream), uint16(len(g.upstream)/2), false)
		f.Add([]byte(g.upstream), uint16(7), true)
	}
	list := forms()
	for _, g := range forms() {
		g.Type = "text/plain"
		list = append(list, g)
	}
	f.Fuzz(func(t *testing.T, upstream []byte, cut uint16, injected bool) {
		first := upstream[:min(int(cut), len(upstream))]
		for _, g := range list {
			for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, context.Canceled} {
				a := g.answer()
				a.strip = injected && a.form.chunks
				body := a.Body(io.NopCloser(io.MultiReader(bytes.NewReader(first), bytes.NewReader(upstream[len(first):]), iotest.ErrReader(end))))
				got, err := io.ReadAll(body)
				o := a.Outcome()
				if len(o.Err) > maxErr || o.Usage.Input < 0 || o.Usage.Output < 0 || o.Usage.Cached > o.Usage.Input {
					t.Fatalf("%s: %+v", g.Form, o)
				}
				if err == nil && a.mode != followed { // it did not begin like a stream
					if !bytes.Equal(got, upstream) {
						t.Fatalf("%s: %q is not what came:\n%q", g.Form, got, upstream)
					}
					continue
				}
				over := a.tally.over()
				cut, isCut := errors.AsType[*CutError](err)
				switch {
				case a.mode != followed && a.mode != sniffed:
					if err != end {
						t.Fatalf("%s: ended by %v: %v", g.Form, end, err)
					}
				case end == context.Canceled && err != end, isCut == (err == nil || err == context.Canceled), err == nil && !over:
					t.Fatalf("%s: ended by %v: %v, over %t", g.Form, end, err, over)
				case isCut && !over:
					var ok bool
					if got, ok = bytes.CutSuffix(got, errorEvent(a.endpoint, cut.Problem, a.tally.sequence)); !ok {
						t.Fatalf("%s: no error event: %q", g.Form, got)
					}
				}
				if a.strip && len(got) <= len(upstream) {
					continue
				}
				if !bytes.HasPrefix(upstream, got) || err == nil && len(got) != len(upstream) {
					t.Fatalf("%s: ended by %v:\n%q is not what came:\n%q", g.Form, end, got, upstream)
				}
			}
		}
	})
}

const typicalDelta = `data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":[{"index":0,"delta":{"content":" lighthouse"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"

func follow(t testing.TB, injected bool) *follower {
	g := chatStream()
	g.Injected = injected
	f, ok := g.answer().Body(io.NopCloser(strings.NewReader(""))).(*follower)
	if !ok {
		t.Fatal("not followed")
	}
	return f
}

func TestADeltaAllocatesNothing(t *testing.T) {
	for _, injected := range []bool{false, true} {
		f := follow(t, injected)
		frame := []byte(typicalDelta)
		f.add(frame)
		if n := testing.AllocsPerRun(100, func() { f.out = f.out[:0]; f.add(frame) }); n > 0 {
			t.Errorf("injected %t: %v allocations a delta, want none", injected, n)
		}
	}
}

func BenchmarkChatDelta(b *testing.B) {
	for name, injected := range map[string]bool{"plain": false, "stripped": true} {
		b.Run(name, func(b *testing.B) {
			f := follow(b, injected)
			frame := []byte(typicalDelta)
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				f.out = f.out[:0]
				f.add(frame)
			}
		})
	}
}
