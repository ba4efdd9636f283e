package redisstore

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Errors of a store that did not ask Redis at all.
var (
	// ErrAway says that Redis did not answer lately, so that nobody waits for it.
	ErrAway = errors.New("redisstore: redis is away: the breaker is open until it answers again")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("redisstore: the store is closed")
)

// Failure says why a call failed: one of a closed set, fit for a metric's label.
type Failure string

// The failures. All but Away and Script count for the breaker.
const (
	// None is success.
	None Failure = ""
	// Away is a call that was not made: the breaker is open, or there was no
	// connection yet.
	Away Failure = "away"
	// Timeout is no answer within the deadline. Whether the script ran is unknown.
	Timeout Failure = "timeout"
	// Connection is one that could not be made, or broke.
	Connection Failure = "connection"
	// ReadOnly is a server that is a replica now. The store looks for the master.
	ReadOnly Failure = "readonly"
	// Loading is a server that reads its data in after a start.
	Loading Failure = "loading"
	// Memory is a server above its maxmemory.
	Memory Failure = "memory"
	// Topology is a cluster that is down or moves slots, or one that the URL does
	// not call a cluster.
	Topology Failure = "topology"
	// Login is a wrong password, or a user without the right to run scripts.
	Login Failure = "login"
	// Busy is a server that runs somebody's slow script.
	Busy Failure = "busy"
	// Script is a script that failed: a key that holds something else, for example.
	Script Failure = "script"
)

// Op is what a store asked Redis to do.
type Op string

// The operations.
const (
	OpTake   Op = "take"
	OpSettle Op = "settle"
	// OpGrant lends units in advance, see ratelimit.Leases.
	OpGrant Op = "grant"
	// OpUndo gives back what a take took from some slots of a cluster before
	// another one failed, and frees slots of which Redis did not say whether they
	// are taken.
	OpUndo Op = "undo"
	// OpRenew keeps slots and this instance from expiring, and finds out whether
	// Redis is back.
	OpRenew Op = "renew"
	// OpCacheGet reads an entry of a cache; one that is not there is a success.
	OpCacheGet Op = "cache-get"
	// OpCachePut writes one.
	OpCachePut Op = "cache-put"
	// OpCacheDelete deletes one.
	OpCacheDelete Op = "cache-delete"
	// OpCacheLease asks for the lease of an entry, renews it, ends it, or waits for
	// its end; of a wait only failures are told.
	OpCacheLease Op = "cache-lease"
	// OpCachePurge adds a purge to the log, or reads the log after a change.
	OpCachePurge Op = "cache-purge"
	// OpCacheProbe connects a cache, and finds out whether Redis is back for it.
	OpCacheProbe Op = "cache-probe"
)

// OfCache reports whether a CacheStore did it, which has a connection and a breaker
// of its own: it says nothing of the counts, and they nothing of it.
func (o Op) OfCache() bool { return strings.HasPrefix(string(o), "cache-") }

// An Event is the end of one operation.
type Event struct {
	Op Op
	// Took is how long the operation took, from the caller's view.
	Took time.Duration
	// Failure is the kind of Err; None if there is none.
	Failure Failure
	Err     error
}

// prefixes are how servers begin their errors. In scripts older servers put
// words of their own in front.
func prefixes() []struct {
	text string
	kind Failure
} {
	return []struct {
		text string
		kind Failure
	}{
		{"READONLY", ReadOnly}, {"MASTERDOWN", ReadOnly}, {"NOREPLICAS", ReadOnly}, {"LOADING", Loading}, {"OOM ", Memory}, {"MISCONF", Memory},
		{"CLUSTERDOWN", Topology}, {"MOVED ", Topology}, {"ASK ", Topology}, {"TRYAGAIN", Topology}, {"CROSSSLOT", Topology},
		{"NOAUTH", Login}, {"WRONGPASS", Login}, {"NOPERM", Login}, {"BUSY", Busy},
	}
}

func failureOf(err error) Failure {
	switch {
	case err == nil:
		return None
	case errors.Is(err, ErrAway), errors.Is(err, ErrClosed):
		return Away
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Timeout
	}
	said, isServer := errors.AsType[*rueidis.RedisError](err)
	if !isServer {
		return Connection
	}
	text := said.Error()
	for _, p := range prefixes() {
		if strings.HasPrefix(text, p.text) {
			return p.kind
		}
	}
	if strings.Contains(text, "READONLY") {
		return ReadOnly
	}
	return Script
}

// Failures are all of them but None.
func Failures() []Failure {
	return []Failure{Away, Timeout, Connection, ReadOnly, Loading, Memory, Topology, Login, Busy, Script}
}

// Ops are all operations.
func Ops() []Op {
	return []Op{
		OpTake, OpSettle, OpGrant, OpUndo, OpRenew,
		OpCacheGet, OpCachePut, OpCacheDelete, OpCacheLease, OpCachePurge, OpCacheProbe,
	}
}
