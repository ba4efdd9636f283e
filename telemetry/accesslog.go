package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

const (
	// maxPending is the number of bytes that wait for the writer: some ten
	// thousand lines. Beyond it lines are dropped and counted.
	maxPending = 4 << 20
	// keepPending is the size of each of the two buffers that a quiet log keeps.
	keepPending = 1 << 20
)

// Entry is one answered request. Members that are empty or 0 are left out of
// the line, except Status and Duration. Of a string at most 256 bytes are
// written.
type Entry struct {
	// Time is when the request was received; zero means now.
	Time time.Time
	// RequestID is the X-Request-Id of the answer. Caller is a weir.Caller's
	// ID, Plan its plan, Route the name of the route, Upstream the name of the
	// upstream and Target the URL that was chosen in it. A Target's user
	// information and query are not written.
	RequestID, Caller, Plan, Route, Upstream, Target string
	// Method, Path and Proto are the request's; what follows a "?" in Path is
	// not written. Client is the address behind the trusted proxies.
	Method, Path, Proto, Client string
	// Status is what the client got. It decides the level: error from 500 on,
	// warn for 429 and for what was shed, else info.
	Status int
	// BytesIn and BytesOut count the two bodies.
	BytesIn, BytesOut int64
	// Duration is the time from receiving the request to the last byte of the
	// answer, FirstByte the time to the first one.
	Duration, FirstByte time.Duration
	// QueueTime, UpstreamTime and CacheTime are the sums of a Timings.
	QueueTime, UpstreamTime, CacheTime time.Duration
	// Model is the model that answered, else the one that was asked for. Finish is
	// why it stopped, in its API's own words.
	Model, Finish string
	// Usage is what the call used, in tokens. UsageEstimated says that Weir
	// counted it, because the upstream did not say.
	Usage          weir.Usage
	UsageEstimated bool
	// Cache is the value of Cache-Status, Policy the name of the policy that
	// refused the request, Shadow the first in shadow mode that would have. Store is
	// what was done while the shared store was away: local, open or closed.
	Cache, Policy, Shadow, Store string
	// CacheKey names the answer in the cache, for purging it. Refresh says that the
	// call was made in the background, in the place of a stale answer.
	CacheKey string
	Refresh  bool
	// Shed says why the queue refused the request. Job is the job that the request
	// became, or that it is an attempt of.
	Shed, Job string
	// Error is the cause of a failure in full. What follows a "?" in it is
	// replaced, because errors of net/http repeat whole URLs.
	Error string
	// UserAgent is the request's User-Agent.
	UserAgent string
}

// AccessLog writes one line of JSON for each request, in the form of
// slog.JSONHandler. Log never waits for the writer: lines wait in memory, at
// most 4 MiB of them, and a goroutine that lives only as long as lines wait
// hands them over in order, each with one Write. While the writer hangs or
// fails, lines are dropped and counted, and requests go on.
//
// Flush before the process ends; there is nothing to close.
type AccessLog struct {
	w       io.Writer
	level   slog.Level
	logger  *slog.Logger
	buffers sync.Pool // of *[]byte

	mu      sync.Mutex
	pending []byte // whole lines, not yet with the writer
	spare   []byte // the buffer that becomes pending next
	writing bool   // drain runs
	dropped uint64
	// Flush waits on these: closed when the lines that are pending, or those
	// that the writer has now, are written. nil while nobody waits.
	pendingDone, writingDone chan struct{}
}

// NewAccessLog returns a log to w of the lines with at least the level. w is
// used by one goroutine at a time, but not by the caller's, so nobody else may
// write to it meanwhile.
func NewAccessLog(w io.Writer, level slog.Level) *AccessLog {
	l := &AccessLog{w: w, level: level}
	l.logger = slog.New(slog.NewJSONHandler(lineWriter{l}, &slog.HandlerOptions{
		Level: level, ReplaceAttr: sameTime,
	}))
	return l
}

// Log writes e, unless its level is below the log's. It does not block and may
// be called concurrently.
func (l *AccessLog) Log(e Entry) {
	level := levelOf(e.Status)
	if e.Shed != "" { // under load these are many, and nothing is wrong with Weir
		level = min(level, slog.LevelWarn)
	}
	if level < l.level {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	buffer, ok := l.buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
		*buffer = make([]byte, 0, 1024)
	}
	*buffer = appendEntry((*buffer)[:0], &e, level)
	l.enqueue(*buffer)
	l.buffers.Put(buffer)
}

// Logger returns the logger for the process's own messages. Its lines have the
// same form, level and order, and wait in the same queue: Flush before exiting
// after a fatal one. Its strings are not cut.
func (l *AccessLog) Logger() *slog.Logger { return l.logger }

// Dropped returns how many lines were lost since the start, because the writer
// failed or was too slow.
func (l *AccessLog) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Flush waits until every line that was logged before it is with the writer,
// or was dropped. Its error is that ctx ended first.
func (l *AccessLog) Flush(ctx context.Context) error {
	l.mu.Lock()
	var done chan struct{}
	switch {
	case len(l.pending) > 0:
		if l.pendingDone == nil {
			l.pendingDone = make(chan struct{})
		}
		done = l.pendingDone
	case l.writing:
		if l.writingDone == nil {
			l.writingDone = make(chan struct{})
		}
		done = l.writingDone
	}
	l.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("access log: lines are still waiting for the writer: %w", context.Cause(ctx))
	}
}

func (l *AccessLog) enqueue(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending)+len(line) > maxPending {
		l.dropped++
		return
	}
	l.pending = append(l.pending, line...)
	if !l.writing {
		l.writing = true
		go l.drain()
	}
}

// drain hands lines over until none waits.
func (l *AccessLog) drain() {
	var lines []byte
	var lost uint64
	for {
		l.mu.Lock()
		l.dropped += lost
		if l.writingDone != nil {
			close(l.writingDone)
		}
		l.writingDone, l.pendingDone = l.pendingDone, nil
		if len(l.pending) == 0 {
			// Only a quiet log gives large buffers back: a busy one would ask
			// for them again at once.
			l.pending, l.spare = small(l.pending), small(lines)
			l.writing = false
			l.mu.Unlock()
			return
		}
		if lines != nil {
			l.spare = lines[:0]
		}
		lines, l.pending, l.spare = l.pending, l.spare, nil
		l.mu.Unlock()
		lost = l.writeLines(lines)
	}
}

// small empties a buffer, or gives it up.
func small(b []byte) []byte {
	if cap(b) > keepPending {
		return nil
	}
	return b[:0]
}

// writeLines returns how many lines did not get through.
func (l *AccessLog) writeLines(lines []byte) (lost uint64) {
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		if n == 0 {
			n = len(lines)
		}
		if !write(l.w, lines[:n]) {
			lost++
		}
		lines = lines[n:]
	}
	return lost
}

// write says whether the writer took the line. A writer that panics must not
// end the process: losing the log is not worth losing the requests.
func write(w io.Writer, line []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	n, err := w.Write(line)
	return err == nil && n == len(line)
}

func levelOf(status int) slog.Level {
	switch {
	case status >= http.StatusInternalServerError:
		return slog.LevelError
	case status == http.StatusTooManyRequests:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// lineWriter is where the logger's handler writes: a whole line at a time.
type lineWriter struct{ l *AccessLog }

func (w lineWriter) Write(p []byte) (int, error) {
	w.l.enqueue(p)
	return len(p), nil
}

// sameTime gives the logger's lines the access log's form of time.
func sameTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(a.Value.Time().UTC().Format(timeLayout))
	}
	return a
}
