package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	maxFile  = 1 << 20
	maxDepth = 100
)

// The YAML parser takes the braces of {key: ${NAME}} for its own, and in a list
// in a flow mapping the second colon of http://host:80 for the end of a key.
// Such characters are noncharacters of Unicode while it reads the text, and
// themselves again in every scalar that comes out of it.
const (
	openBrace  = "\uFDD0"
	closeBrace = "\uFDD1"
	innerColon = "\uFDD2"
)

// parseYAML reads text into its one document. On a mistake it returns nil; empty
// is said of a text with nothing in it.
func parseYAML(text []byte, c *collector, empty string) ast.Node {
	if len(text) > maxFile {
		c.add(1, "", "", fmt.Sprintf("the file has %d bytes: want at most 1MiB", len(text)))
		return nil
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if !checkText(text, c) {
		return nil
	}
	file, line, err := parseSource(mask(string(text)))
	if err != nil {
		c.add(line, "", "", err.Error())
		return nil
	}
	return document(file, c, empty)
}

// checkText reports what no YAML parser explains well: text that is not UTF-8,
// control characters, tabs in the indentation. It returns false for text that
// the parser had better not see.
func checkText(text []byte, c *collector) bool {
	ok := true
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if !utf8.Valid(line) {
			c.add(number, "", "", "not UTF-8: want the file saved as UTF-8")
			ok = false
		} else if i := bytes.IndexFunc(line, isForbidden); i >= 0 {
			r, _ := utf8.DecodeRune(line[i:])
			c.add(number, "", "", fmt.Sprintf("control character %U: want text", r))
			ok = false
		}
		rest := bytes.TrimLeft(line, " ")
		if len(rest) > 0 && rest[0] == '\t' && len(bytes.TrimSpace(rest)) > 0 {
			c.add(number, "", "", "a tab in the indentation: want spaces")
			ok = false
		}
	}
	return ok
}

// isForbidden holds for control characters, a byte order mark within the text,
// and the noncharacters that mask takes for itself.
func isForbidden(r rune) bool {
	return unicode.IsControl(r) && r != '\t' && r != '\n' ||
		r == '\uFEFF' || r >= '\uFDD0' && r <= '\uFDD2'
}

// parseSource runs the YAML parser. The line belongs to the error.
func parseSource(text string) (file *ast.File, line int, err error) {
	// The parser is not ours, and what it reads may come over the network: a
	// reload must survive a text that nobody has tried on it.
	defer func() {
		if r := recover(); r != nil {
			file, line, err = nil, 1, errors.New("the YAML parser gave up: want simpler YAML")
		}
	}()
	tokens := lexer.Tokenize(text)
	if line, err := checkShape(tokens); err != nil {
		return nil, line, err
	}
	file, err = parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file, 0, nil
	}
	line = 1
	var at yaml.Error
	if !errors.As(err, &at) {
		return nil, line, errors.New("not YAML")
	}
	if t := at.GetToken(); t != nil && t.Position != nil {
		line = t.Position.Line
	}
	// Only the message: the whole text of the error quotes lines of the file,
	// and they may hold secrets.
	return nil, line, fmt.Errorf("not YAML: %s", unmask(at.GetMessage()))
}

// checkShape finds the line at which brackets or indentation go deeper than
// maxDepth, or at which a block collection gets longer than maxItems. It looks
// at tokens, because the parser calls itself for the one and takes quadratic
// time for the other.
func checkShape(tokens token.Tokens) (line int, err error) {
	type block struct{ column, items int }
	flow := 0
	var blocks []block // the block collections that are open
	open := func(column int) int {
		for len(blocks) > 0 && blocks[len(blocks)-1].column > column {
			blocks = blocks[:len(blocks)-1]
		}
		if len(blocks) == 0 || blocks[len(blocks)-1].column < column {
			blocks = append(blocks, block{column: column})
		}
		top := &blocks[len(blocks)-1]
		top.items++
		return top.items
	}
	for i, t := range tokens {
		items := 0
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType:
			items = open(t.Position.Column)
		case token.MappingValueType:
			if flow == 0 && i > 0 {
				items = open(tokens[i-1].Position.Column)
			}
		}
		if flow+len(blocks) > maxDepth {
			return t.Position.Line, fmt.Errorf("nested more than %d levels deep", maxDepth)
		}
		if items > maxItems {
			return t.Position.Line, fmt.Errorf("more than %d keys or items in one mapping or list", maxItems)
		}
	}
	return 0, nil
}

// document returns the root of the only document in file.
func document(file *ast.File, c *collector, empty string) ast.Node {
	var root ast.Node
	for _, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil:
		case *ast.DirectiveNode:
			c.add(lineOf(body), "", "", "YAML directives are not supported: want none")
			return nil
		default:
			if root != nil {
				c.add(lineOf(body), "", "", "a second document: want one document in a file")
				return nil
			}
			root = body
		}
	}
	if root == nil {
		c.add(1, "", "", empty)
	}
	return root
}

// mask replaces the braces of every ${…} and the colons within words. Such a
// colon is text in quotes, outside them, and in comments. By the rules of YAML
// the ones in [builtin:] and "url: memory:" are not, but nothing else is meant.
func mask(s string) string {
	reference := regexp.MustCompile(`\$\{([^{}\[\]"'\n]*)\}`)
	s = reference.ReplaceAllString(s, "$$"+openBrace+"${1}"+closeBrace)
	value := regexp.MustCompile(`(?m)([:-][ ]+(?:memory|builtin)):([ ]|$)`)
	s = value.ReplaceAllString(s, "${1}"+innerColon+"${2}")
	var out strings.Builder
	for i := range len(s) {
		inner := s[i] == ':' && i > 0 && i+1 < len(s) &&
			strings.IndexByte(" \t\n{}[],\"'", s[i-1]) < 0 && strings.IndexByte(" \t\n{[", s[i+1]) < 0
		if inner {
			out.WriteString(innerColon)
		} else {
			out.WriteByte(s[i])
		}
	}
	return out.String()
}

// unmask puts them back.
func unmask(s string) string {
	return strings.NewReplacer(openBrace, "{", closeBrace, "}", innerColon, ":").Replace(s)
}

// scalarText returns a scalar as it was written, without its quotes.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return unmask(n.Value), true
	case *ast.LiteralNode:
		return unmask(n.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func lineOf(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

// describe says what stands in the place of something else.
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "null"
	}
	text, _ := scalarText(n)
	return shown(text)
}
