package gateway_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// otlpCollector keeps the spans and the names of the metrics that it is sent.
type otlpCollector struct {
	mu      sync.Mutex // guards all below
	spans   []*traces.Span
	metrics map[string]bool
}

func (c *otlpCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(z)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/v1/traces" {
		var m collectortrace.ExportTraceServiceRequest
		err = proto.Unmarshal(body, &m)
		for _, of := range m.GetResourceSpans() {
			for _, in := range of.GetScopeSpans() {
				c.spans = append(c.spans, in.GetSpans()...)
			}
		}
	} else {
		var m collectormetrics.ExportMetricsServiceRequest
		err = proto.Unmarshal(body, &m)
		for _, of := range m.GetResourceMetrics() {
			for _, in := range of.GetScopeMetrics() {
				for _, one := range in.GetMetrics() {
					c.metrics[one.GetName()] = true
				}
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func newOTLPCollector(t *testing.T) (*otlpCollector, string) {
	t.Helper()
	c := &otlpCollector{metrics: map[string]bool{}}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return c, s.URL
}

// said is what a span says: its name, whether the one of its parent, and attributes.
func (c *otlpCollector) said() []string {
	names := map[string]string{}
	for _, s := range c.spans {
		names[string(s.GetSpanId())] = s.GetName()
	}
	var all []string
	for _, s := range c.spans {
		parent, ok := names[string(s.GetParentSpanId())]
		if !ok {
			parent = fmt.Sprintf("%x", s.GetParentSpanId())
		}
		all = append(all, s.GetName()+" < "+parent+": "+said(s.GetAttributes()))
	}
	return all
}

func said(list []*common.KeyValue) string {
	all := map[string]string{}
	for _, a := range list {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			all[a.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			all[a.GetKey()] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_ArrayValue:
			all[a.GetKey()] = v.ArrayValue.GetValues()[0].GetStringValue()
		case *common.AnyValue_BoolValue:
			all[a.GetKey()] = fmt.Sprint(v.BoolValue)
		default:
			all[a.GetKey()] = "…" // a time
		}
	}
	for _, name := range []string{"server.port", "url.full", "weir.request_id"} { // others each time
		delete(all, name)
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, key+"="+all[key])
	}
	return strings.Join(parts, " ")
}

// tracedModel fails the first call, and answers the others with a stream. It keeps the
// fields that it got.
type tracedModel struct {
	mu     sync.Mutex // guards fields
	fields []http.Header
}

func (m *tracedModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.fields = append(m.fields, r.Header.Clone())
	first := len(m.fields) == 1
	m.mu.Unlock()
	if first {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, `data: {"id":"1","object":"chat.completion.chunk","model":"llama-8b","choices":[{"index":0,"delta":{"content":"Hi"}}]}`+"\n\n"+
		`data: {"id":"1","object":"chat.completion.chunk","model":"llama-8b","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n"+
		`data: {"id":"1","object":"chat.completion.chunk","model":"llama-8b","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}`+"\n\n"+
		"data: [DONE]\n\n")
}

const tracedYAML = `
telemetry: {traces: 0, otlp: {endpoint: "COLLECTOR"}}
upstreams: {llm: {targets: ["%s"], dialect: openai, retry: {attempts: 2, post: true}}}
routes:
- {name: chat, match: {path: /v1/chat/completions, methods: [POST]}, upstream: llm, cache: {mode: inference, ttl: 1m, only: all}}
`

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
	callersField = "00-" + callersTrace + "-" + callersSpan
	askHi        = `{"model":"llama","stream":true,"messages":[{"role":"user","content":"Hi, secret"}]}`
)

func TestTracesShowEveryAttempt(t *testing.T) {
	collector, url := newOTLPCollector(t)
	model := &tracedModel{}
	w := start(t, strings.ReplaceAll(tracedYAML, "COLLECTOR", url), model)
	const path = "/v1/chat/completions"
	for range 2 { // a call with a retry, and a hit
		if a := w.send("POST", path, askHi, "Traceparent", callersField+"-01", "Tracestate", "vendor=1"); a.status != 200 || !strings.Contains(a.body, "[DONE]") {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if err := w.gateway.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	collector.mu.Lock()
	defer collector.mu.Unlock()
	call := "gen_ai.operation.name=chat gen_ai.provider.name=openai gen_ai.request.model=llama gen_ai.request.stream=true "
	request := "http.request.method=POST http.response.status_code=200 network.protocol.version=1.1 server.address=127.0.0.1 " +
		"url.path=/v1/chat/completions url.scheme=http "
	want := []string{
		"chat llama < POST chat: error.type=502 " + call + "http.request.method=POST http.response.status_code=502 " +
			"server.address=127.0.0.1 weir.upstream=llm",
		"chat llama < POST chat: " + call + "gen_ai.response.finish_reasons=stop gen_ai.response.model=llama-8b " +
			"gen_ai.response.time_to_first_chunk=… gen_ai.usage.input_tokens=9 gen_ai.usage.output_tokens=2 " +
			"http.request.method=POST http.request.resend_count=1 http.response.status_code=200 server.address=127.0.0.1 weir.reason=retry weir.upstream=llm",
		"POST chat < " + callersSpan + ": " + request + "weir.cache=miss weir.plan=default weir.queue_seconds=… weir.route=chat",
		"POST chat < " + callersSpan + ": " + request + "weir.cache=hit weir.plan=default weir.route=chat",
	}
	if got := collector.said(); !slices.Equal(got, want) {
		t.Fatalf("spans =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i, fields := range model.fields {
		of := collector.spans[i]
		if want := fmt.Sprintf("00-%s-%x-01", callersTrace, of.GetSpanId()); fields.Get("Traceparent") != want || fields.Get("Tracestate") != "vendor=1" {
			t.Errorf("attempt %d got %q and %q, want %s and vendor=1", i+1, fields.Get("Traceparent"), fields.Get("Tracestate"), want)
		}
	}
	for _, s := range collector.spans {
		if text := s.String(); fmt.Sprintf("%x", s.GetTraceId()) != callersTrace || strings.Contains(text, "secret") || strings.Contains(text, "ip:127") {
			t.Errorf("a span is in another trace, or tells what it must not: %s", text)
		}
	}
	for _, name := range []string{
		"gen_ai.client.operation.duration", "gen_ai.client.token.usage", "gen_ai.server.time_to_first_token", "weir_gateway_requests_total",
	} {
		if !collector.metrics[name] {
			t.Errorf("the metric %s was not sent", name)
		}
	}
	var line struct {
		Trace string `json:"trace_id"`
		Span  string `json:"span_id"`
	}
	first, _, _ := strings.Cut(w.log.String(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || line.Trace != callersTrace || line.Span != fmt.Sprintf("%x", collector.spans[2].GetSpanId()) {
		t.Errorf("%v: the line has the trace %s and the span %s: %s", err, line.Trace, line.Span, first)
	}
}

func TestWhatIsNotTracedPassesAsItIs(t *testing.T) {
	f := func(name string, traced bool, parent, state []string, wantParent, wantState []string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			collector, url := newOTLPCollector(t)
			model := &tracedModel{fields: []http.Header{nil}} // so that the first call succeeds
			yaml := strings.ReplaceAll(tracedYAML, "COLLECTOR", url)
			if !traced {
				yaml = yaml[strings.Index(yaml, "upstreams:"):]
			}
			w := start(t, yaml, model)
			var header []string
			for _, v := range parent {
				header = append(header, "traceparent", v)
			}
			for _, v := range state {
				header = append(header, "tracestate", v)
			}
			if a := w.send("POST", "/v1/chat/completions", askHi, header...); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if err := w.gateway.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			got := model.fields[1]
			if !slices.Equal(got["Traceparent"], wantParent) || !slices.Equal(got["Tracestate"], wantState) {
				t.Errorf("the upstream got %q and %q, want %q and %q", got["Traceparent"], got["Tracestate"], wantParent, wantState)
			}
			collector.mu.Lock()
			defer collector.mu.Unlock()
			if len(collector.spans) != 0 {
				t.Errorf("%d spans, want none", len(collector.spans))
			}
			if strings.Contains(w.log.String(), "trace_id") {
				t.Errorf("the line names a trace: %s", w.log)
			}
		})
	}
	no, state := []string{callersField + "-00"}, []string{"a=1", "b=2"}
	f("where the caller does not want it", true, no, state, no, state)
	f("where nobody says", true, nil, nil, nil, nil)
	f("but not where it is not valid", true, []string{"00-nonsense"}, state, nil, nil)
	f("with no collector, whatever it is", false, []string{"00-nonsense"}, state, []string{"00-nonsense"}, state)
	f("with no collector, where the caller wants it", false, []string{callersField + "-01"}, state, []string{callersField + "-01"}, state)
}
