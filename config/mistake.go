package config

import (
	"slices"
	"strconv"
	"strings"
)

// Mistake is one thing that is wrong in a configuration file.
type Mistake struct {
	// File is the file's name as it was given, Line the line of the key or list
	// item that is wrong, counted from 1. Both are zero where no file was read.
	File string
	Line int
	// Path names the key, for example "routes[0].cache.ttl" or
	// "plans.pro.policies[1]". It is "" when the whole file is meant.
	Path string
	// Value is the offending value as written, before ${…} is replaced, in
	// quotes and cut after 60 characters. It is "" where there is no value and
	// where the value is a secret.
	Value string
	// Want says what is wrong or what would be right.
	Want string
}

// Error gives the mistake in one line:
//
//	weir.yaml:12: routes[0].cache.ttl: "10x": want a duration, for example 10m
func (m Mistake) Error() string {
	var parts []string
	if m.Line > 0 {
		parts = append(parts, m.File+":"+strconv.Itoa(m.Line))
	}
	for _, s := range []string{m.Path, m.Value, m.Want} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Mistakes is everything that is wrong in a file, in the order of the lines.
// A file with more than 1000 mistakes reports the first 1000 that were found.
type Mistakes []Mistake

// Error gives one line for each mistake.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].Error()
	}
	return strings.Join(lines, "\n")
}

const (
	maxMistakes = 1000
	maxShown    = 60 // characters of a value or a key in a message
)

// redacted stands for a secret in messages and in Config.YAML.
const redacted = "(redacted)"

// collector gathers mistakes, and remembers where they are so that one wrong
// value is not reported again by every check that meets it.
type collector struct {
	file    string
	list    Mistakes
	at      map[string]bool // paths that have a mistake
	touched map[string]bool // paths that have one at or below them
}

func newCollector(file string) *collector {
	return &collector{file: file, at: map[string]bool{}, touched: map[string]bool{}}
}

// add records a mistake unless the same path has one already. Redacted paths
// are all alike, and each counts.
func (c *collector) add(line int, path, value, want string) {
	known := path != "" && c.at[path] && !strings.HasSuffix(path, redacted)
	if known || len(c.list) >= maxMistakes {
		return
	}
	c.at[path] = true
	for p := path; p != ""; p = parent(p) {
		c.touched[p] = true
	}
	c.list = append(c.list, Mistake{File: c.file, Line: max(line, 1), Path: path, Value: value, Want: want})
}

// clean reports whether nothing is wrong at path and below it.
func (c *collector) clean(path string) bool { return !c.touched[path] }

// err returns the mistakes in line order, or nil.
func (c *collector) err() error {
	if len(c.list) == 0 {
		return nil
	}
	slices.SortStableFunc(c.list, func(a, b Mistake) int { return a.Line - b.Line })
	return c.list
}

// parent cuts the last step off a path: "a.b[1]" becomes "a.b", then "a".
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// shown quotes a value for a message. What looks like a secret is left out even
// where none is expected: a key in the wrong place is still a key.
func shown(value string) string {
	if strings.Contains(value, keyPrefix) ||
		strings.Contains(value, "://") && strings.ContainsAny(value, "@?") {
		return strconv.Quote(redacted)
	}
	return strconv.Quote(cut(value))
}

// shownKey is a mapping's key as part of a path: as it is where it is plain
// text, quoted where a line break or a quote in it would garble the message.
func shownKey(key string) string {
	if strings.Contains(key, keyPrefix) {
		return redacted
	}
	if q := strconv.Quote(key); q != `"`+key+`"` || key == "" {
		return strconv.Quote(cut(key))
	}
	return cut(key)
}

func cut(s string) string { return cutAt(s, maxShown) }

// cutAt cuts s after so many characters.
func cutAt(s string, most int) string {
	n := 0
	for i := range s {
		if n == most {
			return s[:i] + "…"
		}
		n++
	}
	return s
}

// oneOf lists words for a message, at most 20 of them.
func oneOf(words []string) string {
	const most = 20
	if len(words) > most {
		words = append(slices.Clone(words[:most]), "…")
	}
	if len(words) == 1 {
		return words[0]
	}
	return "one of " + strings.Join(words, ", ")
}

// nearest returns the word that differs least from s, and whether it is near
// enough to be a slip of the finger: about one change in three letters.
func nearest(s string, words []string) (string, bool) {
	best, bestDistance := "", max(1, (len(s)+1)/3)+1
	for _, w := range words {
		if d := distance(s, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best, best != ""
}

// distance is the Levenshtein distance of two words in bytes. Words longer than
// any key are far from all of them.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
