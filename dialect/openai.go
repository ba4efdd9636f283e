package dialect

import (
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// OpenAI returns the dialect of OpenAI's API and of the many servers that have
// taken it over: vLLM, SGLang, Azure, LiteLLM, TGI. Their Anthropic endpoint,
// /v1/messages, is known, too. A prefix before the paths does not matter.
func OpenAI() *Dialect {
	return &Dialect{
		name:      "openai",
		api:       apiOpenAI,
		areas:     []area{{"/v1/messages/batches", apiAnthropic}},
		endpoints: append(openAIEndpoints(), openAIChanges()...),
	}
}

// openAIChanges are the calls for the operators of servers that have OpenAI's API.
// Those of vLLM are mostly there in its development mode alone, those of SGLang
// are always, and without an admin key open to everybody.
func openAIChanges() []*endpoint {
	all := changes(apiOpenAI,
		// vLLM's: what is loaded there is a model to everybody.
		"/load_lora_adapter", "/unload_lora_adapter",
		// llama.cpp's and LM Studio's.
		"/lora-adapters", "/models/load", "/models/unload",
		"/sleep", "/wake_up", "/collective_rpc", "/scale_elastic_ep",
		"/pause_generation", "/continue_generation", "/abort_request", "/abort_requests",
		"/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/flush_cache", "/clear_hicache_storage_backend", "/hicache/storage-backend",
		"/start_profile", "/stop_profile", "/configure_logging", "/set_trace_level", "/set_internal_state", "/freeze_gc",
		"/start_expert_distribution_record", "/stop_expert_distribution_record", "/dump_expert_distribution_record",
		"/release_memory_occupation", "/resume_memory_occupation",
		"/update_weights", "/update_weights_from_disk", "/update_weights_from_tensor", "/update_weights_from_distributed",
		"/update_weights_from_ipc", "/update_weight_version",
		"/init_weight_transfer_engine", "/init_weights_update_group", "/destroy_weights_update_group",
		"/init_weights_send_group_for_remote_instance", "/send_weights_to_remote_instance",
	)
	// vLLM's stop the whole server. OpenAI's, /v1/fine_tuning/jobs/{id}/pause, a
	// job of the caller.
	for _, e := range changes(apiOpenAI, "/pause", "/resume") {
		match := e.match
		e.match = func(path string) (string, bool) {
			if strings.Contains(path, "/fine_tuning/") {
				return "", false
			}
			return match(path)
		}
		all = append(all, e)
	}
	return all
}

// openAIEndpoints are those of OpenAI's API and of the servers that extend it.
// The first that matches counts: /chat/completions ends in /completions.
func openAIEndpoints() []*endpoint {
	chat := &endpoint{name: "chat/completions", match: deployed("/chat/completions"), request: chatRequest(), answers: chatAnswers(), forms: chatForms()}
	completion := &endpoint{name: "completions", match: deployed("/completions"), request: completionRequest(), answers: completionAnswers(), forms: completionForms()}
	embedding := &endpoint{name: "embeddings", match: deployed("/embeddings"), request: embeddingRequest(), answers: embeddingAnswers(), batch: embeddingBatch()}
	all := []*endpoint{
		chat,
		completion,
		embedding,
		{name: "chat/completions/batch", match: deployed("/chat/completions/batch"), request: chatBatchRequest(), answers: chatAnswers()},
		{name: "invocations", match: endsIn("/invocations"), request: invocationRequest(), answers: embeddingAnswers(), either: &either{
			// vLLM's order: what it cannot take for a chat it tries as the next.
			members: mustCompile("/messages", "/prompt", "/input"),
			are:     []*endpoint{chat, completion, embedding},
		}},
		{name: "responses", match: deployed("/responses"), request: responseRequest(), answers: responseAnswers(), forms: responseForms()},
		{name: "embed", match: deployed("/v2/embed"), request: embedRequest(), answers: embeddingAnswers()},
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

// deployed matches paths that end in suffix. The model may stand before it.
func deployed(suffix string) func(string) (string, bool) {
	return func(path string) (string, bool) {
		before, ok := strings.CutSuffix(path, suffix)
		if !ok {
			return "", false
		}
		return modelOf(before), true
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

// chatBatchRequest is vLLM's: chatRequest with several conversations in one body,
// each of which is answered. It has neither streams nor tools.
func chatBatchRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleTemperature: {"/temperature"},
			roleSeed:        {"/seed"},
			roleCap:         outputCaps(),
			roleAnswers:     {"/n", "/best_of"},
			roleText:        {"/messages"},
			roleItems:       {"/messages"},
		},
		sampling: sampled,
		count:    countList,
		prompts:  true,
	}.compiled()
}

// invocationRequest is for the bodies at SageMaker's endpoint that are none of
// those with an endpoint of their own here: rerank, score, classify, pooling.
func invocationRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:  {"/model"},
			roleStream: {"/stream"},
			roleCap:    outputCaps(),
			roleText:   {"/query", "/documents", "/text_1", "/text_2", "/queries", "/items", "/data"},
		},
		sampling: varied,
		count:    func(jsonscan.Value) int { return 0 },
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
			roleOptions:     {"/stream_options"},
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

// embedRequest is Cohere's form of embeddings. Its max_tokens cuts inputs.
func embedRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{roleModel: {"/model"}, roleText: {"/texts", "/images", "/inputs"}, roleItems: {"/texts"}},
		count:    countList,
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
	return requestForm{pointers: [roles][]string{
		roleModel: {"/model"},
		roleLarge: {"/messages", "/prompt", "/tokens", "/system", "/tools"},
	}}.compiled()
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
