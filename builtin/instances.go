package builtin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// wanted is the form of a request's body, for error texts.
const wanted = `want {"instances": ["text", ...]}`

// parseInstances returns the texts in a body of the form
// {"instances": ["text", …]}. It is strict: what it does not understand is an
// error, so that a misspelt member is noticed.
func parseInstances(body []byte) ([]string, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // numbers are shown as they were sent
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("body: %s: %s", show(t), wanted)
	}
	var texts []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		if name != "instances" {
			return nil, fmt.Errorf("body: unknown member %s: %s", show(name), wanted)
		}
		if texts != nil {
			return nil, errors.New("body: member \"instances\" is there twice: want it once")
		}
		if texts, err = decodeTexts(d); err != nil {
			return nil, err
		}
	}
	if texts == nil {
		return nil, fmt.Errorf("body: no member \"instances\": %s", wanted)
	}
	return texts, nil
}

// checkJSON says where body is not JSON. The whole of it is checked before any
// of it is used.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		at := 0
		for r, size := utf8.DecodeRune(body); r != utf8.RuneError || size > 1; r, size = utf8.DecodeRune(body[at:]) {
			at += size
		}
		return fmt.Errorf("body: byte %d: not UTF-8: want JSON in UTF-8", at)
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(unread)); errors.As(err, &syntax) {
		return fmt.Errorf("body: byte %d: %w: %s", syntax.Offset, err, wanted)
	} else if err != nil {
		return fmt.Errorf("body: %w: %s", err, wanted)
	}
	return nil
}

// unread is any JSON value, looked at for its syntax only.
type unread struct{}

func (*unread) UnmarshalJSON([]byte) error { return nil }

// decodeTexts reads the value of instances. It stops at the first text too
// many, so that a long list costs no more than reading it.
func decodeTexts(d *json.Decoder) ([]string, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("instances: %w", err)
	}
	if t != json.Delim('[') {
		return nil, fmt.Errorf("instances: %s: want a list of texts", show(t))
	}
	texts := []string{}
	for d.More() {
		if len(texts) == MaxInstances {
			return nil, fmt.Errorf("instances: more than %d texts: want at most %d", MaxInstances, MaxInstances)
		}
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("instances[%d]: %w", len(texts), err)
		}
		text, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("instances[%d]: %s: want a string", len(texts), show(t))
		}
		if err := checkText(text); err != nil {
			return nil, fmt.Errorf("instances[%d]: %w", len(texts), err)
		}
		texts = append(texts, text)
	}
	if _, err := d.Token(); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("instances: %w", err)
	}
	if len(texts) == 0 {
		return nil, errors.New("instances: an empty list: want at least one text")
	}
	return texts, nil
}

// show gives the value that begins with t, as far as t says.
func show(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case json.Delim:
		if strings.ContainsRune("[]", rune(t)) {
			return "a list"
		}
		return "an object"
	case string:
		return quote(t)
	case json.Number:
		if len(t) > 40 {
			return string(t[:40]) + "..."
		}
		return string(t)
	}
	return fmt.Sprint(t) // true and false
}
