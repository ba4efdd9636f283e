package gateway

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/upstream"
)

// share is what a plan's callers get of a queue.
type share struct {
	weight float64
	class  admission.Class
}

func (s *setup) buildShares(plans map[string]config.Plan) error {
	s.shares = map[string]share{}
	for name, p := range plans {
		class, err := admission.ParseClass(p.Priority)
		if err != nil {
			return fmt.Errorf("plans.%s.priority: %w", name, err)
		}
		s.shares[name] = share{weight: float64(max(p.Weight, 1)), class: class}
	}
	if _, ok := s.shares[defaultPlan]; !ok {
		s.shares[defaultPlan] = share{weight: 1, class: admission.Standard}
	}
	return nil
}

// queueCounts counts what a queue decides.
type queueCounts struct {
	refused    map[admission.Reason]*atomic.Uint64
	dispatched [3]atomic.Uint64 // by class
	waited     [3]atomic.Int64  // nanoseconds in all
	left       atomic.Uint64
	lately     lately
}

func newQueueCounts() *queueCounts { return &queueCounts{refused: zeros(admission.Reasons())} }

func (c *queueCounts) observe(e admission.Event) {
	c.lately.add(e, time.Now())
	switch {
	case e.Left:
		c.left.Add(1)
	case e.Reason != "":
		c.refused[e.Reason].Add(1)
	default:
		c.dispatched[e.Class].Add(1)
		c.waited[e.Class].Add(int64(e.Wait))
	}
}

// batchCounts counts what a batcher joins.
type batchCounts struct{ calls, members, items atomic.Uint64 }

func (c *batchCounts) observe(e upstream.BatchEvent) {
	c.calls.Add(1)
	c.members.Add(uint64(e.Members))
	c.items.Add(uint64(e.Items))
}

// newQueue makes the queue in front of u's pool, which need not be there yet.
func (g *Gateway) newQueue(u *upstreamSetup) (*admission.Queue, error) {
	o := admission.Options{
		Limits:   admission.Limits{Min: u.config.Concurrency.Min, Max: u.config.Concurrency.Max},
		MaxQueue: int(orNone(u.config.Queue.Max)),
		MaxWait:  u.config.Queue.MaxWait,
		Choose: func(targets []int, load []float64, r *admission.Request) int {
			return u.pool.Choose(targets, load, r.Prefix)
		},
		Open:      func(target int, now time.Time) bool { return u.pool.Open(target, now) },
		OpensAt:   func(now time.Time) time.Time { return u.pool.OpensAt(now) },
		Pauses:    func(target int, now time.Time) bool { return u.pool.Pauses(target, now) },
		Instances: g.counts.instances,
		Observe: func(e admission.Event) {
			u.counts.observe(e)
			if !e.Left {
				g.figures.Queued(u.name, string(e.Reason), e.Wait)
			}
			if !e.Left && e.Reason == "" {
				g.metrics.Admitted(u.name, e.Wait)
			}
		},
	}
	if slo := u.config.SLO; slo != nil {
		o.SLO = admission.SLO{TTFT: slo.TTFT, TPOT: slo.TPOT}
	}
	if b := u.config.Batch; b != nil {
		o.BatchSize = b.MaxSize
	}
	for _, t := range u.config.Targets {
		o.Targets = append(o.Targets, admission.Target{Weight: t.Weight})
	}
	return admission.New(o)
}

// engineState passes on what a model server says of itself.
func engineState(q *admission.Queue) func(int, upstream.EngineState) {
	return func(target int, e upstream.EngineState) { q.Engine(target, admission.EngineState(e)) }
}

// exportQueue makes an upstream's metrics of its queue and its targets.
func (u *upstreamSetup) exportQueue(m exporter) error {
	gauge := func(name, help string, f func(admission.Stats) float64, labels ...string) error {
		return m.GaugeFunc(name, help, func() float64 { return f(u.queue.Stats()) }, append(labels, "upstream", u.name)...)
	}
	counter := func(name, help string, f func() float64, labels ...string) error {
		return m.CounterFunc(name, help, f, append(labels, "upstream", u.name)...)
	}
	errs := []error{
		gauge("weir_admission_running", "Places at the upstream's targets that are taken.", func(s admission.Stats) float64 {
			n := 0
			for _, t := range s.Targets {
				n += t.Running
			}
			return float64(n)
		}),
		gauge("weir_admission_limit", "Places that there are: the concurrency limits of all targets.", func(s admission.Stats) float64 {
			n := 0.0
			for _, t := range s.Targets {
				n += math.Floor(t.Limit)
			}
			return n
		}),
		gauge("weir_admission_callers", "Callers that the queue remembers.", func(s admission.Stats) float64 { return float64(s.Callers) }),
		gauge("weir_admission_rate", "Cost that the targets work off in a second when there is always something to do, in tokens of a prompt, or in requests: 0 until that was seen.",
			func(s admission.Stats) float64 { return s.Rate }),
		counter("weir_admission_left_total", "Requests whose client left while they waited.", func() float64 { return float64(u.counts.left.Load()) }),
	}
	if u.batcher != nil {
		errs = append(errs, u.exportBatches(m))
	}
	for reason, n := range u.counts.refused {
		errs = append(errs, counter("weir_admission_refused_total", "Requests that the queue refused, and why.",
			func() float64 { return float64(n.Load()) }, "reason", string(reason)))
	}
	for class := range u.counts.dispatched {
		name := admission.Class(class).String()
		errs = append(errs,
			gauge("weir_admission_waiting", "Requests that wait for a place.", func(s admission.Stats) float64 { return float64(s.Waiting[class]) }, "class", name),
			counter("weir_admission_dispatched_total", "Places that were given; each attempt of a request, and each hedge, has one of its own.", func() float64 { return float64(u.counts.dispatched[class].Load()) }, "class", name),
			counter("weir_admission_wait_seconds_total", "How long those waited for it, in all.",
				func() float64 { return time.Duration(u.counts.waited[class].Load()).Seconds() }, "class", name))
	}
	return errors.Join(errs...)
}

// exportBatches makes the metrics of what was put together.
func (u *upstreamSetup) exportBatches(m exporter) error {
	counter := func(name, help string, n *atomic.Uint64) error {
		return m.CounterFunc(name, help, func() float64 { return float64(n.Load()) }, "upstream", u.name)
	}
	return errors.Join(
		counter("weir_upstream_batch_calls_total", "Calls that joined the requests of several callers, or could have.", &u.batches.calls),
		counter("weir_upstream_batch_requests_total", "Requests in those calls.", &u.batches.members),
		counter("weir_upstream_batch_items_total", "Items in those calls.", &u.batches.items))
}
