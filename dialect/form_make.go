package dialect

import "github.com/inferweir/weir/internal/jsonscan"

// chunkMaker makes a stream of a whole answer.
type chunkMaker struct {
	chat, usage bool // of which API, and whether the stream tells its usage
	depth       int

	body   []byte
	common chunkParts // of every chunk
	out    []byte
}

// longestCommon bounds what every chunk repeats.
const longestCommon = 1 << 10

// chunksOf makes a stream of a whole answer: for each choice a chunk with the role,
// one with each thing that the model wrote, and one with the finish reason.
func chunksOf(body []byte, m chunkMaker) ([]byte, bool) {
	text, ok := compacted(body, m.depth)
	if !ok {
		return nil, false
	}
	whole, chunk := kinds(m.chat)
	v, ok := partsOf(text, whole, m.depth)
	if !ok || v[chunkPadding] != nil || m.usage && isAbsent(v[chunkUsed]) {
		return nil, false
	}
	m.body, m.common = body, v
	m.common[chunkObject], m.common[chunkUsed] = []byte(`"`+chunk+`"`), nil
	if m.usage {
		m.common[chunkUsed] = []byte("null")
	}
	m.common[chunkList] = nil
	if len(object(chunkMembers(), m.common[:])) > longestCommon {
		return nil, false
	}
	n := 0
	for w := jsonscan.Into(v[chunkList]); ; n++ {
		choice, more := w.Next()
		if !more {
			break
		}
		if n == maxChoices || !m.choice(choice, n) || exceeds(m.out, body) {
			return nil, false
		}
	}
	if n == 0 {
		return nil, false
	}
	if m.usage {
		m.common[chunkUsed] = v[chunkUsed]
		m.chunk(nil)
	}
	return appendEvent(m.out, "", []byte("[DONE]")), !exceeds(m.out, body)
}

// chunk adds a chunk with a choice, or with none.
func (m *chunkMaker) chunk(choice []byte) {
	m.common[chunkList] = append(append([]byte{'['}, choice...), ']')
	m.out = appendEvent(m.out, "", object(chunkMembers(), m.common[:]))
	// What says nothing is said once.
	clear(m.common[chunkNulls:chunkPadding])
}

// choice adds the chunks of the n-th choice.
func (m *chunkMaker) choice(raw []byte, n int) bool {
	var v choiceParts
	if !takeApart(raw, choiceMembers(m.chat, false), v[:]) || !v.plain() || !isString(v[ofFinish]) {
		return false
	}
	if at, ok := wholeNumber(v[ofIndex]); !ok || at != int64(n) || !m.probs(v[ofProbs]) {
		return false
	}
	c := choiceMaker{m: m, names: choiceMembers(m.chat, true), probs: v[ofProbs]}
	c.parts[ofIndex], c.parts[ofFinish] = v[ofIndex], []byte("null")
	if v[ofProbs] != nil {
		c.parts[ofProbs] = []byte("null")
	}
	copy(c.parts[ofNulls:], v[ofNulls:])
	written := []byte(`""`)
	if m.chat {
		if written = []byte("{}"); !c.message(v[ofText]) {
			return false
		}
	} else {
		if !isString(v[ofText]) {
			return false
		}
		c.chunk(v[ofText], true)
	}
	c.parts[ofFinish], c.parts[ofStop], c.parts[ofMatched] = v[ofFinish], v[ofStop], v[ofMatched]
	c.chunk(written, true)
	return true
}

// probs reports whether log probabilities are known.
func (m *chunkMaker) probs(raw []byte) bool {
	p := joinedProbs{chat: m.chat}
	return p.add(raw)
}

// choiceMaker makes the chunks of one choice.
type choiceMaker struct {
	m     *chunkMaker
	names []string
	parts choiceParts // of the next chunk
	probs []byte      // that no chunk has yet
}

// chunk adds a chunk. The log probabilities go with the first that may have them.
func (c *choiceMaker) chunk(written []byte, probs bool) {
	c.parts[ofText] = written
	if probs && c.probs != nil {
		c.parts[ofProbs], c.probs = c.probs, nil
	}
	c.m.chunk(object(c.names, c.parts[:]))
	if c.parts[ofProbs] != nil {
		c.parts[ofProbs] = []byte("null")
	}
	clear(c.parts[ofNulls:])
}

// delta adds a chunk with some members of the message.
func (c *choiceMaker) delta(m messageParts, probs bool) {
	c.chunk(object(messageMembers(), m[:]), probs)
}

// message adds the chunks of a message: what says nothing goes with the role.
func (c *choiceMaker) message(raw []byte) bool {
	var v messageParts
	if !takeApart(raw, messageMembers(), v[:]) || !v.sayNothing() || !isString(v[ofRole]) || v[ofContent] == nil {
		return false
	}
	first := messageParts{ofRole: v[ofRole], ofAnnotations: v[ofAnnotations], ofAudio: v[ofAudio]}
	for i := ofReasoningContent; i < ofCalls; i++ {
		if !isAbsent(v[i]) && !isString(v[i]) {
			return false
		}
		if isAbsent(v[i]) || isEmptyText(v[i]) {
			first[i], v[i] = v[i], nil
		}
	}
	if v[ofContent] != nil {
		first[ofContent] = []byte(`""`)
	}
	if isAbsent(v[ofCalls]) || isArray(v[ofCalls]) && jsonscan.Elements(v[ofCalls]) == 0 {
		first[ofCalls], v[ofCalls] = v[ofCalls], nil
	}
	if isAbsent(v[ofFunction]) {
		first[ofFunction], v[ofFunction] = v[ofFunction], nil
	}
	c.delta(first, false)
	if v[ofReasoningContent] != nil || v[ofReasoning] != nil {
		c.delta(messageParts{ofReasoningContent: v[ofReasoningContent], ofReasoning: v[ofReasoning]}, false)
	}
	if v[ofContent] != nil {
		c.delta(messageParts{ofContent: v[ofContent]}, true)
	}
	if v[ofRefusal] != nil {
		c.delta(messageParts{ofRefusal: v[ofRefusal]}, false)
	}
	return c.calls(v[ofCalls]) && c.function(v[ofFunction], v[ofCalls])
}

// calls adds a chunk for each call of a tool.
func (c *choiceMaker) calls(raw []byte) bool {
	if raw == nil {
		return true
	}
	if !isArray(raw) {
		return false
	}
	n := int64(0)
	for w := jsonscan.Into(raw); ; n++ {
		call, more := w.Next()
		if !more {
			return true
		}
		var v [4][]byte
		if !takeApart(call, []string{"index", "id", "type", "function"}, v[:]) || !isString(v[1]) || isEmptyText(v[1]) || !isText(v[2], "function") || !wholeFunction(v[3]) {
			return false
		}
		// Ollama counts them here, too.
		if at, ok := wholeNumber(v[0]); v[0] != nil && (!ok || at != n) || exceeds(c.m.out, c.m.body) {
			return false
		}
		v[0] = appendCount(nil, n)
		entry := object([]string{"index", "id", "type", "function"}, v[:])
		c.delta(messageParts{ofCalls: append(append([]byte{'['}, entry...), ']')}, false)
	}
}

// function adds a chunk with the older kind of call, beside which is no other.
func (c *choiceMaker) function(raw, calls []byte) bool {
	if raw == nil {
		return true
	}
	if calls != nil || !wholeFunction(raw) {
		return false
	}
	c.delta(messageParts{ofFunction: raw}, false)
	return true
}

// wholeFunction reports whether raw is a function's name with its arguments.
func wholeFunction(raw []byte) bool {
	var v [2][]byte
	return takeApart(raw, []string{"name", "arguments"}, v[:]) && isString(v[0]) && !isEmptyText(v[0]) && isString(v[1])
}
