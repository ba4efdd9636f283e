// Package cache answers a request with an answer that was given before, where
// the answer would be the same. Requests that are the same and overlap run once.
//
// In ModeInference the key is the request with its body in canonical form, and
// the operator says how long an answer is of use: for models. ModeHTTP is a shared
// cache by RFC 9111: what the upstream says decides. Both keep streams, give stale
// answers where they may, and keep callers apart unless told otherwise.
//
// Cache.Middleware does that around any http.Handler; Cache.LookUp gives a Lookup,
// which has the steps of it for a gateway. Memo does the same for a function.
// Entries are in a Store: memory (NewMemoryStore), files (OpenDir), several in a row
// (NewTiers), or another's, such as package redisstore's. Purges knows what must not
// be given any more, whatever a store still has.
package cache
