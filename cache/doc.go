// Package cache answers a request with an answer that was given before, where
// the answer would be the same.
//
// It works in inference mode: an answer is kept under the request's URL, its
// body in canonical form, and the caller, for a time that the operator sets. A
// model that is asked the same thing again by the same caller does not run
// again; requests that are identical and concurrent run once, together.
//
// Cache has the steps for a gateway (Get, Join, Record) and, made of
// them, a Middleware for any http.Handler. Memo does the same for a function.
package cache
