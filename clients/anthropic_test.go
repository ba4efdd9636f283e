package clients_test

import (
	"net/http"
	"time"
)

// anthropicHeader has limits of the stand-in's own account, as openAIHeader.
func anthropicHeader() http.Header {
	return http.Header{
		"Request-Id":                             {"req_standin"},
		"Anthropic-Organization-Id":              {"org_standin"},
		"Anthropic-Ratelimit-Requests-Limit":     {"60"},
		"Anthropic-Ratelimit-Requests-Remaining": {"59"},
		"Anthropic-Ratelimit-Requests-Reset":     {time.Now().Add(time.Minute).UTC().Format(time.RFC3339)},
	}
}

func anthropicFailure(status int) object {
	kind := map[int]string{400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}[status]
	if kind == "" {
		kind = "api_error"
	}
	return object{"type": "error", "error": object{"type": kind, "message": "The stand-in says no."}, "request_id": "req_standin"}
}

func anthropicForm(whole object, events []string) form {
	return form{
		whole: whole, events: events, contentType: "text/event-stream; charset=utf-8", header: anthropicHeader(),
		failure: anthropicFailure, failureEvent: sse("error", anthropicFailure(http.StatusInternalServerError)),
	}
}

func countForm(question) form { return anthropicForm(object{"input_tokens": 9}, nil) }

func messageForm(q question) form {
	block, reason := object{"type": "text", "text": sentence(q)}, "end_turn"
	if len(q.Tools) > 0 {
		block, reason = object{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": object{"city": "Paris"}}, "tool_use"
	}
	message := func(content []object, reason any, output int) object {
		return object{
			"id": "msg_1", "type": "message", "role": "assistant", "model": q.Model, "content": content,
			"stop_reason": reason, "stop_sequence": nil,
			"usage": object{"input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": output, "service_tier": "standard"},
		}
	}
	typed := func(kind string, more object) string {
		more["type"] = kind
		return sse(kind, more)
	}
	start, deltas := object{"type": "text", "text": ""}, []object{}
	for _, word := range words(q) {
		deltas = append(deltas, object{"type": "text_delta", "text": word})
	}
	if len(q.Tools) > 0 {
		start, deltas = object{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": object{}}, nil
		for _, piece := range arguments() {
			deltas = append(deltas, object{"type": "input_json_delta", "partial_json": piece})
		}
	}
	events := []string{
		typed("message_start", object{"message": message([]object{}, nil, 1)}),
		typed("content_block_start", object{"index": 0, "content_block": start}),
		typed("ping", object{}),
	}
	for _, delta := range deltas {
		events = append(events, typed("content_block_delta", object{"index": 0, "delta": delta}))
	}
	events = append(events,
		typed("content_block_stop", object{"index": 0}),
		typed("message_delta", object{"delta": object{"stop_reason": reason, "stop_sequence": nil}, "usage": object{"output_tokens": 4}}),
		typed("message_stop", object{}))
	return anthropicForm(message([]object{block}, reason, 4), events)
}
