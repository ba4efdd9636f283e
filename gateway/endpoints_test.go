package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden is an answer of the dialects' tests.
type golden struct {
	Status  int
	Type    string
	Outcome struct {
		Usage     struct{ Input, Output int64 }
		Known     bool
		Estimated bool
	}
	body string
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// tokensLeft is what remains of the policies in, out and all.
func (w *weir) tokensLeft() (left [3]int64) {
	w.t.Helper()
	a := w.send("POST", "/look", strings.Repeat("x", 200)) // more than max_body
	for i, name := range []string{"in", "out", "all"} {
		if left[i] = a.remaining(name); left[i] < 0 {
			w.t.Fatalf("a look at what is left of %s: %d %v", name, a.status, a.header["Ratelimit"])
		}
	}
	return left
}

// Every endpoint of every dialect is charged for what its answers say that they
// used, whole and as streams, and twice for two requests.
func TestEveryEndpointIsChargedForWhatItUsed(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../dialect/testdata/matrix/*/*.json")
	if err != nil || len(examples) < 30 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	charged := map[string]int{} // by dialect
	for _, file := range examples {
		dialect := filepath.Base(filepath.Dir(file))
		if dialect == "tfserving" {
			continue // which counts no tokens: such a policy is a mistake
		}
		var example struct {
			Path    string
			Body    json.RawMessage
			Answers []string
		}
		readJSON(t, file, &example)
		var current golden
		w := start(t, strings.Replace(tokenPlan, "dialect: openai", "dialect: "+dialect, 1), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", current.Type)
			w.WriteHeader(current.Status)
			_, _ = io.WriteString(w, current.body)
		}))
		// Windows that give nothing back meanwhile.
		setPolicies(t, w.gateway, "default", `[
			{"name": "in", "quota": 1000000, "unit": "input_tokens", "window": "year", "algorithm": "fixed_window"},
			{"name": "out", "quota": 1000000, "unit": "output_tokens", "window": "year", "algorithm": "fixed_window"},
			{"name": "all", "quota": 1000000, "unit": "tokens", "window": "year", "algorithm": "fixed_window"}]`)
		for _, pattern := range example.Answers {
			answers, err := filepath.Glob("../dialect/testdata/answers/" + pattern + ".json")
			if err != nil {
				t.Fatal(err)
			}
			for _, answer := range answers {
				current = golden{}
				readJSON(t, answer, &current)
				if !current.Outcome.Known || current.Outcome.Estimated || strings.Contains(answer, "-injected") {
					continue // what was not said is estimated, elsewhere
				}
				text, err := os.ReadFile(strings.TrimSuffix(answer, ".json") + ".upstream")
				if err != nil {
					t.Fatal(err)
				}
				current.body = string(text)
				u := current.Outcome.Usage
				before := w.tokensLeft()
				for range 2 {
					w.send("POST", example.Path, string(example.Body))
					now := w.tokensLeft()
					in, out, all := before[0]-now[0], before[1]-now[1], before[2]-now[2]
					if before = now; in != u.Input || out != u.Output || all != u.Input+u.Output {
						t.Errorf("%s, %s: charged %d in, %d out, %d together, want %d and %d", file, filepath.Base(answer), in, out, all, u.Input, u.Output)
					}
				}
				charged[dialect]++
			}
		}
	}
	t.Logf("answers charged: %v", charged)
	for _, dialect := range []string{"openai", "anthropic", "ollama", "kserve"} {
		if charged[dialect] == 0 {
			t.Errorf("no answer of %s was charged", dialect)
		}
	}
}
