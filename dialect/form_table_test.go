package dialect_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
)

//go:generate go test . -run TestFormsTable -update

// TestFormsTable makes the table of forms in docs/dialects.md. A form is made of
// another if that was done with a recorded answer of that endpoint.
func TestFormsTable(t *testing.T) {
	var table strings.Builder
	table.WriteString("| dialect | endpoint | asked for | can be made of |\n|---|---|---|---|\n")
	for _, d := range speakers() {
		for _, name := range d.OwnEndpoints() {
			x := readExample(t, d.Dialect, name)
			last := ""
			for _, with := range []map[string]any{
				{"stream": false},
				{"stream": true},
				{"stream": true, "stream_options": map[string]any{"include_usage": true}},
			} {
				call := x.call(t, with)
				form := call.Form()
				if form == "" || form == last || strings.Contains(form, "{") {
					continue
				}
				last = form
				var made []string
				for _, from := range call.OtherForms() {
					if !madeOfSome(t, call, from) {
						t.Errorf("%s: no recorded answer in %s becomes %s", name, from, form)
					}
					made = append(made, "`"+from+"`")
				}
				fmt.Fprintf(&table, "| %s | `%s` | `%s` | %s |\n", d.Name(), name, form, cmp.Or(strings.Join(made, ", "), "–"))
			}
		}
	}
	checkTable(t, "forms", table.String())
}

// madeOfSome reports whether one of the recorded answers in a form becomes what the
// call asks for.
func madeOfSome(t *testing.T, call *dialect.Call, from string) bool {
	for name, body := range streamFiles(t) {
		s := shapeOf(t, name)
		if from == "whole" {
			body, _ = s.convert("whole", s.full(), body)
		}
		if _, _, ok := call.Convert(from, s.contentType(from), body); ok {
			return true
		}
	}
	return false
}

// TestWhichRecordedAnswersAreConverted names those of testdata/answers that are.
// The others lack what the API's own have, or say something that is not known.
// Without its usage a stream passes as it is, known or not, as it does where Weir
// asked for the usage.
func TestWhichRecordedAnswersAreConverted(t *testing.T) {
	want := []string{
		"chat-answer: whole to stream",
		"chat-answer: whole to stream+usage",
		"chat-refusal: stream+usage to stream",
		"chat-refusal: stream+usage to whole",
		"chat-timings-injected: stream+usage to stream",
		"chat-usage-asked: stream+usage to stream",
		"chat-usage-asked: stream+usage to whole",
		"chat-usage-continuous: stream+usage to stream",
		"chat-usage-in-the-first-chunk: stream+usage to stream",
		"chat-usage-injected: stream+usage to stream",
		"chat-usage-injected: stream+usage to whole",
		"chat-usage-of-each-chunk: stream+usage to stream",
		"completions-answer: whole to stream",
		"completions-answer: whole to stream+usage",
		"completions-usage-injected: stream+usage to stream",
		"completions-usage-injected: stream+usage to whole",
		"messages-answer: whole to stream",
		"messages-text: stream to whole",
		"ollama-chat-answer: whole to stream",
		"ollama-chat-as-json: stream to whole",
		"ollama-chat: stream to whole",
		"ollama-generate-answer: whole to stream",
		"ollama-generate: stream to whole",
	}
	files, err := filepath.Glob("testdata/answers/*.upstream")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".upstream")
		for _, s := range shapes() {
			for _, to := range []string{"whole", "stream", "stream+usage"} {
				for _, from := range s.call(to).OtherForms() {
					if _, ok := s.convert(to, from, body); ok {
						got = append(got, name+": "+from+" to "+to)
					}
				}
			}
		}
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
