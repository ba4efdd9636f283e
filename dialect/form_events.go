package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// eachEvent calls take with every event of a stream of server-sent events that a
// client sees: its type, "" if none is given, and its data. Both are valid during
// the call. It reports false as soon as take does, and for a stream that has more
// to it than types, data and comments, or whose last event is not whole.
func eachEvent(body []byte, take func(name string, data []byte) bool) bool {
	var cut sse.Splitter
	if _, err := cut.Write(body); err != nil {
		return false
	}
	cut.End()
	for {
		frame, ok := cut.Next()
		if !ok {
			return isJSONSpace(cut.Rest())
		}
		if !plainEvent(frame.Raw) {
			return false
		}
		if frame.Data != nil && !take(string(frame.Name), frame.Data) {
			return false
		}
	}
}

// plainEvent reports whether all lines of a frame are types, data and comments.
// Others, such as id, say something that no other form can.
func plainEvent(raw []byte) bool {
	for len(raw) > 0 {
		line, end := firstLine(raw)
		raw = raw[len(line)+end:]
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "", "data", "event":
		default:
			return false
		}
	}
	return true
}

// eachLine calls take with every line of a stream of JSON lines that is not blank.
// last says that nothing follows it. It reports false as soon as take does.
func eachLine(body []byte, take func(line []byte, last bool) bool) bool {
	for body = bytes.Trim(body, jsonSpace); len(body) > 0; {
		line, rest, _ := bytes.Cut(body, []byte("\n"))
		body = bytes.TrimLeft(rest, jsonSpace)
		if !take(bytes.Trim(line, jsonSpace), len(body) == 0) {
			return false
		}
	}
	return true
}

// typedEvent reads an event that has its type in its data, which must agree with
// the stream's: data is checked, and the value of its member type returned.
func typedEvent(name string, data []byte, depth int) (kind string, ok bool) {
	if jsonscan.Check(data, depth) != nil || !isObject(bytes.TrimLeft(data, jsonSpace)) {
		return "", false
	}
	v, plain := member(data, `"type"`)
	if !plain || v.to == 0 || !isString(data[v.from:v.to]) {
		return "", false
	}
	kind = string(data[v.from+1 : v.to-1])
	return kind, name == "" || name == kind
}

// appendEvent appends an event of one line of data. name may be "".
func appendEvent(dst []byte, name string, data []byte) []byte {
	if name != "" {
		dst = append(append(append(dst, "event: "...), name...), '\n')
	}
	return append(append(append(dst, "data: "...), data...), '\n', '\n')
}
