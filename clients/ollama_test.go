package clients_test

const ollamaCreated = "2023-11-14T22:13:20Z"

var ollamaModel = object{
	"name": "m", "model": "m", "modified_at": ollamaCreated, "size": 1, "digest": "0123",
	"details": object{"parent_model": "", "format": "gguf", "family": "m", "families": []string{"m"}, "parameter_size": "1B", "quantization_level": "Q4_0"},
}

func ollamaFailure(int) object { return object{"error": "the stand-in says no"} }

// ollamaForm makes a stream of parts, a line each, and of its last line, which
// has the numbers.
func ollamaForm(q question, parts []object, last object) form {
	if q.Stream == nil {
		// These clients always say whether they stream: one that leaves it out
		// would mean a stream, and a whole answer would pass for it.
		return form{whole: object{"error": "the stand-in wants the member stream"}, failure: ollamaFailure}
	}
	var events []string
	line := func(o object, done bool) object {
		o["model"], o["created_at"], o["done"] = q.Model, ollamaCreated, done
		return o
	}
	for _, part := range parts {
		events = append(events, mustJSON(line(part, false))+"\n")
	}
	for name, value := range map[string]any{
		"done_reason": "stop", "total_duration": 5000000, "load_duration": 1000000, "prompt_eval_count": 9,
		"prompt_eval_duration": 1000000, "eval_count": 4, "eval_duration": 3000000,
	} {
		last[name] = value
	}
	whole := line(last, true)
	events = append(events, mustJSON(whole)+"\n")
	return form{
		whole: whole, events: events, contentType: "application/x-ndjson",
		failure: ollamaFailure, failureEvent: mustJSON(ollamaFailure(500)) + "\n",
	}
}

func ollamaChatForm(q question) form {
	says := func(content string) object {
		return object{"message": object{"role": "assistant", "content": content}}
	}
	var parts []object
	for _, word := range words(q) {
		parts = append(parts, says(word))
	}
	last := says("")
	if !q.streams() {
		last = says(sentence(q))
	}
	if len(q.Tools) > 0 {
		call := says("")
		call["message"].(object)["tool_calls"] = []object{{"function": object{"name": "weather", "arguments": object{"city": "Paris"}}}}
		parts = []object{call}
		if !q.streams() {
			last = object{"message": call["message"]}
		}
	}
	return ollamaForm(q, parts, last)
}

func ollamaGenerateForm(q question) form {
	var parts []object
	for _, word := range words(q) {
		parts = append(parts, object{"response": word})
	}
	last := object{"response": "", "context": []int{1, 2, 3}}
	if !q.streams() {
		last["response"] = sentence(q)
	}
	return ollamaForm(q, parts, last)
}

func ollamaEmbedForm(q question) form {
	inputs, _ := q.Input.([]any)
	vectors := [][]float32{}
	for range inputs {
		vectors = append(vectors, []float32{0.25, -0.5, 0.1})
	}
	return form{whole: object{
		"model": q.Model, "embeddings": vectors, "total_duration": 5000000, "load_duration": 1000000, "prompt_eval_count": 2,
	}, failure: ollamaFailure}
}
