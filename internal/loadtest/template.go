package loadtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
)

const (
	maxWords = 100_000 // that one {{words}} makes
	maxKinds = 1 << 53 // that {{zipf}} tells apart
)

// Functions describes what templates may call, for the help of a command: a name
// with its arguments, and what it gives.
func Functions() [][2]string {
	return [][2]string{
		{"{{seq}}", "the number of the request, from 0"},
		{"{{caller}}", "the name of its caller"},
		{"{{rand 1 100}}", "a whole number from 1 to 100"},
		{"{{zipf 1000}}", "one from 1 to 1000, small ones far more often"},
		{`{{pick "a" "b"}}`, "one of the texts"},
		{"{{words 200}}", "200 random words"},
		{`{{line "prompts.txt"}}`, "the lines of a file in turn"},
		{`{{json (line "prompts.txt")}}`, "a text in quotes, as JSON has it"},
	}
}

// text is a text that may be a template.
type text struct {
	name   string // for messages, for example --body
	plain  string // where it is none
	parsed *template.Template
	line   func(name string) ([]string, error)

	mu   sync.Mutex
	idle []*renderer // at most as many as requests are made at a time
}

// renderer runs a template for one request at a time: the functions of a template
// belong to it, and not to what is given to a run.
type renderer struct {
	template *template.Template
	of       *draw
	out      bounded
}

// draw is what a request is made of.
type draw struct {
	seq    int64
	caller string
	random *rand.Rand
}

// newText reads a template, or a text that is none. The files that it asks for are
// read here.
func newText(name, source string, line func(string) ([]string, error)) (*text, error) {
	t := &text{name: name, plain: source}
	if plainText(source) {
		return t, nil
	}
	files := map[string][]string{}
	t.line = func(name string) ([]string, error) {
		if lines, ok := files[name]; ok {
			return lines, nil
		}
		return nil, fmt.Errorf("line: %q: want the name of a file in quotes", name)
	}
	parsed, err := template.New(name).Funcs(t.functions(&draw{})).Parse(source)
	if err != nil {
		return nil, mistaken(name, err)
	}
	if len(parsed.Templates()) > 1 {
		return nil, fmt.Errorf("%s: a template has no define and no block: want one text", name)
	}
	if err := t.check(parsed.Root, files, line); err != nil {
		return nil, err
	}
	t.parsed = parsed
	return t, nil
}

// mistaken puts the name of an option in front of what the template library says.
func mistaken(name string, err error) error {
	said := strings.TrimPrefix(err.Error(), "template: ")
	said = strings.TrimPrefix(said, name+":")
	return fmt.Errorf("%s: line %s: want a template, for example {\"n\": {{rand 1 100}}}", name, said)
}

// check refuses what could run without an end, and reads the files.
func (t *text) check(node parse.Node, files map[string][]string, read func(string) ([]string, error)) error {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, child := range n.Nodes {
			if err := t.check(child, files, read); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return errors.Join(t.check(n.Pipe, files, read), t.check(n.List, files, read), t.check(n.ElseList, files, read))
	case *parse.ActionNode:
		return t.check(n.Pipe, files, read)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			if err := t.checkCommand(command, files, read); err != nil {
				return err
			}
		}
	case *parse.TextNode, *parse.CommentNode:
	default:
		return fmt.Errorf("%s: %s: a template has no range, with and template: want text, calls and if", t.name, node)
	}
	return nil
}

func (t *text) checkCommand(command *parse.CommandNode, files map[string][]string, read func(string) ([]string, error)) error {
	for i, arg := range command.Args {
		if inner, ok := arg.(*parse.PipeNode); ok {
			if err := t.check(inner, files, read); err != nil {
				return err
			}
		}
		name, ok := arg.(*parse.IdentifierNode)
		if !ok || name.Ident != "line" || i+1 == len(command.Args) {
			continue
		}
		file, ok := command.Args[i+1].(*parse.StringNode)
		switch {
		case !ok || read == nil:
			return fmt.Errorf("%s: line: want the name of a file in quotes", t.name)
		case files[file.Text] != nil:
			continue
		}
		lines, err := read(file.Text)
		if err == nil && len(lines) == 0 {
			err = fmt.Errorf("%s: has no lines: want at least one", file.Text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		files[file.Text] = lines
	}
	return nil
}

// functions are those of a template, for the request in d.
func (t *text) functions(d *draw) template.FuncMap {
	return template.FuncMap{
		"seq":    func() int64 { return d.seq },
		"caller": func() string { return d.caller },
		"rand": func(from, to int64) (int64, error) {
			if to < from || to-from < 0 || to-from+1 < 0 {
				return 0, fmt.Errorf("%d %d: want a smaller number and a larger one", from, to)
			}
			return from + d.random.Int64N(to-from+1), nil
		},
		"zipf": func(n int64) (int64, error) {
			if n < 1 || n > maxKinds {
				return 0, fmt.Errorf("%d: want from 1 to 2^53", n)
			}
			return 1 + int64(rand.NewZipf(d.random, zipfExponent, 1, uint64(n-1)).Uint64()), nil
		},
		"pick": func(of ...string) (string, error) {
			if len(of) == 0 {
				return "", errors.New(`want texts to choose from, for example pick "a" "b"`)
			}
			return of[d.random.IntN(len(of))], nil
		},
		"words": func(n int) (string, error) { return words(n, d.random) },
		"line": func(name string) (string, error) {
			lines, err := t.line(name)
			if err != nil {
				return "", err
			}
			n := int64(len(lines))
			return lines[(d.seq%n+n)%n], nil // from the last one backwards for a warm-up
		},
		"json": func(of any) (string, error) {
			var out bytes.Buffer
			encoder := json.NewEncoder(&out)
			encoder.SetEscapeHTML(false)
			err := encoder.Encode(of)
			return strings.TrimSuffix(out.String(), "\n"), err
		},
	}
}

// zipfExponent is near that of words in texts and of pages on web servers
// (Breslau et al., "Web caching and Zipf-like distributions"); the generator wants
// more than 1.
const zipfExponent = 1.05

// words makes a text of n words. Each is two to four syllables, so that texts of
// equal length have about equally many tokens.
func words(n int, random *rand.Rand) (string, error) {
	if n < 0 || n > maxWords {
		return "", fmt.Errorf("%d: want from 0 to %d", n, maxWords)
	}
	const consonants, vowels = "bcdfghjklmnprstvw", "aeiou"
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		for range 2 + random.IntN(3) {
			b.WriteByte(consonants[random.IntN(len(consonants))])
			b.WriteByte(vowels[random.IntN(len(vowels))])
		}
	}
	return b.String(), nil
}

// render makes the text of one request.
func (t *text) render(d *draw) (string, error) {
	if t.parsed == nil {
		return t.plain, nil
	}
	r, err := t.take()
	if err != nil {
		return "", err
	}
	defer t.give(r)
	*r.of = *d
	r.out.text.Reset()
	if err := r.template.Execute(&r.out, nil); err != nil {
		if _, ok := errors.AsType[template.ExecError](err); !ok {
			return "", fmt.Errorf("%s: %w", t.name, err) // of bounded
		}
		return "", mistaken(t.name, err)
	}
	return r.out.text.String(), nil
}

func (t *text) take() (*renderer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.idle); n > 0 {
		r := t.idle[n-1]
		t.idle = t.idle[:n-1]
		return r, nil
	}
	copied, err := t.parsed.Clone()
	if err != nil {
		return nil, err
	}
	of := &draw{}
	return &renderer{template: copied.Funcs(t.functions(of)), of: of}, nil
}

func (t *text) give(r *renderer) {
	if r.out.text.Cap() > keptText {
		r.out.text = bytes.Buffer{} // one large text must not stay with every renderer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = append(t.idle, r)
}

// keptText is the most bytes of a buffer that is kept for the next request.
const keptText = 64 << 10

// bounded takes at most MaxBody bytes.
type bounded struct{ text bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > MaxBody {
		return 0, fmt.Errorf("the text is longer than %d bytes: want a shorter one", MaxBody)
	}
	return b.text.Write(p)
}
