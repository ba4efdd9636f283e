// Package redisstore keeps what several instances share in Redis: the counts of
// rate limits and the slots of concurrent policies, in Store, and the entries of
// caches, in CacheStore. One call of the counts is one script on the server, by the
// server's clock; on a cluster one for each slot.
//
// A store never waits longer for Redis than its deadline, and not at all while
// its breaker is open. It runs no script twice: where an answer did not come in
// time, at most the cost of that call is charged in vain. Slots are freed once
// Redis answers again.
package redisstore
