package dialect_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
	"pgregory.net/rapid"
)

// api is an endpoint whose requests may be put together.
type api struct {
	dialect *dialect.Dialect
	path    string
}

func calls(a api, bodies ...string) []*dialect.Call {
	all := make([]*dialect.Call, len(bodies))
	for i, b := range bodies {
		all[i] = read(a.dialect, a.path, b)
	}
	return all
}

// keys compares the keys of calls.
type keys struct{ *testing.T }

func (k keys) key(a api, body string) (string, bool) {
	k.Helper()
	key, ok := calls(a, body)[0].BatchKey([]byte("kept"))
	if rest, kept := strings.CutPrefix(string(key), "kept"); !kept || ok == (rest == "") {
		k.Errorf("%s: %s: key %q, %v", a.path, body, key, ok)
	}
	return string(key), ok
}

func (k keys) pair(want bool, a api, first string, b api, second string) {
	k.Helper()
	k1, ok1 := k.key(a, first)
	k2, ok2 := k.key(b, second)
	if !ok1 || !ok2 || (k1 == k2) != want {
		k.Errorf("%s %s (%v)\n%s %s (%v)\none key: %v, want %v", a.path, first, ok1, b.path, second, ok2, k1 == k2, want)
	}
}

func (k keys) same(a api, first, second string)  { k.Helper(); k.pair(true, a, first, a, second) }
func (k keys) apart(a api, first, second string) { k.Helper(); k.pair(false, a, first, a, second) }

func (k keys) alone(a api, body string) {
	k.Helper()
	if key, ok := k.key(a, body); ok {
		k.Errorf("%s: %s: goes with others: %q", a.path, body, key)
	}
}

func TestBatchKeyOfLists(t *testing.T) {
	openAI, tfServing, k := dialect.OpenAI(), dialect.TFServing(), keys{t}
	embeddings, embed := api{openAI, "/v1/embeddings"}, api{dialect.Ollama(), "/api/embed"}
	predict := api{tfServing, "/v1/models/m:predict"}
	k.same(embeddings, `{"input":"a","model":"m"}`, `{"model": "m", "input": ["b","c"]}`)
	k.same(embeddings, `{"input":[1,2],"model":"m"}`, `{"model":"m","input":[[3],[4]]}`)
	k.apart(embeddings, `{"input":"a","model":"m"}`, `{"input":"a","model":"n"}`)
	k.apart(embeddings, `{"input":"a","model":"m"}`, `{"input":"a","model":"m","user":"u"}`)
	k.apart(embeddings, `{"input":"a","model":"m"}`, `{"input":[1],"model":"m"}`)
	k.apart(embeddings, `{"input":"a","dimensions":1}`, `{"input":"a","dimensions":2}`)
	k.pair(false, embeddings, `{"input":"a"}`, api{openAI, "/embeddings"}, `{"input":"a"}`)
	k.pair(false, api{openAI, "/openai/deployments/a/embeddings"}, `{"input":"a"}`, api{openAI, "/openai/deployments/b/embeddings"}, `{"input":"a"}`)
	k.alone(embeddings, ``)
	k.alone(embeddings, `{"input":[]}`)
	k.alone(embeddings, `{"input":{"text":"a"}}`)
	k.alone(embeddings, `{"input":["a",1]}`)
	k.alone(embeddings, `{"input":[1,[2]]}`)
	k.alone(embeddings, `{"input":[1,"a"]}`)
	k.alone(embeddings, `{"input":"a","input":"b"}`)
	k.alone(embeddings, `{"input":"a","user":"\ud800"}`)
	k.alone(api{openAI, "/v1/chat/completions"}, `{"messages":[]}`)
	k.alone(api{openAI, "/v1/completions"}, `{"prompt":["a"]}`)
	k.alone(api{dialect.Plain(), "/"}, `{"instances":[1]}`)
	k.same(embed, `{"input":"a"}`, `{"input":["b"]}`)
	k.apart(embed, `{"input":"a","truncate":true}`, `{"input":"a"}`)
	k.same(predict, `{"instances":[1]}`, `{"instances":[{"a":1},2]}`)
	k.apart(predict, `{"instances":[1],"signature_name":"a"}`, `{"instances":[1]}`)
	k.pair(false, predict, `{"instances":[1]}`, api{tfServing, "/v1/models/m/versions/2:predict"}, `{"instances":[1]}`)
	k.pair(false, api{tfServing, "/v1/models/m/labels/2:predict"}, `{"instances":[1]}`, api{tfServing, "/v1/models/m/versions/2:predict"}, `{"instances":[1]}`)
	k.alone(predict, `{"inputs":[1]}`)
	k.alone(predict, `{"instances":[]}`)
	k.alone(api{tfServing, "/v1/models/m:classify"}, `{"examples":[{}]}`)
}

func TestBatchKeyOfTensors(t *testing.T) {
	infer, k := api{dialect.KServe(), "/v2/models/m/infer"}, keys{t}
	tensor := func(shape, data string) string {
		return `{"inputs":[{"name":"a","shape":` + shape + `,"datatype":"INT32","data":` + data + `}]}`
	}
	k.same(infer, tensor(`[1,2]`, `[1,2]`), tensor(`[2,2]`, `[3,4,5,6]`))
	k.same(infer, tensor(`[1,2]`, `[[1,2]]`), tensor(`[2,2]`, `[[3,4],[5,6]]`))
	k.same(infer, tensor(`[1]`, `[1]`), tensor(`[2]`, `[1,2]`))
	k.same(infer, `{"id":"1",`+tensor(`[1]`, `[1]`)[1:], `{"id":"2",`+tensor(`[1]`, `[1]`)[1:])
	k.apart(infer, `{"id":"1",`+tensor(`[1]`, `[1]`)[1:], tensor(`[1]`, `[1]`))
	k.apart(infer, tensor(`[1,2]`, `[1,2]`), tensor(`[1,2]`, `[[1,2]]`))
	k.apart(infer, tensor(`[1,2]`, `[1,2]`), tensor(`[1,3]`, `[1,2,3]`))
	k.apart(infer, tensor(`[1]`, `[1]`), tensor(`[1,1]`, `[1]`))
	k.apart(infer, tensor(`[1]`, `[1]`), strings.Replace(tensor(`[1]`, `[1]`), "INT32", "INT64", 1))
	k.apart(infer, tensor(`[1]`, `[1]`), strings.Replace(tensor(`[1]`, `[1]`), `"a"`, `"b"`, 1))
	k.alone(infer, tensor(`[2,2]`, `[1,2,3]`))
	k.alone(infer, tensor(`[2,2]`, `[[1,2]]`))
	k.alone(infer, tensor(`[2,-1]`, `[1]`))
	k.alone(infer, tensor(`[]`, `[]`))
	k.alone(infer, tensor(`[1]`, `"AA=="`))
	k.alone(infer, `{"inputs":[{"shape":[1],"data":[1]},{"shape":[2],"data":[1,2]}]}`)
	k.alone(infer, `{"parameters":{"sequence_id":7},`+tensor(`[1]`, `[1]`)[1:])
	k.alone(infer, `{"parameters":{"binary_data_output":true},`+tensor(`[1]`, `[1]`)[1:])
	k.alone(infer, `{"inputs":[`+strings.TrimSuffix(strings.Repeat(`{"shape":[1],"data":[1]},`, 17), ",")+`]}`)
}

func TestJoinAndSplit(t *testing.T) {
	openAI, ollama, tfServing, kServe := dialect.OpenAI(), dialect.Ollama(), dialect.TFServing(), dialect.KServe()
	f := func(a api, bodies []string, joined, answer string, want []string) {
		t.Helper()
		all := calls(a, bodies...)
		got, err := dialect.Join(all)
		if err != nil || string(got) != joined {
			t.Errorf("%s: joined (%v)\ngot  %s\nwant %s", a.path, err, got, joined)
		}
		parts, err := all[0].Split([]byte(answer), all)
		if err != nil || len(parts) != len(want) {
			t.Fatalf("%s: %d parts, %v", a.path, len(parts), err)
		}
		for i := range want {
			if string(parts[i]) != want[i] {
				t.Errorf("%s: part %d\ngot  %s\nwant %s", a.path, i, parts[i], want[i])
			}
		}
	}
	f(api{openAI, "/v1/embeddings"},
		[]string{`{"input": "a", "model": "m"}`, `{"model": "m", "input": [ "b", "]" ]}`},
		`{"input": ["a", "b", "]" ], "model": "m"}`,
		`{"object":"list","data":[{"object":"embedding","index":2,"embedding":[3]},{"index":0,"embedding":[1]},{"embedding":[2],"index":1}],"model":"m","usage":{"prompt_tokens":10,"total_tokens":10}}`,
		[]string{
			`{"object":"list","data":[{"index":0,"embedding":[1]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}`,
			`{"object":"list","data":[{"embedding":[2],"index":0},{"object":"embedding","index":1,"embedding":[3]}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}`,
		})
	f(api{openAI, "/v1/embeddings"},
		[]string{`{"input":[1,2]}`, `{"input":[[3],[4,5]]}`},
		`{"input":[[1,2],[3],[4,5]]}`,
		`{"usage":{"total_tokens":9223372036854775807},"data":["x","y","z"]}`,
		[]string{
			`{"usage":{"total_tokens":3074457345618258602},"data":["x"]}`,
			`{"usage":{"total_tokens":6148914691236517205},"data":["y","z"]}`,
		})
	f(api{ollama, "/api/embed"},
		[]string{`{"model":"m","input":["a","b"]}`, `{"model":"m","input":"c"}`},
		`{"model":"m","input":["a","b","c"]}`,
		`{"model":"m","embeddings":[[1],[2],[3]],"total_duration":7,"prompt_eval_count":8}`,
		[]string{
			`{"model":"m","embeddings":[[1],[2]],"total_duration":7,"prompt_eval_count":5}`,
			`{"model":"m","embeddings":[[3]],"total_duration":7,"prompt_eval_count":3}`,
		})
	f(api{tfServing, "/v1/models/m:predict"},
		[]string{`{"signature_name":"s","instances":[[1,2]]}`, `{"signature_name":"s","instances":[ {"a":[3]} , 4 ]}`},
		`{"signature_name":"s","instances":[[1,2], {"a":[3]} , 4 ]}`,
		"{\n    \"predictions\": [{\"index\":9}, 2.5, 4.5\n    ]\n}",
		[]string{"{\n    \"predictions\": [{\"index\":9}]\n}", "{\n    \"predictions\": [2.5,4.5]\n}"})
	f(api{kServe, "/v2/models/m/infer"},
		[]string{
			`{"id":"a","inputs":[{"name":"x","shape":[1,2],"datatype":"INT8","data":[1,2]},{"name":"y","data":[["p"]],"shape":[1,1],"datatype":"BYTES"}]}`,
			`{"id":"b","inputs":[{"name":"x","shape":[2,2],"datatype":"INT8","data":[3,4,5,6]},{"name":"y","data":[["q"],["r"]],"shape":[2,1],"datatype":"BYTES"}]}`,
		},
		`{"id":"a","inputs":[{"name":"x","shape":[3,2],"datatype":"INT8","data":[1,2,3,4,5,6]},{"name":"y","data":[["p"],["q"],["r"]],"shape":[3,1],"datatype":"BYTES"}]}`,
		`{"model_name":"m","id":"a","outputs":[{"name":"o","datatype":"INT8","shape":[3,2],"data":[1,2,3,4,5,6]},{"name":"l","shape":[3],"datatype":"BYTES","data":["s","t","u"]},{"name":"n","shape":[3,1],"data":[[7],[8],[9]]}]}`,
		[]string{
			`{"model_name":"m","id":"a","outputs":[{"name":"o","datatype":"INT8","shape":[1,2],"data":[1,2]},{"name":"l","shape":[1],"datatype":"BYTES","data":["s"]},{"name":"n","shape":[1,1],"data":[[7]]}]}`,
			`{"model_name":"m","id":"b","outputs":[{"name":"o","datatype":"INT8","shape":[2,2],"data":[3,4,5,6]},{"name":"l","shape":[2],"datatype":"BYTES","data":["t","u"]},{"name":"n","shape":[2,1],"data":[[8],[9]]}]}`,
		})
}

func TestOneCallIsJoinedToItself(t *testing.T) {
	all := calls(api{dialect.OpenAI(), "/v1/embeddings"}, `{"input":"a"}`)
	body, err := dialect.Join(all)
	if err != nil || string(body) != `{"input":"a"}` {
		t.Errorf("joined %s, %v", body, err)
	}
	parts, err := all[0].Split([]byte(`{"error":1}`), all)
	if err != nil || len(parts) != 1 || string(parts[0]) != `{"error":1}` {
		t.Errorf("split %s, %v", parts, err)
	}
}

func TestJoinRefuses(t *testing.T) {
	d := dialect.OpenAI()
	f := func(want string, all ...*dialect.Call) {
		t.Helper()
		if _, err := dialect.Join(all); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	good := read(d, "/v1/embeddings", `{"input":"a"}`)
	f("no calls to join: want at least one")
	f(`call 2 of 2: "chat/completions" cannot be joined: want one with a BatchKey`, good, read(d, "/v1/chat/completions", `{}`))
	f(`call 1 of 1: "embeddings" cannot be joined: want one with a BatchKey`, read(d, "/v1/embeddings", `{"input":[]}`))
	f(`call 2 of 2: path "/embeddings": want that of the first, "/v1/embeddings"`, good, read(d, "/embeddings", `{"input":"a"}`))
}

func TestSplitRefuses(t *testing.T) {
	openAI, kServe := dialect.OpenAI(), dialect.KServe()
	f := func(a api, bodies []string, answer, want string) {
		t.Helper()
		all := calls(a, bodies...)
		if parts, err := all[0].Split([]byte(answer), all); err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v, %d parts\nwant %s", answer, err, len(parts), want)
		}
	}
	embeddings, two := api{openAI, "/v1/embeddings"}, []string{`{"input":"a"}`, `{"input":["b","c"]}`}
	f(embeddings, two, `{"data":[1,2]}`, "the answer to 2 joined requests: /data: 2 items: want 3, as many as were asked")
	f(embeddings, two, `{"data":[1,2,3,4]}`, "the answer to 2 joined requests: /data: 4 items: want 3, as many as were asked")
	f(embeddings, two, `{"error":{}}`, "the answer to 2 joined requests: /data: missing: want a list")
	f(embeddings, two, `{"data":{}}`, "the answer to 2 joined requests: /data: object: want a list")
	f(embeddings, two, `busy`, "the answer to 2 joined requests: JSON: offset 0: 'b': want a value")
	f(embeddings, two, `{"data":[{"index":0},{"index":0},{"index":2}]}`, "the answer to 2 joined requests: /data: 1: index 0: want one that no other answer has")
	f(embeddings, two, `{"data":[{"index":1},{"index":2},{"index":3}]}`, "the answer to 2 joined requests: /data: 2: index 3: want one of 0 to 2")
	f(embeddings, two, `{"data":[{"index":-1},{},{}]}`, "the answer to 2 joined requests: /data: 0: index -1: want one of 0 to 2")
	f(embeddings, two, `{"data":[{"index":"0"},{},{}]}`, `the answer to 2 joined requests: /data: 0: index "0": want one of 0 to 2`)
	infer, tensors := api{kServe, "/v2/models/m/infer"}, []string{`{"inputs":[{"shape":[1],"data":[1]}]}`, `{"inputs":[{"shape":[1],"data":[2]}]}`}
	f(infer, tensors, `{}`, "the answer to 2 joined requests: outputs: 0 tensors: want 1 to 16")
	f(infer, tensors, `{"outputs":[{"shape":[1],"data":[1]}]}`, "the answer to 2 joined requests: outputs: tensor 0: shape [1]: want 2 in the first place")
	f(infer, tensors, `{"outputs":[{"shape":[2,2],"data":[1,2]}]}`, "the answer to 2 joined requests: outputs: tensor 0: data: 2 elements: want 4, as the shape says")
	f(infer, tensors, `{"outputs":[{"shape":[2]}]}`, "the answer to 2 joined requests: outputs: tensor 0: data: missing: want a list")
	f(api{openAI, "/v1/chat/completions"}, []string{`{}`}, `{}`, `answers of "chat/completions" cannot be split: want an endpoint with a BatchKey`)
}

// TestEachGetsItsOwn asks a server that gives back what it was asked: joined and
// split, each call must have what it gets alone, and the usage must add up.
func TestEachGetsItsOwn(t *testing.T) {
	server := func(body []byte) []byte {
		var request struct{ Input any }
		if err := json.Unmarshal(body, &request); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		inputs, ok := request.Input.([]any)
		if !ok {
			inputs = []any{request.Input}
		}
		data := []map[string]any{}
		for i, in := range inputs {
			data = append(data, map[string]any{"embedding": in, "index": i, "object": "embedding"})
		}
		if len(data) > 2 { // in another order than asked
			data[0], data[2] = data[2], data[0]
		}
		answer, err := json.Marshal(map[string]any{"data": data, "usage": map[string]int{"total_tokens": 7 * len(body)}})
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	type answer struct {
		Data []struct {
			Embedding any
			Index     int
		}
		Usage struct {
			Total int `json:"total_tokens"`
		}
	}
	parse := func(body []byte) (a answer) {
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return a
	}
	d := dialect.OpenAI()
	text := rapid.StringOf(rapid.SampledFrom([]rune(`ab"\]}[{,: é😀` + "\n\t\x00")))
	rapid.Check(t, func(t *rapid.T) {
		var all []*dialect.Call
		var wants [][]string
		for range rapid.IntRange(1, 8).Draw(t, "calls") {
			want := rapid.SliceOfN(text, 1, 5).Draw(t, "inputs")
			var input any = want
			if len(want) == 1 && rapid.Bool().Draw(t, "alone") {
				input = want[0]
			}
			body, err := json.MarshalIndent(map[string]any{"input": input, "model": "m"}, "", rapid.SampledFrom([]string{"", " "}).Draw(t, "indent"))
			if err != nil {
				t.Fatal(err)
			}
			all, wants = append(all, read(d, "/v1/embeddings", string(body))), append(wants, want)
		}
		body, err := dialect.Join(all)
		if err != nil {
			t.Fatal(err)
		}
		whole := server(body)
		parts, err := all[len(all)-1].Split(whole, all)
		if err != nil || len(parts) != len(all) {
			t.Fatalf("%s: %d parts: %v", whole, len(parts), err)
		}
		used := 0
		for i, part := range parts {
			got := parse(part)
			used += got.Usage.Total
			var texts []string
			for n, e := range got.Data {
				if len(all) > 1 && e.Index != n {
					t.Fatalf("part %d: index %d in place %d", i, e.Index, n)
				}
				texts = append(texts, fmt.Sprint(e.Embedding))
			}
			if len(all) > 1 && !reflect.DeepEqual(texts, wants[i]) {
				t.Fatalf("part %d: %q, want %q", i, texts, wants[i])
			}
		}
		if want := parse(whole).Usage.Total; used != want {
			t.Fatalf("the parts used %d, the whole %d", used, want)
		}
	})
}

// TestTensorsGetTheirOwn does the same for tensors, whose rows name their call.
func TestTensorsGetTheirOwn(t *testing.T) {
	d := dialect.KServe()
	rapid.Check(t, func(t *rapid.T) {
		width, nested := rapid.IntRange(1, 3).Draw(t, "width"), rapid.Bool().Draw(t, "nested")
		var all []*dialect.Call
		var wants []string
		for n := range rapid.IntRange(2, 6).Draw(t, "calls") {
			var rows [][]int
			for r := range rapid.IntRange(1, 4).Draw(t, "rows") {
				row := make([]int, width)
				for k := range row {
					row[k] = 100*n + 10*r + k
				}
				rows = append(rows, row)
			}
			var data any = rows
			if !nested {
				var flat []int
				for _, row := range rows {
					flat = append(flat, row...)
				}
				data = flat
			}
			text, err := json.Marshal([]any{map[string]any{"name": "x", "shape": []int{len(rows), width}, "data": data}})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, read(d, "/v2/models/m/infer", `{"inputs":`+string(text)+`}`))
			wants = append(wants, `{"outputs":`+string(text)+`}`)
		}
		body, err := dialect.Join(all)
		if err != nil {
			t.Fatal(err)
		}
		// The model is the identity.
		parts, err := all[0].Split([]byte(strings.Replace(string(body), "inputs", "outputs", 1)), all)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range parts {
			if string(part) != wants[i] {
				t.Fatalf("part %d\ngot  %s\nwant %s", i, part, wants[i])
			}
		}
	})
}
