package dialect_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/inferweir/weir/dialect"
)

//go:generate go test . -run TestMatrix -update

var update = flag.Bool("update", false, "write the golden files of errors and the table in docs/dialects.md")

// example is a request to one endpoint, as testdata/matrix has it, with the answers
// to try on it.
type example struct {
	Path string
	Body map[string]any
	// Answers are patterns of files in testdata/answers, Answer and Events one
	// more answer and one more stream, where there are no files.
	Answers []string
	Answer  json.RawMessage
	Events  string
	// Joined is an answer to the body twice in one, where the endpoint takes that.
	Joined json.RawMessage

	dialect *dialect.Dialect
}

// answered is an answer of an upstream, as testdata/answers has it.
type answered struct {
	Status   int
	Type     string
	Stream   bool
	upstream []byte
}

// TestMatrix makes the table of docs/dialects.md: each cell is what the code does
// with the examples.
func TestMatrix(t *testing.T) {
	var table strings.Builder
	table.WriteString("| dialect | endpoint | model | estimate | usage | stream usage | a cut stream | errors | determinism | batching |\n|---|---|---|---|---|---|---|---|---|---|\n")
	rows := 0
	for _, s := range speakers() {
		for _, name := range s.OwnEndpoints() {
			rows++
			x := readExample(t, s.Dialect, name)
			answers := x.answers(t)
			if len(answers) == 0 {
				t.Errorf("%s %s: the example has no answers", s.Name(), name)
			}
			fmt.Fprintf(&table, "| %s | `%s` | %s |\n", s.Name(), name, strings.Join([]string{
				x.model(t), x.estimate(t), x.usage(t, answers), x.streamUsage(t, answers), x.cut(t, answers), x.errors(t, answers), x.determinism(t), x.batching(t),
			}, " | "))
		}
	}
	checkTable(t, "matrix", table.String())
	if files, err := filepath.Glob("testdata/matrix/*/*.json"); err != nil || len(files) != rows {
		t.Errorf("%d examples in testdata/matrix for %d endpoints, %v", len(files), rows, err)
	}
}

// checkTable compares the table with that of the name in the documentation, which
// -update writes.
func checkTable(t *testing.T, name, table string) {
	t.Helper()
	const file = "../docs/dialects.md"
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), begin)
	there, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s: want a line %q and a line %q behind it", file, begin, end)
	}
	if there == table {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s has\n%s\nbut the code does\n%s\nif that is right: go test ./dialect -run %s -update", file, there, table, t.Name())
}

func readExample(t *testing.T, d *dialect.Dialect, endpoint string) example {
	t.Helper()
	x := example{dialect: d}
	file := filepath.Join("testdata", "matrix", d.Name(), strings.ReplaceAll(endpoint, "/", "-")+".json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: each endpoint has an example", err)
	}
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if got := x.call(t, nil); got.Endpoint != endpoint || got.Err != nil {
		t.Fatalf("%s: is of endpoint %q, error %v", file, got.Endpoint, got.Err)
	}
	return x
}

func (x example) answers(t *testing.T) []answered {
	t.Helper()
	var all []answered
	if x.Answer != nil {
		all = append(all, answered{Status: 200, Type: "application/json", upstream: x.Answer})
	}
	if x.Events != "" {
		all = append(all, answered{Status: 200, Type: "text/event-stream", Stream: true, upstream: []byte(x.Events)})
	}
	for _, pattern := range x.Answers {
		files, err := filepath.Glob("testdata/answers/" + pattern + ".json")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no answers are %q: %v", x.Path, pattern, err)
		}
		for _, file := range files {
			var a answered
			text, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(text, &a)
			}
			if err == nil {
				a.upstream, err = os.ReadFile(strings.TrimSuffix(file, ".json") + ".upstream")
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			all = append(all, a)
		}
	}
	return all
}

// call reads the example's body with some members put in; nil removes one.
func (x example) call(t *testing.T, with map[string]any) *dialect.Call {
	t.Helper()
	body := maps.Clone(x.Body)
	for name, value := range with {
		if there, ok := body[name].(map[string]any); ok && value != nil {
			merged := maps.Clone(there)
			maps.Copy(merged, value.(map[string]any))
			value = merged
		}
		if body[name] = value; value == nil {
			delete(body, name)
		}
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return x.dialect.Read(dialect.Request{Method: "POST", Path: x.Path, Body: text})
}

// follow passes an answer, which ends with end, through a call.
func (x example) follow(t *testing.T, a answered, end error) (*dialect.Answer, []byte, error) {
	t.Helper()
	answer := x.call(t, map[string]any{"stream": a.Stream}).Answer(a.Status, http.Header{"Content-Type": {a.Type}})
	body := answer.Body(io.NopCloser(io.MultiReader(bytes.NewReader(a.upstream), iotest.ErrReader(end))))
	got, err := io.ReadAll(body)
	return answer, got, err
}

// parts are the beginnings of a stream, at the ends of its events or lines.
func (a answered) parts() []answered {
	mark := "\n\n"
	if !strings.HasPrefix(a.Type, "text/event-stream") {
		mark = "\n"
	}
	var all []answered
	for i := range len(a.upstream) {
		if bytes.HasSuffix(a.upstream[:i], []byte(mark)) {
			part := a
			part.upstream = a.upstream[:i]
			all = append(all, part)
		}
	}
	return all
}

func (x example) model(t *testing.T) string {
	switch {
	case x.call(t, map[string]any{"model": nil}).Model != "":
		return "path"
	case x.call(t, nil).Model != "":
		return "body"
	}
	return "–"
}

func (x example) estimate(t *testing.T) string {
	c := x.call(t, nil)
	var parts []string
	for _, p := range []struct {
		there bool
		name  string
	}{{c.Estimate.Input > 0, "input"}, {c.Estimate.Output > 0, "output"}, {c.Estimate.Answers > 1, "answers"}, {c.Items > 1, "items"}} {
		if p.there {
			parts = append(parts, p.name)
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "–")
}

func (x example) usage(t *testing.T, answers []answered) string {
	var input, output, cached, none bool
	for _, a := range answers {
		answer, _, _ := x.follow(t, a, io.EOF)
		o := answer.Outcome()
		if answer.Streams() || !o.Known || o.Estimated {
			continue
		}
		input, output, cached = input || o.Usage.Input > 0, output || o.Usage.Output > 0, cached || o.Usage.Cached > 0
		none = o.Usage.Input+o.Usage.Output == 0
	}
	switch {
	case cached:
		return "input, cached, output"
	case output:
		return "input, output"
	case input:
		return "input"
	case none:
		return "none used"
	}
	return "–"
}

func (x example) streamUsage(t *testing.T, answers []answered) string {
	var reported, counted bool
	for _, a := range answers {
		for _, part := range append(a.parts(), a) {
			answer, _, _ := x.follow(t, part, io.EOF)
			if o := answer.Outcome(); answer.Streams() && o.Known {
				counted = counted || o.Estimated
				reported = reported || !o.Estimated
			}
		}
	}
	asked := ""
	if c := x.call(t, map[string]any{"stream": true}); bytes.Contains(c.Body(), []byte(`"include_usage":true`)) {
		asked = " (asked for)"
	}
	switch {
	case reported && counted:
		return "reported" + asked + ", else counted"
	case reported:
		return "reported" + asked
	case counted:
		return "counted"
	}
	return "–"
}

// cut ends streams after their first event.
func (x example) cut(t *testing.T, answers []answered) string {
	result := "–"
	for _, a := range answers {
		parts := a.parts()
		if len(parts) == 0 {
			continue
		}
		answer, _, atEnd := x.follow(t, parts[0], io.EOF)
		if !answer.Streams() || answer.Outcome().Err != "" {
			continue
		}
		_, _, broken := x.follow(t, parts[0], io.ErrUnexpectedEOF)
		switch {
		case errors.As(atEnd, new(*dialect.CutError)):
			result = "error"
		case errors.As(broken, new(*dialect.CutError)) && result != "error":
			result = "error if broken off"
		}
	}
	return result
}

// errors gives the endpoint the errors that Weir itself would have answered with,
// alone and at the end of a stream.
func (x example) errors(t *testing.T, answers []answered) string {
	w := refuse(speaker{x.dialect, x.Path}, refusals()["upstream-gone"])
	alone, _, _ := x.follow(t, answered{Status: w.Code, Type: "application/json", upstream: w.Body.Bytes()}, io.EOF)
	if !strings.HasSuffix(alone.Outcome().Err, `Upstream "llm" cannot be reached.`) {
		return "–"
	}
	for _, a := range answers {
		for _, part := range a.parts() {
			_, told, err := x.follow(t, part, io.ErrUnexpectedEOF)
			if !errors.As(err, new(*dialect.CutError)) {
				continue
			}
			part.upstream = told
			if again, _, _ := x.follow(t, part, io.EOF); again.Outcome().Err == "" {
				t.Errorf("%s: reads no error in %q", x.Path, told)
			}
			return "read, in streams too"
		}
	}
	return "read"
}

func (x example) determinism(t *testing.T) string {
	// Wherever an API has it: each looks in one of the places.
	at := func(members map[string]any) bool {
		with := map[string]any{"options": members, "parameters": members}
		maps.Copy(with, members)
		return x.call(t, with).Deterministic
	}
	got := [...]bool{at(nil), at(map[string]any{"temperature": 0}), at(map[string]any{"temperature": 1}), at(map[string]any{"temperature": 1, "seed": 1})}
	switch got {
	case [...]bool{true, true, true, true}:
		return "always"
	case [...]bool{true, true, false, true}:
		return "unless a temperature says no"
	case [...]bool{false, true, false, true}:
		return "temperature or seed"
	case [...]bool{false, true, false, false}:
		return "temperature"
	case [4]bool{}:
		return "never"
	}
	t.Errorf("%s: %v: want one of the known rules", x.Path, got)
	return "?"
}

func (x example) batching(t *testing.T) string {
	calls := []*dialect.Call{x.call(t, nil), x.call(t, nil)}
	if _, ok := calls[0].BatchKey(nil); !ok {
		return "–"
	}
	body, err := dialect.Join(calls)
	if err != nil {
		t.Fatal(err)
	}
	joined := x.dialect.Read(dialect.Request{Method: "POST", Path: x.Path, Body: body})
	answers, err := calls[0].Split(x.Joined, calls)
	if err != nil || len(answers) != 2 || joined.Items != 2*calls[0].Items {
		t.Errorf("%s: %d items in %s, and answers %q, %v", x.Path, joined.Items, body, answers, err)
	}
	return "yes"
}
