package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// chatForms are those of OpenAI's chat/completions.
func chatForms() *formWays { return chunkForms(true) }

// completionForms are those of OpenAI's older completions.
func completionForms() *formWays { return chunkForms(false) }

// chunkForms are those of answers that come in chunks. A stream without its usage
// is made of one with it as Weir itself makes it where it asked; a whole answer is
// not made of it, because that has the usage.
func chunkForms(chat bool) *formWays {
	whole := func(body []byte, depth int) ([]byte, bool) { return wholeOfChunks(body, depth, chat) }
	to := func(usage bool) func([]byte, int) ([]byte, bool) {
		return func(body []byte, depth int) ([]byte, bool) {
			return chunksOf(body, chunkMaker{chat: chat, usage: usage, depth: depth})
		}
	}
	_, kind := kinds(chat)
	strip := usageStripper{kind, mustCompile(append(errorPointers(), "/model", "/usage", "/choices")...)}
	return &formWays{
		ways: []way{
			{formStreamUsage, formWhole, whole},
			{formStreamUsage, formStream, strip.stream},
			{formWhole, formStream, to(false)},
			{formWhole, formStreamUsage, to(true)},
		},
		null:    true,
		options: true,
	}
}

// The members of a chunk, and of a whole answer but for the last, as chunkMembers
// has them.
const (
	chunkID = iota
	chunkObject
	chunkCreated
	chunkBy
	chunkList
	chunkUsed
	chunkTier
	chunkPrint
	chunkNulls                    // which vLLM writes, and only null is known
	chunkPadding = chunkNulls + 3 // OpenAI's, against those who measure the length of encrypted chunks
	chunkSize    = chunkPadding + 1
)

func chunkMembers() []string {
	return []string{"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint",
		"prompt_logprobs", "prompt_token_ids", "kv_transfer_params", "obfuscation"}
}

// chunkParts are the parts of a chunk, or of a whole answer.
type chunkParts [chunkSize][]byte

// partsOf takes apart a chunk or a whole answer, whose member object is kind.
func partsOf(data []byte, kind string, depth int) (v chunkParts, ok bool) {
	data = bytes.Trim(data, jsonSpace)
	if jsonscan.Check(data, depth) != nil || !takeApart(data, chunkMembers(), v[:]) {
		return v, false
	}
	for _, raw := range v[chunkNulls:chunkPadding] {
		if !isAbsent(raw) {
			return v, false
		}
	}
	ok = isString(v[chunkID]) && isText(v[chunkObject], kind) && isCount(v[chunkCreated]) && isString(v[chunkBy]) &&
		isArray(v[chunkList]) && (isAbsent(v[chunkUsed]) || isObject(v[chunkUsed])) &&
		(isAbsent(v[chunkTier]) || isString(v[chunkTier])) && (isAbsent(v[chunkPrint]) || isString(v[chunkPrint])) &&
		(v[chunkPadding] == nil || isString(v[chunkPadding]))
	return v, ok
}

// kinds are the values of the member object.
func kinds(chat bool) (whole, chunk string) {
	if chat {
		return "chat.completion", "chat.completion.chunk"
	}
	return "text_completion", "text_completion"
}

// chunkJoiner puts the chunks of a stream together.
type chunkJoiner struct {
	chat  bool
	kind  string
	depth int

	common  [chunkSize]sameMember // what all chunks say alike
	choices []*choiceJoiner
	used    bool // the usage came; no choice may follow
	done    bool // the mark of the end came
}

// wholeOfChunks makes a whole answer of a stream that tells its usage.
func wholeOfChunks(body []byte, depth int, chat bool) ([]byte, bool) {
	whole, chunk := kinds(chat)
	j := chunkJoiner{chat: chat, kind: chunk, depth: depth}
	if !eachEvent(body, j.take) || !j.done {
		return nil, false
	}
	list := []byte{'['}
	for _, c := range j.choices {
		choice, ok := c.whole()
		if !ok {
			return nil, false
		}
		list = appendElement(list, choice)
	}
	var v chunkParts
	for i := range v {
		v[i] = j.common[i].raw
	}
	v[chunkObject], v[chunkList], v[chunkPadding] = []byte(`"`+whole+`"`), append(list, ']'), nil
	return object(chunkMembers(), v[:]), true
}

func (j *chunkJoiner) take(name string, data []byte) bool {
	if name != "" || j.done {
		return false
	}
	if isDone(data) {
		j.done = true
		return j.used
	}
	// The pieces are parts of what the splitter may use again.
	v, ok := partsOf(bytes.Clone(data), j.kind, j.depth)
	if !ok || j.used {
		return false
	}
	for i := range v {
		if i != chunkList && i != chunkUsed && i != chunkPadding && !j.common[i].add(v[i]) {
			return false
		}
	}
	choices := jsonscan.Into(v[chunkList])
	n := 0
	for {
		choice, more := choices.Next()
		if !more {
			break
		}
		if n++; !j.choice(choice) {
			return false
		}
	}
	if isAbsent(v[chunkUsed]) {
		return n > 0
	}
	j.used = true
	return j.common[chunkUsed].add(v[chunkUsed]) && j.settled()
}

// settled reports whether all choices are there and finished.
func (j *chunkJoiner) settled() bool {
	for _, c := range j.choices {
		if c == nil || isAbsent(c.common[ofFinish].raw) {
			return false
		}
	}
	return len(j.choices) > 0
}

// choice adds what a chunk says of one choice.
func (j *chunkJoiner) choice(raw []byte) bool {
	var v choiceParts
	if !takeApart(raw, choiceMembers(j.chat, true), v[:]) {
		return false
	}
	n, ok := wholeNumber(v[ofIndex])
	if !ok || n >= maxChoices {
		return false
	}
	for int64(len(j.choices)) <= n {
		j.choices = append(j.choices, nil)
	}
	if j.choices[n] == nil {
		j.choices[n] = &choiceJoiner{chat: j.chat, logprobs: joinedProbs{chat: j.chat}}
	}
	return j.choices[n].add(&v)
}

// usageStripper takes the usage out of streams.
type usageStripper struct {
	kind  string          // what a chunk's object is
	paths *jsonscan.Paths // what appendStripped reads
}

// stream takes the usage out of a stream as Weir does where it asked for it and the
// client did not. Whatever else is there stays, known or not.
func (s usageStripper) stream(body []byte, depth int) ([]byte, bool) {
	var cut sse.Splitter
	if _, err := cut.Write(body); err != nil {
		return nil, false
	}
	cut.End()
	var room [chunkChoices + 1]jsonscan.Value
	out := make([]byte, 0, len(body))
	used, done := false, false
	for {
		frame, ok := cut.Next()
		switch {
		case !ok:
			return append(out, cut.Rest()...), used && done && isJSONSpace(cut.Rest())
		case !plainEvent(frame.Raw):
			return nil, false
		case frame.Data == nil:
			out = append(out, frame.Raw...)
			continue
		case done, len(frame.Name) > 0:
			return nil, false
		case isDone(frame.Data):
			done = true
			out = append(out, frame.Raw...)
			continue
		}
		values, err := s.paths.Find(room[:0], frame.Data, depth)
		if err != nil || !is(values[atObject], s.kind) || values[atError].Kind() != jsonscan.Missing {
			return nil, false
		}
		used = used || values[chunkUsage].Kind() == jsonscan.Object
		out = appendStripped(out, frame, values)
	}
}
