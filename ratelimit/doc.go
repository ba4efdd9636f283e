// Package ratelimit decides whether a caller may use more of something now, and
// if not, exactly when.
//
// A Policy says how much: a quota in a window and a burst. A Store keeps the
// counts and takes several at once, all or nothing. A Limiter is middleware for
// any http.Handler: it refuses with 429, tells the caller exactly when to come
// back, and describes every policy in the RateLimit fields of
// draft-ietf-httpapi-ratelimit-headers-10.
//
// The algorithm is the generic cell rate algorithm (ATM Forum, TM 4.1, 1999),
// which is a token bucket that stores one integer: the time at which the bucket
// is full again.
package ratelimit
