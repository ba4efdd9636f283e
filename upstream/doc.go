// Package upstream carries requests to the servers that run a model, and their
// answers back, byte for byte as they come.
//
// A Pool is a set of targets that serve the same thing. Do chooses one, sends a
// request and returns its answer as soon as the head is there; Relay passes an
// answer on to a client without holding anything back. A Pool is also a reverse
// proxy of its own, an http.Handler.
//
// Connections are kept by an http.RoundTripper: a tuned http.Transport unless
// told otherwise, or Handler for a model that runs in this process.
package upstream
