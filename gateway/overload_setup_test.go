package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// before serves a configuration in front of servers with these handlers: T0 in it is
// the URL of the first, and so on. KEYS is the list of the users' keys.
func before(t *testing.T, yaml string, targets ...http.Handler) *instance {
	t.Helper()
	for i, h := range targets {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		yaml = strings.ReplaceAll(yaml, "T"+strconv.Itoa(i), s.URL)
	}
	return launch(t, strings.ReplaceAll(yaml, "KEYS", keys()))
}

func keys() string {
	all := make([]string, users)
	for i := range all {
		all[i] = fmt.Sprintf("{caller: u%d, key: weir_u%d}", i, i)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// narrow is an upstream with one place, in front of which nobody's patience ends.
const narrow = `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], dialect: DIALECT, concurrency: 1, queue: {max: 64, max_wait: 1h, keepalive_after: 0s}, retry: {attempts: 1}, breaker: {failures: 0}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`

// desk is an upstream that the test serves by hand: every call waits for it.
type desk struct{ visits chan *visit }

// visit is a call.
type visit struct {
	t     *testing.T
	r     *http.Request
	body  string
	steps chan step
	over  chan struct{} // closed: the handler has returned
	left  bool          // before it was answered; to be read when it is over
}

type step struct {
	do   func(http.ResponseWriter)
	done chan struct{}
}

func newDesk() *desk { return &desk{make(chan *visit, 4096)} }

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{r: r, body: taken(r), steps: make(chan step), over: make(chan struct{})}
	defer close(v.over)
	d.visits <- v
	for {
		select {
		case s, more := <-v.steps:
			if !more {
				return
			}
			func() {
				defer close(s.done) // a step may break the connection off
				s.do(w)
			}()
		case <-r.Context().Done():
			v.left = true
			return
		}
	}
}

// next is the next call.
func (d *desk) next(t *testing.T) *visit {
	t.Helper()
	v := after(t, "a call of the upstream", d.visits)
	v.t = t
	return v
}

// nobody fails if there is a call.
func (d *desk) nobody(t *testing.T) {
	t.Helper()
	select {
	case v := <-d.visits:
		t.Errorf("the upstream was asked for %s %s", v.r.URL, v.body)
	default:
	}
}

// does takes a step of the answer.
func (v *visit) does(do func(http.ResponseWriter)) {
	v.t.Helper()
	s := step{do, make(chan struct{})}
	select {
	case v.steps <- s:
		after(v.t, "a part of the answer", s.done)
	case <-v.over:
		v.t.Errorf("the call of %s was given up", v.r.URL)
	case <-time.After(eventually):
		v.t.Fatal("the upstream's handler is stuck")
	}
}

// says sends a part of the answer.
func (v *visit) says(part string) {
	v.t.Helper()
	v.does(func(w http.ResponseWriter) { say(w, part) })
}

// streams begins a stream of events with these.
func (v *visit) streams(part string) {
	v.t.Helper()
	v.does(func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/event-stream")
		say(w, part)
	})
}

// breaks ends the connection within the answer.
func (v *visit) breaks() {
	v.t.Helper()
	v.does(func(http.ResponseWriter) { panic(http.ErrAbortHandler) })
}

// ends completes the answer, after these last words.
func (v *visit) ends(part string) {
	v.t.Helper()
	if part != "" {
		v.says(part)
	}
	close(v.steps)
	after(v.t, "the end of the call", v.over)
}

// leaves waits until this side has given the call up.
func (v *visit) leaves() {
	v.t.Helper()
	after(v.t, "the end of a call that was given up", v.over)
	if !v.left {
		v.t.Errorf("the call of %s was answered", v.r.URL)
	}
}

// request is one that is on its way.
type request struct {
	t      *testing.T
	leave  context.CancelFunc
	answer chan answer
}

// later sends a request and does not wait.
func (w *instance) later(method, path, body string, header ...string) *request {
	ctx, leave := context.WithCancel(w.t.Context())
	q := &request{w.t, leave, make(chan answer, 1)}
	go func() {
		defer leave()
		q.answer <- w.sendCtx(ctx, method, path, body, header...)
	}()
	return q
}

// got is its answer.
func (q *request) got() answer {
	q.t.Helper()
	return after(q.t, "an answer", q.answer)
}

// of is the key of a user, as fields of a request.
func of(user int) []string { return []string{"X-Api-Key", "weir_u" + strconv.Itoa(user)} }

// total is the sum of a metric over all its labels that contain those.
func (w *weir) total(name string, labels ...string) (sum float64) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.gateway.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
lines:
	for line := range strings.Lines(rec.Body.String()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(series, label) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			w.t.Error(line, err)
		}
		sum += v
	}
	return sum
}

// shows waits until a metric has this value.
func (w *weir) shows(want float64, name string, labels ...string) {
	w.t.Helper()
	deadline, pause := time.After(eventually), time.Millisecond
	for w.total(name, labels...) != want {
		select {
		case <-time.After(pause):
			pause = min(2*pause, 100*time.Millisecond)
		case <-deadline:
			w.t.Fatalf("%s%q is %v, want %v", name, labels, w.total(name, labels...), want)
		}
	}
}

// waits waits until so many requests wait for a place.
func (w *weir) waits(n int) {
	w.t.Helper()
	w.shows(float64(n), "weir_admission_waiting")
}

// isIdle waits until nobody waits, and no place is taken.
func (w *weir) isIdle() {
	w.t.Helper()
	w.waits(0)
	w.shows(0, "weir_admission_running")
	w.shows(0, "weir_upstream_requests_in_flight")
}

// queued sends requests one after the other, each when the one before waits.
func (w *instance) queued(header []string, paths ...string) []*request {
	w.t.Helper()
	all := make([]*request, len(paths))
	for i, path := range paths {
		already := w.total("weir_admission_waiting")
		all[i] = w.later("GET", path, "", header...)
		w.shows(already+1, "weir_admission_waiting")
	}
	return all
}
