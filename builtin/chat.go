package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// chatUsage is the member usage of an answer.
type chatUsage struct {
	PromptTokens        int64            `json:"prompt_tokens"`
	CompletionTokens    int64            `json:"completion_tokens"`
	TotalTokens         int64            `json:"total_tokens"`
	PromptDetails       promptDetails    `json:"prompt_tokens_details"`
	CompletionReasoning reasoningDetails `json:"completion_tokens_details"`
}

type promptDetails struct {
	CachedTokens int64 `json:"cached_tokens"`
}

type reasoningDetails struct {
	ReasoningTokens int64 `json:"reasoning_tokens"`
}

// chatHead is what an answer and all chunks of a stream have alike.
type chatHead struct {
	ID                string `json:"id"`
	Object            string `json:"object"`
	Created           int64  `json:"created"`
	Model             string `json:"model"`
	SystemFingerprint string `json:"system_fingerprint"`
}

type chatAnswer struct {
	chatHead
	Choices []chatChoice `json:"choices"`
	Usage   chatUsage    `json:"usage"`
}

type chatChoice struct {
	Index        int         `json:"index"`
	Message      chatMessage `json:"message"`
	Logprobs     *struct{}   `json:"logprobs"`
	FinishReason string      `json:"finish_reason"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

// serveChat answers POST /v1/chat/completions in the form of OpenAI. The model is
// asked what the last message of the user says; the other messages count as
// tokens of the prompt and change nothing.
func (m *Models) serveChat(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuseMethod(w, r.Method, "POST")
		return
	}
	c, err := m.readChat(w, r)
	if r.Context().Err() != nil {
		endRequest(w, r)
		return
	}
	if refusal, ok := errors.AsType[*apiError](err); ok {
		refusal.write(w)
		return
	}
	t, err := m.story.begin(r.Context(), c.prompt, c.options.MaxTokens)
	if err != nil {
		endRequest(w, r)
		return
	}
	head := chatHead{
		ID:                fmt.Sprintf("chatcmpl-%016x%08x", rand.Uint64(), rand.Uint32()),
		Object:            "chat.completion",
		Created:           time.Now().Unix(),
		Model:             storyModel,
		SystemFingerprint: m.story.fingerprint,
	}
	if c.stream {
		head.Object = "chat.completion.chunk"
		s := &chatStream{head: head, w: w, flush: http.NewResponseController(w).Flush}
		s.serve(r.Context(), c, t)
		return
	}
	choices, output, err := c.tellAll(r.Context(), t)
	if err != nil || r.Context().Err() != nil { // nobody would get the whole answer
		endRequest(w, r)
		return
	}
	writeJSON(w, r, chatAnswer{head, choices, usageOf(c, output)})
}

// tellAll tells all choices and counts their tokens. It ends t.
func (c *chatRequest) tellAll(ctx context.Context, t *telling) (choices []chatChoice, output int64, err error) {
	defer t.end()
	for i := range c.choices {
		var text strings.Builder
		tokens, finish, err := t.tell(ctx, newSampler(c.options, uint64(i)), func(piece string) error {
			text.WriteString(piece)
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
		output += tokens
		choices = append(choices, chatChoice{
			Index:        i,
			Message:      chatMessage{Role: "assistant", Content: text.String()},
			FinishReason: finish,
		})
	}
	return choices, output, nil
}

func usageOf(c *chatRequest, output int64) chatUsage {
	input := int64(c.inputTokens)
	return chatUsage{PromptTokens: input, CompletionTokens: output, TotalTokens: input + output}
}

func refuseMethod(w http.ResponseWriter, method, allow string) {
	w.Header().Set("Allow", allow)
	(&apiError{status: http.StatusMethodNotAllowed, message: fmt.Sprintf("%s: want %s", quote(method), allow)}).write(w)
}

// writeJSON answers with 200 and v, a value that JSON has a form for.
func writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	text, err := json.Marshal(v)
	if err != nil { // texts and integers only: cannot happen
		(&apiError{status: http.StatusInternalServerError, message: "the answer could not be written"}).write(w)
		return
	}
	text = append(text, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(text) // a client that has left needs no answer
	}
}
