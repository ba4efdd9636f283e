package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// maxLine is the longest line of a file of requests.
	maxLine = 10 << 20
	// maxSpool is the longest file that is not a regular one.
	maxSpool = 4 << 30
	// maxBadLines is how many mistakes of a file are reported.
	maxBadLines = 1000
)

// requestFile is read twice: to find its mistakes, then to send it.
type requestFile struct {
	name  string
	file  *os.File
	start int64 // of the requests in it
	temp  bool
}

// openRequests opens a file, "-" for the standard input. What cannot be read twice
// is copied first.
func openRequests(ctx context.Context, name string) (*requestFile, error) {
	f := &requestFile{name: name, file: os.Stdin}
	if name == "-" {
		f.name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, pathCause(err))
		}
		f.file = file
	}
	info, err := f.file.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = errors.New("is a directory: want a file of requests, or - for the standard input")
	case !info.Mode().IsRegular():
		err = f.spool(ctx)
	default: // a script may have read some of its standard input
		f.start, err = f.file.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("%s: %w", f.name, pathCause(err))
	}
	return f, nil
}

// pathCause is the error without the path, which the message has already.
func pathCause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// spool replaces the file with a copy of all that it holds.
func (f *requestFile) spool(ctx context.Context) error {
	to, err := os.CreateTemp("", "weir-warm-*.jsonl")
	if err != nil {
		return err
	}
	// Where that is possible nobody else sees it, and it is gone with the process.
	_ = os.Remove(to.Name())
	from := f.file
	copied := make(chan error, 1)
	go func() { // ends with the file, or with the process: a terminal cannot be stopped being read
		n, err := io.Copy(to, io.LimitReader(from, maxSpool+1))
		if err == nil && n > maxSpool {
			err = fmt.Errorf("more than %d bytes: want a regular file", int64(maxSpool))
		}
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		return errors.New("interrupted, nothing was sent")
	}
	if from != os.Stdin {
		_ = from.Close()
	}
	f.file, f.temp = to, true
	return err
}

func (f *requestFile) close() {
	if f.file != os.Stdin {
		_ = f.file.Close()
	}
	if f.temp {
		_ = os.Remove(f.file.Name()) // where it could not be removed while it was open
	}
}

// check reports every mistake of the file, and returns how many requests it has.
func (f *requestFile) check(stderr io.Writer) (requests int, err error) {
	mistakes := 0
	err = f.each(func(r *request, wrong []string) bool {
		for _, w := range wrong {
			if mistakes++; mistakes > maxBadLines {
				fmt.Fprintf(stderr, "%s: more than %d mistakes\n", f.name, maxBadLines)
				return false
			}
			fmt.Fprintf(stderr, "%s:%d: %s\n", f.name, r.line, w)
		}
		requests++
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case mistakes > 0:
		return 0, errReported
	case requests == 0:
		return 0, fmt.Errorf("%s: is empty: want a request a line, %s", f.name, lineExample)
	}
	return requests, nil
}

// each gives all lines but empty ones to do, with what is wrong with them, until it
// returns false. The error is that of reading.
func (f *requestFile) each(do func(r *request, wrong []string) bool) error {
	if _, err := f.file.Seek(f.start, io.SeekStart); err != nil {
		return fmt.Errorf("%s: %w", f.name, pathCause(err))
	}
	in := bufio.NewReaderSize(f.file, 64<<10)
	for line := 1; ; line++ {
		text, long, err := readLine(in)
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s:%d: %w", f.name, line, pathCause(err))
		}
		text = bytes.TrimSpace(text)
		if len(text) > 0 {
			r, wrong := &request{}, []string{fmt.Sprintf("longer than %d bytes: want shorter lines", maxLine)}
			if !long {
				r, wrong = parseRequest(text)
			}
			r.line = line
			if !do(r, wrong) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// readLine reads a line of any length, and keeps the first maxLine bytes of it.
// With the last line comes io.EOF.
func readLine(in *bufio.Reader) (text []byte, long bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if room := maxLine - len(text); len(bytes.TrimRight(part, "\r\n")) > room {
			part, long = part[:room], true
		}
		text = append(text, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, long, err
		}
	}
}
