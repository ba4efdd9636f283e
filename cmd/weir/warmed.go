package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// maxFailures is how many failed requests are named.
	maxFailures = 10
	// progressEvery is how often the progress is written at most.
	progressEvery = 100 * time.Millisecond
)

// outcome is what became of a request.
type outcome int

const (
	notCacheable outcome = iota
	stored
	present
	failed
	unreachable // nothing listens
	aborted     // by the end of the context
)

// warmed is what became of all of them. Requests are those that were sent to their
// end.
type warmed struct {
	Requests     int       `json:"requests"`
	Stored       int       `json:"stored"`
	Present      int       `json:"already_there"`
	NotCacheable int       `json:"not_cacheable"`
	Failed       int       `json:"failed"`
	Failures     []failure `json:"failures,omitempty"`
}

// failure is one of the first failed requests of the file.
type failure struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

func (w *warmed) add(o outcome, f failure) {
	w.Requests++
	switch o {
	case stored:
		w.Stored++
	case present:
		w.Present++
	case notCacheable:
		w.NotCacheable++
	default:
		w.Failed++
		w.Failures = append(w.Failures, f)
		slices.SortFunc(w.Failures, func(a, b failure) int { return cmp.Compare(a.Line, b.Line) })
		w.Failures = w.Failures[:min(len(w.Failures), maxFailures)]
	}
}

// cacheStatus reads what Weir says of an answer (RFC 9211). Who waited for another
// request of the file has found its answer.
func cacheStatus(fields []string) outcome {
	o := notCacheable
	for _, cache := range splitOutside(strings.Join(fields, ","), ',') {
		params := splitOutside(cache, ';')
		if name := strings.Trim(params[0], `"`); name != "weir" {
			continue
		}
		o = notCacheable
		for _, p := range params[1:] {
			switch {
			case p == "stored":
				o = stored
			case (p == "hit" || p == "collapsed") && o != stored:
				o = present
			}
		}
	}
	return o
}

// splitOutside splits a structured field at a separator that is not in quotes, and
// trims the parts.
func splitOutside(text string, separator byte) (parts []string) {
	quoted, start := false, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == separator && !quoted:
			parts = append(parts, strings.TrimSpace(text[start:i]))
			start = i + 1
		}
	}
	return append(parts, strings.TrimSpace(text[start:]))
}

// progress is a line on a terminal that says how far it is. The zero value writes
// nothing.
type progress struct {
	terminal io.Writer // nil: none
	total    int
	shown    time.Time
}

// newProgress writes only where somebody looks on.
func newProgress(stderr io.Writer, total int) *progress {
	p := &progress{total: total}
	if f, ok := stderr.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.terminal = stderr
		}
	}
	return p
}

func (p *progress) show(done *warmed) {
	if now := time.Now(); p.terminal != nil && now.Sub(p.shown) >= progressEvery {
		p.shown = now
		fmt.Fprintf(p.terminal, "\r\x1b[K%d of %s, %d failed", done.Requests, count(p.total, "request"), done.Failed)
	}
}

// clear makes room for what is said next.
func (p *progress) clear() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
