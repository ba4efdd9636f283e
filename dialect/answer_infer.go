package dialect

import "github.com/inferweir/weir/internal/jsonscan"

// The pointers of inferAnswers and inferStreamAnswers: KServe and Triton name the
// model, TGI tells what it used if it was asked for details.
func inferPointers() []string {
	return []string{"/model_name", "/details/finish_reason", "/details/input_length", "/details/generated_tokens", "/model_version"}
}

func takeInfer(t *tally, v []jsonscan.Value) {
	v = v[errorValues:]
	t.answeredBy(v[0])
	t.finishedBy(v[1])
	t.choice(0, v[1])
	raise(&t.input, v[2])
	t.produced(v[3])
	t.versionOf(v[4])
}

// inferAnswers are those of KServe v1 and v2 and of TensorFlow Serving, and of
// generate. They count no tokens and give no reason for their end, TGI's apart.
func inferAnswers() *answerForm {
	return &answerForm{whole: reads(takeInfer, inferPointers()...), numbers: true}
}

// inferStreamAnswers are those of generate_stream: Triton's events of text_output
// end without a mark, and TGI's with the one that has generated_text. A model in
// Triton may have an output of that name: TGI's has its token or details beside it.
func inferStreamAnswers() *answerForm {
	event := func(t *tally, v []jsonscan.Value) {
		t.texts(v[errorValues+8:])
		takeInfer(t, v)
		if own := v[errorValues+5:]; own[0].Kind() == jsonscan.String && (own[1].Kind() == jsonscan.Object || own[2].Kind() == jsonscan.Object) {
			t.ended = true
		}
	}
	return &answerForm{
		whole: reads(takeInfer, inferPointers()...),
		event: reads(event, append(inferPointers(), "/generated_text", "/details", "/token", "/text_output", "/token/text")...),
		end:   endClean,

		numbers: true,
	}
}
