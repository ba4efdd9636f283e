package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/inferweir/weir/internal/sse"
)

// errStream marks a stream that has an error in it.
var errStream = errors.New("the stream has an error")

const (
	streamBuffer = 32 << 10
	// maxGaps bounds what is kept of one stream until it ends.
	maxGaps = 1 << 20
	// maxTokens is how many tokens a stream can have: what says more is no usage.
	maxTokens = 1 << 30
)

// written tells whether a member of an event has text: a string that is not empty, or
// its parts in an array, as some servers write content. What has another form has none.
type written bool

// UnmarshalJSON looks at the member without reading it.
func (w *written) UnmarshalJSON(raw []byte) error {
	*w = len(raw) > len(`""`) && (raw[0] == '"' || raw[0] == '[')
	return nil
}

// called is a function that a model calls.
type called struct {
	Name      written `json:"name"`
	Arguments written `json:"arguments"`
}

// typedDelta tells whether an event with a type adds text: itself, as in OpenAI's
// responses, or in an object, as in Anthropic's messages.
type typedDelta written

// UnmarshalJSON never fails: what it does not know has no text.
func (d *typedDelta) UnmarshalJSON(raw []byte) error {
	if raw[0] != '{' {
		return (*written)(d).UnmarshalJSON(raw)
	}
	var parts struct {
		Text     written `json:"text"`
		Thinking written `json:"thinking"`
		Input    written `json:"partial_json"`
	}
	err := json.Unmarshal(raw, &parts)
	*d = typedDelta(parts.Text || parts.Thinking || parts.Input)
	return err
}

// event is what the events of model APIs have in common: OpenAI's chat completions,
// completions and responses, and Anthropic's messages. The members with text are
// those that package dialect estimates the tokens of a cut stream by, and besides them
// the name of a function and the words of audio.
type event struct {
	Type    string `json:"type"`
	Choices []struct {
		Text  written `json:"text"`
		Delta struct {
			Content          written `json:"content"`
			Reasoning        written `json:"reasoning"`
			ReasoningContent written `json:"reasoning_content"`
			Refusal          written `json:"refusal"`
			Function         called  `json:"function_call"`
			Tools            []struct {
				Function called `json:"function"`
			} `json:"tool_calls"`
			Audio struct {
				Transcript written `json:"transcript"`
			} `json:"audio"`
		} `json:"delta"`
	} `json:"choices"`
	Delta    typedDelta `json:"delta"`
	Usage    usage      `json:"usage"`
	Response struct {
		Usage usage `json:"usage"`
	} `json:"response"`
	Error json.RawMessage `json:"error"`
}

// usage is how many tokens an API says it made.
type usage struct {
	Completion int64 `json:"completion_tokens"`
	Output     int64 `json:"output_tokens"`
}

// hasText tells whether an event brings a part of the answer: of what the model
// says, thinks, refuses with or calls a tool with. A role, a number of a call, an end,
// usage and a ping are none, and neither is sound.
func (e *event) hasText() bool {
	for i := range e.Choices {
		c := &e.Choices[i]
		d := &c.Delta
		if c.Text || d.Content || d.Reasoning || d.ReasoningContent || d.Refusal || d.Audio.Transcript || d.Function.Name || d.Function.Arguments {
			return true
		}
		for _, tool := range d.Tools {
			if tool.Function.Name || tool.Function.Arguments {
				return true
			}
		}
	}
	return bool(e.Delta) && !strings.HasSuffix(e.Type, "audio.delta") // which is base64
}

// fails tells whether an event says that there is no answer.
func (e *event) fails(name []byte) bool {
	return len(e.Error) > 0 && string(e.Error) != "null" || string(name) == "error" || e.Type == "error" || e.Type == "response.failed"
}

// ends tells whether an event is the last of a whole stream.
func ends(data []byte, kind string) bool {
	switch kind {
	case "message_stop", "response.completed", "response.incomplete":
		return true
	}
	return string(data) == "[DONE]"
}

// readStream reads a stream to its end and measures when its pieces come.
func (a *outcome) readStream(body io.Reader, s *shot) error {
	var frames sse.Splitter
	buffer := make([]byte, streamBuffer)
	whole := false
	for {
		n, err := body.Read(buffer)
		now := time.Now()
		a.bytes += int64(n)
		if _, long := frames.Write(buffer[:n]); long != nil {
			return fmt.Errorf("%w: %w", errStream, long)
		}
		if err == io.EOF {
			frames.End()
		}
		for f, ok := frames.Next(); ok; f, ok = frames.Next() {
			last, wrong := a.piece(&f, s, now)
			if wrong != nil {
				return wrong
			}
			whole = whole || last
		}
		switch {
		case err == io.EOF && !whole:
			return fmt.Errorf("the stream ended without its last event: %w", io.ErrUnexpectedEOF)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// piece counts one event, and tells whether it is the last.
func (a *outcome) piece(f *sse.Frame, s *shot, now time.Time) (last bool, err error) {
	if f.Data == nil || string(f.Data) == "[DONE]" {
		return f.Data != nil, nil
	}
	var e event
	err = json.Unmarshal(f.Data, &e)
	// A member of an unknown form leaves the others as they are.
	_, unknown := errors.AsType[*json.UnmarshalTypeError](err)
	known := err == nil || unknown
	if e.fails(f.Name) {
		return false, fmt.Errorf("%w: %.*s", errStream, maxDetail, f.Data)
	}
	if !known {
		return false, nil // another API's
	}
	if made := max(e.Usage.Completion, e.Usage.Output, e.Response.Usage.Completion, e.Response.Usage.Output); made > 0 && made <= maxTokens {
		a.tokens, a.spokeOf = made, true
	}
	if e.hasText() {
		a.text(s, now)
	}
	return ends(f.Data, e.Type), nil
}

// text counts a piece of the answer that came now.
func (a *outcome) text(s *shot, now time.Time) {
	if a.pieces == 0 {
		a.firstAt, a.first = now, now.Sub(s.due)
	} else if len(a.gaps) < maxGaps {
		a.gaps = append(a.gaps, now.Sub(a.last))
	}
	a.last = now
	a.pieces++
	if !a.spokeOf {
		a.tokens = a.pieces
	}
}

// streamCounts count the tokens of whole streams. Some servers say of every stream how
// many it had, some of none, and some of a part of them: tokens of both kinds in one sum
// would be of neither, so each stream is counted by what it says and by its pieces.
type streamCounts struct {
	all, told     int64 // streams with tokens, and those whose server said how many
	usage, pieces tokenCount
}

// tokenCount are tokens that are counted in one way.
type tokenCount struct {
	tokens int64
	speed  *hdrhistogram.Histogram // of single streams: thousandths of tokens a second
}

func newStreamCounts() streamCounts {
	return streamCounts{usage: tokenCount{speed: newHistogram()}, pieces: tokenCount{speed: newHistogram()}}
}

// add counts a whole stream.
func (c *streamCounts) add(a *outcome) {
	if a.tokens == 0 {
		return
	}
	c.all++
	c.pieces.add(a, a.pieces)
	if a.spokeOf {
		c.told++
		c.usage.add(a, a.tokens)
	}
}

// add counts a stream that had n tokens.
func (c *tokenCount) add(a *outcome, n int64) {
	c.tokens += n
	if took := a.last.Sub(a.firstAt); took > 0 && n > 1 {
		speed := min(1000*float64(n-1)/took.Seconds(), float64(mostMicros)) // what is more may not fit into an integer
		_ = c.speed.RecordValue(max(int64(speed), leastMicros))
	}
}

// report adds what streams brought to a report of a load that took so many seconds.
func (c *streamCounts) report(p *Report, seconds float64) {
	if c.all == 0 {
		return
	}
	p.Streams, p.StreamsWithUsage, p.Pieces = c.all, c.told, c.pieces.tokens
	of := &c.pieces
	p.TokensFrom = FromPieces
	if c.told == c.all {
		of, p.TokensFrom = &c.usage, FromUsage
	}
	p.Tokens = of.tokens
	if seconds > 0 {
		p.TokensPerS = rounded(float64(of.tokens) / seconds)
	}
	if of.speed.TotalCount() > 0 {
		at := func(q float64) float64 { return float64(of.speed.ValueAtPercentile(q)) / 1000 }
		p.StreamSpeeds = Speeds{at(10), at(50), at(90)}
	}
}
