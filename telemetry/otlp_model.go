package telemetry

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
)

// ModelCall is a call of a model, in the words of OpenTelemetry's conventions for
// generative AI. Of anything else than a call of a model, Operation is "".
type ModelCall struct {
	// Operation is what the model does: chat, text_completion or embeddings.
	Operation string
	// Provider is whose API it is called by: openai, anthropic, or another name.
	Provider string
	// Upstream is the name of the upstream, Model the model that was asked for.
	Upstream, Model string
	// Stream says that a stream was asked for.
	Stream bool
	// Took is the time from the call's beginning to the answer's end, FirstToken to the
	// first token of a stream; 0 where it did not come so far. They are known at its end.
	Took, FirstToken time.Duration
}

// modelMetrics are the conventions' histograms, which have buckets of their own.
type modelMetrics struct {
	duration, firstToken metric.Float64Histogram
	tokens               metric.Int64Histogram
	names                *nameSet
}

func newModelMetrics(p metric.MeterProvider) (m modelMetrics, err error) {
	meter := p.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	m.names = &nameSet{known: map[string]bool{}}
	if m.duration, err = meter.Float64Histogram("gen_ai.client.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("GenAI operation duration."),
		metric.WithExplicitBucketBoundaries(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)); err != nil {
		return m, err
	}
	if m.tokens, err = meter.Int64Histogram("gen_ai.client.token.usage", metric.WithUnit("{token}"),
		metric.WithDescription("Number of input and output tokens used."),
		metric.WithExplicitBucketBoundaries(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)); err != nil {
		return m, err
	}
	m.firstToken, err = meter.Float64Histogram("gen_ai.server.time_to_first_token", metric.WithUnit("s"),
		metric.WithDescription("Time to generate first token for successful responses."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0))
	return m, err
}

// Observe counts a call of a model that has ended, traced or not. e is not kept.
func (t *OTLP) Observe(e *Entry, c ModelCall) {
	if t == nil || c.Operation == "" {
		return
	}
	ctx := context.Background()
	all := append(make([]attribute.KeyValue, 0, 8),
		semconv.GenAIOperationNameKey.String(c.Operation),
		semconv.GenAIProviderNameKey.String(c.Provider),
		kv("weir.upstream", c.Upstream))
	if c.Model != "" {
		all = append(all, semconv.GenAIRequestModel(t.models.names.bounded(c.Model)))
	}
	if e.Model != "" {
		all = append(all, semconv.GenAIResponseModel(t.models.names.bounded(e.Model)))
	}
	good := metric.WithAttributeSet(attribute.NewSet(all...))
	if e.Usage.Input > 0 {
		t.models.tokens.Record(ctx, e.Usage.Input, good, metric.WithAttributes(semconv.GenAITokenTypeInput))
	}
	if e.Usage.Output > 0 {
		t.models.tokens.Record(ctx, e.Usage.Output, good, metric.WithAttributes(semconv.GenAITokenTypeOutput))
	}
	if c.FirstToken > 0 {
		t.models.firstToken.Record(ctx, c.FirstToken.Seconds(), good)
	}
	if c.Took <= 0 {
		return
	}
	if kind := errorType(e.Status); kind != "" {
		good = metric.WithAttributeSet(attribute.NewSet(append(all, semconv.ErrorTypeKey.String(kind))...))
	}
	t.models.duration.Record(ctx, c.Took.Seconds(), good)
}

// errorType is a status that is an error, as the conventions want it.
func errorType(status int) string {
	if status < http.StatusBadRequest || status > 599 {
		return ""
	}
	return strconv.Itoa(status)
}

// nameSet bounds names that come from outside: after maxModels all are Other.
type nameSet struct {
	mu    sync.RWMutex // guards known
	known map[string]bool
}

func (s *nameSet) bounded(name string) string {
	name = clean(cut(name))
	s.mu.RLock()
	is := s.known[name]
	s.mu.RUnlock()
	if is {
		return name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known[name] && len(s.known) >= maxModels {
		return Other
	}
	s.known[name] = true
	return name
}

// serverAttributes are the host and the port of an authority; the scheme's port where
// it names none.
func serverAttributes(all []attribute.KeyValue, authority, scheme string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = authority, "80"
		if scheme == "https" {
			port = "443"
		}
	}
	if host == "" {
		return all
	}
	all = append(all, semconv.ServerAddress(clean(host)))
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		all = append(all, semconv.ServerPort(int(n)))
	}
	return all
}
