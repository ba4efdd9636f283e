package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// maxSpans is how many spans wait for the collector, maxBatch how many are sent in
	// one message, and spanDelay how long the first of them waits for others.
	maxSpans  = 2048
	maxBatch  = 512
	spanDelay = 5 * time.Second
	// tellEvery is the least time between two lines of the log about the collector.
	tellEvery = time.Minute
)

// failures counts what the collector does not take, and says so, not for each.
type failures struct {
	traces, metrics atomic.Uint64
	log             *slog.Logger // may be nil

	mu   sync.Mutex // guards last
	last time.Time  // when it was said
}

// failed counts one message that was lost.
func (f *failures) failed(signal string, err error, now time.Time) {
	n := &f.traces
	if signal == "metrics" {
		n = &f.metrics
	}
	n.Add(1)
	if f.log == nil {
		return
	}
	f.mu.Lock()
	tell := f.last.IsZero() || now.Sub(f.last) >= tellEvery
	if tell {
		f.last = now
	}
	f.mu.Unlock()
	if tell {
		f.log.Warn("the collector of OpenTelemetry does not take what it is sent", "signal", signal, "error", cut(hideQueries(err.Error())))
	}
}

// spanQueue is a span processor whose queue has a bound and counts what it drops. The
// one of the SDK does not tell, and writes its errors to standard error.
type spanQueue struct {
	exporter sdktrace.SpanExporter
	failures *failures
	queue    chan sdktrace.ReadOnlySpan
	dropped  atomic.Uint64

	stop    context.CancelFunc // ends what is being sent
	closing chan struct{}
	once    sync.Once
	done    chan struct{}
}

func newSpanQueue(exporter sdktrace.SpanExporter, f *failures) *spanQueue {
	q := &spanQueue{
		exporter: exporter, failures: f, queue: make(chan sdktrace.ReadOnlySpan, maxSpans),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	ctx, stop := context.WithCancel(context.Background())
	q.stop = stop
	go q.run(ctx)
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (q *spanQueue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor. It does not wait.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case <-q.closing:
		q.dropped.Add(1)
		return
	default:
	}
	select {
	case q.queue <- s:
	default:
		q.dropped.Add(1)
	}
}

// Shutdown implements sdktrace.SpanProcessor.
func (q *spanQueue) Shutdown(ctx context.Context) error { return q.close(ctx) }

// ForceFlush implements sdktrace.SpanProcessor; close alone sends what waits.
func (q *spanQueue) ForceFlush(context.Context) error { return nil }

// run sends spans until close, and then those that wait.
func (q *spanQueue) run(ctx context.Context) {
	defer close(q.done)
	batch := make([]sdktrace.ReadOnlySpan, 0, maxBatch)
	timer := time.NewTimer(spanDelay)
	defer timer.Stop()
	for {
		select {
		case s := <-q.queue:
			if batch = append(batch, s); len(batch) == 1 {
				timer.Reset(spanDelay)
			}
			if len(batch) < maxBatch {
				continue
			}
		case <-timer.C:
		case <-q.closing:
			for q.fill(&batch) {
				q.send(ctx, &batch)
			}
			return
		}
		q.send(ctx, &batch)
	}
}

// fill takes what waits, and reports whether there is something to send.
func (q *spanQueue) fill(batch *[]sdktrace.ReadOnlySpan) bool {
	for len(*batch) < maxBatch {
		select {
		case s := <-q.queue:
			*batch = append(*batch, s)
		default:
			return len(*batch) > 0
		}
	}
	return true
}

// send empties the batch, whatever becomes of it.
func (q *spanQueue) send(ctx context.Context, batch *[]sdktrace.ReadOnlySpan) {
	if len(*batch) == 0 {
		return
	}
	if err := q.exporter.ExportSpans(ctx, *batch); err != nil {
		q.failures.failed("traces", err, time.Now())
	}
	clear(*batch) // or they would be kept until others come
	*batch = (*batch)[:0]
}

// close sends what waits, for as long as ctx allows.
func (q *spanQueue) close(ctx context.Context) error {
	q.once.Do(func() { close(q.closing) })
	var err error
	select {
	case <-q.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	q.stop()
	<-q.done
	return errors.Join(err, q.exporter.Shutdown(context.WithoutCancel(ctx)))
}

// told is an exporter of metrics whose failures are counted, and are no errors: the
// reader would write them to standard error.
type told struct {
	metric.Exporter
	failures *failures
}

// Export implements metric.Exporter.
func (e told) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	if err := e.Exporter.Export(ctx, m); err != nil {
		e.failures.failed("metrics", err, time.Now())
	}
	return nil
}

// whatCan gathers what can be gathered: one metric that cannot must not hide the others.
func whatCan[F any](gather func() ([]F, error)) func() ([]F, error) {
	return func() ([]F, error) {
		families, err := gather()
		if len(families) > 0 {
			return families, nil
		}
		return nil, err
	}
}
