package telemetry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	traceparent = "Traceparent"
	tracestate  = "Tracestate"
	// maxCalls is how many calls of one request have spans of their own.
	maxCalls = 16
)

// Trace is the part of a trace that one request is: a span for the request, and one for
// each call that is made for it. Its methods may be called concurrently, also after
// End. A nil *Trace does nothing.
type Trace struct {
	tracer trace.Tracer
	ctx    context.Context // with span
	span   trace.Span

	mu    sync.Mutex // guards all below
	calls []*tracedCall
	over  bool
}

// tracedCall is one attempt at a target.
type tracedCall struct {
	attempt int
	span    trace.Span
	model   bool
	ended   time.Time // zero: it runs
	open    bool      // the span has not been ended
}

// Start begins the trace of a request that was received at a time. It is nil where the
// request is not traced: its traceparent says so, or chance does where it has none.
// Fields of W3C Trace Context that are not valid are removed from the request, so that
// nobody behind takes them for something.
func (t *OTLP) Start(r *http.Request, at time.Time) *Trace {
	if t == nil {
		return nil
	}
	parent, known := parentOf(r.Header)
	if known && !parent.IsSampled() || !known && rand.Float64() >= t.share {
		return nil
	}
	ctx := context.Background() // the spans end when they do, not when the client leaves
	if known {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	s := &Trace{tracer: t.tracer}
	s.ctx, s.span = t.tracer.Start(ctx, methodName(r.Method), trace.WithTimestamp(at), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(requestAttributes(r)...))
	return s
}

// parentOf reads the fields of W3C Trace Context, and removes what is not valid.
func parentOf(h http.Header) (trace.SpanContext, bool) {
	if len(h[traceparent]) == 0 && len(h[tracestate]) == 0 {
		return trace.SpanContext{}, false
	}
	state := strings.Join(h[tracestate], ",")
	var parent trace.SpanContext
	if len(h[traceparent]) == 1 {
		parent = trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(),
			propagation.MapCarrier{"traceparent": h[traceparent][0], "tracestate": state}))
	}
	if !parent.IsValid() {
		delete(h, traceparent)
		delete(h, tracestate)
		return trace.SpanContext{}, false
	}
	if state != "" && parent.TraceState().Len() == 0 {
		delete(h, tracestate)
	}
	return parent, true
}

func requestAttributes(r *http.Request) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	all := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(methodAttribute(r.Method)),
		semconv.URLPath(clean(cut(r.URL.Path))),
		semconv.URLScheme(scheme),
	}
	if version, ok := strings.CutPrefix(r.Proto, "HTTP/"); ok {
		all = append(all, semconv.NetworkProtocolVersion(strings.TrimSuffix(version, ".0")))
	}
	return serverAttributes(all, r.Host, scheme)
}

// methodAttribute and methodName are a method of the closed set, or what the
// conventions have for all others.
func methodAttribute(method string) string {
	if methodIndex(method) == 0 {
		return "_OTHER"
	}
	return method
}

func methodName(method string) string {
	if methodIndex(method) == 0 {
		return "HTTP"
	}
	return method
}

// IDs are those of the trace and of the request's span, in hexadecimal; "" without one.
func (t *Trace) IDs() (traceID, spanID string) {
	if t == nil {
		return "", ""
	}
	c := t.span.SpanContext()
	return c.TraceID().String(), c.SpanID().String()
}

// CallStarted begins the span of an attempt and makes it the parent of what out is to
// cause. Attempts count from 1; one with the number of another one follows it.
func (t *Trace) CallStarted(attempt int, out *http.Request, c ModelCall) {
	if t == nil {
		return
	}
	name := methodName(out.Method)
	all := callAttributes(out, attempt, c)
	if c.Operation != "" {
		name = strings.TrimSpace(c.Operation + " " + clean(cut(c.Model)))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	carrier := propagation.HeaderCarrier(out.Header)
	if t.over || len(t.calls) == maxCalls {
		propagation.TraceContext{}.Inject(t.ctx, carrier)
		return
	}
	ctx, span := t.tracer.Start(t.ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(all...))
	t.calls = append(t.calls, &tracedCall{attempt: attempt, span: span, model: c.Operation != "", open: true})
	delete(out.Header, tracestate) // Inject writes it where there is one
	propagation.TraceContext{}.Inject(ctx, carrier)
}

func callAttributes(out *http.Request, attempt int, c ModelCall) []attribute.KeyValue {
	all := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(methodAttribute(out.Method)),
		semconv.URLFull(clean(cut(out.URL.Scheme + "://" + out.URL.Host + out.URL.EscapedPath()))),
		kv("weir.upstream", c.Upstream),
	}
	all = serverAttributes(all, out.URL.Host, out.URL.Scheme)
	if attempt > 1 {
		all = append(all, semconv.HTTPRequestResendCount(attempt-1))
	}
	if c.Operation == "" {
		return all
	}
	all = append(all, semconv.GenAIOperationNameKey.String(c.Operation), semconv.GenAIProviderNameKey.String(c.Provider))
	if c.Model != "" {
		all = append(all, semconv.GenAIRequestModel(clean(cut(c.Model))))
	}
	if c.Stream {
		all = append(all, semconv.GenAIRequestStream(true))
	}
	return all
}

// CallEnd is how an attempt ended.
type CallEnd struct {
	// Attempt is its number. Status is the answer's, 0 if there was none. Failed is why
	// there was no whole one, as connect, timeout or cut; "" where there was.
	Attempt, Status int
	Failed          string
	// Reason is why there was another attempt than the first, retry or hedge.
	Reason string
	// Retried says that the client was not to get this answer.
	Retried bool
}

// CallEnded ends the latest attempt with its number. The span of the one that answered
// is kept open until End, which knows what the model did.
func (t *Trace) CallEnded(e CallEnd) {
	if t == nil {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.calls) - 1; i >= 0; i-- {
		c := t.calls[i]
		if c.attempt != e.Attempt || !c.open || !c.ended.IsZero() {
			continue
		}
		c.ended = now
		if e.Status > 0 {
			c.span.SetAttributes(semconv.HTTPResponseStatusCode(e.Status))
		}
		if e.Reason != "" {
			c.span.SetAttributes(kv("weir.reason", e.Reason))
		}
		kind := e.Failed
		if kind == "" {
			kind = errorType(e.Status)
		}
		if kind != "" {
			c.span.SetAttributes(semconv.ErrorTypeKey.String(kind))
			c.span.SetStatus(codes.Error, "")
		}
		if e.Retried {
			c.end()
		}
		return
	}
}

func (c *tracedCall) end() {
	if c.open {
		c.open = false
		c.span.End(trace.WithTimestamp(c.ended))
	}
}

// End ends the spans of the request and of its calls. e is not kept.
func (t *Trace) End(e *Entry, c ModelCall) {
	if t == nil {
		return
	}
	now := time.Now()
	t.mu.Lock()
	t.over = true
	if call := t.answeredLocked(); call != nil && call.model {
		call.span.SetAttributes(answerAttributes(e, c)...)
	}
	for _, call := range t.calls {
		if call.ended.IsZero() {
			call.ended = now
		}
		call.end()
	}
	t.mu.Unlock()
	if e.Route != "" {
		t.span.SetName(methodName(e.Method) + " " + e.Route)
	}
	t.span.SetAttributes(entryAttributes(e)...)
	if e.Status >= http.StatusInternalServerError {
		t.span.SetAttributes(semconv.ErrorTypeKey.String(errorType(e.Status)))
		t.span.SetStatus(codes.Error, "")
	}
	t.span.End(trace.WithTimestamp(now))
}

// answeredLocked is the call whose answer the client got: the last one that has ended
// and was not made again, else the last that runs.
func (t *Trace) answeredLocked() *tracedCall {
	var running *tracedCall
	for i := len(t.calls) - 1; i >= 0; i-- {
		switch c := t.calls[i]; {
		case c.open && !c.ended.IsZero():
			return c
		case c.open && running == nil:
			running = c
		}
	}
	return running
}

// answerAttributes are what the model did.
func answerAttributes(e *Entry, c ModelCall) []attribute.KeyValue {
	var all []attribute.KeyValue
	if e.Model != "" {
		all = append(all, semconv.GenAIResponseModel(clean(cut(e.Model))))
	}
	if e.Finish != "" {
		all = append(all, semconv.GenAIResponseFinishReasons(clean(cut(e.Finish))))
	}
	if e.Usage.Input > 0 {
		all = append(all, semconv.GenAIUsageInputTokens(int(e.Usage.Input)))
	}
	if e.Usage.Cached > 0 {
		all = append(all, semconv.GenAIUsageCacheReadInputTokens(int(e.Usage.Cached)))
	}
	if e.Usage.Output > 0 {
		all = append(all, semconv.GenAIUsageOutputTokens(int(e.Usage.Output)))
	}
	if c.FirstToken > 0 {
		all = append(all, semconv.GenAIResponseTimeToFirstChunk(c.FirstToken.Seconds()))
	}
	return all
}

// entryAttributes are what the gateway did. Who called is not told, but by which plan.
func entryAttributes(e *Entry) []attribute.KeyValue {
	all := append(make([]attribute.KeyValue, 0, 12), semconv.HTTPResponseStatusCode(e.Status))
	for _, one := range []struct{ key, value string }{
		{"weir.request_id", e.RequestID}, {"weir.route", e.Route}, {"weir.plan", e.Plan}, {"weir.policy", e.Policy},
		{"weir.cache", e.CacheResult}, {"weir.shed", e.Shed}, {"weir.job", e.Job}, {"weir.store", e.Store},
	} {
		if one.value != "" {
			all = append(all, kv(one.key, clean(one.value)))
		}
	}
	if e.QueueTime > 0 {
		all = append(all, attribute.Float64("weir.queue_seconds", e.QueueTime.Seconds()))
	}
	if e.Refresh {
		all = append(all, attribute.Bool("weir.refresh", true))
	}
	return all
}
