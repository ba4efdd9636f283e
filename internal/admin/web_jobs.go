package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/gateway"
)

// shownJobs is how many jobs a page of the list has.
const shownJobs = 50

func (d *dashboard) jobsPage() page {
	return page{
		path: "/jobs", title: "Jobs", template: "jobs",
		about:   "Requests that run later: what waits, what runs, and how it ended.",
		regions: []string{"counts", "list"},
		data:    func(v *view) (any, error) { return d.jobsOf(v) },
	}
}

func (d *dashboard) jobPage() page {
	return page{
		path: "/jobs/job", title: "Job", template: "job", within: "/jobs",
		regions: []string{"job"},
		data:    func(v *view) (any, error) { return d.jobOf(v) },
		posts: map[string]func(http.ResponseWriter, *http.Request) error{
			"/jobs/cancel": d.cancelJob,
			"/jobs/retry":  d.retryJob,
		},
	}
}

// jobStates are all, in the order of a job's life.
func jobStates() []string {
	return []string{"available", "running", "retryable", "completed", "cancelled", "discarded"}
}

// jobRow is a job as the API of operators shows it.
type jobRow struct {
	ID, State, Caller, Plan, Route string
	Position                       int64 `json:"queue_position"` // 0: not known
	Progress                       struct{ Bytes, Events int64 }
	Attempt                        int
	MaxAttempts                    int `json:"max_attempts"`
	Created                        time.Time
	Started, Finished, Expires     *time.Time
	NotBefore                      *time.Time `json:"not_before"`
	LeaseUntil                     *time.Time `json:"lease_until"`
	CancelRequested                bool       `json:"cancel_requested"`
	Owner, Webhook                 string
	Request                        struct{ Method, URI string }
	Status                         int
	Result                         *string
	Error                          *struct {
		Status int
		Detail string
	}
}

// Href is the page of the job.
func (j jobRow) Href() string { return "/jobs/job?id=" + url.QueryEscape(j.ID) }

// Address is what was asked for, without the query, which may have secrets.
func (j jobRow) Address() string { return plainURL(j.Request.URI) }

// Class is how its state looks.
func (j jobRow) Class() string {
	switch j.State {
	case "running", "completed":
		return "good"
	case "retryable":
		return "warn"
	case "discarded":
		return "bad"
	}
	return "still"
}

// MayCancel and MayRetry say what can be done with it.
func (j jobRow) MayCancel() bool {
	return !j.CancelRequested && (j.State == "available" || j.State == "running" || j.State == "retryable")
}
func (j jobRow) MayRetry() bool { return j.State == "discarded" }

// jobsData is what the list shows.
type jobsData struct {
	None                 bool // there is no database, and so no jobs
	State, Caller, Route string
	Before               string
	Filtered             bool
	States, Routes       []string
	Ended                []endCount
	Jobs                 []jobRow
	Newest, Older        string // links; "" where there are none
}

// endCount is how many jobs ended in a state at this instance.
type endCount struct {
	ID, Title, Help string
	N               int64
}

// endsOf are the counts of a snapshot, the good ends first.
func endsOf(s *gateway.JobsSnapshot) []endCount {
	if s == nil {
		return nil
	}
	return []endCount{
		{"completed", "Completed", "Jobs that ended with an answer, at this instance since its start.", s.Ended["completed"]},
		{"cancelled", "Cancelled", "Jobs that their caller or an operator has ended, at this instance since its start.", s.Ended["cancelled"]},
		{"discarded", "Discarded", "Jobs whose last attempt failed, or that waited too long, at this instance since its start. They can be tried again.", s.Ended["discarded"]},
	}
}

func (d *dashboard) jobsOf(v *view) (jobsData, error) {
	if d.gateway.JobsAPI() == nil {
		return jobsData{None: true}, nil
	}
	query := v.Request.URL.Query()
	data := jobsData{
		State: query.Get("state"), Caller: strings.TrimSpace(query.Get("caller")), Route: query.Get("route"), Before: query.Get("before"),
		States: jobStates(), Ended: endsOf(v.Snapshot.Jobs),
	}
	data.Filtered = data.State != "" || data.Caller != "" || data.Route != ""
	for _, r := range d.gateway.Config().Routes {
		data.Routes = append(data.Routes, r.Name)
	}
	if data.Route != "" && !slices.Contains(data.Routes, data.Route) {
		data.Routes = append(data.Routes, data.Route) // it had jobs before a reload took it away
	}
	if data.Before != "" && strings.HasPrefix(v.Request.URL.Path, livePath) {
		return data, nil // only the first page of the list moves
	}
	ask := url.Values{"max": {strconv.Itoa(shownJobs + 1)}}
	for name, value := range map[string]string{"state": data.State, "caller": data.Caller, "route": data.Route, "before": data.Before} {
		if value != "" {
			ask.Set(name, value)
		}
	}
	var found struct{ Jobs []jobRow }
	if err := d.askJobs(v.Request, http.MethodGet, "?"+ask.Encode(), &found); err != nil {
		return jobsData{}, err
	}
	ask.Del("max")
	ask.Del("before")
	if data.Before != "" {
		data.Newest = "/jobs?" + ask.Encode()
	}
	if len(found.Jobs) > shownJobs {
		found.Jobs = found.Jobs[:shownJobs]
		ask.Set("before", found.Jobs[shownJobs-1].ID)
		data.Older = "/jobs?" + ask.Encode()
	}
	data.Jobs = found.Jobs
	return data, nil
}

func (d *dashboard) jobOf(v *view) (jobRow, error) {
	var j jobRow
	id := v.Request.FormValue("id")
	v.Own = url.Values{"id": {id}}
	err := d.askJobs(v.Request, http.MethodGet, jobPath(id), &j)
	if err == nil {
		v.named("Job of " + j.Caller)
	}
	return j, err
}

// jobPath is where the API has a job.
func jobPath(id string) string { return "/" + cmp.Or(url.PathEscape(id), "none") }

func (d *dashboard) cancelJob(w http.ResponseWriter, r *http.Request) error {
	var j jobRow
	if err := d.askJobs(r, http.MethodDelete, jobPath(r.PostFormValue("id")), &j); err != nil {
		return err
	}
	switch j.State {
	case "cancelled":
		return d.see(w, r, j.Href(), "job-cancelled")
	case "completed", "discarded":
		return d.see(w, r, j.Href(), "job-over")
	}
	return d.see(w, r, j.Href(), "job-stopping")
}

func (d *dashboard) retryJob(w http.ResponseWriter, r *http.Request) error {
	var j jobRow
	if err := d.askJobs(r, http.MethodPost, jobPath(r.PostFormValue("id"))+"/retry", &j); err != nil {
		return err
	}
	return d.see(w, r, j.Href(), "job-retried")
}

// askJobs asks the part of the API that shows jobs, in this process. The error is the
// problem that it answers with.
func (d *dashboard) askJobs(r *http.Request, method, path string, into any) error {
	api := d.gateway.JobsAPI()
	if api == nil {
		return problem(http.StatusConflict, "There are no jobs: they need a database in the configuration, for example database: {url: sqlite:weir.db}.")
	}
	ctx, stop := context.WithTimeout(r.Context(), auditWait)
	defer stop()
	asked, err := http.NewRequestWithContext(ctx, method, "/api/v1/jobs"+path, nil)
	if err != nil {
		return problem(http.StatusBadRequest, "This is no address of a job.")
	}
	asked.RemoteAddr = r.RemoteAddr
	got := answer{header: http.Header{}, status: http.StatusOK}
	api.ServeHTTP(&got, asked)
	if got.status == http.StatusServiceUnavailable && method == http.MethodGet {
		return errAway(nil, "Jobs are kept, and shown here as soon as it is back.")
	}
	if got.status >= http.StatusBadRequest {
		var p struct{ Title, Detail string }
		_ = json.Unmarshal(got.body.Bytes(), &p) // without words the status says it
		return &weir.Problem{Status: got.status, Title: p.Title, Detail: cmp.Or(p.Detail, http.StatusText(got.status))}
	}
	if err := json.Unmarshal(got.body.Bytes(), into); err != nil {
		return fmt.Errorf("dashboard: the answer for jobs: %w", err)
	}
	return nil
}

// answer keeps what a handler answers to a request of this process.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// jobNote is what has been done with a job, "" for what is none of these.
func jobNote(done string) string {
	switch done {
	case "job-cancelled":
		return "The job is cancelled."
	case "job-stopping":
		return "The job is asked to stop: whoever runs it does so within seconds."
	case "job-over":
		return "The job had ended before: it stays as it is."
	case "job-retried":
		return "The job waits for one attempt more."
	}
	return ""
}
