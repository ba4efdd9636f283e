package dialect

import "github.com/inferweir/weir/internal/jsonscan"

// messageUsageAt are the members of Anthropic's usage below prefix.
func messageUsageAt(prefix string) []string {
	return []string{prefix + "/input_tokens", prefix + "/cache_creation_input_tokens", prefix + "/cache_read_input_tokens", prefix + "/output_tokens"}
}

const messageUsageValues = 4

// messageUsage reads the values of messageUsageAt but output_tokens. Each report
// is of the message so far, and servers write 0 or nothing for what they have said
// before: the largest of each counts.
func (t *tally) messageUsage(v []jsonscan.Value) {
	t.apart = true
	raise(&t.input, v[0])
	raise(&t.created, v[1])
	raise(&t.cached, v[2])
}

// messageAnswers are Anthropic's messages.
func messageAnswers() *answerForm {
	whole := func(t *tally, v []jsonscan.Value) {
		v = v[errorValues:]
		t.answeredBy(v[0])
		t.finishedBy(v[1])
		t.choice(0, v[1])
		t.messageUsage(v[2:])
		t.produced(v[2+messageUsageValues-1])
	}
	event := func(t *tally, v []jsonscan.Value) {
		kind := v[atType]
		v = v[errorValues:]
		switch start, delta := v[2:], v[2+messageUsageValues:]; {
		case is(kind, "content_block_delta"):
			t.texts(delta[messageUsageValues:])
		case is(kind, "message_start"):
			t.answeredBy(v[0])
			t.messageUsage(start)
			// What is produced before the first delta: never the whole.
			raise(&t.least, start[messageUsageValues-1])
		case is(kind, "message_delta"):
			t.finishedBy(v[1])
			t.choice(0, v[1])
			t.messageUsage(delta)
			t.laterOutput(delta[messageUsageValues-1])
		case is(kind, "message_stop"):
			t.ended = true
		}
	}
	pointers := append([]string{"/message/model", "/delta/stop_reason"}, messageUsageAt("/message/usage")...)
	pointers = append(pointers, messageUsageAt("/usage")...)
	pointers = append(pointers, "/delta/text", "/delta/thinking", "/delta/partial_json")
	return &answerForm{
		whole:   reads(whole, append([]string{"/model", "/stop_reason"}, messageUsageAt("/usage")...)...),
		event:   reads(event, pointers...),
		reasons: true,
	}
}

// laterOutput sets the output of a report of the message so far, which replaces
// what its start said.
func (t *tally) laterOutput(v jsonscan.Value) {
	if _, ok := count(v); ok {
		t.least = 0
		t.produced(v)
	}
}

// countAnswers are those of count_tokens, which runs no model: its input_tokens is
// the answer and not what the call used.
func countAnswers() *answerForm {
	return &answerForm{whole: reads(func(*tally, []jsonscan.Value) {}), free: true}
}
