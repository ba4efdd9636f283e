package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options are what Jobs work with. Store, Run and Rooms must be there.
type Options struct {
	// Store keeps the jobs. Blobs keep answers above MaxInline; without them such an
	// answer is the failure of its attempt, and is not tried again.
	Store Store
	Blobs Blobs

	// Run does the work of a job. r is the stored request, without credentials; its
	// URL has a Path and a RawQuery and no host. ctx carries the *Attempt, and ends
	// when the job is cancelled or expires, when its lease is lost, and when Jobs are
	// closed for longer than the attempt had time to end. Run must heed it; its
	// answer's Body is closed once it is read.
	Run func(ctx context.Context, r *http.Request) (*http.Response, error)
	// Rooms says where jobs may be claimed now. It is asked at every claim, by one
	// goroutine, and may call Running to take off what runs already.
	Rooms func() []Room
	// Ended is told of the end of a job by whoever ended it, once, after the store has
	// it; j has the final Account. A crash between the two leaves it untold.
	Ended func(ctx context.Context, j *Job)

	// Attempts are how often a job is tried. Default 3, at most 100.
	Attempts int
	// ResultTTL is how long a result is kept. Default 24h. DiscardedTTL is the same for
	// what a discarded job leaves. Default 7 times ResultTTL.
	ResultTTL, DiscardedTTL time.Duration
	// Lease is how long a job waits for another instance after its own has died. It is
	// renewed three times in that time. Default 30s, at least 1s.
	Lease time.Duration
	// Owner tells the instances apart. Default: random.
	Owner string
	// Bounds are how much may wait. Defaults: 200,000 jobs, 20,000 of one caller, 4 GiB.
	Bounds Bounds

	// Offload may answer GET of a result that is in the Blobs by a link to it; done is
	// false where it wants the body sent instead. nil: never.
	Offload func(w http.ResponseWriter, r *http.Request, j *Job) (done bool, err error)
	// Webhooks say how callers are told of ends. nil: not at all.
	Webhooks *WebhookOptions

	// Now is the clock that the instances of a Store agree on. Default time.Now.
	Now func() time.Time
	// Observe is told what happens. It must be quick, and is called by several
	// goroutines at once. Default: nobody.
	Observe func(Event)
	// Log gets what an operator has to look at. Default: discarded.
	Log *slog.Logger
}

// Room is where jobs may run: a route, and how many more of it may be claimed now; of
// whom none may, and how many of one caller at a time (0: any number).
type Room struct {
	Route     string
	Max       int
	Except    []string
	PerCaller int
}

// maxRunning is how many attempts of one instance there may be, whatever the rooms say:
// each has a goroutine and the body of a request.
const maxRunning = 4096

// maxAccount is how large a Job's Account may be.
const maxAccount = 64 << 10

// Jobs runs the jobs of a Store at one instance. Several instances may share a Store.
type Jobs struct {
	o   Options
	log *slog.Logger
	// wakeup has room for one: who wakes while a claim is due has been heard.
	wakeup chan struct{}
	// flush wakes the appender of output.
	flush chan struct{}

	// The loops that begin work end with loops; those that keep it alive (leases,
	// output) with keep, after the last attempt; I/O in flight with hard.
	loops, keep, hard             context.Context
	stopLoops, stopKeep, stopHard context.CancelFunc
	begun, kept, attempts         sync.WaitGroup
	store                         contact
	// unsure belongs to the claim loop: a claim failed, and may have been made.
	unsure bool

	mu      sync.Mutex
	started bool
	closed  bool
	running map[Lease]*attempt
	routes  map[string]int
	watches map[string]map[chan struct{}]struct{}
	unkept  int // claims that Close could not give back
	hooks   *webhooks
	open    openStreams // of GET /jobs/{id}/events
}

// New makes Jobs of o. It starts nothing: before Start, jobs can be submitted, found
// and served, and none is run. The error names the option that is wrong.
func New(o Options) (*Jobs, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("job: Options.Store is nil: want where jobs are kept")
	case o.Run == nil:
		return nil, errors.New("job: Options.Run is nil: want what runs a job")
	case o.Rooms == nil:
		return nil, errors.New("job: Options.Rooms is nil: want where jobs may run")
	case o.Attempts < 0 || o.Attempts > 100:
		return nil, fmt.Errorf("job: Options.Attempts: %d: want 1 to 100, or 0 for 3", o.Attempts)
	case o.ResultTTL < 0 || o.DiscardedTTL < 0:
		return nil, fmt.Errorf("job: Options.ResultTTL: %v, DiscardedTTL: %v: must not be negative", o.ResultTTL, o.DiscardedTTL)
	case o.Lease < 0 || o.Lease > 0 && o.Lease < time.Second:
		return nil, fmt.Errorf("job: Options.Lease: %v: want at least 1s, or 0 for 30s", o.Lease)
	case o.Bounds.Jobs < 0 || o.Bounds.CallerJobs < 0 || o.Bounds.Bytes < 0:
		return nil, fmt.Errorf("job: Options.Bounds: %+v: must not be negative", o.Bounds)
	}
	o.setDefaults()
	s := &Jobs{
		o:       o,
		log:     o.Log,
		wakeup:  make(chan struct{}, 1),
		flush:   make(chan struct{}, 1),
		running: make(map[Lease]*attempt),
		routes:  make(map[string]int),
		watches: make(map[string]map[chan struct{}]struct{}),
	}
	if o.Webhooks != nil {
		hooks, err := newWebhooks(*o.Webhooks)
		if err != nil {
			return nil, err
		}
		s.hooks = hooks
	}
	s.hard, s.stopHard = context.WithCancel(context.Background())
	s.keep, s.stopKeep = context.WithCancel(s.hard)
	s.loops, s.stopLoops = context.WithCancel(s.hard)
	return s, nil
}

func (o *Options) setDefaults() {
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	if o.ResultTTL == 0 {
		o.ResultTTL = 24 * time.Hour
	}
	if o.DiscardedTTL == 0 {
		o.DiscardedTTL = 7 * o.ResultTTL
	}
	if o.Lease == 0 {
		o.Lease = 30 * time.Second
	}
	if o.Owner == "" {
		o.Owner = uuid.NewString()
	}
	if o.Bounds.Jobs == 0 {
		o.Bounds.Jobs = 200_000
	}
	if o.Bounds.CallerJobs == 0 {
		o.Bounds.CallerJobs = 20_000
	}
	if o.Bounds.Bytes == 0 {
		o.Bounds.Bytes = 4 << 30
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Ended == nil {
		o.Ended = func(context.Context, *Job) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Start begins to claim and run jobs, to end those of instances that died (every 5 s),
// to drop what has expired (every minute), and to deliver webhooks. A second call, or
// one after Close, does nothing.
func (s *Jobs) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return
	}
	s.started = true
	s.begun.Go(func() { s.claimLoop(s.loops) })
	s.begun.Go(func() { s.rescueLoop(s.loops) })
	s.begun.Go(func() { s.sweepLoop(s.loops) })
	if s.hooks != nil {
		s.begun.Go(func() { s.deliverWebhooks(s.loops) })
	}
	s.kept.Go(func() { s.renewLoop(s.keep) })
	s.kept.Go(func() { s.appendLoop(s.keep) })
}

// giveBackTime is how long Close tries to give claims back after its context is over.
const giveBackTime = 5 * time.Second

// Close claims nothing more and waits for the attempts that run. When ctx is over it
// stops those that are left and gives their claims back, uncounted, for another
// instance to take at once; what the store does not hear of within 5 s is taken when
// its lease runs out, and is the error. Every goroutine has ended when it returns.
func (s *Jobs) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stopLoops()

	ended := make(chan struct{})
	go func() {
		s.begun.Wait() // the last claim may still begin attempts
		s.attempts.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.stopAll(errClosing)
		late := time.AfterFunc(giveBackTime, s.stopHard)
		<-ended
		late.Stop()
	}
	s.stopKeep()
	s.kept.Wait()
	s.stopHard()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unkept > 0 {
		return fmt.Errorf("job: %d running jobs could not be ended or given back: their leases run out within %v", s.unkept, s.o.Lease)
	}
	return nil
}

// Wake says that there may be room or work: jobs are claimed now, not within a second.
// It never blocks.
func (s *Jobs) Wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// Running is how many jobs of a route this instance runs, from the claim until the store
// has what came of it.
func (s *Jobs) Running(route string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.routes[route]
}

// EventKind is what an Event tells.
type EventKind string

// What Jobs tell. Ended is any end: see its State. Lost is an attempt whose lease somebody
// else has. Away is a failure of the store to answer.
const (
	EventSubmitted   EventKind = "submitted"
	EventClaimed     EventKind = "claimed"
	EventEnded       EventKind = "ended"
	EventRetried     EventKind = "retried"
	EventGivenBack   EventKind = "given_back"
	EventRescued     EventKind = "rescued"
	EventLost        EventKind = "lost"
	EventDelivered   EventKind = "webhook_delivered"
	EventUndelivered EventKind = "webhook_failed"
	EventStoreError  EventKind = "store_error"
)

// Event is something that happened to a job, or to the store.
type Event struct {
	Kind EventKind
	// ID, Caller and Route are the job's; "" where the event is about none.
	ID, Caller, Route string
	// State and Attempt are those that the job has then.
	State   State
	Attempt int
	// Wait is from the creation to the last claim, Run from then to the end: both where
	// Kind is EventEnded, Wait also where it is the EventClaimed of attempt 1.
	Wait, Run time.Duration
	// Op is the method of the Store that failed, Err why: for EventStoreError. Err is
	// also why an attempt or a delivery failed.
	Op  string
	Err error
}

// watch returns a channel that gets a value when something changed about a job at this
// instance: claimed, output kept, ended. Changes at other instances are not told. stop
// must be called.
func (s *Jobs) watch(id string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[id] == nil {
		s.watches[id] = make(map[chan struct{}]struct{})
	}
	s.watches[id][c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches[id], c)
		if len(s.watches[id]) == 0 {
			delete(s.watches, id)
		}
	}
}

// notify wakes the watches of a job.
func (s *Jobs) notify(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watches[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// ended tells everybody of the end of j. Whoever has ended it calls this once, after the
// store has said that it is so.
func (s *Jobs) ended(ctx context.Context, j *Job) {
	e := Event{Kind: EventEnded, ID: j.ID, Caller: j.Caller, Route: j.Route, State: j.State, Attempt: j.Attempt}
	if j.Started.IsZero() {
		e.Wait = j.Finished.Sub(j.Created)
	} else {
		e.Wait, e.Run = j.Started.Sub(j.Created), j.Finished.Sub(j.Started)
	}
	s.o.Observe(e)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	defer s.notify(j.ID)
	defer s.recovered("Options.Ended", j.ID)
	s.o.Ended(ctx, j)
}

// recovered keeps a panic of somebody else's function from ending the process. It is deferred.
func (s *Jobs) recovered(what, id string) {
	if v := recover(); v != nil {
		s.log.Error("job: a panic was stopped", "in", what, "job", id, "panic", fmt.Sprint(v), "stack", stack())
	}
}

// expires is until when what a job leaves is kept, after an end now.
func (s *Jobs) expires(end State, now time.Time) time.Time {
	if end == Discarded {
		return now.Add(s.o.DiscardedTTL)
	}
	return now.Add(s.o.ResultTTL)
}

// now is the time, in the whole microseconds that a Store keeps.
func (s *Jobs) now() time.Time { return s.o.Now().UTC().Truncate(time.Microsecond) }

// cancel ends a job that waits, and stops one that runs: here at once, elsewhere at the
// next renewal of its lease. caller "" may cancel all. The error is the Store's, which
// is asked twice: it may have ended the job and lost its answer.
func (s *Jobs) cancel(ctx context.Context, caller, id string) (*Job, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	now := s.now()
	expires := s.expires(Cancelled, now)
	j, ended, err := s.o.Store.Cancel(ctx, caller, id, now, expires)
	if s.answered("Cancel", err); away(err) && pause(ctx, createRetry) == nil {
		j, _, err = s.o.Store.Cancel(ctx, caller, id, now, expires)
		s.answered("Cancel", err)
		ended = err == nil && j.State == Cancelled && j.Finished.Equal(now)
	}
	switch {
	case err != nil:
		return nil, err
	case ended:
		s.ended(ctx, j)
	case !j.State.Ended():
		s.stop(id, errCancelled)
	}
	return j, nil
}
