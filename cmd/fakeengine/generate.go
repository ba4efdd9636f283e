package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// form is which of the two endpoints for text a request came to.
type form uint8

const (
	chatForm form = iota
	textForm
)

// request is what counts of the body of a request for text.
type request struct {
	Model    string `json:"model"`
	Messages []struct {
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Prompt        json.RawMessage `json:"prompt"`
	MaxTokens     *int            `json:"max_tokens"`
	MaxCompletion *int            `json:"max_completion_tokens"`
	Stream        bool            `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	N         *int   `json:"n"`
	User      string `json:"user"`
	IgnoreEOS bool   `json:"ignore_eos"`
	// FakeTokens is how long the answer would be without a bound.
	FakeTokens *int `json:"fake_tokens"`
}

// job is a request for text that was understood.
type job struct {
	form         form
	key          uint64
	id           string
	created      int64
	seq          sim.Sequence
	user         string
	cut          bool // the answer ends at a bound: "length"
	stream       bool
	includeUsage bool
}

func (j *job) finishReason() string {
	if j.cut {
		return "length"
	}
	return "stop"
}

// parse reads a request for text. Every error is the client's.
func (s *server) parse(body []byte, f form) (*job, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("the body is not a request in OpenAI's form: %w", err)
	}
	if r.Model != "" && r.Model != s.o.model {
		return nil, fmt.Errorf("model: %q: want %q", r.Model, s.o.model)
	}
	if r.N != nil && *r.N != 1 {
		return nil, fmt.Errorf("n: %d: want 1", *r.N)
	}
	length, ids := 0, 0
	switch {
	case f == textForm && len(r.Prompt) == 0:
		return nil, errors.New("prompt: missing")
	case f == textForm:
		length, ids = textLength(r.Prompt)
	case len(r.Messages) == 0:
		return nil, errors.New("messages: want at least one")
	default:
		for _, m := range r.Messages {
			n, _ := textLength(m.Content)
			length += n
		}
	}
	text := promptText(&r)
	j := &job{
		form: f, key: keyOf(s.o.seed, []byte(text)), id: [2]string{"chatcmpl-", "cmpl-"}[f] + strconv.FormatInt(s.ids.Add(1), 10),
		created: time.Now().Unix(), user: r.User, stream: r.Stream, includeUsage: r.StreamOptions.IncludeUsage,
		seq: sim.Sequence{Input: tokensOf(length) + ids},
	}
	if err := s.setLength(j, &r); err != nil {
		return nil, err
	}
	if s.prefix != nil {
		// The last token is always computed: the first one of the answer follows from it.
		j.seq.Cached = min(s.prefix.use(text), j.seq.Input-1)
	}
	return j, nil
}

// setLength decides how long the answer is: the least of what the request may have and
// of what the model would say.
func (s *server) setLength(j *job, r *request) error {
	most := s.o.maxInput - j.seq.Input
	if most < 1 {
		return fmt.Errorf("the prompt has %d tokens: this model's maximum context length is %d, with at least one for the answer", j.seq.Input, s.o.maxInput)
	}
	asked := r.MaxCompletion
	if asked == nil {
		asked = r.MaxTokens
	}
	if asked != nil {
		if *asked < 1 || *asked > most {
			return fmt.Errorf("max_tokens: %d: want 1 to %d: this model's maximum context length is %d, and the prompt has %d", *asked, most, s.o.maxInput, j.seq.Input)
		}
		most = *asked
	}
	natural := drawLength(j.key, s.o.output, s.o.sigma)
	switch {
	case r.IgnoreEOS:
		natural = most + 1
	case r.FakeTokens != nil && *r.FakeTokens < 1:
		return fmt.Errorf("fake_tokens: %d: want 1 or more", *r.FakeTokens)
	case r.FakeTokens != nil:
		natural = *r.FakeTokens
	}
	j.seq.Output, j.cut = min(natural, most), natural > most
	return nil
}

// generate answers a request for text.
func (s *server) generate(w http.ResponseWriter, r *http.Request, f form) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	j, err := s.parse(body, f)
	if err != nil {
		writeError(w, http.StatusBadRequest, "BadRequestError", err.Error())
		return
	}
	if s.log != nil {
		// Before any work, so that the line is there whatever ends this process.
		fmt.Fprintf(s.log, "%s %q\n", r.URL.Path, j.user)
	}
	g, err := s.loop.add(j.user, j.seq)
	switch {
	case errors.Is(err, errFull):
		writeError(w, http.StatusServiceUnavailable, "ServiceUnavailableError", err.Error())
		return
	case err != nil:
		writeError(w, http.StatusBadRequest, "BadRequestError", err.Error())
		return
	}
	// A fault ends the answer with a panic: that is neither.
	end := endFailed
	defer func() { s.loop.over(g, end, j.cut, time.Now()) }()
	write := s.whole
	if j.stream {
		write = s.stream
	}
	if write(w, r, j, g) {
		end = endComplete
	} else {
		end = endLeft
	}
}

// whole answers when all is there. It reports whether the client got everything.
func (s *server) whole(w http.ResponseWriter, r *http.Request, j *job, g *generation) bool {
	if _, err := s.loop.wait(r.Context(), g, j.seq.Output-1); err != nil {
		return false
	}
	b := s.head(nil, j, [2]string{"chat.completion", "text_completion"}[j.form])
	if j.form == chatForm {
		b = append(b, `,"choices":[{"index":0,"message":{"role":"assistant","content":"`...)
		b = appendWords(b, j.key, 0, j.seq.Output)
		b = append(b, `"},"logprobs":null,"finish_reason":"`...)
	} else {
		b = append(b, `,"choices":[{"index":0,"text":"`...)
		b = appendWords(b, j.key, 0, j.seq.Output)
		b = append(b, `","logprobs":null,"finish_reason":"`...)
	}
	b = append(b, j.finishReason()...)
	b = append(b, `"}]`...)
	b = appendUsage(b, &j.seq)
	b = append(b, '}')
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(b))}
	_, err := w.Write(b)
	return err == nil
}

// head begins the JSON of an answer or of an event.
func (s *server) head(b []byte, j *job, object string) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, j.id...)
	b = append(b, `","object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, j.created, 10)
	b = append(b, `,"model":`...)
	return append(b, s.model...)
}

func appendUsage(b []byte, q *sim.Sequence) []byte {
	return fmt.Appendf(b, `,"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}`,
		q.Input, q.Input+q.Output, q.Output, q.Cached)
}

// stream answers token by token. It reports whether the client got everything.
func (s *server) stream(w http.ResponseWriter, r *http.Request, j *job, g *generation) bool {
	out := http.NewResponseController(w)
	w.Header()["Content-Type"] = []string{"text/event-stream; charset=utf-8"}
	w.Header()["Cache-Control"] = []string{"no-store"}
	head := s.head([]byte("data: "), j, [2]string{"chat.completion.chunk", "text_completion"}[j.form])
	var b []byte
	for sent := 0; sent < j.seq.Output; {
		produced, err := s.loop.wait(r.Context(), g, min(sent+s.o.streamInterval, j.seq.Output)-1)
		if err != nil {
			return false
		}
		b = b[:0]
		if sent == 0 && j.form == chatForm {
			b = append(append(b, head...), `,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`+"\n\n"...)
		}
		// Who reads slowly gets several events at once.
		for sent+s.o.streamInterval <= produced || sent < produced && produced == j.seq.Output {
			next := min(sent+s.o.streamInterval, produced)
			b = j.appendEvent(b, head, sent, next)
			sent = next
		}
		if sent == j.seq.Output {
			if j.includeUsage {
				b = append(append(b, head...), `,"choices":[]`...)
				b = append(appendUsage(b, &j.seq), "}\n\n"...)
			}
			b = append(b, "data: [DONE]\n\n"...)
		}
		if _, err := w.Write(b); err != nil {
			return false
		}
		if err := out.Flush(); err != nil {
			return false
		}
	}
	return true
}

// appendEvent appends the event with the tokens from to to-1.
func (j *job) appendEvent(b, head []byte, from, to int) []byte {
	b = append(b, head...)
	b = append(b, [2]string{`,"choices":[{"index":0,"delta":{"content":"`, `,"choices":[{"index":0,"text":"`}[j.form]...)
	b = appendWords(b, j.key, from, to)
	b = append(b, [2]string{`"},"logprobs":null,"finish_reason":`, `","logprobs":null,"finish_reason":`}[j.form]...)
	if to < j.seq.Output {
		return append(b, "null}]}\n\n"...)
	}
	return append(append(append(b, '"'), j.finishReason()...), `"}]}`+"\n\n"...)
}
