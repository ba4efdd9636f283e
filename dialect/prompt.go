package dialect

import (
	"bytes"
	"slices"

	"github.com/inferweir/weir/internal/jsonscan"
)

// promptMost is the most bytes of a prompt that Prompt returns, and copies at all:
// who compares the beginnings of prompts needs no more.
const promptMost = 64 << 10

// promptMembers is how many members may become the prompt.
const promptMembers = 9

// promptOrder are the members that become the prompt, in the order in which chat
// templates write them: what the model may call, what the system says, then the
// conversation. Ollama puts its context, the tokens of a conversation so far, before
// all that the call adds to it.
func promptOrder() [promptMembers]string {
	return [...]string{"/tools", "/functions", "/context", "/system", "/instructions", "/messages", "/prompt", "/text_input", "/input"}
}

// Prompt is what the prefix cache of a model server sees first, as the body writes
// it: tools, the system's words, the messages or the prompt, in this order wherever
// they stand in the body. Of more than 64 KiB it is the first 64.
//
// Lists and texts are without their last bracket or quote. So the next turn of a
// conversation, which repeats all messages and adds some, begins with the prompt of
// the turn before. This is about bytes: of a client that writes one message in two
// ways, two prompts have nothing in common, whatever a model server makes of them.
//
// It is nil where no model writes an answer, where the call is of an API that is not
// known, and where the body has no prompt or cannot be read. The body is read once
// more for it: ask only if you need it. The result may be a part of the body: do not
// change it.
func (c *Call) Prompt() []byte {
	f := c.promptForm()
	if f == nil || len(c.body) == 0 {
		return nil
	}
	var room [maxPointers]jsonscan.Value
	values, err := f.paths.Find(room[:0], c.body, c.depth)
	if err != nil {
		return nil
	}
	var parts [promptMembers][]byte
	n, size := 0, 0
	for _, pointer := range promptOrder() {
		i := slices.Index(f.pointers[roleText], pointer)
		if i < 0 {
			continue
		}
		part := withoutEnd(values[f.first[roleText]+i])
		part = part[:min(len(part), promptMost-size)]
		if len(part) > 0 {
			parts[n] = part
			n, size = n+1, size+len(part)
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	return bytes.Join(parts[:n], nil)
}

// promptForm is the form of the call's body if a model continues what it says: nil
// for embeddings, say, whose servers cache no prefixes.
func (c *Call) promptForm() *requestForm {
	if c.endpoint == nil {
		return nil
	}
	f := c.endpoint.request
	if f == nil || !c.Generates() && !slices.Contains(f.pointers[roleText], "/text_input") {
		return nil
	}
	return f
}

// withoutEnd is a list, an object or a text as it is written, up to its end; nil
// where it is none of these or empty.
func withoutEnd(v jsonscan.Value) []byte {
	switch v.Kind() {
	case jsonscan.Array, jsonscan.Object:
		if raw := bytes.TrimRight(v.Raw()[:len(v.Raw())-1], " \t\r\n"); len(raw) > 1 {
			return raw
		}
	case jsonscan.String:
		if raw := v.Raw(); len(raw) > len(`""`) {
			return raw[:len(raw)-1]
		}
	}
	return nil
}
