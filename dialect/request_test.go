package dialect_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferweir/weir/dialect"
)

// dialects are those of the files in testdata/requests, by the first part of
// their names.
func dialects() map[string]*dialect.Dialect {
	return map[string]*dialect.Dialect{
		"openai": dialect.OpenAI(), "anthropic": dialect.Anthropic(), "ollama": dialect.Ollama(),
		"kserve": dialect.KServe(), "tfserving": dialect.TFServing(), "plain": dialect.Plain(),
	}
}

// describe writes a whole Call in one line. What is as in an empty one is left
// out.
func describe(c *dialect.Call) string {
	var b strings.Builder
	add := func(yes bool, format string, args ...any) {
		if yes {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	add(c.Endpoint != "", "%s", c.Endpoint)
	add(c.Model != "", "model=%s", c.Model)
	add(c.Stream, "stream")
	add(c.Deterministic, "deterministic")
	add(c.Items != 0, "items=%d", c.Items)
	add(c.Estimate.Input != 0, "input=%d", c.Estimate.Input)
	add(c.Estimate.Output != 0, "output=%d", c.Estimate.Output)
	add(c.Estimate.Answers != 1, "answers=%d", c.Estimate.Answers)
	add(c.Manages, "manages")
	add(c.Err != nil, "err: %v", c.Err)
	return strings.TrimPrefix(b.String(), " ")
}

// documented is a request in its vendor's documented form, and its Call.
type documented struct{ file, path, want string }

func documentedRequests() []documented {
	return []documented{
		{"anthropic-count-tokens", "/v1/messages/count_tokens", `messages/count_tokens model=claude-sonnet-4-5 deterministic items=1`},
		{"anthropic-messages-image", "/v1/messages", `messages model=claude-sonnet-4-5 deterministic items=1 input=1040 output=1024`},
		{"anthropic-messages-mcp", "/v1/messages", `messages model=claude-sonnet-4-5 items=1 input=16 output=1000`},
		{"anthropic-messages-plain", "/v1/messages", `messages model=claude-sonnet-4-5 items=1 input=11 output=1024`},
		{"anthropic-messages-stream", "/v1/messages", `messages model=claude-sonnet-4-5 stream deterministic items=1 input=29 output=256`},
		{"anthropic-messages-tool", "/v1/messages", `messages model=claude-sonnet-4-5 deterministic items=1 input=65 output=1024`},
		{"anthropic-messages-web-search", "/v1/messages", `messages model=claude-sonnet-4-5 items=1 input=31 output=1024`},
		{"kserve-generate-sampled", "/v2/models/llm/generate", `generate model=llm items=1 input=4`},
		{"kserve-generate-text", "/v2/models/llm/generate", `generate model=llm deterministic items=1 input=4 output=100`},
		{"kserve-infer-tensor", "/v2/models/simple/versions/2/infer", `infer model=simple deterministic items=2 input=35`},
		{"kserve-predict-instances", "/v1/models/iris:predict", `predict model=iris deterministic items=2 input=8`},
		{"ollama-chat-capitals", "/api/chat", `api/chat input=33 output=32 err: JSON: "Model": some servers take it for "model": want that name, or another`},
		{"ollama-chat-plain", "/api/chat", `api/chat model=llama3.2 stream deterministic items=1 input=13`},
		{"ollama-embed-text", "/api/embed", `api/embed model=all-minilm deterministic items=1 input=6`},
		{"ollama-embed-texts", "/api/embed", `api/embed model=all-minilm deterministic items=2 input=13`},
		{"ollama-embeddings-prompt", "/api/embeddings", `api/embeddings model=all-minilm deterministic items=1 input=9`},
		{"ollama-generate-image", "/api/generate", `api/generate model=llava items=1 input=1010`},
		{"ollama-generate-options", "/api/generate", `api/generate model=llama3.2 deterministic items=1 input=6 output=100`},
		{"ollama-generate-plain", "/api/generate", `api/generate model=llama3.2 stream items=1 input=6`},
		{"ollama-pull-model", "/api/pull", `api/pull manages`},
		{"openai-chat-azure", "/openai/deployments/gpt-35-turbo/chat/completions", `chat/completions model=gpt-35-turbo deterministic items=1 input=35 output=800`},
		{"openai-chat-batch", "/v1/chat/completions/batch", `chat/completions/batch model=meta-llama/Llama-3.1-8B-Instruct deterministic items=2 input=31 output=100 answers=2`},
		{"openai-chat-image-url", "/v1/chat/completions", `chat/completions model=gpt-4.1 items=1 input=1030 output=600 answers=2`},
		{"openai-chat-litellm-engine", "/engines/azure/gpt-4.1/chat/completions", `chat/completions model=azure/gpt-4.1 deterministic items=1 input=11`},
		{"openai-chat-plain", "/v1/chat/completions", `chat/completions model=gpt-5 items=1 input=25`},
		{"openai-chat-stream-usage", "/v1/chat/completions", `chat/completions model=gpt-4o-mini stream deterministic items=1 input=13`},
		{"openai-chat-stream", "/v1/chat/completions", `chat/completions model=gpt-4o-mini stream deterministic items=1 input=13`},
		{"openai-chat-tools", "/v1/chat/completions", `chat/completions model=gpt-4.1 deterministic items=1 input=88 output=300`},
		{"openai-chat-two-caps", "/v1/chat/completions", `chat/completions model=o4-mini items=1 input=8 output=30000 answers=3`},
		{"openai-chat-web-search", "/v1/chat/completions", `chat/completions model=gpt-4o-search-preview items=1 input=18`},
		{"openai-completions-plain", "/v1/completions", `completions model=gpt-3.5-turbo-instruct deterministic items=1 input=5 output=7`},
		{"openai-completions-prompts", "/v1/completions", `completions model=meta-llama/Llama-3.1-8B stream items=3 input=12 output=192 answers=12`},
		{"openai-completions-token-lists", "/v1/completions", `completions model=meta-llama/Llama-3.1-8B items=2 input=5 output=32 answers=2`},
		{"openai-completions-tokens", "/v1/completions", `completions model=meta-llama/Llama-3.1-8B deterministic items=1 input=5 output=16`},
		{"openai-embed-cohere", "/v2/embed", `embed model=embed-v4.0 deterministic items=2 input=5`},
		{"openai-embeddings-text", "/v1/embeddings", `embeddings model=text-embedding-ada-002 deterministic items=1 input=11`},
		{"openai-embeddings-texts", "/v1/embeddings", `embeddings model=text-embedding-3-small deterministic items=3 input=7`},
		{"openai-embeddings-token-lists", "/v1/embeddings", `embeddings model=text-embedding-3-small deterministic items=2 input=3`},
		{"openai-embeddings-tokens", "/v1/embeddings", `embeddings model=text-embedding-3-small deterministic items=1 input=3`},
		{"openai-images-prompt", "/v1/images/generations", `images/generations model=gpt-image-1 items=1 input=6 answers=2`},
		{"openai-invocations-chat", "/invocations", `invocations model=meta-llama/Llama-3.1-8B-Instruct stream deterministic items=1 input=11 output=64`},
		{"openai-moderations-image", "/v1/moderations", `moderations model=omni-moderation-latest deterministic input=28`},
		{"openai-moderations-text", "/v1/moderations", `moderations model=omni-moderation-latest deterministic items=1 input=9`},
		{"openai-rerank-documents", "/v1/rerank", `rerank model=BAAI/bge-reranker-base deterministic items=2 input=26`},
		{"openai-responses-background", "/v1/responses", `responses model=o3 items=1 input=12`},
		{"openai-responses-stream", "/v1/responses", `responses model=gpt-4.1 stream items=1 input=25`},
		{"openai-responses-text", "/v1/responses", `responses model=gpt-4.1 deterministic items=1 input=15 output=120`},
		{"openai-responses-web-search", "/v1/responses", `responses model=gpt-4.1 items=1 input=31`},
		{"openai-score-texts", "/score", `score model=BAAI/bge-reranker-v2-m3 deterministic items=2 input=14`},
		{"openai-speech-text", "/v1/audio/speech", `audio/speech model=gpt-4o-mini-tts items=1 input=12`},
		{"openai-tokenize-prompt", "/tokenize", `tokenize model=meta-llama/Llama-3.1-8B deterministic items=1`},
		{"plain-sampled", "/predict", `stream`},
		{"plain-seeded", "/predict", `deterministic`},
		{"plain-text", "/predict", `model=lid deterministic`},
		{"tfserving-classify-examples", "/v1/models/half/labels/stable:classify", `classify model=half deterministic items=2 input=6`},
		{"tfserving-predict-columns", "/v1/models/half/versions/3:predict", `predict model=half deterministic input=24`},
		{"tfserving-predict-rows", "/v1/models/half/versions/3:predict", `predict model=half deterministic items=2 input=30`},
	}
}

func TestReadDocumentedRequests(t *testing.T) {
	all := dialects()
	cases := documentedRequests()
	seen := map[string]bool{}
	for _, tt := range cases {
		seen[tt.file+".json"] = true
		t.Run(tt.file, func(t *testing.T) {
			body, err := os.ReadFile(filepath.Join("testdata", "requests", tt.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(tt.file, "-")
			if got := describe(all[name].Read(dialect.Request{Method: "POST", Path: tt.path, Body: body})); got != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.path, got, tt.want)
			}
		})
	}
	files, err := os.ReadDir(filepath.Join("testdata", "requests"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[f.Name()] {
			t.Errorf("testdata/requests/%s: no case reads it", f.Name())
		}
	}
}
