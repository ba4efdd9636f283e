package clients_test

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"strings"
)

// created is when everything was made: answers must not change from one run to
// the next, because they are compared.
const created = 1700000000

// words are what every model says, in the pieces of a stream: letters of several
// bytes come apart where it comes byte by byte. The model "long" has a piece of
// 2 MiB, a line that many readers of lines would not take.
func words(q question) []string {
	if q.Model == "long" {
		return []string{"Hello", strings.Repeat(" and so on", 2<<20/10), "."}
	}
	return []string{"Grüße", " from", " the", " 模型 🙂."}
}

func sentence(q question) string { return strings.Join(words(q), "") }

// arguments are those of the tool call that every model makes when it has tools.
func arguments() []string { return []string{`{"ci`, `ty":"Par`, `is"}`} }

var openAIModel = object{"id": "m", "object": "model", "created": created, "owned_by": "stand-in"}

// openAIHeader has limits of the stand-in's own account: 60 requests. They are
// nobody else's business.
func openAIHeader() http.Header {
	return http.Header{
		"X-Request-Id":                   {"req_standin"},
		"Openai-Processing-Ms":           {"7"},
		"X-Ratelimit-Limit-Requests":     {"60"},
		"X-Ratelimit-Remaining-Requests": {"59"},
		"X-Ratelimit-Reset-Requests":     {"1s"},
	}
}

func openAIForm(whole object, events []string) form {
	return form{
		whole: whole, events: events, contentType: "text/event-stream; charset=utf-8", header: openAIHeader(),
		failure:      openAIFailure,
		failureEvent: sse("", openAIFailure(http.StatusInternalServerError)),
	}
}

func openAIFailure(status int) object {
	kind := map[int]string{400: "invalid_request_error", 404: "invalid_request_error", 429: "requests", 503: "service_unavailable_error"}[status]
	code := map[int]any{404: "model_not_found", 429: "rate_limit_exceeded", 503: "server_is_overloaded"}[status]
	if kind == "" {
		kind = "server_error"
	}
	return object{"error": object{"message": "The stand-in says no.", "type": kind, "param": nil, "code": code}}
}

func chatUsage() object {
	return object{
		"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13,
		"prompt_tokens_details":     object{"cached_tokens": 2, "audio_tokens": 0},
		"completion_tokens_details": object{"reasoning_tokens": 1, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
	}
}

func chatForm(q question) form {
	message := object{"role": "assistant", "content": sentence(q), "refusal": nil, "annotations": []any{}}
	reason := "stop"
	if len(q.Tools) > 0 {
		reason = "tool_calls"
		message["content"] = nil
		message["tool_calls"] = []object{{"id": "call_1", "type": "function", "function": object{"name": "weather", "arguments": strings.Join(arguments(), "")}}}
	}
	return openAIForm(object{
		"id": "chatcmpl-1", "object": "chat.completion", "created": created, "model": q.Model,
		"choices":      []object{{"index": 0, "message": message, "logprobs": nil, "finish_reason": reason}},
		"usage":        chatUsage(),
		"service_tier": "default", "system_fingerprint": "fp_1",
	}, chatEvents(q, reason))
}

func chatEvents(q question, reason string) []string {
	deltas := []object{{"role": "assistant", "content": "", "refusal": nil}}
	for _, word := range words(q) {
		deltas = append(deltas, object{"content": word})
	}
	if len(q.Tools) > 0 {
		call := object{"index": 0, "id": "call_1", "type": "function", "function": object{"name": "weather", "arguments": ""}}
		deltas = []object{{"role": "assistant", "content": nil, "tool_calls": []object{call}}}
		for _, piece := range arguments() {
			deltas = append(deltas, object{"tool_calls": []object{{"index": 0, "function": object{"arguments": piece}}}})
		}
	}
	chunk := func(choices []object, usage any) string {
		c := object{
			"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": created, "model": q.Model,
			"service_tier": "default", "system_fingerprint": "fp_1", "choices": choices,
		}
		// Only who asks for it sees the member at all: null until the last chunk.
		if q.StreamOptions.IncludeUsage {
			c["usage"] = usage
		}
		return sse("", c)
	}
	var events []string
	for _, delta := range deltas {
		events = append(events, chunk([]object{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": nil}}, nil))
	}
	events = append(events, chunk([]object{{"index": 0, "delta": object{}, "logprobs": nil, "finish_reason": reason}}, nil))
	if q.StreamOptions.IncludeUsage {
		events = append(events, chunk([]object{}, chatUsage()))
	}
	return append(events, "data: [DONE]\n\n")
}

func completionForm(q question) form {
	answer := func(text string, reason any) object {
		return object{
			"id": "cmpl-1", "object": "text_completion", "created": created, "model": q.Model,
			"choices": []object{{"text": text, "index": 0, "logprobs": nil, "finish_reason": reason}},
		}
	}
	whole := answer(sentence(q), "stop")
	whole["usage"] = object{"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
	var events []string
	chunk := func(c object, usage any) {
		if q.StreamOptions.IncludeUsage {
			c["usage"] = usage
		}
		events = append(events, sse("", c))
	}
	for _, word := range words(q) {
		chunk(answer(word, nil), nil)
	}
	chunk(answer("", "stop"), nil)
	if q.StreamOptions.IncludeUsage {
		last := answer("", nil)
		last["choices"] = []object{}
		chunk(last, whole["usage"])
	}
	return openAIForm(whole, append(events, "data: [DONE]\n\n"))
}

func embeddingsForm(q question) form {
	vector := []float32{0.25, -0.5, 0.1}
	var embedding any = vector
	if q.EncodingFormat == "base64" {
		var raw []byte
		for _, v := range vector {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		embedding = base64.StdEncoding.EncodeToString(raw)
	}
	inputs, _ := q.Input.([]any)
	data := []object{}
	for i := range inputs {
		data = append(data, object{"object": "embedding", "index": i, "embedding": embedding})
	}
	return openAIForm(object{
		"object": "list", "data": data, "model": q.Model,
		"usage": object{"prompt_tokens": 2, "total_tokens": 2},
	}, nil)
}
