package loadtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	// watchEvery is how often the progress is told and the error budget looked at.
	watchEvery = 250 * time.Millisecond
	// timerError is the most that the runtime's timers are late on an idle machine.
	timerError = time.Millisecond
)

// run is one run of a test.
type run struct {
	*Test
	transport http.RoundTripper
	recorder  *recorder
	begin     time.Time // of what counts: after the warm-up
	end       time.Time // of the sending, as planned; zero: not known
	inFlight  atomic.Int64
	opened    atomic.Int64 // connections
	open      sync.WaitGroup
}

// shot is one request that is due.
type shot struct {
	seq    int64
	caller int
	seed   uint64
	due    time.Time
	counts bool // it is no warm-up
}

// Run sends the load and waits for the answers. It ends before its time when ctx
// does or when too many requests fail: what has no answer then is cut off, and
// counts neither as answered nor as an error.
func (t *Test) Run(ctx context.Context) *Report {
	now := time.Now()
	r := &run{Test: t, transport: t.o.Transport, begin: now.Add(t.o.Warmup)}
	r.recorder = newRecorder(&t.o, r.begin)
	if r.transport == nil {
		own := r.newTransport()
		defer own.CloseIdleConnections()
		r.transport = own
	}
	if len(t.o.Stages) > 0 {
		r.end = r.begin.Add(length(t.o.Stages))
	} else if t.o.Duration > 0 {
		r.end = r.begin.Add(t.o.Duration)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	sent := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(sent, stop) })
	if len(t.o.Stages) > 0 {
		r.recorder.sendingEnded(r.sendOpen(ctx))
	} else {
		r.recorder.sendingEnded(r.sendClosed(ctx))
	}
	r.open.Wait()
	r.recorder.answersEnded(time.Now())
	close(sent)
	watching.Wait()
	p := r.report(context.Cause(ctx))
	r.judge(p)
	return p
}

// judge adds to a report what the load as a whole has shown: how much the server answers
// well, and whether too many requests failed for the error budget.
func (r *run) judge(p *Report) {
	c := r.recorder
	c.mu.Lock()
	working := max(c.ended.Sub(c.begin), c.lastOK.Sub(c.begin), time.Microsecond)
	c.mu.Unlock()
	p.OKPerS = rounded(float64(p.OK) / working.Seconds())
	if r.o.MaxErrors == nil {
		return
	}
	p.OverBudget = p.Ended == EndedErrors || overShare(p.ErrorShare(), *r.o.MaxErrors)
	if p.OverBudget && p.Ended != EndedErrors {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s %% of the requests failed, and %g %% are allowed", significant(100*p.ErrorShare()), rounded(100**r.o.MaxErrors)))
	}
}

// newTransport keeps a connection for each request in flight, so that none waits
// for one: that wait would be the generator's and not the server's.
func (r *run) newTransport() *http.Transport {
	most := max(r.o.MaxInFlight, r.o.Concurrency)
	dialer := &net.Dialer{Timeout: min(connectTimeout, r.o.Timeout)}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				r.opened.Add(1)
			}
			return c, err
		},
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: r.o.Insecure},
		TLSHandshakeTimeout: connectTimeout, ForceAttemptHTTP2: true, DisableCompression: true,
		MaxIdleConns: most, MaxIdleConnsPerHost: most, IdleConnTimeout: 90 * time.Second,
	}
}

// sendOpen starts each request when it is due, from one goroutine. It returns when
// the sending was over: when the next request would have been due, unless that is
// past.
func (r *run) sendOpen(ctx context.Context) time.Time {
	if r.o.Warmup > 0 {
		rate := r.o.Stages[0].From
		r.sendStages(ctx, []Stage{{From: rate, To: rate, For: r.o.Warmup}}, -r.o.Warmup)
	}
	over := r.sendStages(ctx, r.o.Stages, 0)
	if now := time.Now(); ctx.Err() != nil || now.After(over) {
		return now
	}
	return over
}

// sendStages sends the arrivals of stages that begin at a time from r.begin, which
// is before it for the warm-up. It returns when the next one would be due.
func (r *run) sendStages(ctx context.Context, stages []Stage, from time.Duration) time.Time {
	requests := r.series(from >= 0)
	var times *rand.Rand
	if r.o.Arrivals == Poisson {
		times = requests.random(2)
	}
	for at := range arrivals(stages, times) {
		due := r.begin.Add(from + at)
		if requests.counts && r.o.Requests > 0 && requests.made >= r.o.Requests || !r.wait(ctx, due) {
			return due
		}
		s := requests.next(due)
		if r.inFlight.Add(1) > int64(r.o.MaxInFlight) {
			r.inFlight.Add(-1)
			r.recorder.unsent(&s, kindUnsent, "")
			continue
		}
		r.open.Go(func() {
			defer r.inFlight.Add(-1)
			r.fire(ctx, &s)
		})
	}
	return r.begin.Add(from + length(stages))
}

// series makes requests that are due one after the other: those of the warm-up, or those
// that count. Neither draws what the other does, or a cache would have been filled with
// what is measured.
type series struct {
	*run
	counts bool
	warms  bool // its requests are those of a warm-up
	draws  *rand.Rand
	made   int64
}

func (r *run) series(counts bool) *series {
	s := &series{run: r, counts: counts, warms: !counts || r.o.Rehearsal}
	s.draws = s.random(1)
	return s
}

// random is the nth source of random values of the series.
func (s *series) random(n uint64) *rand.Rand {
	if s.warms {
		n += 2
	}
	return rand.New(rand.NewPCG(s.o.Seed, n))
}

func (s *series) next(due time.Time) shot {
	next := shot{seq: s.made, counts: s.counts, due: due, caller: s.mix.draw(s.draws), seed: s.draws.Uint64()}
	if s.warms {
		next.seq = -1 - s.made
	}
	s.made++
	return next
}

// wait waits until a moment, and reports false where ctx ends first. Timers alone
// would be up to a millisecond late.
func (r *run) wait(ctx context.Context, until time.Time) bool {
	if left := time.Until(until) - timerError; left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	for left := time.Until(until); left > 0; left = time.Until(until) {
		r.pause(left)
	}
	return ctx.Err() == nil
}

// sendClosed runs clients that send one request after the other, and returns when
// the sending was over.
func (r *run) sendClosed(ctx context.Context) time.Time {
	var mu sync.Mutex // guards the two
	warm, counted := r.series(false), r.series(true)
	next := func() (s shot, ok bool) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		of := warm
		if !now.Before(r.begin) {
			of = counted
		}
		if ctx.Err() != nil || !r.end.IsZero() && !now.Before(r.end) || of.counts && r.o.Requests > 0 && of.made >= r.o.Requests {
			return s, false
		}
		return of.next(now), true
	}
	var clients sync.WaitGroup
	for range r.o.Concurrency {
		clients.Go(func() {
			for {
				s, ok := next()
				if !ok {
					return
				}
				r.inFlight.Add(1)
				r.fire(ctx, &s)
				r.inFlight.Add(-1)
			}
		})
	}
	clients.Wait()
	if now := time.Now(); r.end.IsZero() || now.Before(r.end) {
		return now
	}
	return r.end
}

// watch tells the progress and looks at the error budget until the load is over.
func (r *run) watch(over <-chan struct{}, stop context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case now := <-tick.C:
			if r.o.MaxErrors != nil && r.recorder.overBudget(now, *r.o.MaxErrors) {
				stop(errBudget)
			}
			if r.o.Progress != nil {
				r.o.Progress(r.progress(now))
			}
		}
	}
}

// Progress is how far a running load is.
type Progress struct {
	Elapsed  time.Duration // since its beginning, warm-up not counted: negative while that lasts
	Total    time.Duration // as planned; 0: not known
	Requests int64         // as planned; 0: not bounded
	Sent     int64         // all that count, unsent ones included
	Answered int64
	Errors   int64
	InFlight int64
	// Of the last five seconds.
	Rate float64 // answers a second
	P95  time.Duration
}

func (r *run) progress(now time.Time) Progress {
	p := r.recorder.progress(now)
	p.Elapsed, p.InFlight, p.Requests = now.Sub(r.begin), r.inFlight.Load(), r.o.Requests
	if !r.end.IsZero() {
		p.Total = r.end.Sub(r.begin)
	}
	return p
}
