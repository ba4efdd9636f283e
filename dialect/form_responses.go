package dialect

import (
	"bytes"
	"slices"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// responseForms are those of OpenAI's responses. A stream ends with the whole
// answer; of the answer no stream is made, whose many events a client may count on.
// Some servers leave out of that end what the events before have said: the items of
// its output must be those that came.
func responseForms() *formWays {
	paths := mustCompile("/sequence_number", "/output_index", "/item", "/response", "/response/status", "/response/output", "/response/error")
	known := responseEvents()
	whole := func(body []byte, depth int) ([]byte, bool) {
		r := responseEnd{depth: depth, paths: paths, known: known}
		if !eachEvent(body, r.take) || r.response == nil {
			return nil, false
		}
		return r.response, true
	}
	return &formWays{ways: []way{{formStream, formWhole, whole}}, null: true, options: true}
}

// responseEvents are the types of the events of answers that the model alone wrote.
// What the server's own tools say is not among them.
func responseEvents() []string {
	return strings.Fields(`
		response.queued response.created response.in_progress response.completed
		response.output_item.added response.output_item.done
		response.content_part.added response.content_part.done
		response.output_text.delta response.output_text.done response.output_text.annotation.added
		response.refusal.delta response.refusal.done
		response.function_call_arguments.delta response.function_call_arguments.done
		response.custom_tool_call_input.delta response.custom_tool_call_input.done
		response.reasoning_text.delta response.reasoning_text.done
		response.reasoning_summary_part.added response.reasoning_summary_part.done
		response.reasoning_summary_text.delta response.reasoning_summary_text.done`)
}

// responseEnd reads a stream of responses.
type responseEnd struct {
	depth    int
	paths    *jsonscan.Paths
	known    []string
	sequence int64    // the number that the next event has at least
	begun    int64    // how many items of the output have begun
	items    [][]byte // in canonical form, in the order of the output
	response []byte
	marked   bool // [DONE] came
}

func (r *responseEnd) take(name string, data []byte) bool {
	if r.response != nil {
		// Some servers put OpenAI's older mark behind the end.
		first := !r.marked
		r.marked = true
		return first && name == "" && isDone(data)
	}
	kind, ok := typedEvent(name, data, r.depth)
	if !ok || !slices.Contains(r.known, kind) {
		return false
	}
	var room [7]jsonscan.Value
	v, err := r.paths.Find(room[:0], data, r.depth)
	if err != nil {
		return false
	}
	if v[0].Kind() != jsonscan.Missing {
		n, counts := wholeNumber(v[0].Raw())
		if !counts || n < r.sequence {
			return false
		}
		r.sequence = n + 1
	}
	index, indexed := wholeNumber(v[1].Raw())
	switch {
	case kind == "response.output_item.added":
		r.begun++
		return indexed && index == r.begun-1
	case v[1].Kind() != jsonscan.Missing && (!indexed || index >= r.begun):
		return false
	}
	switch kind {
	case "response.output_item.done":
		return indexed && index == int64(len(r.items)) && r.item(v[2].Raw())
	case "response.completed":
		return r.end(v[3].Raw(), v[4].Raw(), v[5].Raw(), v[6].Raw())
	}
	return true
}

// item notes an item of the output that is done.
func (r *responseEnd) item(item []byte) bool {
	if !isObject(item) {
		return false
	}
	canonical, err := jsonscan.AppendCanonical(nil, item, nil, r.depth)
	r.items = append(r.items, canonical)
	return err == nil
}

// end notes the whole answer.
func (r *responseEnd) end(response, status, output, failure []byte) bool {
	if !isObject(response) || !isText(status, "completed") || !isArray(output) || !isAbsent(failure) || r.begun != int64(len(r.items)) {
		return false
	}
	w := jsonscan.Into(output)
	for _, item := range r.items {
		there, _ := w.Next()
		if canonical, err := jsonscan.AppendCanonical(nil, there, nil, r.depth); err != nil || !bytes.Equal(canonical, item) {
			return false
		}
	}
	if _, more := w.Next(); more {
		return false
	}
	r.response = bytes.Clone(response)
	return true
}
