package dialect

import "bytes"

// KServe returns the dialect of KServe's two protocols and of what Triton adds to
// the second; below /openai/ it is OpenAI's.
func KServe() *Dialect {
	own := []*endpoint{
		{name: "predict", match: modelBelow("/v1/models/", ":predict"), request: instanceRequest("/instances"), answers: inferAnswers(), batch: instanceBatch()},
		{name: "explain", match: modelBelow("/v1/models/", ":explain"), request: instanceRequest("/instances"), answers: inferAnswers()},
		{name: "infer", match: modelBelow("/v2/models/", "/infer", "/versions/"), request: inferRequest(), answers: inferAnswers(), batch: tensorBatch()},
		{name: "generate", match: modelBelow("/v2/models/", "/generate", "/versions/"), request: generateRequest(ifAsked), answers: inferAnswers()},
		{name: "generate_stream", match: modelBelow("/v2/models/", "/generate_stream", "/versions/"), request: generateRequest(always), answers: inferStreamAnswers()},
	}
	for _, e := range own {
		e.api = apiKServe
	}
	// Shared memory maps the server's own; the settings of traces and logs name
	// files that it writes.
	for _, folder := range []string{"/v2/repository", "/v2/systemsharedmemory", "/v2/cudasharedmemory", "/v2/logging", "/v2/trace"} {
		own = append(own, changesBelow(apiKServe, folder))
	}
	own = append(own, changes(apiKServe, "/trace/setting")...)
	for _, e := range append(openAIEndpoints(), openAIChanges()...) {
		own = append(own, below("/openai/", e))
	}
	return &Dialect{
		name:      "kserve",
		api:       apiKServe,
		areas:     []area{{"/openai/", apiOpenAI}},
		endpoints: own,
	}
}

// instanceRequest has its items in a list. Members beside it are the server's;
// where it runs a language model they may hold a temperature.
func instanceRequest(items string) *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleTemperature: {"/temperature", "/parameters/temperature"},
			roleSeed:        {"/seed", "/parameters/seed"},
			roleCap:         outputCaps(),
			roleText:        {items, "/inputs"},
			roleItems:       {items},
		},
		count: countList,
	}.compiled()
}

func inferRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleTemperature: {"/temperature", "/parameters/temperature"},
			roleSeed:        {"/seed", "/parameters/seed"},
			roleCap:         outputCaps(),
			roleText:        {"/inputs"},
			roleItems:       {"/inputs/0/shape/0"},
			roleUnsteady:    sequence(),
		},
		count:   countRows,
		orFiles: isBinary,
	}.compiled()
}

// sequence are Triton's parameters for models that remember: what they answer
// depends on the requests before.
func sequence() []string {
	return []string{"/parameters/sequence_id", "/parameters/sequence_start", "/parameters/sequence_end"}
}

// isBinary reports whether the tensors stand behind the JSON: then body as a
// whole is none. (A request that is JSON altogether may ask for a binary answer.)
func isBinary(body []byte) bool {
	return bytes.Contains(body, []byte(`"binary_data_size"`))
}

func generateRequest(s streaming) *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleStream:      {"/stream"},
			roleTemperature: {"/temperature", "/parameters/temperature"},
			roleSeed:        {"/seed", "/parameters/seed", "/random_seed"},
			roleCap:         outputCaps(),
			roleText:        {"/text_input", "/images"},
			roleUnsteady:    sequence(),
		},
		streams: s,
		// The backends that write text, vLLM and TensorRT-LLM, sample unless told.
		sampling: sampled,
	}.compiled()
}
