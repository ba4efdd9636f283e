package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// maxLag is how far the loop may be behind its clock and still catch up. A machine
// that was busy for longer makes the engine slower, not the next steps free.
const maxLag = 100 * time.Millisecond

// maxCancels is how many of the last cancels are kept.
const maxCancels = 4096

// errFull is a refusal for want of room in the queue.
var errFull = errors.New("the server has as many requests as it may: --max-queue")

// loop drives the model of the engine in real time.
type loop struct {
	speed    float64
	slowness func(time.Time) float64
	maxQueue int
	ignore   bool          // go on with sequences whose clients have left
	wake     chan struct{} // has something in it after an arrival

	mu      sync.Mutex
	engine  *sim.Engine
	open    map[*sim.Sequence]*generation
	stats   stats
	cancels []cancel // a ring, the next place is cancelled % maxCancels
}

// generation is one sequence and who waits for its tokens.
type generation struct {
	seq   sim.Sequence
	user  string        // what the request says of itself
	ready chan struct{} // has something in it when there is something new

	left time.Time // guarded by loop.mu, as seq; zero: the client is there
}

// stats are what has happened since the start. All are counted where they happen, so
// that requests = completed + cancelled + those that are open.
type stats struct {
	// Received are all requests but those to /metrics, /health and /debug: what a
	// gateway that refuses must not raise. Faulted are those that met a fault.
	Received int64 `json:"received"`
	Faulted  int64 `json:"faulted"`
	// Requests for text that the engine took; Refused are those that found the queue
	// full.
	Requests int64 `json:"requests"`
	Refused  int64 `json:"refused"`
	// Calls are embeddings and predictions, CallItems the inputs in them.
	Calls     int64 `json:"calls"`
	CallItems int64 `json:"call_items"`
	// Started have a first token.
	Started   int64 `json:"started"`
	Completed int64 `json:"completed"`
	// Failed are those that a fault ended.
	Failed int64 `json:"failed"`
	// Cancelled are the requests whose client left before the end, Untouched those of
	// them that had no token yet.
	Cancelled int64 `json:"cancelled"`
	Untouched int64 `json:"cancelled_before_first_token"`
	// PromptTokens are those of all requests taken, Computed what the engine computed
	// of prompts: without what the prefix cache had, and with what preemption made it
	// compute again.
	PromptTokens int64 `json:"prompt_tokens"`
	CachedTokens int64 `json:"cached_tokens"`
	Computed     int64 `json:"prompt_tokens_computed"`
	// Generated are all tokens of answers, Wasted those for clients who left, Late the
	// part of those that was generated after they had (--ignore-disconnect).
	Generated int64 `json:"generated_tokens"`
	Wasted    int64 `json:"wasted_tokens"`
	Late      int64 `json:"wasted_tokens_after_leaving"`
	// ForNobody is how long sequences were held after their clients had left.
	ForNobody   milliseconds `json:"worked_for_nobody_ms"`
	Preemptions int64        `json:"preemptions"`
	Steps       int64        `json:"steps"`
	// Lag is what steps took above what they should have: a machine too busy for this
	// speed.
	Lag milliseconds `json:"lag_ms"`
	// Running, Waiting and KVUsed are of now.
	Running int     `json:"running"`
	Waiting int     `json:"waiting"`
	KVUsed  float64 `json:"kv_used"`

	stopped, lengthened int64 // completed by the reason
}

// milliseconds is a time that is written as a number.
type milliseconds float64

func toMilliseconds(d time.Duration) milliseconds { return milliseconds(d.Seconds() * 1000) }

// cancel is one client that left.
type cancel struct {
	User   string    `json:"user"`
	At     time.Time `json:"at"`
	Tokens int       `json:"tokens"` // it had got by then
}

func newLoop(o options, slowness func(time.Time) float64) *loop {
	return &loop{
		speed: o.speed, slowness: slowness, maxQueue: o.maxQueue, ignore: o.ignoreDisconnect,
		wake: make(chan struct{}, 1), engine: sim.NewEngine(o.engine), open: map[*sim.Sequence]*generation{},
	}
}

// run makes steps until ctx ends. Each ends when it should by the clock of the steps
// before it, so that late timers do not add up.
func (l *loop) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	next := time.Now()
	for ctx.Err() == nil {
		took := l.begin(time.Now())
		if took == 0 {
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			next = time.Now()
			continue
		}
		next = next.Add(time.Duration(float64(took) / l.speed))
		if lag := time.Since(next); lag > maxLag {
			l.late(lag - maxLag)
			next = next.Add(lag - maxLag)
		}
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		l.end(time.Now())
	}
}

func (l *loop) begin(now time.Time) time.Duration {
	slow := l.slowness(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.engine.Slow(slow)
	took := l.engine.Begin()
	if took > 0 {
		l.stats.Steps++
	}
	return took
}

func (l *loop) late(d time.Duration) {
	l.mu.Lock()
	l.stats.Lag += toMilliseconds(d)
	l.mu.Unlock()
}

// end hands out the tokens of a step. It does not wait for those who read them: who
// is slow finds several at once.
func (l *loop) end(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, event := range l.engine.End() {
		g := l.open[event.Seq]
		l.stats.Generated++
		if event.First {
			l.stats.Started++
		}
		if !g.left.IsZero() {
			l.stats.Wasted++
			l.stats.Late++
		}
		if event.Finished {
			delete(l.open, event.Seq)
			if !g.left.IsZero() {
				l.stats.ForNobody += toMilliseconds(now.Sub(g.left))
			}
		}
		select {
		case g.ready <- struct{}{}:
		default: // it has not looked yet
		}
	}
}

// add puts a sequence into the engine's queue. The error is errFull, or says why the
// sequence can never fit.
func (l *loop) add(user string, q sim.Sequence) (*generation, error) {
	g := &generation{seq: q, user: user, ready: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.maxQueue > 0 && len(l.open) >= l.maxQueue {
		l.stats.Refused++
		return nil, errFull
	}
	if err := l.engine.Add(&g.seq); err != nil {
		return nil, err
	}
	l.open[&g.seq] = g
	l.stats.Requests++
	l.stats.PromptTokens += int64(q.Input)
	l.stats.CachedTokens += int64(q.Cached)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return g, nil
}

// wait returns how many tokens there are once there are more than seen, and the
// error of ctx if that ends first.
func (l *loop) wait(ctx context.Context, g *generation, seen int) (int, error) {
	for {
		l.mu.Lock()
		produced := g.seq.Produced()
		l.mu.Unlock()
		if produced > seen {
			return produced, nil
		}
		select {
		case <-g.ready:
		case <-ctx.Done():
			return seen, ctx.Err()
		}
	}
}

// ending is how a request for text ended.
type ending uint8

const (
	endFailed   ending = iota // by a fault
	endComplete               // its client has everything
	endLeft                   // its client left
)

// over notes the end of a request. What is not complete loses its sequence, which
// frees its room in the KV cache at once, unless the engine is one that does not
// notice that clients leave.
func (l *loop) over(g *generation, end ending, cut bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch end {
	case endComplete:
		l.stats.Completed++
		if cut {
			l.stats.lengthened++
		} else {
			l.stats.stopped++
		}
		return
	case endFailed:
		l.stats.Failed++
	case endLeft:
		l.leaveLocked(g, now)
		if l.ignore {
			g.left = now
			return
		}
	}
	delete(l.open, &g.seq)
	l.engine.Remove(&g.seq)
}

func (l *loop) leaveLocked(g *generation, now time.Time) {
	produced := g.seq.Produced()
	if len(l.cancels) < maxCancels {
		l.cancels = append(l.cancels, cancel{})
	}
	l.cancels[l.stats.Cancelled%maxCancels] = cancel{User: g.user, At: now, Tokens: produced}
	l.stats.Cancelled++
	if produced == 0 {
		l.stats.Untouched++
	}
	l.stats.Wasted += int64(produced)
}

// count changes the counts that do not come from the engine.
func (l *loop) count(change func(*stats)) {
	l.mu.Lock()
	change(&l.stats)
	l.mu.Unlock()
}

// snapshot is what there is to tell now.
func (l *loop) snapshot() stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Computed, s.Preemptions = l.engine.PromptTokens(), l.engine.Preemptions()
	s.Running, s.Waiting, s.KVUsed = l.engine.Running(), l.engine.Waiting(), l.engine.KVUsed()
	return s
}

// lastCancels are the last maxCancels of them, the oldest first.
func (l *loop) lastCancels() []cancel {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stats.Cancelled <= maxCancels {
		return append([]cancel{}, l.cancels...)
	}
	first := l.stats.Cancelled % maxCancels
	return append(append([]cancel{}, l.cancels[first:]...), l.cancels[:first]...)
}
