package dialect

import (
	"bytes"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/jsonscan"
)

// The values of errorPointers, at the start of every reading.
const (
	atError = iota
	atErrorMessage
	atErrorType
	atErrorCode
	atErrorKind
	atMessage
	atType
	atCode
	atObject
	atDetail
	errorValues // how many they are
)

// errorPointers are where errors are: OpenAI's and Anthropic's object, the string
// of Ollama and KServe, TGI with its error_type, TorchServe and older versions of
// vLLM with all members at the top, FastAPI's detail.
func errorPointers() []string {
	return []string{"/error", "/error/message", "/error/type", "/error/code", "/error_type", "/message", "/type", "/code", "/object", "/detail"}
}

const (
	// maxErr is the most bytes of Outcome.Err.
	maxErr = 300
	// maxName is the most bytes of a model's name and of a finish reason: they
	// come from the upstream, and go to logs.
	maxName = 200
	// maxTokens is the largest count of tokens that is believed.
	maxTokens = 1_000_000_000_000
	// maxChoices is how many choices of a stream are told apart.
	maxChoices = 256
)

// tally is what was seen of an answer so far.
type tally struct {
	model, version, finish, err string
	failed                      bool // the upstream reported an error
	ended                       bool // the terminal event came
	unmarked                    bool // and that was only its transport's end
	open                        bool // an event said that such a one will come
	closed                      bool // OpenAI responses: the answer said that it is over

	// As reported, -1: not yet. created is Anthropic's input that went to the
	// cache and is not in input, as cached then is not either.
	input, output, total, cached, created int64
	apart                                 bool  // created and cached are not part of input
	least                                 int64 // output that was reported before it was all

	deltas, bytes int64 // of text that passed
	newer         bool  // deltas came after the last report of output

	hindered bool // an answer did not end because the model was done, or is a refusal

	sequence        int64 // OpenAI responses: the number of the next event
	begun, finished [maxChoices / 64]uint64
	stray           bool // a choice was beyond maxChoices
}

func newTally() tally { return tally{input: -1, output: -1, total: -1, cached: -1, created: -1} }

// use puts the usage into o. prompt is the estimate of the request's tokens.
func (t *tally) use(o *Outcome, prompt int64) {
	guess := max(t.deltas, (t.bytes+3)/4)
	in, out := t.input, t.output
	if t.apart && in >= 0 {
		in += max(t.cached, 0) + max(t.created, 0)
	}
	if t.total >= 0 && in < 0 {
		in = max(t.total-max(out, 0), 0)
	}
	if t.total >= 0 && out < 0 {
		out = max(t.total-in, 0)
	}
	o.Known = in >= 0 || out >= 0 || t.deltas > 0
	if !o.Known {
		return
	}
	if t.deltas > 0 && in <= 0 && out <= 0 && t.total <= 0 {
		in, out = -1, -1 // some servers fill every chunk with zeros
	}
	if t.deltas > 0 && (out <= 0 || t.newer || t.farMore(out)) {
		out, o.Estimated = max(out, t.least, guess), true
	}
	if in < 0 {
		in, o.Estimated = max(prompt, 0), true
	}
	o.Usage = weir.Usage{Input: in, Cached: min(max(t.cached, 0), in), Output: max(out, t.least, 0)}
}

// farMore reports whether much more has passed than a report of output says: at
// least 8 deltas, more than twice as many as tokens, with more than eight bytes
// for each token. Some servers report each chunk by itself. Deltas alone are no
// sign, because others send every letter as one.
func (t *tally) farMore(output int64) bool {
	return t.deltas >= 8 && output < t.deltas/2 && output < t.bytes/8
}

// raise sets *n to a count that is reported, if that is larger.
func raise(n *int64, v jsonscan.Value) {
	if c, ok := count(v); ok {
		*n = max(*n, c)
	}
}

// count is a number of tokens. Negative and absurd ones and fractions are none.
func count(v jsonscan.Value) (int64, bool) {
	if v.Kind() != jsonscan.Number {
		return 0, false
	}
	n, err := v.Int()
	return n, err == nil && 0 <= n && n <= maxTokens
}

// produced sets the output that is reported; it includes all deltas so far.
func (t *tally) produced(v jsonscan.Value) {
	if n, ok := count(v); ok {
		t.output, t.newer = max(t.output, n), false
	}
}

// texts counts deltas: strings, and the arrays and objects of tool calls.
func (t *tally) texts(list []jsonscan.Value) {
	for _, v := range list {
		var n int64
		switch raw := v.Raw(); v.Kind() {
		case jsonscan.String:
			n = textLen(raw)
		case jsonscan.Array, jsonscan.Object:
			if n = int64(len(raw)); n == 2 {
				n = 0
			}
		}
		if n > 0 {
			t.deltas++
			t.bytes += n
			t.newer = true
		}
	}
}

// textLen is the length in bytes of what a JSON string means, with its quotes: a
// server may write every letter beyond ASCII as \u00e9.
func textLen(raw []byte) int64 {
	raw = raw[1 : len(raw)-1]
	n := len(raw)
	for i := bytes.IndexByte(raw, '\\'); i >= 0; i = bytes.IndexByte(raw, '\\') {
		size := 2
		n--
		if raw[i+1] == 'u' {
			size = 6
			n -= 5 - escapedLen(raw[i+2:i+6])
		}
		raw = raw[i+size:]
	}
	return int64(n)
}

// escapedLen is the length in UTF-8 of the character with four hexadecimal digits;
// each half of a surrogate pair has two bytes of it.
func escapedLen(digits []byte) int {
	switch c, _ := strconv.ParseUint(string(digits), 16, 32); {
	case c < 0x80:
		return 1
	case c < 0x800, 0xd800 <= c && c < 0xe000:
		return 2
	}
	return 3
}

// answeredBy sets the model from the first event that names it.
func (t *tally) answeredBy(v jsonscan.Value) {
	if t.model == "" && (v.TooLong() || v.Kind() == jsonscan.String) {
		t.model = clipped(v, maxName)
	}
}

// versionOf sets the version of the model from the first event that tells it.
func (t *tally) versionOf(v jsonscan.Value) {
	if t.version == "" {
		t.version = clipped(v, maxName)
	}
}

// finishedBy sets the finish reason; null and "" are none.
func (t *tally) finishedBy(v jsonscan.Value) {
	if len(v.Raw()) > 2 && v.Kind() == jsonscan.String {
		t.finish = clipped(v, maxName)
	}
}

// choice notes that a choice has begun, and whether it is finished.
func (t *tally) choice(index int64, finish jsonscan.Value) {
	if index < 0 || index >= maxChoices {
		t.stray = true
		return
	}
	t.begun[index/64] |= 1 << (index % 64)
	if finish.Kind() == jsonscan.String && len(finish.Raw()) > 2 {
		t.finished[index/64] |= 1 << (index % 64)
		t.hindered = t.hindered || !natural(finish.Raw())
	}
}

// natural reports whether a finish reason says that the model itself was done. It
// is one of the documented words: OpenAI's, Anthropic's, those of TGI and of
// servers that took them over, and the status of OpenAI's responses.
func natural(quoted []byte) bool {
	switch string(quoted) {
	case `"stop"`, `"tool_calls"`, `"function_call"`,
		`"end_turn"`, `"stop_sequence"`, `"tool_use"`,
		`"eos_token"`, `"eos"`,
		`"completed"`:
		return true
	}
	return false
}

// EndedByItself reports whether a reason as Outcome.Finish gives it says that the model
// was done: an answer with another one was cut short, or filtered, and is none to keep.
// "" is no such reason; see Call.MayEndUnsaid.
func EndedByItself(finish string) bool { return natural([]byte(`"` + finish + `"`)) }

// settled reports whether all choices that have begun are finished, and they are
// as many as were asked for.
func (t *tally) settled(asked int64) bool {
	n := 0
	for _, set := range t.finished {
		n += bits.OnesCount64(set)
	}
	return !t.stray && int64(n) >= max(asked, 1) && t.begun == t.finished
}

// over reports whether nothing must follow.
func (t *tally) over() bool { return t.ended || t.failed }

// failure looks for an error in the values of errorPointers. sure says that there
// is one, whatever its form.
func (t *tally) failure(v []jsonscan.Value, sure bool) {
	e := v[atError]
	if sure = sure || failing(e) || is(v[atObject], "error") || is(v[atType], "error"); !sure {
		return
	}
	kind, code, message := v[atErrorType], v[atErrorCode], v[atErrorMessage]
	switch {
	case e.Kind() == jsonscan.Object && !reported(message) && !reported(kind) && !reported(code):
		message = e
	case e.Kind() == jsonscan.Object:
	case reported(e):
		kind, message = v[atErrorKind], e
	case reported(v[atDetail]) && !reported(v[atMessage]):
		message = v[atDetail]
	default:
		kind, code, message = v[atType], v[atCode], v[atMessage]
	}
	if is(kind, "error") {
		kind = jsonscan.Value{}
	}
	t.fail(label(kind, code), clipped(message, maxErr))
}

// fail notes the error that the upstream reported, the first where it reported
// several.
func (t *tally) fail(label, message string) {
	t.failed = true
	if t.err != "" {
		return
	}
	if label != "" && message != "" {
		label += ": "
	}
	t.err = clip(label+message, maxErr)
}

// failing reports whether the member error says that there is one: a text, or an
// object with a member that says anything. Anything else is what a model calls so,
// such as the error of a fit.
func failing(e jsonscan.Value) bool {
	switch {
	case e.Kind() != jsonscan.Object:
		return e.Kind() == jsonscan.String && reported(e)
	case e.TooLong():
		return true
	}
	for w := jsonscan.Into(e.Raw()); ; {
		if _, more := w.Next(); !more {
			return false
		}
		if value, _ := w.Next(); !empty(value) {
			return true
		}
	}
}

// reported reports whether a member says anything: not null, false or empty.
func reported(v jsonscan.Value) bool { return v.TooLong() || !empty(v.Raw()) }

// empty reports whether a value as it is written says nothing.
func empty(raw []byte) bool {
	switch string(raw) {
	case "", "null", "false", `""`, "{}", "[]":
		return true
	}
	return false
}

// is reports whether a value is the string, which needs no escapes.
func is(v jsonscan.Value, text string) bool {
	raw := v.Raw()
	return len(raw) == len(text)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == text
}

// label is type/code of an error, or the one of them that there is.
func label(kind, code jsonscan.Value) string {
	k, c := clipped(kind, maxErr/3), clipped(code, maxErr/3)
	switch {
	case k == "" || k == c:
		return c
	case c == "":
		return k
	}
	return k + "/" + c
}

// clipped is the text of a string, or another value as it is written; at most n
// bytes. null is "".
func clipped(v jsonscan.Value, n int) string {
	if v.TooLong() {
		return "(too long to be shown)"
	}
	switch v.Kind() {
	case jsonscan.Missing, jsonscan.Null:
		return ""
	case jsonscan.String:
		s, _ := v.Text()
		return clip(s, n)
	}
	raw := v.Raw()
	return clip(string(raw[:min(len(raw), n+utf8.UTFMax)]), n)
}

// clip is at most n bytes of s, in valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
