package dialect_test

import (
	"testing"

	"github.com/inferweir/weir/dialect"
)

func TestVersionOfTheModelThatAnswered(t *testing.T) {
	const json, events, lines = "application/json", "text/event-stream", "application/x-ndjson"
	for _, c := range []struct {
		name           string
		dialect        *dialect.Dialect
		path           string
		contentType    string
		answer         string
		model, version string
	}{
		{"a chat by an alias", dialect.OpenAI(), chatPath, json, `{"model":"gpt-4o-2024-08-06","system_fingerprint":"fp_1","choices":[]}`, "gpt-4o-2024-08-06", "gpt-4o-2024-08-06"},
		{"a chat that names no model", dialect.OpenAI(), chatPath, json, `{"system_fingerprint":"fp_1","choices":[]}`, "", ""},
		{"embeddings", dialect.OpenAI(), "/v1/embeddings", json, `{"model":"e-1","data":[]}`, "e-1", "e-1"},
		{"a stream of messages", dialect.Anthropic(), messagePath, events, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-4-20250514\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", "claude-4-20250514", "claude-4-20250514"},
		{"a stream of responses", dialect.OpenAI(), responsePath, events, "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-4.1-2025-04-14\",\"status\":\"completed\"}}\n\n", "gpt-4.1-2025-04-14", "gpt-4.1-2025-04-14"},
		{"Ollama's lines", dialect.Ollama(), ollamaChat, lines, `{"model":"qwen3","done":true}` + "\n", "qwen3", "qwen3"},
		{"Triton", dialect.KServe(), "/v2/models/mnist/infer", json, `{"model_name":"mnist","model_version":"3","outputs":[]}`, "mnist", "3"},
		{"Triton with a number", dialect.KServe(), "/v2/models/mnist/infer", json, `{"model_name":"mnist","model_version":3,"outputs":[]}`, "mnist", "3"},
		{"KServe without a version", dialect.KServe(), "/v2/models/mnist/infer", json, `{"model_name":"mnist","outputs":[]}`, "mnist", ""},
		{"KServe's first protocol", dialect.KServe(), "/v1/models/mnist:predict", json, `{"predictions":[1]}`, "", ""},
		{"Triton's stream", dialect.KServe(), "/v2/models/m/generate_stream", events, "data: {\"model_name\":\"m\",\"model_version\":\"2\",\"text_output\":\"a\"}\n\n", "m", "2"},
		{"TensorFlow Serving", dialect.TFServing(), "/v1/models/m/versions/7:predict", json, `{"predictions":[1]}`, "", ""},
		{"nothing known", dialect.Plain(), "/x", json, `{"model":"m","model_version":"1"}`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := outcome(t, post(c.dialect, c.path, `{"stream":true}`), c.contentType, []byte(c.answer))
			if got.Model != c.model || got.Version != c.version {
				t.Errorf("model %q, version %q, want %q and %q", got.Model, got.Version, c.model, c.version)
			}
		})
	}
}
