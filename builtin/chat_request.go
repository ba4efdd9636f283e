package builtin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// What a chat request may ask for. Beyond it the answer is 400.
const (
	// MaxMessages is the most messages in a chat.
	MaxMessages = 1024
	// MaxChatBytes is the most text in a chat's messages, in bytes of UTF-8.
	MaxChatBytes = 256 << 10
	// MaxChoices is the most answers to one chat (n).
	MaxChoices = 4

	maxStops     = 4
	maxStopBytes = 256
)

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

// readChat reads and takes apart the body of a chat request.
func (m *story) readChat(w http.ResponseWriter, r *http.Request) (*chatRequest, *apiError) {
	body, refusal := readAPIBody(w, r)
	if refusal != nil {
		return nil, refusal
	}
	return m.parseChat(body)
}

// parseChat understands a body, or says what in it is wrong. Members that it does
// not know are ignored: clients add some.
func (m *story) parseChat(body []byte) (*chatRequest, *apiError) {
	if err := jsonscan.Check(body, 0); err != nil {
		return nil, &apiError{status: http.StatusBadRequest, message: "body: " + err.Error()}
	}
	p := &chatParser{}
	p.members = p.object(body, "")
	if p.refusal == nil && p.members == nil {
		p.refuse("", "body: null: want an object")
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
		stream:  p.flag(p.members, "", "stream"),
	}
	if most := int(p.whole("max_completion_tokens", 1, math.MaxInt32, 0)); most > 0 {
		c.options.MaxTokens = most // max_tokens is its old name
	}
	c.usage = p.streamOptions(c.stream)
	texts := p.messages()
	if p.refusal != nil {
		return nil, p.refusal
	}
	c.prompt = m.prompt(texts.last)
	c.inputTokens = len(c.prompt)
	for _, text := range texts.others {
		c.inputTokens += len(m.tokens.encode(nil, text))
	}
	if err := m.fits(c.prompt); err != nil {
		return nil, tooLong("messages: the last message of the user: " + err.Error())
	}
	return c, nil
}

func tooLong(message string) *apiError {
	return &apiError{http.StatusBadRequest, "messages", "context_length_exceeded", message}
}

// chatParser takes members out of a body that is JSON, with no two members of one
// name. It keeps the first refusal and after that gives defaults.
type chatParser struct {
	members map[string]json.RawMessage
	refusal *apiError
}

// refuse notes that the member param is wrong.
func (p *chatParser) refuse(param, format string, args ...any) {
	if p.refusal == nil {
		p.refusal = &apiError{status: http.StatusBadRequest, param: param, message: fmt.Sprintf(format, args...)}
	}
}

// mismatch refuses a value for what it is.
func (p *chatParser) mismatch(param string, raw json.RawMessage, want string) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // numbers are shown as they were sent
	t, err := d.Token()
	if err != nil {
		t = nil
	}
	place := param
	if place == "" {
		place = "body"
	}
	p.refuse(param, "%s: %s: want %s", place, show(t), want)
}

// get returns the member name, and whether it is there and not null.
func get(members map[string]json.RawMessage, name string) (json.RawMessage, bool) {
	raw, ok := members[name]
	return raw, ok && string(raw) != "null"
}

// object returns the members of an object that are not absent or null.
func (p *chatParser) object(raw json.RawMessage, param string) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		p.mismatch(param, raw, "an object")
	}
	return members
}

func (p *chatParser) number(name string, low, high, otherwise float64) float64 {
	raw, ok := get(p.members, name)
	if !ok {
		return otherwise
	}
	v, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || v < low || v > high {
		p.mismatch(name, raw, fmt.Sprintf("a number from %g to %g", low, high))
		return otherwise
	}
	return v
}

func (p *chatParser) whole(name string, low, high, otherwise int64) int64 {
	raw, ok := get(p.members, name)
	if !ok {
		return otherwise
	}
	v, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || v < low || v > high {
		p.mismatch(name, raw, fmt.Sprintf("a whole number from %d to %d", low, high))
		return otherwise
	}
	return v
}

// flag returns a member of the object at the place prefix. It is false where
// there is none.
func (p *chatParser) flag(members map[string]json.RawMessage, prefix, name string) bool {
	raw, ok := get(members, name)
	if ok && string(raw) != "true" && string(raw) != "false" {
		p.mismatch(prefix+name, raw, "true or false")
	}
	return string(raw) == "true"
}

// text returns a string, and whether it is one.
func (p *chatParser) text(raw json.RawMessage, param, want string) (string, bool) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		p.mismatch(param, raw, want)
		return "", false
	}
	return s, true
}

func (p *chatParser) list(raw json.RawMessage, param, want string) []json.RawMessage {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		p.mismatch(param, raw, want)
	}
	return list
}

func (p *chatParser) model() {
	const want = `the name of a model: "` + storyModel + `"`
	raw, ok := get(p.members, "model")
	if !ok {
		p.refuse("model", "model: there is none: want %s", want)
		return
	}
	if name, ok := p.text(raw, "model", want); ok && name != storyModel && p.refusal == nil {
		p.refusal = noModel(name, strconv.Quote(storyModel)+" for chats")
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
		if raw, ok := get(p.members, name); ok && len(p.list(raw, name, "a list")) > 0 {
			p.refuse(name, "%s: %s cannot call tools: want none", name, storyModel)
		}
	}
	if raw, ok := get(p.members, "logit_bias"); ok && len(p.object(raw, "logit_bias")) > 0 {
		p.refuse("logit_bias", "logit_bias: %s has none: want no member, or an empty object", storyModel)
	}
	if p.flag(p.members, "", "logprobs") {
		p.refuse("logprobs", "logprobs: %s gives none: want false", storyModel)
	}
	if raw, ok := get(p.members, "top_logprobs"); ok && string(raw) != "0" {
		p.mismatch("top_logprobs", raw, "0: "+storyModel+" gives no logprobs")
	}
	if raw, ok := get(p.members, "response_format"); ok {
		format := p.object(raw, "response_format")
		if string(format["type"]) != `"text"` {
			p.mismatch("response_format.type", format["type"], `"text": `+storyModel+" writes nothing else")
		}
	}
	if raw, ok := get(p.members, "modalities"); ok {
		for i, kind := range p.list(raw, "modalities", "a list") {
			if string(kind) != `"text"` {
				p.mismatch(fmt.Sprintf("modalities[%d]", i), kind, `"text"`)
			}
		}
	}
	if raw, ok := get(p.members, "user"); ok {
		p.text(raw, "user", "a string")
	}
}

// streamOptions returns whether the stream shall say its usage.
func (p *chatParser) streamOptions(stream bool) bool {
	raw, ok := get(p.members, "stream_options")
	if !ok {
		return false
	}
	if !stream {
		p.refuse("stream_options", `stream_options: want it only where "stream" is true`)
	}
	return p.flag(p.object(raw, "stream_options"), "stream_options.", "include_usage")
}

// stops returns the stop texts: a string or a list of them.
func (p *chatParser) stops() []string {
	raw, ok := get(p.members, "stop")
	if !ok {
		return nil
	}
	if raw[0] == '"' {
		raw = slices.Concat(json.RawMessage("["), raw, json.RawMessage("]"))
	}
	list := p.list(raw, "stop", "a string or a list of strings")
	if len(list) > maxStops {
		p.refuse("stop", "stop: %d texts: want at most %d", len(list), maxStops)
		return nil
	}
	var stops []string
	for i, raw := range list {
		param := fmt.Sprintf("stop[%d]", i)
		text, ok := p.text(raw, param, "a string")
		if ok && (text == "" || len(text) > maxStopBytes) {
			p.refuse(param, "%s: %d bytes: want 1 to %d", param, len(text), maxStopBytes)
		}
		stops = append(stops, text)
	}
	return stops
}

// chatTexts are the texts of a chat: the last message of the user, and all others.
type chatTexts struct {
	last   string
	others []string
}

func (p *chatParser) messages() (t chatTexts) {
	raw, ok := get(p.members, "messages")
	list := []json.RawMessage{}
	if ok {
		list = p.list(raw, "messages", "a list of messages")
	}
	if len(list) == 0 || len(list) > MaxMessages {
		p.refuse("messages", "messages: %d messages: want 1 to %d", len(list), MaxMessages)
		return t
	}
	asked, size := false, 0
	for i, raw := range list {
		role, text := p.message(raw, fmt.Sprintf("messages[%d]", i))
		if size += len(text); size > MaxChatBytes {
			if p.refusal == nil {
				p.refusal = tooLong(fmt.Sprintf("messages: more than %d bytes of text: want at most that", MaxChatBytes))
			}
			return t
		}
		if role == "user" {
			if asked {
				t.others = append(t.others, t.last)
			}
			t.last, asked = text, true
		} else {
			t.others = append(t.others, text)
		}
	}
	if !asked {
		p.refuse("messages", `messages: none has the role "user": want one, because %s answers the last of these`, storyModel)
	}
	return t
}

// message returns who speaks, and the text.
func (p *chatParser) message(raw json.RawMessage, param string) (role, text string) {
	members := p.object(raw, param)
	if p.refusal != nil {
		return "", ""
	}
	const roles = `"system", "developer", "user", "assistant" or "tool"`
	role, ok := p.text(members["role"], param+".role", roles)
	if ok && !slices.Contains([]string{"system", "developer", "user", "assistant", "tool"}, role) {
		p.mismatch(param+".role", members["role"], roles)
	}
	content, ok := get(members, "content")
	param += ".content"
	switch {
	case !ok && role == "assistant": // it called a tool, or refused
	case !ok:
		p.refuse(param, "%s: there is none: want a string or a list of parts", param)
	case content[0] == '[':
		text = p.parts(content, param)
	default:
		text, _ = p.text(content, param, "a string or a list of parts")
	}
	return role, text
}

// parts returns the texts in a list of parts, one a line.
func (p *chatParser) parts(raw json.RawMessage, param string) string {
	var texts []string
	for i, raw := range p.list(raw, param, "a list of parts") {
		at := fmt.Sprintf("%s[%d]", param, i)
		part := p.object(raw, at)
		if string(part["type"]) != `"text"` {
			p.mismatch(at+".type", part["type"], `"text": `+storyModel+" reads nothing else")
		}
		text, _ := p.text(part["text"], at+".text", "a string")
		if p.refusal != nil {
			return ""
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n")
}
