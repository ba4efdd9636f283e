package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// appendStripped appends an event of OpenAI's chunks to dst without what is there
// only because Weir asked for usage: nothing where the event reports usage and has
// no choice, whatever else it has, because clients that did not ask read the first
// choice of every chunk; and otherwise the event without "usage":null. Counts
// beside choices stay: servers report them unasked. So does a null whose name is
// written with escapes.
func appendStripped(dst []byte, frame sse.Frame, v []jsonscan.Value) []byte {
	usage := v[chunkUsage]
	switch {
	case usage.Kind() == jsonscan.Object && isEmptyArray(v[chunkChoices]):
		return dst
	case usage.Kind() != jsonscan.Null:
		return append(dst, frame.Raw...)
	}
	from, to, removable := memberAt(frame.Data, usage, `"usage"`)
	if !removable {
		return append(dst, frame.Raw...)
	}
	// Nearly every event is one line, and then there is nothing to search.
	if first, ok := bytes.CutPrefix(frame.Raw, []byte("data:")); ok {
		first = bytes.TrimPrefix(first, []byte(" "))
		if bytes.HasPrefix(first, frame.Data) {
			at := len(frame.Raw) - len(first)
			dst = append(dst, frame.Raw[:at+from]...)
			return append(dst, frame.Raw[at+to:]...)
		}
	}
	return appendWithout(dst, frame, from, to)
}

// appendWithout appends a frame without the bytes from to to of its data, which
// may be of several lines. Each stays a line, and where the line ends the data has
// white space.
func appendWithout(dst []byte, frame sse.Frame, from, to int) []byte {
	kept, at := len(dst), 0
	for raw := frame.Raw; len(raw) > 0; {
		line, end := firstLine(raw)
		name, value, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("\ufeff")), []byte(":"))
		if string(name) == "data" {
			value = bytes.TrimPrefix(value, []byte(" "))
			if at+len(value) > len(frame.Data) || !bytes.Equal(frame.Data[at:at+len(value)], value) {
				break // it is not what clients read
			}
			low, high := min(max(from-at, 0), len(value)), min(max(to-at, 0), len(value))
			dst = append(dst, line[:len(line)-len(value)]...)
			dst = append(append(dst, value[:low]...), value[high:]...)
			at += len(value) + 1
		} else {
			dst = append(dst, line...)
		}
		dst = append(dst, raw[len(line):len(line)+end]...)
		raw = raw[len(line)+end:]
	}
	if at != len(frame.Data)+1 {
		return append(dst[:kept], frame.Raw...)
	}
	return dst
}

// firstLine is the first line of raw, and how long its end is.
func firstLine(raw []byte) (line []byte, end int) {
	i := bytes.IndexAny(raw, "\r\n")
	switch {
	case i < 0:
		return raw, 0
	case bytes.HasPrefix(raw[i:], []byte("\r\n")):
		return raw[:i], 2
	}
	return raw[:i], 1
}

func isEmptyArray(v jsonscan.Value) bool {
	raw := v.Raw()
	return v.Kind() == jsonscan.Array && len(bytes.Trim(raw[1:len(raw)-1], jsonSpace)) == 0
}

const jsonSpace = " \t\r\n"

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
