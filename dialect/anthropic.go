package dialect

import "strings"

// Anthropic returns the dialect of Anthropic's API. Its models and batches are
// passed on unread.
func Anthropic() *Dialect {
	return &Dialect{name: "anthropic", api: apiAnthropic, endpoints: messageEndpoints("/messages")}
}

// messageEndpoints are those of Anthropic's API, on paths that end in suffix.
func messageEndpoints(suffix string) []*endpoint {
	return []*endpoint{
		{name: "messages/count_tokens", api: apiAnthropic, match: notThreads(suffix + "/count_tokens"), request: modelRequest(), answers: countAnswers()},
		{name: "messages", api: apiAnthropic, match: notThreads(suffix), request: messageRequest(), answers: messageAnswers(), forms: messageForms()},
	}
}

// notThreads is endsIn without the messages of OpenAI's threads,
// /v1/threads/{id}/messages, whatever the thread is called.
func notThreads(suffix string) func(string) (string, bool) {
	ends := endsIn(suffix)
	return func(path string) (string, bool) {
		if strings.Contains(path, "/threads/") {
			return "", false
		}
		return ends(path)
	}
}

// messageRequest has no seed: the API takes none.
func messageRequest() *requestForm {
	return requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleOptions:     {"/stream_options"}, // not the API's
			roleTemperature: {"/temperature"},
			roleCap:         outputCaps(),
			roleText:        {"/system", "/messages", "/tools"},
			roleUnsteady:    {"/container", "/mcp_servers"},
			roleTools:       {"/tools"},
		},
		sampling: sampled,
	}.compiled()
}
