package clients_test

import (
	"math"
	"net/http"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"testing"
)

// serveBuiltin serves the built-in configuration on ports that are free, with a
// quota for each caller.
func serveBuiltin(t *testing.T, quota string) *process {
	t.Helper()
	text, err := exec.Command(program, "serve", "--print-config").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pattern, replacement := range map[string]string{
		`(?m)^listen: \S+`: "listen: 127.0.0.1:0\nadmin: {listen: \"127.0.0.1:0\"}",
		`\[5/minute\]`:     "[" + quota + "]",
	} {
		r := regexp.MustCompile(pattern)
		if n := len(r.FindAll(text, -1)); n != 1 {
			t.Fatalf("want one %s, found %d in:\n%s", pattern, n, text)
		}
		text = r.ReplaceAll(text, []byte(replacement))
	}
	return serve(t, string(text))
}

// at gives a member of a member of a value: names of objects, indices of arrays.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			o, _ := v.(object)
			v = o[step]
		case int:
			a, _ := v.([]any)
			if step < 0 {
				step += len(a)
			}
			if step < 0 || step >= len(a) {
				t.Fatalf("no %v in %s", path, mustJSON(v))
			}
			v = a[step]
		}
	}
	return v
}

// succeeded gives the value of a scenario that must not fail.
func succeeded(t *testing.T, all outcomes, name string) any {
	t.Helper()
	o := all.get(t, name)
	if o.Error != nil {
		t.Fatalf("%s: %s", name, describe(o.Error))
	}
	return o.Value
}

// TestBuiltin talks to the models that ship with Weir.
func TestBuiltin(t *testing.T) {
	t.Parallel()
	all := runScript(t, "openai", serveBuiltin(t, "1000/minute").base, "sk-none", "builtin")
	t.Run("the models are listed", func(t *testing.T) {
		var ids []any
		list, _ := succeeded(t, all, "builtin: models").([]any)
		for i := range list {
			ids = append(ids, at(t, list, i, "id"))
		}
		if want := []any{"weir-embed", "weir-story"}; !reflect.DeepEqual(ids, want) {
			t.Errorf("models %v, want %v", ids, want)
		}
	})
	t.Run("a chat is the same as a whole and as a stream, and says its usage", func(t *testing.T) {
		checkBuiltinChat(t, all)
	})
	t.Run("embeddings tell alike from unlike", func(t *testing.T) {
		checkBuiltinEmbeddings(t, all)
	})
	t.Run("an unknown model is an error of the client's own", func(t *testing.T) {
		o := all.get(t, "builtin: an unknown model")
		if e := o.Error; e == nil || e.Class != "NotFoundError" || e.Status != http.StatusNotFound || e.Code != "model_not_found" {
			t.Errorf("%s, want NotFoundError with code model_not_found", describe(e))
		}
	})
}

// TestBuiltinElsewhere has the other clients of OpenAI's API talk to them: a story
// told at once and as a stream is the same, and costs the same.
func TestBuiltinElsewhere(t *testing.T) {
	t.Parallel()
	base := serveBuiltin(t, "1000/minute").base
	for _, client := range []string{"ai", "langchain"} {
		all := runScript(t, client, base, "sk-none", "builtin")
		whole, streamed := succeeded(t, all, "builtin: chat"), succeeded(t, all, "builtin: chat stream")
		if text, _ := at(t, whole, "text").(string); text == "" || !reflect.DeepEqual(whole, streamed) {
			t.Errorf("%s: chat = %s, as a stream %s", client, mustJSON(whole), mustJSON(streamed))
		}
		for i := range 2 {
			if v, _ := at(t, succeeded(t, all, "builtin: embeddings"), i).([]any); len(v) != 100 {
				t.Errorf("%s: embedding %d has %d numbers, want 100", client, i, len(v))
			}
		}
	}
}

func checkBuiltinChat(t *testing.T, all outcomes) {
	t.Helper()
	whole := succeeded(t, all, "builtin: chat")
	text, _ := at(t, whole, "choices", 0, "message", "content").(string)
	usage, _ := at(t, whole, "usage").(object)
	if in, _ := usage["prompt_tokens"].(float64); text == "" || in < 1 || usage["total_tokens"] != in+usage["completion_tokens"].(float64) {
		t.Fatalf("chat = %s, want a text and what it used", mustJSON(whole))
	}
	for name, asksUsage := range map[string]bool{"builtin: chat stream with usage": true, "builtin: chat stream": false} {
		chunks, _ := succeeded(t, all, name).([]any)
		streamed := ""
		for i, chunk := range chunks {
			choices, _ := at(t, chunk, "choices").([]any)
			last := asksUsage && i == len(chunks)-1
			if last != (len(choices) == 0) {
				t.Errorf("%s: chunk %d of %d has choices %v", name, i, len(chunks), choices)
			}
			if len(choices) > 0 {
				piece, _ := at(t, choices, 0, "delta", "content").(string)
				streamed += piece
			}
			said, has := chunk.(object)["usage"]
			var want any
			if last {
				want = usage
			}
			if has != asksUsage || !reflect.DeepEqual(said, want) {
				t.Errorf("%s: chunk %d of %d has usage %v (%t), want %v (%t)", name, i, len(chunks), said, has, want, asksUsage)
			}
		}
		if streamed != text || len(chunks) < 3 {
			t.Errorf("%s: %q in %d chunks, want %q in several", name, streamed, len(chunks), text)
		}
	}
}

func checkBuiltinEmbeddings(t *testing.T, all outcomes) {
	t.Helper()
	vector := func(name string, i int) []float64 {
		list, _ := at(t, succeeded(t, all, name), "data", i, "embedding").([]any)
		var v []float64
		for _, x := range list {
			f, _ := x.(float64)
			v = append(v, f)
		}
		return v
	}
	cat, again, shares := vector("builtin: embeddings", 0), vector("builtin: embeddings", 1), vector("builtin: embeddings", 2)
	if len(cat) == 0 || len(again) != len(cat) || len(shares) != len(cat) {
		t.Fatalf("vectors of %d, %d and %d numbers", len(cat), len(again), len(shares))
	}
	if like, unlike := cosine(cat, again), cosine(cat, shares); like < unlike+0.2 {
		t.Errorf("sentences alike have a cosine of %.2f, unlike ones %.2f", like, unlike)
	}
	floats := vector("builtin: embeddings as floats", 0)
	if !slices.EqualFunc(floats, cat, func(a, b float64) bool { return math.Abs(a-b) < 1e-5 }) {
		t.Errorf("as floats %v, as base64 %v", floats, cat)
	}
}

func cosine(a, b []float64) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab, aa, bb = ab+a[i]*b[i], aa+a[i]*a[i], bb+b[i]*b[i]
	}
	return ab / math.Sqrt(aa*bb)
}

// TestBuiltinLimit uses up what the built-in configuration gives to each caller.
func TestBuiltinLimit(t *testing.T) {
	t.Parallel()
	o := runScript(t, "openai", serveBuiltin(t, "5/minute").base, "sk-none", "builtin-limit").get(t, "builtin-limit: six requests")
	if e := o.Error; o.Before != 5 || e == nil || e.Class != "RateLimitError" || !e.says("openai", "again in") {
		t.Errorf("after %d requests %s, want RateLimitError after 5", o.Before, describe(e))
	}
}
