package dialect

import "github.com/inferweir/weir/internal/jsonscan"

// The members of a choice, as choiceMembers has them.
const (
	ofIndex = iota
	ofText  // delta, message or text
	ofProbs
	ofFinish
	ofStop    // vLLM's: which token or text it was
	ofMatched // SGLang's, likewise
	ofNulls   // which vLLM writes, and only null is known

	sizeOfChoice = ofNulls + 3
)

type choiceParts [sizeOfChoice][]byte

// choiceMembers are those of a choice of a chunk or of a whole answer.
func choiceMembers(chat, chunk bool) []string {
	written := "text"
	switch {
	case chat && chunk:
		written = "delta"
	case chat:
		written = "message"
	}
	return []string{"index", written, "logprobs", "finish_reason", "stop_reason", "matched_stop", "token_ids", "prompt_logprobs", "prompt_token_ids"}
}

// The members of a message, as messageMembers has them. Those before ofCalls that
// the model wrote are in the order in which it writes.
const (
	ofRole = iota
	ofReasoningContent
	ofReasoning
	ofContent
	ofRefusal
	ofCalls
	ofFunction
	ofAnnotations
	ofAudio
	sizeOfMessage
)

type messageParts [sizeOfMessage][]byte

func messageMembers() []string {
	return []string{"role", "reasoning_content", "reasoning", "content", "refusal", "tool_calls", "function_call", "annotations", "audio"}
}

// sayNothing reports whether the members are as good as absent whose content is
// not known: null, and no annotations.
func (m *messageParts) sayNothing() bool {
	notes := m[ofAnnotations]
	return isAbsent(m[ofAudio]) && (isAbsent(notes) || isArray(notes) && jsonscan.Elements(notes) == 0)
}

// choiceJoiner puts together what the chunks say of one choice.
type choiceJoiner struct {
	chat     bool
	common   [sizeOfChoice]sameMember // but for ofText and ofProbs
	logprobs joinedProbs
	text     joinedText // of completions

	role, annotations, audio sameMember
	written                  [ofCalls]joinedText // from ofReasoningContent
	stage                    int                 // the last of written that has come, or ofCalls
	calls                    []*callJoiner
	callsNone                []byte // null or [], where that was said
	function                 *callJoiner
	functionNone             []byte // null, where that was said
}

// add adds what a chunk says. After the finish reason nothing comes.
func (c *choiceJoiner) add(v *choiceParts) bool {
	if !isAbsent(c.common[ofFinish].raw) || !v.plain() || !c.logprobs.add(v[ofProbs]) {
		return false
	}
	for i := range v {
		if i != ofText && i != ofProbs && !c.common[i].add(v[i]) {
			return false
		}
	}
	if !c.chat {
		return isString(v[ofText]) && c.text.add(v[ofText])
	}
	return c.delta(v[ofText])
}

// plain reports whether the members are known whose values are not put together.
func (v *choiceParts) plain() bool {
	for _, raw := range v[ofNulls:] {
		if !isAbsent(raw) {
			return false
		}
	}
	for _, raw := range v[ofStop:ofNulls] {
		if isArray(raw) || isObject(raw) {
			return false
		}
	}
	finish := v[ofFinish]
	return isAbsent(finish) || isString(finish) && !isEmptyText(finish)
}

// delta adds a part of the message. An answer as a whole does not tell what came
// when: the model reasons first, and calls last.
func (c *choiceJoiner) delta(raw []byte) bool {
	var m messageParts
	if !takeApart(raw, messageMembers(), m[:]) || !m.sayNothing() {
		return false
	}
	if role := m[ofRole]; role != nil && !isNull(role) && !isString(role) {
		return false
	}
	if !c.role.add(m[ofRole]) || !c.annotations.add(m[ofAnnotations]) || !c.audio.add(m[ofAudio]) {
		return false
	}
	for i := ofReasoningContent; i < ofCalls; i++ {
		if !isAbsent(m[i]) && !isEmptyText(m[i]) && !c.reach(i) {
			return false
		}
		if !c.written[i].add(m[i]) {
			return false
		}
	}
	return c.toolCalls(m[ofCalls]) && c.functionCall(m[ofFunction])
}

// reach notes that something of a stage came. The two names for reasoning are one
// stage: servers send both.
func (c *choiceJoiner) reach(stage int) bool {
	if stage == ofReasoning {
		stage = ofReasoningContent
	}
	if stage < c.stage {
		return false
	}
	c.stage = stage
	return true
}

func (c *choiceJoiner) toolCalls(raw []byte) bool {
	switch {
	case raw == nil:
		return true
	case isNull(raw), isArray(raw) && jsonscan.Elements(raw) == 0:
		if isAbsent(c.callsNone) {
			c.callsNone = raw
		}
		return true
	case !isArray(raw), c.function != nil, !c.reach(ofCalls):
		return false
	}
	for w := jsonscan.Into(raw); ; {
		call, more := w.Next()
		if !more {
			return true
		}
		if !c.toolCall(call) {
			return false
		}
	}
}

func (c *choiceJoiner) toolCall(raw []byte) bool {
	var v [4][]byte
	if !takeApart(raw, []string{"index", "id", "type", "function"}, v[:]) {
		return false
	}
	n, ok := wholeNumber(v[0])
	if !ok || n > int64(len(c.calls)) {
		return false
	}
	if n == int64(len(c.calls)) {
		c.calls = append(c.calls, new(callJoiner))
	}
	call := c.calls[n]
	return once(&call.id, v[1]) && (isEmptyText(v[2]) || isAbsent(v[2]) || isText(v[2], "function") && call.kind.add(v[2])) &&
		(isAbsent(v[3]) || call.add(v[3]))
}

func (c *choiceJoiner) functionCall(raw []byte) bool {
	switch {
	case raw == nil:
		return true
	case isNull(raw):
		c.functionNone = raw
		return true
	case len(c.calls) > 0, !c.reach(ofCalls):
		return false
	}
	if c.function == nil {
		c.function = new(callJoiner)
	}
	return c.function.add(raw)
}

// whole is the choice as it is in a whole answer.
func (c *choiceJoiner) whole() ([]byte, bool) {
	var v choiceParts
	for i := range v {
		v[i] = c.common[i].raw
	}
	v[ofProbs], v[ofText] = c.logprobs.raw(), c.text.raw()
	if c.chat {
		message, ok := c.message()
		if !ok {
			return nil, false
		}
		v[ofText] = message
	}
	return object(choiceMembers(c.chat, false), v[:]), true
}

func (c *choiceJoiner) message() ([]byte, bool) {
	m := messageParts{ofRole: c.role.raw, ofCalls: c.callsNone, ofFunction: c.functionNone, ofAnnotations: c.annotations.raw, ofAudio: c.audio.raw}
	for i := ofReasoningContent; i < ofCalls; i++ {
		m[i] = c.written[i].raw()
	}
	if !isString(m[ofRole]) {
		return nil, false
	}
	if m[ofContent] == nil {
		m[ofContent] = []byte("null") // the API always has it
	}
	if len(c.calls) > 0 {
		list := []byte{'['}
		for _, call := range c.calls {
			function, ok := call.function()
			if !ok || !isString(call.id.raw) || call.kind.raw == nil {
				return nil, false
			}
			list = appendElement(list, object([]string{"id", "type", "function"}, [][]byte{call.id.raw, call.kind.raw, function}))
		}
		m[ofCalls] = append(list, ']')
	}
	if c.function != nil {
		function, ok := c.function.function()
		if !ok {
			return nil, false
		}
		m[ofFunction] = function
	}
	return object(messageMembers(), m[:]), true
}

// callJoiner puts together one call of a tool.
type callJoiner struct {
	id, kind, name sameMember
	arguments      joinedText
}

// once sets what is said once; some servers write null or "" in the parts that
// follow. What comes twice one client joins, and another does not.
func once(s *sameMember, raw []byte) bool {
	switch {
	case isAbsent(raw), isEmptyText(raw):
		return true
	case !isString(raw), s.raw != nil:
		return false
	}
	s.raw = raw
	return true
}

// add adds a part of the function.
func (j *callJoiner) add(raw []byte) bool {
	var v [2][]byte
	return takeApart(raw, []string{"name", "arguments"}, v[:]) && once(&j.name, v[0]) && j.arguments.add(v[1])
}

func (j *callJoiner) function() ([]byte, bool) {
	if j.name.raw == nil || j.arguments.pieces == nil {
		return nil, false
	}
	return object([]string{"name", "arguments"}, [][]byte{j.name.raw, j.arguments.raw()}), true
}

// probLists are the members of log probabilities; each is a list with an element
// for each token.
func probLists(chat bool) []string {
	if chat {
		return []string{"content", "refusal"}
	}
	return []string{"tokens", "token_logprobs", "top_logprobs", "text_offset"}
}

// joinedProbs puts log probabilities together.
type joinedProbs struct {
	chat, null, there bool
	lists             [4]joinedList
}

func (p *joinedProbs) add(raw []byte) bool {
	switch {
	case raw == nil:
		return true
	case isNull(raw):
		p.null = true
		return true
	}
	names := probLists(p.chat)
	var v [4][]byte
	if !takeApart(raw, names, v[:len(names)]) {
		return false
	}
	p.there = true
	for i := range v {
		l := &p.lists[i]
		// Those of completions stand side by side: none may have a hole.
		if !l.add(v[i]) || !p.chat && l.null && l.elements != nil {
			return false
		}
	}
	return true
}

// raw is the object, null, or nil if nothing was said.
func (p *joinedProbs) raw() []byte {
	var v [4][]byte
	for i := range v {
		v[i] = p.lists[i].raw()
	}
	switch {
	case p.there:
		return object(probLists(p.chat), v[:])
	case p.null:
		return []byte("null")
	}
	return nil
}
