package cache

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/inferweir/weir/internal/sse"
)

// maxFrames bounds the events of one stream that are told apart. Of a longer one
// the rest is replayed in one piece.
const maxFrames = 1 << 16

// arrivals say when which part of a stream had come.
type arrivals []Frame

// add notes that the stream has end bytes at the time at.
func (a arrivals) add(end int, at time.Duration) arrivals {
	if len(a) == maxFrames { // its end is the last one's
		a[len(a)-1] = Frame{end, at}
		return a
	}
	return append(a, Frame{end, at})
}

// frames cuts a whole stream into its events, each with the time at which its last
// byte had come.
func (a arrivals) frames(h http.Header, body []byte) []Frame {
	var ends []int
	switch kind, _, _ := mime.ParseMediaType(h.Get("Content-Type")); kind {
	case "text/event-stream":
		ends = eventEnds(body)
	default:
		for i, c := range body {
			if c == '\n' && len(ends) < maxFrames-1 {
				ends = append(ends, i+1)
			}
		}
	}
	if n := len(ends); n == 0 || ends[n-1] != len(body) {
		ends = append(ends, len(body))
	}
	frames, next := make([]Frame, len(ends)), 0
	for i, end := range ends {
		for next < len(a)-1 && a[next].End < end {
			next++
		}
		frames[i].End = end
		if len(a) > 0 {
			frames[i].At = a[next].At
		}
	}
	return frames
}

// eventEnds are where the events of an event stream end.
func eventEnds(body []byte) []int {
	var s sse.Splitter
	var ends []int
	at := 0
	// In pieces, so that its buffers stay small.
	const piece = 64 << 10
	take := func() {
		for len(ends) < maxFrames-1 {
			f, ok := s.Next()
			if !ok {
				return
			}
			at += len(f.Raw)
			ends = append(ends, at)
		}
	}
	for rest := body; len(rest) > 0 && len(ends) < maxFrames-1; {
		n := min(piece, len(rest))
		if _, err := s.Write(rest[:n]); err != nil {
			break
		}
		rest = rest[n:]
		take()
	}
	s.End()
	take()
	return ends
}

// replay writes the events of e one by one, at once or with the pauses between
// them that they came with.
func (e *Entry) replay(ctx context.Context, w http.ResponseWriter, original bool) error {
	out := http.NewResponseController(w)
	began, start := time.Now(), 0
	var timer *time.Timer
	for _, f := range e.Frames {
		if wait := f.At - time.Since(began); original && wait > 0 {
			if timer == nil {
				timer = time.NewTimer(wait)
				defer timer.Stop()
			} else {
				timer.Reset(wait)
			}
			select {
			case <-timer.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if _, err := w.Write(e.Body[start:f.End]); err != nil {
			return err
		}
		start = f.End
		if err := out.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	return nil
}

// follow writes a running answer as it comes. An answer that tells its reader that
// it broke off ends like a whole one.
func (r *liveReader) follow(ctx context.Context, w http.ResponseWriter) error {
	defer r.close()
	out := http.NewResponseController(w)
	for {
		p, err := r.next(ctx)
		if errors.Is(err, io.EOF) || errors.Is(err, ErrTold) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		if err := out.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
}
