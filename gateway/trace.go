package gateway

import (
	"net/http"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/telemetry"
	"github.com/inferweir/weir/upstream"
)

// openTelemetry starts what sends traces and metrics, nil where the file does not ask
// for it or the gateway is made only for a check.
func (g *Gateway) openTelemetry(c *config.Config) (*telemetry.OTLP, error) {
	to := c.Telemetry.OTLP
	if to == nil || g.options.Check {
		return nil, nil
	}
	return telemetry.NewOTLP(telemetry.OTLPOptions{
		Endpoint: to.Endpoint,
		Headers:  to.Headers,
		Share:    c.Telemetry.Traces,
		Version:  g.options.Version,
		Metrics:  g.metrics,
		Log:      g.Logger(),
	})
}

// sending begins the spans of the request's attempts, where it has a trace.
func (x *exchange) sending() func(int, *http.Request) {
	if x.trace == nil {
		return nil
	}
	trace, call := x.trace, x.modelCall()
	return func(attempt int, out *http.Request) { trace.CallStarted(attempt, out, call) }
}

// callEnd says of an attempt what its span says.
func callEnd(e upstream.Event) telemetry.CallEnd {
	end := telemetry.CallEnd{Attempt: e.Attempt, Status: e.Status, Reason: e.Reason, Retried: e.Retried}
	if e.Result != upstream.ResultOK {
		end.Failed = e.Result
	}
	return end
}

// modelCall is the call in the words of the conventions for generative AI.
func (x *exchange) modelCall() telemetry.ModelCall {
	u := x.chosen.upstream
	c := telemetry.ModelCall{Upstream: u.name}
	if x.call == nil {
		return c
	}
	c.Operation = operation(x.call.Endpoint)
	c.Provider, c.Model, c.Stream = u.dialect.Name(), x.call.Model, x.call.Stream
	return c
}

// operation is what an endpoint of a dialect does, "" where the conventions have no
// word for it.
func operation(endpoint string) string {
	switch endpoint {
	case "chat/completions", "chat/completions/batch", "responses", "messages", "api/chat":
		return "chat"
	case "completions", "api/generate", "generate", "generate_stream":
		return "text_completion"
	case "embeddings", "embed", "api/embed", "api/embeddings":
		return "embeddings"
	}
	return ""
}

// onFirstToken notes when the first token of a stream came, where somebody wants to know.
func (x *exchange) onFirstToken() func() {
	if x.gateway.otlp == nil {
		return nil
	}
	return func() { x.token.CompareAndSwap(0, max(int64(time.Since(x.sentAt)), 1)) }
}

// endTrace ends the request's spans, names them in e, and counts its call of a model.
func (x *exchange) endTrace(e *telemetry.Entry) {
	if x.gateway.otlp == nil {
		return
	}
	var c telemetry.ModelCall
	if x.called {
		c = x.modelCall()
		c.FirstToken = time.Duration(x.token.Load())
		if !x.sentAt.IsZero() {
			c.Took = time.Since(x.sentAt)
		}
		x.gateway.otlp.Observe(e, c)
	}
	e.TraceID, e.SpanID = x.trace.IDs()
	x.trace.End(e, c)
}
