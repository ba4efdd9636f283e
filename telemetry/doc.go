// Package telemetry says what a server is doing: Prometheus metrics, liveness
// and readiness, the Server-Timing field, the access log, request IDs, and traces
// and metrics for OpenTelemetry.
//
// Timing and Start work in front of any http.Handler. Metrics, Health,
// AccessLog, OTLP, Timings and RequestID are the parts that the gateway maps its
// events to; each works alone. There is no global registry and no global
// logger: what is not constructed does not exist.
//
// It is the only package that knows the client libraries of monitoring
// systems.
package telemetry
