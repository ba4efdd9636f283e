package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// Why a Pool has done nothing, found in its errors by errors.Is.
var (
	// ErrPoolFull says that the queue was full, or the wait over.
	ErrPoolFull = errors.New("admission: all workers are busy")
	// ErrPoolClosed says that Close was called.
	ErrPoolClosed = errors.New("admission: the pool is closed")
)

// The defaults of PoolOptions.
const (
	DefaultPoolQueue   = 1000
	DefaultPoolMaxWait = 10 * time.Second
)

// PoolOptions describe a Pool.
type PoolOptions struct {
	// Workers is how many pieces of work run at once. 0 means one less than
	// runtime.GOMAXPROCS has at the time, and at least 1. More than GOMAXPROCS finish
	// nothing sooner, see Pool; where the work also waits, for a disk say, they may.
	Workers int
	// Queue is how many pieces of work may wait together. 0 means 1000; less than 0
	// means none: what cannot run at once is refused.
	Queue int
	// MaxWait is the longest that a piece of work waits; then it is refused. 0 means 10s.
	MaxWait time.Duration
	// Observe, if not nil, is told of every piece of work, at its end or when it will
	// not run. It is called by the goroutine that asked for the work, must not block,
	// and must be safe for concurrent use.
	Observe func(PoolEvent)
}

// PoolEvent is a piece of work that is over.
type PoolEvent struct {
	// Caller is the ID of who asked for it, "" where that is not known.
	Caller string
	// Result is "done" where it ran, whatever it returned, "full" where it was refused,
	// "closed" where the pool was closed, and "left" where its context ended first.
	Result string
	// Waited is the time in the queue, Ran the time on a worker.
	Waited, Ran time.Duration
}

// PoolStats is what a Pool does at a moment.
type PoolStats struct {
	// Workers is how many there are, Running how many of them work.
	Workers, Running int
	// Waiting is how many pieces of work wait, of Callers callers.
	Waiting, Callers int
	// Service is the average time that a piece of work takes, the latest counting the
	// most; 0 as long as none has ended.
	Service time.Duration
}

// A Pool bounds how much work that burns the CPU goes on at once in this process,
// such as a model that runs in it, a picture being scaled or a tokenizer, so that
// whatever waits for the network stays quick: other requests, health checks, streams.
//
// Go runs as many goroutines at once as GOMAXPROCS says. One that computes keeps its
// thread until the scheduler takes it away, after 10 ms; one that was woken by the
// network stands behind all that want to run. So beside k goroutines that compute,
// each of its steps waits up to k/GOMAXPROCS x 10 ms, and a request has several.
// Without a bound, k is the number of clients who ask. More than GOMAXPROCS at once
// helps nobody: they take the CPU from each other, and all are done late instead of
// some early. With one less, a thread is free at any time for what only needs a
// moment. The price is that thread's work while there is nothing else to do: on
// machines with two CPUs, half of it. Set Workers to 2 there if the work counts more
// than the rest; with one CPU the rest waits for the 10 ms.
//
// What cannot run waits, in a queue that is fair between callers (weir.CallerFrom;
// all without one are one caller): each in turn has one piece of work begun, in the
// order in which he asked. Where the queue is full, the caller who has the most in it
// loses what he asked for last.
//
// The work runs in the goroutine that asks for it: the pool has none of its own, so a
// panic unwinds as it would without a pool, and who asks returns when the work has
// ended and never before. A Pool is safe for concurrent use.
type Pool struct {
	options PoolOptions

	mu      sync.Mutex
	running int           // guarded by mu, like all that follows
	queue   poolQueue     // empty unless all workers are busy
	service time.Duration // a moving average
	closed  bool
	idle    chan struct{} // closed when a closed pool has nothing running
}

// NewPool makes a Pool. The error names the option that makes no sense.
func NewPool(o PoolOptions) (*Pool, error) {
	switch {
	case o.Workers < 0:
		return nil, fmt.Errorf("admission: pool: workers: %d: want at least 1, or 0 for one less than the CPUs", o.Workers)
	case o.MaxWait < 0:
		return nil, fmt.Errorf("admission: pool: max wait: %v: want a positive duration, or 0 for %v", o.MaxWait, DefaultPoolMaxWait)
	}
	if o.Workers == 0 {
		o.Workers = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if o.Queue == 0 {
		o.Queue = DefaultPoolQueue
	}
	if o.MaxWait == 0 {
		o.MaxWait = DefaultPoolMaxWait
	}
	return &Pool{options: o, queue: newPoolQueue(max(o.Queue, 0)), idle: make(chan struct{})}, nil
}

// Middleware lets requests into a handler as the pool has workers for them. Requests
// that are not let in get 503 with the time to come back.
//
// A request has its worker until the handler returns. Where bodies are large and
// clients slow, it is better to use Do in the handler, for the part that computes: a
// client that takes a minute to send its body, or to read the answer, would have the
// worker for a minute.
func (p *Pool) Middleware() weir.Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			err := p.Do(r.Context(), func(ctx context.Context) error {
				next.ServeHTTP(w, r.WithContext(ctx))
				return nil
			})
			if err == nil {
				return
			}
			problem, ok := errors.AsType[*weir.Problem](err)
			if !ok {
				problem = weir.Ended(r.Context())
			}
			if problem == nil {
				panic(http.ErrAbortHandler) // the client has left
			}
			problem.ServeHTTP(w, r)
		})
	}
}

// Run is Pool.Do for a function that returns a value.
func Run[T any](ctx context.Context, p *Pool, f func(context.Context) (T, error)) (T, error) {
	var result T
	err := p.Do(ctx, func(ctx context.Context) (err error) {
		result, err = f(ctx)
		return err
	})
	return result, err
}

// inPool is the key of contexts that are used in a pool's work.
type inPool struct{ pool *Pool }

// Do runs f when a worker is free and returns what f returns. f is given a context
// that ends with ctx; it should come back soon after that, because until it does it
// has its worker. What f does with this context is one piece of work: Do called with
// it runs at once, on the same worker.
//
// Where f was not run, the error is a *weir.Problem with status 503 that wraps
// ErrPoolFull or ErrPoolClosed, or it wraps the error of ctx, if that ended first.
func (p *Pool) Do(ctx context.Context, f func(context.Context) error) error {
	if at, ok := ctx.Value(inPool{p}).(*atomic.Bool); ok && at.Load() {
		return f(ctx)
	}
	caller, _ := weir.CallerFrom(ctx)
	event := PoolEvent{Caller: caller.ID}
	asked := time.Now()
	err := p.acquire(ctx, caller.ID)
	began := time.Now()
	event.Waited = began.Sub(asked)
	if err != nil {
		switch {
		case errors.Is(err, ErrPoolFull):
			event.Result = "full"
		case errors.Is(err, ErrPoolClosed):
			event.Result = "closed"
		default:
			event.Result = "left"
		}
		p.observe(event)
		return err
	}
	defer func() { // also where f panics, or ends its goroutine
		event.Result, event.Ran = "done", time.Since(began)
		p.release(event.Ran)
		p.observe(event)
	}()
	at := new(atomic.Bool) // in the work: a context that is kept for longer is no worker
	at.Store(true)
	defer at.Store(false)
	return f(context.WithValue(ctx, inPool{p}, at))
}

func (p *Pool) observe(e PoolEvent) {
	if p.options.Observe != nil {
		p.options.Observe(e)
	}
}

// acquire waits for a worker. Who gets nil must release it.
func (p *Pool) acquire(ctx context.Context, caller string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("admission: no worker was asked for: %w", err)
	}
	w, err := p.enter(caller)
	if w == nil {
		return err
	}
	timer := time.NewTimer(p.options.MaxWait)
	defer timer.Stop()
	select {
	case err := <-w.decided:
		return err
	case <-ctx.Done():
		err = fmt.Errorf("admission: waiting for a worker: %w", ctx.Err())
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.queue.remove(w) { // decided in this moment
		decision := <-w.decided
		if decision != nil || err == nil {
			return decision
		}
		p.freeLocked()
		return err
	}
	if err == nil {
		err = p.refusalLocked(p.queue.waiting, fmt.Sprintf("No worker was free for %v.", p.options.MaxWait))
	}
	return err
}

// enter takes a free worker, and then returns nil and nil; or a place in the queue;
// or it refuses.
func (p *Pool) enter(caller string) (*poolWaiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, closedProblem()
	case p.running < p.options.Workers:
		p.running++
		return nil, nil
	}
	w, lost := p.queue.add(caller)
	if lost != nil {
		refusal := p.refusalLocked(p.queue.waiting, "All workers are busy, and too much waits for them already.")
		if lost == w {
			return nil, refusal
		}
		lost.decided <- refusal
	}
	return w, nil
}

// serviceShare is how much the latest piece of work counts in the average time.
const serviceShare = 8

// release ends a piece of work that took some time.
func (p *Pool) release(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.service == 0 {
		p.service = max(took, 1)
	} else {
		p.service += (took - p.service) / serviceShare
	}
	p.freeLocked()
}

// freeLocked gives a worker to who is next.
func (p *Pool) freeLocked() {
	if w := p.queue.next(); w != nil {
		w.decided <- nil
		return
	}
	p.running--
	if p.closed && p.running == 0 {
		close(p.idle)
	}
}

// refusalLocked says that there is no room, and when there will be: when what waits
// now, and one more, has been begun, if all of it takes the average time.
func (p *Pool) refusalLocked(waiting int, detail string) *weir.Problem {
	service := p.service
	if service == 0 {
		service = time.Second // nothing has ended yet
	}
	rounds := float64(waiting+1) / float64(p.options.Workers)
	return &weir.Problem{
		Status:     http.StatusServiceUnavailable,
		Type:       weir.TypeReducedCapacity,
		Detail:     detail,
		RetryAfter: time.Duration(min(rounds*float64(service), float64(longestPoolRetry))),
		Err:        ErrPoolFull,
	}
}

// longestPoolRetry bounds the advice of a refusal: beyond, the averages tell little.
const longestPoolRetry = 10 * time.Minute

func closedProblem() *weir.Problem {
	return &weir.Problem{
		Status: http.StatusServiceUnavailable,
		Detail: "The service is shutting down.",
		Err:    ErrPoolClosed,
	}
}

// Stats tells what the pool does now.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{
		Workers: p.options.Workers,
		Running: p.running,
		Waiting: p.queue.waiting,
		Callers: len(p.queue.callers),
		Service: p.service,
	}
}

// Close refuses what waits and whatever comes later, and returns when nothing runs
// any more. It must not be called by the work itself.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		for w := p.queue.next(); w != nil; w = p.queue.next() {
			w.decided <- closedProblem()
		}
		if p.running == 0 {
			close(p.idle)
		}
	}
	p.mu.Unlock()
	<-p.idle
}
