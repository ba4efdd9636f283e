package dialect

import (
	"strconv"

	"github.com/inferweir/weir/internal/jsonscan"
)

// usageAt are the members of OpenAI's usage below prefix, under the names of all
// endpoints: prompt and completion, or input and output.
func usageAt(prefix string) []string {
	return []string{
		prefix + "/prompt_tokens", prefix + "/input_tokens", prefix + "/completion_tokens", prefix + "/output_tokens", prefix + "/total_tokens",
		prefix + "/prompt_tokens_details/cached_tokens", prefix + "/input_tokens_details/cached_tokens",
	}
}

const usageValues = 7

// usage reads the values of usageAt. Servers report it once at the end, or in
// every chunk so far: the largest of each counts.
func (t *tally) usage(v []jsonscan.Value) {
	raise(&t.input, v[0])
	raise(&t.input, v[1])
	t.produced(v[2])
	t.produced(v[3])
	if _, ok := count(v[4]); ok {
		raise(&t.total, v[4])
		t.newer = false
	}
	raise(&t.cached, v[5])
	raise(&t.cached, v[6])
}

// The values of a chunk, behind those of errorPointers.
const (
	chunkModel = errorValues + iota
	chunkUsage
	chunkChoices
	chunkSecond                              // the second choice; most chunks have one
	chunkGroqIn                              // Groq puts its
	chunkGroqOut                             // usage here
	chunkCounts                              // usageAt
	chunkChoice  = chunkCounts + usageValues // choiceAt, of the first choice
)

// The values of choiceAt.
const (
	choiceIndex = iota
	choiceFinish
	choiceSecondCall
	choiceCalls
	choiceTexts                     // and all that follow
	choiceRefusal = choiceTexts + 4 // one of them
)

// choiceAt are the members of a choice of a chunk.
func choiceAt(prefix string) []string {
	delta := prefix + "/delta"
	return []string{
		prefix + "/index", prefix + "/finish_reason", delta + "/tool_calls/1", delta + "/tool_calls",
		prefix + "/text", delta + "/content", delta + "/reasoning_content", delta + "/reasoning", delta + "/refusal",
		delta + "/tool_calls/0/function/arguments", delta + "/function_call/arguments",
	}
}

// chunkForm is chat/completions and completions: chunks and answers differ in
// where the text of a choice is.
func chunkForm() *answerForm {
	pointers := []string{"/model", "/usage", "/choices", "/choices/1", "/x_groq/usage/prompt_tokens", "/x_groq/usage/completion_tokens"}
	pointers = append(pointers, usageAt("/usage")...)
	more := choices{choice: mustCompile(choiceAt("")...), call: mustCompile("/function/arguments")}
	return &answerForm{
		whole:   choicesForm(),
		event:   reads(more.chunk, append(pointers, choiceAt("/choices/0")...)...),
		asked:   mustCompile("/n"),
		done:    doneEnds,
		end:     endChoices,
		chunks:  true,
		reasons: true,
	}
}

func chatAnswers() *answerForm { return chunkForm() }

func completionAnswers() *answerForm { return chunkForm() }

// The values of wholeAt.
const (
	wholeModel = iota
	wholeBilledIn
	wholeBilledOut
	wholeCounts // usageAt
	wholeValues = wholeCounts + usageValues
)

// wholeAt are the members of a JSON answer of every endpoint of OpenAI but
// responses. Cohere's form of embeddings and of rerank has the counts in meta.
func wholeAt() []string {
	return append([]string{"/model", "/meta/billed_units/input_tokens", "/meta/billed_units/output_tokens"}, usageAt("/usage")...)
}

func takeWhole(t *tally, v []jsonscan.Value) {
	v = v[errorValues:]
	t.answeredBy(v[wholeModel])
	raise(&t.input, v[wholeBilledIn])
	t.produced(v[wholeBilledOut])
	t.usage(v[wholeCounts:])
}

func wholeForm() *reading { return reads(takeWhole, wholeAt()...) }

// wholeChoices is of how many choices of a JSON answer the ends are read.
const wholeChoices = 16

// choicesForm is the JSON answer of chat/completions and completions.
func choicesForm() *reading {
	pointers := wholeAt()
	for i := range wholeChoices {
		choice := "/choices/" + strconv.Itoa(i)
		pointers = append(pointers, choice+"/finish_reason", choice+"/message/refusal")
	}
	pointers = append(pointers, "/choices/"+strconv.Itoa(wholeChoices))
	return reads(func(t *tally, v []jsonscan.Value) {
		takeWhole(t, v)
		v = v[errorValues+wholeValues:]
		t.finishedBy(v[0])
		t.stray = t.stray || v[2*wholeChoices].Kind() != jsonscan.Missing
		begun := false
		for i := wholeChoices - 1; i >= 0; i-- {
			finish, refusal := v[2*i], v[2*i+1]
			if begun = begun || finish.Kind() != jsonscan.Missing; begun {
				t.choice(int64(i), finish)
			}
			t.hindered = t.hindered || reported(refusal)
		}
	}, pointers...)
}

// choices reads what a chunk has more than one of.
type choices struct {
	choice, call *jsonscan.Paths
}

func (c choices) chunk(t *tally, v []jsonscan.Value) {
	t.answeredBy(v[chunkModel])
	if v[chunkChoices].Kind() == jsonscan.Array && !isEmptyArray(v[chunkChoices]) {
		c.one(t, v[chunkChoice:], 0)
	}
	if v[chunkSecond].Kind() != jsonscan.Missing {
		c.others(t, v[chunkChoices].Raw())
	}
	t.usage(v[chunkCounts:])
	raise(&t.input, v[chunkGroqIn])
	t.produced(v[chunkGroqOut])
}

// one reads one choice, which is the place-th of its chunk.
func (c choices) one(t *tally, v []jsonscan.Value, place int) {
	index := int64(place)
	if n, ok := count(v[choiceIndex]); ok {
		index = n
	}
	finish := v[choiceFinish]
	t.choice(index, finish)
	if index == 0 {
		t.finishedBy(finish)
	}
	t.hindered = t.hindered || reported(v[choiceRefusal])
	t.texts(v[choiceTexts:])
	if v[choiceSecondCall].Kind() == jsonscan.Missing {
		return
	}
	var room [1]jsonscan.Value
	w := jsonscan.Into(v[choiceCalls].Raw())
	w.Next() // the first is counted
	for call, more := w.Next(); more; call, more = w.Next() {
		// Elements of what was read are JSON, and no deeper: there is no error.
		if arguments, err := c.call.Find(room[:0], call, deepest); err == nil {
			t.texts(arguments)
		}
	}
}

// others reads the choices of a chunk behind the first.
func (c choices) others(t *tally, array []byte) {
	var room [16]jsonscan.Value
	w := jsonscan.Into(array)
	w.Next() // the first is counted
	for place := 1; ; place++ {
		choice, more := w.Next()
		if !more {
			return
		}
		if place >= maxChoices {
			t.stray = true
			return
		}
		if v, err := c.choice.Find(room[:0], choice, deepest); err == nil {
			c.one(t, v, place)
		}
	}
}

// deepest is a depth for parts of what was read with the caller's bound.
const deepest = 10_000

// embeddingAnswers also reads rerank, score, moderations and whatever has usage and
// no stream.
func embeddingAnswers() *answerForm { return &answerForm{whole: wholeForm(), inputs: true} }

// mediaAnswers are transcriptions, translations, speech and images. Their streams
// end with a typed event, with [DONE] in other servers, or just so.
func mediaAnswers() *answerForm {
	pointers := append([]string{"/model"}, usageAt("/usage")...)
	pointers = append(pointers, "/delta", "/choices/0/delta/content", "/choices/0/text")
	return &answerForm{
		whole: wholeForm(),
		event: reads(func(t *tally, v []jsonscan.Value) {
			t.answeredBy(v[errorValues])
			t.texts(v[errorValues+1+usageValues:])
			t.usage(v[errorValues+1:])
			t.mediaEvent(v[atType])
		}, pointers...),
		done: doneEnds,
		end:  endClean,
	}
}

// mediaEvent reads the type of an event. Behind the first end nothing must follow:
// of several images it is not known how many there will be. Types that are not the
// API's own say nothing about the end.
func (t *tally) mediaEvent(kind jsonscan.Value) {
	for _, end := range []string{"transcript.text.done", "speech.audio.done", "image_generation.completed", "image_edit.completed"} {
		if is(kind, end) {
			t.ended, t.open = true, false
			return
		}
	}
	for _, part := range []string{"transcript.text.delta", "transcript.text.segment", "speech.audio.delta", "image_generation.partial_image", "image_edit.partial_image"} {
		t.open = t.open || !t.ended && is(kind, part)
	}
}

// responseAnswers are OpenAI's responses: typed events, each with a number.
func responseAnswers() *answerForm {
	answer := func(prefix string) []string {
		return append([]string{prefix + "/model", prefix + "/status", prefix + "/incomplete_details/reason"}, usageAt(prefix+"/usage")...)
	}
	const answerValues = 3 + usageValues
	take := func(t *tally, v []jsonscan.Value) {
		t.answeredBy(v[0])
		t.choice(0, v[1])
		t.finishedBy(v[1])
		t.finishedBy(v[2])
		t.usage(v[3:])
	}
	event := func(t *tally, v []jsonscan.Value) {
		kind := v[atType]
		v = v[errorValues:]
		if n, ok := count(v[0]); ok {
			t.sequence = max(t.sequence, n+1)
		}
		if !is(kind, "response.audio.delta") { // which is base64
			t.texts(v[1:2])
		}
		status := v[6]
		over := is(status, "completed") || is(status, "incomplete")
		done := is(kind, "response.done") // the only end that some servers send
		switch {
		case is(kind, "response.refusal.delta"), is(kind, "response.refusal.done"):
			t.hindered = true
			return
		case is(kind, "response.failed"), done && is(status, "failed"):
			t.fail(label(v[3], v[2]), clipped(v[4], maxErr))
		case is(kind, "response.completed"), is(kind, "response.incomplete"), is(kind, "response.cancelled"), done && (over || is(status, "cancelled")):
			t.ended = true
		case over:
			t.closed = true
		default:
			t.answeredBy(v[5])
			return
		}
		take(t, v[5:5+answerValues])
	}
	pointers := append([]string{"/sequence_number", "/delta", "/response/error/code", "/response/error/type", "/response/error/message"}, answer("/response")...)
	return &answerForm{
		whole: reads(func(t *tally, v []jsonscan.Value) {
			take(t, v[errorValues:])
			t.responseParts(v[errorValues+answerValues:])
		}, append(answer(""), responsePartsAt()...)...),
		event:   reads(event, pointers...),
		done:    doneClosed,
		reasons: true,
	}
}

// responsePartsAt are the types of the parts of a JSON answer where a refusal may
// be, and then whatever there is beyond these.
func responsePartsAt() []string {
	const items, parts = 8, 2
	var types, beyond []string
	for i := range items {
		content := "/output/" + strconv.Itoa(i) + "/content/"
		for j := range parts {
			types = append(types, content+strconv.Itoa(j)+"/type")
		}
		beyond = append(beyond, content+strconv.Itoa(parts))
	}
	return append(append(types, beyond...), "/output/"+strconv.Itoa(items))
}

// responseParts reads the values of responsePartsAt.
func (t *tally) responseParts(v []jsonscan.Value) {
	for _, part := range v {
		known := is(part, "output_text") || is(part, "reasoning_text") || is(part, "text")
		t.hindered = t.hindered || part.Kind() != jsonscan.Missing && !known
	}
}
