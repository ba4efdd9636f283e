package telemetry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
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
	// CacheResult is what the cache did, one of the results of Metrics.Cache; "" where the
	// route has none. Saved and SavedTokens are what an answer from the cache, or of a
	// flight that was joined, did not cost: the time that the model took for it when it
	// was made, and its tokens.
	CacheResult string
	Saved       time.Duration
	SavedTokens int64
	// PolicyScope is the plan or route of Policy, as "plan:pro" or "route:chat", and
	// ShadowScope that of Shadow.
	PolicyScope, ShadowScope string
	// Refused is why neither a model nor the cache has answered, one of the Refused
	// constants; "" where one has. Own says that Weir did it itself: it took a job, told
	// of one, or served a blob.
	Refused string
	Own     bool
	// Request is the hash of what was asked for, see RequestHash; 0 where that was not
	// read. Samples says that the same request may rightly have another answer each time,
	// Stream that a stream was asked for. Estimate is what it says of its size: about
	// how long its prompt is, and the cap on its answer, 0 where it names none.
	Request         uint64
	Samples, Stream bool
	Estimate        weir.Usage
	// Attempts is how many calls were made to the upstream.
	Attempts int
	// TraceID and SpanID are those of the request's span, where it has one.
	TraceID, SpanID string
	// Error is the cause of a failure. What follows a "?" in it is replaced, because
	// errors of net/http repeat whole URLs. What others wrote, who may repeat a prompt,
	// should have gone through Brief.
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
	w        io.Writer
	level    slog.LevelVar
	settings atomic.Pointer[logSettings]
	key      [sha256.Size]byte // of redactions, as long as the process runs
	seed     maphash.Seed      // of samples, likewise
	logger   *slog.Logger
	buffers  sync.Pool // of *[]byte
	sampled  atomic.Uint64

	mu      sync.Mutex
	pending []byte // whole lines, not yet with the writer
	spare   []byte // the buffer that becomes pending next
	writing bool   // drain runs
	dropped uint64
	// Flush waits on these: closed when the lines that are pending, or those
	// that the writer has now, are written. nil while nobody waits.
	pendingDone, writingDone chan struct{}
}

// logSettings are what a log writes of requests.
type logSettings struct {
	sample sample
	redact *redaction // nil: nothing is hidden
}

// LogOptions say what a log writes.
type LogOptions struct {
	// Level is the least level that is written. Default info.
	Level slog.Level
	// Sample is the share of lines that are written of requests that went well: status
	// below 400, no error, and at most a second of waiting. All others are written. 0
	// means 1, which is all, less than 0 none. Which ones, a keyed hash of the request's
	// ID and its time says, whose key is made with the log: no client can choose.
	Sample float64
	// Redact are the members of a request's line whose values are not told. Of caller
	// and client it is a keyed hash, so that the lines of one can be found together but
	// not who it is: the key is made with the log and is not kept. Unknown names are
	// ignored. Default none.
	Redact []string
}

// NewAccessLog returns a log to w of what the options say. w is used by one goroutine
// at a time, but not by the caller's, so nobody else may write to it meanwhile.
func NewAccessLog(w io.Writer, o LogOptions) *AccessLog {
	l := &AccessLog{w: w, seed: maphash.MakeSeed()}
	_, _ = rand.Read(l.key[:]) // which cannot fail
	l.Set(o)
	l.logger = slog.New(slog.NewJSONHandler(lineWriter{l}, &slog.HandlerOptions{
		Level: &l.level, ReplaceAttr: sameTime,
	}))
	return l
}

// Set changes what is written, from the next line on. The hashes of what is redacted
// stay the same.
func (l *AccessLog) Set(o LogOptions) {
	s := &logSettings{sample: newSample(o.Sample, l.seed), redact: newRedaction(o.Redact)}
	if s.redact != nil {
		s.redact.key = l.key
	}
	l.level.Set(o.Level)
	l.settings.Store(s)
}

// Log writes e, unless its level is below the log's. It does not block and may
// be called concurrently.
func (l *AccessLog) Log(e Entry) {
	level := levelOf(e.Status)
	if e.Shed != "" { // under load these are many, and nothing is wrong with Weir
		level = min(level, slog.LevelWarn)
	}
	if level < l.level.Level() {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	settings := l.settings.Load()
	share := settings.sample.of(&e)
	if share <= 0 {
		l.sampled.Add(1)
		return
	}
	buffer, ok := l.buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
		*buffer = make([]byte, 0, 1024)
	}
	*buffer = settings.redact.appendEntry((*buffer)[:0], &e, level)
	*buffer = appendEnd(*buffer, share)
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

// Sampled returns how many lines were not written since the start, because only a
// share of them is.
func (l *AccessLog) Sampled() uint64 { return l.sampled.Load() }

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
