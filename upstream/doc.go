// Package upstream carries requests to the servers that run a model, and their
// answers back, byte for byte as they come.
//
// A Pool is a set of targets that serve the same thing. Do chooses one that is in
// order, sends a request, again to another one where that is safe, and returns the
// answer as soon as its head is there; Relay passes an answer on to a client without
// holding anything back; Upgrade passes a WebSocket through. Send is Do for who has a
// queue in front of the targets, and hands out their places. A Pool is also a reverse
// proxy of its own, an http.Handler. A Batcher makes one call of several.
//
// Connections are kept by an http.RoundTripper: a tuned http.Transport unless
// told otherwise, or Handler for a model that runs in this process.
package upstream
