package builtin

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/inferweir/weir"
)

// storyModel is the name of the language model in requests.
const storyModel = "weir-story"

// storyModelFile is the place of the model in the source tree, for messages.
const storyModelFile = "models/story/weir-story.wlm"

//go:embed models/story/weir-story.wlm
var storyData []byte

// Why a story ends.
const (
	// FinishStop says that the model ended it, or that it came to a stop text.
	FinishStop = "stop"
	// FinishLength says that it came to MaxTokens or to the end of the model's
	// context.
	FinishLength = "length"
)

// StoryOptions say how a story is told. The zero value is the model's likeliest
// words, to the end.
type StoryOptions struct {
	// MaxTokens is the most tokens to tell. 0 means as many as the model's
	// context has room for: 256, less those of the request.
	MaxTokens int
	// Temperature is how freely words are chosen, from 0 to 2: 0 takes the
	// likeliest always, 1 chooses as the model's probabilities are.
	Temperature float64
	// TopP leaves only the likeliest tokens to choose from, those that together
	// have at least this probability. 0 means 1: all of them.
	TopP float64
	// Seed decides all choices: the same request, options and seed give the same
	// story on the same kind of machine.
	Seed uint64
	// Stop lists texts that end a story where they begin; they are not part of
	// it. Empty texts are ignored.
	Stop []string
	// PresencePenalty and FrequencyPenalty, -2 to 2, are taken from the logit of
	// a token that was told before: the first once, the second each time.
	PresencePenalty, FrequencyPenalty float64
}

// Told is what became of a story.
type Told struct {
	// Usage has the tokens of the request, with the prompt's frame around it, and
	// those told. Those of a stop text count, the model's sign of the end does
	// not.
	Usage weir.Usage
	// Finish is FinishStop or FinishLength.
	Finish string
}

// Story asks the language model for a story about what request names, and gives
// it to emit piece by piece as it is made: whole words or parts of words, never
// part of a character. An error of emit ends it and is returned as it is; when
// ctx ends, so does the work, within one token, with the context's cause.
//
// At most four requests for each CPU run at once: others wait their turn first,
// in the order in which they came. emit runs while its request holds one of these
// places: as long as it blocks, on a client that reads slowly, say, it keeps the
// others waiting, and it must not ask for a story itself.
//
// The model is very small (0.9 million parameters, trained on the sentences of a
// small grammar). It tells short tales of animals, and knows some of their
// sounds and homes, and colours; whatever else it is asked, a tale is what comes.
// It reads English and has no memory of what was said before. Requests of more
// than some 250 tokens (about as many short words) are an error.
func (m *Models) Story(ctx context.Context, request string, o StoryOptions, emit func(piece string) error) (Told, error) {
	s := m.story
	prompt := s.prompt(request)
	if err := s.fits(prompt); err != nil {
		return Told{}, err
	}
	told := Told{Usage: weir.Usage{Input: int64(len(prompt))}}
	t, err := s.begin(ctx, prompt, o.MaxTokens)
	if err != nil {
		return told, err
	}
	defer t.end()
	told.Usage.Output, told.Finish, err = t.tell(ctx, newSampler(o, 0), emit)
	return told, err
}

// prompt is what the model was trained to answer. White space is one space each,
// so that nothing in a request looks like the answer's beginning.
func (m *story) prompt(request string) []uint16 {
	text := "Q " + strings.Join(strings.FieldsFunc(request, isPatternSpace), " ") + "\nA"
	return m.tokens.encode([]uint16{m.tokens.bos}, text)
}

// fits says whether a prompt leaves room for one token.
func (m *story) fits(prompt []uint16) error {
	if most := m.context - 1; len(prompt) > most {
		return fmt.Errorf("%s: a prompt of %d tokens: want at most %d: ask for less", storyModel, len(prompt), most)
	}
	return nil
}

// telling is a request that has a slot and whose prompt was read. From there it
// can be told several times.
type telling struct {
	state  *storyState
	prompt int
	most   int // tokens to tell
	first  []float32
}

// begin waits for a slot and reads a prompt that fits. Who gets a telling ends it.
func (m *story) begin(ctx context.Context, prompt []uint16, maxTokens int) (*telling, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select { // a channel serves those who wait in the order in which they came
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	most := m.context - len(prompt)
	if maxTokens > 0 {
		most = min(most, maxTokens)
	}
	t := &telling{state: m.state(len(prompt) + most), prompt: len(prompt), most: most}
	if err := t.state.read(ctx, prompt); err != nil {
		t.end()
		return nil, err
	}
	t.first = slices.Clone(t.state.logits)
	return t, nil
}

// end frees the slot.
func (t *telling) end() { <-t.state.model.slots }

// tell chooses tokens until one ends the story, and returns how many there were.
func (t *telling) tell(ctx context.Context, choose *sampler, emit func(piece string) error) (tokens int64, finish string, err error) {
	s, m := t.state, t.state.model
	s.at = t.prompt // what was told before is overwritten
	copy(s.logits, t.first)
	text := storyText{stops: choose.options.Stop}
	finish = FinishLength
	for tokens < int64(t.most) {
		if ctx.Err() != nil {
			return tokens, "", context.Cause(ctx)
		}
		id := choose.next(m.tokens, s.logits)
		if id == m.tokens.eos {
			finish = FinishStop
			break
		}
		tokens++
		piece, stopped := text.add(m.tokens.texts[id])
		if piece != "" {
			if err := emit(piece); err != nil {
				return tokens, "", err
			}
		}
		if stopped {
			return tokens, FinishStop, nil
		}
		if tokens < int64(t.most) {
			s.step(id)
			s.predict()
		}
	}
	if text.held != "" {
		err = emit(text.held)
	}
	return tokens, finish, err
}

// storyText is the text of a story as it comes: without the white space that
// begins it, and not beyond a stop text.
type storyText struct {
	stops []string
	begun bool
	held  string // it may be the beginning of a stop text
}

// add returns what of the text can be passed on after piece came, and whether it
// ended at a stop text.
func (t *storyText) add(piece string) (pass string, stopped bool) {
	if !t.begun {
		piece = strings.TrimLeftFunc(piece, unicode.IsSpace)
		t.begun = piece != ""
	}
	text := t.held + piece
	end := len(text)
	for _, stop := range t.stops {
		if i := strings.Index(text, stop); i >= 0 && stop != "" && i <= end {
			end, stopped = i, true
		}
	}
	if stopped {
		t.held = ""
		return text[:end], true
	}
	for i := range text {
		if t.beginsStop(text[i:]) {
			end = i
			break
		}
	}
	t.held = text[end:]
	return text[:end], false
}

func (t *storyText) beginsStop(text string) bool {
	for _, stop := range t.stops {
		if strings.HasPrefix(stop, text) {
			return true
		}
	}
	return false
}
