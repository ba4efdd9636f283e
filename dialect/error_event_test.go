package dialect

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/sse"
)

func TestErrorEvent(t *testing.T) {
	cut := weir.Problem{Status: 502, Detail: "Upstream \"llm\" broke off.\nSorry."}
	slow := weir.Problem{Status: 504, Detail: "Too slow."}
	busy := weir.Problem{Status: 503, Detail: "Busy.", RetryAfter: time.Second}
	of := func(a api, name string) *endpoint { return &endpoint{api: a, name: name} }
	for _, c := range []struct {
		name string
		e    *endpoint
		p    weir.Problem
		want string
	}{
		{"is an event without a name for openai", of(apiOpenAI, "chat/completions"), cut,
			`data: {"error":{"message":"Upstream \"llm\" broke off.\nSorry.","type":"server_error","param":null,"code":null}}` + "\n\n"},
		{"says timeout to openai", of(apiOpenAI, "completions"), slow,
			`data: {"error":{"message":"Too slow.","type":"server_error","param":null,"code":"timeout"}}` + "\n\n"},
		{"has the documented and the nested members for openai's responses, and a code in both", of(apiOpenAI, "responses"), cut,
			"event: error\n" + `data: {"type":"error","code":"server_error","message":"Upstream \"llm\" broke off.\nSorry.","param":null,"sequence_number":7,` +
				`"error":{"message":"Upstream \"llm\" broke off.\nSorry.","type":"server_error","param":null,"code":"server_error"}}` + "\n\n"},
		{"keeps a code of openai's responses", of(apiOpenAI, "responses"), busy,
			"event: error\n" + `data: {"type":"error","code":"server_is_overloaded","message":"Busy.","param":null,"sequence_number":7,` +
				`"error":{"message":"Busy.","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}` + "\n\n"},
		{"is named error for anthropic", of(apiAnthropic, "messages"), cut,
			"event: error\n" + `data: {"type":"error","error":{"type":"api_error","message":"Upstream \"llm\" broke off.\nSorry."}}` + "\n\n"},
		{"says timeout to anthropic", of(apiAnthropic, "messages"), slow,
			"event: error\n" + `data: {"type":"error","error":{"type":"timeout_error","message":"Too slow."}}` + "\n\n"},
		{"says overloaded to anthropic", of(apiAnthropic, "messages"), busy,
			"event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"Busy."}}` + "\n\n"},
		{"is a line for ollama", of(apiOllama, "chat"), cut, `{"error":"Upstream \"llm\" broke off.\nSorry."}` + "\n"},
		{"is an event with a text for triton", of(apiKServe, "generate_stream"), slow, "event: error\n" + `data: {"error":"Too slow."}` + "\n\n"},
		{"is an event with a text where no API is known", nil, weir.Problem{}, "event: error\n" + `data: {"error":"Internal Server Error"}` + "\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := errorEvent(c.e, &c.p, 7)
			if string(got) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if c.e != nil && c.e.api == apiOllama {
				return
			}
			var s sse.Splitter
			if _, err := s.Write(got); err != nil {
				t.Fatal(err)
			}
			frame, ok := s.Next()
			if !ok || !json.Valid(frame.Data) || len(s.Rest()) > 0 {
				t.Errorf("%q is not one whole event of JSON: data %q, and %q left over", got, frame.Data, s.Rest())
			}
		})
	}
}
