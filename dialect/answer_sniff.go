package dialect

import (
	"bytes"
	"errors"
	"io"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// start is what is known of how a body begins.
type start uint8

const (
	begun    start = iota // it is a stream, or it is known what else
	atEvents              // events, says its type; it may be one JSON value
	atLines               // lines of JSON; the first of them may be a part of one value
	atGuess               // nothing says what it is
	atSpace               // it is no stream; white space came, and JSON may
)

// maxMark is how many bytes decide whether a stream begins: a byte order mark and
// the longest of the fields' names.
const maxMark = len("\ufeff") + len("retry:")

// other is a body that is no stream. finish is told the end where Read is not.
type other interface {
	io.Reader
	finish(err error)
}

// begin takes p as long as it is not clear what the body is. Blanks pass as they
// come; of what follows at most maxMark bytes are held.
func (f *follower) begin(p []byte) {
	switch f.start {
	case atEvents:
		text := bytes.TrimLeft(p, jsonSpace)
		if len(text) > 0 {
			f.start = begun
		}
		if len(text) > 0 && text[0] == '{' {
			f.pass(f.cut.Rest(), p)
			return
		}
		f.add(p)
	case atSpace:
		f.pass(nil, p)
	default:
		f.guess(p)
	}
}

// guess decides, if it can, whether the body begins like a stream.
func (f *follower) guess(p []byte) {
	lines := f.answer.form.lines
	if len(f.mark) == 0 {
		if lines {
			text := bytes.TrimLeft(p, jsonSpace)
			f.out = append(f.out, p[:len(p)-len(text)]...)
			p = text
		} else {
			// White space within a line begins no event.
			text := bytes.TrimLeft(p, "\r\n")
			f.add(p[:len(p)-len(text)])
			p = text
		}
	}
	if len(p) == 0 {
		return
	}
	n := min(len(p), maxMark-len(f.mark))
	f.mark = append(f.mark, p[:n]...)
	is, may := beginsStream(f.mark, lines)
	if !is && may {
		return
	}
	held := append(f.mark, p[n:]...)
	f.mark = nil
	if !is {
		f.pass(f.cut.Rest(), held)
		return
	}
	f.answer.mode = followed
	if f.start = begun; lines {
		f.start = atLines
	}
	f.add(held)
}

// pass hands on held and p, which are of no stream, and looks whether it is JSON.
func (f *follower) pass(held, p []byte) {
	f.out = append(append(f.out, held...), p...)
	f.start = atSpace
	text := bytes.TrimLeft(p, jsonSpace)
	if len(text) == 0 {
		return
	}
	if text[0] != '{' && text[0] != '[' {
		f.passUnread()
		return
	}
	scanner := f.answer.form.whole.paths.NewScanner(f.answer.depth)
	_, _ = scanner.Write(text) // Values tells its error
	f.answer.weigh(text)
	f.passWhole(scanner)
}

func (f *follower) passUnread() {
	f.start, f.answer.mode = begun, unread
	f.rest = &passingBody{answer: f.answer, body: f.body}
}

// passWhole goes on with a JSON value, of which scanner has what came.
func (f *follower) passWhole(scanner *jsonscan.Scanner) {
	f.start, f.answer.mode = begun, whole
	f.rest = &wholeBody{answer: f.answer, body: f.body, scanner: scanner}
}

// oneValue looks at the first line of JSON. If it is the beginning of a value that
// goes on in the next line, the body is that value, and no stream: what came of it
// is handed on.
func (f *follower) oneValue(line sse.Frame) bool {
	f.start = begun
	if line.Data[0] != '{' || jsonscan.ValueEnd(line.Data, 0) == len(line.Data) && line.Data[len(line.Data)-1] == '}' {
		return false // nearly every line
	}
	scanner := f.answer.form.whole.paths.NewScanner(f.answer.depth)
	_, _ = scanner.Write(line.Raw)
	_, err := scanner.Values(nil)
	if wrong, ok := errors.AsType[*jsonscan.SyntaxError](err); !ok || wrong.Offset < len(line.Raw) {
		return false // something else is wrong than the end
	}
	rest := f.cut.Rest() // with the lines that are not taken
	f.out = append(append(f.out, line.Raw...), rest...)
	_, _ = scanner.Write(rest)
	f.answer.weigh(line.Raw)
	f.answer.weigh(rest)
	f.passWhole(scanner)
	return true
}

// end ends the body with the error of its transport, whatever it is.
func (f *follower) end(err error) {
	switch {
	case f.start == atSpace:
		f.passUnread()
	case f.start == atGuess && err == io.EOF && len(f.mark) > 0:
		f.out = append(append(f.out, f.cut.Rest()...), f.mark...)
		f.passUnread()
	case f.start == atGuess:
		// An answer that ended before its first byte is a stream that was cut.
		f.answer.mode = followed
	}
	f.start = begun
	if f.rest == nil {
		f.finish(err)
		return
	}
	f.rest.finish(err)
	f.err = err
}

// beginsStream reports whether text begins like a stream of events, or of lines of
// JSON, and whether it may do so when there is more of it.
func beginsStream(text []byte, lines bool) (is, may bool) {
	if bom := []byte("\ufeff"); len(text) < len(bom) && bytes.HasPrefix(bom, text) {
		return false, true
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	marks := []string{"data:", "event:", ":", "id:", "retry:"}
	if lines {
		marks = []string{"{"}
	}
	for _, mark := range marks {
		n := min(len(mark), len(text))
		is = is || n == len(mark) && string(text[:n]) == mark
		may = may || string(text[:n]) == mark[:n]
	}
	return is, may
}
