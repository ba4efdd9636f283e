package builtin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// chatTexts are the texts of a chat: the last message of the user, and all others.
type chatTexts struct {
	last   string
	others []string
}

// messages returns what the messages say. Of a body whose list has another length
// or more text than a chat may have, it reads no more than what tells so. The
// error is the parser's refusal, or why ctx has ended.
func (p *chatParser) messages(ctx context.Context) (*chatTexts, error) {
	const want = "a list of messages"
	if _, ok := p.given("messages"); !ok {
		p.mismatch("messages", jsonscan.Value{}, want)
	}
	t := &chatTexts{}
	asked, size, n := false, 0, 0
	for i, raw := range elements(p.list("messages", want)) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if n++; n > MaxMessages {
			p.refuse("messages", "messages: more than %d: want at most %d", MaxMessages, MaxMessages)
			break
		}
		role, text := p.message(raw, fmt.Sprintf("messages[%d]", i))
		if size += len(text); size > MaxChatBytes {
			p.refuseLength()
		}
		if p.refusal != nil {
			break
		}
		if role != "user" {
			t.others = append(t.others, text)
			continue
		}
		if asked {
			t.others = append(t.others, t.last)
		}
		t.last, asked = text, true
	}
	if n == 0 {
		p.refuse("messages", "messages: an empty list: want at least one message")
	}
	if !asked {
		p.refuse("messages", `messages: none has the role "user": want one, because %s answers the last of these`, storyModel)
	}
	if p.refusal != nil {
		return nil, p.refusal
	}
	return t, nil
}

func (p *chatParser) refuseLength() {
	if p.refusal == nil {
		p.refusal = tooLong(fmt.Sprintf("messages: more than %d bytes of text: want at most that", MaxChatBytes))
	}
}

// message returns who speaks, and the text.
func (p *chatParser) message(raw []byte, param string) (role, text string) {
	if raw[0] != '{' {
		p.mismatch(param, p.value(raw), "an object")
		return "", ""
	}
	found := p.members(raw, "role", "content")
	speaker, parts := p.value(found[0]), found[1]
	role = textOf(speaker)
	if !slices.Contains([]string{"system", "developer", "user", "assistant", "tool", "function"}, role) {
		p.mismatch(param+".role", speaker, `"system", "developer", "user", "assistant", "tool" or "function"`)
		return "", ""
	}
	param += ".content"
	content := p.value(parts)
	switch kind := content.Kind(); {
	case kind == jsonscan.String:
		text = textOf(content)
	case kind == jsonscan.Array:
		text = p.parts(parts, param, role)
	case (kind == jsonscan.Missing || kind == jsonscan.Null) && (role == "assistant" || role == "function"):
		// it called a tool, refused or returned nothing
	default:
		p.mismatch(param, content, "a string or a list of parts")
	}
	return role, text
}

// parts returns the texts in a list of parts, one a line.
func (p *chatParser) parts(list []byte, param, role string) string {
	var text strings.Builder
	for i, raw := range elements(list) {
		if i == maxParts {
			p.refuse(param, "%s: more than %d parts: want at most %d", param, maxParts, maxParts)
			break
		}
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(p.part(raw, fmt.Sprintf("%s[%d]", param, i), role))
		if text.Len() > MaxChatBytes {
			p.refuseLength()
		}
		if p.refusal != nil {
			break
		}
	}
	return text.String()
}

// part returns the text of a part of a message. An assistant's may be the words
// with which it refused to answer.
func (p *chatParser) part(raw []byte, param, role string) string {
	if raw[0] != '{' {
		p.mismatch(param, p.value(raw), "an object")
		return ""
	}
	found := p.members(raw, "type", "text", "refusal")
	kind, says, name := p.value(found[0]), found[1], "text"
	switch {
	case isText(kind):
	case role == "assistant" && textOf(kind) == "refusal":
		says, name = found[2], "refusal"
	default:
		p.mismatch(param+".type", kind, `"text": `+storyModel+" reads nothing else")
		return ""
	}
	text, ok := p.value(says).Text()
	if !ok {
		p.mismatch(param+"."+name, p.value(says), "a string")
	}
	return text
}
