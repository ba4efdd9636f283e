package dialect

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/inferweir/weir"
)

// passesAs expects that upstream passes as it is, however it is cut into pieces,
// and that its end is handed on.
func passesAs(t *testing.T, g golden, upstream string, end error, want Outcome) {
	t.Helper()
	wanted := passed{upstream, end.Error(), want}
	for _, n := range []int{1, 7, 4096} {
		for name, r := range map[string]io.Reader{
			"at once":      strings.NewReader(upstream),
			"byte by byte": iotest.OneByteReader(strings.NewReader(upstream)),
		} {
			got, err := g.pass(io.MultiReader(r, iotest.ErrReader(end)), n)
			if got != wanted || err != end {
				t.Errorf("%s, read %d at a time:\ngot  %+v\nwant %+v", name, n, got, wanted)
			}
		}
		if end != io.EOF {
			continue
		}
		if got, _ := g.pass(iotest.DataErrReader(strings.NewReader(upstream)), n); got != wanted {
			t.Errorf("the end with the last bytes, read %d at a time:\ngot  %+v\nwant %+v", n, got, wanted)
		}
	}
}

func TestJSONUnderTheTypeOfAStreamIsAWholeAnswer(t *testing.T) {
	const chat = `{"model":"m","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`
	pretty := strings.NewReplacer(",", ",\n  ", "{", "{\n  ").Replace(chat)
	answered := Outcome{Usage: weir.Usage{Input: 1, Output: 2}, Known: true, Model: "m", Version: "m", Finish: "stop", Complete: true, Stopped: true}
	for _, c := range []struct {
		name, form, body string
		end              error
		want             Outcome
	}{
		{"an answer", "chat", chat, io.EOF, answered},
		{"an answer with a line end", "chat", chat + "\r\n", io.EOF, answered},
		{"an answer in several lines", "chat", pretty, io.EOF, answered},
		{"an answer behind blanks", "chat", "\r\n\r\n \n\t " + chat, io.EOF, answered},
		{"an answer of what is no name", "chat", strings.Replace(chat, `"m"`, `{}`, 1), io.EOF,
			Outcome{Usage: answered.Usage, Known: true, Finish: "stop", Complete: true, Stopped: true}},
		{"an error", "chat", `{"error":{"message":"down","type":"t"}}`, io.EOF, Outcome{Err: "t: down", Complete: true}},
		{"an error in several lines", "chat", "{\n\"error\": {\n\n\"message\": \"down\"}\n}\n", io.EOF, Outcome{Err: "down", Complete: true}},
		{"an error of messages", "message", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, io.EOF, Outcome{Err: "overloaded_error: Overloaded", Complete: true}},
		{"a response", "response", `{"status":"completed","output":[]}`, io.EOF,
			Outcome{Usage: weir.Usage{Output: 9}, Known: true, Estimated: true, Finish: "completed", Complete: true, Stopped: true}},
		{"Triton's", "infer-stream", `{"model_name":"m","text_output":"x"}`, io.EOF, Outcome{Model: "m", Complete: true, Stopped: true}},
		{"a transcription", "media", `{"text":"x"}`, io.EOF, Outcome{Complete: true, Stopped: true}},
		{"half an answer", "chat", chat[:30], io.EOF, broken(chat[:30])},
		{"half an answer in several lines", "chat", pretty[:30], io.EOF, broken(pretty[:30])},
		{"an answer that breaks off", "chat", chat[:30], io.ErrUnexpectedEOF, broken(chat[:30])},
		{"nearly all of it", "chat", chat[:len(chat)-1], io.ErrUnexpectedEOF, Outcome{Usage: answered.Usage, Known: true, Model: "m", Version: "m", Finish: "stop"}},
		{"two values", "chat", chat + chat, io.EOF, Outcome{Usage: answered.Usage, Known: true, Model: "m", Version: "m", Finish: "stop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := golden{Status: 200, Type: "text/event-stream", Stream: true, Injected: true}.of(c.form)
			passesAs(t, g, c.body, c.end, c.want)
		})
	}
}

func TestAStreamIsNoJSONForABraceInIt(t *testing.T) {
	const rest = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	for _, first := range []string{"", "\n", "[\n", "x{\n", ": {\n", "  x: {\n", "id: {\n"} {
		g := golden{Status: 200, Type: "text/event-stream", Stream: true}.of("chat")
		passesAs(t, g, first+rest, io.EOF, Outcome{Finish: "stop", Complete: true, Stopped: true})
	}
}

func TestOllamasAnswerInSeveralLinesIsWhole(t *testing.T) {
	const pretty = "{\n  \"model\": \"m\",\n  \"done\": true,\n  \"done_reason\": \"stop\",\n  \"prompt_eval_count\": 3,\n  \"eval_count\": 4\n}\n"
	whole := Outcome{Usage: weir.Usage{Input: 3, Output: 4}, Known: true, Model: "m", Version: "m", Finish: "stop", Complete: true, Stopped: true}
	for _, media := range []string{"application/json", "application/x-ndjson", "text/plain"} {
		g := golden{Status: 200, Type: media, Stream: true}.of("ollama-chat")
		passesAs(t, g, pretty, io.EOF, whole)
		passesAs(t, g, "\n \n"+pretty, io.EOF, whole)
		passesAs(t, g, "{\"model\":\"m\",\n\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":3,\"eval_count\":4}", io.EOF, whole)
		passesAs(t, g, pretty[:20], io.EOF, broken(pretty[:20]))
		passesAs(t, g, pretty[:20], io.ErrUnexpectedEOF, broken(pretty[:20]))
		passesAs(t, g, "{\n\"error\": \"down\"\n}", io.EOF, Outcome{Err: "down", Complete: true})
	}
}

// TestOllamasOddFirstLinesAreLines has first lines that no other line mends.
func TestOllamasOddFirstLinesAreLines(t *testing.T) {
	const end = `{"done":true,"done_reason":"stop"}` + "\n"
	for _, first := range []string{"", "\n", `{"done":false}` + "\n", `{"a":nan}` + "\n", `{"a"}` + "\n", "{}}\n", "[\n", `{"a":"x` + "\n", `{"a":NaN}` + "\n"} {
		g := golden{Status: 200, Type: "application/json", Stream: true}.of("ollama-chat")
		passesAs(t, g, first+end, io.EOF, Outcome{Finish: "stop", Complete: true, Stopped: true})
	}
	// A line that broke off before its end is a cut.
	g := golden{Status: 200, Type: "application/json", Stream: true}.of("ollama-chat")
	got, err := g.pass(strings.NewReader(`{"model":"m","mess`), 4096)
	if cut, ok := errors.AsType[*CutError](err); !ok || got.body != string(errorEvent(g.endpoint, cut.Problem, 0)) {
		t.Errorf("%v: %q", err, got.body)
	}
}

func TestBlanksBeforeAnAnswerPassAtOnce(t *testing.T) {
	for _, form := range []string{"chat", "ollama-chat"} {
		for _, blank := range []string{" ", "\t", "\n", "\r\n", " \n "} {
			from, to := io.Pipe()
			body := golden{Status: 200, Type: "text/plain", Stream: true}.of(form).answer().Body(from)
			wrote := make(chan error, 1)
			for range 3 {
				go func() {
					_, err := to.Write([]byte(blank))
					wrote <- err
				}()
				got := make([]byte, len(blank))
				if _, err := io.ReadFull(body, got); err != nil || string(got) != blank {
					t.Fatalf("%s: %q, %v, want %q", form, got, err, blank)
				}
				if err := <-wrote; err != nil {
					t.Fatal(err)
				}
			}
			if err := body.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestBlanksBeforeAnAnswerCostNothing counts what each more of them takes: what was
// seen is not kept, or looked at again.
func TestBlanksBeforeAnAnswerCostNothing(t *testing.T) {
	for _, c := range []struct{ form, media, blank string }{
		{"chat", "text/plain", " "}, {"chat", "text/plain", "\n"}, {"chat", "text/plain", "\t"}, {"chat", "text/event-stream", "\n"},
		{"ollama-chat", "text/plain", " "}, {"ollama-chat", "text/plain", "\n"}, {"ollama-chat", "application/json", "\n"},
	} {
		g := golden{Status: 200, Type: c.media, Stream: true}.of(c.form)
		body := g.answer().Body(io.NopCloser(&repeated{text: c.blank, left: 1 << 20}))
		f, ok := body.(*follower)
		if !ok {
			t.Fatalf("%s: %T", c.form, body)
		}
		p := make([]byte, 1)
		read := func() {
			if n, err := body.Read(p); n != 1 || err != nil {
				t.Errorf("%s: %d, %v", c.form, n, err)
			}
		}
		read()
		if n := testing.AllocsPerRun(1<<16, read); n > 0 {
			t.Errorf("%s %q: %v allocations for each", c.form, c.blank, n)
		}
		if held := cap(f.out) + cap(f.mark) + len(f.cut.Rest()); held > 64 {
			t.Errorf("%s %q: %d bytes are held", c.form, c.blank, held)
		}
	}
}

func TestNothingButBlanks(t *testing.T) {
	const blanks = " \n\t "
	g := golden{Status: 200, Type: "text/plain", Stream: true}.of("chat")
	passesAs(t, g, blanks, io.EOF, Outcome{Complete: true})
	passesAs(t, g, blanks, io.ErrUnexpectedEOF, Outcome{})
	g = g.of("ollama-chat")
	got, err := g.pass(strings.NewReader(blanks), 4096)
	if cut, ok := errors.AsType[*CutError](err); !ok || got.body != blanks+string(errorEvent(g.endpoint, cut.Problem, 0)) {
		t.Errorf("%v: %q", err, got.body)
	}
}

func TestHowAStreamOfResponsesMayEnd(t *testing.T) {
	const event = `data: {"type":"%","response":{"model":"m","status":"$","error":{"code":"c","message":"down"},"usage":{"input_tokens":3,"output_tokens":4}}}` + "\n\n"
	of := func(kind, status string) string { return strings.NewReplacer("%", kind, "$", status).Replace(event) }
	const done = "data: [DONE]\n\n"
	used := weir.Usage{Input: 3, Output: 4}
	completed := Outcome{Usage: used, Known: true, Model: "m", Version: "m", Finish: "completed", Complete: true, Stopped: true}
	incomplete := Outcome{Usage: used, Known: true, Model: "m", Version: "m", Finish: "incomplete", Complete: true}
	cut := func(o Outcome) Outcome {
		o.Complete, o.Stopped = false, false
		return o
	}
	for _, c := range []struct {
		name, upstream string
		cut            bool
		want           Outcome
	}{
		{"completed", of("response.completed", "completed"), false, completed},
		{"completed, and the mark", of("response.completed", "completed") + done, false, completed},
		{"done", of("response.done", "completed"), false, completed},
		{"done, and the mark", of("response.done", "completed") + done, false, completed},
		{"completed and done", of("response.completed", "completed") + of("response.done", "completed"), false, completed},
		{"done, but incomplete", of("response.done", "incomplete"), false, incomplete},
		{"done, but cancelled", of("response.done", "cancelled"), false, Outcome{Usage: used, Known: true, Model: "m", Version: "m", Finish: "cancelled", Complete: true}},
		{"done, but failed", of("response.done", "failed"), false, Outcome{Usage: used, Known: true, Model: "m", Version: "m", Finish: "failed", Err: "c: down"}},
		{"done, but going on", of("response.done", "in_progress"), true, Outcome{Model: "m", Version: "m"}},
		{"done, without a response", `data: {"type":"response.done"}` + "\n\n", true, Outcome{}},
		{"the mark behind a status", of("response.update", "completed") + done, false, completed},
		{"the mark behind another status", of("response.update", "incomplete") + done, false, incomplete},
		{"a status without the mark", of("response.update", "completed"), true, cut(completed)},
		{"the mark alone", done, true, Outcome{}},
		{"the mark behind no status", of("response.created", "in_progress") + done, true, Outcome{Model: "m", Version: "m"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := golden{Status: 200, Type: "text/event-stream", Stream: true}.of("response")
			got, err := g.pass(strings.NewReader(c.upstream), 4096)
			rest, isTold := told(g, got.body, err, 0)
			if isTold != c.cut || rest != c.upstream || got.outcome != c.want {
				t.Errorf("told %t: %+v\nwant %t: %+v", isTold, got, c.cut, c.want)
			}
		})
	}
}

func TestATextThatTritonCallsGeneratedEndsNothing(t *testing.T) {
	g := golden{Status: 200, Type: "text/event-stream", Stream: true}.of("infer-stream")
	for in, ended := range map[string]bool{
		`{"generated_text":"x"}`:                                 false,
		`{"generated_text":"x","details":null}`:                  false,
		`{"generated_text":"x","token":"x"}`:                     false,
		`{"generated_text":null,"token":{"text":"x"}}`:           false,
		`{"generated_text":"x","token":{"id":1}}`:                true,
		`{"generated_text":"x","details":{"input_length":1}}`:    true,
		`{"generated_text":"x","token":{"id":1},"details":null}`: true,
	} {
		first := "data: " + in + "\n\n"
		got, err := g.pass(io.MultiReader(strings.NewReader(first), iotest.ErrReader(io.ErrUnexpectedEOF)), 4096)
		if _, isTold := told(g, got.body, err, 0); isTold == ended || got.outcome.Complete != ended {
			t.Errorf("%s: %+v", in, got)
		}
	}
}

// broken is half an answer of model m: what came of it is what it cost.
func broken(text string) Outcome {
	letters := len(strings.Join(strings.Fields(text), ""))
	return Outcome{Usage: weir.Usage{Output: int64(letters+3) / 4}, Known: true, Estimated: true, Model: "m", Version: "m"}
}

// withoutUsage leaves out what an answer without usage is estimated at.
func withoutUsage(o Outcome) Outcome {
	o.Usage, o.Known, o.Estimated = weir.Usage{}, false, false
	return o
}

func TestAnErrorThatSaysNothingIsNone(t *testing.T) {
	for in, want := range map[string]string{
		`{"code":null,"message":null}`:                     "",
		`{ "code" : null , "message" : "" , "param": {} }`: "",
		`{ }`:                         "",
		`{"code":null,"message":"x"}`: "x",
		`{"code":0,"message":null}`:   "0",
		`{"reason":"\""}`:             `{"reason":"\""}`,
		`{"a":null,"reason":["x"]}`:   `{"a":null,"reason":["x"]}`,
	} {
		const chunk = `"choices":[{"index":0,"finish_reason":"stop"}]}`
		good := want == ""
		g := chatStream()
		got, _ := g.pass(strings.NewReader(`data: {"error":`+in+","+chunk+"\n\ndata: [DONE]\n\n"), 4096)
		if wanted := (Outcome{Finish: "stop", Err: want, Complete: good, Stopped: good}); got.outcome != wanted {
			t.Errorf("%s in a stream: %+v, want %+v", in, got.outcome, wanted)
		}
		g.Type = "application/json"
		got, _ = g.pass(strings.NewReader(`{"error":`+in+","+chunk), 4096)
		if wanted := (Outcome{Finish: "stop", Err: want, Complete: true, Stopped: good}); got.outcome.Known != good || withoutUsage(got.outcome) != wanted {
			t.Errorf("%s in JSON: %+v, want %+v", in, got.outcome, wanted)
		}
	}
}
