package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// What a chat request may ask for. Beyond it the answer is 400, or 413 for the
// body.
const (
	// MaxMessages is the most messages in a chat.
	MaxMessages = 1024
	// MaxChatBytes is the most text in a chat's messages, in bytes of UTF-8.
	MaxChatBytes = 256 << 10
	// MaxChatBodyBytes is the longest body of a chat. All the text that a chat may
	// have is 1.5 MiB if every byte of it is escaped.
	MaxChatBodyBytes = 2 << 20
	// MaxChoices is the most answers to one chat (n).
	MaxChoices = 4

	maxParts      = 1024 // in one message
	maxStops      = 4
	maxStopBytes  = 256
	maxModalities = 2 // OpenAI has no more
)

// chatNames are the members that mean something here, with a dot between a member
// and one of its own. The first is the body itself.
func chatNames() []string {
	return []string{
		"", "model", "messages", "stream", "stream_options", "stream_options.include_usage", "n", "stop", "seed", "temperature", "top_p",
		"max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty", "tools", "functions", "logit_bias", "logprobs",
		"top_logprobs", "response_format", "response_format.type", "modalities", "user",
	}
}

// chatPaths is what is looked up in a chat's body.
type chatPaths struct {
	index map[string]int // of a name of chatNames among the values of body
	body  *jsonscan.Paths
	whole *jsonscan.Paths // of any value
}

func newChatPaths() (*chatPaths, error) {
	p := &chatPaths{index: map[string]int{}}
	var pointers []string
	for i, name := range chatNames() {
		p.index[name] = i
		if name != "" {
			name = "/" + strings.ReplaceAll(name, ".", "/")
		}
		pointers = append(pointers, name)
	}
	var err, wrong error
	p.body, err = jsonscan.Compile(pointers...)
	p.whole, wrong = jsonscan.Compile("")
	return p, errors.Join(err, wrong)
}

// chatRequest is a chat/completions request that can be answered.
type chatRequest struct {
	prompt []uint16
	// inputTokens counts the prompt and all messages that are not in it.
	inputTokens int
	options     StoryOptions
	choices     int
	stream      bool
	// usage asks for a last chunk with the usage.
	usage bool
}

// readChat reads a chat request and takes it apart. The error is an *apiError,
// unless r's context has ended.
func (m *Models) readChat(w http.ResponseWriter, r *http.Request) (*chatRequest, error) {
	body, refusal := readAPIBody(w, r, MaxChatBodyBytes)
	if refusal != nil {
		return nil, refusal
	}
	c, texts, err := m.chat.parse(r.Context(), body)
	if err != nil {
		return nil, err
	}
	c.prompt = m.story.prompt(texts.last)
	if err := m.story.fits(c.prompt); err != nil {
		return nil, tooLong("messages: the last message of the user: " + err.Error())
	}
	c.inputTokens = len(c.prompt)
	var room []uint16
	for _, text := range texts.others {
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
		room = m.story.tokens.encode(room[:0], text)
		c.inputTokens += len(room)
	}
	return c, nil
}

// parse understands a body, or says what in it is wrong. Members that it does not
// know are ignored: clients add some. The errors are those of readChat.
func (paths *chatPaths) parse(ctx context.Context, body []byte) (*chatRequest, *chatTexts, error) {
	values, err := paths.body.Find(make([]jsonscan.Value, 0, len(paths.index)), body, jsonscan.DefaultDepth)
	if err != nil {
		return nil, nil, invalid(paths.duplicate(err), "body: %v", err)
	}
	p := &chatParser{paths: paths, values: values}
	if body := p.get(""); body.Kind() != jsonscan.Object {
		p.mismatch("", body, "an object")
	}
	p.model()
	p.unsupported()
	c := &chatRequest{
		options: StoryOptions{
			MaxTokens:        int(p.whole("max_tokens", 1, math.MaxInt32, 0)),
			Temperature:      p.number("temperature", 0, 2, 1),
			TopP:             max(p.number("top_p", 0, 1, 1), math.SmallestNonzeroFloat64), // 0: only the likeliest
			Seed:             uint64(p.whole("seed", math.MinInt64, math.MaxInt64, rand.Int64())),
			Stop:             p.stops(),
			PresencePenalty:  p.number("presence_penalty", -2, 2, 0),
			FrequencyPenalty: p.number("frequency_penalty", -2, 2, 0),
		},
		choices: int(p.whole("n", 1, MaxChoices, 1)),
		stream:  p.flag("stream"),
	}
	if most := int(p.whole("max_completion_tokens", 1, math.MaxInt32, 0)); most > 0 {
		c.options.MaxTokens = most // max_tokens is its old name
	}
	c.usage = p.streamOptions(c.stream)
	if p.refusal != nil {
		return nil, nil, p.refusal
	}
	texts, err := p.messages(ctx)
	if err != nil {
		return nil, nil, err
	}
	return c, texts, nil
}

// duplicate returns the place that err says is there twice, if it is in a member
// that means something.
func (paths *chatPaths) duplicate(err error) string {
	place := duplicate(err)
	name := place
	if end := strings.IndexAny(place, ".["); end >= 0 {
		name = place[:end]
	}
	if _, known := paths.index[name]; !known {
		return ""
	}
	if len(place) > 100 {
		return name
	}
	return place
}

func tooLong(message string) *apiError {
	return &apiError{http.StatusBadRequest, "messages", "context_length_exceeded", message}
}

// chatParser understands the members of a body. It keeps the first refusal and
// after that gives defaults.
type chatParser struct {
	paths   *chatPaths
	values  []jsonscan.Value // as chatNames
	room    []jsonscan.Value // for one value at a time
	refusal *apiError
}

// get returns the member name.
func (p *chatParser) get(name string) jsonscan.Value { return p.values[p.paths.index[name]] }

// given returns the member name, and whether there is one that is not null:
// some clients send null for all that was not set. After a refusal there is none.
func (p *chatParser) given(name string) (jsonscan.Value, bool) {
	v := p.get(name)
	kind := v.Kind()
	return v, p.refusal == nil && kind != jsonscan.Missing && kind != jsonscan.Null
}

// refuse notes that the member param is wrong.
func (p *chatParser) refuse(param, format string, args ...any) {
	if p.refusal == nil {
		p.refusal = invalid(param, format, args...)
	}
}

// mismatch refuses a value for what it is.
func (p *chatParser) mismatch(param string, v jsonscan.Value, want string) {
	place := param
	if place == "" {
		place = "body"
	}
	p.refuse(param, "%s: %s: want %s", place, showValue(v), want)
}

func (p *chatParser) number(name string, low, high, otherwise float64) float64 {
	raw, ok := p.given(name)
	if !ok {
		return otherwise
	}
	v, ok := raw.Float()
	if !ok || v < low || v > high {
		p.mismatch(name, raw, fmt.Sprintf("a number from %g to %g", low, high))
	}
	return v
}

func (p *chatParser) whole(name string, low, high, otherwise int64) int64 {
	raw, ok := p.given(name)
	if !ok {
		return otherwise
	}
	v, err := raw.Int()
	if err != nil || v < low || v > high {
		p.mismatch(name, raw, fmt.Sprintf("a whole number from %d to %d", low, high))
	}
	return v
}

// flag returns a member that is false where there is none.
func (p *chatParser) flag(name string) bool {
	raw, ok := p.given(name)
	if !ok {
		return false
	}
	v, ok := raw.Bool()
	if !ok {
		p.mismatch(name, raw, "true or false")
	}
	return v
}

// list returns the elements of a member that is an array.
func (p *chatParser) list(name, want string) []byte {
	raw, ok := p.given(name)
	if !ok {
		return []byte("[]")
	}
	if raw.Kind() != jsonscan.Array {
		p.mismatch(name, raw, want)
		return []byte("[]")
	}
	return raw.Raw()
}

// object tells whether there is a member that is an object.
func (p *chatParser) object(name string) bool {
	raw, ok := p.given(name)
	if ok && raw.Kind() != jsonscan.Object {
		p.mismatch(name, raw, "an object")
		return false
	}
	return ok
}

func (p *chatParser) model() {
	name, ok := p.get("model").Text()
	if !ok {
		p.mismatch("model", p.get("model"), `the name of a model: "`+storyModel+`"`)
	}
	if p.refusal == nil && name != storyModel {
		p.refusal = noModel(name, fmt.Sprintf("%q for chats", storyModel))
	}
}

// noModel is the refusal of a model that is not there.
func noModel(name, want string) *apiError {
	return &apiError{http.StatusNotFound, "model", "model_not_found", fmt.Sprintf("The model %s does not exist: want %s", quote(name), want)}
}

// unsupported refuses what would change the answer and is not to be had, rather
// than to leave it out without a word.
func (p *chatParser) unsupported() {
	for _, name := range []string{"tools", "functions"} {
		if !isEmpty(p.list(name, "a list")) {
			p.refuse(name, "%s: %s cannot call tools: want none", name, storyModel)
		}
	}
	if p.object("logit_bias") && !isEmpty(p.get("logit_bias").Raw()) {
		p.refuse("logit_bias", "logit_bias: %s has none: want no member, or an empty object", storyModel)
	}
	if p.flag("logprobs") {
		p.refuse("logprobs", "logprobs: %s gives none: want false", storyModel)
	}
	if raw, ok := p.given("top_logprobs"); ok {
		if n, err := raw.Int(); err != nil || n != 0 {
			p.mismatch("top_logprobs", raw, "0: "+storyModel+" gives no logprobs")
		}
	}
	if p.object("response_format") {
		if kind := p.get("response_format.type"); !isText(kind) {
			p.mismatch("response_format.type", kind, `"text": `+storyModel+" writes nothing else")
		}
	}
	for i, raw := range elements(p.list("modalities", "a list")) {
		if i == maxModalities {
			p.refuse("modalities", `modalities: more than %d: want ["text"]`, maxModalities)
			break
		}
		if kind := p.value(raw); !isText(kind) {
			p.mismatch(fmt.Sprintf("modalities[%d]", i), kind, `"text"`)
			break
		}
	}
	if raw, ok := p.given("user"); ok && raw.Kind() != jsonscan.String {
		p.mismatch("user", raw, "a string")
	}
}

// value returns the value that is written as raw, part of the body, or nothing
// for nil. Arrays and objects are empty: they were read once, with the body.
func (p *chatParser) value(raw []byte) jsonscan.Value {
	if len(raw) == 0 {
		return jsonscan.Value{}
	}
	switch raw[0] {
	case '[':
		raw = []byte("[]")
	case '{':
		raw = []byte("{}")
	}
	values, err := p.paths.whole.Find(p.room[:0], raw, jsonscan.DefaultDepth)
	if err != nil { // the whole body was found to be right: cannot happen
		p.refuse("", "body: %v", err)
		return jsonscan.Value{}
	}
	p.room = values
	return values[0]
}

// members returns the members of an object, part of the body, that have these
// names: nil for one that is not there.
func (p *chatParser) members(object []byte, names ...string) [][]byte {
	found := make([][]byte, len(names))
	at := -1
	for i, raw := range elements(object) {
		switch {
		case i%2 == 1 && at >= 0:
			found[at] = raw
		case i%2 == 0 && bytes.IndexByte(raw, '\\') >= 0:
			at = slices.Index(names, textOf(p.value(raw)))
		case i%2 == 0:
			at = slices.IndexFunc(names, func(name string) bool { return name == string(raw[1:len(raw)-1]) })
		}
	}
	return found
}

// isText tells whether v is the kind of content that is read here.
func isText(v jsonscan.Value) bool { return textOf(v) == "text" }

func textOf(v jsonscan.Value) string {
	s, _ := v.Text()
	return s
}

// streamOptions returns whether the stream shall say its usage.
func (p *chatParser) streamOptions(stream bool) bool {
	if _, ok := p.given("stream_options"); !ok {
		return false
	}
	if !stream {
		p.refuse("stream_options", `stream_options: want it only where "stream" is true`)
	}
	return p.object("stream_options") && p.flag("stream_options.include_usage")
}

// stops returns the stop texts: a string or a list of them.
func (p *chatParser) stops() []string {
	raw, ok := p.given("stop")
	switch {
	case !ok:
		return nil
	case raw.Kind() == jsonscan.String:
		return p.stop(nil, raw)
	}
	var stops []string
	for i, raw := range elements(p.list("stop", "a string or a list of strings")) {
		if i == maxStops {
			p.refuse("stop", "stop: more than %d texts: want at most %d", maxStops, maxStops)
		}
		if stops = p.stop(stops, p.value(raw)); p.refusal != nil {
			break
		}
	}
	return stops
}

// stop appends one stop text.
func (p *chatParser) stop(stops []string, v jsonscan.Value) []string {
	param := fmt.Sprintf("stop[%d]", len(stops))
	text, ok := v.Text()
	switch {
	case !ok:
		p.mismatch(param, v, "a string")
	case text == "" || len(text) > maxStopBytes:
		p.refuse(param, "%s: %d bytes: want 1 to %d", param, len(text), maxStopBytes)
	}
	return append(stops, text)
}
