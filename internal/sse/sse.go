// Package sse cuts server-sent events, the text/event-stream of the HTML
// standard (section 9.2), into frames and keeps every byte. It is made for
// proxies: what goes on to the client is what came, and what is complete need
// not wait for what follows.
package sse

import (
	"bytes"
	"errors"
)

const (
	// MaxLine is the most bytes of a line, without its end: 32 MiB. A server may
	// send an image in one.
	MaxLine = 32 << 20
	// MaxFrame is the most bytes of a frame, with its blank line: 64 MiB.
	MaxFrame = 64 << 20

	// keptSize is the most bytes of a buffer that is kept while it is not needed.
	// A server has one Splitter for each stream.
	keptSize = 64 << 10
	// leastSize is the smallest buffer, for servers that write byte by byte.
	leastSize = 512
)

// ErrTooLong says that a line is longer than MaxLine, a frame is longer than
// MaxFrame, or that more than MaxFrame bytes of frames were written and not
// taken.
var ErrTooLong = errors.New("event stream: a line or frame is too long: want lines of at most 32 MiB and frames of at most 64 MiB")

// Frame is a part of a stream: an event up to its blank line, or a comment or a
// blank line that stands before an event. The slices are parts of buffers of the
// Splitter: they are valid until its next Write, Next or End, and must not be
// changed.
type Frame struct {
	// Raw is every byte of the frame, line ends and the blank line included, and
	// a byte order mark where the stream begins with one.
	Raw []byte
	// Name is the type of the event, the value of its last event field. Empty
	// means "message".
	Name []byte
	// Data is the values of the data fields, joined by \n. It is nil if there are
	// none: clients do not see such a frame. It is empty and not nil after a data
	// field without a value, which clients do see.
	Data []byte
}

// Splitter cuts a stream into frames. The bytes come with Write, in pieces of
// any size: how they are cut makes no difference to the frames. The concatenation
// of the Raw of all frames and of Rest is what was written.
//
// A comment (": keep-alive") or blank line before the first field of an event is
// a frame of its own as soon as it is there. After a field they belong to the
// event, and the blank line ends it.
//
// Lines end with \n, \r or \r\n. A \r that ends a frame may be the first half of
// \r\n, and waiting for the other half could take until the next event. So the
// \r is held back only if the line before it, in the whole stream, ended with
// \r\n; otherwise the frame ends with the \r, and a \n behind it is a frame of
// one byte, without meaning. A stream with one kind of line end is therefore
// never late, and never cut within a line end but for the first line, where that
// is a comment or blank.
//
// The buffers hold at most four times MaxFrame beside the largest piece; after a
// large frame they shrink with the call of Next that finds no more. The zero value
// is ready. A Splitter must not be copied, or used by two goroutines at once.
type Splitter struct {
	buf    []byte // what is not taken begins at start
	start  int    // the first byte of the current frame
	line   int    // the first byte of the current line
	lf, cr mark
	end    int // behind the current frame if that is complete, otherwise 0

	begun bool // the first line is over
	crlf  bool // the line before this one ended with \r\n
	cut   bool // a frame ended with the \r in front of this line
	over  bool // nothing follows
	err   error

	// Of the current frame. Offsets count from start.
	fields bool // it has a field
	name   span
	data   span // of its first data field
	lines  int  // how many data fields it has
	joined []byte
}

// span is a part of a frame: [from, to).
type span struct{ from, to int }

// mark remembers how far buf was searched for a byte, so that it is never
// searched twice.
type mark struct {
	at  int // where the byte is, or up to where there is none
	hit bool
}

// next returns where the first c in b[from:] is, or len(b).
func (m *mark) next(b []byte, c byte, from int) int {
	if m.hit && m.at >= from {
		return m.at
	}
	from = max(from, m.at)
	i := bytes.IndexByte(b[from:], c)
	if m.hit = i >= 0; m.hit {
		m.at = from + i
	} else {
		m.at = len(b)
	}
	return m.at
}

// shift tells that the first n bytes of the buffer are gone.
func (m *mark) shift(n int) {
	m.hit = m.hit && m.at >= n
	m.at = max(m.at-n, 0)
}

// Write adds p, all of it, to the stream. Take all frames before the next Write:
// they stay in memory until then.
//
// The error is ErrTooLong, here if the line or frame that is too long is the
// first one not taken, and otherwise from the next Write. From then on Write
// takes nothing, and Rest has what was written and not taken: whoever must pass
// it on still can.
func (s *Splitter) Write(p []byte) (int, error) {
	if len(s.buf)-s.start > MaxFrame {
		s.err = ErrTooLong
	}
	if s.err != nil {
		return 0, s.err
	}
	s.add(p)
	s.advance()
	return len(p), s.err
}

// End tells that nothing follows. An event whose blank line is a \r that was held
// back is then complete: call Next again. What remains in Rest is an event
// without its blank line, which clients discard.
func (s *Splitter) End() {
	s.over = true
	s.advance()
}

// Next returns the next complete frame of what was written. ok is false if there
// is none.
func (s *Splitter) Next() (f Frame, ok bool) {
	s.advance()
	if s.end == 0 {
		s.shrink()
		return Frame{}, false
	}
	f.Raw = s.buf[s.start:s.end:s.end]
	f.Name = f.Raw[s.name.from:s.name.to:s.name.to]
	switch {
	case s.lines == 1:
		f.Data = f.Raw[s.data.from:s.data.to:s.data.to]
	case s.lines > 1:
		f.Data = s.joined[:len(s.joined):len(s.joined)]
	}
	s.start, s.end = s.end, 0
	s.fields, s.name, s.lines = false, span{}, 0
	return f, true
}

// Rest returns the bytes that are no complete frame yet, once Next has returned
// false. It is valid as long as a Frame.
func (s *Splitter) Rest() []byte { return s.buf[s.start:len(s.buf):len(s.buf)] }

// advance reads lines until the current frame is complete.
func (s *Splitter) advance() {
	for s.end == 0 {
		i := min(s.lf.next(s.buf, '\n', s.line), s.cr.next(s.buf, '\r', s.line))
		if i-s.line > MaxLine || i-s.start > MaxFrame {
			s.err = ErrTooLong
			return
		}
		if i == len(s.buf) {
			return
		}
		text := s.buf[s.line:i]
		if !s.begun {
			text = bytes.TrimPrefix(text, []byte("\ufeff"))
		}
		last := len(text) == 0 || text[0] == ':' && !s.fields
		n := s.lineEnd(i, last)
		if n == 0 {
			return
		}
		if i+n-s.start > MaxFrame {
			s.err = ErrTooLong
			return
		}
		if s.crlf = n == 2 || s.cut && len(text) == 0 && s.buf[i] == '\n'; !last {
			s.field(text, i)
		}
		s.begun, s.cut = true, last && n == 1 && s.buf[i] == '\r'
		if s.line = i + n; last {
			s.end = s.line
		}
	}
}

// lineEnd returns the length of the line end at i, 0 if that is not known yet.
// last tells whether the line is the last of its frame.
func (s *Splitter) lineEnd(i int, last bool) int {
	switch {
	case s.buf[i] == '\n', last && !s.crlf, s.over && i+1 == len(s.buf):
		return 1
	case i+1 == len(s.buf):
		return 0
	case s.buf[i+1] == '\n':
		return 2
	}
	return 1
}

// field reads text, a line of an event, which ends at i.
func (s *Splitter) field(text []byte, i int) {
	s.fields = true
	name, value, _ := bytes.Cut(text, []byte{':'})
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	at := span{i - s.start - len(value), i - s.start}
	switch string(name) {
	case "event":
		s.name = at
	case "data":
		switch s.lines++; s.lines {
		case 1:
			s.data = at
		case 2:
			if cap(s.joined) > keptSize {
				s.joined = nil
			}
			s.joined = append(s.joined[:0], s.buf[s.start:][s.data.from:s.data.to]...)
			fallthrough
		default:
			s.joined = append(append(s.joined, '\n'), value...)
		}
	}
}

// add appends p to buf. What is moved is paid for by as many bytes that were
// taken, or by growth to twice the size: together a constant for each byte.
func (s *Splitter) add(p []byte) {
	rest := len(s.buf) - s.start
	size := rest + len(p)
	switch {
	case len(s.buf)+len(p) <= cap(s.buf) && rest > 0:
	case size <= cap(s.buf) && rest <= s.start:
		s.move(s.buf[:cap(s.buf)])
	default:
		s.move(make([]byte, max(size, 2*rest, leastSize)))
	}
	s.buf = append(s.buf, p...)
}

// shrink gives large buffers back that are hardly used, when no frame is out.
func (s *Splitter) shrink() {
	if cap(s.joined) > keptSize && s.lines < 2 {
		s.joined = nil
	}
	rest := len(s.buf) - s.start
	switch {
	case cap(s.buf) <= keptSize || rest > cap(s.buf)/8:
	case rest == 0:
		s.move(nil)
	default:
		s.move(make([]byte, max(2*rest, leastSize)))
	}
}

// move makes room the buffer, with what is not taken at its start.
func (s *Splitter) move(room []byte) {
	n := copy(room, s.buf[s.start:])
	s.line -= s.start
	s.end = max(s.end-s.start, 0)
	s.lf.shift(s.start)
	s.cr.shift(s.start)
	s.buf, s.start = room[:n], 0
}
