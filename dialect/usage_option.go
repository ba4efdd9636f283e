package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
)

// askUsage plans how Body asks for the usage of a stream. Without
// stream_options.include_usage OpenAI's servers report none, and a stream could
// not be charged.
func (c *Call) askUsage(in found) {
	stream, options, include := in.one(roleStream), in.one(roleOptions), in.one(roleUsage)
	wanted, isBool := include.Bool()
	switch options.Kind() {
	case jsonscan.Missing:
		end := stream.Offset() + len(stream.Raw())
		c.usage = edit{at: end, text: []byte(`,"stream_options":{"include_usage":true}`)}
	case jsonscan.Null:
		c.usage = instead(options, []byte(`{"include_usage":true}`))
	case jsonscan.Object:
		switch {
		case include.Kind() == jsonscan.Missing:
			text := `"include_usage":true,`
			if inside := options.Raw(); len(bytes.TrimSpace(inside[1:len(inside)-1])) == 0 {
				text = `"include_usage":true`
			}
			c.usage = edit{at: options.Offset() + 1, text: []byte(text)}
		case include.Kind() == jsonscan.Null, isBool && !wanted:
			c.usage = instead(include, []byte("true"))
		default:
			// true; or a text or a number, which some servers take for true: nothing
			// may be put in, nor taken out of the answer.
			c.usageAsked = true
			return
		}
	default:
		return // no server knows what it means
	}
	c.usageInjected = true
}

func instead(v jsonscan.Value, text []byte) edit {
	return edit{at: v.Offset(), length: len(v.Raw()), text: text}
}

// Body is the body to send upstream. It is the client's, not a copy, unless the
// client asked for a stream of chat/completions or completions without its usage:
// then it is a new copy each time, which differs only in that
// stream_options.include_usage is true. Answer takes out again what the client did
// not ask for.
func (c *Call) Body() []byte {
	if !c.usageInjected {
		return c.body
	}
	return apply(c.body, c.usage)
}
