package dialect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/inferweir/weir"
)

func TestAStreamWithoutATypeIsFollowed(t *testing.T) {
	for _, g := range streams(t) {
		for _, media := range []string{"", "text/plain; charset=utf-8"} {
			for _, before := range []string{"", "\n", "\r\n\n", "\ufeff", ": hi\n", "retry: 5\n", "id:\n"} {
				if before != "" && before != "\n" && g.endpoint.answers.lines || before == "\ufeff" && g.Injected {
					continue
				}
				h := http.Header{"Content-Length": {"7"}}
				if media != "" {
					h.Set("Content-Type", media)
				}
				call := g.call()
				call.Stream = true
				a := call.Answer(200, h)
				if !a.Streams() || !a.Resizes() || h.Get("Content-Length") != "" {
					t.Fatalf("%s: not followed, %v", g.name, h)
				}
				got, err := io.ReadAll(a.Body(io.NopCloser(iotest.OneByteReader(strings.NewReader(before + g.upstream)))))
				if want := before + g.client; string(got) != want || err != nil || a.Outcome() != g.Outcome || !a.Streams() {
					t.Errorf("%s behind %q: %v, %+v:\n%s", g.name, before, err, a.Outcome(), got)
				}
			}
		}
	}
}

func TestWhatDoesNotBeginLikeAStreamPasses(t *testing.T) {
	const page = "<html>data: no</html>"
	for _, c := range []struct {
		name, form, body string
		want             Outcome
	}{
		{"a page", "chat", page, Outcome{Complete: true}},
		{"a text", "chat", "Once upon a time", Outcome{Complete: true}},
		{"half a field", "chat", "dat", Outcome{Complete: true}},
		{"a field without a colon", "chat", "data\n\n", Outcome{Complete: true}},
		{"nearly a field", "chat", "retry me", Outcome{Complete: true}},
		{"half a byte order mark", "chat", "\xef\xbb", Outcome{Complete: true}},
		{"a byte order mark", "chat", "\ufeff<", Outcome{Complete: true}},
		{"a page behind blank lines", "chat", "\n\r\n " + page, Outcome{Complete: true}},
		{"JSON", "chat", `{"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
			Outcome{Usage: weir.Usage{Input: 1, Output: 2}, Known: true, Model: "m", Version: "m", Finish: "stop", Complete: true, Stopped: true}},
		{"JSON behind blank lines", "chat", "\n\n" + `{"error":"down"}`, Outcome{Err: "down", Complete: true}},
		{"half of JSON", "chat", `{"choices":[`, Outcome{Usage: weir.Usage{Output: 3}, Known: true, Estimated: true}},
		{"an array", "chat", `[]`, Outcome{Usage: weir.Usage{Output: 1}, Known: true, Estimated: true, Complete: true}},
		{"a page for lines", "ollama-chat", page, Outcome{Complete: true}},
		{"events for lines", "ollama-chat", "data: {\"done\":true}\n\n", Outcome{Complete: true}},
		{"a page where streams end anywhere", "media", page, Outcome{Complete: true, Stopped: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := golden{Status: 200, Type: "text/plain", Stream: true, Injected: true}.of(c.form)
			for _, n := range []int{1, 7, 4096} {
				got, _ := g.pass(strings.NewReader(c.body), n)
				if want := (passed{c.body, "EOF", c.want}); got != want {
					t.Errorf("read %d at a time: got  %+v\nwant %+v", n, got, want)
				}
				got, _ = g.pass(iotest.DataErrReader(iotest.OneByteReader(strings.NewReader(c.body))), n)
				if want := (passed{c.body, "EOF", c.want}); got != want {
					t.Errorf("byte by byte, read %d at a time: got  %+v\nwant %+v", n, got, want)
				}
			}
			broken := io.MultiReader(strings.NewReader(c.body+"tail"), iotest.ErrReader(io.ErrUnexpectedEOF))
			if got, err := g.pass(broken, 512); got.body != c.body+"tail" || err != io.ErrUnexpectedEOF || got.outcome.Complete || got.outcome.Stopped {
				t.Errorf("broken off: %+v", got)
			}
		})
	}
}

func TestAStreamThatNeverBeganIsACut(t *testing.T) {
	problem := &weir.Problem{Status: 504, Detail: "Too slow."}
	for _, before := range []string{"", "\n\n", "da"} {
		for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, problem, context.Canceled} {
			if before == "da" && end == io.EOF {
				continue // that is all, and no stream
			}
			g := golden{Status: 200, Type: "text/plain", Stream: true}.of("chat")
			got, err := g.pass(io.MultiReader(strings.NewReader(before), iotest.ErrReader(end)), 512)
			cut, isCut := errors.AsType[*CutError](err)
			if isCut == (end == context.Canceled) {
				t.Fatalf("%q, then %v: %v", before, end, err)
			}
			want := strings.TrimSuffix(before, "da")
			if isCut {
				want += string(errorEvent(g.endpoint, cut.Problem, 0))
			}
			if got.body != want || got.outcome.Complete {
				t.Errorf("%q, then %v: %+v", before, end, got)
			}
		}
	}
}

// TestToLookDoesNotWait reads what an upstream writes that then waits for ever.
func TestToLookDoesNotWait(t *testing.T) {
	for in, want := range map[string]string{
		"data: {\"choices\":[]}\n\n": "data: {\"choices\":[]}\n\n",
		": hi\n":                     ": hi\n",
		"\n":                         "\n",
		"Once":                       "Once",
		"{":                          "{",
	} {
		from, to := io.Pipe()
		wrote := make(chan error, 1)
		go func() {
			_, err := to.Write([]byte(in))
			wrote <- err
		}()
		body := golden{Status: 200, Type: "text/plain", Stream: true}.of("chat").answer().Body(from)
		if n, err := body.Read(nil); n != 0 || err != nil {
			t.Errorf("%q: a read of nothing: %d, %v", in, n, err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		if _, err := to.Write([]byte("more")); err != io.ErrClosedPipe {
			t.Errorf("%q: the upstream is not closed: %v", in, err)
		}
	}
}

func TestAReadOfNothingFromASnifferIsHandedOn(t *testing.T) {
	body := golden{Status: 200, Type: "text/plain", Stream: true}.of("chat").answer().Body(io.NopCloser(&turns{"", "da", "ta: [DONE]\n\n"}))
	p := make([]byte, 64)
	if n, err := body.Read(p); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := body.Read(p); string(p[:n]) != "data: [DONE]\n\n" || err != nil {
		t.Errorf("%q, %v", p[:n], err)
	}
}

func TestNumbersThatAreNoJSONAreRead(t *testing.T) {
	const in = `data: {"model":"NaN","choices":[{"index":0,"delta":{"content":"a \"NaN\" -Infinity"},"logprobs":{"a":[NaN, Infinity,-Infinity,-1]},"finish_reason":null}],"usage":null}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{},"logprobs":-Infinity,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":3}}` + "\n\n" +
		"data: [DONE]\n\n"
	const want = `data: {"model":"NaN","choices":[{"index":0,"delta":{"content":"a \"NaN\" -Infinity"},"logprobs":{"a":[NaN, Infinity,-Infinity,-1]},"finish_reason":null}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"delta":{},"logprobs":-Infinity,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":3}}` + "\n\n" +
		"data: [DONE]\n\n"
	g := chatStream()
	g.Injected = true
	got, _ := g.pass(strings.NewReader(in), 4096)
	o := Outcome{Usage: weir.Usage{Input: 1, Output: 3}, Known: true, Model: "NaN", Version: "NaN", Finish: "stop", Complete: true, Stopped: true}
	if wanted := (passed{want, "EOF", o}); got != wanted {
		t.Errorf("got  %+v\nwant %+v", got, wanted)
	}
	for _, in := range []string{`{"a":NaN`, `NaNNaN`, `-NaN`, `"NaN`, `{"a":nan}`, `{"a":"NaN",}`} {
		g := chatStream()
		if got, _ := g.pass(strings.NewReader("data: "+in+"\n\ndata: [DONE]\n\n"), 4096); !strings.HasPrefix(got.body, "data: "+in) || got.outcome != (Outcome{Complete: true}) {
			t.Errorf("%s: %+v", in, got)
		}
	}
}
