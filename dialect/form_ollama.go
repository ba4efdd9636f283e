package dialect

import (
	"github.com/inferweir/weir/internal/jsonscan"
)

// ollamaText says where an endpoint of Ollama has what the model wrote: in the line
// itself, or in its message.
type ollamaText uint8

const (
	generateText ollamaText = iota
	chatText
)

// ollamaForms are those of Ollama. A stream of one line that is the end is a stream.
func ollamaForms(t ollamaText) *formWays {
	whole := func(body []byte, depth int) ([]byte, bool) {
		a := lines{chat: t == chatText, depth: depth}
		if !eachLine(body, a.add) || !a.done {
			return nil, false
		}
		return a.answer()
	}
	stream := func(body []byte, depth int) ([]byte, bool) {
		line, ok := compacted(body, depth)
		if a := (lines{chat: t == chatText, depth: depth}); !ok || !a.add(line, true) || !a.done {
			return nil, false
		}
		return append(line, '\n'), true
	}
	return &formWays{ways: []way{{formStream, formWhole, whole}, {formWhole, formStream, stream}}, null: true, lines: true}
}

// The members of a line, as ollamaLine has them.
const (
	lineModel = iota
	lineRemoteModel
	lineRemoteHost
	lineCreated
	lineDone
	lineMessage // of chats
	lineResponse
	lineThinking
	lineCalls
	lineProbs
	lineStatistics // of the last line alone, and all that follow
)

func ollamaLine() []string {
	return []string{"model", "remote_model", "remote_host", "created_at", "done", "message", "response", "thinking", "tool_calls", "logprobs",
		"done_reason", "context", "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"}
}

// ollamaMessage is the member message of a line; images is null in some versions.
func ollamaMessage() []string {
	return []string{"role", "images", "content", "thinking", "tool_calls"}
}

// lines puts the lines of a stream together.
type lines struct {
	chat  bool
	depth int

	model, remoteModel, remoteHost, role, images sameMember
	text, thinking                               joinedText
	calls, probs                                 joinedList
	last                                         []byte // the last line, with the statistics
	done                                         bool
}

// add adds a line. It reports false if the line is not known in full.
func (a *lines) add(line []byte, last bool) bool {
	var v [lineStatistics + 8][]byte
	if jsonscan.Check(line, a.depth) != nil || !takeApart(line, ollamaLine(), v[:]) {
		return false
	}
	if a.done = string(v[lineDone]) == "true"; a.done != last || !a.done && string(v[lineDone]) != "false" {
		return false
	}
	if !isString(v[lineModel]) || !isString(v[lineCreated]) {
		return false
	}
	for _, statistic := range v[lineStatistics:] {
		if !a.done && statistic != nil {
			return false
		}
	}
	if !a.model.add(v[lineModel]) || !a.remoteModel.add(v[lineRemoteModel]) || !a.remoteHost.add(v[lineRemoteHost]) || !a.probs.add(v[lineProbs]) {
		return false
	}
	a.last = line
	if !a.chat {
		return v[lineMessage] == nil && isString(v[lineResponse]) && a.wrote(v[lineResponse], v[lineThinking], v[lineCalls])
	}
	if v[lineResponse] != nil || v[lineThinking] != nil || v[lineCalls] != nil {
		return false
	}
	var m [5][]byte
	if !takeApart(v[lineMessage], ollamaMessage(), m[:]) || !isString(m[0]) || !isAbsent(m[1]) || !isString(m[2]) {
		return false
	}
	return a.role.add(m[0]) && a.images.add(m[1]) && a.wrote(m[2], m[3], m[4])
}

// wrote adds what the model wrote. An answer as a whole does not tell what came
// when: thoughts come first, and calls last.
func (a *lines) wrote(content, thinking, calls []byte) bool {
	thinks := !isAbsent(thinking) && !isEmptyText(thinking)
	if thinks && (!a.text.empty() || !a.calls.empty()) || !isEmptyText(content) && !a.calls.empty() {
		return false
	}
	return a.text.add(content) && a.thinking.add(thinking) && a.calls.add(calls)
}

// answer is the last line with all that came before it.
func (a *lines) answer() ([]byte, bool) {
	var v [lineStatistics + 8][]byte
	if !takeApart(a.last, ollamaLine(), v[:]) {
		return nil, false
	}
	v[lineRemoteModel], v[lineRemoteHost], v[lineProbs] = a.remoteModel.raw, a.remoteHost.raw, a.probs.raw()
	if a.chat {
		m := [5][]byte{a.role.raw, a.images.raw, a.text.raw(), a.thinking.raw(), a.calls.raw()}
		v[lineMessage] = object(ollamaMessage(), m[:])
	} else {
		v[lineResponse], v[lineThinking], v[lineCalls] = a.text.raw(), a.thinking.raw(), a.calls.raw()
	}
	return object(ollamaLine(), v[:]), true
}
