package dialect_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/internal/jsonscan"
)

// shape is an endpoint with forms that are made of each other.
type shape struct {
	dialect *dialect.Dialect
	path    string
}

// shapes are by the beginning of the names of files in testdata/forms. To make a
// dialect takes longer than to convert an answer.
var shapes = sync.OnceValue(func() map[string]shape {
	return map[string]shape{
		"chat":            {dialect.OpenAI(), chatPath},
		"completions":     {dialect.OpenAI(), completionPath},
		"responses":       {dialect.OpenAI(), responsePath},
		"messages":        {dialect.Anthropic(), messagePath},
		"ollama-chat":     {dialect.Ollama(), ollamaChat},
		"ollama-generate": {dialect.Ollama(), ollamaGenerate},
	}
})

// shapeOf is the endpoint of a file.
func shapeOf(t testing.TB, file string) shape {
	t.Helper()
	best := ""
	for name := range shapes() {
		if strings.HasPrefix(file, name) && len(name) > len(best) {
			best = name
		}
	}
	if best == "" {
		t.Fatalf("%s is of no endpoint", file)
	}
	return shapes()[best]
}

// call is a request for a form.
func (s shape) call(form string) *dialect.Call {
	return post(s.dialect, s.path, map[string]string{
		"whole":        `{"model":"m","stream":false}`,
		"stream":       `{"model":"m","stream":true}`,
		"stream+usage": `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`,
	}[form])
}

// full is the form of a stream from which nothing is missing.
func (s shape) full() string {
	if s.path == chatPath || s.path == completionPath {
		return "stream+usage"
	}
	return "stream"
}

// contentType is what the servers send with a form.
func (s shape) contentType(form string) string {
	switch {
	case form == "whole":
		return "application/json"
	case strings.HasPrefix(s.path, "/api/"):
		return "application/x-ndjson"
	}
	return "text/event-stream; charset=utf-8"
}

// convert makes the form to of body.
func (s shape) convert(to, from string, body []byte) ([]byte, bool) {
	got, _, ok := s.call(to).Convert(from, s.contentType(from), body)
	return got, ok
}

func canonical(t interface {
	Helper()
	Fatalf(string, ...any)
}, text []byte) string {
	t.Helper()
	out, err := jsonscan.AppendCanonical(nil, text, nil, 0)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return string(out)
}

// streamFiles are the recorded streams, by name.
func streamFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/forms/*.stream")
	if err != nil || len(files) == 0 {
		t.Fatalf("no streams: %v", err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".stream")] = text
	}
	return all
}

// TestStreamsBecomeWholeAnswers compares with what the APIs' official clients put
// together of the same events (openai-node, anthropic-sdk-typescript), and with
// what Ollama's server itself does.
func TestStreamsBecomeWholeAnswers(t *testing.T) {
	for name, stream := range streamFiles(t) {
		t.Run(name, func(t *testing.T) {
			s := shapeOf(t, name)
			got, contentType, ok := s.call("whole").Convert(s.full(), s.contentType(s.full()), stream)
			if !ok || contentType != "application/json" {
				t.Fatalf("not made, %q", contentType)
			}
			file := filepath.Join("testdata/forms", name+".json")
			if *update {
				var b bytes.Buffer
				if err := json.Indent(&b, got, "", "\t"); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(b.Bytes(), '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if canonical(t, got) != canonical(t, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// outcome is what is read of an answer to a call.
func outcome(t interface{ Fatal(...any) }, call *dialect.Call, contentType string, body []byte) dialect.Outcome {
	a := call.Answer(http.StatusOK, http.Header{"Content-Type": {contentType}})
	if _, err := io.Copy(io.Discard, a.Body(io.NopCloser(bytes.NewReader(body)))); err != nil {
		t.Fatal(err, string(body))
	}
	return a.Outcome()
}

// TestEachFormTellsTheSame reads what was made as if it came from the upstream.
func TestEachFormTellsTheSame(t *testing.T) {
	for name, stream := range streamFiles(t) {
		t.Run(name, func(t *testing.T) {
			s := shapeOf(t, name)
			want := outcome(t, s.call(s.full()), s.contentType(s.full()), stream)
			if !want.Complete || want.Finish == "" || !want.Known {
				t.Fatalf("the stream itself is %+v", want)
			}
			whole, ok := s.convert("whole", s.full(), stream)
			if got := outcome(t, s.call("whole"), "application/json", whole); !ok || got != want {
				t.Errorf("as a whole %+v, want %+v", got, want)
			}
			if s.path == responsePath {
				return
			}
			again, contentType, ok := s.call(s.full()).Convert("whole", "application/json", whole)
			if got := outcome(t, s.call(s.full()), s.contentType(s.full()), again); !ok || got != want || contentType != s.contentType(s.full()) {
				t.Errorf("as a stream again, of type %q, %+v, want %+v", contentType, got, want)
			}
		})
	}
}

// TestTheStreamWithoutUsageIsWhatWeirSends compares with what a client gets that
// did not ask for the usage which Weir asked for.
func TestTheStreamWithoutUsageIsWhatWeirSends(t *testing.T) {
	for name, stream := range streamFiles(t) {
		s := shapeOf(t, name)
		if s.full() != "stream+usage" {
			continue
		}
		a := s.call("stream").Answer(http.StatusOK, http.Header{"Content-Type": {"text/event-stream"}})
		want, err := io.ReadAll(a.Body(io.NopCloser(bytes.NewReader(stream))))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.convert("stream", "stream+usage", stream); !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: got %v\n%s\nwant\n%s", name, ok, got, want)
		}
		whole, _ := s.convert("whole", "stream+usage", stream)
		with, ok1 := s.convert("stream+usage", "whole", whole)
		stripped, ok2 := s.convert("stream", "stream+usage", with)
		if got, ok := s.convert("stream", "whole", whole); !ok || !ok1 || !ok2 || !bytes.Equal(got, stripped) {
			t.Errorf("%s: of the whole answer\n%s\nwant\n%s", name, got, stripped)
		}
	}
}

// TestStreamsThatEndTooSoonAreRefused cuts streams behind each of their lines, and
// within.
func TestStreamsThatEndTooSoonAreRefused(t *testing.T) {
	for name, stream := range streamFiles(t) {
		s := shapeOf(t, name)
		end := len(bytes.TrimRight(stream, "\n"))
		for i := range end {
			if i%17 > 0 && stream[i] != '\n' && (i == 0 || stream[i-1] != '\n') {
				continue
			}
			for _, form := range s.call("whole").OtherForms() {
				if whole, ok := s.convert("whole", form, stream[:i]); ok {
					t.Fatalf("%s: of %q was made %q", name, stream[:i], whole)
				}
			}
			if _, ok := s.convert("stream", "stream+usage", stream[:i]); ok {
				t.Fatalf("%s: of %q was made a stream", name, stream[:i])
			}
		}
	}
}

// TestWhatIsNotKnownIsRefused puts a member that nobody knows into every object of
// every event, and of every whole answer; then an event that nobody knows between
// the others; then each event twice.
func TestWhatIsNotKnownIsRefused(t *testing.T) {
	for name, stream := range streamFiles(t) {
		s := shapeOf(t, name)
		refused := func(to, from string, body []byte) {
			t.Helper()
			if got, ok := s.convert(to, from, body); ok {
				t.Errorf("%s: of\n%s\nwas made\n%s", name, body, got)
			}
		}
		events := bytes.SplitAfter(stream, []byte("\n"))
		for i, event := range events {
			from, odd := bytes.IndexByte(event, '{'), []byte("event: odd\ndata: {\"type\":\"odd\"}\n\n")
			if from < 0 {
				continue
			}
			for _, changed := range strange(event[from:]) {
				if s.path != responsePath { // whose end has the answer, whatever there is in it
					refused("whole", s.full(), slices.Concat(append(slices.Concat(events[:i], [][]byte{event[:from], changed}), events[i+1:]...)...))
				}
			}
			if s.contentType("stream") == "application/x-ndjson" {
				odd = []byte("{\"status\":\"odd\"}\n")
			} else if s.full() == "stream" {
				i-- // before the line with the type
			}
			refused("whole", s.full(), slices.Concat(append(append(slices.Clone(events[:i]), odd), events[i:]...)...))
		}
		if s.path == responsePath {
			continue
		}
		whole, _ := s.convert("whole", s.full(), stream)
		for _, changed := range strange(whole) {
			refused(s.full(), "whole", changed)
			refused("stream", "whole", changed)
		}
	}
}

// strange are the copies of a JSON text with a member more in one of its objects,
// but for those that are carried over as they are, whatever they have: so are
// Ollama's calls, which come in one piece.
func strange(text []byte) [][]byte {
	ollama := bytes.Contains(text, []byte(`"created_at"`))
	var all [][]byte
	var in func(from int, name string)
	in = func(from int, name string) {
		switch name {
		case `"usage"`, `"logprobs"`, `"arguments"`, `"input"`, `"citation"`, `"citations"`:
			return
		case `"tool_calls"`:
			if ollama {
				return
			}
		}
		w := jsonscan.Into(text[from:jsonscan.ValueEnd(text, from)])
		isObject := text[from] == '{'
		if isObject {
			comma := ","
			if text[from+1] == '}' {
				comma = ""
			}
			all = append(all, slices.Concat(text[:from+1], []byte(`"zz":null`+comma), text[from+1:]))
		}
		for {
			value, ok := w.Next()
			if !ok {
				return
			}
			if isObject {
				name = string(value)
				value, _ = w.Next()
			}
			if value[0] == '{' || value[0] == '[' {
				in(from+w.End()-len(value), name)
			}
		}
	}
	in(0, "")
	return all
}
