package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// appendStripped appends an event of OpenAI's chunks to dst without the usage that
// only Weir asked for: nothing where the event is there for the usage alone, and
// otherwise the event without the member usage. What cannot be removed in one way
// only stays: data of several lines, or a name that is written with escapes.
func appendStripped(dst []byte, frame sse.Frame, v []jsonscan.Value) []byte {
	usage := v[chunkUsage]
	switch usage.Kind() {
	case jsonscan.Missing:
		return append(dst, frame.Raw...)
	case jsonscan.Null:
	default:
		if isEmptyArray(v[chunkChoices]) {
			return dst
		}
	}
	data, ok := dataIn(frame)
	from, to, removable := memberAt(frame.Data, usage, `"usage"`)
	if !ok || !removable {
		return append(dst, frame.Raw...)
	}
	dst = append(dst, frame.Raw[:data+from]...)
	return append(dst, frame.Raw[data+to:]...)
}

func isEmptyArray(v jsonscan.Value) bool {
	raw := v.Raw()
	return v.Kind() == jsonscan.Array && len(bytes.Trim(raw[1:len(raw)-1], jsonSpace)) == 0
}

const jsonSpace = " \t\r\n"

// dataIn is where the data of a frame begins in its bytes, if it is one line.
func dataIn(frame sse.Frame) (int, bool) {
	if bytes.ContainsAny(frame.Data, "\r\n") {
		return 0, false
	}
	// Nearly every event is one line, and then there is nothing to search.
	if first, ok := bytes.CutPrefix(frame.Raw, []byte("data:")); ok {
		first = bytes.TrimPrefix(first, []byte(" "))
		if bytes.HasPrefix(first, frame.Data) {
			return len(frame.Raw) - len(first), true
		}
	}
	at := bytes.LastIndex(frame.Raw, frame.Data)
	if at < 0 {
		return 0, false
	}
	before := frame.Raw[:at]
	before = bytes.TrimSuffix(before, []byte(" "))
	before, ok := bytes.CutSuffix(before, []byte("data:"))
	start := len(before) == 0 || before[len(before)-1] == '\n' || before[len(before)-1] == '\r' || string(before) == "\ufeff"
	return at, ok && start
}

// memberAt finds what to remove of data, so that the member of the outermost
// object with this name and value, and one comma, are gone and nothing else: the
// white space goes that belongs to the member or to that comma.
func memberAt(data []byte, value jsonscan.Value, name string) (from, to int, ok bool) {
	to = value.Offset() + len(value.Raw())
	before := bytes.TrimRight(data[:value.Offset()], jsonSpace)
	before, colon := bytes.CutSuffix(before, []byte(":"))
	before, named := bytes.CutSuffix(bytes.TrimRight(before, jsonSpace), []byte(name))
	if !colon || !named {
		return 0, 0, false
	}
	from = len(before)
	before = bytes.TrimRight(before, jsonSpace)
	if len(before) == 0 {
		return 0, 0, false
	}
	if before[len(before)-1] == ',' {
		return len(before) - 1, to, true
	}
	// The first member: the comma behind it goes, if there is one.
	if rest := bytes.TrimLeft(data[to:], jsonSpace); len(rest) > 0 && rest[0] == ',' {
		rest = bytes.TrimLeft(rest[1:], jsonSpace)
		to = len(data) - len(rest)
	}
	return from, to, true
}
