package dialect_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/internal/jsonscan"
)

// paths is one path of every form.
func paths() []string {
	return []string{
		"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/score", "/tokenize",
		"/v1/audio/transcriptions", "/v1/images/generations", "/v1/messages", "/v1/messages/count_tokens",
		"/v1/chat/completions/batch", "/invocations", "/v2/embed", "/engines/a/b/chat/completions",
		"/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/pull",
		"/v1/models/m:predict", "/v1/models/m:classify", "/v2/models/m/infer", "/v2/models/m/generate", "/v2/models/m/generate_stream", "/other",
	}
}

// FuzzRead gives every form a body: nothing panics, the numbers are in their
// bounds, and Body is valid JSON that differs only in stream_options.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "requests", "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatal(len(files), err)
	}
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"stream":true,"stream_options":{"include_usage":false,"a":[1,{}]},"input":["a",[1]],"max_tokens":"1e400","n":-1}`))
	f.Add([]byte(`{"inputs":[{"shape":[2,0],"data":[]},{"shape":[2],"data":[1,"]"]}],"instances":[[]]}`))
	f.Add([]byte(`{"\u004dodel":"m","options":{"ſeed":1,"num_predict":2},"messages":[{"a":"]"}],"K":1,"":2,"\\":{}}`))
	f.Add([]byte(`{"stream": true ,"tools":[{"type":"function"},7,{"\u0074ype":1}],"temperature":-0}`))
	all := dialects()
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := bytes.Clone(body)
		for name, d := range all {
			for _, path := range paths() {
				c := d.Read(dialect.Request{Method: "POST", Path: path, Body: body})
				e := c.Estimate
				if e.Input < 0 || e.Output < 0 || e.Answers < 1 || c.Items < 0 {
					t.Fatalf("%s %s: %+v, %d items", name, path, e, c.Items)
				}
				if c.Err != nil && (name != "plain" && c.Deterministic || c.Items != 0) {
					t.Fatalf("%s %s: unreadable, but %s", name, path, describe(c))
				}
				checkBody(t, c, body)
				checkBatch(t, c)
			}
		}
		if !bytes.Equal(body, kept) {
			t.Fatal("the client's body was changed")
		}
	})
}

func checkBody(t *testing.T, c *dialect.Call, body []byte) {
	t.Helper()
	sent := c.Body()
	if bytes.Equal(sent, body) {
		return
	}
	if err := jsonscan.Check(sent, 0); err != nil {
		t.Fatalf("%s: %v", sent, err)
	}
	var before, after map[string]any
	if json.Unmarshal(body, &before) != nil || json.Unmarshal(sent, &after) != nil {
		return // a number that no float holds
	}
	if o, _ := after["stream_options"].(map[string]any); o["include_usage"] != true {
		t.Fatalf("%s: no include_usage", sent)
	}
	if o, ok := before["stream_options"].(map[string]any); ok {
		o["include_usage"] = true
	} else {
		before["stream_options"] = map[string]any{"include_usage": true}
	}
	if !reflect.DeepEqual(before, after) {
		t.Fatalf("%s became %s", body, sent)
	}
}

// checkBatch joins a call to itself.
func checkBatch(t *testing.T, c *dialect.Call) {
	t.Helper()
	if _, ok := c.BatchKey(nil); !ok {
		return
	}
	pair := []*dialect.Call{c, c}
	body, err := dialect.Join(pair)
	if err != nil {
		t.Fatalf("%s: %v", c.Body(), err)
	}
	if err := jsonscan.Check(body, 0); err != nil && !isDepth(err) {
		t.Fatalf("%s joined to itself: %s: %v", c.Body(), body, err)
	}
}

// isDepth: a list around what was none is a level more.
func isDepth(err error) bool {
	_, ok := err.(*jsonscan.DepthError)
	return ok
}

// FuzzSplit gives Split an answer: nothing panics, and every part is JSON.
func FuzzSplit(f *testing.F) {
	f.Add([]byte(`{"data":[{"index":1},{"index":0},{"index":2}],"usage":{"prompt_tokens":8,"total_tokens":8},"embeddings":[[1],[2],[3]],"predictions":[1,2,3]}`))
	f.Add([]byte(`{"id":"x","outputs":[{"shape":[3,2],"data":[1,2,3,4,5,6]},{"shape":[3],"data":[[],[1],["]"]]}]}`))
	f.Add([]byte(`{"outputs":[{"shape":[3,0],"data":[]}],"data":[1,{"index":0},[]]}`))
	groups := [][]*dialect.Call{
		calls(api{dialect.OpenAI(), "/v1/embeddings"}, `{"input":"a"}`, `{"input":["b","c"]}`),
		calls(api{dialect.Ollama(), "/api/embed"}, `{"input":"a"}`, `{"input":["b","c"]}`),
		calls(api{dialect.TFServing(), "/v1/models/m:predict"}, `{"instances":[1]}`, `{"instances":[2,3]}`),
		calls(api{dialect.KServe(), "/v2/models/m/infer"}, `{"id":"1","inputs":[{"shape":[1],"data":[1]}]}`, `{"id":"2","inputs":[{"shape":[2],"data":[2,3]}]}`),
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, group := range groups {
			parts, err := group[0].Split(answer, group)
			if err != nil {
				continue
			}
			for _, part := range parts {
				if err := jsonscan.Check(part, 0); err != nil {
					t.Fatalf("%s\npart %s: %v", answer, part, err)
				}
			}
		}
	})
}
