package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
)

// messageForms are those of Anthropic's messages.
func messageForms() *formWays {
	text := mustCompile("")
	whole := func(body []byte, depth int) ([]byte, bool) {
		j := messageJoiner{depth: depth, text: text}
		if !eachEvent(body, j.take) || j.stage != messageStopped {
			return nil, false
		}
		return j.whole(), true
	}
	return &formWays{ways: []way{{formStream, formWhole, whole}, {formWhole, formStream, messageEvents}}}
}

// The members of a message, as wholeMessage has them.
const (
	wmID = iota
	wmType
	wmRole
	wmModel
	wmContent
	wmStop
	wmSequence
	wmUsage
	wmNulls // of which only null is known
	wmSize  = wmNulls + 3
)

type wholeParts [wmSize][]byte

func wholeMessage() []string {
	return []string{"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "container", "context_management", "stop_details"}
}

// known reports whether a message, or the start of one, is known but for its
// content, its end and its usage.
func (v *wholeParts) known() bool {
	for _, raw := range v[wmNulls:] {
		if !isAbsent(raw) {
			return false
		}
	}
	return isString(v[wmID]) && isText(v[wmType], "message") && isText(v[wmRole], "assistant") && isString(v[wmModel]) && isArray(v[wmContent])
}

// usedOutput is the place of output_tokens in usageMembers.
const usedOutput = 0

type usageParts [8][]byte

func usageMembers() []string {
	return []string{"output_tokens", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
		"cache_creation", "server_tool_use", "service_tier", "inference_geo"}
}

// later takes over what a later report says. Each is of the message so far: null
// says nothing, and a number that falls is of a server that means something else.
func (u *usageParts) later(raw []byte) bool {
	var v usageParts
	if !takeApart(raw, usageMembers(), v[:]) || !isCount(v[usedOutput]) {
		return false
	}
	for i, value := range v {
		if isAbsent(value) {
			continue
		}
		before, counted := wholeNumber(u[i])
		if now, ok := wholeNumber(value); counted && (!ok || now < before) {
			return false
		}
		u[i] = value
	}
	return true
}

// The members of a block of content, as blockMembers has them.
const (
	ofKind = iota
	ofBlockText
	ofCitations
	ofThinking
	ofSignature
	ofData
	ofCallID
	ofCallName
	ofInput
	ofCaller
	sizeOfBlock
)

type blockParts [sizeOfBlock][]byte

func blockMembers() []string {
	return []string{"type", "text", "citations", "thinking", "signature", "data", "id", "name", "input", "caller"}
}

// blockKind is a type of block: the members that it has, and those that it may
// have.
type blockKind struct {
	name      string
	must, may []int
}

func blockKinds() []blockKind {
	return []blockKind{
		{"text", []int{ofBlockText}, []int{ofCitations}},
		{"thinking", []int{ofThinking}, []int{ofSignature}},
		{"redacted_thinking", []int{ofData}, nil},
		{"tool_use", []int{ofCallID, ofCallName, ofInput}, []int{ofCaller}},
	}
}

// block takes apart a block of content of a known type.
func block(raw []byte) (v blockParts, kind string, ok bool) {
	if !takeApart(raw, blockMembers(), v[:]) {
		return v, "", false
	}
	for _, k := range blockKinds() {
		if !isText(v[ofKind], k.name) {
			continue
		}
		rest := v
		rest[ofKind] = nil
		for _, i := range k.must {
			if rest[i] == nil {
				return v, "", false
			}
			rest[i] = nil
		}
		for _, i := range k.may {
			rest[i] = nil
		}
		for _, other := range rest {
			ok = ok || other != nil
		}
		return v, k.name, !ok && v.typed()
	}
	return v, "", false
}

// typed reports whether the members of a block are of the types that they should
// be.
func (v *blockParts) typed() bool {
	for _, i := range []int{ofBlockText, ofThinking, ofSignature, ofData, ofCallID, ofCallName} {
		if v[i] != nil && !isString(v[i]) {
			return false
		}
	}
	return (v[ofInput] == nil || isObject(v[ofInput])) && (isAbsent(v[ofCitations]) || isArray(v[ofCitations])) &&
		(isAbsent(v[ofCaller]) || isObject(v[ofCaller]))
}

// The stages of a stream.
const (
	messageUnbegun = iota
	messageBegun   // between blocks
	messageInBlock
	messageEnding // behind the last report
	messageStopped
)

// messageJoiner puts the events of a stream together, as the API's clients do.
type messageJoiner struct {
	depth int
	text  *jsonscan.Paths // of a string

	stage   int
	message wholeParts
	usage   usageParts
	content []byte // the blocks that are done
	blocks  int64

	kind    string // of the block that is open, and what came of it
	block   blockParts
	written joinedText // its text, thoughts or input
	signed  []byte
	cited   joinedList
}

func (j *messageJoiner) take(name string, data []byte) bool {
	kind, ok := typedEvent(name, data, j.depth)
	if !ok || name == "" || j.stage == messageStopped {
		return false
	}
	// What is kept are parts of it, and the splitter may use data again.
	data = bytes.Clone(bytes.Trim(data, jsonSpace))
	var v [3][]byte
	switch kind {
	case "ping":
		return takeApart(data, []string{"type"}, v[:1])
	case "message_start":
		return j.stage == messageUnbegun && takeApart(data, []string{"type", "message"}, v[:2]) && j.start(v[1])
	case "content_block_start":
		return j.stage == messageBegun && takeApart(data, []string{"type", "index", "content_block"}, v[:]) && j.at(v[1]) && j.open(v[2])
	case "content_block_delta":
		return j.stage == messageInBlock && takeApart(data, []string{"type", "index", "delta"}, v[:]) && j.at(v[1]) && j.delta(v[2])
	case "content_block_stop":
		return j.stage == messageInBlock && takeApart(data, []string{"type", "index"}, v[:2]) && j.at(v[1]) && j.close()
	case "message_delta":
		return j.stage == messageBegun && takeApart(data, []string{"type", "delta", "usage"}, v[:]) && j.end(v[1], v[2])
	case "message_stop":
		ended := j.stage == messageEnding
		j.stage = messageStopped
		return ended && takeApart(data, []string{"type"}, v[:1])
	}
	return false
}

// at reports whether index is that of the block that is open or next.
func (j *messageJoiner) at(index []byte) bool {
	n, ok := wholeNumber(index)
	return ok && n == j.blocks
}

func (j *messageJoiner) start(raw []byte) bool {
	j.stage, j.content = messageBegun, []byte{'['}
	if !takeApart(raw, wholeMessage(), j.message[:]) || !j.message.known() || jsonscan.Elements(j.message[wmContent]) > 0 {
		return false
	}
	return isAbsent(j.message[wmStop]) && isAbsent(j.message[wmSequence]) && takeApart(j.message[wmUsage], usageMembers(), j.usage[:])
}

// open begins a block. What it begins with counts, too.
func (j *messageJoiner) open(raw []byte) bool {
	var ok bool
	j.stage, j.written, j.signed, j.cited = messageInBlock, joinedText{}, nil, joinedList{}
	if j.block, j.kind, ok = block(raw); !ok {
		return false
	}
	switch j.kind {
	case "text":
		return j.written.add(j.block[ofBlockText]) && j.cited.add(j.block[ofCitations])
	case "thinking":
		return j.written.add(j.block[ofThinking])
	case "tool_use":
		return isObject(j.block[ofInput]) && isJSONSpace(j.block[ofInput][1:len(j.block[ofInput])-1])
	}
	return true
}

func (j *messageJoiner) delta(raw []byte) bool {
	v, names := [6][]byte{}, []string{"type", "text", "citation", "thinking", "signature", "partial_json"}
	if !takeApart(raw, names, v[:]) {
		return false
	}
	one := 0
	for _, value := range v {
		if value != nil {
			one++
		}
	}
	if one != 2 {
		return false
	}
	switch {
	case isText(v[0], "text_delta") && j.kind == "text":
		return isString(v[1]) && j.written.add(v[1])
	case isText(v[0], "citations_delta") && j.kind == "text":
		return isObject(v[2]) && j.cited.add(append(append([]byte{'['}, v[2]...), ']'))
	case isText(v[0], "thinking_delta") && j.kind == "thinking":
		return isString(v[3]) && j.signed == nil && j.written.add(v[3])
	case isText(v[0], "signature_delta") && j.kind == "thinking":
		// The clients take the last; it comes once.
		first := j.signed == nil && (j.block[ofSignature] == nil || isEmptyText(j.block[ofSignature]))
		j.signed = v[4]
		return first && isString(v[4])
	case isText(v[0], "input_json_delta") && j.kind == "tool_use":
		return isString(v[5]) && j.written.add(v[5])
	}
	return false
}

// close ends the block.
func (j *messageJoiner) close() bool {
	switch j.kind {
	case "text":
		j.block[ofBlockText], j.block[ofCitations] = j.written.raw(), j.cited.raw()
	case "thinking":
		j.block[ofThinking] = j.written.raw()
		if j.signed != nil {
			j.block[ofSignature] = j.signed
		}
	case "tool_use":
		if j.written.empty() {
			break
		}
		input, ok := j.input()
		if !ok {
			return false
		}
		j.block[ofInput] = input
	}
	j.content = appendElement(j.content, object(blockMembers(), j.block[:]))
	j.stage, j.blocks = messageBegun, j.blocks+1
	return true
}

// input is the JSON that the pieces of a string have in them.
func (j *messageJoiner) input() ([]byte, bool) {
	raw := j.written.raw()
	// A surrogate without its other half is no text.
	if _, err := jsonscan.AppendCanonical(nil, raw, nil, j.depth); err != nil {
		return nil, false
	}
	v, err := j.text.Find(nil, raw, j.depth)
	if err != nil {
		return nil, false
	}
	text, _ := v[0].Text()
	input := bytes.Trim([]byte(text), jsonSpace)
	return input, isObject(input) && jsonscan.Check(input, j.depth) == nil
}

// end takes over why the message ended.
func (j *messageJoiner) end(delta, usage []byte) bool {
	j.stage = messageEnding
	var v [5][]byte
	if !takeApart(delta, []string{"stop_reason", "stop_sequence", "container", "context_management", "stop_details"}, v[:]) {
		return false
	}
	if !isString(v[0]) || !isAbsent(v[1]) && !isString(v[1]) || !j.usage.later(usage) {
		return false
	}
	j.message[wmStop] = v[0]
	if v[1] != nil {
		j.message[wmSequence] = v[1]
	}
	for i, raw := range v[2:] {
		if !isAbsent(raw) {
			return false
		}
		if raw != nil {
			j.message[wmNulls+i] = raw
		}
	}
	return true
}

func (j *messageJoiner) whole() []byte {
	j.message[wmContent] = append(j.content, ']')
	j.message[wmUsage] = object(usageMembers(), j.usage[:])
	return object(wholeMessage(), j.message[:])
}

// messageEvents makes a stream of a whole message: for each block one delta. The
// usage is in the start, but for the output, which is at the end.
func messageEvents(body []byte, depth int) ([]byte, bool) {
	text, ok := compacted(body, depth)
	var v wholeParts
	var used usageParts
	if !ok || !takeApart(text, wholeMessage(), v[:]) || !v.known() || !takeApart(v[wmUsage], usageMembers(), used[:]) {
		return nil, false
	}
	if !isString(v[wmStop]) || !isAbsent(v[wmSequence]) && !isString(v[wmSequence]) || !isCount(used[usedOutput]) {
		return nil, false
	}
	blocks, output := v[wmContent], used[usedOutput]
	ended := object([]string{"stop_reason", "stop_sequence"}, [][]byte{v[wmStop], v[wmSequence]})
	used[usedOutput], v[wmContent], v[wmStop] = []byte("0"), []byte("[]"), []byte("null")
	if v[wmUsage] = object(usageMembers(), used[:]); v[wmSequence] != nil {
		v[wmSequence] = []byte("null")
	}
	m := eventMaker{out: typed(nil, "message_start", "message", object(wholeMessage(), v[:])), body: body}
	n := int64(0)
	for w := jsonscan.Into(blocks); ; n++ {
		raw, more := w.Next()
		if !more {
			break
		}
		if m.index = appendCount(nil, n); !m.block(raw) {
			return nil, false
		}
	}
	end := object([]string{"type", "delta", "usage"}, [][]byte{[]byte(`"message_delta"`), ended, object([]string{"output_tokens"}, [][]byte{output})})
	m.out = typed(appendEvent(m.out, "message_delta", end), "message_stop", "", nil)
	return m.out, !exceeds(m.out, body)
}

// typed appends an event of a type with one more member, or with none.
func typed(dst []byte, kind, name string, value []byte) []byte {
	return appendEvent(dst, kind, object([]string{"type", name}, [][]byte{[]byte(`"` + kind + `"`), value}))
}

// eventMaker makes the events of the blocks of a message.
type eventMaker struct {
	out, body []byte
	index     []byte // of the block
}

// event adds an event of the block with one more member, or with none.
func (m *eventMaker) event(kind, name string, value []byte) {
	m.out = appendEvent(m.out, kind, object([]string{"type", "index", name}, [][]byte{[]byte(`"` + kind + `"`), m.index, value}))
}

func (m *eventMaker) delta(kind, name string, value []byte) {
	m.event("content_block_delta", "delta", object([]string{"type", name}, [][]byte{[]byte(`"` + kind + `"`), value}))
}

// block adds the events of one block.
func (m *eventMaker) block(raw []byte) bool {
	v, kind, ok := block(raw)
	if !ok {
		return false
	}
	start, nothing := v, []byte(`""`)
	switch kind {
	case "text":
		start[ofBlockText] = nothing
		if !isAbsent(v[ofCitations]) {
			start[ofCitations] = []byte("[]")
		}
	case "thinking":
		start[ofThinking] = nothing
		if v[ofSignature] != nil {
			start[ofSignature] = nothing
		}
	case "tool_use":
		start[ofInput] = []byte("{}")
	}
	m.event("content_block_start", "content_block", object(blockMembers(), start[:]))
	switch kind {
	case "text":
		m.delta("text_delta", "text", v[ofBlockText])
		ok = m.citations(v[ofCitations])
	case "thinking":
		m.delta("thinking_delta", "thinking", v[ofThinking])
		if v[ofSignature] != nil && !isEmptyText(v[ofSignature]) {
			m.delta("signature_delta", "signature", v[ofSignature])
		}
	case "tool_use":
		m.delta("input_json_delta", "partial_json", quoted(v[ofInput]))
	}
	m.event("content_block_stop", "", nil)
	return ok && !exceeds(m.out, m.body)
}

func (m *eventMaker) citations(list []byte) bool {
	if isAbsent(list) {
		return true
	}
	for w := jsonscan.Into(list); ; {
		citation, more := w.Next()
		if !more {
			return true
		}
		if !isObject(citation) || exceeds(m.out, m.body) {
			return false
		}
		m.delta("citations_delta", "citation", citation)
	}
}
