package dialect

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/sse"
)

// keptOut is the most bytes of the output's buffer that stay with a stream that
// does not need them.
const keptOut = 64 << 10

// follower is the body of a followed stream.
type follower struct {
	answer *Answer
	body   io.ReadCloser
	cut    cutter
	out    []byte // what can be read
	at     int    // how much of out was read
	err    error  // what comes after it

	start start
	mark  []byte // the first few bytes behind the blanks, while they decide nothing
	rest  other  // what body is if it is no stream after all
}

// cutter cuts a stream into the parts that are passed on whole. It is that of
// sse.Splitter for events, and lineCutter for lines.
type cutter interface {
	io.Writer
	Next() (sse.Frame, bool)
	Rest() []byte
}

// Read hands on what is complete, all of it that came with one Read of the
// upstream, and waits only if there is nothing.
func (f *follower) Read(p []byte) (int, error) {
	for f.at == len(f.out) {
		if f.err != nil || len(p) == 0 {
			return 0, f.err
		}
		if f.rest != nil {
			return f.rest.Read(p)
		}
		f.at, f.out = 0, f.out[:0]
		if cap(f.out) > keptOut {
			f.out = nil
		}
		// What the caller's buffer holds before Read returns is ours to use.
		n, err := f.body.Read(p)
		if f.start == begun || f.start == atLines {
			f.add(p[:n])
		} else {
			f.begin(p[:n])
		}
		if err != nil && f.err == nil {
			f.end(err)
		}
		if n == 0 && err == nil {
			break // whoever reads decides how often to ask again
		}
	}
	n := copy(p, f.out[f.at:])
	f.answer.over = f.at+n == len(f.out)
	if f.at += n; f.at == len(f.out) && f.err != nil {
		f.out, f.at = nil, 0
	}
	return n, nil
}

// Close closes the upstream's body.
func (f *follower) Close() error { return f.body.Close() }

// add hands on the frames that p completes.
func (f *follower) add(p []byte) {
	_, err := f.cut.Write(p)
	for {
		frame, ok := f.cut.Next()
		if !ok {
			break
		}
		if f.start == atLines && frame.Data != nil && f.oneValue(frame) {
			return
		}
		f.frame(frame)
	}
	if err != nil {
		f.stop(&CutError{&weir.Problem{Status: http.StatusBadGateway, Detail: "The upstream sent an event that is too long to be passed on.", Err: err}})
	}
}

// frame reads one frame and hands it on. ok says that it is whole, as far as that
// can be seen; it is of no use but for the last one.
func (f *follower) frame(frame sse.Frame) (ok bool) {
	if frame.Data == nil { // a comment, or nothing
		f.out = append(f.out, frame.Raw...)
		return true
	}
	values, ok := f.answer.event(frame.Name, frame.Data)
	if f.answer.strip && values != nil {
		f.out = appendStripped(f.out, frame, values)
	} else {
		f.out = append(f.out, frame.Raw...)
	}
	return ok
}

// finish ends the stream with the error of its transport.
func (f *follower) finish(err error) {
	t := &f.answer.tally
	p, ok := errors.AsType[*weir.Problem](err)
	switch {
	case err == io.EOF && t.over():
		f.out = append(f.out, f.cut.Rest()...)
		f.err = io.EOF
	case err == io.EOF && f.last():
		t.unmarked = !t.over() && f.answer.form.end == endChoices
		t.ended = true
		f.err = io.EOF
	case ok:
		f.stop(&CutError{p})
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		f.stop(errCut(err))
	default:
		f.err = err
	}
}

// last reads what was held when the transport ended without an error, and reports
// whether the stream may end here. Some servers leave out the blank line behind
// their last event, or the line end. Then it passes as it is; half an event does
// not, and whatever it said is forgotten.
func (f *follower) last() bool {
	t := &f.answer.tally
	before, kept := *t, len(f.out)
	left, complete := len(f.cut.Rest()), true
	if left > 0 {
		_, err := f.cut.Write([]byte("\n\n"))
		complete = err == nil
	}
	for left > 0 && complete {
		frame, ok := f.cut.Next()
		if !ok {
			break
		}
		frame.Raw = frame.Raw[:min(len(frame.Raw), left)] // without what was added
		left -= len(frame.Raw)
		complete = f.frame(frame)
	}
	if complete && (t.over() || t.mayEnd(f.answer.form.end, f.answer.asked)) {
		return true
	}
	*t, f.out = before, f.out[:kept]
	return false
}

// mayEnd reports whether a stream may end here without a terminal event.
func (t *tally) mayEnd(e ending, asked int64) bool {
	return e == endClean && !t.open || e == endChoices && t.settled(asked)
}

// stop ends the stream before its end, and tells the client unless its terminal
// event has passed.
func (f *follower) stop(cut *CutError) {
	if t := &f.answer.tally; !t.over() {
		f.out = append(f.out, errorEvent(f.answer.endpoint, cut.Problem, t.sequence)...)
	}
	f.err = cut
}

// lineCutter cuts a stream into lines. Its bounds are those of sse.Splitter, and
// Frame.Data is the line without the white space around it, nil if it is blank.
// The zero value is ready.
type lineCutter struct {
	buf    []byte
	start  int // what is not taken begins here
	looked int // up to here there is no line end behind start
	err    error
}

// Write adds p. Take all lines before the next Write. The error is
// sse.ErrTooLong, and then p was not added.
func (c *lineCutter) Write(p []byte) (int, error) {
	line := bytes.IndexByte(p, '\n')
	if line < 0 {
		line = len(p)
	}
	if c.err == nil && len(c.buf)-c.start+line > sse.MaxLine {
		c.err = sse.ErrTooLong
	}
	if c.err != nil {
		return 0, c.err
	}
	if c.start > 0 {
		n := copy(c.buf, c.buf[c.start:])
		c.buf, c.start, c.looked = c.buf[:n], 0, c.looked-c.start
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// Next returns the next whole line, as long as the cutter is not written to.
func (c *lineCutter) Next() (sse.Frame, bool) {
	i := bytes.IndexByte(c.buf[c.looked:], '\n')
	if i < 0 {
		if c.looked = len(c.buf); c.start == len(c.buf) {
			c.start, c.looked, c.buf = 0, 0, c.buf[:0]
			if cap(c.buf) > keptOut {
				c.buf = nil
			}
		}
		return sse.Frame{}, false
	}
	end := c.looked + i + 1
	frame := sse.Frame{Raw: c.buf[c.start:end:end]}
	if data := bytes.TrimSpace(frame.Raw); len(data) > 0 {
		frame.Data = data
	}
	c.start, c.looked = end, end
	return frame, true
}

// Rest returns what is no whole line.
func (c *lineCutter) Rest() []byte { return c.buf[c.start:] }
