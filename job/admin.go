package job

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// adminPath is where operators find jobs.
const adminPath = "/api/v1/jobs"

// adminView is a job as operators see it. It never has bodies, nor fields of the request
// or the answer, nor more of the webhook than its host: those may be secrets.
type adminView struct {
	View
	Caller          string       `json:"caller"`
	Plan            string       `json:"plan"`
	Route           string       `json:"route"`
	MaxAttempts     int          `json:"max_attempts"`
	NotBefore       *time.Time   `json:"not_before"`
	Fence           int64        `json:"fence"`
	Owner           string       `json:"owner"`
	LeaseUntil      *time.Time   `json:"lease_until"`
	CancelRequested bool         `json:"cancel_requested"`
	Request         adminRequest `json:"request"`
	Status          int          `json:"status,omitempty"` // of the answer
	Webhook         string       `json:"webhook,omitempty"`
}

type adminRequest struct {
	Method string `json:"method"`
	URI    string `json:"uri"`
}

type adminLine struct {
	Route   string `json:"route"`
	Waiting int64  `json:"waiting"`
	Running int64  `json:"running"`
}

func adminViewOf(j *Job, v View) adminView {
	a := adminView{
		View: v, Caller: j.Caller, Plan: j.Plan, Route: j.Route, MaxAttempts: j.MaxAttempts,
		NotBefore: timeOrNull(j.NotBefore), Fence: j.Fence, Owner: j.Owner, LeaseUntil: timeOrNull(j.LeaseUntil),
		CancelRequested: j.CancelRequested, Request: adminRequest{j.Request.Method, j.Request.URI},
	}
	if j.Result != nil {
		a.Status = j.Result.Status
	}
	if u, err := url.Parse(j.Webhook); err == nil {
		a.Webhook = u.Host
	}
	return a
}

// Admin answers operators, who see everybody's jobs: GET /api/v1/jobs (with state,
// caller, route, before and max), GET and DELETE (cancel) of /api/v1/jobs/{id}, and POST
// /api/v1/jobs/{id}/retry for a discarded one. It asks for no credentials: whoever
// mounts it does.
func (s *Jobs) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.serveAdmin(w, r)
		if err == nil {
			return
		}
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			p = &weir.Problem{Err: err}
		}
		p.ServeHTTP(w, r)
	})
}

func (s *Jobs) serveAdmin(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, adminPath)
	if !ok {
		return noAdminPath()
	}
	if path == "" || path == "/" {
		if err := checkMethod(r, []string{http.MethodGet, http.MethodHead}); err != nil {
			return err
		}
		return s.adminList(w, r)
	}
	id, part, below := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if path[0] != '/' || below && part != "retry" {
		return noAdminPath()
	}
	if !isID(id) {
		return noSuchJob(nil)
	}
	if below {
		if err := checkMethod(r, []string{http.MethodPost}); err != nil {
			return err
		}
		return s.adminRetry(w, r, id)
	}
	if err := checkMethod(r, []string{http.MethodGet, http.MethodHead, http.MethodDelete}); err != nil {
		return err
	}
	return s.adminJob(w, r, id)
}

func noAdminPath() *weir.Problem {
	return &weir.Problem{Status: http.StatusNotFound, RetryAfter: weir.Never,
		Detail: "There is nothing at this path: want /api/v1/jobs, /api/v1/jobs/ID or /api/v1/jobs/ID/retry."}
}

func (s *Jobs) adminList(w http.ResponseWriter, r *http.Request) error {
	f, err := filterOf(r.URL.RawQuery)
	if err != nil {
		return err
	}
	found, err := s.o.Store.List(r.Context(), f)
	if err != nil {
		return s.storeProblem("List", err)
	}
	lines, err := s.o.Store.Lines(r.Context())
	if err != nil {
		return s.storeProblem("Lines", err)
	}
	answer := struct {
		Jobs  []adminView `json:"jobs"`
		Lines []adminLine `json:"lines"`
	}{make([]adminView, 0, len(found)), make([]adminLine, 0, len(lines))}
	for _, j := range found {
		answer.Jobs = append(answer.Jobs, adminViewOf(j, s.viewAt(j, 0))) // a place for each would ask the store for each
	}
	for _, l := range lines {
		answer.Lines = append(answer.Lines, adminLine(l))
	}
	writeJSON(w, r, http.StatusOK, answer)
	return nil
}

// adminJob shows a job, or cancels it first.
func (s *Jobs) adminJob(w http.ResponseWriter, r *http.Request, id string) error {
	if r.Method == http.MethodDelete {
		j, err := s.cancel(r.Context(), "", id)
		if err != nil {
			return s.adminProblem("", err)
		}
		if j.State != Completed && j.State != Discarded { // which it leaves as they are
			s.o.Log.Info("job cancelled by an operator", "job", id, "caller", j.Caller, "remote", r.RemoteAddr)
		}
		s.writeAdminView(w, r, statusOfCancel(j), j)
		return nil
	}
	j, err := s.o.Store.Get(r.Context(), "", id)
	if err != nil {
		return s.adminProblem("Get", err)
	}
	s.writeAdminView(w, r, http.StatusOK, j)
	return nil
}

// adminProblem is storeProblem for operators, to whom all jobs belong.
func (s *Jobs) adminProblem(op string, err error) error {
	if !errors.Is(err, ErrNotFound) {
		return s.storeProblem(op, err)
	}
	return &weir.Problem{Status: http.StatusNotFound, RetryAfter: weir.Never, Err: err,
		Detail: "There is no such job: it was never there, or it expired long ago."}
}

func (s *Jobs) writeAdminView(w http.ResponseWriter, r *http.Request, status int, j *Job) {
	writeJSON(w, r, status, adminViewOf(j, s.view(r.Context(), j)))
}

// adminRetry gives a discarded job one attempt more.
func (s *Jobs) adminRetry(w http.ResponseWriter, r *http.Request, id string) error {
	j, err := s.o.Store.Get(r.Context(), "", id)
	if err != nil {
		return s.adminProblem("Get", err)
	}
	switch {
	case j.State != Discarded:
		return notDiscarded(j.State, nil)
	case s.expired(j):
		return &weir.Problem{Status: http.StatusGone, RetryAfter: weir.Never, Detail: "The job has expired, and its request is deleted: it cannot run again."}
	}
	now := s.now()
	j, err = s.o.Store.Retry(r.Context(), id, now, now.Add(max(s.o.ResultTTL, leastLife)))
	switch {
	case errors.Is(err, ErrLost), errors.Is(err, ErrConflict):
		return notDiscarded("", err) // somebody was quicker
	case err != nil:
		return s.adminProblem("Retry", err)
	}
	s.o.Log.Info("discarded job tried again by an operator", "job", id, "caller", j.Caller, "remote", r.RemoteAddr)
	s.notify(id)
	s.Wake()
	s.writeAdminView(w, r, http.StatusAccepted, j)
	return nil
}

func notDiscarded(state State, err error) *weir.Problem {
	detail := "Only a discarded job can be tried again."
	if state != "" {
		detail = "The job is " + string(state) + ": only a discarded one can be tried again."
	}
	return &weir.Problem{Status: http.StatusConflict, RetryAfter: weir.Never, Detail: detail, Err: err}
}

// filterOf reads the query of a list. The error says which parameter is wrong.
func filterOf(query string) (Filter, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return Filter{}, badQuery("The query is malformed: want state, caller, route, before and max, for example ?state=discarded&max=20.")
	}
	var f Filter
	for name, all := range values {
		value := all[0]
		if len(all) > 1 {
			return Filter{}, badQuery(name + " is there more than once.")
		}
		switch name {
		case "caller":
			f.Caller = value
		case "route":
			f.Route = value
		case "state":
			f.State = State(value)
			err = checkState(f.State)
		case "before":
			if f.Before = value; value != "" && !isID(value) {
				err = badQuery("before: " + strconv.Quote(value) + ": want the id of a job: only older ones are listed.")
			}
		case "max":
			f.Max, err = maxOf(value)
		default:
			err = badQuery(strconv.Quote(name) + ": there is no such parameter: want state, caller, route, before or max.")
		}
		if err != nil {
			return Filter{}, err
		}
	}
	return f, nil
}

func badQuery(detail string) error {
	return &weir.Problem{Status: http.StatusBadRequest, RetryAfter: weir.Never, Detail: detail}
}

func checkState(s State) error {
	if s == "" || slices.Contains([]State{Available, Running, Retryable, Completed, Cancelled, Discarded}, s) {
		return nil
	}
	return badQuery("state: " + strconv.Quote(string(s)) + ": want available, running, retryable, completed, cancelled or discarded.")
}

func maxOf(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 1000 {
		return 0, badQuery("max: " + strconv.Quote(value) + ": want 1 to 1000.")
	}
	return n, nil
}
