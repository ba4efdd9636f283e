package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// Serve answers requests for /jobs/{id}, /jobs/{id}/result and /jobs/{id}/events, as c
// sees them: another caller's job is none. An error is a *weir.Problem of which nothing
// is written yet.
//
// Where an answer breaks off after its beginning, Serve panics with
// http.ErrAbortHandler, so that the client sees that it is not whole.
func (s *Jobs) Serve(w http.ResponseWriter, r *http.Request, c weir.Caller) error {
	id, part, ok := splitPath(r.URL.Path)
	if !ok {
		return noSuchPath()
	}
	allowed := []string{http.MethodGet, http.MethodHead}
	if part == "" {
		allowed = append(allowed, http.MethodDelete)
	}
	if err := checkMethod(r, allowed); err != nil {
		return err
	}
	if c.ID == "" {
		return noSuchJob(nil) // the empty caller of a Store sees everybody's
	}
	if r.Method == http.MethodDelete {
		return s.serveCancel(w, r, c.ID, id)
	}
	j, err := s.o.Store.Get(r.Context(), c.ID, id)
	if err != nil {
		return s.storeProblem("Get", err)
	}
	switch part {
	case "result":
		return s.ServeResult(w, r, j)
	case "events":
		return s.serveEvents(w, r, j)
	}
	s.writeView(w, r, http.StatusOK, j)
	return nil
}

// ServeAccepted answers that j runs later: 202 with its place in Location, when to ask
// in Retry-After, and its View. Fields that are set already, such as
// Preference-Applied, stay.
func (s *Jobs) ServeAccepted(w http.ResponseWriter, r *http.Request, j *Job) {
	w.Header()["Location"] = []string{pathOf(j.ID)}
	s.writeView(w, r, http.StatusAccepted, j)
}

func (s *Jobs) serveCancel(w http.ResponseWriter, r *http.Request, caller, id string) error {
	j, err := s.cancel(r.Context(), caller, id)
	if err != nil {
		return s.storeProblem("", err) // cancel has reported it
	}
	s.writeView(w, r, statusOfCancel(j), j)
	return nil
}

// statusOfCancel is 202 while j is being stopped.
func statusOfCancel(j *Job) int {
	if j.State.Ended() {
		return http.StatusOK
	}
	return http.StatusAccepted
}

// splitPath takes /jobs/{id}, /jobs/{id}/result and /jobs/{id}/events apart.
func splitPath(path string) (id, part string, ok bool) {
	path, ok = strings.CutPrefix(path, jobsPath)
	if !ok {
		return "", "", false
	}
	id, part, below := strings.Cut(path, "/")
	if below && part != "result" && part != "events" {
		return "", "", false
	}
	return id, part, isID(id)
}

// isID reports whether id looks like one of ours: a UUID in lower case.
func isID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

func noSuchPath() *weir.Problem {
	return &weir.Problem{Status: http.StatusNotFound, RetryAfter: weir.Never,
		Detail: "There is nothing at this path: want /jobs/ID, /jobs/ID/result or /jobs/ID/events."}
}

func noSuchJob(err error) *weir.Problem {
	return &weir.Problem{Status: http.StatusNotFound, RetryAfter: weir.Never, Err: err,
		Detail: "There is no such job: it was never there, it expired long ago, or it belongs to another caller."}
}

func checkMethod(r *http.Request, allowed []string) error {
	for _, m := range allowed {
		if r.Method == m {
			return nil
		}
	}
	list := strings.Join(allowed, ", ")
	return &weir.Problem{Status: http.StatusMethodNotAllowed, RetryAfter: weir.Never,
		Detail: "This path takes " + list + ".", Header: http.Header{"Allow": {list}}}
}

// storeAgain is when to ask again while the store is away.
const storeAgain = time.Second

// storeProblem says what an error of the Store means to a client, and reports it under
// op unless that is empty.
func (s *Jobs) storeProblem(op string, err error) *weir.Problem {
	if errors.Is(err, ErrNotFound) {
		return noSuchJob(err)
	}
	if op != "" && !errors.Is(err, context.Canceled) {
		s.o.Observe(Event{Kind: EventStoreError, Op: op, Err: err})
	}
	return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: storeAgain, Err: err,
		Detail: "The jobs cannot be looked up right now. They are kept and go on. Try again in a second."}
}

// writeView answers with j's View. While it has not ended, Retry-After says when to
// ask again.
func (s *Jobs) writeView(w http.ResponseWriter, r *http.Request, status int, j *Job) {
	if !j.State.Ended() {
		w.Header()["Retry-After"] = []string{strconv.Itoa(askAgain(s.now().Sub(j.Created)))}
	}
	writeJSON(w, r, status, s.view(r.Context(), j))
}

// view is j's View with its place in the line. A place that cannot be found out is null.
func (s *Jobs) view(ctx context.Context, j *Job) View {
	if j.State != Available && j.State != Retryable {
		return s.viewAt(j, 0)
	}
	ahead, err := s.o.Store.Ahead(ctx, j.ID, s.now())
	if err != nil {
		return s.viewAt(j, 0)
	}
	return s.viewAt(j, ahead+1)
}

// viewAt is j.View, without the result that has expired and is not swept yet.
func (s *Jobs) viewAt(j *Job, position int64) View {
	v := j.View(position)
	if v.Result != nil && s.expired(j) {
		v.Result = nil
	}
	return v
}

// askAgain is in how many seconds to ask for a job of an age: a tenth of it, so that
// whoever polls is late by a tenth at most, within 1 to 10 s.
func askAgain(age time.Duration) int {
	return int(min(max(age/10, time.Second), 10*time.Second) / time.Second)
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil { // of our own structs: cannot happen
		text, status = []byte("{}"), http.StatusInternalServerError
	}
	text = append(text, '\n')
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	h["Cache-Control"] = []string{"private, no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(text) // a client that has left needs no answer
	}
}

// expired reports whether the result of an ended job has gone, or counts as gone: it is
// no longer given out from Expires on, whenever it is swept.
func (s *Jobs) expired(j *Job) bool {
	return !j.Expires.IsZero() && !s.now().Before(j.Expires) || j.State == Completed && j.Result == nil
}

func gone(err error) *weir.Problem {
	return &weir.Problem{Status: http.StatusGone, RetryAfter: weir.Never, Err: err,
		Detail: "The result has expired and is deleted. Send the request again, without its Idempotency-Key or with a new one."}
}

// failureOf is the answer for a discarded job that never got one.
func failureOf(j *Job) *weir.Problem {
	p := &weir.Problem{Status: http.StatusBadGateway, RetryAfter: weir.Never, Detail: "The job failed."}
	if f := j.Failure; f != nil {
		if f.Status >= 400 && f.Status <= 599 {
			p.Status = f.Status
		}
		if f.Detail != "" {
			p.Detail = f.Detail
		}
	}
	return p
}

// ServeResult answers with j's answer as the direct call would have had it: status,
// header and body, or a link to the body where Options.Offload gives one. Where there is
// no answer the error is a *weir.Problem: 409 for a job that was cancelled, 410 for a
// result that has expired, and why it failed for a discarded one. A job that has not
// ended is answered by ServeAccepted.
//
// Added is what keeps the answer from others: X-Content-Type-Options: nosniff, and
// Cache-Control: private unless it says that, or no-store, by itself. What shared
// caches alone obey is removed.
func (s *Jobs) ServeResult(w http.ResponseWriter, r *http.Request, j *Job) error {
	switch {
	case !j.State.Ended():
		s.ServeAccepted(w, r, j)
		return nil
	case j.State == Cancelled:
		return &weir.Problem{Status: http.StatusConflict, RetryAfter: weir.Never,
			Detail: "The job was cancelled: it has no result."}
	case s.expired(j):
		return gone(nil)
	case j.Result == nil:
		return failureOf(j)
	}
	if s.o.Offload != nil {
		if done, err := s.o.Offload(w, r, j); done || err != nil {
			return err
		}
	}
	return s.sendResult(w, r, j)
}

func (s *Jobs) sendResult(w http.ResponseWriter, r *http.Request, j *Job) error {
	var body io.ReadCloser
	if j.Result.Blob != "" && r.Method != http.MethodHead {
		b, err := s.openBlob(r.Context(), j.Result.Blob)
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		body = b
	}
	setResultHeader(w.Header(), j, r.Method)
	w.WriteHeader(statusOf(j.Result))
	switch {
	case r.Method == http.MethodHead || bodyless(j.Request.Method, j.Result.Status):
	case body == nil:
		_, _ = w.Write(j.Result.Body) // a client that has left needs no answer
	default:
		s.copyBlob(w, body, j)
	}
	return nil
}

func (s *Jobs) openBlob(ctx context.Context, key string) (io.ReadCloser, error) {
	if s.o.Blobs == nil {
		return nil, &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: storeAgain,
			Detail: "The result is kept where this instance cannot read it.", Err: errors.New("job: Options.Blobs is nil: the result is in the blobs")}
	}
	b, err := s.o.Blobs.Open(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, gone(err)
	case err != nil:
		return nil, &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: storeAgain, Err: err,
			Detail: "The result cannot be read right now. It is kept. Try again in a second."}
	}
	return b, nil
}

// copyBlob sends exactly as many bytes as the header has promised.
func (s *Jobs) copyBlob(w io.Writer, body io.Reader, j *Job) {
	in := &reader{r: body}
	if _, err := io.CopyN(w, in, j.Result.Bytes); err != nil {
		if in.err != nil {
			s.o.Log.Error("job: a result broke off while it was sent", "job", j.ID, "blob", j.Result.Blob, "error", in.err)
		}
		panic(http.ErrAbortHandler) // the client would take what it has for the whole
	}
}

// reader remembers why reading ended, to tell it from an error of writing.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil {
		r.err = err
	}
	return n, err
}

func statusOf(r *Result) int {
	if r.Status < 200 || r.Status > 999 { // net/http panics at less than 100, and 1xx is no answer
		return http.StatusBadGateway
	}
	return r.Status
}

// setResultHeader sets the fields of j's answer, over those that are there.
func setResultHeader(h http.Header, j *Job, method string) {
	for name, values := range j.Result.Header {
		if !ofConnection(name) {
			h[name] = append([]string(nil), values...)
		}
	}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	if !isPrivate(h["Cache-Control"]) {
		h["Cache-Control"] = []string{"private"}
	}
	for _, name := range []string{"Cdn-Cache-Control", "Surrogate-Control", "Expires"} {
		delete(h, name)
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	switch {
	case !bodyless(j.Request.Method, j.Result.Status):
		h["Content-Length"] = []string{strconv.FormatInt(j.Result.Bytes, 10)}
	case method != http.MethodHead: // the length of what HEAD does not send, if any
		delete(h, "Content-Length")
	}
}

// isPrivate reports whether a Cache-Control keeps an answer out of shared caches.
func isPrivate(fields []string) bool {
	for _, field := range fields {
		for directive := range strings.SplitSeq(field, ",") {
			switch strings.ToLower(strings.TrimSpace(directive)) {
			case "private", "no-store":
				return true
			}
		}
	}
	return false
}

// ofConnection reports whether a field belongs to the connection that an answer came
// by: it must not be repeated on another.
func ofConnection(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Te", "Trailer", "Upgrade":
		return true
	}
	return false
}
