package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/inferweir/weir/internal/loadtest"
)

// reportPaths are where reports go to, "" for nowhere, and the files that a load reads.
type reportPaths struct {
	json, html string
	inputs     inputs
}

// inputs are the files that a load reads: no report may replace them.
type inputs []input

// input is one of them.
type input struct {
	name string // of the flag or the key, for messages
	path string // - is the standard input
	lost string // what would be lost with it
}

func (i *inputs) add(name, path string) { *i = append(*i, input{name, path, "what the load reads"}) }

// lines reads the files whose lines go into requests, which are relative to a directory,
// and adds them.
func (i *inputs) lines(dir string) func(string) ([]string, error) {
	return func(name string) ([]string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		i.add("line", name)
		return readLines(name)
	}
}

// reportFiles are the files that reports go to. They are opened before the load, so
// that nobody learns after ten minutes that a directory is missing.
type reportFiles struct{ json, html reportFile }

// reportFile is one of them; the zero value is none.
type reportFile struct {
	path string
	file *os.File
	out  io.Writer // the standard output
	// made: there was no such file, and there is none again where nothing is written.
	made bool
}

func openReports(paths reportPaths, stdout io.Writer) (*reportFiles, error) {
	if paths.json == "-" && paths.html == "-" {
		return nil, misuse{errors.New("--json, --html: -: want one of them on the standard output, and a file for the other")}
	}
	f := &reportFiles{}
	err := f.open(paths, stdout)
	if err == nil {
		err = f.apart(paths)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *reportFiles) open(paths reportPaths, stdout io.Writer) (err error) {
	if f.json, err = openReport("--json", paths.json, stdout); err != nil {
		return err
	}
	f.html, err = openReport("--html", paths.html, stdout)
	return err
}

// apart refuses a file that has two names on the command line or in a plan: the page would
// replace the JSON, or a report what the load reads.
func (f *reportFiles) apart(paths reportPaths) error {
	if sameFile(f.json.file, paths.html) {
		return fmt.Errorf("--json, --html: %s: the same file: want two", paths.html)
	}
	for _, r := range []struct {
		flag string
		file *os.File
	}{{"--json", f.json.file}, {"--html", f.html.file}} {
		for _, in := range paths.inputs {
			if sameFile(r.file, in.path) {
				return fmt.Errorf("%s, %s: %s: the same file: want another one, or %s would be lost", r.flag, in.name, in.path, in.lost)
			}
		}
	}
	return nil
}

// sameFile tells whether a path leads to a file, by whatever name; - is the standard input. What is no regular
// file, for example /dev/null, may be written twice.
func sameFile(f *os.File, path string) bool {
	if f == nil || path == "" || !isRegular(f) {
		return false
	}
	a, errA := f.Stat()
	b, errB := os.Stdin.Stat()
	if path != "-" {
		b, errB = os.Stat(path)
	}
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func openReport(flag, path string, stdout io.Writer) (reportFile, error) {
	switch path {
	case "":
		return reportFile{}, nil
	case "-":
		return reportFile{path: path, out: stdout}, nil
	}
	_, missing := os.Lstat(path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return reportFile{}, fmt.Errorf("%s: %s: %w", flag, path, pathCause(err))
	}
	return reportFile{path: path, file: f, made: errors.Is(missing, os.ErrNotExist)}, nil
}

// write replaces what is in the file.
func (f *reportFile) write(text func(io.Writer) error) error {
	switch {
	case f.out != nil:
		return text(f.out)
	case f.file == nil:
		return nil
	}
	f.made = false
	err := f.file.Truncate(0)
	if err == nil || !isRegular(f.file) { // a pipe is as empty as it can be
		err = text(f.file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, pathCause(err))
	}
	return nil
}

func isRegular(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

func (f *reportFiles) close() {
	for _, of := range []reportFile{f.json, f.html} {
		if of.file == nil {
			continue
		}
		_ = of.file.Close()
		if of.made {
			_ = os.Remove(of.path)
		}
	}
}

// writeJSON writes a value for people and programs.
func writeJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

const (
	// lineEvery is how often the progress is a line of its own, where nobody looks on.
	lineEvery = 5 * time.Second
	// progressBar is how many columns the bar has.
	progressBar = 20
	loadColumns = 79
)

// loadProgress says how far a load is: a bar on a terminal, elsewhere lines.
type loadProgress struct {
	out      io.Writer
	terminal bool
	shown    time.Duration
	drawn    bool
	name     string // of one of several loads
}

func newLoadProgress(stderr io.Writer) *loadProgress {
	return &loadProgress{out: stderr, terminal: newProgress(stderr, 0).terminal != nil}
}

// show tells the progress.
func (l *loadProgress) show(p loadtest.Progress) {
	if l.terminal {
		l.drawn = true
		fmt.Fprintf(l.out, "\r\x1b[K%s", loadClip(l.name+loadBar(p)+" "+loadFigures(p), loadColumns))
		return
	}
	if p.Elapsed < l.shown+lineEvery {
		return
	}
	l.shown = p.Elapsed.Truncate(lineEvery)
	fmt.Fprintf(l.out, "%s%s\n", l.name, loadFigures(p))
}

// clear makes room for what is said next.
func (l *loadProgress) clear() {
	if l.drawn {
		fmt.Fprint(l.out, "\r\x1b[K")
		l.drawn = false
	}
	l.shown = 0
}

// loadDone is the share of a load that is behind it.
func loadDone(p loadtest.Progress) float64 {
	share := 0.0
	if p.Total > 0 {
		share = p.Elapsed.Seconds() / p.Total.Seconds()
	}
	if p.Requests > 0 {
		share = max(share, float64(p.Sent)/float64(p.Requests))
	}
	return min(max(share, 0), 1)
}

func loadBar(p loadtest.Progress) string {
	full := int(loadDone(p) * progressBar)
	return "[" + strings.Repeat("█", full) + strings.Repeat(" ", progressBar-full) + "]"
}

func loadFigures(p loadtest.Progress) string {
	left := "warming up"
	switch {
	case p.Elapsed >= 0 && (p.Total > 0 && p.Elapsed >= p.Total || p.Requests > 0 && p.Sent >= p.Requests):
		left = "waiting for answers"
	case p.Elapsed >= 0 && p.Total > 0 && p.Requests == 0:
		left = short((p.Total - p.Elapsed).Round(time.Second)) + " left"
	case p.Elapsed >= 0:
		left = count(p.Sent, "request") + " sent"
	}
	return fmt.Sprintf("%.0f/s, %d in flight, p95 %s, %s, %s", p.Rate, p.InFlight, loadTime(p.P95), count(p.Errors, "error"), left)
}

// loadTime keeps three digits of a time.
func loadTime(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func loadClip(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n])
}
