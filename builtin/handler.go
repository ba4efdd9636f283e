package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/inferweir/weir"
)

// What a request may ask for. Beyond it the answer is 400, or 413 for the body.
const (
	// MaxInstances is the most texts in one request.
	MaxInstances = 1024
	// MaxTextBytes is the longest text, in bytes of UTF-8.
	MaxTextBytes = 64 << 10
	// MaxBodyBytes is the longest body of a POST, other than a chat's.
	MaxBodyBytes = 10 << 20
)

const (
	languagePath  = "/predict/language"
	sentimentPath = "/predict/sentiment"
)

// ServeHTTP answers the paths in the package comment. Those under /v1 have
// OpenAI's form, refusals too.
//
// Elsewhere a POST's body is a JSON object with the one member instances, a list
// of texts, whatever its Content-Type says (curl -d says form). The answer has
// one prediction for each text, in their order:
//
//	{"predictions":[{"label":"fr","score":0.931}]}
//
// A GET or HEAD takes its texts from the query's text parameters; others are
// ignored. Every refusal is a weir.Problem that names the place, the value and
// what would be right.
//
// When the request's context ends, so does the work: after the text in hand, and
// within one token of a chat. If nothing was written by then and the context ran
// out of time, the answer is 504. In every other case ServeHTTP panics with
// http.ErrAbortHandler, as a server wants of a handler that breaks off.
func (m *Models) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isOpenAI(r.URL.Path) {
		m.serveOpenAI(w, r)
		return
	}
	answer, problem := m.answer(w, r)
	if r.Context().Err() != nil {
		endRequest(w, r)
		return
	}
	if problem != nil {
		problem.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(answer) // a client that has left needs no answer
	}
}

// answer makes the answer to r. If r's context has ended, it may not be whole.
func (m *Models) answer(w http.ResponseWriter, r *http.Request) ([]byte, *weir.Problem) {
	predict, texts, problem := m.route(w, r)
	if problem != nil {
		return nil, problem
	}
	answer, err := json.Marshal(map[string][]Prediction{"predictions": predictAll(r.Context(), texts, predict)})
	if err != nil { // strings and finite numbers only: cannot happen
		return nil, &weir.Problem{Err: fmt.Errorf("builtin: predictions: %w", err)}
	}
	return append(answer, '\n'), nil
}

// route returns the model that r asks for and the texts to predict.
func (m *Models) route(w http.ResponseWriter, r *http.Request) (func(string) Prediction, []string, *weir.Problem) {
	var predict func(string) Prediction
	switch r.URL.Path {
	case languagePath:
		predict = m.Language
	case sentimentPath:
		predict = m.Sentiment
	default:
		return nil, nil, &weir.Problem{
			Status: http.StatusNotFound,
			Detail: fmt.Sprintf("%s: want %s or %s, by POST or by GET with ?text=..., or %s, %s or %s",
				quote(r.URL.Path), languagePath, sentimentPath, chatPath, embeddingsPath, modelsPath),
		}
	}
	var texts []string
	var problem *weir.Problem
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		texts, problem = queryTexts(r.URL.RawQuery)
	case http.MethodPost:
		texts, problem = bodyTexts(w, r)
	default:
		problem = notAllowed(r.Method, "GET, HEAD, POST")
	}
	return predict, texts, problem
}

func notAllowed(method, allow string) *weir.Problem {
	return &weir.Problem{
		Status: http.StatusMethodNotAllowed,
		Detail: fmt.Sprintf("%s: want %s", quote(method), allow),
		Header: http.Header{"Allow": {allow}},
	}
}

// endRequest ends a request whose context ended before any of its answer was
// written.
func endRequest(w http.ResponseWriter, r *http.Request) {
	problem := weir.Ended(r.Context())
	switch {
	case problem == nil:
		panic(http.ErrAbortHandler) // whoever asked has left, or answers without us
	case isOpenAI(r.URL.Path):
		(&apiError{status: problem.Status, message: problem.Detail}).write(w)
	default:
		problem.ServeHTTP(w, r)
	}
}

// predictAll stops between texts when ctx ends: one text takes some tens of
// milliseconds at most.
func predictAll(ctx context.Context, texts []string, predict func(string) Prediction) []Prediction {
	predictions := make([]Prediction, 0, len(texts))
	for _, text := range texts {
		if ctx.Err() != nil {
			break
		}
		predictions = append(predictions, predict(text))
	}
	return predictions
}

func badRequest(format string, args ...any) *weir.Problem {
	return &weir.Problem{Status: http.StatusBadRequest, Detail: fmt.Sprintf(format, args...)}
}

// queryTexts returns the text parameters of a query.
func queryTexts(query string) ([]string, *weir.Problem) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, badRequest("query: %v: want ?text=... with every special character as %%XX", err)
	}
	texts := values["text"]
	if len(texts) == 0 {
		return nil, badRequest("query: no text: want ?text=..., once for each text")
	}
	if len(texts) > MaxInstances {
		return nil, badRequest("text: %d texts: want at most %d", len(texts), MaxInstances)
	}
	for i, text := range texts {
		if err := checkText(text); err != nil {
			return nil, badRequest("text[%d]: %v", i, err)
		}
	}
	return texts, nil
}

func checkText(text string) error {
	if len(text) > MaxTextBytes {
		return fmt.Errorf("%d bytes: want at most %d", len(text), MaxTextBytes)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s: want UTF-8", quote(text))
	}
	return nil
}

// bodyTexts reads and takes apart the body of a POST.
func bodyTexts(w http.ResponseWriter, r *http.Request) ([]string, *weir.Problem) {
	body, problem := readBody(w, r, MaxBodyBytes)
	if problem != nil {
		return nil, problem
	}
	texts, err := parseInstances(body)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return texts, nil
}

// readBody reads a body of at most so many bytes.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *weir.Problem) {
	tooLarge := &weir.Problem{
		Status: http.StatusRequestEntityTooLarge,
		Detail: fmt.Sprintf("body: want at most %d bytes", most),
	}
	if r.ContentLength > most {
		return nil, tooLarge
	}
	from := r.Body
	if from == nil { // possible in a request that no server read
		from = http.NoBody
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, from, most))
	if limit := (*http.MaxBytesError)(nil); errors.As(err, &limit) {
		return nil, tooLarge
	}
	if err != nil {
		problem := badRequest("body: it ended before it was whole")
		problem.Err = err
		return nil, problem
	}
	return body, nil
}

// quote shows part of what a client sent, short enough to read.
func quote(s string) string {
	const most = 40
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}
