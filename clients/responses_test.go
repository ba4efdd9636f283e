package clients_test

import "strings"

// response is an object of the Responses API as it is at a time of its life.
func response(q question, status string, output []object, usage any) object {
	return object{
		"id": "resp_1", "object": "response", "created_at": created, "status": status, "background": false,
		"error": nil, "incomplete_details": nil, "instructions": nil, "max_output_tokens": nil, "model": q.Model,
		"output": output, "parallel_tool_calls": true, "previous_response_id": nil,
		"reasoning": object{"effort": nil, "summary": nil}, "service_tier": "default", "store": true, "temperature": 1,
		"text": object{"format": object{"type": "text"}}, "tool_choice": "auto", "tools": []any{}, "top_p": 1,
		"truncation": "disabled", "usage": usage, "user": nil, "metadata": object{},
	}
}

func textPart(text string) object {
	return object{"type": "output_text", "annotations": []any{}, "logprobs": []any{}, "text": text}
}

func messageItem(status string, content []object) object {
	return object{"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": content}
}

func callItem(status, arguments string) object {
	return object{"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": status, "name": "weather", "arguments": arguments}
}

func responseForm(q question) form {
	item := messageItem("completed", []object{textPart(sentence(q))})
	if len(q.Tools) > 0 {
		item = callItem("completed", strings.Join(arguments(), ""))
	}
	whole := response(q, "completed", []object{item}, object{
		"input_tokens": 9, "input_tokens_details": object{"cached_tokens": 2, "cache_write_tokens": 0},
		"output_tokens": 4, "output_tokens_details": object{"reasoning_tokens": 1}, "total_tokens": 13,
	})
	f := openAIForm(whole, responseEvents(q, item, whole))
	f.failureEvent = sse("error", object{"type": "error", "code": "server_error", "message": "The stand-in says no.", "param": nil, "sequence_number": 99})
	return f
}

// responseEvents are typed, numbered, and end with the whole response: there is
// no [DONE].
func responseEvents(q question, item, whole object) []string {
	var events []string
	send := func(kind string, more object) {
		more["type"], more["sequence_number"] = kind, len(events)
		events = append(events, sse(kind, more))
	}
	send("response.created", object{"response": response(q, "in_progress", []object{}, nil)})
	send("response.in_progress", object{"response": response(q, "in_progress", []object{}, nil)})
	if len(q.Tools) > 0 {
		send("response.output_item.added", object{"output_index": 0, "item": callItem("in_progress", "")})
		for _, piece := range arguments() {
			send("response.function_call_arguments.delta", object{"item_id": "fc_1", "output_index": 0, "delta": piece})
		}
		send("response.function_call_arguments.done", object{"item_id": "fc_1", "output_index": 0, "name": "weather", "arguments": strings.Join(arguments(), "")})
	} else {
		at := func(more object) object {
			more["item_id"], more["output_index"], more["content_index"] = "msg_1", 0, 0
			return more
		}
		send("response.output_item.added", object{"output_index": 0, "item": messageItem("in_progress", []object{})})
		send("response.content_part.added", at(object{"part": textPart("")}))
		for _, word := range words(q) {
			send("response.output_text.delta", at(object{"delta": word, "logprobs": []any{}}))
		}
		send("response.output_text.done", at(object{"text": sentence(q), "logprobs": []any{}}))
		send("response.content_part.done", at(object{"part": textPart(sentence(q))}))
	}
	send("response.output_item.done", object{"output_index": 0, "item": item})
	send("response.completed", object{"response": whole})
	return events
}
