package clients_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// object is a JSON object.
type object = map[string]any

// question is what a request asks for, in the words of all APIs.
type question struct {
	Model         string `json:"model"`
	Stream        *bool  `json:"stream"` // Ollama's default is true
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Tools          []any  `json:"tools"`
	Input          any    `json:"input"`
	EncodingFormat string `json:"encoding_format"`
}

func (q question) streams() bool { return q.Stream != nil && *q.Stream }

// form is an answer in one API's words.
type form struct {
	whole object
	// events are the stream that says the same, each with its framing.
	events []string
	// failure is the error body for a status, failureEvent the same in a stream.
	failure      func(status int) object
	failureEvent string
	contentType  string // of the stream
	header       http.Header
}

// asked is a request as the stand-in had it.
type asked struct {
	Method, Path string
	Header       http.Header
	Body         any
}

// standIn is a model server that answers in the documented forms of three APIs.
// The name of the model in a request says how: see manner.
type standIn struct {
	*httptest.Server

	mu      sync.Mutex
	asked   map[string][]asked       // by the credential that came with it
	refused map[string]bool          // who had the refusal of a model that refuses once
	goOn    map[string]chan struct{} // who says that what was sent has arrived
	left    chan string              // who left a stream that was held
}

func newStandIn() *standIn {
	s := &standIn{asked: map[string][]asked{}, refused: map[string]bool{}, goOn: map[string]chan struct{}{}, left: make(chan string, 100)}
	mux := http.NewServeMux()
	for path, answer := range map[string]func(question) form{
		"/v1/chat/completions":      chatForm,
		"/v1/completions":           completionForm,
		"/v1/responses":             responseForm,
		"/v1/embeddings":            embeddingsForm,
		"/v1/messages":              messageForm,
		"/v1/messages/count_tokens": countForm,
		"/api/chat":                 ollamaChatForm,
		"/api/generate":             ollamaGenerateForm,
		"/api/embed":                ollamaEmbedForm,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, answer) })
	}
	for path, list := range map[string]object{
		"/v1/models":   {"object": "list", "data": []object{openAIModel}},
		"/v1/models/m": openAIModel,
		"/api/tags":    {"models": []object{ollamaModel}},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			s.record(r, nil)
			writeJSON(w, http.StatusOK, list)
		})
	}
	mux.HandleFunc("GET /v1/models/go-on", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // it must come here each time
		s.arrived(r) <- struct{}{}
	})
	// The same behind a prefix, for routes that differ only in what Weir does.
	mux.Handle("/cached/", http.StripPrefix("/cached", mux))
	mux.Handle("/free/", http.StripPrefix("/free", mux))
	s.Server = httptest.NewServer(mux)
	return s
}

func credential(r *http.Request) string {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key
	}
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func (s *standIn) record(r *http.Request, body any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := credential(r)
	s.asked[who] = append(s.asked[who], asked{r.Method, r.URL.RequestURI(), r.Header.Clone(), body})
}

// from gives what came with a credential.
func (s *standIn) from(credential string) []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[credential]
}

// first says whether this is who's first request for a model that refuses once.
func (s *standIn) first(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.refused[who]
	s.refused[who] = true
	return first
}

// arrived is where whoever sent r says that what was sent has arrived. A client
// says it once for each stream that is held, so nobody waits to say it.
func (s *standIn) arrived(r *http.Request) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := credential(r)
	if s.goOn[who] == nil {
		s.goOn[who] = make(chan struct{}, 100)
	}
	return s.goOn[who]
}

func (s *standIn) answer(w http.ResponseWriter, r *http.Request, answer func(question) form) {
	text, err := io.ReadAll(r.Body)
	var q question
	var body any
	if err != nil || json.Unmarshal(text, &q) != nil || json.Unmarshal(text, &body) != nil {
		http.Error(w, fmt.Sprintf("%q: %v", text, err), http.StatusUnsupportedMediaType)
		return
	}
	s.record(r, body)
	f, m := answer(q), mannerOf(q.Model)
	for name, values := range f.header {
		w.Header()[name] = values
	}
	switch {
	case m.status != 0 && (!m.once || s.first(credential(r)+r.URL.Path)):
		if m.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Retry-After-Ms", "300")
		}
		writeJSON(w, m.status, f.failure(m.status))
	case !q.streams():
		writeJSON(w, http.StatusOK, f.whole)
	default:
		w.Header().Set("Content-Type", f.contentType)
		m.stream(w, f, func() {
			select {
			case <-s.arrived(r):
			case <-r.Context().Done():
				s.left <- credential(r)
				panic(http.ErrAbortHandler)
			}
		})
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a form that this file wrote wrongly
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// manner is how the stand-in answers:
//
//	status-S        with the status S
//	once-S          the first time with the status S
//	cut-after-N     a stream whose connection breaks after N events
//	cut-within-N    the same within the event after those
//	ended-after-N   a stream that ends well after N events, without its last ones
//	error-after-N   the same with an error as the last event
//	comments        a stream with comments before, between and after its events
//	bytes           a stream that comes byte by byte
//	held-after-N    a stream that goes on after N events only when the client says
//	                that it has them
//	crlf            a stream whose lines end in CR and LF
//	together        a stream that comes as one piece
//	long            a stream with a very long event: see words
type manner struct {
	status                   int
	once, comments, bytewise bool
	crlf, together           bool
	stop                     string
	after                    int
}

func mannerOf(model string) manner {
	name, number, _ := cutLast(model, "-")
	n, err := strconv.Atoi(number)
	if err != nil {
		return manner{
			comments: model == "comments", bytewise: model == "bytes",
			crlf: model == "crlf", together: model == "together",
		}
	}
	switch name {
	case "status", "once":
		return manner{status: n, once: name == "once"}
	}
	return manner{stop: name, after: n}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (m manner) stream(w http.ResponseWriter, f form, hold func()) {
	out := http.NewResponseController(w)
	send := func(text string) {
		_, _ = io.WriteString(w, text)
		_ = out.Flush()
	}
	events := f.events
	if m.together {
		events = []string{strings.Join(events, "")}
	}
	for i, event := range events {
		if m.comments {
			send(": keepalive\n\n: another\n")
		}
		if m.stop != "" && i == m.after {
			if m.stop != "held-after" {
				m.end(send, f, event)
				return
			}
			hold()
		}
		switch {
		case m.crlf:
			send(strings.ReplaceAll(event, "\n", "\r\n"))
		case m.bytewise:
			for j := range len(event) {
				send(event[j : j+1])
			}
		default:
			send(event)
		}
	}
	if m.comments {
		send(": keepalive\n\n")
	}
}

// end ends a stream before its time. event is what would have come next.
func (m manner) end(send func(string), f form, event string) {
	switch m.stop {
	case "cut-within":
		send(event[:len(event)/2])
		panic(http.ErrAbortHandler)
	case "cut-after":
		panic(http.ErrAbortHandler)
	case "error-after":
		send(f.failureEvent)
	}
}

// sse frames an event. The name "" leaves the field out.
func sse(name string, data any) string {
	text := mustJSON(data)
	if name == "" {
		return "data: " + text + "\n\n"
	}
	return "event: " + name + "\ndata: " + text + "\n\n"
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a form that these files wrote wrongly
	}
	return string(text)
}

func TestStandIn(t *testing.T) {
	for name, want := range map[string]manner{
		"m":             {},
		"bytes":         {bytewise: true},
		"comments":      {comments: true},
		"once-429":      {status: 429, once: true},
		"status-503":    {status: 503},
		"cut-within-12": {stop: "cut-within", after: 12},
	} {
		if got := mannerOf(name); got != want {
			t.Errorf("manner of %q = %+v, want %+v", name, got, want)
		}
	}
}
