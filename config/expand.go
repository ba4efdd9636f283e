package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	maxIncluded = 64 << 10 // bytes of one ${file:…} and of one value
	maxExpanded = 4 << 20  // bytes of all values together
)

// expander replaces ${NAME}, ${file:/path} and $$ in values. It works on values
// that are parsed already, so that no value can become structure.
type expander struct {
	lookup  func(string) (string, bool)
	total   int
	literal bool // nothing is replaced
}

func (e *expander) expand(s string) (string, error) {
	if e.literal || !strings.Contains(s, "$") {
		return s, nil
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			s = after[1:]
		case strings.HasPrefix(after, "{"):
			reference, rest, closed := strings.Cut(after[1:], "}")
			if !closed {
				return "", errors.New("${ without }: want ${NAME}, ${file:/path}, or $$ for a dollar sign")
			}
			value, err := e.resolve(reference)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			s = rest
		default:
			out.WriteByte('$')
			s = after
		}
		if out.Len() > maxIncluded {
			return "", fmt.Errorf("longer than %d bytes with its ${…} replaced", maxIncluded)
		}
	}
	if e.total += out.Len(); e.total > maxExpanded {
		return "", fmt.Errorf("all values together have more than %d bytes with their ${…} replaced", maxExpanded)
	}
	return out.String(), nil
}

// resolve gives the value of what stands between ${ and }.
func (e *expander) resolve(reference string) (string, error) {
	if path, ok := strings.CutPrefix(reference, "file:"); ok {
		return readIncluded(path)
	}
	if !isEnvName(reference) {
		return "", errors.New("want ${NAME} of an environment variable or ${file:/path}")
	}
	value, ok := "", false
	if e.lookup != nil {
		value, ok = e.lookup(reference)
	}
	if !ok {
		return "", fmt.Errorf("environment variable %s is not set", cut(reference))
	}
	if err := plainText(value); err != nil {
		return "", fmt.Errorf("environment variable %s: %w", cut(reference), err)
	}
	return value, nil
}

func isEnvName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// readIncluded reads the file of ${file:/path}, without one line break at its
// end: editors and kubectl add it.
func readIncluded(path string) (string, error) {
	shownPath := shown(path)
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("file %s: want an absolute path: ${file:/path}", shownPath)
	}
	// Asked before opening: to open a named pipe waits for its other end.
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("file %s: %w", shownPath, cause(err))
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("file %s: want a regular file", shownPath)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("file %s: %w", shownPath, cause(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIncluded+1))
	if err != nil {
		return "", fmt.Errorf("file %s: %w", shownPath, cause(err))
	}
	if len(text) > maxIncluded {
		return "", fmt.Errorf("file %s: want at most 64KiB", shownPath)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if err := plainText(value); err != nil {
		return "", fmt.Errorf("file %s: %w", shownPath, err)
	}
	return value, nil
}

// cause leaves out the path that an *os.PathError repeats.
func cause(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}

func plainText(s string) error {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return errors.New("want text in UTF-8 without NUL")
	}
	return nil
}
