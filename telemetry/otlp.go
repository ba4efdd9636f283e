package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// exportEvery is how often metrics are sent.
	exportEvery = time.Minute
	// exportTimeout is how long the collector may take for one message, and for all
	// its repetitions.
	exportTimeout = 10 * time.Second
	// scope names what makes the spans and the metrics of model calls.
	scope = "github.com/inferweir/weir"
)

// OTLPOptions are those of NewOTLP.
type OTLPOptions struct {
	// Endpoint is the URL of a collector, such as http://127.0.0.1:4318; /v1/traces and
	// /v1/metrics are added to its path. Headers are sent with everything.
	Endpoint string
	Headers  map[string]string
	// Share is the share of requests that are traced among those whose caller has not
	// decided it, from 0 to 1.
	Share float64
	// Version is that of the program.
	Version string
	// Metrics are what is sent, besides the metrics of model calls. nil: those alone.
	Metrics *Metrics
	// Interval is the time from one sending of metrics to the next. Default 1m.
	Interval time.Duration
	// Log is told when the collector does not take what it is sent, at most once a
	// minute. nil drops that.
	Log *slog.Logger
}

// OTLP sends traces and metrics to a collector of OpenTelemetry, over HTTP. What is
// sent waits in memory, 2048 spans at most, and a request never waits for it: while
// the collector is away spans are dropped and counted. A nil *OTLP does nothing.
type OTLP struct {
	share    float64
	client   *http.Client
	spans    *spanQueue
	tracer   trace.Tracer
	meters   *metric.MeterProvider
	models   modelMetrics
	failures failures
	closed   atomic.Bool
}

// NewOTLP makes what sends. Close it.
func NewOTLP(o OTLPOptions) (*OTLP, error) {
	at, err := url.Parse(o.Endpoint)
	if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return nil, fmt.Errorf("telemetry: otlp: endpoint %q: want a URL, for example http://127.0.0.1:4318", redactedURL(o.Endpoint))
	}
	t := &OTLP{share: o.Share, failures: failures{log: o.Log}}
	t.client = &http.Client{Timeout: exportTimeout, Transport: newExportTransport()}
	who, err := resource.New(context.Background(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("weir"), semconv.ServiceVersion(o.Version)),
		resource.WithFromEnv()) // which is how operators name what runs
	if err != nil {
		return nil, fmt.Errorf("telemetry: otlp: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	if err := t.startTraces(o, who); err != nil {
		return nil, err
	}
	if err := t.startMetrics(o, who); err != nil {
		return nil, errors.Join(err, t.spans.close(context.Background()))
	}
	if err := t.export(o.Metrics); err != nil {
		return nil, errors.Join(err, t.Close(context.Background()))
	}
	return t, nil
}

func (t *OTLP) startTraces(o OTLPOptions, who *resource.Resource) error {
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(below(o.Endpoint, "/v1/traces")),
		otlptracehttp.WithHeaders(o.Headers),
		otlptracehttp.WithHTTPClient(t.client),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout,
		}))
	if err != nil {
		return fmt.Errorf("telemetry: otlp: traces: %w", err)
	}
	t.spans = newSpanQueue(exporter, &t.failures)
	limits := sdktrace.SpanLimits{
		AttributeValueLengthLimit: maxString, AttributeCountLimit: 64, EventCountLimit: 16, LinkCountLimit: 1,
		AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8,
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // Start has decided
		sdktrace.WithSpanProcessor(t.spans),
		sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithResource(who))
	t.tracer = provider.Tracer(scope, trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return nil
}

func (t *OTLP) startMetrics(o OTLPOptions, who *resource.Resource) error {
	exporter, err := otlpmetrichttp.New(context.Background(),
		otlpmetrichttp.WithEndpointURL(below(o.Endpoint, "/v1/metrics")),
		otlpmetrichttp.WithHeaders(o.Headers),
		otlpmetrichttp.WithHTTPClient(t.client),
		otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout,
		}))
	if err != nil {
		return fmt.Errorf("telemetry: otlp: metrics: %w", err)
	}
	every := o.Interval
	if every <= 0 {
		every = exportEvery
	}
	options := []metric.PeriodicReaderOption{metric.WithInterval(every), metric.WithTimeout(2 * exportTimeout)}
	if o.Metrics != nil {
		options = append(options, metric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(prometheus.GathererFunc(whatCan(o.Metrics.registry.Gather))))))
	}
	t.meters = metric.NewMeterProvider(
		metric.WithResource(who),
		metric.WithReader(metric.NewPeriodicReader(told{exporter, &t.failures}, options...)))
	t.models, err = newModelMetrics(t.meters)
	if err != nil {
		return errors.Join(fmt.Errorf("telemetry: otlp: %w", err), t.meters.Shutdown(context.Background()))
	}
	return nil
}

// export makes the metrics of what is lost.
func (t *OTLP) export(m *Metrics) error {
	if m == nil {
		return nil
	}
	const help = "Messages of a signal that the collector of OpenTelemetry did not take."
	return errors.Join(
		m.CounterFunc("weir_telemetry_export_failures_total", help, func() float64 { return float64(t.failures.traces.Load()) }, "signal", "traces"),
		m.CounterFunc("weir_telemetry_export_failures_total", help, func() float64 { return float64(t.failures.metrics.Load()) }, "signal", "metrics"),
		m.CounterFunc("weir_telemetry_spans_dropped_total", "Spans that found no room, because the collector is too slow or away.",
			func() float64 { return float64(t.spans.dropped.Load()) }))
}

// Close sends what is left, for as long as ctx allows but ten seconds at most, and stops.
// Closing again does nothing. Spans that end after it are dropped.
func (t *OTLP) Close(ctx context.Context) error {
	if t == nil || !t.closed.CompareAndSwap(false, true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout) // a collector that is away holds up no shutdown
	defer cancel()
	var spans, metrics error
	var both sync.WaitGroup
	both.Go(func() { spans = t.spans.close(ctx) })
	both.Go(func() { metrics = t.meters.Shutdown(ctx) })
	both.Wait()
	err := errors.Join(spans, metrics)
	t.client.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("telemetry: otlp: not all was sent: %w", err)
	}
	return nil
}

// newExportTransport has few connections: there is one collector, and two signals.
func newExportTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          2,
		MaxConnsPerHost:       2,
		IdleConnTimeout:       2 * time.Minute, // longer than from one sending to the next
		TLSHandshakeTimeout:   exportTimeout,
		ResponseHeaderTimeout: exportTimeout,
	}
}

// below is the URL of a path below an endpoint.
func below(endpoint, path string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint // which was looked at before
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/")+path, ""
	return u.String()
}

// redactedURL is a URL for messages: without a password and a query.
func redactedURL(s string) string { return bareTarget(s) }

// kv is shorter than what it calls.
func kv(key, value string) attribute.KeyValue { return attribute.String(key, value) }
