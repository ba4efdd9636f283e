package dialect_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/internal/jsonscan"
)

const manyNames = 1 << 16

func TestMembersThatLookLikeOthers(t *testing.T) {
	all := dialects()
	f := func(name, path, body, want string) {
		t.Helper()
		got := ""
		c := read(all[name], path, body)
		if c.Err != nil {
			got = c.Err.Error()
			if c.Items != 0 || name != "plain" && c.Deterministic {
				t.Errorf("%s %s: %s: in doubt, but %s", name, path, body, describe(c))
			}
		}
		if got != want {
			t.Errorf("%s %s: %s\ngot  %s\nwant %s", name, path, body, got, want)
		}
	}
	taken := func(as, name string) string {
		return `JSON: "` + strings.ReplaceAll(name, `\`, `\\`) + `": some servers take it for "` + as + `": want that name, or another`
	}
	// the model, everywhere
	for _, at := range [][2]string{
		{"openai", "/v1/chat/completions"}, {"openai", "/v1/completions"}, {"openai", "/v1/responses"}, {"openai", "/v1/embeddings"},
		{"openai", "/tokenize"}, {"openai", "/invocations"}, {"openai", "/v2/embed"}, {"openai", "/v1/audio/transcriptions"},
		{"anthropic", "/v1/messages"}, {"ollama", "/api/chat"}, {"ollama", "/api/embed"}, {"ollama", "/v1/chat/completions"},
		{"kserve", "/openai/v1/chat/completions"}, {"plain", "/predict"},
	} {
		f(at[0], at[1], `{"model":"cheap","Model":"dear"}`, taken("model", "Model"))
		f(at[0], at[1], `{"MODEL":"dear"}`, taken("model", "MODEL"))
		f(at[0], at[1], ` { "model" : "cheap" , "mod\u0045l" : "dear" } `, taken("model", `mod\u0045l`))
		f(at[0], at[1], `{"m\u006fdel":"cheap"}`, "")
		f(at[0], at[1], `{"model":"cheap","models":[],"model ":1,"mode":2,"":3,"a":{"Model":4},"_model":5,"mod\nel":6,"\\model":7}`, "")
		f(at[0], at[1], `["Model"]`, "")
		f(at[0], at[1], `"Model"`, "")
	}
	// and what else is read there
	chat := func(body, want string) { t.Helper(); f("openai", "/v1/chat/completions", body, want) }
	for name, looks := range map[string][]string{
		"stream": {"Stream", "ſtream", `\u017ftream`, `\u017Ftream`}, "stream_options": {"Stream_Options", "ſtream_optionſ"},
		"max_tokens": {"Max_Tokens", "max_to\u212aens", `max_to\u212aens`}, "max_completion_tokens": {"MAX_COMPLETION_TOKENS"},
		"n": {"N", `\u004e`}, "best_of": {"Best_Of"}, "temperature": {"Temperature"}, "seed": {"SEED"},
		"options": {"Options"}, "parameters": {"PARAMETERS"}, "messages": {"Messages"}, "tools": {"Tools"},
	} {
		chat(`{"`+name+`":null}`, "")
		for _, look := range looks {
			chat(`{"model":"cheap","`+look+`":1}`, taken(name, look))
		}
	}
	chat(`{"options":{"num_predict":1,"Num_Predict":9}}`, taken("num_predict", "Num_Predict"))
	chat(`{"options":{"Model":"x","num\u005fpredict":1}}`, "")
	chat(`{"options":[{"Num_Predict":1}],"parameters":"Max_Tokens"}`, "")
	chat(`{"parameters":{"MAX_NEW_TOKENS":9}}`, taken("max_new_tokens", "MAX_NEW_TOKENS"))
	chat(`{"stream":true,"stream_options":{"Include_Usage":false}}`, taken("include_usage", "Include_Usage"))
	chat(`{"messages":[{"Model":"]}\"","Stream":{}}],"tools":[{"Type":1}],"metadata":{"Model":1,"x":[{"}":"\\"}]}}`, "")
	chat(`{"messages":[{"content":"a"}],"metadata":{},"Seed":1}`, taken("seed", "Seed"))
	f("ollama", "/api/generate", `{"options":{"temperature":0,"Temperature":1}}`, taken("temperature", "Temperature"))
	f("ollama", "/api/generate", `{"options":{"ſeed":1}}`, taken("seed", "ſeed"))
	f("kserve", "/v2/models/m/generate", `{"parameters":{"TEMPERATURE":1}}`, taken("temperature", "TEMPERATURE"))
	f("kserve", "/v2/models/m/infer", `{"Parameters":{}}`, taken("parameters", "Parameters"))
	f("tfserving", "/v1/models/m:predict", `{"instances":[{"Model":"Golf","Seed":1}]}`, "")
	// to plain a body is anybody's
	f("plain", "/predict", `{"Temperature":21.5,"Stream":"Spree","Seed":"rye"}`, "")
	// a name is as long as it likes, and cut
	chat(`{"M`+strings.Repeat("x", 300)+`":1}`, "")
	escaped := ""
	for _, c := range "MAX_COMPLETION_TOKENS" {
		escaped += fmt.Sprintf(`\u%04x`, c)
	}
	chat(`{"`+escaped+`":1}`, taken("max_completion_tokens", escaped[:100]))
}

func TestDoubtLeavesWhatThePathSays(t *testing.T) {
	all := dialects()
	f := func(name, path, body, want string) {
		t.Helper()
		if got, _, _ := strings.Cut(describe(read(all[name], path, body)), " err: "); got != want {
			t.Errorf("%s %s: %s\ngot  %s\nwant %s", name, path, body, got, want)
		}
	}
	f("openai", "/v1/chat/completions", `{"model":"cheap","Seed":1,"seed":1,"max_tokens":9,"stream":true}`, "chat/completions stream input=16 output=9")
	f("openai", "/engines/m/chat/completions", `{"model":"m","Model":"n"}`, "chat/completions model=m input=7")
	f("openai", "/engines/m/chat/completions", `{"model":"m","model":"n"}`, "chat/completions model=m input=7")
	f("openai", "/engines/m/chat/completions", `{"model":"n"}`, "chat/completions model=m items=1")
	f("kserve", "/v2/models/m/generate", `{"Stream":true}`, "generate model=m input=4")
	f("plain", "/", `{"Model":"Golf","stream":true}`, "stream deterministic")
	f("plain", "/", `{"model":"m","Model":"Golf","temperature":1,"stream":true}`, "stream")
	if c := read(all["openai"], "/v1/chat/completions", `{"Model":"m","stream":true}`); string(c.Body()) != `{"Model":"m","stream":true}` {
		t.Errorf("usage is asked for in a body that is in doubt: %s", c.Body())
	}
}

// TestManyMembers: the one that matters is behind all others.
func TestManyMembers(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"model":"m"`)
	for i := range manyNames {
		fmt.Fprintf(&b, `,"\u006Dax_%d":0`, i)
	}
	c := read(dialect.OpenAI(), "/v1/chat/completions", b.String()+`,"MODEL":0}`)
	var twice *jsonscan.DuplicateError
	if c.Err == nil || errors.As(c.Err, &twice) || !strings.Contains(c.Err.Error(), `"MODEL"`) {
		t.Errorf("%v, want one that names MODEL", c.Err)
	}
}

func TestWhoNamesTheModel(t *testing.T) {
	all := dialects()
	f := func(name, target, body, want string) {
		t.Helper()
		path, query, _ := strings.Cut(target, "?")
		c := all[name].Read(dialect.Request{Method: "POST", Path: path, Query: query, Body: []byte(body)})
		got := c.Model
		if c.Err != nil {
			got += " err: " + c.Err.Error()
		}
		if got != want {
			t.Errorf("%s %s: %s\ngot  %s\nwant %s", name, target, body, got, want)
		}
	}
	chat := func(target, body, want string) { t.Helper(); f("openai", target, body, want) }
	const none, m, n = `{}`, `{"model":"m"}`, `{"model":"n"}`
	// the path, with slashes and without
	chat("/openai/deployments/m/chat/completions", none, "m")
	chat("/openai/deployments/m/chat/completions", m, "m")
	chat("/openai/deployments/m/chat/completions", n, "m")
	chat("/openai/deployments/azure/gpt-4.1/embeddings", none, "azure/gpt-4.1")
	chat("/engines/a/b/c/completions", none, "a/b/c")
	chat("/engines/a/b/c/completions", `{"model":"c"}`, "a/b/c")
	chat("/v1/engines/m/embeddings", m, "m")
	chat("/engines/m/chat/completions/", n, "m")
	chat("/engines/deployments/m/embeddings", none, "deployments/m")
	chat("/deployments/engines/m/embeddings", none, "engines/m")
	chat("/openai/deployments//chat/completions", m, "m")
	f("kserve", "/openai/deployments/m/chat/completions", n, "m")
	// which is a backend's, not a model's
	chat("/engines/v1/chat/completions", m, "m")
	chat("/engines/llama.cpp/v1/chat/completions", m, "m")
	// the query
	chat("/v1/chat/completions?model=m", none, "m")
	chat("/v1/chat/completions?api-version=1&model=m", m, "m")
	chat("/v1/chat/completions?model=m", n, ` err: model: "m" in the query, "n" in the body: want one model`)
	chat("/v1/chat/completions?%6dodel=%6D", n, ` err: model: "m" in the query, "n" in the body: want one model`)
	chat("/v1/chat/completions?model=m&model=m", m, "m")
	chat("/v1/chat/completions?model=m&x&model=n", m, ` err: model: "m" in the query, and "n": want one model`)
	chat("/v1/chat/completions?model=&model=m&", m, "m")
	chat("/v1/chat/completions?model&models=n&Model=n&x=model=n", m, "m")
	chat("/v1/chat/completions?model=a%2Fb+c", none, "a/b c")
	chat("/v1/chat/completions?model=%zz", none, "%zz")
	chat("/engines/m/chat/completions?model=n", none, "m")
	chat("/engines/m/chat/completions?model=n", ``, "m")
	chat("/v1/chat/completions?model=m", ``, "m")
	// of which only some servers know
	chat("/v1/chat/completions?model=m", `{`, ` err: JSON: offset 1: the end: want a member name in quotes`)
	chat("/engines/m/chat/completions?model=m", `{`, `m err: JSON: offset 1: the end: want a member name in quotes`)
	chat("/engines/m/chat/completions?model=n", `{`, `m err: JSON: offset 1: the end: want a member name in quotes`)
	chat("/v1/audio/transcriptions?model=m", "--x\r\n\r\n--x--\r\n", "")
	chat("/openai/deployments/m/audio/transcriptions?model=m", "--x\r\n\r\n--x--\r\n", "m")
	chat("/v1/audio/transcriptions?model=m&model=n", "--x\r\n\r\n--x--\r\n", ` err: model: "m" in the query, and "n": want one model`)
	// and other APIs have it in one place
	chat("/v1/messages?model=n", m, "m")
	f("anthropic", "/v1/messages?model=n", m, "m")
	f("ollama", "/api/chat?model=n", m, "m")
	f("kserve", "/v2/models/m/generate?model=n", n, "m")
	f("plain", "/v1/chat/completions?model=n", m, "m")
	chat("/v1/chat/completions?model="+strings.Repeat("x", 300), m, ` err: model: "`+strings.Repeat("x", 100)+`" in the query, "m" in the body: want one model`)
}

func TestSeeds(t *testing.T) {
	all := dialects()
	for _, at := range []struct{ name, path, before, after string }{
		{"openai", "/v1/chat/completions", `{"seed":`, `}`},
		{"ollama", "/api/chat", `{"options":{"seed":`, `}}`},
		{"kserve", "/v2/models/m/generate", `{"parameters":{"seed":`, `}}`},
		{"plain", "/", `{"temperature":1,"seed":`, `}`},
	} {
		for seed, want := range map[string]bool{
			"0": true, "1": true, "7e3": true, "1.0": true, "4294967294": true, "4294967296": true, "1700000000000000000": true,
			"-1": false, "-0.5": false, "0.5": false, "1e-3": false, "4294967295": false, "8589934591": false,
			"9223372036854775808": false, "1e400": false, `"1"`: false, "null": false, "true": false, "[1]": false,
		} {
			steady(t, all[at.name], at.path)(at.before+seed+at.after, want)
		}
	}
	f := steady(t, all["kserve"], "/v2/models/m/generate")
	f(`{"seed":1,"parameters":{"seed":-1}}`, false)
	f(`{"seed":1,"parameters":{"seed":2},"random_seed":null}`, true)
	f(`{"seed":-1,"temperature":0}`, true)
}

func TestInvocationsAreWhatTheirMembersAre(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		if got := describe(read(dialect.OpenAI(), "/invocations", body)); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", body, got, want)
		}
	}
	f(`{"model":"m","messages":[],"temperature":0,"stream":true}`, "invocations model=m stream deterministic items=1 input=1")
	f(`{"model":"m","prompt":["a","b"],"max_tokens":5}`, "invocations model=m items=2 input=3 output=10 answers=2")
	f(`{"model":"m","input":["a","b","c"]}`, "invocations model=m deterministic items=3 input=4")
	f(`{"input":"a","prompt":"b","messages":[]}`, "invocations items=1 input=1")
	f(`{"messages":null,"prompt":"b","seed":1}`, "invocations deterministic items=1 input=1")
	f(`{"model":"m","query":"a","documents":["b"],"stream":true,"seed":1}`, "invocations model=m stream input=2")
	f(``, "invocations")
	f(`{"model":"m","model":"n"}`, `invocations input=7 err: JSON: "/model": two members of this name: want one`)
	stream := read(dialect.OpenAI(), "/invocations", `{"model":"m","messages":[],"stream":true}`)
	if want := `{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}`; string(stream.Body()) != want {
		t.Errorf("%s, want %s", stream.Body(), want)
	}
}
