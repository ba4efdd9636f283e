package job

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

// How event streams of jobs behave.
const (
	maxStreams       = 1000 // of an instance: each has a goroutine, and asks the store
	maxCallerStreams = 20

	keepAlive = 15 * time.Second
	// pollLeast is how soon the store is asked again after something was new, pollMost
	// the same after a while without news. Changes at this instance are told at once.
	pollLeast, pollMost = 250 * time.Millisecond, time.Second
	// batchSize is how much output a stream has in memory, unless one chunk is larger.
	batchSize = 64 << 10
	// writeTime is how long a client may take to read an event.
	writeTime = time.Minute
)

// openStreams counts the event streams that are open. The zero value is ready.
type openStreams struct {
	mu       sync.Mutex
	all      int
	byCaller map[string]int // at most maxStreams
}

// add counts one more of a caller, or refuses it.
func (s *openStreams) add(caller string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.byCaller[caller] >= maxCallerStreams:
		return &weir.Problem{Status: http.StatusTooManyRequests, RetryAfter: 5 * time.Second,
			Detail: "20 event streams of yours are open, which is the most there may be. Close one, or ask for the state of the job now and then."}
	case s.all >= maxStreams:
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: 5 * time.Second,
			Detail: "Too many event streams are open. Ask for the state of the job now and then, or try again in 5 seconds."}
	}
	if s.byCaller == nil {
		s.byCaller = map[string]int{}
	}
	s.all++
	s.byCaller[caller]++
	return nil
}

func (s *openStreams) remove(caller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byCaller[caller]--; s.byCaller[caller] == 0 {
		delete(s.byCaller, caller)
	}
}

// stream is one GET of /jobs/{id}/events: the state, output and later states in the order
// in which they are seen, and the end. Of a job that has ended it is the output and the
// end: a client that leaves when it reads the end has all.
type stream struct {
	s   *Jobs
	out *eventWriter
	job *Job

	at    position // behind the last output event that the client has
	fence int64    // of the attempt that this was from; 0 before any

	// What the last state event said.
	told        State
	toldAttempt int
}

// serveEvents answers GET of /jobs/{id}/events until the job has ended, the client has
// left or s is closed. j is the job as it is now.
func (s *Jobs) serveEvents(w http.ResponseWriter, r *http.Request, j *Job) error {
	if err := s.open.add(j.Caller); err != nil {
		return err
	}
	defer s.open.remove(j.Caller)
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"private, no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["X-Accel-Buffering"] = []string{"no"} // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	st := &stream{s: s, out: newEventWriter(w), job: j, at: parsePosition(r.Header.Get("Last-Event-ID"))}
	defer st.out.close()
	st.run(r.Context())
	return nil
}

// run sends what there is, then waits for more.
func (st *stream) run(ctx context.Context) {
	changed, stop := st.s.watch(st.job.ID)
	defer stop()
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	wait := pollLeast
	poll := time.NewTimer(wait)
	defer poll.Stop()
	news, done := st.step(ctx) // the job was read by whoever began the stream
	for !done {
		if wait = min(2*wait, pollMost); news {
			wait = pollLeast
		}
		poll.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-st.s.loops.Done():
			return // the client comes back to another instance, with Last-Event-ID
		case <-alive.C:
			news, done = false, st.out.comment() != nil
			continue
		case <-changed:
		case <-poll.C:
		}
		var ok bool
		if ok, done = st.look(ctx); ok {
			news, done = st.step(ctx)
		}
	}
}

// look reads the job again. ok is false if that was not possible, and over is true
// where it never will be.
func (st *stream) look(ctx context.Context) (ok, over bool) {
	j, err := st.s.o.Store.Get(ctx, st.job.Caller, st.job.ID)
	switch {
	case err == nil:
		st.job = j
		return true, false
	case errors.Is(err, ErrNotFound):
		return false, true
	}
	return false, ctx.Err() != nil // away: the stream goes on when it is back
}

// step sends what is new. The job was read before its output is, so that all output of a
// job that has ended is sent before its end.
func (st *stream) step(ctx context.Context) (news, done bool) {
	ended := st.job.State.Ended()
	if !ended && (st.job.State != st.told || st.job.Attempt != st.toldAttempt) {
		st.told, st.toldAttempt, news = st.job.State, st.job.Attempt, true
		if err := st.tell(stateEvent{View: st.s.view(ctx, st.job)}); err != nil {
			return true, true
		}
	}
	if st.job.Attempt > 0 && !(ended && st.s.expired(st.job)) {
		more, err := st.sendOutput(ctx)
		if errors.Is(err, errStoreAway) {
			return more, false
		}
		if err != nil {
			return true, true
		}
		news = news || more
	}
	if ended {
		// Output of earlier attempts alone is not that of the answer.
		void := st.job.State == Completed && st.fence != 0 && st.fence != st.job.Fence
		_ = st.tell(stateEvent{View: st.s.view(ctx, st.job), Reset: void}) // it was the last
	}
	return news, ended
}

// errStoreAway says that output could not be read now.
var errStoreAway = errors.New("job: the store is away")

// sendOutput sends all output that there is behind st.at.
func (st *stream) sendOutput(ctx context.Context) (news bool, err error) {
	for {
		chunks, err := st.s.o.Store.Output(ctx, st.job.ID, st.at.before(), batchSize)
		if err != nil {
			if ctx.Err() != nil {
				return news, ctx.Err()
			}
			st.s.o.Observe(Event{Kind: EventStoreError, ID: st.job.ID, Op: "Output", Err: err})
			return news, errStoreAway
		}
		was := st.at
		for _, c := range chunks {
			if err := st.sendChunk(ctx, c); err != nil {
				return true, err
			}
		}
		if st.at == was {
			return news, nil
		}
		if err := st.out.flush(); err != nil {
			return true, err
		}
		news = true
	}
}

// sendChunk sends the events of c that the client does not have.
func (st *stream) sendChunk(ctx context.Context, c Chunk) error {
	if c.Seq < st.at.seq || c.Seq == st.at.seq && st.at.whole {
		return nil
	}
	skip := 0
	if c.Seq == st.at.seq { // the client has the beginning of it
		skip, st.fence = st.at.index, c.Fence
	}
	if st.fence != 0 && c.Fence != st.fence {
		if err := st.tellReset(ctx, c.Attempt); err != nil {
			return err
		}
	}
	st.fence = c.Fence
	index := 0
	err := eachEvent(c.Data, func(event []byte) error {
		if index++; index <= skip {
			return nil
		}
		return st.out.event(position{seq: c.Seq, index: index}, event)
	})
	st.at = position{seq: c.Seq, index: index, whole: true}
	return err
}

// stateEvent is the data of a weir.job event.
type stateEvent struct {
	View
	// Reset says that the output so far is void: another attempt begins it anew.
	Reset bool `json:"reset,omitempty"`
}

// tellReset says that the output of an attempt begins, and that what was sent of others is
// void.
func (st *stream) tellReset(ctx context.Context, attempt int) error {
	v := st.s.view(ctx, st.job)
	v.State, v.Attempt, v.QueuePosition, v.Finished, v.Result, v.Error = Running, attempt, nil, nil, nil, nil
	return st.tell(stateEvent{View: v, Reset: true})
}

func (st *stream) tell(e stateEvent) error {
	text, err := json.Marshal(e)
	if err != nil { // of our own structs: cannot happen
		return err
	}
	return st.out.state(text)
}
