package gateway

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/telemetry"
)

// dataCounts counts what the database, the jobs and the blobs do.
type dataCounts struct {
	calls  map[string]*atomic.Uint64 // of the database, by operation and result
	events map[job.EventKind]*atomic.Uint64
	ends   map[job.State]*atomic.Uint64
	waited atomic.Int64 // nanoseconds in all, of jobs that have ended
	ran    atomic.Int64
	lines  [2]atomic.Int64 // jobs that wait and that run, of all instances, as last read

	swept, sweepFailures atomic.Uint64
}

func newDataCounts() *dataCounts {
	c := &dataCounts{
		calls: map[string]*atomic.Uint64{},
		events: zeros([]job.EventKind{
			job.EventSubmitted, job.EventClaimed, job.EventRetried, job.EventGivenBack, job.EventRescued,
			job.EventLost, job.EventDelivered, job.EventUndelivered, job.EventStoreError,
		}),
		ends: zeros([]job.State{job.Completed, job.Cancelled, job.Discarded}),
	}
	for _, op := range []string{database.OpRead, database.OpWrite} {
		for _, result := range databaseResults() {
			c.calls[op+" "+result] = new(atomic.Uint64)
		}
	}
	return c
}

func databaseResults() []string {
	return []string{database.ResultOK, database.ResultAway, database.ResultUnknown, database.ResultCancelled, database.ResultError}
}

func (c *dataCounts) database(e database.Event) {
	if n := c.calls[e.Op+" "+e.Result]; n != nil {
		n.Add(1)
	}
}

// countLines reads how many jobs wait and run.
func (d *data) countLines(ctx context.Context) {
	lines, err := d.db.Jobs().Lines(ctx)
	if err != nil {
		return // the metrics of the database say so
	}
	var waiting, running int64
	for _, l := range lines {
		waiting, running = waiting+l.Waiting, running+l.Running
	}
	d.counts.lines[0].Store(waiting)
	d.counts.lines[1].Store(running)
}

// observeJob counts what happens to jobs.
func (g *Gateway) observeJob(e job.Event) {
	c := g.data.counts
	if e.Kind != job.EventEnded {
		if n := c.events[e.Kind]; n != nil {
			n.Add(1)
		}
		return
	}
	if n := c.ends[e.State]; n != nil {
		n.Add(1)
	}
	c.waited.Add(int64(max(e.Wait, 0)))
	c.ran.Add(int64(max(e.Run, 0)))
}

func (c *dataCounts) sweep(removed int, err error) {
	c.swept.Add(uint64(removed))
	if err != nil {
		c.sweepFailures.Add(1)
	}
}

// export makes the metrics of what there is.
func (d *data) export(m *telemetry.Metrics) error {
	if d == nil {
		return nil
	}
	return errors.Join(d.exportDatabase(m), d.exportJobs(m), d.exportBlobs(m))
}

func count(n *atomic.Uint64) func() float64 { return func() float64 { return float64(n.Load()) } }

func (d *data) exportDatabase(m *telemetry.Metrics) error {
	if d.db == nil {
		return nil
	}
	errs := []error{
		m.GaugeFunc("weir_database_up", "1 while the database answers, 0 while it is away.", func() float64 {
			if d.db.Healthy() {
				return 1
			}
			return 0
		}),
		m.GaugeFunc("weir_database_connections", "Connections to the database that are open.", func() float64 { return float64(d.db.Stats().Open) }),
		m.GaugeFunc("weir_database_connections_in_use", "Connections to the database that work.", func() float64 { return float64(d.db.Stats().InUse) }),
		m.GaugeFunc("weir_database_connections_max", "Connections to the database that there may be.", func() float64 { return float64(d.db.Stats().Max) }),
		m.GaugeFunc("weir_database_writes_waiting", "Writes that wait for the one writer of SQLite.", func() float64 { return float64(d.db.Stats().Waiting) }),
	}
	errs = append(errs,
		m.GaugeFunc("weir_database_usage_waiting", "Combinations of hour, caller, route and model whose usage waits in memory to be written.",
			func() float64 { return float64(d.db.Usage().Stats().Keys) }),
		m.CounterFunc("weir_database_usage_folded_total", "Requests whose usage was counted for the caller (others), for want of room.",
			func() float64 { return float64(d.db.Usage().Stats().Folded) }))
	for _, op := range []string{database.OpRead, database.OpWrite} {
		for _, result := range databaseResults() {
			errs = append(errs, m.CounterFunc("weir_database_calls_total", "Reads and writes of the database.", count(d.counts.calls[op+" "+result]), "operation", op, "result", result))
		}
	}
	return errors.Join(errs...)
}

func (d *data) exportJobs(m *telemetry.Metrics) error {
	if d.jobs == nil {
		return nil
	}
	c := d.counts
	errs := []error{
		m.GaugeFunc("weir_job_waiting", "Jobs that wait, of all instances that share the database, as of the last 10 seconds in which it answered.", func() float64 { return float64(c.lines[0].Load()) }),
		m.GaugeFunc("weir_job_running", "Jobs that instances work on, of all that share the database, likewise.", func() float64 { return float64(c.lines[1].Load()) }),
		m.CounterFunc("weir_job_wait_seconds_total", "Time that jobs which have ended waited for their first attempt.", func() float64 { return float64(c.waited.Load()) / 1e9 }),
		m.CounterFunc("weir_job_run_seconds_total", "Time from the first attempt of jobs that have ended to their end.", func() float64 { return float64(c.ran.Load()) / 1e9 }),
	}
	for kind, n := range c.events {
		errs = append(errs, m.CounterFunc("weir_job_events_total", "What happened to jobs at this instance.", count(n), "event", string(kind)))
	}
	for state, n := range c.ends {
		errs = append(errs, m.CounterFunc("weir_job_ended_total", "Jobs that ended at this instance.", count(n), "state", string(state)))
	}
	return errors.Join(errs...)
}

func (d *data) exportBlobs(m *telemetry.Metrics) error {
	if d.blobs == nil {
		return nil
	}
	return errors.Join(
		m.CounterFunc("weir_blob_swept_total", "Blobs that were removed because they had expired.", count(&d.counts.swept)),
		m.CounterFunc("weir_blob_sweep_failures_total", "Rounds of removing expired blobs that did not come to their end.", count(&d.counts.sweepFailures)),
	)
}
