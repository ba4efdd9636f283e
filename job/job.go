// Package job runs HTTP requests later: they wait durably in a Store, are claimed by
// one of the instances that share it, and their answers are kept to be fetched.
//
// A request runs at least once, and ends exactly once. Whoever runs it holds a lease
// that it renews; a lease that runs out lets another take over, under the next fence.
// What is written back carries the fence and is refused when it has moved, so an
// instance that was believed dead cannot overwrite what another has done
// (M. Kleppmann, How to do distributed locking, 2016).
package job

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// State is where a job is in its life.
type State string

// A job is Available until it is claimed, Running while somebody has its lease,
// Retryable between a failure and the next attempt. Completed, Cancelled and Discarded
// are its ends: with an answer, by its caller, and after the last failed attempt.
const (
	Available State = "available"
	Running   State = "running"
	Retryable State = "retryable"
	Completed State = "completed"
	Cancelled State = "cancelled"
	Discarded State = "discarded"
)

// Ended reports whether nothing follows s.
func (s State) Ended() bool { return s == Completed || s == Cancelled || s == Discarded }

// Job is one request that runs later, as a Store keeps it. Times are UTC and whole
// microseconds; the zero time is "not yet".
type Job struct {
	// ID is a UUIDv7: it sorts by creation, and nobody guesses it.
	ID string
	// Caller is who may see it: the ID of a weir.Caller. Plan is their plan when they
	// sent it.
	Caller, Plan string
	// Route is where it runs: jobs wait in one line for each.
	Route string
	// IdempotencyKey is the caller's own name for it, "" for none: the same key of a
	// caller is the same job for as long as that is kept.
	IdempotencyKey string
	// RequestHash stands for the request, to tell whether the same key came with
	// another one.
	RequestHash [32]byte
	// Request is what is run. Only what Claim returns, and Get with a full Job, has
	// its Body.
	Request Request
	// Account belongs to whoever submitted the job and runs it: what is reserved and
	// spent for it. It is changed at the end of each attempt. At most 64 KiB.
	Account []byte

	State State
	// Attempt counts from 1 with the first claim; a claim that was given back is not
	// counted. MaxAttempts is how many there may be.
	Attempt, MaxAttempts int
	// NotBefore is when an Available or Retryable job may be claimed.
	NotBefore time.Time
	// Fence grows with every claim.
	Fence int64
	// Owner holds the lease of a Running job, until LeaseUntil.
	Owner      string
	LeaseUntil time.Time
	// CancelRequested says that a Running job is to be stopped.
	CancelRequested bool

	Progress Progress
	// Result is the answer. It is nil until there is one, and again when it has
	// expired. A discarded job has the last attempt's, if that had one.
	Result *Result
	// Failure is why the last attempt failed; nil where none has.
	Failure *Failure

	Created, Started, Finished time.Time
	// Expires is when the result goes. Before the job has ended it is when the job
	// itself is given up.
	Expires time.Time

	// Webhook is told of the end; "" for nobody.
	Webhook string
}

// Request is an HTTP request without its credentials, which are never stored.
type Request struct {
	Method string
	// URI is the path and the query.
	URI    string
	Host   string
	Header http.Header
	Body   []byte
	// ID is the X-Request-Id of who submitted it.
	ID string
}

// Progress is how much of the answer there is.
type Progress struct {
	// Bytes of the body, and events where it is a stream.
	Bytes  int64 `json:"bytes"`
	Events int64 `json:"events"`
}

// Result is an answer. Its body is in Body, or, where it is larger than MaxInline, in
// the Blobs under the key Blob.
type Result struct {
	Status int
	Header http.Header
	Body   []byte
	Blob   string
	Bytes  int64
}

// MaxInline is how large an answer's body may be that is kept in the Store itself.
const MaxInline = 64 << 10

// Failure is why an attempt failed, in words for the caller.
type Failure struct {
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// Chunk is a piece of the output of a running job: whole events of a stream, as the
// direct call would have got them.
type Chunk struct {
	ID      string
	Fence   int64
	Attempt int
	// Seq counts the chunks of a job from 1, over all attempts, without gaps. The
	// Store gives it.
	Seq  int64
	Data []byte
}

// Lease is the right to run a job, and to write back what came of it.
type Lease struct {
	ID    string
	Fence int64
}

// Claim asks for jobs to run.
type Claim struct {
	// Owner is who will run them, Until when the leases run out.
	Owner string
	Until time.Time
	// Route is the line that they are taken from, Max how many at most.
	Route string
	Max   int
	// Except are callers who are passed over this time. PerCaller is how many jobs one
	// caller is given at most; 0 is no bound.
	Except    []string
	PerCaller int
}

// Renewal says what became of leases that were renewed.
type Renewal struct {
	// Lost are those that somebody else has, or that have ended: stop, and write
	// nothing back.
	Lost []string
	// Cancelled are those whose callers want them stopped.
	Cancelled []string
}

// Outcome is the end of an attempt.
type Outcome struct {
	// State is what follows: an end; Retryable, for another attempt at NotBefore; or
	// Available, which gives the claim back: the attempt is not counted.
	State     State
	NotBefore time.Time
	Result    *Result
	Failure   *Failure
	// Account replaces the job's, if it is not nil.
	Account  []byte
	Progress Progress
	// Expires is when an end is forgotten: its result, at least.
	Expires time.Time
}

// Filter chooses jobs for List. What is empty chooses all.
type Filter struct {
	Caller, Route string
	State         State
	// Before is an ID: only older jobs. Max is how many, newest first: 100 for 0, at
	// most 1000.
	Before string
	Max    int
}

// Line is what waits for a route.
type Line struct {
	Route   string
	Waiting int64 // available and retryable
	Running int64
}

// Delivery is a webhook that is due. Attempt counts from 1.
type Delivery struct {
	Job     Job // without the bodies of its request and result
	Attempt int
}

// Bounds are how much may wait in a Store.
type Bounds struct {
	// Jobs that have not ended: all, and of one caller. Bytes of their requests.
	Jobs, CallerJobs int64
	Bytes            int64
}

// The errors of a Store. Any other says that it could not be asked.
var (
	// ErrNotFound says that there is no such job, or that it is another caller's.
	ErrNotFound = errors.New("job: there is no such job")
	// ErrFull says that a bound of what may wait is reached.
	ErrFull = errors.New("job: too many jobs wait")
	// ErrLost says that the fence has moved or the job has ended: nothing was written.
	ErrLost = errors.New("job: the lease is lost")
	// ErrConflict says that the idempotency key came with another request before.
	ErrConflict = errors.New("job: the idempotency key belongs to another request")
)

// Store keeps jobs. Every method that changes something has done so durably when it
// returns without an error: what it wrote survives the loss of power. now is the time
// of whoever calls; instances that share a Store must agree on it to a few seconds.
type Store interface {
	// Create keeps a new job. Where the caller has one with the same key and the same
	// request, that is returned, and created is false; with another request the error
	// is ErrConflict. j needs ID, Caller, Route, Request, MaxAttempts, Created,
	// NotBefore and Expires; its State is Available.
	Create(ctx context.Context, j *Job, b Bounds) (kept *Job, created bool, err error)
	// FindKey returns the caller's job with an idempotency key, or ErrNotFound.
	FindKey(ctx context.Context, caller, key string) (*Job, error)
	// Get returns a job without the body of its request. caller "" is whoever may see
	// all of them. Otherwise another's job is ErrNotFound.
	Get(ctx context.Context, caller, id string) (*Job, error)
	// List returns jobs without the bodies of requests and results, newest first.
	List(ctx context.Context, f Filter) ([]*Job, error)
	// Ahead is how many jobs are to be claimed before this one, if none come: callers
	// take turns, and each one's jobs go in the order of their creation. 0 for one that does not wait.
	Ahead(ctx context.Context, id string, now time.Time) (int64, error)
	// Lines counts what waits and runs, by route.
	Lines(ctx context.Context) ([]Line, error)

	// Claim gives out jobs that may run now, the callers by turns: of those who have
	// any, first whoever was given one longest ago. With it the jobs are Running,
	// under the next fence, and the attempt is counted.
	Claim(ctx context.Context, c Claim, now time.Time) ([]*Job, error)
	// Renew prolongs leases that owner still has, also ones that have run out, as long
	// as nobody else has taken them, and writes down their progress.
	Renew(ctx context.Context, leases []Lease, until time.Time, progress []Progress) (Renewal, error)
	// Append keeps chunks of output, in their order. Those whose fence has moved are
	// dropped. Beyond MaxOutput bytes of a job it keeps no more.
	Append(ctx context.Context, chunks []Chunk) error
	// Output returns chunks after the one with seq, at most maxBytes in all, but at
	// least one if there is one.
	Output(ctx context.Context, id string, seq int64, maxBytes int) ([]Chunk, error)
	// Finish ends an attempt. It is ErrLost where the fence has moved.
	Finish(ctx context.Context, l Lease, o Outcome, now time.Time) error
	// Cancel ends a job that waits, and asks for the end of one that runs. One that
	// has ended stays as it is. It returns the job as it is then.
	Cancel(ctx context.Context, caller, id string, now, expires time.Time) (j *Job, ended bool, err error)
	// Retry makes a discarded job Available again, with one attempt more and an empty
	// Account: what it had was settled at its end. A webhook that was due is not any more, and
	// what was leased of it is lost: its next end is told by the attempts that follow.
	Retry(ctx context.Context, id string, now, expires time.Time) (*Job, error)
	// Rescue ends the attempts whose lease has run out: Retryable at once, Discarded
	// after the last one, Cancelled where that was asked for; and discards those that
	// have waited past Expires. It returns the jobs that have ended by it, at most max.
	Rescue(ctx context.Context, now, expires time.Time, max int) ([]*Job, error)
	// Sweep drops the results, outputs and requests of jobs that expired before now,
	// and forgets those that ended and expired before forget, but for those with a webhook that
	// is still due, which stay for WebhookKept more. It returns the keys of the Blobs that
	// nobody needs any more; they are told again until Sweep is called after Dropped.
	Sweep(ctx context.Context, now, forget time.Time, max int) (blobs []string, err error)
	// Dropped says that blobs are gone.
	Dropped(ctx context.Context, blobs []string) error

	// Deliveries leases webhooks that are due, and counts the attempt.
	Deliveries(ctx context.Context, t Turn, now time.Time) ([]Delivery, error)
	// Delivered ends a webhook's attempt: it is not due any more, or again at next,
	// if that is not the zero time.
	Delivered(ctx context.Context, id string, attempt int, next time.Time) error
}

// MaxOutput is how much output of one job is kept to be replayed.
const MaxOutput = 16 << 20

// Blobs keep what is too large for a Store.
type Blobs interface {
	// Save keeps what r gives until a time and returns its key once it is durable.
	Save(ctx context.Context, m BlobMeta, r io.Reader) (key string, err error)
	// Open reads it. The error is ErrNotFound where it is gone.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Delete removes it; what is not there is removed.
	Delete(ctx context.Context, key string) error
}

// BlobMeta says whose a blob is, what is in it, and until when it is needed.
type BlobMeta struct {
	Caller, Type string
	Until        time.Time
}
