package dialect

import (
	"bytes"
	"io"
)

// sniffer is the body of an answer that is a stream if it begins like one. Until
// that is clear nothing passes but blank lines, which are the same in both cases;
// the first byte that is not blank nearly always makes it clear.
type sniffer struct {
	follower *follower
	clear    io.Reader // what the body is; nil as long as that is not known
}

func (s *sniffer) Read(p []byte) (int, error) {
	f := s.follower
	for s.clear == nil && f.at == len(f.out) {
		if len(p) == 0 {
			return 0, nil
		}
		n, err := f.body.Read(p)
		s.look(p[:n], err)
		if s.clear == nil && n == 0 && err == nil {
			return 0, nil
		}
	}
	if s.clear != nil {
		return s.clear.Read(p)
	}
	return f.Read(p) // it has something, and does not wait
}

// Close closes the upstream's body.
func (s *sniffer) Close() error { return s.follower.Close() }

// look decides, if it can, with the bytes that one Read of the upstream brought.
func (s *sniffer) look(p []byte, err error) {
	f := s.follower
	f.at, f.out = 0, f.out[:0]
	held := bytes.Join([][]byte{f.cut.Rest(), p}, nil) // its own memory: p is the caller's
	is, may := beginsStream(held, f.answer.form.lines)
	switch {
	case is, may && err != nil && (err != io.EOF || len(held) == 0):
		// An answer that ended before its first byte is a stream that was cut.
		f.answer.mode = followed
		s.clear = f
		f.add(p)
		if err != nil && f.err == nil {
			f.finish(err)
		}
	case may && err == nil:
		f.add(p)
	default:
		s.pass(held, err)
	}
}

// pass hands on what is no stream: held, which ends with err, and what follows.
func (s *sniffer) pass(held []byte, err error) {
	f := s.follower
	rest := io.Reader(f.body)
	if err != nil {
		rest = ended{err}
	}
	body := struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(held), rest), f.body}
	if text := bytes.TrimLeft(held, jsonSpace); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		f.answer.mode = whole
		s.clear = f.answer.wholeBody(body)
		return
	}
	f.answer.mode = unread
	s.clear = &passingBody{answer: f.answer, body: body}
}

// ended is a reader that is at its end.
type ended struct{ err error }

func (e ended) Read([]byte) (int, error) { return 0, e.err }

// beginsStream reports whether text begins like a stream of events, or of lines of
// JSON, and whether it may do so when there is more of it.
func beginsStream(text []byte, lines bool) (is, may bool) {
	text = bytes.TrimLeft(text, jsonSpace)
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
