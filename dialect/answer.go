package dialect

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// Outcome is what an answer told about itself.
type Outcome struct {
	// Usage is what the call used. It counts only if Known is set.
	Usage weir.Usage
	// Known says that the upstream reported the usage, or that it was counted
	// from the deltas of a stream, or from the length of a JSON answer that says
	// nothing. It is not set for a stream that ended before its first delta, nor
	// for APIs that count no tokens. Where no model runs, as in Anthropic's
	// count_tokens, none is known.
	Known bool
	// Estimated says that a part of Usage is a guess, because the upstream did
	// not report it; or the last text of a stream came after its report, or far
	// more than that. Output is then the larger of the number of deltas and a
	// quarter of their text's bytes, and not less than was reported; of a JSON
	// answer it is a quarter of all its bytes but white space. Input, if
	// that is not known, is what Call.Estimate says.
	Estimated bool
	// Model is the model that answered, "" if unknown.
	Model string
	// Version is the version of the model that answered, "" if unknown: with
	// KServe and Triton model_version, elsewhere Model itself, which the answer
	// gives in full where the request had an alias: gpt-4o, and here
	// gpt-4o-2024-08-06. OpenAI's system_fingerprint is no version: it names the
	// setup of one of the servers, and several are live at once behind one model.
	Version string
	// Finish is the API's own reason for the end of choice 0: stop, length,
	// tool_calls, end_turn, and so on; of OpenAI's responses the status, or why
	// they are incomplete. "" if none was given.
	Finish string
	// Complete says that the whole answer has passed: a JSON body that is one
	// whole value, a stream whose terminal event came and that reported no error,
	// or a body that is not read, or a stream's error status, where the transport
	// ended without an error.
	Complete bool
	// Stopped says that the answer is whole and good: its status is 2xx, it is
	// Complete and reported no error, and the model itself ended all of it. Where
	// the API gives reasons for the end, each choice has one of stop, tool_calls,
	// function_call, end_turn, stop_sequence, tool_use, eos_token, eos and
	// completed, none has a refusal, and they are as many as were asked for. It is
	// false where that was not read: in a body that is encoded, and with more than
	// 16 choices in a JSON answer. A cache may keep what has it
	// and is not Unmarked.
	Stopped bool
	// Unmarked says that a stream which is Complete had no terminal event, though its
	// API has one: some servers leave it out. That every choice had its end tells
	// that nothing is missing of them; what may come behind, such as the usage, can
	// have been lost.
	Unmarked bool
	// Err is the error that the upstream reported in its body or as an event of
	// the stream: its type and code and its message, valid UTF-8, at most 300
	// bytes. "" if it reported none, or in no form that is known.
	Err string
}

// CutError says that a stream ended before its end. Read returns it after the
// bytes of the error event: the client has been told. It comes without such an
// event where the stream's own terminal event has passed, and only then the
// transport failed: the client has everything, but it is no answer to keep.
type CutError struct {
	// Problem is what the client was told; never nil.
	Problem *weir.Problem
}

// Error gives the problem's text for the log.
func (e *CutError) Error() string { return "stream cut: " + e.Problem.Error() }

// Unwrap returns the problem.
func (e *CutError) Unwrap() error { return e.Problem }

// errCut is of a stream that just stopped.
func errCut(cause error) *CutError {
	return &CutError{&weir.Problem{Status: http.StatusBadGateway, Detail: "The upstream's stream ended before its end.", Err: cause}}
}

// answerForm is how the answers of an endpoint look.
type answerForm struct {
	whole  *reading // of a JSON answer; nil: it is not read
	event  *reading // of one event of a stream; nil: streams are not followed
	lines  bool     // streams are lines of JSON and not server-sent events
	done   doneMark // what "data: [DONE]" says
	end    ending
	chunks bool // events are OpenAI's chunks, from which usage can be stripped
	free   bool // the call uses no tokens, and says nothing about it

	reasons bool            // every answer says why it ended: a model wrote it
	numbers bool            // the model's version is told beside its name
	inputs  bool            // what the model reads is counted in tokens, though it writes none
	asked   *jsonscan.Paths // of a request: how many choices come for each prompt; nil: one
}

// ending says how a stream may end if its transport ends without an error and
// no terminal event has come.
type ending uint8

const (
	endTerminal ending = iota // not at all
	endChoices                // if every choice asked for has its finish reason: some servers send no [DONE]
	endClean                  // so: there is no terminal event, or not always
)

// doneMark is what OpenAI's mark of the end says in a stream.
type doneMark uint8

const (
	doneNothing doneMark = iota // it is an event like any other
	doneEnds                    // this is the end
	doneClosed                  // this is the end if the answer said that it is over
)

// reading is which members of a JSON object are looked at, and how.
type reading struct {
	paths *jsonscan.Paths
	// take is given the values of errorPointers and then those of the reading.
	take func(t *tally, v []jsonscan.Value)
}

func reads(take func(*tally, []jsonscan.Value), pointers ...string) *reading {
	return &reading{mustCompile(append(errorPointers(), pointers...)...), take}
}

// mode is what is done to a body.
type mode uint8

const (
	unread   mode = iota // it passes
	opaque               // it passes, and is a stream whose end cannot be seen
	whole                // it is one JSON value: it passes, and its members are read
	failed               // it passes, and is a stream's error, in whatever form
	followed             // it is read event by event, unless it turns out to be whole
	sniffed              // followed if it begins like a stream; otherwise it passes
)

// Answer follows an answer while it passes. Its methods and those of the body are
// for one goroutine at a time.
type Answer struct {
	endpoint *endpoint
	form     *answerForm
	mode     mode
	status   int
	depth    int
	strip    bool
	streams  bool  // the body may change, whatever the mode becomes
	prompt   int64 // estimated tokens
	asked    int64 // choices that are to come
	weight   int64 // bytes of a whole answer, without white space
	complete bool
	over     bool // its last byte has been handed on

	tally  tally
	values []jsonscan.Value // kept for its memory
}

// Answer prepares to follow the answer to the call. h is its header: an encoded
// answer is not read, and neither is one of an unknown endpoint. If the answer is
// a stream that is followed, the fields that say how long it is or what its bytes
// are leave h, because an error event may have to be added and usage that the
// client did not ask for removed; see also Resizes. Only a 2xx answer is followed.
// One without a Content-Type, or with text/plain, where a stream was asked for is
// followed if its first bytes are a stream's, and otherwise passes as it came.
// What is one JSON value under the type of a stream is read like a JSON answer.
//
// The answer to a HEAD request has no body: use no Answer for it.
func (c *Call) Answer(status int, h http.Header) *Answer {
	a := &Answer{endpoint: c.endpoint, status: status, depth: c.depth, prompt: c.Estimate.Input, tally: newTally()}
	if c.endpoint == nil || c.endpoint.answers == nil {
		return a
	}
	a.form = c.endpoint.answers
	a.mode = a.form.mode(status, h, c.Stream)
	a.asked = c.choices()
	if a.streams = a.mode == followed || a.mode == sniffed; !a.streams {
		return a
	}
	a.strip = c.usageInjected && a.form.chunks
	for _, name := range []string{"Content-Length", "Etag", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest"} {
		delete(h, name)
	}
	return a
}

// choices is how many come: n for each prompt. Estimate.Answers also counts those
// that best_of generates and nobody sees.
func (c *Call) choices() int64 {
	f := c.endpoint.answers
	if f.asked == nil || c.Estimate.Answers <= 1 {
		return 1
	}
	n, err := f.asked.Find(nil, c.body, c.depth)
	if err != nil {
		return c.Estimate.Answers
	}
	return times(max(1, number(n[0])), int64(max(1, c.Items)))
}

func (f *answerForm) mode(status int, h http.Header, stream bool) mode {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusResetContent, status == http.StatusNotModified:
		return unread
	}
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	json := media == "" || media == "application/json" || strings.HasSuffix(media, "+json")
	events := f.event != nil && !f.lines && media == "text/event-stream"
	lines := f.event != nil && f.lines && media == "application/x-ndjson"
	success := status < 300
	sniff := success && stream && f.event != nil && (media == "" || media == "text/plain")
	streams := success && (events || lines || f.lines && json && stream)
	encoding := strings.Join(h["Content-Encoding"], ",")
	switch encoded := encoding != "" && !strings.EqualFold(encoding, "identity"); {
	case (streams || sniff) && encoded && f.end != endClean:
		return opaque
	case encoded:
		return unread
	case sniff:
		return sniffed
	case streams:
		return followed
	case events:
		return failed
	case json || lines:
		return whole
	}
	return unread
}

// Streams reports whether the answer is a stream of events or lines that is being
// followed, or that will be if it begins like one. One that is only passed on,
// encoded or of an unknown endpoint, is not.
func (a *Answer) Streams() bool { return a.streams }

// Resizes reports whether the body may become longer or shorter on its way. The
// length of the answer is then unknown: set http.Response.ContentLength to -1.
func (a *Answer) Resizes() bool { return a.streams }

// Body returns what the client gets of body. Every byte passes as it came, but
// for usage that is there only because Weir asked: the chunk of a stream that has
// it and no choice, and the null in the others. What is complete can be read at once: a
// Read returns all events that came together, and waits for no other. Close
// closes body. Call it once.
//
// A followed stream ends in one of four ways. After its terminal event, or an
// error that the upstream itself reported in it, Read returns io.EOF, or a
// *CutError if the transport then failed. If the transport ends earlier, with
// io.EOF, io.ErrUnexpectedEOF or an error that has a *weir.Problem in it, the
// incomplete event that was held is dropped, an error event in the form of the
// API is added, and then comes a *CutError. Any other error, such as the
// client's own cancelled context, is returned as it is and nothing is added.
func (a *Answer) Body(body io.ReadCloser) io.ReadCloser {
	switch a.mode {
	case followed, sniffed:
		return a.follow(body)
	case whole:
		return a.wholeBody(body)
	case failed:
		return &failedBody{answer: a, body: body}
	}
	return &passingBody{answer: a, body: body}
}

func (a *Answer) follow(body io.ReadCloser) *follower {
	f := &follower{answer: a, body: body, cut: &sse.Splitter{}, start: atEvents}
	if a.form.lines {
		f.cut, f.start = &lineCutter{}, atLines
	}
	if a.mode == sniffed {
		f.start = atGuess
	}
	return f
}

func (a *Answer) wholeBody(body io.ReadCloser) *wholeBody {
	return &wholeBody{answer: a, body: body, scanner: a.form.whole.paths.NewScanner(a.depth)}
}

// Ended reports whether all of the answer has been handed on, as far as its client
// can tell: of a stream with its terminal event, though the transport may not be at
// its end. Then Outcome tells all that there will be to tell.
func (a *Answer) Ended() bool { return a.over && (a.mode != followed || a.tally.ended) }

// Outcome returns what is known so far. It is final once Read has returned an
// error.
func (a *Answer) Outcome() Outcome {
	t := &a.tally
	o := Outcome{Model: t.model, Version: t.version, Finish: t.finish, Err: t.err, Complete: a.complete, Unmarked: t.unmarked}
	if a.form != nil && !a.form.numbers {
		o.Version = t.model
	}
	if a.mode == followed {
		o.Complete = t.ended && !t.failed
	}
	t.use(&o, a.prompt)
	success := 200 <= a.status && a.status < 300
	if a.form != nil && success && !t.failed {
		a.guess(&o)
	}
	ended := a.form == nil || !a.form.reasons || t.settled(a.asked)
	o.Stopped = success && o.Complete && ended && !t.failed && !t.hindered
	return o
}

// weigh counts p, a part of a whole answer.
func (a *Answer) weigh(p []byte) {
	if !a.form.reasons {
		return // embeddings are long, and not written
	}
	for _, c := range p {
		if c > ' ' {
			a.weight++
		}
	}
}

// guess fills in the usage of a whole answer that does not report it: what is not
// counted would cost nothing.
func (a *Answer) guess(o *Outcome) {
	switch {
	case a.form.free:
		o.Known = o.Known || a.complete
	case o.Known || a.mode != whole:
	case a.form.reasons:
		o.Usage = weir.Usage{Input: a.prompt, Output: (a.weight + bytesPerToken - 1) / bytesPerToken}
		o.Known, o.Estimated = true, true
	case a.form.inputs && a.prompt > 0:
		o.Usage = weir.Usage{Input: a.prompt}
		o.Known, o.Estimated = true, true
	}
}

// passingBody is a body that is not read.
type passingBody struct {
	answer *Answer
	body   io.ReadCloser
}

func (b *passingBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		b.answer.over = true
		b.finish(err)
	}
	return n, err
}

func (b *passingBody) finish(err error) {
	if err == io.EOF {
		b.answer.complete = b.answer.mode != opaque
	}
}

func (b *passingBody) Close() error { return b.body.Close() }

// wholeBody is a JSON body, of any size: it is not kept.
type wholeBody struct {
	answer  *Answer
	body    io.ReadCloser
	scanner *jsonscan.Scanner
	over    bool
}

func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.over {
		return n, err
	}
	// A body that is no JSON passes like any other: the scanner keeps its error.
	_, _ = b.scanner.Write(p[:n])
	b.answer.weigh(p[:n])
	if err != nil {
		b.over, b.answer.over = true, true
		b.finish(err)
	}
	return n, err
}

func (b *wholeBody) finish(err error) {
	a := b.answer
	values, invalid := b.scanner.Values(nil)
	a.complete = invalid == nil && err == io.EOF
	if len(values) > 0 {
		a.tally.failure(values, a.status >= 400)
		a.form.whole.take(&a.tally, values)
	}
}

func (b *wholeBody) Close() error { return b.body.Close() }

// event reads one event of a stream. name is its type, of lines of JSON "". The
// values are those of the form's reading, nil if data is no JSON; they are valid
// until the next call. ok says that data is whole, as far as that can be seen.
func (a *Answer) event(name, data []byte) (values []jsonscan.Value, ok bool) {
	t := &a.tally
	failed := string(name) == "error"
	if m := a.form.done; m != doneNothing && isDone(data) && (m == doneEnds || t.closed) {
		t.ended = true
		return nil, true
	}
	values, err := a.form.event.paths.Find(a.values[:0], data, a.depth)
	if err != nil {
		if tame, odd := tamed(data); odd {
			values, err = a.form.event.paths.Find(a.values[:0], tame, a.depth)
		}
	}
	if err != nil {
		if failed {
			t.fail("", string(data[:min(len(data), 2*maxErr)]))
		}
		// Something else than JSON that is complete passes, and is not understood.
		return nil, !errors.As(err, new(*jsonscan.SyntaxError))
	}
	a.values = values
	t.failure(values, failed)
	a.form.event.take(t, values)
	return values, true
}

// isDone reports whether data is OpenAI's mark of the end.
func isDone(data []byte) bool {
	return len(data) >= 6 && len(data) < 16 && strings.TrimSpace(string(data)) == "[DONE]"
}
