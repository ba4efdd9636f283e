package dialect

import "github.com/inferweir/weir"

// openAIResponseEvent is an error in a stream of OpenAI's responses. The
// specification has the flat members; OpenAI's servers send the nested error, and
// only with that does openai-python raise. Both are here, so every client that
// reads either sees it.
type openAIResponseEvent struct {
	Type     string      `json:"type"`
	Code     *string     `json:"code"`
	Message  string      `json:"message"`
	Param    *string     `json:"param"`
	Sequence int64       `json:"sequence_number"`
	Error    openAIError `json:"error"`
}

// errorEvent is p as the last event of a stream that e's upstream began under
// 200, in the form that the API's SDKs raise as an error. A stream that just ends
// reads as success to some of them. The bytes begin on a line of their own.
// sequence numbers the events of OpenAI's responses; other streams ignore it.
func errorEvent(e *endpoint, p *weir.Problem, sequence int64) []byte {
	a, name := apiPlain, ""
	if e != nil {
		a, name = e.api, e.name
	}
	switch {
	case a == apiOpenAI && name == "responses":
		detail := openAIErrorOf(p)
		if detail.Code == nil {
			detail.Code = &detail.Type // clients require a text here
		}
		return event("error", openAIResponseEvent{Type: "error", Code: detail.Code, Message: detail.Message, Sequence: sequence, Error: detail})
	case a == apiOpenAI:
		// Without a name: openai-node and openai-python raise at the member
		// error of any event.
		return event("", openAIBody{Error: openAIErrorOf(p)})
	case a == apiAnthropic:
		return event("error", anthropicEvent{Type: "error", Error: anthropicErrorOf(p)})
	case a == apiOllama: // a stream of lines, not of events
		return append(encode(textBody{Error: message(p)}), '\n')
	}
	return event("error", textBody{Error: message(p)})
}

// event is one event of a text/event-stream; "" gives it no name.
func event(name string, body any) []byte {
	var b []byte
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	return append(append(append(b, "data: "...), encode(body)...), "\n\n"...)
}
