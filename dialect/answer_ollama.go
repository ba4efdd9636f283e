package dialect

import "github.com/inferweir/weir/internal/jsonscan"

// ollamaForm is an endpoint of Ollama: a stream is lines of JSON, the last of which
// says done, and a JSON answer is like that line. texts are where the text is.
func ollamaForm(texts ...string) *answerForm {
	pointers := []string{"/model", "/done_reason", "/prompt_eval_count", "/eval_count", "/done"}
	take := func(t *tally, v []jsonscan.Value) {
		v = v[errorValues:]
		t.answeredBy(v[0])
		t.finishedBy(v[1])
		t.texts(v[5:])
		raise(&t.input, v[2])
		t.produced(v[3])
		if done, _ := v[4].Bool(); done {
			t.ended = true
			t.choice(0, v[1])
			t.finished[0] |= 1 // older versions give no reason
		}
	}
	return &answerForm{
		whole: reads(take, pointers...),
		event: reads(take, append(pointers, texts...)...),
		lines: true, reasons: true,
	}
}

func ollamaGenerateAnswers() *answerForm { return ollamaForm("/response", "/thinking") }

func ollamaChatAnswers() *answerForm {
	return ollamaForm("/message/content", "/message/thinking", "/message/tool_calls")
}

// ollamaEmbedAnswers have no stream. The older /api/embeddings reports no usage.
func ollamaEmbedAnswers() *answerForm {
	return &answerForm{inputs: true, whole: reads(func(t *tally, v []jsonscan.Value) {
		t.answeredBy(v[errorValues])
		if n, ok := count(v[errorValues+1]); ok {
			t.input, t.output = n, 0
		}
	}, "/model", "/prompt_eval_count")}
}
