package builtin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/inferweir/weir/internal/jsonscan"
)

// MaxInputs is the most texts in one request for embeddings, as at OpenAI.
// MaxTextBytes and MaxBodyBytes hold there too.
const MaxInputs = 2048

// embedRequest is what a client asks of /v1/embeddings.
type embedRequest struct {
	texts      []string
	dimensions int
	base64     bool
}

// embedded is one element of the answer's data.
type embedded struct {
	Object string `json:"object"`
	Index  int    `json:"index"`
	// Embedding is a []float32, or a string: its bytes, little-endian, in base64.
	Embedding any `json:"embedding"`
}

// embeddings is the answer, in OpenAI's form.
type embeddings struct {
	Object string     `json:"object"`
	Data   []embedded `json:"data"`
	Model  string     `json:"model"`
	Usage  embedUsage `json:"usage"`
}

// embedUsage has the same number twice: an embedding has no completion.
type embedUsage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

// serveEmbeddings answers POST /v1/embeddings in OpenAI's form. The body is read
// as JSON whatever its Content-Type says, and members that it does not know are
// ignored, for clients send more each year. When the request's context ends, so
// does the work, after the text in hand.
func (m *Models) serveEmbeddings(w http.ResponseWriter, r *http.Request) {
	answer, refusal := m.answerEmbeddings(w, r)
	if r.Context().Err() != nil {
		endRequest(w, r)
		return
	}
	if refusal != nil {
		if refusal.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		refusal.write(w)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // a client that has left needs no answer
}

// answerEmbeddings makes the answer to r. If r's context has ended, it may not be
// whole.
func (m *Models) answerEmbeddings(w http.ResponseWriter, r *http.Request) ([]byte, *apiError) {
	if r.Method != http.MethodPost {
		return nil, &apiError{status: http.StatusMethodNotAllowed, message: quote(r.Method) + ": want POST"}
	}
	body, refusal := readAPIBody(w, r, MaxBodyBytes)
	if refusal != nil {
		return nil, refusal
	}
	request, refusal := m.embedding.parse(body)
	if refusal != nil {
		return nil, refusal
	}
	answer, err := json.Marshal(m.embedding.embedAll(r.Context(), request))
	if err != nil { // strings and finite numbers only: cannot happen
		return nil, &apiError{status: http.StatusInternalServerError, message: "the embeddings are no JSON"}
	}
	return append(answer, '\n'), nil
}

// parse reads a body and checks it against the model.
func (e *embedding) parse(body []byte) (*embedRequest, *apiError) {
	members, err := jsonscan.Compile("", "/model", "/input", "/encoding_format", "/dimensions")
	if err != nil { // these pointers are right: cannot happen
		return nil, &apiError{status: http.StatusInternalServerError, message: "the request cannot be read"}
	}
	values, err := members.Find(nil, body, jsonscan.DefaultDepth)
	if err != nil {
		return nil, invalid(embedDuplicate(err), "body: %v", err)
	}
	if kind := values[0].Kind(); kind != jsonscan.Object {
		return nil, invalid("", `body: %s: want an object such as {"model": %q, "input": "text"}`, showValue(values[0]), embedModel)
	}
	name, ok := values[1].Text()
	switch {
	case !ok:
		return nil, invalid("model", "model: %s: want %q", showValue(values[1]), embedModel)
	case name != embedModel:
		return nil, noModel(name, fmt.Sprintf("%q for embeddings", embedModel))
	}
	request := &embedRequest{}
	var refusal *apiError
	if request.texts, refusal = embedInput(values[2]); refusal != nil {
		return nil, refusal
	}
	if request.base64, refusal = embedFormat(values[3]); refusal != nil {
		return nil, refusal
	}
	request.dimensions, refusal = e.dimensions(values[4])
	return request, refusal
}

// embedDuplicate returns which of the members that matter err says is there twice.
func embedDuplicate(err error) string {
	switch name := duplicate(err); name {
	case "model", "input", "encoding_format", "dimensions":
		return name
	}
	return ""
}

// embedInput returns the texts of a request.
func embedInput(v jsonscan.Value) ([]string, *apiError) {
	const param, want = "input", "want a text or a list of texts"
	switch v.Kind() {
	case jsonscan.String:
		text, _ := v.Text()
		if refusal := checkInput(param, text); refusal != nil {
			return nil, refusal
		}
		return []string{text}, nil
	case jsonscan.Array:
	default:
		return nil, invalid(param, "input: %s: %s", showValue(v), want)
	}
	d := json.NewDecoder(bytes.NewReader(v.Raw()))
	d.UseNumber()       // numbers are shown as they were sent
	_, _ = d.Token()    // the bracket: it is there
	texts := []string{} // the list is JSON, so that Token has no errors
	for d.More() {
		if len(texts) == MaxInputs {
			return nil, invalid(param, "input: more than %d texts: want at most %d", MaxInputs, MaxInputs)
		}
		place := fmt.Sprintf("input[%d]", len(texts))
		switch t, _ := d.Token(); t := t.(type) {
		case string:
			if refusal := checkInput(place, t); refusal != nil {
				return nil, refusal
			}
			texts = append(texts, t)
		case json.Number:
			return nil, invalid(param, "%s: %s: %s has no token ids: %s", place, show(t), embedModel, want)
		default:
			if t == json.Delim('[') {
				return nil, invalid(param, "%s: a list: %s has no token ids: %s", place, embedModel, want)
			}
			return nil, invalid(param, "%s: %s: want a text", place, show(t))
		}
	}
	if len(texts) == 0 {
		return nil, invalid(param, "input: an empty list: want at least one text")
	}
	return texts, nil
}

func checkInput(place, text string) *apiError {
	if text == "" {
		return invalid("input", "%s: an empty text: want at least one character", place)
	}
	if len(text) > MaxTextBytes {
		return invalid("input", "%s: %d bytes: want at most %d", place, len(text), MaxTextBytes)
	}
	return nil
}

// embedFormat tells whether a request wants base64. Null is like nothing, as some
// clients send it for every member that was not set.
func embedFormat(v jsonscan.Value) (inBase64 bool, refusal *apiError) {
	format, _ := v.Text()
	switch kind := v.Kind(); {
	case kind == jsonscan.Missing, kind == jsonscan.Null, format == "float":
		return false, nil
	case format == "base64":
		return true, nil
	}
	return false, invalid("encoding_format", `encoding_format: %s: want "float" or "base64"`, showValue(v))
}

// dimensions returns how many numbers of each vector a request wants.
func (e *embedding) dimensions(v jsonscan.Value) (int, *apiError) {
	if kind := v.Kind(); kind == jsonscan.Missing || kind == jsonscan.Null {
		return e.dim, nil
	}
	n, err := v.Int()
	if err != nil || n < 1 || n > int64(e.dim) {
		return 0, invalid("dimensions", "dimensions: %s: want an integer from 1 to %d", showValue(v), e.dim)
	}
	return int(n), nil
}

// showValue gives a value as far as a message needs it.
func showValue(v jsonscan.Value) string {
	switch v.Kind() {
	case jsonscan.Missing:
		return "missing"
	case jsonscan.Array:
		return "a list"
	case jsonscan.Object:
		return "an object"
	case jsonscan.String:
		text, _ := v.Text()
		return quote(text)
	case jsonscan.Null, jsonscan.Bool, jsonscan.Number:
	}
	return show(json.Number(v.Raw()))
}

// embedAll stops between texts when ctx ends: one text takes some ten
// milliseconds at most.
func (e *embedding) embedAll(ctx context.Context, request *embedRequest) *embeddings {
	made := &embeddings{Object: "list", Data: make([]embedded, 0, len(request.texts)), Model: embedModel}
	for i, text := range request.texts {
		if ctx.Err() != nil {
			break
		}
		vector, words := e.embed(text)
		if request.dimensions < len(vector) {
			vector = vector[:request.dimensions]
			toUnit(vector)
		}
		made.Usage.PromptTokens += words
		one := embedded{Object: "embedding", Index: i, Embedding: vector}
		if request.base64 {
			one.Embedding = inBase64(vector)
		}
		made.Data = append(made.Data, one)
	}
	made.Usage.TotalTokens = made.Usage.PromptTokens
	return made
}

// inBase64 is how OpenAI's clients ask for a vector unless told otherwise: it
// is shorter, and exact.
func inBase64(vector []float32) string {
	raw := make([]byte, 0, 4*len(vector))
	for _, v := range vector {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return base64.StdEncoding.EncodeToString(raw)
}
