package telemetry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// maxMarks is the number of differently named phases of one request, and
	// maxMarkName the length of a name: header fields have limits of their own.
	maxMarks    = 32
	maxMarkName = 64

	serverTiming = "Server-Timing"
)

// Timing measures a handler and tells the client in the Server-Timing field:
// "total;dur=12.3", then the phases that the handler marked with Start. It is
// a weir.Middleware.
//
// Fields go out before the body, so the values are taken at the moment when
// the answer's header is written: total is the time to the first byte, not to
// the last one, and a phase that runs on is reported with its time so far. An
// interim answer (1xx) carries nothing. What a Server-Timing field of the
// handler says stays, in front. A handler that panics or hijacks its
// connection gets no field.
func Timing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := &marks{start: time.Now()}
		tw := &timingWriter{ResponseWriter: w, marks: m}
		next.ServeHTTP(tw, r.WithContext(context.WithValue(r.Context(), marksKey{}, m)))
		// The server writes the header of a handler that wrote nothing after
		// it returns. A panic does not come here: that answer is not ours.
		tw.commit()
	})
}

// Start marks the beginning of a phase and returns the function that ends it:
//
//	defer telemetry.Start(r.Context(), "db")()
//
// Phases of one name are added up, those that overlap too, so a phase can be
// longer than the total. Goroutines may mark concurrently; ending twice counts
// once. Without Timing around the handler, with an empty name, and from the
// 33rd different name of a request on, nothing is recorded. A character that
// a Server-Timing name cannot have becomes "-"; a name ends after 64 bytes.
func Start(ctx context.Context, name string) (stop func()) {
	m, ok := ctx.Value(marksKey{}).(*marks)
	if !ok {
		return func() {}
	}
	mk := m.begin(token(name), time.Now())
	if mk == nil {
		return func() {}
	}
	var once sync.Once
	return func() { once.Do(func() { m.end(mk, time.Now()) }) }
}

type marksKey struct{}

// marks are the phases of one request.
type marks struct {
	start time.Time

	mu   sync.Mutex
	list []*mark // in the order of their first Start, at most maxMarks
}

// mark is one named phase. Its length at any time t is sum + running×t, which
// adds up any number of runs, overlapping or not, without a list of them.
type mark struct {
	name    string
	sum     time.Duration
	running int
}

// begin returns nil where the phase is not recorded.
func (m *marks) begin(name string, now time.Time) *mark {
	if name == "" {
		return nil
	}
	at := now.Sub(m.start)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mk := range m.list {
		if mk.name == name {
			mk.sum -= at
			mk.running++
			return mk
		}
	}
	if len(m.list) == maxMarks {
		return nil
	}
	mk := &mark{name: name, sum: -at, running: 1}
	m.list = append(m.list, mk)
	return mk
}

func (m *marks) end(mk *mark, now time.Time) {
	at := now.Sub(m.start)
	m.mu.Lock()
	mk.sum += at
	mk.running--
	m.mu.Unlock()
}

// header returns the field's value at a time.
func (m *marks) header(now time.Time) string {
	at := now.Sub(m.start)
	m.mu.Lock()
	defer m.mu.Unlock()
	b := appendMetric(make([]byte, 0, 32+24*len(m.list)), "total", at)
	for _, mk := range m.list {
		b = append(b, ", "...)
		b = appendMetric(b, mk.name, mk.sum+time.Duration(mk.running)*at)
	}
	return string(b)
}

// token makes a name that RFC 9110, section 5.6.2, allows.
func token(name string) string {
	if len(name) > maxMarkName {
		name = name[:maxMarkName]
	}
	for i := 0; i < len(name); i++ {
		if !tokenByte(name[i]) {
			b := []byte(name)
			for ; i < len(b); i++ {
				if !tokenByte(b[i]) {
					b[i] = '-'
				}
			}
			return string(b)
		}
	}
	return name
}

func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// timingWriter adds the field before the header goes out. It judges nothing
// else: every call is passed on, a second WriteHeader too, so that the server
// behaves and complains as it does without us.
type timingWriter struct {
	http.ResponseWriter
	marks *marks
	done  bool
}

// commit adds the field, once. It replaces the slice in the header map instead
// of appending to it: a cached answer's header values may be shared.
func (w *timingWriter) commit() {
	if w.done {
		return
	}
	w.done = true
	h := w.Header()
	values := make([]string, 0, 2)
	for _, v := range h[serverTiming] {
		if v != "" {
			values = append(values, v)
		}
	}
	// One line, because many clients read only the first one of a field.
	h[serverTiming] = []string{strings.Join(append(values, w.marks.header(time.Now())), ", ")}
}

// WriteHeader passes interim answers on as they are; 101 is a final one.
func (w *timingWriter) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.commit()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *timingWriter) Write(p []byte) (int, error) {
	w.commit()
	return w.ResponseWriter.Write(p)
}

func (w *timingWriter) WriteString(s string) (int, error) {
	w.commit()
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom keeps sendfile: io.Copy finds the server's own ReadFrom below.
func (w *timingWriter) ReadFrom(r io.Reader) (int64, error) {
	w.commit()
	return io.Copy(w.ResponseWriter, r)
}

// Flush is for handlers that ask for an http.Flusher.
func (w *timingWriter) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController asks for. A flush writes the
// header, so the field must be there before it.
func (w *timingWriter) FlushError() error {
	w.commit()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the server's writer.
func (w *timingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
