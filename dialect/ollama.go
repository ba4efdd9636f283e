package dialect

// Ollama returns the dialect of Ollama: its own API below /api/, OpenAI's and
// Anthropic's below /v1/. What changes the server's models or its account Manages.
func Ollama() *Dialect {
	own := []*endpoint{
		{name: "api/generate", match: endsIn("/api/generate"), request: ollamaRequest("/prompt", "/suffix", "/system", "/images", "/context"), answers: ollamaGenerateAnswers(), forms: ollamaForms(generateText)},
		{name: "api/chat", match: endsIn("/api/chat"), request: ollamaRequest("/messages", "/tools"), answers: ollamaChatAnswers(), forms: ollamaForms(chatText)},
		{name: "api/embed", match: endsIn("/api/embed"), request: embeddingRequest(), answers: ollamaEmbedAnswers(), batch: ollamaEmbedBatch()},
		{name: "api/embeddings", match: endsIn("/api/embeddings"), request: ollamaPromptRequest(), answers: ollamaEmbedAnswers()},
	}
	for _, e := range own {
		e.api = apiOllama
	}
	// The server has one account for all: who signs it out, by the newer call or by
	// taking its key away, signs everybody out.
	own = append(own, changes(apiOllama, "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete",
		"/api/signout", "/api/experimental/aliases")...)
	own = append(own, changesBelow(apiOllama, "/api/blobs"), changesBelow(apiOllama, "/api/user/keys"))
	return &Dialect{
		name:      "ollama",
		api:       apiOllama,
		aliases:   true,
		areas:     []area{{"/v1/", apiOpenAI}},
		endpoints: append(own, openAIEndpoints()...),
	}
}

// ollamaRequest streams unless told not to.
func ollamaRequest(texts ...string) *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleOptions:     {"/stream_options"}, // not the API's
			roleTemperature: {"/options/temperature"},
			roleSeed:        {"/options/seed"},
			roleCap:         outputCaps(),
			roleText:        texts,
		},
		streams:  unlessNot,
		sampling: sampled,
	}.compiled()
}

// ollamaPromptRequest is that of the older endpoint for embeddings: one text.
func ollamaPromptRequest() *requestForm {
	return requestForm{pointers: [roles][]string{roleModel: {"/model"}, roleText: {"/prompt"}}}.compiled()
}
