package job

import "time"

// View is a job as its caller sees it, and as webhooks tell it: one JSON object. What
// there is not is null; only error is left out where nothing has failed.
type View struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// QueuePosition counts from 1, which is the next to run. It is null where the job
	// does not wait, or where it is not known.
	QueuePosition *int64   `json:"queue_position"`
	Progress      Progress `json:"progress"`
	// Attempt counts from 1; 0 before the first.
	Attempt  int        `json:"attempt"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started"`
	Finished *time.Time `json:"finished"`
	// Expires is when the result goes, or, before the job has ended, when it is given up.
	Expires *time.Time `json:"expires"`
	// Result is the path of the answer: null until there is one, and again when it
	// has expired.
	Result *string `json:"result"`
	// Error is why the last attempt failed, also while another is to come.
	Error *Failure `json:"error,omitempty"`
}

// View returns j as its caller sees it. position is its place among those who wait,
// from 1 (Store.Ahead and one); 0 says that it is not known. It is shown only for a job
// that waits.
func (j *Job) View(position int64) View {
	v := View{
		ID: j.ID, State: j.State, Progress: j.Progress, Attempt: j.Attempt, Created: j.Created.UTC(),
		Started: timeOrNull(j.Started), Finished: timeOrNull(j.Finished), Expires: timeOrNull(j.Expires),
		Error: j.Failure,
	}
	if position > 0 && (j.State == Available || j.State == Retryable) {
		v.QueuePosition = &position
	}
	if j.Result != nil && (j.State == Completed || j.State == Discarded) {
		path := pathOf(j.ID) + "/result"
		v.Result = &path
	}
	return v
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// pathOf is where the job is for its caller.
func pathOf(id string) string { return jobsPath + id }

const jobsPath = "/jobs/"
