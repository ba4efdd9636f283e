package dialect

import (
	"bytes"
	"mime"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
	"github.com/inferweir/weir/internal/sse"
)

// The names of forms that are made of each other.
const (
	formWhole       = "whole"
	formStream      = "stream"
	formStreamUsage = "stream+usage"
)

// FormPointers are the JSON pointers of the request members that only say in which
// form the answer comes. A key that leaves them out must have Call.Form instead,
// and only where that is not "": elsewhere they may mean anything.
func FormPointers() []string { return []string{"/stream", "/stream_options"} }

// formWays are the forms in which an endpoint answers, and which can be made of which.
type formWays struct {
	ways []way // for each form to be made, the best first
	// null says that the API takes "stream": null for an absent member. To others
	// it may be a mistake. options says that it has stream_options, and takes null
	// there likewise.
	null, options bool
	// lines says that a stream is lines of JSON and not server-sent events.
	lines bool
}

// way makes an answer in the form to of one in the form from. depth is how many
// levels the body may nest. ok is false where that loses anything, and where body
// has anything that is not known.
type way struct {
	from, to string
	make     func(body []byte, depth int) (converted []byte, ok bool)
}

// Form names the form in which the call wants its answer:
//
//	whole         one JSON value
//	stream        a stream
//	stream+usage  a stream that tells its usage, because stream_options has nothing
//	              but "include_usage": true (chat/completions and completions)
//
// A request whose members of FormPointers say anything else, are of a wrong type,
// or stand in a body that two readers could read in two ways (see Err), has a name
// with their canonical JSON in it, which no request that says something else has,
// and from which and into which nothing is made. That name is as long as the
// client makes it. OpenAI's "stream_options": {} is such a request: include_usage
// is false by default, but true in vLLM.
//
// Form is "" for endpoints with one form, for those that are not known, and for
// bodies that are no JSON.
func (c *Call) Form() string {
	if c.endpoint == nil || c.endpoint.forms == nil || !c.formRead {
		return ""
	}
	base := c.plainForm()
	if base == "" || c.Err != nil {
		return c.oddForm("asked")
	}
	switch options := c.formMember(c.options); {
	case options == nil, isNull(options) && c.endpoint.forms.options:
		return base
	case base == formStream && len(c.endpoint.request.pointers[roleUsage]) > 0:
		switch include, only := onlyMember(options, `"include_usage"`); {
		case only && string(include) == "true":
			return formStreamUsage
		case only && string(include) == "false":
			return base
		}
	}
	return c.oddForm(base)
}

// plainForm is the form that the member stream asks for, "" if that is not certain.
func (c *Call) plainForm() string {
	unasked := formWhole
	if c.endpoint.request.streams != ifAsked {
		unasked = formStream
	}
	switch v := c.formMember(c.stream); {
	case v == nil, isNull(v) && c.endpoint.forms.null:
		return unasked
	case string(v) == "true":
		return formStream
	case string(v) == "false":
		return formWhole
	}
	return ""
}

// formMember is a member of FormPointers as it is written, nil if there is none.
func (c *Call) formMember(at span) []byte {
	if at.to == 0 {
		return nil
	}
	return c.body[at.from:at.to]
}

// oddForm is a name that has the members themselves.
func (c *Call) oddForm(base string) string {
	members := appendMember([]byte("{"), "stream", c.formMember(c.stream))
	members = append(appendMember(members, "stream_options", c.formMember(c.options)), '}')
	name, err := jsonscan.AppendCanonical([]byte(base+" "), members, nil, c.depth)
	if err != nil {
		return "" // nor has the body a canonical form
	}
	return string(name)
}

// onlyMember is the value of the one member of an object, if it has the name, which
// is written with its quotes.
func onlyMember(raw []byte, name string) (value []byte, ok bool) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, false
	}
	w := jsonscan.Into(raw)
	if n, _ := w.Next(); string(n) != name {
		return nil, false
	}
	value, _ = w.Next()
	_, more := w.Next()
	return value, !more
}

// OtherForms are the forms of which Convert may make the form that the call asks
// for, the best first: the one that keeps most of how the answer came.
func (c *Call) OtherForms() []string {
	form := c.Form()
	if form == "" {
		return nil
	}
	var others []string
	for _, w := range c.endpoint.forms.ways {
		if w.to == form {
			others = append(others, w.from)
		}
	}
	return others
}

// Convert makes the answer that the call asks for of one in the form from, or says
// that it cannot be done without loss. The answer must be that of a call which
// differs from this one in nothing but the members of FormPointers; its status
// must be 200 and its body without a Content-Encoding. contentType is its
// Content-Type.
//
// Strings and numbers are carried over as they are written. ok is false if body is
// not an answer whose every member, type, event and order is known and has a place
// in the other form: an error, a stream without its end, a member that only one
// server has, two members of one name. Then the upstream must be asked.
//
// The result has at most 64 KiB more than 16 times the bytes of body.
func (c *Call) Convert(from string, contentType string, body []byte) (converted []byte, newContentType string, ok bool) {
	to := c.Form()
	if to == "" {
		return nil, "", false
	}
	f := c.endpoint.forms
	for _, w := range f.ways {
		if w.from != from || w.to != to {
			continue
		}
		if media, ok := utf8Media(contentType); !ok || media != f.media(from) {
			return nil, "", false
		}
		if to != formWhole && len(body) > longestMade {
			return nil, "", false
		}
		if converted, ok = w.make(body, c.depth); !ok {
			return nil, "", false
		}
		return converted, f.contentType(to), true
	}
	return nil, "", false
}

// longestMade is the length of the longest answer of which a stream is made: as a
// string in JSON it has at most twice the bytes, and clients read lines up to a
// bound.
const longestMade = sse.MaxLine / 4

// utf8Media is the media type of a Content-Type that says nothing more than that
// the text is UTF-8.
func utf8Media(contentType string) (media string, ok bool) {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", false
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return "", false
		}
	}
	return media, true
}

// media is the media type of a form.
func (f *formWays) media(form string) string {
	switch {
	case form == formWhole:
		return "application/json"
	case f.lines:
		return "application/x-ndjson"
	}
	return "text/event-stream"
}

// contentType is what the servers themselves send with a form.
func (f *formWays) contentType(form string) string {
	if media := f.media(form); media != "text/event-stream" {
		return media
	}
	return "text/event-stream; charset=utf-8"
}

// exceeds reports whether what was made of body is longer than Convert allows. An
// answer has each choice's chunks in a stream, and each chunk all that they have in
// common.
func exceeds(made, body []byte) bool { return len(made) > 64<<10+16*len(body) }

// isJSONSpace reports whether text is white space alone.
func isJSONSpace(text []byte) bool { return len(bytes.Trim(text, jsonSpace)) == 0 }
