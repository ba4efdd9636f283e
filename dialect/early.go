package dialect

import "github.com/inferweir/weir"

// Events reports whether the API's streams are events, so that comments may stand
// between them and nobody minds. Ollama's are lines of JSON.
func (d *Dialect) Events() bool { return d.api == apiOpenAI || d.api == apiAnthropic }

// ErrorEvent is p as an event of a stream that answers the call, in the form that
// the API's SDKs raise as an error: for a stream whose head was sent before it was
// known that there would be none.
func (c *Call) ErrorEvent(p *weir.Problem) []byte { return errorEvent(c.endpoint, p, 0) }
