// Package gateway puts the parts of Weir together: it makes one http.Handler of
// a configuration.
//
// The way of a request is exchange.route, from top to bottom. The packages that
// it calls do not know each other: this one reads a body's model for the
// limiter, hands the upstream's answer to the cache, and turns what they report
// into metrics and one log line.
package gateway
