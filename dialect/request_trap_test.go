package dialect_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/internal/jsonscan"
)

func read(d *dialect.Dialect, path, body string) *dialect.Call {
	return d.Read(dialect.Request{Method: "POST", Path: path, Body: []byte(body)})
}

func TestEndpointsByPath(t *testing.T) {
	all := dialects()
	f := func(name, path, want string) {
		t.Helper()
		if got := describe(read(all[name], path, `{"model":"body"}`)); got != want {
			t.Errorf("%s %s\ngot  %s\nwant %s", name, path, got, want)
		}
	}
	// below any prefix
	f("openai", "/chat/completions", "chat/completions model=body items=1")
	f("openai", "/openai/v1/chat/completions", "chat/completions model=body items=1")
	f("openai", "/team/a/v1/completions", "completions model=body")
	f("openai", "/openai/deployments/body/embeddings", "embeddings model=body deterministic")
	f("openai", "/v1/chat/completions/batch", "chat/completions/batch model=body")
	f("openai", "/invocations", "invocations model=body")
	f("openai", "/v2/embed", "embed model=body deterministic")
	f("openai", "/v2/rerank", "rerank model=body deterministic")
	// what only looks like an endpoint
	f("openai", "/v1/responses/resp_1", "")
	f("openai", "/v1/responses/input_tokens", "")
	f("openai", "/v1/Chat/Completions", "")
	f("openai", "/v1/chat/completions//", "")
	f("openai", "/v1/chat/completions/x", "")
	f("openai", "/v1/embed", "")
	f("openai", "/api/embed", "")
	f("openai", "/generate", "")
	f("openai", "/", "")
	f("openai", "", "")
	f("openai", "/v1/responses/resp_1/cancel", "")
	f("openai", "/v1/threads/t1/messages", "")
	f("openai", "/v1/threads/v1/messages", "")
	f("openai", "/v1/threads/t1/runs", "")
	f("openai", "/v1/batches", "")
	f("openai", "/v1/models", "")
	f("openai", "/api/pull", "")
	// one slash at the end
	f("openai", "/v1/chat/completions/", "chat/completions model=body items=1")
	f("anthropic", "/v1/messages/", "messages model=body items=1")
	f("ollama", "/api/chat/", "api/chat model=body stream items=1")
	f("kserve", "/v2/models/m/infer/", "infer model=m deterministic")
	f("tfserving", "/v1/models/m:regress/", "regress model=m deterministic")
	// a target at /v1, /api or /v2 gets these
	f("openai", "/v1/chat/completions", "chat/completions model=body items=1")
	f("ollama", "/api/chat", "api/chat model=body stream items=1")
	f("kserve", "/v2/models/m/infer", "infer model=m deterministic")
	// other APIs on the same server
	f("openai", "/v1/messages", "messages model=body items=1")
	f("openai", "/v1/messages/count_tokens", "messages/count_tokens model=body deterministic items=1")
	f("openai", "/v1/load_lora_adapter", "load_lora_adapter manages")
	f("anthropic", "/v1/messages", "messages model=body items=1")
	f("anthropic", "/v1/messages/batches", "")
	f("anthropic", "/v1/models", "")
	f("anthropic", "/v1/chat/completions", "")
	f("ollama", "/v1/chat/completions", "chat/completions model=body items=1")
	f("ollama", "/v1/messages", "messages model=body items=1")
	f("ollama", "/v1/embeddings", "embeddings model=body deterministic")
	f("ollama", "/api/embeddings", "api/embeddings model=body deterministic items=1")
	f("ollama", "/api/show", "")
	f("ollama", "/api/tags", "")
	f("kserve", "/openai/v1/chat/completions", "chat/completions model=body items=1")
	f("kserve", "/v1/chat/completions", "")
	f("kserve", "/v1/models/m:predict", "predict model=m deterministic")
	f("kserve", "/v1/models/m:explain", "explain model=m deterministic")
	f("kserve", "/v1/models/a/b:predict", "")
	f("kserve", "/v1/models/:predict", "")
	f("kserve", "/v2/models/m/infer", "infer model=m deterministic")
	f("kserve", "/serving/v2/models/m/versions/3/generate_stream", "generate_stream model=m stream items=1")
	f("kserve", "/v2/models/m/versions//infer", "")
	f("kserve", "/v2/models/m/ready", "")
	f("tfserving", "/v1/models/m:regress", "regress model=m deterministic")
	f("tfserving", "/v1/models/m/versions/3:predict", "predict model=m deterministic")
	f("tfserving", "/v1/models/m/labels/canary:classify", "classify model=m deterministic")
	f("tfserving", "/v1/models/m/metadata", "")
	f("tfserving", "/v1/models/m:explain", "")
	f("plain", "/v1/chat/completions", "model=body deterministic")
}

func TestManages(t *testing.T) {
	all := dialects()
	f := func(name, method, path string, want bool) {
		t.Helper()
		if got := all[name].Read(dialect.Request{Method: method, Path: path}).Manages; got != want {
			t.Errorf("%s: %s %s: manages %v, want %v", name, method, path, got, want)
		}
	}
	for _, verb := range []string{"pull", "push", "create", "copy"} {
		f("ollama", "POST", "/api/"+verb, true)
	}
	f("ollama", "DELETE", "/api/delete", true)
	f("ollama", "HEAD", "/api/blobs/sha256:29fd", true)
	f("ollama", "POST", "/api/blobs/sha256:29fd", true)
	f("ollama", "PUT", "/api/pull", true)
	f("ollama", "POST", "/api/signout", true)
	f("ollama", "DELETE", "/api/user/keys/c3NoLWVkMjU1MTk", true)
	f("ollama", "POST", "/api/experimental/aliases", true)
	for _, path := range []string{
		"load_lora_adapter", "unload_lora_adapter", "lora-adapters", "models/load", "models/unload",
		"sleep", "wake_up", "pause", "resume", "collective_rpc", "scale_elastic_ep",
		"reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache", "flush_cache", "hicache/storage-backend",
		"start_profile", "stop_profile", "abort_request", "release_memory_occupation", "resume_memory_occupation",
		"update_weights", "update_weights_from_disk", "update_weights_from_tensor", "update_weights_from_distributed", "init_weights_update_group",
	} {
		f("openai", "POST", "/"+path, true)
		f("openai", "GET", "/v1/"+path, true)
		f("kserve", "POST", "/openai/v1/"+path, true)
		f("kserve", "POST", "/v1/"+path, false)
		f("ollama", "POST", "/v1/"+path, false)
	}
	f("kserve", "POST", "/v2/repository/models/m/load", true)
	f("kserve", "POST", "/v2/repository/models/m/unload", true)
	f("kserve", "POST", "/v2/systemsharedmemory/region/r/register", true)
	f("kserve", "POST", "/v2/logging", true)
	f("kserve", "POST", "/v2/models/m/trace/setting", true)
	// spellings that some server or proxy before it reads as the same
	f("ollama", "POST", "/api//pull", true)
	f("ollama", "POST", "/api/pull/", true)
	f("ollama", "POST", "/API/Pull", true)
	f("ollama", "POST", "/x/../api/./pull", true)
	f("ollama", "POST", "/prefix/api/blobs//sha256:29fd", true)
	f("ollama", "POST", "/api/user//Keys/x", true)
	f("openai", "POST", "/Flush_Cache/", true)
	f("openai", "POST", "//v1//../update_weights_from_disk", true)
	// and what changes nothing
	f("ollama", "POST", "/api/me", false)
	f("openai", "POST", "/v1/fine_tuning/jobs/ftjob-1/pause", false)
	f("openai", "POST", "/v1/fine_tuning/jobs/ftjob-1/resume", false)
	f("openai", "GET", "/is_sleeping", false)
	f("openai", "GET", "/server_info", false)
	f("openai", "GET", "/v1/models", false)
	f("openai", "POST", "/v1/responses/resp_1/cancel", false)
	f("ollama", "POST", "/api/show", false)
	f("ollama", "GET", "/api/ps", false)
	f("ollama", "GET", "/api/version", false)
	f("ollama", "POST", "/api/generate", false)
	f("kserve", "GET", "/v2/health/ready", false)
	f("kserve", "POST", "/v2/models/repository/infer", false)
}

func TestOnlyRequestsForAnswersAreRead(t *testing.T) {
	for method, want := range map[string]string{
		"POST": "chat/completions", "PUT": "chat/completions", "QUERY": "chat/completions",
		"GET": "", "HEAD": "", "DELETE": "", "OPTIONS": "", "TRACE": "",
	} {
		c := dialect.OpenAI().Read(dialect.Request{Method: method, Path: "/v1/chat/completions"})
		if c.Endpoint != want || c.Err != nil {
			t.Errorf("%s: %q, %v; want %q", method, c.Endpoint, c.Err, want)
		}
		if c.Deterministic {
			t.Errorf("%s: deterministic: a job that is looked at changes, and so does a chat without a temperature", method)
		}
	}
}

func TestOutputIsTheLargestCap(t *testing.T) {
	all := dialects()
	f := func(name, path, body string, want int64) {
		t.Helper()
		if got := read(all[name], path, body).Estimate.Output; got != want {
			t.Errorf("%s %s: %s: %d, want %d", name, path, body, got, want)
		}
	}
	chat := func(body string, want int64) { t.Helper(); f("openai", "/v1/chat/completions", body, want) }
	const most = math.MaxInt64
	chat(`{}`, 0)
	chat(`{"max_tokens":1,"max_completion_tokens":10000}`, 10000)
	chat(`{"max_completion_tokens":10000,"max_tokens":1}`, 10000)
	chat(`{"max_tokens":1,"max_output_tokens":2,"max_new_tokens":3,"parameters":{"max_new_tokens":4,"max_tokens":5},"options":{"num_predict":6}}`, 6)
	chat(`{"max_tokens_to_sample":7}`, 7)
	chat(`{"max\u005ftokens":7}`, 7)
	chat(`{"max_tokens":100.0}`, 100)
	chat(`{"max_tokens":1e2}`, 100)
	chat(`{"max_tokens":99.5}`, 100)
	chat(`{"max_tokens":"100"}`, 100)
	chat(`{"max_tokens":" 1_000 "}`, 1000)
	chat(`{"max_tokens":"1e2"}`, 100)
	chat(`{"max_tokens":"NaN"}`, 0)
	chat(`{"max_tokens":"Inf"}`, most)
	chat(`{"max_tokens":"many"}`, 0)
	chat(`{"max_tokens":null}`, 0)
	chat(`{"max_tokens":true}`, 0)
	chat(`{"max_tokens":[5]}`, 0)
	chat(`{"max_tokens":0}`, 0)
	chat(`{"max_tokens":-5}`, 0)
	chat(`{"max_tokens":-5,"max_completion_tokens":7}`, 7)
	chat(`{"max_tokens":-1e400}`, 0)
	chat(`{"max_tokens":1e400}`, most)
	chat(`{"max_tokens":9223372036854775808}`, most)
	chat(`{"max_tokens":"99999999999999999999"}`, most)
	chat(`{"max_tokens":10,"n":3}`, 30)
	chat(`{"max_tokens":10,"n":3,"best_of":"5"}`, 50)
	chat(`{"max_tokens":10,"n":-3}`, 10)
	chat(`{"max_tokens":4611686018427387904,"n":3}`, most)
	chat(`{"n":3}`, 0)
	f("openai", "/v1/completions", `{"prompt":["a","b"],"n":2,"max_tokens":10}`, 40)
	f("openai", "/v1/completions", `{"prompt":[],"n":2,"max_tokens":10}`, 20)
	f("openai", "/v1/responses", `{"max_output_tokens":16,"max_tokens":17}`, 17)
	f("anthropic", "/v1/messages", `{"max_tokens":16}`, 16)
	f("ollama", "/api/chat", `{"options":{"num_predict":-1}}`, 0)
	f("ollama", "/api/chat", `{"options":{"num_predict":-2}}`, 0)
	f("ollama", "/api/generate", `{"options":{"num_predict":42}}`, 42)
	f("kserve", "/v2/models/m/generate", `{"text_input":"x","max_tokens":20}`, 20)
	f("kserve", "/v2/models/m/generate_stream", `{"text_input":"x","parameters":{"max_tokens":20}}`, 20)
}

func TestAnswers(t *testing.T) {
	f := func(path, body string, want int64) {
		t.Helper()
		if got := read(dialect.OpenAI(), path, body).Estimate.Answers; got != want {
			t.Errorf("%s: %s: %d, want %d", path, body, got, want)
		}
	}
	f("/v1/chat/completions", `{}`, 1)
	f("/v1/chat/completions", `{"n":0}`, 1)
	f("/v1/chat/completions", `{"n":4}`, 4)
	f("/v1/completions", `{"prompt":["a","b","c"],"n":2,"best_of":3}`, 9)
	f("/v1/completions", `{"prompt":[1,2,3]}`, 1)
	f("/v1/completions", `{"prompt":[[1,2],[3]]}`, 2)
	f("/v1/completions", `{"prompt":["a","b"],"n":9223372036854775807}`, math.MaxInt64)
	f("/unknown", `{"n":4}`, 1)
}

// steady checks Call.Deterministic of one path.
func steady(t *testing.T, d *dialect.Dialect, path string) func(body string, want bool) {
	return func(body string, want bool) {
		t.Helper()
		if got := read(d, path, body).Deterministic; got != want {
			t.Errorf("%s %s: %s: %v, want %v", d.Name(), path, body, got, want)
		}
	}
}

func TestDeterministicChats(t *testing.T) {
	d := dialect.OpenAI()
	for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
		f := steady(t, d, path)
		f(`{}`, false) // the provider's default is not 0
		f(`{"temperature":null}`, false)
		f(`{"temperature":0}`, true)
		f(`{"temperature":-0.0e5}`, true)
		f(`{"t\u0065mperature":0}`, true)
		f(`{"temperature":1e-400}`, true)
		f(`{"temperature":1e400}`, false)
		f(`{"temperature":"0"}`, false)
		f(`{"temperature":"0.7"}`, false)
		f(`{"temperature":0.7}`, false)
		f(`{"temperature":0.7,"seed":1}`, true)
		f(`{"seed":"1"}`, false)
		f(`{"seed":null}`, false)
		f(`{"temperature":0,"temperature":1}`, false)
		f(`{"temperature":0`, false)
	}
	f := steady(t, d, "/v1/chat/completions")
	f(`{"temperature":0,"web_search_options":{}}`, false)
	f(`{"temperature":0,"web_search_options":null}`, true)
	f(`{"seed":1,"plugins":[{"id":"web"}]}`, false)
	f(`{"temperature":0,"tools":[{"type":"function"},{"type":"custom"}]}`, true)
	f(`{"temperature":0,"tools":[{"function":{}}]}`, true)
}

func TestDeterministicTools(t *testing.T) {
	f := steady(t, dialect.OpenAI(), "/v1/responses")
	f(`{"temperature":0}`, true)
	f(`{"seed":1}`, false)
	f(`{"temperature":0,"background":false}`, true)
	f(`{"temperature":0,"background":true}`, false)
	f(`{"temperature":0,"conversation":"conv_1"}`, false)
	f(`{"temperature":0,"conversation":null}`, true)
	f(`{"temperature":0,"tools":[]}`, true)
	f(`{"temperature":0,"tools":null}`, true)
	f(`{"temperature":0,"tools":{}}`, false)
	f(`{"temperature":0,"tools":["web_search"]}`, false)
	f(`{"temperature":0,"tools":[{"type":"function","parameters":{"type":"object","x":["]\"",{}]}}]}`, true)
	f(`{"temperature":0,"tools":[{"t\u0079pe":"web_search"}]}`, false)
	for _, kind := range []string{"web_search", "web_search_preview", "file_search", "code_interpreter", "mcp", "computer_use_preview", "image_generation"} {
		f(`{"temperature":0,"tools":[{"type":"`+kind+`"}]}`, false)
	}
	f(`{"temperature":0,"tools":[`+strings.Repeat(`{"type":"function"},`, 40)+`{"type":"mcp"}]}`, false)
	f = steady(t, dialect.Anthropic(), "/v1/messages")
	f(`{}`, false)
	f(`{"temperature":0}`, true)
	f(`{"seed":1}`, false)
	f(`{"temperature":0,"container":"c"}`, false)
	f(`{"temperature":0,"mcp_servers":[]}`, true)
	f(`{"temperature":0,"tools":[{"name":"f","input_schema":{"type":"object"}}]}`, true)
	for _, kind := range []string{"web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "computer_20250124", "bash_20250124"} {
		f(`{"temperature":0,"tools":[{"name":"x","type":"`+kind+`"}]}`, false)
	}
}

func TestDeterministicElsewhere(t *testing.T) {
	all := dialects()
	f := func(name, path, body string, want bool) { t.Helper(); steady(t, all[name], path)(body, want) }
	f("ollama", "/api/chat", `{"temperature":0}`, false)
	f("ollama", "/api/chat", `{"options":{"temperature":0}}`, true)
	f("ollama", "/api/generate", `{"options":{"temperature":0.8,"seed":3}}`, true)
	f("ollama", "/api/embed", `{}`, true)
	f("openai", "/v1/embeddings", `{"temperature":1}`, true)
	f("openai", "/v1/embeddings", `{"input":`, false)
	f("openai", "/v1/audio/speech", `{"temperature":0,"seed":1}`, false)
	f("openai", "/unknown", `{"temperature":0}`, false)
	f("kserve", "/v2/models/m/generate", `{"text_input":"x"}`, false)
	f("kserve", "/v2/models/m/generate", `{"parameters":{"temperature":0}}`, true)
	f("kserve", "/v2/models/m/generate", `{"parameters":{"temperature":0.7}}`, false)
	f("kserve", "/v2/models/m/generate", `{"temperature":0.7}`, false)
	f("kserve", "/v2/models/m/generate", `{"temperature":0,"parameters":{"temperature":0.7}}`, false)
	f("kserve", "/v2/models/m/generate", `{"parameters":{"temperature":0.7,"seed":1}}`, true)
	f("kserve", "/v2/models/m/infer", `{"parameters":{"temperature":0.7}}`, false)
	plain := steady(t, all["plain"], "/predict")
	plain(``, true)
	plain(`{}`, true)
	plain(`[1]`, true)
	plain(`text`, true)
	plain("\x00\x01", true)
	plain(`{"temperature":null}`, true)
	plain(`{"temperature":0.0}`, true)
	plain(`{"temperature":0.7}`, false)
	plain(`{"temperature":"0.7"}`, false)
	plain(`{"temperature":0.7,"seed":1}`, true)
	plain(`{"temperature":1e400}`, false)
	plain("\ufeff {\"temperature\":0}", false)
	plain(`{"a":1,"a":2}`, false)
	plain(`{"temperature":0.7,}`, false)
}

func TestStream(t *testing.T) {
	all := dialects()
	f := func(name, path, body string, want bool) {
		t.Helper()
		if got := read(all[name], path, body).Stream; got != want {
			t.Errorf("%s %s: %s: %v, want %v", name, path, body, got, want)
		}
	}
	for _, at := range [][2]string{{"openai", "/v1/chat/completions"}, {"openai", "/v1/responses"}, {"anthropic", "/v1/messages"}, {"plain", "/"}} {
		f(at[0], at[1], `{}`, false)
		f(at[0], at[1], `{"stream":null}`, false)
		f(at[0], at[1], `{"stream":"true"}`, false)
		f(at[0], at[1], `{"a":{"stream":true}}`, false)
		f(at[0], at[1], `{"stream":false}`, false)
		f(at[0], at[1], `{"stream":true}`, true)
		f(at[0], at[1], `{"stre\u0061m":true}`, true)
		f(at[0], at[1], `{"stream":true,"stream":false}`, false)
	}
	f("ollama", "/api/chat", `{}`, true)
	f("ollama", "/api/chat", `{"stream":null}`, true)
	f("ollama", "/api/chat", `{"stream":true}`, true)
	f("ollama", "/api/generate", `{"stream":false}`, false)
	f("ollama", "/api/embed", `{"stream":true}`, false)
	f("ollama", "/v1/chat/completions", `{}`, false)
	f("kserve", "/v2/models/m/generate", `{"stream":true}`, true)
	f("kserve", "/v2/models/m/generate_stream", `{"stream":false}`, true)
	f("openai", "/v1/embeddings", `{"stream":true}`, false)
}

func TestUnreadableBodies(t *testing.T) {
	all := dialects()
	f := func(name, path, body, want string) {
		t.Helper()
		if got := describe(read(all[name], path, body)); got != want {
			t.Errorf("%s %s: %.60q\ngot  %s\nwant %s", name, path, body, got, want)
		}
	}
	f("openai", "/v1/chat/completions", ``, "chat/completions")
	f("openai", "/v1/chat/completions", `{"model":"a","model":"b"}`, `chat/completions input=7 err: JSON: "/model": two members of this name: want one`)
	f("openai", "/v1/chat/completions", `{"model":"a","mod\u0065l":"b"}`, `chat/completions input=8 err: JSON: "/model": two members of this name: want one`)
	f("openai", "/v1/chat/completions", `{"model":"a"}{}`, `chat/completions input=4 err: JSON: offset 13: '{': want the end`)
	f("openai", "/v1/chat/completions", "\ufeff{}", `chat/completions input=2 err: JSON: offset 0: byte 0xef: want a value`)
	f("openai", "/v1/chat/completions", `[]`, "chat/completions items=1")
	f("openai", "/v1/chat/completions", `{"model":7}`, "chat/completions items=1")
	f("openai", "/openai/deployments/m/chat/completions", `{`, `chat/completions model=m input=1 err: JSON: offset 1: the end: want a member name in quotes`)
	f("openai", "/v1/embeddings", `{"input":{}}`, "embeddings deterministic input=1")
	// forms and files need not be JSON
	f("openai", "/v1/audio/transcriptions", "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--x--\r\n", "audio/transcriptions")
	f("openai", "/v1/audio/transcriptions", `{"model":"whisper-1","temperature":0}`, "audio/transcriptions model=whisper-1 deterministic items=1")
	f("openai", "/v1/audio/transcriptions", `{"model":`, `audio/transcriptions input=3 err: JSON: offset 9: the end: want a value`)
	f("openai", "/v1/audio/transcriptions", ``, "audio/transcriptions")
	f("openai", "/v1/audio/transcriptions", "\x1f\x8b\b{}", `audio/transcriptions input=2 err: JSON: offset 0: byte 0x1f: want a value`)
	f("openai", "/v1/audio/transcriptions", "\xff\xfe{\x00", `audio/transcriptions input=1 err: JSON: offset 0: byte 0xff: want a value`)
	f("openai", "/v1/audio/transcriptions", "{\x00\"\x00", `audio/transcriptions input=1 err: JSON: offset 1: byte 0x00: want a member name in quotes`)
	f("openai", "/v1/audio/transcriptions", "model=whisper-1&x=y", `audio/transcriptions input=5 err: JSON: offset 0: 'm': want a value`)
	f("openai", "/v1/images/edits", "RIFF", `images/edits input=1 err: JSON: offset 0: 'R': want a value`)
	f("openai", "/v1/images/edits", "--x\r\n\r\n--x--\r\n", "images/edits")
	f("kserve", "/v2/models/m/infer", `{"inputs":[{"name":"a","shape":[1,1],"datatype":"UINT8","parameters":{"binary_data_size":1}}]}`+"\x07", "infer model=m")
	f("kserve", "/v2/models/m/infer", `{"inputs":[}`, `infer model=m input=3 err: JSON: offset 11: '}': want a value`)
	f("plain", "/", `{"model":"a","model":"b"}`, `err: JSON: "/model": two members of this name: want one`)
	f("plain", "/", `not JSON`, `deterministic err: JSON: offset 1: 'o': want null`)
	f("openai", "/unknown", `{"model":"a","model":"b"}`, "")
}

func TestDepth(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(`{"model":"m","messages":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`)
	}
	f := func(levels, depth int, want bool) {
		t.Helper()
		c := dialect.OpenAI().Read(dialect.Request{Method: "POST", Path: "/v1/chat/completions", Body: nested(levels), Depth: depth})
		var deep *jsonscan.DepthError
		if got := errors.As(c.Err, &deep); got != want || (c.Model == "") != want {
			t.Errorf("%d levels, at most %d: %v, model %q", levels, depth, c.Err, c.Model)
		}
	}
	f(99, 0, false)
	f(100, 0, true)
	f(9, 10, false)
	f(10, 10, true)
	f(100000, 0, true)
}

func TestInput(t *testing.T) {
	f := func(path, body string, want int64) {
		t.Helper()
		if got := read(dialect.OpenAI(), path, body).Estimate.Input; got != want {
			t.Errorf("%s: %.80s: %d, want %d", path, body, got, want)
		}
	}
	content := func(text string) string { return `{"input":"` + text + `"}` }
	data := strings.Repeat("QUJD", 300)
	const e = "/v1/embeddings"
	f(e, content(""), 1)       // the quotes
	f(e, content("123456"), 2) // 8 bytes
	f(e, content("1234567"), 3)
	f(e, `{"input":[ 1,2, 3 ]}`, 3)
	f(e, `{"input":[[1,-2],[3.5e+7]]}`, 3)
	f(e, `{"input":["123456",7]}`, 3)
	f(e, `{"input":7}`, 1)
	f(e, `{"input":"a","user":"`+strings.Repeat("x", 999)+`"}`, 1)
	// files in the body
	f(e, content(data), 1000)
	f(e, content("data:image/png;base64,"+data), 1000)
	f(e, content("data:image/png;base64,QUJD"), 1000)
	f(e, content(`data:image\/png;base64,`+strings.ReplaceAll(data, "U", `\/`)), 1000)
	f(e, `{"input":["`+data+`","`+data+`","abcd"]}`, 2003)
	f("/v1/chat/completions", `{"messages":[{"input_audio":{"data":"`+data+`","format":"wav"}}]}`, 1000+11)
	// and what is not one
	f(e, content(strings.Repeat("QUJD", 256)), 257) // 1 KiB
	f(e, content(data+" QUJD"), (1200+5+2+3)/4)
	f(e, content("data:image/png;base64,tell me a story "+data), (38+1200+2+3)/4)
	f(e, content("data:text/plain,"+data), (16+1200+2+3)/4)
	f(e, content(strings.Repeat("é", 1000)), (2000+2+3)/4)
}

func TestItems(t *testing.T) {
	all := dialects()
	f := func(name, path, body string, want int) {
		t.Helper()
		if got := read(all[name], path, body).Items; got != want {
			t.Errorf("%s %s: %s: %d, want %d", name, path, body, got, want)
		}
	}
	for input, want := range map[string]int{
		`"a"`: 1, `""`: 1, `["a"]`: 1, ` [ "a" , "b,]\"" ] `: 2, `[1,2,3]`: 1, `[[1,2],[3]]`: 2, `[]`: 0, `null`: 0, `{}`: 0, `[{"text":"a"}]`: 0,
	} {
		f("openai", "/v1/embeddings", `{"input":`+input+`}`, want)
		f("ollama", "/api/embed", `{"input":`+input+`}`, want)
	}
	f("openai", "/v1/embeddings", `{}`, 0)
	f("openai", "/v1/chat/completions", `{}`, 1)
	f("openai", "/v1/rerank", `{"documents":[{"text":"a"},"b"]}`, 2)
	f("ollama", "/api/embeddings", `{"prompt":"a"}`, 1)
	f("kserve", "/v1/models/m:predict", `{"instances":[1,[2,3],{"a":[4]}]}`, 3)
	f("tfserving", "/v1/models/m:predict", `{"inputs":[1,2]}`, 0)
	f("kserve", "/v2/models/m/infer", `{"inputs":[{"shape":[8,2]}]}`, 8)
	f("kserve", "/v2/models/m/infer", `{"inputs":[{"shape":[]}]}`, 0)
	f("kserve", "/v2/models/m/infer", `{"inputs":[{"shape":[-1]}]}`, 0)
	f("kserve", "/v2/models/m/infer", `{"inputs":[{"shape":[9223372036854775807]}]}`, 0)
	f("plain", "/", `{"instances":[1]}`, 0)
}

func TestNames(t *testing.T) {
	for name, d := range dialects() {
		if d.Name() != name {
			t.Errorf("%s calls itself %s", name, d.Name())
		}
	}
}
