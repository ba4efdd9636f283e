package gateway

import (
	"container/heap"
	"fmt"
	"time"

	"github.com/inferweir/weir/admission"
)

// The order of what happens at the same instant: who ends, or has waited for too long,
// makes room for who comes.
const (
	atEnd = iota
	atTick
)

// timer is something that is to happen.
type timer struct {
	at    int64 // in Unix nanoseconds
	order int
	n     uint64 // of two at the same instant, the one that was set first goes first
	do    func()
}

// timers are a heap, the next first.
type timers struct {
	heap []timer
	n    uint64
}

func (t *timers) Len() int { return len(t.heap) }
func (t *timers) Less(i, j int) bool {
	a, b := &t.heap[i], &t.heap[j]
	switch {
	case a.at != b.at:
		return a.at < b.at
	case a.order != b.order:
		return a.order < b.order
	}
	return a.n < b.n
}
func (t *timers) Swap(i, j int) { t.heap[i], t.heap[j] = t.heap[j], t.heap[i] }
func (t *timers) Push(x any)    { t.heap = append(t.heap, x.(timer)) }
func (t *timers) Pop() any {
	last := t.heap[len(t.heap)-1]
	t.heap[len(t.heap)-1].do = nil
	t.heap = t.heap[:len(t.heap)-1]
	return last
}

func (t *timers) set(at int64, order int, do func()) {
	t.n++
	heap.Push(t, timer{at, order, t.n, do})
}

// isNext reports whether something is to happen before an arrival at that time.
func (t *timers) isNext(arrival int64) bool { return len(t.heap) > 0 && t.heap[0].at <= arrival }

// How an admission.Queue lets its scheduler's time pass: in small steps while something
// waits, in seconds while something runs.
const (
	waitTick = 10 * time.Millisecond
	runTick  = time.Second
)

// virtualQueue is an upstream's queue in virtual time: the same scheduler, whose ticks
// come when those of an admission.Queue do.
type virtualQueue struct {
	replayer  *replayer
	scheduler *admission.Scheduler
	calls     map[*admission.Item]*rerun // that wait
	decided   []*admission.Item          // and are not told yet
	parked    bool                       // no tick comes until something runs
	step      time.Duration
	ticks     uint64 // of the timer that counts; earlier ones were stopped
}

// newVirtualQueue makes the queue of u, of the same options as newQueue. Its targets are
// always open: what breaks them is not in a log.
func (v *replayer) newVirtualQueue(u *upstreamSetup) (*virtualQueue, error) {
	q := &virtualQueue{replayer: v, calls: map[*admission.Item]*rerun{}, parked: true, step: runTick}
	o := admission.Options{
		Limits:    admission.Limits{Min: u.config.Concurrency.Min, Max: u.config.Concurrency.Max},
		MaxQueue:  int(orNone(u.config.Queue.Max)),
		MaxWait:   u.config.Queue.MaxWait,
		Instances: func() int { return v.setup.config.Instances },
		Choose: func(targets []int, load []float64, r *admission.Request) int {
			return u.pool.Choose(targets, load, r.Prefix)
		},
	}
	if slo := u.config.SLO; slo != nil {
		o.SLO = admission.SLO{TTFT: slo.TTFT, TPOT: slo.TPOT}
	}
	for _, t := range u.config.Targets {
		o.Targets = append(o.Targets, admission.Target{Weight: t.Weight})
	}
	var err error
	if q.scheduler, err = admission.NewScheduler(o, func(it *admission.Item) { q.decided = append(q.decided, it) }); err != nil {
		return nil, fmt.Errorf("upstreams.%s: %w", u.name, err)
	}
	return q, nil
}

// enter hands a request in. It may be decided when it returns.
func (q *virtualQueue) enter(r *rerun) {
	r.queue, r.item = q, admission.NewItem(*r.x.wants)
	q.calls[r.item] = r
	q.scheduler.Submit(r.item, q.replayer.now)
	if q.parked && !q.scheduler.Idle() || q.step > waitTick && q.waits() {
		q.parked, q.step = false, waitTick
		q.tick()
	}
	q.tell()
}

// waits reports whether something waits: the decided are no longer among the calls, but
// those that are not told yet.
func (q *virtualQueue) waits() bool { return len(q.calls) > len(q.decided) }

// tick lets the scheduler's time pass, and sets when it does next.
func (q *virtualQueue) tick() {
	q.scheduler.Tick(q.replayer.now)
	q.step, q.parked = waitTick, q.scheduler.Idle()
	if !q.waits() {
		q.step = runTick
	}
	q.ticks++
	if q.parked {
		return
	}
	n := q.ticks
	q.replayer.timers.set(q.replayer.now.Add(q.step).UnixNano(), atTick, func() {
		if n == q.ticks {
			q.tick()
			q.tell()
		}
	})
}

// tell goes on with those who were decided.
func (q *virtualQueue) tell() {
	for len(q.decided) > 0 {
		it := q.decided[0]
		q.decided = q.decided[1:]
		r, ok := q.calls[it]
		if !ok {
			continue // a follower's, who is told by its leader
		}
		delete(q.calls, it)
		if refusal := it.Refusal(); refusal != nil {
			r.shed(refusal.Reason)
		} else {
			r.run()
		}
	}
}

// leave is called when the client of a request that waits has left.
func (q *virtualQueue) leave(r *rerun) {
	delete(q.calls, r.item)
	q.scheduler.Cancel(r.item, q.replayer.now)
	q.tell()
}

// refuse gives a follower the refusal that its leader had.
func (q *virtualQueue) refuse(r *rerun, reason admission.Reason) {
	q.scheduler.Refuse(admission.NewItem(*r.x.wants), reason, q.replayer.now)
	q.decided = q.decided[:len(q.decided)-1]
}
