package dialect

import "strings"

// OpenAI returns the dialect of OpenAI's API and of the many servers that have
// taken it over: vLLM, SGLang, Azure, LiteLLM, TGI. Their Anthropic endpoint,
// /v1/messages, is known, too. A prefix before the paths does not matter.
func OpenAI() *Dialect {
	return &Dialect{
		name:  "openai",
		api:   apiOpenAI,
		areas: []area{{"/v1/messages/batches", apiAnthropic}},
		// vLLM's: what is loaded there is a model to everybody.
		endpoints: append(openAIEndpoints(), changes(apiOpenAI, "/load_lora_adapter", "/unload_lora_adapter")...),
	}
}

// openAIEndpoints are those of OpenAI's API and of the servers that extend it.
// The first that matches counts: /chat/completions ends in /completions.
func openAIEndpoints() []*endpoint {
	all := []*endpoint{
		{name: "chat/completions", match: deployed("/chat/completions"), request: chatRequest(), answers: chatAnswers()},
		{name: "completions", match: deployed("/completions"), request: completionRequest(), answers: completionAnswers()},
		{name: "responses", match: deployed("/responses"), request: responseRequest(), answers: responseAnswers()},
		{name: "embeddings", match: deployed("/embeddings"), request: embeddingRequest(), answers: embeddingAnswers(), batch: embeddingBatch()},
		{name: "moderations", match: deployed("/moderations"), request: inputRequest(), answers: embeddingAnswers()},
		{name: "rerank", match: deployed("/rerank"), request: rerankRequest(), answers: embeddingAnswers()},
		{name: "score", match: deployed("/score"), request: scoreRequest(), answers: embeddingAnswers()},
		{name: "classify", match: deployed("/classify"), request: inputRequest(), answers: embeddingAnswers()},
		{name: "pooling", match: deployed("/pooling"), request: inputRequest(), answers: embeddingAnswers()},
		{name: "tokenize", match: deployed("/tokenize"), request: modelRequest(), answers: embeddingAnswers()},
		{name: "detokenize", match: deployed("/detokenize"), request: modelRequest(), answers: embeddingAnswers()},
		{name: "audio/transcriptions", match: deployed("/audio/transcriptions"), request: audioRequest(), answers: mediaAnswers()},
		{name: "audio/translations", match: deployed("/audio/translations"), request: audioRequest(), answers: mediaAnswers()},
		{name: "audio/speech", match: deployed("/audio/speech"), request: mediaRequest("/input", "/instructions"), answers: mediaAnswers()},
		{name: "images/generations", match: deployed("/images/generations"), request: mediaRequest("/prompt"), answers: mediaAnswers()},
		{name: "images/edits", match: deployed("/images/edits"), request: mediaRequest("/prompt"), answers: mediaAnswers()},
	}
	for _, e := range all {
		e.api = apiOpenAI
	}
	return append(all, messageEndpoints("/v1/messages")...)
}

// deployed matches paths that end in suffix. In Azure's paths, which LiteLLM has
// as well, the model stands before it, /openai/deployments/{model}/..., and there
// both servers do not look at the body's.
func deployed(suffix string) func(string) (string, bool) {
	return func(path string) (string, bool) {
		before, ok := strings.CutSuffix(path, suffix)
		if !ok {
			return "", false
		}
		if _, model, ok := strings.Cut(before, "/deployments/"); ok && oneStep(model) {
			return model, true
		}
		return "", true
	}
}

// outputCaps are all the names for the most tokens of one answer. Servers that
// take two of them disagree about which counts, so the largest is reserved.
func outputCaps() []string {
	return []string{
		"/max_tokens", "/max_completion_tokens", "/max_output_tokens", "/max_new_tokens", "/max_tokens_to_sample",
		"/options/num_predict", "/parameters/max_new_tokens", "/parameters/max_tokens",
	}
}

func chatRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleOptions:     {"/stream_options"},
			roleUsage:       {"/stream_options/include_usage"},
			roleTemperature: {"/temperature"},
			roleSeed:        {"/seed"},
			roleCap:         outputCaps(),
			roleAnswers:     {"/n", "/best_of"},
			roleText:        {"/messages", "/tools", "/functions"},
			roleUnsteady:    {"/web_search_options", "/plugins"}, // OpenAI's and OpenRouter's
			roleTools:       {"/tools"},
		},
		sampling: sampled,
	}.compiled()
}

func completionRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleOptions:     {"/stream_options"},
			roleUsage:       {"/stream_options/include_usage"},
			roleTemperature: {"/temperature"},
			roleSeed:        {"/seed"},
			roleCap:         outputCaps(),
			roleAnswers:     {"/n", "/best_of"},
			roleText:        {"/prompt", "/suffix"},
			roleItems:       {"/prompt"},
		},
		sampling: sampled,
		count:    countTexts,
		prompts:  true,
	}.compiled()
}

// responseRequest has no seed: the API takes none.
func responseRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleTemperature: {"/temperature"},
			roleCap:         outputCaps(),
			roleAnswers:     {"/n"},
			roleText:        {"/input", "/instructions", "/tools"},
			roleUnsteady:    {"/background", "/conversation"},
			roleTools:       {"/tools"},
		},
		sampling: sampled,
	}.compiled()
}

func embeddingRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{roleModel: {"/model"}, roleText: {"/input", "/messages"}, roleItems: {"/input"}},
		count:    countTexts,
	}.compiled()
}

// inputRequest is embeddingRequest for classifiers, whose inputs are named the
// same, but which take other things than text, too.
func inputRequest() *requestForm { return embeddingRequest() }

func rerankRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{roleModel: {"/model"}, roleText: {"/query", "/documents"}, roleItems: {"/documents"}},
		count:    countList,
	}.compiled()
}

func scoreRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel: {"/model"},
			roleText:  {"/text_1", "/text_2", "/queries", "/documents", "/items"},
			roleItems: {"/text_2"},
		},
		count: countTexts,
	}.compiled()
}

// modelRequest is for what runs no model, and so costs no tokens.
func modelRequest() *requestForm {
	return requestForm{pointers: [roles][]string{roleModel: {"/model"}}}.compiled()
}

// audioRequest is mostly an upload.
func audioRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleTemperature: {"/temperature"},
			roleSeed:        {"/seed"},
			roleText:        {"/prompt"},
		},
		sampling: sampled,
		orFiles:  isForm,
	}.compiled()
}

// mediaRequest is for what makes sound and pictures of text.
func mediaRequest(texts ...string) *requestForm {
	return requestForm{
		pointers: [roles][]string{roleModel: {"/model"}, roleStream: {"/stream"}, roleAnswers: {"/n"}, roleText: texts},
		sampling: varied,
		orFiles:  isForm,
	}.compiled()
}
