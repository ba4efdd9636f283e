package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/gateway"
)

const (
	// maxViewers is how many event streams there may be at once, of the API and the
	// dashboard together.
	maxViewers = 32
	// snapshotEvery is the time between two snapshots of a stream.
	snapshotEvery = time.Second
	// keepAliveAfter is how long a stream is silent before it says that it lives.
	keepAliveAfter = 15 * time.Second
	// viewerTimeout is how long a viewer may take for what is written.
	viewerTimeout = 10 * time.Second
)

// streams bounds the event streams, and ends them with the gateway.
type streams struct {
	places   chan struct{}
	draining context.Context
}

func newStreams(g *gateway.Gateway) *streams {
	return &streams{places: make(chan struct{}, maxViewers), draining: g.Draining()}
}

// streamBegins is what a stream begins with, so that a client knows that it has one.
const streamBegins = ": a stream of events\n\n"

// stream answers with an event stream: first, and then what next returns, as long as the
// client reads and the gateway is not about to stop. next waits for its event within ctx and returns
// ctx's error when there is none in time: a comment is sent then. Any other error ends
// the stream. next is not called before the last event is written, so that it decides
// what a slow reader misses. name has no line breaks, data may.
func (s *streams) stream(w http.ResponseWriter, r *http.Request, first string, next func(ctx context.Context) (name string, data []byte, err error)) error {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: viewerTimeout,
			Detail: "All 32 event streams are taken: close other viewers, or ask /api/v1/snapshot again and again."}
	}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	defer context.AfterFunc(s.draining, stop)()
	conn := http.NewResponseController(w)
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // the connection may serve others
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Accel-Buffering"] = []string{"no"} // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	var line bytes.Buffer
	line.WriteString(first)
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(viewerTimeout)) // not every writer has deadlines
		if _, err := w.Write(line.Bytes()); err != nil {
			return nil // it has left
		}
		if err := conn.Flush(); err != nil {
			return nil
		}
		within, done := context.WithTimeout(ctx, keepAliveAfter)
		name, data, err := next(within)
		done()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			line.Reset()
			line.WriteString(": still here\n\n")
		case err != nil:
			return nil
		default:
			frame(&line, name, data)
		}
	}
}

// frame writes one event in the form of event streams.
func frame(to *bytes.Buffer, name string, data []byte) {
	to.Reset()
	to.WriteString("event: ")
	to.WriteString(name)
	to.WriteByte('\n')
	for part := range bytes.Lines(data) {
		to.WriteString("data: ")
		to.Write(bytes.TrimRight(part, "\r\n"))
		to.WriteByte('\n')
	}
	to.WriteByte('\n')
}

// live shows what the gateway does.
type live struct {
	gateway *gateway.Gateway
	guard   *guard
	streams *streams

	mu   sync.Mutex
	at   time.Time // of the snapshot that last is, guarded by mu
	last []byte    // is not changed once made, guarded by mu
}

// snapshot answers with what the gateway does now.
func (l *live) snapshot(w http.ResponseWriter, _ *http.Request) error {
	data, err := l.current()
	if err != nil {
		return err
	}
	write(w, http.StatusOK, json.RawMessage(data))
	return nil
}

// current is the snapshot as JSON, written once for all who ask at about the same time.
func (l *live) current() ([]byte, error) {
	s := l.gateway.Snapshot()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil || !l.at.Equal(s.At) {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		l.at, l.last = s.At, data
	}
	return l.last, nil
}

// events answers with a snapshot each second, and with every event at once.
func (l *live) events(w http.ResponseWriter, r *http.Request) error {
	return l.streams.stream(w, r, streamBegins, l.guard.whileIn(r, l.follow()))
}

// follow returns what the stream sends next: an event that is new, or when it is time
// for one a snapshot.
func (l *live) follow() func(context.Context) (string, []byte, error) {
	var due time.Time // at once
	var waiting []gateway.EventSnapshot
	_, last := l.gateway.Events(0)
	return func(ctx context.Context) (string, []byte, error) {
		for {
			if len(waiting) > 0 {
				data, err := json.Marshal(waiting[0])
				waiting = waiting[1:]
				return "note", data, err
			}
			left := time.Until(due)
			if left <= 0 {
				due = time.Now().Add(snapshotEvery)
				data, err := l.current()
				return "snapshot", data, err
			}
			timer := time.NewTimer(left)
			select {
			case <-l.gateway.EventsAfter(last):
				waiting, last = l.gateway.Events(last)
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return "", nil, ctx.Err()
			}
			timer.Stop()
		}
	}
}
