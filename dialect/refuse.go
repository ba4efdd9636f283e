package dialect

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir"
)

// longWait is the wait beyond which Problem.SetHeader tells clients not to come
// back by themselves. Bodies that say so, too, must say it for the same waits.
const longWait = time.Minute

// statusOverloaded is what Anthropic's API answers where others answer 503.
const statusOverloaded = 529

// Refusal is what Refuse answers with.
type Refusal struct {
	Problem *weir.Problem
	// Path is the request's, for an API's form to be found.
	Path string
	// RequestID names the request in the log. Anthropic's form holds it, in the
	// body and as the field Request-Id; "" leaves it out.
	RequestID string
}

// Refuse writes a refusal in the form of the path's API: status, fields and body.
// It sets the fields of Problem.SetHeader and leaves those that describe limits
// alone. On paths of no known API it is Problem.ServeHTTP.
//
// What clients do by themselves depends on it: Anthropic's answer 503 as 529, and
// a quota that is used up for more than a minute is insufficient_quota in OpenAI's.
func (d *Dialect) Refuse(w http.ResponseWriter, r Refusal) {
	h, p, a := w.Header(), r.Problem, d.apiOf(r.Path)
	status, body := statusOf(p), any(nil)
	switch a {
	case apiOpenAI:
		body = openAIBody{Error: openAIErrorOf(p)}
	case apiAnthropic:
		body = anthropicBodyOf(p, r.RequestID)
		if status == http.StatusServiceUnavailable {
			status = statusOverloaded
		}
	case apiOllama, apiKServe:
		body = textBody{Error: message(p)}
	default:
		p.ServeHTTP(w, nil)
		return
	}
	p.SetHeader(h)
	if a == apiAnthropic && r.RequestID != "" {
		h["Request-Id"] = []string{r.RequestID}
	}
	text := append(encode(body), '\n')
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	// A refusal is about this caller and this moment: no cache may reuse it.
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has left needs no answer
}

// encode is json.Marshal for bodies, which hold strings and integers only. The
// text has no line break in it, so it can stand in an event.
func encode(body any) []byte {
	text, err := json.Marshal(body)
	if err != nil { // cannot happen
		return []byte(`{"error":"internal error"}`)
	}
	return text
}

func statusOf(p *weir.Problem) int {
	if p.Status == 0 {
		return http.StatusInternalServerError
	}
	return p.Status
}

// message is what the client may read. It is never empty: SDKs show an empty one
// as "undefined", and some take it for no error.
func message(p *weir.Problem) string {
	for _, text := range []string{p.Detail, p.Title, http.StatusText(statusOf(p))} {
		if text != "" {
			return text
		}
	}
	return "The request failed with status " + strconv.Itoa(statusOf(p)) + "."
}
