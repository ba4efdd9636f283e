package job

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/internal/sse"
)

// position is a place in the output of a job: behind an event of a chunk, both counted
// from 1. whole says that the chunk has no further events. The zero value is the
// beginning. As the id of an event it is "SEQ-INDEX".
type position struct {
	seq   int64
	index int
	whole bool
}

// before is the seq after which to read chunks: those from the one on that p is in,
// unless it is at its end.
func (p position) before() int64 {
	if p.seq == 0 || p.whole {
		return p.seq
	}
	return p.seq - 1
}

// parsePosition reads a Last-Event-ID. What is none of ours is the beginning.
func parsePosition(id string) position {
	first, second, _ := strings.Cut(id, "-")
	seq, err := strconv.ParseInt(first, 10, 64)
	index, err2 := strconv.Atoi(second)
	if err != nil || err2 != nil || seq < 1 || index < 1 {
		return position{}
	}
	return position{seq: seq, index: index}
}

// eachEvent calls f with each event of a chunk: the lines of an event of an event
// stream, or one data line for a line of NDJSON, each line ended by \n. Comments, and
// the id lines of the model, are left out: the ids are ours. event is valid until f
// returns.
func eachEvent(data []byte, f func(event []byte) error) error {
	if isNDJSON(data) {
		return eachLine(data, f)
	}
	var split sse.Splitter
	if _, err := split.Write(data); err != nil {
		return err
	}
	if _, err := split.Write([]byte("\n\n")); err != nil { // ends an event that the model did not
		return err
	}
	split.End()
	var event []byte
	for {
		frame, ok := split.Next()
		if !ok {
			return nil
		}
		if frame.Data == nil {
			continue // no client sees it
		}
		event = appendFields(event[:0], frame.Raw)
		if err := f(event); err != nil {
			return err
		}
	}
}

// isNDJSON tells JSON from fields of an event stream by how it begins: no field that
// means anything begins so.
func isNDJSON(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n")
	if len(data) == 0 {
		return false
	}
	if c := data[0]; c == '{' || c == '[' || c == '"' || c == '-' || c >= '0' && c <= '9' {
		return true
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	switch string(bytes.TrimRight(line, " \t\r")) {
	case "true", "false", "null":
		return true
	}
	return false
}

func eachLine(data []byte, f func(event []byte) error) error {
	var event []byte
	for line := range bytes.FieldsFuncSeq(data, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		event = append(append(append(event[:0], "data: "...), line...), '\n')
		if err := f(event); err != nil {
			return err
		}
	}
	return nil
}

// appendFields appends the lines of a frame that are passed on. Names of events that begin
// with weir. are ours: a model's event of such a name goes without it, as clients take
// weir.job for the end of the stream.
func appendFields(event, raw []byte) []byte {
	for line := range bytes.FieldsFuncSeq(bytes.TrimPrefix(raw, []byte("\ufeff")), func(r rune) bool { return r == '\n' || r == '\r' }) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) == "data" || string(name) == "event" && !bytes.HasPrefix(bytes.ToLower(bytes.TrimSpace(value)), []byte("weir.")) {
			event = append(append(event, line...), '\n')
		}
	}
	return event
}

// eventWriter writes events to a client that may be slow: each gets writeTime.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buf     []byte
}

func newEventWriter(w http.ResponseWriter) *eventWriter {
	return &eventWriter{w: w, control: http.NewResponseController(w)}
}

// event writes an event of the model under the id p. It is not flushed.
func (e *eventWriter) event(p position, fields []byte) error {
	e.buf = append(strconv.AppendInt(append(e.buf[:0], "id: "...), p.seq, 10), '-')
	e.buf = append(strconv.AppendInt(e.buf, int64(p.index), 10), '\n')
	e.buf = append(append(e.buf, fields...), '\n')
	return e.write()
}

// state writes a weir.job event.
func (e *eventWriter) state(data []byte) error {
	e.buf = append(append(append(e.buf[:0], "event: weir.job\ndata: "...), data...), "\n\n"...)
	if err := e.write(); err != nil {
		return err
	}
	return e.flush()
}

// comment keeps the connection from looking idle.
func (e *eventWriter) comment() error {
	e.buf = append(e.buf[:0], ": keep-alive\n\n"...)
	if err := e.write(); err != nil {
		return err
	}
	return e.flush()
}

func (e *eventWriter) write() error {
	e.extend()
	_, err := e.w.Write(e.buf)
	if cap(e.buf) > batchSize {
		e.buf = nil
	}
	return err
}

func (e *eventWriter) flush() error {
	e.extend()
	if err := e.control.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// extend gives the client writeTime from now. Where the server cannot do this, it has
// deadlines of its own or none.
func (e *eventWriter) extend() { _ = e.control.SetWriteDeadline(time.Now().Add(writeTime)) }

// close leaves the connection without a deadline, for its next request.
func (e *eventWriter) close() { _ = e.control.SetWriteDeadline(time.Time{}) }
