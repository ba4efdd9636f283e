// Package ratelimit decides whether a caller may use more of something now, and
// if not, exactly when.
//
// A Policy says how much: a quota in a window, at once or spread, or how many
// requests may run at the same time. A Store keeps the counts and takes several at
// once, all or nothing; what it computes are the pure functions Policy.Decide and
// Policy.Settle. MemoryStore is one; Fallback says what happens while a shared one
// is away, and Leases spare it most calls.
//
// A Limiter is middleware for any http.Handler: it refuses with 429, tells the
// caller exactly when to come back, and describes every policy in the RateLimit
// fields of draft-ietf-httpapi-ratelimit-headers-10. A Transport is the other side:
// it keeps a client within the limits of any server.
package ratelimit
