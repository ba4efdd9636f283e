package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
)

// chatChunk is one event of a stream.
type chatChunk struct {
	chatHead
	Choices []chunkChoice `json:"choices"`
	// Usage is null in all chunks but the last where the client asked for it,
	// and left out where it did not.
	Usage json.RawMessage `json:"usage,omitempty"`
}

type chunkChoice struct {
	Index        int        `json:"index"`
	Delta        chunkDelta `json:"delta"`
	Logprobs     *struct{}  `json:"logprobs"`
	FinishReason *string    `json:"finish_reason"`
}

type chunkDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// chatStream writes chunks, each to the client at once.
type chatStream struct {
	head  chatHead
	w     http.ResponseWriter
	flush func() error
	usage json.RawMessage
}

// serve sends what is told as it is told, one choice after the other, and ends t.
// A stream that cannot go on is broken off rather than ended, so that nobody
// takes what there is of it for all. A panic of the goroutine that tells goes on
// in this one, where the server catches it: it would end the process there.
func (s *chatStream) serve(ctx context.Context, c *chatRequest, t *telling) {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	// There is room for all chunks, so that a client that reads slowly keeps
	// nobody else from the model.
	chunks := make(chan chunkChoice, c.choices*(t.most+3))
	var output int64
	var told error
	var broken any
	var worker sync.WaitGroup
	worker.Go(func() {
		defer close(chunks)
		defer t.end()
		defer func() {
			if p := recover(); p != nil {
				broken = fmt.Sprintf("builtin: telling a story: %v\n%s", p, debug.Stack())
			}
		}()
		output, told = c.tellChunks(work, t, chunks)
	})
	s.w.Header().Set("Content-Type", "text/event-stream")
	if c.usage {
		s.usage = json.RawMessage("null")
	}
	sent := s.sendAll(ctx, chunks)
	cancel() // what cannot be sent need not be told
	worker.Wait()
	if broken != nil {
		panic(broken)
	}
	if sent == nil && told == nil {
		sent = s.end(c, output)
	}
	if sent != nil || told != nil {
		panic(http.ErrAbortHandler)
	}
}

// tellChunks tells all choices into chunks and counts their tokens.
func (c *chatRequest) tellChunks(ctx context.Context, t *telling, chunks chan<- chunkChoice) (output int64, err error) {
	empty := ""
	for i := range c.choices {
		chunks <- chunkChoice{Index: i, Delta: chunkDelta{Role: "assistant", Content: &empty}}
		tokens, finish, err := t.tell(ctx, newSampler(c.options, uint64(i)), func(piece string) error {
			chunks <- chunkChoice{Index: i, Delta: chunkDelta{Content: &piece}}
			return nil
		})
		if err != nil {
			return output, err
		}
		output += tokens
		chunks <- chunkChoice{Index: i, FinishReason: &finish}
	}
	return output, nil
}

// sendAll sends chunks as they come, until ctx ends: they may be ahead of the
// client.
func (s *chatStream) sendAll(ctx context.Context, chunks <-chan chunkChoice) error {
	for chunk := range chunks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.send(chunk); err != nil {
			return err
		}
	}
	return nil
}

// end sends the usage where it is wanted, and the mark of a whole stream.
func (s *chatStream) end(c *chatRequest, output int64) error {
	if c.usage {
		usage, err := json.Marshal(usageOf(c, output))
		if err != nil {
			return err
		}
		s.usage = usage
		if err := s.send(); err != nil {
			return err
		}
	}
	return s.write([]byte("[DONE]"))
}

func (s *chatStream) send(choices ...chunkChoice) error {
	if choices == nil {
		choices = []chunkChoice{} // an empty list, not null
	}
	text, err := json.Marshal(chatChunk{s.head, choices, s.usage})
	if err != nil {
		return err
	}
	return s.write(text)
}

func (s *chatStream) write(data []byte) error {
	event := make([]byte, 0, len(data)+8)
	event = append(append(append(event, "data: "...), data...), "\n\n"...)
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	if err := s.flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
