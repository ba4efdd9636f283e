package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/inferweir/weir/internal/sse"
)

// errStream marks a stream that has an error in it.
var errStream = errors.New("the stream has an error")

const (
	streamBuffer = 32 << 10
	// maxGaps bounds what is kept of one stream until it ends.
	maxGaps = 1 << 20
)

// event is what the events of model APIs have in common: OpenAI's chat completions,
// completions and responses, and Anthropic's messages.
type event struct {
	Type    string `json:"type"`
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content   string            `json:"content"`
			Reasoning string            `json:"reasoning_content"`
			Tools     []json.RawMessage `json:"tool_calls"`
		} `json:"delta"`
	} `json:"choices"`
	Usage    usage `json:"usage"`
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

// hasText tells whether an event brings a part of the answer.
func (e *event) hasText() bool {
	for _, c := range e.Choices {
		if c.Text != "" || c.Delta.Content != "" || c.Delta.Reasoning != "" || len(c.Delta.Tools) > 0 {
			return true
		}
	}
	switch e.Type {
	case "content_block_delta", "response.output_text.delta", "response.reasoning_summary_text.delta", "response.function_call_arguments.delta":
		return true
	}
	return false
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
	if json.Unmarshal(f.Data, &e) != nil {
		return false, nil // another API's
	}
	if len(e.Error) > 0 && string(e.Error) != "null" || string(f.Name) == "error" {
		return false, fmt.Errorf("%w: %.200s", errStream, f.Data)
	}
	if made := max(e.Usage.Completion, e.Usage.Output, e.Response.Usage.Completion, e.Response.Usage.Output); made > 0 {
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
