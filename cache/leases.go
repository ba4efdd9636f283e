package cache

import (
	"context"
	"errors"
)

// ErrNotShared says that the answers under a key were not fit to be shared the
// last time: nobody leads it for now, and everybody makes the call alone. See
// Leases.
var ErrNotShared = errors.New("cache: answers under this key are not shared")

// Leases let one of several instances make a call that the others wait for. A
// lease holds no answer: the leader puts that into a store that all of them
// read, and ends the lease after it. The methods are safe for concurrent use.
type Leases interface {
	// Lead asks to be the one that makes the call for key. There are four answers:
	//
	//   - release is not nil, err is nil: the caller leads. It must call release
	//     once, when its answer is stored or will not be, also when it gave up;
	//     until then the implementation keeps the lease alive, and a leader that
	//     died loses it by itself within seconds. shareable says that the answer
	//     could be kept: with false nobody leads key for a minute, so that calls
	//     which cannot be shared do not queue up behind each other. Further calls
	//     of release do nothing. release does not need ctx, and may be called
	//     after that has ended.
	//   - release and err are nil: another instance leads. Await tells when it has
	//     ended.
	//   - err is ErrNotShared (ask with errors.Is): the last leader released key
	//     with false. The caller makes its call alone, without a lease.
	//   - any other err: the leases are out of reach, or ctx ended. The caller makes
	//     its call alone.
	//
	// A lease is asked for by an instance as a whole: calls with one key that
	// overlap within a process are coalesced there before.
	Lead(ctx context.Context, key Key) (release func(shareable bool), err error)
	// Await returns nil when nobody leads key any more, at once if nobody does.
	// The caller then looks into the store, and asks to lead if there is nothing.
	// An error says that ctx ended or that the leases are out of reach.
	Await(ctx context.Context, key Key) error
}
