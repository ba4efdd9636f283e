package telemetry_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

// collector is a collector of OpenTelemetry that keeps what it is sent.
type collector struct {
	*httptest.Server
	status int // that it answers; 0: 200

	mu      sync.Mutex // guards all below
	spans   []*traces.Span
	metrics map[string]*metrics.Metric // the last of each name
	header  http.Header
	who     map[string]any // the resource
	calls   int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{metrics: map[string]*metrics.Metric{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) serve(w http.ResponseWriter, r *http.Request) {
	body, err := inflated(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.header = r.Header.Clone()
	if c.status != 0 {
		w.WriteHeader(c.status)
		return
	}
	switch r.URL.Path {
	case "/base/v1/traces":
		var m collectortrace.ExportTraceServiceRequest
		err = proto.Unmarshal(body, &m)
		for _, of := range m.GetResourceSpans() {
			c.who = attributes(of.GetResource().GetAttributes())
			for _, in := range of.GetScopeSpans() {
				c.spans = append(c.spans, in.GetSpans()...)
			}
		}
	case "/base/v1/metrics":
		var m collectormetrics.ExportMetricsServiceRequest
		err = proto.Unmarshal(body, &m)
		for _, of := range m.GetResourceMetrics() {
			for _, in := range of.GetScopeMetrics() {
				for _, one := range in.GetMetrics() {
					c.metrics[one.GetName()] = one
				}
			}
		}
	default:
		err = fmt.Errorf("no such path: %s", r.URL.Path)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func inflated(r *http.Request) ([]byte, error) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return io.ReadAll(r.Body)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// attributes are a message's, as plain values.
func attributes(list []*common.KeyValue) map[string]any {
	all := map[string]any{}
	for _, a := range list {
		all[a.GetKey()] = plainValue(a.GetValue())
	}
	return all
}

func plainValue(v *common.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_BoolValue:
		return v.BoolValue
	case *common.AnyValue_DoubleValue:
		return v.DoubleValue
	case *common.AnyValue_ArrayValue:
		var all []string
		for _, one := range v.ArrayValue.GetValues() {
			all = append(all, one.GetStringValue())
		}
		return strings.Join(all, ",")
	}
	return nil
}

// toldSpan is what a span says, without its times; IDs become the names of spans.
type toldSpan struct {
	name, parent string
	kind         traces.Span_SpanKind
	status       traces.Status_StatusCode
	attributes   string
}

func (c *collector) told() []toldSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[string]string{}
	for _, s := range c.spans {
		names[fmt.Sprintf("%x", s.GetSpanId())] = s.GetName()
	}
	var all []toldSpan
	for _, s := range c.spans {
		parent := fmt.Sprintf("%x", s.GetParentSpanId())
		if name, ok := names[parent]; ok {
			parent = name
		}
		all = append(all, toldSpan{s.GetName(), parent, s.GetKind(), s.GetStatus().GetCode(), sortedText(attributes(s.GetAttributes()))})
	}
	return all
}

func sortedText(all map[string]any) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s=%v ", key, all[key])
	}
	return strings.TrimSpace(b.String())
}

func open(t *testing.T, c *collector, change func(*telemetry.OTLPOptions)) *telemetry.OTLP {
	t.Helper()
	o := telemetry.OTLPOptions{
		Endpoint: c.URL + "/base/", Headers: map[string]string{"X-Key": "secret"}, Share: 1, Version: "v1",
		Interval: time.Hour,
	}
	if change != nil {
		change(&o)
	}
	sends, err := telemetry.NewOTLP(o)
	if err != nil {
		t.Fatal(err)
	}
	return sends
}

func shut(t *testing.T, o *telemetry.OTLP) {
	t.Helper()
	if err := o.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

const (
	parentTrace = "0af7651916cd43dd8448eb211c80319c"
	parentSpan  = "b7ad6b7169203331"
	parentField = "00-" + parentTrace + "-" + parentSpan
)

func chatRequest() *http.Request {
	r := httptest.NewRequest("POST", "http://gateway.test:8080/v1/chat/completions?key=secret", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer secret")
	return r
}

func call(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTraceOfARequestAndItsCalls(t *testing.T) {
	c := newCollector(t)
	o := open(t, c, nil)
	in := chatRequest()
	in.Header["Traceparent"], in.Header["Tracestate"] = []string{parentField + "-01"}, []string{"vendor=1"}
	trace := o.Start(in, start)
	model := telemetry.ModelCall{Operation: "chat", Provider: "openai", Upstream: "llm", Model: "llama", Stream: true}
	first, second := call(t, "http://10.0.0.1:8000/base/v1/chat/completions?key=secret"), call(t, "https://user:pw@llm.test/v1/chat/completions")
	trace.CallStarted(1, first, model)
	trace.CallEnded(telemetry.CallEnd{Attempt: 1, Failed: "connect", Retried: true})
	second.Header["Tracestate"] = []string{"vendor=1"}
	trace.CallStarted(2, second, model)
	trace.CallEnded(telemetry.CallEnd{Attempt: 2, Status: 200, Reason: "retry"})
	e := complete()
	e.QueueTime, e.Path = 1500*time.Millisecond, "/v1/chat/completions"
	model.FirstToken = 250 * time.Millisecond
	trace.End(&e, model)
	shut(t, o)

	common := "gen_ai.operation.name=chat gen_ai.provider.name=openai gen_ai.request.model=llama gen_ai.request.stream=true "
	want := []toldSpan{
		{"chat llama", "POST chat", traces.Span_SPAN_KIND_CLIENT, traces.Status_STATUS_CODE_ERROR,
			"error.type=connect " + common + "http.request.method=POST server.address=10.0.0.1 server.port=8000 " +
				"url.full=http://10.0.0.1:8000/base/v1/chat/completions weir.upstream=llm"},
		{"chat llama", "POST chat", traces.Span_SPAN_KIND_CLIENT, traces.Status_STATUS_CODE_UNSET,
			"gen_ai.operation.name=chat gen_ai.provider.name=openai gen_ai.request.model=llama gen_ai.request.stream=true " +
				"gen_ai.response.finish_reasons=stop gen_ai.response.model=llama-3.1-8b gen_ai.response.time_to_first_chunk=0.25 " +
				"gen_ai.usage.cache_read.input_tokens=1024 gen_ai.usage.input_tokens=1200 gen_ai.usage.output_tokens=77 " +
				"http.request.method=POST http.request.resend_count=1 http.response.status_code=200 server.address=llm.test server.port=443 " +
				"url.full=https://llm.test/v1/chat/completions weir.reason=retry weir.upstream=llm"},
		{"POST chat", parentSpan, traces.Span_SPAN_KIND_SERVER, traces.Status_STATUS_CODE_UNSET,
			"http.request.method=POST http.response.status_code=200 network.protocol.version=1.1 server.address=gateway.test server.port=8080 " +
				"url.path=/v1/chat/completions url.scheme=http weir.cache=hit weir.plan=pro weir.policy=pro weir.queue_seconds=1.5 " +
				"weir.request_id=01ABC weir.route=chat"},
	}
	if got := c.told(); !slices.Equal(got, want) {
		t.Errorf("spans =\n%+v\nwant\n%+v", got, want)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, out := range []*http.Request{first, second} {
		field := fmt.Sprintf("00-%x-%x-01", c.spans[i].GetTraceId(), c.spans[i].GetSpanId())
		if got := out.Header["Traceparent"]; len(got) != 1 || got[0] != field || !strings.Contains(field, parentTrace) {
			t.Errorf("call %d has the traceparent %q, want %s", i+1, got, field)
		}
		if got := out.Header["Tracestate"]; len(got) != 1 || got[0] != "vendor=1" {
			t.Errorf("call %d has the tracestate %q, want vendor=1", i+1, got)
		}
	}
	traceID, spanID := trace.IDs()
	if want := fmt.Sprintf("%x", c.spans[2].GetSpanId()); traceID != parentTrace || spanID != want {
		t.Errorf("IDs = %s, %s; want %s, %s", traceID, spanID, parentTrace, want)
	}
	if who := sortedText(c.who); !strings.Contains(who, "service.name=weir service.version=v1") {
		t.Errorf("the resource is %s", who)
	}
	if got := c.header.Get("X-Key"); got != "secret" {
		t.Errorf("the collector got X-Key %q, want that of the options", got)
	}
	for _, s := range c.spans {
		if s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
			t.Errorf("%s ends before it starts", s.GetName())
		}
		if text := s.String(); strings.Contains(text, "secret") || strings.Contains(text, "alice") || strings.Contains(text, "user:pw") {
			t.Errorf("a span tells what it must not: %s", text)
		}
	}
}

func TestTraceEndsWhatIsStillOpen(t *testing.T) {
	c := newCollector(t)
	o := open(t, c, nil)
	trace := o.Start(chatRequest(), start)
	var last *http.Request
	for attempt := 1; attempt <= 20; attempt++ { // more than have spans
		last = call(t, "http://10.0.0.1/x")
		trace.CallStarted(attempt, last, telemetry.ModelCall{})
	}
	trace.CallEnded(telemetry.CallEnd{Attempt: 3, Status: 503})
	trace.End(&telemetry.Entry{Method: "BREW", Status: 502}, telemetry.ModelCall{})
	trace.CallEnded(telemetry.CallEnd{Attempt: 4, Status: 200}) // too late
	shut(t, o)
	spans := c.told()
	if len(spans) != 17 || spans[16].status != traces.Status_STATUS_CODE_ERROR || !strings.Contains(spans[16].attributes, "error.type=502") {
		t.Errorf("%d spans, the last %+v; want 16 calls and then the request's, failed", len(spans), spans[len(spans)-1])
	}
	if got, request := last.Header.Get("Traceparent"), fmt.Sprintf("%x", c.spans[16].GetSpanId()); !strings.Contains(got, request) {
		t.Errorf("the call without a span has the traceparent %s, want the request's %s", got, request)
	}
}

func TestWhoDecidesThatIsTraced(t *testing.T) {
	c := newCollector(t)
	f := func(name string, share float64, parent, state []string, traced bool, kept, keptState []string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			o := open(t, c, func(o *telemetry.OTLPOptions) { o.Share = share })
			r := chatRequest()
			if parent != nil {
				r.Header["Traceparent"] = parent
			}
			if state != nil {
				r.Header["Tracestate"] = state
			}
			trace := o.Start(r, start)
			trace.End(&telemetry.Entry{Status: 200}, telemetry.ModelCall{})
			if got := trace != nil; got != traced {
				t.Errorf("traced = %v, want %v", got, traced)
			}
			if !slices.Equal(r.Header["Traceparent"], kept) || !slices.Equal(r.Header["Tracestate"], keptState) {
				t.Errorf("the fields are %q and %q, want %q and %q", r.Header["Traceparent"], r.Header["Tracestate"], kept, keptState)
			}
			shut(t, o)
		})
	}
	yes, no, state := []string{parentField + "-01"}, []string{parentField + "-00"}, []string{"a=1", "b=2"}
	f("chance where the caller says nothing", 1, nil, nil, true, nil, nil)
	f("and chance says no", 0, nil, nil, false, nil, nil)
	f("the caller, who wants it", 0, yes, state, true, yes, state)
	f("the caller, who does not, and what he sent is as it was", 1, no, state, false, no, state)
	f("a version of the future", 0, []string{"cc-" + parentTrace + "-" + parentSpan + "-01-what-comes"}, nil, true, []string{"cc-" + parentTrace + "-" + parentSpan + "-01-what-comes"}, nil)
	for _, bad := range []string{
		"", "x", "00-" + parentTrace + "-" + parentSpan, "ff-" + parentTrace + "-" + parentSpan + "-01", parentField + "-01-more",
		"00-00000000000000000000000000000000-" + parentSpan + "-01", "00-" + parentTrace + "-0000000000000000-01",
		"00-" + strings.ToUpper(parentTrace) + "-" + parentSpan + "-01", " " + parentField + "-01", parentField + "-0g",
	} {
		f(fmt.Sprintf("nobody by %q, which is passed on to nobody", bad), 0, []string{bad}, state, false, nil, nil)
		f(fmt.Sprintf("chance by %q", bad), 1, []string{bad}, state, true, nil, nil)
	}
	f("nobody by two at once", 0, append(yes, yes...), nil, false, nil, nil)
	f("nobody by a state alone", 0, nil, state, false, nil, nil)
	f("the caller, whose state is not valid and goes no further", 1, no, []string{"===="}, false, no, nil)
}

func TestNoOTLPDoesNothingAndCostsNothing(t *testing.T) {
	var o *telemetry.OTLP
	r, e := chatRequest(), complete()
	before := r.Header.Clone()
	got := testing.AllocsPerRun(100, func() {
		trace := o.Start(r, start)
		trace.CallStarted(1, r, telemetry.ModelCall{})
		trace.CallEnded(telemetry.CallEnd{Attempt: 1})
		e.TraceID, e.SpanID = trace.IDs()
		o.Observe(&e, telemetry.ModelCall{Operation: "chat"})
		trace.End(&e, telemetry.ModelCall{})
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
	if e.TraceID != "" || e.SpanID != "" || !maps.EqualFunc(r.Header, before, slices.Equal) {
		t.Errorf("without a collector: trace %q, span %q, fields %v", e.TraceID, e.SpanID, r.Header)
	}
	if err := o.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOTLPSendsMetrics(t *testing.T) {
	c := newCollector(t)
	m := telemetry.NewMetrics("v1", labels())
	o := open(t, c, func(o *telemetry.OTLPOptions) { o.Metrics = m })
	e := complete()
	m.RequestStarted(e.Route)
	m.Observe(&e, false)
	model := telemetry.ModelCall{
		Operation: "chat", Provider: "openai", Upstream: "llm", Model: "llama", Took: 3 * time.Second, FirstToken: 300 * time.Millisecond,
	}
	o.Observe(&e, model)
	o.Observe(&e, telemetry.ModelCall{Upstream: "llm", Took: time.Second}) // no model's
	e.Status, e.Usage = 500, weir.Usage{}
	model.FirstToken = 0
	o.Observe(&e, model)
	for i := range 1000 { // a client that makes names up
		e.Model, model.Model = fmt.Sprint("answered", i), fmt.Sprint("asked", i)
		o.Observe(&e, model)
	}
	shut(t, o)

	c.mu.Lock()
	defer c.mu.Unlock()
	base := "gen_ai.operation.name=chat gen_ai.provider.name=openai gen_ai.request.model=llama gen_ai.response.model=llama-3.1-8b "
	f := func(name, unit, with string, count uint64, sum float64, bounds int) {
		t.Helper()
		got := c.metrics[name]
		for _, p := range got.GetHistogram().GetDataPoints() {
			if sortedText(attributes(p.GetAttributes())) != with {
				continue
			}
			if p.GetCount() != count || p.GetSum() != sum || len(p.GetExplicitBounds()) != bounds || got.GetUnit() != unit {
				t.Errorf("%s: %d of %v in %d buckets, in %s; want %d of %v in %d, in %s",
					name, p.GetCount(), p.GetSum(), len(p.GetExplicitBounds()), got.GetUnit(), count, sum, bounds, unit)
			}
			return
		}
		t.Errorf("%s{%s} was not sent", name, with)
	}
	f("gen_ai.client.operation.duration", "s", base+"weir.upstream=llm", 1, 3, 14)
	f("gen_ai.client.operation.duration", "s", "error.type=500 "+base+"weir.upstream=llm", 1, 3, 14)
	f("gen_ai.client.token.usage", "{token}", strings.Replace(base, "gen_ai.response.model=llama-3.1-8b ", "gen_ai.response.model=llama-3.1-8b gen_ai.token.type=input weir.upstream=llm", 1), 1, 1200, 14)
	f("gen_ai.client.token.usage", "{token}", strings.Replace(base, "gen_ai.response.model=llama-3.1-8b ", "gen_ai.response.model=llama-3.1-8b gen_ai.token.type=output weir.upstream=llm", 1), 1, 77, 14)
	f("gen_ai.server.time_to_first_token", "s", base+"weir.upstream=llm", 1, 0.3, 16)
	if n := len(c.metrics["gen_ai.client.operation.duration"].GetHistogram().GetDataPoints()); n > 110 {
		t.Errorf("%d series of made-up models, want about 100 at most", n)
	}
	duration := c.metrics["weir_gateway_request_duration_seconds"].GetExponentialHistogram().GetDataPoints()
	if len(duration) == 0 || duration[0].GetScale() != 3 {
		t.Errorf("weir_gateway_request_duration_seconds = %v, want an exponential histogram of scale 3", duration)
	}
	for _, name := range []string{"weir_gateway_requests_total", "weir_build_info", "go_goroutines"} {
		if c.metrics[name] == nil {
			t.Errorf("%s was not sent", name)
		}
	}
}

func TestACollectorThatIsAwayIsToldOfOnceAMinute(t *testing.T) {
	var log bytes.Buffer
	access := telemetry.NewAccessLog(&log, telemetry.LogOptions{})
	m := telemetry.NewMetrics("v1", labels())
	c := newCollector(t)
	c.status = http.StatusBadRequest // which is not tried again
	o := open(t, c, func(o *telemetry.OTLPOptions) { o.Metrics, o.Log = m, access.Logger() })
	for range 3000 { // more than there is room for
		o.Start(chatRequest(), start).End(&telemetry.Entry{Status: 200}, telemetry.ModelCall{})
	}
	shut(t, o)
	late := o.Start(chatRequest(), start)
	late.End(&telemetry.Entry{Status: 200}, telemetry.ModelCall{}) // after Close
	if err := access.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "the collector of OpenTelemetry does not take"); n != 1 {
		t.Errorf("it was told %d times, want once:\n%s", n, log.String())
	}
	text := scrape(m)
	for _, want := range []string{
		`weir_telemetry_export_failures_total{signal="metrics"} 1`, `weir_telemetry_export_failures_total{signal="traces"} `,
		"weir_telemetry_spans_dropped_total ",
	} {
		if !strings.Contains(text, want) || strings.Contains(text, want+"0\n") {
			t.Errorf("the metrics lack %s, or it is 0", want)
		}
	}
}

// TestRequestsDoNotWaitForACollector has one that never answers.
func TestRequestsDoNotWaitForACollector(t *testing.T) {
	hangs := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hangs:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(hangs)
	o, err := telemetry.NewOTLP(telemetry.OTLPOptions{Endpoint: silent.URL, Share: 1, Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 10_000 {
		o.Start(chatRequest(), start).End(&telemetry.Entry{Status: 200}, telemetry.ModelCall{})
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("10,000 requests took %v with a collector that hangs", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := o.Close(ctx); err == nil {
		t.Error("Close said that all was sent")
	}
}

func TestNewOTLPRefusesWhatIsNoURL(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://%zz", "http://user:pw@/x"} {
		o, err := telemetry.NewOTLP(telemetry.OTLPOptions{Endpoint: bad})
		if err == nil {
			shut(t, o)
			t.Errorf("%q was taken", bad)
			continue
		}
		if !strings.Contains(err.Error(), "http://127.0.0.1:4318") || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v; want an example, and no password", bad, err)
		}
	}
}
