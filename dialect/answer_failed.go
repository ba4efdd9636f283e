package dialect

import (
	"bytes"
	"io"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// maxFailed is the most bytes in which the error of a stream's status is looked
// for.
const maxFailed = 16 << 10

// failedBody is what came with an error's status and the type of an event stream.
// It passes as it is. Servers and what stands before them write events there, or
// JSON, or a page.
type failedBody struct {
	answer *Answer
	body   io.ReadCloser
	text   []byte // the first of it
	over   bool
}

func (b *failedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.over {
		return n, err
	}
	b.text = append(b.text, p[:min(n, maxFailed-len(b.text))]...)
	if err != nil {
		b.over, b.answer.over = true, true
		b.answer.complete = err == io.EOF
		b.finish()
	}
	return n, err
}

func (b *failedBody) Close() error { return b.body.Close() }

// finish reads the error: of the whole text or of its first event with data.
func (b *failedBody) finish() {
	a, data := b.answer, bytes.TrimPrefix(b.text, []byte("\ufeff"))
	if trimmed := bytes.TrimLeft(data, jsonSpace); len(trimmed) == 0 || trimmed[0] != '{' {
		data = firstData(b.text)
	}
	var room [errorValues + 64]jsonscan.Value
	if values, err := a.form.whole.paths.Find(room[:0], data, a.depth); err == nil {
		a.tally.failure(values, true)
	}
	b.text = nil
}

// firstData is the data of the first event of text that has any.
func firstData(text []byte) []byte {
	var cut sse.Splitter
	_, errText := cut.Write(text)
	_, errEnd := cut.Write([]byte("\n\n")) // its blank line may be missing
	if errText != nil || errEnd != nil {
		return nil
	}
	for frame, ok := cut.Next(); ok; frame, ok = cut.Next() {
		if frame.Data != nil {
			return frame.Data
		}
	}
	return nil
}
